"""Quantizers inside the kernel: integer codes on a lattice, float32 levels otherwise.

A lattice level is ``unit * code`` with an integer ``code``: the index of the level where the lattice
contains 0, and the odd number ``2k + 1`` (with half the step as unit) for mid-rise lattices, which
have no level at 0. Codes take int8, or int16 where they do not fit: of 8-bit mid-rise lattices (odd numbers
up to 255) and 8-bit unsigned ones. Above 8 bits, and for explicit levels, values are float32.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32

from ..quantizers.quantizer import Quantizer

#: Largest bit width on the integer path.
INTEGER_BITS = 8
#: Up to here explicit levels are found by comparisons that vectorise, beyond by bisection.
_COMPARED_LEVELS = 33
_MAGIC = 1.5 * 2.0**23  # adding it leaves a small integer in the low bits of a float32
_MAGIC_BITS = 0x4B400000


class Coder(eqx.Module):
    """A quantizer as the kernel applies it; built from a `Quantizer` by `coder`.

    Attributes
    ----------
    step, inverse : float32 array
        Spacing of the lattice and its reciprocal (0 without one).
    levels : float32 array (L,) or None
        Explicit levels.
    lowest, count, half : int, int, bool
        First index of the lattice, number of levels, whether levels sit at half-integers.
    stochastic : bool
        Whether rounding needs a uniform number.
    integer : bool
        Whether `code` gives integers.
    """

    step: Float32[Array, ""]
    inverse: Float32[Array, ""]
    levels: Float32[Array, " L"] | None
    lowest: int = eqx.field(static=True)
    count: int = eqx.field(static=True)
    half: bool = eqx.field(static=True)
    stochastic: bool = eqx.field(static=True)
    integer: bool = eqx.field(static=True)

    @property
    def bound(self) -> int:
        """Largest absolute code."""
        if self.half:
            return max(abs(2 * self.lowest + 1), abs(2 * (self.lowest + self.count) - 1))
        return max(abs(self.lowest), abs(self.lowest + self.count - 1))

    @property
    def unit(self) -> Float32[Array, ""]:
        """Level of code 1."""
        return self.step * jnp.float32(0.5) if self.half else self.step

    def code(self, w: Float32[Array, "*n"], u: Float32[Array, "*n"] | None):
        """The code of every entry: int8 or int16 if `integer`, otherwise the level itself.

        ``u ~ U(0, 1)`` is needed by stochastic rounding, and None otherwise.
        """
        if self.count == 0:
            return w
        if self.stochastic and u is None:
            raise ValueError(
                "stochastic rounding needs u, uniform on (0, 1), with one entry for each weight."
            )
        if self.levels is not None:
            return self._search(w, u)
        low, high = jnp.float32(self.lowest), jnp.float32(self.lowest + self.count - 1)
        place = w * self.inverse - jnp.float32(0.5 if self.half else 0.0)
        if u is not None:
            place = jnp.clip(place, low, high)
            index = jnp.floor(place)
            index = index + (place - index > u).astype(jnp.float32)
        else:
            index = jnp.clip(jnp.floor(place + jnp.float32(0.5)), low, high)
        if not self.integer:
            return (index + jnp.float32(0.5 if self.half else 0.0)) * self.step
        number = index * jnp.float32(2.0) + jnp.float32(1.0) if self.half else index
        bits = lax.bitcast_convert_type(number + jnp.float32(_MAGIC), jnp.int32) - jnp.int32(_MAGIC_BITS)
        ends = (2 * self.lowest + 1, self.bound) if self.half else (self.lowest, self.lowest + self.count - 1)
        return bits.astype(jnp.int8 if -128 <= ends[0] and ends[1] <= 127 else jnp.int16)

    def value(self, code) -> Float32[Array, "*n"]:
        """The level of every code."""
        return code.astype(jnp.float32) * self.unit if self.integer else code

    @property
    def rounding(self) -> str:
        """``"nearest"`` or ``"stochastic"``."""
        return "stochastic" if self.stochastic else "nearest"

    def round(self, w: Float32[Array, "*n"], u: Float32[Array, "*n"] | None = None) -> Float32[Array, "*n"]:
        """The level of every entry, like `Quantizer.round`."""
        return self.value(self.code(w, u))

    def _search(self, w, u):
        levels, last = self.levels, self.count - 1
        if not self.stochastic:
            thresholds = jnp.float32(0.5) * (levels[1:] + levels[:-1])
            if self.count > _COMPARED_LEVELS:
                return levels[jnp.searchsorted(thresholds, w, side="right")]
            value = jnp.broadcast_to(levels[0], w.shape)
            for k in range(last):
                value = jnp.where(w >= thresholds[k], levels[k + 1], value)
            return value
        if self.count > _COMPARED_LEVELS:
            low = jnp.clip(jnp.searchsorted(levels, w, side="right") - 1, 0, last - 1)
            below, above = levels[low], levels[low + 1]
        else:
            below, above = (jnp.broadcast_to(levels[k], w.shape) for k in (0, 1))
            for k in range(1, last):
                inside = w >= levels[k]
                below, above = jnp.where(inside, levels[k], below), jnp.where(inside, levels[k + 1], above)
        return jnp.where((w - below) > u * (above - below), above, below)


def coder(quantizer: Quantizer) -> Coder:
    """The kernel's form of a quantizer, with float32 arrays."""
    stochastic = quantizer.rounding == "stochastic"
    zero = jnp.zeros((), jnp.float32)
    if quantizer.lattice is None:
        levels = None if quantizer.is_none else jnp.asarray(quantizer.levels, jnp.float32)
        return Coder(zero, zero, levels, 0, quantizer.n_levels, False, stochastic, False)
    _, lowest, offset = quantizer.lattice
    step = jnp.asarray(quantizer.step, jnp.float32)
    integer = quantizer.n_levels <= 2**INTEGER_BITS
    return Coder(
        step, jnp.float32(1.0) / step, None, lowest, quantizer.n_levels, offset != 0, stochastic, integer
    )
