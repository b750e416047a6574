"""Order parameters of given weights, exact given the weights; float64 on the host."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..moments import input_moments
from ..problem import Problem


class Observed(NamedTuple):
    """Order parameters of one seed at one time; see `Ensemble` for the names."""

    error: float
    m: float
    q: float
    overlap: float
    norm: float
    saturated: float | None
    occupancy: np.ndarray | None


class Observer:
    """Measures weights; the constants of the problem are taken once, when it is built.

    ``error = mean(v w*^2 - 2 k1 w* E[psi | w] + k2 E[psi^2 | w])`` with ``k1 = E[x phi]``, ``k2 = E[phi^2]`` for
    ``x ~ N(0, v)``; ``m = mean(w* E[psi | w])``, ``q = mean(E[psi^2 | w])``, the averages being over the randomness
    of stochastic rounding.
    """

    def __init__(self, problem: Problem):
        self.inputs = problem.inputs
        self.alike = self._weights_of(np.ones(1))
        quantizer = problem.weights
        self.breaks, self.first, self.second = (np.asarray(piece, float) for piece in quantizer.pieces)
        self.range = None if quantizer.range is None else float(quantizer.range)
        self.levels = np.asarray(quantizer.levels, float)
        self.stochastic = quantizer.rounding == "stochastic"

    def _weights_of(self, variance: np.ndarray) -> tuple[np.ndarray, ...]:
        """``v, k1, k2`` of inputs with these variances."""
        moments = input_moments(self.inputs, np.sqrt(variance))
        return variance, np.asarray(moments.k1), np.asarray(moments.k2)

    def __call__(self, w: np.ndarray, teacher: np.ndarray, variance: np.ndarray | None = None) -> Observed:
        """Order parameters of weights (d,) with their teacher and the variances of their inputs, 1 by default."""
        v, k1, k2 = self.alike if variance is None else self._weights_of(variance)
        w, teacher = w.astype(float), teacher.astype(float)
        piece = np.searchsorted(self.breaks, w, side="right")
        first, second = self.first[piece], self.second[piece]
        mean = first[:, 0] + first[:, 1] * w
        square = second[:, 0] + second[:, 1] * w + second[:, 2] * w**2
        m, q = np.mean(teacher * mean), np.mean(square)
        error = np.mean(v * teacher**2 - 2 * k1 * teacher * mean + k2 * square)
        saturated = None if self.range is None else float(np.mean(np.abs(w) > self.range))
        overlap, norm = np.mean(teacher * w), np.mean(w**2)
        return Observed(
            float(error),
            float(m),
            float(q),
            float(overlap),
            float(norm),
            saturated,
            self._occupancy(w, piece),
        )

    def _occupancy(self, w: np.ndarray, piece: np.ndarray) -> np.ndarray | None:
        count = self.levels.size
        if count == 0:
            return None
        if not self.stochastic:
            return np.bincount(piece, minlength=count) / w.size
        place = np.interp(w, self.levels, np.arange(count))
        low = np.minimum(place.astype(int), count - 2)
        up = place - low
        weight = np.bincount(low, 1 - up, count) + np.bincount(low + 1, up, count)
        return weight / w.size
