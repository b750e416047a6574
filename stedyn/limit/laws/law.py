"""What a law is: a way to solve for the law of the latent weights; one that steps through time is a `Flow`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:  # the command line reads the registry, and answers faults at once
    from jaxtyping import Array, Float

    from ...curves.dense import Steps
    from ...problem.problem import Problem
    from .legs import Leg


class Asked(NamedTuple):
    """What a law is asked for: times of curves and of densities by phase, accuracy, resolution of the first pass.

    ``tol`` is relative to errors above ``least``; smaller ones count as that much. ``progress`` is whether to show it.
    """

    legs: tuple[Leg, ...]
    tol: float
    least: Float[Array, ""] | float
    cells: int | None
    classes: int | None
    traced: bool
    progress: bool = False


class Accuracy(NamedTuple):
    """Relative error of a step, and the least generalization error: smaller ones count as this much."""

    rtol: Float[Array, ""] | float
    least: Float[Array, ""] | float = 0.0


class Solved(NamedTuple):
    """What a law answers: curves, counts, densities, the error at every step, its estimate, a code of `Status`."""

    curves: dict[str, Any]
    counts: dict[str, Any]
    densities: tuple | None
    steps: tuple[Steps, ...]
    estimate: Float[Array, ""] | None
    code: Array


class Law:
    """A law; ``densities`` says whether it has any, ``exact`` for which problems it is so, and fast."""

    densities = True

    def exact(self, problem: Problem) -> bool:
        return False

    def check(self, problem: Problem, asked: Asked) -> None:
        """Raise the InputError of a problem that the law does not solve."""

    def solve(self, problem: Problem, asked: Asked) -> Solved:
        """The curves of a problem, whose numbers are arrays, with what the law says of their error."""
        raise NotImplementedError


class Flow(Protocol):
    """A differential equation for a state (any pytree), with what the solver and the curves need of it."""

    def start(self) -> Any:
        """The state at ``tau = 0``."""
        ...

    def __call__(self, tau, state, args=None) -> Any:
        """The velocity of the state."""
        ...

    def advance(self, tau, step, state) -> Any:
        """The state after one linearly implicit Euler step."""
        ...

    def watch(self, best, other) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Values whose relative accuracy the step controller keeps, the error first, and how far two states differ."""
        ...

    def error(self, state) -> Float[Array, ""]:
        """Generalization error."""
        ...

    def observe(self, tau, state) -> dict[str, Array]:
        """Order parameters and observables, or what they are computed from."""
        ...
