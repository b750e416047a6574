"""Quantizers of one shape: levels filled up, so that programs for different bit widths are the same."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..checks import any_traced
from .pieces import Pieces, pieces_of
from .quantizer import Quantizer

#: Numbers of levels of a program: the least, and by what it grows where there are more. Rules that average over the
#: levels of inputs pay for each of these.
WEIGHTS, INPUTS = (32, 8), (16, 16)


class PaddedQuantizer(eqx.Module):
    """A quantizer as programs of the limit take it, with the number of levels filled up to one of few sizes.

    The last ``spare`` of the levels, ``range`` times ``unit``, repeat the largest; no weight reaches the breaks between
    them (`stedyn.quantizers.pieces.pieces_of`), so that every average is that of the quantizer.
    """

    range: Float[Array, ""]
    unit: Float[Array, " L"]
    spare: Int[Array, ""]
    rounding: str = eqx.field(static=True)
    is_none: ClassVar[bool] = False

    def __init__(self, quantizer: Quantizer, sizes: tuple[int, int]):
        number, (size, growth) = quantizer.n_levels, sizes
        while size < number:
            size *= growth
        self.range, self.rounding = jnp.asarray(quantizer.range), quantizer.rounding
        spare = size - number
        xp, unit = jnp if any_traced(quantizer) else np, quantizer.unit  # numbers need no program
        if quantizer.explicit is not None:
            unit = xp.asarray(quantizer.explicit) / xp.asarray(quantizer.range)
        self.unit = jnp.asarray(xp.pad(unit, (0, spare), "edge"))
        self.spare = jnp.asarray(spare)

    @property
    def levels(self) -> Float[Array, " L"]:
        """The levels, the last ones equal."""
        return self.range * self.unit

    @property
    def pieces(self) -> Pieces:
        """As `Quantizer.pieces`, with pieces that no weight reaches."""
        return pieces_of(self.levels, self.rounding, self.spare)


def filled_up(quantizer, sizes: tuple[int, int]):
    """The same quantizer with its levels filled up, unless it is None, has none, or is filled up already."""
    has_levels = isinstance(quantizer, Quantizer) and not quantizer.is_none
    return PaddedQuantizer(quantizer, sizes) if has_levels else quantizer


def padded(problem):
    """The same problem with the levels of its weights and inputs, in all phases, filled up, as programs take it."""

    def one(record):
        both = filled_up(record.weights, WEIGHTS), filled_up(record.inputs, INPUTS)
        return eqx.tree_at(
            lambda record: (record.weights, record.inputs), record, both, is_leaf=lambda leaf: leaf is None
        )

    problem = one(problem)
    if not problem.phases:
        return problem
    return eqx.tree_at(lambda problem: problem.phases, problem, tuple(map(one, problem.phases)))
