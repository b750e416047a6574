"""Classes of coordinates: teacher values and input variances, in finitely many groups with their shares."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtr, ndtri

from ..problem.phases import with_new
from ..problem.populations import Teacher
from ..problem.problem import Problem
from ..quantizers.pieces import size_of_steps
from .cells import input_cells, input_classes, variance_bends, variance_cells
from .quadrature import gauss_nodes, intervals


class Classes(NamedTuple):
    """``C`` classes with teacher value and share; ``group`` is the index of one of ``K`` input variances and means.

    Weights of a class are in units of ``unit``, the range of its channel; they start at ``start`` times the
    start of the problem.
    """

    teacher: Float[Array, " C"]
    share: Float[Array, " C"]
    group: Int[Array, " C"]
    variance: Float[Array, " K"]
    mean: Float[Array, " K"]
    unit: Float[Array, "*C"] | float = 1.0
    start: Float[Array, "*C"] | float = 1.0


#: Points that stand for a Gaussian teacher.
GAUSSIAN_POINTS = 2**12
#: Nodes in each interval of the teacher values, and where levels are many.
NODES, LEAST_NODES = 5, 3
#: Levels between steps below this part of the largest are no kinks.
LARGE = 0.25
#: Variances at which `k1 / k2` is tabulated.
_TABLE = 257


def channel_classes(
    problem: Problem, n: int, coarse=False, variances=None, folded=False, nodes=None
) -> Classes:
    """`coordinate_classes` of all channels together, with the same arguments (``docs/channels.md``)."""
    channels = problem.channels
    if channels is None:
        return coordinate_classes(problem, n, coarse, variances, folded, nodes)
    parts = []
    for teacher, unit, start, share in zip(*channels.columns, strict=True):
        found = coordinate_classes(problem, n, coarse, variances, folded, nodes, teacher / unit)
        each = jnp.ones_like(found.share)
        parts.append(found._replace(share=share * found.share, unit=unit * each, start=start / unit * each))
    joined = Classes(*(jnp.concatenate(fields) for fields in zip(*parts, strict=True)))
    return joined._replace(variance=parts[0].variance, mean=parts[0].mean)


def coordinate_classes(
    problem: Problem,
    n: int,
    coarse=False,
    variances: int | None = None,
    folded: bool = False,
    nodes: int | None = None,
    scale=None,
) -> Classes:
    """Classes of a problem: about ``n`` teacher values for each of up to ``variances`` (even numbers).

    The values are nodes of Gauss quadrature, ``nodes`` in each interval (`nodes_of` unless given). Where there are
    enough intervals, their ends lie on the values at which the answer has kinks: where a weight is driven to a level,
    ``c k1 = level k2``. The variances are nodes of one rule. ``sum share v c^2`` is exactly ``E[v w*^2]``. ``coarse``
    (one traced flag for teacher values and variances, or one for each) takes a node from each interval, and
    `FEWER_VARIANCES` from the variances, the shapes kept: comparing the two shows what the finite number of classes
    costs. With ``folded``, for problems that do not change under ``w -> -w``, a class stands for the teacher values
    ``c`` and ``-c``. ``scale`` multiplies the teacher's weights.
    """
    merge = jnp.broadcast_to(jnp.asarray(coarse), (2,))
    law = problem.teacher if scale is None else problem.teacher.scaled(scale)
    values, weights, exact = teacher_points(law, folded)
    if variances is None:  # fewer of them where there are many teacher values
        variances = max(2, min(n // 2 if exact else n // 4, 64))
    levels = sum(part.weights.levels.size for part in _bending(problem))
    per = nodes_of(levels, n) if nodes is None else nodes
    if folded:
        n = n // 2
    if problem.paired:
        return _paired_classes(problem, n, per, variances, merge, folded)
    bends, jumps = zip(*map(variance_bends, _bending(problem)), strict=True)
    variance, mean, part = input_classes(
        problem.covariance, variances, merge[1], jnp.concatenate(bends), any(jumps)
    )
    if exact:
        teacher = jnp.broadcast_to(values, (variance.size, values.size))
        share = jnp.broadcast_to(weights, teacher.shape)
    else:
        n = min(n, values.size)
        share, teacher = jax.lax.map(
            lambda ratios: _gauss(values, weights, n, per, _bends(problem, ratios), merge[0]),
            tuple(_ideal(part, variance, mean) for part in _bending(problem)),
        )
    group = jnp.repeat(jnp.arange(variance.size), teacher.shape[1])
    return Classes(teacher.reshape(-1), (part[:, None] * share).reshape(-1), group, variance, mean)


def _paired_classes(problem: Problem, n: int, per: int, variances: int, merge, folded: bool) -> Classes:
    """Classes of coordinates whose teacher weight and input variance were measured together.

    Intervals of the variance, and in each of them intervals of ``u = c k1(v) / k2(v)``, in which the kinks are straight
    lines. A coordinate counts with its variance over the mean of the interval, as it does in the error.
    """
    values, weights = jnp.asarray(problem.covariance.data.values), jnp.asarray(problem.teacher.data.values)
    weights = jnp.abs(weights) if folded else weights
    few = min(variances, values.size // 2) // 2 * 2
    if problem.covariance.means is not None:
        index, variance, mean, _ = input_cells(problem.covariance, few, merge[1])
        few, ratio = variance.size, _ideal(problem, variance, mean)[index]
    else:
        index = variance_cells(values, few, merge[1])
        count = jax.ops.segment_sum(jnp.ones_like(values), index, few)
        every, mean, log_v = jnp.mean(values), jnp.zeros(few), jnp.log(values)
        variance = jnp.where(
            count > 0, jax.ops.segment_sum(values, index, few) / jnp.maximum(count, 1), every
        )
        grid = jnp.linspace(jnp.min(log_v), jnp.max(log_v), _TABLE)
        ratio = jnp.exp(jnp.interp(log_v, grid, jnp.log(_ideal(problem, jnp.exp(grid), 0.0))))
    u = weights * ratio
    order = jnp.argsort(u)
    u, index, part = u[order], index[order], (values / variance[index])[order] / values.size

    kinks = jnp.concatenate([_kinks(part) for part in _bending(problem)])

    def one(k):
        return _gauss(u, jnp.where(index == k, part, 0.0), n, per, kinks, merge[0])

    share, node = jax.lax.map(one, jnp.arange(few))
    c, p = (node / _ideal(problem, variance, mean)[:, None]).reshape(-1), share.reshape(-1)
    group = jnp.repeat(jnp.arange(few), node.shape[1])
    scale = jnp.sqrt(jnp.mean(values * weights**2) / (p @ (variance[group] * c**2)))
    return Classes(c * scale, p, group, variance, mean)


def nodes_of(levels: int, n: int) -> int:
    """Nodes in each interval of ``n`` teacher values with kinks at these levels."""
    return min(NODES, max(LEAST_NODES, n // (levels + 1)))


def _levels(problem: Problem):
    """The levels, with infinity for those that repeat the largest."""
    levels = problem.weights.levels
    return jnp.where(np.arange(levels.size) < levels.size - problem.weights.spare, levels, jnp.inf)


def _bending(problem: Problem) -> list[Problem]:
    """The phases whose kinks are new."""
    return with_new(problem, problem.parts, "weights", "inputs")


def _bends(problem: Problem, ratios):
    """Teacher values at which the answer has kinks; ``ratios`` are `_ideal` of the phases in `_bending`."""
    parts = list(zip(_bending(problem), ratios, strict=True))
    kinks = [_kinks(part) / ratio for part, ratio in parts]
    steps = [_steps(part) for part, _ in parts]
    if problem.ptq is not None:  # its levels, and weights near the teacher's on its thresholds
        steps += [problem.ptq.levels, problem.ptq.thresholds]
    return jnp.concatenate([*kinks, *steps])


def _kinks(problem: Problem):
    """The levels, with infinity for those that repeat the largest, and for those between small steps."""
    levels = _levels(problem)
    if levels.size < 3:
        return levels
    return jnp.where(beside_large(jnp.diff(levels)), levels, jnp.inf)


def beside_large(steps, xp=jnp):
    """Which of the levels between these steps (infinite beyond the last) are beside one of at least `LARGE`."""
    large = size_of_steps(xp.where(xp.isfinite(steps), steps, xp.inf), xp) >= LARGE
    return xp.concatenate([large[:1], large[1:] | large[:-1], large[-1:]])


def _steps(problem: Problem):
    """Teacher values whose weights start on a threshold."""
    if problem.start.scale is None or problem.weights.is_none:
        return jnp.zeros(0)
    levels = _levels(problem)
    steps = 0.5 * (levels[1:] + levels[:-1]) / problem.start.scale
    return jnp.where(jnp.isfinite(steps), steps, jnp.inf)


def _ideal(problem: Problem, variance, mean):
    """``gain k1 / k2`` of inputs: a weight is driven towards this multiple of its teacher value."""
    moments = problem.moments(variance, mean)
    return problem.labels.gain(problem.signal) * (moments.k1 / moments.k2)


def teacher_points(teacher: Teacher, folded: bool):
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


def _gauss(values, weights, n: int, per: int, kinks, coarse):
    """Share and value of about ``n`` nodes, ``per`` in each interval, for sorted weighted values."""
    bins = max(1, n // per)
    index = intervals(values, weights, bins, kinks)
    share, node = gauss_nodes(values, weights, index, bins, per, jnp.asarray(coarse).astype(int))
    return share.reshape(-1), node.reshape(-1)


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
