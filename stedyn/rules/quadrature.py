r"""Coefficients of any rule from its move alone, also where the move jumps or bends.

A move is sampled once, on panels whose width is proportional to the gradient, with Gauss-Legendre nodes. Where
it jumps or bends most a panel is split, at the place that bisection finds, so that a jump costs no accuracy. Jumps
too many to be found are averaged: a node carries the moments of many values on its panel. An average over a Gaussian
gradient of any width is then a sum over these samples. Shapes are fixed: everything can be traced.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm
from jaxtyping import Array, Float

#: Smallest and largest gradient that is sampled; uniform numbers are normal cdfs up to this many deviations.
SMALLEST, LARGEST, REACH = 1e-7, 1e5, 8.5
#: Nodes of a panel.
NODES = 4
_HERMITE = np.polynomial.hermite_e.hermegauss(16)


class Effort(NamedTuple):
    """Panels of one integral, parts of a panel that are searched, jumps that are found, bisections for each.

    And ``dense``, the values of the move on a panel from which those at its nodes are made.
    """

    panels: int
    parts: int
    jumps: int
    bisections: int
    dense: int


#: For a deterministic move, one of many values of ``phi``, either of these if sampled at every step of a solution,
#: a random move; and over its uniform number.
FULL, LIGHT, FULL_STEP, LIGHT_STEP, RANDOM, UNIFORM = (
    Effort(2500, 16, 1200, 20, 128),
    Effort(460, 8, 128, 23, 128),
    Effort(1200, 8, 400, 18, 48),
    Effort(460, 2, 64, 25, 8),
    Effort(800, 1, 64, 16, NODES),
    Effort(16, 1, 4, 20, NODES),
)


class Profile(NamedTuple):
    """A rule at a Gaussian gradient ``g ~ N(0, s^2)``: ``E[g U] / s^2``, ``E[U^2]``, ``E|U|``."""

    slope: Array
    square: Array
    mean_abs: Array


def split(f: Callable, edges: Float[Array, " P"], effort: Effort, weight: Callable | None = None):
    """Panels between ``edges``, and more edges where ``f: (n,) -> (n, k)`` jumps or bends.

    Panels are searched in equal parts. Where the second difference of ``f`` over a part is largest, relative to
    ``f`` or (with ``weight``) weighted, the panel is split at the jump or bend.
    """
    step = jnp.arange(effort.parts) / effort.parts
    fine = jnp.append((edges[:-1, None] + jnp.diff(edges)[:, None] * step).reshape(-1), edges[-1])
    middle = 0.5 * (fine[1:] + fine[:-1])
    at, half = f(fine), f(middle)

    def bend(left, mid, right):
        return jnp.abs(left - 2 * mid + right)

    first = bend(at[:-1], half, at[1:])
    if weight is None:
        size = jnp.maximum(jnp.abs(half), jnp.maximum(jnp.abs(at[1:]), jnp.abs(at[:-1])))
        order = jnp.sum(first / jnp.maximum(size, 1e-300), -1)
        scale = jnp.ones(at.shape[1])
    else:
        scale = jnp.maximum(jnp.max(jnp.abs(at), axis=0), 1e-300)
        order = jnp.sum(first / scale, -1) * weight(middle)
    chosen = lax.top_k(order, effort.jumps)[1]

    def halve(_, state):
        x0, x1, f0, fm, f1 = state
        mid = 0.5 * (x0 + x1)
        fl, fr = f(0.5 * (x0 + mid)), f(0.5 * (mid + x1))
        left = jnp.sum((bend(f0, fl, fm) - bend(fm, fr, f1)) / scale, -1) > 0
        pick = left[:, None]
        return (
            jnp.where(left, x0, mid),
            jnp.where(left, mid, x1),
            jnp.where(pick, f0, fm),
            jnp.where(pick, fl, fr),
            jnp.where(pick, fm, f1),
        )

    ends = fine[chosen], fine[chosen + 1], at[chosen], half[chosen], at[chosen + 1]
    low, high, *_ = lax.fori_loop(0, effort.bisections, halve, ends)
    return jnp.sort(jnp.concatenate([edges, 0.5 * (low + high)]))


def gauss(edges: Float[Array, " P"], count: int = NODES) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Gauss-Legendre nodes and weights, ``count`` for each panel between ``edges``."""
    x, w = np.polynomial.legendre.leggauss(count)
    width = 0.5 * jnp.diff(edges)[:, None]
    return (edges[:-1, None] + width * (1 + x)).reshape(-1), (width * w).reshape(-1)


def project(values: Float[Array, "m k"], dense: int) -> Float[Array, "n k"]:
    """From ``dense`` to ``NODES`` values for each panel: those of the cubic with the same first moments.

    Sums over the nodes then average a move over many jumps that are not resolved, instead of hitting them by chance.
    """
    x, w = np.polynomial.legendre.leggauss(dense)
    modes, at = (
        np.polynomial.legendre.legvander(y, NODES - 1) for y in (x, np.polynomial.legendre.leggauss(NODES)[0])
    )
    matrix = at @ (modes * w[:, None] * (np.arange(NODES) + 0.5)).T
    panels = values.reshape(-1, dense, values.shape[1])
    return jnp.einsum("nm,pmk->pnk", matrix, panels).reshape(-1, values.shape[1])


def moments(move: Callable, g: Float[Array, " n"], uniforms: int) -> Float[Array, "n 3"]:
    """``E_u[U], E_u[U^2], E_u|U|`` of ``move(g (n,), u (uniforms, n))`` over the uniform numbers.

    The first of them may make the move jump; over the others it has to be smooth.
    """

    def powers(U):
        return jnp.stack([U, U**2, jnp.abs(U)], -1)

    if uniforms == 0:
        return powers(move(g, None))
    others = uniforms - 1
    x, w = _HERMITE
    grid = np.array(list(itertools.product(x, repeat=others))).reshape(x.size**others, others).T
    share = np.array([np.prod(part) for part in itertools.product(w / w.sum(), repeat=others)])
    rest = norm.cdf(jnp.asarray(grid))

    def given(value, y):
        """Average over all uniform numbers but the first, which is the normal cdf of ``y (n,)``."""
        first = jnp.clip(norm.cdf(y), 1e-15, 1 - 1e-15)

        def one(fixed):
            u = jnp.broadcast_to(fixed[:, None], (others, y.size))
            return powers(move(jnp.full(y.size, value), jnp.concatenate([first[None], u])))

        return jnp.tensordot(jnp.asarray(share), jax.vmap(one, 1)(rest), 1)

    def one(value):
        edges = jnp.linspace(-REACH, REACH, UNIFORM.panels + 1)
        y, w = gauss(split(lambda y: given(value, y), edges, UNIFORM, norm.pdf))
        return (w * norm.pdf(y)) @ given(value, y)

    return jax.vmap(one)(g)


class Samples(NamedTuple):
    """A move at ``n`` gradients: ``g``, its quadrature weight, the moments of `moments`, and those at 0."""

    g: Float[Array, " n"]
    weight: Float[Array, " n"]
    powers: Float[Array, "n 3"]
    at_zero: Float[Array, " 3"]


def sample(move: Callable, uniforms: int, effort: Effort = FULL) -> Samples:
    """Sample a move wherever it matters."""
    effort = RANDOM if uniforms else effort
    half = jnp.geomspace(SMALLEST, LARGEST, effort.panels)
    edges = jnp.concatenate([-half[::-1], jnp.zeros(1), half])

    def f(g):
        return moments(move, g, uniforms)

    edges = split(f, edges, effort)
    g, weight = gauss(edges)
    powers = project(f(gauss(edges, effort.dense)[0]), effort.dense)
    return Samples(g, weight, powers, f(jnp.zeros(1))[0])


def profile_of(samples: Samples, s) -> Profile:
    """`Profile` of a sampled move at one ``s``; differentiable in ``s``."""
    alive = s > 0
    safe = jnp.where(alive, s, 1.0)
    z = samples.g / safe
    weight = samples.weight * norm.pdf(z) / safe
    slope = (weight * z) @ samples.powers[:, 0] / safe
    square, mean_abs = weight @ samples.powers[:, 1], weight @ samples.powers[:, 2]
    zero = samples.at_zero
    return Profile(
        jnp.where(alive, slope, 0.0), jnp.where(alive, square, zero[1]), jnp.where(alive, mean_abs, zero[2])
    )
