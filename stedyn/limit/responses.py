r"""Responses of the error at many times to the masses of the cells before: one sweep back along the steps.

All saved times share the matrices of a step, which are factorized once; see `stedyn.limit.width` for the equations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .laws.fluxes import implicit, velocity
from .laws.grid import GridFlow

#: The L-stable method of second order with two equal implicit steps (Alexander 1977): their size, and its last weight.
PART, _LAST = 1 - 0.5**0.5, 2**0.5


class Sums(NamedTuple):
    """Averages at both stages of every step (K, 2, T), at all ends (K + 1, T); the responses at the start (N, C, T).

    ``common (K, 2, 3 G, T)`` are ``E[x' c], -E[x' psi], E[x''] / 2`` of each of ``G`` input variances.
    """

    inner: Any
    gain: Any
    common: Any
    ends: Any
    start: Any


def _rates(flow: GridFlow, V, tau, shrinking=0.0):
    return flow.rates(flow.limit.order_at(V), tau, shrinking=shrinking)


def _moves(flow: GridFlow, V, tau, mass):
    """What a unit of ``a``, ``b`` and ``D`` does to masses (N, C) in a unit of ``tau``: (3, N, C).

    That of ``D`` is what the fluxes between cells leave besides the drift, without weight decay.
    """
    limit, crossed = flow.limit, ((flow.rise > 0) | (flow.fall > 0))[:, None]
    none = jnp.zeros((flow.rise.size, mass.shape[1]))
    density = mass / flow.widths[:, None]
    pushed = jnp.where(crossed, 0.5 * (density[:-1] + density[1:]) / jnp.diff(flow.centers)[:, None], 0.0)
    ways = limit.teacher * flow.span[:, None], -flow.pull[:, None]
    drift = [velocity(pushed * way, none, jnp.ones_like(mass)) for way in ways]
    a, b, D, _ = limit.coefficients(limit.order_at(V), tau)
    up, down = _rates(flow, V, tau, -limit.decay(tau))
    free = velocity(up, down, mass)
    rest = (free - a * drift[0] - b * drift[1]) / jnp.maximum(D * limit.unit**2, 1e-30)
    return jnp.stack([*drift, rest])


def _forward(flow: GridFlow, tau, V):
    """Masses (K + 1, N, C) at the ends of all steps."""

    def step(mass, ends):
        (left, right), (low, high) = ends
        up, down = _rates(flow, 0.5 * (low + high), 0.5 * (left + right))
        size = PART * (right - left)
        once = implicit(size * up, size * down, mass)
        twice = implicit(size * up, size * down, once)
        new = twice + _LAST * (twice - once)
        return new, new

    start = flow.start()
    pairs = (tau[:-1], tau[1:]), (V[:-1], V[1:])
    return jnp.concatenate([start[None], jax.lax.scan(step, start, pairs)[1]])


def _implicit_adjoint(up, down, value):
    """The transpose of `implicit`: responses (N, C, T) before an implicit step, in which nothing is subtracted."""
    none = jnp.zeros((1, up.shape[1]))

    def eliminate(below, cell):
        stay, arriving = below
        up, down, value = cell
        stay = 1 + down * stay
        part = 1 / (stay + up)
        new = (value + down[:, None] * arriving) * part[:, None]
        return (stay * part, new), (new, up * part)

    cells = jnp.concatenate([up, none]), jnp.concatenate([none, down]), value
    _, (value, part) = jax.lax.scan(eliminate, (none[0], jnp.zeros_like(value[0])), cells)

    def substitute(above, cell):
        value, part = cell
        new = value + part[:, None] * above
        return new, new

    return jax.lax.scan(substitute, jnp.zeros_like(value[0]), (value, part), reverse=True)[1]


@eqx.filter_jit
def sums(flow: GridFlow, tau, V, at) -> Sums:
    """Responses of the errors at the steps ``at (T,)``, swept back along steps at ``tau, V (K + 1,)``."""
    limit, e = flow.limit, flow.error_weights
    own = e / jnp.where(limit.share > 0, limit.share, 1.0)
    mass = _forward(flow, tau, V)
    groups = limit.inputs.k1.size

    def hit(number, x):
        return x + e[:, :, None] * (at == number)

    def step(x, inputs):
        number, left, right, low, high, before, after = inputs
        x = hit(number + 1, x)
        end = jnp.einsum("nc,nct->t", after * own, x)
        V, time, mean = 0.5 * (low + high), 0.5 * (left + right), 0.5 * (before + after)
        (up, down), slopes = jax.jvp(lambda V: _rates(flow, V, time), (V,), (jnp.ones_like(V),))
        gain = velocity(slopes[0], slopes[1], mean)
        size = PART * (right - left)

        def implicit_step(x):
            """Sherman and Morrison 1950: the feedback through V is a matrix of rank one."""
            both = _implicit_adjoint(size * up, size * down, jnp.concatenate([x, e[:, :, None]], axis=2))
            x, back = both[:, :, :-1], both[:, :, -1]
            fed = jnp.einsum("nc,nct->t", gain, x) / (1 - size * jnp.sum(gain * back))
            return x + size * back[:, :, None] * fed

        once = implicit_step(x)
        twice = implicit_step(once)
        new = twice + _LAST * (twice - once)
        # at both stages, whose values are damped where a response is not yet smooth
        stages = jnp.stack([once, new])
        inner, fed = jnp.einsum("rnc,snct->rst", jnp.stack([mean * own, gain]), stages)
        each = jnp.einsum("rnc,snct->crst", _moves(flow, V, time, mean), stages)
        common = jnp.moveaxis(jax.ops.segment_sum(each, limit.group, groups), 0, 1)
        return new, (inner, fed, jnp.moveaxis(common.reshape(3 * groups, 2, -1), 1, 0), end)

    number = jnp.arange(tau.size - 1)
    inputs = (number, tau[:-1], tau[1:], V[:-1], V[1:], mass[:-1], mass[1:])
    nothing = jnp.zeros((*e.shape, at.size))
    start, (inner, gain, common, ends) = jax.lax.scan(step, nothing, inputs, reverse=True)
    start = hit(0, start)
    first = jnp.einsum("nc,nct->t", mass[0] * own, start)
    return Sums(inner, gain, common, jnp.concatenate([first[None], ends]), start)
