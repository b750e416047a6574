"""Refinement of the grid law: passes on meshes and classes that are made finer until the estimate meets a tolerance."""

from __future__ import annotations

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .integrate import failed, integrate, steps
from .laws.grid import GridFlow
from .limit import derive
from .problem import Problem
from .solution import INACCURATE, MAX_STEPS, REACHED

#: Cells of a first pass of the grid law, over all intervals; and the largest number of unknowns.
FIRST_CELLS, MOST_UNKNOWNS = 800, 1_500_000
PASSES = 5
#: Errors below this part of the variance of the label count as this much where accuracy is relative.
LEAST = 1e-9


def least_error(problem: Problem):
    """The least error against which accuracy is measured."""
    return LEAST * problem.label_variance + 1e-300


@eqx.filter_jit
def grid_pass(problem, taus, keep, rtol, coarse, cells, classes, forward=False):
    """Curves, counts, densities, steps and failure of the grid law on one mesh; ``forward`` as in `integrate`."""
    limit = derive(problem, classes, coarse)
    law = GridFlow(limit, cells, taus[-1], coarse)
    solution = integrate(law, taus, keep, rtol, forward)
    kept = (law.faces, solution.ys[1] if keep.size else None, limit.teacher, limit.share)
    return solution.ys[0], solution.stats, kept, steps(solution), failed(solution)


@eqx.filter_jit
def _extrapolate(fine, coarse, tol, least):
    """Combine a solution with one of half the cells and classes and four times the time tolerance.

    The scheme is of second order in the cells: a third of the difference is left in the fine solution. It
    is removed, and its largest size relative to the error, or to ``least`` where that is more, is the estimate.
    """
    curves, bad = fine
    correction = {name: (curve - coarse[0][name]) / 3 for name, curve in curves.items()}
    estimate = jnp.max(jnp.abs(correction["error"]) / jnp.maximum(curves["error"], least))
    if "tangent" in curves:  # of the error with respect to a parameter, relative to its largest value
        largest = jnp.max(jnp.abs(curves["tangent"]))
        apart = jnp.max(jnp.abs(correction["tangent"]))
        estimate = jnp.maximum(estimate, apart / jnp.where(largest > 0, largest, 1.0))
    better = {name: curve + correction[name] for name, curve in curves.items()}
    for name, curve in curves.items():
        if name in ("occupancy", "saturated"):
            better[name] = jnp.clip(better[name], 0.0, 1.0)
        elif name in ("error", "q", "norm", "flip_rate"):
            better[name] = jnp.where(better[name] > 0, better[name], curve)
    code = jnp.where(bad | coarse[1], MAX_STEPS, jnp.where(estimate <= tol, REACHED, INACCURATE))
    return better, estimate, code


def grid_curves(problem, taus, keep, tol, cells, classes, traced=False, one_pass=grid_pass):
    """Passes of the grid law until ``tol`` is met: curves, counts, densities, steps, estimate, code."""
    features = max(problem.weights.n_levels - 1, 0)
    if problem.weights.rounding == "stochastic":
        features += 1
    edges = (problem.ste == "clipped") + (problem.latent_clip is not None)
    intervals = features + 1 + 2 * edges
    cells = max(16, FIRST_CELLS // intervals) if cells is None else cells
    cells += cells % 2
    rtol = min(0.1 * tol, 1e-3)
    for count in range(1, PASSES + 1):
        run = functools.partial(one_pass, problem, taus, keep)
        # both have the same shapes and share one compilation
        fine = run(jnp.asarray(rtol), jnp.asarray(False), cells, classes)
        coarse = run(jnp.asarray(4 * rtol), jnp.asarray(True), cells, classes)
        curves, estimate, code = _extrapolate(fine[::4], coarse[::4], jnp.asarray(tol), least_error(problem))
        stats, kept, path = fine[1:4]
        size = kept[2].shape[-1]
        counts = dict(stats, cells=cells * intervals, classes=size, passes=count)
        unknowns = cells * intervals * size
        if traced or int(code) != INACCURATE or count == PASSES or unknowns >= MOST_UNKNOWNS:
            break
        growth = float(np.clip(1.3 * np.sqrt(float(estimate) / tol), 2, 8))
        # powers of two: problems that differ in their numbers then share their compilations
        cells *= 2 ** int(np.ceil(np.log2(min(growth, max(2, MOST_UNKNOWNS / unknowns)))))
        if size >= classes or problem.covariance.kind != "identity":
            classes = min(256, 2 * classes)
    return curves, counts, None if kept[1] is None else kept, (path, coarse[3]), estimate, code
