"""The stages of a run, one for each phase of its problem: which steps they make, and with what."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..problem.phases import replaced
from ..problem.problem import Problem
from . import kernel
from .model import Model, model_of
from .observe import Observer
from .sources import centres


class Stage(NamedTuple):
    """A phase from its first step on: its problem, what the kernel needs of it, and what measures its weights.

    ``rounded`` measures them as they would be rounded without further training, None if that is not asked for.
    """

    begin: int
    problem: Problem
    model: Model
    observe: Observer
    rounded: Observer | None


class Stages(tuple[Stage, ...]):
    """The stages of a problem in ``dim`` dimensions, in order; a phase begins with step ``round(begin dim)``."""

    @classmethod
    def of(cls, problem: Problem, dim: int) -> Stages:
        """The stages of a problem."""
        each = zip(problem.begins, problem.parts, strict=True)
        return cls(Stage(round(tau * dim), p, model_of(p, dim), Observer(p), _rounded(p)) for tau, p in each)

    def number(self, step: int) -> int:
        """Which stage makes the step after ``step`` others; weights at that time are seen with its quantizer."""
        return bisect_right([stage.begin for stage in self], step) - 1

    def left(self, step: int) -> int:
        """How many steps the stage has left then, 2^53 for the last."""
        return min((stage.begin - step for stage in self if stage.begin > step), default=2**53)

    def columns(self, seeds: int, times: int) -> dict[str, np.ndarray]:
        """Room for what all stages have to record, 0 so far."""
        parts = [stage.problem for stage in self]
        names = ["error", "m", "q", "overlap", "norm"] + ["range"] * (self[0].model.range is not None)
        names += ["saturated"] * all(part.weights.range is not None for part in parts)
        names += ["flip_rate"] * all(counts_flips(part) for part in parts)
        names += ["ptq_error"] * (parts[0].ptq is not None)
        names += ["classification_error"] * (parts[0].model == "sign")
        record = {name: np.zeros((seeds, times)) for name in names}
        levels = {part.weights.n_levels for part in parts}
        if len(levels) == 1 and min(levels) > 0:
            record["occupancy"] = np.zeros((seeds, times, min(levels)))
        return record

    def fixed(self, common: kernel.Fixed, inputs: Iterable, put) -> tuple[kernel.Fixed, ...]:
        """What no step changes, for every stage: ``common`` with the means that are taken off the inputs.

        ``inputs`` are variances and own means of the inputs of every seed; ``put`` brings arrays (S, d or 1) to their
        device.
        """
        found: list[kernel.Fixed] = []
        for stage in self:
            each = [centres(stage.problem, *own) for own in inputs]
            if each[0] is None:
                found.append(common)
                continue
            x, phi = (put(np.stack(part)) for part in zip(*each, strict=True))
            found.append(common._replace(centres=(x, phi)))
        return tuple(found)


def _rounded(problem: Problem) -> Observer | None:
    return None if problem.ptq is None else Observer(replaced(problem, weights=problem.ptq))


def counts_flips(problem: Problem) -> bool:
    """Whether the levels of weights change now and then, not at every step."""
    return problem.weights.n_levels > 0 and problem.weights.rounding == "nearest"
