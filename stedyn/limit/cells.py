"""Classes of inputs: groups with one variance, and one mean where inputs have means of their own."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..problem.populations import Covariance
from ..problem.problem import Problem
from .quadrature import gauss_nodes, intervals

#: How many nodes of an interval of the variances are left out where classes are ``coarse``.
FEWER_VARIANCES = 2
#: Measured inputs that are so few that each of them is a kink.
FEW = 16
#: Nodes in each interval of the variances where there are kinks.
NODES = 4


class Cells(NamedTuple):
    """``K`` groups of the ``n`` measured inputs: the group of each, and variance, mean and share of every group."""

    group: Int[Array, " n"]
    variance: Float[Array, " K"]
    mean: Float[Array, " K"]
    share: Float[Array, " K"]


def input_classes(
    covariance: Covariance, n: int, coarse=False, kinks=(), jumps=False
) -> tuple[Float[Array, " K"], Float[Array, " K"], Float[Array, " K"]]:
    """Variances, means and shares of at most ``n`` classes of the inputs.

    Variances alone are nodes of one Gauss rule in their logarithm, or of one in each of several intervals if there are
    variances at which moments of the inputs have ``kinks``; with means of their own inputs are in `input_cells`. Where
    there are ``jumps`` as well, which are too many for that, ``coarse`` leaves one node in each interval: a comparison
    with two nodes fewer was up to 70 times smaller than the error.
    """
    if covariance.means is not None:
        cells = input_cells(covariance, n, coarse)
        return cells.variance, cells.mean, cells.share
    variance, share = _variances(covariance, n, coarse, jnp.asarray(kinks), jumps)
    return variance, jnp.zeros_like(variance), share


def _variances(covariance: Covariance, n: int, coarse, kinks: Float[Array, " J"], jumps: bool):
    if covariance.kind == "identity":
        return jnp.ones(1), jnp.ones(1)
    data = covariance.data
    if data is not None and data.atoms is not None and data.atoms.size <= n:
        return jnp.asarray(data.atoms), jnp.asarray(data.weights)
    values = jnp.asarray(covariance.values())
    n, bins, index = min(n, values.size), 1, jnp.zeros(values.size, int)
    if kinks.size:
        values, bins = jnp.sort(values), max(1, n // NODES)
    # a coordinate counts with its variance in the error
    log_v, weights = jnp.log(values), values / values.size
    if kinks.size:
        index = intervals(log_v, weights, bins, jnp.log(kinks))
    most = n // bins - 1
    fewer = jnp.where(coarse, most if jumps else min(FEWER_VARIANCES, most), 0)
    part, log_v = (each.reshape(-1) for each in gauss_nodes(log_v, weights, index, bins, n // bins, fewer))
    value = jnp.exp(log_v)
    share = part / value / jnp.sum(part / value)
    return value * (jnp.mean(values) / (share @ value)), share


def variance_bends(problem: Problem) -> tuple[Float[Array, " J"], bool]:
    """Variances at which an end of a bounded law of the inputs passes a break of their quantizer, or infinity.

    Of measured values that are few each of them is such an end. And whether there are more, at which moments jump.
    """
    law = problem.input_law
    if problem.inputs.is_none or law.kind not in ("uniform", "file"):
        return jnp.zeros(0), False
    ends = jnp.asarray(law.ends if law.data is None else law.data.values)
    if jumps := ends.size > FEW:
        ends = jnp.stack([jnp.min(ends), jnp.max(ends)])
    std = (problem.inputs.pieces.breaks - law.mean) / (law.scale * ends[:, None])
    return jnp.where(std > 0, std, jnp.inf).reshape(-1) ** 2, jumps


def variance_cells(values: Float[Array, " n"], n: int, coarse) -> Int[Array, " n"]:
    """Which of ``n`` intervals each variance is in; ``coarse`` joins them in pairs."""
    log_v = jnp.log(values)
    order = jnp.argsort(log_v)
    index = intervals(log_v[order], values[order], n, jnp.zeros(0))[jnp.argsort(order)]
    return jnp.where(coarse, index // 2 * 2, index)


def input_cells(covariance: Covariance, n: int, coarse=False) -> Cells:
    """Up to ``n`` cells of inputs with means of their own: intervals of the variance, and in each of the mean.

    Intervals of the mean hold equally many inputs. Where no more than ``n`` pairs of variance and mean occur, these are
    the cells. ``coarse`` joins intervals in pairs, in both directions. Averages of both are kept, and of squared means.
    """
    values, means = jnp.asarray(covariance.values()), jnp.asarray(covariance.means)
    if covariance.pair is not None and covariance.pairs <= n:
        index, count = jnp.asarray(covariance.pair).astype(int), covariance.pairs
    else:
        rows = 1 if covariance.alike else int(n**0.5) // 2 * 2
        columns = max(2, n // max(rows, 1) // 2 * 2)
        row = variance_cells(values, rows, coarse) if rows > 1 else jnp.zeros(values.size, int)
        order = jnp.lexsort((means, row))
        size = jnp.zeros(max(rows, 1)).at[row].add(1.0)
        rank = jnp.zeros(values.size).at[order].set(np.arange(values.size)) - (jnp.cumsum(size) - size)[row]
        column = jnp.clip(columns * (rank + 0.5) / size[row], 0, columns - 1).astype(int)
        index = row * columns + jnp.where(coarse, column // 2 * 2, column)
        count = max(rows, 1) * columns
    share = jnp.zeros(count).at[index].add(1.0 / values.size)
    variance, mean = (
        jnp.where(share > 0, total / jnp.where(share > 0, share * values.size, 1.0), jnp.mean(each))
        for each, total in ((each, jax.ops.segment_sum(each, index, count)) for each in (values, means))
    )
    middle = jnp.mean(means)
    between = share @ (mean - middle) ** 2
    stretch = jnp.where(between > 0, jnp.sqrt(jnp.var(means) / jnp.where(between > 0, between, 1.0)), 1.0)
    return Cells(index, variance, middle + stretch * (mean - middle), share)
