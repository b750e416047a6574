"""Tests of a mean over a few seeds, and the one verdict they add up to. Nothing here knows a theory or a simulation.

Every test asks whether the mean of a row of numbers a seed is zero. For independent Gaussian seeds the p-value of
`mean_test` is exact for any number of seeds and any covariance, because the directions it looks at are chosen before
the mean is seen (``docs/verdicts.md``).
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import brentq

#: Level of a verdict, and the power at which the smallest detectable gap is stated.
LEVEL, POWER = 0.01, 0.8
#: Largest part of its mean by which a number of one run may stray where a predicted spread counts as Gaussian.
LINEAR = 0.2
#: Part of the level that guards single times, which the other parts may overlook.
TIMES_SHARE = 0.05
#: Part of the variance over the seeds that controls have to leave.
NOTHING_LEFT = 1e-6
#: A gap of this size has to be detectable, or the comparison decides nothing.
USEFUL_GAP = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class MeanTest:
    """Hotelling's test of a zero mean: ``statistic`` is F with ``dof`` degrees of freedom if the mean is zero.

    ``mean (K,)`` is the (adjusted) mean over the seeds and ``covariance (K, K)`` its estimated covariance.
    """

    mean: Float[np.ndarray, " K"]
    covariance: Float[np.ndarray, "K K"]
    statistic: float
    dof: tuple[int, int]
    p_value: float

    def detectable(self, direction: Float[np.ndarray, " K"], level: float) -> float:
        """Size ``g`` at which a mean ``g direction`` is found with probability `POWER` at this level.

        The noncentrality of F is ``g^2 direction' covariance^-1 direction``, the estimated covariance being taken as
        the true one.
        """
        bound = stats.f.isf(level, *self.dof)

        def missing(root):
            return stats.ncf.sf(bound, *self.dof, root**2) - POWER

        high = 1.0
        while missing(high) < 0:
            high *= 2
        root = brentq(missing, 0.0, high, rtol=1e-6)
        return float(root / np.sqrt(_squared(direction, self.covariance)))


def mean_test(
    scores: Float[np.ndarray, "S K"],
    controls: Float[np.ndarray, "S Q"] | None = None,
    floor: Float[np.ndarray, " K"] | float = 0.0,
) -> MeanTest | None:
    """Whether the mean of the scores over ``S`` seeds is zero; None if there are too few seeds.

    Scores are regressed on the controls, whose mean is known to be zero: the intercept keeps the mean of the scores and
    loses the noise that they share with the controls (control variates, Lavenberg and Welch 1981). With
    ``nu = S - 1 - Q`` and ``T^2`` of the intercept, ``T^2 (nu - K + 1) / (nu K)`` is ``F(K, nu - K + 1)``.

    Parameters
    ----------
    scores : (S, K)
    controls : (S, Q), optional
        Numbers of mean zero; those that do not vary, or are combinations of others, are left out. Where they leave
        nothing of the noise, all are: a mean of theirs that is zero but for rounding would decide.
    floor : (K,)
        What one event of one seed changes, for scores that would else seem free of noise; see `floored`.
    """
    seeds, count = scores.shape
    if not np.all(np.isfinite(scores)):
        return MeanTest(scores.mean(axis=0), np.full((count, count), np.nan), np.nan, (count, 1), np.nan)
    design = np.ones((seeds, 1))
    if controls is not None and controls.size:
        design = np.hstack([design, _independent(controls)])
    nu = seeds - design.shape[1]
    if nu < count:
        return None
    coefficients = np.linalg.lstsq(design, scores, rcond=None)[0]
    residual, mean = scores - design @ coefficients, coefficients[0]
    each = residual.T @ residual / nu + np.diag(floored(mean, floor, seeds))
    if design.shape[1] > 1 and np.any(np.diag(each) < NOTHING_LEFT * scores.var(axis=0, ddof=1)):
        return mean_test(scores, None, floor)
    covariance = each * np.linalg.inv(design.T @ design)[0, 0]
    square = _squared(mean, covariance)
    dof = count, nu - count + 1
    statistic = square * dof[1] / (nu * count)
    return MeanTest(mean, covariance, statistic, dof, float(stats.f.sf(statistic, *dof)))


def floored(mean, floor, seeds: int):
    """Variance of a seed that events of size ``floor`` may have although none was seen.

    Events that are counted have a variance in proportion to their mean, and one event of one seed is the least that an
    ensemble resolves.
    """
    return np.abs(mean) * floor + np.square(floor) / seeds


def _squared(mean, covariance) -> float:
    """``mean' covariance^-1 mean``, the scales of the entries taken out first."""
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    inverse = np.linalg.pinv(covariance / np.outer(scale, scale), rcond=1e-12, hermitian=True)
    return float((mean / scale) @ inverse @ (mean / scale))


def _independent(controls):
    """Orthonormal combinations of the controls; each of them is scaled first."""
    scale = np.sqrt(np.mean(controls**2, axis=0))
    varies = np.ptp(controls, axis=0) > 1e-9 * scale
    left, sizes, _ = np.linalg.svd(controls[:, varies] / scale[varies], full_matrices=False)
    return left[:, sizes > 1e-5 * np.max(sizes, initial=0.0)]


class FTest(NamedTuple):
    """A statistic, its degrees of freedom as F, and its p-value."""

    statistic: float
    dof: tuple[float, float]
    p_value: float


def shares_test(shares: Float[np.ndarray, "S B"], expected: Float[np.ndarray, " B"]) -> FTest | None:
    """Whether shares of ``B`` bins have the expected mean, judged by their spread over the seeds.

    ``F = S sum_b (mean - expected)^2 / expected`` over the same sum for the scatter of the seeds: a chi-squared on
    pooled counts, divided by what the seeds themselves say it should be (Rao and Scott 1981). Its degrees of freedom
    are those of Satterthwaite, ``f = tr(C)^2 / tr(C^2)`` and ``f (S - 1)`` with ``tr(C^2)`` estimated without bias; for
    two seeds, which cannot tell it, ``f = 1``.
    """
    seeds, bins = shares.shape
    if seeds < 2:
        return None
    scores = (shares - expected) / np.sqrt(expected)
    mean, nu = scores.mean(axis=0), seeds - 1
    gram = (scores - mean) @ (scores - mean).T / nu  # its traces are those of the covariance
    trace, square = float(np.trace(gram)), float(np.sum(gram**2))
    if trace <= 0:
        return None
    free = 1.0
    if nu > 1:
        square = nu**2 / ((nu - 1) * (nu + 2)) * (square - trace**2 / nu)
        free = float(np.clip(trace**2 / max(square, 1e-300), 1, bins - 1))
    statistic = float(seeds * mean @ mean / trace)
    dof = free, free * nu
    return FTest(statistic, dof, float(stats.f.sf(statistic, *dof)))


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that a verdict looks at: its p-value, or the reason why it has none, and its degrees of freedom.

    Two of F, one of chi-squared.
    """

    name: str
    p_value: float | None
    dof: tuple[float, ...] | None = None
    reason: str = ""

    def __post_init__(self):
        if self.p_value is not None and not math.isfinite(self.p_value):
            object.__setattr__(self, "p_value", None)
            object.__setattr__(self, "reason", self.reason or "its statistic is not a number")

    def __str__(self):
        if self.p_value is None:
            return f"{self.name} undecided ({self.reason})"
        law = ""
        if self.dof:
            name = "F" if len(self.dof) > 1 else "chi-squared"
            law = f" ({name} on {' and '.join(f'{free:.3g}' for free in self.dof)} degrees of freedom)"
        return f"{self.name} p = {self.p_value:.2g}{law}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """``agreement`` is ``"agree"``, ``"differ"`` or ``"undecided"``.

    ``p_value`` is that of all parts together: a right theory is called different in at most the share `LEVEL` of
    comparisons. ``differing`` names the parts that differ by themselves, ``detectable_gap`` the smallest constant
    relative gap of the curve that is found with probability `POWER`.
    """

    agreement: str
    p_value: float | None
    detectable_gap: float | None
    parts: tuple[Part, ...]
    differing: tuple[str, ...]
    reason: str


def part_level(count: int) -> float:
    """Level of each of several main parts."""
    return -math.expm1(math.log1p(-(1 - TIMES_SHARE) * LEVEL) / count)


def single_times(standard_errors: Float[np.ndarray, " T"], seeds: int) -> Part:
    """Bonferroni's bound for the largest of ``T`` gaps in standard errors of ``seeds`` seeds."""
    largest = float(np.max(np.abs(standard_errors)))
    p_value = 2 * standard_errors.size * float(stats.t.sf(largest, seeds - 1))
    return Part("single times", min(1.0, p_value) if np.isfinite(p_value) else math.nan)


def judge(main: list[Part], times: Part, detectable_gap: float | None) -> Verdict:
    """One verdict over all parts: where one of them could not be tested, nothing agrees.

    The smallest p of ``n`` main parts counts as ``1 - (1 - p)^n`` (Sidak 1967; exact for independent parts, too large
    for parts that go together). It has all of the level but `TIMES_SHARE`, which the single times have.
    """
    known = [part for part in main if part.p_value is not None]
    together = {part.name: _sidak(part.p_value, len(known)) / (1 - TIMES_SHARE) for part in known}
    if times.p_value is not None:
        together[times.name] = times.p_value / TIMES_SHARE
    p_value = min(1.0, *together.values()) if together else None
    unknown = [part for part in main if part.p_value is None]
    reason = ""
    if unknown:
        reason = unknown[0].reason
    elif detectable_gap is None or not detectable_gap <= USEFUL_GAP:
        reason = "not even an error twice as large as predicted would have been noticed; run more seeds"
    agreement = "undecided" if reason else "agree"
    if p_value is not None and p_value < LEVEL:
        agreement = "differ"
    differing = tuple(name for name, p in together.items() if p < LEVEL)
    return Verdict(agreement, p_value, detectable_gap, (*main, times), differing, reason)


def _sidak(p_value, count: int) -> float:
    return 1.0 if p_value >= 1 else -math.expm1(count * math.log1p(-p_value))


def least_p(p_values: list[float]) -> float:
    """The smallest of several p-values, corrected for being that."""
    return _sidak(min(p_values), len(p_values)) if np.all(np.isfinite(p_values)) else math.nan
