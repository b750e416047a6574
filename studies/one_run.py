"""How far one run strays: curves with their predicted bands beside ten runs, and the times at which runs escape.

Above, setting R1 (2-bit weights and inputs of range 2, lr 0.1) in three dimensions, with bands of one and two predicted
standard deviations (``docs/width.md``). Below, the escape from a plateau (2-bit mid-tread weights of range 1 that start
near 0, lr 0.05): many runs beside the Gaussian that the limit predicts. Where one run strays by a large part of the
time itself, the linear theory ends: the law of the times is skew, and its mean moves.
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

from stedyn.curves.plateaus import simulated_times
from stedyn.drawing.axes import SIMULATION as RED
from stedyn.drawing.axes import THEORY as BLUE
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.problem.populations import Start
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD
from stedyn.simulation import simulate

#: Dimensions of the curves and their runs; dimensions of the escapes and their runs.
CURVES, RUNS = (128, 1024, 8192), 10
ESCAPES = {50: 2000, 200: 2000, 1000: 200}
QUICK, QUICK_ESCAPES = (64,), {50: 100}
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)

R1 = Problem(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1), run=Run(20.0, 81))
PLATEAU = Problem(
    weights=Quantizer(2, 1.0, kind="mid-tread"), start=Start.gaussian(std=0.02), rule=SGD(0.05), noise_std=0.1,
    run=Run(24.0, 121),
)  # fmt: skip


def curve(ax, dim: int) -> list[dict]:
    """Ten runs in the predicted bands; one row a time."""
    solution, ensemble = solve(R1, dim=dim), simulate(R1, dim=dim, seeds=RUNS, seed=0)
    tau, error, std = solution.tau, solution.error, solution.error_std
    for width, alpha in ((2, 0.15), (1, 0.25)):
        ax.fill_between(tau, error - width * std, error + width * std, color=BLUE, alpha=alpha, lw=0)
    ax.plot(tau, ensemble.error.T, color=RED, lw=0.6, alpha=0.7)
    ax.plot(tau, error, color=BLUE, lw=1.4)
    ax.set(title=f"d = {dim}", xlabel=r"$\tau$ = steps / d", ylabel="error", ylim=(0, 3))
    columns = zip(tau, error, std, ensemble.error_mean, ensemble.error_std, strict=True)
    names = ("tau", "predicted", "predicted_std", "simulated", "simulated_std")
    return [
        {"part": "curve", "dim": dim, "runs": RUNS} | dict(zip(names, map(float, row), strict=True))
        for row in columns
    ]


def escapes(ax, dim: int, runs: int) -> tuple[list[dict], str]:
    """Escape times beside the predicted Gaussian: rows of quantiles, and a sentence."""
    solution, ensemble = solve(PLATEAU, dim=dim), simulate(PLATEAU, dim=dim, seeds=runs, seed=1000)
    (plateau,), (std,) = solution.plateaus(), solution.spread.escape_std
    each = [simulated_times(plateau, None, solution.tau, solution.error, run) for run in ensemble.error]
    times = np.array([found[1] for found in each if found is not None])
    law = stats.norm(plateau.escape, std)
    ax.hist(times, bins=40, density=True, color=RED, alpha=0.5, label=f"{times.size} runs")
    grid = np.linspace(*law.ppf([1e-4, 1 - 1e-4]), 200)
    ax.plot(grid, law.pdf(grid), color=BLUE, label="limit")
    ax.set(title=f"d = {dim}", xlabel=r"escape $\tau$", ylabel="density")
    ax.legend(frameon=False, fontsize="small")
    rows = [
        {
            "part": "escape",
            "dim": dim,
            "runs": runs,
            "quantile": q,
            "predicted": law.ppf(q),
            "predicted_std": std,
            "simulated": np.quantile(times, q),
        }
        for q in QUANTILES
    ]
    late = np.mean(times > law.ppf(0.99))
    return rows, (
        f"escape at d = {dim}: predicted {plateau.escape:.3f} +- {std:.3f}, {times.size} of {runs} runs "
        f"{times.mean():.3f} +- {times.std(ddof=1):.3f} (standard error of the mean {stats.sem(times):.3f}), skewness "
        f"{stats.skew(times):.2f}; later than the predicted 99 %: {late:.2%}"
    )


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``one_run.csv`` and ``.png``; return the table, one row a time or a quantile."""
    jax.config.update("jax_enable_x64", True)
    dims, many = (QUICK, QUICK_ESCAPES) if quick else (CURVES, ESCAPES)
    figure, axes = plt.subplots(
        2, len(dims), figsize=(3.7 * len(dims), 6.6), layout="constrained", squeeze=False
    )
    for ax in axes.ravel():
        ax.spines[["top", "right"]].set_visible(False)
    rows, lines = [], []
    for ax, dim in zip(axes[0], tqdm(dims, desc="curves"), strict=True):
        rows += curve(ax, dim)
    for ax, (dim, runs) in zip(axes[1], tqdm(many.items(), desc="escapes"), strict=True):
        found, line = escapes(ax, dim, runs)
        rows += found
        lines.append(line)
    print("\n".join(lines))
    table, folder = pd.DataFrame(rows), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/one_run.py: curves with seeds 0 to {RUNS - 1}, escapes from 1000, {jax.devices()[0].platform}"
    report.write_csv(folder / "one_run.csv", table, about, *lines)
    report.write_figure(folder / "one_run.png", figure)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small dimensions, few runs")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    main(given.quick, given.out)
