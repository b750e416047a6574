"""Predicted plateaus beside those of simulated runs."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from ..curves.plateaus import Plateau, simulated_times
from .verdict import least_p, mean_test


@dataclasses.dataclass(frozen=True)
class PlateauPair:
    """A predicted plateau beside the simulated one: mean and standard error over the seeds that escape.

    Seeds are timed by the errors of the predicted plateau (`stedyn.curves.plateaus.simulated_times`). ``p_value``
    tests the length and the escape over the seeds, or, where some seeds stay, that more than half escape by the
    last time; None for a plateau that is still open at the horizon, and for one seed.
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


def pair_plateaus(plateaus: list[Plateau], tau, predicted, simulated, dim: int) -> list[PlateauPair]:
    """Every predicted plateau beside the curves ``simulated (S, T)``, at the times of ``predicted (T,)``."""
    return [
        PlateauPair(plateau, None, None, None, None, 0)
        if getattr(plateau, "open", False)
        else _pair(plateau, before, tau, predicted, simulated, dim)
        for plateau, before in zip(plateaus, [None, *plateaus], strict=False)
    ]


def _pair(plateau: Plateau, before: Plateau | None, tau, predicted, simulated, dim: int) -> PlateauPair:
    each = [simulated_times(plateau, before, tau, predicted, error) for error in simulated]
    found = np.array([times for times in each if times is not None])
    seeds, p_value = len(simulated), None
    if len(found) < seeds:  # the median run of a right theory escapes
        p_value = float(stats.binom.sf(seeds - len(found) - 1, seeds, 0.5)) if seeds > 1 else None
    elif seeds > 1:
        gaps = found - [plateau.length, plateau.escape]
        p_value = least_p([_p_value(gap, 1 / dim) for gap in gaps.T])
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
