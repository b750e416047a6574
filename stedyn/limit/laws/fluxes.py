"""Fluxes between neighbouring cells, and the steps that they make of masses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...code.compiling import one_kernel


def velocity(up, down, mass) -> Float[Array, "N C"]:
    """Change of the masses per ``tau`` from rates of crossing the faces."""
    flux = up * mass[:-1] - down * mass[1:]
    zero = jnp.zeros((1, mass.shape[1]))
    return jnp.concatenate([zero, flux]) - jnp.concatenate([flux, zero])


@one_kernel
def implicit(up, down, mass):
    """Masses (N, C) after an implicit Euler step in which the faces between cells are crossed at ``up, down`` (N-1, C).

    Elimination from below, in which nothing is subtracted: of the mass that came from below a part ``stay`` is left.
    """
    none = jnp.zeros((1, mass.shape[1]))

    def eliminate(below, cell):
        stay, arriving = below
        up, down, mass = cell
        stay = 1 + down * stay
        part = 1 / (stay + up)
        value = (mass + arriving) * part
        return (stay * part, up * value), (value, part)

    cells = jnp.concatenate([up, none]), jnp.concatenate([none, down]), mass
    _, (value, part) = jax.lax.scan(eliminate, (none[0], none[0]), cells)

    def substitute(above, cell):
        value, part, back = cell
        new = value + part * back * above
        return new, new

    back = jnp.concatenate([down, none])
    return jax.lax.scan(substitute, none[0], (value, part, back), reverse=True)[1]


def bernoulli(x):
    """``B(-x), B(x)`` with ``B(x) = x / (exp(x) - 1)``, from one exponential that cannot overflow."""
    size = jnp.where(x < 0, -x, x)
    small = size < 1e-8
    safe = jnp.where(small, 1.0, size)
    less = jnp.where(small, -size, jnp.expm1(-safe))
    large = jnp.where(small, 1 + 0.5 * size, -safe / less)
    little = large * (1 + less)
    return jnp.where(x < 0, little, large), jnp.where(x < 0, large, little)
