"""How many runs of which dimension show a difference: the cheapest choice between larger d and more seeds."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ..checks import checked, fail, in_float64, positive
from ..comparison.predicted import detectable_gap, noise_of
from ..comparison.verdict import LEVEL, LINEAR, POWER
from ..limit.solution import Solution
from ..limit.solver import solve
from ..limit.width import check_width
from ..machine import cores
from ..problem.problem import Problem
from ..simulation.cost import seconds_of_a_step

if TYPE_CHECKING:
    import pandas as pd

#: Assumed bound of ``d`` times the relative bias of the mean error, and the part of the gap that the bias may be.
BIAS, PART = 2.0, 0.25
#: Most dimensions, each twice the one before, and the largest.
CHOICES, LARGEST = 6, 2**24


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """So many ``seeds`` of dimension ``dim`` show relative gaps from ``detectable_gap`` on, in so many seconds."""

    dim: int
    seeds: int
    steps: int
    detectable_gap: float
    bias_bound: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Ways to see a constant relative ``gap`` between runs and theory; the first has the least ``dim``.

    ``tol`` is the accuracy that the theory needs for it. Seconds are those of this machine, compiling aside.
    """

    gap: float
    tol: float
    rows: tuple[PlanRow, ...]
    problem: Problem

    @property
    def cheapest(self) -> PlanRow:
        """The row with the fewest seconds."""
        return min(self.rows, key=lambda row: row.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the gap, all rows, the cheapest, and what is assumed."""
        return {
            "gap": self.gap,
            "power": POWER,
            "level": LEVEL,
            "tol": self.tol,
            "choices": [dataclasses.asdict(row) for row in self.rows],
            "cheapest": dataclasses.asdict(self.cheapest),
            "assumed_bias": f"{BIAS:g}/d",
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row a dimension."""
        import pandas as pd  # slow to import

        return pd.DataFrame([dataclasses.asdict(row) for row in self.rows])

    def __str__(self):
        best, count = self.cheapest, cores()
        return "\n".join(
            [
                f"A constant relative gap of {self.gap:g} is found in {POWER:.0%} of comparisons, level {LEVEL:g}, by",
                self.to_pandas().to_string(index=False, float_format=lambda x: f"{x:.3g}"),
                f"Cheapest: {best.seeds} seed{'s' if best.seeds > 1 else ''} of d = {best.dim}, about "
                f"{best.seconds:.2g} s on the {count} core{'s' if count > 1 else ''} of this machine, compiling aside.",
                f"Assumed: the mean of the runs is off by at most {BIAS:g}/d of the error (docs/finite-size.md), which "
                f"shall be at most {PART:g} of the gap; so d is at least {self.rows[0].dim}.",
                f"Then: stedyn compare --dim {best.dim} --seeds {best.seeds} --tol {self.tol:.2g}",
            ]
        )


@checked(problem=Problem)
@in_float64
def plan(problem: Problem, gap: float) -> Plan:
    """How many seeds of which dimension `compare` needs to see a relative difference of ``gap`` of the whole curve.

    With the predicted covariance (``docs/width.md``) the smallest gap that is found falls like ``1 / sqrt(d S)``, at a
    cost of ``d^2 S``: the smallest ``d`` is the cheapest, as long as the bias of finite runs is no gap itself. That is
    taken to be at most ``BIAS / d`` of the error, about the largest that was not excluded for smooth problems
    (``docs/finite-size.md``).

    Parameters
    ----------
    problem : Problem
    gap : float
        Relative, above 0 and below 1.

    Raises
    ------
    InputError
        For a problem whose spread is not derived, or whose bias is not of order ``1/d``; if ``gap`` is out of bounds.
    """
    gap = float(positive("gap", gap))
    if gap >= 1:
        fail("gap", "a relative difference below 1, such as 0.01", gap, "give a part, not percent")
    check_width(problem, ())
    if not problem.rule.linear or jax.tree.leaves(problem.rule.state):
        fail("rule", "'sgd' or 'shrinkage' without momentum for a plan (others were seen with a bias above 2/d)",
             problem.rule.kind, "compare at two dimensions instead")  # fmt: skip
    if problem.latent_clip is not None:
        fail("weights.latent_clip", "none for a plan (a wall may cost a bias of order 1/sqrt(d))", problem.latent_clip,
             "compare at two dimensions instead")  # fmt: skip
    if problem.covariance.kind == "power-law":
        fail("covariance", "none that is a power law for a plan (few variances are not yet its law)", "a power law",
             "give the variances of the inputs")  # fmt: skip
    first, tol = math.ceil(BIAS / (PART * gap)), min(5e-3, gap / 4)
    if first > LARGEST:
        fail("gap", f"at least {BIAS / (PART * LARGEST):.1g}", gap, "give a larger one")
    solution = solve(problem, tol=tol, dim=first)
    needed: list[tuple[int, int, float]] = []
    for power in range(int(math.log2(LARGEST / first)) + 1):
        if len(needed) == CHOICES or (needed and needed[-1][1] == 1):
            break
        if (found := _seeds(solution, first * 2**power, gap)) is not None:
            needed.append((first * 2**power, *found))
    if not needed:
        fail("run", f"saved times at which a run of d = {LARGEST} strays by less than {LINEAR:.0%} of the error", gap,
             "save other times")  # fmt: skip
    ends = sorted({needed[0][0], needed[-1][0]})
    timed = [seconds_of_a_step(problem, dim) for dim in ends]
    rows = []
    for dim, seeds, seen in needed:
        steps = round(float(problem.taus[-1]) * dim)
        turns = seeds / min(seeds, cores())
        seconds = float(steps * turns * np.interp(dim, ends, timed))
        rows.append(PlanRow(dim, seeds, steps, seen, BIAS / dim, seconds))
    return Plan(gap, tol, tuple(rows), problem)


def _seeds(solution: Solution, dim: int, gap: float) -> tuple[int, float] | None:
    """The fewest seeds of a dimension that show the gap, and what they show; None where one run is not Gaussian."""
    spread = solution.spread
    assert spread is not None
    part = spread.dim / dim
    scaled = dataclasses.replace(
        spread,
        dim=dim,
        covariance=spread.covariance * part,
        drawn=spread.drawn * part,
        draws=spread.draws * part,
    )
    # besides the curve a verdict looks at the histogram, and at plateaus that end
    parts = 2 + any(length is not None for length in spread.length_std)
    at, theory = np.arange(solution.tau.size), np.asarray(solution.error)

    def seen(seeds):
        noise = noise_of(scaled, solution, at, seeds, 3 if solution.tau[0] == 0 else 1)
        return None if noise is None else detectable_gap(noise, theory, parts)

    seeds, shown = 1, seen(1)
    if shown is None:
        return None
    for _ in range(4):  # with more seeds more times may be resolved
        seeds = max(1, math.ceil(seeds * (shown / gap) ** 2))
        shown = seen(seeds)
    while shown > gap:
        seeds += 1
        shown = seen(seeds)
    return seeds, float(shown)
