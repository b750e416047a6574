"""Starts that were measured together with the teacher or the variances, and starts on the teacher."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from stedyn import SGD, Covariance, Problem, Quantizer, Run, Start, Teacher, simulate, solve
from stedyn.files.problems import problem_from_dict
from stedyn.files.writing import problem_to_dict
from stedyn.limit.limit import derive
from stedyn.simulation.observe import Observer

RNG = np.random.default_rng(3)
SIZE = 600
VARIANCE = np.exp(0.5 * RNG.normal(size=SIZE))
TEACHER = RNG.normal(size=SIZE) * VARIANCE**-0.25
NEAR = 0.9 * TEACHER + 0.3 * RNG.normal(size=SIZE) + 0.2 * np.log(VARIANCE)
THREE_BIT = Quantizer(3, 2.0)
RUN = Run(taus=[0.0, 1.0, 4.0])


def exact(problem, teacher, start, variance=None):
    """The error of the measured coordinates themselves."""
    return Observer(problem)(np.asarray(start), np.asarray(teacher), variance).error


def classes_error(problem, n, coarse=False):
    """The error of the classes at the start."""
    limit = eqx.filter_jit(derive)(problem, n, coarse)
    share, mean, var = limit.start.classes(64, coarse)
    weights = problem.weights
    psi = mean if weights.is_none else weights.round(mean)
    square = mean**2 + var if weights.is_none else psi**2
    return float(limit.error(jnp.sum(share * psi, 1), jnp.sum(share * square, 1)))


PAIRS = {
    "teacher": (dict(start=Start.samples(NEAR), teacher=Teacher.samples(TEACHER)), (0, 0, 2)),
    "variance": (dict(start=Start.samples(NEAR), covariance=Covariance.samples(VARIANCE)), (0, 1, 1)),
    "all": (
        dict(
            start=Start.samples(NEAR),
            teacher=Teacher.samples(TEACHER),
            covariance=Covariance.samples(VARIANCE),
        ),
        (0, 0, 0),
    ),
    "none": (dict(start=Start.samples(NEAR[1:]), teacher=Teacher.samples(TEACHER)), (0, 1, 2)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_measured_together_is_drawn_together(name):
    fields, together = PAIRS[name]
    problem = Problem(**fields)
    assert problem.together == together
    ensemble = simulate(problem, dim=97, seeds=1, taus=[0.0])
    start = np.searchsorted(np.sort(NEAR), ensemble.weights[0] - 1e-6)
    row = np.argsort(NEAR)[np.minimum(start, SIZE - 1)]
    if "teacher" in fields:
        same = np.isclose(TEACHER[row], ensemble.teacher[0], rtol=1e-5)
        assert same.all() if name != "none" else same.mean() < 0.1


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("name", ["teacher", "all"])
def test_a_linear_student_starts_at_the_error_of_the_pairs(name, coarse):
    problem = Problem(**PAIRS[name][0])
    variance = VARIANCE if name == "all" else None
    assert classes_error(problem, 32, coarse) == pytest.approx(
        exact(problem, TEACHER, NEAR, variance), rel=1e-9 if not (coarse and name == "all") else 0.3
    )


@pytest.mark.parametrize(("name", "rtol"), [("teacher", 0.01), ("all", 0.05), ("variance", 0.02)])
def test_classes_have_the_starts_of_their_coordinates(name, rtol):
    problem = Problem(**PAIRS[name][0], weights=THREE_BIT)
    if name == "variance":
        start, variance = np.asarray(NEAR), VARIANCE
        wanted = exact(problem, np.ones(SIZE), start, variance)
    else:
        wanted = exact(problem, TEACHER, NEAR, VARIANCE if name == "all" else None)
    assert classes_error(problem, 128) == pytest.approx(wanted, rel=rtol)


def test_pairs_by_value_of_the_teacher():
    """Atoms of the teacher are classes, each with its own starts, exactly."""
    teacher = np.repeat([-1.0, 0.5, 2.0], 30)
    start = teacher + 0.01 * np.arange(90)
    order = np.random.default_rng(0).permutation(90)
    problem = Problem(Teacher.samples(teacher[order]), Start.samples(start[order]), weights=THREE_BIT)
    share, mean, var = derive(problem, 8).start.classes(6)
    np.testing.assert_allclose(np.sum(share, 1), 1)
    np.testing.assert_allclose(np.sum(share * mean, 1), start.reshape(3, 30).mean(1))
    np.testing.assert_allclose(
        np.sum(share * (var + mean**2), 1), (start**2).reshape(3, 30).mean(1), rtol=1e-12
    )
    mass = derive(problem, 8).start.masses(jnp.array([-0.9, 0.5, 1.0, 2.7]))
    np.testing.assert_allclose(mass[:, :2] * 30, [[10, 20], [0, 0], [0, 0]], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["grid", "mixture"])
@pytest.mark.parametrize("name", ["teacher", "all"])
def test_predicted_and_simulated_pairs_meet(name, law):
    problem = Problem(**PAIRS[name][0], noise_std=0.1, weights=THREE_BIT, rule=SGD(0.2), run=RUN)
    predicted = solve(problem, law=law, tol=2e-2, throw=False).error
    ensemble = simulate(problem, dim=SIZE, seeds=24)
    spread = ensemble.error.std(0, ddof=1) / np.sqrt(24)
    np.testing.assert_allclose(predicted, ensemble.error_mean, atol=4 * spread.max(), rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["mixture", "grid"])
def test_a_linear_student_of_pairs_against_its_equation(law):
    """``d error / dtau = -2 lr error + lr^2 V`` from the error of the pairs."""
    problem = Problem(**PAIRS["teacher"][0], noise_std=0.1, rule=SGD(0.2), run=RUN)
    rate, source = 2 * 0.2 - 0.2**2, 0.2**2 * 0.01
    start = exact(problem, TEACHER, NEAR)
    wanted = source / rate + (start - source / rate) * np.exp(-rate * RUN.taus)
    linear = law == "mixture"  # a grid with few classes: each has cells of its own, and all are exact
    solution = solve(problem, law=law, tol=5e-3 if linear else 2e-2, classes=None if linear else 8)
    np.testing.assert_allclose(solution.error, wanted, rtol=1e-5 if linear else solution.error_estimate)


# ---- starts on the teacher


def test_a_linear_student_may_start_on_its_teacher():
    """``error = e (1 - exp(-rate tau))``: it grows from 0, and nothing diverges."""
    run = Run(taus=[0.0, 0.5, 2.0, 10.0])
    problem = Problem(start=Start.constant(1.0), noise_std=0.5, rule=SGD(0.5), run=run)
    solution = solve(problem)
    assert solution.status.ok
    wanted = 0.25 / 3 * (1 - np.exp(-0.75 * run.taus))
    np.testing.assert_allclose(solution.error, wanted, rtol=5e-3, atol=1e-6)


@pytest.mark.slow
def test_quantized_weights_may_start_on_their_teacher():
    run = Run(taus=[0.0, 1.0, 5.0])
    problem = Problem(
        start=Start.constant(1.0), noise_std=0.5, weights=Quantizer(2, 1.0), rule=SGD(0.5), run=run
    )
    solution = solve(problem)
    assert solution.status.ok
    assert solution.error_estimate < 5e-3
    assert solution.error[0] == 0
    ensemble = simulate(problem, dim=1000, seeds=6)
    np.testing.assert_allclose(
        solution.error[1:],
        ensemble.error_mean[1:],
        atol=4 * (ensemble.error.std(0, ddof=1) / np.sqrt(6)).max(),
    )


def test_growth_beyond_the_label_is_still_called_divergent():
    problem = Problem(start=Start.constant(1.0), noise_std=0.5, rule=SGD(2.5), run=Run(taus=[0.0, 1.0, 50.0]))
    solution = solve(problem, throw=False)
    assert "grow" in str(solution.status) or "diverge" in str(solution.status)
    assert solution.error.size < 3


def test_a_teacher_of_zero_has_a_limit():
    problem = Problem(Teacher.constant(0.0), noise_std=0.5, rule=SGD(0.5), run=Run(taus=[0.0, 2.0, 20.0]))
    wanted = 0.25 / 3 + (1 - 0.25 / 3) * np.exp(-0.75 * np.array([0.0, 2.0, 20.0]))
    np.testing.assert_allclose(solve(problem).error, wanted, rtol=1e-5)


@pytest.mark.slow
def test_a_start_around_the_teacher():
    """The first error is that of rounding; with linear weights the grid meets the closed form."""
    problem = Problem(
        Teacher.gaussian(0.8), Start.teacher(1.0, 0.1), weights=Quantizer(2, 1.5), run=Run(taus=[0.0, 0.1])
    )
    c, z = np.linspace(-6, 6, 4001) * 0.8, np.linspace(-6, 6, 401)
    psi = np.asarray(problem.weights.round(jnp.asarray(c[:, None] + 0.1 * z)))
    weight = np.exp(-((c / 0.8) ** 2) / 2)[:, None] * np.exp(-(z**2) / 2)
    rounding = np.sum(weight * (c[:, None] - psi) ** 2) / weight.sum()
    assert solve(problem).error[0] == pytest.approx(rounding, rel=5e-3)
    start = simulate(problem, dim=20_000, seeds=2, taus=[0.0]).error[:, 0]
    assert start == pytest.approx(rounding, rel=0.03)
    assert problem_from_dict(problem_to_dict(problem)).start == problem.start


@pytest.mark.slow
def test_a_start_around_the_teacher_with_linear_weights():
    problem = Problem(Teacher.rademacher(0.8), Start.teacher(0.9, 0.2), rule=SGD(0.2), noise_std=0.2, run=RUN)
    exact, grid = solve(problem), solve(problem, law="grid")
    assert exact.error[0] == pytest.approx(0.08**2 + 0.2**2)
    np.testing.assert_allclose(grid.error, exact.error, rtol=1e-3)
