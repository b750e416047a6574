"""INT4, FP4, NF4 and 4-bit mid-rise: the final error of training against the scale of the format.

A Gaussian teacher of std 1, label noise 0.1, inputs that are not quantized. Lines are errors of fixed points; circles
are simulations, averaged over the last quarter of the run, at the best range of each format and at that of absmax (the
median of the largest of 4096 weights). The runs end at tau = 8 / lr, where the curve still rises to its fixed point;
crosses are the limit, averaged over the same times.

At the best range 7 to 23 % of the error are that of few teacher weights beyond the outermost levels, so that runs
differ most by the draw of their teachers. What that costs is known: late in a run the level of a weight is right on
average, between two levels or on the last (`level_cost`). ``corrected`` is the simulated error less what the drawn
teachers cost more than the population (a control variate). Every point has seeds of its own.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

from stedyn import plots
from stedyn.design.calibration import calibrated_range, rounding_error
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.limit.stationary import final_error
from stedyn.problem.populations import Teacher
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD
from stedyn.simulation import simulate

FORMATS = {"INT4": "int4", "FP4 (e2m1)": "fp4-e2m1", "NF4": "nf4", "mid-rise, 4 bits": "mid-rise"}
#: The run ends at this time over lr.
HORIZON = 8.0


def problem_of(kind: str, width: float, lr: float) -> Problem:
    """The student whose weights have this format and range."""
    run, weights = Run(taus=np.linspace(0.75, 1.0, 41) * HORIZON / lr), Quantizer(4, width, kind=kind)
    return Problem(Teacher.gaussian(1.0), noise_std=0.1, weights=weights, rule=SGD(lr), run=run)


def level_cost(weights: Quantizer, teacher: np.ndarray) -> np.ndarray:
    """Error of each teacher weight whose level is right on average.

    ``x (step - x)`` between two levels at the distances ``x`` and ``step - x``; beyond the last, the distance squared.
    """
    levels = np.asarray(weights.levels)
    inside = np.clip(teacher, levels[0], levels[-1])
    above = np.clip(np.searchsorted(levels, inside), 1, levels.size - 1)
    return (teacher - inside) ** 2 + (inside - levels[above - 1]) * (levels[above] - inside)


def corrected(weights: Quantizer, seen: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """The errors of runs ``(S,)`` less what their teachers ``(S, d)`` cost more than a standard normal one."""
    population = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    return seen - level_cost(weights, teacher).mean(axis=1) + level_cost(weights, population).mean()


def errors(
    lr: float, start: Iterator[int], formats: int, points: int, dim: int, seeds: int, tol: float
) -> list[dict]:
    """A row for each format and range: fixed point, rounding error, and simulated where it is."""
    rows, absmax = [], calibrated_range(Teacher.gaussian(1.0), Quantizer(4, 1.0), "max")
    for name, kind in tqdm(list(FORMATS.items())[:formats], desc=f"lr {lr:g}"):
        found = []
        for width in np.append(np.geomspace(1.5, 5.0, points), absmax):
            problem = problem_of(kind, float(width), lr)
            rounding = rounding_error(Teacher.gaussian(1.0), problem.weights)
            row = dict(
                format=name,
                lr=lr,
                range=float(width),
                final_error=final_error(problem),
                rounding_error=rounding,
            )
            found.append(row)
        for row in (min(found, key=lambda row: row["final_error"]), found[-1]):
            problem = problem_of(kind, row["range"], lr)
            runs = simulate(problem, dim=dim, seeds=seeds, seed=next(start))
            seen = runs.error.mean(axis=1)
            late = corrected(problem.weights, seen, runs.teacher)
            row |= dict(dim=dim, seeds=seeds, seed=runs.seed, simulated=seen.mean(), sem=stats.sem(seen))
            row |= dict(corrected=late.mean(), corrected_sem=stats.sem(late))
            row["limit"] = solve(problem, tol=tol).error.mean()
        rows += sorted(found, key=lambda row: row["range"])
    return rows


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``formats.csv`` and ``.png``; return the table, one row a format, learning rate and range."""
    jax.config.update("jax_enable_x64", True)
    size = (
        dict(formats=1, points=2, dim=100, seeds=2, tol=0.5)
        if quick
        else dict(formats=len(FORMATS), points=40, dim=1000, seeds=8, tol=0.02)
    )
    start, rates = itertools.count(1000, 1000), [0.1] if quick else [0.1, 0.05]
    table = pd.DataFrame([row for lr in rates for row in errors(lr, start, **size)])
    print(table.dropna().to_string(index=False, float_format=lambda x: f"{x:.4g}"))
    save(table, out)
    return table


def save(table: pd.DataFrame, out: str) -> None:
    """Write the table and the figure."""
    rates = table["lr"].unique()
    figure, axes = plots.panels(len(rates), width=4.6)
    for ax, lr in zip(np.atleast_1d(axes), rates, strict=True):
        for k, (name, part) in enumerate(table[table["lr"] == lr].groupby("format", sort=False)):
            ax.plot(part["range"], part["final_error"], color=f"C{k}", label=name)
            ax.plot(part["range"], part["rounding_error"], color=f"C{k}", ls=":", lw=1.0)
            seen = part.dropna()
            ax.errorbar(
                seen["range"],
                seen["corrected"],
                2 * seen["corrected_sem"],
                color=f"C{k}",
                ls="none",
                marker="o",
                mfc="w",
            )
            ax.plot(seen["range"], seen["limit"], color=f"C{k}", ls="none", marker="x")
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="range (largest level)",
            title=f"lr {lr:g}",
            ylabel="final error",
        )
        ax.set_xticks([1.5, 2, 3, 4, 5], ["1.5", "2", "3", "4", "5"], minor=False)
        ax.set_xticks([], minor=True)
    figure.legend(
        *np.atleast_1d(axes)[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize="small",
        title="dotted: rounding error; circles: simulated (corrected, 2 standard errors); crosses: limit at that time",
        title_fontsize="small",
    )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/formats.py: Gaussian teacher of std 1, label noise 0.1, {jax.devices()[0].platform}"
    report.write_csv(folder / "formats.csv", table, about)
    report.write_figure(folder / "formats.png", figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one format, small dimension, few runs")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    main(given.quick, given.out)
