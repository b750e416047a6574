r"""Surrogate derivatives of the straight-through estimator (``docs/surrogates.md``).

A step moves a latent weight by ``h(w) U / sqrt(d)``. ``h`` is a record here: the simulation multiplies moves by it, and
the limit reads its cell averages, its time of passage and the ends where it vanishes.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Surrogate(eqx.Module):
    """A surrogate derivative ``h(w)``.

    Attributes
    ----------
    range : scalar or None
        Range ``R`` of the weights.
    name : str
        As in problem files.
    ends : bool
        Whether ``h`` vanishes beyond ``-R`` and ``R``.
    smooth : bool
        Whether ``h`` is continuous there: then a weight never reaches an end, else the ends absorb.
    """

    range: Float[Array, ""] | float | None
    name: ClassVar[str]
    ends: ClassVar[bool] = True
    smooth: ClassVar[bool] = False

    @property
    def end(self) -> Float[Array, ""] | float | None:
        """Where ``h`` vanishes on either side, or None."""
        return self.range if self.ends else None

    @abc.abstractmethod
    def __call__(self, w: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """``h(w)``."""

    def scaled(self, move: Array, w: Array) -> Array:
        """``h(w) move``."""
        return self(w) * move

    def passage(self, w: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """``int_0^w dv / h(v)``, finite also at the ends."""
        return w

    def square(self, faces: Float[Array, " F"]) -> Float[Array, " N"]:
        """Averages of ``h^2`` over cells."""
        return jnp.ones_like(faces[1:])


class Identity(Surrogate):
    """``h = 1``."""

    name = "identity"
    ends = False

    def __call__(self, w):
        return jnp.ones_like(w)

    def scaled(self, move, w):
        return move


class Clipped(Surrogate):
    """``h = 1{|w| <= R}``."""

    name = "clipped"

    def __call__(self, w):
        return jnp.where(jnp.abs(w) <= self.range, jnp.ones_like(w), jnp.zeros_like(w))

    def scaled(self, move, w):
        return jnp.where(jnp.abs(w) <= self.range, move, jnp.zeros_like(move))


class Triangular(Surrogate):
    """``h = max(0, 2 - 2 |w| / R)``: ApproxSign of Bi-Real Net (arXiv 1808.00278), whose ``R`` is 1, at any range.

    Its average over the range is 1.
    """

    name = "triangular"
    smooth = True

    def __call__(self, w):
        return jnp.maximum(2 - 2 * jnp.abs(w) / self.range, 0.0)

    def passage(self, w):
        left = jnp.maximum(1 - jnp.abs(w) / self.range, 1e-300)
        return -0.5 * self.range * jnp.sign(w) * jnp.log(left)

    def square(self, faces):
        low, high = faces[:-1], faces[1:]
        middle = jnp.clip(0.0, low, high)  # h is linear on either side of 0
        below, above = (_mean_square(self(a), self(b)) for a, b in ((low, middle), (middle, high)))
        return ((middle - low) * below + (high - middle) * above) / (high - low)


def _mean_square(a, b):
    """Average of the square of a linear function that goes from ``a`` to ``b``."""
    return (a**2 + a * b + b**2) / 3


SURROGATES: dict[str, type[Surrogate]] = {kind.name: kind for kind in (Identity, Clipped, Triangular)}
