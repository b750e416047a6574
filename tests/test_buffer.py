"""Momentum of rounded moves (R), R-ADAM, and momentum of rules of one's own."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from systems import COARSE
from test_momentum import Rounded, problem_of
from test_optimizers import agree, r13
from test_signum import run

from stedyn import Problem, Quantizer, simulate, solve
from stedyn.checks import InputError
from stedyn.code.compiling import once
from stedyn.rules import Adam, DeterministicRounding, Multinomial, Order, Rule, WithMomentum
from stedyn.rules.buffer import RoundedBuffer
from stedyn.rules.lattice import nearest
from stedyn.rules.nodes import batch_nodes

buffer = once(RoundedBuffer)
NEAREST = DeterministicRounding(0.04, delta=0.2, momentum=0.8)


class Clipped(WithMomentum):
    """A rule of one's own."""

    kind = "clipped"
    product = True

    def gradient(self, r, phi, u, tau):
        return jnp.clip(r * phi, -0.5, 0.5)


class ToNearest(Rounded):
    """PyTorch's moves, rounded to the nearest point of a lattice."""

    def __call__(self, w, g, r, at):
        spacing = float(self.rule.delta) / np.sqrt(w.size)
        return w + spacing * np.floor((super(Rounded, self).__call__(w, g, r, at) - w) / spacing + 0.5)


def test_steps_of_moves_that_are_rounded_to_the_nearest_point():
    rule = DeterministicRounding(0.1, 1.0, delta=0.15, momentum=0.7, dampening=0.2)
    run(rule, ToNearest(rule, 31))


@pytest.mark.parametrize("V", [0.05, 1.0])
def test_numbers_against_draws(V):
    """Long-run covariances of 100000 chains, with inputs of four levels."""
    beta, part, delta, lags, n = 0.7, 0.3, 0.5, 24, 100_000
    rng, levels = np.random.default_rng(0), np.asarray(Quantizer(2, 2.0).levels)
    v, teacher, own, later = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    for k in range(3 * lags):
        r, x = rng.normal(size=(2, n))
        r, phi = np.sqrt(V) * r, levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x)]
        v = beta * v + r * phi
        move = delta * np.round(part * v / delta)
        if k == 2 * lags - 1:
            first = move
        elif k >= 2 * lags:
            teacher, own, later = teacher + r * x, own + r * phi, later + move
    found = buffer(beta, 1, COARSE)(part, delta, Order(jnp.asarray(V)))
    every = move * teacher / V, move * own / V, first * (first + 2 * later), np.abs(move)
    for value, draws in zip(found, every, strict=True):
        assert abs(draws.mean() - value) < 4 * draws.std() / n**0.5
    exact = part / (1 - beta) * float(COARSE.k2)
    assert abs(found.b / exact - 1) > 0.02 or V == 1.0  # the buffer does round


def test_without_memory_moves_are_those_of_deterministic_rounding():
    """And beyond the table rounding adds a twelfth."""
    nodes, few = batch_nodes(COARSE, 1), buffer(1e-9, 1, COARSE)
    for part in (0.4, 1.0, 3.0):
        found, p = few(part, 1.0, Order(jnp.ones(()))), nearest(part * nodes.norm)
        expected = part * (p.slope @ nodes.teacher), part * (p.slope @ nodes.own), p.square @ nodes.mass
        np.testing.assert_allclose(found[:3], expected, rtol=2e-3)
    for edge in (0.999, 1.001):
        part = 6.0 * edge / float(few.spread)
        _, b, D, _ = few(part, 1.0, Order(jnp.ones(())))
        np.testing.assert_allclose((b, D), (part * COARSE.k2, part**2 * COARSE.k2 + 1 / 12), rtol=2e-3)


def test_a_small_simulation_of_momentum_that_is_rounded():
    """Weights that are not quantized: ``m' = a rho - b m``, ``q' = 2 (a m - b q) + D``, with a rule that slows down."""
    rule = DeterministicRounding(0.05, delta=0.4, momentum=0.8)
    problem = Problem(inputs=Quantizer(2, 2.0), noise_std=0.2, rule=rule)
    ensemble = simulate(problem, dim=300, seeds=8, taus=[2.0, 4.0])
    few, step, m, q, errors = buffer(0.8, 1, COARSE), 0.05, 0.0, 1.0, []
    each = once(lambda V: few(0.05, 0.4, Order(V)))
    for _ in range(81):
        errors.append(1 - 2 * float(COARSE.k1) * m + float(COARSE.k2) * q)
        a, b, D, _ = (float(x) for x in each(errors[-1] + 0.04))
        m, q = m + step * (a - b * m), q + step * (2 * a * m - 2 * b * q + D)
    z = (ensemble.error.mean(0) - np.array(errors)[[40, 80]]) / (ensemble.error.std(0, ddof=1) / 8**0.5)
    assert np.all(np.abs(z) < 4.5), z
    assert b < 0.9 * 0.25 * float(COARSE.k2)


REFUSED = {
    "nesterov": (DeterministicRounding(0.04, delta=0.2, momentum=0.8, nesterov=True), {}, "rule.nesterov: expected false"),
    "decay": (DeterministicRounding(0.04, 0.1, delta=0.2, momentum=0.8), {}, "rule.weight_decay: expected 0"),
    "long": (DeterministicRounding(0.001, delta=0.2, momentum=0.999), {}, "rule.momentum: expected at most 0.995"),
    "adam": (Adam(rounding="nearest", delta=0.1, beta1=0.999), {}, "rule.beta1: expected at most 0.995"),
    "ste": (Clipped(0.04, momentum=0.8), {"ste": "clipped"}, "'identity' with momentum of 'clipped'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_sentence(name):
    rule, more, sentence = REFUSED[name]
    with pytest.raises(InputError, match=sentence):
        solve(problem_of(rule, **more))


def test_what_has_no_momentum_says_why():
    with pytest.raises(InputError, match="all residuals that the buffers remember"):
        Multinomial(momentum=0.9)

    class Mine(Rule):
        kind = "mine"

    with pytest.raises(InputError, match=r"subclass of stedyn.rules.WithMomentum"):
        Mine(0.1, momentum=0.9)


def test_momentum_of_a_rule_of_ones_own_is_another_rate():
    """And moves made of the buffer need a response of their own."""

    class Own(Clipped):
        def placed(self, move, u):
            return jnp.sign(move)

    with pytest.raises(InputError, match=r"a response .* beside `placed` with momentum"):
        solve(problem_of(Own(0.1, momentum=0.5)))
    r, phi = np.random.default_rng(0).normal(size=(2, 50))
    pair = Clipped(0.2), Clipped(0.08, momentum=0.8, dampening=0.5)
    np.testing.assert_allclose(*(rule.move(r, phi, None, 0.0) for rule in pair), rtol=1e-12)


CASES = {
    "nearest": problem_of(NEAREST),
    "batch": problem_of(DeterministicRounding(0.05, delta=0.4, momentum=0.9, dampening=0.2, batch=2),
                        inputs=Quantizer(3, 2.0, kind="mid-tread")),
    "clipped": problem_of(NEAREST, ste="clipped"),
    "own": problem_of(Clipped(0.04, momentum=0.8)),
    "adam": r13(noise_std=0.3, rule=Adam(0.2, memory=1.0, eps=1e-3, rounding="nearest", delta=0.15)),
    "adam-batch": r13(noise_std=0.3, rule=Adam(0.2, eps=1e-3, beta1=0.6, batch=3, rounding="nearest", delta=0.3)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_limit_and_simulation(name):
    problem = CASES[name]
    # the eight starts from seed 300 stray by 2.5 standard errors, with and without momentum
    draws = dict(seeds=24, seed=5000) if name == "own" else dict(seeds=8, seed=300)
    solution, ensemble = solve(problem), simulate(problem, dim=2000, taus=range(1, 7), **draws)
    if name == "own":
        assert solution.flip_rate is None
        ensemble = dataclasses.replace(ensemble, flip_rate=None)
    agree(ensemble, solution)
