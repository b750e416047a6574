"""Refinement of the grid law: passes on meshes and classes that are made finer until the estimate meets a tolerance."""

from __future__ import annotations

import functools
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..problem.problem import Problem
from .classes import NODES
from .integrate import failed, integrate, steps
from .laws.grid import GridFlow
from .limit import derive, is_symmetric
from .solution import INACCURATE, MAX_STEPS, REACHED

#: Cells of a first pass of the grid law, over all intervals, and with many variances; the largest number of unknowns.
FIRST_CELLS, FEWER_CELLS, MOST_UNKNOWNS = 800, 560, 1_500_000
PASSES = 5
#: A change of at most this multiple of what the second order promises confirms it.
ORDER_MARGIN = 1.6
#: Teacher values and input variances that a first pass distinguishes, and the most.
FIRST_CLASSES, MOST_CLASSES = 40, 512
FIRST_VARIANCES, FIRST_PAIRED, MOST_VARIANCES = 12, 16, 64
#: Errors below this part of the variance of the label count as this much where accuracy is relative.
LEAST = 1e-9


class Mesh(NamedTuple):
    """Resolution of the grid law: cells between features, teacher classes, variance classes, and ``folded``."""

    cells: int
    classes: int
    variances: int
    folded: bool


def least_error(problem: Problem):
    """The least error against which accuracy is measured."""
    return LEAST * problem.label_variance + 1e-300


@eqx.filter_jit
def grid_pass(problem, taus, keep, rtol, coarse, mesh: Mesh, forward=False):
    """Curves, counts, densities, steps and failure of the grid law on one mesh; ``forward`` as in `integrate`.

    ``coarse`` are three flags: whether to halve cells, teacher classes, classes of variances.
    """
    limit = derive(problem, mesh.classes, coarse[1:], mesh.variances, mesh.folded)
    law = GridFlow(limit, mesh.cells, taus[-1], coarse[0])
    solution = integrate(law, taus, keep, rtol, forward)
    kept = (law.faces, solution.ys[1] if keep.size else None, limit.teacher, limit.share)
    return solution.ys[0], solution.stats, kept, steps(solution), failed(solution)


@eqx.filter_jit
def _extrapolate(runs, least):
    """Combine a solution with those of half the cells and of fewer classes, all at four times the time tolerance.

    Of each of the ``runs`` curves and failure, the finest first.

    The scheme is of second order in the cells: a third of the first difference is left in the fine solution and is
    removed. Returns the curves and the largest size of what each refinement changes in the error, relative to the
    error or to ``least`` where that is more.
    """
    curves, *coarse = (run[0] for run in runs)
    changes = [{name: curve - other[name] for name, curve in curves.items()} for other in coarse]
    correction = {name: change / 3 for name, change in changes[0].items()}
    parts = []
    for change in changes:
        part = jnp.max(jnp.abs(change["error"]) / jnp.maximum(curves["error"], least))
        if "tangent" in curves:  # of the error with respect to a parameter, relative to its largest value
            largest = jnp.max(jnp.abs(curves["tangent"]))
            part = jnp.maximum(
                part, jnp.max(jnp.abs(change["tangent"])) / jnp.where(largest > 0, largest, 1.0)
            )
        parts.append(part)
    better = {name: curve + correction[name] for name, curve in curves.items()}
    for name, curve in curves.items():
        if name in ("occupancy", "saturated", "classification_error"):
            better[name] = jnp.clip(better[name], 0.0, 1.0)
        elif name in ("error", "q", "norm", "flip_rate"):
            better[name] = jnp.where(better[name] > 0, better[name], curve)
    return better, jnp.stack(parts), functools.reduce(jnp.logical_or, [bad for _, bad in runs])


def _first_mesh(problem, cells, classes, foldable: bool) -> tuple[Mesh, int, list[tuple[bool, bool, bool]]]:
    """The mesh of the first pass, its number of intervals, and the coarser ones that are compared with it."""
    features = max(problem.weights.n_levels - 1, 0) + (problem.weights.rounding == "stochastic")
    edges = problem.surrogate.ends + (problem.latent_clip is not None)
    intervals = features + 1 + 2 * edges
    alike = problem.covariance.kind == "identity"
    cells = max(16, (FIRST_CELLS if alike else FEWER_CELLS) // intervals) if cells is None else cells
    if classes is None:  # an interval of the teacher values on either side of every kink
        classes = max(FIRST_CLASSES, min(MOST_CLASSES // 2, NODES * (features + 2)))
    single = problem.teacher.kind in ("constant", "rademacher")
    atoms = problem.teacher.data is not None and problem.teacher.data.atoms is not None and not problem.paired
    coarser = [(True, False, False)]
    coarser += [] if single or atoms else [(False, True, False)]
    coarser += [] if alike else [(False, False, True)]
    folded = foldable and is_symmetric(problem)
    variances = 1 if alike else FIRST_PAIRED if problem.paired else FIRST_VARIANCES
    mesh = Mesh(cells + cells % 2, classes + -classes % 8, variances, folded)
    return mesh, intervals, coarser


def grid_curves(problem, taus, keep, tol, cells, classes, traced=False, one_pass=grid_pass):
    """Passes of the grid law until ``tol`` is met: curves, counts, densities, steps, estimate, code."""
    mesh, intervals, coarser = _first_mesh(problem, cells, classes, foldable=keep.size == 0)
    rtol = min(0.05 * tol, 5e-4)
    confirmed, expected = np.zeros(len(coarser), bool), np.zeros(len(coarser))
    for count in range(1, PASSES + 1):
        # all have the same shapes and share one compilation
        runs = [
            one_pass(
                problem, taus, keep, jnp.asarray(4 * rtol if any(flags) else rtol), jnp.asarray(flags), mesh
            )
            for flags in [(False, False, False), *coarser]
        ]
        curves, changes, bad = _extrapolate([run[::4] for run in runs], least_error(problem))
        # a third of what halving changes, where an earlier pass confirms second order; else all of it
        if count > 1:
            confirmed = np.where(expected < 0, confirmed, np.asarray(changes) <= expected)
        parts = changes / np.where(confirmed, 3.0, 1.0)
        estimate = jnp.sum(parts)
        code = jnp.where(bad, MAX_STEPS, jnp.where(estimate <= tol, REACHED, INACCURATE))
        stats, kept, path = runs[0][1:4]
        size = kept[2].shape[-1]
        counts = dict(stats, cells=mesh.cells * intervals, classes=size, passes=count)
        unknowns = mesh.cells * intervals * size
        if traced or int(code) != INACCURATE or count == PASSES or unknowns >= MOST_UNKNOWNS:
            break
        finer = _refined(mesh, coarser, np.asarray(parts), tol, MOST_UNKNOWNS / unknowns)
        growth = np.array([finer[flags.index(True)] / mesh[flags.index(True)] for flags in coarser])
        expected = np.where(growth > 1, ORDER_MARGIN * np.asarray(changes) / growth**2, -1.0)
        mesh = finer
    return curves, counts, None if kept[1] is None else kept, (path, runs[1][3]), estimate, code


def _refined(mesh: Mesh, coarser, parts, tol: float, room: float) -> Mesh:
    """A mesh that is finer where it has to be; by powers of two, so that problems share their compilations."""
    share = 0.7 * tol / len(parts)
    for flags, part in zip(coarser, parts, strict=True):
        if part <= share:
            continue
        growth = float(np.clip(np.sqrt(part / share), 2, 8)) if flags[0] else 2.0
        factor = 2 ** int(np.ceil(np.log2(min(growth, max(2.0, room)))))
        if flags[0]:
            mesh = mesh._replace(cells=mesh.cells * factor)
        elif flags[1]:
            mesh = mesh._replace(classes=min(MOST_CLASSES, mesh.classes * factor))
        else:
            mesh = mesh._replace(variances=min(MOST_VARIANCES, mesh.variances * factor))
    return mesh
