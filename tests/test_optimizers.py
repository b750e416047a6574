"""Momentum and Adam: the steps of PyTorch's optimizers, and their limits."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from systems import COARSE, TWO_BIT, VS, coefficients

from stedyn import Problem, Quantizer, Run, Start, fixed_point, sensitivity, simulate, solve
from stedyn.files.problems import problem_from_dict
from stedyn.files.report import describe
from stedyn.files.writing import problem_to_dict
from stedyn.inputs.law import InputLaw
from stedyn.inputs.moments import input_moments
from stedyn.problem.populations import Covariance
from stedyn.rules import SGD, Adam, Inverse, Shrinkage, Sign
from stedyn.rules.momentum import log_transform

RUN = Run(6.0, 7)


def agree(ensemble, solution):
    """Errors at all times after the first, and the average of the flip rate, within the standard error."""
    pairs = [(ensemble.error, solution.error[1:])]
    if ensemble.flip_rate is not None:
        pairs.append((ensemble.flip_rate.mean(1, keepdims=True), solution.flip_rate[1:].mean()))
    for found, expected in pairs:
        z = (found.mean(0) - expected) / (found.std(0, ddof=1) / ensemble.seeds**0.5)
        assert np.all(np.abs(z) < 4.5), z  # t of 7 degrees of freedom, 0.3 % each


class TorchSGD:
    """``torch.optim.SGD`` in NumPy: the gradient of ``r^2 / 2`` is ``-g / sqrt(d)``."""

    def __init__(self, rule, dim):
        self.rule, self.decay, self.buffer = rule, float(rule.weight_decay) / dim, None

    def __call__(self, w, g, r, at):
        rule, grad = self.rule, -g / np.sqrt(w.size) + self.decay * w
        beta, damp = float(rule.momentum), float(rule.dampening)
        self.buffer = grad if self.buffer is None else beta * self.buffer + (1 - damp) * grad
        grad = grad + beta * self.buffer if rule.nesterov else self.buffer
        factor = 1.0 if rule.schedule is None else float(rule.schedule(at / w.size))
        return w - float(rule.lr) * factor * grad


class TorchAdamW:
    """``torch.optim.AdamW`` in NumPy, with its own arguments."""

    def __init__(self, lr, betas, eps, weight_decay, bias_correction=True):
        self.arguments, self.corrects = (lr, *betas, eps, weight_decay), bias_correction
        self.first, self.second, self.steps = 0.0, 0.0, 0

    def __call__(self, w, g, r, at):
        lr, beta1, beta2, eps, decay = self.arguments
        grad = -g / np.sqrt(w.size)
        self.steps += 1
        self.first = beta1 * self.first + (1 - beta1) * grad
        self.second = beta2 * self.second + (1 - beta2) * grad**2
        first, second = (1 - beta**self.steps if self.corrects else 1.0 for beta in (beta1, beta2))
        w = w - lr * decay * w
        return w - lr * (self.first / first) / (np.sqrt(self.second / second) + eps)


RULES = {
    "plain": SGD(0.1, weight_decay=2.0, momentum=0.8),
    "dampened": SGD(0.1, momentum=0.8, dampening=0.4, schedule=Inverse(0.5)),
    "nesterov": SGD(0.1, momentum=0.6, nesterov=True, weight_decay=1.0),
}


def run(rule, optimizer, **more):
    """Weights of a run, from the simulator and from NumPy, and at the start."""
    problem = Problem(weights=Quantizer(2, 1.5), noise_std=0.1, rule=rule, **more)
    ensemble = simulate(problem, dim=31, seeds=1, taus=[1.0], snapshots=[0.0])
    start = ensemble.snapshots[0, 0]
    return (
        ensemble.weights[0],
        reference.run(problem, start, ensemble.teacher[0], 0, 31, optimizer=optimizer),
        start,
    )


@pytest.mark.parametrize("name", RULES)
def test_momentum_is_that_of_pytorch(name):
    found, expected, start = run(RULES[name], TorchSGD(RULES[name], 31), ste="clipped")
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert np.abs(found - start).max() > 1e-2


@pytest.mark.parametrize("name", RULES)
def test_the_loop_in_numpy_is_that_of_pytorch(name):
    torch = pytest.importorskip("torch")
    rule, rng = RULES[name], np.random.default_rng(0)
    parameter = torch.nn.Parameter(torch.ones(31, dtype=torch.float64))
    decay, beta, damp = (float(x) for x in (rule.weight_decay, rule.momentum, rule.dampening))
    optimizer = torch.optim.SGD(
        [parameter],
        float(rule.lr),
        momentum=beta,
        dampening=damp,
        nesterov=rule.nesterov,
        weight_decay=decay / 31,
    )
    ours, w = TorchSGD(rule, 31), np.ones(31)
    for at in range(20):
        g = rng.normal(size=31)
        for group in optimizer.param_groups:
            group["lr"] = float(rule.lr) * (1.0 if rule.schedule is None else float(rule.schedule(at / 31)))
        parameter.grad = torch.tensor(-g / np.sqrt(31))
        optimizer.step()
        w = ours(w, g, None, at)
    np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=1e-12)


ADAM = dict(lr=0.03, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.5)


@pytest.mark.parametrize("correction", [True, False])
def test_adam_is_that_of_pytorch(correction):
    rule = Adam.from_torch(31, **ADAM, bias_correction=correction)
    assert float(rule.memory) == pytest.approx(100 / 31)
    found, expected, start = run(rule, TorchAdamW(**ADAM, bias_correction=correction))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(found - start).max() > 0.2


def test_adam_in_numpy_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.ones(31, dtype=torch.float64))
    optimizer, ours = torch.optim.AdamW([parameter], **ADAM), TorchAdamW(**ADAM)
    w, rng = np.ones(31), np.random.default_rng(0)
    for at in range(20):
        g = rng.normal(size=31)
        parameter.grad = torch.tensor(-g / np.sqrt(31))
        optimizer.step()
        w = ours(w, g, None, at)
    np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=1e-12)


def r13(tau=6.0, **more):
    fields = dict(weights=Quantizer(3, 1.85), noise_std=0.1, rule=Adam(0.2, memory=1.0, eps=1e-3))
    return Problem(start=Start.gaussian(0.0, 0.5), run=Run(tau, int(tau) + 1), **fields | more)


@pytest.fixture(scope="module")
def r13_solution():
    return solve(r13())


def test_adam_has_the_curve_of_an_independent_solver(r13_solution):
    found = r13_solution.error[[1, 2, 4, 6]]
    np.testing.assert_allclose(found, [0.90987, 0.63611, 0.27746, 0.09908], rtol=5e-3)


@pytest.mark.parametrize("dim", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_simulated_adam_agrees_with_the_limit(dim, r13_solution):
    taus = range(1, 7)
    agree(simulate(r13(), dim=dim, seeds=8, taus=taus), r13_solution)


ADAMS = {
    "slow memory": (r13(rule=Adam(0.2, memory=10.0, eps=1e-3, beta1=0.0)), 2000),
    "decay and batch": (r13(rule=Adam(0.2, memory=1.0, eps=0.1, weight_decay=0.3, batch=4)), 1000),
    "inputs": (r13(inputs=TWO_BIT, ste="clipped", weights=Quantizer(2, 1.5)), 4000),
    "variances": (r13(covariance=Covariance.power_law(0.5)), 2000),
    "sign teacher": (r13(model="sign", weights=Quantizer(kind="none")), 2000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAMS)
def test_every_kind_of_adam_agrees_with_the_limit(name):
    problem, dim = ADAMS[name]
    ensemble, solution = simulate(problem, dim=dim, seeds=8, taus=range(1, 7)), solve(problem)
    if name in ("inputs", "sign teacher"):
        ensemble = dataclasses.replace(ensemble, flip_rate=None)
    agree(ensemble, solution)


@pytest.mark.slow
def test_adam_returns_to_its_fixed_point_with_what_it_remembers():
    """Against the end of curves, exact for weights that are not quantized."""
    problem = r13(150.0, weights=Quantizer(kind="none"), noise_std=0.3, rule=Adam(0.2, memory=20.0, eps=1e-3))
    solution, point = solve(problem), fixed_point(problem)
    away = np.abs(solution.error - point.error)
    assert 50 / np.log(away[90] / away[140]) == pytest.approx(point.relaxation_time, rel=5e-3)
    assert point.lr_ceiling is None


@pytest.mark.slow
def test_quantized_adam_returns_to_its_fixed_point():
    problem = r13(60.0, noise_std=0.3, rule=Adam(0.2, memory=5.0, eps=1e-3))
    solution, point = solve(problem, tol=1e-4), fixed_point(problem)
    away = np.abs(solution.error - point.error)
    assert 10 / np.log(away[30] / away[40]) == pytest.approx(point.relaxation_time, rel=0.02)
    assert solution.final_error == pytest.approx(point.error, rel=1e-3)


def test_without_a_memory_adam_divides_by_the_root_of_the_mean_square():
    """``memory -> 0`` is SGD at ``lr / (sqrt(k2 V) + eps)``."""
    a, b, D, _ = coefficients(Adam(0.2, eps=0.1, weight_decay=1.0), COARSE)
    s = 0.2 / (np.sqrt(float(COARSE.k2) * VS) + 0.1)
    np.testing.assert_allclose([a, b], [s * float(COARSE.k1), s * float(COARSE.k2)], rtol=1e-12)
    np.testing.assert_allclose(D, s**2 * float(COARSE.k2) * VS, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["final-error", "error-at=4"])
def test_sensitivities_of_adam_are_those_of_differences(objective):
    problem = r13(noise_std=0.3)
    found = sensitivity(problem, objective, "lr")

    def value(lr):
        case = r13(noise_std=0.3, rule=Adam(lr, memory=1.0, eps=1e-3))
        return fixed_point(case).error if objective == "final-error" else solve(case, tol=1e-4).error[4]

    expected = (value(0.202) - value(0.198)) / 0.004
    assert found.derivative == pytest.approx(expected, rel=0.02)


def at_rate(lr, run=RUN, **more):
    rule = SGD(lr, weight_decay=0.1, **more)
    return Problem(start=Start.gaussian(0.0, 0.5), weights=TWO_BIT, noise_std=0.1, rule=rule, run=run)


PAIRS = {
    "plain": dict(lr=0.04, momentum=0.8),
    "nesterov": dict(lr=0.04, momentum=0.8, nesterov=True),
    "dampened": dict(lr=0.08, momentum=0.8, dampening=0.5),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_limit_is_that_of_another_rate(name):
    for batch in (1, 4):
        pair = SGD(0.2, batch=batch), SGD(batch=batch, **PAIRS[name])
        without, found = (coefficients(rule, COARSE) for rule in pair)
        np.testing.assert_allclose(found[:3], without[:3], rtol=1e-12)
        assert np.all(found[3] < 0.6 * without[3])
        assert float(pair[1].rate(1.0)) == pytest.approx(0.2, rel=1e-12)  # which weight decay takes, too


@pytest.mark.slow
def test_the_curve_is_that_of_another_rate():
    a, b = solve(at_rate(**PAIRS["plain"])), solve(at_rate(0.2))
    np.testing.assert_allclose(a.error, b.error, rtol=1e-6)
    np.testing.assert_allclose(a.effective_step, 1.0, rtol=1e-12)


@pytest.mark.slow
def test_the_fixed_point_is_that_of_another_rate():
    found, expected = (fixed_point(at_rate(**rate)) for rate in (PAIRS["plain"], {"lr": 0.2}))
    assert found.error == pytest.approx(expected.error, rel=1e-6)
    assert found.relaxation_time == pytest.approx(expected.relaxation_time, rel=1e-6)
    assert fixed_point(Problem(rule=SGD(0.1, momentum=0.5), noise_std=0.1)).lr_ceiling == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("dim", "taus"), [(300, (1.0, 2.0, 3.0)), pytest.param(2000, tuple(range(1, 11)), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", ["plain", pytest.param("nesterov", marks=pytest.mark.slow)])
def test_simulation_agrees_with_the_limit(dim, taus, name):
    problem = at_rate(**PAIRS[name], run=Run(taus=(0.0, *taus)))
    ensemble, solution = simulate(problem, dim=dim, seeds=8, taus=taus), solve(problem)
    agree(ensemble, solution)


@pytest.mark.parametrize(
    "rule",
    [
        RULES["dampened"],
        RULES["nesterov"],
        Shrinkage(0.1, q=0.7, momentum=0.5),
        Adam(0.1, bias_correction=False),
    ],
)
def test_a_file_gives_the_rule_back(rule):
    tables = problem_to_dict(Problem(rule=rule))
    assert problem_to_dict(problem_from_dict(tables)) == tables
    assert "dampening" not in describe(Problem(rule=SGD(0.1)))
    assert ("nesterov True" in describe(Problem(rule=rule))) == getattr(rule, "nesterov", False)
    assert "nesterov" not in problem_to_dict(Problem(rule=SGD(0.1)))["rule"]


REFUSED = {
    r"rule\.momentum: expected 'sgd', .* the rule 'signum'.* 'sign'; remove it": lambda: Sign(
        0.1, momentum=0.9
    ),
    r"rule\.momentum: expected 'sgd'.*'multinomial'; remove it": lambda: problem_from_dict(
        {"rule": {"kind": "multinomial", "momentum": 0.5}}
    ),
    r"momentum: expected a number from 0 up to, but not including, 1, found 1": lambda: SGD(
        0.1, momentum=1.0
    ),
    r"rule\.bias_correction: expected true \(without": lambda: solve(r13(rule=Adam(bias_correction=False))),
    r"weights\.ste: expected 'identity' or 'clipped' with the rule 'adam'": lambda: solve(
        r13(ste="triangular")
    ),
    r"beta1: expected a number from 0": lambda: Adam(beta1=1.0),
    r"rule\.memory: expected at least 1/d": lambda: simulate(r13(rule=Adam(memory=1e-3)), dim=10),
    r"rule\.momentum: expected 'sgd', .* 'adam'": lambda: Adam(momentum=0.9),
    r"dampening: expected none without momentum": lambda: SGD(0.1, dampening=0.5),
    r"nesterov: expected none without momentum": lambda: SGD(0.1, nesterov=True),
    r"nesterov: expected true or false": lambda: SGD(0.1, momentum=0.5, nesterov=1),
    r"dampening: expected 0 with nesterov": lambda: SGD(0.1, momentum=0.5, dampening=0.1, nesterov=True),
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_sentence(pattern):
    with pytest.raises(ValueError, match=pattern):
        REFUSED[pattern]()


@pytest.mark.parametrize("law", [InputLaw(kind) for kind in ("uniform", "laplace")], ids=lambda law: law.kind)
def test_masses_that_add_up_to_more_than_one_by_a_last_digit(law):
    """The flip rate was not a number for inputs that are nowhere 0."""
    moments = input_moments(Quantizer(kind="none"), law=law)
    logs = log_transform(10.0 ** jnp.arange(-12, 60, 4), moments)
    assert np.all(np.isfinite(logs) & (np.diff(logs, prepend=0) <= 0))
