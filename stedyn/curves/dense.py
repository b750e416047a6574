"""The error curve between the steps of a solver: cubic pieces through the errors at all steps, and within long ones.

What is read off this curve depends neither on the times at which a solution is saved nor, but for where it ends, on
the horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

#: Straight pieces in which the curve between two errors is handed out.
PIECES = 16
#: Part of the last piece of a section by which its end lies before the next section.
EDGE = 1e-3
#: A step that ends so close to a jump, relative to it, ends there.
CLOSE = 1e-9


class Steps(NamedTuple):
    """Times (N,) of the ends of all steps, and errors (N,) there: not finite after the last step.

    Or errors (N, K) at ``K`` even parts of every step, the last at its end: steps of high order are long. The first row
    is the start.

    The derivative of the error at a step is of no use: it is that of the fast modes, which a step that is long for
    them leaves unrelaxed, and was wrong by up to a factor 4. Within a step of order 3 its polynomial is as accurate as
    the step was asked to be, but not as smooth as the pieces through the ends, which are better: slopes of the
    logarithm went up and down by 6 %.
    """

    tau: Any
    error: Any

    def within(self, horizon: float) -> Steps:
        """The errors up to a horizon, as NumPy arrays (M,), without steps that only round the end of another."""
        tau = np.asarray(self.tau)
        tau = tau[: np.searchsorted(tau, horizon * (1 + 1e-12), side="right")]
        kept = np.flatnonzero(np.diff(tau, prepend=-np.inf) > 1e-12 * horizon)
        tau, error = tau[kept], np.asarray(self.error).reshape(len(self.tau), -1)[kept]
        parts = np.arange(1 - error.shape[1], 1) / error.shape[1]
        inside = tau[1:, None] + np.diff(tau)[:, None] * parts
        return Steps(np.append(tau[:1], inside), np.append(error[:1, -1], error[1:]))

    def sections(self, jumps) -> list[Steps]:
        """The curve cut at the times ``jumps`` at which its slope jumps and a step ends."""
        cuts = np.unique(np.searchsorted(self.tau, np.asarray(jumps) * (1 - CLOSE)))
        edges = [0, *cuts[(cuts > 0) & (cuts < self.tau.size - 1)], self.tau.size - 1]
        return [
            Steps(self.tau[a : b + 1], self.error[a : b + 1]) for a, b in zip(edges, edges[1:], strict=False)
        ]


def smooth_sections(steps: Sequence[Steps], legs: int, horizon: float, jumps) -> list[Steps]:
    """The sections of a run up to a horizon, from the steps that a law returns for its ``legs``.

    These are of one mesh, or of two in turn, leg by leg. A third of the difference to the second, which has half the
    cells, is then added, as `stedyn.solve` does with curves.
    """
    meshes, found = len(steps) // legs, []
    for k in range(0, len(steps), meshes):
        fine, *coarse = (one.within(horizon) for one in steps[k : k + meshes])
        if fine.tau.size < 2:
            continue
        parts = fine.sections(jumps)
        if coarse:
            others = coarse[0].sections(jumps)
            parts = list(map(extrapolated, parts, others + others[-1:] * len(parts)))
        found += parts
    return found


def extrapolated(fine: Steps, coarse: Steps) -> Steps:
    """The steps of ``fine`` with a third of their difference to ``coarse`` added; both NumPy arrays."""
    return Steps(fine.tau, fine.error + (fine.error - _pieces(coarse)(fine.tau)) / 3)


def between(*sections: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Times and errors (M,) of a curve, cubic in every section, that between two errors in `PIECES` pieces.

    A section ends just before the next one begins, where the error may jump.
    """
    found = []
    for steps in sections:
        inner = steps.tau[:-1, None] + np.diff(steps.tau)[:, None] * np.arange(PIECES) / PIECES
        tau = np.append(inner, steps.tau[-1])
        found.append((tau, np.maximum(_pieces(steps)(tau), 0.0)))
    for tau, _ in found[:-1]:
        tau[-1] -= EDGE * (tau[-1] - tau[-2])
    tau, error = map(np.concatenate, zip(*found, strict=True))
    return tau, error


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
