"""Slopes ``s(tau) = -d ln(error) / d tau`` of an error curve: its noise, and how it ends."""

from __future__ import annotations

import numpy as np

#: Parts of both peaks of s below which it falls in a dip between two drops, and on a plateau.
DIP, FLAT = 0.9, 0.5
#: A descent begins and ends where s is this part of its peak.
QUIET = 0.1
#: The smoothing window grows until the noise of s falls below this part of its peak.
SLOPE_NOISE = 0.03
#: Errors below this part of the largest are floor.
FLOOR = 1e-9


def smoothed(tau, log, noise):
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


def prominent(height, least: float) -> list[int]:
    """Local maxima of ``height`` (N,), ends included, that rise by ``least`` or more above the deeper valley beside.

    That is ``scipy.signal.find_peaks`` with its prominence, whose import takes longer than a prediction.
    """
    padded = np.concatenate([[-np.inf], height, [-np.inf]])
    first = np.flatnonzero(np.append(True, np.diff(padded) != 0))  # of every run of equal values
    value, middle = padded[first], (first + np.append(first[1:], padded.size) - 1) // 2 - 1
    found = []
    for k in 1 + np.flatnonzero((value[1:-1] > value[:-2]) & (value[1:-1] > value[2:])):
        higher = np.flatnonzero(value > value[k])
        low, high = (np.append(0, higher[higher < k])[-1], np.append(higher[higher > k], value.size - 1)[0])
        if value[k] - max(np.min(value[low:k]), np.min(value[k + 1 : high + 1])) >= least:
            found.append(int(middle[k]))
    return found


def sinking(tau, error, floor: float, relaxation: float | None = None) -> bool:
    """Whether a curve (T,) ends sinking towards a floor, not on a plateau above it.

    It sinks if the distance to the floor falls slower and slower, as a sum of decays does, but at no less than half of
    the rate at which it will fall in the end: ``1 / relaxation``, or ``1 / (2 tau)``, that of ``1 / sqrt(tau)``, if
    this is smaller or nothing is known. On a plateau it falls slower than that, and has to fall faster later.
    """
    times = float(tau[-1]) * np.array([0.9, 0.95, 1.0])
    away = np.interp(times, tau, error) - floor
    if np.any(away <= 0):
        return True
    earlier, rate = -np.diff(np.log(away)) / np.diff(times)
    least = min(1 / (2 * times[-1]), np.inf if relaxation is None else 1 / relaxation)
    return bool(FLAT * least <= rate <= earlier / DIP)


def ends_slowly(tau, error) -> bool:
    """Whether a curve (T,) falls at its end at less than a tenth of the speed of its steepest drop."""
    log = np.log(np.maximum(error, FLOOR * np.max(error)))
    slope = -np.diff(log) / np.diff(tau)
    return bool(slope[-1] < QUIET * np.max(slope))
