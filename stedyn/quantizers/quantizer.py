r"""Quantizers: levels, thresholds and rounding.

A quantizer is a nondecreasing step function with ``L`` levels and ``L - 1`` thresholds. Six
geometries are in use (``docs/theory.md``, section 2); with range ``R`` and
``b`` bits they are

=================  =======================================================================
kind, edge         levels
=================  =======================================================================
mid-rise, level    ``linspace(-R, R, 2^b)``
mid-rise, bin      centres of ``2^b`` equal bins tiling ``[-R, R]``
mid-tread, level   ``linspace(-R, R, 2^b - 1)``, contains 0
mid-tread, bin     centres of ``2^b - 1`` equal bins tiling ``[-R, R]``
twos-complement    ``{-2^(b-1), ..., 2^(b-1) - 1} * step``; ``level``: the lowest level is
                   ``-R`` (step ``R/2^(b-1)``); ``bin``: step ``R/(2^(b-1) - 1/2)``
unsigned           ``{-z, ..., 2^b - 1 - z} * step`` with the zero point ``z``, 0 by default;
                   ``level``: ``R`` is the largest absolute level, the top one for ``z = 0``;
                   ``bin``: the outer edge of its bin, half a step beyond
=================  =======================================================================

plus ``sign`` (levels ``-R, R``), ``ternary`` (``-R, 0, R``), ``int4`` (two's complement with 4 bits), the formats of
`stedyn.quantizers.formats` (``R`` is the largest absolute level), explicit ``levels`` and ``none``.
Rounding is to the nearest level (a tie goes up) or stochastic between the two neighbours.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import InputError, checked, choice, fail, finite, is_traced, positive, several, whole
from .formats import FORMATS, MOST_POWER_BITS, NAMED, format_levels
from .pieces import Pieces, pieces_of

KINDS = ("mid-rise", "mid-tread", "twos-complement", "unsigned", "sign", "ternary", *NAMED, "levels", "none")
EDGES = ("level", "bin")
ROUNDINGS = ("nearest", "stochastic")
#: Bits of the kinds that have one number of them.
FIXED_BITS = {"sign": 1, "ternary": 2, "int4": 4} | {name: bits for name, bits in FORMATS.items() if bits}
#: Kinds whose levels are not those of their negatives.
_ONE_SIDED = ("twos-complement", "unsigned", "int4", "nf4", "levels")
MAX_BITS = 16


Numbers = Float[Array | np.ndarray, "*n"]


class Quantizer(eqx.Module):
    """A scalar quantizer ``Q``, applied elementwise.

    Parameters
    ----------
    bits : int or None
        Bit width; 1 to 16. Not used by ``levels`` and ``none``.
    range : float
        ``R`` of the table above, in units of the weights. For ``levels`` it is the largest
        absolute level; for ``none`` it only serves the clipped straight-through estimator.
    kind, edge, rounding : str
        See the module. ``edge`` is used by mid-rise, mid-tread, twos-complement and unsigned.
    levels : sequence of float
        The levels of ``kind="levels"``: at least two, strictly increasing.
    zero_point : int, optional
        Of ``kind="unsigned"``: the index of the level 0, from 0 to ``2^bits - 1``; 0 by default.

    Raises
    ------
    ValueError
        With one sentence: which field, what was expected, what was found.
    """

    bits: int | None = eqx.field(static=True)
    range: Float[Array, ""] | float | None
    kind: str = eqx.field(static=True)
    edge: str = eqx.field(static=True)
    rounding: str = eqx.field(static=True)
    explicit: tuple[float, ...] | None
    zero_point: int | None = eqx.field(static=True)
    spare: ClassVar[int] = 0

    @checked()
    def __init__(
        self,
        bits=None,
        range=None,
        *,
        kind="mid-rise",
        edge="level",
        rounding="nearest",
        levels=None,
        zero_point=None,
    ):
        self.kind = choice("kind", kind, KINDS)
        self.edge = choice("edge", edge, EDGES)
        if self.edge == "bin" and kind in NAMED:
            fail(
                "edge",
                f"'level' for kind {kind!r}, whose range is its largest absolute level",
                edge,
                "leave it out",
            )
        self.rounding = choice("rounding", rounding, ROUNDINGS)
        self.zero_point = None
        if zero_point is not None and kind != "unsigned":
            fail("zero_point", "it with kind = 'unsigned' only", f"kind = {kind!r}", "set kind = 'unsigned'")
        if kind == "levels":
            self.explicit = _checked_levels(levels)
            self.bits = None if bits is None else whole("bits", bits, 1, MAX_BITS)
            if bits is not None and len(self.explicit) > 2**bits:
                fail("levels", f"at most 2^bits = {2**bits} of them", len(self.explicit), "raise bits")
            largest = max(abs(self.explicit[0]), abs(self.explicit[-1]))
            if range is not None and not is_traced(range) and finite("range", range) != largest:
                fail(
                    "range", f"the largest absolute level {largest} for kind 'levels'", range, "leave it out"
                )
            self.range = largest
            return
        if levels is not None:
            fail("levels", "only kind = 'levels' takes them", f"kind = {kind!r}", "set kind = 'levels'")
        self.explicit = None
        if kind == "none":
            self.bits, self.rounding = None, "nearest"
            self.range = None if range is None else positive("range", range)
            return
        fixed = FIXED_BITS.get(kind)
        if fixed is not None:
            if bits is not None and bits != fixed:
                fail("bits", f"{fixed} for kind {kind!r}", bits, "leave it out")
            bits = fixed
        if bits is None:
            fail("bits", f"a whole number from 1 to {MAX_BITS}", None, f"set it, as kind {kind!r} needs it")
        least, most = 2 if kind in ("mid-tread", "power-of-two") else 1, MAX_BITS
        self.bits = whole("bits", bits, least, MOST_POWER_BITS if kind == "power-of-two" else most)
        if range is None:
            fail("range", "a positive number", None, f"set it, as kind {kind!r} needs it")
        self.range = positive("range", range)
        if kind == "unsigned":
            self.zero_point = whole(
                "zero_point", 0 if zero_point is None else zero_point, 0, 2**self.bits - 1
            )

    def with_range(self, range) -> Quantizer:
        """The same quantizer with another range; ValueError for explicit levels, which have none of their own."""
        if self.explicit is not None:
            fail(
                "range",
                "a quantizer given by bits and range",
                f"kind {self.kind!r}",
                "scale its levels instead",
            )
        return self.with_bits(self.bits, range)

    def with_bits(self, bits: int | None, range) -> Quantizer:
        """A quantizer of the same geometry and rounding with other bits (None where the kind fixes them) and range."""
        return Quantizer(
            bits,
            range,
            kind=self.kind,
            edge=self.edge,
            rounding=self.rounding,
            zero_point=self.zero_point,
        )

    @property
    def is_none(self) -> bool:
        """Whether this is the identity."""
        return self.kind == "none"

    @property
    def lattice(self) -> tuple[float, int, float] | None:
        """``(unit_step, lowest, offset)``: levels are ``R * unit_step * (lowest + i + offset)``.

        ``unit_step`` is the step for range 1, ``lowest`` an integer and ``offset`` 0 or 1/2;
        None if the levels are not equally spaced or are a list (formats, ``levels``, ``none``).
        """
        if self.kind in ("none", "levels", *FORMATS):
            return None
        half = 2 ** (self.bits - 1)
        bin_edge = self.edge == "bin"
        if self.kind in ("mid-rise", "sign"):
            return (1 / half if bin_edge and self.kind == "mid-rise" else 1 / (half - 0.5), -half, 0.5)
        if self.kind in ("mid-tread", "ternary"):
            top = half - 1
            return (1 / (top + 0.5) if bin_edge and self.kind == "mid-tread" else 1 / top, -top, 0.0)
        if self.kind == "unsigned":
            largest = max(self.zero_point, 2 * half - 1 - self.zero_point)
            return (1 / (largest + 0.5) if bin_edge else 1 / largest, -self.zero_point, 0.0)
        return (1 / (half - 0.5) if bin_edge else 1 / half, -half, 0.0)

    @property
    def n_levels(self) -> int:
        """Number of levels ``L`` (0 for ``none``)."""
        if self.kind == "none":
            return 0
        if self.explicit is not None:
            return len(self.explicit)
        if self.kind in FORMATS:
            return format_levels(self.kind, self.bits).size
        return 2**self.bits - (1 if self.kind in ("mid-tread", "ternary") else 0)

    @property
    def symmetric(self) -> bool:
        """Whether the levels of this kind are those of their negatives, whatever the range."""
        return self.kind not in _ONE_SIDED

    @property
    def unit(self) -> Float[np.ndarray, " L"]:
        """The levels for range 1 (none for explicit levels, which have no range of their own)."""
        if self.kind in FORMATS:
            return format_levels(self.kind, self.bits)
        if (lattice := self.lattice) is None:
            return np.zeros(0)
        step, lowest, offset = lattice
        return step * (np.arange(self.n_levels) + lowest + offset)

    @property
    def levels(self) -> Float[Array, " L"]:
        """The levels, increasing (empty for ``none``)."""
        if self.explicit is not None:
            if any(is_traced(level) for level in self.explicit):
                return jnp.stack([jnp.asarray(level) * 1.0 for level in self.explicit])
            return jnp.asarray(np.array(self.explicit, dtype=float))
        if self.is_none:
            return jnp.zeros(0)
        largest = (jnp if is_traced(self.range) else np).asarray(self.range) * 1.0  # numbers need no program
        return jnp.asarray(largest * self.unit.astype(largest.dtype))

    @property
    def step(self) -> Float[Array, ""]:
        """Distance between neighbouring levels of a lattice; ValueError without one."""
        if self.lattice is None:
            raise InputError(
                f"a quantizer of kind {self.kind!r} has no single step; read its levels instead."
            )
        return jnp.asarray(self.range) * self.lattice[0]

    @property
    def thresholds(self) -> Float[Array, " T"]:
        """Midpoints between the levels: where nearest rounding changes its level."""
        levels = self.levels
        return 0.5 * (levels[1:] + levels[:-1])

    def round(self, w: Numbers, u: Numbers | None = None) -> Numbers:
        """The level of every entry of ``w``; ``u ~ U(0, 1)`` is needed by stochastic rounding."""
        return w if self.is_none else self.levels.astype(w.dtype)[self.index(w, u)]

    def index(self, w: Numbers, u: Numbers | None = None):
        """Index of the level of every entry of ``w``, int32 in ``[0, L)``."""
        if self.rounding == "nearest":
            return jnp.searchsorted(self.thresholds.astype(w.dtype), w, side="right").astype(jnp.int32)
        if u is None:
            raise InputError(
                "stochastic rounding needs u, uniform on (0, 1), with one entry for each weight."
            )
        levels = self.levels.astype(w.dtype)
        low = jnp.clip(jnp.searchsorted(levels, w, side="right") - 1, 0, self.n_levels - 2)
        fraction = (w - levels[low]) / (levels[low + 1] - levels[low])
        return low.astype(jnp.int32) + (fraction > u).astype(jnp.int32)

    @property
    def pieces(self) -> Pieces:
        """Conditional mean and mean square of the rounded value (see `Pieces`)."""
        if self.is_none:
            return Pieces(jnp.zeros(0), jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 0.0, 1.0]]))
        return pieces_of(self.levels, self.rounding)


def _checked_levels(levels) -> tuple[float, ...]:
    if levels is None:
        fail("levels", "at least two increasing numbers", None, "set them, as kind 'levels' needs them")
    levels = several("levels", levels)
    if any(is_traced(level) for level in levels):
        return levels
    values = tuple(float(finite("levels", level)) for level in levels)
    if not 2 <= len(values) <= 2**MAX_BITS:
        fail("levels", f"2 to {2**MAX_BITS} numbers", len(values), "list every level")
    if any(high <= low for low, high in zip(values, values[1:], strict=False)):
        fail("levels", "strictly increasing numbers", list(values), "sort them and drop repeats")
    return values


def as_arrays(tree):
    """Every float of a record as a float64 array, so that a new value is not a new compilation."""
    return jax.tree.map(
        lambda leaf: leaf if is_traced(leaf) else jnp.asarray(np.asarray(leaf, dtype=float)), tree
    )
