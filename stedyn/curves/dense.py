"""The error curve within the steps of a solver: polynomials through the errors at even parts of every step.

What is read off this curve depends neither on the times at which a solution is saved nor, but for where it ends, on
the horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

#: Straight pieces in which a step is handed out.
PIECES = 64
#: Part of the last piece of a leg by which its end lies before the next leg.
EDGE = 1e-3


class Steps(NamedTuple):
    """Times (N,) of the ends of all steps, and errors (N, K): not finite after the last step.

    Errors are those at ``K`` even parts of the step, the last at its end; the first row, of which only the last
    counts, is the start. With one error a step (or none but N of them) the curve is straight between the steps.
    """

    tau: Any
    error: Any

    def within(self, horizon: float) -> Steps:
        """The steps up to a horizon, as NumPy arrays, without those that only round the end of another."""
        tau = np.asarray(self.tau)
        error = np.asarray(self.error).reshape(tau.size, -1)
        tau = tau[: np.searchsorted(tau, horizon * (1 + 1e-12), side="right")]
        kept = np.flatnonzero(np.diff(tau, prepend=-np.inf) > 1e-12 * horizon)
        return Steps(tau[kept], error[kept])

    def at(self, tau) -> np.ndarray:
        """The errors at times (M,); beyond the ends those of the first and of the last polynomial."""
        step = np.clip(np.searchsorted(self.tau, tau), 1, self.tau.size - 1)
        start, end = self.tau[step - 1], self.tau[step]
        return np.sum(_basis((tau - start) / (end - start), self._parts) * self._nodes[step - 1], -1)

    @property
    def _parts(self) -> int:
        return self.error.shape[1]

    @property
    def _nodes(self) -> np.ndarray:
        """The errors at start and ends of all parts of every step (N - 1, K + 1)."""
        return np.column_stack([self.error[:-1, -1], self.error[1:]])


def _basis(z, parts: int) -> np.ndarray:
    """Lagrange's polynomials of the ends of even parts of (0, 1) at ``z`` (..., K + 1)."""
    z = np.asarray(z)[..., None] * parts
    nodes = np.arange(parts + 1)
    each = [(z - np.delete(nodes, k)) / (k - np.delete(nodes, k)) for k in nodes]
    return np.stack([np.prod(one, -1) for one in each], -1)


def by_leg(steps: Sequence[Steps], legs: int, horizon: float) -> list[Steps]:
    """The steps of every leg of a run up to a horizon, from those that a law returns.

    These are of one mesh, or of two in turn, leg by leg. A third of the difference to the second, which has half the
    cells, is then added, as `stedyn.solve` does with curves.
    """
    within = [one.within(horizon) for one in steps]
    meshes = len(within) // legs
    found = [within[k : k + meshes] for k in range(0, len(within), meshes)]
    return [extrapolated(*leg) if meshes == 2 else leg[0] for leg in found if leg[0].tau.size > 1]


def extrapolated(fine: Steps, coarse: Steps) -> Steps:
    """The steps of ``fine`` with a third of their difference to ``coarse`` added; both NumPy arrays."""
    parts = np.arange(1 - fine._parts, 1) / fine._parts
    times = fine.tau[:, None] + np.diff(fine.tau, prepend=fine.tau[0])[:, None] * parts
    return Steps(fine.tau, fine.error + (fine.error - coarse.at(times.ravel()).reshape(times.shape)) / 3)


def between(*legs: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Times and errors (M,) of a curve, every step in `PIECES` pieces unless it is straight.

    A leg ends just before the next one begins, where the error may jump.
    """
    found = []
    for steps in legs:
        pieces = PIECES if steps._parts > 1 else 1
        z = np.arange(1, pieces + 1) / pieces
        tau = steps.tau[:-1, None] + np.diff(steps.tau)[:, None] * z
        error = steps._nodes @ _basis(z, steps._parts).T
        found.append((np.append(steps.tau[0], tau), np.append(steps.error[0, -1], error)))
    for tau, _ in found[:-1]:
        tau[-1] -= EDGE * (tau[-1] - tau[-2])
    tau, error = map(np.concatenate, zip(*found, strict=True))
    return tau, np.maximum(error, 0.0)
