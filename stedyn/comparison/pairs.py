"""Predicted plateaus beside those of simulated runs."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from ..curves.plateaus import Plateau, simulated_times
from ..limit.spread import Spread
from .verdict import LINEAR, least_p, mean_test


@dataclasses.dataclass(frozen=True)
class PlateauPair:
    """A predicted plateau beside the simulated one: mean and standard error over the seeds that escape.

    Seeds are timed by the errors of the predicted plateau (`stedyn.curves.plateaus.simulated_times`). ``p_value``
    tests the length and the escape, or, where some seeds stay, how many do: by the predicted spread of one run
    where there is one, else over the seeds, and that more than half escape by the last time; None for a plateau that
    is still open at the horizon, and for one seed without a predicted spread.
    """

    theory: Plateau
    length: float | None
    length_sem: float | None
    escape: float | None
    escape_sem: float | None
    seeds: int
    p_value: float | None = None

    def __str__(self):
        if getattr(self.theory, "open", False):
            return f"predicted plateau: {self.theory}"
        seen = "not left in the runs"
        if self.length is not None:
            seen = (
                f"runs {_pm(self.length, self.length_sem)}, escape {_pm(self.escape, self.escape_sem)} "
                f"({self.seeds} seeds)"
            )
        return f"plateau length {self.theory.length:.4g}, escape {self.theory.escape:.4g}; {seen}"


def pair_plateaus(
    plateaus: list[Plateau], tau, predicted, simulated, dim: int, spread: Spread | None = None
) -> list[PlateauPair]:
    """Every predicted plateau beside the curves ``simulated (S, T)``, at the times of ``predicted (T,)``.

    ``spread`` says how far length and escape of one run stray.
    """
    stds = (
        [None] * len(plateaus) if spread is None else zip(spread.length_std, spread.escape_std, strict=True)
    )
    return [
        PlateauPair(plateau, None, None, None, None, 0)
        if getattr(plateau, "open", False)
        else _pair(plateau, before, tau, predicted, simulated, dim, std)
        for plateau, before, std in zip(plateaus, [None, *plateaus], stds, strict=False)
    ]


def _pair(plateau: Plateau, before, tau, predicted, simulated, dim: int, std) -> PlateauPair:
    each = [simulated_times(plateau, before, tau, predicted, error) for error in simulated]
    found = np.array([times for times in each if times is not None])
    seeds, p_value, times = len(simulated), None, np.array([plateau.length, plateau.escape], float)
    known = std is not None and None not in std and bool(np.all(np.array(std) <= LINEAR * times))
    if len(found) < seeds and (known or seeds > 1):
        # without a predicted spread: the median run of a right theory escapes
        stays = float(stats.norm.sf((tau[-1] - times[1]) / std[1])) if known else 0.5
        p_value = float(stats.binom.sf(seeds - len(found) - 1, seeds, stays))
    elif known:
        scale = np.sqrt(np.square(std) / seeds + 1 / dim**2)
        p_value = least_p(list(2 * stats.norm.sf(np.abs(found.mean(axis=0) - times) / scale)))
    elif seeds > 1:
        p_value = least_p([_p_value(gap, 1 / dim) for gap in (found - times).T])
    if not found.size:
        return PlateauPair(plateau, None, None, None, None, 0, p_value)
    length, escape = (float(x) for x in found.mean(axis=0))
    sems = (float(x) for x in stats.sem(found)) if len(found) > 1 else (None, None)
    length_sem, escape_sem = sems
    return PlateauPair(plateau, length, length_sem, escape, escape_sem, len(found), p_value)


def _p_value(gaps, step: float) -> float:
    test = mean_test(gaps[:, None], floor=np.array([step]))
    return np.nan if test is None else test.p_value


def _pm(value, sem):
    return f"{value:.4g}" if sem is None else f"{value:.4g} +- {sem:.2g}"
