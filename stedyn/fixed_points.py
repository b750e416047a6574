r"""Fixed points of the limit: the stationary law is known, so that one scalar equation remains.

For the identity straight-through estimator the stationary density of a class is

    ``p_c(w) ~ exp( (2/D) (a c w - b Psi(w) - lr weight_decay w^2 / 2) )``,  ``Psi' = psi``,

and the residual variance solves ``V = noise_std^2 + error(V)`` (``docs``, theory section 6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float

from .limit import Limit, derive
from .problem import Problem
from .quantizers import as_arrays

if TYPE_CHECKING:
    from .solution import Solution

#: Every piece of a stationary density is integrated down to exp(-DEPTH) of its maximum.
DEPTH, NODES = 32.0, 40
_X, _W = np.polynomial.legendre.leggauss(NODES)
SCAN = 60

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


def stationary_error(limit: Limit, V) -> Float[Array, ""]:
    """Error of the stationary law at residual variance ``V``: the right-hand side of the fixed point."""
    rule, pieces = limit.rule, limit.pieces
    a, b, D, _ = limit.coefficients_at(V, jnp.inf)
    decay = rule.rate(jnp.inf) * rule.weight_decay
    edge = jnp.full(1, jnp.inf)
    breaks = pieces.breaks
    if limit.latent_clip is not None:
        breaks = jnp.clip(breaks, -limit.latent_clip, limit.latent_clip)
        edge = limit.latent_clip[None]
    low, high = jnp.concatenate([-edge, breaks]), jnp.concatenate([breaks, edge])

    def moments(force, b, D):
        return _class_moments(pieces, force, b, decay, 2 / D, low, high)

    return limit.error(*jax.vmap(moments)(a * limit.teacher, b, D))


def _class_moments(pieces, force, b, decay, beta, low, high):
    """``E[psi], E[psi^2]`` of ``exp(beta * potential)``, piece by piece with Gauss-Legendre nodes."""
    intercept, slope = force - b * pieces.first[:, 0], b * pieces.first[:, 1] + decay
    # the potential at the breaks, and where each piece has its maximum
    finite_low, finite_high = jnp.where(jnp.isfinite(low), low, 0.0), jnp.where(jnp.isfinite(high), high, 0.0)
    inner = intercept * (finite_high - finite_low) - 0.5 * slope * (finite_high**2 - finite_low**2)
    if low.size > 1:
        at_low = jnp.concatenate([jnp.zeros(2), jnp.cumsum(inner[1:-1])])
        anchor, height = finite_low.at[0].set(finite_high[0]), at_low
    else:
        anchor, height = jnp.zeros(1), jnp.zeros(1)
    curved = slope > 0
    top = jnp.where(curved, intercept / jnp.where(curved, slope, 1.0), jnp.sign(intercept) * jnp.inf)
    flat = ~curved & (jnp.abs(intercept) <= 1e-12 * (jnp.abs(force) + jnp.abs(b * pieces.first[:, 0])))
    top = jnp.where(flat, anchor, top)
    # on an unbounded outermost piece that does not pull back the weights leave for good
    endless = ~(jnp.isfinite(low) & jnp.isfinite(high))
    escapes = ~jnp.isfinite(jnp.clip(top, low, high)) | (flat & endless)
    at = jnp.where(escapes, anchor, jnp.clip(top, low, high))
    force_at = intercept - slope * at
    reach = _reach(beta * jnp.abs(force_at), beta * slope)
    start, stop = jnp.maximum(low, at - reach), jnp.minimum(high, at + reach)
    half = jnp.where(escapes, 0.0, 0.5 * jnp.clip(stop - start, 0.0, None))
    w = jnp.where(escapes, anchor, 0.5 * (start + stop))[:, None] + half[:, None] * _X
    away = w - anchor[:, None]
    potential = (
        height[:, None] + away * (intercept - slope * anchor)[:, None] - 0.5 * slope[:, None] * away**2
    )
    log = beta * potential
    live = half > 0
    shift = jax.lax.stop_gradient(jnp.max(jnp.where(live[:, None], log, -jnp.inf)))
    weight = jnp.where(live[:, None], jnp.exp(jnp.where(live[:, None], log - shift, 0.0)), 0.0)
    weight = weight * half[:, None] * _W
    first, second = pieces.first, pieces.second
    psi = first[:, :1] + first[:, 1:] * w
    square = second[:, :1] + second[:, 1:2] * w + second[:, 2:] * w**2
    total = jnp.sum(weight)
    mean, mean_square = jnp.sum(weight * psi) / total, jnp.sum(weight * square) / total
    for k in (0, -1):
        mean = jnp.where(escapes[k], first[k, 0], mean)
        mean_square = jnp.where(escapes[k], second[k, 0], mean_square)
    return mean, mean_square


def _reach(slope, curvature):
    """Distance at which ``slope x + curvature x^2 / 2`` reaches DEPTH."""
    return 2 * DEPTH / jnp.maximum(slope + jnp.sqrt(slope**2 + 2 * curvature * DEPTH), 1e-300)


@eqx.filter_jit
def _scan(limit: Limit, grid):
    return jax.lax.map(lambda V: stationary_error(limit, V), grid)


@eqx.filter_jit
def _refine(limit: Limit, low, high):
    """Root of ``noise + error(V) - V`` between two values of ``V``, and the slope there."""

    def gap(log_V, _):
        V = jnp.exp(log_V)
        return (limit.noise_var + stationary_error(limit, V)) / V - 1

    solver: optx.Bisection = optx.Bisection(rtol=1e-13, atol=1e-13)  # type: ignore[call-arg]
    options = dict(lower=jnp.log(low), upper=jnp.log(high))
    root: optx.Solution = optx.root_find(
        gap, solver, 0.5 * (jnp.log(low) + jnp.log(high)), options=options, max_steps=200, throw=False
    )
    V = jnp.exp(root.value)
    return jax.jvp(lambda v: stationary_error(limit, v), (V,), (jnp.ones_like(V),))


def fixed_point(problem: Problem, *, solution: Solution | None = None, classes: int = 512) -> FixedPoint:
    """Fixed point of the limit of a problem.

    Parameters
    ----------
    problem : Problem
    solution : Solution, optional
        A solution of the problem: with it, a minimum of the curve below the fixed point is reported.
    classes : int
        Number of teacher classes of a Gaussian or measured teacher.

    Raises
    ------
    ValueError
        If lr is above its ceiling; or for the clipped straight-through estimator: its range ends absorb, so
        that what remains depends on the start and on how long one waits.
    """
    if problem.ste == "clipped" and (
        problem.latent_clip is None or problem.latent_clip > problem.weights.range
    ):
        raise ValueError(
            "weights.ste: expected 'identity' for a fixed point, found 'clipped', whose range ends absorb so that the "
            "final error depends on the start; use predict with a long tau instead."
        )
    final = float(problem.rule.rate(jnp.inf))
    if not 0 < final < np.inf:
        raise ValueError(
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
    a, b, _, _ = limit.coefficients(limit.rho, jnp.inf)
    ceiling = None
    if linear:  # S = D / (2 b): the error reproduces itself once lr k2 = 2
        far = 1e7 * limit.rho  # where rounding no longer matters, and a bounded rule does not grow
        slope = float(jax.jvp(lambda v: stationary_error(limit, v), (far,), (jnp.ones(()),))[1])
        ceiling = final / slope if np.isfinite(slope) else 2 / k2
        ceiling = None if slope < 1e-3 * final else ceiling
    saturated = 0.0
    if problem.weights.n_levels:
        pull = np.asarray(a * limit.teacher)
        lowest, highest = (np.asarray(b * limit.levels[k]) for k in (0, -1))
        beyond = (pull >= highest * (1 - 1e-12)) | (pull <= lowest * (1 - 1e-12))
        saturated = float(np.asarray(limit.share) @ beyond)
    if not found:
        raise ValueError(
            f"rule.lr: expected a rate below its ceiling {ceiling:.6g}, found {float(problem.rule.rate(jnp.inf)):g}, "
            "with which the error grows without bound and there is no fixed point; lower it."
        )
    error, slope = found[-1]
    code = VANISHING if error < 1e-12 * float(limit.rho) else STABLE if slope < 1 else UNSTABLE
    reference = base[-1][0] if base else None
    lowest: tuple[float, float] | None = None if solution is None else solution.minimum
    return FixedPoint(
        error=error,
        excess=None if reference is None else error - reference,
        unquantized_error=reference,
        saturated_fraction=saturated,
        slope=slope,
        stable=bool(slope < 1),
        lr_ceiling=ceiling,
        others=tuple(other for other, _ in found[:-1]),
        minimum=lowest if lowest is not None and lowest[1] < error else None,
        code=code,
    )


def _roots(limit: Limit) -> list[tuple[float, float]]:
    """``(error, slope)`` of all fixed points, in increasing order of the error."""
    noise, rho = float(limit.noise_var), float(limit.rho)
    low = max(0.999 * (noise + float(limit.floor)), 1e-10 * rho)
    grid = np.geomspace(low, 1e6 * (noise + rho), SCAN)
    gap = noise + np.asarray(_scan(limit, jnp.asarray(grid))) - grid
    found = []
    if gap[0] < 0:  # only without noise: the error shrinks below all bounds
        found.append((0.0, float(1 + gap[0] / grid[0])))
    for k in np.flatnonzero(gap[:-1] * gap[1:] <= 0):
        error, slope = _refine(limit, jnp.asarray(grid[k]), jnp.asarray(grid[k + 1]))
        found.append((float(error), float(slope)))
    return found
