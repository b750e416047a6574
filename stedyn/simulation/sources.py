"""Inputs of the simulation: draws of their law from random words, and the means that centring takes off.

The laws are drawn as they are said to be; no moment of them enters but the means of ``centre = true``, which are
averages here over many equally likely values of the law.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex64, Float32
from scipy.special import ndtri

from ..problem.problem import Problem
from . import sampler

#: Equally likely values of an input for one variance, and for each of many; most values of all variances together,
#: beyond which a table of variances is made; values for each of many variances with means of their own.
VALUES, FEWER_VALUES, MOST_VALUES, TABLE, LEAST_VALUES = 2**20, 2**16, 2**25, 129, 2**14


class Source(eqx.Module):
    """How an input is drawn: ``mean + scale std base``, with ``std`` that of its coordinate."""

    kind: str = eqx.field(static=True)
    mean: Float32[Array, ""]
    scale: Float32[Array, ""]
    values: Float32[Array, " n"] | None
    centred: bool = eqx.field(static=True)

    def base(self, counter: sampler.Counter, pairs: int) -> Complex64[Array, "S P"]:
        """``scale base`` for each pair, as real and imaginary part."""
        return lax.complex(
            *(self.scale * part for part in self._pair(*sampler.words(counter, sampler.INPUTS, pairs)))
        )

    def _pair(self, first, second) -> tuple[Array, Array]:
        if self.values is not None:
            count = jnp.uint32(self.values.size)
            return self.values[first % count], self.values[second % count]
        if self.kind in ("gaussian", "relu"):
            a, b = sampler.box_muller(first, second)
            least = jnp.float32(0.0 if self.kind == "relu" else -jnp.inf)
            return jnp.maximum(a, least), jnp.maximum(b, least)
        a, b = (jnp.float32(2.0) * u - jnp.float32(1.0) for u in sampler.units(first, second))
        return (a, b) if self.kind == "uniform" else (sampler.laplace(a), sampler.laplace(b))


def source_of(problem: Problem) -> Source | None:
    """The source of a problem; None for standard normal inputs (without means of their own)."""
    law = problem.input_law
    centred = problem.means == "removed"
    if law.standard and problem.covariance.means is None:
        return None
    values = None if law.data is None else jnp.asarray(law.data.values, jnp.float32)
    mean, scale = jnp.asarray(law.mean, jnp.float32), jnp.asarray(law.scale, jnp.float32)
    return Source(law.kind, mean, scale, values, centred)


def centres(
    problem: Problem, variance: np.ndarray | None, mean: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """``E[x]`` and ``E[phi(x)]`` (n,) of inputs of variances (n,), 1 for None; None if they are not taken off.

    ``mean (n,)`` are their own means.
    """
    if problem.means != "removed":
        return None
    if variance is not None and mean is not None:
        pairs, at = np.unique(np.stack([np.sqrt(variance), mean], axis=1), axis=0, return_inverse=True)
        x, phi = (part[at.reshape(-1)] for part in _means(problem, pairs[:, 0], LEAST_VALUES, pairs[:, 1]))
        return x.astype(np.float32), phi.astype(np.float32)
    std = np.ones(1) if variance is None else np.sqrt(variance)
    distinct = np.unique(std)
    data = problem.input_law.data
    if distinct.size * (FEWER_VALUES if data is None else data.values.size) > MOST_VALUES:
        table = np.geomspace(distinct[0], distinct[-1], TABLE)
        x, phi = (np.interp(std, table, mean) for mean in _means(problem, table, FEWER_VALUES))
    else:
        found = _means(problem, distinct, VALUES if distinct.size == 1 else FEWER_VALUES)
        x, phi = (mean[np.searchsorted(distinct, std)] for mean in found)
    return x.astype(np.float32), phi.astype(np.float32)


def _means(problem: Problem, stds: np.ndarray, count: int, own=0.0) -> tuple[np.ndarray, np.ndarray]:
    law, quantizer = problem.input_law, problem.inputs
    u = (np.arange(count) + 0.5) / count
    base = {
        "gaussian": lambda: ndtri(u),
        "relu": lambda: np.maximum(ndtri(u), 0),
        "uniform": lambda: 2 * u - 1,
        "laplace": lambda: np.sign(u - 0.5) * -np.log(1 - np.abs(2 * u - 1)),
        "file": lambda: np.asarray(law.data.values, np.float32).astype(float),  # type: ignore[union-attr]
    }[law.kind]()
    levels = np.asarray(quantizer.levels, float)
    inner, outer = [], []
    for std, shift in zip(stds, np.broadcast_to(own, stds.shape), strict=True):
        x = shift + float(law.mean) + float(law.scale) * std * base
        inner.append(x.mean())
        if quantizer.is_none:
            outer.append(x.mean())
        elif quantizer.rounding == "stochastic":  # on average the value between the outermost levels
            outer.append(np.clip(x, levels[0], levels[-1]).mean())
        else:
            outer.append(levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x, side="right")].mean())
    return np.array(inner), np.array(outer)
