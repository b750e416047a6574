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


class Scale(NamedTuple):
    """A learned range (S, 1) in units of that of the problem, with the rest that float32 cannot hold."""

    value: Float32[Array, "S 1"]
    rest: Float32[Array, "S 1"]


class State(NamedTuple):
    """The two halves of the coordinates, or on the host all together; what a seed remembers: rule, learned range."""

    parts: Any
    seed: Any
    scale: Scale | None = None


def encode(model: Model, w: Halves) -> State:
    """The state at the start of a run from latent weights, which have no rest yet."""
    memory = model.rule.state

    def coordinate(w):
        own = jax.tree.map(lambda first: jnp.full_like(w, first), memory.own)
        return Coordinate(
            lax.complex(w, jnp.zeros_like(w)) if model.lattice is None else model.lattice.encode(w), own
        )

    def once(first):
        return jnp.full_like(w[0][:, :1], first)

    learns = model.range is not None and model.range.rule.learned
    scale = Scale(once(1.0), once(0.0)) if learns else None
    return State((coordinate(w[0]), coordinate(w[1])), jax.tree.map(once, memory.seed), scale)


def latent(model: Model, state: State) -> Halves:
    """The latent weights of a state."""
    value = lax.real if model.lattice is None else model.lattice.decode
    return value(state.parts[0].w), value(state.parts[1].w)


def joined(state: State, join: Callable) -> State:
    """The state with all coordinates in order; ``join`` does that for an array in halves."""
    return State(jax.tree.map(lambda a, b: join((a, b)), *state.parts), state.seed, state.scale)


def halved(state: State, cut: Callable) -> State:
    """The inverse of `joined`."""
    both = jax.tree.map(cut, state.parts)
    parts = [jax.tree.map(lambda _, pair, k=k: pair[k], state.parts, both) for k in range(2)]
    return State((parts[0], parts[1]), state.seed, state.scale)
