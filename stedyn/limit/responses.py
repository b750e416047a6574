r"""Responses of the error at many times to the masses of the cells before: one sweep back along the steps.

All saved times share the matrices of a step, which are factorized once; see `stedyn.limit.width` for the equations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..code.compiling import Program, one_kernel, soon
from .laws.fluxes import implicit, velocity
from .laws.grid import GridFlow

#: The L-stable method of second order with two equal implicit steps (Alexander 1977): their size, and its last weight.
PART, _LAST = 1 - 0.5**0.5, 2**0.5


class Steps(NamedTuple):
    """Sizes of steps (K,), with residual variance, what the rule remembers (K, M) and time in their middle (K,)."""

    size: Any
    V: Any
    memory: Any
    tau: Any


class Sums(NamedTuple):
    """Averages at both stages of every step (K, 2, T), at all ends (K + 1, T); the responses at the start (N, C, T).

    ``common (K, 2, 3 G + M, T)`` are ``E[x' c], -E[x' psi], E[x''] / 2`` of each of ``G`` input variances, and the
    responses to the ``M`` numbers that the rule remembers, one of each variance or none.
    """

    inner: Any
    gain: Any
    common: Any
    ends: Any
    start: Any


def _order(flow: GridFlow, V, memory):
    return flow.limit.order_at(V)._replace(memory=memory if memory.size else None)


def _rates(flow: GridFlow, V, memory, tau, shrinking=0.0):
    return flow.rates(_order(flow, V, memory), tau, shrinking=shrinking)


def _growth(flow: GridFlow, V, memory, tau):
    """Rates at which the remembered numbers grow (M,), from an implicit step of no length."""

    def after(step):
        return flow.limit.remembered(memory, flow.limit.order_at(V), tau, step)

    return jax.jvp(after, (0.0,), (1.0,))[1] if memory.size else memory


@Program
def steps_between(flow: GridFlow, tau, V) -> Steps:
    """The steps between ``tau (K + 1,)``, at which ``V (K + 1,)``; what is remembered grows linearly in itself."""
    size, tau, middle = jnp.diff(tau), (tau[1:] + tau[:-1]) / 2, (V[1:] + V[:-1]) / 2
    start = flow.limit.memory(flow.limit.order_at(V[0]))
    if start is None:
        return Steps(size, middle, jnp.zeros((size.size, 0)), tau)

    def step(memory, own):
        size, V, tau = own
        growth, slope = jax.jvp(lambda own: _growth(flow, V, own, tau), (memory,), (jnp.ones_like(memory),))
        new = memory + growth * jnp.expm1(size * slope) / slope
        return new, (memory + new) / 2

    return Steps(size, middle, jax.lax.scan(step, start, (size, middle, tau))[1], tau)


def _moves(flow: GridFlow, V, memory, tau, mass):
    """What a unit of ``a``, ``b`` and ``D`` does to masses (N, C) in a unit of ``tau``: (3, N, C).

    That of ``D`` is what the fluxes between cells leave besides the drift, without weight decay.
    """
    limit, crossed = flow.limit, ((flow.rise > 0) | (flow.fall > 0))[:, None]
    none = jnp.zeros((flow.rise.size, mass.shape[1]))
    density = mass / flow.widths[:, None]
    pushed = jnp.where(crossed, 0.5 * (density[:-1] + density[1:]) / jnp.diff(flow.centers)[:, None], 0.0)
    ways = limit.teacher * flow.span[:, None], -flow.pull[:, None]
    drift = [velocity(pushed * way, none, jnp.ones_like(mass)) for way in ways]
    a, b, D, _ = limit.coefficients(_order(flow, V, memory), tau)
    up, down = _rates(flow, V, memory, tau, -limit.decay(tau))
    free = velocity(up, down, mass)
    rest = (free - a * drift[0] - b * drift[1]) / jnp.maximum(D * limit.unit**2, 1e-30)
    return jnp.stack([*drift, rest])


def _forward(flow: GridFlow, steps: Steps):
    """Masses (K + 1, N, C) at the ends of all steps."""

    def step(mass, own):
        size, V, memory, time = own
        up, down = _rates(flow, V, memory, time)
        size = PART * size
        once = implicit(size * up, size * down, mass)
        twice = implicit(size * up, size * down, once)
        new = twice + _LAST * (twice - once)
        return new, new

    start = flow.start()
    return jnp.concatenate([start[None], jax.lax.scan(step, start, steps)[1]])


def _feedback(flow: GridFlow, V, memory, tau, mass):
    """What ``V`` does to masses (N, C) and to what is remembered (M,), how this fades (M,), and what it does (N, C)."""

    def both(V, memory):
        return _rates(flow, V, memory, tau), _growth(flow, V, memory, tau)

    (up, down), growth = jax.jvp(lambda V: both(V, memory), (V,), (jnp.ones_like(V),))[1]
    gain = velocity(up, down, mass)
    if not memory.size:
        return gain, growth, memory, jnp.zeros_like(mass)
    (up, down), slope = jax.jvp(lambda own: both(V, own), (memory,), (jnp.ones_like(memory),))[1]
    return gain, growth, -slope, velocity(up, down, mass)


@one_kernel
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


@soon
def sums(flow: GridFlow, steps: Steps, at) -> Sums:
    """Responses of the errors at the ends ``at (T,)`` of steps, swept back from the last of these."""
    limit, e = flow.limit, flow.error_weights
    own = e / jnp.where(limit.share > 0, limit.share, 1.0)
    mass = _forward(flow, steps)
    groups, kept = limit.inputs.k1.size, steps.memory.shape[1]

    def step(responses, inputs):
        x, y = responses
        number, (size, V, memory, time), before, after = inputs
        mean, size = 0.5 * (before + after), PART * size
        up, down = _rates(flow, V, memory, time)
        gain, grown, fading, moved = _feedback(flow, V, memory, time, mean)
        later = 1 / (1 + size * fading)
        both = gain + size * moved * (grown * later)[limit.group] if kept else gain
        averaged = jnp.stack(
            [both, mean * own, gain, before * own, moved, *_moves(flow, V, memory, time, mean)]
        )
        back = _implicit_adjoint(size * up, size * down, e[:, :, None])[:, :, 0]
        averages = jnp.einsum("rnc,nc->rc", averaged, back)

        def implicit_step(x, y):
            """Sherman and Morrison 1950: the feedback through V is a matrix of rank one."""
            x = _implicit_adjoint(size * up, size * down, x)
            found = jnp.einsum("rnc,nct->rct", averaged, x)
            fed = jnp.sum(found[0], axis=0) + (grown * later) @ y
            fed = size * fed / (1 - size * jnp.sum(averages[0]))
            x, found = x + back[:, :, None] * fed, found + averages[:, :, None] * fed
            if kept:
                y = y + size * jax.ops.segment_sum(found[4], limit.group, kept)
            return x, y * later[:, None], found

        once = implicit_step(x, y)
        twice = implicit_step(*once[:2])
        new = jax.tree.map(lambda twice, once: twice + _LAST * (twice - once), twice, once)
        # at both stages, whose values are damped where a response is not yet smooth
        remembering, found = jnp.stack([once[1], new[1]]), jnp.stack([once[2], new[2]])
        inner, fed = jnp.sum(found[:, 1], axis=1), jnp.sum(found[:, 2], axis=1) + grown @ remembering
        each = jax.ops.segment_sum(jnp.moveaxis(found[:, 5:], 2, 0), limit.group, groups)  # (G, 2, 3, T)
        each = jnp.moveaxis(each, 0, 2).reshape(2, 3 * groups, -1)
        common = jnp.concatenate([each, remembering], axis=1)
        end = jnp.sum(new[2][3], axis=0) + jnp.sum(before * own * e) * (at == number)
        return (new[0] + e[:, :, None] * (at == number), new[1]), (inner, fed, common, end)

    last, count = jnp.max(at), steps.size.size

    def from_the_last(responses, inputs):
        nothing = jax.tree.map(lambda out: jnp.zeros(out.shape), jax.eval_shape(step, responses, inputs)[1])
        return jax.lax.cond(inputs[0] < last, step, lambda same, _: (same, nothing), responses, inputs)

    first = e[:, :, None] * (at == last), jnp.zeros((kept, at.size))
    inputs = (jnp.arange(count), steps, mass[:-1], mass[1:])
    (start, _), (inner, gain, common, ends) = jax.lax.scan(from_the_last, first, inputs, reverse=True)
    ends = jnp.append(ends, jnp.zeros((1, at.size)), axis=0)
    ends = ends.at[last].add(jnp.sum(mass[last] * own * e) * (at == last))
    return Sums(inner, gain, common, ends, start)
