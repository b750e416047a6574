"""A law whose rule remembers the past: its state beside what is remembered (`stedyn.rules.Response.start`)."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

#: A step that is short beside all times of a curve.
_SHORT = 1e-6


class RememberingFlow(eqx.Module):
    """The `Flow` of another law with states ``(state, memory)``."""

    law: Any
    memory: Any = None  # of a phase before

    def start(self):
        state = self.law.start()
        return state, self.law.limit.memory(self.law.order(state)) if self.memory is None else self.memory

    def __call__(self, tau, state):
        own, memory = state
        after = self.law.limit.remembered(memory, self.law.order(own), tau, _SHORT)
        rates = jax.tree.map(lambda new, old: (new - old) / _SHORT, after, memory)
        return self.law(tau, own, memory), rates

    def advance(self, tau, step, state):
        own, memory = state
        memory = self.law.limit.remembered(memory, self.law.order(own), tau, step)
        return self.law.advance(tau, step, own, memory), memory

    def watch(self, best, other):
        values, miss = self.law.watch(best[0], other[0])
        pairs = zip(jax.tree.leaves(best[1]), jax.tree.leaves(other[1]), strict=True)
        apart = [jnp.max(jnp.abs(a - b) / (jnp.abs(a) + 1e-12 * self.law.limit.scale)) for a, b in pairs]
        return jnp.append(values, 1.0), jnp.append(miss, jnp.max(jnp.stack(apart)))

    def error(self, state) -> Array:
        return self.law.error(state[0])

    def observe(self, tau, state) -> dict[str, Array]:
        return self.law.observe(tau, *state)


def flow_of(law, memory=None):
    """A law as the solver steps it, and what takes weights and memory from a state of it; ``memory`` as it starts."""
    if law.limit.memory(law.order(law.start())) is None:
        return law, lambda state: (state, None)
    return RememberingFlow(law, memory), lambda state: state
