"""Update rules: closed forms, quadrature from the move alone, reference numbers, simulation against limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import k1 as bessel_k1
from scipy.special import ndtri
from systems import COARSE, FLOAT, TREAD, TWO_BIT, VS, Remembering, coefficients

from stedyn import Problem, Quantizer, Rule, Run, Start, fixed_point, simulate, solve
from stedyn.files.problems import problem_from_dict
from stedyn.files.writing import problem_to_dict
from stedyn.inputs.moments import input_moments
from stedyn.limit.refused import check_closes
from stedyn.rules import (
    RULES,
    SGD,
    Cosine,
    DeterministicRounding,
    Inverse,
    Multinomial,
    QuantizedGradient,
    Shrinkage,
    Sign,
    Step,
    StochasticRounding,
    lattice,
)
from stedyn.rules.nodes import batch_nodes
from stedyn.rules.symmetry import check_product
from stedyn.simulation.model import model_of
from stedyn.simulation.state import encode

# ---- closed forms


def test_sign_with_unquantized_inputs():
    a, b, D, size = coefficients(Sign(0.3), FLOAT)
    np.testing.assert_allclose(a, 0.6 / (np.pi * np.sqrt(VS)), rtol=1e-10)
    np.testing.assert_allclose(b, a, rtol=1e-12)
    np.testing.assert_allclose(D, 0.09, rtol=1e-10)
    np.testing.assert_allclose(size, 0.3, rtol=1e-10)


@pytest.mark.parametrize("quantizer", [Quantizer(3, 2.0), Quantizer(4, 3.0, kind="mid-tread")])
def test_nearest_rounding_with_unquantized_inputs_is_a_bessel_sum(quantizer):
    z = np.abs(np.asarray(quantizer.thresholds))[:, None] / np.sqrt(VS)
    terms = np.where(z == 0, 1.0, z * bessel_k1(np.where(z == 0, 1.0, z)))
    exact = 0.3 * float(quantizer.step) * terms.sum(0) / (np.pi * np.sqrt(VS))
    a, b, _, _ = coefficients(QuantizedGradient(0.3, quantizer=quantizer), FLOAT)
    np.testing.assert_allclose(a, exact, rtol=1e-10)
    np.testing.assert_allclose(b, exact, rtol=1e-10)


def test_rounding_rule_is_the_bessel_sum_over_its_lattice():
    lr, delta = 0.3, 0.2
    z = (np.arange(1, 400) - 0.5)[:, None] * delta / lr / np.sqrt(VS)
    exact = 2 * delta * np.sum(z * bessel_k1(z), 0) / (np.pi * np.sqrt(VS))
    rule = DeterministicRounding(lr, delta=delta)
    np.testing.assert_allclose(coefficients(rule, FLOAT)[0], exact, rtol=1e-9)
    grow = jax.grad(lambda V: rule.coefficients(V, FLOAT, 0.0).a)(0.05)
    ends = coefficients(rule, FLOAT, jnp.array([0.05 - 1e-5, 0.05 + 1e-5]))[0]
    np.testing.assert_allclose(grow, np.diff(ends)[0] / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("t", [0.05, 0.4, 1.7, 5.9, 6.1, 30.0])
def test_lattice_averages(t):
    """Against sums over the cells of the integers, from cdf and pdf."""
    n = np.arange(-400, 401)
    low, high = (n - 0.5) / t, (n + 0.5) / t
    mass, first = stats.norm.cdf(high) - stats.norm.cdf(low), t * (stats.norm.pdf(low) - stats.norm.pdf(high))
    slope, square, size = lattice.nearest(t)
    np.testing.assert_allclose(slope, n @ first / t**2, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(square, n**2 @ mass, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(size, np.abs(n) @ mass, rtol=2e-8, atol=1e-15)
    low, high = n / t, (n + 1) / t
    mass, first = stats.norm.cdf(high) - stats.norm.cdf(low), t * (stats.norm.pdf(low) - stats.norm.pdf(high))
    second = t**2 * (mass + low * stats.norm.pdf(low) - high * stats.norm.pdf(high))
    fraction = (1 + 2 * n) @ first - second.sum() - (n + n**2) @ mass
    np.testing.assert_allclose(lattice.fraction_variance(t), fraction, rtol=1e-8)


# ---- mini-batches


@pytest.mark.parametrize("batch", [2, 5, 64])
@pytest.mark.parametrize("inputs", [FLOAT, COARSE, TREAD], ids=["float", "coarse", "tread"])
def test_sgd_divides_the_diffusion_by_the_batch(inputs, batch):
    a, b, D, _ = coefficients(SGD(0.3, batch=batch), inputs)
    np.testing.assert_allclose(a, 0.3 * inputs.k1, rtol=1e-10)
    np.testing.assert_allclose(b, 0.3 * inputs.k2, rtol=1e-10)
    np.testing.assert_allclose(D, 0.09 * inputs.k2 * VS / batch, rtol=1e-10)


@pytest.mark.parametrize("quantizer", [None, TWO_BIT, Quantizer(3, 2.0, kind="mid-tread")])
def test_a_batch_by_sampling(quantizer):
    """Averages over a million mini-batches, with the errors of the sample."""
    inputs = FLOAT if quantizer is None else input_moments(quantizer)
    rule, V, B = DeterministicRounding(0.8, batch=3, delta=0.3), 0.6, 3
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, 400_000))
    phi = x if quantizer is None else np.asarray(quantizer.round(jnp.asarray(x)))
    r = rng.normal(size=x.shape) * V**0.5
    U = np.asarray(rule.move(1.0, np.mean(r * phi, 0), None, 0.0))
    samples = U * np.sum(r * x, 0) / V, U * np.sum(r * phi, 0) / V, U**2, np.abs(U)
    for exact, each in zip(rule.coefficients(V, inputs, 0.0), samples, strict=True):
        assert abs(np.mean(each) - exact) < 4 * stats.sem(each)


@pytest.mark.parametrize(
    ("bits", "batch", "tread"), [(2, 1, True), (2, 40, False), (3, 7, True), (5, 2, False)]
)
def test_nodes_of_a_batch_keep_its_moments(bits, batch, tread):
    m = input_moments(Quantizer(bits, 2.0, kind="mid-tread" if tread else "mid-rise"))
    norm, mass, own, teacher = jax.jit(batch_nodes, static_argnums=1)(m, batch)
    fourth = float(m.levels**4 @ m.mass)
    np.testing.assert_allclose([mass.sum(), own.sum(), teacher.sum()], [1, m.k2, m.k1], rtol=1e-9)
    np.testing.assert_allclose(norm**2 @ mass * batch, m.k2, rtol=1e-9)
    np.testing.assert_allclose(norm**4 @ mass, (fourth + (batch - 1) * m.k2**2) / batch**3, rtol=1e-9)


# ---- reference numbers and exact relations

REFERENCES = {
    "R5": (TWO_BIT, StochasticRounding(0.3, delta=0.5), (0.8671, 0.3114, 0.2434, 0.2335)),
    "R6": (TWO_BIT, DeterministicRounding(0.3, delta=0.3), (0.8225, 0.2575, 0.1899, 0.1786)),
    "R8": (Quantizer(3, 2.5), Multinomial(0.1, 1.0, 0.5), (1.6047, 0.9433, 0.4996, 0.1073)),
}


@pytest.mark.parametrize(
    "name", ["R5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("R6", "R8"))]
)
def test_reference_numbers(name):
    inputs, rule, errors = REFERENCES[name]
    problem = Problem(inputs=inputs, noise_std=0.1, rule=rule, run=Run(taus=(2.0, 6.0, 10.0, 20.0)))
    np.testing.assert_allclose(solve(problem, law="grid").error, errors, rtol=5e-3)


@pytest.mark.slow
def test_shrinkage_without_noise_is_a_smaller_rate():
    run = Run(tau=20.0, points=9)
    shrunk = solve(Problem(noise_std=0.3, rule=Shrinkage(0.6, q=0.5), run=run))
    plain = solve(Problem(noise_std=0.3, rule=SGD(0.3), run=run))
    full = solve(Problem(noise_std=0.3, rule=SGD(0.6), run=run))
    np.testing.assert_allclose(shrunk.error, plain.error, rtol=1e-9)
    assert shrunk.error[1] > full.error[1]
    assert shrunk.final_error < full.final_error  # slower, and a lower floor
    np.testing.assert_allclose(shrunk.effective_step, 0.5, rtol=1e-9)


@pytest.mark.slow
def test_the_noise_of_shrinkage_raises_the_floor():
    fields = dict(noise_std=0.3, run=Run(tau=20.0, points=9))
    noisy = solve(Problem(rule=Shrinkage(0.6, q=0.5, noise_std=0.3), **fields))
    assert noisy.final_error > solve(Problem(rule=SGD(0.6), **fields)).final_error


@pytest.mark.slow
def test_deterministic_rounding_stagnates_and_its_effective_step_says_so():
    rule = DeterministicRounding(0.2, delta=0.3)
    s = solve(Problem(rule=rule, noise_std=0.05, run=Run(tau=60.0, points=31)))
    assert np.all(np.diff(s.effective_step) < 0)
    V = 0.05**2 + s.error
    ratio = jax.vmap(lambda v: rule.coefficients(v, FLOAT, 0.0).b)(V) / 0.2
    np.testing.assert_allclose(s.effective_step, ratio, rtol=1e-3)
    assert s.final_error > 20 * solve(Problem(rule=SGD(0.2), noise_std=0.05, run=s.problem.run)).final_error


@pytest.mark.parametrize("schedule", [Inverse(3.0), lambda tau: jnp.exp(-tau / 5)])
def test_schedules_against_the_two_moment_equations(schedule):
    """``dm = lr (rho - m)``, ``dq = 2 lr (m - q) + lr^2 (rho - 2m + q + sigma^2)`` with SciPy."""
    rule = SGD(0.5, schedule=schedule)
    s = solve(Problem(noise_std=0.4, rule=rule, run=Run(tau=8.0, points=5)))

    def velocity(tau, y):
        lr, (m, q) = float(rule.rate(tau)), y
        return [lr * (1 - m), 2 * lr * (m - q) + lr**2 * (1 - 2 * m + q + 0.16)]

    ends = integrate.solve_ivp(velocity, (0, 8), [0, 1], t_eval=s.tau, rtol=1e-9, atol=1e-11, max_step=0.05).y
    np.testing.assert_allclose(s.error, 1 - 2 * ends[0] + ends[1], rtol=2e-3)


def test_factors_of_schedules():
    taus = jnp.array([0.0, 3.9, 4.0, 5.0, 10.0, 40.0])
    np.testing.assert_allclose(Step(4.0, 0.5)(taus), [1, 1, 0.5, 0.5, 0.25, 2**-10])
    np.testing.assert_allclose(Cosine(10.0, 0.2)(taus)[jnp.array([0, 3, 4, 5])], [1, 0.6, 0.2, 0.2])
    np.testing.assert_allclose(Inverse(4.0)(taus)[jnp.array([0, 2])], [1, 0.5])


@pytest.mark.slow
def test_fixed_points_of_rules():
    """The end of a long run; a rate that vanishes has none."""
    rule = DeterministicRounding(0.3, delta=0.3)
    problem = Problem(inputs=TWO_BIT, noise_std=0.1, rule=rule, run=Run(taus=(0.0, 200.0)))
    np.testing.assert_allclose(fixed_point(problem).error, solve(problem).final_error, rtol=1e-4)
    assert fixed_point(Problem(noise_std=0.1, rule=Sign(0.1))).lr_ceiling is None
    with pytest.raises(ValueError, match=r"^rule\.schedule: expected a rate that stays above 0"):
        fixed_point(Problem(rule=SGD(schedule=Inverse())))


# ---- single moves


@given(st.floats(-3, 3), st.floats(0.05, 2.0))
def test_stochastic_rounding_is_unbiased_with_the_variance_of_its_fraction(g, delta):
    u = (np.arange(20_000) + 0.5) / 20_000
    rule = StochasticRounding(0.7, delta=delta)
    U = np.asarray(rule.move(1.0, g, u[None], 0.0))
    f = (0.7 * g / delta) % 1
    assert abs(U.mean() - 0.7 * g) < 1e-4 * delta
    assert abs(U.var() - delta**2 * f * (1 - f)) < 3e-4 * delta**2


LATTICES = [
    StochasticRounding(0.4, 0.5, delta=0.3),
    DeterministicRounding(0.4, 0.5, delta=0.3),
    Multinomial(0.3, 1.5, 0.5, weight_decay=0.4),
]


@pytest.mark.parametrize("rule", LATTICES, ids=lambda rule: rule.kind)
def test_integer_rules_never_leave_their_lattice(rule):
    """Weights are whole numbers of steps, also with weight decay, batch and latent clip."""
    problem = Problem(
        inputs=TWO_BIT, noise_std=0.2, rule=rule, latent_clip=1.01, start=Start.gaussian(0.3, 0.5)
    )
    ensemble = simulate(problem, dim=60, seeds=2, taus=[0.0, 1.0, 3.0], snapshots=[1.0, 3.0])
    codes = ensemble.snapshots / (0.3 / 60**0.5)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    assert np.ptp(np.round(codes)) > 5
    assert np.abs(ensemble.weights).max() <= 1.01
    assert encode(model_of(problem, 60), (jnp.ones((1, 4), jnp.float32),) * 2).parts[0].w.dtype == jnp.int32


def test_one_random_factor_shrinks_all_coordinates_of_a_step():
    """Against plain NumPy with the same draws, in which the first number of a step is everyone's."""
    problem = Problem(noise_std=0.3, rule=Shrinkage(0.8, q_min=0.2, noise_std=0.1))

    def shrunk(problem, r, phi, u, tau):
        assert np.size(u[0]) == 1
        return 0.8 * ((0.2 + 0.8 * u[0]) * r * phi + 0.1 * ndtri(u[1]))

    for dim in (30, 31):
        ensemble = simulate(problem, dim=dim, seeds=1, taus=[0.0, 20 / dim], snapshots=[0.0, 20 / dim])
        w = reference.run(problem, ensemble.snapshots[0, 0], ensemble.teacher[0], 0, 20, shrunk)
        np.testing.assert_allclose(ensemble.snapshots[0, 1], w, atol=2e-5)


# ---- simulation against the limit


class Clipped(Rule):
    """Gradient clipping: a rule as a user writes it."""

    kind = "clipped"
    product = True
    threshold: float = 0.5

    def move(self, r, phi, u, tau):
        return self.rate(tau) * jnp.clip(r * phi, -self.threshold, self.threshold)


class Huber(Rule):
    """A clipped residual: not a function of the gradient alone."""

    kind = "huber"

    def move(self, r, phi, u, tau):
        return self.rate(tau) * jnp.clip(r, -0.5, 0.5) * phi


class Lopsided(Rule):
    """Moves more easily to one side than to the other."""

    kind = "lopsided"
    product = True

    def move(self, r, phi, u, tau):
        return self.rate(tau) * jnp.maximum(r * phi, -1.0)


class Relu(Rule):
    """Only positive inputs learn: of mean 0 over the residuals, but not given one."""

    kind = "relu"

    def move(self, r, phi, u, tau):
        return self.rate(tau) * r * jnp.maximum(phi, 0.0)


class Coin(Rule):
    """A step of size 1 against the gradient, or upwards, with the right mean but for its last factor."""

    kind = "coin"
    uniforms = 2
    bias: float = 0.0

    def move(self, r, phi, u, tau):
        g = jnp.clip(r * phi, -0.8, 0.8)
        return jnp.where(u[0] < 0.5 * (1 + g), 1.0, -1.0) + self.bias * u[1]


class Even(Rule):
    """Even in the residual, odd in the input: without a mean if the levels are symmetric."""

    kind = "even"

    def move(self, r, phi, u, tau):
        return self.rate(tau) * r**2 * phi**3


UNEVEN = (-1.7436600905968613, 0.1, 2.0)  # of mean 0
THREE_BIT = Quantizer(3, 1.5)
SYSTEMS = {
    "clipped": dict(rule=Clipped(0.5, batch=2), inputs=TWO_BIT),
    "huber": dict(rule=Huber(0.5), weights=THREE_BIT, inputs=TWO_BIT),
    "shrinkage": dict(
        rule=Shrinkage(0.6, q_min=0.3, noise_std=0.3, batch=2, schedule=Inverse(4.0)), inputs=TWO_BIT
    ),
    "random shrinkage": dict(rule=Shrinkage(1.0, q=0.9, q_min=0.1), weights=THREE_BIT),
    "gradient": dict(
        rule=QuantizedGradient(0.5, quantizer=Quantizer(3, 2.0, kind="mid-tread")), weights=THREE_BIT
    ),
    "stochastic gradient": dict(
        rule=QuantizedGradient(
            0.6, batch=3, schedule=Cosine(6.0, 0.1), quantizer=Quantizer(3, 2.0, rounding="stochastic")
        )
    ),
    "R": dict(rule=DeterministicRounding(0.5, 0.3, delta=0.3), inputs=TWO_BIT),
    "SR": dict(
        rule=StochasticRounding(0.5, 0.3, 2, delta=0.5), weights=Quantizer(3, 1.5, rounding="stochastic")
    ),
    "sign": dict(rule=Sign(0.3), inputs=Quantizer(3, 2.0, kind="mid-tread")),
    "multinomial": dict(
        rule=Multinomial(0.3, 1.2, 0.5, weight_decay=0.2, schedule=Step(2.0, 0.6)), inputs=TWO_BIT
    ),
    "multinomial batch": dict(rule=Multinomial(0.3, 1.2, 0.3, batch=3), inputs=TWO_BIT),
    "BinaryConnect": dict(rule=SGD(0.6, 0.2, batch=4), weights=TWO_BIT, latent_clip=1.5),
}


def _gap(name, dim, seeds):
    """Largest distance of simulation and limit in standard errors, and relative, at four times."""
    problem = Problem(
        noise_std=0.2, start=Start.gaussian(0.0, 0.5), run=Run(taus=(1.0, 2.0, 4.0, 6.0)), **SYSTEMS[name]
    )
    ensemble, theory = simulate(problem, dim=dim, seeds=seeds), np.asarray(solve(problem).error)
    gap = ensemble.error_mean - theory
    return np.max(np.abs(gap) / (ensemble.error_sem + 2e-3 * theory)), np.max(np.abs(gap) / theory)


@pytest.mark.parametrize("name", [pytest.param("clipped", marks=pytest.mark.slow), "R"])
def test_simulation_agrees_with_the_limit(name):
    errors, relative = _gap(name, 400, 6)
    assert errors < 4.5  # Student's t with 5 degrees of freedom, four times: beyond this once in 50
    assert relative < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_rule_agrees_with_the_limit_at_d_2000(name):
    errors, relative = _gap(name, 2000, 8)
    assert errors < 4.0
    assert relative < 0.04


# ---- files and refusals


def table_of(kind):
    """A rule as a problem file has it."""
    extra = {"delta": 0.2} if "rounding" in kind else {}
    if kind == "quantized-gradient":
        extra = {"quantizer": {"bits": 3, "range": 2.0, "kind": "mid-tread", "rounding": "stochastic"}}
    return {"kind": kind, "batch": 3, "schedule": {"kind": "cosine", "period": 5.0, "final": 0.5}, **extra}


@pytest.mark.parametrize("kind", RULES)
def test_every_kind_goes_to_a_file_and_back(kind):
    table = table_of(kind)
    problem = problem_from_dict({"rule": table})
    written = problem_to_dict(problem)
    assert written["rule"].items() >= {k: v for k, v in table.items() if k != "quantizer"}.items()
    assert problem_to_dict(problem_from_dict(written)) == written
    assert type(problem.rule) is RULES[kind]


REFUSED = {
    r"^q: expected a number above 0 and at most 1": lambda: Shrinkage(q=1.2),
    r"^q: expected a number above 0": lambda: Shrinkage(q=0.0),
    r"^q_min: expected at most q": lambda: Shrinkage(q=0.4, q_min=0.5),
    r"^delta: expected a positive number, found -1\.0": lambda: StochasticRounding(delta=-1.0),
    r"^delta: expected a positive number, found None": lambda: DeterministicRounding(0.1),
    r"^batch: expected a whole number": lambda: SGD(batch=0),
    r"^nu: expected a positive number": lambda: Multinomial(nu=-1.0),
    r"^rule\.nu: expected at least 1/d": lambda: simulate(
        Problem(rule=Multinomial(nu=0.01)), dim=50, taus=[1.0]
    ),
    r"^rule\.nu: expected a number below 12": lambda: simulate(
        Problem(rule=Multinomial(nu=20.0)), dim=50, taus=[1.0]
    ),
    r"^rule\.schedule: expected a factor of 0 or above": lambda: Problem(
        rule=SGD(schedule=lambda tau: 1 - tau)
    ),
    r"^rule\.schedule: expected a factor of at most 1": lambda: Problem(
        rule=Multinomial(schedule=Step(5.0, 2.0))
    ),
    r"^rule\.q_schedule: expected factors that keep q": lambda: Problem(
        rule=Shrinkage(q_schedule=lambda tau: 1 + tau)
    ),
    r"^schedule\.tau0: expected a positive": lambda: Inverse(-1.0),
    r"^rule\.batch: expected 1 for the rule 'huber'": lambda: Problem(rule=Huber(batch=2)),
    r"^rule: expected a move of mean 0.*'lopsided' with mean": lambda: solve(Problem(rule=Lopsided(0.1))),
    r"^rule: expected a move of mean 0.*'coin' with mean 0\.05": lambda: solve(Problem(rule=Coin(bias=0.1))),
    r"^rule: expected a move of mean 0.*'even'": lambda: fixed_point(
        Problem(rule=Even(), inputs=Quantizer(kind="levels", levels=UNEVEN))
    ),
    r"^rule\.product: expected False": lambda: Problem(
        rule=type("Lie", (Huber,), {"product": True})(batch=2)
    ),
    r"^rule\.product: expected False for a move": lambda: Problem(
        rule=type("Lie", (Huber,), {"product": True})()
    ),
    r"^rule: expected a move of mean 0.*'relu' with mean -?0\.167 .*at r = -?4\.19.; ": lambda: solve(
        Problem(rule=Relu(0.1))
    ),
    **{
        rf"^rule: expected a move of mean 0.*{rule.kind!r} with mean {mean}": lambda rule=rule: solve(
            Problem(rule=rule, inputs=Quantizer(kind="levels", levels=UNEVEN))
        )
        for rule, mean in (
            (Sign(0.1), "-0.0589"),
            (Sign(0.3, batch=2), "-0.177"),
            (DeterministicRounding(0.1, delta=0.3), ""),
            (
                QuantizedGradient(0.1, quantizer=Quantizer(3, 2.0, kind="mid-tread", rounding="stochastic")),
                "",
            ),
            (Multinomial(), ""),
        )
    },
    r"^quantizer: expected levels symmetric about 0": lambda: QuantizedGradient(
        quantizer=Quantizer(3, 1.0, kind="twos-complement")
    ),
    r"^quantizer: expected a quantizer": lambda: QuantizedGradient(),
    r"^rule\.quantizer: expected a level at 0": lambda: Problem(
        inputs=Quantizer(2, 2.0, kind="mid-tread"), rule=QuantizedGradient(quantizer=TWO_BIT)
    ),
}


@pytest.mark.parametrize("rule", [Clipped(0.5), Huber(0.5), Coin(), Even()], ids=lambda rule: rule.kind)
@pytest.mark.parametrize("inputs", [None, TWO_BIT, Quantizer(6, 3.0, kind="mid-tread")])
def test_rules_without_a_mean_are_accepted(rule, inputs):
    check_closes(Problem(rule=rule, inputs=inputs))


@pytest.mark.parametrize(
    "rule",
    [
        SGD(0.3),
        Shrinkage(0.3, q=0.9, q_min=0.2, noise_std=0.3),
        StochasticRounding(0.3, delta=0.3),
        QuantizedGradient(0.1, quantizer=Quantizer(3, 30.0, kind="mid-tread", rounding="stochastic")),
        Multinomial(c=0.0),
    ],
    ids=lambda rule: rule.kind,
)
def test_rules_linear_in_the_input_need_no_symmetric_levels(rule):
    check_closes(Problem(rule=rule, inputs=Quantizer(kind="levels", levels=UNEVEN)))


def test_the_limit_of_a_rule_that_remembers_is_not_that_of_its_move():
    with pytest.raises(
        ValueError, match=r"^rule: expected a response .* 'remembering'; write it, or simulate"
    ):
        solve(Problem(rule=Remembering()))


def test_a_gradient_on_a_threshold_is_no_reason_to_refuse():
    """Residual 1/2 and input 2 are on the threshold 1 of the quantizer, with probability 0."""
    check_closes(Problem(inputs=TWO_BIT, rule=QuantizedGradient(0.3, quantizer=Quantizer(2, 1.5))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "inputs"),
    [(Relu(0.5), None), (Sign(0.3), Quantizer(kind="levels", levels=UNEVEN))],
    ids=lambda value: getattr(value, "kind", None),
)
def test_what_is_refused_does_not_average_out(rule, inputs):
    """The spread over runs stays as it is when d grows fourfold; a rule with a limit halves it."""

    def spread(problem, dim):
        ensemble = simulate(problem, dim=dim, seeds=48, taus=np.linspace(0, 10, 11))
        return np.mean(np.std(np.log(ensemble.error[:, 4:]), axis=0, ddof=1))

    shared = Problem(noise_std=0.5, rule=rule, inputs=inputs)
    assert spread(shared, 1000) > 0.75 * spread(shared, 250)
    own = Problem(noise_std=0.5, rule=rule if inputs else SGD(0.5))
    assert spread(own, 1000) < 0.7 * spread(own, 250)


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_sentence(pattern):
    with pytest.raises(ValueError, match=pattern) as caught:
        REFUSED[pattern]()
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize("kind", [kind for kind, rule in RULES.items() if rule.product])
def test_own_rules_that_say_so_are_functions_of_the_gradient_alone(kind):
    """`Problem` tries only those of users."""
    check_product(problem_from_dict({"rule": table_of(kind)}))
