"""The plateaus of a predicted curve, and how it ends: closed-form stairs and the fixed point say what will follow."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ..checks import in_float64
from ..curves.jumps import plateaus_between
from ..curves.plateaus import LEAST_DROP, Plateau
from ..curves.slopes import ends_slowly, sinking
from ..problem.problem import Problem
from .fixed_points import settled
from .stairs import stair_at, stairs_left
from .stationary import final_error, has_fixed_point


@dataclasses.dataclass(frozen=True)
class Course:
    """Plateaus of a curve, with what is known of the end of each that is ``open``, and of the end of the curve."""

    plateaus: list[Plateau]
    outlook: str
    ending: str

    def lines(self, notes: Sequence[str] = ()) -> list[str]:
        """A line for each, with what there is to note of every plateau."""
        lines = [
            f"plateau: {plateau}" + (f"; {self.outlook}" if plateau.open else "") + note
            for plateau, note in zip(self.plateaus, notes or [""] * len(self.plateaus), strict=True)
        ]
        return [*(lines or ["no plateau"]), *([self.ending] if self.ending else [])]


@in_float64
def course(problem: Problem, tau, error, samples: int | None = None) -> Course:
    """The course of the error (T,) of a problem, which has no noise unless it is that of some ``samples``.

    What lies below the part of a single sample is not listed.

    A curve that is flat at its end is on an open plateau if the fixed point lies at least 20 % below it, and it
    either stands on a closed-form stair that is left later (`stedyn.small_lr_stairs`), or falls slower than the
    relaxation to the fixed point (`stedyn.curves.slopes.sinking`). Beyond all stairs, and otherwise, it sinks.
    """
    noise = 0.0 if samples is None else None
    found = plateaus_between(tau, error, problem.begins, noise, floor=0.0, sinks=False)
    if samples is not None:
        found = [plateau for plateau in found if plateau.height * samples >= np.max(error)]
    last = found[-1] if found and found[-1].open else None
    end = problem.parts[-1]
    fixed = functools.cache(lambda: settled(end, compared=False))
    final = functools.cache(lambda: final_error(end, shared=True) if has_fixed_point(end) else None)
    kind = _kind(problem, tau, error, last, fixed, final)
    now, ending = float(error[-1]), ""
    if kind == "flat":
        ending = f"flat at the horizon at error {now:.4g}; {_outlook(problem, final)}"
    elif kind == "sinking":
        why = fixed().outcome.split("; ", 1)[-1].rstrip(".")
        ending = (
            f"sinking towards the fixed point {fixed().error:.4g} at the horizon, at error {now:.4g}; {why}"
        )
    if ending and last is not None:
        found, last = found[:-1], None
    return Course(found, "" if last is None else _outlook(problem, final, last.height), ending)


def _kind(problem: Problem, tau, error, last: Plateau | None, fixed, final) -> str:
    """``open`` (on a plateau), ``flat`` (nothing lies below), ``sinking`` to the fixed point, or none of them.

    ``fixed()`` is the fixed point and ``final()`` its error, None without one; both take a while.
    """
    if last is not None and last.falling:
        return ""
    flat, now, horizon = last is not None, float(error[-1]), float(tau[-1])
    if final() is None or final() >= (1 - LEAST_DROP) * now:
        return "flat" if flat else ""
    if not flat and not ends_slowly(tau, error):
        return ""
    stair, left = stair_at(problem, now), stairs_left(problem)
    if stair is not None and horizon < stair.leave:
        return "open" if flat else ""
    if left is not None and all(one.error > now and one.leave < horizon for one in left):
        return "sinking"
    end = sinking(tau, error, final(), fixed().relaxation_time)
    return "sinking" if end else "open" if flat else ""


def _outlook(problem: Problem, final, height: float | None = None) -> str:
    """What is known to follow an error that is flat, or falls, at the horizon."""
    known = "no fixed point is known" if final() is None else f"fixed point {final():.4g}"
    stair = None if height is None else stair_at(problem, height)
    return known if stair is None else f"for a small lr it would end at tau = {stair.leave:.4g}; {known}"
