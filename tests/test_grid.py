"""The grid law: reference numbers, conservation, orders of convergence, walls and edges."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import REFERENCE, TWO_BIT, reference, solved

from stedyn import SGD, Problem, Quantizer, Run, Start, Teacher, fixed_point, solve
from stedyn.checks import in_float64
from stedyn.limit.integrate import ExtrapolatedEuler, integrate
from stedyn.limit.laws.grid import GridFlow
from stedyn.limit.laws.law import Accuracy
from stedyn.limit.laws.legs import legs_of
from stedyn.limit.least import least_of
from stedyn.limit.limit import derive
from stedyn.limit.refinement import grid_curves
from stedyn.limit.solution import MAX_STEPS
from stedyn.problem.phases import Phase
from stedyn.problem.populations import Covariance
from stedyn.quantizers.quantizer import as_arrays


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("R1", "R3", "R4", "R7") else ())
        for name in REFERENCE
    ],
)
def test_reference_numbers_within_half_a_percent(name):
    solution, table = solved(name), REFERENCE[name][1]
    error = np.interp(list(table), solution.tau, solution.error)
    assert np.all(np.isin(list(table), np.asarray(solution.tau).round(9)))
    rounding = 0.5e-4  # the table has four decimals
    wanted = np.array(list(table.values()))
    assert solution.status.ok
    assert solution.error_estimate < 5e-3
    assert np.all(np.abs(error - wanted) < 5e-3 * wanted + rounding)


@pytest.mark.slow
def test_escape_of_the_reference_plateau():
    (plateau,) = solved("R7").plateaus()
    assert plateau.escape == pytest.approx(26.0, rel=0.01)
    assert plateau.start == 0
    assert plateau.height == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
def test_the_claimed_error_covers_the_true_one():
    best = np.asarray(solved("R2").error)
    rough = solve(reference("R2"), law="grid", tol=0.5, cells=20)
    gap = np.max(np.abs(np.asarray(rough.error) / best - 1))
    assert gap < rough.error_estimate + solved("R2").error_estimate


@pytest.mark.slow
def test_refinement_goes_on_until_the_tolerance_is_met():
    solution = solve(reference("R1"), law="grid", tol=1e-2, cells=20)
    assert solution.error_estimate < 1e-2
    assert solution.statistics["passes"] > 1


def _flow(problem, cells=40, horizon=10.0):
    return eqx.filter_jit(lambda problem: GridFlow(derive(problem), cells, horizon))(as_arrays(problem))


@pytest.mark.parametrize(("ste", "clip"), [("identity", 1.2), ("clipped", None)])
def test_a_step_conserves_mass_and_keeps_it_positive(ste, clip):
    teacher = Teacher.rademacher(1.3)
    flow = _flow(Problem(teacher, weights=TWO_BIT, ste=ste, latent_clip=clip, noise_std=0.1, rule=SGD(0.3)))
    mass = flow.start()
    advance = eqx.filter_jit(flow.advance)
    for step in (1e-4, 0.1, 30.0):
        mass = advance(0.0, step, mass)
        assert float(jnp.min(mass)) >= 0
        np.testing.assert_allclose(jnp.sum(mass, axis=0), 1.0, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(eqx.filter_jit(flow)(0.0, mass), axis=0), 0.0, atol=1e-10)


def test_thresholds_and_range_are_cell_edges():
    flow = _flow(Problem(weights=TWO_BIT, ste="clipped"))
    for feature in [-2.0, -4 / 3, 0.0, 4 / 3, 2.0]:
        assert np.min(np.abs(np.asarray(flow.faces) - feature)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("ste", ["identity", "triangular"])
def test_second_order_in_the_cells(ste):
    problem = as_arrays(Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(0.3), noise_std=0.1, ste=ste))

    @eqx.filter_jit
    def error(problem, coarse, cells):
        flow = GridFlow(derive(problem), cells, 3.0, coarse)
        return integrate(flow, jnp.array([0.0, 3.0]), jnp.zeros(0), Accuracy(1e-5)).ys[0]["error"][-1]

    values = [
        error(problem, coarse, cells)
        for cells in (40, 160)
        for coarse in (jnp.asarray(True), jnp.asarray(False))
    ]
    steps = np.abs(np.diff(values))
    slope = np.polyfit(np.log([20, 40, 80]), np.log(steps), 1)[0]
    assert -2.5 < slope < -1.6


class _Decay(eqx.Module):
    """A law with one number: ``y' = -y^3``, linearised as ``-y_old^2 y``; ``y = (1 + 2 tau)^(-1/2)``."""

    def start(self):
        return jnp.ones(())

    def advance(self, tau, step, y):
        return y / (1 + step * y**2)

    def __call__(self, tau, y):
        return -(y**3)

    def watch(self, best, other):
        return best[None], jnp.abs(best - other)[None]

    def error(self, y):
        return y

    def observe(self, tau, y):
        return dict(y=y)


def one_step(solver, law, t0, t1, y):
    """The state after a step, and the polynomial within it."""
    t0, t1 = map(jnp.asarray, (t0, t1))
    after, _, dense, _, _ = solver.step(None, t0, t1, (y, None, jnp.zeros(solver.columns)), law, None, False)
    return after, solver.interpolation_cls(t0=t0, t1=t1, **dense)


@pytest.mark.parametrize("columns", [3, 4])
def test_order_in_the_step(columns):
    solver, law = ExtrapolatedEuler(columns), _Decay()
    counts = np.array([20, 40, 80, 160])
    step = jax.jit(lambda t0, t1, y: one_step(solver, law, t0, t1, y)[0][0])
    errors = []
    for count in counts:
        y = law.start()
        for k in range(count):
            y = step(3.0 * k / count, 3.0 * (k + 1) / count, y)
        errors.append(abs(float(y) - 7**-0.5))
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-columns, rel=0.05)


class _Cubic(_Decay):
    """``y' = 3 tau^2``, from 1."""

    def advance(self, tau, step, y):
        return y + step * 3 * (tau + step) ** 2


@pytest.mark.parametrize("columns", [3, 4, 8])
def test_a_polynomial_of_its_order_is_exact_within_a_step(columns):
    solver = ExtrapolatedEuler(columns)
    after, inside = one_step(solver, _Cubic(), 1.0, 1.5, jnp.asarray(2.0))
    assert inside.evaluate(inside.t0)[0] == 2.0
    np.testing.assert_allclose(after[2], 1 + (1 + 0.5 * np.arange(1, columns + 1) / columns) ** 3, rtol=1e-11)
    for time in (1.1, 1.3, 1.5):
        np.testing.assert_allclose(inside.evaluate(jnp.asarray(time))[0], 1 + time**3, rtol=1e-11)


def test_order_within_a_step():
    """What is saved between the ends of steps is as accurate as they are: the error of one step is of order 4."""
    solver, law, errors = ExtrapolatedEuler(3), _Decay(), []
    sizes = np.array([0.04, 0.02, 0.01])
    for size in sizes:
        _, inside = one_step(solver, law, 0.0, size, law.start())
        times = size * np.linspace(0.0, 1.0, 9)
        got = np.array([inside.evaluate(jnp.asarray(time))[0] for time in times])
        errors.append(np.max(np.abs(got - (1 + 2 * times) ** -0.5)))
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(4, rel=0.05)


@pytest.mark.slow
def test_the_controller_keeps_its_tolerance():
    taus = jnp.linspace(0.0, 3.0, 7)
    errors = []
    for rtol in (1e-2, 1e-4, 1e-6):
        got = integrate(_Decay(), taus, jnp.zeros(0), Accuracy(jnp.asarray(rtol))).ys[0]["y"]
        errors.append(float(jnp.max(jnp.abs(got * jnp.sqrt(1 + 2 * taus) - 1))))
    assert all(error < 10 * rtol for error, rtol in zip(errors, (1e-2, 1e-4, 1e-6), strict=True))
    assert errors[2] < 1e-2 * errors[0]


@pytest.mark.slow
def test_the_controller_is_content_below_the_least_error():
    def steps(least):
        taus = jnp.array([1.0, 1e6])
        return int(integrate(_Decay(), taus, jnp.zeros(0), Accuracy(1e-6, least)).stats["num_steps"])

    assert steps(1e-12) == steps(0.0) > 2 * steps(0.5)


def test_the_least_error_is_that_of_a_fine_part_of_a_step():
    steps = Problem(weights=Quantizer(2, 1.0), covariance=Covariance.power_law(0.5))
    power = float(steps.covariance.values().mean())
    assert float(least_of(steps)) == pytest.approx(1e-2 * power * (2 / 3) ** 2 / 12)
    finer = Phase(3.0, weights=Quantizer(4, 1.0))
    assert float(least_of(Problem(weights=Quantizer(2, 1.0), phases=(finer,)))) == pytest.approx(
        1e-2 * (2 / 15) ** 2 / 12
    )
    for problem in (Problem(noise_std=1.0), Problem(weights=Quantizer(16, 1.0), noise_std=1.0)):
        assert float(least_of(problem)) == pytest.approx(2e-9)
        assert float(least_of(problem, 1e-12)) == pytest.approx(2e-9)
    assert float(least_of(steps, 0.1)) == 0.1
    with pytest.raises(ValueError, match=r"^least_error: expected a positive number, found 0"):
        solve(steps, least_error=0)


@pytest.mark.slow
def test_an_error_that_vanishes_is_known_to_the_fineness_of_a_step():
    """Without noise, and with the teacher on a level: it falls to nothing, from the bulk of the start to its tails."""
    rows = [[15, 0.1454678], [20, 0.0459082], [25, 0.0051183], [30, 1.9299e-4]]
    fine = np.array(rows)  # with tol=1e-3, in 6 minutes
    problem = Problem(weights=Quantizer(2, 1.0), run=Run(taus=[*fine[:, 0], 100.0]))
    s, coarse = solve(problem), solve(problem, least_error=0.02)
    for one, least in ((s, float(least_of(problem))), (coarse, 0.02)):
        assert one.error_estimate <= 5e-3
        assert 0 <= one.final_error < 1e-9
        gap = np.abs(one.error[:-1] - fine[:, 1]) / np.maximum(fine[:, 1], least)
        assert np.max(gap) < one.error_estimate
        assert one.claim.endswith(f" of errors above {least:.1e}")
    assert 4 * coarse.statistics["cells"] < s.statistics["cells"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        dict(weights=TWO_BIT, noise_std=0.3, rule=SGD(0.5, weight_decay=0.3)),
        # the wall lies on the outermost levels
        dict(weights=Quantizer(2, 1.1, rounding="stochastic"), noise_std=0.3, rule=SGD(0.5), latent_clip=1.1),
        dict(weights=TWO_BIT, inputs=TWO_BIT, noise_std=0.2, rule=SGD(0.5)),
        dict(weights=TWO_BIT, noise_std=0.3, rule=SGD(0.5), latent_clip=0.9),
        dict(noise_std=0.3, rule=SGD(0.5), latent_clip=0.8),
    ],
)
def test_a_long_run_ends_at_the_fixed_point(fields):
    problem = Problem(**fields, run=Run(300.0, 3))
    solution = solve(problem, law="grid", tol=1e-3)
    assert solution.final_error == pytest.approx(fixed_point(problem).error, rel=1e-3)


def test_a_start_at_one_value_is_where_it_is():
    """Stochastic rounding of a weight ``w`` to 0 or ``R`` has mean ``w`` and square ``R w``."""
    weights = Quantizer(kind="ternary", range=1.1, rounding="stochastic")
    problem = Problem(Teacher.constant(-0.6), Start.constant(0.113), weights=weights, run=Run(0.5, 3))
    assert abs(solve(problem).error[0] - (0.6**2 + 2 * 0.6 * 0.113 + 1.1 * 0.113)) < 1e-7


@pytest.mark.slow
def test_start_on_one_value_and_start_from_samples():
    run, spread = Run(6.0, 7), 1e-4
    fields = dict(weights=TWO_BIT, rule=SGD(0.2), noise_std=0.1, run=run)
    exact = solve(Problem(start=Start.constant(0.4), **fields), law="grid").error
    sampled = solve(
        Problem(start=Start.samples(0.4 + spread * np.linspace(-2, 2, 101)), **fields), law="grid"
    ).error
    np.testing.assert_allclose(sampled, exact, rtol=2e-3)


@pytest.mark.slow
def test_gaussian_teacher_converges_in_its_classes():
    problem = Problem(
        Teacher.gaussian(1.0),
        weights=Quantizer(3, 1.5),
        inputs=TWO_BIT,
        rule=SGD(0.3),
        noise_std=0.1,
        run=Run(10.0, 6),
    )
    few = solve(problem, law="grid", tol=1e-2)
    many = solve(problem, law="grid", tol=1e-2, classes=256, cells=100)
    assert np.max(np.abs(np.asarray(few.error / many.error) - 1)) < few.error_estimate + many.error_estimate


def test_observables_belong_together():
    problem = reference("R1", Run(20.0, 5))
    solution = solve(problem, law="grid", densities=[0.0, 20.0])
    levels = np.asarray(problem.weights.levels)
    np.testing.assert_allclose(solve(problem, law="grid").occupancy, solution.occupancy, atol=1e-6)
    np.testing.assert_allclose(np.sum(solution.occupancy, axis=1), 1.0, atol=1e-9)
    np.testing.assert_allclose(solution.occupancy @ levels, solution.m, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(solution.occupancy @ levels**2, solution.q, rtol=2e-3)
    assert float(solution.norm[0]) == pytest.approx(1.0, rel=1e-3)
    assert float(solution.saturated[0]) == pytest.approx(0.0455, rel=1e-2)
    density = solution.densities
    centres = 0.5 * (density.edges[1:] + density.edges[:-1])
    np.testing.assert_allclose(density.total.sum(axis=1), 1.0, atol=1e-9)
    assert float(density.total[1] @ centres) == pytest.approx(float(solution.overlap[-1]), rel=2e-3)
    assert density.cdf(0, 0.0) == pytest.approx(0.5, abs=1e-9)
    assert density.cdf(0, 1.0) == pytest.approx(0.841345, abs=2e-3)


def test_a_pass_that_stops_is_told_by_its_status_alone():
    """Its curves end in infinities, whose differences are none; it was a RuntimeWarning of NumPy."""

    def stopped(*_):
        return (
            {"error": np.array([1.0, np.inf])},
            {},
            (None, None, np.ones(1), np.ones(1)),
            (),
            np.asarray(True),
        )

    problem = Problem(weights=Quantizer(2, 1.0), run=Run(1.0, 2)).timeless
    legs = legs_of(problem, np.array([0.0, 1.0]), np.zeros(0))
    curves, *_, code = in_float64(grid_curves)(problem, legs, 1e-2, 1e-9, one_pass=stopped)
    assert code == MAX_STEPS
    assert curves["error"][0] == 1
