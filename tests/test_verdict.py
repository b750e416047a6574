"""The statistics of a verdict on Gaussian numbers: their level, their power, and that nothing passes on nan."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from stedyn.comparison.verdict import (
    LEVEL,
    POWER,
    Part,
    judge,
    least_p,
    mean_test,
    shares_test,
    single_times,
)

DRAWS = 800


def correlated(rng, seeds, count):
    """Seeds (S, count) whose numbers share nearly all of their noise, as the times of a curve do."""
    return rng.normal(size=(seeds, 1)) + 0.1 * np.cumsum(rng.normal(size=(seeds, count)), axis=1)


@pytest.mark.parametrize(
    ("seeds", "count", "controls"), [(2, 1, 0), (4, 1, 0), (7, 1, 2), (16, 2, 3), (30, 4, 3)]
)
def test_p_is_uniform_where_the_mean_is_zero(seeds, count, controls):
    rng = np.random.default_rng(seeds)
    p = []
    for _ in range(DRAWS):
        noise = correlated(rng, seeds, count + controls)
        p.append(mean_test(noise[:, controls:], noise[:, :controls]).p_value)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_controls_take_the_shared_noise_out():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        noise = correlated(rng, 16, 2)
        scores = noise[:, 1:] + 0.3
        found.append([mean_test(scores, c).p_value < LEVEL for c in (None, noise[:, :1])])
    plain, controlled = np.mean(found, axis=0)
    assert plain < 0.2
    assert controlled > 0.9


def test_controls_that_say_nothing_are_left_out():
    rng = np.random.default_rng(1)
    scores, control = rng.normal(size=(8, 1)), rng.normal(size=(8, 1))
    once = mean_test(scores, control)
    again = mean_test(scores, np.hstack([control, np.full((8, 1), 3e-9), 2 * control]))
    assert once.dof == again.dof == (1, 6)
    assert again.p_value == pytest.approx(once.p_value)
    assert mean_test(scores, np.zeros((8, 2))).dof == (1, 7)


def test_the_detectable_gap_is_found_as_often_as_it_says():
    rng = np.random.default_rng(2)
    seeds, each = 8, np.array([[1.0, 0.8], [0.8, 1.0]])
    known = dataclasses.replace(mean_test(rng.normal(size=(seeds, 2))), covariance=each / seeds)
    size = known.detectable(np.ones(2), LEVEL)
    draws = size + rng.multivariate_normal(np.zeros(2), each, size=(DRAWS, seeds))
    power = np.mean([mean_test(scores).p_value < LEVEL for scores in draws])
    assert abs(power - POWER) < 4 * np.sqrt(POWER * (1 - POWER) / DRAWS)


@pytest.mark.parametrize("seeds", [4, 16])
def test_shares_of_seeds_that_move_together_raise_no_alarm(seeds):
    """A mode that the weights of a seed share, ten times the variance of counting: Pearson on pooled counts fails."""
    rng = np.random.default_rng(3)
    bins, dim = 30, 2000
    expected = np.full(bins, 1 / bins)
    mode = np.sin(2 * np.pi * (np.arange(bins) + 0.5) / bins)
    p, pearson = [], []
    for _ in range(600):
        shift = 0.8 * rng.normal(size=(seeds, 1)) * mode * np.sqrt(expected / dim)
        shares = rng.multinomial(dim, expected + shift) / dim
        p.append(shares_test(shares, expected).p_value)
        pearson.append(stats.chisquare(dim * shares.sum(axis=0), seeds * dim * expected).pvalue)
    assert np.mean(np.array(p) < 0.05) < stats.binom.ppf(0.999, 600, 0.05) / 600
    assert np.mean(np.array(p) < 0.05) > 0.01
    assert np.mean(np.array(pearson) < 0.05) > 0.15


def test_wrong_shares_are_found():
    rng = np.random.default_rng(4)
    expected = np.full(30, 1 / 30)
    wrong = expected * (1 + 0.2 * np.cos(np.pi * np.arange(30) / 15))
    assert shares_test(rng.multinomial(3000, wrong, size=4) / 3000, expected).p_value < 1e-3


def test_nothing_passes_on_nan():
    scores = np.full((4, 1), np.nan)
    assert np.isnan(mean_test(scores).p_value)
    assert np.isnan(least_p([0.3, np.nan]))
    curve = Part("curve", 0.9)
    assert single_times(np.array([0.0, np.nan]), 4).p_value is None
    for bad in (Part("plateaus", np.nan), Part("histogram", np.nan)):
        judged = judge([curve, bad], Part("single times", 1.0), 0.1)
        assert judged.agreement == "undecided"
        assert "not a number" in judged.reason
    assert judge([curve], Part("single times", 1.0), np.nan).agreement == "undecided"
    assert judge([Part("curve", np.nan)], Part("single times", np.nan), None).p_value is None


def test_one_level_for_all_parts():
    """Independent parts of a right theory: different in at most LEVEL of the verdicts, and not much less often."""
    rng = np.random.default_rng(5)
    draws = rng.uniform(size=(40_000, 4))
    alarms = 0
    for row in draws[np.min(draws, axis=1) < 2 * LEVEL]:
        parts = [
            Part(name, float(p)) for name, p in zip(("curve", "plateaus", "histogram"), row, strict=False)
        ]
        alarms += judge(parts, Part("single times", float(row[3])), 0.1).agreement == "differ"
    assert 0.8 * LEVEL < alarms / len(draws) < 1.1 * LEVEL


def test_the_part_that_differs_is_named():
    judged = judge([Part("curve", 0.5), Part("histogram", 1e-9)], Part("single times", 1.0), 0.1)
    assert (judged.agreement, judged.differing) == ("differ", ("histogram",))
    judged = judge([Part("curve", 0.5)], Part("single times", 1e-9), 0.1)
    assert (judged.agreement, judged.differing) == ("differ", ("single times",))


def test_a_test_that_would_see_nothing_agrees_with_nothing():
    judged = judge([Part("curve", 0.5)], Part("single times", 1.0), 3.0)
    assert judged.agreement == "undecided"
    assert "twice as large" in judged.reason
