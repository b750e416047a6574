r"""Update rules: how one coordinate moves, and the coefficients of the limit that follow from it.

With residual ``r``, the input the student sees ``phi_i`` and ``h`` the surrogate derivative of the
straight-through estimator, a step of the microscopic algorithm is (``docs``, theory section 1)

    ``w_i <- clip( w_i + h(w_i) U(r, phi_i) / sqrt(d) - lr weight_decay w_i / d )``.

A rule is the function ``U``. The simulator calls `Rule.move` and nothing else; the limit calls
`Rule.coefficients` and nothing else:

    ``a(V) = E[r U x] / V``,  ``b(V) = E[r U phi] / V``,  ``D(V) = E[U^2]``,  ``r ~ N(0, V)``.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._check import nonnegative, positive
from .quantizers import InputMoments


class Coefficients(NamedTuple):
    """Coefficients of the limit at one time: drift ``a c - b psi``, diffusion ``D``, ``E|U|``."""

    a: Float[Array, ""]
    b: Float[Array, ""]
    D: Float[Array, ""]
    mean_abs: Float[Array, ""]


class Rule(eqx.Module):
    """An update rule ``U(r, phi)``.

    ``kind`` is its name in a problem file. ``uniforms`` says how many independent ``U(0, 1)``
    numbers one coordinate consumes in one step (0 for a deterministic rule).
    """

    kind: ClassVar[str]
    uniforms: ClassVar[int] = 0

    lr: eqx.AbstractVar[Float[Array, ""] | float]
    weight_decay: eqx.AbstractVar[Float[Array, ""] | float]

    def rate(self, tau) -> Float[Array, ""]:
        """Learning rate at ``tau = steps / d``."""
        return jnp.asarray(self.lr)

    def move(self, r, phi, u, tau):
        """``U(r, phi)``, elementwise: ``r (S, 1)``, ``phi (S, d)``, ``u (uniforms, S, d)`` or None."""
        raise NotImplementedError

    def coefficients(self, V, inputs: InputMoments, tau) -> Coefficients:
        """``a, b, D`` and ``E|U|`` at residual variance ``V`` and time ``tau``."""
        raise NotImplementedError


class SGD(Rule):
    """Stochastic gradient descent: ``U = lr r phi``, so ``a = lr k1``, ``b = lr k2``, ``D = lr^2 k2 V``.

    Parameters
    ----------
    lr : float
        Learning rate, above 0.
    weight_decay : float
        Weight decay, 0 or above; the latent weight shrinks at rate ``lr weight_decay`` in ``tau``.
    """

    kind: ClassVar[str] = "sgd"

    lr: Float[Array, ""] | float
    weight_decay: Float[Array, ""] | float

    def __init__(self, lr=0.1, weight_decay=0.0):
        self.lr = positive("lr", lr)
        self.weight_decay = nonnegative("weight_decay", weight_decay)

    def move(self, r, phi, u, tau):
        return self.lr * r * phi

    def coefficients(self, V, inputs, tau):
        lr = self.lr
        root = jnp.sqrt(2 * jnp.maximum(V, 0.0) / jnp.pi)
        return Coefficients(lr * inputs.k1, lr * inputs.k2, lr**2 * inputs.k2 * V, lr * root * inputs.mean_abs)


RULES: dict[str, type[Rule]] = {SGD.kind: SGD}
