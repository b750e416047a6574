"""Momentum: the steps of PyTorch's optimizer, and the limit at another rate."""

import numpy as np
import pytest
import reference
from systems import COARSE, TWO_BIT, coefficients

from stedyn import Problem, Quantizer, Run, Start, fixed_point, simulate, solve
from stedyn.files.problems import problem_from_dict, problem_to_dict
from stedyn.rules import SGD, Inverse, Shrinkage, Sign

RUN = Run(6.0, 7)


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
    for found, expected in (
        (ensemble.error, solution.error),
        (ensemble.flip_rate.mean(1, keepdims=True), np.append(0.0, solution.flip_rate[1:].mean())),
    ):
        z = (found.mean(0) - expected[1:]) / (found.std(0, ddof=1) / 8**0.5)
        assert np.all(np.abs(z) < 4.5), z  # t of 7 degrees of freedom, 0.3 % each


@pytest.mark.parametrize("rule", [RULES["dampened"], RULES["nesterov"], Shrinkage(0.1, q=0.7, momentum=0.5)])
def test_a_file_gives_the_rule_back(rule):
    tables = problem_to_dict(Problem(rule=rule))
    assert problem_to_dict(problem_from_dict(tables)) == tables
    assert problem_from_dict(tables).rule.momentum == rule.momentum
    assert "nesterov" not in problem_to_dict(Problem(rule=SGD(0.1)))["rule"]


REFUSED = {
    r"rule\.momentum: expected a rule that is linear .* 'sign'; remove it": lambda: Sign(0.1, momentum=0.9),
    r"rule\.momentum: expected a rule that is linear": lambda: problem_from_dict(
        {"rule": {"kind": "stochastic-rounding", "delta": 0.1, "momentum": 0.5}}
    ),
    r"momentum: expected a number from 0 up to, but not including, 1, found 1": lambda: SGD(
        0.1, momentum=1.0
    ),
    r"dampening: expected none without momentum": lambda: SGD(0.1, dampening=0.5),
    r"nesterov: expected none without momentum": lambda: SGD(0.1, nesterov=True),
    r"nesterov: expected true or false": lambda: SGD(0.1, momentum=0.5, nesterov=1),
    r"dampening: expected 0 with nesterov": lambda: SGD(0.1, momentum=0.5, dampening=0.1, nesterov=True),
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_sentence(pattern):
    with pytest.raises(ValueError, match=pattern):
        REFUSED[pattern]()
