"""The mean square error of rounding weights, as a function of the range."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..checks import in_float64
from ..quantizers.formats import FORMATS
from ..quantizers.lattices import grid
from ..quantizers.quantizer import Quantizer
from .weight_law import WeightLaw

#: Numbers held at once while many ranges are tried.
_BLOCK = 2**20


class UnitPieces(NamedTuple):
    """The `stedyn.quantizers.pieces.Pieces` of the quantizer with range 1, in 64 bits."""

    breaks: Float[np.ndarray, " B"]
    first: Float[np.ndarray, "K 2"]
    second: Float[np.ndarray, "K 3"]


def outermost(quantizer: Quantizer) -> float:
    """The outermost level for range 1; refuses levels that are a list, and none."""
    if quantizer.kind in FORMATS:
        return 1.0
    numbers = grid(quantizer)
    return numbers.level * numbers.step / numbers.range


@in_float64
def unit_pieces(quantizer: Quantizer) -> UnitPieces:
    """The pieces for range 1; refuses levels that are a list, and none."""
    outermost(quantizer)
    return UnitPieces(*(np.asarray(array) for array in quantizer.with_range(1.0).pieces))


def tried_ranges(law: WeightLaw, outermost: float, breaks: int) -> Float[np.ndarray, " N"]:
    """Ranges on a logarithmic grid, with four steps to the spacing of the outermost levels."""
    low, high = law.mean_abs / 20, 8 * law.reach
    spacing = 1 / min(2 * (breaks + 1), 512)
    points = min(int(np.log(high / low) / spacing), max(4 * _BLOCK // breaks, 64))
    return np.geomspace(low, high, points) / outermost


def rounding_errors(
    law: WeightLaw, pieces: UnitPieces, ranges: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """``E[(w - Q_R(w))^2]``: with ``v = w/R`` and ``Q_R(w) = R Q_1(v)`` it needs the moments of ``v``."""
    parts = []
    for some in np.array_split(ranges, -(-ranges.size * (pieces.breaks.size + 1) // _BLOCK)):
        zeroth, first, second = law.partial(pieces.breaks, some)
        square = zeroth @ pieces.second[:, 0] + first @ pieces.second[:, 1] + second @ pieces.second[:, 2]
        product = first @ pieces.first[:, 0] + second @ pieces.first[:, 1]
        parts.append(some**2 * (square - 2 * product) + law.mean_square)
    return np.concatenate(parts)
