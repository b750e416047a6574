"""The state of the loop: that of every coordinate, and that which a seed has once, as a pytree.

Loop, GPU block, checkpoint and devices know no more of it than this: every array of `State.parts` has one number for
each coordinate, every array of `State.seed` one for each seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, Shaped

from .model import Model

#: Floats, or any numbers, of all coordinates in two halves, see `layout`.
Halves = tuple[Float32[Array, "S *P"], Float32[Array, "S *P"]]
Pair = tuple[Shaped[Array, "S *P"], Shaped[Array, "S *P"]]


class Coordinate(NamedTuple):
    """Some coordinates: weights ``w`` as ``weight + i rest`` or codes of a lattice, and what the rule remembers."""

    w: Array
    memory: Any


class State(NamedTuple):
    """The two halves of the coordinates, or on the host all of them together; and what the rule remembers of a seed."""

    parts: Any
    seed: Any


def encode(model: Model, w: Halves) -> State:
    """The state at the start of a run from latent weights, which have no rest yet."""
    memory = model.rule.state

    def coordinate(w):
        own = jax.tree.map(lambda first: jnp.full_like(w, first), memory.own)
        return Coordinate(
            lax.complex(w, jnp.zeros_like(w)) if model.lattice is None else model.lattice.encode(w), own
        )

    seed = jax.tree.map(lambda first: jnp.full_like(w[0][:, :1], first), memory.seed)
    return State((coordinate(w[0]), coordinate(w[1])), seed)


def latent(model: Model, state: State) -> Halves:
    """The latent weights of a state."""
    value = lax.real if model.lattice is None else model.lattice.decode
    return value(state.parts[0].w), value(state.parts[1].w)


def joined(state: State, join: Callable) -> State:
    """The state with all coordinates in order; ``join`` does that for an array in halves."""
    return State(jax.tree.map(lambda a, b: join((a, b)), *state.parts), state.seed)


def halved(state: State, cut: Callable) -> State:
    """The inverse of `joined`."""
    both = jax.tree.map(cut, state.parts)
    parts = [jax.tree.map(lambda _, pair, k=k: pair[k], state.parts, both) for k in range(2)]
    return State((parts[0], parts[1]), state.seed)
