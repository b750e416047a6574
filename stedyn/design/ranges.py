r"""The best range for every bit width, from the dynamics, beside the ranges of calibration rules.

The objective is no convex function of the range: where a level crosses a teacher weight it has a cusp, so that
a teacher of few values gives a sawtooth. A scan over the whole interval, which takes in these crossings, finds
candidates; the best are refined by a search and confirmed by the exact law. A plateau of no length cannot be shorter:
of the ranges scanned that have none, that of the least error is taken.

===========  ========================================  =======================  ===================================
objective    scan                                      search                   exact
===========  ========================================  =======================  ===================================
final-error  fixed points (`stedyn.limit.stationary`)  the same                 the same
others       one pass of the grid law, `SCAN_CELLS`    one on `SEARCH_CELLS`    grid law to the tolerance asked for
===========  ========================================  =======================  ===================================
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from ..checks import checked, choice, fail, in_float64, positive, several, whole
from ..curves.objectives import Objective, longest_plateau, time_to
from ..limit.solution import Solution
from ..problem.problem import Problem
from ..quantizers.conventions import both_edges
from ..quantizers.formats import NAMED
from ..quantizers.quantizer import FIXED_BITS, KINDS, Quantizer
from .calibration import calibrated_range, calibrated_ranges
from .choices import Baseline, Choice, Choices
from .predictor import ROUGH, Outcome, Predictor
from .search import Candidate, best_range, within

#: The objective is reported at these multiples of the best range.
MISSES = (0.5, 0.9, 1.1, 1.5)
#: The scan reaches from the MSE-optimal range divided by this number to that times it.
REACH = 4.0
#: A fixed point counts as reached if the error at the end of the run is as close as this.
REACHED = 0.02


@checked(problem=Problem)
@in_float64
def choose(
    problem: Problem,
    *,
    bits: Sequence[int] | None = None,
    kinds: Sequence[str] | None = None,
    objective: str = "final-error",
    max_error: float | None = None,
    ranges: tuple[float, float] | None = None,
    lrs: Sequence[float] | None = None,
    points: int = 40,
    tol: float = 1e-2,
    baselines: bool = True,
    progress: bool = False,
) -> Choices:
    """The best range of the weight quantizer for every bit width, by the predicted outcome of training.

    Parameters
    ----------
    problem : Problem
        Its weight quantizer gives kind, edge and rounding (mid-rise by level if it has none), its run the horizon.
    bits : sequence of int, optional
        Bit widths; by default 2, 3 and 4, or those of a kind that has one.
    kinds : sequence of str, optional
        Kinds of the quantizer to compare, such as ``("int4", "fp4-e2m1", "nf4")``; that of the problem by default.
    objective : str
        ``final-error``, ``error-at=TAU``, ``time-to=ERROR`` or ``plateau-length``: see
        `stedyn.curves.objectives.Objective`.
    max_error : float, optional
        The wanted error. ``plateau-length`` needs it, since the shortest plateau alone is that of the smallest range;
        for all objectives the fewest bits that reach it are reported.
    ranges : (low, high), optional
        Bounds of the search; by default a quarter and four times the range of least rounding error of the teacher.
    lrs : sequence of float, optional
        Learning rates from whose span the best is chosen together with the range; by default that of the problem.
        Not for ``final-error``, which falls with the rate without end.
    points : int
        Ranges of the scan.
    tol : float
        Relative error of curves (see `stedyn.solve`).
    baselines : bool
        Whether to predict the outcome of the calibration rules of `stedyn.design.calibration`, applied to the teacher.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    ValueError
        For an argument out of bounds; if no range reaches the error of ``time-to`` or ``max_error`` of
        ``plateau-length`` with any bit width, with the best that is reachable.

    References
    ----------
    ``docs/theory.md``, sections 5 to 7; the rules of `stedyn.design.calibration` name their own sources.

    Examples
    --------
    >>> from stedyn import Problem, SGD, Teacher, Run
    >>> p = Problem(Teacher.gaussian(1.0), noise_std=0.1, rule=SGD(0.1), run=Run(100.0, 21))
    >>> best = choose(p, bits=[2], points=12, baselines=False).choices[0]
    >>> print(f"{best.range:.2f} {best.error:.3f}")
    1.27 0.177
    """
    goal = Objective.parse(objective)
    if max_error is not None:
        positive("max_error", max_error)
    if goal.kind == "plateau-length" and max_error is None:
        fail("max_error", "the error wanted, for the objective plateau-length", None,
             "set it: the shortest plateau alone is that of the smallest range")  # fmt: skip
    points = whole("points", points, 5, 10_000)
    rates = _rates(lrs, problem, goal)
    problem.alike("choose")
    quantizers = candidates(problem, bits, kinds)
    bounds = [_bounds(ranges, problem, quantizer) for quantizer in quantizers]
    rules: list[dict[str, float]] = [{} for _ in quantizers]
    if baselines:
        rules = [calibrated_ranges(problem.target, quantizer) for quantizer in quantizers]
    steps = len(quantizers) * (points * len(rates) + len(MISSES) + 1) + sum(len(rule) for rule in rules)
    choices, others = [], []
    with tqdm(total=steps, unit="range", disable=not progress) as bar:
        for quantizer, limits, baseline in zip(quantizers, bounds, rules, strict=True):
            predictor = Predictor(problem, quantizer, goal, max_error, tol)
            chosen, lr = _best(predictor, limits, points, rates, baseline.values(), bar)
            choices.append(_describe(predictor, chosen, lr, max_error, bar))
            outcomes = predictor.all(baseline.values(), lr)
            for (name, width), (value, error) in zip(baseline.items(), outcomes, strict=True):
                edges = both_edges(predictor.quantizer.with_range(width))
                others.append(Baseline(predictor.bits, name, width, value, error, edges, kind=quantizer.kind))
                bar.update()
    _check_reachable(goal, max_error, choices, problem)
    enough = [c.bits for c in choices if max_error is not None and c.error <= max_error]
    return Choices(problem, goal, max_error, tuple(choices), tuple(others), min(enough, default=None))


def checked_bits(bits, problem: Problem, kind: str | None = None) -> tuple[int, ...]:
    """Bit widths, each once, that the kind of the weight quantizer takes."""
    widths = tuple(whole("bits", b, 1, 8) for b in several("bits", bits))
    if not widths or len(set(widths)) < len(widths):
        fail("bits", "different bit widths, at least one", list(bits), "list each once")
    for b in widths:
        template(problem, b, kind)
    return widths


def candidates(problem: Problem, bits=None, kinds=None) -> tuple[Quantizer, ...]:
    """The quantizers to choose from, for range 1: every kind with every bit width, its own if it has one."""
    names = (problem.weights.kind,) if kinds is None else tuple(kinds)
    if not names or len(set(names)) < len(names):
        fail("kinds", "different kinds, at least one", list(names), "list each once")
    found = []
    for name in names:
        if kinds is not None:
            choice("kinds", name, KINDS[:-2])  # without 'levels' and 'none'
        own = FIXED_BITS.get(name)
        widths = (2, 3, 4) if bits is None and own is None else (own,) if bits is None else bits
        if own is not None and kinds is not None:
            if own not in widths:
                fail("kinds", f"kinds with one of the bit widths {list(widths)}", f"{name} with {own} bits",
                     f"add {own} to the bit widths, or leave it out")  # fmt: skip
            widths = (own,)
        found += [template(problem, b, name) for b in checked_bits(widths, problem, name)]
    return tuple(found)


def template(problem: Problem, bits: int, kind: str | None = None) -> Quantizer:
    """The weight quantizer of a problem (of that ``kind``) with other bits and range 1; mid-rise if it has none."""
    old = problem.weights
    if kind not in (None, old.kind):
        edge = "level" if kind in NAMED else old.edge
        return Quantizer(bits, 1.0, kind=kind, edge=edge, rounding=old.rounding)
    if old.kind == "levels":
        fail("weights.kind", "a kind with bits and a range", old.kind, "choose mid-rise or mid-tread")
    if old.is_none:
        return Quantizer(bits, 1.0, edge=old.edge, rounding=old.rounding)
    return old.with_bits(bits, 1.0)


def _bounds(ranges, problem: Problem, quantizer: Quantizer) -> tuple[float, float]:
    if ranges is None:
        middle = calibrated_range(problem.target, quantizer, "mse")
        return middle / REACH, middle * REACH
    bounds = [positive("ranges", value) for value in several("ranges", ranges)]
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        fail("ranges", "a lower and a higher bound", bounds, "give these two")
    return bounds[0], bounds[1]


def _rates(lrs, problem: Problem, goal: Objective) -> tuple[float, ...]:
    if lrs is None:
        return (float(problem.rule.lr),)
    if goal.kind == "final-error":
        fail("lrs", "an objective with a time for a choice of the learning rate", str(goal),
             "use error-at or time-to: the final error falls with lr without end")  # fmt: skip
    if problem.rule.kind == "multinomial":
        fail("lrs", "a rule with a learning rate", problem.rule.kind, "leave it out")
    return tuple(sorted(float(positive("lrs", lr)) for lr in several("lrs", lrs)))


def _best(predictor: Predictor, bounds, points: int, rates, known, bar) -> tuple[Candidate, float]:
    """The best range, together with the best of several rates and what lies between them."""
    candidates = [best_range(predictor, lr, bounds, points, bar, interval=False) for lr in rates]
    k = int(np.argmin([candidate.value for candidate in candidates]))
    chosen, lr = candidates[k], rates[k]
    if len(rates) > 1 and np.isfinite(chosen.value):
        between = rates[max(k - 1, 0)], rates[min(k + 1, len(rates) - 1)]
        finer = within(lambda rate: predictor.search(chosen.range, rate).value, between, lr, log=True)
        if best_range(predictor, finer, bounds, points, None, interval=False).value < chosen.value:
            lr = finer
    return best_range(predictor, lr, bounds, points, None, known=known), lr  # what was predicted is kept


def _describe(predictor: Predictor, chosen: Candidate, lr: float, max_error, bar) -> Choice:
    """The record of a chosen range: what it costs to miss it, its curve and its fixed point."""
    best = predictor.exact(chosen.range, lr)
    curve = predictor.curve(chosen.range, lr)
    uncertainty = predictor.uncertainty(chosen.range, lr)
    bar.update()
    misses = {}
    missed = predictor.all([chosen.range * factor for factor in MISSES], lr)
    for factor, outcome in zip(MISSES, missed, strict=True):
        misses[factor] = _ratio(outcome, best)
        bar.update()
    target = predictor.objective.number if predictor.objective.kind == "time-to" else max_error
    when = np.inf if target is None else time_to(*curve.dense, target)
    fixed = predictor.fixed_error(chosen.range, lr)
    length = longest_plateau(*curve.dense, fixed)
    rivals = [r for r, value in chosen.others if value <= best.value * (1 + 2 * uncertainty)]
    return Choice(
        bits=predictor.bits,
        range=chosen.range,
        lr=lr,
        value=best.value,
        uncertainty=uncertainty,
        error=best.error,
        range_interval=chosen.interval,
        misses=misses,
        plateau_length=length if np.isfinite(length) else None,
        time_to_target=float(when) if np.isfinite(when) else None,
        fixed_point=fixed,
        edges=both_edges(predictor.quantizer.with_range(chosen.range)),
        rivals=tuple(rivals),
        kind=predictor.quantizer.kind,
        status=_status(chosen, best, fixed, curve, predictor),
    )


def _ratio(outcome: Outcome, best: Outcome) -> float:
    return outcome.value / best.value if best.value > 0 else (1.0 if outcome.value == best.value else np.inf)


def _status(chosen: Candidate, best: Outcome, fixed, curve: Solution, predictor: Predictor) -> str:
    goal, horizon, end = predictor.objective, float(curve.tau[-1]), curve.final_error
    claim = 0.0 if curve.error_estimate is None else min(float(curve.error_estimate), ROUGH)
    final = goal.kind == "plateau-length" and predictor.max_error < np.inf and fixed is not None
    where = "of a fixed point" if final else f"at tau = {horizon:g}"
    if not np.isfinite(best.value):
        if goal.kind == "plateau-length" and best.error <= predictor.max_error:
            return f"No range has its plateaus behind it at tau = {horizon:g}."
        return f"No range reaches it; this one has the least error {where}, {best.error:.4g}."
    parts = []
    if chosen.at_edge:
        parts.append("The best range lies at the edge of the ranges searched.")
    if fixed is None:
        parts.append(f"There is no fixed point; the error is that at tau = {horizon:g}.")
    elif abs(end / max(fixed, 1e-300) - 1) <= REACHED + claim:
        parts.append(f"The fixed point is reached by tau = {horizon:g}.")
    else:
        parts.append(
            f"The curve has not reached its fixed point by tau = {horizon:g}, where the error is {end:.4g}."
        )
    if goal.kind == "plateau-length":
        parts.append(f"The error {where}, {best.error:.4g}, is at most {predictor.max_error:g}, as wanted.")
    return " ".join(parts)


def _check_reachable(goal: Objective, max_error, choices: list[Choice], problem: Problem) -> None:
    if any(np.isfinite(choice.value) for choice in choices):
        return
    target = goal.number if goal.kind == "time-to" else max_error
    best = min(choices, key=lambda choice: choice.error)
    if goal.kind == "plateau-length" and best.error <= max_error:
        fail(
            "run.tau",
            "a horizon at which some range that reaches max_error has its plateaus behind it",
            float(problem.run.tau),
            "lengthen the run or raise lr",
        )
    where = f"within tau = {problem.run.tau:g}" if goal.kind == "time-to" else "in the end"
    fail(
        "objective" if goal.kind == "time-to" else "max_error",
        f"an error that some range reaches {where}",
        target,
        f"the best reachable is {best.error:.4g} ({best.bits} bits, range {best.range:.4g}): raise it, or give more "
        "bits or time",
    )
