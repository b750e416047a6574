"""Whether a solution and an ensemble are of one problem."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from ..checks import fail
from ..inputs.samples import Samples
from ..limit.solution import Solution
from ..problem.problem import Problem
from ..simulation import Ensemble


def check_same(solution: Solution, ensemble: Ensemble):
    """Refuse what is not a solution and an ensemble of one problem; saved times may differ."""
    for field in dataclasses.fields(Problem):
        one, other = (getattr(record.problem, field.name) for record in (solution, ensemble))
        if field.name != "run" and not _same(one, other):
            fail("ensemble", f"a simulation of the problem that was solved, {field.name} {one!r}", other,
                 "simulate and solve one problem")  # fmt: skip


def _same(one, other) -> bool:
    """Whether two parts of a problem hold the same numbers, be they floats or arrays."""
    leaves, shape = jax.tree.flatten(one, is_leaf=lambda leaf: isinstance(leaf, Samples))
    others, other_shape = jax.tree.flatten(other, is_leaf=lambda leaf: isinstance(leaf, Samples))
    if shape != other_shape:  # type: ignore[operator]
        return False
    for a, b in zip(leaves, others, strict=True):
        if isinstance(a, Samples) != isinstance(b, Samples):
            return False
        x, y = (np.asarray(leaf.values if isinstance(leaf, Samples) else leaf) for leaf in (a, b))
        if x.shape != y.shape or x.dtype.kind != y.dtype.kind:
            return False
        if not (np.allclose(x, y, rtol=1e-6, atol=0.0) if x.dtype.kind in "fiub" else np.array_equal(x, y)):
            return False
    return True
