"""Order parameters of given weights, exact given the weights; float64 on the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from ..inputs.law import InputLaw
from ..inputs.moments import input_moments
from ..problem.problem import Problem
from ..quantizers.quantizer import Quantizer, as_arrays

_BLOCK = 2**14  # coordinates at a time, so that the intermediate arrays stay small


@eqx.filter_jit
def _moments(inputs: Quantizer, law: InputLaw, means: str, std, own):
    moments = input_moments(inputs, std, law, means, own)
    return moments.std**2, moments.k1, moments.k2, moments.mean_x, moments.mean


class Observed(NamedTuple):
    """Order parameters of one seed at one time; see `Ensemble` for the names.

    ``outputs`` are variances of the outputs of teacher and student, and between them the covariance; ``offset`` is the
    mean of the student's less that of the teacher's, over ``sqrt(d)``.
    """

    error: float
    m: float
    q: float
    overlap: float
    norm: float
    saturated: float | None
    occupancy: np.ndarray | None
    outputs: np.ndarray
    offset: float
    classification_error: float | None = None


class Observer:
    """Measures weights; the constants of the problem are taken once, when it is built.

    ``error = mean(k0 w*^2 - 2 k1 w* E[psi | w] + k2 E[psi^2 | w])`` with ``k0 = Var x``, ``k1 = Cov(x, phi)``, ``k2 =
    Var phi`` (see `_of_signs` for the model "sign"), and with means of the inputs ``sum(E[x] w* - E[phi] psi)^2 / d``
    besides; ``m = mean(w* E[psi | w])``, ``q = mean(E[psi^2 | w])``, the averages being over the randomness of
    stochastic rounding. ``psi`` of a weight is ``R psi(w / R)`` with the range ``R`` of its channel.
    """

    def __init__(self, problem: Problem):
        inputs, law = as_arrays((problem.inputs, problem.input_law))
        self.inputs = inputs, law, problem.means
        self.model = problem.model
        self.alike = self._weights_of(np.ones(1))
        quantizer = problem.weights
        self.breaks, self.first, self.second = (np.asarray(piece, float) for piece in quantizer.pieces)
        self.range = None if quantizer.range is None else float(quantizer.range)
        self.levels = np.asarray(quantizer.levels, float)
        self.stochastic = quantizer.rounding == "stochastic"
        self.wall = None if problem.latent_clip is None else float(problem.latent_clip)

    def _weights_of(self, variance: np.ndarray, means=None) -> tuple[np.ndarray, ...]:
        """``k0, k1, k2, E[x], E[phi]`` of inputs with these variances, and with means of their own."""
        count = variance.size
        # filled up to a power of two, as every shape is compiled
        more = (0, (1 << (count - 1).bit_length()) - count)
        own = 0.0 if means is None else np.pad(means, more, mode="edge")
        found = _moments(*self.inputs, np.sqrt(np.pad(variance, more, mode="edge")), own)
        return tuple(np.asarray(part)[:count] for part in found)

    def __call__(self, w: np.ndarray, teacher: np.ndarray, variance=None, ranges=None, own=None) -> Observed:
        """Order parameters of weights (d,) with their teacher, variances of their inputs and ranges, 1 by default.

        ``own (d,)`` are the means that inputs with variances have of their own. Weights beyond a latent clip are seen
        at it, where they are from the first step of its phase on.
        """
        blocks = [slice(first, first + _BLOCK) for first in range(0, w.size, _BLOCK)]
        ranges = np.ones(w.size, np.float32) if ranges is None else ranges
        w = w if self.wall is None else np.clip(w, -self.wall * ranges, self.wall * ranges)
        parts = [
            self._sums(
                w[b],
                teacher[b],
                None if variance is None else variance[b],
                None if own is None else own[b],
                ranges[b],
            )
            for b in blocks
        ]
        sums: list[Any] = [None if c[0] is None else sum(c[1:], c[0]) for c in zip(*parts, strict=True)]
        means: list[Any] = [None if total is None else total / w.size for total in sums]
        observed = Observed(*means)
        observed = observed._replace(error=observed.error + w.size * observed.offset**2)
        return observed if self.model == "linear" else _of_signs(observed)

    def _sums(self, w, teacher, variance: np.ndarray | None, means, ranges: np.ndarray) -> Observed:
        """The order parameters of some coordinates, times their number."""
        v, k1, k2, mean_x, mean_phi = self.alike if variance is None else self._weights_of(variance, means)
        w, teacher, ranges = w.astype(float), teacher.astype(float), ranges.astype(float)
        place = w / ranges
        piece = np.searchsorted(self.breaks, place, side="right")
        first, second = self.first[piece], self.second[piece]
        mean = ranges * (first[:, 0] + first[:, 1] * place)
        square = ranges**2 * (second[:, 0] + second[:, 1] * place + second[:, 2] * place**2)
        error = np.sum(v * teacher**2 - 2 * k1 * teacher * mean + k2 * square)
        error += np.sum(mean_phi**2 * (square - mean**2))  # of stochastic rounding, drawn anew at every step
        return Observed(
            float(error),
            float(np.sum(teacher * mean)),
            float(np.sum(square)),
            float(np.sum(teacher * w)),
            float(np.sum(w**2)),
            None if self.range is None else float(np.sum(np.abs(place) > self.range)),
            self._occupancy(place, piece),
            np.array([np.sum(part) for part in (v * teacher**2, k1 * teacher * mean, k2 * square)]),
            float(np.sum(mean_phi * mean - mean_x * teacher)),
        )

    def _occupancy(self, w: np.ndarray, piece: np.ndarray) -> np.ndarray | None:
        count = self.levels.size
        if count == 0:
            return None
        if not self.stochastic:
            return np.bincount(piece, minlength=count)
        place = np.interp(w, self.levels, np.arange(count))
        low = np.minimum(place.astype(int), count - 2)
        up = place - low
        return np.bincount(low, 1 - up, count) + np.bincount(low + 1, up, count)


def _of_signs(observed: Observed) -> Observed:
    """With the errors of a student whose labels are the signs of the teacher's outputs.

    The two outputs are jointly normal, so that ``E[sign(t) s] = E[t s] E|t| / E[t^2]``, and their signs differ with
    the probability ``arccos(correlation) / pi`` (Sheppard 1899).
    """
    teacher, both, student = observed.outputs
    angle = np.arccos(np.clip(both / np.sqrt(teacher * student), -1, 1)) if student > 0 else np.pi / 2
    error = 1 - 2 * np.sqrt(2 / (np.pi * teacher)) * both + student
    return observed._replace(error=float(error), classification_error=float(angle / np.pi))
