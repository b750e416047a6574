"""Multinomial updates against SGD, and what the constant c does (arXiv 2512.04051).

Teacher ``w* = 1``, start ``N(0, 1)``, inputs not quantized, label noise 0.3, one trial a coordinate and
step (nu = 1). With ``c = 0`` of the residual only its sign survives and trials follow ``|phi|``; with ``c``
large they are spread evenly, which is sign SGD with Poisson counts. SGD gets the rate whose fixed point is
the final error of the multinomial rule, and the question is who arrives first.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from stedyn import fixed_point, plots
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.problem.problem import Problem, Run
from stedyn.rules import SGD, Multinomial
from stedyn.simulation import simulate

NOISE, ZETA = 0.3, 0.05
PALETTE = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00")


def problem_of(rule, tau: float = 60.0) -> Problem:
    """The student with this rule."""
    return Problem(noise_std=NOISE, rule=rule, run=Run(tau=tau, points=61))


def halfway(tau, error, level: float = 0.1) -> float:
    """First time at which the error is below ``level``; the horizon if it never is."""
    below = np.asarray(error) < level
    return float(tau[int(np.argmax(below))]) if below.any() else float(tau[-1])


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``discrete_updates.csv`` and ``.png``; return the table, one row a value of c."""
    jax.config.update("jax_enable_x64", True)
    dim, seeds = (200, 2) if quick else (1000, 3)
    constants = (0.0, 1.0) if quick else (0.0, 0.1, 0.5, 1.0, 3.0)
    rows, curves = [], {}
    for c in constants:
        problem = problem_of(Multinomial(ZETA, 1.0, c))
        solution, ensemble = solve(problem), simulate(problem, dim=dim, seeds=seeds)
        floor = fixed_point(problem).error
        # a fixed point lr sigma^2 / (2 - lr)
        lr = 2 * floor / (NOISE**2 + floor)
        sgd = solve(problem_of(SGD(lr)))
        curves[c] = solution, ensemble, sgd
        rows.append(
            {
                "c": c,
                "fixed_point": floor,
                "tau_to_0.1": halfway(solution.tau, solution.error),
                "limit_at_60": solution.final_error,
                "simulation_at_60": ensemble.error_mean[-1],
                "standard_error": ensemble.error_sem[-1],
                "sgd_lr_of_equal_floor": lr,
                "sgd_tau_to_0.1": halfway(sgd.tau, sgd.error),
                "effective_step_start": float(solution.effective_step[0]),
                "effective_step_end": float(solution.effective_step[-1]),
            }
        )
    table = pd.DataFrame(rows)

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/discrete_updates.py: d = {dim}, seeds 0 to {seeds - 1}, {jax.devices()[0].platform}"
    setting = report.describe(problem_of(Multinomial(ZETA, 1.0, 1.0))).splitlines()
    report.write_csv(folder / "discrete_updates.csv", table, about, *setting)
    figure, axes = plots.panels(2, width=4.6, height=3.4)
    for (c, (solution, ensemble, sgd)), color in zip(curves.items(), PALETTE, strict=False):
        axes[0].semilogy(solution.tau, solution.error, color=color, lw=1.6, label=f"c = {c:g}")
        axes[0].plot(ensemble.tau[::4], ensemble.error_mean[::4], "o", color=color, mfc="white", ms=4)
        axes[0].semilogy(sgd.tau, sgd.error, color=color, lw=1, ls=":")
        axes[1].plot(solution.tau, solution.effective_step, color=color, lw=1.6)
    axes[0].plot([], [], color="0.4", ls=":", label="SGD of equal floor")
    axes[0].set(ylabel="generalization error", xlabel=r"$\tau$ [steps / d]")
    axes[1].set(ylabel="effective step b(V) / (zeta nu k2)", xlabel=r"$\tau$ [steps / d]")
    axes[1].set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize="small")
    report.write_figure(folder / "discrete_updates.png", figure)
    return table


def findings(table: pd.DataFrame) -> str:
    """What the table says, in two sentences."""
    first, last = table.iloc[0], table.iloc[-1]
    worst = (abs(table["simulation_at_60"] - table["limit_at_60"]) / table["standard_error"]).max()
    return (
        f"From c = {first.c:g} to {last.c:g} the time to an error of 0.1 goes from "
        f"{first['tau_to_0.1']:.0f} to "
        f"{last['tau_to_0.1']:.0f} and the fixed point from {first.fixed_point:.4f} to "
        f"{last.fixed_point:.4f} (lowest "
        f"{table['fixed_point'].min():.4f} at c = "
        f"{table.loc[table['fixed_point'].idxmin(), 'c']:g}); simulations end within "
        f"{worst:.1f} standard errors of the limit. SGD with the rate of the same floor needs "
        f"{first['sgd_tau_to_0.1']:.0f} and "
        f"{last['sgd_tau_to_0.1']:.0f}: multinomial moves do not grow with the residual, so "
        f"that their effective step rises "
        f"{first.effective_step_end / first.effective_step_start:.1f} and "
        f"{last.effective_step_end / last.effective_step_start:.1f} times as it falls."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small dimension, two values of c")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    result = main(given.quick, given.out)
    print(result.to_string(index=False))
    print(findings(result))
