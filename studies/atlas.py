"""An atlas: when the first plateau is left, and where training ends, over bits, range and learning rate.

The plateau is that of mid-tread weights started at ``N(0, 0.02^2)`` with teacher ``w* = 1`` and label noise 0.1; its
escape is read off a curve of the grid law (one pass), whose horizon is four times the closed form ``(step / 2) / (lr
w*)`` with ``step = range / (2^(bits - 1) - 1)`` plus some relaxation times. Times are in units of ``tau = steps / d``.
Where the levels lie so far apart that the error falls by less than 20 %, there is no plateau. The final error is the
fixed point for mid-rise weights and a teacher ``N(0, 1)``. Besides table and figure the study writes ``atlas.json``,
which the page ``docs/atlas.md`` draws.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from stedyn import SGD, Problem, Quantizer, Run, Start, Teacher, find_plateaus, range_map, solve
from stedyn.files import report
from stedyn.files.whole import write_atomic

NOISE, SPREAD, POINTS = 0.1, 0.02, 25
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def escape(bits: int, range_: float, lr: float) -> float:
    """The escape from the first plateau; nan if there is none."""
    flat = 0.5 * range_ / (2 ** (bits - 1) - 1) / lr
    problem = Problem(
        start=Start.gaussian(std=SPREAD), noise_std=NOISE, weights=Quantizer(bits, range_, kind="mid-tread"),
        rule=SGD(lr), run=Run(4 * flat + 8 / lr, POINTS),
    )  # fmt: skip
    solution = solve(problem, law="grid", tol=1.0, throw=False)
    plateaus = find_plateaus(*solution.dense)
    return plateaus[0].escape if plateaus and plateaus[0].escape is not None else np.nan


def rounded(values) -> list:
    """Numbers of four digits for the page, None where there is none."""
    return [[None if not np.isfinite(v) else float(f"{v:.4g}") for v in row] for row in values]


def main(*, quick: bool = False, out: Path = Path("data")) -> pd.DataFrame:
    """Compute the atlas; write its table, figure and JSON."""
    bits = [2] if quick else [2, 3, 4, 5]
    ranges = np.geomspace(0.4, 4.0, 9 if quick else 17)  # as many as another quick study has
    lrs = np.array([0.1]) if quick else np.geomspace(0.01, 0.4, 7)
    gaussian = Problem(Teacher.gaussian(1.0), noise_std=NOISE, weights=Quantizer(2, 1.0), rule=SGD(0.1))
    entries, rows = [], []
    for b in bits:
        escapes = np.array([[escape(b, r, lr) for r in ranges] for lr in lrs])
        errors = []
        for lr in lrs:
            problem = Problem(gaussian.teacher, noise_std=NOISE, weights=gaussian.weights, rule=SGD(lr))
            chart = range_map(problem, ranges=ranges, bits=[b])
            errors.append(chart.values[:, 0].filled(np.nan))
        entries.append({"bits": b, "escape": rounded(escapes), "error": rounded(errors)})
        rows += [
            {"bits": b, "lr": lr, "range": r, "escape": escapes[i, j], "error": errors[i][j]}
            for i, lr in enumerate(lrs)
            for j, r in enumerate(ranges)
        ]
    table = pd.DataFrame(rows)
    record = {"ranges": rounded([ranges])[0], "lrs": rounded([lrs])[0], "entries": entries}
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "atlas.json", json.dumps(record, separators=(",", ":")) + "\n")
    report.write_csv(out / "atlas.csv", table)
    report.write_figure(out / "atlas.png", draw(table, lrs[len(lrs) // 2]))
    return table


def draw(table: pd.DataFrame, lr: float):
    """Escape and final error against range for every bit width, at one learning rate."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for (b, part), color in zip(table[table.lr == lr].groupby("bits"), COLORS, strict=False):
        for ax, name in zip(axes, ("escape", "error"), strict=True):
            ax.plot(part.range, part[name], "o-", ms=3, color=color, label=f"{b} bits")
    axes[0].set(title=f"first plateau, lr {lr:.3g}", ylabel=r"escape $\tau$")
    axes[0].set_ylim(bottom=0)
    axes[1].set(title=f"final error, lr {lr:.3g}", ylabel="error", yscale="log")
    for ax in axes:
        ax.set(xlabel="range of the weights", xscale="log")
        ax.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
        ax.set_xticks([], minor=True)
        ax.legend(frameon=False)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few points, in some seconds")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder of the results")
    arguments = parser.parse_args()
    main(quick=arguments.quick, out=arguments.out)
