r"""The stationary law of the limit at a residual variance, and the variances that reproduce themselves.

For the identity straight-through estimator the stationary density of a class is

    ``p_c(w) ~ exp( (2/D) (a c w - b Psi(w) - lr weight_decay w^2 / 2) )``,  ``Psi' = psi``,

and the residual variance of a fixed point solves ``V = noise_std^2 + error(V)`` (``docs/theory.md``, section 6).
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float

from ..problem.problem import Problem
from ..quantizers.padded import padded
from .limit import Limit, derive

#: Every piece of a stationary density is integrated down to exp(-DEPTH) of its maximum.
DEPTH, NODES = 32.0, 40
_X, _W = np.polynomial.legendre.leggauss(NODES)
#: Residual variances at which the equation is evaluated to find its largest root.
SCAN = 60
#: Below this no coefficient is known any more: floats underflow, and nothing moves.
TINY = 1e-290
#: Classes of a teacher.
CLASSES = 256


def stationary_error(limit: Limit, V) -> Float[Array, ""]:
    """Error of the stationary law at residual variance ``V``: the right-hand side of the fixed point."""
    rule, pieces = limit.rule, limit.pieces
    a, b, D, _ = limit.coefficients(limit.order_at(V), jnp.inf)
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
    intercept, bend = force - b * pieces.first[:, 0], b * pieces.first[:, 1]
    slope = bend + decay
    # the potential at the breaks but for that of the decay, which is far larger, and where each piece has its maximum
    finite_low, finite_high = jnp.where(jnp.isfinite(low), low, 0.0), jnp.where(jnp.isfinite(high), high, 0.0)
    inner = intercept * (finite_high - finite_low) - 0.5 * bend * (finite_high**2 - finite_low**2)
    at_low = jnp.concatenate([-inner[:1], jnp.zeros(1), jnp.cumsum(inner[1:-1])])[: low.size]
    at_high = jnp.append(at_low[1:], at_low[-1] + inner[-1])
    curved = slope > 0
    top = jnp.where(curved, intercept / jnp.where(curved, slope, 1.0), jnp.sign(intercept) * jnp.inf)
    flat = ~curved & (jnp.abs(intercept) <= 1e-12 * (jnp.abs(force) + jnp.abs(b * pieces.first[:, 0])))
    top = jnp.where(flat, jnp.where(jnp.isfinite(low), low, finite_high), top)
    # on an unbounded outermost piece that does not pull back the weights leave for good
    endless = ~(jnp.isfinite(low) & jnp.isfinite(high))
    escapes = ~jnp.isfinite(jnp.clip(top, low, high)) | (flat & endless)
    at = jnp.where(escapes, 0.0, jnp.clip(top, low, high))
    # positions are taken from the nearer end: a density can be thinner than the digits of a threshold
    upper = high - at < at - low
    anchor, height = jnp.where(upper, finite_high, finite_low), jnp.where(upper, at_high, at_low)
    if low.size == 1:
        anchor, height = jnp.zeros(1), jnp.zeros(1)
    force_at = intercept - slope * at
    # beyond the reach is nothing, so that its own change does not count (and has no derivative on a flat piece)
    reach = jax.lax.stop_gradient(_reach(beta * jnp.abs(force_at), beta * slope))
    start, stop = (
        jnp.maximum(low - anchor, at - anchor - reach),
        jnp.minimum(high - anchor, at - anchor + reach),
    )
    half = jnp.where(escapes, 0.0, 0.5 * jnp.clip(stop - start, 0.0, None))
    away = jnp.where(escapes, 0.0, 0.5 * (start + stop))[:, None] + half[:, None] * _X
    w = anchor[:, None] + away
    free = height[:, None] + away * (intercept - bend * anchor)[:, None] - 0.5 * bend[:, None] * away**2
    log = beta * (free - 0.5 * decay * w**2)
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


def scan(limit: Limit, points: int = SCAN) -> tuple[Float[Array, " V"], Float[Array, " V"], Float[Array, ""]]:
    """Residual variances in geometric steps, ``noise_std^2 + error(V) - V`` there, and the first where weights move.

    No root lies outside: they reach from the least to the largest error that the weights can have. Only without
    noise and such a least error they start at ``1e-10`` of `Limit.scale`, and for an unbounded
    ``psi`` they end at ``1e6 (noise_std^2 + scale)``. A rule that rounds may stop at small ``V``: from the first one at
    which its coefficients do not underflow, the sign of the gap is continued to all smaller ones.
    """
    low = jnp.maximum(0.999 * (limit.noise_var + limit.floor), 1e-10 * limit.scale)
    bounded = 1.001 * (limit.noise_var + limit.ceiling)
    high = jnp.where(jnp.isfinite(bounded), bounded, 1e6 * (limit.noise_var + limit.scale))
    grid = jnp.exp(jnp.linspace(jnp.log(low), jnp.log(high), points))

    def gap(V):
        _, b, D, _ = limit.coefficients(limit.order_at(V), jnp.inf)
        return limit.noise_var + stationary_error(limit, V) - V, jnp.minimum(jnp.min(b), jnp.min(D)) > TINY

    gaps, moves = jax.lax.map(gap, grid)
    first = jnp.where(jnp.any(moves), jnp.argmax(moves), points - 1)
    sign = jnp.where(moves[first], jnp.sign(gaps[first]), -1.0)
    return grid, jnp.where(moves, gaps, sign * grid), grid[first]


def root(limit: Limit, low, high) -> Float[Array, ""]:
    """The residual variance between two values at which the equation changes its sign; differentiable.

    The derivative is that of one Newton step, ``dV = d error / (1 - d error/dV)``: infinite where two roots meet.
    """

    def gap(log_V, limit):
        V = jnp.exp(log_V)
        return (limit.noise_var + stationary_error(limit, V)) / V - 1

    # the solver is given a gap that falls: detecting that, it would raise where there is no root
    solver: optx.Bisection = optx.Bisection(rtol=1e-13, atol=1e-13, flip=True)  # type: ignore[call-arg]
    still = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, limit)
    low, high = jax.lax.stop_gradient((jnp.log(low), jnp.log(high)))
    ends = jax.lax.map(lambda log_V: gap(log_V, still), jnp.stack([low, high]))
    sign = jnp.where(ends[0] >= ends[1], 1.0, -1.0)
    found: optx.Solution = optx.root_find(
        lambda log_V, limit: sign * gap(log_V, limit),
        solver,
        0.5 * (low + high),
        still,
        options=dict(lower=low, upper=high),
        max_steps=200,
        throw=False,
    )
    at = jax.lax.stop_gradient(found.value)
    value, slope = jax.jvp(lambda log_V: gap(log_V, still), (at,), (jnp.ones_like(at),))
    # the step itself is left out: the bisection is exact to rounding
    return jnp.exp(at - (gap(at, limit) - value) / slope)


def largest_error(limit: Limit) -> Float[Array, ""]:
    """Error of the fixed point with the largest error, 0 if it vanishes and infinite if there is none.

    It can be traced, mapped over problems and differentiated. Where the weights stop moving before the error
    vanishes, it is the error at which they do.
    """
    grid, gap, moving = jax.lax.stop_gradient(scan(limit))
    crosses = gap[:-1] * gap[1:] <= 0
    k = SCAN - 2 - jnp.argmax(crosses[::-1])
    found = stationary_error(limit, root(limit, grid[k], grid[k + 1]))  # V minus large noise has no digits
    stops = jnp.where(moving > grid[0], moving - limit.noise_var, 0.0)
    return jnp.where(jnp.any(crosses), found, jnp.where(gap[0] < 0, stops, jnp.inf))


def has_fixed_point(problem: Problem, any_range: bool = False) -> bool:
    """Whether the end of the curve is a fixed point (see `stedyn.fixed_point` for what has none).

    With ``any_range``, for every range of the weights.
    """
    if (
        problem.channels is not None or problem.range_rule is not None or problem.means == "kept"
    ):  # not implemented
        return False
    absorbs = problem.surrogate.ends if any_range else problem.absorbs
    return not (absorbs or problem.surrogate.smooth) and 0 < float(problem.rule.rate(jnp.inf)) < np.inf


def final_error(problem: Problem, coarse=False, shared=False) -> float:
    """`largest_error` of a problem that has a fixed point; ``shared`` with other bits is its program, and slower."""
    timeless = problem.timeless
    return float(_largest(padded(timeless) if shared else timeless, jnp.asarray(coarse)))


@eqx.filter_jit
def _largest(problem: Problem, coarse):
    alike = problem.covariance.kind == "identity"
    return largest_error(derive(problem, CLASSES if alike else CLASSES // 4, coarse))
