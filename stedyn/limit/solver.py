"""Solve the limit of a problem: choose a law, integrate it, estimate its error, refine."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..checks import InputError, array, checked, choice, fail, in_float64, is_traced, positive, whole
from ..curves.dense import Steps
from ..problem.problem import Problem
from .integrate import failed, integrate, steps
from .laws.fluid import observe_paths
from .laws.mixture import MixtureFlow
from .limit import check_closes, derive
from .refinement import grid_curves, least_error
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
MIXTURE_STARTS, FLUID_STARTS = 16, 400
#: Times at which the fluid law looks for plateaus, and blocks of them.
FLUID_TIMES, FLUID_BLOCKS = 400, 8
#: Classes of input variances where nothing else limits the accuracy.
LINEAR_VARIANCES = 64
_OPTIONAL = ("saturated", "flip_rate", "occupancy")


@checked(problem=Problem)
@in_float64
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
    r"""Deterministic limit of a problem along its run, in 64-bit floats whatever JAX's flag is.

    Parameters
    ----------
    problem : Problem
        Its ``run`` says where the curve is saved, in units of ``tau = steps / d``.
    law : {"auto", "grid", "mixture", "fluid"}
        ``grid`` solves the Fokker-Planck equation and refines until ``tol`` is met. ``mixture`` follows
        mean and variance of classes: fast, exact for a linear ``psi``. ``fluid`` is the closed form of a
        small lr. ``auto`` takes ``mixture`` where it is exact and ``grid`` elsewhere.
    tol : float
        Relative error of the curve, at its worst saved time, that ``grid`` has to reach (of errors below 1e-9 of the
        label's variance, in units of that).
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
        If an argument is out of bounds, or if the law does not apply.
    SolveError
        See ``throw``.

    References
    ----------
    ``docs/theory.md``, sections 3 and 5; arXiv 2510.10693 for the limit of the straight-through estimator.

    Examples
    --------
    >>> from stedyn import Problem, Run, SGD
    >>> s = solve(Problem(noise_std=0.5, rule=SGD(lr=0.5), run=Run(tau=40.0, points=11)))
    >>> print(f"{s.final_error:.4f}")  # lr sigma^2 / (2 - lr)
    0.0833
    """
    choice("law", law, LAWS)
    positive("tol", tol)
    taus = problem.taus
    keep = _kept_times(densities, taus[-1])
    check_closes(problem)
    law = _chosen(law, problem)
    given = None if classes is None else _even("classes", classes, 32)
    classes = _even("classes", classes, 32)
    traced = any(is_traced(leaf) for leaf in jax.tree.leaves(problem))
    arrays = problem.timeless, jnp.asarray(_padded(taus)), jnp.asarray(keep)
    if law == "fluid":
        curves, counts, kept, path, estimate, code = _fluid(*arrays, classes, traced)
    elif law == "mixture":
        curves, counts, kept, path, estimate, code = _mixture(*arrays, tol, classes, traced)
    else:
        first = None if cells is None else whole("cells", cells, 4, 10**6)
        curves, counts, kept, path, estimate, code = grid_curves(*arrays, tol, first, given, traced)
    curves = {n: (c if traced else np.asarray(c))[: taus.size] for n, c in curves.items()}
    if not traced:
        curves, taus, code = _finite_part(curves, taus, int(code), problem)
        if throw and not Status(code).ok:
            raise SolveError(str(Status(code)))
        estimate = None if estimate is None or not Status(code).ok else float(estimate)
        path = tuple(one.within(taus[-1]) for one in path)
        curves, kept, counts = jax.tree.map(np.asarray, (curves, kept, counts))
    densities_kept = None if kept is None else Densities(keep, *kept)
    optional = {name: curves.get(name) for name in _OPTIONAL}
    required = {name: curves[name] for name in ("error", "m", "q", "overlap", "norm", "effective_step")}
    return Solution(
        tau=np.asarray(taus),
        **required,
        **optional,
        densities=densities_kept,
        law=law,
        error_estimate=estimate,
        status=Status(code),
        statistics=counts,
        problem=problem,
        steps=path,
    )


def _padded(taus: np.ndarray) -> np.ndarray:
    """The saved times with the last repeated: 16, 32, 64, ... of them, so that few numbers of times are compiled."""
    size = max(16, 1 << (taus.size - 1).bit_length())
    return np.append(taus, np.full(size - taus.size, taus[-1]))


def _kept_times(densities, horizon) -> np.ndarray:
    times = np.zeros(0) if densities is None else np.atleast_1d(array("densities", densities))
    if times.ndim != 1 or not np.all(np.isfinite(times)) or np.any(np.diff(times) <= 0):
        fail("densities", "increasing times", densities, "sort them")
    if times.size and (times[0] < 0 or times[-1] > horizon):
        fail("densities", f"times between 0 and the horizon {horizon:g}", densities, "extend run.tau")
    return times


def _chosen(law: str, problem: Problem) -> str:
    free = not problem.surrogate.ends and problem.latent_clip is None
    if law == "auto":
        return "mixture" if problem.weights.is_none and free else "grid"
    if problem.surrogate.smooth and law in ("mixture", "fluid"):
        raise InputError(
            f"law: expected 'grid' with weights.ste = {problem.ste!r}, found {law!r}, which knows moves of "
            "one size only; choose 'grid'."
        )
    if law == "mixture" and not free:
        raise InputError(
            "law: expected 'grid' or 'fluid' with the clipped estimator or a latent clip, found 'mixture', whose "
            "Gaussian classes know no edge; choose 'grid'."
        )
    return law


def _even(name: str, value, default: int) -> int:
    number = default if value is None else whole(name, value, 2, 4096)
    return number + number % 2


def _finite_part(curves, taus, code: int, problem: Problem):
    """The saved times before a failure; the whole curve without one."""
    error = np.asarray(curves["error"])
    scale = max(error[0], float(problem.label_variance))
    good = np.all([np.isfinite(np.asarray(curves[name])) for name in ("error", "m", "q", "norm")], axis=0)
    bounded = good & ~problem.diverges(error)
    if np.all(bounded):
        return curves, taus, code
    size = int(np.argmin(bounded))
    growing = not np.all(bounded[good]) or (size > 1 and error[size - 1] > 1e3 * scale)
    return (
        {name: curve[:size] for name, curve in curves.items()},
        taus[:size],
        DIVERGED if growing else MAX_STEPS,
    )


@eqx.filter_jit
def _mixture_pass(problem, taus, keep, rtol, blend, coarse, classes, variances):
    limit = derive(problem, classes, coarse, variances)
    law = MixtureFlow(limit, MIXTURE_STARTS, blend, coarse)
    solution = integrate(law, taus, keep, rtol)
    kept = law.masses(*solution.ys[1]) if keep.size else None
    return solution.ys[0], solution.stats, kept, steps(solution), failed(solution)


def _mixture(problem, taus, keep, tol, classes, traced):
    linear = problem.weights.is_none
    # a linear psi leaves nothing but the error in time
    rtol = 1e-8 if linear else 1e-5
    variances = LINEAR_VARIANCES if linear else None
    run = functools.partial(_mixture_pass, problem, taus, keep, classes=classes, variances=variances)
    blend = None if traced or linear else jnp.zeros(())
    curves, stats, kept, path, bad = run(jnp.asarray(rtol), blend, jnp.asarray(False))
    counts = dict(stats, classes=classes, starts=MIXTURE_STARTS, passes=1)
    if traced:
        return curves, counts, kept, (path,), None, jnp.where(bad, MAX_STEPS, UNESTIMATED)
    merged = run(jnp.asarray(8 * rtol), blend, jnp.asarray(True))[0]
    shaped = merged if linear else run(jnp.asarray(rtol), jnp.ones(()), jnp.asarray(False))[0]
    size = jnp.maximum(curves["error"], least_error(problem))
    apart = [jnp.max(jnp.abs(other["error"] - curves["error"]) / size) for other in (merged, shaped)]
    estimate = apart[0] if linear else 2 * (apart[0] + apart[1])
    code = jnp.where(bad, MAX_STEPS, jnp.where(estimate <= tol, REACHED, INACCURATE))
    return curves, counts, kept, (path,), estimate, code


@eqx.filter_jit
def _fluid_pass(problem, taus, classes):
    return observe_paths(derive(problem, classes), taus, FLUID_STARTS)


@eqx.filter_jit
def _fluid_steps(problem, horizon, classes) -> Steps:
    """The error at even times, a block of them at once."""
    tau, limit = jnp.linspace(0.0, horizon, FLUID_TIMES), derive(problem, classes)
    blocks = tau.reshape(FLUID_BLOCKS, -1)
    error = jax.lax.map(lambda taus: observe_paths(limit, taus, FLUID_STARTS)["error"], blocks)
    return Steps(tau, error.ravel())


def _fluid(problem, taus, keep, classes, traced):
    if keep.size:
        raise InputError("densities: expected none with law = 'fluid', which has no density; choose 'grid'.")
    if not traced:
        limit = derive(problem, 2)
        where = [(1.0, 0.0), (2.0, 0.0), (1.0, taus[-1])]
        ab = np.array([limit.coefficients_at(V, tau)[:2] for V, tau in where])
        if np.any(np.abs(ab - ab[0]) > 1e-9 * np.abs(ab[0])):
            raise InputError(
                f"law: expected 'grid' or 'mixture' for the rule {problem.rule.kind!r}, found 'fluid', which needs a "
                "drift that depends neither on the residual nor on time."
            )
    curves = _fluid_pass(problem, taus, classes)
    counts = dict(classes=classes, starts=FLUID_STARTS, passes=1)
    return curves, counts, None, (_fluid_steps(problem, taus[-1], classes),), None, jnp.asarray(UNESTIMATED)
