"""Simulations of chosen ranges and of those of calibration rules, run by run with the same keys."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats
from tqdm.auto import tqdm

from ..checks import InputError, checked
from ..comparison.verdict import mean_test
from ..curves.objectives import Objective
from ..problem.problem import Problem, Run
from ..simulation import Ensemble, simulate
from .choices import Baseline, Choice, Choices, Simulated
from .predictor import with_quantizer
from .ranges import template

#: A difference counts below this p-value of Student's t over the seeds, each range by itself.
LEVEL = 0.05
#: The final error is averaged over this last part of the saved times.
TAIL = 0.25


@checked(choices=Choices)
def confirm(
    choices: Choices, *, dim: int = 3000, seeds: int = 8, seed: int = 0, progress: bool = False
) -> Choices:
    """The same choices with the simulated value of the objective for every range in them.

    Every range is simulated with the same keys, so that differences to the chosen range are taken run by run. A
    baseline whose value is ``higher`` is worse than the chosen range beyond the standard error.

    Parameters
    ----------
    choices : Choices
        What `stedyn.choose` returned.
    dim, seeds, seed : int
        As in `stedyn.simulate`; at least two seeds.

    Raises
    ------
    ValueError
        If there are fewer than two seeds.
    """
    if seeds < 2:
        raise InputError(f"seeds: expected at least 2, to have a standard error, found {seeds}; run more.")
    outcomes: dict[tuple[str, int, float], np.ndarray] = {}
    entries = [*choices.choices, *choices.baselines]
    rates = {(choice.kind, choice.bits): choice.lr for choice in choices.choices}
    for entry in tqdm(entries, unit="range", disable=not progress):
        key = entry.kind, entry.bits, round(entry.range, 9)
        if key not in outcomes:
            problem = _problem(choices, entry, rates[entry.kind, entry.bits])
            ensemble = simulate(problem, dim=dim, seeds=seeds, seed=seed)
            outcomes[key] = _values(choices.objective, ensemble)
    best = {(c.kind, c.bits): outcomes[c.kind, c.bits, round(c.range, 9)] for c in choices.choices}

    def seen(entry: Choice | Baseline) -> Simulated:
        values = outcomes[entry.kind, entry.bits, round(entry.range, 9)]
        return _simulated(values, None if isinstance(entry, Choice) else best[entry.kind, entry.bits])

    return dataclasses.replace(
        choices,
        choices=tuple(dataclasses.replace(c, simulated=seen(c)) for c in choices.choices),
        baselines=tuple(dataclasses.replace(b, simulated=seen(b)) for b in choices.baselines),
    )


def _problem(choices: Choices, entry: Choice | Baseline, lr: float) -> Problem:
    goal, run = choices.objective, choices.problem.run
    if goal.kind == "error-at":
        run = Run(taus=[0.0, float(goal.number or 0.0)])
    quantizer = template(choices.problem, entry.bits, entry.kind).with_range(entry.range)
    return with_quantizer(choices.problem, quantizer, lr, run)


def _values(goal: Objective, ensemble: Ensemble) -> np.ndarray:
    """The objective of every seed (S,)."""
    if goal.kind == "final-error":
        late = ensemble.tau >= (1 - TAIL) * ensemble.tau[-1]
        return ensemble.error[:, late].mean(axis=1)
    return np.array([goal.measure(ensemble.tau, curve) for curve in ensemble.error])


def _simulated(values: np.ndarray, best: np.ndarray | None) -> Simulated:
    finite = bool(np.all(np.isfinite(values)))
    mean, sem = (float(values.mean()), float(stats.sem(values))) if finite else (np.inf, np.inf)
    if np.any(np.isnan(values)):
        mean = sem = np.nan
    if best is None:
        return Simulated(mean, sem)
    best_finite = bool(np.all(np.isfinite(best)))
    if np.any(np.isnan([values, best])) or not (finite or best_finite):
        return Simulated(mean, sem, verdict="undecided")
    if not (finite and best_finite):  # some runs of one of the two never reach it
        return Simulated(mean, sem, verdict="lower" if finite else "higher")
    apart = values - best
    gap, test = float(apart.mean()), mean_test(apart[:, None])
    equal = test is None or test.p_value >= LEVEL
    verdict = "equal" if equal else "higher" if gap > 0 else "lower"
    return Simulated(mean, sem, gap, float(stats.sem(apart)), verdict)
