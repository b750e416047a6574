"""Tangents of error curves with respect to a parameter, and of what is read off these curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._check import fail
from .limit import check_closes
from .objectives import Objective
from .plateau import find_plateaus
from .problem import Problem, Run
from .quantizers import as_arrays
from .solution import Status
from .solve import LEAST, grid_curves, grid_pass

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
#: Saved times of a curve from which a time is read: a plateau of a tenth of the run then has 80.
POINTS = 801
#: Teacher classes of the first pass.
CLASSES = 32


def moved(problem: Problem, to: str, value) -> Problem:
    """The problem with another value of the parameter ``to``."""
    return eqx.tree_at(TO[to], problem, value)


@eqx.filter_jit
def _tangent_pass(problem, taus, keep, rtol, coarse, cells, classes, to):
    """A pass of the grid law (see `grid_pass`) with the error curve and its tangent."""

    def run(value):
        curves, stats, kept, bad = grid_pass(
            moved(problem, to, value), taus, keep, rtol, coarse, cells, classes, True
        )
        return curves["error"], (stats, kept, bad)

    value = TO[to](problem)
    error, tangent, (stats, kept, bad) = jax.jvp(run, (value,), (jnp.ones_like(value),), has_aux=True)
    return {"error": error, "tangent": tangent}, stats, kept, bad


def of_curve(
    problem: Problem, goal: Objective | None, of: str, to: str, parameter: float, tol: float
) -> tuple[float, float, float]:
    """Value, derivative and estimate of what is read off the error curve; ``goal`` is None for ``escape``."""
    check_closes(problem)
    if problem.weights.is_none:
        fail("of", "'final-error' for weights that are not quantized", of, "choose it, or a weight quantizer")
    run = Run(problem.run.tau, max(POINTS, problem.run.points))
    if goal is not None and goal.kind == "error-at":
        run = Run(goal.number, 3)
    tau = run.taus

    def one_pass(*args):
        return _tangent_pass(*args, to)

    curves, _, _, estimate, code = grid_curves(
        as_arrays(problem), jnp.asarray(tau), jnp.zeros(0), tol, None, CLASSES, one_pass=one_pass
    )
    error, tangent = np.asarray(curves["error"]), np.asarray(curves["tangent"])
    status = Status(int(code))
    if not (status.ok and np.all(np.isfinite(error)) and np.all(np.isfinite(tangent))):
        fail(
            "of", f"a curve that can be followed to tau = {run.tau:g}", str(status), "shorten run or lower lr"
        )
    step = STEP * parameter or STEP
    relative = step * tangent / np.maximum(error, LEAST * float(problem.label_variance) + 1e-300)
    low, middle, high = (_read(goal, tau, error * np.exp(k * relative)) for k in (-1, 0, 1))
    if low is None and middle is None and high is None:
        reached = goal is not None and goal.kind == "time-to"
        wanted = "an error that is reached" if reached else "a curve with a plateau"
        fail("of", f"{wanted} within tau = {run.tau:g}", of, "extend run.tau or choose another quantity")
    if (
        low is None
        or middle is None
        or high is None
        or not low.place == middle.place == high.place
        or abs(high.value + low.value - 2 * middle.value) > JUMP * abs(middle.value)
    ):
        fail("of", f"a quantity that changes smoothly with {to}", f"a jump of {of!r} at {to} = {parameter:g}",
             "move the parameter away from it")  # fmt: skip
    return middle.value, (high.value - low.value) / (2 * step), float(estimate)


class _Reading(NamedTuple):
    """A value, and where it is read: which plateau of how many."""

    value: float
    place: tuple[int, int]


def _read(goal: Objective | None, tau, error) -> _Reading | None:
    """What a curve gives; None if it is not there."""
    if goal is not None and goal.kind != "plateau-length":
        value = goal.measure(tau, error)
        return _Reading(value, (0, 0)) if np.isfinite(value) else None
    plateaus = find_plateaus(tau, error)
    if not plateaus:
        return None
    k = max(range(len(plateaus)), key=lambda i: plateaus[i].length)
    longest = plateaus[k]
    return _Reading(longest.escape if goal is None else longest.length, (k, len(plateaus)))
