"""The sign of a running mean, and Adam with rounded steps: their steps and their limits."""

import jax
import numpy as np
import pytest
import reference
from systems import COARSE, FLOAT, TREAD, VS, coefficients
from test_optimizers import agree, r13

from stedyn import InputLaw, Problem, Quantizer, Run, fixed_point, simulate, solve
from stedyn.checks import InputError
from stedyn.files.problems import problem_from_dict
from stedyn.files.writing import problem_to_dict
from stedyn.inputs.moments import input_moments
from stedyn.rules import Adam, DeterministicRounding, Sign, Signum
from stedyn.rules.signum import sign_of_mean

numbers = jax.jit(sign_of_mean, static_argnums=1)


class SignumLoop:
    """Signum as in a plain program: the gradient of ``r^2 / 2`` is ``-g / sqrt(d)``."""

    def __init__(self, lr, beta):
        self.lr, self.beta, self.mean = lr, beta, 0.0

    def __call__(self, w, g, r, at):
        self.mean = self.beta * self.mean + (1 - self.beta) * -g / np.sqrt(w.size)
        return w - self.lr * np.sign(self.mean)


class RoundedAdam:
    """Adam whose steps are rounded to a lattice, with the draws of the simulator."""

    def __init__(self, rule, d):
        self.rule, self.d, self.first, self.second = rule, d, 0.0, 0.0

    def __call__(self, w, g, r, at):
        rule, d, grad = self.rule, self.d, g / np.sqrt(self.d)
        beta1, beta2 = float(rule.beta1), 1 - 1 / (d * float(rule.memory))
        self.first = beta1 * self.first + (1 - beta1) * grad
        self.second = beta2 * self.second + (1 - beta2) * grad**2
        root = np.sqrt(self.second / (1 - beta2 ** (at + 1))) + float(rule.eps) / np.sqrt(d)
        step = float(rule.lr) / np.sqrt(d) * self.first / (1 - beta1 ** (at + 1)) / root
        spacing, u = float(rule.delta) / np.sqrt(d), 0.5
        if rule.rounding == "stochastic":
            u = reference.uniforms(0, at, reference.STREAMS["rule"], d)
        return w + spacing * np.floor(step / spacing + u)


def run(rule, optimizer):
    weights = Quantizer(2, 1.5, kind="mid-tread")  # with no threshold on the lattice
    problem = Problem(weights=weights, noise_std=0.1, rule=rule)
    ensemble = simulate(problem, dim=31, seeds=1, taus=[2.0], snapshots=[0.0])
    start, found = ensemble.snapshots[0, 0], ensemble.weights[0]
    expected = reference.run(problem, start, ensemble.teacher[0], 0, 62, optimizer=optimizer)
    assert np.abs(found - start).max() > 0.2
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_steps_of_signum():
    run(Signum(0.2, beta=0.8), SignumLoop(0.2 / 31**0.5, 0.8))


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_steps_of_rounded_adam(rounding):
    rule = Adam(0.2, memory=1.0, eps=1e-3, rounding=rounding, delta=0.15)
    run(rule, RoundedAdam(rule, 31))


@pytest.mark.parametrize("inputs", [FLOAT, COARSE, TREAD])
def test_a_short_memory_is_the_sign_and_a_long_one_gaussian(inputs):
    if (
        inputs is not TREAD
    ):  # a gradient of exactly 0 keeps the sign of the one before, and has none of its own
        found, sign = numbers(1e-7, 1, inputs), coefficients(Sign(1.0), inputs, np.ones(1))[:3, 0]
        np.testing.assert_allclose(np.array(found), sign, rtol=1e-5)
    beta, lags = 0.99, np.arange(1, 3000)
    found, root = (
        numbers(beta, 4, inputs),
        np.sqrt(2 / np.pi * 4 / float(inputs.k2) * (1 + beta) / (1 - beta)),
    )
    long = 1 + 4 / np.pi * np.sum(np.arcsin(beta**lags))
    np.testing.assert_allclose(
        np.array(found), [float(inputs.k1) * root, float(inputs.k2) * root, long], rtol=3e-3
    )


@pytest.mark.parametrize("quantized", [True, False])
def test_numbers_of_signum_against_draws(quantized):
    """Batches of 2, inputs with a level at 0, or uniform ones: the long-run covariances of 20000 chains."""
    beta, rng, levels = 0.6, np.random.default_rng(0), np.asarray(Quantizer(3, 2.0, kind="mid-tread").levels)
    edges, n, lags = (levels[1:] + levels[:-1]) / 2, 20_000, 24
    inputs = TREAD if quantized else input_moments(Quantizer(kind="none"), law=InputLaw.uniform())
    mean, teacher, own, later = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    for k in range(4 * lags):
        r, x = rng.normal(size=(2, 2, n))
        x = x if quantized else rng.uniform(-1, 1, size=(2, n))
        phi = levels[np.searchsorted(edges, x)] if quantized else x
        mean = beta * mean + (r * phi).mean(0)
        if k >= 3 * lags:
            teacher, own = teacher + (r * x).sum(0), own + (r * phi).sum(0)
        if k == 3 * lags - 1:
            first = np.sign(mean)
        elif k >= 3 * lags:
            later += first * np.sign(mean)
    found = numbers(beta, 2, inputs)
    for value, draws in (
        (found.teacher, np.sign(mean) * teacher),
        (found.own, np.sign(mean) * own),
        (found.diffusion, 1 + 2 * later),
    ):
        assert abs(draws.mean() - value) < 4 * draws.std() / n**0.5


def test_coefficients_of_rounded_adam():
    """Nearest without beta1 is deterministic rounding at the rate of Adam; a fine lattice changes nothing."""
    plain = dict(eps=1e-3, batch=2, beta1=0.0)
    for k, V in enumerate(VS):
        rate = 0.2 / (np.sqrt(float(COARSE.k2) * V / 2) + 1e-3)
        found = coefficients(Adam(0.2, rounding="nearest", delta=0.3, **plain), COARSE)[:, k]
        expected = coefficients(DeterministicRounding(rate, batch=2, delta=0.3), COARSE, VS[k : k + 1])[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    fine, without = (coefficients(Adam(0.2, **plain, **more), COARSE) for more in (FINE, {}))
    np.testing.assert_allclose(fine, without, rtol=1e-5)


FINE = dict(rounding="stochastic", delta=1e-4)
REFUSED = {
    "beta": (lambda: Signum(beta=1.0), "beta: expected a number above 0 and below 1"),
    "none": (lambda: Signum(beta=0.0), "the rule 'sign' is that without memory"),
    "ste": (lambda: solve(r13(rule=Signum(0.1), ste="clipped")), "weights.ste: expected 'identity' with the rule 'signum'"),
    "long": (lambda: solve(r13(rule=Signum(0.1, beta=0.999))), "rule.beta: expected at most 0.995 for the limit"),
    "delta": (lambda: Adam(rounding="nearest"), "delta: expected a value with rounding"),
    "rounding": (lambda: Adam(delta=0.1), "rounding: expected a value with delta"),
    "word": (lambda: Adam(delta=0.1, rounding="up"), "rounding: expected one of"),
    "model": (lambda: solve(r13(rule=Adam(**FINE), model="sign", weights=None)), "teacher.model: expected 'linear'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_sentence(name):
    call, sentence = REFUSED[name]
    with pytest.raises(InputError, match=sentence):
        call()


@pytest.mark.parametrize("rule", [Signum(0.1, beta=0.8), Adam(0.1, **FINE)])
def test_a_file_gives_the_rule_back(rule):
    tables = problem_to_dict(Problem(rule=rule))
    assert problem_to_dict(problem_from_dict(tables)) == tables
    assert "rounding" not in problem_to_dict(Problem(rule=Adam()))["rule"]


CASES = {
    "signum": dict(rule=Signum(0.05, beta=0.9)),
    "signum-batch": dict(rule=Signum(0.1, beta=0.6, weight_decay=0.3, batch=3),
                         inputs=Quantizer(2, 2.0, kind="mid-tread")),
    "stochastic": dict(rule=Adam(0.2, memory=1.0, eps=1e-3, rounding="stochastic", delta=0.3)),
    "stochastic-batch": dict(rule=Adam(0.2, eps=1e-3, batch=2, rounding="stochastic", delta=0.5), weights=None),
    "nearest": dict(rule=Adam(0.2, memory=1.0, eps=1e-3, beta1=0.0, rounding="nearest", delta=0.25), weights=None),
}  # fmt: skip


def test_a_small_simulation_of_signum():
    problem = r13(2.0, noise_std=0.3, weights=None, rule=Signum(0.05, beta=0.8))
    agree(simulate(problem, dim=300, seeds=8, taus=[1.0, 2.0]), solve(problem))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_limit_and_simulation(name):
    problem = r13(noise_std=0.3, **CASES[name])
    agree(simulate(problem, dim=2000, seeds=8, seed=50, taus=range(1, 7)), solve(problem))


@pytest.mark.slow
def test_fixed_points_of_signum_and_rounded_adam():
    for rule in (Signum(0.05), Adam(0.2, eps=1e-3, rounding="stochastic", delta=0.3)):
        problem = Problem(weights=Quantizer(3, 1.85), noise_std=0.3, rule=rule, run=Run(60.0, 7))
        assert solve(problem).final_error == pytest.approx(fixed_point(problem).error, rel=5e-3)
