"""Predicted outcomes of one problem as functions of range and learning rate."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import numpy as np

from ..checks import fail, same_floats
from ..curves.objectives import Objective
from ..limit.laws.registry import REFERENCE
from ..limit.solution import Solution
from ..limit.solver import solve
from ..limit.stationary import final_error, has_fixed_point
from ..machine import cores
from ..problem.phases import replaced
from ..problem.problem import Problem, Run
from ..quantizers.quantizer import Quantizer

_Found = TypeVar("_Found")
#: Cells over all intervals between thresholds, of a scan and of a search: one pass, not refined. Times and errors of
#: the latter are about 1 % off, by nearly the same part from a range to the next.
SCAN_CELLS, SEARCH_CELLS = 240, 480
#: Saved times of a curve from which times are read, at which its error is estimated.
LEAST_POINTS = 101
#: Errors below this part of the one whose time is wanted are relative to it: what follows is of no matter to the time.
BESIDE = 0.1
#: Tolerance of a curve that is only described.
ROUGH = 0.1


def side_by_side(task: Callable[[Any], _Found], items: Iterable, alone: int = 1) -> Iterator[_Found]:
    """Results of a task for all items, in order, on all cores; the first one alone, if it compiles for the others."""
    items = list(items)
    yield from map(task, items[:alone])
    with ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(same_floats(task), items[alone:])


class Outcome(NamedTuple):
    """Value of the objective (infinite where it is not reached), and the error that goes with it."""

    value: float
    error: float


def with_quantizer(problem: Problem, quantizer: Quantizer, lr=None, run: Run | None = None) -> Problem:
    """The problem with another weight quantizer, learning rate and run."""
    rule = problem.rule if lr is None else eqx.tree_at(lambda rule: rule.lr, problem.rule, lr)
    return dataclasses.replace(problem, weights=quantizer, rule=rule, run=run or problem.run)


def need_fixed_point(name: str, asked: str, problem: Problem, any_range: bool = False) -> None:
    """Refuse the objective ``asked``, a final error, of a problem without a fixed point."""
    if not has_fixed_point(problem, any_range):
        fail(name, "a problem with a fixed point for 'final-error'", asked,
             "use error-at=TAU with the end of the run")  # fmt: skip


class Predictor:
    """A problem with one quantizer, whose range and learning rate vary; exact outcomes are kept."""

    def __init__(self, problem: Problem, quantizer: Quantizer, objective: Objective, max_error, tol: float):
        self.problem, self.quantizer, self.objective, self.tol = problem, quantizer, objective, tol
        self.bits = int(quantizer.bits or 0)
        self.max_error = np.inf if max_error is None else max_error
        self.stationary = has_fixed_point(problem, any_range=True)
        horizon = objective.number if objective.kind == "error-at" else problem.run.tau
        timed = objective.kind in ("time-to", "plateau-length")
        self.run = Run(horizon, max(LEAST_POINTS, problem.run.points) if timed else 3)
        self.least = BESIDE * float(objective.number or 0.0) if objective.kind == "time-to" else None
        self.base = with_quantizer(problem, quantizer)  # checked once, for all ranges
        self.kept: dict[tuple[float, float, int | None], Outcome] = {}
        self.exactly = functools.lru_cache(maxsize=1)(self._solve)

    def at(self, width: float, lr: float, run: Run | None = None) -> Problem:
        """The problem at one range and learning rate."""
        base = self.base if run is None else replaced(self.base, run=run)
        return eqx.tree_at(lambda p: (p.weights.range, p.rule.lr), base, (float(width), float(lr)))

    def fixed_error(self, width: float, lr: float, coarse=False) -> float | None:
        """Error of the fixed point; None if there is none."""
        if not self.stationary:
            return None
        return final_error(self.at(width, lr), coarse, often=True)

    def scan(self, width: float, lr: float) -> Outcome:
        """The outcome by the law of the scan."""
        return self._outcome(width, lr, SCAN_CELLS)

    def search(self, width: float, lr: float) -> Outcome:
        """The outcome by the law of the search."""
        return self._outcome(width, lr, SEARCH_CELLS)

    def exact(self, width: float, lr: float) -> Outcome:
        """The outcome by the exact law."""
        return self._outcome(width, lr, None)

    def all(self, widths: Iterable[float], lr: float) -> Iterator[Outcome]:
        """The outcomes at many ranges; the first alone where nothing is compiled."""
        return side_by_side(functools.partial(self.exact, lr=lr), widths, alone=not self.kept)

    @property
    def by_fixed_point(self) -> bool:
        return not self.objective.needs_curve and self.stationary

    def uncertainty(self, width: float, lr: float) -> float:
        """Relative error of the objective at one range."""
        best = self.exact(width, lr).value
        if not np.isfinite(best) or best <= 0:
            return 0.0
        if self.by_fixed_point:
            merged = self.fixed_error(width, lr, coarse=True)
            return abs((merged or 0.0) - best) / (3 * best)
        curve = self.exactly(width, lr)
        (tau, error), claim = curve.dense, float(curve.error_estimate or 0.0)
        miss = claim * np.maximum(error, float(curve.least_error))
        shifted = [self.objective.measure(tau, np.maximum(error + sign * miss, 0.0)) for sign in (-1, 1)]
        spread = max((abs(value / best - 1) for value in shifted if np.isfinite(value)), default=claim)
        return float(max(claim, spread))

    def curve(self, width: float, lr: float) -> Solution:
        """The curve of the problem's own run; only roughly where the objective is not read off a curve."""
        if self.objective.needs_curve and self.run == self.problem.run:
            return self.exactly(width, lr)
        tol = max(self.tol, ROUGH) if self.by_fixed_point else self.tol
        return self._solved(self.at(width, lr), tol)

    def _solve(self, width: float, lr: float, cells: int | None = None) -> Solution:
        """The curve of the objective's run: to the tolerance, or in one pass with so many cells."""
        tol = self.tol if cells is None else 1.0
        per = cells and cells // min(30, max(1, self.quantizer.n_levels))
        return self._solved(self.at(width, lr, self.run), tol, per)

    def _solved(self, problem: Problem, tol: float, cells: int | None = None) -> Solution:
        return solve(problem, law=REFERENCE, tol=tol, least_error=self.least, cells=cells, throw=False)

    def _outcome(self, width: float, lr: float, cells: int | None) -> Outcome:
        key = float(width), float(lr), None if self.by_fixed_point else cells
        if key not in self.kept:
            self.kept[key] = self._predicted(*key)
        return self.kept[key]

    def _predicted(self, width: float, lr: float, cells: int | None) -> Outcome:
        if self.by_fixed_point:
            error = self.fixed_error(width, lr)
            assert error is not None
            return Outcome(error, error)
        flat = self.objective.kind == "plateau-length"
        bounded = flat and self.max_error < np.inf
        final = self.fixed_error(width, lr) if flat else None
        if bounded and final is not None and final > self.max_error:
            return Outcome(np.inf, final)
        curve = self.exactly(width, lr) if cells is None else self._solve(width, lr, cells)
        if not curve.status.ok:
            return Outcome(np.inf, np.inf)
        end = curve.final_error if final is None else final
        if bounded and end > self.max_error:
            return Outcome(np.inf, end)
        return Outcome(self.objective.measure(*curve.dense, final), end)
