r"""Gaussian moments of quantizers in closed form.

On every interval between its breaks a quantizer has conditional mean and mean square that are
polynomials of the weight, so that its moments are sums of truncated Gaussian moments.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc
from jax.scipy.stats import norm
from jaxtyping import Array, Float


class Pieces(NamedTuple):
    """Mean and mean square of the rounded value, as polynomials on ``K`` intervals.

    On interval ``k`` (between ``breaks[k-1]`` and ``breaks[k]``, the outermost ones unbounded)
    ``E[Q(w) | w] = first[k, 0] + first[k, 1] w`` and
    ``E[Q(w)^2 | w] = second[k, 0] + second[k, 1] w + second[k, 2] w^2``.
    The averages are over the randomness of stochastic rounding.
    """

    breaks: Float[Array, " B"]
    first: Float[Array, "K 2"]
    second: Float[Array, "K 3"]


#: Distance, in ranges, of a break that no weight reaches.
FAR = 1e6


def pieces_of(levels: Float[Array, " L"], rounding: str, spare=0) -> Pieces:
    """Pieces of a quantizer; the last ``spare`` of its levels repeat the largest, behind breaks that are far away."""
    zero, number = jnp.zeros_like(levels), np.arange(levels.size)
    nearest = rounding == "nearest"
    breaks = 0.5 * (levels[1:] + levels[:-1]) if nearest else levels
    far = levels[-1] + FAR * (levels[-1] - levels[0]) * jnp.arange(1, breaks.size + 1, dtype=levels.dtype)
    breaks = jnp.where(number[: breaks.size] < breaks.size - spare, breaks, far)
    if nearest:
        return Pieces(breaks, jnp.stack([levels, zero], 1), jnp.stack([levels**2, zero, zero], 1))
    low, high = levels[:-1], levels[1:]
    ends = levels[jnp.array([0, -1])]
    flat1, flat2 = jnp.stack([ends, 0 * ends], 1), jnp.stack([ends**2, 0 * ends, 0 * ends], 1)
    inside = zero[1:]
    first = jnp.stack([inside, inside + 1.0], 1)
    second = jnp.stack([-low * high, low + high, inside], 1)
    rises = number[1:, None] < levels.size - spare
    first, second = jnp.where(rises, first, flat1[1]), jnp.where(rises, second, flat2[1])
    return Pieces(
        breaks,
        jnp.concatenate([flat1[:1], first, flat1[1:]]),
        jnp.concatenate([flat2[:1], second, flat2[1:]]),
    )


def cell_averages(pieces: Pieces, faces: Float[Array, " E"]) -> Float[Array, "2 N"]:
    """Averages of mean and mean square of the rounded value over the cells between increasing faces."""

    def below(coefficients, x):  # the integral from the first face to x, piece by piece
        ends = jnp.concatenate([faces[:1], pieces.breaks, faces[-1:]])
        ends = jnp.clip(ends, faces[0], faces[-1])
        power = np.arange(1, coefficients.shape[1] + 1)

        def primitive(x):
            return (jnp.expand_dims(x, -1) ** power / power) * coefficients

        upper, lower = primitive(jnp.clip(x[:, None], ends[:-1], ends[1:])), primitive(ends[:-1])
        return jnp.sum(upper - lower, axis=(1, 2))

    each = [below(part, faces) for part in (pieces.first, pieces.second)]
    return jnp.diff(jnp.stack(each)) / jnp.diff(faces)


#: Steps between levels differ where the largest is this many times the smallest; then they count by their size.
DIFFERENT = 8.5


def size_of_steps(steps, xp=jnp):
    """Size of every step (n,) over the largest, infinite ones left out, or 1 for all if they hardly differ.

    A mesh, and intervals of the teacher, need not resolve the small steps of a format that is finer towards 0 as well
    as the large ones: what a step does to averages is of the order of its square.
    """
    real = xp.isfinite(steps)
    largest, smallest = xp.max(xp.where(real, steps, 0.0)), xp.min(steps)
    differ = largest > DIFFERENT * smallest
    return xp.where(real & differ, steps / xp.where(differ, largest, 1.0), 1.0)


class PartialMoments(NamedTuple):
    """``E[w^n ; w in piece k]`` for ``n = 0, 1, 2`` and ``w ~ N(mean, std^2)``; and pdf at breaks."""

    zeroth: Float[Array, "*n K"]
    first: Float[Array, "*n K"]
    second: Float[Array, "*n K"]
    pdf: Float[Array, "*n B"]


@jax.jit
def partial_moments(breaks: Float[Array, "*n B"], mean, std) -> PartialMoments:
    """Gaussian moments restricted to the intervals between ``breaks``.

    ``mean`` and ``std > 0`` broadcast against each other and the leading axes of ``breaks``; the intervals are the last
    axis.
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
    """Closed-form moments of a quantized Gaussian (``docs/theory.md``, section 2)."""
    p = partial_moments(pieces.breaks, mean, std)
    first, second = pieces.first, pieces.second
    slope = p.pdf @ jumps(pieces) + p.zeroth @ first[:, 1]
    return GaussianMoments(
        p.zeroth @ first[:, 0] + p.first @ first[:, 1],
        p.zeroth @ second[:, 0] + p.first @ second[:, 1] + p.second @ second[:, 2],
        slope,
    )


def jumps(pieces: Pieces) -> Float[Array, " B"]:
    """Height of the jump of the conditional mean at every break (0 for stochastic rounding)."""
    at = pieces.breaks
    left, right = pieces.first[:-1], pieces.first[1:]
    return (right[:, 0] - left[:, 0]) + (right[:, 1] - left[:, 1]) * at
