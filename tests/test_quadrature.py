"""Coefficients by quadrature, from nothing but the move of a rule."""

import numpy as np
import pytest
from systems import COARSE, FLOAT, TREAD, coefficients

from stedyn import Quantizer, Rule
from stedyn.rules import (
    SGD,
    DeterministicRounding,
    Inverse,
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
        pytest.param(rule, marks=[pytest.mark.slow] if k in (1, 2, 4, 6) else [])
        for k, rule in enumerate(MOVES)
    ],
    ids=lambda rule: rule.kind,
)
def test_quadrature_agrees_with_the_closed_form(rule):
    exact = coefficients(rule, COARSE)
    np.testing.assert_allclose(coefficients(Copy(0.3, of=rule), COARSE), exact, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("rule", "inputs", "copy"),
    [(MOVES[3], FLOAT, Copy), (MOVES[3], FLOAT, Pair), (MOVES[5], TREAD, Copy), (MOVES[5], FLOAT, Pair)],
    ids=["gradient-float", "gradient-float-pair", "R-tread", "R-float-pair"],
)
def test_quadrature_with_other_inputs(rule, inputs, copy):
    exact = coefficients(rule, inputs)
    np.testing.assert_allclose(coefficients(copy(0.3, of=rule), inputs), exact, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_quadrature_of_a_scheduled_rule_is_made_at_every_time():
    rule = DeterministicRounding(0.3, delta=0.3, schedule=Inverse(2.0))
    found = Copy(0.3, schedule=Inverse(2.0), of=rule).coefficients(0.7, COARSE, 3.0)
    np.testing.assert_allclose(found, rule.coefficients(0.7, COARSE, 3.0), rtol=1e-5)
    assert abs(found.a / rule.coefficients(0.7, COARSE, 0.0).a - 0.4) < 0.1
