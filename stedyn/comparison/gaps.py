"""The gap between a simulated and a predicted error curve, and the test of it."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from ..curves.runs import Runs
from ..limit.solution import Solution
from ..simulation import Ensemble
from .verdict import Part, floored, mean_test, part_level, single_times

#: With at least so many seeds: stretches of time, and numbers of the start that serve as controls.
STRETCHES, CONTROLS = {2: 1, 12: 2, 24: 4}, {2: 0, 6: 2, 12: 3}


@dataclasses.dataclass(frozen=True, eq=False)
class Gaps:
    """Gaps at the times that both have saved.

    Attributes
    ----------
    tau, common : (T,)
        These times, and their indices in the ensemble.
    theory, mean : (T,)
        Predicted error, and mean simulated error less that.
    sem : (T,) or None
        Standard error of the mean; None for one seed, of which nothing is predicted.
    solved : (T,)
        Indices of these times in the solution.
    relative : (S, T)
        The gap of every seed over the predicted error.
    floor : (T,)
        What one weight of one seed would change in ``relative``, where no weight of any seed has changed its level; 0
        elsewhere.
    """

    tau: Float[np.ndarray, " T"]
    common: Int[np.ndarray, " T"]
    theory: Float[np.ndarray, " T"]
    mean: Float[np.ndarray, " T"]
    sem: Float[np.ndarray, " T"] | None
    relative: Float[np.ndarray, "S T"]
    floor: Float[np.ndarray, " T"]
    solved: Int[np.ndarray, " T"]

    @property
    def in_errors(self) -> Float[np.ndarray, " T"] | None:
        """The mean gap over its standard error (T,)."""
        return None if self.sem is None else self.mean / self.sem


def measure_gaps(solution: Solution, ensemble: Runs) -> Gaps:
    """The gaps at common times: a saved time of a simulation is a whole number of steps, half of one off at most."""
    solved, predicted = np.asarray(solution.tau), np.asarray(solution.error)
    tau, dim, seeds = np.asarray(ensemble.tau), ensemble.dim, ensemble.seeds
    common = np.flatnonzero(np.min(np.abs(tau[:, None] - solved), axis=1) <= 1.0 / dim)
    if solution.problem.means == "kept":  # at 0 the means of the outputs have not met yet
        common = common[tau[common] > 0]
    tau, error = tau[common], ensemble.error[:, common]
    theory, largest = np.interp(tau, solved, predicted), float(np.max(predicted))
    size = np.maximum(theory, largest / (dim * seeds))  # one weight of one seed is the least that is resolved
    gap = error.mean(axis=0) - theory
    floor = np.where(np.ptp(error, axis=0) <= 1e-9 * largest, largest / dim, 0.0)
    sem = None
    if seeds > 1:
        sem = np.sqrt((error.var(axis=0, ddof=1) + floored(gap, floor, seeds)) / seeds)
    nearest = np.abs(tau[:, None] - solved).argmin(axis=1) if tau.size else np.zeros(0, int)
    return Gaps(tau, common, theory, gap, sem, (error - theory) / size, floor / size, nearest)


def curve_parts(
    gaps: Gaps, draws: Float[np.ndarray, "S Q"] | None, seeds: int, parts: int
) -> tuple[Part, Part, float | None]:
    """The test of the curve, that of single times, and the smallest gap that the first could have found.

    The relative gap of every seed, averaged over each of a few stretches of time (the later half of the saved times
    with few seeds), is tested by `stedyn.comparison.verdict.mean_test`. Its controls are what the seeds drew (see
    `deviations`), which carries most of the noise of an early curve.
    ``parts`` is the number of main parts of the verdict.
    """
    after = np.flatnonzero(gaps.tau > 0)
    reason = ""
    if seeds < 2:
        reason = "one seed has no spread; run at least two"
    elif after.size == 0:
        reason = "theory and simulation have saved no common time after 0; save the same times"
    elif not np.all(np.isfinite(gaps.relative)):
        reason = (
            f"the errors are not finite at tau = {gaps.tau[~np.isfinite(gaps.relative).all(axis=0)][0]:g}"
        )
    if reason or gaps.in_errors is None:
        return Part("curve", None, reason=reason), Part("single times", None, reason=reason), None
    count = min(_allowed(STRETCHES, seeds), after.size)
    stretches = np.array_split(after, count) if count > 1 else [after[after.size // 2 :]]
    averages = np.zeros((gaps.tau.size, count))
    for k, stretch in enumerate(stretches):
        averages[stretch, k] = 1 / stretch.size
    controls = None if draws is None else _varying(draws)
    test = mean_test(gaps.relative @ averages, controls, gaps.floor @ averages)
    assert test is not None  # the two tables leave degrees of freedom
    detectable = test.detectable(np.ones(count), part_level(parts))
    return Part("curve", test.p_value, test.dof), single_times(gaps.in_errors, seeds), detectable


def _allowed(table: dict[int, int], seeds: int) -> int:
    return table[max(least for least in table if least <= seeds)]


def deviations(solution: Solution, ensemble: Runs) -> Float[np.ndarray, "S Q"] | None:
    """What the seeds drew: deviations of teacher norm, overlap and norm at the start from their means.

    The quantizers and the rule have not acted on these, so that their means are right whatever the theory of the
    rest. Of measured curves nothing is known.
    """
    if not isinstance(ensemble, Ensemble):
        return None
    drawn = [np.mean(np.square(ensemble.teacher, dtype=float), axis=1) - float(solution.problem.rho)]
    if solution.tau[0] == 0 and ensemble.tau[0] == 0 and solution.problem.means != "kept":
        drawn += [
            getattr(ensemble, name)[:, 0] - float(getattr(solution, name)[0]) for name in ("overlap", "norm")
        ]
    return np.column_stack(drawn)


def _varying(draws):
    """The first of these numbers that vary, as many as the seeds can serve as controls; None without any."""
    largest = np.max(np.abs(draws), axis=0)
    chosen = draws[:, np.ptp(draws, axis=0) > 1e-6 * largest][:, : _allowed(CONTROLS, len(draws))]
    return chosen if chosen.shape[1] else None
