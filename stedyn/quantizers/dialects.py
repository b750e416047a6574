"""How every library of `conventions` writes a quantizer, and how it is read back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..checks import choice, fail, finite, positive, whole
from .lattices import Grid, flag, lattice
from .quantizer import MAX_BITS, ROUNDINGS, Quantizer


def _to_brevitas(q: Grid) -> dict[str, Any] | str:
    nearest = q.rounding == "nearest"
    if nearest and q.kind == "sign":
        return {"quant_type": "BINARY", "scale": q.range}
    if nearest and q.kind == "ternary":
        return {"quant_type": "TERNARY", "threshold": 0.5, "scale": q.range}
    unsigned = q.family == "unsigned"
    return {
        "quant_type": "INT",
        "bit_width": q.bits,
        "signed": not unsigned,
        "narrow_range": q.family == "mid-tread",
        "scale": q.step,
        # a half needs quantize_zero_point=False
        "zero_point": q.zero if unsigned else -0.5 if q.family == "mid-rise" else 0,
        "float_to_int_impl_type": "ROUND" if nearest else "STOCHASTIC_ROUND",
    }


def _from_brevitas(
    *,
    scale,
    quant_type="INT",
    bit_width=None,
    signed=True,
    narrow_range=False,
    zero_point=0,
    threshold=None,
    float_to_int_impl_type="ROUND",
) -> Quantizer:
    scale, zero = positive("brevitas.scale", scale), finite("brevitas.zero_point", zero_point)
    quant_type = choice("brevitas.quant_type", quant_type, ("INT", "BINARY", "TERNARY"))
    rounds = ("ROUND", "STOCHASTIC_ROUND")
    how = choice("brevitas.float_to_int_impl_type", float_to_int_impl_type, rounds)
    if quant_type != "TERNARY" and threshold is not None:
        fail("brevitas.threshold", "it with quant_type 'TERNARY' only", threshold, "leave it out")
    if quant_type == "INT":
        half = 2 ** (whole("brevitas.bit_width", bit_width, 1, MAX_BITS) - 1)
        narrow = flag("brevitas.narrow_range", narrow_range)
        signed = flag("brevitas.signed", signed)
        low, high = (-half + narrow, half - 1) if signed else (0, 2 * half - 1 - narrow)
        return lattice(scale, low - zero, high - low + 1, ROUNDINGS[rounds.index(how)], "brevitas")
    if (narrow_range, zero, how, signed) != (False, 0, "ROUND", True):
        expected = f"a signed scale alone for quant_type {quant_type!r}"
        fail("brevitas", expected, "more", "leave out narrow_range, zero_point, float_to_int_impl_type")
    bits = 1 if quant_type == "BINARY" else 2
    if bit_width not in (None, bits):
        fail("brevitas.bit_width", f"{bits} for quant_type {quant_type!r}", bit_width, "leave it out")
    if quant_type == "TERNARY" and threshold != 0.5:
        fail("brevitas.threshold", "0.5, half-way to the outer levels", threshold, "set it to 0.5")
    return Quantizer(range=scale, kind="sign" if quant_type == "BINARY" else "ternary")


def _to_torchao(q: Grid) -> dict[str, Any] | str:
    if q.rounding == "stochastic":
        return "The affine quantizers of torchao round to the nearest level only."
    if q.family == "mid-rise":  # the zero point of the tinygemm kernels, a float
        bounds = {"quant_min": 0, "quant_max": 2 * q.half - 1, "scale": q.step, "zero_point": q.step / 2}
        return bounds | {"zero_point_domain": "FLOAT", "mapping_type": "ASYMMETRIC"}
    if q.family == "unsigned":
        bounds = {"quant_min": 0, "quant_max": 2 * q.half - 1, "scale": q.step, "zero_point": q.zero}
        return bounds | {"zero_point_domain": "INT", "mapping_type": "ASYMMETRIC"}
    low = -q.half + (q.family == "mid-tread")
    bounds = {"quant_min": low, "quant_max": q.half - 1, "scale": q.step, "zero_point": 0}
    return bounds | {"zero_point_domain": "INT", "mapping_type": "SYMMETRIC"}


def _from_torchao(
    *, quant_min, quant_max, scale, zero_point=0, zero_point_domain="INT", mapping_type=None
) -> Quantizer:
    scale, zero = positive("torchao.scale", scale), finite("torchao.zero_point", zero_point)
    low = whole("torchao.quant_min", quant_min, -(2**MAX_BITS), 2**MAX_BITS)
    high = whole("torchao.quant_max", quant_max, low + 1, 2**MAX_BITS)
    domain = choice("torchao.zero_point_domain", zero_point_domain, ("INT", "FLOAT"))
    types = (None, "SYMMETRIC", "SYMMETRIC_NO_CLIPPING_ERR", "ASYMMETRIC")
    symmetric = choice("torchao.mapping_type", mapping_type, types) in types[1:3]
    middle = int((low + high + 1) / 2)
    if symmetric and (domain, zero) != ("INT", middle):
        found = f"{zero:g} in the domain {domain}"
        fail("torchao.zero_point", f"the integer {middle} for a symmetric mapping", found, "set it")
    if domain == "INT":  # rounded before the zero point is added, which therefore is whole
        lowest = low - whole("torchao.zero_point", zero_point, -(2**MAX_BITS), 2**MAX_BITS)
    else:  # to the nearest half, as z / s is not exact
        lowest = round(2 * (low - (low + high + 1) / 2 + zero / scale), 9) / 2
    return lattice(scale, lowest, high - low + 1, "nearest", "torchao")


def _to_aqt(q: Grid) -> dict[str, Any] | str:
    if q.family == "twos-complement":
        return "AQT has symmetric levels only, and two's complement has one more below zero than above."
    if q.family == "unsigned":
        return "AQT has symmetric levels only, or (IntAsymmetric) such between the extremes of the data."
    return {
        "bits": q.bits,
        "bound": q.range,
        "preserve_zero": q.family == "mid-tread",
        "preserve_max_val": q.edge == "level",
        "clip": True,
        "round": True,
        "noise_fn": None if q.rounding == "nearest" else "JaxUniform",
    }


def _from_aqt(
    *, bits, bound, preserve_zero, preserve_max_val, clip=True, round=True, noise_fn=None
) -> Quantizer:
    if not (flag("AQT.clip", clip) and flag("AQT.round", round)):
        fail("AQT", "clip and round both True", f"{clip} and {round}", "set them, or there are no levels")
    zero = flag("AQT.preserve_zero", preserve_zero)
    noise = choice("AQT.noise_fn", noise_fn, (None, "JaxUniform", "RandomCenteredUniform"))
    return Quantizer(
        whole("AQT.bits", bits, 2 if zero else 1, MAX_BITS),
        positive("AQT.bound", bound),
        kind="mid-tread" if zero else "mid-rise",
        edge="level" if flag("AQT.preserve_max_val", preserve_max_val) else "bin",
        rounding=_rounding(noise),
    )


_QTYPES = tuple(f"int{bits}" for bits in range(2, 9))
_NOISY_QTYPES = ("int4", "int8")


def _to_qwix(q: Grid) -> dict[str, Any] | str:
    qtype, bound, nearest = f"int{q.bits}", q.bin * q.step, q.rounding == "nearest"
    if q.family == "mid-rise":
        return "The integers of qwix contain zero, and mid-rise levels do not."
    if qtype not in _QTYPES:
        return f"qwix has int2 to int8 with such a step, and the quantizer has {q.bits} bits."
    if q.family == "unsigned" and q.bits > 1:  # not so of binary
        if not nearest and qtype not in _NOISY_QTYPES:
            return f"qwix rounds stochastically to int4 and int8 only, and the quantizer has {q.bits} bits."
        low, high = -q.zero * q.step, (2 * q.half - 1 - q.zero) * q.step
        if low + high == 0:
            return "qwix takes limits of equal size for a symmetric range."
        method = f"fixed,{low!r},{high!r}"
        return {"qtype": qtype, "calibration_method": method, "noise_fn": None if nearest else "uniform"}
    if not nearest and q.family == "mid-tread":
        return "qwix has one more level below zero, and its stochastic rounding reaches it."
    if not nearest and qtype not in _NOISY_QTYPES:
        return f"qwix rounds stochastically to int4 and int8 only, and the quantizer has {q.bits} bits."
    if q.family == "mid-tread":
        return {"qtype": qtype, "calibration_method": "absmax", "absmax": bound, "noise_fn": None}
    method = f"fixed,{-bound!r},{bound!r}"
    return {"qtype": qtype, "calibration_method": method, "noise_fn": None if nearest else "uniform"}


def _from_qwix(*, qtype, calibration_method, absmax=None, noise_fn=None) -> Quantizer:
    bits = int(choice("qwix.qtype", qtype, _QTYPES)[3:])
    noise = choice("qwix.noise_fn", noise_fn, (None, "uniform", "low_bit_uniform"))
    if noise is not None and qtype not in _NOISY_QTYPES:
        fail("qwix.noise_fn", "it with qtype int4 and int8 only", qtype, "leave it out")
    method, *rest = str(calibration_method).lower().split(",")
    try:
        numbers = [float(number) for number in rest]
    except ValueError:
        numbers = [math.nan] * 3
    if method == "fixed" and absmax is None and numbers and numbers[0] == -numbers[-1] and len(numbers) == 2:
        bound, kind = numbers[1], "twos-complement"
    elif (
        method == "fixed"
        and absmax is None
        and len(numbers) == 2
        and numbers[0] <= 0 <= numbers[1] > numbers[0]
    ):
        count = 2**bits
        step = (numbers[1] - numbers[0]) / (count - 1)
        # the zero point is rounded, so that the limits move with it
        return lattice(step, round(numbers[0] / step), count, _rounding(noise), "qwix")
    elif method == "absmax" and absmax is not None and len(numbers) <= 1:
        factor = positive("qwix.calibration_method", numbers[0] if numbers else 1.0)
        bound = positive("qwix.absmax", absmax) * factor
        # what is cut off below, or thrown there by the noise, takes the extra level
        kind = "mid-tread" if factor >= 1 and noise is None else "twos-complement"
    else:
        expected = "'fixed,LOW,HIGH' without absmax, or 'absmax' or 'absmax,factor' with it, the largest |w|"
        found = f"{calibration_method!r}, absmax = {absmax}"
        fail("qwix.calibration_method", expected, found, "give one of these")
    return Quantizer(bits, positive("qwix bound", bound), kind=kind, edge="bin", rounding=_rounding(noise))


def _rounding(noise: str | None) -> str:
    return "nearest" if noise is None else "stochastic"


def _to_qpytorch(q: Grid) -> dict[str, Any] | str:
    if q.family == "mid-rise":
        return "The fixed point numbers of QPyTorch contain zero, and mid-rise levels do not."
    if q.family == "unsigned":
        return "The fixed point numbers of QPyTorch have a sign."
    length = round(-math.log2(q.step))
    if abs(q.step * 2.0**length - 1) > 1e-12:
        return f"The steps of QPyTorch are powers of two, and this one is {q.step:g}."
    fields = {"wl": q.bits, "fl": length, "clamp": True, "symmetric": q.family == "mid-tread"}
    return fields | {"rounding": q.rounding}


def _from_qpytorch(*, wl, fl, clamp=True, symmetric=False, rounding="stochastic") -> Quantizer:
    if not flag("QPyTorch.clamp", clamp):
        fail("QPyTorch.clamp", "True", clamp, "set it, or the levels have no end")
    half = 2 ** (whole("QPyTorch.wl", wl, 1, MAX_BITS) - 1)
    low = -half + flag("QPyTorch.symmetric", symmetric)
    step = 2.0 ** -whole("QPyTorch.fl", fl, -64, 64)
    return lattice(step, low, half - low, choice("QPyTorch.rounding", rounding, ROUNDINGS), "QPyTorch")


def _to_onnx(q: Grid) -> dict[str, Any] | str:
    if q.rounding == "stochastic":
        return "ONNX rounds to the nearest level only."
    if q.family == "mid-rise":
        return "The zero point of ONNX is an integer, and mid-rise levels do not contain zero."
    if q.bits not in _ONNX_BITS:
        return f"ONNX has integers of 2, 4, 8 and 16 bits, and the quantizer has {q.bits}."
    if q.family == "mid-tread":
        return "The integers of ONNX have one more level below zero than above."
    unsigned = q.family == "unsigned"
    dtype = f"{'u' if unsigned else ''}int{q.bits}"
    return {"dtype": dtype, "y_scale": q.step, "y_zero_point": q.zero if unsigned else 0}


def _from_onnx(*, dtype, y_scale, y_zero_point=0) -> Quantizer:
    types = tuple(f"{sign}int{bits}" for sign in ("u", "") for bits in _ONNX_BITS)
    dtype = choice("ONNX.dtype", dtype, types)
    count = 2 ** int(dtype.removeprefix("u")[3:])
    low = 0 if dtype.startswith("u") else -count // 2
    zero = whole("ONNX.y_zero_point", y_zero_point, low, low + count - 1)
    return lattice(positive("ONNX.y_scale", y_scale), low - zero, count, "nearest", "ONNX")


_ONNX_BITS = (2, 4, 8, 16)


def _to_tensorrt(q: Grid) -> dict[str, Any] | str:
    if q.rounding == "stochastic":
        return "TensorRT rounds to the nearest level only."
    if q.family == "mid-rise":
        return "The integers of TensorRT contain zero, and mid-rise levels do not."
    if q.zero and q.family == "unsigned":
        return "TensorRT has no zero point; export to ONNX with one."
    if q.family != "unsigned" and q.bits < 2:
        return "TensorRT has signed integers of 2 and more bits."
    narrow, unsigned = q.family == "mid-tread", q.family == "unsigned"
    top = (2 * q.half if unsigned else q.half) - 1
    return {"num_bits": q.bits, "amax": top * q.step, "unsigned": unsigned, "narrow_range": narrow}


def _from_tensorrt(*, num_bits, amax, unsigned=False, narrow_range=False) -> Quantizer:
    unsigned, narrow = flag("TensorRT.unsigned", unsigned), flag("TensorRT.narrow_range", narrow_range)
    bits = whole("TensorRT.num_bits", num_bits, 1 if unsigned else 2, MAX_BITS)
    top = 2 ** (bits - 1 + unsigned) - 1
    low = 0 if unsigned else -top - (not narrow)
    return lattice(positive("TensorRT.amax", amax) / top, low, top - low + 1, "nearest", "TensorRT")


WRITERS: dict[str, Callable[[Grid], dict[str, Any] | str]] = {
    "brevitas": _to_brevitas,
    "torchao": _to_torchao,
    "AQT": _to_aqt,
    "qwix": _to_qwix,
    "QPyTorch": _to_qpytorch,
    "ONNX": _to_onnx,
    "TensorRT": _to_tensorrt,
}
READERS: dict[str, Callable[..., Quantizer]] = {
    "brevitas": _from_brevitas,
    "torchao": _from_torchao,
    "AQT": _from_aqt,
    "qwix": _from_qwix,
    "QPyTorch": _from_qpytorch,
    "ONNX": _from_onnx,
    "TensorRT": _from_tensorrt,
}
