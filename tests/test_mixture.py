"""The mixture law: exact where it says so, honest where it is not, one compilation for a sweep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from systems import TWO_BIT, reference, solved

from stedyn import SGD, Problem, Quantizer, Run, Start, Teacher, solve
from stedyn.inputs.moments import input_moments

TAUS = np.linspace(0.0, 30.0, 31)


@pytest.mark.parametrize("lr", [0.1, 0.7, 1.6])
def test_no_quantizers_closed_form(lr):
    """``error' = -(2 lr - lr^2) error + lr^2 sigma^2`` from 2."""
    sigma = 0.4
    rate, floor = 2 * lr - lr**2, lr * sigma**2 / (2 - lr)
    solution = solve(Problem(noise_std=sigma, rule=SGD(lr), run=Run(taus=TAUS)))
    assert solution.law == "mixture"
    np.testing.assert_allclose(solution.error, floor + (2 - floor) * np.exp(-rate * TAUS), rtol=1e-6)
    assert solution.error_estimate < 1e-6


LEVELS = Quantizer(kind="levels", levels=[-1.3, -0.2, 0.2, 1.3])


@pytest.mark.parametrize("inputs", [pytest.param(None, marks=pytest.mark.slow), TWO_BIT, LEVELS])
def test_two_variable_equations_through_scipy(inputs):
    teacher, start = Teacher.gaussian(0.8), Start.gaussian(0.3, 0.5)
    lr, sigma, decay = 0.4, 0.3, 0.2
    problem = Problem(
        teacher, start, noise_std=sigma, inputs=inputs, rule=SGD(lr, weight_decay=decay), run=Run(taus=TAUS)
    )
    moments = input_moments(problem.inputs)
    k1, k2, rho = float(moments.k1), float(moments.k2), 0.64

    def velocity(_, y):
        m, q = y
        error = rho - 2 * k1 * m + k2 * q
        return [
            lr * (k1 * rho - k2 * m) - lr * decay * m,
            2 * lr * (k1 * m - k2 * q) - 2 * lr * decay * q + lr**2 * k2 * (error + sigma**2),
        ]

    m, q = solve_ivp(velocity, (0, 30), [0.0, 0.34], t_eval=TAUS, rtol=1e-11, atol=1e-13).y
    solution = solve(problem)
    np.testing.assert_allclose(solution.m, m, atol=2e-6)
    np.testing.assert_allclose(solution.q, q, rtol=2e-6)
    np.testing.assert_allclose(solution.error, rho - 2 * k1 * m + k2 * q, rtol=2e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["R1", "R2", "R4", "R7"])
def test_within_the_error_it_claims(name):
    grid, mixture = solved(name), solve(reference(name), law="mixture")
    gap = np.max(np.abs(np.asarray(mixture.error / grid.error) - 1))
    assert gap < mixture.error_estimate + grid.error_estimate
    assert mixture.error_estimate > 5e-3
    assert "above the requested tolerance" in str(mixture.status)


@pytest.mark.parametrize("fields", [dict(ste="clipped"), dict(latent_clip=1.0)])
def test_edges_are_refused(fields):
    with pytest.raises(ValueError, match=r"^law: expected 'grid' or 'fluid'"):
        solve(Problem(weights=TWO_BIT, **fields), law="mixture")


def _final(x):
    lr, scale, sigma = x
    problem = Problem(
        weights=Quantizer(2, scale), inputs=TWO_BIT, noise_std=sigma, rule=SGD(lr), run=Run(12.0, 3)
    )
    return solve(problem, law="mixture").error[-1]


@pytest.mark.slow
def test_gradient_against_finite_differences():
    x, h = jnp.array([0.2, 1.7, 0.3]), 1e-4
    gradient = jax.jit(jax.grad(_final))(x)
    final = jax.jit(_final)
    steps = h * jnp.eye(3)
    differences = jnp.array([(final(x + step) - final(x - step)) / (2 * h) for step in steps])
    np.testing.assert_allclose(gradient, differences, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_a_sweep_equals_single_solves():
    row = [0.2, 1.7, 0.3]
    problem = Problem(
        weights=Quantizer(2, row[1]), inputs=TWO_BIT, noise_std=row[2], rule=SGD(row[0]), run=Run(12.0, 3)
    )
    swept = jax.jit(jax.vmap(_final))(jnp.array([row, row]))
    assert solve(problem, law="mixture").final_error == pytest.approx(float(swept[0]), rel=1e-5)


def test_a_sweep_compiles_once():
    traces = []

    @jax.jit
    @jax.vmap
    def sweep(x):
        traces.append(1)
        return _final(x)

    rng = np.random.default_rng(0)
    grid = jnp.asarray(rng.uniform([0.05, 1.0, 0.0], [0.5, 3.0, 0.5], (8, 3)))
    first, second = sweep(grid), sweep(grid + 0.01)
    assert len(traces) == 1
    assert not np.allclose(first, second)
