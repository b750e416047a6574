"""The legs of a run, one for each phase: the times at which a law saves, and what it saves put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...rules.schedules import jumps_of

#: A saved time that lies closer before a phase, relative to it, belongs to it.
CLOSE = 1e-9
#: How far before a jump of a schedule a step ends: by more than rounding of times.
BEFORE = 1e-14
#: Fewest saved times, and ends of steps, of a program.
TIMES, STOPS = 256, 16


class Leg(NamedTuple):
    """A phase as laws integrate it, from ``begin`` to the last of its times.

    Of the times ``taus`` at which curves are saved the first ``saved`` are asked for, of the times ``keep`` of whole
    states the first ``kept``; the rest repeats the end, whose state the next phase takes over. Steps end at ``stops``:
    just before a schedule jumps, and at the end.
    """

    begin: Float[Array, ""]
    taus: Float[Array, " T"]
    keep: Float[Array, " K"]
    stops: Float[Array, " E"]
    saved: int
    kept: int

    @property
    def times(self) -> tuple[Float[Array, ""], Float[Array, " T"], Float[Array, " K"], Float[Array, " E"]]:
        """What programs take: other numbers of times are no other programs, as far as padding goes."""
        return self.begin, self.taus, self.keep, self.stops


def legs_of(problem, taus: np.ndarray, keep: np.ndarray) -> tuple[Leg, ...]:
    """The legs of a problem with its phases, with saved times (T,) and times of states (K,)."""
    edges = np.array([*problem.begins, np.inf])
    legs = []
    for part, begin, end in zip(problem.parts, problem.begins, edges[1:], strict=True):
        own, states = (
            np.maximum(times[(times >= begin * (1 - CLOSE)) & (times < end * (1 - CLOSE))], begin)
            for times in (taus, keep)
        )
        saved, kept = own.size, states.size
        if np.isfinite(end):
            own, states = np.append(own, end), np.append(states, end)
        jumps = jumps_of(part.rule, own[-1])
        jumps = jumps[jumps > begin * (1 + CLOSE)]
        own, states = _before(own, jumps), _before(states, jumps)
        stops = _padded(np.append(jumps * (1 - BEFORE), own[-1]), STOPS)
        begin, every, states, stops = map(jnp.asarray, (begin * 1.0, _padded(own), states, stops))
        legs.append(Leg(begin, every, states, stops, saved, kept))
    return tuple(legs)


def _before(times: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """Times (T,), those at one of the ``jumps`` (J,) moved just before it, where what went before still holds."""
    for jump in jumps:
        times = np.where(np.abs(times - jump) <= CLOSE * jump, jump * (1 - BEFORE), times)
    return times


def _padded(taus: np.ndarray, least: int = TIMES) -> np.ndarray:
    """Times with the last repeated: ``least``, or twice, four times .. as many, so that few numbers are compiled."""
    size = max(least, 1 << (taus.size - 1).bit_length())
    return np.append(taus, np.full(size - taus.size, taus[-1]))


def joined(curves: list[dict[str, Any]], legs: tuple[Leg, ...]) -> dict[str, Any]:
    """The curves of a run from those of its legs: those that all of them have."""
    if len(legs) == 1:
        return curves[0]
    shapes = [{name: curve.shape[1:] for name, curve in one.items()} for one in curves]
    names = [name for name in curves[0] if all(one.get(name) == shapes[0][name] for one in shapes)]
    return {
        name: jnp.concatenate([one[name][: leg.saved] for one, leg in zip(curves, legs, strict=True)])
        for name in names
    }


def counted(stats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The counts of all legs of a run: their sum, of bounds the one."""
    return stats[0] | {name: sum(one[name] for one in stats) for name in stats[0] if name != "max_steps"}
