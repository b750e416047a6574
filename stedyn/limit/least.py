"""The least error that is told from 0: accuracy is relative to larger ones (``docs/accuracy.md``)."""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
import numpy as np

from ..checks import array_of, is_traced
from ..problem.problem import Problem

#: Errors below this part of the variance of the label, and of what rounding to a step costs, count as this much where
#: accuracy is relative.
LEAST, LEAST_ROUNDED = 1e-9, 1e-2


def vanishing(problem: Problem):
    """`LEAST` of the variance of the label: no number of a problem is told from 0 below it."""
    return LEAST * problem.label_variance + 1e-300


def least_of(problem: Problem, asked=None):
    """The least error against which accuracy is measured, at least that of `vanishing`: what is ``asked``, or else

    where all phases have quantized weights, `LEAST_ROUNDED` of ``Var x step^2 / 12`` with their finest step: a teacher
    on levels is learnt until no weight is off, down to the tails of the start.
    """
    quantizers, least = [part.weights for part in problem.parts], vanishing(problem)
    if asked is not None:
        return jnp.maximum(least, asked)
    if problem.range_rule is not None or any(weights.n_levels < 2 for weights in quantizers):
        return least
    gaps = [gap for weights in quantizers for gap in _gaps(weights)]
    power = problem.covariance.values().mean() * problem.input_law.variance
    traced = any(map(is_traced, [*gaps, least, power]))
    xp = jnp if traced else np  # for which nothing is compiled
    rounded = LEAST_ROUNDED * power * functools.reduce(xp.minimum, gaps) ** 2 / 12
    return xp.maximum(least, rounded)


def _gaps(weights) -> list:
    """Distances between neighbouring levels, all different ones."""
    if weights.explicit is None:
        return [np.min(np.diff(weights.unit)) * array_of(weights.range)]
    return [array_of(high - low) for low, high in itertools.pairwise(weights.explicit)]
