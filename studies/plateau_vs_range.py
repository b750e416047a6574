"""How long a mid-tread student started near zero stays on its first plateau, against range and bits.

Teacher ``w* = 1``, start ``N(0, 0.02^2)``, mid-tread weights with levels at the range, inputs not
quantized, lr 0.01, label noise 0.1. All weights round to 0 until they have drifted over half a step, so
that for a small learning rate the escape is at ``(step / 2) / (lr w*)``, with
``step = range / (2^(bits - 1) - 1)``: proportional to the range, and a little more than halved by every further bit.
The figure has this closed form, the limit (grid law) and the simulation.
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pandas as pd

from stedyn import plots
from stedyn.comparison.comparison import compare
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.limit.stairs import small_lr_stairs
from stedyn.problem.problem import Problem, Run, Start
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD
from stedyn.simulation import simulate

# told apart by every common colour vision, and by their markers
LR = 0.01
STYLES = {2: ("#0072B2", "o"), 3: ("#D55E00", "s"), 4: ("#009E73", "^")}


def problem_of(bits: int, range_: float) -> Problem:
    """The student with these weights, followed to twice the escape of the closed form."""
    weights = Quantizer(bits, range_, kind="mid-tread", edge="level")
    run = Run(tau=2 * half_step(weights) / LR, points=201)
    return Problem(start=Start.gaussian(std=0.02), noise_std=0.1, weights=weights, rule=SGD(lr=LR), run=run)


def half_step(weights: Quantizer) -> float:
    """How far a weight drifts before it leaves level 0."""
    return float(weights.step) / 2


def measure(bits: int, range_: float, dim: int, seeds: int) -> dict:
    """The first plateau: closed form, limit, and mean and standard error over the runs."""
    problem = problem_of(bits, range_)
    ensemble = simulate(problem, dim=dim, seeds=seeds)
    pairs = compare(solve(problem, law="grid"), ensemble).pairs
    row = {"bits": bits, "range": range_, "escape_small_lr": small_lr_stairs(problem)[0].leave}
    for name in ("escape", "length"):
        row[f"{name}_limit"] = getattr(pairs[0].theory, name) if pairs else None
        row[f"{name}_simulation"] = getattr(pairs[0], name) if pairs else None
        row[f"{name}_standard_error"] = getattr(pairs[0], f"{name}_sem") if pairs else None
    return row | {"seeds_with_plateau": pairs[0].seeds if pairs else 0, "seeds": seeds, "dim": dim}


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``plateau_vs_range.csv`` and ``.png``; return the table, one row a bit width and range."""
    jax.config.update("jax_enable_x64", True)
    dim, seeds = (300, 2) if quick else (2000, 16)
    widths = (3,) if quick else (2, 3, 4)
    ranges = (0.9, 1.2) if quick else (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
    rows = [measure(bits, range_, dim, seeds) for bits in widths for range_ in ranges]
    table = pd.DataFrame(rows).astype({"escape_simulation": float, "length_simulation": float})

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/plateau_vs_range.py: d = {dim}, seeds 0 to {seeds - 1}, {jax.devices()[0].platform}"
    setting = report.describe(problem_of(widths[0], ranges[0])).splitlines()
    report.write_csv(folder / "plateau_vs_range.csv", table, about, "the first of the problems:", *setting)
    figure, axes = plots.panels(2, width=4.8)
    for ax, name in zip(axes, ("escape", "length"), strict=True):
        draw(ax, table, name)
    axes[0].set_ylabel(r"escape from the first plateau, $\tau$ [steps / d]")
    axes[1].set_ylabel(r"length of the first plateau, $\tau$ [steps / d]")
    axes[0].legend(frameon=False, fontsize="small")
    report.write_figure(folder / "plateau_vs_range.png", figure)
    return table


def draw(ax: plt.Axes, table: pd.DataFrame, name: str) -> None:
    """Closed form (dashed), limit (line) and simulation (markers with standard errors)."""
    for bits, part in table.groupby("bits"):
        color, marker = STYLES[bits]
        ax.plot(part["range"], part["escape_small_lr"], color=color, ls="--", lw=1)
        ax.plot(part["range"], part[f"{name}_limit"], color=color, lw=1.6, label=f"{bits} bits, limit")
        spread = part[f"{name}_standard_error"]
        values = part[f"{name}_simulation"]
        ax.errorbar(
            part["range"], values, 2 * spread, color=color, marker=marker, ls="none", ms=5, mfc="white"
        )
    ax.plot([], [], color="0.4", ls="--", lw=1, label="small-lr closed form")
    ax.errorbar(
        [], [], [], color="0.4", marker="o", ls="none", mfc="white", label="simulation, 2 standard errors"
    )
    ax.set_xlabel("range of the weights")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small dimension, few ranges")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    main(given.quick, given.out)
