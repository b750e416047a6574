"""Integer weights: a rule that keeps the weights on a lattice gets int32 codes and no latent float."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from ..rules import Rule


class Lattice(eqx.Module):
    """The lattice ``spacing * code``; ``inverse`` is one over the move that is one step of a code.

    ``decays`` says whether weight decay, rounded stochastically to whole steps, takes part.
    """

    spacing: Float32[Array, ""]
    inverse: Float32[Array, ""]
    decays: bool = eqx.field(static=True)

    def encode(self, w: Float32[Array, "*n"]) -> Int32[Array, "*n"]:
        """The nearest code."""
        return jnp.round(w / self.spacing).astype(jnp.int32)

    def decode(self, code: Int32[Array, "*n"]) -> Float32[Array, "*n"]:
        """The weight."""
        return code.astype(jnp.float32) * self.spacing

    def update(self, code, move, decay, u, clip):
        """Codes after a move ``U`` and the decay of a part ``decay`` of every weight."""
        new = code + jnp.floor(move * self.inverse + jnp.float32(0.5)).astype(jnp.int32)
        if self.decays:
            new = new - jnp.floor(decay * code.astype(jnp.float32) + u).astype(jnp.int32)
        if clip is None:
            return new
        last = jnp.floor(clip / self.spacing).astype(jnp.int32)
        return jnp.clip(new, -last, last)


def lattice_of(rule: Rule, dim: int) -> Lattice | None:
    """The lattice of a rule in ``dim`` dimensions; None if its weights are floats."""
    if rule.lattice is None:
        return None
    step = jnp.asarray(rule.lattice, jnp.float32)
    decays = bool(jnp.any(jnp.asarray(rule.weight_decay) != 0))
    return Lattice(step / jnp.float32(dim**0.5), jnp.float32(1.0) / step, decays)
