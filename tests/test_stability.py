"""The spectrum of the linearized limit against dense Jacobians, solved curves and closed forms."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import TWO_BIT, reference, solved

from stedyn import SGD, Problem, Quantizer, Run, Teacher, fixed_point, solve
from stedyn.inputs.moments import input_moments
from stedyn.limit.laws.grid import GridFlow
from stedyn.limit.limit import derive
from stedyn.limit.modes import VISIBLE
from stedyn.limit.stability import Spectrum, spectrum
from stedyn.quantizers.quantizer import as_arrays
from stedyn.rules import DeterministicRounding

#: The teacher on an inner level: nothing drives the weights there.
ON_LEVEL = Problem(noise_std=0.1, rule=SGD(0.1), weights=Quantizer(3, 1.5, kind="mid-tread"))


def dense_eigenvalue(problem, error, cells):
    """Leading eigenvalue of the Jacobian of the grid law, by automatic differentiation, on the mesh of a solve."""
    limit = eqx.filter_jit(derive)(as_arrays(problem), 2)
    law = eqx.filter_jit(GridFlow)(limit, cells, 20.0)
    up, down = (np.asarray(x) for x in law.rates(limit.order(error), 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.cumsum(np.nan_to_num(np.log(up) - np.log(down), nan=-700, posinf=700, neginf=-700), axis=0)
    log = np.concatenate([np.zeros((1, log.shape[1])), log])
    mass = np.exp(log - log.max(axis=0))
    mass /= mass.sum(axis=0)
    assert float(law.error(jnp.asarray(mass))) == pytest.approx(error, rel=1e-2)
    jacobian = jax.jacfwd(lambda m: law(1.0, m.reshape(mass.shape)).reshape(-1))(
        jnp.asarray(mass.reshape(-1))
    )
    held = mass.reshape(-1) > 1e-17
    root = np.sqrt(mass.reshape(-1)[held])
    values, vectors = np.linalg.eig(np.asarray(jacobian)[np.ix_(held, held)] / root[:, None] * root)
    weights = np.asarray(law.error_weights)
    weights = (weights - np.sum(weights * mass, axis=0)).reshape(-1)[held] * root
    seen = np.abs(weights @ vectors) / (np.linalg.norm(weights) * np.linalg.norm(vectors, axis=0))
    moving = (np.abs(values) > 1e-9) & (seen > 5 * VISIBLE)
    return max(values[moving], key=lambda value: value.real)


@pytest.mark.parametrize(
    ("problem", "cells"),
    [
        (reference("R1"), 60),
        pytest.param(reference("R2"), 60, marks=pytest.mark.slow),
        pytest.param(ON_LEVEL, 200, marks=pytest.mark.slow),
    ],
    ids=["R1", "R2", "on a level"],
)
def test_relaxation_times_are_those_of_the_grid_laws_jacobian(problem, cells):
    found = fixed_point(problem)
    expected = dense_eigenvalue(problem, found.error, cells)
    assert found.relaxation_time == pytest.approx(-1 / expected.real, rel=0.02)
    assert found.stable
    assert not found.oscillates
    assert found.period is None


def late_time(solution, error, start, stop):
    """Time in which the distance to a fixed point falls by a factor e, between two saved times."""
    gap = np.abs(np.interp([start, stop], solution.tau, solution.error) - error)
    return (stop - start) / np.log(gap[0] / gap[1])


def test_the_end_of_solved_curves_decays_with_the_relaxation_time():
    found = fixed_point(reference("R1"))
    assert late_time(solved("R1"), found.error, 60, 90) == pytest.approx(found.relaxation_time, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "start", "stop", "rel"),
    [
        (dataclasses.replace(ON_LEVEL, run=Run(1000.0, 11)), 400, 1000, 0.03),
        (dataclasses.replace(reference("R4"), run=Run(30.0, 11)), 18, 30, 0.04),
        (Problem(noise_std=0.3, rule=SGD(0.4), latent_clip=1.2, run=Run(20.0, 11)), 16, 20, 0.02),
    ],
    ids=["on a level", "R4", "clip"],
)
def test_the_end_of_more_curves(problem, start, stop, rel):
    found = fixed_point(problem)
    solution = solve(problem, law="grid", tol=2e-3)
    assert late_time(solution, found.error, start, stop) == pytest.approx(found.relaxation_time, rel=rel)


def test_the_relaxation_time_of_unquantized_weights():
    """``d e/d tau = -lr k2 (2 - lr k2) (e - e*)``."""
    lr, k2 = 0.4, float(input_moments(TWO_BIT).k2)
    found = fixed_point(Problem(noise_std=0.3, inputs=TWO_BIT, rule=SGD(lr)))
    assert found.relaxation_time == pytest.approx(1 / (lr * k2 * (2 - lr * k2)), rel=1e-9)


def test_a_flat_mode_on_a_level():
    """Even densities in a cell of width W without drift: ``D (2 pi / W)^2 / 2``, the odd ones do not show."""
    found = fixed_point(ON_LEVEL)
    D = 0.01 * (0.01 + found.error)
    assert found.relaxation_time == pytest.approx(2 / (D * (2 * np.pi / 0.5) ** 2), rel=0.02)
    assert found.slope == pytest.approx(slope_by_differences(ON_LEVEL, found.error), rel=1e-4)


def slope_by_differences(problem, error, h=1e-3):
    """``d error/dV`` from the equation itself: what a change of the noise does to the error."""
    from stedyn.limit.stationary import stationary_error

    limit = eqx.filter_jit(derive)(as_arrays(problem), 2)
    V = float(limit.noise_var) + error
    low, high = (float(stationary_error(limit, V * (1 + k * h))) for k in (-1, 1))
    return (high - low) / (2 * h * V)


@pytest.mark.parametrize("teacher", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["mid-tread", "twos-complement"])
def test_every_slope_on_a_level_is_finite(teacher, kind):
    weights = Quantizer(3, 1.5, kind=kind)
    if kind == "twos-complement":
        teacher = float(weights.levels[5 if teacher == 0.5 else 6])
    found = fixed_point(dataclasses.replace(ON_LEVEL, teacher=Teacher.constant(teacher), weights=weights))
    assert 0 < found.slope < 1
    assert found.stable
    assert found.relaxation_time > 0


def test_a_teacher_on_the_outermost_level_has_no_relaxation_time():
    found = fixed_point(reference("R7"))
    assert found.relaxation_time is None
    assert "1/sqrt(tau)" in found.status


def test_weights_that_leave_do_so_at_the_rate_of_their_drift():
    """``v^2 / (2 D)``, ``v = lr (c - R)``."""
    problem = Problem(Teacher.constant(1.6), noise_std=0.1, rule=SGD(0.1), weights=Quantizer(3, 1.5))
    found = fixed_point(problem)
    D = 0.01 * (0.01 + found.error)
    assert found.relaxation_time == pytest.approx(2 * D / 0.01**2, rel=1e-9)


@pytest.mark.slow
def test_a_rounding_rule_never_gets_to_its_fixed_point():
    problem = Problem(noise_std=0.1, rule=DeterministicRounding(0.2, delta=1.5), run=Run(40.0, 9))
    found = fixed_point(problem)
    assert found.stable
    assert found.relaxation_time > 1e12
    assert "At the horizon" not in found.status
    ended = found.beside(solve(problem))
    assert ended.horizon == pytest.approx((40.0, 0.309), rel=2e-2)
    assert "relaxation takes tau = 4" in ended.status
    assert "At the horizon tau = 40 the curve is not there but at 0.30" in ended.status


def test_where_a_rounding_rule_stops_without_noise():
    """Its coefficients underflow before the error vanishes; no fixed point of error rho is made of that."""
    found = fixed_point(Problem(rule=DeterministicRounding(0.2, delta=1.5)))
    assert 0 < found.error < 1e-2
    assert found.relaxation_time is None
    assert "no weight moves" in found.status


@pytest.mark.slow
def test_a_gaussian_teacher_does_not_depend_on_its_number_of_classes():
    problem = Problem(Teacher.gaussian(1.0), noise_std=0.1, rule=SGD(0.1), weights=Quantizer(2, 1.494))
    few, many = (fixed_point(problem, classes=n).relaxation_time for n in (256, 1024))
    assert few == pytest.approx(many, rel=0.2)


def test_numbers_are_finite_or_none():
    for problem in (
        ON_LEVEL,
        reference("R7"),
        Problem(weights=Quantizer(3, 1.5, kind="mid-tread"), rule=SGD(0.1)),
    ):
        record = fixed_point(problem).to_dict()
        flat = [x for x in [*record.values(), *record["searched"].values()] if isinstance(x, float)]
        assert np.all(np.isfinite(flat))
    assert record["relaxation_time"] is None
    assert "without noise nothing moves" in record["status"]


def test_a_complex_eigenvalue_is_an_oscillation(monkeypatch):
    monkeypatch.setattr("stedyn.limit.fixed_points.spectrum", lambda *_: Spectrum(complex(-0.5, 2.0)))
    found = fixed_point(Problem(noise_std=0.3))
    assert (found.stable, found.relaxation_time, found.oscillates) == (True, 2.0, True)
    assert found.period == pytest.approx(np.pi)
    assert "period 3.14" in str(found)


def test_an_unstable_root_has_a_positive_eigenvalue():
    from test_fixed_points import bistable

    problem = bistable(1.6)
    found = fixed_point(problem)
    limit = eqx.filter_jit(derive)(as_arrays(problem), 2)
    at = [spectrum(limit, limit, 0.01 + error).leading for error in (*found.others, found.error)]
    assert [value.real < 0 for value in at] == [True, False, True]
