"""Gauss quadrature over weighted values: a few nodes stand for all values of an interval."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtr, ndtri

#: Quantiles between which the density of intervals is taken as constant.
QUANTILES = 257
#: Squared distances below this part of the largest square count as none.
_POINT = 1e-20
#: Norms of the next orthogonal polynomial, in standard deviations of the interval, that count as 0: no more values.
_NO_MORE = 1e-6


def gauss_nodes(
    values: Float[Array, " n"],
    weights: Float[Array, " n"],
    index: Int[Array, " n"],
    bins: int,
    per: int,
    fewer,
) -> tuple[Float[Array, "bins per"], Float[Array, "bins per"]]:
    """Share and place of ``per`` nodes for the values of each interval (``index``, one of ``bins``).

    A sum over the nodes is exact for polynomials up to the order ``2 per - 1`` in each interval. ``fewer`` (traced) of
    the nodes get no share, so that the rest is the Gauss rule of as many; so do those of intervals with too few values.
    By the recurrence of orthogonal polynomials (Stieltjes) and the eigenvalues of its matrix (Golub and Welsch 1969).
    """

    def total(x):
        return jax.ops.segment_sum(weights * x, index, bins)

    share = total(jnp.ones_like(values))
    each = jnp.where(share > 0, share, 1.0)
    mean = total(values) / each
    off = values - mean[index]
    square = total(off**2) / each
    wide = square > _POINT * jnp.max(values**2)
    std = jnp.where(wide, jnp.sqrt(jnp.where(wide, square, 1.0)), 0.0)
    y = jnp.where(wide[index], off / jnp.where(wide, std, 1.0)[index], 0.0)

    def polynomial(state, _):
        now, before, norm, alive = state
        centre = total(y * now**2) / each
        new = (y - centre[index]) * now - norm[index] * before
        square = total(new**2) / each
        more = alive & (square > _NO_MORE**2)
        norm = jnp.where(more, jnp.sqrt(jnp.where(more, square, 1.0)), 0.0)
        new = jnp.where(more[index], new / jnp.where(more, norm, 1.0)[index], 0.0)
        return (new, now, norm, more), (centre, norm, alive)

    none = jnp.zeros(bins)
    first = jnp.ones_like(y), jnp.zeros_like(y), none, share > 0
    _, (centre, norm, alive) = jax.lax.scan(polynomial, first, None, length=per)
    number = jnp.arange(per)
    alive = alive.T & (number < per - fewer)
    # nodes without a share are far away, each on a place of its own, so that the matrix falls apart
    diagonal = jnp.where(alive, centre.T, 1e6 * (1.0 + number))
    beside = jnp.where(alive[:, 1:], norm.T[:, :-1], 0.0)
    matrix = jax.vmap(lambda d, o: jnp.diag(d) + jnp.diag(o, 1) + jnp.diag(o, -1))(diagonal, beside)
    place, vector = jnp.linalg.eigh(matrix)
    real = place < 5e5
    part = jnp.where(real, share[:, None] * vector[:, 0] ** 2, 0.0)
    return part, mean[:, None] + std[:, None] * jnp.where(real, place, 0.0)


def intervals(values, weights, bins: int, kinks) -> Int[Array, " n"]:
    """Which of ``bins`` intervals each of the sorted values lies in.

    Half of the density of intervals is the cube root of that of the values, half is even between the kinks. Edges are
    moved to the kinks nearest to them; infinite ones are none.
    """
    values, weights, kinks = jax.lax.stop_gradient((values, jnp.asarray(weights), jnp.sort(kinks)))
    # the barrier keeps XLA from summing constant weights while it compiles, which takes seconds
    weights = jax.lax.optimization_barrier(weights)
    total = jnp.cumsum(weights)
    reach = ndtri(1 - 0.5 / max(values.size, 8))
    level = ndtr(np.linspace(-reach, reach, QUANTILES))
    quantile = jnp.interp(level, (total - 0.5 * weights) / jnp.maximum(total[-1], 1e-300), values)
    measure = (jnp.diff(quantile) + 1e-12 * (values[-1] - values[0]) + 1e-200) ** (2 / 3) * np.diff(
        level
    ) ** (1 / 3)
    passed = jnp.concatenate([jnp.zeros(1), jnp.cumsum(measure)]) / jnp.sum(measure)
    low, high = quantile[0], quantile[-1]
    inside = jnp.clip(kinks, low, high)
    x = jnp.sort(jnp.concatenate([quantile, inside]))
    place = jnp.interp(x, quantile, passed)
    if kinks.size:
        ends = jnp.concatenate([low[None], inside, high[None]])
        number = jnp.minimum(jnp.arange(ends.size), jnp.sum(jnp.isfinite(kinks)) + 1) * 1.0
        panel = jnp.interp(x, ends, number)
        place = 0.5 * (place + (panel - panel[0]) / jnp.maximum(panel[-1] - panel[0], 1.0))
    even = jnp.linspace(0.0, 1.0, bins + 1)
    at = jnp.interp(kinks, x, place)
    nearest = jnp.round(at * bins).astype(int)
    known = (kinks > low) & (kinks < high) & (nearest > 0) & (nearest < bins)
    even = even.at[jnp.where(known, nearest, bins + 1)].set(at, mode="drop")
    return jnp.searchsorted(even[1:-1], jnp.interp(values, x, place), side="right")
