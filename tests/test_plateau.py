"""Plateaus of known curves, with and without noise, and their closed forms for a small lr."""

import numpy as np
import pytest
from scipy.stats import norm

from stedyn import SGD, Problem, Quantizer, Start, Teacher, find_plateaus, small_lr_stairs
from stedyn.plateau import simulated_times

TAU = np.linspace(0, 100, 201)


def stairs(tau):
    """From 0.9 through 0.4 at tau = 30 to 0.1 at tau = 70, each drop over a few units."""
    return 0.1 + 0.5 / (1 + np.exp(tau - 30)) + 0.3 / (1 + np.exp(tau - 70))


@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize("noise", [0.0, 0.003, 0.01, 0.03])
def test_a_decay_and_its_floor_have_none(floor, noise):
    rng = np.random.default_rng(3)
    error = (np.exp(-0.08 * TAU) + floor) * (1 + noise * rng.standard_normal(TAU.size))
    assert find_plateaus(TAU, error) == []


def test_a_staircase_is_recovered():
    first, second = find_plateaus(TAU, stairs(TAU))
    assert (first.start, first.escape) == (0.0, pytest.approx(30, abs=0.1))
    assert first.end == pytest.approx(26.6, abs=0.2)
    assert (first.height, first.next_height) == (pytest.approx(0.9, rel=2e-3), pytest.approx(0.4, rel=2e-3))
    assert second.escape == pytest.approx(70, abs=0.1)
    assert second.start == pytest.approx(34, abs=1)
    assert second.next_height == pytest.approx(0.1, rel=2e-3)
    assert first.length == first.end - first.start


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.03])
def test_a_noisy_staircase_is_recovered_within_its_noise(noise):
    escapes = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        found = find_plateaus(TAU, stairs(TAU) * (1 + noise * rng.standard_normal(TAU.size)))
        assert len(found) == 2
        escapes.append([p.escape for p in found])
    # the slope at the crossing is 0.125 and 0.075 of errors 0.65 and 0.25, sampled every 0.5
    slope = np.array([0.125 / 0.65, 0.075 / 0.25])
    margin = 4 * noise / slope / np.sqrt(8) + 0.02
    assert np.all(np.abs(np.mean(escapes, axis=0) - [30, 70]) < margin)


def test_a_rising_curve_and_a_short_one_have_none():
    assert find_plateaus(TAU, 1 + TAU) == []
    assert find_plateaus(TAU[:3], np.ones(3)) == []


@pytest.mark.parametrize(
    ("tau", "error"), [([0, 1], [1.0]), ([0, 0], [1.0, 1.0]), ([0, 1], [1.0, np.nan]), ([0, 1], [1.0, -1.0])]
)
def test_bad_curves_are_refused(tau, error):
    with pytest.raises(ValueError, match=r"expected .*, found .*; .*\.$"):
        find_plateaus(tau, error)


def test_mid_tread_escape_is_proportional_to_the_range():
    for scale in (0.8, 1.0, 1.6):
        problem = Problem(
            start=Start.constant(0.0), weights=Quantizer(3, scale, kind="mid-tread"), rule=SGD(0.02)
        )
        step = float(problem.weights.step)
        stair = small_lr_stairs(problem)[0]
        assert (stair.level, stair.enter) == (0.0, 0.0)
        assert stair.leave == pytest.approx(step / 2 / 0.02)


def test_mid_rise_staircase():
    problem = Problem(Teacher.constant(1.0), Start.constant(0.0), weights=Quantizer(3, 1.4), rule=SGD(0.01))
    found = small_lr_stairs(problem)
    assert [s.level for s in found] == pytest.approx([0.2, 0.6, 1.0])
    assert found[0].leave == pytest.approx(0.4 / (0.01 * 0.8))
    assert found[1].leave - found[1].enter == pytest.approx(0.4 / (0.01 * 0.4))
    assert found[2].leave == np.inf


def test_stairs_need_one_teacher_value():
    with pytest.raises(ValueError, match=r"^teacher: expected one value"):
        small_lr_stairs(Problem(Teacher.gaussian(1.0), weights=Quantizer(2, 1.0)))
    with pytest.raises(ValueError, match=r"^weights: expected a quantizer"):
        small_lr_stairs(Problem())


def test_a_simulated_plateau_is_timed_by_the_predicted_errors():
    tau = np.linspace(0, 60, 601)

    def curve(first, second):
        """Two smooth steps, at which the error falls to a third."""
        return np.exp(-np.log(3) * (norm.cdf(tau - first) + norm.cdf(tau - second)))

    predicted = curve(15, 40)
    first, second = find_plateaus(tau, predicted)
    later = curve(15.7, 41)
    assert simulated_times(first, None, tau, predicted, later) == pytest.approx(
        (first.length + 0.7, first.escape + 0.7), abs=5e-3
    )
    assert simulated_times(second, first, tau, predicted, later) == pytest.approx(
        (second.length + 0.3, second.escape + 1), abs=5e-3
    )
    noise = 1 + 0.02 * np.random.default_rng(1).normal(size=(400, tau.size))
    noisy = np.array([simulated_times(second, first, tau, predicted, later * x) for x in noise])
    gap = noisy.mean(axis=0) - [second.length + 0.3, second.escape + 1]
    assert np.all(np.abs(gap) < 4 * noisy.std(axis=0) / 20)
    assert simulated_times(second, first, tau, predicted, curve(15.7, 80)) is None
