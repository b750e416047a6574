"""The law of weights as calibration rules see it: a Gaussian, or measured values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import optimize, special

from ..checks import fail
from ..problem.problem import Start, Teacher


class Partial(NamedTuple):
    """``E[v^n; v in piece k]`` for ``n = 0, 1, 2``, with ``v = w / R``."""

    zeroth: Float[np.ndarray, "N K"]
    first: Float[np.ndarray, "N K"]
    second: Float[np.ndarray, "N K"]


@runtime_checkable
class WeightLaw(Protocol):
    """What the rules ask of a law of weights."""

    @property
    def mean(self) -> float:
        """``E[w]``."""

    @property
    def mean_abs(self) -> float:
        """``E|w|``."""

    @property
    def mean_square(self) -> float:
        """``E[w^2]``."""

    @property
    def std(self) -> float:
        """Standard deviation about the mean."""

    @property
    def reach(self) -> float:
        """A size that no weight of consequence exceeds."""

    def largest(self, count: int) -> float:
        """The largest ``|w|`` (of ``count`` draws, in the median, if the law has no end)."""

    def percentile(self, percentile: float, count: int) -> float:
        """The percentile of ``|w|`` (of ``count`` draws, in the median, if the law has no end)."""

    def cdf(self, sizes: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """``P(|w| <= size)``."""

    def partial(self, breaks: Float[np.ndarray, " B"], ranges: Float[np.ndarray, " N"]) -> Partial:
        """Moments of ``w / R`` between ``breaks``, for every range ``R``."""


@dataclass(frozen=True)
class GaussianLaw:
    """``w ~ N(mean, std^2)``."""

    mean: float
    std: float

    @property
    def mean_abs(self) -> float:
        ratio = self.mean / self.std
        bell = self.std * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2)
        return float(bell + self.mean * special.erf(ratio / np.sqrt(2)))

    @property
    def mean_square(self) -> float:
        return self.mean**2 + self.std**2

    @property
    def reach(self) -> float:
        return abs(self.mean) + 9 * self.std

    def largest(self, count: int) -> float:
        return self._ordered(1, count)

    def percentile(self, percentile: float, count: int) -> float:
        """Interpolated between the medians of the two order statistics around it."""
        place = (count - 1) * (1 - percentile / 100)
        larger, smaller = (self._ordered(k, count) for k in (int(place) + 1, min(int(place) + 2, count)))
        return larger + (place - int(place)) * (smaller - larger)

    def _ordered(self, k: int, count: int) -> float:
        """Median of the ``k``-th largest of ``count`` draws: a share ``Beta(k, count - k + 1)`` lies above it."""
        return self._exceeded(float(special.betaincinv(k, count - k + 1, 0.5)))

    def _exceeded(self, share: float) -> float:
        """The size that ``|w|`` exceeds with probability ``share``."""
        far = abs(self.mean) - self.std * special.ndtri(share / 2)
        if self.mean == 0:
            return float(far)
        return float(optimize.brentq(lambda x: self._tail(x) - share, 0.0, far, xtol=1e-14 * far))

    def _tail(self, size):
        return special.ndtr((self.mean - size) / self.std) + special.ndtr((-self.mean - size) / self.std)

    def cdf(self, sizes):
        return 1 - self._tail(np.asarray(sizes))

    def partial(self, breaks, ranges) -> Partial:
        mean, std = self.mean / ranges[:, None], self.std / ranges[:, None]
        z = np.pad((breaks - mean) / std, [(0, 0), (1, 1)], constant_values=(-np.inf, np.inf))
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        left, right = z[:, :-1], z[:, 1:]
        sign = np.where(left > 0, -1.0, 1.0)  # differences of the cdf in the tail where both are small
        zeroth = sign * (special.ndtr(sign * right) - special.ndtr(sign * left))
        unit = -np.diff(density, axis=1)
        unit2 = zeroth - np.diff(np.where(np.isfinite(z), z, 0.0) * density, axis=1)
        second = mean**2 * zeroth + 2 * mean * std * unit + std**2 * unit2
        return Partial(zeroth, mean * zeroth + std * unit, second)


class SampleLaw:
    """Every one of the values with the same probability."""

    def __init__(self, values: Float[np.ndarray, " n"]):
        self.values = np.sort(values)
        self.sizes = np.sort(np.abs(values))
        # sums of the n smallest, their first and second powers
        self._sums = [np.concatenate([[0.0], np.cumsum(self.values**power)]) for power in (1, 2)]
        self.mean, self.std = float(values.mean()), float(values.std())
        self.mean_abs, self.mean_square = float(self.sizes.mean()), float((values**2).mean())
        self.reach = float(self.sizes[-1])

    def largest(self, count: int) -> float:
        return self.reach

    def percentile(self, percentile: float, count: int) -> float:
        """Interpolated between the two order statistics around it."""
        return float(np.percentile(self.sizes, percentile))

    def cdf(self, sizes):
        return np.searchsorted(self.sizes, sizes, side="right") / self.sizes.size

    def partial(self, breaks, ranges) -> Partial:
        n, rows = self.values.size, ranges[:, None]
        inner = np.searchsorted(self.values, (rows * breaks).ravel()).reshape(-1, breaks.size)
        ends = np.pad(inner, [(0, 0), (1, 1)])
        ends[:, -1] = n
        first, second = (np.diff(sums[ends], axis=1) / n for sums in self._sums)
        return Partial(np.diff(ends, axis=1) / n, first / rows, second / rows**2)


def weight_law(weights: Teacher | Start | ArrayLike) -> WeightLaw:
    """The law of a teacher or a start, or of measured values of any shape.

    Raises
    ------
    ValueError
        If there are no values, one is not a finite number, or all are zero.
    """
    if isinstance(weights, (Teacher, Start)):
        return _of_record(weights)
    try:
        values = np.asarray(weights)
    except ValueError:  # rows of different lengths
        fail("weights", "an array of numbers", weights, "give rows of one length")
    if values.dtype.kind not in "fiu" or values.size == 0:
        shown = f"{values.dtype} of shape {values.shape}"
        fail("weights", "a teacher, a start or an array of numbers", shown, "give one of these")
    values = values.astype(float).ravel()
    if bad := int(np.sum(~np.isfinite(values))):
        fail("weights", "finite numbers only", f"{bad} nan or inf", "remove them")
    if not np.any(values):
        fail("weights", "at least one that is not 0", "zeros only", "no range can be read off them")
    return SampleLaw(values)


def _of_record(law: Teacher | Start) -> WeightLaw:
    if law.data is not None:
        return weight_law(np.asarray(law.data.values))
    if isinstance(law, Start):
        mean, std = float(law.mean), float(law.std)  # type: ignore[arg-type]
    else:
        scale = float(law.scale)  # type: ignore[arg-type]
        if law.kind == "rademacher":
            return weight_law([-scale, scale])
        mean, std = (scale, 0.0) if law.kind == "constant" else (0.0, scale)
    return GaussianLaw(mean, std) if std > 0 else weight_law([mean])
