"""The levels that the weights of one class pass for a small lr, in closed form."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import InputError, checked, fail, in_float64
from ..problem.problem import Problem
from .limit import derive


@dataclasses.dataclass(frozen=True)
class Stair:
    """A level held by the weights of one class, from ``enter`` to ``leave`` (infinite: it is kept).

    ``error`` is the generalization error while they hold it.
    """

    level: float
    enter: float
    leave: float
    error: float


@checked(problem=Problem)
@in_float64
def small_lr_stairs(problem: Problem) -> list[Stair]:
    r"""Levels that a weight passes as ``lr -> 0``, with their times in ``tau = steps / d``.

    A weight on level ``psi_k`` moves at speed ``a w* - b psi_k``, with the residual of that stair (for SGD
    ``lr (k1 w* - k2 psi_k)``), and leaves it after distance / speed; it stays at the threshold where the speed changes
    sign. Mid-tread weights started at 0 leave at ``(step/2) / (lr k1 w*)``; mid-rise weights climb a staircase whose
    stair ``k`` lasts ``step / (lr (k1 w* - k2 psi_k))`` (``docs/theory.md``, equation 19).

    Raises
    ------
    ValueError
        Unless teacher and start are each centred on one value and weights are rounded to the nearest level; for Adam
        and for schedules, whose drift changes along a stair.
    """
    problem.alike("closed-form stairs")
    around = problem.start.mean is not None and problem.start.scale is None
    if problem.teacher.kind not in ("constant", "rademacher") or not around:
        fail(
            "teacher",
            "one value (constant or rademacher) and a start around one value",
            problem.teacher.kind,
            "use solve(problem, law='fluid') for distributions",
        )
    if problem.weights.is_none or problem.weights.rounding != "nearest":
        fail("weights", "a quantizer that rounds to the nearest level", problem.weights.kind, "choose one")
    if problem.covariance.kind != "identity":
        fail(
            "covariance", "inputs of one variance", problem.covariance.kind, "use solve(problem, law='fluid')"
        )
    if problem.means == "kept":
        fail("inputs", "inputs without a mean (which drives all weights together)", "E[phi] other than 0",
             "use solve(problem)")  # fmt: skip
    rule = problem.rule
    if rule.fading is not None or rule.schedule is not None:
        fail("rule", "one that remembers nothing of times before, without a schedule (on a stair the residual does not "
             "change, but such a rule does)", rule.kind, "use solve(problem)")  # fmt: skip
    limit = derive(problem, 2)
    levels, thresholds = np.asarray(limit.levels), np.asarray(limit.pieces.breaks)
    signs = np.where(np.asarray(limit.teacher) == float(limit.teacher[-1]), 1.0, -1.0)
    errors = [float(limit.error(signs * level, level**2 + 0 * signs)) for level in levels]
    drifts = jax.vmap(lambda error: limit.coefficients(limit.order(error), 0.0)[:2])(jnp.asarray(errors))
    a, b = (np.asarray(x)[:, -1] for x in drifts)
    w = float(np.asarray(problem.start.mean))
    k = int(np.searchsorted(thresholds, w, side="right"))
    now = 0.0
    stairs: list[Stair] = []

    def stair(leave: float) -> Stair:
        return Stair(float(levels[k]), now, leave, errors[k])

    while True:
        force = a[k] * float(limit.teacher[-1])
        speed = force - b[k] * float(levels[k])
        speed = 0.0 if abs(speed) < 1e-12 * abs(force) else speed
        onward = 1 if speed > 0 else -1
        edge = k if speed > 0 else k - 1
        stays = speed == 0 or not 0 <= edge < thresholds.size
        if stairs and not stays and (levels[k] - stairs[-1].level) * onward < 0:
            stays = True  # pushed back to the threshold it came from: it chatters there
        if stays:
            return [*stairs, stair(np.inf)]
        leave = now + (float(thresholds[edge]) - w) / speed
        stairs.append(stair(leave))
        now, w, k = leave, float(thresholds[edge]), k + onward


def stairs_left(problem: Problem) -> list[Stair] | None:
    """The stairs that are left in the end, or None if there is no closed form."""
    try:
        return [stair for stair in small_lr_stairs(problem) if np.isfinite(stair.leave)]
    except InputError:
        return None


def stair_at(problem: Problem, error: float) -> Stair | None:
    """The stair whose error is nearest, if it is left and its error is within 20 %; None if there is no closed form."""
    left = [stair for stair in stairs_left(problem) or () if stair.error > 0]
    near = min(left, key=lambda stair: abs(np.log(stair.error / error)), default=None)
    return near if near is not None and abs(np.log(near.error / error)) < np.log(1.2) else None
