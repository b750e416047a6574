"""Functions of a scale, tabulated once and interpolated: cubic in the logarithm of the scale."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Nodes of a table.
NODES = 433


class Table(eqx.Module):
    """``f(s (K,))``, a NamedTuple of ``(K,)``, for ``s >= 0``: exact at 0, interpolated in ``[low, high]``.

    Between its nodes a table is a cubic with continuous derivative (error of fourth order in their
    distance, ``log(high / low) / 432``). Below ``low`` and above ``high`` it is held constant.
    """

    values: tuple
    slopes: tuple
    at_zero: tuple
    low: Float[Array, ""]
    spacing: Float[Array, ""]

    def __init__(self, f: Callable, low: float, high: float):
        grid = jnp.linspace(jnp.log(low), jnp.log(high), NODES)
        every = f(jnp.concatenate([jnp.zeros(1), jnp.exp(grid)]))
        self.at_zero = jax.tree.map(lambda y: y[0], every)
        self.values = jax.tree.map(lambda y: y[1:], every)
        self.slopes = jax.tree.map(_slopes, self.values)
        self.low, self.spacing = grid[0], grid[1] - grid[0]

    def __call__(self, s: Float[Array, "*n"]):
        positive = s > 0
        place = (jnp.log(jnp.where(positive, s, 1.0)) - self.low) / self.spacing
        place = jnp.clip(place, 0.0, NODES - 1.0)
        k = jnp.clip(place.astype(int), 0, NODES - 2)
        t = place - k

        def cubic(y: Array, slope: Array, zero: Array):
            rise = y[k + 1] - y[k]
            bend = (slope[k] - rise) * (1 - t) + (rise - slope[k + 1]) * t
            return jnp.where(positive, y[k] + t * rise + t * (1 - t) * bend, zero)

        return jax.tree.map(cubic, self.values, self.slopes, self.at_zero)


def _slopes(y: Array) -> Array:
    """Derivatives at the nodes, per node distance: central, of fourth order inside."""
    inner = (8 * (y[3:-1] - y[1:-3]) - (y[4:] - y[:-4])) / 12
    second = (y[2:] - y[:-2]) / 2
    return jnp.concatenate([y[1:2] - y[:1], second[:1], inner, second[-1:], y[-1:] - y[-2:-1]])
