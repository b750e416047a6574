"""Teacher and start weights of one seed, drawn on the host by NumPy, and the variances of its inputs; channels."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ..inputs.samples import Samples
from ..problem.populations import Channels, Covariance, Start, Teacher
from ..problem.problem import Problem

#: Multiples of it, modulo 1, fill the interval evenly: the golden ratio.
_GOLDEN = (np.sqrt(5) - 1) / 2


class Population(NamedTuple):
    """Teacher and latent weights (d,), float32; variances of the inputs (d,), None where all are 1; means or None."""

    teacher: np.ndarray
    start: np.ndarray
    variance: np.ndarray | None
    mean: np.ndarray | None


def population(problem: Problem, dim: int, seed: int) -> Population:
    """The coordinates at the start of the run with key ``seed``.

    Samples of a file are used as they are, in their order, when there are exactly ``dim`` of them;
    otherwise ``dim`` of them are drawn with replacement, the same of all that were measured together.
    """
    teacher, start, variance = (np.random.default_rng([seed, k]) for k in problem.together)
    weights = _teacher(problem.teacher, dim, teacher)
    drawn = Population(
        weights,
        _start(problem.start, dim, start, weights),
        _variance(problem.covariance, dim, variance),
        _means(problem.covariance, dim, np.random.default_rng([seed, problem.together[2]])),
    )
    if problem.channels is None:
        return drawn
    return drawn._replace(
        teacher=drawn.teacher * scales(problem.channels, "teacher", dim),
        start=drawn.start * scales(problem.channels, "start", dim),
    )


def scales(channels: Channels, name: str, dim: int) -> np.ndarray:
    """The scale ``name`` of every coordinate, float32 (d,): that of its channel.

    The channels are spread evenly over the coordinates, the same in all runs: inputs in the order of their variances
    fall into all of them.
    """
    return np.array(getattr(channels, name), np.float32)[_channel(tuple(map(float, channels.shares)), dim)]


@functools.lru_cache(maxsize=1)  # all seeds ask for it
def _channel(shares: tuple[float, ...], dim: int) -> np.ndarray:
    """The channel of every coordinate, uint8 (d,)."""
    rank = np.argsort(np.argsort(np.arange(1, dim + 1) * _GOLDEN % 1))
    return np.searchsorted(np.cumsum(shares)[:-1], (rank + 0.5) / dim).astype(np.uint8)


def ranges(problem: Problem, dim: int) -> np.ndarray | None:
    """The range of every coordinate in units of that of the problem, float32 (d,); None where all are 1."""
    channels = problem.channels
    return None if channels is None or channels.one_range else scales(channels, "range", dim)


def _variance(covariance: Covariance, dim: int, rng: np.random.Generator) -> np.ndarray | None:
    if covariance.kind == "identity":
        return None
    return (
        np.asarray(covariance.values(dim))
        if covariance.data is None
        else _resample(covariance.data, dim, rng)
    )


def _means(covariance: Covariance, dim: int, rng: np.random.Generator) -> np.ndarray | None:
    """Means of the same inputs: ``rng`` has to be as that of the variances was."""
    return None if covariance.means is None else _resample(Samples(covariance.means), dim, rng)


def _teacher(teacher: Teacher, dim: int, rng: np.random.Generator) -> np.ndarray:
    if teacher.data is not None:
        return _resample(teacher.data, dim, rng)
    if teacher.kind == "constant":
        return np.full(dim, teacher.scale, np.float32)
    unit = rng.standard_normal(dim) if teacher.kind == "gaussian" else rng.choice([-1.0, 1.0], dim)
    return (np.asarray(teacher.scale) * unit).astype(np.float32)


def _start(start: Start, dim: int, rng: np.random.Generator, teacher: np.ndarray) -> np.ndarray:
    if start.data is not None:
        return _resample(start.data, dim, rng)
    if start.kind == "constant":
        return np.full(dim, start.mean, np.float32)
    around = np.asarray(start.mean) if start.scale is None else np.asarray(start.scale) * teacher
    return (around + np.asarray(start.std) * rng.standard_normal(dim)).astype(np.float32)


def _resample(samples: Samples, dim: int, rng: np.random.Generator) -> np.ndarray:
    values = np.asarray(samples.values)
    chosen = values if values.size == dim else values[rng.integers(values.size, size=dim)]
    return chosen.astype(np.float32)
