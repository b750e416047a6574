"""Theory against simulation: they meet, the gap shrinks with d, and a wrong theory is found out."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from systems import TWO_BIT, reference

from stedyn import SGD, Problem, Quantizer, Run, Start, Teacher, compare, simulate, solve
from stedyn.checks import InputError
from stedyn.comparison.gaps import deviations
from stedyn.comparison.predicted import detectable_gap, noise_of
from stedyn.comparison.verdict import LEVEL
from stedyn.rules import DeterministicRounding

SIZES = (250, 1000, 4000)
SEEDS = 16
#: The curves of a solution that all tests here have.
TIMED = ("tau", "error", "m", "q", "overlap", "norm", "effective_step", "saturated", "flip_rate", "occupancy")


@pytest.fixture(scope="module")
def by_size():
    problem = Problem(
        start=Start.gaussian(0.2, 0.7),
        weights=Quantizer(3, 1.5),
        inputs=TWO_BIT,
        rule=SGD(0.4),
        noise_std=0.3,
        run=Run(4.0, 9),
    )
    solution = solve(problem, law="grid", tol=1e-3, densities=[4.0])
    return solution, [simulate(problem, dim=d, seeds=SEEDS, seed=5) for d in SIZES]


def test_simulation_meets_the_limit_within_the_standard_error(by_size):
    solution, ensembles = by_size
    # sizes and times are tested together: nine correlated times count as at most nine tests
    bound = stats.t.ppf(1 - 0.005 / (9 * len(SIZES)), SEEDS - 1)
    for ensemble in ensembles:
        comparison = compare(solution, ensemble)
        claim = solution.error_estimate * comparison.theory
        assert np.all(np.abs(comparison.gap) < bound * ensemble.error_sem + claim)
        assert comparison.agreement == "agree"


def test_the_spread_over_seeds_falls_as_one_over_root_d(by_size):
    _, ensembles = by_size
    spread = np.array([ensemble.error_std[1:] for ensemble in ensembles])
    slopes = np.polyfit(np.log(SIZES), np.log(spread), 1)[0]
    # one slope of S seeds has this standard error; the times are correlated and gain nothing
    error = np.sqrt(1 / (2 * (SEEDS - 1))) / (np.std(np.log(SIZES)) * np.sqrt(len(SIZES)))
    assert abs(np.mean(slopes) + 0.5) < 3 * error


def test_weights_follow_the_predicted_density(by_size):
    solution, ensembles = by_size
    histogram = compare(solution, ensembles[-1]).histogram
    assert histogram.observed.sum() == pytest.approx(histogram.expected.sum()) == SEEDS * SIZES[-1]
    assert histogram.p_value > 0.001
    assert histogram.distance < 2 / np.sqrt(SEEDS * SIZES[-1]) + 2 * solution.error_estimate


def test_a_wrong_theory_is_found_out(by_size):
    solution, ensembles = by_size
    problem = solution.problem
    wrong = Problem(
        problem.teacher,
        problem.start,
        noise_std=0.3,
        weights=Quantizer(3, 1.4),
        inputs=TWO_BIT,
        rule=SGD(0.4),
        run=problem.run,
    )
    disguised = dataclasses.replace(solve(wrong, law="grid", tol=1e-3, densities=[4.0]), problem=problem)
    comparison = compare(disguised, ensembles[-1])
    assert comparison.agreement == "differ"
    assert {"curve", "histogram"} <= set(comparison.judgement.differing)
    assert comparison.verdict.startswith("Theory and simulation differ in curve, histogram and single times")
    assert comparison.histogram.p_value < 1e-6


def seeds_alone(solution):
    """As if the spread of one run were not derived."""
    return dataclasses.replace(solution, law="fluid")


def test_one_seed_decides_where_its_spread_is_predicted(by_size):
    solution, ensembles = by_size
    one = next(split(ensembles[1], 1))
    comparison = compare(solution, one)
    assert comparison.agreement == "agree"
    assert comparison.to_dict()["error_bars"] == "predicted"
    assert "Error bars are those that the limit predicts for d = 1000." in comparison.verdict
    spread = solve(solution.problem, dim=1000).error_std[-1]
    assert comparison.to_pandas()["error_sem"].iloc[-1] == pytest.approx(spread, rel=1e-3)
    far = dataclasses.replace(one, error=one.error * (1 + 2 * comparison.detectable_gap))
    assert compare(solution, far).agreement == "differ"


def test_one_seed_decides_nothing_elsewhere(by_size):
    solution, ensembles = by_size
    comparison = compare(seeds_alone(solution), next(split(ensembles[0], 1)))
    assert comparison.gap_in_standard_errors is None
    assert (comparison.agreement, comparison.p_value, comparison.detectable_gap) == ("undecided", None, None)
    assert "one seed has no spread" in comparison.verdict
    assert "Error bars are from the spread over the seeds (the law 'fluid' follows" in comparison.verdict
    assert "error_sem" not in comparison.to_pandas()  # it would be 0


def test_known_draws_are_taken_out(by_size):
    """Of the error at the start the drawn start explains most; the detectable gap is the smaller for it."""
    solution, ensembles = by_size
    spread = solve(solution.problem, dim=1000).spread
    at = np.arange(solution.tau.size)
    free, known = (noise_of(spread, solution, at, 1, drawn) for drawn in (0, 3))
    assert np.all(np.diag(known.covariance) <= np.diag(free.covariance) * (1 + 1e-9))
    assert known.covariance[0, 0] < 0.3 * free.covariance[0, 0]
    gap = ensembles[1].error - solution.error
    explained = deviations(solution, ensembles[1]) @ known.transfer.T
    assert np.var((gap - explained)[:, 0]) < 0.5 * np.var(gap[:, 0])
    assert detectable_gap(known, solution.error, 1) < detectable_gap(free, solution.error, 1)


def test_a_longer_simulation_is_refused(by_size):
    solution, _ = by_size
    ensemble = simulate(solution.problem, dim=100, seeds=2, taus=[0.0, 8.0])
    with pytest.raises(ValueError, match=r"^ensemble: expected a simulation that ends by tau = 4"):
        compare(solution, ensemble)


def test_record_of_a_comparison(by_size):
    solution, ensembles = by_size
    record = compare(solution, ensembles[0]).to_dict()
    assert (
        len(record["tau"])
        == len(record["error"])
        == len(record["error_mean"])
        == len(record["gap_in_standard_errors"])
    )
    assert {
        "plateaus_theory",
        "plateaus_simulation",
        "verdict",
        "histogram",
        "law",
        "device",
    } <= record.keys()
    assert record["agreement"] == "agree"
    assert LEVEL < record["p_value"] <= 1
    assert 0 < record["detectable_gap"] < 1
    assert record["parts"].keys() == {"curve", "histogram", "single times"}
    assert record["parts"]["curve"]["dof"] == (6,)
    assert compare(seeds_alone(solution), ensembles[0]).to_dict()["parts"]["curve"]["dof"] == (2, 12)


def test_four_saved_times_are_no_excuse(by_size):
    """A theory three times too slow was called equal: a stretch of the curve was empty, and its p not a number."""
    solution, ensembles = by_size
    few = {name: getattr(solution, name)[np.array([0, 2, 5, 8])] for name in TIMED}
    right = dataclasses.replace(solution, **few, densities=None)
    slow = np.interp(few["tau"] / 3, solution.tau, solution.error)
    ensemble = next(split(ensembles[0], 4))
    assert compare(right, ensemble).agreement == "agree"
    comparison = compare(dataclasses.replace(right, error=slow), ensemble)
    assert comparison.tau.size == 4
    assert comparison.agreement == "differ"
    assert comparison.p_value < LEVEL


def test_nan_passes_nowhere(by_size):
    solution, ensembles = by_size
    error = ensembles[0].error.copy()
    error[2, 5] = np.nan
    comparison = compare(solution, dataclasses.replace(ensembles[0], error=error))
    assert comparison.agreement == "undecided"
    assert "the errors are not finite at tau = 2.5" in comparison.verdict
    str(comparison)


def test_saved_times_may_differ(by_size):
    solution, ensembles = by_size
    thinned = dataclasses.replace(solution, **{name: getattr(solution, name)[::2] for name in TIMED})
    comparison = compare(thinned, ensembles[0])
    np.testing.assert_array_equal(comparison.tau, ensembles[0].tau[::2])
    np.testing.assert_allclose(comparison.gap, compare(solution, ensembles[0]).gap[::2])
    record = comparison.to_dict()
    assert {len(record[name]) for name in ("tau", "error", "m", "q", "error_mean", "error_std", "gap")} == {5}
    # between saved times nothing is known: a straight line would be taken for a wrong theory
    apart = dataclasses.replace(ensembles[0], tau=ensembles[0].tau - 0.25)
    assert compare(solution, apart).agreement == "undecided"
    assert "no common time" in compare(solution, apart).verdict
    assert str(compare(solution, apart))


def test_only_one_problem_is_compared(by_size):
    solution, ensembles = by_size
    problem = solution.problem
    same = dataclasses.replace(problem, noise_std=jnp.asarray(problem.noise_std), run=Run(4.0, 17))
    assert compare(solution, dataclasses.replace(ensembles[0], problem=same)).agreement == "agree"
    for change in (
        {"noise_std": 0.31},
        {"weights": Quantizer(3, 1.4)},
        {"weights": Quantizer(3, 1.5, rounding="stochastic")},
        {"start": Start.samples([0.1, 0.2])},
        {"ste": "clipped"},
        {"latent_clip": 2.0},
    ):
        other = dataclasses.replace(ensembles[0], problem=dataclasses.replace(problem, **change))
        with pytest.raises(
            InputError, match="simulation of the problem that was solved, " + next(iter(change))
        ):
            compare(solution, other)
    with pytest.raises(InputError, match=r"^ensemble: expected an Ensemble or a Measured, found 2;"):
        compare(solution, 2)


def test_a_wrong_density_alone_makes_a_difference(by_size):
    """The curve is right, and p = 4e-20 of the histogram stood above "agree"."""
    solution, ensembles = by_size
    mass = np.asarray(solution.densities.mass)
    shifted = dataclasses.replace(solution.densities, mass=np.roll(mass, 6, axis=-1))
    comparison = compare(dataclasses.replace(solution, densities=shifted), ensembles[1])
    assert comparison.agreement == "differ"
    assert comparison.judgement.differing == ("histogram",)


def test_the_verdict_says_what_it_could_have_seen(by_size):
    solution, ensembles = by_size
    comparison = compare(solution, ensembles[1])
    assert comparison.verdict.startswith("Theory and simulation agree (p = ")
    assert "level 0.01" in comparison.verdict
    assert "chi-squared on 6 degrees of freedom" in comparison.verdict
    assert f"gap of {comparison.detectable_gap:.2%} would have been found in 80%" in comparison.verdict
    # a right theory may have one gap of five standard errors among hundreds: the table says what is usual
    assert "the largest of so many, for a right theory and 16 seeds, is below" in str(comparison)
    seen = [compare(solution, ensemble).detectable_gap for ensemble in ensembles]
    assert seen[0] / seen[2] == pytest.approx(4, rel=1e-6)  # as 1/sqrt(d)
    by_seeds = [compare(seeds_alone(solution), ensemble).detectable_gap for ensemble in ensembles]
    assert 2 < by_seeds[0] / by_seeds[2] < 8  # and a factor of luck with 12 degrees of freedom


def test_a_gap_of_the_detectable_size_is_mostly_found(by_size):
    """The curve moved by twice the detectable gap differs; moved by a tenth of it, it does not."""
    solution, ensembles = by_size
    size = compare(solution, ensembles[1]).detectable_gap
    agreements = [
        compare(
            dataclasses.replace(solution, error=solution.error * (1 + part * size)), ensembles[1]
        ).agreement
        for part in (2.0, -2.0, 0.1)
    ]
    assert agreements == ["differ", "differ", "agree"]


@pytest.mark.slow
def test_escape_of_the_plateau_in_theory_and_simulation():
    problem = reference("R7", Run(60.0, 121))
    comparison = compare(solve(problem, law="grid"), simulate(problem, dim=3000, seeds=8, seed=1))
    (pair,) = comparison.pairs
    assert pair.theory.escape == pytest.approx(26.0, rel=0.01)
    assert pair.seeds == 8
    assert abs(pair.escape - pair.theory.escape) < stats.t.ppf(0.995, 7) * pair.escape_sem


def test_weights_that_never_moved_are_no_disagreement():
    """Before the first of them leaves its level all seeds have the error 1 exactly, the limit a little less."""
    problem = reference("R7", Run(8.0, 21))
    solution, ensemble = solve(problem, law="fluid"), simulate(problem, dim=200, seeds=3)
    assert np.all(ensemble.error == ensemble.error[0])
    near = dataclasses.replace(ensemble, error=ensemble.error + 1e-6)
    comparison = compare(solution, near)
    assert comparison.agreement == "agree"
    assert np.max(np.abs(comparison.gap_in_standard_errors)) < 3


def test_where_nothing_moves_the_lattice_of_the_start_is_no_disagreement():
    """All moves are rounded away: what the seeds drew says the whole error, but for the rounding of the start."""
    rule = DeterministicRounding(0.005, delta=0.175, momentum=0.5)
    problem = Problem(
        teacher=Teacher.rademacher(0.335), start=Start.constant(0.272), rule=rule, run=Run(5.0, 15)
    )
    solution, ensemble = solve(problem), simulate(problem, dim=1000, seeds=16)
    assert np.all(ensemble.error == ensemble.error[:, :1])
    assert compare(solution, ensemble).agreement == "agree"
    shifted = dataclasses.replace(solution, error=1.05 * solution.error)
    assert compare(shifted, ensemble).agreement == "differ"


def r1(lr, run=Run(5.0, 51)):  # noqa: B008
    return Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(lr), run=run)


def split(ensemble, seeds):
    """Ensembles of so many seeds each."""
    numbers = {name: value for name, value in vars(ensemble).items() if np.ndim(value) > 1}
    for first in range(0, ensemble.seeds - seeds + 1, seeds):
        part = {name: value[first : first + seeds] for name, value in numbers.items()}
        yield dataclasses.replace(ensemble, seeds=seeds, **part)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "predicted"), [(1, True), (4, True), (4, False)])
def test_verdicts_are_calibrated(seeds, predicted):
    """200 comparisons of a right theory at d = 200: p uniform, and few false alarms."""
    solution = solve(r1(0.1), law="grid", tol=1e-3, densities=[5.0], dim=200)
    solution = solution if predicted else seeds_alone(dataclasses.replace(solution, spread=None))
    ensemble = simulate(r1(0.1), dim=200, seeds=200 * seeds, seed=1000)
    found = [compare(solution, part) for part in split(ensemble, seeds)]
    assert len(found) == 200
    assert {c.spread is not None for c in found} == {predicted}
    curve, histogram = [c.judgement.parts[0].p_value for c in found], [c.histogram.p_value for c in found]
    for p in (curve, *([histogram] if seeds > 1 else []), [c.p_value for c in found]):
        assert stats.kstest(p, "uniform").pvalue > 0.01
    alarms = sum(c.agreement == "differ" for c in found)
    assert alarms <= stats.binom.ppf(0.999, 200, LEVEL)


@pytest.mark.slow
def test_a_learning_rate_that_is_3_percent_too_high_is_found():
    """R1 to tau = 20, d = 3000, 4 seeds: most of the time."""
    right, faster = (r1(lr, run=Run(20.0, 41)) for lr in (0.1, 0.103))
    wrong = dataclasses.replace(solve(faster, law="grid", tol=5e-4, dim=3000), problem=right)
    ensemble = simulate(right, dim=3000, seeds=80, seed=1000)
    found = [compare(wrong, part) for part in split(ensemble, 4)]
    assert sum(c.agreement == "differ" for c in found) > 0.75 * len(found)
