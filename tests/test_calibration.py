"""Calibration rules give the ranges of their equations."""

import numpy as np
import pytest
from scipy import integrate, stats

from stedyn.design.calibration import (
    CALIBRATIONS,
    calibrated_range,
    calibrated_ranges,
    rounding_error,
)
from stedyn.problem.problem import Start, Teacher
from stedyn.quantizers.conventions import both_edges
from stedyn.quantizers.pieces import gaussian_moments
from stedyn.quantizers.quantizer import Quantizer

NORMAL = Teacher.gaussian(1.0)
WEIGHTS = np.random.default_rng(7).laplace(0.1, 0.4, 3000)
LAWS = {
    "values": WEIGHTS,
    "normal": NORMAL,
    "shifted": Start.gaussian(0.4, 0.3),
    "signs": Teacher.rademacher(0.3),
    "constant": Teacher.constant(-0.7),
    "one number": [2.0],
}


def rounded_error(w, levels, rounding):
    """The mean square error of values, straight from the levels."""
    if rounding == "nearest":
        return np.mean(np.min((w[:, None] - levels) ** 2, axis=1))
    inside, low = np.clip(w, levels[0], levels[-1]), levels[:-1]
    below = low[np.clip(np.searchsorted(levels, inside, side="right") - 1, 0, low.size - 1)]
    fraction = (inside - below) / (levels[1] - levels[0])
    return np.mean((w - inside) ** 2 + (levels[1] - levels[0]) ** 2 * fraction * (1 - fraction))


@pytest.mark.parametrize(
    ("bits", "rise_level", "rise_bin", "tread_level"),
    [
        (1, 0.798, 1.596, None),
        (2, 1.494, 1.991, 1.224),
        (3, 2.051, 2.344, 1.952),
        (4, 2.514, 2.682, 2.474),
        (8, 3.922, 3.938, 3.921),
    ],
)
def test_mse_ranges_of_a_standard_normal_are_those_of_the_tables(bits, rise_level, rise_bin, tread_level):
    found = calibrated_range(NORMAL, Quantizer(bits, 9.0, edge="level"), "mse")
    assert found == pytest.approx(rise_level, abs=6e-4)
    assert both_edges(Quantizer(bits, found))["bin"] == pytest.approx(rise_bin, abs=6e-4)
    if bits == 2:
        assert calibrated_range(NORMAL, Quantizer(2, 1.0, edge="bin"), "mse") == pytest.approx(
            rise_bin, abs=6e-4
        )
    if tread_level is not None:
        assert calibrated_range(NORMAL, Quantizer(bits, 1.0, kind="mid-tread"), "mse") == pytest.approx(
            tread_level, abs=6e-4
        )


@pytest.mark.parametrize(("bits", "alpha"), [(1, 1.24), (2, 1.71), (3, 2.15), (4, 2.56), (8, 3.92)])
def test_aciq_is_the_published_edge_in_either_convention(bits, alpha):
    edge = calibrated_range(NORMAL, Quantizer(bits, 1.0, edge="bin"), "aciq")
    assert edge == pytest.approx(alpha, abs=6e-3)
    assert calibrated_range(Teacher.gaussian(0.2), Quantizer(bits, 1.0), "aciq") == pytest.approx(
        0.2 * edge * (1 - 2.0**-bits)
    )


@pytest.mark.parametrize("kind", ["mid-rise", "mid-tread", "twos-complement"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_mse_of_values_is_the_lowest_of_all_ranges(kind, rounding):
    w = WEIGHTS[:200]
    q = Quantizer(3, 1.0, kind=kind, rounding=rounding)
    unit = np.asarray(q.levels)
    found = calibrated_range(w, q, "mse")
    tried = np.linspace(0.02, 8.0, 4000) * np.abs(w).max()
    lowest = min(rounded_error(w, width * unit, rounding) for width in tried)
    reached = rounded_error(w, found * unit, rounding)
    assert reached <= lowest * (1 + 1e-12)
    assert lowest < 1.02 * reached  # the grid comes near it
    assert rounding_error(w, Quantizer(3, found, kind=kind, rounding=rounding)) == pytest.approx(
        reached, rel=1e-10
    )


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_rounding_error_of_a_gaussian(rounding):
    mean, std, q = 0.4, 0.3, Quantizer(2, 0.8, kind="twos-complement", rounding=rounding)
    error = rounding_error(Start.gaussian(mean, std), q)
    levels, density = np.asarray(q.levels), stats.norm(mean, std).pdf
    points = np.sort(
        np.concatenate([levels, (levels[1:] + levels[:-1]) / 2, [mean - 9 * std, mean + 9 * std]])
    )
    pieces = [
        integrate.quad(lambda x: rounded_error(np.array([x]), levels, rounding) * density(x), a, b)[0]
        for a, b in zip(points, points[1:], strict=False)
    ]
    assert error == pytest.approx(sum(pieces), rel=1e-9)
    g = gaussian_moments(q.pieces, mean, std)
    assert error == pytest.approx(
        float(g.square - 2 * (mean * g.mean + std**2 * g.slope) + mean**2 + std**2), rel=1e-9
    )


def test_rules_that_name_a_threshold():
    sizes, q = np.abs(WEIGHTS), Quantizer(3, 1.0, edge="bin")
    ranges = calibrated_ranges(WEIGHTS, q, percentile=99.0, k=2.0)
    assert list(ranges) == list(CALIBRATIONS)
    assert ranges["max"] == sizes.max()
    assert ranges["percentile"] == pytest.approx(np.percentile(sizes, 99.0))
    assert ranges["k-sigma"] == pytest.approx(abs(WEIGHTS.mean()) + 2 * WEIGHTS.std())
    # the threshold is the range in both conventions
    assert calibrated_range(WEIGHTS, Quantizer(3, 1.0), "percentile", percentile=99.0) == ranges["percentile"]
    # of a Gaussian away from zero they are those of many draws from it
    start = Start.gaussian(0.4, 0.3)
    draws = np.abs(np.random.default_rng(3).normal(0.4, 0.3, (4000, 100)))
    above = np.mean(draws.max(axis=1) > calibrated_range(start, q, "max", count=100))
    assert abs(above - 0.5) < 4 * 0.5 / np.sqrt(4000)
    above = np.mean(draws > calibrated_range(start, q, "percentile", percentile=90.0))
    assert abs(above - 0.1) < 4 * 0.3 / np.sqrt(draws.size)
    many = calibrated_range(NORMAL, q, "percentile", percentile=90.0, count=10**8)
    assert many == pytest.approx(stats.norm.ppf(0.95), rel=1e-6)
    # of few draws it is the median of what NumPy finds in them
    found = np.percentile(draws, 90.0, axis=1)
    above = np.mean(found > calibrated_range(start, q, "percentile", percentile=90.0, count=100))
    assert abs(above - 0.5) < 4 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("count", [1, 2, 100, 4096, 10**6])
def test_a_percentile_is_never_above_the_largest(law, count):
    """All rules see the same draws: percentiles rise with the percentage, up to max, and kl ends there."""
    q = Quantizer(2, 1.0)
    percentages = (1.0, 50.0, 99.0, 99.9, 99.999, 99.99999)
    found = [
        calibrated_range(LAWS[law], q, "percentile", percentile=percentage, count=count)
        for percentage in percentages
    ]
    largest = calibrated_range(LAWS[law], q, "max", count=count)
    for low, high in zip(found, [*found[1:], largest], strict=True):
        assert low <= high * (1 + 1e-12)
    assert calibrated_range(LAWS[law], q, "kl", count=count, bins=64) <= largest


def test_lsq_step():
    mean_abs = np.abs(WEIGHTS).mean()
    for kind, highest in [("mid-tread", 7), ("twos-complement", 7), ("mid-rise", 7.5)]:
        for edge in ("level", "bin"):
            width = calibrated_range(WEIGHTS, Quantizer(4, 1.0, kind=kind, edge=edge), "lsq")
            levels = np.asarray(Quantizer(4, width, kind=kind, edge=edge).levels)
            step = levels[1] - levels[0]
            assert step == pytest.approx(2 * mean_abs / np.sqrt(highest))
            assert levels[-1] == pytest.approx(highest * step)
    folded = calibrated_range(Start.gaussian(0.4, 0.3), Quantizer(4, 1.0, kind="mid-tread"), "lsq") / 7
    assert folded == pytest.approx(2 * stats.foldnorm(0.4 / 0.3, scale=0.3).mean() / np.sqrt(7))


def divergence(counts, n, steps):
    """Of the first n bins with the rest in the last, from the same in equal steps: one bin at a time."""
    p, q = np.array(counts[:n], dtype=float), np.zeros(n)
    p[-1] += sum(counts[n:])
    for group in range(steps):
        members = [j for j in range(n) if j * steps // n == group and counts[j] > 0]
        q[members] = sum(counts[j] for j in members) / max(len(members), 1)
    return stats.entropy(p, q)  # infinite where q has nothing


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_kl_threshold(bits):
    counts, edges = np.histogram(np.abs(WEIGHTS), bins=100, range=(0, np.abs(WEIGHTS).max()))
    steps = 2 ** (bits - 1)
    distances = {n: divergence(counts, n, steps) for n in range(max(steps, 2), 101)}
    best = min(distances, key=distances.get)
    assert steps < best < 100
    assert calibrated_range(WEIGHTS, Quantizer(bits, 1.0), "kl", bins=100) == pytest.approx(edges[best])
    # a histogram coarser than the steps says nothing
    assert calibrated_range(WEIGHTS, Quantizer(9, 1.0), "kl", bins=100) == np.abs(WEIGHTS).max()


def test_kl_of_a_gaussian_is_that_of_its_quantiles():
    many = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    q, count = Quantizer(3, 1.0), 400_000
    top = calibrated_range(NORMAL, q, "max", count=count)
    assert np.abs(many).max() == pytest.approx(top, rel=0.1)
    found = calibrated_range(NORMAL, q, "kl", count=count, bins=256)
    assert found == pytest.approx(calibrated_range(many, q, "kl", bins=256), rel=0.05)
    assert found < 0.9 * top


@pytest.mark.parametrize("law", LAWS)
def test_every_rule_gives_a_positive_range_that_scales_with_the_weights(law):
    scaled = {
        "values": 4 * WEIGHTS, "normal": Teacher.gaussian(4.0), "shifted": Start.gaussian(1.6, 1.2),
        "signs": Teacher.rademacher(1.2), "constant": Teacher.constant(-2.8), "one number": [8.0],
    }[law]  # fmt: skip
    for q in (
        Quantizer(1, 1.0),
        Quantizer(3, 1.0, kind="twos-complement", edge="bin"),
        Quantizer(range=1.0, kind="ternary"),
    ):
        ranges, larger = calibrated_ranges(LAWS[law], q, bins=256), calibrated_ranges(scaled, q, bins=256)
        assert all(np.isfinite(width) and width > 0 for width in ranges.values())
        assert {rule: 4 * width for rule, width in ranges.items()} == pytest.approx(larger, rel=1e-6)


def test_laws_with_the_same_weights_have_the_same_ranges():
    q = Quantizer(2, 1.0, kind="mid-tread")
    assert calibrated_ranges(Teacher.rademacher(0.3), q) == calibrated_ranges([0.3, -0.3], q)
    assert calibrated_ranges(Teacher.samples(WEIGHTS), q) == calibrated_ranges(WEIGHTS.reshape(30, 100), q)
    assert calibrated_range(Teacher.constant(-0.7), q, "mse") == pytest.approx(0.7, rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "rule", "options", "sentence"),
    [
        ([0.0, 0.0], "max", {}, r"weights: expected at least one that is not 0, found 'zeros only'; .*\.$"),
        (Teacher.constant(0.0), "mse", {}, r"at least one that is not 0"),
        ([1.0, np.nan, np.inf], "max", {}, r"weights: expected finite numbers only, found '2 nan or inf'"),
        ([], "max", {}, r"a teacher, a start or an array of numbers, found 'float64 of shape \(0,\)'"),
        (["a"], "max", {}, r"an array of numbers"),
        ([True, False], "max", {}, r"an array of numbers, found 'bool"),
        ([1.0], "best", {}, r"rule: expected one of 'max', .*found 'best'"),
        (
            [1.0],
            "max",
            {"sigma": 3},
            r"option: expected one of 'count', 'percentile', 'k', 'bins', found 'sigma'",
        ),
        ([1.0], "percentile", {"percentile": 100.0}, r"percentile: expected a number between 0 and 100"),
        ([1.0], "max", {"count": 0}, r"count: expected a whole number of at least 1"),
        (
            [1.0] + 9 * [0.0],
            "percentile",
            {"percentile": 50},
            r"percentile: expected weights that give a positive range, found 0\.0",
        ),
    ],
)
def test_one_sentence_for_what_has_no_range(weights, rule, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        calibrated_range(weights, Quantizer(2, 1.0), rule, **options)


@pytest.mark.parametrize("quantizer", [Quantizer(kind="levels", levels=[-1, 1]), Quantizer(kind="none")])
def test_quantizers_without_a_range_are_refused(quantizer):
    for rule in CALIBRATIONS:
        with pytest.raises(ValueError, match=r"quantizer: expected equally spaced levels"):
            calibrated_range(NORMAL, quantizer, rule)
