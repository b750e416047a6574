"""Fixed points of the limit: where a curve ends, what quantization adds there, and whether it is stable."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._check import InputError, checked, whole
from .limit import Limit, derive
from .problem import Problem
from .quantizers import as_arrays
from .rules.symmetry import check_centred
from .stationary import root, scan, stationary_error

if TYPE_CHECKING:
    from .solution import Solution

_SENTENCES = (
    "The fixed point is stable.",
    "The fixed point is unstable: a small excess error grows.",
    "The error vanishes: the weights settle on levels that fit the teacher exactly.",
)
STABLE, UNSTABLE, VANISHING = range(3)


class FixedPoint(eqx.Module):
    """A fixed point of the limit.

    Attributes
    ----------
    error : float
        Generalization error.
    excess : float
        ``error`` minus the fixed point of the same problem with unquantized weights, which for SGD is
        ``rho (1 - k1^2/k2) + lr k2 s^2 / (2 - lr k2)``, ``s^2 = noise_std^2 + rho (1 - k1^2/k2)`` for inputs of one
        variance.
    unquantized_error : float or None
        That fixed point; None (as ``excess``) if lr is above its ceiling, so that only quantization holds
        the weights.
    saturated_fraction : float
        Probability of the teacher values with ``|a c| >= b max|psi|``: their weights leave the range.
    slope : float
        ``d error / d V`` of the stationary law. The fixed point is stable against slow perturbations of
        ``V`` if it is below 1 (for a linear ``psi`` that is exact).
    stable : bool
    lr_ceiling : float or None
        Largest lr with a fixed point, ``2 / k2`` for SGD with a linear ``psi``; None if ``psi`` is bounded,
        when no such ceiling applies.
    others : tuple of float
        Errors of further fixed points, if the equation has several; the reported one has the largest error.
    minimum : tuple of float or None
        ``(tau, error)`` where the curve of a given solution is lowest, if that lies below the fixed point.
    code : int
    """

    error: float
    excess: float | None
    unquantized_error: float | None
    saturated_fraction: float
    slope: float
    stable: bool
    lr_ceiling: float | None
    others: tuple[float, ...]
    minimum: tuple[float, float] | None
    code: int

    @property
    def status(self) -> str:
        return _SENTENCES[self.code]

    def beside(self, solution: Solution) -> FixedPoint:
        """The same with the minimum of a solution of the problem, if that lies below the fixed point."""
        lowest = solution.minimum
        return dataclasses.replace(self, minimum=lowest if lowest[1] < self.error else None)

    def to_dict(self) -> dict:
        """``error, excess, saturated_fraction, stable, status`` and the rest as plain numbers."""
        return {
            "error": self.error,
            "excess": self.excess,
            "unquantized_error": self.unquantized_error,
            "saturated_fraction": self.saturated_fraction,
            "slope": self.slope,
            "stable": self.stable,
            "lr_ceiling": self.lr_ceiling,
            "others": list(self.others),
            "minimum": None
            if self.minimum is None
            else dict(zip(("tau", "error"), self.minimum, strict=True)),
            "status": self.status,
        }

    def __str__(self):
        ceiling = (
            "no ceiling of lr (psi or the rule is bounded)"
            if self.lr_ceiling is None
            else f"lr below {self.lr_ceiling:.4g}"
        )
        over = "unquantized weights would diverge"
        if self.excess is not None:
            over = f"excess {self.excess:.6g} over unquantized weights ({self.unquantized_error:.6g})"
        lower = ""
        if self.minimum is not None:
            tau, error = self.minimum
            lower = f"\nthe curve passes below it: error {error:.6g} at tau = {tau:.4g}"
        return (
            f"fixed point: error {self.error:.8g}, {over}{lower}\nsaturated fraction {self.saturated_fraction:.4g}; "
            f"d error/dV = {self.slope:.4g}; {ceiling}\n{self.status}"
        )


@eqx.filter_jit
def _scan(limit: Limit):
    return scan(limit)


@eqx.filter_jit
def _at(limit: Limit, V):
    """Stationary error at a residual variance, and its slope there."""
    return jax.jvp(lambda v: stationary_error(limit, v), (V,), (jnp.ones_like(V),))


@eqx.filter_jit
def _refine(limit: Limit, low, high):
    """Error at the root between two values of ``V``, and the slope of ``error(V)`` there."""
    return _at(limit, root(limit, low, high))


@eqx.filter_jit
def _pull(limit: Limit):
    """``a, b`` (C,) at the variance of the teacher's output."""
    return limit.coefficients(limit.rho, jnp.inf)[:2]


@checked(problem=Problem)
def fixed_point(problem: Problem, *, classes: int = 512) -> FixedPoint:
    """Fixed point of the limit of a problem.

    Parameters
    ----------
    problem : Problem
    classes : int
        Number of teacher classes of a Gaussian or measured teacher.

    Raises
    ------
    ValueError
        If lr is above its ceiling; for a rule of one's own whose move has a mean; or for the clipped
        straight-through estimator: its range ends absorb, so
        that what remains depends on the start and on how long one waits.
    """
    whole("classes", classes, 2, 4096)
    check_centred(problem)
    if problem.absorbs:
        raise InputError(
            "weights.ste: expected 'identity' for a fixed point, found 'clipped', whose range ends absorb so that the "
            "final error depends on the start; use predict with a long tau instead."
        )
    final = float(problem.rule.rate(jnp.inf))
    if not 0 < final < np.inf:
        raise InputError(
            f"rule.schedule: expected a rate that stays above 0 for a fixed point, found {final:g} at the end, "
            "where nothing moves any more; use predict with a long tau instead."
        )
    limit = eqx.filter_jit(derive)(as_arrays(problem), classes + classes % 2)
    found = _roots(limit)
    linear = problem.weights.is_none and problem.latent_clip is None
    if linear:
        base = found
    else:
        base = _roots(eqx.filter_jit(derive)(as_arrays(problem.unquantized()), classes + classes % 2))
    k2 = float(limit.share @ limit.k2)
    a, b = _pull(limit)
    ceiling = None
    if linear:  # S = D / (2 b): the error reproduces itself once lr k2 = 2
        far = 1e7 * limit.rho  # where rounding no longer matters, and a bounded rule does not grow
        slope = float(_at(limit, far)[1])
        ceiling = final / slope if np.isfinite(slope) else 2 / k2
        ceiling = None if slope < 1e-3 * final else ceiling
    saturated = 0.0
    if problem.weights.n_levels:
        pull = np.asarray(a * limit.teacher)
        ends = [np.asarray(b * limit.levels[k]) * (1 - 1e-12) for k in (0, -1)]
        beyond = (pull <= ends[0]) | (pull >= ends[1])
        saturated = float(np.asarray(limit.share) @ beyond)
    if not found:
        raise InputError(
            f"rule.lr: expected a rate below its ceiling {ceiling:.6g}, found {float(problem.rule.rate(jnp.inf)):g}, "
            "with which the error grows without bound and there is no fixed point; lower it."
        )
    error, slope = found[-1]
    code = VANISHING if error < 1e-12 * float(limit.rho) else STABLE if slope < 1 else UNSTABLE
    reference = base[-1][0] if base else None
    return FixedPoint(
        error=error,
        excess=None if reference is None else error - reference,
        unquantized_error=reference,
        saturated_fraction=saturated,
        slope=slope,
        stable=bool(slope < 1),
        lr_ceiling=ceiling,
        others=tuple(other for other, _ in found[:-1]),
        minimum=None,
        code=code,
    )


def _roots(limit: Limit) -> list[tuple[float, float]]:
    """``(error, slope)`` of all fixed points, in increasing order of the error."""
    grid, gap = (np.asarray(x) for x in _scan(limit))
    found = []
    if gap[0] < 0:  # only without noise: the error shrinks below all bounds
        found.append((0.0, float(1 + gap[0] / grid[0])))
    for k in np.flatnonzero(gap[:-1] * gap[1:] <= 0):
        error, slope = _refine(limit, jnp.asarray(grid[k]), jnp.asarray(grid[k + 1]))
        found.append((float(error), float(slope)))
    return found
