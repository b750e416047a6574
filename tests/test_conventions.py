"""A quantizer has the same levels and thresholds under the names of every library."""

import numpy as np
import pytest

from stedyn.quantizers.conventions import TIES, both_edges, from_library, library_names
from stedyn.quantizers.quantizer import Quantizer

GEOMETRIES = [
    (kind, edge) for kind in ("mid-rise", "mid-tread", "twos-complement") for edge in ("level", "bin")
]
ROUNDINGS = ("nearest", "stochastic")
ALL = [
    *(
        Quantizer(b, r, kind=k, edge=e, rounding=how)
        for k, e in GEOMETRIES
        for b in range(2, 9)
        for r in (1.0, 2.37)
        for how in ROUNDINGS
    ),
    # a step of 1/4, which fixed point numbers have
    *(
        Quantizer(b, (2 ** (b - 1) - 1) / 4, kind="mid-tread", rounding=how)
        for b in range(3, 9)
        for how in ROUNDINGS
    ),
    *(Quantizer(range=0.7, kind=kind, rounding=how) for kind in ("sign", "ternary") for how in ROUNDINGS),
    *(
        Quantizer(b, 1.3, kind="unsigned", edge=e, rounding=how, zero_point=z)
        for b in range(2, 9)
        for e in ("level", "bin")
        for z in (0, 1, 2**b - 1)
        for how in ROUNDINGS
    ),
]
FAMILY = {"sign": "mid-rise", "ternary": "mid-tread"}


# What the libraries compute, from their documentation; noise is what stochastic rounding adds.


def brevitas(
    w,
    noise,
    *,
    scale,
    quant_type,
    bit_width=None,
    signed=True,
    narrow_range=None,
    zero_point=0,
    threshold=None,
    float_to_int_impl_type="ROUND",
):
    if quant_type == "BINARY":
        return np.where(w >= 0, scale, -scale)
    if quant_type == "TERNARY":
        return np.where(np.abs(w) > threshold * scale, np.sign(w) * scale, 0.0)
    low, high = -(2 ** (bit_width - 1)) + int(narrow_range), 2 ** (bit_width - 1) - 1
    low, high = (low, high) if signed else (0, 2**bit_width - 1)
    y = np.clip(w / scale + zero_point, low, high)
    floor = np.floor(y)
    y = np.rint(y) if float_to_int_impl_type == "ROUND" else floor + (y - floor > noise + 0.5)
    return (y - zero_point) * scale


def torchao(w, noise, *, quant_min, quant_max, scale, zero_point, zero_point_domain, mapping_type):
    if zero_point_domain == "INT":
        return (np.clip(np.rint(w / scale) + zero_point, quant_min, quant_max) - zero_point) * scale
    middle = (quant_max + quant_min + 1) / 2
    q = np.clip(np.rint((w - (zero_point - scale * middle)) / scale), quant_min, quant_max)
    return (q - middle) * scale + zero_point


def aqt(w, noise, *, bits, bound, preserve_zero, preserve_max_val, clip, round, noise_fn):
    last_edge = 2 ** (bits - 1) - (0.5 if preserve_zero else 0.0)
    scale = bound / (last_edge - 0.5 if preserve_max_val else last_edge)
    y = np.clip(w / scale + (0 if noise_fn is None else noise), -last_edge + 0.5, last_edge - 0.5)
    return (np.rint(y) if preserve_zero else np.floor(y) + 0.5) * scale


def qwix(w, noise, *, qtype, calibration_method, noise_fn, absmax=None):
    half = 2 ** (int(qtype.removeprefix("int")) - 1)
    limits = [float(number) for number in calibration_method.split(",")[1:]]
    if limits and sum(limits) != 0:
        scale = (limits[1] - limits[0]) / (2 * half - 1)
        zero = np.rint(-half - limits[0] / scale)
        y = w / scale + zero + (0 if noise_fn is None else noise)
        return (np.clip(np.rint(y), -half, half - 1) - zero) * scale
    bound = absmax if calibration_method == "absmax" else float(calibration_method.split(",")[2])
    scale = bound / (half - 0.5)
    return np.clip(np.rint(w / scale + (0 if noise_fn is None else noise)), -half, half - 1) * scale


def qpytorch(w, noise, *, wl, fl, clamp, symmetric, rounding):
    step = 2.0**-fl
    low, high = -(2.0 ** (wl - fl - 1)) + (step if symmetric else 0), 2.0 ** (wl - fl - 1) - step
    return np.clip(np.rint(w / step + (0 if rounding == "nearest" else noise)) * step, low, high)


def onnx(w, noise, *, dtype, y_scale, y_zero_point):
    bits = int(dtype.removeprefix("u")[3:])
    low = 0 if dtype.startswith("u") else -(2 ** (bits - 1))
    return (np.clip(np.rint(w / y_scale) + y_zero_point, low, low + 2**bits - 1) - y_zero_point) * y_scale


def tensorrt(w, noise, *, num_bits, amax, unsigned, narrow_range):
    high = 2.0 ** (num_bits - 1 + int(unsigned)) - 1
    low = 0 if unsigned else -high if narrow_range else -high - 1
    return np.clip(np.rint(w * (high / amax)), low, high) / (high / amax)


FORMULAS = {"brevitas": brevitas, "torchao": torchao, "AQT": aqt, "qwix": qwix, "QPyTorch": qpytorch}
FORMULAS |= {"ONNX": onnx, "TensorRT": tensorrt}


def probes(levels):
    """Weights on both sides of every threshold and beyond the ends, and the levels nearest to them."""
    thresholds, step = (levels[1:] + levels[:-1]) / 2, levels[1] - levels[0]
    w = np.concatenate([thresholds - 1e-6 * step, thresholds + 1e-6 * step, levels, [-9.0, 9.0]])
    return w, levels[np.searchsorted(thresholds, w)]


COUNTS = {
    "brevitas": 268,
    "torchao": 134,
    "AQT": 128,
    "qwix": 125,
    "QPyTorch": 28,
    "ONNX": 30,
    "TensorRT": 77,
}


@pytest.mark.parametrize("library", FORMULAS)
def test_the_names_give_these_levels_by_the_formula_of_the_library(library):
    told = 0
    for q in ALL:
        names = library_names(q)[library]
        if isinstance(names, str):
            continue
        told += 1
        levels = np.asarray(q.levels)
        w, nearest = probes(levels)
        if "absmax" in names:
            w, nearest = w[inside := np.abs(w) < names["absmax"]], nearest[inside]
        if q.rounding == "nearest":
            np.testing.assert_allclose(FORMULAS[library](w, None, **names), nearest, atol=1e-9)
        else:  # the mean over the noise
            draws = (np.arange(64) + 0.5) / 64 - 0.5
            mean = np.mean([FORMULAS[library](w, u, **names) for u in draws], axis=0)
            np.testing.assert_allclose(
                mean, np.clip(w, levels[0], levels[-1]), atol=(levels[1] - levels[0]) / 100
            )
    assert told == COUNTS[library]


def test_names_read_back_are_the_same_quantizer():
    for q in ALL:
        for library, names in library_names(q).items():
            if isinstance(names, str):
                assert names.endswith("."), names
                continue
            back = from_library(library.upper(), **names)
            assert (back.bits, back.rounding) == (q.bits, q.rounding), (q, library)
            assert FAMILY.get(back.kind, back.kind) == FAMILY.get(q.kind, q.kind)
            np.testing.assert_allclose(back.levels, q.levels, rtol=1e-12, atol=1e-12)


def test_both_edges_name_the_same_levels():
    for q in ALL:
        if q.kind in FAMILY:
            continue
        for edge, width in both_edges(q).items():
            same = Quantizer(q.bits, width, kind=q.kind, edge=edge, zero_point=q.zero_point)
            np.testing.assert_allclose(same.levels, q.levels, rtol=1e-12, atol=1e-12)
        assert both_edges(q)[q.edge] == pytest.approx(q.range)
    assert both_edges(Quantizer(range=0.5, kind="ternary")) == {"level": 0.5, "bin": 0.75}
    with pytest.raises(ValueError, match=r"equally spaced levels, found \"kind 'levels'\""):
        both_edges(Quantizer(kind="levels", levels=[-1, 0, 1]))


def test_what_a_library_lacks_is_said():
    names = library_names(Quantizer(3, 1.0, kind="mid-rise", rounding="stochastic"))
    assert [library for library, name in names.items() if isinstance(name, str)] == [
        "torchao",
        "qwix",
        "QPyTorch",
        "ONNX",
        "TensorRT",
    ]
    assert "0.333333" in library_names(Quantizer(3, 1.0, kind="mid-tread"))["QPyTorch"]
    assert "9 bits" in library_names(Quantizer(9, 1.0, kind="twos-complement"))["qwix"]
    assert (
        "int4 and int8"
        in library_names(Quantizer(5, 1.0, kind="twos-complement", rounding="stochastic"))["qwix"]
    )
    assert all("list" in name for name in library_names(Quantizer(kind="levels", levels=[-1, 0, 3])).values())
    assert all("Nothing" in name for name in library_names(Quantizer(kind="none")).values())
    assert set(TIES) == {*names, "stedyn"}


def test_ties_go_where_the_table_says():
    # 2 bits, step 1: the thresholds of mid-tread levels are -1/2 and 1/2, of mid-rise levels -1, 0, 1
    tread, rise = Quantizer(2, 1.0, kind="mid-tread"), Quantizer(2, 1.5, kind="mid-rise")
    w = np.array([-0.5, 0.5])
    np.testing.assert_array_equal(tread.round(w), [0, 1])
    for library in ("brevitas", "torchao", "AQT", "QPyTorch"):
        np.testing.assert_array_equal(FORMULAS[library](w, None, **library_names(tread)[library]), [0, 0])
    w = np.array([-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(rise.round(w), [-0.5, 0.5, 1.5])
    np.testing.assert_array_equal(aqt(w, None, **library_names(rise)["AQT"]), [-0.5, 0.5, 1.5])
    assert "up without" in TIES["AQT"]


@pytest.mark.parametrize(
    ("library", "parameters", "kind", "levels"),
    [
        ("brevitas", dict(bit_width=2, scale=0.5), "twos-complement", [-1, -0.5, 0, 0.5]),
        (
            "torchao",
            dict(quant_min=0, quant_max=3, zero_point=2, scale=0.5),
            "twos-complement",
            [-1, -0.5, 0, 0.5],
        ),
        ("torchao", dict(quant_min=-1, quant_max=1, scale=0.5), "mid-tread", [-0.5, 0, 0.5]),
        (
            "aqt",
            dict(bits=2, bound=2.0, preserve_zero=False, preserve_max_val=False),
            "mid-rise",
            [-1.5, -0.5, 0.5, 1.5],
        ),
        (
            "qwix",
            dict(qtype="int2", calibration_method="absmax,0.5", absmax=3.0),
            "twos-complement",
            [-2, -1, 0, 1],
        ),
        ("qwix", dict(qtype="int2", calibration_method="absmax", absmax=3.0), "mid-tread", [-2, 0, 2]),
        ("qpytorch", dict(wl=2, fl=0), "twos-complement", [-2, -1, 0, 1]),
        ("brevitas", dict(scale=0.5, bit_width=2, signed=False), "unsigned", [0, 0.5, 1, 1.5]),
        ("torchao", dict(quant_min=0, quant_max=3, zero_point=1, scale=0.5), "unsigned", [-0.5, 0, 0.5, 1]),
        ("torchao", dict(quant_min=-2, quant_max=1, zero_point=-2, scale=1.0), "unsigned", [0, 1, 2, 3]),
        ("qwix", dict(qtype="int2", calibration_method="fixed,0,6"), "unsigned", [0, 2, 4, 6]),
        ("onnx", dict(dtype="uint4", y_scale=1.0, y_zero_point=3), "unsigned", np.arange(16) - 3),
        ("onnx", dict(dtype="int2", y_scale=1.0), "twos-complement", [-2, -1, 0, 1]),
        ("tensorrt", dict(num_bits=2, amax=3.0, unsigned=True), "unsigned", [0, 1, 2, 3]),
        ("tensorrt", dict(num_bits=3, amax=3.0, narrow_range=True), "mid-tread", np.arange(7) - 3),
    ],
)
def test_parameters_as_users_write_them(library, parameters, kind, levels):
    q = from_library(library, **parameters)
    assert q.kind == kind
    np.testing.assert_allclose(q.levels, levels, atol=1e-12)


@pytest.mark.parametrize(
    ("library", "parameters", "sentence"),
    [
        ("tflite", {}, r"library: expected one of 'brevitas', .*found 'tflite'"),
        (
            "brevitas",
            dict(scale=1.0, bits=4),
            r"brevitas: expected one of the parameters scale, .*found 'bits'",
        ),
        ("brevitas", dict(bit_width=4), r"brevitas\.scale: expected a value, found None"),
        ("brevitas", dict(scale=1.0), r"brevitas\.bit_width: expected a whole number"),
        (
            "brevitas",
            dict(scale=1.0, bit_width=4, signed=False, narrow_range=True),
            r"levels of which one is 0, or symmetric ones, found '15 from 0 to 14'",
        ),
        ("brevitas", dict(scale=1.0, bit_width=1, narrow_range=True), r"found '1 from 0 to 0'"),
        ("brevitas", dict(scale=1.0, quant_type="BINARY", bit_width=2), r"brevitas\.bit_width: expected 1"),
        ("brevitas", dict(scale=1.0, quant_type="BINARY", zero_point=1), r"a signed scale alone"),
        ("brevitas", dict(scale=1.0, quant_type="TERNARY", threshold=0.7), r"threshold: expected 0\.5"),
        ("brevitas", dict(scale=1.0, bit_width=2, threshold=0.5), r"'TERNARY' only"),
        (
            "torchao",
            dict(quant_min=-7, quant_max=7, scale=-1.0),
            r"torchao\.scale: expected a positive number",
        ),
        (
            "torchao",
            dict(quant_min=-8, quant_max=7, scale=1.0, zero_point=1, mapping_type="SYMMETRIC"),
            r"the integer 0 for a symmetric",
        ),
        (
            "torchao",
            dict(quant_min=-8, quant_max=7, scale=1.0, zero_point=0.5),
            r"zero_point: expected a whole number",
        ),
        (
            "torchao",
            dict(quant_min=3, quant_max=3, scale=1.0),
            r"torchao\.quant_max: expected a whole number from 4",
        ),
        (
            "AQT",
            dict(bits=4, bound=1.0, preserve_zero=True, preserve_max_val=True, clip=False),
            r"clip and round both True",
        ),
        (
            "AQT",
            dict(bits=4, bound=1.0, preserve_zero="yes", preserve_max_val=True),
            r"AQT\.preserve_zero: expected one of True",
        ),
        (
            "qwix",
            dict(qtype="int4", calibration_method="absmax"),
            r"qwix\.calibration_method: expected 'fixed,LOW,HIGH' without absmax",
        ),
        ("qwix", dict(qtype="int4", calibration_method="fixed,1,2"), r"calibration_method"),
        (
            "onnx",
            dict(dtype="uint8", y_scale=1.0, y_zero_point=256),
            r"y_zero_point: expected a whole number",
        ),
        ("qwix", dict(qtype="int4", calibration_method="fixed,-a,a"), r"calibration_method"),
        (
            "qwix",
            dict(qtype="int5", calibration_method="fixed,-1,1", noise_fn="uniform"),
            r"int4 and int8 only",
        ),
        ("qpytorch", dict(wl=4, fl=2, clamp=False), r"QPyTorch\.clamp: expected True"),
        ("qpytorch", dict(wl=4, fl=2.5), r"QPyTorch\.fl: expected a whole number"),
    ],
)
def test_one_sentence_for_what_does_not_fit(library, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_library(library, **parameters)
