r"""The ``fluid`` law: the leading order of a small learning rate at fixed ``lr tau``, in closed form.

Without diffusion a latent weight follows ``dw/dtau = a c - b psi(w) - lr weight_decay w``. On every
piece of ``psi`` the path is linear or exponential; at a threshold where the drift changes sign the weight
stays and its level chatters, so that the mean of ``psi`` is the value at which the drift vanishes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...checks import InputError
from ...code.compiling import Program
from ...curves.dense import Steps
from ...problem.problem import Problem
from ...quantizers.pieces import Pieces
from ..limit import Limit, derive
from ..solution import UNESTIMATED
from .law import Asked, Solved

#: Start and teacher classes.
STARTS, CLASSES = 400, 32
#: Times at which plateaus are looked for, and blocks of them.
TIMES, BLOCKS = 400, 8


def observe_paths(limit: Limit, taus: Float[Array, " T"], starts: int) -> dict[str, Array]:
    """Order parameters of the noiseless paths at ``taus``.

    The coefficients ``a, b`` are taken at ``tau = 0``: `check_drift` admits only rules for which they depend
    neither on the residual variance nor on ``tau``.
    """
    share, start, _ = limit.start.classes(starts)
    a, b, _, _ = (x[:, None] for x in limit.coefficients(limit.order(limit.power), 0.0))
    decay = limit.decay(0.0)
    c = limit.teacher[:, None]
    if limit.latent_clip is not None:
        start = jnp.clip(start, -limit.latent_clip, limit.latent_clip)
    start = jnp.broadcast_to(start, (c.shape[0], start.shape[1]))
    pieces, moves = _pieces(limit)
    flipped = Pieces(-pieces.breaks[::-1], pieces.first[::-1] * _ODD, pieces.second[::-1] * _EVEN)
    up = _rise(pieces, moves, a * c, b, decay, start, taus)
    down = _rise(flipped, moves[::-1], -a * c, b, decay, -start, taus)
    rises = (_velocity(pieces, moves, a * c, b, decay, start) >= 0)[..., None]
    w, psi, square = (
        jnp.where(rises, above, sign * below)
        for above, below, sign in zip(up, down, (-1, -1, 1), strict=True)
    )

    def average(x):
        """Over the starts: (C, T)."""
        return jnp.sum(x * share[..., None], axis=1)

    psi, square = average(psi), average(square)
    rounded = {}
    if limit.ptq is not None:
        piece = jnp.searchsorted(limit.ptq.breaks, w, side="right")
        first, second = limit.ptq.first[piece], limit.ptq.second[piece]
        each = first[..., 0] + first[..., 1] * w, second[..., 0] + second[..., 1] * w + second[..., 2] * w**2
        rounded["ptq_error"] = limit.error(*map(average, each))
    return rounded | dict(
        error=limit.error(psi, square),
        m=(limit.share * limit.teacher) @ psi,
        q=limit.share @ square,
        overlap=(limit.share * limit.teacher) @ average(w),
        norm=limit.share @ average(w**2),
        effective_step=jnp.full(taus.shape, 1.0) * limit.effective_step(limit.order(limit.power), 0.0),
        **limit.observables(psi, square),
    )


_ODD = np.array([-1.0, 1.0])
_EVEN = np.array([1.0, -1.0, 1.0])


def _pieces(limit: Limit) -> tuple[Pieces, Float[Array, " K"]]:
    """Pieces split where the motion stops (range ends of the clipped estimator, walls), and a mask."""
    pieces = limit.pieces
    stops = [x for x in (limit.surrogate.end, limit.latent_clip) if x is not None]
    if not stops:
        return pieces, jnp.ones(pieces.first.shape[0])
    end = jnp.min(jnp.stack(stops))
    breaks = jnp.sort(jnp.concatenate([pieces.breaks, jnp.stack([-end, end])]))
    probe = jnp.concatenate([breaks[:1] - 1, 0.5 * (breaks[1:] + breaks[:-1]), breaks[-1:] + 1])
    piece = jnp.searchsorted(pieces.breaks, probe, side="right")
    return Pieces(breaks, pieces.first[piece], pieces.second[piece]), (jnp.abs(probe) < end) * 1.0


def _velocity(pieces: Pieces, moves, force, b, decay, w):
    k = jnp.searchsorted(pieces.breaks, w, side="right")
    return moves[k] * (force - b * (pieces.first[k, 0] + pieces.first[k, 1] * w) - decay * w)


def _rise(pieces: Pieces, moves, force, b, decay, start, taus):
    """Paths of the weights that move up: ``w, E[psi], E[psi^2]``, each (C, J, T)."""
    home = jnp.searchsorted(pieces.breaks, start, side="right")
    edges = jnp.append(pieces.breaks, jnp.inf)
    below = (
        jnp.concatenate([pieces.first[:1], pieces.first[:-1]]),
        jnp.concatenate([pieces.second[:1], pieces.second[:-1]]),
    )

    def piece(carry, k):
        w, now, stuck, out = carry
        value, square, edge, free = k["first"], k["second"], k["edge"], k["moves"]
        slope = b * value[1] + decay
        speed = free * (force - b * value[0] - slope * w)
        active = (k["index"] >= home) & ~stuck
        halts = active & (speed <= 0) & (k["index"] > home)
        # where it halts, the mean of psi is what makes the drift vanish, if it lies between the sides
        left, right = k["left"][0] + k["left"][1] * w, value[0] + value[1] * w
        part = jnp.clip(
            (force - decay * w - b * left) / jnp.where(right > left, b * (right - left), 1.0), 0, 1
        )
        part = jnp.where(free > 0, part, 1.0)
        halted = (
            w,
            left + part * (right - left),
            (1 - part) * _square(k["left2"], w) + part * _square(square, w),
        )
        moving = active & ~halts & ((speed > 0) | (k["index"] == home))
        safe = jnp.where(speed > 0, speed, 1.0)
        gap = jnp.where(jnp.isfinite(edge), edge - w, jnp.inf) / safe
        travel = jnp.where(slope * gap < 1, -jnp.log1p(-jnp.minimum(slope * gap, 0.999999)) / slope, jnp.inf)
        travel = jnp.where(slope > 0, travel, gap)
        travel = jnp.where(speed > 0, travel, jnp.inf)
        until = now + travel
        spent = jnp.clip(taus - now[..., None], 0.0, None)
        pace = slope[..., None]
        path = w[..., None] + speed[..., None] * jnp.where(
            pace > 0, -jnp.expm1(-pace * spent) / jnp.where(pace > 0, pace, 1.0), spent
        )
        here = (path, value[0] + value[1] * path, _square(square, path))
        during = moving[..., None] & (taus >= now[..., None]) & (taus < until[..., None])
        after = halts[..., None] & (taus >= now[..., None])
        out = tuple(
            jnp.where(during, run, jnp.where(after, rest[..., None], old))
            for run, rest, old in zip(here, halted, out, strict=True)
        )
        arrives = moving & jnp.isfinite(until)
        return (
            jnp.where(arrives, edge, w),
            jnp.where(arrives, until, now),
            stuck | halts | (moving & ~arrives),
            out,
        ), None

    blank = jnp.zeros((*start.shape, taus.size))
    carry = (start, jnp.zeros_like(start), jnp.zeros(start.shape, bool), (blank, blank, blank))
    table = dict(
        first=pieces.first,
        second=pieces.second,
        left=below[0],
        left2=below[1],
        edge=edges,
        moves=moves,
        index=jnp.arange(edges.size),
    )
    return jax.lax.scan(piece, carry, table)[0][3]


def _square(coefficients, w):
    return coefficients[0] + coefficients[1] * w + coefficients[2] * w**2


@Program
def _pass(problem, taus, classes):
    return observe_paths(derive(problem, classes), taus, STARTS)


@Program
def _steps(problem, horizon, classes) -> Steps:
    """The error at even times, a block of them at once."""
    tau, limit = jnp.linspace(0.0, horizon, TIMES), derive(problem, classes)
    blocks = tau.reshape(BLOCKS, -1)
    error = jax.lax.map(lambda taus: observe_paths(limit, taus, STARTS)["error"], blocks)
    return Steps(tau, error.ravel())


def check_drift(problem: Problem, horizon) -> None:
    """Refuse a rule whose drift depends on the residual or on time."""
    limit = derive(problem, 2)
    where = [(1.0, 0.0), (2.0, 0.0), (1.0, horizon)]
    ab = np.array([limit.coefficients(limit.order_at(V), tau)[:2] for V, tau in where])
    if np.any(np.abs(ab - ab[0]) > 1e-9 * np.abs(ab[0])):
        raise InputError(
            f"law: expected 'grid' or 'mixture' for the rule {problem.rule.kind!r}, found 'fluid', which needs a "
            "drift that depends neither on the residual nor on time."
        )


def fluid_curves(problem: Problem, asked: Asked) -> Solved:
    """Curves of the law, without an estimate of their error."""
    classes = CLASSES if asked.classes is None else asked.classes
    taus = asked.legs[0].taus
    curves = _pass(problem, taus, classes)
    counts = dict(classes=classes, starts=STARTS, samples=STARTS, passes=1)
    path = _steps(problem, taus[-1], classes)
    return Solved(curves, counts, None, (path,), None, jnp.asarray(UNESTIMATED))
