r"""Quantizers: levels, thresholds, rounding, and their Gaussian moments in closed form.

A quantizer is a nondecreasing step function with ``L`` levels and ``L - 1`` thresholds. Five
symmetric or almost symmetric geometries are in use (``docs``, theory section 2); with range
``R`` and ``b`` bits they are

=================  =======================================================================
kind, edge         levels
=================  =======================================================================
mid-rise, level    ``linspace(-R, R, 2^b)``
mid-rise, bin      centres of ``2^b`` equal bins tiling ``[-R, R]``
mid-tread, level   ``linspace(-R, R, 2^b - 1)``, contains 0
mid-tread, bin     centres of ``2^b - 1`` equal bins tiling ``[-R, R]``
twos-complement    ``{-2^(b-1), ..., 2^(b-1) - 1} * step``; ``level``: the lowest level is
                   ``-R`` (step ``R/2^(b-1)``); ``bin``: step ``R/(2^(b-1) - 1/2)``
=================  =======================================================================

plus ``sign`` (levels ``-R, R``), ``ternary`` (``-R, 0, R``), explicit ``levels`` and ``none``.
Rounding is to the nearest level (a tie goes up) or stochastic between the two neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ._check import choice, fail, finite, is_traced, positive, whole

KINDS = ("mid-rise", "mid-tread", "twos-complement", "sign", "ternary", "levels", "none")
EDGES = ("level", "bin")
ROUNDINGS = ("nearest", "stochastic")
_FIXED_BITS = {"sign": 1, "ternary": 2}
MAX_BITS = 16


class Pieces(NamedTuple):
    """Mean and mean square of the rounded value, as polynomials on ``K`` intervals.

    On interval ``k`` (between ``breaks[k-1]`` and ``breaks[k]``, the outermost ones unbounded)
    ``E[Q(w) | w] = first[k, 0] + first[k, 1] w`` and
    ``E[Q(w)^2 | w] = second[k, 0] + second[k, 1] w + second[k, 2] w^2``.
    The averages are over the randomness of stochastic rounding.
    """

    breaks: Float[Array, "K-1"]
    first: Float[Array, "K 2"]
    second: Float[Array, "K 3"]


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
        See the module. ``edge`` is used by mid-rise, mid-tread and twos-complement.
    levels : sequence of float
        The levels of ``kind="levels"``: at least two, strictly increasing.

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

    def __init__(
        self, bits=None, range=None, *, kind="mid-rise", edge="level", rounding="nearest", levels=None
    ):
        self.kind = choice("kind", kind, KINDS)
        self.edge = choice("edge", edge, EDGES)
        self.rounding = choice("rounding", rounding, ROUNDINGS)
        if kind == "levels":
            self.explicit = _checked_levels(levels)
            self.bits = None if bits is None else whole("bits", bits, 1, MAX_BITS)
            if bits is not None and len(self.explicit) > 2**bits:
                fail("levels", f"at most 2^bits = {2**bits} of them", len(self.explicit), "raise bits")
            largest = max(abs(self.explicit[0]), abs(self.explicit[-1]))
            if range is not None and not is_traced(range) and float(range) != largest:
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
        fixed = _FIXED_BITS.get(kind)
        if fixed is not None:
            if bits is not None and bits != fixed:
                fail("bits", f"{fixed} for kind {kind!r}", bits, "leave it out")
            bits = fixed
        if bits is None:
            fail("bits", f"a whole number from 1 to {MAX_BITS}", None, f"set it, as kind {kind!r} needs it")
        self.bits = whole("bits", bits, 2 if kind == "mid-tread" else 1, MAX_BITS)
        if range is None:
            fail("range", "a positive number", None, f"set it, as kind {kind!r} needs it")
        self.range = positive("range", range)

    @property
    def is_none(self) -> bool:
        """Whether this is the identity."""
        return self.kind == "none"

    @property
    def lattice(self) -> tuple[float, int, float] | None:
        """``(unit_step, lowest, offset)``: levels are ``R * unit_step * (lowest + i + offset)``.

        ``unit_step`` is the step for range 1, ``lowest`` an integer and ``offset`` 0 or 1/2;
        None if the levels are not given by a bit width (``levels``, ``none``).
        """
        if self.kind in ("none", "levels"):
            return None
        half = 2 ** (self.bits - 1)
        bin_edge = self.edge == "bin"
        if self.kind in ("mid-rise", "sign"):
            return (1 / half if bin_edge and self.kind == "mid-rise" else 1 / (half - 0.5), -half, 0.5)
        if self.kind in ("mid-tread", "ternary"):
            top = half - 1
            return (1 / (top + 0.5) if bin_edge and self.kind == "mid-tread" else 1 / top, -top, 0.0)
        return (1 / (half - 0.5) if bin_edge else 1 / half, -half, 0.0)

    @property
    def n_levels(self) -> int:
        """Number of levels ``L`` (0 for ``none``)."""
        if self.kind == "none":
            return 0
        if self.explicit is not None:
            return len(self.explicit)
        return 2**self.bits - (1 if self.kind in ("mid-tread", "ternary") else 0)

    @property
    def levels(self) -> Float[Array, " L"]:
        """The levels, increasing (empty for ``none``)."""
        if self.kind == "none":
            return jnp.zeros(0)
        if self.explicit is not None:
            return jnp.stack([jnp.asarray(level) * 1.0 for level in self.explicit])
        step, lowest, offset = self.lattice
        return jnp.asarray(self.range) * (step * (np.arange(self.n_levels) + lowest + offset))

    @property
    def step(self) -> Float[Array, ""]:
        """Distance between neighbouring levels of a lattice; ValueError without one."""
        if self.lattice is None:
            raise ValueError(
                f"a quantizer of kind {self.kind!r} has no single step; read its levels instead."
            )
        return jnp.asarray(self.range) * self.lattice[0]

    @property
    def thresholds(self) -> Float[Array, "L-1"]:
        """Midpoints between the levels: where nearest rounding changes its level."""
        levels = self.levels
        return 0.5 * (levels[1:] + levels[:-1])

    def round(self, w: Float[Array, "*n"], u: Float[Array, "*n"] | None = None) -> Float[Array, "*n"]:
        """The level of every entry of ``w``; ``u ~ U(0, 1)`` is needed by stochastic rounding."""
        return w if self.is_none else self.levels.astype(w.dtype)[self.index(w, u)]

    def index(self, w: Float[Array, "*n"], u: Float[Array, "*n"] | None = None):
        """Index of the level of every entry of ``w``, int32 in ``[0, L)``."""
        if self.rounding == "nearest":
            return jnp.searchsorted(self.thresholds.astype(w.dtype), w, side="right").astype(jnp.int32)
        if u is None:
            raise ValueError(
                "stochastic rounding needs u, uniform on (0, 1), with one entry for each weight."
            )
        levels = self.levels.astype(w.dtype)
        low = jnp.clip(jnp.searchsorted(levels, w, side="right") - 1, 0, self.n_levels - 2)
        fraction = (w - levels[low]) / (levels[low + 1] - levels[low])
        return (low + (fraction > u)).astype(jnp.int32)

    @property
    def pieces(self) -> Pieces:
        """Conditional mean and mean square of the rounded value (see `Pieces`)."""
        levels = self.levels
        zero = jnp.zeros_like(levels)
        if self.is_none:
            return Pieces(jnp.zeros(0), jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 0.0, 1.0]]))
        if self.rounding == "nearest":
            return Pieces(
                self.thresholds, jnp.stack([levels, zero], 1), jnp.stack([levels**2, zero, zero], 1)
            )
        low, high = levels[:-1], levels[1:]
        inside = jnp.zeros_like(low)
        ends = levels[jnp.array([0, -1])]
        first = jnp.stack([inside, inside + 1.0], 1)
        second = jnp.stack([-low * high, low + high, inside], 1)
        flat1 = jnp.stack([ends, 0 * ends], 1)
        flat2 = jnp.stack([ends**2, 0 * ends, 0 * ends], 1)
        return Pieces(
            levels,
            jnp.concatenate([flat1[:1], first, flat1[1:]]),
            jnp.concatenate([flat2[:1], second, flat2[1:]]),
        )


def _checked_levels(levels) -> tuple[float, ...]:
    if levels is None:
        fail("levels", "at least two increasing numbers", None, "set them, as kind 'levels' needs them")
    if any(is_traced(level) for level in levels):
        return tuple(levels)
    values = tuple(float(finite("levels", level)) for level in levels)
    if not 2 <= len(values) <= 2**MAX_BITS:
        fail("levels", f"2 to {2**MAX_BITS} numbers", len(values), "list every level")
    if any(high <= low for low, high in zip(values, values[1:], strict=False)):
        fail("levels", "strictly increasing numbers", list(values), "sort them and drop repeats")
    return values


class PartialMoments(NamedTuple):
    """``E[w^n ; w in piece k]`` for ``n = 0, 1, 2`` and ``w ~ N(mean, std^2)``; and pdf at breaks."""

    zeroth: Float[Array, "*n K"]
    first: Float[Array, "*n K"]
    second: Float[Array, "*n K"]
    pdf: Float[Array, "*n K-1"]


def partial_moments(breaks: Float[Array, "K-1"], mean, std) -> PartialMoments:
    """Gaussian moments restricted to the intervals between ``breaks``.

    ``mean`` and ``std > 0`` broadcast against each other; the intervals are the last axis.
    """
    mean, std = jnp.broadcast_arrays(jnp.asarray(mean) * 1.0, jnp.asarray(std) * 1.0)
    mean, std = mean[..., None], std[..., None]
    z = (breaks - mean) / std
    density = norm.pdf(z)
    edge0 = jnp.zeros_like(mean)
    # differences of the cdf, taken in the tail where both values are small
    lower = jnp.concatenate([edge0, norm.cdf(z), edge0 + 1.0], -1)
    upper = jnp.concatenate([edge0 + 1.0, norm.cdf(-z), edge0], -1)
    use_upper = jnp.concatenate([z > 0, jnp.ones_like(edge0, bool)], -1)
    zeroth = jnp.where(use_upper, upper[..., :-1] - upper[..., 1:], lower[..., 1:] - lower[..., :-1])
    g = jnp.concatenate([edge0, density, edge0], -1)
    zg = jnp.concatenate([edge0, z * density, edge0], -1)
    u1 = g[..., :-1] - g[..., 1:]
    u2 = zeroth + zg[..., :-1] - zg[..., 1:]
    first = mean * zeroth + std * u1
    second = mean**2 * zeroth + 2 * mean * std * u1 + std**2 * u2
    return PartialMoments(zeroth, first, second, density / std)


class GaussianMoments(NamedTuple):
    """Moments of ``Q(w)`` for ``w ~ N(M, S)``: mean, mean square, and ``E[Q']``.

    ``slope = Cov(w, Q) / S = sum_j jump_j pdf(theta_j) + sum_k slope_k P(piece k)``.
    """

    mean: Float[Array, "*n"]
    square: Float[Array, "*n"]
    slope: Float[Array, "*n"]


def gaussian_moments(pieces: Pieces, mean, std) -> GaussianMoments:
    """Closed-form moments of a quantized Gaussian (``docs``, theory section 2)."""
    p = partial_moments(pieces.breaks, mean, std)
    first, second = pieces.first, pieces.second
    slope = p.pdf @ jumps(pieces) + p.zeroth @ first[:, 1]
    return GaussianMoments(
        p.zeroth @ first[:, 0] + p.first @ first[:, 1],
        p.zeroth @ second[:, 0] + p.first @ second[:, 1] + p.second @ second[:, 2],
        slope,
    )


def jumps(pieces: Pieces) -> Float[Array, "K-1"]:
    """Height of the jump of the conditional mean at every break (0 for stochastic rounding)."""
    at = pieces.breaks
    left, right = pieces.first[:-1], pieces.first[1:]
    return (right[:, 0] - left[:, 0]) + (right[:, 1] - left[:, 1]) * at


class InputMoments(NamedTuple):
    """What the limit needs of ``phi(x)`` with ``x ~ N(0, 1)``.

    ``levels (L,)``, ``mass = P(phi = level)`` and ``overlap = E[x; phi = level]`` describe the
    joint law of a quantized input; all three are None for unquantized inputs.
    """

    k1: Float[Array, ""]
    k2: Float[Array, ""]
    mean_abs: Float[Array, ""]
    levels: Float[Array, " L"] | None
    mass: Float[Array, " L"] | None
    overlap: Float[Array, " L"] | None


def input_moments(quantizer: Quantizer) -> InputMoments:
    """``k1 = E[x phi]``, ``k2 = E[phi^2]``, ``E|phi|`` in closed form (``docs``, section 0)."""
    if quantizer.is_none:
        return InputMoments(jnp.ones(()), jnp.ones(()), jnp.sqrt(2 / jnp.pi), None, None, None)
    levels = quantizer.levels
    p = partial_moments(quantizer.pieces.breaks, 0.0, 1.0)
    if quantizer.rounding == "nearest":
        mass, overlap = p.zeroth, p.first
    else:  # between two levels each is taken with the fraction of the way to it
        step = jnp.diff(levels)
        rise0 = (p.first[1:-1] - levels[:-1] * p.zeroth[1:-1]) / step
        rise1 = (p.second[1:-1] - levels[:-1] * p.first[1:-1]) / step
        up0, up1 = jnp.append(0.0, rise0), jnp.append(0.0, rise1)
        down0 = jnp.append(p.zeroth[1:-1] - rise0, 0.0)
        down1 = jnp.append(p.first[1:-1] - rise1, 0.0)
        mass = (up0 + down0).at[0].add(p.zeroth[0]).at[-1].add(p.zeroth[-1])
        overlap = (up1 + down1).at[0].add(p.first[0]).at[-1].add(p.first[-1])
    return InputMoments(levels @ overlap, levels**2 @ mass, jnp.abs(levels) @ mass, levels, mass, overlap)


def input_mean(quantizer: Quantizer) -> Float[Array, ""]:
    """``E[phi(x)]``, which has to vanish for a limit to exist."""
    moments = input_moments(quantizer)
    return jnp.zeros(()) if moments.levels is None else moments.levels @ moments.mass


def as_arrays(tree):
    """Every float of a record as a float64 array, so that a new value is not a new compilation."""
    return jax.tree.map(
        lambda leaf: leaf if is_traced(leaf) else jnp.asarray(np.asarray(leaf, dtype=float)), tree
    )
