"""A curve held against the covariance that the limit predicts for runs of its width (``docs/verdicts.md``)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from scipy.optimize import brentq

from ..checks import InputError
from ..curves.runs import Runs
from ..limit.laws.registry import LAWS
from ..limit.solution import Solution
from ..limit.spread import Spread
from ..limit.width import with_spread
from .gaps import Gaps, deviations
from .verdict import LINEAR, POWER, Part, part_level

#: Weights of all seeds that have changed their level from which their number is Gaussian.
EVENTS = 10
#: Most modes of the curve that are tested, and the least variance of one beside that of the first.
MODES, LEAST = 6, 0.01
#: Relative accuracy of a predicted standard deviation.
ACCURACY = 0.02
#: Why there is no `Expectation`.
NOT_GAUSSIAN = (
    f"one run of this width strays by more than {LINEAR:.0%} of the error at all common times after 0, or hardly any "
    "weight has changed its level"
)


def spread_of(solution: Solution, runs: Runs) -> tuple[Spread | None, str]:
    """How far single runs of this width stray, or None and the reason why that is not predicted."""
    spread = solution.spread
    if (
        spread is not None
        and spread.dim == runs.dim
        and not set(spread.given) - set(_data_of(solution, runs.dim))
    ):
        return spread, ""
    if not LAWS[solution.law].densities:
        return None, f"the law {solution.law!r} follows no density"
    try:
        return with_spread(solution, runs.dim).spread, ""
    except InputError as error:
        return None, str(error).partition(";")[0]


def _data_of(solution: Solution, dim: int) -> list[str]:
    data = {"teacher": solution.problem.teacher.data, "start": solution.problem.start.data}
    return [name for name, own in data.items() if own is not None and own.values.size == dim]


@dataclasses.dataclass(frozen=True, eq=False)
class Expectation:
    """The Gaussian law of the mean gap of the seeds if the theory is right.

    Attributes
    ----------
    std : (T,)
        Standard error of the mean gap, whatever the runs drew.
    gap, covariance : (T,), (T, T)
        Mean gap less what follows from the drawn teacher and start, and its covariance given these.
    linear, resolved : (T,)
        Where one run strays by less than `LINEAR` of the error; where enough weights have moved to be Gaussian, too.
    floor : (T,)
        Variance of single events where they are few; 0 elsewhere.
    given : bool
        Whether what the runs drew is known.
    """

    std: Float[np.ndarray, " T"]
    gap: Float[np.ndarray, " T"]
    covariance: Float[np.ndarray, "T T"]
    linear: Bool[np.ndarray, " T"]
    resolved: Bool[np.ndarray, " T"]
    floor: Float[np.ndarray, " T"]
    given: bool


def expected(spread: Spread, gaps: Gaps, solution: Solution, runs: Runs) -> Expectation | None:
    """The law of the mean gap; None where no saved time after 0 has a Gaussian error.

    Norm of the teacher, overlap and norm at the start are known for simulated runs. Given their mean deviations ``z``,
    the gap has the mean ``B^T Z^-1 z`` and the covariance ``C - B^T Z^-1 B``, with `Spread.drawn` ``B`` and
    `Spread.draws` ``Z``.
    """
    seeds, at = runs.seeds, gaps.solved
    whole = np.asarray(spread.covariance)[np.ix_(at, at)]
    variance, gap, covariance = np.maximum(np.diag(whole), 0.0), gaps.mean, whole
    draws = deviations(solution, runs)
    clipped = solution.problem.latent_clip is not None  # the start of a simulation is not yet
    if draws is not None:
        known = slice(0, 1 if clipped else draws.shape[1])
        B, Z = np.asarray(spread.drawn)[known][:, at], np.asarray(spread.draws)[known, known]
        scale = np.sqrt(np.maximum(np.diag(Z), 1e-300))
        inverse = np.linalg.pinv(Z / np.outer(scale, scale), rcond=1e-9, hermitian=True) / np.outer(
            scale, scale
        )
        inverse[scale < 1e-9 * np.max(scale)] = 0.0
        gap = gap - B.T @ inverse @ draws.mean(axis=0)[known]
        covariance = whole - B.T @ inverse @ B
    covariance = covariance + ACCURACY**2 * np.diag(variance)
    event = float(np.max(solution.error)) / runs.dim  # what one weight changes
    counted = variance * seeds >= EVENTS * event**2
    floor = np.where(counted, 0.0, np.abs(gaps.mean) * event + event**2 / seeds) / seeds
    linear = np.sqrt(variance) <= LINEAR * gaps.theory
    resolved = linear & counted & ((gaps.tau > 0) | (not clipped))
    if not np.any(resolved & (gaps.tau > 0)) or not np.all(np.isfinite(gap)):
        return None
    std = np.sqrt(variance / seeds + floor)
    return Expectation(std, gap, covariance / seeds, linear, resolved, floor, draws is not None)


def whole_curve(law: Expectation, gaps: Gaps, parts: int) -> tuple[Part, float]:
    """Chi-squared of the mean gap along the largest modes of its covariance, and the detectable relative gap.

    Gaps are divided by the standard deviation of one run; of the covariance of that the largest `MODES` eigenvalues
    count, down to `LEAST` of the first. ``parts`` is the number of main parts of the verdict.
    """
    at = law.resolved
    std = law.std[at]
    sizes, modes = np.linalg.eigh(law.covariance[np.ix_(at, at)] / np.outer(std, std))
    kept = np.flatnonzero(sizes >= LEAST * sizes[-1])[-MODES:]
    modes = modes[:, kept] / np.sqrt(sizes[kept])
    count = kept.size
    statistic = float(np.sum((law.gap[at] / std @ modes) ** 2))
    per_gap = float(np.sum((gaps.theory[at] / std @ modes) ** 2))
    bound = stats.chi2.isf(part_level(parts), count)

    def missing(root):
        return stats.ncx2.sf(bound, count, root**2) - POWER

    root = float(brentq(missing, 1e-3, 100.0, rtol=1e-6))
    return Part("curve", float(stats.chi2.sf(statistic, count)), (count,)), root / np.sqrt(per_gap)


def each_time(law: Expectation, in_errors: Float[np.ndarray, " T"] | None, seeds: int) -> Part:
    """Bonferroni's bound for the largest of the gaps: normal where one run is, by the spread of the seeds elsewhere."""
    z = law.gap / np.sqrt(np.diag(law.covariance) + law.floor)
    p = np.where(law.linear, stats.norm.sf(np.abs(z)), 0.5)
    if in_errors is not None:
        p = np.where(law.linear, p, stats.t.sf(np.abs(in_errors), seeds - 1))
    return Part("single times", min(1.0, 2 * p.size * float(np.min(p))))
