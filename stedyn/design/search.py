"""Minimizing an objective over the range: a scan with the crossings of levels, then refinement of candidates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import optimize

from ..limit.limit import derive
from .predictor import Predictor, side_by_side

#: Local minima of the scan that are refined: the best ones, if within this factor of the best of all.
CANDIDATES, CLOSE = 3, 1.3
#: Teachers of at most this many classes put their crossings into the scan.
FEW = 8
#: Evaluations that refine a candidate, and relative accuracy of the range.
REFINE, ACCURACY = {True: 24, False: 10}, 1e-3
#: The interval of the objective is where it exceeds its least value by this part, found in these steps.
EXCESS = 0.01
_STEPS = np.cumprod(np.r_[1.005, np.linspace(1.01, 1.3, 16)])


class Candidate(NamedTuple):
    """A refined minimum: range, value, interval within 1 %, whether at an edge, and the other minima found."""

    range: float
    value: float
    interval: tuple[float, float]
    at_edge: bool
    others: tuple[tuple[float, float], ...]


def best_range(
    predictor: Predictor,
    lr: float,
    bounds: tuple[float, float],
    points: int,
    bar,
    interval: bool = True,
    known: Iterable[float] = (),
) -> Candidate:
    """The best range between two bounds at one learning rate; without an ``interval`` that is the range itself.

    No range that is ``known`` (those of calibration rules) is better, by the exact law.
    """
    even = np.geomspace(bounds[0], bounds[1], points)
    grid = np.unique(np.concatenate([even, _crossings(predictor, lr, bounds)]))
    scanned = []
    for outcome in side_by_side(lambda width: predictor.scan(width, lr), grid):
        scanned.append(outcome)
        if bar is not None and len(scanned) <= points:
            bar.update()
    values, errors = np.array(scanned).T
    if not np.any(np.isfinite(values)):
        k = int(np.argmin(errors))
        return Candidate(float(grid[k]), np.inf, (float(grid[k]),) * 2, False, ())

    def searched(r):
        return predictor.search(r, lr).value

    def exact(r):
        return predictor.exact(r, lr).value

    def refined(k):
        return _refined(searched, exact, grid, k, REFINE[fixed])

    fixed = predictor.by_fixed_point
    minima = sorted(side_by_side(refined, _minima(values, errors, fixed)), key=lambda pair: pair[1])
    inside = sorted({r for r in known if bounds[0] <= r <= bounds[1]})
    width, value = min(
        [*minima, *zip(inside, side_by_side(exact, inside, alone=0), strict=True)], key=lambda pair: pair[1]
    )
    low, high = width, width
    if interval:
        least = searched(width)
        low, high = side_by_side(
            lambda side: _interval(searched, width, least, bounds, side), (-1, 1), alone=0
        )
    edge = width <= bounds[0] * (1 + ACCURACY) or width >= bounds[1] * (1 - ACCURACY)
    others = tuple((r, v) for r, v in minima if not low <= r <= high)
    return Candidate(width, value, (low, high), edge, others)


def _crossings(predictor: Predictor, lr: float, bounds) -> np.ndarray:
    """Ranges at which a level meets the value ``a c / b`` to which a weight of a class is driven."""
    problem = predictor.at(bounds[0], lr).timeless
    data = problem.teacher.data
    if problem.teacher.kind == "gaussian" or data is not None and data.atoms is None:
        return np.zeros(0)
    limit = derive(problem, 2)
    if limit.teacher.size > FEW:
        return np.zeros(0)
    a, b, _, _ = (np.asarray(x) for x in limit.coefficients(limit.order(limit.power), 0.0))
    unit = np.asarray(limit.levels) / bounds[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = (a * np.asarray(limit.teacher) / b)[:, None] / unit
    inside = np.isfinite(crossing) & (crossing > bounds[0]) & (crossing < bounds[1])
    return np.unique(np.round(crossing[inside], 12))


def _minima(values: np.ndarray, errors: np.ndarray, begins: bool) -> list[int]:
    """Indices of the best local minima; a value that is nan is none. Of those without any plateau the least error.

    With ``begins`` those at which the objective begins, too: it may be far less where it does, between two ranges.
    """
    values = np.where(np.isnan(values), np.inf, values)
    if np.min(values) == 0:
        return [int(np.argmin(np.where(values == 0, errors, np.inf)))]
    padded = np.concatenate([[np.inf], values, [np.inf]])
    low = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]) & np.isfinite(values))
    low = low[values[low] <= CLOSE * np.min(values) + 1e-12]
    best = sorted(low, key=lambda k: values[k])[:CANDIDATES]
    first = np.flatnonzero(np.isfinite(values[1:]) & ~np.isfinite(values[:-1])) + 1
    return best + [k for k in first if begins and k not in best]


def _refined(searched, exact, grid: np.ndarray, k: int, evaluations: int) -> tuple[float, float]:
    """Range and exact value of the minimum around a scanned range, by the values of a search and exact ones."""
    width, left, right = float(grid[k]), grid[max(k - 1, 0)], grid[min(k + 1, grid.size - 1)]
    if not searched(width) > 0:  # nothing is less
        return width, exact(width)
    if not np.isfinite(searched(left)):  # the objective ends inside: its smallest range is where it begins
        left = _boundary(searched, left, width)
    found = within(searched, (left, right), width, evaluations=evaluations)
    best = min((found, width, left), key=searched)
    if not np.isfinite(exact(best)) and np.isfinite(exact(width)):  # it begins a little later
        best = _boundary(exact, best, width)
    return float(best), exact(best)


def within(f, bounds, start: float, *, log: bool = False, evaluations: int = 10) -> float:
    """The best of the points tried by a bounded search (Brent) for a minimum, ``start`` among them."""
    into, back = (np.log, np.exp) if log else (float, float)
    if not bounds[0] < bounds[1]:
        return float(start)
    tried = {float(start): f(float(start))}

    def seen(x):
        tried[float(back(x))] = value = f(float(back(x)))
        return value if np.isfinite(value) else 1e300

    low, high = (into(bound) for bound in bounds)
    options = dict(maxiter=evaluations, xatol=ACCURACY * (1.0 if log else start))
    optimize.minimize_scalar(seen, bounds=(low, high), method="bounded", options=options)
    return min(tried, key=lambda x: tried[x])


def _boundary(f, outside: float, inside: float) -> float:
    """The range, to `ACCURACY`, from which on ``f`` is finite: well inside, where a curve can be followed."""
    start = inside
    while inside - outside > 0.1 * ACCURACY * inside:
        middle = 0.5 * (inside + outside)
        outside, inside = (outside, middle) if np.isfinite(f(middle)) else (middle, inside)
    return min((1 + 0.8 * ACCURACY) * inside, start)


def _interval(f, width: float, value: float, bounds, direction: int) -> float:
    """Where ``f`` has grown by `EXCESS` on one side, by linear interpolation; the bound if it never does."""
    limit = value * (1 + EXCESS) if value > 0 else EXCESS
    near, low = width, value
    for step in _STEPS:
        far = width * step**direction
        if not bounds[0] <= far <= bounds[1]:
            return float(np.clip(far, *bounds)) if near == width else float(near)
        high = f(far)
        if not np.isfinite(high):
            return float(near)
        if high > limit:
            return float(near + (far - near) * (limit - low) / (high - low))
        near, low = far, high
    return float(near)
