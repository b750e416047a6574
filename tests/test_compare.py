"""Theory against simulation: they meet, the gap shrinks with d, and a wrong theory is found out."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from systems import TWO_BIT, reference

from stedyn import SGD, Problem, Quantizer, Run, Start, compare, simulate, solve

SIZES = (250, 1000, 4000)
SEEDS = 16


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
        assert "agree within the standard error" in comparison.verdict


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
    # seeds share the path of V: their own counts say how much that adds
    assert histogram.chi2 < stats.chi2.ppf(0.999, histogram.dof) + 10
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
    comparison = compare(solve(wrong, law="grid", tol=1e-3, densities=[4.0]), ensembles[-1])
    assert "differ beyond the standard error" in comparison.verdict
    assert comparison.histogram.p_value < 1e-6


def test_one_seed_decides_nothing(by_size):
    solution, _ = by_size
    comparison = compare(solution, simulate(solution.problem, dim=100, seeds=1))
    assert comparison.gap_in_standard_errors is None
    assert comparison.verdict.startswith("Undecided: one seed")


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
    assert compare(solution, near).verdict.startswith("Theory and simulation agree")
