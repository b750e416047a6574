"""Classes of inputs: groups with one variance, and one mean where inputs have means of their own."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..problem.populations import Covariance
from .quadrature import gauss_nodes, intervals

#: How many nodes of the variances are left out where classes are ``coarse``.
FEWER_VARIANCES = 2


class Cells(NamedTuple):
    """``K`` groups of the ``n`` measured inputs: the group of each, and variance, mean and share of every group."""

    group: Int[Array, " n"]
    variance: Float[Array, " K"]
    mean: Float[Array, " K"]
    share: Float[Array, " K"]


def input_classes(
    covariance: Covariance, n: int, coarse=False
) -> tuple[Float[Array, " K"], Float[Array, " K"], Float[Array, " K"]]:
    """Variances, means and shares of at most ``n`` classes of the inputs.

    Variances alone are nodes of one Gauss rule in their logarithm; with means of their own inputs are in `input_cells`.
    """
    if covariance.means is not None:
        cells = input_cells(covariance, n, coarse)
        return cells.variance, cells.mean, cells.share
    variance, share = _variances(covariance, n, coarse)
    return variance, jnp.zeros_like(variance), share


def _variances(covariance: Covariance, n: int, coarse):
    if covariance.kind == "identity":
        return jnp.ones(1), jnp.ones(1)
    data = covariance.data
    if data is not None and data.atoms is not None and data.atoms.size <= n:
        return jnp.asarray(data.atoms), jnp.asarray(data.weights)
    values = jnp.asarray(covariance.values())
    n, one = min(n, values.size), jnp.zeros(values.size, int)
    fewer = jnp.where(coarse, min(FEWER_VARIANCES, n - 1), 0)
    # a coordinate counts with its variance in the error
    part, log_v = gauss_nodes(jnp.log(values), values / values.size, one, 1, n, fewer)
    value = jnp.exp(log_v[0])
    share = part[0] / value / jnp.sum(part[0] / value)
    return value * (jnp.mean(values) / (share @ value)), share


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
