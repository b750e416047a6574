"""Quantizers with equally spaced levels as plain numbers, for the names of other libraries."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..checks import choice, fail
from .quantizer import Quantizer


class Grid(NamedTuple):
    """A quantizer with equally spaced levels, as plain numbers.

    ``family`` counts sign to mid-rise, ternary to mid-tread, int4 to two's complement; ``level`` and ``bin`` are the
    ranges of the two edge conventions in units of the step; ``half = 2^(bits - 1)``; ``zero`` is the zero point of
    unsigned integers.
    """

    kind: str
    family: str
    bits: int
    half: int
    range: float
    step: float
    level: float
    bin: float
    edge: str
    rounding: str
    zero: int


def grid(quantizer: Quantizer) -> Grid:
    """The numbers of a quantizer; ValueError for kinds whose levels are not equally spaced, or a list."""
    if quantizer.lattice is None or quantizer.bits is None or quantizer.range is None:
        fail("quantizer", "equally spaced levels", f"kind {quantizer.kind!r}", "choose another kind")
    unit, lowest, offset = quantizer.lattice
    family = {"sign": "mid-rise", "ternary": "mid-tread", "int4": "twos-complement"}.get(
        quantizer.kind, quantizer.kind
    )
    width, level = float(quantizer.range), max(-(lowest + offset), lowest + quantizer.n_levels - 1 + offset)
    outside = -0.5 if family == "twos-complement" else 0.5
    edge = "level" if family != quantizer.kind else quantizer.edge
    return Grid(
        quantizer.kind,
        family,
        quantizer.bits,
        2 ** (quantizer.bits - 1),
        width,
        width * unit,
        level,
        level + outside,
        edge,
        quantizer.rounding,
        -lowest,
    )


def lattice(step: float, lowest: float, count: int, rounding: str, library: str) -> Quantizer:
    """The quantizer with ``count`` levels from ``lowest * step`` on."""
    bits = count.bit_length() if count % 2 else count.bit_length() - 1
    if count == 2**bits and lowest == -(count - 1) / 2:
        kind = "mid-rise"
    elif count == 2**bits - 1 > 1 and lowest == -(count - 1) / 2:
        kind = "mid-tread"
    elif count == 2**bits and lowest == -count / 2:
        kind = "twos-complement"
    elif count == 2**bits > 1 and lowest % 1 == 0 and 0 <= -lowest < count:
        top = max(-lowest, lowest + count - 1)
        return Quantizer(bits, top * step, kind="unsigned", rounding=rounding, zero_point=int(-lowest))
    else:
        bounds = f"{count} from {lowest * step:g} to {(lowest + count - 1) * step:g}"
        fix = "list the levels with Quantizer(kind='levels', levels=[...]) if there are two or more"
        fail(library, "2^bits levels of which one is 0, or symmetric ones", bounds, fix)
    return Quantizer(bits, -lowest * step, kind=kind, rounding=rounding)


def flag(name: str, value: Any) -> bool:
    return bool(choice(name, value, (True, False)))
