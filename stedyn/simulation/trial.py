"""The first use of a faster loop: some steps of the problem beside the plain one, which goes on where they differ."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .layout import whole
from .state import State, latent

#: Most trials, of which each seed has to agree in one.
TRIES = 4
#: How far apart a weight may come, in root mean square distances that the weights of its seed have moved.
APART = 2.0**-8
#: Part of the coordinates and steps that may round otherwise at a threshold; on a lattice every move is rounded.
TIES, LATTICE_TIES = 1e-6, 1e-5

Advance = Callable[..., State]


def length(dim: int) -> int:
    """Steps of a trial: 128, fewer beyond 2^15 dimensions, where ties are so many that runs part soon."""
    return max(16, min(128, 2**22 // dim))


def difference(fast: Advance, plain: Advance, arguments: tuple) -> str | None:
    """How two loops (`programs.Programs.advance`) differ in some steps from the state of a call; None if they agree.

    They add in another order and round products otherwise, so that residuals differ by some ``1e-7``, and now and
    then an input or a weight within that of a threshold gets another code: that moves one weight by a part of a step,
    and all others of its seed a little. So a seed agrees if all its weights but a part `TIES` of its coordinates and
    steps differ by at most `APART` of the distance moved. It has to in one of `TRIES` trials, which have other draws.
    """
    model, seeds, fixed, state, low, high, _ = arguments
    steps, ties = length(model.dim), TIES if model.lattice is None else LATTICE_TIES
    start = _weights(model, state)
    agree = np.zeros(len(start), bool)
    for k in range(TRIES):
        trial = model, seeds + np.uint32(k), fixed, state, low, high, np.int32(steps)
        expected, made = (_weights(model, advance(*trial)) for advance in (plain, fast))
        reach = APART * np.sqrt(np.mean((expected - start) ** 2, axis=1, keepdims=True))
        apart = np.abs(made - expected)
        far = ~(apart <= reach)  # nan is far, too
        agree |= far.sum(axis=1) <= ties * steps * model.dim
        if agree.all():
            return None
    far, apart = far[~agree], apart[~agree]
    return f"{far.sum()} of {far.size} weights by up to {apart.max():.2g} in {steps} steps"


def _weights(model, state: State) -> np.ndarray:
    return np.asarray(whole(latent(model, state), model.dim), float)


class Tried:
    """The fast loop where it agrees with the plain one, and the plain loop otherwise.

    Found by `difference` at the first call of every kind (device, program of the problem) and kept while the process
    lives. A fast loop that fails or differs gets one warning.

    Parameters
    ----------
    name : str
        What the warning calls the fast loop.
    fast, plain : callable
        Two `programs.Programs.advance`.
    covers : callable
        Whether the fast loop is meant for these arguments; no warning if it is not.
    first : callable
        The step, given the arguments, at which the trial begins.
    """

    def __init__(self, name: str, fast: Advance, plain: Advance, covers: Callable[..., bool], first):
        self.name, self.fast, self.plain, self.covers, self.first = name, fast, plain, covers, first
        self._works: dict[Any, bool] = {}
        self._lock = threading.Lock()

    def __call__(self, *arguments) -> State:
        leaves, structure = jax.tree.flatten(arguments)
        kind = next(iter(jnp.asarray(arguments[1]).devices())).device_kind
        key = kind, structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        with self._lock:
            if key not in self._works:
                self._works[key] = self.covers(*arguments) and self._agrees(arguments)
        return (self.fast if self._works[key] else self.plain)(*arguments)

    def _agrees(self, arguments) -> bool:
        model, seeds, fixed, state, *_ = arguments
        try:
            steps = model, seeds, fixed, state, np.uint32(self.first(*arguments)), np.uint32(0), np.int32(0)
            found = difference(self.fast, self.plain, steps)
            problem = f"differs from the plain loop ({found})"
        except Exception as error:  # whatever a rule defined in Python may do to the translation
            found = (str(error).strip() or type(error).__name__).splitlines()[0]
            problem = f"cannot run the rule {type(model.rule).__name__} ({found})"
        if found is not None:
            warnings.warn(
                f"{self.name} {problem}; the plain loop, which is slower, runs instead.", stacklevel=3
            )
        return found is None
