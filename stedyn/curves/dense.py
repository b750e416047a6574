"""The error curve between the steps of a solver: cubic pieces through the errors at all steps.

What is read off this curve depends neither on the times at which a solution is saved nor, but for where it ends, on
the horizon.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

#: Straight pieces in which a step is handed out.
PARTS = 16


class Steps(NamedTuple):
    """Times and errors at the ends of all steps: arrays (N,), not finite after the last step.

    The derivative of the error at a step is of no use: it is that of the fast modes, which a step that is long for
    them leaves unrelaxed, and was wrong by up to a factor 4.
    """

    tau: Any
    error: Any

    def within(self, horizon: float) -> Steps:
        """The steps up to a horizon, as NumPy arrays, without those that only round the end of another."""
        tau = np.asarray(self.tau)
        tau = tau[: np.searchsorted(tau, horizon * (1 + 1e-12), side="right")]
        kept = np.flatnonzero(np.diff(tau, prepend=-np.inf) > 1e-12 * horizon)
        return Steps(tau[kept], np.asarray(self.error)[kept])


def extrapolated(fine: Steps, coarse: Steps) -> Steps:
    """The steps of ``fine`` with a third of their difference to ``coarse`` added, as `stedyn.solve` does with curves.

    Both are NumPy arrays, ``coarse`` of half the cells.
    """
    return Steps(fine.tau, fine.error + (fine.error - _pieces(coarse)(fine.tau)) / 3)


def between(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Times and errors (M,) of the cubic curve, every step in `PARTS` parts."""
    tau = np.asarray(steps.tau)
    fine = np.append((tau[:-1, None] + np.diff(tau)[:, None] * np.arange(PARTS) / PARTS).ravel(), tau[-1])
    return fine, np.maximum(_pieces(steps)(fine), 0.0)


def _pieces(steps: Steps):
    """Cubic pieces with the slopes of the spline, limited so that they stay between the errors at their ends.

    A slope is at most three times the smaller of the two neighbouring difference quotients, and 0 where these differ in
    sign (Fritsch and Carlson 1980).
    """
    from scipy.interpolate import CubicHermiteSpline, CubicSpline  # slow to import

    quotient = np.diff(steps.error) / np.diff(steps.tau)
    left, right = np.concatenate([quotient[:1], quotient]), np.concatenate([quotient, quotient[-1:]])
    most = np.where(left * right > 0, 3 * np.minimum(np.abs(left), np.abs(right)), 0.0)
    up, down = np.where(left > 0, most, 0.0), np.where(left < 0, most, 0.0)
    slope = CubicSpline(steps.tau, steps.error)(steps.tau, 1)
    return CubicHermiteSpline(steps.tau, steps.error, np.clip(slope, -down, up))
