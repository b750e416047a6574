"""Integer weights: a rule that keeps the weights on a lattice gets int32 codes and no latent float."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from ..rules import Rule

#: Codes end here, so that one step added to another fits int32. A weight that comes here has diverged, and stays.
LAST = 2**30


class Lattice(eqx.Module):
    """The lattice ``spacing * code``; ``inverse`` is one over the move that is one step of a code.

    ``decays`` says whether weight decay, rounded stochastically to whole steps, takes part.
    """

    spacing: Float32[Array, ""]
    inverse: Float32[Array, ""]
    decays: bool = eqx.field(static=True)

    def encode(self, w: Float32[Array, "*n"]) -> Int32[Array, "*n"]:
        """The nearest code, `LAST` at most."""
        return _whole(jnp.round(w / self.spacing))

    def decode(self, code: Int32[Array, "*n"]) -> Float32[Array, "*n"]:
        """The weight."""
        return code.astype(jnp.float32) * self.spacing

    def update(self, code, move, decay, u, clip):
        """Codes after a move ``U`` and the decay of a part ``decay`` of every weight."""
        steps = jnp.floor(move * self.inverse + jnp.float32(0.5))
        if self.decays:
            steps = steps - jnp.floor(decay * code.astype(jnp.float32) + u)
        new = jnp.clip(code + _whole(steps), jnp.int32(-LAST), jnp.int32(LAST))
        if clip is not None:
            last = _whole(jnp.floor(clip / self.spacing))
            new = jnp.clip(new, -last, last)
        lost = jnp.isnan(steps) | (jnp.abs(code) >= jnp.int32(LAST))
        return jnp.where(lost, jnp.int32(LAST), new)


def _whole(number: Float32[Array, "*n"]) -> Int32[Array, "*n"]:
    """A whole number as a code, `LAST` at most."""
    return jnp.clip(number, jnp.float32(-LAST), jnp.float32(LAST)).astype(jnp.int32)


def lattice_of(rule: Rule, dim: int) -> Lattice | None:
    """The lattice of a rule in ``dim`` dimensions; None if its weights are floats."""
    if rule.lattice is None:
        return None
    step = jnp.asarray(rule.lattice, jnp.float32)
    decays = bool(jnp.any(jnp.asarray(rule.weight_decay) != 0))
    return Lattice(step / jnp.float32(dim**0.5), jnp.float32(1.0) / step, decays)
