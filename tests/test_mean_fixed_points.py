"""Fixed points of inputs with a mean: closed forms, long curves, the choice of a range; and a mean that is too slow."""

import dataclasses

import numpy as np
import pytest

from stedyn import (
    SGD,
    Covariance,
    InputError,
    InputLaw,
    Problem,
    Quantizer,
    Run,
    Start,
    Teacher,
    choose,
    compare,
    fixed_point,
    simulate,
    solve,
)
from stedyn.checks import Notice
from stedyn.limit.stationary import final_error
from stedyn.problem.means import slow_mean
from stedyn.rules import Shrinkage

R10 = Problem(
    Teacher.constant(0.7), Start.gaussian(0.65, 0.4), weights=Quantizer(2, 1.5), noise_std=0.1, rule=SGD(0.2),
    input_law=InputLaw.gaussian(1.0), run=Run(60.0, 61),
)  # fmt: skip


def test_the_mean_output_adds_the_variance_of_the_levels():
    """For single samples without weight decay ``Var z = E[phi]^2 E[Var psi]``, as of independent coordinates."""
    found = fixed_point(R10, classes=2)
    q = found.error - found.mean_mode - 0.49 + 2 * 0.7 * 0.7
    assert found.mean_mode == pytest.approx(q - 0.49, rel=1e-6)
    assert found.kappa == pytest.approx(2 * found.mean_mode / (found.error + 0.01), rel=1e-6)
    assert found.error == pytest.approx(0.3209, rel=3e-3)  # the end of its curve
    # unquantized weights: V (2 - lr) = 2 (sigma^2 + lr V / 2)
    assert found.unquantized_error == pytest.approx(0.2 * 0.01 / 0.8, rel=1e-8)


def test_unquantized_weights_relax_on_the_constraint():
    found = fixed_point(R10.unquantized(), classes=2)
    assert found.relaxation_time == pytest.approx(1.8 / (0.4 * 1.6), rel=1e-6)
    assert found.lr_ceiling == pytest.approx(1.0, rel=1e-6)  # 2 / E[phi^2]
    with pytest.raises(InputError, match="below its ceiling 1"):
        fixed_point(Problem(rule=SGD(1.1), noise_std=0.1, input_law=InputLaw.gaussian(1.0)), classes=2)
    with pytest.raises(InputError, match="levels around"):
        fixed_point(
            Problem(Teacher.constant(0.7), weights=Quantizer(2, 0.5), input_law=InputLaw.gaussian(1.0))
        )


CASES = {
    "R10": R10,
    "R11": Problem(
        Teacher.samples([-0.5, 0.5, 1.0]), Start.gaussian(0.3, 0.5), weights=Quantizer(2, 1.5), noise_std=0.1,
        inputs=Quantizer(2, 1.5, kind="unsigned"), rule=SGD(0.5), input_law=InputLaw.relu(), run=Run(250.0, 41),
    ),
    "batch": Problem(
        Teacher.gaussian(0.8), Start.gaussian(0.0, 0.5), weights=Quantizer(2, 1.5), noise_std=0.2,
        rule=SGD(0.2, batch=3), input_law=InputLaw.gaussian(0.6), run=Run(80.0, 41),
    ),
    "decay": Problem(
        Teacher.gaussian(0.8), Start.gaussian(0.0, 0.5), weights=Quantizer(2, 1.0, kind="twos-complement"),
        noise_std=0.2, rule=SGD(0.2, weight_decay=0.3), input_law=InputLaw.laplace(0.6, 0.5), run=Run(80.0, 41),
    ),
    "stochastic": Problem(
        Teacher.constant(0.8), Start.gaussian(0.5, 0.5), weights=Quantizer(2, 1.5, rounding="stochastic"),
        noise_std=0.2, rule=SGD(0.2), input_law=InputLaw.relu(0.2), run=Run(60.0, 41),
    ),
    "variances": Problem(
        Teacher.constant(0.8), Start.gaussian(0.0, 0.5), weights=Quantizer(2, 1.5), noise_std=0.2,
        rule=Shrinkage(0.4, q=0.7, noise_std=0.2), input_law=InputLaw.relu(), run=Run(60.0, 41),
        covariance=Covariance.power_law(0.4),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_long_curves_end_at_the_fixed_point(name):
    problem = CASES[name]
    found, curve = fixed_point(problem, classes=64), solve(problem, tol=0.02, throw=False)
    assert curve.final_error == pytest.approx(found.error, rel=0.01)
    assert curve.kappa[-1] == pytest.approx(found.kappa, rel=0.02)
    assert curve.mean_mode[-1] == pytest.approx(found.mean_mode, rel=0.02)


@pytest.mark.slow
def test_a_simulation_ends_at_the_fixed_point():
    taus = np.linspace(25, 40, 31)
    runs = simulate(R10, dim=2000, seeds=8, taus=taus).error.mean(axis=1)
    found = fixed_point(R10, classes=2)
    assert abs(runs.mean() - found.error) < 3.5 * runs.std(ddof=1) / 8**0.5 + 0.01 * found.error


@pytest.mark.slow
def test_the_best_range_with_a_mean():
    """By fixed points; ranges whose levels cannot meet the mean output of the teacher are out of the question."""
    best = choose(R10, bits=[2], points=12, baselines=False).choices[0]
    narrow = Problem(Teacher.constant(0.7), noise_std=0.1, rule=SGD(0.2), weights=Quantizer(2, 0.69),
                     input_law=InputLaw.gaussian(1.0))  # fmt: skip
    assert final_error(narrow) == np.inf
    assert best.value == pytest.approx(best.fixed_point)
    # just above 0.7 all weights stay on the outermost level; at 2.1, on the next, they move between levels
    assert 0.7 < best.range < 0.701
    inner = dataclasses.replace(R10, weights=Quantizer(2, 2.1))
    assert best.value < 0.1 * fixed_point(inner, classes=2).error


def test_a_mean_output_that_is_slow_is_told():
    assert slow_mean(0.2, 2000, 6.0) is None
    assert "1/(kappa d) = 1.25e+03 (kappa 4e-07, d = 2000)" in slow_mean(4e-7, 2000, 6.0)
    assert "does not relax" in slow_mean(0.0, 2000, 6.0)
    problem = Problem(
        noise_std=0.3, rule=SGD(0.3), input_law=InputLaw.gaussian(0.02), run=Run(taus=[0.0, 2.0])
    )
    with pytest.warns(Notice, match="relaxes over tau"):
        runs = simulate(problem, dim=200, seeds=2)
    solution = solve(problem)
    comparison = compare(solution, runs)
    assert "relaxes over tau = 1/(kappa d) = 41.7" in str(comparison)
    assert comparison.spread is None  # not derived with a mean: the bars are those of the seeds
    assert "E[phi]" in comparison.reason
    assert "limit of dimensions above 4.2e+05" in str(solution)
