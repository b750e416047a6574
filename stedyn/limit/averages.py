"""Averages over a piecewise exponential, or Gaussian, stationary density of one class."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

#: Every piece of a stationary density is integrated down to exp(-DEPTH) of its maximum.
DEPTH, NODES = 32.0, 40
_X, _W = np.polynomial.legendre.leggauss(NODES)


class Averages(NamedTuple):
    """Stationary averages of every class: ``E[psi]``, ``E[psi^2]``, ``E[Var[psi | w]]`` and ``<psi'>``.

    ``rise`` is the derivative of ``E[psi]`` with respect to the force, ``beta Cov(psi, w)``.
    """

    psi: Float[Array, " C"]
    square: Float[Array, " C"]
    drawn: Float[Array, " C"]
    crossing: Float[Array, " C"]
    rise: Float[Array, " C"]


def class_averages(pieces, force, b, decay, beta, low, high):
    """Averages over ``exp(beta * potential)``, piece by piece with Gauss-Legendre nodes.

    No weight is lost at infinity, so that ``<psi'> = beta E[(psi - E[psi]) (b psi + decay w - force)]``.
    """
    intercept, bend = force - b * pieces.first[:, 0], b * pieces.first[:, 1]
    slope = bend + decay
    # the potential at the breaks but for that of the decay, which is far larger, and where each piece has its maximum
    finite_low, finite_high = jnp.where(jnp.isfinite(low), low, 0.0), jnp.where(jnp.isfinite(high), high, 0.0)
    inner = intercept * (finite_high - finite_low) - 0.5 * bend * (finite_high**2 - finite_low**2)
    at_low = jnp.concatenate([-inner[:1], jnp.zeros(1), jnp.cumsum(inner[1:-1])])[: low.size]
    at_high = jnp.append(at_low[1:], at_low[-1] + inner[-1])
    curved = slope > 0
    top = jnp.where(curved, intercept / jnp.where(curved, slope, 1.0), jnp.sign(intercept) * jnp.inf)
    flat = ~curved & (jnp.abs(intercept) <= 1e-12 * (jnp.abs(force) + jnp.abs(b * pieces.first[:, 0])))
    top = jnp.where(flat, jnp.where(jnp.isfinite(low), low, finite_high), top)
    # on an unbounded outermost piece that does not pull back the weights leave for good
    endless = ~(jnp.isfinite(low) & jnp.isfinite(high))
    escapes = ~jnp.isfinite(jnp.clip(top, low, high)) | (flat & endless)
    at = jnp.where(escapes, 0.0, jnp.clip(top, low, high))
    # positions are taken from the nearer end: a density can be thinner than the digits of a threshold
    upper = high - at < at - low
    anchor, height = jnp.where(upper, finite_high, finite_low), jnp.where(upper, at_high, at_low)
    if low.size == 1:
        anchor, height = jnp.zeros(1), jnp.zeros(1)
    force_at = intercept - slope * at
    # beyond the reach is nothing, so that its own change does not count (and has no derivative on a flat piece)
    reach = jax.lax.stop_gradient(_reach(beta * jnp.abs(force_at), beta * slope))
    start, stop = (
        jnp.maximum(low - anchor, at - anchor - reach),
        jnp.minimum(high - anchor, at - anchor + reach),
    )
    half = jnp.where(escapes, 0.0, 0.5 * jnp.clip(stop - start, 0.0, None))
    away = jnp.where(escapes, 0.0, 0.5 * (start + stop))[:, None] + half[:, None] * _X
    w = anchor[:, None] + away
    free = height[:, None] + away * (intercept - bend * anchor)[:, None] - 0.5 * bend[:, None] * away**2
    log = beta * (free - 0.5 * decay * w**2)
    live = half > 0
    shift = jax.lax.stop_gradient(jnp.max(jnp.where(live[:, None], log, -jnp.inf)))
    weight = jnp.where(live[:, None], jnp.exp(jnp.where(live[:, None], log - shift, 0.0)), 0.0)
    weight = weight * half[:, None] * _W
    first, second = pieces.first, pieces.second
    psi = first[:, :1] + first[:, 1:] * w  # the average of what is drawn, if it is
    square = second[:, :1] + second[:, 1:2] * w + second[:, 2:] * w**2
    total = jnp.sum(weight)
    mean, mean_square = jnp.sum(weight * psi) / total, jnp.sum(weight * square) / total
    drawn = mean_square - jnp.sum(weight * psi**2) / total
    crossing = beta * jnp.sum(weight * (psi - mean) * (b * psi + decay * w - force)) / total
    rise = beta * jnp.sum(weight * (psi - mean) * w) / total
    for k in (0, -1):
        mean = jnp.where(escapes[k], first[k, 0], mean)
        mean_square = jnp.where(escapes[k], second[k, 0], mean_square)
        drawn, crossing, rise = (jnp.where(escapes[k], 0.0, value) for value in (drawn, crossing, rise))
    return Averages(mean, mean_square, drawn, crossing, rise)


def _reach(slope, curvature):
    """Distance at which ``slope x + curvature x^2 / 2`` reaches DEPTH."""
    return 2 * DEPTH / jnp.maximum(slope + jnp.sqrt(slope**2 + 2 * curvature * DEPTH), 1e-300)


def level_averages(levels, breaks, force, b, beta) -> Averages:
    """`class_averages` of levels with nearest rounding, without decay and walls: every piece is one exponential."""
    drop = force - b * levels  # the drift on every level
    inner = drop[1:-1] * jnp.diff(breaks)
    height = jnp.concatenate([jnp.zeros(1), jnp.cumsum(inner)])  # of the potential at the breaks
    size = beta * jnp.abs(inner)
    thin = size < 1e-8
    safe = jnp.where(thin, 1.0, size)
    part = jnp.where(thin, 0.0, jnp.log(-jnp.expm1(-safe) / safe))
    middle = beta * jnp.maximum(height[1:], height[:-1]) + jnp.log(jnp.diff(breaks)) + part
    least = 1e-12 * (jnp.abs(force) + jnp.abs(b * levels[jnp.array([0, -1])]))
    inward = jnp.stack([drop[0], -drop[-1]])
    stays = inward > least
    ends = beta * height[jnp.array([0, -1])] - jnp.log(jnp.where(stays, beta * inward, 1.0))
    share = jax.nn.softmax(jnp.concatenate([ends[:1], middle, ends[1:]]))
    mean = share @ levels
    spread = share @ (levels - mean) ** 2
    inside = jnp.all(stays)
    end = jnp.where(stays[1], levels[0], levels[-1])
    return Averages(
        jnp.where(inside, mean, end), jnp.where(inside, mean**2 + spread, end**2), 0.0 * mean,
        jnp.where(inside, beta * b * spread, 0.0), jnp.where(inside, 1 / b, 0.0),
    )  # fmt: skip
