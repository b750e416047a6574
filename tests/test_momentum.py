"""Momentum of rules that are not linear: quantized gradients, and moves rounded stochastically."""

import dataclasses

import numpy as np
import pytest
import reference
from systems import COARSE, coefficients
from test_optimizers import TorchSGD, agree
from test_signum import run

from stedyn import Problem, Quantizer, Run, Start, simulate, solve
from stedyn.checks import InputError
from stedyn.files.problems import problem_from_dict
from stedyn.files.writing import problem_to_dict
from stedyn.rules import QuantizedGradient, StochasticRounding

GRADIENTS = Quantizer(3, 1.5, kind="mid-tread")


class OfQuantized(TorchSGD):
    """PyTorch's momentum of gradients that are quantized before."""

    def __call__(self, w, g, r, at):
        return super().__call__(w, reference.quantize(self.rule.quantizer, g, None), r, at)


class Rounded(TorchSGD):
    """PyTorch's moves, rounded to a lattice with the draws of the simulator."""

    def __call__(self, w, g, r, at):
        spacing = float(self.rule.delta) / np.sqrt(w.size)
        place = (super().__call__(w, g, r, at) - w) / spacing
        return w + spacing * np.floor(place + reference.uniforms(0, at, reference.STREAMS["rule"], w.size))


def test_steps_of_quantized_gradients():
    rule = QuantizedGradient(0.1, 1.0, quantizer=GRADIENTS, momentum=0.6, nesterov=True)
    run(rule, OfQuantized(rule, 31))


def test_steps_of_moves_that_are_rounded():
    rule = StochasticRounding(0.1, 1.0, delta=0.15, momentum=0.7, dampening=0.2)
    run(rule, Rounded(rule, 31))


def test_quantized_gradients_have_the_limit_of_another_rate():
    for batch in (1, 4):
        pair = (QuantizedGradient(0.2, batch=batch, quantizer=GRADIENTS),
                QuantizedGradient(0.08, batch=batch, quantizer=GRADIENTS, momentum=0.8, dampening=0.5))  # fmt: skip
        without, found = (coefficients(rule, COARSE)[:3] for rule in pair)
        np.testing.assert_allclose(found, without, rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 4])
def test_little_momentum_rounds_as_none(batch):
    """A closed form beside a sum over harmonics; the mean size of a move, too."""
    without = coefficients(StochasticRounding(0.2, batch=batch, delta=0.3), COARSE)
    found = coefficients(StochasticRounding(0.2, batch=batch, delta=0.3, momentum=1e-12), COARSE)
    np.testing.assert_allclose(found, without, rtol=2e-4)


def test_what_rounding_adds_against_draws():
    """``delta^2 E[f (1 - f)]`` of chains of 60 steps with Nesterov's momentum."""
    rng, lr, delta, beta, V, n = np.random.default_rng(0), 0.05, 0.3, 0.8, 0.7, 200_000
    levels, mass = np.asarray(COARSE.levels), np.asarray(COARSE.mass)
    v = np.zeros(n)
    for _ in range(60):
        g = rng.normal(size=n) * V**0.5 * rng.choice(levels, n, p=mass / mass.sum())
        v = beta * v + g
    part = (lr * (g + beta * v) / delta) % 1
    each = delta**2 * part * (1 - part)
    rule = StochasticRounding(lr, delta=delta, momentum=beta, nesterov=True)
    D = coefficients(rule, COARSE, np.array([V]))[2, 0]
    found = D - (lr / (1 - beta)) ** 2 * float(COARSE.k2) * V
    assert abs(found - each.mean()) < 4.5 * each.std() / n**0.5
    assert found > 100 * each.std() / n**0.5


def problem_of(rule, **more):
    weights = Quantizer(2, 1.45, kind="mid-tread")
    return Problem(
        start=Start.gaussian(0.0, 0.5), weights=weights, noise_std=0.1, rule=rule, run=Run(6.0, 7), **more
    )


CASES = {
    "quantized": QuantizedGradient(0.04, quantizer=GRADIENTS, momentum=0.8, batch=2),
    "stochastic": QuantizedGradient(0.04, quantizer=Quantizer(2, 2.0, rounding="stochastic"), momentum=0.8),
    "rounded": StochasticRounding(0.04, 0.2, delta=0.2, momentum=0.8),
    "nesterov": StochasticRounding(0.04, delta=0.3, momentum=0.8, nesterov=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_limit_and_simulation(name):
    problem = problem_of(CASES[name])
    solution, ensemble = solve(problem), simulate(problem, dim=2000, seeds=8, taus=range(1, 7))
    if "quantized" in CASES[name].kind:
        assert solution.flip_rate is None
        ensemble = dataclasses.replace(ensemble, flip_rate=None)
    agree(ensemble, solution)


@pytest.mark.parametrize("name", CASES)
def test_a_file_gives_the_rule_back(name):
    tables = problem_to_dict(problem_of(CASES[name]))
    assert problem_to_dict(problem_from_dict(tables)) == tables


def test_quantized_gradients_of_an_estimator_are_refused():
    with pytest.raises(InputError, match="'identity' with momentum of 'quantized-gradient'"):
        solve(problem_of(CASES["quantized"], ste="clipped"))
