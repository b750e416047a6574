"""The least error that is told from 0: accuracy is relative to larger ones (``docs/accuracy.md``)."""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
import numpy as np

from ..checks import any_traced, array_of
from ..problem.problem import Problem

#: Errors below this part of the variance of the label, and of what rounding to a step costs, count as this much where
#: accuracy is relative.
LEAST, LEAST_ROUNDED = 1e-9, 1e-2


def vanishing(problem: Problem):
    """`LEAST` of the variance of the label: no number of a problem is told from 0 below it."""
    return LEAST * problem.label_variance + 1e-300


def least_of(problem: Problem, asked=None):
    """The least error against which accuracy is measured: what is ``asked``, but at least that of `vanishing`.

    If nothing is, and all phases have quantized weights, it is `LEAST_ROUNDED` of ``Var x step^2 / 12`` with their
    finest step: a teacher on levels is learnt until no weight is off, down to the tails of the start.
    """
    quantizers, least = [part.weights for part in problem.parts], vanishing(problem)
    xp = jnp if any_traced(problem, asked) else np  # for which nothing is compiled
    if asked is not None:
        return xp.maximum(least, asked)
    if problem.range_rule is not None or any(weights.n_levels < 2 for weights in quantizers):
        return least
    gaps = [gap for weights in quantizers for gap in _gaps(weights)]
    power = problem.covariance.values().mean() * problem.input_law.variance
    return xp.maximum(least, LEAST_ROUNDED * power * functools.reduce(xp.minimum, gaps) ** 2 / 12)


def _gaps(weights) -> list:
    """Distances between neighbouring levels, all different ones."""
    if weights.explicit is None:
        return [np.min(np.diff(weights.unit)) * array_of(weights.range)]
    return [array_of(high - low) for low, high in itertools.pairwise(weights.explicit)]
