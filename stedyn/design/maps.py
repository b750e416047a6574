"""Maps of an objective over the range of the weights and a second axis: bit width or learning rate.

Final errors are fixed points (`stedyn.limit.stationary`), with one compilation for each bit width. Whatever is read
off a curve comes from the grid law, by default in one pass without refinement. Plateau lengths of mid-tread weights
with 2 and 3 bits are then within 1 % of those of a refined curve at lr 0.02, and within 7 % at lr 0.005.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from tqdm.auto import tqdm

from ..checks import checked, fail, in_float64, positive, several, whole
from ..code.compiling import soon
from ..curves.objectives import Objective
from ..files.results import Result
from ..limit.laws.registry import REFERENCE
from ..limit.limit import derive
from ..limit.stationary import CLASSES, largest_error
from ..problem.problem import Problem
from ..quantizers.padded import padded
from ..quantizers.quantizer import Quantizer
from .calibration import calibrated_range
from .predictor import Predictor, need_fixed_point, with_quantizer
from .ranges import template

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, repr=False)
class RangeMap(Result):
    """An objective over range and bits, or range and learning rate.

    Attributes
    ----------
    objective : Objective
        Errors are without factor 1/2 and label noise, times ``tau = steps / d``.
    ranges : (n,)
    axis : str
        ``bits`` or ``lr``.
    points : (m,)
        Bit widths or learning rates.
    values : masked array (n, m)
        Masked where there is none: no fixed point, no plateau within the run, an error that is not reached.
    calibrated : (m,)
        Range of least rounding error of the teacher, for every entry of ``points``.
    law : str
        ``fixed point`` or ``grid``.
    problem : Problem
    """

    objective: Objective
    ranges: Float[np.ndarray, " n"]
    axis: str
    points: np.ndarray
    values: np.ma.MaskedArray
    calibrated: Float[np.ndarray, " m"]
    law: str
    problem: Problem

    @property
    def best(self) -> np.ma.MaskedArray:
        """The range with the least value for every entry of ``points`` (m,); masked if there is none."""
        lowest = np.argmin(self.values.filled(np.inf), axis=0)
        return np.ma.MaskedArray(self.ranges[lowest], mask=np.ma.getmaskarray(self.values).all(axis=0))

    def to_pandas(self) -> pd.DataFrame:
        """One row for each pair; what is masked is missing."""
        import pandas as pd  # slow to import

        n, m = self.values.shape
        columns = {
            "range": np.repeat(self.ranges, m),
            self.axis: np.tile(self.points, n),
            str(self.objective): self.values.filled(np.nan).ravel(),
        }
        return pd.DataFrame(columns)

    def _summary(self) -> str:
        size = f"{self.ranges.size} ranges and {self.points.size} values of {self.axis}"
        return f"{self.objective} for {size}, {self.law}"

    def _draw(self, ax) -> None:
        from ..drawing import axes

        axes.range_map(ax, self)

    def __str__(self):
        lines = [f"{self.objective} by the {self.law} law over range and {self.axis}"]
        for k, point in enumerate(self.points):
            name = f"{self.axis} {point:g}"
            column = self.values[:, k]
            if column.count() == 0:
                lines.append(f"{name}: none at any of these ranges")
                continue
            lines.append(
                f"{name}: least {column.min():.4g} at range {self.best[k]:.4g}, largest {column.max():.4g}; "
                f"calibrated range {self.calibrated[k]:.4g}"
            )
        return "\n".join(lines)


@checked(problem=Problem)
@in_float64
def range_map(
    problem: Problem,
    *,
    ranges: Sequence[float],
    bits: Sequence[int] | None = None,
    lrs: Sequence[float] | None = None,
    objective: str = "final-error",
    tol: float | None = None,
    progress: bool = False,
) -> RangeMap:
    """An objective over ranges of the weight quantizer and bit widths or learning rates.

    Parameters
    ----------
    problem : Problem
        Its weight quantizer gives kind, edge and rounding (and the bit width for ``lrs``; mid-rise by level if it has
        none), its run the horizon and the saved times of what is read off a curve.
    ranges : sequence of float
        In increasing order.
    bits, lrs : sequence
        Bit widths or learning rates, in increasing order: one of the two.
    objective : str
        ``final-error``, ``error-at=TAU``, ``time-to=ERROR`` or ``plateau-length``: see
        `stedyn.curves.objectives.Objective`.
    tol : float, optional
        Relative error of curves; by default that of one pass of the grid law, whatever it is.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    ValueError
        If an argument is out of bounds, or if the problem has no fixed point for ``final-error``.

    Examples
    --------
    >>> from stedyn import Problem, SGD, Teacher
    >>> p = Problem(Teacher.gaussian(1.0), noise_std=0.1, rule=SGD(0.1))
    >>> chart = range_map(p, ranges=[0.8, 1.3, 2.0], bits=[2])
    >>> print(chart.best[0], chart.values[1, 0].round(3))
    1.3 0.177
    """
    problem.alike("range maps")
    goal = Objective.parse(objective)
    widths = _increasing("ranges", ranges)
    axis, points, pairs = _quantizers(problem, bits, lrs)
    if tol is not None:
        positive("tol", tol)
        if not goal.needs_curve:
            fail("tol", "none for 'final-error', which is no curve", tol, "leave it out")
    if not goal.needs_curve:
        need_fixed_point("objective", objective, problem, any_range=True)
    with tqdm(total=widths.size * len(pairs), unit="point", disable=not progress) as bar:
        columns = [_column(problem, quantizer, lr, widths, goal, tol, bar) for quantizer, lr in pairs]
    values = np.ma.masked_invalid(np.stack(columns, axis=1))
    calibrated = [calibrated_range(problem.target, quantizer, "mse") for quantizer, _ in pairs]
    law = REFERENCE if goal.needs_curve else "fixed point"
    return RangeMap(goal, widths, axis, points, values, np.array(calibrated), law, problem)


def _increasing(name: str, values) -> np.ndarray:
    """Positive numbers in increasing order."""
    numbers = np.array([positive(name, value) for value in several(name, values)], dtype=float)
    if numbers.size == 0 or np.any(np.diff(numbers) <= 0):
        fail(name, "at least one number, in increasing order", list(values), "sort them and drop repeats")
    return numbers


def _quantizers(problem: Problem, bits, lrs) -> tuple[str, np.ndarray, list[tuple[Quantizer, float | None]]]:
    """Name and points of the second axis, and the quantizer and learning rate of each point."""
    if (bits is None) == (lrs is None):
        fail("bits", "either bits or lrs", "neither" if bits is None else "both", "give one of them")
    if lrs is None:
        widths = [whole("bits", b, 1, 8) for b in several("bits", bits)]
        points = _increasing("bits", widths).astype(int)
        return "bits", points, [(template(problem, b), getattr(problem.rule, "lr", None)) for b in widths]
    if problem.rule.kind == "multinomial":
        fail("lrs", "a rule with a learning rate", problem.rule.kind, "map over bits")
    if problem.weights.bits is None:
        fail(
            "weights", "a quantizer with bits and a range, for a map over lr", problem.weights.kind, "set one"
        )
    points = _increasing("lrs", lrs)
    return "lr", points, [(template(problem, problem.weights.bits), float(lr)) for lr in points]


@in_float64
def final_errors(
    problem: Problem, ranges: Float[ArrayLike, " n"], shared: bool = False
) -> Float[np.ndarray, " n"]:
    """Errors (n,) of the fixed points at all ranges (n,); ``shared`` with other bits and kinds is a slower program."""
    timeless = problem.timeless
    return np.array(_final_errors(padded(timeless) if shared else timeless, jnp.asarray(ranges)))


@soon
def _final_errors(problem: Problem, ranges: Float[Array, " n"]) -> Float[Array, " n"]:
    """Errors of the fixed points at all ranges."""

    def at(width):
        return largest_error(derive(eqx.tree_at(lambda p: p.weights.range, problem, width), CLASSES))

    return jax.lax.map(at, ranges)


def _column(problem: Problem, quantizer: Quantizer, lr, ranges, goal: Objective, tol, bar) -> np.ndarray:
    """Values (n,) at all ranges; infinite where there is none."""
    if not goal.needs_curve:
        values = final_errors(with_quantizer(problem, quantizer, lr), ranges)
        bar.update(ranges.size)
        return values
    predictor = Predictor(problem, quantizer, goal, None, 1.0 if tol is None else tol)
    values = np.empty(ranges.size)
    for i, outcome in enumerate(predictor.all(ranges, lr)):
        none = goal.kind == "plateau-length" and outcome.value == 0
        values[i] = np.inf if none else outcome.value
        bar.update()
    return values
