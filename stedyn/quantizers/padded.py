"""Quantizers of one shape: levels filled up, so that programs for different bit widths are the same."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .pieces import Pieces, pieces_of
from .quantizer import Quantizer

#: The least number of levels of a program, and by what it grows where there are more.
LEAST, GROWTH = 32, 8


class PaddedQuantizer(eqx.Module):
    """A quantizer as programs of the limit take it, with the number of levels filled up to 32, 256, 2048, ...

    The last ``spare`` of the levels, ``range`` times ``unit``, repeat the largest; no weight reaches the breaks between
    them (`stedyn.quantizers.pieces.pieces_of`), so that every average is that of the quantizer.
    """

    range: Float[Array, ""]
    unit: Float[Array, " L"]
    spare: Int[Array, ""]
    rounding: str = eqx.field(static=True)
    is_none: ClassVar[bool] = False

    def __init__(self, quantizer: Quantizer):
        number = quantizer.n_levels
        size = LEAST
        while size < number:
            size *= GROWTH
        self.range, self.rounding = jnp.asarray(quantizer.range), quantizer.rounding
        unit = quantizer.unit
        if quantizer.explicit is not None:
            unit = np.asarray(quantizer.explicit) / np.asarray(quantizer.range)
        self.unit, self.spare = (
            jnp.asarray(np.pad(unit, (0, size - number), "edge")),
            jnp.asarray(size - number),
        )

    @property
    def levels(self) -> Float[Array, " L"]:
        """The levels, the last ones equal."""
        return self.range * self.unit

    @property
    def pieces(self) -> Pieces:
        """As `Quantizer.pieces`, with pieces that no weight reaches."""
        return pieces_of(self.levels, self.rounding, self.spare)


def padded(problem):
    """The same problem with the levels of its weights, in all phases, filled up, as programs take it."""

    def one(record):
        if record.weights is None or record.weights.is_none:
            return record
        return eqx.tree_at(lambda record: record.weights, record, PaddedQuantizer(record.weights))

    problem = one(problem)
    if not problem.phases:
        return problem
    return eqx.tree_at(lambda problem: problem.phases, problem, tuple(map(one, problem.phases)))
