"""Plateaus of known curves, with and without noise, of solutions, and their closed forms for a small lr."""

import dataclasses
import functools

import numpy as np
import pytest
from scipy.signal import find_peaks
from scipy.stats import norm

from stedyn import (
    SGD,
    Problem,
    Quantizer,
    Run,
    Start,
    Teacher,
    find_plateaus,
    fixed_point,
    small_lr_stairs,
    solve,
)
from stedyn.curves.dense import PIECES, Steps, between, extrapolated, smooth_sections
from stedyn.curves.plateaus import simulated_times
from stedyn.curves.slopes import prominent, sinking
from stedyn.rules import Adam, Sign, Step

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
    # a logistic step has done a tenth at -ln 9, half at 0 and nine tenths at ln 9
    late = np.log(9)
    assert (first.start, first.escape) == (0.0, pytest.approx(30, abs=0.05))
    assert first.end == pytest.approx(30 - late, abs=0.05)
    assert (first.height, first.next_height) == (pytest.approx(0.9, rel=2e-3), pytest.approx(0.4, rel=2e-3))
    assert second.start == pytest.approx(30 + late, abs=0.05)
    assert second.end == pytest.approx(70 - late, abs=0.05)
    assert second.escape == pytest.approx(70, abs=0.05)
    assert second.next_height == pytest.approx(0.1, rel=2e-3)
    assert first.length == first.end - first.start
    assert not first.open


def test_a_decay_before_a_plateau_is_the_drop_before_it():
    (plateau,) = find_plateaus(TAU, 0.1 + 0.4 * np.exp(-TAU / 4) + 0.3 / (1 + np.exp(TAU - 60)))
    assert plateau.start == pytest.approx(4 * np.log(10), abs=0.1)
    assert plateau.end == pytest.approx(60 - np.log(9), abs=0.1)


@pytest.mark.parametrize("horizon", [78, 90])
def test_the_horizon_only_cuts(horizon):
    whole, cut = (
        find_plateaus(TAU, stairs(TAU)),
        find_plateaus(TAU[: 2 * horizon + 1], stairs(TAU[: 2 * horizon + 1])),
    )
    for one, other in zip(whole, cut, strict=True):
        assert [*one.to_dict().values()] == pytest.approx([*other.to_dict().values()], abs=0.05, rel=2e-3)


@pytest.mark.parametrize(
    ("horizon", "floor", "state"),
    [
        (55, 0.1, "still flat"),  # on the second stair
        (55, 0.39, None),  # 0.4 is where it ends
        (55, None, None),  # nothing is known
        (20, 0.1, "still flat"),  # on the first stair
        (68, 0.1, "falling"),
        (68, None, None),  # not a drop yet
        (70, None, "falling"),
        (31, 0.1, "falling"),  # half of the first drop
        (100, 0.1, None),  # on the floor
        (100, 0.05, "still flat"),
    ],
)
def test_what_is_not_over_is_open(horizon, floor, state):
    tau = TAU[: 2 * horizon + 1]
    found = find_plateaus(tau, stairs(tau), floor=floor)
    assert all(not plateau.open for plateau in found[:-1])
    assert [plateau.open for plateau in found[-1:]] == [state is not None]
    if state is not None:
        last = found[-1]
        assert (last.end, last.length, last.next_height, last.escape) == (None,) * 4
        assert last.height == pytest.approx(stairs(last.start + 5), rel=0.02)
        assert f"{state} at the horizon" in str(last)
        assert simulated_times(last, None, tau, stairs(tau), stairs(tau)) is None


def test_a_pure_decay_is_never_open():
    assert find_plateaus(TAU, np.exp(-0.01 * TAU), floor=0.0) == []
    assert find_plateaus(TAU[:50], np.exp(-0.01 * TAU[:50]), floor=0.0) == []


def test_prominent_peaks_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for n in range(300):
        height = rng.normal(size=n % 60 + 1) if n % 3 else rng.integers(0, 4, size=n % 60 + 1) * 1.0
        height = np.cumsum(height) if n % 2 else height
        ends = np.full(1, np.min(height) - 10)  # scipy's peaks are inside
        expected = find_peaks(np.concatenate([ends, height, ends]), prominence=0.7)[0] - 1
        assert prominent(height, 0.7) == list(expected)


def smooth(tau, scale=1.0):
    return Steps(tau, scale * (np.exp(-0.5 * tau) + 0.2 / (1 + np.exp(tau - 10))))


def test_between_the_steps_the_curve_is_cubic():
    gaps = []
    for count in (31, 61):
        tau, error = between(smooth(np.linspace(0, 15, count)))
        assert tau.size == PIECES * (count - 1) + 1
        gaps.append(np.max(np.abs(error - smooth(tau).error)))
    assert gaps[1] < gaps[0] / 10  # of fourth order
    fine, coarse = smooth(np.linspace(0, 15, 61)), smooth(np.linspace(0, 15, 47), 1.03)
    np.testing.assert_allclose(extrapolated(fine, coarse).error, smooth(fine.tau, 0.99).error, rtol=2e-4)
    # a sudden fall makes no dip, as the spline would have
    wild = Steps(np.arange(5.0), np.array([1.0, 0.99, 0.98, 0.1, 0.09]))
    assert np.all(np.diff(between(wild)[1]) <= 1e-15)


def test_errors_within_a_step_are_part_of_the_curve():
    tau = np.array([0.0, 5.0, 15.0])
    ends = np.append(tau[0], tau)
    at = ends[:-1, None] + np.diff(ends)[:, None] * np.arange(1, 5) / 4
    steps = Steps(tau, smooth(at).error).within(15.0)
    np.testing.assert_allclose(steps.tau, [0.0, 1.25, 2.5, 3.75, 5.0, 7.5, 10.0, 12.5, 15.0])
    np.testing.assert_allclose(steps.error, smooth(steps.tau).error)


@pytest.mark.parametrize("two_meshes", [False, True])
def test_a_kink_between_two_sections_stays_one(two_meshes):
    def kinked(tau, scale):
        late = np.maximum(tau - 1, 0.0)
        return Steps(tau, scale * (1 + late**2 + 3 * late))

    def steps(count, scale):
        return kinked(
            np.concatenate([np.linspace(0, 1, count)[:-1], np.linspace(1 - 1e-14, 3, count)]), scale
        )

    made = [steps(5, 1.0), steps(4, 1.03)] if two_meshes else [steps(5, 0.99)]
    tau, error = between(*smooth_sections(made, 1, 3.0, np.array([1.0, 2.9, 7.0])))
    np.testing.assert_allclose(error, kinked(tau, 0.99).error, rtol=1e-5)


def test_steps_after_the_horizon_and_of_no_length_are_left_out():
    tau = np.array([0.0, 1.0, 1.0 + 1e-15, 2.0, 3.0, np.inf])
    assert list(Steps(tau, tau).within(2.0).tau) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("problem", [
    Problem(noise_std=0.3, rule=SGD(0.5), run=Run(40.0)),
    Problem(weights=Quantizer(2, 1.5, rounding="stochastic"), rule=SGD(0.5), run=Run(50.0)),
    Problem(weights=Quantizer(1, 1.0), rule=Sign(0.1, schedule=Step(7.0, 0.3)), run=Run(12.0)),
])  # fmt: skip
def test_the_curve_between_saved_times_is_that_which_is_saved_there(problem):
    tau = np.unique([*np.linspace(0, problem.run.tau, 1001), *np.linspace(6.9, 7.1, 201)])
    solution = solve(dataclasses.replace(problem, run=Run(taus=tau)))
    error = np.interp(solution.tau, *solution.dense)
    np.testing.assert_allclose(error, solution.error, rtol=1e-4)


def three_bits(tau, points, range_=1.0, lr=0.02, noise_std=0.1, start_std=0.02):
    """Three plateaus of mid-tread weights, to a horizon of ``tau`` in units of ``1 / lr``."""
    weights = Quantizer(3, range_, kind="mid-tread")
    start = Start.gaussian(std=start_std)
    return Problem(start=start, noise_std=noise_std, weights=weights, rule=SGD(lr), run=Run(tau / lr, points))


ONE_PASS = dict(law="grid", tol=1.0, cells=24)


CASES = [(3, 25), (3, 3), (1.2, 3)]


@functools.cache
def solved(tau, points):
    return solve(three_bits(tau, points, noise_std=0.3), **ONE_PASS)


def check_same(reference, saved, cut, rel):
    assert [plateau.open for plateau in reference] == [plateau.open for plateau in saved] == [False] * 3
    assert [plateau.open for plateau in cut] == [False, False, True]
    for one, same in [*zip(reference, saved, strict=True), *zip(reference[:2], cut[:2], strict=True)]:
        assert [*one.to_dict().values()] == pytest.approx([*same.to_dict().values()], rel=rel)
    assert (cut[2].start, cut[2].height) == pytest.approx((reference[2].start, reference[2].height), rel=rel)
    assert not cut[2].falling


@pytest.mark.slow
def test_plateaus_depend_on_neither_points_nor_horizon():
    """Steps of 1e-3 each: with less noise these add up to 6e-3 of the error where it has fallen a thousandfold."""
    check_same(*(solved(*case).plateaus() for case in CASES), rel=5e-3)


@pytest.mark.slow
def test_plateaus_differ_by_less_than_the_tolerance():
    check_same(*(solve(three_bits(*case), law="grid", tol=5e-3).plateaus() for case in CASES), rel=5e-3)


def test_an_open_plateau_is_told_with_what_follows():
    solution = solved(1.2, 3)
    *_, line, _ = str(solution).splitlines()
    third = small_lr_stairs(solution.problem)[2]
    assert third.error == pytest.approx((1 - 2 / 3) ** 2)
    assert (
        f"still flat at the horizon; for a small lr it would end at tau = {third.leave:.4g}; fixed point"
        in line
    )
    assert solution.to_dict()["plateaus"][2]["end"] is None
    assert solution.ending() == ""


@pytest.mark.slow
def test_a_floor_that_sinks_is_not_flat():
    """Once the last stair is left, half of the weights cross the last threshold less and less often."""
    solution = solve(three_bits(8, 3), law="grid")
    assert [plateau.open for plateau in solution.plateaus()] == [False] * 3
    assert solution.ending().startswith("sinking towards the fixed point 0 at the horizon, at error")
    assert "still flat" not in str(solution)
    assert "1/sqrt(tau)" in solution.ending()


@pytest.mark.parametrize("relaxation", [20.0, 1e6])
def test_a_decay_at_its_relaxation_sinks_and_a_plateau_does_not(relaxation):
    tau = np.linspace(0, 100, 401)
    assert sinking(tau, 0.1 + 0.3 * np.exp(-tau / relaxation), 0.1, relaxation)
    assert not sinking(TAU[:121], stairs(TAU[:121]), 0.1, 1.0)
    assert sinking(tau[1:], tau[1:] ** -0.5, 0.0)


def test_the_first_of_many_stairs_is_listed():
    """A tenth of the time of the whole fall was asked for, in which the stairs of many levels run together."""
    tau = np.linspace(0, 200, 4001)
    leave, width = np.array([3.6, 12, 22, 34, 51, 76, 126]), np.array([1.6, 4, 6, 7, 8, 8, 7])
    error = 1e-4 + np.exp(-0.56 * np.sum(norm.cdf((tau[:, None] - leave) / width), axis=1))
    first, last = find_plateaus(tau, error, 0.0)
    assert (first.start, first.height) == (0.0, pytest.approx(1, rel=0.01))
    assert first.escape == pytest.approx(3.6, abs=0.2)
    assert last.escape == pytest.approx(126, abs=2)
    assert last.height == pytest.approx(np.exp(-0.56 * 6), rel=0.02)


def test_a_curve_on_its_fixed_point_is_not_open():
    problem = three_bits(24, 3, range_=2.0, lr=0.3, noise_std=0.3, start_std=0.5)
    solution = solve(problem, **ONE_PASS)
    assert solution.plateaus() == []
    text = str(solution)
    assert "no plateau" in text
    assert (
        f"flat at the horizon at error {solution.final_error:.4g}; fixed point {fixed_point(problem).error:.4g}"
        in text
    )


@pytest.mark.slow
def test_the_length_is_smooth_where_a_level_meets_the_teacher():
    """By slopes alone d length / d range was 16.6, -3.2 and 4.0 around range 1."""
    ranges = np.array([0.86, 0.96, 1.06, 1.16])
    weights = [Quantizer(2, r, kind="mid-tread") for r in ranges]
    problem = three_bits(2.0, 3, lr=0.04)
    lengths = [
        solve(dataclasses.replace(problem, weights=w), law="grid").plateaus()[0].length for w in weights
    ]
    slopes = np.diff(lengths) / np.diff(ranges)
    assert np.all((slopes > 9) & (slopes < 11.5)), slopes


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
    assert find_plateaus(TAU, 1 + TAU) == find_plateaus(TAU, 1 + TAU, floor=0.1) == []
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


def test_the_speed_on_a_stair_is_that_at_its_residual():
    """Signs of gradients move at ``2 lr (1 - psi) / (pi sqrt(V))``, and ``sqrt(V) = 1 - psi``: stairs are equally long."""
    rule = Sign(0.01)
    problem = Problem(Teacher.constant(1.0), Start.constant(0.0), weights=Quantizer(3, 1.4), rule=rule)
    first, second, _ = small_lr_stairs(problem)
    for stair in (first, second):
        assert stair.leave - stair.enter == pytest.approx(0.4 * np.pi / 0.02, rel=1e-6)
    with pytest.raises(ValueError, match=r"^rule: expected one that remembers nothing"):
        small_lr_stairs(dataclasses.replace(problem, rule=Adam(0.01)))


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
