r"""A running sum of gradients, rounded to the nearest point of a lattice: a linear solve on a line of the buffer.

With ``v <- beta v + g`` a move is ``U = delta round(part v / delta)``. It answers to all gradients that are remembered,
and moves of neighbouring steps are alike (``docs/optimizers.md``),

    ``a = sum_k E[r_(t-k) x_(t-k) U_t] / V``, ``b = sum_k E[r_(t-k) phi_(t-k) U_t] / V``, ``D = sum_k E[U_t U_(t+k)]``.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ..checks import fail, is_traced
from ..inputs.moments import InputMoments
from .momentum import log_transform, mean_size
from .nodes import batch_nodes
from .response import Coefficients, Order
from .tables import Table

#: Points of the line on either side of 0, where it ends in standard deviations of the buffer, thresholds on it.
POINTS, REACH, THRESHOLDS = 512, 10.0, 64
#: Standard deviations of the buffer, in lattice steps, between which moves are tabulated; beyond, rounding adds 1/12.
LOWEST, HIGHEST = 0.02, 6.0
#: Largest ``beta`` of the limit: the line has to resolve single gradients beside the buffer.
LARGEST_BETA = 0.995
_FINE = 8  # parts of a step of the line at which the tail of a gradient is known


def check_forgets(name: str, beta) -> None:
    """Refuse a memory that is too long for the line."""
    if not is_traced(beta) and np.any(np.asarray(beta) > LARGEST_BETA):
        fail(name, f"at most {LARGEST_BETA} for the limit of rounded moves", beta, "lower it, or simulate")


class Moments(NamedTuple):
    """Of moves in lattice steps, at some scales: ``a`` and ``b`` over ``part``, ``D`` and ``E|U|``, each (K,)."""

    teacher: Array
    own: Array
    square: Array
    size: Array


class RoundedBuffer(eqx.Module):
    """Coefficients of a rounded buffer for all scales, for inputs and a ``beta``; 1e-4 of a move is the accuracy.

    With ``V = 1``, ``f`` the density of the law of a gradient ``g`` and ``P F(v) = E F(beta v + g)``, the buffer has a
    stationary density ``p``. Half a move comes from each threshold ``t`` on one side of 0, so that

        ``sum_k E[r_(t-k) phi_(t-k) round(v)] = 2 sum_t y(t)``,   ``(1 - beta P*) y = int p(u) f_phi(v - beta u) du``,

    ``f_phi`` with ``phi^2`` in the average over inputs, ``x phi`` for ``a``. And ``D = E[U^2] + 2 E[U H(v)]``, where
    ``(1 - P) H(v) = E round(beta v + g)``. On the line functions are interpolated, integrals over gradients exact.
    """

    table: Table
    smooth: Moments
    spread: Float[Array, ""]

    def __init__(self, beta, batch: int, inputs: InputMoments):
        if inputs.levels is None:  # the same for all variances
            self.spread = inputs.std / jnp.sqrt(batch * (1 - beta**2))
            unit = jnp.ones(())
            inputs = inputs._replace(k1=unit, k2=unit, std=unit)
            factor = self.spread * jnp.sqrt(batch * (1 - beta**2))
        else:
            self.spread, factor = jnp.sqrt(inputs.k2 / (batch * (1 - beta**2))), jnp.ones(())
        own = jnp.sqrt(inputs.k2 / (batch * (1 - beta**2)))

        def transform(t, V):
            return batch * log_transform(t * V / batch**2, inputs)

        size = mean_size(beta, False, 1.0, transform) / own
        every = jnp.stack([inputs.k1, inputs.k2]) / (1 - beta)
        table = Table(lambda s: _moments(beta, batch, inputs, s / own), LOWEST, HIGHEST)
        square = factor**2
        self.smooth = Moments(square * every[0], square * every[1], (1 + beta) / (1 - beta), size)
        scale = Moments(square, square, jnp.ones(()), jnp.ones(()))

        def scaled(values):
            return Moments(*(a * b for a, b in zip(values, scale, strict=True)))

        values, slopes, zero = (scaled(part) for part in (table.values, table.slopes, table.at_zero))
        self.table = eqx.tree_at(lambda t: (t.values, t.slopes, t.at_zero), table, (values, slopes, zero))

    def __call__(self, part, delta, order: Order) -> Coefficients:
        """Coefficients of moves ``delta round(part v / delta)``."""
        V = jnp.maximum(order.V, 0.0)
        s = self.spread * part / delta * jnp.where(V > 0, jnp.sqrt(jnp.where(V > 0, V, 1.0)), 0.0)
        few, many = self.table(s), self.smooth
        many = many._replace(square=many.square * s**2 + 1 / 12, size=many.size * s)
        teacher, own, square, size = (jnp.where(s > HIGHEST, b, a) for a, b in zip(few, many, strict=True))
        return Coefficients(order.gain * part * teacher, part * own, delta**2 * square, delta * size)


def _moments(beta, batch: int, inputs: InputMoments, part: Float[Array, " K"]) -> Moments:
    """`Moments` of ``round(part v)`` for residuals of variance 1."""
    nodes, size = batch_nodes(inputs, batch), POINTS + 1
    step = REACH / POINTS * jnp.sqrt(inputs.k2 / (batch * (1 - beta**2)))
    moving = nodes.norm > 0
    each = jnp.where(moving, nodes.norm, 1.0)
    still = jnp.sum(jnp.where(moving, 0.0, nodes.mass))

    def law(weight):
        """Weights of ``g`` on points of the line, right for cubic functions between them."""
        weight = jnp.where(moving, weight, 0.0)
        y = step * np.arange(2 * size + 2)
        z = y[:, None] / each
        above = (each * norm.pdf(z) - y[:, None] * ndtr(-z)) @ weight
        hats = (_second(above) / step).at[0].add(jnp.sum(weight))  # of E|g - y| / 2
        return hats[: 2 * POINTS + 1] - _second(hats)[: 2 * POINTS + 1] / 12

    mass, own, teacher = (law(weight) for weight in (nodes.mass, nodes.own, nodes.teacher))
    at = _cubic(beta * np.arange(size))
    even, odd = (_moved(mass.at[0].add(still), at, sign) for sign in (1, -1))
    # points on one side of 0 stand for both
    double = step * jnp.where(np.arange(size) > 0, 2.0, 1.0)
    sums_up = (jnp.eye(size) - even.T).at[-1].set(1.0)
    law_of_v = jnp.linalg.solve(sums_up, jnp.zeros(size).at[-1].set(1.0))
    pushed = jnp.stack([law_of_v @ _moved(weight, at, 1) for weight in (teacher, own)], axis=1)
    answer = jnp.linalg.solve(jnp.eye(size) - beta * even.T, pushed) / double[:, None]
    density = law_of_v / double

    number = np.arange(1, THRESHOLDS + 1)
    place = (number - 0.5) / jnp.maximum(part, 1e-30)[:, None] / step
    points, weights = _cubic(place)
    weights = jnp.where(place[..., None] < POINTS, weights, 0.0)

    def at_thresholds(weight):
        """Matrix (N, K) that sums values at all thresholds."""
        column = jnp.arange(part.size)[:, None, None]
        return jnp.zeros((size, part.size)).at[jnp.abs(points), column].add(weights * weight[:, None])

    once = at_thresholds(jnp.ones(THRESHOLDS))
    beyond = _beyond(density[:, None], step)[:, 0]
    x = step * np.arange(size)
    fine = step / _FINE * np.arange(2 * POINTS * _FINE + 1)
    tail = ndtr(-fine[:, None] / each) @ jnp.where(moving, nodes.mass, 0.0)

    def tail_at(y):
        """``P(g > y)``."""
        above = jnp.interp(jnp.abs(y), fine, tail) + 0.5 * still * (y == 0)
        return jnp.where(y < 0, 1 - above, above)

    crossing = tail_at(x - beta * x[:, None]) - tail_at(x + beta * x[:, None])
    later = jnp.linalg.solve(jnp.eye(size) - odd, crossing @ once)
    again = jnp.sum(once * _beyond(density[:, None] * later, step), axis=0)
    square = 2 * beyond @ at_thresholds(2.0 * number - 1) + 4 * again
    for_teacher, for_own = 2 / jnp.maximum(part, 1e-30) * (answer.T @ once)
    return Moments(for_teacher, for_own, square, 2 * beyond @ once)


def _second(f):
    """Second differences of an even function; one point less."""
    return jnp.concatenate([f[1:2], f[:-2]]) - 2 * f[:-1] + f[1:]


def _cubic(place):
    """Points (n, 4) and weights of a cubic at places in steps of the line."""
    k = jnp.clip(jnp.floor(place).astype(int), 0, POINTS - 2)
    t = place - k
    weights = (-t * (t - 1) * (t - 2) / 6, (t + 1) * (t - 1) * (t - 2) / 2,
               -(t + 1) * t * (t - 2) / 2, (t + 1) * t * (t - 1) / 6)  # fmt: skip
    return k[..., None] + np.arange(-1, 3), jnp.stack(weights, -1)


def _moved(law, at, sign: int):
    """Matrix of ``F -> E F(beta v + g)`` for even or odd functions on one side of 0."""
    i = np.arange(POINTS + 1)
    matrix = law[np.abs(i[:, None] - i)] + sign * law[i[:, None] + i] * (i > 0)
    if sign < 0:
        matrix = matrix.at[:, 0].set(0.0)
    points, weights = at
    return jnp.einsum("ik,ikj->ij", weights * jnp.where(points < 0, sign, 1), matrix[jnp.abs(points)])


def _beyond(f: Float[Array, "N K"], step):
    """``int_x^oo f`` at all points: trapezoids with the differences that make them right for cubics."""
    slope = jnp.asarray(jnp.gradient(f, axis=0))
    each = step * (0.5 * (f[1:] + f[:-1]) - (slope[1:] - slope[:-1]) / 12)
    return jnp.pad(jnp.cumsum(each[::-1], axis=0)[::-1], [(0, 1), (0, 0)])
