"""The shrinkage of the step by quantized gradients: derived, not postulated; and the bound against the exact curve.

Teacher ``w* = 1``, start ``N(0, 1)``, nothing else quantized, label noise 0.5, lr 0.2. Gradients are
rounded to the nearest of ``2^b - 1`` mid-tread levels with range 2. ``b(V) / (lr k2)`` is then the factor q
that arXiv 2508.07142 puts in by hand. It is compared with two postulates: the constant q taken at the
start, and "q < 1 only slows and raises the floor". The last panel holds the bound for fixed steps
(``stedyn.statements.ShrinkageBound``) against the exact curves of the postulated model.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from stedyn import plots
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD, QuantizedGradient, Shrinkage
from stedyn.simulation import simulate
from stedyn.statements import ShrinkageBound

NOISE, LR, RANGE = 0.5, 0.2, 2.0
COLORS = {2: "#D55E00", 3: "#009E73", 4: "#0072B2"}


def problem_of(rule, tau: float = 60.0) -> Problem:
    """The student with this rule."""
    return Problem(noise_std=NOISE, rule=rule, run=Run(tau=tau, points=61))


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``shrinkage.csv`` and ``.png``; return the table, one row a rule and time."""
    jax.config.update("jax_enable_x64", True)
    dim, seeds = (200, 2) if quick else (2000, 4)
    widths = (2, 3) if quick else (2, 3, 4)
    rules = {"SGD": SGD(LR)}
    for bits in widths:
        gradient = Quantizer(bits, RANGE, kind="mid-tread")
        rules[f"G{bits}"] = QuantizedGradient(LR, quantizer=gradient)
    frames = []
    for name, rule in rules.items():
        problem = problem_of(rule)
        solution, ensemble = solve(problem), simulate(problem, dim=dim, seeds=seeds)
        q = float(np.minimum(solution.effective_step[0], 1.0))
        postulated = solve(problem_of(Shrinkage(LR, q=q)))
        noisy = Shrinkage(LR, q=q, noise_std=0.3)
        noisy_curve = solve(problem_of(noisy))
        # F = error / 2: L = c = 1/d, M = sigma^2, M_G = d + 2
        bound = ShrinkageBound(1 / dim, 1 / dim, NOISE**2, dim + 2, q, q, 0.3**2)
        steps = np.round(np.asarray(solution.tau) * dim)
        frames.append(
            pd.DataFrame(
                {
                    "rule": name,
                    "tau": np.asarray(solution.tau),
                    "limit": np.asarray(solution.error),
                    "simulation": ensemble.error_mean,
                    "standard_error": ensemble.error_sem,
                    "effective_step": np.asarray(solution.effective_step),
                    "constant_q": np.asarray(postulated.error),
                    "constant_q_with_noise": np.asarray(noisy_curve.error),
                    "bound_with_noise": 2 * bound.fixed(steps, LR, float(solution.error[0]) / 2),
                }
            )
        )
    table = pd.concat(frames, ignore_index=True)

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/shrinkage.py: d = {dim}, seeds 0 to {seeds - 1}, {jax.devices()[0].platform}"
    setting = report.describe(problem_of(rules["G2"])).splitlines()
    report.write_csv(folder / "shrinkage.csv", table, about, *setting)
    figure, axes = plots.panels(3, width=3.5, height=3.2)
    draw(axes, table, widths)
    report.write_figure(folder / "shrinkage.png", figure)
    return table


def draw(axes, table: pd.DataFrame, widths) -> None:
    """Derived factor; curves with markers for the simulation; bound against the exact curve."""
    for name, part in table.groupby("rule"):
        bits = 0 if name == "SGD" else int(name[1:])
        color = COLORS.get(bits, "0.35")
        label = name if not bits else f"{bits} bits"
        axes[0].plot(part["tau"], part["effective_step"], color=color, lw=1.5, label=label)
        axes[1].semilogy(part["tau"], part["limit"], color=color, lw=1.5, label=label)
        axes[1].plot(part["tau"][::4], part["simulation"][::4], "o", color=color, mfc="white", ms=4)
        if bits:
            axes[1].semilogy(part["tau"], part["constant_q"], color=color, lw=1, ls=":")
        if bits == widths[0]:
            axes[2].semilogy(
                part["tau"], part["constant_q_with_noise"], color=color, lw=1.5, label="exact limit"
            )
            axes[2].semilogy(part["tau"], part["bound_with_noise"], color="0.2", ls="--", label="bound")
            axes[2].semilogy(part["tau"], part["constant_q"], color=color, ls=":", label="exact, no noise")
            axes[2].set_title(f"constant q of {bits} bits", fontsize="medium")
    axes[1].plot([], [], color="0.4", ls=":", label="constant q")
    axes[0].set(ylabel="derived q = b(V) / (lr k2)", ylim=(0, None))
    axes[1].set(ylabel="generalization error")
    axes[2].set(ylabel="generalization error")
    for ax in axes:
        ax.set_xlabel(r"$\tau$ [steps / d]")
        ax.legend(frameon=False, fontsize="small")


def findings(table: pd.DataFrame) -> str:
    """What the table says, in two sentences."""
    ends = table.groupby("rule").agg(["first", "last"])
    coarse = next(name for name in ends.index if name.startswith("G"))
    row, plain = ends.loc[coarse], ends.loc["SGD"]
    q0, q1 = row["effective_step"]
    return (
        f"With {coarse[1:]} bits the derived factor is no constant: it goes from {q0:.3f} to "
        f"{q1:.3f} while the error falls, and the "
        f"final error is {row['limit']['last']:.4f} where SGD has {plain['limit']['last']:.4f} "
        f"and a constant q = {q0:.3f} without "
        f"noise {row['constant_q']['last']:.4f} (lower, not higher: it is the rate lr q). "
        f"Only added noise raises the floor, to {row['constant_q_with_noise']['last']:.4f} for "
        f"noise 0.3, and the bound stands at "
        f"{row['bound_with_noise']['last'] / row['constant_q_with_noise']['last']:.2f} times "
        f"the exact curve at the end."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small dimension, fewer bits")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    result = main(given.quick, given.out)
    print(result.groupby("rule").nth([0, 10, 20, -1]).to_string(index=False))
    print(findings(result))
