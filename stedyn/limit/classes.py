"""Classes of coordinates: teacher values and input variances, in finitely many groups with their shares."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtr, ndtri

from ..inputs.moments import input_moments
from ..problem.populations import Covariance, Teacher
from ..problem.problem import Problem


class Classes(NamedTuple):
    """``C`` classes with teacher value and share; ``group`` is the index of one of ``K`` input variances."""

    teacher: Float[Array, " C"]
    share: Float[Array, " C"]
    group: Int[Array, " C"]
    variance: Float[Array, " K"]


#: Points that stand for a Gaussian teacher.
GAUSSIAN_POINTS = 2**12
#: Quantiles between which the density of classes is taken as constant; and variances at which `k1 / k2` is tabulated.
_QUANTILES = _TABLE = 257


def coordinate_classes(
    problem: Problem, n: int, coarse=False, variances: int | None = None, folded: bool = False
) -> Classes:
    """Classes of a problem: about ``n`` teacher values for each of up to ``variances`` (even numbers).

    The values are nodes of Gauss quadrature, two in each interval. Where there are enough intervals, their ends lie on
    the values at which the answer has kinks: where a weight is driven to a level, ``c k1 = level k2``.
    ``sum share v c^2`` is exactly ``E[v w*^2]``. ``coarse`` drops every other interval, the shapes kept, of the teacher
    values and of the variances (one traced flag for both, or one for each): comparing the two shows what the finite
    number of classes costs. With ``folded``, for problems that do not change under ``w -> -w``, a class stands for the
    teacher values ``c`` and ``-c``.
    """
    merge = jnp.broadcast_to(jnp.asarray(coarse), (2,))
    values, weights, exact = _teacher_points(problem.teacher, folded)
    if variances is None:  # fewer of them where there are many teacher values
        variances = max(2, min(n // 2 if exact else n // 4, 64))
    if folded:
        n = n // 2
    if problem.paired:
        return _paired_classes(problem, n, variances, merge, folded)
    variance, part = variance_classes(problem.covariance, variances, merge[1])
    if exact:
        teacher = jnp.broadcast_to(values, (variance.size, values.size))
        share = jnp.broadcast_to(weights, teacher.shape)
    else:
        n = min(n, values.size)
        share, teacher = jax.lax.map(
            lambda ratio: _gauss(values, weights, n, problem.weights.levels / ratio, merge[0]),
            _ideal(problem, variance),
        )
    group = jnp.repeat(jnp.arange(variance.size), teacher.shape[1])
    return Classes(teacher.reshape(-1), (part[:, None] * share).reshape(-1), group, variance)


def _paired_classes(problem: Problem, n: int, variances: int, merge, folded: bool) -> Classes:
    """Classes of coordinates whose teacher weight and input variance were measured together.

    Intervals of the variance, and in each of them intervals of ``u = c k1(v) / k2(v)``, in which the kinks are straight
    lines. A coordinate counts with its variance over the mean of the interval, as it does in the error.
    """
    values, weights = jnp.asarray(problem.covariance.data.values), jnp.asarray(problem.teacher.data.values)
    weights = jnp.abs(weights) if folded else weights
    few = min(variances, values.size // 2) // 2 * 2
    log_v = jnp.log(values)
    order = jnp.argsort(log_v)
    rank = jnp.argsort(order)
    index = _intervals(log_v[order], values[order], few, jnp.zeros(0), merge[1])[rank]
    count = jax.ops.segment_sum(jnp.ones_like(values), index, few)
    every = jnp.mean(values)
    variance = jnp.where(count > 0, jax.ops.segment_sum(values, index, few) / jnp.maximum(count, 1), every)
    grid = jnp.linspace(jnp.min(log_v), jnp.max(log_v), _TABLE)
    ratio = jnp.exp(jnp.interp(log_v, grid, jnp.log(_ideal(problem, jnp.exp(grid)))))
    u = weights * ratio
    order = jnp.argsort(u)
    u, index, part = u[order], index[order], (values / variance[index])[order] / values.size

    def one(k):
        return _gauss(u, jnp.where(index == k, part, 0.0), n, problem.weights.levels, merge[0])

    share, node = jax.lax.map(one, jnp.arange(few))
    c, p = (node / _ideal(problem, variance)[:, None]).reshape(-1), share.reshape(-1)
    group = jnp.repeat(jnp.arange(few), node.shape[1])
    scale = jnp.sqrt(jnp.mean(values * weights**2) / (p @ (variance[group] * c**2)))
    return Classes(c * scale, p, group, variance)


def _ideal(problem: Problem, variance):
    """``gain k1 / k2`` of inputs: a weight is driven towards this multiple of its teacher value."""
    moments = input_moments(problem.inputs, jnp.sqrt(variance))
    return problem.labels.gain(problem.signal) * (moments.k1 / moments.k2)


def _teacher_points(teacher: Teacher, folded: bool):
    """Sorted values of a teacher with their weights, and whether they are few enough to be classes."""
    if teacher.kind == "constant":
        return jnp.reshape(jnp.asarray(teacher.scale) * 1.0, (1,)), jnp.ones(1), True
    if teacher.kind == "rademacher":
        signs = jnp.ones(1) if folded else jnp.array([-1.0, 1.0])
        return jnp.asarray(teacher.scale) * signs, jnp.full(signs.size, 1.0 / signs.size), True
    if teacher.kind == "gaussian":
        share, mean, _ = gaussian_bins(GAUSSIAN_POINTS)
        values, weights = jnp.asarray(teacher.scale) * mean / np.sqrt(share @ mean**2), share
        if folded:
            half = GAUSSIAN_POINTS // 2
            values, weights = values[half:], 2 * share[half:]
        return values, jnp.asarray(weights), False
    if teacher.data.atoms is not None:
        return jnp.asarray(teacher.data.atoms), jnp.asarray(teacher.data.weights), True
    values = jnp.asarray(teacher.data.values)
    values = jnp.sort(jnp.abs(values) if folded else values)
    return values, jnp.full(values.size, 1.0 / values.size), False


def _gauss(values, weights, n: int, kinks, coarse, log=None):
    """Share and value of ``n`` nodes for sorted weighted values: two for each interval, exact up to third powers."""
    bins = max(2, n // 2 // 2 * 2)
    if log is None:
        index = _intervals(values, weights, bins, kinks, coarse)
    else:
        index = _intervals(log, weights * values, bins, kinks, coarse)

    def total(x):
        return jax.ops.segment_sum(weights * x, index, bins)

    share = total(jnp.ones_like(values))
    each = jnp.where(share > 0, share, 1.0)
    mean = total(values) / each
    off = values - mean[index]
    square, cube = total(off**2) / each, total(off**3) / each
    wide = square > 1e-20 * jnp.max(values**2)
    std = jnp.sqrt(jnp.where(wide, square, 1.0))
    lean = jnp.where(wide, cube / (2 * std**3), 0.0)
    root = jnp.sqrt(1 + lean**2)
    std = jnp.where(wide, std, 0.0)
    node = jnp.stack([mean + std * (lean - root), mean + std * (lean + root)], 1)
    part = share[:, None] * jnp.stack([0.5 * (1 + lean / root), 0.5 * (1 - lean / root)], 1)
    return part.reshape(-1), node.reshape(-1)


def _intervals(values, weights, bins: int, kinks, coarse):
    """Which of ``bins`` intervals (an even number) each of the sorted values lies in; half of them empty if ``coarse``.

    Half of the density of intervals is the cube root of that of the values, half is even between the kinks. Every other
    edge is moved to the nearest kink.
    """
    values, weights, kinks = jax.lax.stop_gradient((values, jnp.asarray(weights), jnp.sort(kinks)))
    # the barrier keeps XLA from summing constant weights while it compiles, which takes seconds
    weights = jax.lax.optimization_barrier(weights)
    total = jnp.cumsum(weights)
    reach = ndtri(1 - 0.5 / max(values.size, 8))
    level = ndtr(np.linspace(-reach, reach, _QUANTILES))
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
        panel = jnp.interp(x, ends, jnp.arange(ends.size) * 1.0)
        place = 0.5 * (place + (panel - panel[0]) / jnp.maximum(panel[-1] - panel[0], 1.0))
    even = jnp.linspace(0.0, 1.0, bins // 2 + 1)
    at = jnp.interp(kinks, x, place)
    nearest = jnp.round(at * (bins // 2)).astype(int)
    known = (kinks > low) & (kinks < high) & (nearest > 0) & (nearest < bins // 2)
    even = even.at[jnp.where(known, nearest, bins)].set(at, mode="drop")
    middle = jnp.where(coarse, even[1:], 0.5 * (even[1:] + even[:-1]))
    inner = jnp.stack([middle, even[1:]], 1).reshape(-1)[:-1]
    return jnp.searchsorted(inner, jnp.interp(values, x, place), side="right")


def gaussian_bins(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split N(0, 1) into ``n`` intervals: share, conditional mean, conditional variance of each.

    The edges are quantiles of N(0, 3): for a quadratic observable the best density of bins is the
    cube root of the probability density (Panter and Dite 1951), which resolves the tails better
    than bins of equal probability.
    """
    edges = np.sqrt(3.0) * ndtri(np.linspace(0, 1, n + 1))
    finite = np.where(np.isfinite(edges), edges, 0.0)
    share, density = np.diff(ndtr(edges)), np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
    mean = -np.diff(density) / share
    square = 1 - np.diff(finite * density) / share
    return share, mean, square - mean**2


@functools.partial(jax.jit, static_argnames="n")
def sample_bins(values, n: int):
    """Split measured values into ``n`` groups of neighbours: share, mean, variance of each.

    As in `gaussian_bins` the density of the groups is the cube root of that of the values, which is taken from the
    distance between neighbours of higher and lower rank: fewer of them towards the ends, where it falls.
    """
    ordered = jnp.sort(jnp.asarray(values))
    size = ordered.size
    n = min(n, size - size % 2)
    rank = np.arange(size)
    reach = np.clip(np.minimum(rank, size - 1 - rank) // 2, 1, max(1, size // 50))
    low, high = np.maximum(rank - reach, 0), np.minimum(rank + reach, size - 1)
    gap = (ordered[high] - ordered[low]) / (high - low)
    # values that occur many times have no gap between them, and need no more than one group
    measure = jnp.maximum(gap, 1e-12 * (ordered[-1] - ordered[0]) + 1e-200) ** (2 / 3)
    place = jnp.concatenate([jnp.zeros(1), jnp.cumsum(measure)])
    ideal = jnp.interp(jnp.linspace(0.0, 1.0, n + 1), place / place[-1], np.arange(size + 1.0))
    steps = np.arange(n + 1)
    edges = jax.lax.cummax(jnp.round(ideal).astype(int) - steps) + steps  # one value in every group
    edges = jnp.clip(edges, steps, size - n + steps)
    count = jnp.diff(edges)
    mean, square = (group_sums(power, edges) / count for power in (ordered, ordered**2))
    return count / size, mean, jnp.maximum(square - mean**2, 0.0)


def group_sums(values, edges):
    """Sums of the values from each of the edges (*n, E) to the next."""
    return jnp.diff(jnp.concatenate([jnp.zeros(1), jnp.cumsum(values)])[edges])


@jax.jit
def merge_pairs(bins, coarse):
    """Give neighbouring ``(share, mean, var)`` their common mean and variance if ``coarse`` (traced)."""
    share, mean, var = (jnp.asarray(x) for x in bins)
    pair = share.reshape(-1, 2)
    weight = pair / jnp.sum(pair, axis=1, keepdims=True)
    common = jnp.sum(weight * mean.reshape(-1, 2), axis=1, keepdims=True)
    square = jnp.sum(weight * (mean**2 + var).reshape(-1, 2), axis=1, keepdims=True)
    return (
        share,
        jnp.where(coarse, jnp.repeat(common, 2), mean),
        jnp.where(coarse, jnp.repeat(square - common**2, 2), var),
    )


def variance_classes(covariance: Covariance, n: int, coarse=False):
    """Values and shares of at most ``n`` classes of the input variances (an even number of them, or one).

    Intervals are evenly spaced in the logarithm where variances carry evenly much of the output.
    """
    if covariance.kind == "identity":
        return jnp.ones(1), jnp.ones(1)
    data = covariance.data
    if data is not None and data.atoms is not None and data.atoms.size <= n:
        return jnp.asarray(data.atoms), jnp.asarray(data.weights)
    values = jnp.sort(jnp.asarray(covariance.values()))
    weights = jnp.full(values.size, 1.0 / values.size)
    share, value = _gauss(values, weights, min(n, values.size), jnp.zeros(0), coarse, jnp.log(values))
    return jnp.where(share > 0, value, jnp.mean(values)), share
