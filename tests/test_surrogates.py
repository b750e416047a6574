"""Surrogate derivatives: the numbers the limit takes from ``h``, and the smooth one simulated against its limit."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from stedyn import SGD, InputError, Problem, Quantizer, Run, Start, Teacher, fixed_point, simulate, solve
from stedyn.design.predictor import need_fixed_point
from stedyn.limit.laws.grid import GridFlow
from stedyn.limit.limit import derive
from stedyn.quantizers.quantizer import as_arrays
from stedyn.quantizers.surrogates import SURROGATES
from stedyn.rules import RULES

SMOOTH = dict(ste="triangular", weights=Quantizer(2, 1.0), noise_std=0.5, start=Start.gaussian(0.2, 0.3))


def test_cell_averages_and_passages_are_integrals_of_h():
    faces = np.array([-1.5, -1.2, -0.7, -0.1, 0.3, 0.301, 1.1, 1.4999])
    for h in (kind(1.5) for kind in SURROGATES.values()):
        values = np.asarray(h.passage(jnp.asarray(faces[1:])))
        for k, (low, high) in enumerate(zip(faces[:-1], faces[1:], strict=True)):
            kink = [0.0] if low < 0 < high else None
            mean = integrate.quad(lambda w, h=h: float(h(w)) ** 2, low, high, points=kink)[0] / (high - low)
            assert float(h.square(jnp.asarray(faces))[k]) == pytest.approx(mean, rel=1e-9)
            if k:
                time = integrate.quad(lambda w, h=h: 1 / float(h(w)), low, high, points=kink)[0]
                assert values[k] - values[k - 1] == pytest.approx(time, rel=1e-7)


def test_triangular_is_approxsign_at_any_range():
    w = jnp.array([-3.0, -2.0, -1.0, 0.0, 0.5, 2.0, 2.5])
    np.testing.assert_allclose(SURROGATES["triangular"](2.0)(w), [0, 0, 1, 2, 1.5, 0, 0], atol=1e-15)


def _z(problem, dim, seeds, **options):
    """Gaps in standard errors (T,)."""
    gap = simulate(problem, dim=dim, seeds=seeds).error - np.asarray(solve(problem, **options).error)
    return gap.mean(axis=0) / stats.sem(gap)


def _numpy_errors(seeds=64, dim=400, tau=2):
    """Errors of `SMOOTH` with lr 0.5 at ``tau``, by NumPy alone."""
    draw = np.random.default_rng(7).standard_normal
    levels, w = np.array([-3, -1, 1, 3]) / 3, 0.2 + 0.3 * draw((seeds, dim))
    for _ in range(tau * dim):
        x, psi = draw((seeds, dim)), levels[np.digitize(w, [-2 / 3, 0, 2 / 3])]
        r = np.sum((1 - psi) * x, axis=1) / dim**0.5 + 0.5 * draw(seeds)
        w += np.clip(2 - 2 * np.abs(w), 0, None) * 0.5 * r[:, None] * x / dim**0.5
    return np.mean((1 - levels[np.digitize(w, [-2 / 3, 0, 2 / 3])]) ** 2, axis=1)


def test_steps_conserve_mass_and_meet_a_simulation():
    """Without the Ito term of ``h h'`` the error would be 48 % higher."""
    problem = as_arrays(Problem(**SMOOTH, rule=SGD(0.5)))
    flow = eqx.filter_jit(lambda problem: GridFlow(derive(problem, 2), 40, 2.0))(problem)
    advance, ends = eqx.filter_jit(flow.advance), []
    for count in (100, 200):
        mass = flow.start()
        for k in range(count):
            mass = advance(*map(jnp.asarray, (2.0 * k / count, 2.0 / count)), mass)
        assert float(jnp.min(mass)) >= 0
        np.testing.assert_allclose(jnp.sum(mass, axis=0), 1.0, atol=1e-12)
        ends.append(float(flow.error(mass)))
    errors = _numpy_errors()
    assert abs(np.mean(errors) - (2 * ends[1] - ends[0])) < 3.5 * stats.sem(errors)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1000, 2000])
@pytest.mark.parametrize(
    "fields",
    [
        dict(SMOOTH, rule=SGD(0.5)),
        dict(
            SMOOTH, rule=SGD(0.5), weights=Quantizer(2, 1.0, kind="mid-tread"), teacher=Teacher.constant(0.3)
        ),
        dict(ste="triangular", weights=Quantizer(2, 1.5), noise_std=0.3, rule=SGD(0.3)),
    ],
    ids=["noisy", "mid-tread", "wide start"],
)
def test_simulation_meets_the_limit(fields, dim):
    z = _z(Problem(**fields, run=Run(taus=[0.0, 1.0, 2.0, 4.0, 8.0, 16.0])), dim, 32, tol=2e-3)
    assert np.all(np.abs(z) < 3.5)
    assert np.mean(z**2) < 3  # mean 1; the times of a run are not independent


def test_what_the_smooth_one_has_no_limit_for():
    problem = Problem(**SMOOTH)
    walled = Problem(**SMOOTH, latent_clip=0.8)
    for law in ("fluid", "mixture"):
        with pytest.raises(
            InputError, match=rf"^law: expected 'grid' with weights\.ste = 'triangular', found '{law}'"
        ):
            solve(problem, law=law)
    with pytest.raises(InputError, match=r"^rule\.weight_decay: expected 0 with weights\.ste = 'triangular'"):
        solve(Problem(**SMOOTH, rule=SGD(0.1, weight_decay=0.1)))
    with pytest.raises(InputError, match=r"^weights\.ste: .* beyond whose range nothing moves"):
        fixed_point(problem)
    with pytest.raises(InputError, match=r"^weights\.ste: .* stationary density is not implemented"):
        fixed_point(walled)
    for one in (problem, walled):
        with pytest.raises(InputError, match="a fixed point"):
            need_fixed_point("objective", "final-error", one)
    with pytest.raises(
        InputError, match=r"^weights\.range: expected a positive number for ste = 'triangular'"
    ):
        Problem(ste="triangular")
    with pytest.raises(InputError, match=r"^weights\.ste: .* leave its lattice"):
        Problem(**SMOOTH, rule=RULES["stochastic-rounding"](0.1, delta=0.5))
