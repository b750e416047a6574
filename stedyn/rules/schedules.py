"""Schedules: the factor that multiplies a rate at time ``tau = steps / d``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import check_keywords, choice, fail, is_traced, nonnegative, positive

#: Most jumps at which a solver stops: a factor that jumps more often does so a little each time.
MOST_JUMPS = 2000
#: Intervals of a run that are searched for a jump each, by so many bisections, and what is left of one's size.
INTERVALS, BISECTIONS, LEFT = 1024, 48, 0.5


def _checked(check: Callable, name: str) -> Callable:
    return lambda value: check(f"schedule.{name}", value)


class Schedule(eqx.Module):
    """A factor of ``tau``; the rate of a rule is ``lr * schedule(tau)``."""

    kind: ClassVar[str]

    def __new__(cls, *args, **given):
        check_keywords(cls.__name__, cls.__init__, given)
        return super().__new__(cls)

    def __call__(self, tau) -> Float[Array, ""]:
        """The factor at ``tau``, 0 or above."""
        raise NotImplementedError

    def jumps(self, horizon: float) -> np.ndarray:
        """Times (J,) in ``(0, horizon]`` at which it jumps, as far as they are known."""
        return np.zeros(0)

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """The keys of its table in a problem file, without ``kind``."""
        return tuple(field.name for field in dataclasses.fields(cls))


class Constant(Schedule):
    """The factor 1."""

    kind: ClassVar[str] = "constant"

    def __call__(self, tau):
        return jnp.ones_like(jnp.asarray(tau) * 1.0)


class Inverse(Schedule):
    """``tau0 / (tau + tau0)``: 1 at the start, then as ``1 / tau``."""

    kind: ClassVar[str] = "inverse"
    tau0: Float[Array, ""] | float = eqx.field(default=1.0, converter=_checked(positive, "tau0"))

    def __call__(self, tau):
        return self.tau0 / (tau + self.tau0)


class Step(Schedule):
    """``factor^floor(tau / every)``."""

    kind: ClassVar[str] = "step"
    every: Float[Array, ""] | float = eqx.field(default=10.0, converter=_checked(positive, "every"))
    factor: Float[Array, ""] | float = eqx.field(default=0.5, converter=_checked(positive, "factor"))

    def __call__(self, tau):
        return jnp.asarray(self.factor) ** jnp.floor(tau / self.every)

    def jumps(self, horizon):
        if is_traced(self.every):
            return np.zeros(0)
        every = float(self.every)
        return every * np.arange(1, 1 + min(int(horizon / every * (1 + 1e-12)), MOST_JUMPS + 1))


class Cosine(Schedule):
    """``final + (1 - final) (1 + cos(pi tau / period)) / 2`` up to ``tau = period``, ``final`` from then on."""

    kind: ClassVar[str] = "cosine"
    period: Float[Array, ""] | float = eqx.field(default=100.0, converter=_checked(positive, "period"))
    final: Float[Array, ""] | float = eqx.field(default=0.0, converter=_checked(nonnegative, "final"))

    def __call__(self, tau):
        part = jnp.minimum(tau / self.period, 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + jnp.cos(jnp.pi * part))


def _function(value: Any) -> Callable:
    if not callable(value):
        fail("schedule.function", "a function of tau", value, "give one")
    return value


class Custom(Schedule):
    """Any function of ``tau`` that JAX can trace; it cannot be written to a file.

    It may jump: the larger one of two jumps within a thousandth of the run is found.
    """

    kind: ClassVar[str] = "custom"
    function: Callable = eqx.field(static=True, converter=_function)

    def __call__(self, tau):
        return jnp.asarray(self.function(tau))

    def jumps(self, horizon):
        return _jumps(self.function, float(horizon))


@functools.lru_cache(maxsize=16)
def _jumps(function: Callable, horizon: float) -> np.ndarray:
    """Times at which a function jumps: where bisection of its change leaves most of it; one in each of `INTERVALS`."""
    edges = np.linspace(0.0, horizon, INTERVALS + 1)
    with jax.ensure_compile_time_eval():
        factors = jax.jit(jax.vmap(lambda tau: jnp.asarray(function(tau))))
        if is_traced(factors(edges)):
            return np.zeros(0)
        low, high = (np.stack([ends, factors(ends)]) for ends in (edges[:-1], edges[1:]))
        first = np.abs(high[1] - low[1])
        for _ in range(BISECTIONS):
            at = 0.5 * (low[0] + high[0])
            middle = np.stack([at, factors(at)])
            left = np.abs(middle[1] - low[1]) > np.abs(high[1] - middle[1])
            low, high = np.where(left, low, middle), np.where(left, middle, high)
        change = np.abs(high[1] - low[1])
    return high[0][(change > LEFT * first) & (change > 0)]


SCHEDULES: dict[str, type[Schedule]] = {kind.kind: kind for kind in (Constant, Inverse, Step, Cosine)}


def as_schedule(value: Any) -> Schedule | None:
    """A schedule from None, a schedule, a function of ``tau``, or a table with ``kind`` and its keys.

    Raises
    ------
    ValueError
        For anything else, or for a key that the kind does not take.
    """
    if value is None or isinstance(value, Schedule):
        return value
    if isinstance(value, dict):
        keys = dict(value)
        cls = SCHEDULES[choice("schedule.kind", keys.pop("kind", None), tuple(SCHEDULES))]
        takes = cls.parameters()
        for key in keys:
            if key not in takes:
                names = ", ".join(takes) or "no other key"
                fail("schedule", f"the keys of kind {cls.kind!r} ({names})", key, "remove it")
        return cls(**keys)
    if callable(value):
        return Custom(value)
    fail("schedule", "a schedule, a function of tau, or a table", value, "see stedyn.rules.schedules")


def check_schedule(name: str, schedule: Schedule | None, taus: np.ndarray) -> None:
    """Refuse a schedule that is negative or not finite somewhere in ``[0, taus[-1]]``."""
    if schedule is None:
        return
    for tau in np.union1d(np.linspace(0.0, taus[-1], 101), taus[:: max(1, len(taus) // 100)]):
        factor = schedule(jnp.asarray(tau))
        if is_traced(factor):
            return
        if not np.all(np.isfinite(factor)) or np.any(np.asarray(factor) < 0):
            fail(
                name,
                "a factor of 0 or above at every tau",
                f"{float(np.min(factor)):g} at tau = {tau:g}",
                "change it",
            )


def jumps_of(rule: Any, horizon: float) -> np.ndarray:
    """Times (J,) in ``(0, horizon]`` at which a schedule of a rule jumps; none if they are too many (`MOST_JUMPS`)."""
    parts = jax.tree.leaves(rule, is_leaf=lambda part: isinstance(part, Schedule))
    each = [part.jumps(horizon) for part in parts if isinstance(part, Schedule)]
    return np.concatenate([np.zeros(0), *(one for one in each if one.size <= MOST_JUMPS)])
