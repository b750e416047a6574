"""How fast simulations approach the limit as the dimension grows: bias and spread, each with its power of d.

Four students with label noise 0.1: one with the identity estimator (3-bit weights of range 1.5, 2-bit inputs of range
2, lr 0.3, teacher ``w* = 1``, start ``N(0, 1)``), one with the clipped one (2-bit weights of range 1.5, lr 0.2), one
whose inputs have the mean 1 (teacher 0.7, 2-bit weights of range 1.5, lr 0.2, start ``N(0, 0.5^2)``), and one that is
not quantized (lr 0.3), whose bias is known (``docs/width.md``). At one time the error of a run differs from the limit
by a spread between runs, from the draws of start and samples, which should shrink like ``d^-1/2`` (with a mean it does
not shrink: the mean output, one random number, is part of the error of a run), and by a bias of their mean: ``1/d``
from the expansion of a step, but ``d^-1/2`` for the clipped estimator, whose steps overshoot the end of the range, and
about ``d^-1/4`` with a mean. Last, a plateau at the largest d.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from stedyn import plots
from stedyn.comparison.comparison import compare
from stedyn.files import report
from stedyn.inputs.law import InputLaw
from stedyn.limit.bias import error_bias
from stedyn.limit.solver import solve
from stedyn.problem.populations import Start, Teacher
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD
from stedyn.simulation import simulate

TAU = 4.0
RUNS = {
    50: 80_000, 100: 40_000, 200: 20_000, 400: 10_000, 1000: 2000, 3000: 128, 10_000: 24, 30_000: 8, 100_000: 2,
}  # fmt: skip
QUICK, QUICK_NAMES = {50: 1000, 200: 200}, ("unquantized",)
#: Only the first student needs the largest dimensions: the others have their exponents clear before.
LARGEST = {"identity": 100_000, "clipped": 10_000, "mean": 3000, "unquantized": 1000}
EXPONENTS = {
    "identity": (-0.5, -1.0),
    "clipped": (-0.5, -0.5),
    "mean": (0.0, -0.25),
    "unquantized": (-0.5, -1.0),
}
#: Of the limits whose bias is larger.
TOLERANCES = {"mean": 5e-3}
STYLES = {
    "identity": ("#0072B2", "o"), "clipped": ("#D55E00", "s"), "mean": ("#009E73", "^"), "unquantized": ("0.3", "D"),
}  # fmt: skip


def problem_of(name: str) -> Problem:
    """One of the students."""
    run = Run(taus=[0.0, TAU])
    if name == "unquantized":
        return Problem(noise_std=0.1, rule=SGD(0.3), run=run)
    if name == "mean":
        start, law = Start.gaussian(0.0, 0.5), InputLaw.gaussian(mean=1.0)
        weights = Quantizer(2, 1.5)
        return Problem(
            Teacher.constant(0.7),
            start,
            input_law=law,
            weights=weights,
            noise_std=0.1,
            rule=SGD(0.2),
            run=run,
        )
    if name == "identity":
        inputs = Quantizer(2, 2.0)
        return Problem(weights=Quantizer(3, 1.5), inputs=inputs, noise_std=0.1, rule=SGD(0.3), run=run)
    return Problem(weights=Quantizer(2, 1.5), ste="clipped", noise_std=0.1, rule=SGD(0.2), run=run)


def plateau_problem() -> Problem:
    """A mid-tread student started near zero, which leaves its plateau at about tau = 5."""
    weights = Quantizer(2, 1.0, kind="mid-tread")
    return Problem(
        start=Start.gaussian(0.0, 0.02), weights=weights, noise_std=0.1, rule=SGD(0.1), run=Run(12.0, 121)
    )


def measure(name: str, runs: dict[int, int]) -> list[dict]:
    """Mean gap and standard deviation of the error at ``TAU``, relative to the limit, for every dimension."""
    problem = problem_of(name)
    solution = solve(
        problem, law="mixture" if name == "unquantized" else "grid", tol=TOLERANCES.get(name, 2e-4)
    )
    limit = float(solution.error[-1])
    rows = []
    for dim, seeds in tqdm(runs.items(), desc=name):
        error = simulate(problem, dim=dim, seeds=seeds, seed=10_000).error[:, -1] / limit
        spread = error.std(ddof=1)
        known = error_bias(problem, dim, float(solution.m[0]), float(solution.q[0]))
        rows.append(
            {
                "estimator": name,
                "dim": dim,
                "runs": seeds,
                "limit": limit,
                "bias": error.mean() - 1,
                "bias_standard_error": spread / np.sqrt(seeds),
                "predicted_bias": np.nan if known is None else known[-1] / limit,
                "spread": spread,
                "spread_standard_error": spread / np.sqrt(2 * (seeds - 1)),
            }
        )
    return rows


def fitted(dim, value, error, powers):
    """``value = scale (d / 1000)^power`` by weighted least squares: the scale and chi-squared of every power."""
    shape = (dim / 1000) ** powers[:, None] / error
    scale = shape @ (value / error) / np.sum(shape**2, axis=1)
    return scale, np.sum((value / error - scale[:, None] * shape) ** 2, axis=1)


def exponent(dim, value, error) -> tuple[float, float]:
    """The power of least chi-squared and its standard error."""
    powers = np.linspace(-2.5, 0.5, 601)
    chi2 = fitted(dim, value, error, powers)[1]
    best = int(np.argmin(chi2))
    near = powers[chi2 <= chi2[best] + 1]
    return powers[best], float(np.ptp(near) / 2)


def main(quick: bool = False, out: str = "data", largest: int = 100_000) -> pd.DataFrame:
    """Write ``size_scaling.csv`` and ``.png``; return the table, one row an estimator and dimension."""
    jax.config.update("jax_enable_x64", True)
    runs = QUICK if quick else RUNS
    rows = []
    for name in QUICK_NAMES if quick else LARGEST:
        bound = LARGEST[name]
        rows += measure(name, {dim: seeds for dim, seeds in runs.items() if dim <= min(bound, largest)})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3g}"))
    save(table, out, 200 if quick else largest)
    return table


def save(table: pd.DataFrame, out: str, largest: int) -> None:
    """Write the table and the figure, with a plateau in ``largest`` dimensions."""
    figure, axes = plots.panels(3, width=4.4)
    lines = []
    for name, part in table.groupby("estimator", sort=False):
        for ax, what, expected in zip(axes, ("spread", "bias"), EXPONENTS[name], strict=False):
            dim, value, error = (part[key].to_numpy() for key in ("dim", what, f"{what}_standard_error"))
            power, sure = exponent(dim, value, error)
            (scale,), _ = fitted(dim, value, error, np.array([expected]))
            lines.append(f"{name}: {what} ~ d^({power:.2f} +- {sure:.2f}), expected {expected:g}")
            color, marker = STYLES[name]
            label = f"{name}: $d^{{{power:.2f} \\pm {sure:.2f}}}$"
            bars = dict(color=color, marker=marker, ls="none", mfc="white")
            ax.errorbar(dim, np.abs(value), 2 * error, label=label, **bars)
            ax.plot(dim, np.abs(scale) * (dim / 1000) ** expected, color=color, lw=1.2, ls="--")
    for ax, what in zip(axes, ("spread between runs", "bias of the mean"), strict=False):
        ax.set(xscale="log", yscale="log", xlabel="dimension $d$", ylabel=f"relative {what}")
        ax.plot([], [], color="0.4", ls="--", label="predicted exponent")
        ax.legend(frameon=False, fontsize="small")
    lines.append(plateau(axes[2], largest))
    print("\n".join(lines))

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/size_scaling.py: seeds from 10000, tau = {TAU:g}, {jax.devices()[0].platform}"
    report.write_csv(folder / "size_scaling.csv", table, about, *lines)
    report.write_figure(folder / "size_scaling.png", figure)


def plateau(ax, dim: int) -> str:
    """The plateau of two runs in ``dim`` dimensions against the limit."""
    problem = plateau_problem()
    solution, ensemble = solve(problem, law="grid"), simulate(problem, dim=dim, seeds=2)
    plots.learning_curve(ax, solution, ensemble)
    predicted = solution.plateaus()[0]
    pair = compare(solution, ensemble).pairs[0]
    return (
        f"plateau at d = {dim}: length {pair.length:.3f} +- {pair.length_sem or 0:.3f} in {pair.seeds} runs, limit "
        f"{predicted.length:.3f}; escape {pair.escape:.3f} +- {pair.escape_sem or 0:.3f}, limit {predicted.escape:.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small dimensions, few runs")
    parser.add_argument("--out", default="data", help="folder of the results")
    parser.add_argument(
        "--largest", type=int, default=100_000, help="largest dimension (a few minutes for 30000)"
    )
    given = parser.parse_args()
    main(given.quick, given.out, given.largest)
