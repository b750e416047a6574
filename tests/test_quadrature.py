"""Coefficients by quadrature, from nothing but the move of a rule."""

import jax
import numpy as np
import pytest
from systems import COARSE, FLOAT, TREAD, TWO_BIT, coefficients

from stedyn import Problem, Quantizer, Rule
from stedyn.inputs.moments import input_moments
from stedyn.limit.refused import check_closes
from stedyn.rules import (
    SGD,
    DeterministicRounding,
    Inverse,
    Order,
    QuantizedGradient,
    Shrinkage,
    Sign,
    StochasticRounding,
)


class Copy(Rule):
    """The move of another rule, and nothing else of it."""

    kind = "copy"
    product = True
    of: Rule = None
    uniforms = property(lambda self: self.of.uniforms)

    def move(self, r, phi, u, tau):
        return self.of.move(r, phi, u, tau)


class Pair(Copy):
    product = False


MOVES = [
    SGD(0.3),
    Shrinkage(0.3, q=0.5, noise_std=0.2),
    Shrinkage(0.3, q_min=0.5),
    QuantizedGradient(0.3, quantizer=Quantizer(2, 1.5)),
    QuantizedGradient(0.3, quantizer=Quantizer(3, 1.5, kind="mid-tread", rounding="stochastic")),
    DeterministicRounding(0.3, delta=0.3),
    DeterministicRounding(0.3, delta=0.02),
    StochasticRounding(0.3, delta=0.5),
    Sign(0.3),
]


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=[pytest.mark.slow] if k in (1, 2, 4, 6, 7) else [])
        for k, rule in enumerate(MOVES)
    ],
    ids=lambda rule: rule.kind,
)
def test_quadrature_agrees_with_the_closed_form(rule):
    exact = coefficients(rule, COARSE)
    np.testing.assert_allclose(coefficients(Copy(0.3, of=rule), COARSE), exact, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("rule", "inputs", "copy"),
    [
        pytest.param(MOVES[3], FLOAT, Copy, marks=pytest.mark.slow),
        (MOVES[3], FLOAT, Pair),
        (MOVES[5], TREAD, Copy),
        pytest.param(MOVES[5], FLOAT, Pair, marks=pytest.mark.slow),
    ],
    ids=["gradient-float", "gradient-float-pair", "R-tread", "R-float-pair"],
)
def test_quadrature_with_other_inputs(rule, inputs, copy):
    exact = coefficients(rule, inputs)
    np.testing.assert_allclose(coefficients(copy(0.3, of=rule), inputs), exact, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("copy", [Copy, pytest.param(Pair, marks=pytest.mark.slow)])
def test_quadrature_over_few_or_very_many_jumps(copy):
    """One-bit inputs: one scale of the gradient, so that no error averages out."""
    bit = input_moments(Quantizer(1, 1.0))

    @jax.jit
    def both(delta, V):
        rule = DeterministicRounding(0.3, delta=delta)
        responses = [each.response(bit) for each in (rule, copy(0.3, of=rule))]
        return [jax.vmap(lambda one, f=f: f(Order(one), 0.0))(V) for f in responses]

    for delta in (0.0009, 0.003, 0.0117, 0.05, 0.3):
        V = (
            np.geomspace(0.3, 6.0 / delta, 40) ** 2 * delta**2 / 0.09
        )  # from where the first jump is within reach
        exact, found = both(delta, V)
        np.testing.assert_allclose(np.array(found), np.array(exact), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [0.0009, 0.01, 0.05])
def test_quadrature_of_a_random_move_with_many_jumps(delta):
    rule, V = StochasticRounding(0.3, delta=delta), np.geomspace(0.003, 6.0, 12)
    np.testing.assert_allclose(
        coefficients(Copy(0.3, of=rule), COARSE, V), coefficients(rule, COARSE, V), rtol=1e-5
    )


@pytest.mark.slow
def test_copies_of_all_rules_have_no_mean():
    for rule in MOVES:
        check_closes(Problem(rule=Copy(0.3, of=rule), inputs=TWO_BIT))


@pytest.mark.slow
def test_quadrature_of_a_scheduled_rule_is_made_at_every_time():
    for copy, delta, rtol in ((Copy, 0.003, 3e-5), (Pair, 0.003, 1e-3), (Copy, 0.3, 3e-5)):
        rule = DeterministicRounding(0.3, delta=delta, schedule=Inverse(2.0))
        found = copy(0.3, schedule=Inverse(2.0), of=rule).coefficients(0.7, COARSE, 3.0)
        np.testing.assert_allclose(found, rule.coefficients(0.7, COARSE, 3.0), rtol=rtol)
    assert abs(found.a / rule.coefficients(0.7, COARSE, 0.0).a - 0.4) < 0.1
