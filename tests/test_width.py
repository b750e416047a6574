"""How far one run strays: reference numbers, a closed form, what is given, simulations."""

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from stedyn import load
from stedyn.checks import InputError
from stedyn.curves.plateaus import simulated_times
from stedyn.inputs.law import InputLaw
from stedyn.inputs.moments import input_moments
from stedyn.limit.bias import error_bias
from stedyn.limit.solver import solve
from stedyn.problem.populations import Covariance, Start, Teacher
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import (
    SGD,
    Adam,
    DeterministicRounding,
    Multinomial,
    Order,
    QuantizedGradient,
    Rule,
    Shrinkage,
    Sign,
    StochasticRounding,
)
from stedyn.rules.together import residuals
from stedyn.simulation import simulate


def r1(**changes):
    given = (
        dict(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1), run=Run(20.0, 5)) | changes
    )
    return Problem(**given)


def r2(**changes):
    return r1(**(dict(weights=Quantizer(3, 1.5), rule=SGD(0.3), noise_std=0.1) | changes))


def on_lattice(rule, **changes):
    return r1(**(dict(weights=None, inputs=None, noise_std=0.3, rule=rule) | changes))


class Halved(SGD):
    """Another move than that whose spread is known in closed form."""

    kind = "halved"

    def move(self, r, phi, u, tau):
        return 0.5 * super().move(r, phi, u, tau)

    response = Rule.response
    profile = Rule.profile


#: Standard deviations over 400 simulated runs, and how exact they are.
KNOWN = [(r1(), [1.36, 0.718, 0.264]), (r2(), [0.305, 0.0791, 0.0570])]
PLATEAU = Problem(
    weights=Quantizer(2, 1.0, kind="mid-tread"), start=Start.gaussian(std=0.02), rule=SGD(0.05), noise_std=0.1,
    run=Run(24.0, 121),
)  # fmt: skip


@pytest.mark.parametrize(("problem", "expected"), KNOWN)
def test_reference_numbers(problem, expected):
    std = solve(problem, dim=400).error_std
    assert 20 * std[[1, 2, 4]] == pytest.approx(expected, rel=3 / np.sqrt(800))


@pytest.mark.parametrize("rule", [SGD(0.5), SGD(0.1, momentum=0.8, batch=4)])
def test_the_unquantized_student_has_a_closed_form(rule):
    lr, noise_var, batch = 0.5, 0.25, rule.batch

    def slope(tau, state):
        e, variance = state
        V = e + noise_var
        drift = -2 * lr * e + lr**2 * V / batch
        moving = 4 * lr**2 * V * e + 2 * drift**2 - 4 * lr**2 * e**2
        return [drift, moving / batch - 2 * (2 * lr - lr**2 / batch) * variance]

    problem = Problem(rule=rule, noise_std=0.5, run=Run(5.0, 5))
    # (1 - w)^2 of w ~ N(0, 1) has the variance 6
    exact = solve_ivp(slope, (0, 5), [2.0, 6.0], t_eval=problem.taus, rtol=1e-10, atol=1e-12).y[1]
    solution, (one, two) = solve(problem, dim=100), (1e-4, 3e-4) if batch == 1 else (1.5e-3, 3e-3)
    assert 10 * solution.error_std == pytest.approx(np.sqrt(exact), rel=one)
    # of a linear equation the two times of a pair are tied by its decay
    decay = np.exp(-(2 * lr - lr**2 / batch) * np.diff(problem.taus[[1, 3]]))
    assert solution.spread.covariance[1, 3] * 100 == pytest.approx(exact[1] * np.prod(decay), rel=two)


@pytest.mark.parametrize(("batch", "memory"), [(1, 1.0), (4, 0.5)])
def test_the_unquantized_student_of_adam_has_equations_of_its_moments(batch, memory):
    """Of error and mean square gradient, which every step moves by the same residuals."""
    lr, eps, noise_var, start = 0.3, 1e-6, 0.25, 1e-5

    def rates(tau, e, u):
        """Drift of both, its derivatives, and what a step does to the error less its spread."""
        V, root, fresh = e + noise_var, np.sqrt(u), 1 / memory / -np.expm1(-tau / memory)
        s, bend = lr / (root + eps), -lr / (root + eps) ** 2 / (2 * root)
        drift = np.array([-2 * s * e + s**2 * V / batch, fresh * (V / batch - u)])
        slopes = np.array([
            [-2 * s + s**2 / batch, (-2 * e + 2 * s * V / batch) * bend], [fresh / batch, -fresh]
        ])  # fmt: skip
        return drift, slopes, np.array([drift[0], fresh * V / batch]), s

    def slope(tau, state):
        e, u, *flat = state
        P = np.reshape(flat, (2, 2))
        drift, J, moved, s = rates(tau, e, u)
        Q = 2 * np.outer(moved, moved) / batch
        Q[0, 0] += 4 * s**2 * (e + noise_var) * e / batch - (2 * s * e) ** 2 / batch
        return [*drift, *(J @ P + P @ J.T + Q).ravel()]

    rule = Adam(lr, beta1=0.9, memory=memory, eps=eps, batch=batch)
    problem = Problem(rule=rule, noise_std=0.5, run=Run(5.0, 5))
    # at first u is the mean of few squares: each of its variances is where it stays, per 1/tau
    u = (2.0 + noise_var) / batch
    drift, J, *_ = rates(start, 2.0, u)
    both = 6.0 / batch + 2 * drift[0] * u / batch + 2 * u**2 / batch * J[0, 1]
    known = [2.0, u, 6.0, both, both, 2 * u**2 / batch / start]
    solved = solve_ivp(slope, (start, 5), known, "LSODA", problem.taus[1:], rtol=1e-8, atol=1e-10)
    assert 10 * solve(problem, dim=100).error_std[1:] == pytest.approx(np.sqrt(solved.y[2]), rel=1e-3)


@pytest.mark.parametrize("quantized", [False, True])
def test_the_bias_of_an_unquantized_student_is_exact(quantized):
    """Against many runs of a few steps in four dimensions, where it is large."""
    d, runs, lr, rng = 4, 60_000, 0.6, np.random.default_rng(3)
    inputs = Quantizer(2, 2.0) if quantized else Quantizer(kind="none")
    law = InputLaw.uniform(scale=2.0) if quantized else InputLaw()
    rule = SGD(lr, batch=2, weight_decay=0.5)
    problem = Problem(
        Teacher.gaussian(0.8), inputs=inputs, input_law=law, noise_std=0.3, rule=rule, run=Run(2.0, 9)
    )
    teacher, w = 0.8 * rng.normal(size=(runs, d)), rng.normal(size=(runs, d))
    limit, k = solve(problem, law="mixture"), problem.moments(1.0)
    bias = error_bias(problem, d, 0.0, 1.0)
    for step in range(9):
        error = float(k.std) ** 2 * teacher**2 - 2 * float(k.k1) * teacher * w + float(k.k2) * w**2
        error = error.mean(1)
        gap = error.mean() - limit.error[step] - bias[step]
        assert abs(gap) < 4 * error.std() / np.sqrt(runs) + 2e-5
        change = 0.0
        for _ in range(2):
            x = rng.uniform(-2, 2, (runs, d)) if quantized else rng.normal(size=(runs, d))
            phi = np.clip(np.floor(x * 3 / 4) + 0.5, -1.5, 1.5) * 4 / 3 if quantized else x
            r = np.sum(teacher * x - w * phi, 1, keepdims=True) / np.sqrt(d) + 0.3 * rng.normal(
                size=(runs, 1)
            )
            change = change + r * phi / 2
        w = w * (1 - lr * 0.5 / d) + lr * change / np.sqrt(d)
    assert np.max(np.abs(bias)) > 0.015  # far above what the runs leave open
    assert error_bias(r1(), 100, 0.0, 1.0) is None


def test_what_is_given_does_not_vary():
    problem = r1(teacher=Teacher.rademacher(1.0), start=Start.gaussian(mean=0.5, std=1.0))
    drawn, taught = solve(problem, dim=100), solve(problem, dim=100, given=["teacher"])
    same = solve(problem, dim=100, given=["teacher", "start"])
    assert same.error_std[0] < 1e-6 < taught.error_std[0] < drawn.error_std[0]
    assert np.all(same.error_std[1:] <= taught.error_std[1:])
    # the law of every coordinate at the start: given weights are left to the teacher, drawn anew
    assert solve(problem, dim=100, given=["start"]).error_std[0] < drawn.error_std[0]


@pytest.mark.parametrize("bits", [None, 2])
def test_averages_over_the_residual_give_the_closed_forms(bits):
    """Of two variances: the clock of SGD, none of the sign, whose moves are the same for every residual."""
    quantizer = Quantizer(kind="none") if bits is None else Quantizer(bits, 2.0)
    inputs, V = input_moments(quantizer, np.array([1.0, 0.6])), 0.7
    closed = SGD(0.3).together(inputs, Order(V), 0.0)
    assert np.max(np.abs(Rule.together(SGD(0.3), inputs, Order(V), 0.0) - closed)) < 1e-12
    for rule in (SGD(0.3, batch=4), SGD(0.06, momentum=0.8), Shrinkage(0.3, q=0.7, batch=4)):
        each = jax.vmap(lambda one, rule=rule: rule.coefficients(V, one, 0.0))(inputs)
        moved = np.concatenate([each.a, each.b, each.D])
        expected = (
            np.outer(moved, moved) * (2 - (np.arange(6) < 4) * (np.arange(6)[:, None] < 4)) / rule.batch
        )
        assert rule.together(inputs, Order(V), 0.0) == pytest.approx(expected, rel=1e-12)
    each = jax.vmap(lambda one: Sign(0.1).coefficients(V, one, 0.0))(inputs)
    drift = np.concatenate([each.a, each.b, [0, 0]])
    assert np.max(np.abs(Sign(0.1).together(inputs, Order(V), 0.0) + np.outer(drift, drift))) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 2])
@pytest.mark.parametrize(
    "rule",
    [
        StochasticRounding(0.3, delta=0.4),
        DeterministicRounding(0.3, delta=0.4),
        QuantizedGradient(0.3, quantizer=Quantizer(2, 1.0, rounding="stochastic")),
        Multinomial(0.3, 0.7, 0.5),
    ],
)
def test_what_a_rule_does_given_the_residual_averages_to_its_coefficients(rule, bits):
    quantizer = Quantizer(kind="none") if bits is None else Quantizer(bits, 2.0)
    inputs, V = input_moments(quantizer), 0.7
    z, weight = residuals()
    r, known = np.sqrt(V) * z, rule.coefficients(V, inputs, 0.0)
    teacher, own, square = rule.given(r, inputs, 0.0)
    found = [weight @ (r * teacher) / V, weight @ (r * own) / V, weight @ square]
    assert np.array(found) == pytest.approx(np.array([known.a, known.b, known.D]), rel=1e-3)
    if bits is not None and rule.kind != "multinomial":
        g = r[:8, None] * inputs.levels
        both = rule.powers(g, 0.0), Rule.powers(rule, g, 0.0)
        assert np.stack(both[0]) == pytest.approx(np.stack(both[1]), abs=1e-5)


def test_spreads_are_saved_and_shown(tmp_path):
    solution = solve(r2(), dim=100)
    again = load(solution.save(tmp_path / "a.npz"))
    assert np.array_equal(again.spread.covariance, solution.spread.covariance)
    assert np.array_equal(again.to_pandas()["error_std"], solution.error_std)
    assert again.to_dict()["dim"] == 100
    assert "one run, d = 100 (standard deviation)" in solution.plot().get_legend_handles_labels()[1]


@pytest.mark.parametrize(
    ("problem", "asked", "message"),
    [
        (r1(), dict(dim=1), "dim: expected a whole number from 2"),
        (r1(), dict(given=["teacher"]), "given: expected none without a dim"),
        (r1(), dict(dim=50, given=["x"]), "given: expected names of teacher, start"),
        (r1(rule=StochasticRounding(0.1, momentum=0.5, delta=0.1)), dict(dim=50), "rule: expected 'sgd'"),
        (r1(rule=Adam(0.1, rounding="stochastic", delta=0.1)), dict(dim=50), "rule: expected 'sgd'"),
        (r1(rule=Halved(0.1)), dict(dim=50), "rule: expected a together beside the move of Halved"),
        (r1(rule=Sign(0.1, batch=2)), dict(dim=50), "rule: expected 'sgd'"),
        (r1(rule=Shrinkage(0.1, q=0.7, q_min=0.5)), dict(dim=50), "rule: expected 'sgd'"),
        (Problem(weights=Quantizer(2, 1.5), ste="clipped"), dict(dim=50), "weights.ste: expected 'identity'"),
        (r1(), dict(dim=50, law="fluid"), "law: expected 'grid' or 'mixture' with dim"),
    ],
)
def test_what_is_not_derived_is_refused(problem, asked, message):
    with pytest.raises(InputError, match=message):
        solve(problem, **asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [
        r1(),
        r2(),
        r2(rule=Sign(0.1)),
        on_lattice(StochasticRounding(0.2, delta=0.4)),
        on_lattice(StochasticRounding(0.2, delta=0.4), inputs=Quantizer(2, 2.0)),
        on_lattice(DeterministicRounding(0.4, delta=0.2)),
        r2(rule=QuantizedGradient(0.2, quantizer=Quantizer(3, 1.0, kind="mid-tread"))),
        r2(rule=Multinomial(0.1, 0.5, 0.5)),
        r2(rule=Shrinkage(0.3, q=0.7, noise_std=0.5)),
        r2(rule=SGD(0.6, batch=4)),
        r2(rule=SGD(0.06, momentum=0.8)),
        r2(rule=Adam(0.2, memory=5.0), covariance=Covariance.power_law(0.5)),
        r2(rule=Adam(0.3, batch=4, weight_decay=0.1), noise_std=0.3),
        r2(rule=SGD(0.3, weight_decay=0.1)),
        r2(teacher=Teacher.gaussian(1.0)),
        r2(covariance=Covariance.power_law(0.5)),
    ],
)
def test_standard_deviations_of_simulated_runs(problem):
    solution, ensemble = solve(problem, dim=200), simulate(problem, dim=200, seeds=400, seed=7000)
    ratio = ensemble.error.std(0, ddof=1) / solution.error_std
    assert ratio == pytest.approx(1.0, abs=4 / np.sqrt(800))
    together = np.corrcoef(ensemble.error.T)
    assert together == pytest.approx(solution.spread.correlation, abs=4 / 20)


@pytest.mark.slow
def test_standard_deviations_of_simulated_plateaus():
    solution, ensemble = solve(PLATEAU, dim=200), simulate(PLATEAU, dim=200, seeds=400, seed=7000)
    (plateau,) = solution.plateaus()
    times = [simulated_times(plateau, None, solution.tau, solution.error, run) for run in ensemble.error]
    spread = np.array([solution.spread.length_std[0], solution.spread.escape_std[0]])
    assert np.std(times, axis=0, ddof=1) / spread == pytest.approx(1.0, abs=4 / np.sqrt(800))
