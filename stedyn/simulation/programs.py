"""The compiled loops of a platform."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float32

from . import kernel
from .layout import Spread
from .state import State


class Programs(NamedTuple):
    """The two jitted functions; ``low, high`` are the words of the first step, ``n`` the number of steps.

    A call must not cross a multiple of ``2^32`` steps. ``advance(model, seeds, fixed, state, low, high, n)``
    returns the state after them; ``flips`` (same arguments) the number of level changes, summed over the
    steps (S,).
    """

    advance: Callable[..., State]
    flips: Callable[..., Float32[Array, " S"]]


@functools.cache
def programs(platform: str, spread: Spread | None = None) -> Programs:
    """The compiled functions for a platform, with full vectors on CPUs (XLA's default is 256 bits).

    On a GPU ``advance`` is the kernel of `gpu` for what that covers, unless coordinates are spread over several.
    """
    options = {"xla_cpu_prefer_vector_width": 512} if platform == "cpu" else {}
    if spread is not None:
        return Programs(spread.jit(kernel.advance, True, options), spread.jit(kernel.flips, False, options))
    advance, flips = (jax.jit(f, compiler_options=options) for f in (kernel.advance, kernel.flips))
    if platform in ("gpu", "cuda"):
        from .gpu import or_else  # Pallas is slow to import

        return Programs(or_else(advance), flips)
    return Programs(advance, flips)
