"""Tangents of error curves with respect to a parameter, and of what is read off these curves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..checks import fail
from ..curves.dense import Steps, between
from ..curves.objectives import Objective
from ..curves.plateaus import find_plateaus
from ..limit.laws.legs import legs_of
from ..limit.least import least_of, vanishing
from ..limit.passes import grid_pass
from ..limit.refinement import grid_curves
from ..limit.refused import check_closes
from ..limit.solution import Status
from ..problem.problem import Problem, Run
from ..rules.schedules import jumps_of

#: Parameters, and where a problem has them.
TO: dict[str, Callable] = {
    "range": lambda problem: problem.weights.range,
    "lr": lambda problem: problem.rule.lr,
    "noise_std": lambda problem: problem.noise_std,
}
#: Relative change of the parameter in the difference along the tangent.
STEP = 1e-3
#: A second difference above this part of the value is a jump.
JUMP = 1e-3
#: A tangent changes faster than its curve, by which steps go: they are made more accurate by this factor.
FINER = 8
#: Times of a curve, over the horizon, at which it and its tangent are read: as many as a program of 512 has.
TIMES = np.unique([*np.linspace(0.0, 1.0, 301), *np.geomspace(1e-5, 1.0, 211)[:-1]])


def moved(problem: Problem, to: str, value) -> Problem:
    """The problem with another value of the parameter ``to``."""
    return eqx.tree_at(TO[to], problem, value)


def _tangent_pass(problem, legs, accuracy, coarse, cells, mesh, to):
    """A pass of the grid law (see `grid_pass`): the error curve and its tangent."""
    accuracy = accuracy._replace(rtol=accuracy.rtol / FINER)

    def run(value):
        curves, *others = grid_pass(moved(problem, to, value), legs, accuracy, coarse, cells, mesh)
        return curves["error"], others

    value = TO[to](problem)
    error, tangent, others = jax.jvp(run, (value,), (jnp.ones_like(value),), has_aux=True)
    return {"error": error, "tangent": tangent}, *others


def of_curve(
    problem: Problem, goal: Objective | None, objective: str, to: str, parameter: float, tol: float
) -> tuple[float, float, float]:
    """Value, derivative and estimate of what is read off the error curve; ``goal`` is None for ``escape``."""
    check_closes(problem)
    if problem.means == "kept":
        fail("inputs", "inputs without a mean for a sensitivity (not implemented with one)", "E[phi] other than 0",
             "set inputs.centre = true, or compare two solutions")  # fmt: skip
    if problem.weights.is_none:
        fail(
            "objective",
            "'final-error' for weights that are not quantized",
            objective,
            "choose it, or a weight quantizer",
        )
    jumps = jumps_of(problem.rule, problem.run.tau)
    run = Run(taus=np.union1d(problem.run.tau * TIMES, jumps))
    if goal is not None and goal.kind == "error-at":
        run = Run(goal.number, 3)

    one_pass = functools.partial(_tangent_pass, to=to)
    curves, _, _, _, estimate, code = grid_curves(
        problem.timeless,
        legs_of(problem, run.taus, np.zeros(0)),
        tol,
        least_of(problem),
        one_pass=one_pass,
    )
    error, tangent = (np.asarray(curves[name])[: run.taus.size] for name in ("error", "tangent"))
    status = Status(int(code))
    if not (status.ok and np.all(np.isfinite(error)) and np.all(np.isfinite(tangent))):
        fail(
            "objective",
            f"a curve that can be followed to tau = {run.tau:g}",
            str(status),
            "shorten run or lower lr",
        )
    step = STEP * parameter or STEP
    least = float(vanishing(problem))
    slope = Steps(run.taus, tangent)
    low, middle, high = (
        _read(goal, *between(*_shifted(Steps(run.taus, error), slope, k * step, least).sections(jumps)))
        for k in (-1, 0, 1)
    )
    if low is None and middle is None and high is None:
        reached = goal is not None and goal.kind == "time-to"
        wanted = "an error that is reached" if reached else "a curve with a plateau"
        fail(
            "objective",
            f"{wanted} within tau = {run.tau:g}",
            objective,
            "extend run.tau or choose another objective",
        )
    if (
        low is None
        or middle is None
        or high is None
        or not low.place == middle.place == high.place
        or abs(high.value + low.value - 2 * middle.value) > JUMP * abs(middle.value)
    ):
        fail("objective", f"one that changes smoothly with {to}", f"a jump of {objective!r} at {to} = {parameter:g}",
             "move the parameter away from it")  # fmt: skip
    small = float(least_of(problem)) / middle.value if goal is not None and goal.kind == "error-at" else 1.0
    return middle.value, (high.value - low.value) / (2 * step), float(estimate) * max(1.0, small)


def _shifted(curve: Steps, tangent: Steps, step: float, least: float) -> Steps:
    """``error exp(step tangent / error)``: the steps of the curve with a parameter moved by ``step``."""
    error = np.maximum(curve.error, least)
    relative = step * tangent.error / error
    return Steps(curve.tau, error * np.exp(relative))


class _Reading(NamedTuple):
    """A value, and where it is read: which plateau of how many."""

    value: float
    place: tuple[int, int]


def _read(goal: Objective | None, tau, error) -> _Reading | None:
    """What a curve gives; None if it is not there."""
    if goal is not None and goal.kind != "plateau-length":
        value = goal.measure(tau, error)
        return _Reading(value, (0, 0)) if np.isfinite(value) else None
    plateaus = [(p.length, p.escape) for p in find_plateaus(tau, error, 0.0)]
    closed = [(length, escape) for length, escape in plateaus if length is not None and escape is not None]
    if not closed:
        return None
    k = max(range(len(closed)), key=lambda i: closed[i][0])
    length, escape = closed[k]
    return _Reading(escape if goal is None else length, (k, len(plateaus)))
