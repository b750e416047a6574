"""All fixed points of the limit: the roots of ``V = noise_std^2 + error(V)``."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar

from ..code.compiling import Program
from .limit import Limit
from .stationary import root, scan, stationary_error

#: Residual variances at which the equation is evaluated to find all its roots.
POINTS = 401


class Searched(NamedTuple):
    """Where fixed points were looked for: errors from ``low`` to ``high``, ``points`` values of ``V`` in equal ratios.

    Pairs between two of them were looked for by minimizing the gap of the equation. See ``docs/fixed-points.md`` for
    what may lie outside.
    """

    low: float
    high: float
    points: int


@Program
def _scan(limit: Limit):
    return scan(limit, POINTS)


@Program
def error_and_slope(limit: Limit, V):
    """Stationary error at a residual variance, and its slope there."""
    return jax.jvp(lambda v: stationary_error(limit, v), (V,), (jnp.ones_like(V),))


@Program
def _refine(limit: Limit, low, high):
    """Error at the root between two values of ``V``, and the slope of ``error(V)`` there."""
    return error_and_slope(limit, root(limit, low, high))


def find_roots(limit: Limit) -> tuple[list[tuple[float, float]], Searched, bool]:
    """``(error, slope)`` of all fixed points by increasing error, and whether the first is where all weights stop."""
    grid, gap, moving = (np.asarray(x) for x in _scan(limit))
    noise = float(limit.noise_var)
    searched = Searched(max(0.0, float(grid[0]) - noise), float(grid[-1]) - noise, POINTS)
    found, freezes = [], False
    if gap[0] < 0:  # only without noise: the error shrinks below all bounds, or until nothing moves
        freezes = bool(moving > grid[0])
        at = float(moving) - noise if freezes else 0.0
        found.append((at, 0.0 if freezes else float(1 + gap[0] / grid[0])))
    for low, high in brackets(limit, grid, gap):
        error, slope = _refine(limit, jnp.asarray(low), jnp.asarray(high))
        found.append((float(error), float(slope)))
    return found, searched, freezes


def brackets(limit: Limit, grid, gap) -> list[tuple[float, float]]:
    """Intervals in which the gap changes its sign once, pairs of roots between two neighbours included."""
    above, log, relative = gap >= 0, np.log(grid), gap / grid
    found = [(grid[k], grid[k + 1]) for k in np.flatnonzero(above[:-1] != above[1:])]
    size = np.abs(relative)
    alike = (above[:-2] == above[1:-1]) & (above[1:-1] == above[2:])
    # neighbours that are higher by rounding alone, as for weights without levels, hide no pair
    rounding = 64 * np.finfo(float).eps * (1 + float(limit.power) / grid[1:-1])
    alike &= (size[1:-1] < size[:-2]) & (size[1:-1] <= size[2:])
    for k in 1 + np.flatnonzero(alike & (np.maximum(size[:-2], size[2:]) - size[1:-1] > rounding)):
        sign = 1.0 if above[k] else -1.0

        def height(x, sign=sign):
            V = np.exp(x)
            return sign * (
                (float(limit.noise_var) + float(error_and_slope(limit, jnp.asarray(V))[0])) / V - 1
            )

        lowest = minimize_scalar(
            height, bounds=(log[k - 1], log[k + 1]), method="bounded", options={"xatol": 1e-7}
        )
        if lowest.fun < 0:
            touch = float(np.exp(lowest.x))
            found += [(grid[k - 1], touch), (touch, grid[k + 1])]
    return sorted(found)
