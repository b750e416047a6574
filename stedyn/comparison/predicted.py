"""A curve held against the covariance that the limit predicts for runs of its width (``docs/verdicts.md``)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from scipy.integrate import cumulative_trapezoid
from scipy.optimize import brentq

from ..checks import InputError
from ..curves.runs import Runs
from ..limit.laws.registry import LAWS
from ..limit.solution import Solution
from ..limit.spread import Spread
from ..limit.width import the_same_in_all, with_spread
from ..simulation import Ensemble
from .verdict import LINEAR, POWER, Part, part_level

#: Changes of level by all weights of all seeds from which their number is Gaussian: far between, and with repetitions.
EVENTS, FLIPS = 10, 100
#: Most modes of the curve that are tested, and the least variance of one beside that of the first.
MODES, LEAST = 6, 0.01
#: Relative accuracy of a predicted standard deviation.
ACCURACY = 0.02
#: Draws that vary by less than this part of the norm are the same in all runs.
SAME = 1e-4
#: Why there is no `Noise`.
NOT_GAUSSIAN = (
    f"one run of this width strays by more than {LINEAR:.0%} of the error at all common times after 0, or hardly any "
    "weight has changed its level"
)


def spread_of(solution: Solution, runs: Runs) -> tuple[Spread | None, str]:
    """How far single runs of this width stray, or None and the reason why that is not predicted."""
    spread = solution.spread
    if not isinstance(runs, Ensemble) and runs.seeds > 1:
        return None, "which holds the noise of their test samples, too"
    same = set(the_same_in_all(solution.problem, runs.dim))
    if spread is not None and spread.dim == runs.dim and set(spread.given) <= same:
        return spread, ""
    if not LAWS[solution.law].densities:
        return None, f"the law {solution.law!r} follows no density"
    try:
        return with_spread(solution, runs.dim).spread, ""
    except InputError as error:
        return None, str(error).partition(";")[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """The Gaussian law of the mean error of ``S`` runs about the limit, at ``T`` times.

    Attributes
    ----------
    variance : (T,)
        Of one run, whatever it draws.
    covariance : (T, T)
        Of the mean of the runs, given what they drew.
    transfer : (T, Q)
        What a mean deviation of teacher norm, overlap and norm at the start adds to the mean error.
    linear, few, resolved : (T,)
        Where one run strays by less than `LINEAR` of the error; where too few weights have moved for a Gaussian law;
        where the first holds and the second does not.
    event, seeds : float, int
        What one weight of one run changes; ``S``.
    """

    variance: Float[np.ndarray, " T"]
    covariance: Float[np.ndarray, "T T"]
    transfer: Float[np.ndarray, "T Q"]
    linear: Bool[np.ndarray, " T"]
    few: Bool[np.ndarray, " T"]
    resolved: Bool[np.ndarray, " T"]
    event: float
    seeds: int

    def floor(self, gap) -> Float[np.ndarray, " T"]:
        """Variance of the mean that single events may have where they are few (`verdict.floored`); 0 elsewhere."""
        return np.where(self.few, np.abs(gap) * self.event + self.event**2 / self.seeds, 0.0) / self.seeds

    def sem(self, gap) -> Float[np.ndarray, " T"]:
        """Standard error of the mean, whatever the runs draw."""
        return np.sqrt(self.variance / self.seeds + self.floor(gap))

    def modes(self) -> Float[np.ndarray, "T K"]:
        """``K`` combinations of the mean gap that are standard normal if the theory is right.

        Gaps are divided by the standard deviation of a run; of the covariance of that the largest `MODES` eigenvalues
        count, down to `LEAST` of the first.
        """
        at = self.resolved
        std = np.sqrt(self.variance[at])
        sizes, modes = np.linalg.eigh(self.covariance[np.ix_(at, at)] / np.outer(std, std))
        chosen = np.flatnonzero(sizes >= LEAST * sizes[-1])[-MODES:]
        out = np.zeros((at.size, chosen.size))
        out[at] = modes[:, chosen] / std[:, None] / np.sqrt(sizes[chosen])
        return out


def noise_of(spread: Spread, solution: Solution, at, seeds: int, drawn: int) -> Noise | None:
    """The law at the saved times ``at (T,)``; None where no time after 0 has a Gaussian error.

    The first ``drawn`` of teacher norm, overlap and norm at the start are known. With their mean deviations ``z`` the
    gap has the mean ``B^T Z^-1 z`` and the covariance ``C - B^T Z^-1 B``, `Spread.drawn` being ``B`` and `Spread.draws`
    being ``Z``.
    """
    whole = np.asarray(spread.covariance)[np.ix_(at, at)]
    B, Z = np.asarray(spread.drawn)[:, at], np.asarray(spread.draws)
    variance = np.maximum(np.diag(whole), 0.0)
    problem, theory, tau = solution.problem, np.asarray(solution.error)[at], np.asarray(solution.tau)[at]
    clipped = problem.latent_clip is not None  # the start of a simulation is not yet
    size = max(float(problem.rho), float(solution.norm[0]))
    scale = np.sqrt(np.maximum(np.diag(Z), 0.0))
    known = (scale * np.sqrt(spread.dim) > SAME * size) & (
        np.arange(3) < (min(drawn, 1) if clipped else drawn)
    )
    scale = np.where(known, scale, 1.0)
    transfer = np.zeros((at.size, 3))
    if np.any(known):
        some = np.ix_(known, known)
        inverse = np.linalg.pinv((Z / np.outer(scale, scale))[some], rcond=1e-9, hermitian=True)
        transfer[:, known] = B[known].T @ (inverse / np.outer(scale, scale)[some])
    covariance = (whole - transfer @ B + ACCURACY**2 * np.diag(variance)) / seeds
    event = float(np.max(solution.error)) / spread.dim
    linear = np.sqrt(variance) <= LINEAR * theory
    few = (variance * seeds < EVENTS * event**2) & (_flips(solution)[at] * seeds * spread.dim**1.5 < FLIPS)
    resolved = linear & ~few & ((tau > 0) | (not clipped))
    if not np.any(resolved & (tau > 0)):
        return None
    return Noise(variance, covariance, transfer, linear, few, resolved, event, seeds)


def _flips(solution: Solution) -> Float[np.ndarray, " T"]:
    """How often the average weight has changed its level by the saved times, over ``sqrt(d)``; infinite if always."""
    rate, tau = solution.flip_rate, np.asarray(solution.tau)
    if rate is None:
        return np.where(tau > 0, np.inf, 0.0)
    return cumulative_trapezoid(np.asarray(rate), tau, initial=0.0)


def detectable_gap(noise: Noise, theory: Float[np.ndarray, " T"], parts: int) -> float:
    """The constant relative gap that the test of the curve finds with probability `POWER`: noncentral chi-squared.

    ``parts`` is the number of main parts of the verdict.
    """
    each = theory @ noise.modes()
    bound = stats.chi2.isf(part_level(parts), each.size)

    def missing(root):
        return stats.ncx2.sf(bound, each.size, root**2) - POWER

    return float(brentq(missing, 1e-3, 100.0, rtol=1e-6) / np.sqrt(np.sum(each**2)))


def curve_of(noise: Noise, gap: Float[np.ndarray, " T"]) -> Part:
    """Chi-squared of the mean gap, what follows from the draws taken out, along the modes of the noise."""
    each = gap @ noise.modes()
    return Part("curve", float(stats.chi2.sf(np.sum(each**2), each.size)), (each.size,))


def each_time(noise: Noise, gap, in_errors: Float[np.ndarray, " T"] | None) -> Part:
    """Bonferroni's bound for the largest of the gaps: normal where one run is, by the spread of the seeds elsewhere."""
    z = gap / np.sqrt(np.diag(noise.covariance) + noise.floor(gap))
    p = np.where(noise.linear, stats.norm.sf(np.abs(z)), 0.5)
    if in_errors is not None:
        p = np.where(noise.linear, p, stats.t.sf(np.abs(in_errors), noise.seeds - 1))
    return Part("single times", min(1.0, 2 * p.size * float(np.min(p))))
