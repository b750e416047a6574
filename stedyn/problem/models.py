r"""Models: which label a teacher gives, and what that makes of error and residual (``docs/models.md``).

With the teacher's output ``out = w*.x / sqrt(d)``, of variance ``rho = E[v w*^2]``, the label is ``y = g(out) + noise``
and the student, whose loss is squared, sees ``r = y - psi(w).phi(x) / sqrt(d)``:

    ``error = E[g^2] - 2 gain k1 m + k2 q``,  ``gain = E[g'(out)]``,  ``V = E[r^2] = noise_std^2 + error``.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..rules import Order


class Linear:
    """The label of a linear teacher, ``g(out) = out``; its residual is Gaussian."""

    gaussian: ClassVar[bool] = True

    def gain(self, rho) -> Float[Array, ""] | float:
        """``E[g'(out)] = E[g out] / rho``: how much of the label follows the teacher's output."""
        return 1.0

    def power(self, part, rho) -> Float[Array, "*n"] | float:
        """Shares of ``E[g^2]`` of coordinates whose ``v w*^2`` add up to ``part`` of ``rho``."""
        return part

    def order(self, V, rho) -> Order:
        """What rules need of the residual of variance ``V``."""
        return Order(V, self.gain(rho))

    def observables(self, rho, overlap, square) -> dict[str, Array]:
        """Observables of this model alone, from the covariance ``rho, overlap, square`` of the two outputs."""
        return {}


class Sign(Linear):
    """``g(out) = sign(out)``: two classes. The residual is not Gaussian."""

    gaussian = False

    def gain(self, rho):
        return jnp.sqrt(2 / (np.pi * rho))

    def power(self, part, rho):
        return part / rho

    def observables(self, rho, overlap, square):
        alike = overlap / jnp.sqrt(jnp.where(square > 0, rho * square, 1.0))
        return {"classification_error": jnp.arccos(jnp.clip(alike, -1.0, 1.0)) / np.pi}


MODELS: dict[str, Linear] = {"linear": Linear(), "sign": Sign()}
