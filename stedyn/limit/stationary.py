r"""The stationary law of the limit at a residual variance, and the variances that reproduce themselves.

For the identity straight-through estimator the stationary density of a class is

    ``p_c(w) ~ exp( (2/D) (a c w - b Psi(w) - lr weight_decay w^2 / 2) )``,  ``Psi' = psi``,

and the residual variance of a fixed point solves ``V = noise_std^2 + error(V)`` (``docs/theory.md``, section 6).
Inputs with a mean drive every weight at ``mean push`` besides, and ``push`` is found with the density at every ``V``
(``docs/inputs.md``).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import is_traced
from ..code.compiling import Program, soon
from ..problem.problem import Problem
from ..quantizers.padded import padded
from .averages import Averages, class_averages, level_averages
from .limit import Limit, derived

#: Residual variances at which the equation is evaluated to find its largest root.
SCAN = 60
#: Below this no coefficient is known any more: floats underflow, and nothing moves.
TINY = 1e-290
#: Most steps to the common drift that holds the mean outputs together; kappa up to which its formula is evaluated.
PUSHES, NEAR_TWO = 100, 2 - 1e-6
#: Classes of a teacher.
CLASSES = 256


class Stationary(NamedTuple):
    """The stationary law at a residual variance: what it costs, and how the mean outputs are held together.

    ``error`` is the generalization error, ``mean_mode`` the part of it that the mean output costs, ``kappa`` how
    strongly that is pulled back and ``push`` the drift, over ``mean``, that holds it (all 0 for inputs without a mean).
    """

    error: Float[Array, ""]
    mean_mode: Float[Array, ""]
    kappa: Float[Array, ""]
    push: Float[Array, ""]


def stationary_error(limit: Limit, V, plain=False, still=False) -> Float[Array, ""]:
    """Error of the stationary law at residual variance ``V``: the right-hand side of the fixed point."""
    return stationary(limit, V, plain, still).error


def stationary(limit: Limit, V, plain=False, still=False) -> Stationary:
    """The stationary law at residual variance ``V``; an infinite error where no push makes the mean outputs agree.

    ``plain`` says that `is_plain` holds, so that all integrals are closed forms; ``still`` has no derivative.
    """
    zero = jnp.zeros(())
    if not limit.has_mean:
        averages = _averages(limit, V, zero, plain)
        return Stationary(limit.error(averages.psi, averages.square), zero, zero, zero)
    push, agree = _push(limit, V, plain, still)
    averages = _averages(limit, V, push, plain)
    share, mean, B = limit.share, limit.mean, limit.rule.batch
    kappa = limit.shift(jnp.inf) * (share * mean**2) @ averages.crossing
    centred = limit.error(averages.psi, averages.square) + (limit.weight * mean**2) @ averages.drawn
    held = jnp.minimum(kappa, NEAR_TWO)  # beyond 2 no mean output is stationary, and V has to be larger
    mode = (limit.noise_var + centred) * held / (B * (2 - held))
    return Stationary(jnp.where(agree, centred + mode, jnp.inf), mode, kappa, push)


def _averages(limit: Limit, V, push, plain) -> Averages:
    rule, pieces = limit.rule, limit.pieces
    a, b, D, _ = limit.coefficients(limit.order_at(V), jnp.inf)
    force = a * limit.teacher
    if limit.has_mean:
        force = force + push * limit.mean
    if plain:
        return jax.vmap(lambda force, b, D: level_averages(limit.levels, pieces.breaks, force, b, 2 / D))(
            force, b, D
        )
    decay = rule.rate(jnp.inf) * rule.weight_decay
    edge = jnp.full(1, jnp.inf)
    breaks = pieces.breaks
    if limit.latent_clip is not None:
        breaks = jnp.clip(breaks, -limit.latent_clip, limit.latent_clip)
        edge = limit.latent_clip[None]
    low, high = jnp.concatenate([-edge, breaks]), jnp.concatenate([breaks, edge])

    def moments(force, b, D):
        return class_averages(pieces, force, b, decay, 2 / D, low, high)

    return jax.vmap(moments)(force, b, D)


def _push(limit: Limit, V, plain, no_derivative):
    """The drift, over ``mean``, with which the mean outputs agree, and whether there is one; differentiable.

    The mean output rises with it: Newton steps, or half the interval where one leads out of it.
    """
    still, still_V = limit.still, jax.lax.stop_gradient(V)
    levers = still.share * still.unit * still.mean
    a, b, _, _ = still.coefficients(still.order_at(still_V), jnp.inf)
    each = levers * still.mean / (b + still.decay(jnp.inf) * (still.levels.size == 0))
    start = (still.target - jnp.sum(each * a * still.teacher / still.mean)) / jnp.sum(each)
    width = jnp.abs(still.target / jnp.sum(each)) + jnp.sqrt(still.scale / jnp.max(still.mean**2))
    small = 1e-12 * (jnp.abs(still.target) + jnp.abs(levers) @ jnp.abs(still.teacher) + 1e-290)
    possible = jnp.asarray(True)
    if still.levels.size:
        ends = levers[:, None] * still.levels[jnp.array([0, -1])]
        possible = (jnp.sum(jnp.min(ends, 1)) < still.target) & (still.target < jnp.sum(jnp.max(ends, 1)))

    def step(state):
        count, push, low, high, _, _ = state
        averages = _averages(still, still_V, push, plain)
        gap, slope = levers @ averages.psi - still.target, (levers * still.mean) @ averages.rise
        low, high = jnp.where(gap < 0, push, low), jnp.where(gap > 0, push, high)
        newton, far = push - gap / jnp.maximum(slope, 1e-300), push - jnp.sign(gap) * width * 2.0**count
        between = jnp.where(jnp.isfinite(low) & jnp.isfinite(high), 0.5 * (low + high), far)
        inside = (newton > low) & (newton < high) & (jnp.abs(newton - push) <= jnp.abs(far - push))
        done = jnp.abs(gap) <= small
        return count + 1, jnp.where(done, push, jnp.where(inside, newton, between)), low, high, slope, done

    def going(state):
        return ~state[-1] & (state[0] < PUSHES) & possible

    one = jnp.ones(())
    first = 0 * one, start, -jnp.inf * one, jnp.inf * one, one, jnp.asarray(False)
    _, push, _, _, slope, agree = jax.lax.while_loop(going, step, first)
    if no_derivative:
        return push, agree
    # one more Newton step, which has the derivatives of the constraint
    gap = (limit.share * limit.unit * limit.mean) @ _averages(limit, V, push, plain).psi - limit.target
    return push - jnp.where(agree, gap, 0.0) / jnp.where(slope > 0, slope, 1.0), agree


def scan(
    limit: Limit, points: int = SCAN, plain=False
) -> tuple[Float[Array, " V"], Float[Array, " V"], Float[Array, ""]]:
    """Residual variances in geometric steps, ``noise_std^2 + error(V) - V`` there, and the first where weights move.

    No root lies outside: they reach from the least to the largest error that the weights can have. Only without
    noise and such a least error they start at ``1e-10`` of `Limit.scale`, and for an unbounded
    ``psi`` they end at ``1e6 (noise_std^2 + scale)``. A rule that rounds may stop at small ``V``: from the first one at
    which its coefficients do not underflow, the sign of the gap is continued to all smaller ones.
    """
    low = jnp.maximum(0.999 * (limit.noise_var + limit.floor), 1e-10 * limit.scale)
    bounded = 1.001 * (limit.noise_var + _ceiling(limit))
    high = jnp.where(jnp.isfinite(bounded), bounded, 1e6 * (limit.noise_var + limit.scale))
    grid = jnp.exp(jnp.linspace(jnp.log(low), jnp.log(high), points))

    def gap(V):
        _, b, D, _ = limit.coefficients(limit.order_at(V), jnp.inf)
        return limit.noise_var + stationary_error(limit, V, plain, still=True) - V, jnp.minimum(
            jnp.min(b), jnp.min(D)
        ) > TINY

    gaps, moves = jax.lax.map(gap, grid)
    first = jnp.where(jnp.any(moves), jnp.argmax(moves), points - 1)
    sign = jnp.where(moves[first], jnp.sign(gaps[first]), -1.0)
    return grid, jnp.where(moves, gaps, sign * grid), grid[first]


def _ceiling(limit: Limit) -> Float[Array, ""]:
    """An upper bound of the stationary error.

    With a mean ``kappa <= 2 B s / V + decay lr mean^2 / b``, where ``s`` is the average of ``mean^2 Var psi``.
    """
    if not limit.has_mean or not limit.levels.size:
        return limit.ceiling
    spread = limit.rule.batch * (limit.weight @ limit.mean**2) * (limit.levels[-1] - limit.levels[0]) ** 2 / 4
    decayed = limit.rule.weight_decay * limit.shift(jnp.inf) * jnp.max(limit.mean**2 / limit.k2)
    return 2 * (limit.noise_var + limit.ceiling + spread) / (2 - jnp.minimum(decayed, 1.9))


def root(limit: Limit, low, high, plain=False) -> Float[Array, ""]:
    """The residual variance between two values at which the equation changes its sign; differentiable.

    The derivative is that of one Newton step, ``dV = d error / (1 - d error/dV)``: infinite where two roots meet.
    """

    def gap(log_V, limit):
        return _gap(limit, log_V, plain)

    still = limit.still
    ends = jax.lax.stop_gradient(jnp.log(jnp.stack([low, high])))
    gaps = jax.lax.map(lambda log_V: gap(log_V, still), ends)
    at = jax.lax.stop_gradient(_crossing(lambda log_V: gap(log_V, still), ends, gaps))
    value, slope = jax.jvp(lambda log_V: gap(log_V, still), (at,), (jnp.ones_like(at),))
    # the step itself is left out: the bisection is exact to rounding
    return jnp.exp(at - (gap(at, limit) - value) / slope)


def _gap(limit: Limit, log_V, plain, still=False):
    """By which part of it the residual variance at a stationary law differs from that which the law was made for."""
    V = jnp.exp(log_V)
    return (limit.noise_var + stationary_error(limit, V, plain, still)) / V - 1


def _crossing(f, ends, values):
    """Where a function with these ``values`` at both ``ends`` changes its sign: false position (Illinois).

    Every third step is a bisection.
    """

    def step(state):
        count, low, high, f_low, f_high, _, side, _ = state
        gap = f_high - f_low
        secant = (low * f_high - high * f_low) / jnp.where(gap == 0, 1.0, gap)
        inside = (gap != 0) & (secant > low) & (secant < high) & (count % 3 < 2)
        at = jnp.where(inside, secant, 0.5 * (low + high))
        value = f(at)
        now = jnp.where(jnp.sign(value) == jnp.sign(f_low), 1, -1)  # which end it replaces
        again = jnp.where(now == side, 0.5, 1.0)  # of the other end
        low, f_low = jnp.where(now > 0, at, low), jnp.where(now > 0, value, f_low * again)
        high, f_high = jnp.where(now > 0, high, at), jnp.where(now > 0, f_high * again, value)
        return count + 1, low, high, f_low, f_high, at, now, jnp.abs(value)

    def going(state):
        count, low, high, *_, size = state
        return (high - low > 1e-13) & (size > 1e-15) & (count < 200)

    nearer = jnp.where(jnp.abs(values[0]) < jnp.abs(values[1]), ends[0], ends[1])
    first = 0, ends[0], ends[1], values[0], values[1], nearer, 0, jnp.min(jnp.abs(values))
    return jax.lax.while_loop(going, step, first)[5]


def largest_error(limit: Limit, plain=False, still=False) -> Float[Array, ""]:
    """Error of the fixed point with the largest error, 0 if it vanishes and infinite if there is none.

    It can be traced, mapped over problems and differentiated; not so a ``still`` one, which compiles in half
    the time. Where the weights stop moving before the error vanishes, it is the error at which they do.
    """
    grid, gap, moving = jax.lax.stop_gradient(scan(limit, SCAN, plain))
    crosses = gap[:-1] * gap[1:] <= 0
    k = SCAN - 2 - jnp.argmax(crosses[::-1])
    low, high = grid[k], grid[k + 1]
    if still:
        ends, values = jnp.log(jnp.stack([low, high])), jnp.stack([gap[k] / low, gap[k + 1] / high])
        V = jnp.exp(_crossing(lambda log_V: _gap(limit, log_V, plain, still), ends, values))
    else:
        V = root(limit, low, high, plain)
    found = stationary_error(limit, V, plain, still)  # V minus large noise has no digits
    stops = jnp.where(moving > grid[0], moving - limit.noise_var, 0.0)
    return jnp.where(jnp.any(crosses), found, jnp.where(gap[0] < 0, stops, jnp.inf))


def has_fixed_point(problem: Problem, any_range: bool = False) -> bool:
    """Whether the end of the curve is a fixed point (see `stedyn.fixed_point` for what has none).

    With ``any_range``, for every range of the weights.
    """
    if problem.channels is not None or problem.range_rule is not None:  # not implemented
        return False
    if problem.means == "kept" and (problem.rule.shift(0.0) is None or problem.latent_clip is not None):
        return False
    absorbs = problem.surrogate.ends if any_range else problem.absorbs
    return not (absorbs or problem.surrogate.smooth) and 0 < float(problem.rule.rate(jnp.inf)) < np.inf


def final_error(problem: Problem, coarse=False, shared=False, often=False) -> float:
    """`largest_error` of a problem that has a fixed point.

    ``shared`` with other bits is its program, and slower; ``often``, it is compiled longer to run in half the time.
    """
    timeless = problem.timeless
    alike = problem.covariance.kind == "identity"
    timeless = padded(timeless) if shared else timeless
    limit = derived(timeless, CLASSES if alike else CLASSES // 4, jnp.asarray(coarse))
    return float((_largest_often if often else _largest)(limit, not shared and is_plain(problem)))


def is_plain(problem: Problem) -> bool:
    """Whether stationary densities are one exponential on each level: nearest rounding, no decay, no latent clip."""
    decay, weights = problem.rule.weight_decay, problem.weights
    still = not is_traced(decay) and bool(np.all(np.asarray(decay) == 0))
    return still and weights.n_levels > 1 and weights.rounding == "nearest" and problem.latent_clip is None


_still = functools.partial(largest_error, still=True)
_largest, _largest_often = soon(_still), Program(_still)
