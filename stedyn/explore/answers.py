"""The numbers of the page, in stages: first a curve by one pass of the law, then what takes longer.

A stage that a problem does not have (no fixed point, no spread) is a `Refused` with the sentence of the function that
refuses it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..checks import Failure, InputError, in_float64
from ..curves.plateaus import Plateau, find_plateaus
from ..design.calibration import calibrated_ranges
from ..design.maps import final_errors
from ..design.predictor import with_quantizer
from ..limit.fixed_points import FixedPoint, fixed_point
from ..limit.laws.registry import REFERENCE, chosen, has_densities
from ..limit.solution import Solution
from ..limit.solver import solve
from ..limit.stationary import has_fixed_point
from ..limit.width import check_width, with_spread
from ..problem.problem import Problem, Run

#: Saved times of a curve, each with its density; the curve between them is that of the solver's steps.
FRAMES = 33
#: Tolerances of the first answer, which is one pass with its estimate, and of the refined one.
FIRST, REFINED = 1.0, 5e-3
#: Teacher classes of the first answer.
CLASSES = 8
#: Bins of a density, and ranges of the map.
BINS, RANGES, FEWER_RANGES = 240, 41, 13


@dataclasses.dataclass(frozen=True)
class Refused:
    """What a problem does not have, and why, in a sentence."""

    what: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """A solution, with its plateaus, which are found without the fixed points at first."""

    solution: Solution
    plateaus: list[Plateau]
    ending: str = ""
    refined: bool = False

    def sentence(self) -> str:
        """Final error, law, and how far both can be trusted."""
        solution = self.solution
        told = f"final error {solution.final_error:.4g}, {solution.law} law, {solution.claim}"
        return told if solution.status.ok else f"{told}. {solution.status}"

    def densities(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Edges (BINS + 1,) and densities (FRAMES, BINS) of the latent weights."""
        kept = self.solution.densities
        if kept is None:
            return None
        total, edges = kept.total, np.asarray(kept.edges)
        share = np.cumsum(total, axis=1)
        inside = np.any((share > 1e-4) & (share < 1 - 1e-4), axis=0)
        k = np.flatnonzero(inside) if inside.any() else np.arange(edges.size - 1)
        low, high = edges[k[0]], edges[min(k[-1] + 2, edges.size - 1)]
        pad = 0.05 * (high - low)
        bins = np.linspace(low - pad, high + pad, BINS + 1)
        below = np.array([kept.cdf(row, bins) for row in range(len(total))])
        return bins, np.diff(below, axis=1) / np.diff(bins)


@dataclasses.dataclass(frozen=True)
class RangeCurve:
    """Final error, or error at the end of the run, against the range; the ranges of the calibration rules."""

    ranges: np.ndarray
    errors: np.ndarray
    what: str
    rules: dict[str, float]

    def marks(self) -> dict[str, float]:
        """Ranges of the rules, those within 2 % of each other under one name."""
        marks: dict[str, float] = {}
        for rule, width in sorted(self.rules.items(), key=lambda item: item[1]):
            last = next(reversed(marks), "")
            if last and width <= 1.02 * marks[last]:
                marks[f"{last}, {rule}"] = marks.pop(last)
            else:
                marks[rule] = width
        return marks


@dataclasses.dataclass(frozen=True)
class Band:
    """Standard deviation of one run of a dimension around the curve."""

    tau: np.ndarray
    error: np.ndarray
    std: np.ndarray
    dim: int


def shown_run(problem: Problem) -> Problem:
    """The problem with the saved times of the page; ranges and phases stay as they are."""
    return dataclasses.replace(problem, run=Run(float(problem.taus[-1]), FRAMES))


def first(problem: Problem) -> Iterator[Curve | Refused]:
    """The `Curve` of one pass of the law: one program for all bit widths up to 5, kinds, edges, ranges and rates."""
    problem = shown_run(problem)
    solution = _solved(problem, FIRST, CLASSES if chosen("auto", problem) == REFERENCE else None)
    yield solution if isinstance(solution, Refused) else Curve(solution, find_plateaus(*solution.dense))


def stages(problem: Problem, dim: int) -> Iterator[Any]:
    """`FixedPoint`, `RangeCurve`, the refined `Curve` and the `Band`, or a `Refused` in their place."""
    problem = shown_run(problem)
    yield _or_refused("fixed point", lambda: fixed_point(problem))
    yield from _against_ranges(problem)
    refined = _solved(problem, REFINED)
    if isinstance(refined, Refused):
        return
    yield Curve(refined, refined.plateaus(), refined.ending(), refined=True)
    yield _or_refused("band", lambda: _band(refined, dim))


@in_float64
def _band(solution: Solution, dim: int) -> Band:
    check_width(solution.problem, ())
    spread = with_spread(solution, dim)
    tau, error, std = (np.asarray(each) for each in (spread.tau, spread.error, spread.error_std))
    return Band(tau, error, std, dim)


def _or_refused(what: str, compute) -> Any:
    try:
        return compute()
    except (InputError, Failure) as error:
        return Refused(what, str(error))


def _solved(problem: Problem, tol: float, classes: int | None = None) -> Solution | Refused:
    """The solution, or the sentence of what stops it; a curve that ends early is shown as far as it is known."""
    kept = problem.taus if has_densities("auto", problem) else None
    try:
        solution = solve(problem, tol=tol, densities=kept, classes=classes, throw=False)
    except (InputError, Failure) as error:
        return Refused("curve", str(error))
    return solution if len(solution.tau) > 1 else Refused("curve", str(solution.status))


def _against_ranges(problem: Problem) -> Iterator[RangeCurve | Refused]:
    """Error against the range of the weights; by fixed points, or by curves where there are none."""
    weights = problem.weights
    if weights.is_none or weights.explicit is not None or problem.range_rule is not None or problem.phases:
        yield Refused(
            "ranges", "The error against the range needs a weight quantizer with one range that stays."
        )
        return
    try:
        rules = calibrated_ranges(problem.target, weights)
    except InputError:  # no range can be read off these weights
        rules = {}
    now = float(np.asarray(weights.range))
    low = 0.25 * min([now, *rules.values()])
    high = 1.25 * max([now, *rules.values()])
    stationary = has_fixed_point(problem, any_range=True)
    ranges = np.geomspace(low, high, RANGES if stationary else FEWER_RANGES)
    ranges = np.unique(np.append(ranges, now))
    try:
        if stationary:
            what, errors = "final error", final_errors(problem, ranges, shared=True)
        else:
            what = f"error at tau = {float(problem.taus[-1]):g}"
            each = [with_quantizer(problem, weights.with_range(float(width))) for width in ranges]
            errors = np.array([_end(solve(one, tol=FIRST, classes=CLASSES, throw=False)) for one in each])
    except (InputError, Failure) as error:
        yield Refused("ranges", str(error))
        return
    known = np.isfinite(errors)
    if known.sum() < 2:
        yield Refused("ranges", "There is no final error at these ranges.")
        return
    yield RangeCurve(ranges[known], errors[known], what, rules)


def _end(solution: Solution) -> float:
    return solution.final_error if solution.status.ok else np.inf


def fixed_point_lines(point: FixedPoint) -> list[str]:
    """What the page says of a fixed point."""
    stable = "stable" if point.stable else "unstable"
    lines = [f"error {point.error:.4g}, {stable}"]
    if point.excess is not None:
        side = "above" if point.excess >= 0 else "below"
        lines.append(f"{abs(point.excess):.3g} {side} the unquantized student")
    if point.relaxation_time is not None:
        swings = f", oscillating with period {point.period:.3g}" if point.oscillates and point.period else ""
        lines.append(f"relaxation time tau = {point.relaxation_time:.4g}{swings}")
    lines.append(f"{100 * point.saturated_fraction:.3g} % of the weights saturate")
    return lines
