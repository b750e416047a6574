"""Quantizers do what their names say, and their Gaussian moments are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from stedyn.checks import InputError
from stedyn.inputs.moments import input_moments
from stedyn.quantizers.pieces import gaussian_moments, jumps
from stedyn.quantizers.quantizer import Quantizer

GEOMETRIES = [
    ("mid-rise", "level"),
    ("mid-rise", "bin"),
    ("mid-tread", "level"),
    ("mid-tread", "bin"),
    ("twos-complement", "level"),
    ("twos-complement", "bin"),
    ("unsigned", "level"),
    ("unsigned", "bin"),
]
quantizers = st.builds(
    lambda bits, scale, geometry, rounding: Quantizer(
        bits, scale, kind=geometry[0], edge=geometry[1], rounding=rounding
    ),
    st.sampled_from([2, 3, 5]),
    st.floats(0.05, 20.0),
    st.sampled_from(GEOMETRIES),
    st.sampled_from(["nearest", "stochastic"]),
)


@pytest.fixture(autouse=True)
def strict():
    """No integer becomes a float, or a narrow float a wide one, unless it is said."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.mark.parametrize(
    ("kind", "edge", "levels"),
    [
        ("mid-rise", "level", [-2, -2 / 3, 2 / 3, 2]),
        ("mid-rise", "bin", [-1.5, -0.5, 0.5, 1.5]),
        ("mid-tread", "level", [-2, 0, 2]),
        ("mid-tread", "bin", [-4 / 3, 0, 4 / 3]),
        ("twos-complement", "level", [-2, -1, 0, 1]),
        ("twos-complement", "bin", [-8 / 3, -4 / 3, 0, 4 / 3]),
        ("unsigned", "level", [0, 2 / 3, 4 / 3, 2]),
        ("unsigned", "bin", [0, 4 / 7, 8 / 7, 12 / 7]),
    ],
)
def test_levels_of_every_geometry_at_two_bits_and_range_two(kind, edge, levels):
    quantizer = Quantizer(2, 2.0, kind=kind, edge=edge)
    np.testing.assert_allclose(quantizer.levels, levels, atol=1e-15)
    assert quantizer.n_levels == len(levels)


def test_sign_ternary_and_explicit_levels():
    np.testing.assert_allclose(Quantizer(range=0.7, kind="sign").levels, [-0.7, 0.7])
    np.testing.assert_allclose(Quantizer(range=0.7, kind="ternary").thresholds, [-0.35, 0.35])
    np.testing.assert_allclose(Quantizer(kind="levels", levels=[-1, 0, 3]).thresholds, [-0.5, 1.5])


@settings(max_examples=40)
@given(quantizers, st.lists(st.floats(-50, 50), min_size=20, max_size=20))
def test_nearest_rounding_takes_the_nearest_level(quantizer, values):
    nearest = Quantizer(quantizer.bits, quantizer.range, kind=quantizer.kind, edge=quantizer.edge)
    w = np.array(values)
    distance = np.abs(w[:, None] - np.asarray(nearest.levels))
    got = np.abs(w - np.asarray(nearest.round(jnp.asarray(w))))
    np.testing.assert_allclose(got, distance.min(axis=1), atol=1e-12)


@settings(max_examples=15)
@given(quantizers, st.floats(-30, 30))
def test_stochastic_rounding_has_the_moments_of_its_pieces(quantizer, w):
    rough = Quantizer(
        quantizer.bits, quantizer.range, kind=quantizer.kind, edge=quantizer.edge, rounding="stochastic"
    )
    levels = np.asarray(rough.levels)
    u = (np.arange(20_000) + 0.5) / 20_000
    drawn = np.asarray(rough.round(jnp.full(u.size, w), jnp.asarray(u)))
    breaks, first, second = rough.pieces
    k = np.searchsorted(breaks, w, side="right")
    step = levels[1] - levels[0]
    assert abs(drawn.mean() - (first[k] @ np.array([1, w]))) < 1e-4 * step
    assert abs(drawn.mean() - np.clip(w, levels[0], levels[-1])) < 1e-4 * step
    assert abs((drawn**2).mean() - second[k] @ np.array([1, w, w * w])) < 1e-4 * step * np.abs(levels).max()


def test_a_tie_goes_up():
    assert float(Quantizer(2, 2.0).round(jnp.zeros(()))) == pytest.approx(2 / 3)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.7, 0.3), (-2.5, 0.01), (4.0, 0.5)])
def test_gaussian_moments_against_quadrature(rounding, mean, std):
    quantizer = Quantizer(3, 1.7, kind="twos-complement", rounding=rounding)
    pieces = quantizer.pieces
    breaks, first, second = map(np.asarray, pieces)
    got = gaussian_moments(pieces, mean, std)

    def expect(coefficients, weight=lambda w: 1.0):
        total = 0.0
        edges = np.clip([mean - 12 * std, *breaks, mean + 12 * std], mean - 12 * std, mean + 12 * std)
        for (low, high), row in zip(zip(edges, edges[1:], strict=False), coefficients, strict=True):
            total += integrate.quad(
                lambda w, row=row: weight(w) * np.polyval(row[::-1], w) * stats.norm.pdf(w, mean, std),
                low,
                high,
                epsabs=1e-13,
            )[0]
        return total

    assert float(got.mean) == pytest.approx(expect(first), abs=1e-9)
    assert float(got.square) == pytest.approx(expect(second), abs=1e-9)
    covariance = expect(first, lambda w: w - mean)
    assert float(got.slope) * std**2 == pytest.approx(covariance, abs=1e-9)
    slope = jax.grad(lambda m: gaussian_moments(pieces, m, std).mean)(mean)
    assert float(slope) == pytest.approx(float(got.slope), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize(("kind", "edge"), GEOMETRIES)
def test_input_moments_against_a_large_sample(kind, edge, rounding):
    quantizer = Quantizer(3, 1.7, kind=kind, edge=edge, rounding=rounding)
    rng = np.random.default_rng(1)
    x, u = rng.standard_normal(400_000), rng.random(400_000)
    phi = np.asarray(quantizer.round(jnp.asarray(x), jnp.asarray(u)))
    got = input_moments(quantizer, means="kept")
    mean = float(got.mean)
    for value, sample in [
        (got.k1, x * (phi - mean)),
        (got.k2, (phi - mean) ** 2),
        (got.mean_abs, np.abs(phi)),
        (got.mean, phi),
    ]:
        assert abs(float(value) - sample.mean()) < 4.5 * sample.std() / np.sqrt(x.size)
    assert float(jnp.sum(got.mass)) == pytest.approx(1.0, abs=1e-12)


def test_a_fine_input_quantizer_is_no_quantizer():
    got = input_moments(Quantizer(12, 7.0))
    assert float(got.k1) == pytest.approx(1.0, abs=1e-5)
    assert float(got.k2) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "edge", "bits", "best"),
    [
        ("mid-rise", "level", 2, 1.494),
        ("mid-rise", "level", 3, 2.051),
        ("mid-rise", "bin", 2, 1.991),
        ("mid-tread", "level", 2, 1.224),
        ("mid-tread", "level", 4, 2.474),
    ],
)
def test_reconstruction_error_is_least_at_the_known_range(kind, edge, bits, best):
    def loss(scale):
        got = input_moments(Quantizer(bits, float(scale), kind=kind, edge=edge))
        return float(1 - 2 * got.k1 + got.k2)

    found = optimize.minimize_scalar(loss, bounds=(0.5, 5), method="bounded", options=dict(xatol=1e-5)).x
    assert found == pytest.approx(best, abs=6e-4)


def test_jumps_add_up_to_the_span_of_the_levels():
    for rounding, span in [("nearest", 3.0), ("stochastic", 0.0)]:
        quantizer = Quantizer(3, 1.5, rounding=rounding)
        assert float(jnp.sum(jumps(quantizer.pieces))) == pytest.approx(span, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (dict(bits=0, range=1.0), "bits"),
        (dict(bits=99, range=1.0), "bits"),
        (dict(bits=1, range=1.0, kind="mid-tread"), "bits"),
        (dict(bits=2.5, range=1.0), "bits"),
        (dict(range=1.0), "bits"),
        (dict(bits=2), "range"),
        (dict(bits=2, range=0.0), "range"),
        (dict(bits=2, range=float("nan")), "range"),
        (dict(bits=2, range=1.0, kind="round"), "kind"),
        (dict(bits=2, range=1.0, edge="middle"), "edge"),
        (dict(bits=2, range=1.0, rounding="up"), "rounding"),
        (dict(kind="levels", levels=[1.0, 0.0]), "levels"),
        (dict(kind="levels", levels=[1.0, 1.0]), "levels"),
        (dict(kind="levels", levels=[1.0]), "levels"),
        (dict(kind="levels"), "levels"),
        (dict(bits=1, kind="levels", levels=[0.0, 1.0, 2.0]), "levels"),
        (dict(bits=3, range=1.0, kind="sign"), "bits"),
        (dict(bits=2, range=1.0, levels=[0, 1]), "levels"),
    ],
)
def test_a_bad_quantizer_is_refused_in_one_sentence(arguments, word):
    with pytest.raises(ValueError, match=rf"^{word}: expected .*, found .*; .*\.$"):
        Quantizer(**arguments)


def test_named_formats_have_the_published_levels():
    from stedyn.quantizers.formats import NAMED

    levels = {kind: np.asarray(Quantizer(range=1.0, kind=kind, bits=4 if kind == "power-of-two" else None).levels)
              for kind in NAMED}  # fmt: skip
    assert {kind: values.size for kind, values in levels.items()} == {
        "int4": 16, "fp4-e2m1": 15, "fp6-e2m3": 63, "fp6-e3m2": 63, "fp8-e4m3": 253, "fp8-e5m2": 247, "nf4": 16,
        "power-of-two": 15,
    }  # fmt: skip
    assert levels["fp4-e2m1"][7:] * 6 == pytest.approx([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    assert levels["int4"] * 8 == pytest.approx(np.arange(-8, 8))
    # QLoRA (arXiv 2305.14314), appendix E
    published = [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]  # fmt: skip
    assert levels["nf4"] == pytest.approx(published, abs=2e-7)
    # largest finite, and smallest positive numbers of the OCP formats
    for kind, largest, least in (("fp8-e4m3", 448, 2.0**-9), ("fp8-e5m2", 57344, 2.0**-16),
                                 ("fp6-e2m3", 7.5, 2.0**-3), ("fp6-e3m2", 28, 2.0**-4)):  # fmt: skip
        positive = levels[kind][levels[kind] > 0] * largest
        assert (positive[0], positive[-1]) == (least, largest)
    for kind, values in levels.items():
        own = Quantizer(range=2.5, kind=kind, bits=4 if kind == "power-of-two" else None)
        assert np.max(np.abs(np.asarray(own.levels))) == 2.5
        assert own.symmetric == np.allclose(values, -values[::-1], atol=1e-12)


@pytest.mark.parametrize("fault", [dict(kind="nf4", bits=3), dict(kind="fp4-e2m1", edge="bin"),
                                   dict(kind="power-of-two", bits=7), dict(kind="power-of-two")])  # fmt: skip
def test_faults_of_formats(fault):
    with pytest.raises(InputError):
        Quantizer(range=1.0, **fault)
