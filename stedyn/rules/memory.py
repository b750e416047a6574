"""What a rule remembers, and what it sees in a step: the arguments of `Rule.step`."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from ..checks import fail

_MOMENTUM = ("momentum", "dampening", "nesterov")


class Memory(NamedTuple):
    """What a rule remembers: numbers with which it starts, in any structure (dictionary, tuple); None for nothing.

    ``own`` are numbers of every coordinate, ``seed`` numbers that a run has once.
    """

    own: Any = None
    seed: Any = None


class Seen(NamedTuple):
    """What a rule sees of some coordinates in a step of the simulation.

    ``r`` is the residual and ``phi`` the inputs, times the surrogate derivative if the rule remembers something: then
    ``r phi`` is the gradient (of mini-batches ``r = 1`` and ``phi`` the averaged one). ``w`` are the latent weights,
    ``u`` the uniform numbers of the rule or None, ``tau = steps / dim``, and ``seed`` what the run remembers.
    """

    r: Array
    phi: Array
    w: Array
    u: Any
    tau: Float[Array, ""]
    dim: int
    seed: Any


def check_momentum(kind: str, given: Iterable[str], takes: Container[str]) -> None:
    """Refuse momentum for a rule that has none, with the reason."""
    for name in given:
        if name in _MOMENTUM and name not in takes:
            fail(f"rule.{name}", "'sgd', 'shrinkage', 'quantized-gradient', 'stochastic-rounding' or "
                 "'deterministic-rounding' (the sign of a buffer is the rule 'signum'; trials of 'multinomial' would "
                 "depend on all residuals that the buffers remember; a rule of your own with momentum is a subclass "
                 "of stedyn.rules.WithMomentum)", kind, "remove it")  # fmt: skip
