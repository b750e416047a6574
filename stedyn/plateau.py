r"""Plateaus of an error curve, of theory or simulation, and their closed forms for a small lr.

With ``s(tau) = -d ln(error) / d tau``, a *drop* is a local maximum of ``s`` whose surrounding descent
(the interval where ``s`` exceeds a tenth of the peak) lowers the error by at least 20 %. The *plateau*
before it is the maximal interval that ends where the descent begins and on which ``s`` stays below a
tenth of the peak (``docs``, theory section 7).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ._check import array, checked, fail
from .limit import derive
from .problem import Problem

#: A descent has to lower the error by this fraction, and quiet means s below this part of the peak.
LEAST_DROP, QUIET = 0.2, 0.1
#: The smoothing window grows until the noise of s falls below this part of its peak.
SLOPE_NOISE = 0.03
#: A plateau has to last this many saved intervals; errors below this part of the largest are floor.
RESOLVED, FLOOR = 3, 1e-9


@dataclasses.dataclass(frozen=True)
class Plateau:
    """A plateau and the drop that ends it; times are ``tau = steps / d``.

    Attributes
    ----------
    start, end, length : float
        Its interval; ``length = end - start``.
    height, next_height : float
        Mean error on it, and on the quiet stretch after the drop (or at the end of the curve).
    escape : float
        When the error crosses the mean of the two heights.
    """

    start: float
    end: float
    length: float
    height: float
    next_height: float
    escape: float

    def to_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)

    def __str__(self):
        return (
            f"tau {self.start:.4g} to {self.end:.4g} (length {self.length:.4g}) at error {self.height:.4g}, "
            f"then {self.next_height:.4g}; escape at tau = {self.escape:.4g}"
        )


@checked()
def find_plateaus(tau, error, noise=None) -> list[Plateau]:
    """All plateaus of a curve, in time order; a pure decay and a final floor are none.

    Parameters
    ----------
    tau, error : (T,)
        Increasing times and positive errors.
    noise : float or (T,), optional
        Relative standard error of ``error``. By default it is estimated from second differences, which
        misses noise that is correlated in time: pass the spread of an ensemble over its seeds.

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
    log = np.log(np.maximum(error, FLOOR * np.max(error)))
    time, log, sigma = _smoothed(tau, log, noise)
    slope = -np.diff(log) / np.diff(time)
    drops = sorted(_drops(slope, log), key=lambda drop: drop[1])
    found = []
    for n, (peak, left, right) in enumerate(drops):
        quiet = slope <= QUIET * slope[peak]
        earliest = drops[n - 1][2] + 1 if n else 0
        latest = drops[n + 1][1] - 1 if n + 1 < len(drops) else slope.size - 1
        first = _quiet_run(quiet, log, left, earliest, -1, 3 * sigma)
        last = _quiet_run(quiet, log, right, latest, 1, 3 * sigma)
        if left - first >= RESOLVED:
            # it begins where s falls below a tenth of its own peak, or where the descent before it ends
            before = drops[n - 1][0] if n and first == earliest else peak
            curve = np.interp(time, tau, error)
            found.append(_measure(time, curve, slope, peak, before, first, left, right, last))
    return found


def _smoothed(tau, log, noise):
    """The curve on a uniform grid, smoothed as far as its noise demands, and that noise."""
    if noise is None:
        bend = np.diff(log, 2)
        noise = 1.4826 * np.median(np.abs(bend - np.median(bend))) / np.sqrt(6)
        uniform = np.allclose(np.diff(tau), tau[1] - tau[0], rtol=1e-3)
        noise = noise if uniform else 0.0
    sigma = float(np.median(np.broadcast_to(noise, log.shape)))
    if sigma <= 0:
        return tau, log, 0.0
    from scipy.signal import savgol_filter  # slow to import

    time = np.linspace(tau[0], tau[-1], tau.size)
    level = np.interp(time, tau, log)
    spacing = time[1] - time[0]
    for window in range(3, max(4, tau.size // 4), 2):
        smooth = savgol_filter(level, window, 1, mode="interp")
        peak = np.max(-np.diff(smooth)) / spacing
        if sigma * np.sqrt(12 / window**3) / spacing <= SLOPE_NOISE * peak:
            break
    return time, smooth, sigma


def _quiet_run(quiet, log, edge, stop, step, slack):
    """Last interval of the quiet stretch that borders ``edge``; excursions within the noise are ignored."""
    k = edge
    while k != stop:
        j = k + step
        while not quiet[j] and j != stop:
            j += step
        low, high = min(k + step, j), max(k + step, j)
        if j != k + step and abs(log[low] - log[high + 1]) > slack or (j == k + step and not quiet[j]):
            break
        k = j
    return k


def _drops(slope, log):
    """Peaks of the slope, highest first, with the first and last interval of their descent."""
    padded = np.concatenate([[-np.inf], slope, [-np.inf]])
    peaks = np.flatnonzero((padded[1:-1] > padded[:-2]) & (padded[1:-1] >= padded[2:]))
    taken = np.zeros(slope.size, bool)
    for peak in sorted(peaks, key=lambda k: -slope[k]):
        if taken[peak] or slope[peak] <= 0:
            continue
        left = right = peak
        while left > 0 and slope[left - 1] > QUIET * slope[peak] and not taken[left - 1]:
            left -= 1
        while right < slope.size - 1 and slope[right + 1] > QUIET * slope[peak] and not taken[right + 1]:
            right += 1
        taken[left : right + 1] = True
        if log[left] - log[right + 1] >= -np.log(1 - LEAST_DROP):
            yield peak, left, right


def _measure(time, error, slope, peak, before, first, left, right, last):
    """The plateau on intervals ``first .. left - 1`` before the descent ``left .. right``."""
    middle, limit = 0.5 * (time[1:] + time[:-1]), QUIET * slope[peak]
    end = np.interp(limit, slope[left - 1 : left + 1], middle[left - 1 : left + 1])
    begin, descent = time[first], QUIET * slope[before]
    if first > 0 and slope[first - 1] > descent:
        begin = np.interp(-descent, -slope[first - 1 : first + 1], middle[first - 1 : first + 1])
    height = _mean(time, error, begin, end)
    after = error[right + 1] if last == right else _mean(time, error, time[right + 1], time[last + 1])
    target = 0.5 * (height + after)
    span = slice(first, last + 2)
    escape = time[first] + _time_above(time[span], error[span], target)
    return Plateau(*map(float, (begin, end, end - begin, height, after, escape)))


def simulated_times(
    plateau: Plateau, before: Plateau | None, tau, predicted, simulated
) -> tuple[float, float] | None:
    """Length and escape of a predicted plateau in a simulated curve (T,); None if that does not escape.

    Where a descent begins is a matter of slopes, and the smoothing that slopes of a noisy curve need moves it by
    more than its standard error. Instead: how much longer than the predicted curve (T,) does the simulated one
    stay above the errors at which a tenth and a half of the drop are done, and how much longer does the last
    tenth of the drop from the plateau ``before`` (or from the start) take?
    """
    height, drop = plateau.height, plateau.height - plateau.next_height
    late = tau >= 0.5 * (plateau.start + plateau.end)
    if np.all(simulated[late] > height - 0.5 * drop):
        return None

    def delay(level, part):
        above = [_time_above(tau[part], curve[part], level) for curve in (simulated, predicted)]
        return above[0] - above[1]

    arrival = max((predicted[0] if before is None else before.height) - height, 0.0)
    begin = delay(height + 0.1 * arrival, ~late) if plateau.start > tau[0] else 0.0
    end, escape = (delay(height - part * drop, late) for part in (0.1, 0.5))
    return plateau.length + end - begin, plateau.escape + escape


def _time_above(time, error, target):
    """Time a piecewise linear curve spends above a value: for a noisy descent, an unbiased crossing."""
    over = error - target
    high, low = np.maximum(over[:-1], over[1:]), np.minimum(over[:-1], over[1:])
    part = np.clip(high / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    return np.sum(np.diff(time) * np.where(high > low, part, high > 0))


def _mean(time, error, begin, end):
    """Time average of the error over an interval."""
    inside = (time > begin) & (time < end)
    t = np.concatenate([[begin], time[inside], [end]])
    return np.trapezoid(np.interp(t, time, error), t) / (end - begin)


@dataclasses.dataclass(frozen=True)
class Stair:
    """A level held by the weights of one class, from ``enter`` to ``leave`` (infinite: it is kept)."""

    level: float
    enter: float
    leave: float


@checked(problem=Problem)
def small_lr_stairs(problem: Problem) -> list[Stair]:
    r"""Levels that a weight passes as ``lr -> 0``, with their times in ``tau = steps / d``.

    A weight on level ``psi_k`` moves at speed ``a w* - b psi_k`` (for SGD ``lr (k1 w* - k2 psi_k)``) and
    leaves it after distance / speed; it stays at the threshold where the speed changes sign. Mid-tread
    weights started at 0 leave at ``(step/2) / (lr k1 w*)``; mid-rise weights climb a staircase whose
    stair ``k`` lasts ``step / (lr (k1 w* - k2 psi_k))`` (``docs``, theory section 7).

    Raises
    ------
    ValueError
        Unless teacher and start are each centred on one value and weights are rounded to the nearest level.
    """
    if problem.teacher.kind not in ("constant", "rademacher") or problem.start.mean is None:
        fail(
            "teacher",
            "one value (constant or rademacher) and a start around one value",
            problem.teacher.kind,
            "use solve(problem, law='fluid') for distributions",
        )
    if problem.weights.is_none or problem.weights.rounding != "nearest":
        fail("weights", "a quantizer that rounds to the nearest level", problem.weights.kind, "choose one")
    if problem.covariance.kind != "identity":
        fail(
            "covariance", "inputs of one variance", problem.covariance.kind, "use solve(problem, law='fluid')"
        )
    limit = derive(problem, 2)
    a, b = (float(x[-1]) for x in limit.coefficients(limit.rho, 0.0)[:2])
    force = a * float(limit.teacher[-1])
    levels, thresholds = np.asarray(limit.levels), np.asarray(limit.pieces.breaks)
    w = float(np.asarray(problem.start.mean))
    k = int(np.searchsorted(thresholds, w, side="right"))
    now = 0.0
    stairs: list[Stair] = []
    while True:
        speed = force - b * float(levels[k])
        speed = 0.0 if abs(speed) < 1e-12 * abs(force) else speed
        onward = 1 if speed > 0 else -1
        edge = k if speed > 0 else k - 1
        stays = speed == 0 or not 0 <= edge < thresholds.size
        if stairs and not stays and (levels[k] - stairs[-1].level) * onward < 0:
            stays = True  # pushed back to the threshold it came from: it chatters there
        if stays:
            return [*stairs, Stair(float(levels[k]), now, np.inf)]
        leave = now + (float(thresholds[edge]) - w) / speed
        stairs.append(Stair(float(levels[k]), now, leave))
        now, w, k = leave, float(thresholds[edge]), k + onward
