r"""Plateaus of an error curve, of theory or simulation (``docs/plateaus.md``).

Slopes find the drops: with ``s(tau) = -d ln(error) / d tau``, two *drops* are two peaks of ``s`` between which it falls
below nine tenths of the lower one, so that the error falls by 1 % less; a drop lowers the error by at least 20 % from
the flattest place before it to the flattest after it. Before it lies a *plateau* if ``s`` falls below half of its peak
there, and of that of the drop before.

Errors measure them: a plateau starts where nine tenths of the drop before it are done (or where the curve starts), ends
where a tenth of its own drop is done, and the curve escapes from it at half.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..checks import array, checked, fail
from .slopes import DIP, FLAT, FLOOR, QUIET, prominent, sinking, smoothed

#: A drop has to lower the error by this fraction.
LEAST_DROP = 0.2
#: Part of the error that a dip has to save, more than the steps of a solver make up.
RESOLVED = 0.01
#: Parts of a drop that are done where a plateau ends, where the curve escapes, and where the next plateau starts.
END, ESCAPE, START = 0.1, 0.5, 0.9
#: A descent is over once it is quiet for this part of its time.
OVER = 0.1
#: A curve is falling at its end once it is that far below its plateau.
BEGUN = 0.02
#: A drop is over as well where this part of the error before it is left.
LEFT = 0.05
#: Slopes below this part of the largest are 0.
LEVEL = 1e-9


@dataclasses.dataclass(frozen=True)
class Plateau:
    """A plateau and the drop that ends it; times are ``tau = steps / d``.

    Attributes
    ----------
    start : float
        Where nine tenths of the drop before it are done, or where the curve starts.
    end, length : float or None
        Where a tenth of its own drop is done; ``length = end - start``. None if the curve ends before its drop is over.
    height : float
        The error where the curve is flattest before the drop: where it last stops to rise, or falls least.
    next_height : float or None
        The error where the curve is flattest before the next drop. After the last: where it first stops to fall, or
        falls least, within the time that the drop took, counted from where s is a tenth of its peak.
    escape : float or None
        Where half of the drop is done.
    falling : bool
        Whether the curve ends within the drop.
    """

    start: float
    end: float | None
    length: float | None
    height: float
    next_height: float | None
    escape: float | None
    falling: bool = False

    @property
    def open(self) -> bool:
        """Whether the curve ends before the drop is over."""
        return self.end is None

    def to_dict(self) -> dict[str, float | bool | None]:
        return dataclasses.asdict(self)

    def __str__(self):
        if self.open:
            state = "falling" if self.falling else "still flat"
            return f"from tau {self.start:.4g} on at error {self.height:.4g}, {state} at the horizon"
        return (
            f"tau {self.start:.4g} to {self.end:.4g} (length {self.length:.4g}) at error {self.height:.4g}, "
            f"then {self.next_height:.4g}; escape at tau = {self.escape:.4g}"
        )


@checked()
def find_plateaus(
    tau, error, noise=None, *, floor: float | None = None, sinks: bool | None = None
) -> list[Plateau]:
    """All plateaus of a curve, in time order; a pure decay and a final floor are none.

    Parameters
    ----------
    tau, error : (T,)
        Increasing times and positive errors.
    noise : float or (T,), optional
        Relative standard error of ``error``. By default it is estimated from second differences, which
        misses noise that is correlated in time: pass the spread of an ensemble over its seeds.
    floor : float, optional
        The error to which the curve falls in the end, beyond its last time. A curve that ends flat, at least 20 % above
        it, ends on a plateau, which is open, unless it sinks towards the floor. By default a curve that ends flat is
        taken to have arrived.
    sinks : bool, optional
        Whether its end sinks towards the floor. By default this is decided by the curve alone (see `sinking`).

    Raises
    ------
    ValueError
        If the arrays are not of one length, not increasing, or not positive.
    """
    tau, error = array("tau", tau), array("error", error)
    if tau.ndim != 1 or tau.shape != error.shape or tau.size < 2 or np.any(np.diff(tau) <= 0):
        fail(
            "tau",
            "increasing times, as many as errors",
            f"shapes {tau.shape} and {error.shape}",
            "check them",
        )
    if not np.all(np.isfinite(error)) or np.any(error < 0):
        fail("error", "finite numbers that are not negative", float(np.min(error)), "check the curve")
    if tau.size < 5 or np.all(error <= 0):
        return []
    return _Curve(tau, error, noise).plateaus(floor, sinks)


@dataclasses.dataclass(frozen=True)
class _Drop:
    """A descent: its first and last interval, the peak of s, and the nodes where the curve is flattest around it."""

    left: int
    right: int
    peak: float
    before: int
    after: int


class _Curve:
    """A curve on nodes (T,): ``raw`` errors, ``log`` smoothed as far as the noise demands, ``slope`` s in between."""

    def __init__(self, tau, error, noise):
        log = np.log(np.maximum(error, FLOOR * np.max(error)))
        self.time, self.log, self.sigma = smoothed(tau, log, noise)
        self.raw = np.interp(self.time, tau, error)
        self.level = np.exp(self.log) if self.sigma > 0 else self.raw
        slope = -np.diff(self.log) / np.diff(self.time)
        self.slope = np.where(np.abs(slope) > LEVEL * np.max(np.abs(slope)), slope, 0.0)
        peaks = self._peaks(FLAT if self.sigma > 0 else DIP)
        dips = [self._dip(a, b) for a, b in zip(peaks, peaks[1:], strict=False)]
        self.drops = []
        for n, peak in enumerate(peaks):
            fast = self.slope > QUIET * self.slope[peak]
            left = peak - int(np.argmin(np.append(fast[: peak + 1][::-1], False))) + 1
            right = peak + int(np.argmin(np.append(fast[peak:], False))) - 1
            before = dips[n - 1] if n else self._flattest(0, left, last=True)
            wait = self.time[right + 1] + self.time[right + 1] - self.time[left]
            stop = min(self.slope.size, int(np.searchsorted(self.time, wait)))
            after = dips[n] if n < len(dips) else self._flattest(right + 1, stop, last=False)
            self.drops.append(_Drop(left, right, self.slope[peak], before, after))

    def _peaks(self, dip: float) -> list[int]:
        """Intervals of the peaks of s that are drops: told apart by dips, and each lowers the error enough."""
        fall = np.log(np.maximum(self.slope, np.max(self.slope) * LEVEL)) if np.any(self.slope > 0) else []
        if not np.size(fall):
            return []
        peaks = prominent(fall, -np.log(dip))
        n = 1
        while n < len(peaks):
            a, b = peaks[n - 1 : n + 1]
            saved = np.maximum(min(self.slope[a], self.slope[b]) - self.slope[a:b], 0.0)
            if saved @ np.diff(self.time[a : b + 1]) >= RESOLVED:
                n += 1
            else:
                peaks.pop(n if self.slope[a] >= self.slope[b] else n - 1)
                n = max(n - 1, 1)
        while peaks:
            edges = [0, *(self._dip(a, b) for a, b in zip(peaks, peaks[1:], strict=False)), self.log.size - 1]
            drops = -np.diff(self.log[edges])
            least = int(np.argmin(drops))
            top = np.max(self.log[edges[least] : peaks[least] + 1])
            drops[least] = top - self.log[edges[least + 1]]
            if drops[least] >= -np.log(1 - LEAST_DROP):
                break
            peaks.pop(least)
        return peaks

    def _dip(self, one: int, other: int) -> int:
        """The node where the curve is flattest between two peaks of s."""
        return self._flattest(one, other + 1, last=True)

    def _flattest(self, first: int, stop: int, last: bool) -> int:
        """The node in the intervals ``first .. stop - 1`` where the curve does not fall (first or last), or least."""
        if first >= stop:
            return first
        part = self.slope[first:stop]
        still = np.flatnonzero(part <= 0)
        if still.size:
            return first + int(still[-1] + 1 if last else still[0])
        flattest = int(np.argmin(part))
        return first + flattest + (flattest > 0)

    def plateaus(self, floor: float | None, sinks: bool | None) -> list[Plateau]:
        """The plateaus before all drops, and the one on which the curve ends."""
        found = []
        for n, drop in enumerate(self.drops):
            times = [self._crossing(drop, part) for part in (END, ESCAPE, START)]
            cut = self.time[-1] - self.time[drop.right + 1] < OVER * (times[2] - times[0])
            falling = n == len(self.drops) - 1 and cut and self.level[-1] > LEFT * self.level[drop.before]
            least = np.min(self.slope[max(drop.before - 1, 0) : drop.before + 1])
            if least >= FLAT * min(drop.peak, self.drops[n - 1].peak if n else np.inf):
                continue
            start, height = self._start(n, drop.before), float(self.level[drop.before])
            if falling:
                found.append(Plateau(start, None, None, height, None, None, True))
            else:
                end, escape = times[:2]
                found.append(Plateau(start, end, end - start, height, float(self.level[drop.after]), escape))
        return found + ([] if floor is None else self._last(floor, sinks))

    def _last(self, floor: float, sinks: bool | None) -> list[Plateau]:
        """The plateau on which the curve ends, if there is one and the floor lies below it."""
        drop = self.drops[-1] if self.drops else None
        begin = 0 if drop is None else drop.right + 1
        if begin >= self.slope.size or (sinking(self.time, self.level, floor) if sinks is None else sinks):
            return []
        node = self._flattest(begin, self.slope.size, last=True)
        peak = np.max(self.slope) if drop is None else drop.peak
        quiet = np.sum(np.diff(self.time[begin:])[self.slope[begin:] <= QUIET * peak])
        least = 0.0 if drop is None else OVER * (self._crossing(drop, START) - self._crossing(drop, END))
        if quiet <= least or floor >= (1 - LEAST_DROP) * self.level[-1]:
            return []
        change = 1 - self.level[-1] / self.level[node]
        falling = bool(change > BEGUN and self.slope[-1] > QUIET * peak)
        if not falling and (change > LEAST_DROP or -self.slope[-1] > QUIET * max(peak, 0.0)):
            return []
        start = self._start(len(self.drops), node)
        return [Plateau(start, None, None, float(self.level[node]), None, None, falling)]

    def _start(self, n: int, node: int) -> float:
        """Start of the plateau before drop ``n``, whose height is the level at ``node``."""
        before = self.drops[n - 1] if n else None
        top = int(np.argmax(self.level[: node + 1])) if before is None else before.after
        fall = self.level[top] - self.level[node]
        if fall >= LEAST_DROP * self.level[top]:
            return self._time(self.level[top] - START * fall, top, node)
        return float(self.time[0]) if before is None else self._crossing(before, START)

    def _crossing(self, drop: _Drop, part: float) -> float:
        """When a part of a drop is done."""
        high, low = self.level[[drop.before, drop.after]]
        return self._time(high - part * (high - low), drop.before, drop.after)

    def _time(self, target, first: int, last: int) -> float:
        """When the curve crosses a value between two nodes."""
        nodes = slice(first, last + 1)
        return float(self.time[first] + _time_above(self.time[nodes], self.raw[nodes], target))


def simulated_times(
    plateau: Plateau, before: Plateau | None, tau, predicted, simulated
) -> tuple[float, float] | None:
    """Length and escape of a predicted plateau in a simulated curve (T,); None if that does not escape.

    Both are timed by the same errors: how much longer than the predicted curve (T,) does the simulated one stay above
    those at which a tenth and a half of the drop are done, and how much longer does the last tenth of the drop from
    the plateau ``before`` (or from the start) take?
    """
    if plateau.end is None or plateau.length is None or plateau.escape is None or plateau.next_height is None:
        return None
    height, drop = plateau.height, plateau.height - plateau.next_height
    late = tau >= 0.5 * (plateau.start + plateau.end)
    if np.all(simulated[late] > height - ESCAPE * drop):
        return None

    def delay(level, part):
        above = [_time_above(tau[part], curve[part], level) for curve in (simulated, predicted)]
        return above[0] - above[1]

    arrival = max((predicted[0] if before is None else before.height) - height, 0.0)
    begin = delay(height + (1 - START) * arrival, ~late) if plateau.start > tau[0] else 0.0
    end, escape = (delay(height - part * drop, late) for part in (END, ESCAPE))
    return plateau.length + end - begin, plateau.escape + escape


def _time_above(time, error, target):
    """Time a piecewise linear curve spends above a value: for a noisy descent, an unbiased crossing."""
    over = error - target
    high, low = np.maximum(over[:-1], over[1:]), np.minimum(over[:-1], over[1:])
    part = np.clip(high / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    return np.sum(np.diff(time) * np.where(high > low, part, high > 0))
