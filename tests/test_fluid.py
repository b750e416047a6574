"""The fluid law: exact paths, and what the other laws tend to as lr goes to 0."""

import numpy as np
import pytest
from systems import TWO_BIT

from stedyn import SGD, Problem, Quantizer, Run, Start, Teacher, small_lr_stairs, solve


def test_unquantized_weights_relax_exponentially():
    lr, taus = 0.01, np.linspace(0, 300, 7)
    problem = Problem(start=Start.gaussian(0.5, 0.7), rule=SGD(lr, weight_decay=0.5), run=Run(taus=taus))
    rate, target = lr * 1.5, 1 / 1.5
    decay = np.exp(-rate * taus)
    mean, var = target + (0.5 - target) * decay, 0.49 * decay**2
    solution = solve(problem, law="fluid")
    np.testing.assert_allclose(solution.m, mean, rtol=1e-9)
    np.testing.assert_allclose(solution.q, mean**2 + var, rtol=1e-4)
    assert solution.error_estimate is None


def test_one_weight_climbs_the_stairs_of_the_closed_form():
    problem = Problem(
        start=Start.constant(0.01),
        weights=Quantizer(3, 1.4),
        inputs=TWO_BIT,
        rule=SGD(0.01),
        run=Run(400.0, 401),
    )
    solution = solve(problem, law="fluid")
    *passed, held = small_lr_stairs(problem)
    assert len(passed) == 2
    for stair in passed:
        inside = (problem.taus > stair.enter) & (problem.taus < stair.leave)
        np.testing.assert_allclose(np.asarray(solution.m)[inside], stair.level, atol=1e-9)
    assert held.leave == np.inf


def test_a_held_weight_has_the_mean_that_stops_it():
    """Between levels 1/3 and 1 a teacher of 0.5 holds the weight on the threshold: ``E psi = w*``."""
    problem = Problem(
        Teacher.constant(0.5),
        Start.gaussian(0.0, 1.0),
        weights=Quantizer(2, 1.0),
        rule=SGD(0.01),
        run=Run(2e4, 3),
    )
    solution = solve(problem, law="fluid")
    assert float(solution.m[-1]) == pytest.approx(0.25, rel=1e-9)
    part = (0.5 - 1 / 3) / (2 / 3)
    assert float(solution.q[-1]) == pytest.approx((1 - part) / 9 + part, rel=1e-9)


def test_clipped_weights_stop_at_the_range():
    problem = Problem(
        Teacher.constant(3.0),
        Start.constant(0.2),
        weights=Quantizer(2, 1.0),
        ste="clipped",
        rule=SGD(0.01),
        run=Run(300.0, 4),
    )
    assert float(solve(problem, law="fluid").overlap[-1]) == pytest.approx(3.0, rel=1e-9)


@pytest.mark.slow
def test_the_gap_to_the_limit_shrinks_with_lr():
    gaps = []
    for lr in (0.08, 0.02):
        problem = Problem(
            Teacher.constant(0.8), weights=TWO_BIT, noise_std=0.3, rule=SGD(lr), run=Run(4.0 / lr, 9)
        )
        fluid, grid = solve(problem, law="fluid"), solve(problem, law="grid", tol=5e-2)
        gaps.append(np.max(np.abs(np.asarray(fluid.error - grid.error))))
    assert gaps[1] < 0.5 * gaps[0]


def test_no_density_and_no_claim():
    with pytest.raises(ValueError, match=r"^densities: expected none"):
        solve(Problem(weights=TWO_BIT), law="fluid", densities=[1.0])
    assert "no error estimate" in str(solve(Problem(weights=TWO_BIT, run=Run(1.0, 2)), law="fluid").status)
