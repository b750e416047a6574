"""Solve the limit of a problem: choose a law, integrate it, estimate its error, refine."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import any_traced, array, checked, fail, in_float64, positive, whole
from ..problem.problem import Problem
from .laws.law import Asked
from .laws.legs import legs_of
from .laws.registry import LAWS, chosen
from .least import least_of
from .limit import LARGEST_KAPPA
from .refused import check_closes
from .solution import DIVERGED, MAX_STEPS, MEAN_MODE, Densities, Solution, SolveError, Status
from .width import check_width, with_spread

#: Most saved times of a law with densities.
MOST_TIMES = 100_000
_OPTIONAL = (
    "saturated",
    "flip_rate",
    "occupancy",
    "classification_error",
    "ptq_error",
    "kappa",
    "mean_mode",
    "range",
)


@checked(problem=Problem)
@in_float64
def solve(
    problem: Problem,
    *,
    law: str = "auto",
    tol: float = 5e-3,
    least_error: float | None = None,
    densities=None,
    cells: int | None = None,
    classes: int | None = None,
    dim: int | None = None,
    given: Sequence[str] = (),
    throw: bool = True,
    progress: bool = False,
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
        Relative error of the curve, at its worst saved time, that ``grid`` has to reach.
    least_error : float, optional
        Smaller errors count as this much in ``tol``: what they are is then known to ``tol * least_error`` only, and a
        curve that falls further takes less time. By default 1e-9 of the label's variance, or a hundredth of what
        rounding costs (``step^2 / 12`` for inputs of variance 1) where that is more (``docs/accuracy.md``).
    densities : sequence of float, optional
        Times at which the law of the latent weights is kept (``grid`` and ``mixture``).
    cells, classes : int, optional
        Cells of the grid between two features, and number of teacher classes, for the first pass. Inside
        a JAX transformation (vmap, grad, jit) there is one pass, with its error estimate and no refinement.
    dim : int, optional
        Predict, too, how far one run of this dimension strays: ``error_std`` and ``spread`` (``docs/width.md``).
    given : sequence of {"teacher", "start"}
        What is the same in all these runs, instead of drawn anew; of use with a ``dim`` only.
    throw : bool
        Raise `SolveError` if the horizon is not reached; otherwise return what was, with its status.
    progress : bool
        Say on standard error how long another pass of ``grid`` may take, where that is 5 seconds or more.

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
    law = chosen(law, problem)
    positive("tol", tol)
    least = least_of(problem, None if least_error is None else positive("least_error", least_error))
    taus = problem.taus
    keep = _kept_times(densities, taus[-1])
    check_closes(problem)
    if given and dim is None:
        fail("given", "none without a dim", given, "give the dim of the runs")
    if dim is not None:
        check_width(problem, given)
        if not LAWS[law].densities:
            fail("law", "'grid' or 'mixture' with dim", law, "choose one of these")
    if LAWS[law].densities and taus.size > MOST_TIMES:
        fail("run.points", f"at most {MOST_TIMES} saved times for the law {law!r}", taus.size, "save fewer")
    traced = any_traced(problem)
    cells = None if cells is None else whole("cells", cells, 4, 10**6)
    classes = None if classes is None else whole("classes", classes, 2, 4096)
    classes = classes and classes + classes % 2
    asked = Asked(legs_of(problem, taus, keep), tol, least, cells, classes, traced, progress)
    for part in problem.parts:
        LAWS[law].check(part.timeless, asked)
    if law == "fluid":
        problem.steady("law = 'fluid'")
    curves, counts, kept, path, estimate, code = LAWS[law].solve(problem.timeless, asked)
    curves = {n: (c if traced else np.asarray(c))[: taus.size] for n, c in curves.items()}
    if not all(part.rule.sized for part in problem.parts):
        curves.pop("flip_rate", None)
    if not traced:
        told = ""
        if np.any(np.asarray(curves.get("kappa", 0.0)) >= LARGEST_KAPPA):
            curves, taus, told = _stable_part(curves, taus, problem)
            code = MEAN_MODE
        else:
            curves, taus, code = _finite_part(curves, taus, int(code), problem, path)
        if not Status(code).ok and (throw or taus.size == 0):
            raise SolveError(str(Status(code)) + told)
        estimate = None if estimate is None or not Status(code).ok else float(estimate)
        path = tuple(one.within(taus[-1]) for one in path) if taus.size else ()
        curves, kept, counts = jax.tree.map(np.asarray, (curves, kept, counts))
    densities_kept = None if kept is None else Densities(keep, *kept)
    optional = {name: curves.get(name) for name in _OPTIONAL}
    required = {name: curves[name] for name in ("error", "m", "q", "overlap", "norm", "effective_step")}
    solution = Solution(
        tau=np.asarray(taus),
        **required,
        **optional,
        densities=densities_kept,
        law=law,
        error_estimate=estimate,
        least_error=least,
        status=Status(code),
        statistics=counts,
        problem=problem,
        steps=path,
    )
    return solution if dim is None else with_spread(solution, dim, given)


def _kept_times(densities, horizon) -> np.ndarray:
    times = np.zeros(0) if densities is None else np.atleast_1d(array("densities", densities))
    if times.ndim != 1 or not np.all(np.isfinite(times)) or np.any(np.diff(times) <= 0):
        fail("densities", "increasing times", densities, "sort them")
    if times.size and (times[0] < 0 or times[-1] > horizon):
        fail("densities", f"times between 0 and the horizon {horizon:g}", densities, "extend run.tau")
    return times


def _stable_part(curves, taus, problem: Problem):
    """The saved times before kappa reached 2, and where it did."""
    kappa = np.asarray(curves["kappa"])
    size = int(np.argmax(kappa >= LARGEST_KAPPA))
    rate = float(problem.rule.rate(jnp.asarray(taus[size])))
    told = (
        f" It did at tau = {taus[size]:.4g}, at lr = {rate:g}; at the start kappa = {kappa[0]:.3g}, which allows lr "
        f"below {2 * float(problem.rule.rate(jnp.zeros(()))) / kappa[0]:.3g} there."
    )
    return {name: curve[:size] for name, curve in curves.items()}, taus[:size], told


def _finite_part(curves, taus, code: int, problem: Problem, path):
    """The saved times before a failure; the whole curve without one. The steps tell whether the error has grown."""
    error = np.asarray(curves["error"])
    steps = np.concatenate([np.zeros(1), *(np.ravel(one.error) for one in path)])
    scale = max(error[0], float(problem.label_variance))
    good = np.all([np.isfinite(np.asarray(curves[name])) for name in ("error", "m", "q", "norm")], axis=0)
    bounded = good & ~problem.diverges(error)
    if np.all(bounded):
        return curves, taus, code
    size = int(np.argmin(bounded))
    growing = not np.all(bounded[good]) or np.max(steps[np.isfinite(steps)]) > 1e3 * scale
    return (
        {name: curve[:size] for name, curve in curves.items()},
        taus[:size],
        DIVERGED if growing else MAX_STEPS,
    )
