"""The masses of cells at the start of a run, or of a phase."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ..limit import Limit


def start_masses(limit: Limit, inner, wall, kinks=None) -> Float[Array, "N *C"]:
    """Cell masses at ``tau = 0`` between inner faces; what lies beyond the domain sits in its outermost cells.

    ``kinks`` as in `Starts.masses`.
    """
    inner = jnp.where(inner < wall, behind_walls(limit, inner), jnp.inf)

    def masses(factor, shift):
        start, faces = limit.start.law, (inner - shift) / factor
        if start.std is not None and start.kind != "constant":
            z = (faces - start.mean) / start.std
            below, above = norm.cdf(z), norm.cdf(-z)
            lower = jnp.concatenate([jnp.zeros(1), below, jnp.ones(1)])
            upper = jnp.concatenate([jnp.ones(1), above, jnp.zeros(1)])
            in_tail = jnp.concatenate([z > 0, jnp.ones(1, bool)])
            return jnp.where(in_tail, upper[:-1] - upper[1:], jnp.diff(lower))
        return limit.start.masses(faces, None if kinks is None else (kinks - shift) / factor)

    each = jnp.broadcast_arrays(*map(jnp.atleast_1d, (limit.start.factor, limit.start.shift)))
    mass = jax.vmap(masses)(*each)
    return mass.reshape(-1, mass.shape[-1]).T


def behind_walls(limit: Limit, faces):
    """The faces, with those on or behind the walls of a latent clip put at infinity."""
    if limit.latent_clip is None:
        return faces
    edge = limit.latent_clip * (1 - 1e-12)
    return jnp.where(faces >= edge, jnp.inf, jnp.where(faces <= -edge, -jnp.inf, faces))


def within_walls(mass, centers, clip):
    """Cell masses (N, C) of another phase, those behind the walls of a latent clip put on them."""
    if clip is None:
        return mass
    inside = jnp.abs(centers) < clip
    number = jnp.arange(inside.size)
    home = jnp.clip(number, jnp.argmax(inside), number[-1] - jnp.argmax(inside[::-1]))
    return jnp.zeros_like(mass).at[home].add(mass)
