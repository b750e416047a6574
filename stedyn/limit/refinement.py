"""Refinement of the grid law: passes on meshes and classes that are made finer until the estimate meets a tolerance."""

from __future__ import annotations

import functools
import itertools
import sys
import time

import jax.numpy as jnp
import numpy as np

from ..checks import is_traced
from ..problem.phases import with_new
from ..quantizers.padded import padded
from ..quantizers.pieces import size_of_steps
from .classes import NODES, beside_large, nodes_of
from .laws.law import Accuracy
from .laws.legs import Leg
from .laws.mesh import LEAST_PART, cells_of
from .laws.moving import reach_of, within
from .limit import is_symmetric
from .passes import Mesh, grid_pass, traced_pass
from .solution import INACCURATE, MAX_STEPS, REACHED

#: Cells of a first pass of the grid law, over all intervals, and with many variances; the largest number of unknowns.
FIRST_CELLS, FEWER_CELLS, MOST_UNKNOWNS = 800, 600, 1_500_000
#: Cells of a first pass where there is one class, at tolerances below `LOOSE`: few problems need a finer mesh, and a
#: program of its size.
ONE_CLASS_CELLS, LOOSE = 1600, 1e-2
#: Cells of a first pass in the largest interval, where others have fewer.
GRADED_CELLS = 88
PASSES = 5
#: Expected seconds of a pass from which on they are told.
LONG = 5.0
#: A change of at most this multiple of what the second order promises confirms it.
ORDER_MARGIN = 1.6
#: Relative error that rounding makes, in sums over many cells.
ROUNDING = 1e-12
#: Teacher values and input variances that a first pass distinguishes, and the most.
FIRST_CLASSES, MOST_CLASSES = 40, 512
FIRST_VARIANCES, FIRST_PAIRED, MOST_VARIANCES = 12, 16, 64
#: Where more cells leave more than this part of a change, it is the error in time, and steps get as much more accurate.
STUCK, FINER_STEPS = 0.6, 4


def filled(number: int) -> int:
    """The next of 50, 75, 100, 150, 200, 300, ...: programs for meshes of few sizes."""
    size = 50
    while size < number:
        if number <= size * 3 // 2:
            return size * 3 // 2
        size *= 2
    return size


def _extrapolate(curves, coarse, least, xp):
    """Combine curves with those of half the cells and of fewer classes, all at four times the time tolerance.

    The scheme is of second order in the cells: a third of the first difference is left in the fine solution and is
    removed. Returns the curves and the largest size of what each refinement changes in the error, relative to the
    error or to ``least`` where that is more. ``xp`` is NumPy or JAX.
    """
    changes = [{name: curve - other[name] for name, curve in curves.items()} for other in coarse]
    parts = []
    for change in changes:
        errors = [name for name in ("error", "ptq_error") if name in curves]
        each = [xp.max(xp.abs(change[name]) / xp.maximum(curves[name], least)) for name in errors]
        part = functools.reduce(xp.maximum, each)
        if "tangent" in curves:  # of the error with respect to a parameter, relative to its largest value
            largest = xp.max(xp.abs(curves["tangent"]))
            part = xp.maximum(part, xp.max(xp.abs(change["tangent"])) / xp.where(largest > 0, largest, 1.0))
        parts.append(part)
    better = {name: curve + changes[0][name] / 3 for name, curve in curves.items()}
    for name, curve in curves.items():
        if name in ("occupancy", "saturated", "classification_error"):
            better[name] = xp.clip(better[name], 0.0, 1.0)
        elif name in ("error", "ptq_error", "q", "norm", "flip_rate"):
            better[name] = xp.where(better[name] > 0, better[name], xp.maximum(curve, 0.0))
    return better, xp.stack(parts)


def _occupied(curves, levels: set[int], folded: bool, xp):
    """The curves as arrays of ``xp``, with the levels that all quantizers have; of both signs if ``folded``."""
    curves = {name: xp.asarray(curve) for name, curve in curves.items()}
    if len(levels) > 1:
        curves.pop("occupancy", None)
    if "occupancy" in curves:
        each = curves["occupancy"][..., : min(levels)]
        curves["occupancy"] = 0.5 * (each + each[..., ::-1]) if folded else each
    return curves


def _sizes(featured) -> tuple[np.ndarray, int]:
    """The size of every interval of the mesh (`size_of_steps`), and how many levels are kinks of the teacher values."""
    features = sum(max(p.weights.n_levels - 1, 0) + (p.weights.rounding == "stochastic") for p in featured)
    edges = sum(p.surrogate.ends + (p.latent_clip is not None) for p in featured)
    sizes, kinks = np.ones(features + 1 + 2 * edges), sum(p.weights.n_levels for p in featured)
    weights = featured[0].weights
    traced = any(is_traced(level) for level in weights.explicit or ())
    if len(featured) == 1 and weights.n_levels > 2 and not traced:
        unit = weights.unit if weights.explicit is None else np.asarray(weights.explicit)
        kinks = int(np.sum(beside_large(np.diff(unit), np)))
        if not edges:
            breaks = unit if weights.rounding == "stochastic" else 0.5 * (unit[1:] + unit[:-1])
            sizes[1:-1] = size_of_steps(np.diff(breaks), np)
    return sizes, kinks


def first_mesh(
    problem, cells, classes, foldable: bool, tol: float = 0.0
) -> tuple[Mesh, np.ndarray, list[tuple[bool, bool, bool]]]:
    """The mesh of the first pass, the size of every interval, and the coarser ones that are compared with it."""
    featured = with_new(problem, problem.parts, "weights")
    sizes, levels = _sizes(featured)
    intervals = int(np.sum(np.maximum(sizes, LEAST_PART)))
    alike = problem.covariance.kind == "identity"
    single = problem.teacher.kind in ("constant", "rademacher")
    if cells is None:
        least = 16 if np.min(sizes) == 1 else GRADED_CELLS
        one = single and alike and problem.channels is None
        first = FIRST_CELLS if alike else FEWER_CELLS
        if one and tol < LOOSE:
            first = ONE_CLASS_CELLS
        cells = max(least, first // intervals // 2 * 2)
    atoms = problem.teacher.data is not None and problem.teacher.data.atoms is not None and not problem.paired
    if classes is None:  # an interval of the teacher values on either side of every kink
        kinks = levels - sum(p.weights.n_levels > 0 and p.weights.rounding == "nearest" for p in featured)
        kinks = 0 if single or atoms else kinks * (1 + (problem.start.kind == "teacher"))
        kinks += 0 if problem.ptq is None else 2 * problem.ptq.n_levels
        classes = max(FIRST_CLASSES, min(MOST_CLASSES // 2, NODES * (kinks + 2)))
    coarser = [(True, False, False)]
    coarser += [] if single or atoms else [(False, True, False)]
    coarser += [] if alike else [(False, False, True)]
    folded = foldable and is_symmetric(problem)
    classes += -classes % 8
    nodes = nodes_of(0 if single or atoms else levels, classes)
    classes -= classes % (nodes * (1 + folded))
    variances = 1 if alike else FIRST_PAIRED if problem.paired else FIRST_VARIANCES
    mesh = Mesh(cells + cells % 2, max(classes, 2), variances, folded, nodes)
    return mesh, sizes, coarser


def grid_curves(
    problem,
    legs: tuple[Leg, ...],
    tol,
    least,
    cells=None,
    classes=None,
    traced=False,
    progress=False,
    one_pass=grid_pass,
):
    """Passes of the grid law until ``tol`` is met: curves, counts, densities, steps, estimate, code.

    The tolerance is relative to errors above ``least``. ``progress`` is whether to say how long a pass may take.

    The steps are those of the first and of the second mesh in turn, leg by leg.
    """
    foldable = not any(leg.kept for leg in legs)
    mesh, sizes, coarser = first_mesh(problem, cells, classes, foldable, tol)
    levels, xp = {part.weights.n_levels for part in problem.parts}, jnp if traced else np
    least = jnp.asarray(least)
    if traced:
        one_pass = traced_pass
    else:
        problem = padded(problem)
    rtol, before = min(0.05 * tol, 5e-4), np.inf
    reach = reach_of(problem, legs[-1].taus[-1])
    confirmed, expected = np.zeros(len(coarser), bool), np.zeros(len(coarser))
    for count in range(1, PASSES + 1):
        begun = time.monotonic()
        size = int(np.sum(cells_of(sizes, mesh.cells, np)))
        shape = mesh._replace(cells=filled(size))
        fine, rough = (Accuracy(jnp.asarray(step), least) for step in (rtol, 4 * rtol))
        # all have the same shapes and share one compilation
        runs = [
            one_pass(problem, legs, accuracy, *map(np.asarray, (flags, mesh.cells)), shape, *reach)
            for flags, accuracy in [((False,) * 3, fine), *((flags, rough) for flags in coarser)]
        ]
        first, *rest = (_occupied(run[0], levels, mesh.folded, xp) for run in runs)
        with np.errstate(invalid="ignore"):  # what stopped has no numbers beyond
            curves, changes = _extrapolate(first, rest, least, xp)
        bad = functools.reduce(xp.logical_or, [run[4] for run in runs])
        # a third of what halving changes, where an earlier pass confirms second order; else all of it
        if count > 1:
            confirmed = np.where(expected < 0, confirmed, changes <= expected)
        parts = changes / np.where(confirmed, 3.0, 1.0)
        estimate = xp.maximum(xp.sum(parts), ROUNDING)
        inside, reach = within(problem, reach, curves, xp)
        estimate = xp.where(inside, estimate, xp.inf)
        code = xp.where(bad, MAX_STEPS, xp.where(estimate <= tol, REACHED, INACCURATE))
        stats, kept, path = runs[0][1:4]
        many = kept[2].size
        counts = dict(stats, cells=size, classes=many, passes=count)
        unknowns = size * many
        if traced or int(code) != INACCURATE or count == PASSES or unknowns >= MOST_UNKNOWNS:
            break
        finer = _refined(mesh, coarser, parts, tol, MOST_UNKNOWNS / unknowns)
        if finer.cells > mesh.cells and changes[0] > STUCK * before:
            rtol, finer = rtol / FINER_STEPS, finer._replace(cells=mesh.cells)
        seconds = (time.monotonic() - begun) * np.prod(np.divide(finer[:3], mesh[:3]))
        if progress and seconds >= LONG:
            print(f"error estimate {estimate:.2g}: pass {count + 1} of at most {PASSES}, about {seconds:.0f} s",
                  file=sys.stderr)  # fmt: skip
        before = changes[0] if finer.cells > mesh.cells else np.inf
        growth = np.array([finer[flags.index(True)] / mesh[flags.index(True)] for flags in coarser])
        expected = np.where(growth > 1, ORDER_MARGIN * changes / growth**2, -1.0)
        mesh = finer
    faces, states, teacher, share = kept
    if states is not None:
        states = xp.asarray(states)[:, :size, :many].swapaxes(1, 2)
        kept = xp.asarray(faces)[: size + 1], states, teacher, share
    steps = tuple(itertools.chain(*zip(path, runs[1][3], strict=True)))
    return curves, counts, None if states is None else kept, steps, estimate, code


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
