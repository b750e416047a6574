"""Does a learned range end where training is best?

Teacher ``N(0, 1)``, start ``N(0, 1)``, lr 0.1, label noise 0.1, mid-rise weights of 2 to 4 bits, inputs not
quantized. The limit to ``tau = 60`` of a range that is learned with LSQ's estimator at two rates, from half and from
twice the range of least rounding error; of one that is fast, as with LSQ's own gradient scale (from
``0.8 w* + N(0, 0.3^2)``, as it collapses from one that knows nothing of the teacher); of a range in proportion to
``mean|w|``, which is that of least rounding error where the weights are those of the teacher; and of fixed ranges: that
of least rounding error, and the best of a scan at the same time. The error is the mean over the last quarter of the
run, in simulations, too.

The simulated errors at ``d = 1000`` have seeds of their own in every row, so that rows stray independently. What a
fast range does at finite width is a study of its own (``fast_range.py``).
"""

import argparse
import itertools
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from stedyn.design.calibration import calibrated_range
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.problem.moving_range import MovingRange
from stedyn.problem.problem import Problem, Run, Start, Teacher
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD
from stedyn.simulation import simulate

BITS, RATES, STARTS = (2, 3, 4), (0.1, 0.5), (0.5, 2.0)
#: Fixed ranges of the scan, as multiples of that of least rounding error.
SCAN = (0.8, 0.85, 0.9, 1.0)
TAIL = 0.25
MARKERS = {"learned": "o", "fast": "s", "absmean": "^"}
COLOURS = {"learned": "#0072B2", "fast": "#D55E00", "absmean": "#009E73", "fixed": "#555555"}


def problem_of(bits: int, width: float, tau: float, moving=None, **more) -> Problem:
    """The problem at a range, or from it."""
    taus = np.unique(np.append(np.linspace(0.0, tau, 41), np.linspace((1 - TAIL) * tau, tau, 9)))
    fields = dict(noise_std=0.1, rule=SGD(0.1), run=Run(taus=taus), range_rule=moving)
    return Problem(Teacher.gaussian(1.0), weights=Quantizer(bits, width), **fields | more)


def cases(bits: int, tau: float):
    """Method, rate, start over the range of least rounding error, problem."""
    mse = calibrated_range(Teacher.gaussian(1.0), Quantizer(bits, 1.0), "mse")
    for multiple in SCAN:
        yield "fixed", None, multiple, problem_of(bits, multiple * mse, tau)
    for rate in RATES:
        for start in STARTS:
            yield "learned", rate, start, problem_of(bits, start * mse, tau, MovingRange("learned", lr=rate))
    start = Start.teacher(0.8, 0.3)
    yield "fast", None, 1.0, problem_of(bits, mse, tau, MovingRange("fast-learned", lr=1.0), start=start)
    factor = mse / np.sqrt(2 / np.pi)
    yield "absmean", None, None, problem_of(bits, 1.0, tau, MovingRange("absmean", factor=factor))


def late_error(ensemble, late) -> dict:
    """Mean and standard error of the late errors of simulated runs."""
    errors = ensemble.error[:, late].mean(axis=1)
    return {"simulated": errors.mean(), "sem": errors.std(ddof=1) / errors.size**0.5}


def measure(problem: Problem, tol: float, dim: int, seeds: int, seed: int = 0) -> dict:
    """Late errors and last ranges of limit and simulation."""
    solution = solve(problem, tol=tol)
    late = solution.tau >= (1 - TAIL) * solution.tau[-1]
    width = float(problem.weights.range) if solution.range is None else float(solution.range[-1])
    row = {"range": width, "error": float(solution.error[late].mean()), "estimate": solution.error_estimate}
    if not seeds:
        return row
    ensemble = simulate(problem, dim=dim, seeds=seeds, seed=seed)
    row |= {"seed": seed} | late_error(ensemble, late)
    if ensemble.range is not None:
        row["simulated_range"] = ensemble.range[:, -1].mean()
    return row


def figure(table: pd.DataFrame) -> plt.Figure:
    """The late errors of all methods over the range at the end, one panel a bit width."""
    bits = table.bits.unique()
    fig, panels = plt.subplots(1, bits.size, figsize=(1.2 + 4.6 * bits.size, 4.2), squeeze=False)
    for axes, b in zip(panels[0], bits, strict=True):
        _panel(axes, table[table.bits == b])
        axes.set_title(f"{b} bits", fontsize="medium")
    panels[0, 0].set_ylabel("error over the last quarter of the run")
    panels[0, -1].legend(frameon=False, fontsize="small")
    fig.suptitle("limit, and simulation with standard errors (crosses)", fontsize="medium")
    fig.tight_layout()
    return fig


def _panel(axes: plt.Axes, table: pd.DataFrame) -> None:
    names = table.method + table.rate.map(lambda rate: f", rate {rate:g}" if rate == rate and rate else "")
    for name, rows in table.groupby(names, sort=False):
        method = rows.method.iloc[0]
        line = {"ls": "-", "marker": "."} if method == "fixed" else {"ls": "none", "marker": MARKERS[method]}
        colour = COLOURS[method] if "0.1" not in name else "#56B4E9"
        axes.plot(rows["range"], rows.error, color=colour, label=name, ms=7, mfc="none", **line)
        if "simulated" in rows:
            axes.errorbar(
                rows["range"], rows["simulated"], rows["sem"], color=colour, ls="none", marker="x", ms=5, lw=1
            )
    axes.set(xlabel="range R at the end", yscale="log")


def main(quick: bool = False, out: str = "data", bits: tuple[int, ...] = BITS) -> pd.DataFrame:
    """Write ``learned_range.csv`` and ``.png``; return the table, one row a way to move the range."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_x64", True)
    tau, tol, dim, seeds = (4.0, 0.2, 0, 0) if quick else (60.0, 5e-2, 1000, 32)
    bits = (2,) if quick else tuple(bits)
    rows, seed = [], itertools.count(1000, 1000)
    for b in bits:
        for method, rate, start, problem in cases(b, tau):
            if quick and (method == "fixed" or rate == RATES[1]):
                continue
            simulated = seeds if method != "fixed" or start == 1.0 else 0
            found = measure(problem, tol, dim, simulated, next(seed))
            rows.append({"bits": b, "method": method, "rate": rate, "start": start} | found)
            print(rows[-1], flush=True)
        table = pd.DataFrame(rows)
        about = f"limit to tau = {tau:g}, simulation with d = {dim} and {seeds} seeds"
        report.write_csv(folder / "learned_range.csv", table, about)
        report.write_figure(folder / "learned_range.png", figure(table))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 bits, a short run, no simulation")
    parser.add_argument("--out", default="data", help="folder of the results")
    parser.add_argument("--bits", type=int, nargs="+", default=BITS, help="bit widths")
    main(**vars(parser.parse_args()))
