"""Coordinates in two halves, as the generator makes numbers in pairs, and sums over them in a fixed order."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex64, Float32

Halves = tuple[Float32[Array, "S P"], Float32[Array, "S P"]]
_INT32_MAX = 2**31 - 1
_FOLD = 8  # slices added at a time


def halves(values: Float32[Array, "S d"]) -> Halves:
    """Coordinates ``[0, P)`` and ``[P, d)`` with ``P = ceil(d / 2)``, both padded with 0 to a round width."""
    dim = values.shape[1]
    first = -(-dim // 2)
    width = -(-first // _FOLD) * _FOLD
    parts = values[:, :first], values[:, first:]
    a, b = (jnp.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts)
    return a, b


def whole(parts: Halves, dim: int) -> Float32[Array, "S d"]:
    """The coordinates in order: the inverse of `halves`."""
    first = -(-dim // 2)
    return jnp.concatenate([parts[0][:, :first], parts[1][:, : dim - first]], axis=1)


def split(z: Complex64[Array, "*n"] | None):
    """The halves of complex numbers: real and imaginary part."""
    return (None, None) if z is None else (lax.real(z), lax.imag(z))


def fold(x: Array, bound: int | None = None) -> Float32[Array, "S 1"]:
    """Sum over the last axis in a fixed order, as float32.

    Integers, at most ``bound`` in absolute value, are added exactly in int32 in blocks whose sums
    cannot overflow; the block sums are added in float32.
    """
    while x.shape[1] > 1:
        count = min(_FOLD, x.shape[1])
        width = -(-x.shape[1] // count)
        if bound is not None:
            bound = bound * count
            if bound > _INT32_MAX:
                bound, x = None, x.astype(jnp.float32)
        x = jnp.pad(x, ((0, 0), (0, width * count - x.shape[1])))
        parts = [x[:, k * width : (k + 1) * width] for k in range(count)]
        while len(parts) > 1:
            odd = parts[len(parts) & ~1 :]
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
        x = parts[0]
    return x.astype(jnp.float32)
