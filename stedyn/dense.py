"""The error curve between the steps of a solver: cubic pieces from the error and its derivative at every step.

What is read off this curve depends neither on the times at which a solution is saved nor, but for where it ends, on
the horizon.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

#: Straight pieces in which a step is handed out.
PARTS = 16


class Steps(NamedTuple):
    """Error and ``slope = d error / d tau`` at the ends of all steps: arrays (N,), not finite after the last step.

    Without slopes (None) they are samples of a curve in closed form.
    """

    tau: Any
    error: Any
    slope: Any

    def within(self, horizon: float) -> Steps:
        """The steps up to a horizon, as NumPy arrays, without those that only round a saved time."""
        tau = np.asarray(self.tau)
        tau = tau[: np.searchsorted(tau, horizon * (1 + 1e-12), side="right")]
        kept = np.flatnonzero(np.diff(tau, prepend=-np.inf) > 1e-12 * horizon)
        return Steps(*(None if x is None else np.asarray(x)[kept] for x in self))


def extrapolated(fine: Steps, coarse: Steps) -> Steps:
    """The steps of ``fine`` with a third of their difference to ``coarse`` added, as `stedyn.solve` does with curves.

    Both are NumPy arrays, ``coarse`` of half the cells.
    """
    other = _pieces(coarse)
    error = fine.error + (fine.error - other(fine.tau)) / 3
    return Steps(fine.tau, error, fine.slope + (fine.slope - other(fine.tau, 1)) / 3)


def between(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Times and errors (M,) of the cubic curve, every step in `PARTS` parts, or the samples of a closed form."""
    tau = np.asarray(steps.tau)
    if steps.slope is None:
        return tau, np.maximum(steps.error, 0.0)
    fine = np.append((tau[:-1, None] + np.diff(tau)[:, None] * np.arange(PARTS) / PARTS).ravel(), tau[-1])
    return fine, np.maximum(_pieces(steps)(fine), 0.0)


def _pieces(steps: Steps):
    """Cubic pieces with the slopes of the steps, limited so that they stay between the errors at their ends.

    A slope is at most three times the smaller of the two neighbouring difference quotients, and 0 where these differ in
    sign (Fritsch and Carlson 1980).
    """
    from scipy.interpolate import CubicHermiteSpline  # slow to import

    quotient = np.diff(steps.error) / np.diff(steps.tau)
    left, right = np.concatenate([quotient[:1], quotient]), np.concatenate([quotient, quotient[-1:]])
    most = np.where(left * right > 0, 3 * np.minimum(np.abs(left), np.abs(right)), 0.0)
    up, down = np.where(left > 0, most, 0.0), np.where(left < 0, most, 0.0)
    return CubicHermiteSpline(steps.tau, steps.error, np.clip(steps.slope, -down, up))
