"""How results show themselves: a short repr, an escaped table, axes in and out, a DataFrame."""

import dataclasses

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from stedyn import Choices, Comparison, Ensemble, FixedPoint, Problem, RangeMap, Run, Solution
from stedyn.comparison.gaps import measure_gaps
from stedyn.comparison.verdict import Verdict
from stedyn.curves.objectives import Objective
from stedyn.design.choices import Baseline, Choice
from stedyn.limit.roots import Searched
from stedyn.limit.solution import Status

PROBLEM = Problem(noise_std=0.5, run=Run(10.0, 21))
TAU = PROBLEM.taus
CURVE = np.exp(-TAU) + 0.1


def solution() -> Solution:
    curves = dict.fromkeys(("m", "q", "overlap", "norm", "effective_step"), CURVE)
    return Solution(
        tau=TAU, error=CURVE, **curves, saturated=None, flip_rate=None, occupancy=None, densities=None, law="grid",
        error_estimate=0.0123, status=Status(0), statistics={}, problem=PROBLEM,
    )  # fmt: skip


def ensemble() -> Ensemble:
    runs = np.stack([CURVE, 1.1 * CURVE])
    none = np.zeros((2, 2), np.float32)
    return Ensemble(
        tau=TAU, steps=150 * np.arange(21), error=runs, m=runs, q=runs, overlap=runs, norm=runs, saturated=None,
        flip_rate=None, occupancy=None, weights=none, teacher=none, snapshot_tau=TAU[:0], snapshots=none[:, None][:, :0],
        dim=300, seeds=2, seed=0, seconds=1.0, device="cpu", problem=PROBLEM,
    )  # fmt: skip


def comparison() -> Comparison:
    predicted, simulated = solution(), ensemble()
    judged = Verdict("agree", 0.42, 0.05, (), (), "")
    return Comparison(predicted, simulated, measure_gaps(predicted, simulated), [], [], [], None, judged)


def fixed_point() -> FixedPoint:
    return FixedPoint(
        error=0.0833, excess=0.01, unquantized_error=0.0733, saturated_fraction=0.0, slope=0.1, stable=True,
        relaxation_time=12.5, oscillates=False, period=None, lr_ceiling=2.0, others=(),
        searched=Searched(0.1, 1.0, 9), minimum=None, horizon=(10.0, 0.09), outcome="The fixed point is <stable>.",
    )  # fmt: skip


def choices() -> Choices:
    best = Choice(2, 1.27, 0.1, 0.177, 0.01, 0.177, (1.1, 1.4), {0.5: 2.0}, None, None, 0.177,
                  {"level": 1.27, "bin": 1.9}, (), "")  # fmt: skip
    rule = Baseline(2, "<mse>", 1.5, 0.19, 0.19, {"level": 1.5, "bin": 2.0})
    return Choices(PROBLEM, Objective.parse("final-error"), None, (best,), (rule,), None)


def range_map() -> RangeMap:
    values = np.ma.masked_invalid([[0.3, 0.2], [0.2, np.nan]])
    ends = np.array([1.0, 2.0])
    return RangeMap(
        Objective.parse("final-error"), ends, "bits", np.array([2, 3]), values, ends, "fixed point", PROBLEM
    )


SHORT = {
    solution: r"<Solution: grid law, 21 times to tau = 10, error 1.1 to 0.1, relative error below 1.3e-02>",
    ensemble: r"<Ensemble: 2 seeds, d = 300, 21 times to tau = 10, error 1.155 to 0.105>",
    comparison: r"<Comparison: agree, p = 0.42, relative gap +5.00% +- 5.00% over 21 times, 2 seeds>",
    fixed_point: r"<FixedPoint: error 0.0833, stable, relaxation time 12.5>",
    choices: r"<Choices: final-error; 2 bits: range 1.27 (0.177)>",
    range_map: r"<RangeMap: final-error for 2 ranges and 2 values of bits, fixed point>",
}


@pytest.mark.parametrize("build", SHORT, ids=lambda build: build.__name__)
def test_a_result_shows_itself(build, monkeypatch):
    monkeypatch.setattr(Solution, "plateaus", lambda self: [])
    found = build()
    assert repr(found) == SHORT[build]
    page = found._repr_html_()
    assert page.count("<tr") <= 10
    assert page.startswith("<p>&lt;")
    assert "<mse>" not in page
    assert "<stable>" not in page
    assert isinstance(found.to_pandas(), pd.DataFrame)
    figure, ax = plt.subplots()
    assert found.plot(ax) is ax
    assert ax.has_data()
    other = found.plot()
    assert other.figure is not figure
    assert other.get_xlabel()
    assert other.get_ylabel()
    plt.close("all")


def test_a_solution_inside_a_transformation_has_a_repr():
    shown = []

    def traced(scale):
        found = dataclasses.replace(solution(), error=CURVE * scale)
        shown.append(repr(found))
        return found.error

    jax.jit(traced)(1.0)
    assert shown == ["<Solution: grid law, error of shape (21,)>"]
