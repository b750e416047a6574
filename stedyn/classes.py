"""Classes of coordinates: teacher values and input variances, in finitely many groups with their shares."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtr, ndtri

from .populations import Covariance, Teacher
from .problem import Problem


class Classes(NamedTuple):
    """``C`` classes with teacher value and share; ``group`` is the index of one of ``K`` input variances."""

    teacher: Float[Array, " C"]
    share: Float[Array, " C"]
    group: Int[Array, " C"]
    variance: Float[Array, " K"]


def coordinate_classes(problem: Problem, n: int, coarse=False, variances: int | None = None) -> Classes:
    """Classes of a problem: ``n`` teacher values for each of up to ``variances`` (even numbers).

    ``sum share v c^2`` is exactly ``E[v w*^2]``. With ``coarse`` neighbouring classes are merged in pairs, the
    shapes kept: comparing the two shows what the finite number of classes costs.
    """
    few = variances
    if few is None:  # fewer of them where there are many teacher values
        many = problem.teacher.kind in ("gaussian", "file")
        few = max(2, min(n // 8, 4) * 2) if many else max(2, min(n // 4, 16) * 2)
    if problem.paired:
        return _paired_classes(problem, n, few, coarse)
    teacher, share = teacher_classes(problem.teacher, n, coarse)
    variance, part = variance_classes(problem.covariance, few, coarse)
    return Classes(
        jnp.repeat(teacher, part.size),
        (share[:, None] * part).reshape(-1),
        jnp.tile(jnp.arange(part.size), teacher.size),
        variance,
    )


def _paired_classes(problem: Problem, n: int, few: int, coarse) -> Classes:
    """Classes of coordinates whose teacher weight and input variance were measured together."""
    values, weights = jnp.asarray(problem.covariance.data.values), jnp.asarray(problem.teacher.data.values)
    edges = _variance_edges(values.size, few, least=2)
    order = jnp.argsort(values)
    variance, _ = _variance_bins(values[order], edges, coarse)
    teacher, share, group = [], [], []
    for k, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        part, mean, _ = merge_pairs(sample_bins(weights[order[low:high]], n), coarse)
        teacher.append(mean)
        share.append(part * (high - low) / values.size)
        group.append(np.full(mean.size, k))
    c, p, g = jnp.concatenate(teacher), jnp.concatenate(share), np.concatenate(group)
    scale = jnp.sqrt(jnp.mean(values * weights**2) / (p @ (variance[g] * c**2)))
    return Classes(c * scale, p, jnp.asarray(g), variance)


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
    mean, square = (_group_sums(power, edges) / count for power in (ordered, ordered**2))
    return count / size, mean, jnp.maximum(square - mean**2, 0.0)


def _group_sums(values, edges):
    """Sums of the values from each of the edges to the next."""
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


def teacher_classes(teacher: Teacher, n: int, coarse=False) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
    """Values and shares of the teacher classes; ``sum share c^2`` is exactly ``rho``."""
    if teacher.kind == "constant":
        return jnp.reshape(jnp.asarray(teacher.scale) * 1.0, (1,)), jnp.ones(1)
    if teacher.kind == "rademacher":
        return jnp.asarray(teacher.scale) * jnp.array([-1.0, 1.0]), jnp.full(2, 0.5)
    if teacher.data is not None and teacher.data.atoms is not None:
        return jnp.asarray(teacher.data.atoms), jnp.asarray(teacher.data.weights)
    bins = gaussian_bins(n) if teacher.data is None else sample_bins(teacher.data.values, n)
    share, mean, _ = merge_pairs(bins, coarse)
    return mean * jnp.sqrt(teacher.rho / (share @ mean**2)), share


def variance_classes(covariance: Covariance, n: int, coarse=False):
    """Values and shares of at most ``n`` classes of the input variances (an even number of them, or one)."""
    if covariance.kind == "identity":
        return jnp.ones(1), jnp.ones(1)
    values = jnp.sort(jnp.asarray(covariance.values()))
    return _variance_bins(values, _variance_edges(values.size, n), coarse)


def _variance_edges(size: int, n: int, least: int = 1) -> np.ndarray:
    """Where the classes begin and end among ``size`` values in increasing order, ``least`` of them in each.

    The largest variances, which move fastest and weigh most, have the smallest classes.
    """
    n = min(n, size // least) // 2 * 2
    ideal = np.round(size * (1 - (1 - np.arange(n + 1) / n) ** 3)).astype(int)
    room = least * np.arange(n, -1, -1)
    return np.minimum(ideal, size - room)


def _variance_bins(ordered, edges: np.ndarray, coarse):
    count = np.diff(edges)
    mean = _group_sums(ordered, edges) / count
    share, mean, _ = merge_pairs((count / ordered.size, mean, jnp.zeros_like(mean)), coarse)
    return mean, share
