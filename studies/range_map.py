"""Where the range of the weights should be, and how long a plateau it costs: maps over range, bits and learning rate.

Three questions to the limit. (a) The final error against the range for 2, 3 and 4 bits (mid-rise, levels at the
range, inputs not quantized): teacher ``N(0, 1)``, start ``N(0, 1)``, lr 0.1, label noise 0.1, as fixed points of the
limit, with the ranges of calibration rules and simulations. Weights whose teacher is close to a level stay there for
long, so that the table also has the limit at the times of the simulation. (b) The same over range and learning rate
for 2 bits. (c) The longest plateau of mid-tread weights started at ``N(0, 0.02^2)`` with teacher ``w* = 1`` and lr
0.02, beside the straight line of the closed form for a small learning rate: level 0 is left at
``(step / 2) / (lr w*)``, with ``step = range / (2^(bits - 1) - 1)``. With more than two levels above 0 a later stair
can be the longest.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from stedyn import plots
from stedyn.design.calibration import calibrated_range
from stedyn.design.maps import RangeMap, range_map
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.limit.stairs import small_lr_stairs
from stedyn.problem.problem import Problem, Run, Start, Teacher
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD
from stedyn.simulation import simulate

# told apart by every common colour vision, and by their markers
STYLES = {2: ("#0072B2", "o"), 3: ("#D55E00", "s"), 4: ("#009E73", "^")}
RULES = {"mse": ("x", "least rounding error"), "k-sigma": ("+", "3 std. deviations")}
LR, PLATEAU_LR = 0.1, 0.02
#: The late error of a simulation is the mean over this last part of the run.
TAIL = 0.25
#: Ranges that are simulated, as multiples of the best.
SIMULATED = (0.6, 1.0, 1.6)


def gaussian(bits: int = 2, range_: float = 1.0, tau: float = 120.0) -> Problem:
    """The problem of (a) and (b)."""
    weights = Quantizer(bits, range_, kind="mid-rise", edge="level")
    return Problem(Teacher.gaussian(1.0), noise_std=0.1, weights=weights, rule=SGD(LR), run=Run(tau, 81))


def mid_tread(bits: int = 2, range_: float = 1.0) -> Problem:
    """The problem of (c)."""
    weights = Quantizer(bits, range_, kind="mid-tread", edge="level")
    run = Run(2.0 / PLATEAU_LR, 401)
    return Problem(
        start=Start.gaussian(std=0.02), noise_std=0.1, weights=weights, rule=SGD(PLATEAU_LR), run=run
    )


def simulated(bits: int, range_: float, tau: float, dim: int, seeds: int, classes: int) -> dict:
    """Mean and standard error of the late error over the seeds (the same for every range), and the limit then."""
    problem = gaussian(bits, range_, tau)
    ensemble = simulate(problem, dim=dim, seeds=seeds)
    late = ensemble.error[:, ensemble.tau >= (1 - TAIL) * tau].mean(axis=1)
    run = Run(taus=[0.0, *np.linspace((1 - TAIL) * tau, tau, 3)])
    same = solve(dataclasses.replace(problem, run=run), law="grid", tol=1.0, classes=classes)
    return {
        "part": "a, simulated",
        "bits": bits,
        "range": range_,
        "value": range_map(gaussian(), ranges=[range_], bits=[bits]).values[0, 0],
        "limit_same_times": float(np.mean(same.error[1:])),
        "simulated": late.mean(),
        "sem": late.std(ddof=1) / np.sqrt(seeds),
    }


def calibrated(errors: RangeMap, rule: str, bits: int) -> dict:
    """A calibration rule: its range and the final error there."""
    range_ = calibrated_range(errors.problem.teacher, gaussian(bits).weights, rule)
    value = range_map(gaussian(), ranges=[range_], bits=[bits]).values[0, 0]
    return {"part": f"a, {rule}", "bits": bits, "range": range_, "value": value}


def straight_line(bits: int, range_: float) -> float:
    """When level 0 is left for a small learning rate."""
    return small_lr_stairs(mid_tread(bits, range_))[0].leave


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``range_map.csv`` and ``.png``; return the table, one row a point of a map or a simulation."""
    jax.config.update("jax_enable_x64", True)
    dim, seeds, tau, classes = (300, 2, 40.0, 32) if quick else (2000, 16, 120.0, 256)
    widths = [2] if quick else [2, 3, 4]
    count, rates = (9, 3) if quick else (49, 17)
    errors = range_map(gaussian(), ranges=np.geomspace(0.5, 4.5, count), bits=widths)
    over_lr = range_map(gaussian(), ranges=np.linspace(0.6, 2.4, count), lrs=np.geomspace(0.01, 1.6, rates))
    lengths = range_map(
        mid_tread(), ranges=np.linspace(0.4, 1.6, 5 if quick else 25), bits=widths, objective="plateau-length"
    )
    best = {bits: float(errors.best[k]) for k, bits in enumerate(widths)}
    rows = [calibrated(errors, rule, bits) for bits in widths for rule in RULES]
    rows += [
        simulated(bits, factor * best[bits], tau, dim, seeds, classes)
        for bits in widths
        for factor in (SIMULATED[1:2] if quick else SIMULATED)
    ]
    lines = lengths.to_pandas().assign(part="c", lr=PLATEAU_LR).rename(columns={"plateau-length": "value"})
    lines["straight_line"] = [
        straight_line(*pair) for pair in zip(lines["bits"], lines["range"], strict=True)
    ]
    table = pd.concat(
        [
            errors.to_pandas().assign(part="a", lr=LR).rename(columns={"final-error": "value"}),
            pd.DataFrame(rows).assign(lr=LR),
            over_lr.to_pandas().assign(part="b", bits=2).rename(columns={"final-error": "value"}),
            lines,
        ],
        ignore_index=True,
    )
    columns = [
        "part",
        "bits",
        "lr",
        "range",
        "value",
        "limit_same_times",
        "simulated",
        "sem",
        "straight_line",
    ]
    table = table.reindex(columns=columns)

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0].platform
    about = f"studies/range_map.py: simulations with d = {dim}, seeds 0 to {seeds - 1}, {device}"
    parts = "parts: a, b value = final error; c value = longest plateau, none within the run where missing"
    setting = (
        report.describe(gaussian()).splitlines()
        + ["and of part c:"]
        + report.describe(mid_tread()).splitlines()
    )
    report.write_csv(
        folder / "range_map.csv", table, about, parts, "parts a and b, for the first range:", *setting
    )
    report.write_figure(folder / "range_map.png", draw(table, over_lr, dim, seeds))
    chosen = table["part"].str.startswith("a,")
    print(
        table[chosen].dropna(axis="columns", how="all").to_string(index=False, float_format="{:.4g}".format)
    )
    for sentence in findings(table):
        print(sentence)
    return table


def draw(table: pd.DataFrame, over_lr: RangeMap, dim: int, seeds: int) -> plt.Figure:
    """Final error against the range; map over range and learning rate; longest plateau against the range."""
    figure, (left, middle, right) = plots.panels(3, width=5.0, height=4.2)
    for bits, part in table[table["part"] == "a"].groupby("bits"):
        color, marker = STYLES[bits]
        left.plot(part["range"], part["value"], color=color, lw=1.6, label=f"{bits} bits, limit")
        seen = table[(table["part"] == "a, simulated") & (table["bits"] == bits)]
        left.errorbar(
            seen["range"], seen["simulated"], 2 * seen["sem"], color=color, marker=marker, ls="none", ms=5,
            mfc="white", capsize=2, zorder=4,
        )  # fmt: skip
        for rule, (sign, _) in RULES.items():
            at = table[(table["part"] == f"a, {rule}") & (table["bits"] == bits)]
            left.plot(
                at["range"], at["value"], color="black", marker=sign, ls="none", ms=8, mew=1.6, zorder=5
            )
    label = f"simulation, d = {dim},\n{seeds} seeds, 2 std. errors"
    left.errorbar([], [], [], color="0.4", marker="o", ls="none", mfc="white", capsize=2, label=label)
    for sign, name in RULES.values():
        left.plot([], [], color="black", marker=sign, ls="none", ms=8, mew=1.6, label=name)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    left.set_xticks([], minor=True)
    left.set_xlabel("range of the weights")
    left.set_ylabel(r"final error $\varepsilon$ [output variance]")
    left.legend(frameon=False, fontsize="small", loc="lower left", borderaxespad=0.2)
    left.set_title("(a) final error", fontsize="medium")

    plots.range_map(middle, over_lr, r"final error $\varepsilon$ [output variance]")
    middle.set_title("(b) final error, 2 bits", fontsize="medium")

    for bits, part in table[table["part"] == "c"].groupby("bits"):
        color, marker = STYLES[bits]
        right.plot(part["range"], part["straight_line"], color=color, ls="--", lw=1)
        right.plot(
            part["range"],
            part["value"],
            color=color,
            marker=marker,
            ms=4,
            lw=1.2,
            label=f"{bits} bits, longest plateau",
        )
    right.plot([], [], color="0.4", ls="--", lw=1, label="level 0 is left, closed form")
    right.set_xlabel("range of the weights")
    right.set_ylabel(r"length of the plateau $\tau$ [steps / d]")
    right.set_xlim(left=0)
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize="small")
    right.set_title("(c) mid-tread weights started at 0", fontsize="medium")
    return figure


def findings(table: pd.DataFrame) -> list[str]:
    """What the table says, in two sentences."""
    errors = table[table["part"] == "a"]
    best = errors.loc[errors.groupby("bits")["value"].idxmin()].set_index("bits")
    rule = table[table["part"] == "a, mse"].set_index("bits")
    cost = ", ".join(
        f"{100 * (rule['value'][b] / best['value'][b] - 1):.0f} % with {b} bits (range {rule['range'][b]:.2f} "
        f"instead of {best['range'][b]:.2f}, where the error is {best['value'][b]:.3g})"
        for b in best.index
    )
    two = table[(table["part"] == "c") & (table["bits"] == 2)].dropna(subset="value")
    slope, line = (np.polyfit(two["range"], two[name], 1)[0] for name in ("value", "straight_line"))
    return [
        f"Against the best range, the range of least rounding error raises the final error by {cost}.",
        f"With 2 bits the plateau grows by {slope:.1f} in tau for a unit of range, where the straight line of a small "
        f"learning rate grows by {line:.1f}.",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small dimension, few points")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    main(given.quick, given.out)
