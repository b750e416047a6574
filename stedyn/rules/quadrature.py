r"""Coefficients of any rule from its move alone, also where the move jumps or bends.

A move is sampled once, on panels whose width is proportional to the gradient, with Gauss-Legendre nodes.
The panels in which it bends most are split at the place where it jumps, found by bisection, so that a
jump costs no accuracy. An average over a Gaussian gradient of any width is then a sum over these samples.
Shapes are fixed: everything can be traced.
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
_X, _W = np.polynomial.legendre.leggauss(4)
_HERMITE = np.polynomial.hermite_e.hermegauss(16)


class Effort(NamedTuple):
    """Panels of one integral, how many are split at a jump, and bisections that find it."""

    panels: int
    jumps: int
    bisections: int


#: For a deterministic move, one of many values of ``phi``, a random one; and over its uniform number.
FULL, LIGHT, RANDOM, UNIFORM = (
    Effort(4000, 600, 24),
    Effort(460, 64, 26),
    Effort(400, 64, 16),
    Effort(16, 4, 20),
)


class Profile(NamedTuple):
    """A rule at a Gaussian gradient ``g ~ N(0, s^2)``: ``E[g U] / s^2``, ``E[U^2]``, ``E|U|``."""

    slope: Array
    square: Array
    mean_abs: Array


def split_nodes(f: Callable, edges: Float[Array, " P"], effort: Effort, weight: Callable | None = None):
    """Nodes and their weights ``(n,)`` on panels between ``edges``, for ``f: (n,) -> (n, k)``.

    The panels where the second difference of ``f`` is largest, relative to ``f`` or (with ``weight``)
    weighted, are split at the jump or bend.
    """
    middle = 0.5 * (edges[1:] + edges[:-1])
    at, half = f(edges), f(middle)

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

    low, high = edges[chosen], edges[chosen + 1]
    found = lax.fori_loop(0, effort.bisections, halve, (low, high, at[chosen], half[chosen], at[chosen + 1]))
    jump = 0.5 * (found[0] + found[1])
    left = jnp.concatenate([edges[:-1], low, jump])
    width = jnp.concatenate([jnp.diff(edges).at[chosen].set(0.0), jump - low, high - jump])
    nodes = left[:, None] + 0.5 * width[:, None] * (1 + _X)
    return nodes.reshape(-1), (0.5 * width[:, None] * _W).reshape(-1)


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
        y, w = split_nodes(lambda y: given(value, y), edges, UNIFORM, norm.pdf)
        return (w * norm.pdf(y)) @ given(value, y)

    return jax.vmap(one)(g)


class Samples(NamedTuple):
    """A move at ``n`` gradients: ``g``, its quadrature weight, the moments of `moments`, and those at 0."""

    g: Float[Array, " n"]
    weight: Float[Array, " n"]
    powers: Float[Array, "n 3"]
    at_zero: Float[Array, " 3"]


def sample(move: Callable, uniforms: int, effort: Effort | None = None) -> Samples:
    """Sample a move wherever it matters."""
    effort = effort or (RANDOM if uniforms else FULL)
    half = jnp.geomspace(SMALLEST, LARGEST, effort.panels)
    edges = jnp.concatenate([-half[::-1], jnp.zeros(1), half])

    def f(g):
        return moments(move, g, uniforms)

    g, weight = split_nodes(f, edges, effort)
    return Samples(g, weight, f(g), f(jnp.zeros(1))[0])


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
