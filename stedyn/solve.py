"""Solve the limit of a problem: choose a law, integrate it, estimate its error, refine."""

from __future__ import annotations

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._check import choice, fail, is_traced, positive, whole
from .integrate import failed, integrate
from .laws.fluid import observe_paths
from .laws.grid import GridFlow
from .laws.mixture import MixtureFlow
from .limit import check_closes, derive, is_symmetric
from .problem import Problem
from .quantizers import as_arrays
from .solution import (
    DIVERGED,
    INACCURATE,
    MAX_STEPS,
    REACHED,
    UNESTIMATED,
    Densities,
    Solution,
    SolveError,
    Status,
)

LAWS = ("auto", "grid", "mixture", "fluid")
#: Cells of a first pass of the grid law, over all intervals; and the largest number of unknowns.
FIRST_CELLS, MOST_UNKNOWNS = 800, 1_500_000
PASSES = 5
#: Teacher values and input variances that a first pass distinguishes, and the most.
FIRST_CLASSES, MOST_CLASSES = 32, 512
FIRST_VARIANCES, MOST_VARIANCES = 8, 64
#: An error that grows by this factor over its first value has no limit to speak of.
DIVERGENCE = 1e6
MIXTURE_STARTS, FLUID_STARTS = 16, 400
#: Classes of input variances where nothing else limits the accuracy.
LINEAR_VARIANCES = 64
_OPTIONAL = ("saturated", "flip_rate", "occupancy")


def solve(
    problem: Problem,
    *,
    law: str = "auto",
    tol: float = 5e-3,
    densities=None,
    cells: int | None = None,
    classes: int | None = None,
    throw: bool = True,
) -> Solution:
    r"""Deterministic limit of a problem along its run.

    Parameters
    ----------
    problem : Problem
        Its ``run`` says where the curve is saved, in units of ``tau = steps / d``.
    law : {"auto", "grid", "mixture", "fluid"}
        ``grid`` solves the Fokker-Planck equation and refines until ``tol`` is met. ``mixture`` follows
        mean and variance of classes: fast, exact for a linear ``psi``. ``fluid`` is the closed form of a
        small lr. ``auto`` takes ``mixture`` where it is exact and ``grid`` elsewhere.
    tol : float
        Relative error of the curve, at its worst saved time, that ``grid`` has to reach.
    densities : sequence of float, optional
        Times at which the law of the latent weights is kept (``grid`` and ``mixture``).
    cells, classes : int, optional
        Cells of the grid between two features, and number of teacher classes, for the first pass. Inside
        a JAX transformation (vmap, grad, jit) there is one pass, with its error estimate and no refinement.
    throw : bool
        Raise `SolveError` if the horizon is not reached; otherwise return what was, with its status.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If an argument is out of bounds, if 64-bit floats are off, or if the law does not apply.
    SolveError
        See ``throw``.

    References
    ----------
    ``docs``, theory sections 3 and 5; arXiv 2510.10693 for the limit of the straight-through estimator.

    Examples
    --------
    >>> from stedyn import Problem, Run, SGD
    >>> s = solve(Problem(noise_std=0.5, rule=SGD(lr=0.5), run=Run(tau=40.0, points=11)))
    >>> print(f"{s.final_error:.4f}")  # lr sigma^2 / (2 - lr)
    0.0833
    """
    choice("law", law, LAWS)
    positive("tol", tol)
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "solve: expected 64-bit floats, found 32-bit ones; call jax.config.update('jax_enable_x64', True) first."
        )
    taus = problem.taus
    keep = _kept_times(densities, taus[-1])
    check_closes(problem)
    law = _chosen(law, problem)
    given = None if classes is None else _even("classes", classes, 32)
    classes = _even("classes", classes, 32)
    traced = any(is_traced(leaf) for leaf in jax.tree.leaves(problem))
    arrays = as_arrays(problem), jnp.asarray(taus), jnp.asarray(keep)
    if law == "fluid":
        curves, counts, kept, estimate, code = _fluid(*arrays, classes, traced)
    elif law == "mixture":
        curves, counts, kept, estimate, code = _mixture(*arrays, tol, classes, traced)
    else:
        first = None if cells is None else whole("cells", cells, 4, 10**6)
        curves, counts, kept, estimate, code = grid_curves(*arrays, tol, first, given, traced)
    if not traced:
        curves, taus, code = _finite_part(curves, taus, int(code))
        if throw and not Status(code).ok:
            raise SolveError(str(Status(code)))
        estimate = None if estimate is None else float(estimate)
    densities_kept = None if kept is None else Densities(jnp.asarray(keep), *kept)
    optional = {name: curves.get(name) for name in _OPTIONAL}
    required = {name: curves[name] for name in ("error", "m", "q", "overlap", "norm", "effective_step")}
    return Solution(
        tau=jnp.asarray(taus),
        **required,
        **optional,
        densities=densities_kept,
        law=law,
        error_estimate=estimate,
        status=Status(code),
        statistics=counts,
        problem=problem,
    )


def _kept_times(densities, horizon) -> np.ndarray:
    times = np.zeros(0) if densities is None else np.atleast_1d(np.asarray(densities, dtype=float))
    if times.ndim != 1 or not np.all(np.isfinite(times)) or np.any(np.diff(times) <= 0):
        fail("densities", "increasing times", densities, "sort them")
    if times.size and (times[0] < 0 or times[-1] > horizon):
        fail("densities", f"times between 0 and the horizon {horizon:g}", densities, "extend run.tau")
    return times


def _chosen(law: str, problem: Problem) -> str:
    free = problem.ste == "identity" and problem.latent_clip is None
    if law == "auto":
        return "mixture" if problem.weights.is_none and free else "grid"
    if law == "mixture" and not free:
        raise ValueError(
            "law: expected 'grid' or 'fluid' with the clipped estimator or a latent clip, found 'mixture', whose "
            "Gaussian classes know no edge; choose 'grid'."
        )
    return law


def _even(name: str, value, default: int) -> int:
    number = default if value is None else whole(name, value, 2, 4096)
    return number + number % 2


def _finite_part(curves, taus, code: int):
    """The saved times before a failure; the whole curve without one."""
    error = np.asarray(curves["error"])
    good = np.all([np.isfinite(np.asarray(curves[name])) for name in ("error", "m", "q", "norm")], axis=0)
    bounded = good & (error < DIVERGENCE * error[0])
    if np.all(bounded):
        return curves, taus, code
    size = int(np.argmin(bounded))
    growing = not np.all(bounded[good]) or (size > 1 and error[size - 1] > 1e3 * error[0])
    return (
        {name: curve[:size] for name, curve in curves.items()},
        taus[:size],
        DIVERGED if growing else MAX_STEPS,
    )


class Mesh(NamedTuple):
    """Resolution of the grid law: cells between features, teacher classes, variance classes, and ``folded``."""

    cells: int
    classes: int
    variances: int
    folded: bool


@eqx.filter_jit
def grid_pass(problem, taus, keep, rtol, coarse, mesh: Mesh, forward=False):
    """Curves, counts, densities and failure of the grid law on one mesh; ``forward`` as in `integrate`.

    ``coarse`` are three flags: whether to halve cells, teacher classes, classes of variances.
    """
    limit = derive(problem, mesh.classes, coarse[1:], mesh.variances, mesh.folded)
    law = GridFlow(limit, mesh.cells, taus[-1], coarse[0])
    solution = integrate(law, taus, keep, rtol, forward)
    kept = (law.faces, solution.ys[1] if keep.size else None, limit.teacher, limit.share)
    return solution.ys[0], solution.stats, kept, failed(solution)


@eqx.filter_jit
def _extrapolate(fine, coarse):
    """Combine a solution with those of half the cells (and four times the time tolerance) and of half the classes.

    The scheme is of second order in the cells: a third of the first difference is left in the fine solution and is
    removed. Returns the curves and the largest relative size in the error of what each refinement changes: the
    correction, and the whole difference for the classes, whose order is not known.
    """
    curves = fine[0]
    correction = {name: (curve - coarse[0][0][name]) / 3 for name, curve in curves.items()}
    changes = [
        correction,
        *({name: curve - other[0][name] for name, curve in curves.items()} for other in coarse[1:]),
    ]
    parts = []
    for change in changes:
        part = jnp.max(jnp.abs(change["error"]) / curves["error"])
        if "tangent" in curves:  # of the error with respect to a parameter, relative to its largest value
            largest = jnp.max(jnp.abs(curves["tangent"]))
            part = jnp.maximum(
                part, jnp.max(jnp.abs(change["tangent"])) / jnp.where(largest > 0, largest, 1.0)
            )
        parts.append(part)
    better = {name: curve + correction[name] for name, curve in curves.items()}
    for name, curve in curves.items():
        if name in ("occupancy", "saturated"):
            better[name] = jnp.clip(better[name], 0.0, 1.0)
        elif name in ("error", "q", "norm", "flip_rate"):
            better[name] = jnp.where(better[name] > 0, better[name], curve)
    return (
        better,
        jnp.stack(parts),
        functools.reduce(jnp.logical_or, [fine[3], *(other[3] for other in coarse)]),
    )


def _first_mesh(problem, cells, classes, foldable: bool) -> tuple[Mesh, int, list[tuple[bool, bool, bool]]]:
    """The mesh of the first pass, its number of intervals, and the coarser ones that are compared with it."""
    features = max(problem.weights.n_levels - 1, 0) + (problem.weights.rounding == "stochastic")
    edges = (problem.ste == "clipped") + (problem.latent_clip is not None)
    intervals = features + 1 + 2 * edges
    cells = max(16, FIRST_CELLS // intervals) if cells is None else cells
    # an interval of the teacher values on either side of every kink
    least = min(MOST_CLASSES // 2, 4 * (features + 2))
    classes = max(FIRST_CLASSES, least) if classes is None else classes
    single = problem.teacher.kind in ("constant", "rademacher")
    atoms = problem.teacher.data is not None and problem.teacher.data.atoms is not None and not problem.paired
    alike = problem.covariance.kind == "identity"
    coarser = [(True, False, False)]
    coarser += [] if single or atoms else [(False, True, False)]
    coarser += [] if alike else [(False, False, True)]
    folded = foldable and is_symmetric(problem)
    mesh = Mesh(cells + cells % 2, classes + -classes % 8, 1 if alike else FIRST_VARIANCES, folded)
    return mesh, intervals, coarser


def grid_curves(problem, taus, keep, tol, cells, classes, traced=False, one_pass=grid_pass):
    """Passes of the grid law, refined until the estimate meets ``tol``: curves, counts, densities, estimate, code."""
    mesh, intervals, coarser = _first_mesh(problem, cells, classes, foldable=keep.size == 0)
    rtol = min(0.1 * tol, 1e-3)
    for count in range(1, PASSES + 1):
        # all have the same shapes and share one compilation
        fine, *others = (
            one_pass(
                problem, taus, keep, jnp.asarray(4 * rtol if flags[0] else rtol), jnp.asarray(flags), mesh
            )
            for flags in [(False, False, False), *coarser]
        )
        curves, parts, bad = _extrapolate(fine, others)
        estimate = jnp.sum(parts)
        code = jnp.where(bad, MAX_STEPS, jnp.where(estimate <= tol, REACHED, INACCURATE))
        stats, kept = fine[1:3]
        size = kept[2].shape[-1]
        counts = dict(stats, cells=mesh.cells * intervals, classes=size, passes=count)
        unknowns = mesh.cells * intervals * size
        if traced or int(code) != INACCURATE or count == PASSES or unknowns >= MOST_UNKNOWNS:
            break
        mesh = _refined(mesh, coarser, np.asarray(parts), tol, MOST_UNKNOWNS / unknowns)
    return curves, counts, None if kept[1] is None else kept, estimate, code


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


@eqx.filter_jit
def _mixture_pass(problem, taus, keep, rtol, blend, coarse, classes, variances):
    limit = derive(problem, classes, coarse, variances)
    law = MixtureFlow(limit, MIXTURE_STARTS, blend, coarse)
    solution = integrate(law, taus, keep, rtol)
    kept = law.masses(*solution.ys[1]) if keep.size else None
    return solution.ys[0], solution.stats, kept, failed(solution)


def _mixture(problem, taus, keep, tol, classes, traced):
    linear = problem.weights.is_none
    # a linear psi leaves nothing but the error in time
    rtol = 1e-8 if linear else 1e-5
    variances = LINEAR_VARIANCES if linear else None
    run = functools.partial(_mixture_pass, problem, taus, keep, classes=classes, variances=variances)
    blend = None if traced or linear else jnp.zeros(())
    curves, stats, kept, bad = run(jnp.asarray(rtol), blend, jnp.asarray(False))
    counts = dict(stats, classes=classes, starts=MIXTURE_STARTS, passes=1)
    if traced:
        return curves, counts, kept, None, jnp.where(bad, MAX_STEPS, UNESTIMATED)
    merged = run(jnp.asarray(8 * rtol), blend, jnp.asarray(True))[0]
    shaped = merged if linear else run(jnp.asarray(rtol), jnp.ones(()), jnp.asarray(False))[0]
    apart = [jnp.max(jnp.abs(other["error"] / curves["error"] - 1)) for other in (merged, shaped)]
    estimate = apart[0] if linear else 2 * (apart[0] + apart[1])
    code = jnp.where(bad, MAX_STEPS, jnp.where(estimate <= tol, REACHED, INACCURATE))
    return curves, counts, kept, estimate, code


@eqx.filter_jit
def _fluid_pass(problem, taus, classes):
    return observe_paths(derive(problem, classes), taus, FLUID_STARTS)


def _fluid(problem, taus, keep, classes, traced):
    if keep.size:
        raise ValueError("densities: expected none with law = 'fluid', which has no density; choose 'grid'.")
    if not traced:
        limit = derive(problem, 2)
        where = [(1.0, 0.0), (2.0, 0.0), (1.0, taus[-1])]
        ab = np.array([limit.coefficients_at(V, tau)[:2] for V, tau in where])
        if np.any(np.abs(ab - ab[0]) > 1e-9 * np.abs(ab[0])):
            raise ValueError(
                f"law: expected 'grid' or 'mixture' for the rule {problem.rule.kind!r}, found 'fluid', which needs a "
                "drift that depends neither on the residual nor on time."
            )
    curves = _fluid_pass(problem, taus, classes)
    return curves, dict(classes=classes, starts=FLUID_STARTS, passes=1), None, None, jnp.asarray(UNESTIMATED)
