r"""Gaussian moments of quantizers in closed form.

On every interval between its breaks a quantizer has conditional mean and mean square that are
polynomials of the weight, so that its moments are sums of truncated Gaussian moments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc
from jax.scipy.stats import norm
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from .quantizers import Quantizer


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


class PartialMoments(NamedTuple):
    """``E[w^n ; w in piece k]`` for ``n = 0, 1, 2`` and ``w ~ N(mean, std^2)``; and pdf at breaks."""

    zeroth: Float[Array, "*n K"]
    first: Float[Array, "*n K"]
    second: Float[Array, "*n K"]
    pdf: Float[Array, "*n K-1"]


@jax.jit
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
    above = z > 0
    tail = 0.5 * erfc(jnp.where(above, z, -z) / np.sqrt(2))  # not abs: it has no derivative at 0
    lower = jnp.concatenate([edge0, jnp.where(above, 1 - tail, tail), edge0 + 1.0], -1)
    upper = jnp.concatenate([edge0 + 1.0, jnp.where(above, tail, 1 - tail), edge0], -1)
    use_upper = jnp.concatenate([above, jnp.ones_like(edge0, bool)], -1)
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
    """What the limit needs of ``phi(x)`` with ``x ~ N(0, std^2)``.

    ``k1 = E[x phi]``, ``k2 = E[phi^2]``, ``mean_abs = E|phi|``. ``levels (L,)``, ``mass = P(phi = level)`` and
    ``overlap = E[x; phi = level]`` describe the joint law of a quantized input; all three are None for
    unquantized inputs. An array of ``std`` leads all shapes but that of ``levels``. ``crowd`` is the average of
    ``E|phi|`` over all inputs, those of other variances included, for rules that couple the coordinates.
    """

    k1: Float[Array, "*n"]
    k2: Float[Array, "*n"]
    mean_abs: Float[Array, "*n"]
    levels: Float[Array, " L"] | None
    mass: Float[Array, "*n L"] | None
    overlap: Float[Array, "*n L"] | None
    std: Float[Array, "*n"]
    crowd: Float[Array, "*n"]


def input_moments(quantizer: Quantizer, std=1.0) -> InputMoments:
    """Moments of a quantized input ``x ~ N(0, std^2)`` in closed form (``docs``, section 0)."""
    std = jnp.asarray(std) * 1.0
    if quantizer.is_none:
        size = jnp.sqrt(2 / jnp.pi) * std
        return InputMoments(std**2, std**2, size, None, None, None, std, size)
    levels = quantizer.levels
    p = partial_moments(quantizer.pieces.breaks, 0.0, std)
    if quantizer.rounding == "nearest":
        mass, overlap = p.zeroth, p.first
    else:
        mass, overlap = split_between(levels, p.zeroth, p.first), split_between(levels, p.first, p.second)
    size = mass @ jnp.abs(levels)
    return InputMoments(overlap @ levels, mass @ levels**2, size, levels, mass, overlap, std, size)


def split_between(levels, moment, next_moment) -> Float[Array, "*n L"]:
    """Share of every level in a moment under stochastic rounding.

    ``moment`` and ``next_moment`` are ``E[w^n; piece]`` and ``E[w^(n+1); piece]`` (*n, L + 1): between two
    levels each is taken with the fraction of the way to it.
    """
    inner, leading = moment[..., 1:-1], [(0, 0)] * (moment.ndim - 1)
    rise = (next_moment[..., 1:-1] - levels[:-1] * inner) / jnp.diff(levels)
    each = jnp.pad(rise, [*leading, (1, 0)]) + jnp.pad(inner - rise, [*leading, (0, 1)])
    return each.at[..., 0].add(moment[..., 0]).at[..., -1].add(moment[..., -1])


def input_mean(quantizer: Quantizer, std=1.0) -> Float[Array, "*n"]:
    """``E[phi(x)]``, which has to vanish for a limit to exist."""
    moments = input_moments(quantizer, std)
    if moments.levels is None or moments.mass is None:
        return jnp.zeros_like(moments.std)
    return moments.mass @ moments.levels
