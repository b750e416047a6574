"""What a limit asks of a rule: coefficients as a function of the order parameters, and of what is remembered."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float


class Coefficients(NamedTuple):
    """Coefficients of the limit at one time: drift ``a c - b psi``, diffusion ``D``, ``E|U|``."""

    a: Float[Array, ""]
    b: Float[Array, ""]
    D: Float[Array, ""]
    mean_abs: Float[Array, ""]


class Order(NamedTuple):
    """Order parameters as rules see them: the residual ``r``, by the model of the problem (`stedyn.problem.models`).

    ``V = E[r^2]``; ``gain = E[dr/d out]``, ``out`` the teacher's output, which is 1 where ``r`` is Gaussian. ``memory``
    is what a rule remembers of the past (`Response.start`), or None for what it does once ``V`` has been so for long.
    """

    V: Float[Array, ""]
    gain: Float[Array, ""] | float = 1.0
    memory: Any = None


class Response(eqx.Module):
    """What the limit needs of a rule for given inputs: its coefficients as a function of `Order` and ``tau``."""

    def __call__(self, order: Order, tau) -> Coefficients:
        raise NotImplementedError

    def start(self, order: Order) -> Any:
        """What the rule remembers at ``tau = 0`` of times of order 1 (a state of the limit); None for nothing."""

    def advance(self, memory, order: Order, tau, step) -> Any:
        """What it remembers after an implicit Euler step of a differential equation."""
        return memory
