r"""How the moves of all coordinates vary together in a step, for any rule: averages over the residual.

All coordinates see the same residual ``r``. Given it their moves have means of their own,

    ``A(r) = (r/V) E[U x | r]``,   ``B(r) = (r/V) E[U phi | r]``,   ``S(r) = E[U^2 | r]``,

whose averages over ``r ~ N(0, V)`` are ``a, b, D``, and move against one another, because their sum makes ``r``:
``Cov(U_i, U_j | r) = -E[U s_i | r] E[U s_j | r] / (d V)``, ``s = c x - psi phi`` (``docs/width.md``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ..inputs.moments import InputMoments
from .quadrature import gauss, moments
from .response import Order

#: Panels of four nodes on either side of 0, and where they end, in standard deviations of the residual.
PANELS, REACH = 64, 8.5


class Given(NamedTuple):
    """Averages over one coordinate given the residual: ``E[U x | r], E[U phi | r], E[U^2 | r]``, each (J,)."""

    teacher: Float[Array, " J"]
    own: Float[Array, " J"]
    square: Float[Array, " J"]


def residuals() -> tuple[Float[Array, " J"], Float[Array, " J"]]:
    """Nodes and weights of ``z ~ N(0, 1)``, many of them, as moves may jump."""
    z, width = gauss(jnp.linspace(0.0, REACH, PANELS + 1))
    weight = width * norm.pdf(z)
    return jnp.concatenate([-z, z]), jnp.concatenate([weight, weight])


def given_residual(rule: Any, r: Float[Array, " J"], inputs: InputMoments, tau) -> Given:
    """`Given` of a rule of the gradient alone, with single samples: from its profile, or every level of the input."""
    if inputs.levels is None or inputs.mass is None:
        p = rule.profile(jnp.abs(r) * inputs.std, tau)
        pushed = r * inputs.std**2 * p.slope
        return Given(pushed, pushed, p.square)
    first, second = rule.powers(r[:, None] * inputs.levels, tau)
    return Given(first @ inputs.overlap, first @ (inputs.mass * inputs.levels), second @ inputs.mass)


def powers_of(rule: Any, g, tau) -> tuple[Array, Array]:
    """``E[U], E[U^2]`` at any gradients, over the uniform numbers."""

    def move(g, u):
        return rule.move(jnp.ones_like(g), g, u, tau)

    both = moments(move, g.reshape(-1), rule.uniforms)
    return both[:, 0].reshape(g.shape), both[:, 1].reshape(g.shape)


def averaged(rule: Any, inputs: InputMoments, order: Order, tau) -> Float[Array, "F F"]:
    """`Rule.together` by an average over the residual."""
    z, weight = residuals()
    V = jnp.maximum(order.V, 1e-30)
    r = jnp.sqrt(V) * z
    teacher, own, square = jax.vmap(lambda one: rule.given(r, one, tau))(inputs)
    moved = jnp.concatenate([teacher * r / V, own * r / V, square])
    moved = moved - (moved @ weight)[:, None]
    against = jnp.concatenate([teacher, own, jnp.zeros_like(own)]) / jnp.sqrt(V)
    return (moved * weight) @ moved.T - (against * weight) @ against.T


def linear(s, inputs: InputMoments, V, batch: int, grown=()) -> Float[Array, "F F"]:
    """The same of steps ``s`` times the gradient of a mini-batch, where all follows ``r^2``.

    ``grown``, what makes the remembered numbers grow, follows ``r^2``, too.
    """
    pushed = jnp.concatenate([s * inputs.k1, s * inputs.k2])
    moved = jnp.concatenate([pushed, s**2 * inputs.k2 * V / batch, jnp.asarray(grown)])
    against = jnp.zeros_like(moved).at[: pushed.size].set(pushed)
    return (2 * jnp.outer(moved, moved) - jnp.outer(against, against)) / batch
