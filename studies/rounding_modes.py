"""Float, BinaryConnect (BC), stochastic (SR) and deterministic rounding (R) of the weights, at equal rate and bits.

Teacher ``w* = 1``, start ``N(0, 0.5^2)``, inputs not quantized, label noise 0.3, d = 1024. SR and R keep
their weights on a lattice over ``[-2, 2]`` with the given bits, so that ``delta = 4 sqrt(d) / (2^bits -
1)``; BC rounds latent floats to as many mid-rise levels, stochastically. Three parts:

* the ordering at equal bits and rate (Li et al. 2017, table 1: float, BC, SR, R);
* annealing: the error at the end of runs with smaller and smaller rates, ``lr tau`` being the same;
* the bits that SR and R need for an error of at most ``TARGET`` at different d: half a bit for each
  doubling.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from stedyn import plots
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.problem.problem import Problem, Run, Start
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD, DeterministicRounding, StochasticRounding
from stedyn.simulation import simulate

RANGE, NOISE, TARGET, REACH = 2.0, 0.3, 0.05, 12.0
STYLES = {"float": ("0.35", "d"), "BC": ("#0072B2", "o"), "SR": ("#D55E00", "s"), "R": ("#009E73", "^")}


def spacing(bits: float, dim: int) -> float:
    """``delta`` of the lattice with ``2^bits`` points over the range in ``dim`` dimensions."""
    return 2 * RANGE * dim**0.5 / (2**bits - 1)


def problem_of(mode: str, lr: float, bits: int, dim: int, points: int = 25) -> Problem:
    """A student that learns until ``lr tau = REACH``."""
    rules = {
        "SR": lambda: StochasticRounding(lr, delta=spacing(bits, dim)),
        "R": lambda: DeterministicRounding(lr, delta=spacing(bits, dim)),
    }
    return Problem(
        start=Start.gaussian(0.0, 0.5),
        noise_std=NOISE,
        weights=Quantizer(bits, RANGE, rounding="stochastic") if mode == "BC" else None,
        rule=rules.get(mode, lambda: SGD(lr))(),
        run=Run(tau=REACH / lr, points=points),
    )


def needed_bits(mode: str, lr: float, dim: int, halvings: int = 11) -> float:
    """Bits, as a real number, at which the error at the end of the limit crosses ``TARGET``."""
    low, high = 4.0, 22.0
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        good = solve(problem_of(mode, lr, middle, dim, 2), law="mixture").final_error <= TARGET
        low, high = (low, middle) if good else (middle, high)
    return 0.5 * (low + high)


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``rounding_modes.csv`` and ``.png``; return the table, one row a part, mode and setting."""
    jax.config.update("jax_enable_x64", True)
    dim, seeds, bits, lr0 = (256, 2, 6, 0.2) if quick else (1024, 4, 7, 0.2)
    lrs = (0.2, 0.1) if quick else (0.4, 0.2, 0.1, 0.05, 0.025)
    dims = (256, 1024) if quick else (256, 512, 1024, 2048, 4096, 8192)
    rows, curves = [], {}
    for mode in STYLES:
        for lr in lrs:
            problem = problem_of(mode, lr, bits, dim)
            solution = solve(problem)
            row = {
                "part": "annealing",
                "mode": mode,
                "lr": lr,
                "bits": bits,
                "dim": dim,
                "limit": solution.final_error,
            }
            if lr >= (lr0 if quick else 0.05):
                ensemble = simulate(problem, dim=dim, seeds=seeds)
                row |= {"simulation": ensemble.error_mean[-1], "standard_error": ensemble.error_sem[-1]}
                if lr == lr0:
                    curves[mode] = solution, ensemble
            rows.append(row)
    for mode in ("SR", "R"):
        for n in dims:
            needed = needed_bits(mode, 0.1, n, 3 if quick else 11)
            rows.append({"part": "bits", "mode": mode, "lr": 0.1, "bits": needed, "dim": n})
    table = pd.DataFrame(rows)

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/rounding_modes.py: d = {dim}, seeds 0 to {seeds - 1}, {jax.devices()[0].platform}"
    report.write_csv(
        folder / "rounding_modes.csv",
        table,
        about,
        *report.describe(problem_of("SR", lr0, bits, dim)).splitlines(),
    )
    figure, axes = plots.panels(3, width=3.5, height=3.2)
    draw(axes, table, curves)
    axes[0].set_title(f"{bits} bits, lr {lr0:g}, d = {dim}", fontsize="medium")
    report.write_figure(folder / "rounding_modes.png", figure)
    return table


def draw(axes, table: pd.DataFrame, curves: dict) -> None:
    """Learning curves, annealing, bits against d; lines are the limit, markers the simulation."""
    for mode, (solution, ensemble) in curves.items():
        color, marker = STYLES[mode]
        dashes = "--" if mode == "BC" else "-"  # it lies on the float curve
        axes[0].semilogy(solution.tau, solution.error, dashes, color=color, lw=1.5, label=mode)
        axes[0].plot(ensemble.tau[::3], ensemble.error_mean[::3], marker, color=color, mfc="white", ms=4)
    annealing, bits = (table[table["part"] == part] for part in ("annealing", "bits"))
    for mode, part in annealing.groupby("mode"):
        color, marker = STYLES[mode]
        axes[1].loglog(part["lr"], part["limit"], color=color, lw=1.5)
        axes[1].errorbar(
            part["lr"],
            part["simulation"],
            2 * part["standard_error"],
            color=color,
            marker=marker,
            ls="none",
            mfc="white",
        )
    for mode, part in bits.groupby("mode"):
        color, marker = STYLES[mode]
        axes[2].semilogx(
            part["dim"], part["bits"], marker + "-", color=color, mfc="white", base=2, label=mode
        )
    axes[0].set(xlabel=r"$\tau$ [steps / d]", ylabel="generalization error")
    axes[1].set(xlabel="learning rate", ylabel=f"error at lr tau = {REACH:g}")
    axes[2].set(xlabel="input dimension d", ylabel=f"bits for an error of {TARGET}")
    axes[1].minorticks_off()
    axes[1].set_xticks(
        sorted(annealing["lr"].unique()), [f"{lr:g}" for lr in sorted(annealing["lr"].unique())]
    )
    axes[0].legend(frameon=False, fontsize="small")


def findings(table: pd.DataFrame) -> str:
    """What the table says, in two sentences."""
    annealing, bits = (table[table["part"] == part] for part in ("annealing", "bits"))
    fall = annealing.groupby("mode")["limit"].agg(lambda x: x.iloc[0] / x.iloc[-1])
    slopes = {m: np.polyfit(np.log2(p["dim"]), p["bits"], 1)[0] for m, p in bits.groupby("mode")}
    orders = []
    for lr in (0.2, annealing["lr"].min()):
        at = annealing[annealing["lr"] == lr].set_index("mode")["limit"].sort_values()
        orders.append(f"{' < '.join(f'{m} {value:.4f}' for m, value in at.items())} at rate {lr:g}")
    drops = ", ".join(f"{mode} {fall[mode]:.2f}" for mode in STYLES)
    span = annealing["lr"].max() / annealing["lr"].min()
    return (
        f"At equal bits the final errors are {' and '.join(orders)} (that of table 1 at small "
        f"rates, where R stands still), and a {span:.0f} times smaller rate divides them by {drops}. "
        f"For an error of {TARGET} each doubling of d costs SR {slopes['SR']:.2f} and R "
        f"{slopes['R']:.2f} bits, and BC none, as its limit does not know d."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small dimension, few rates")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    result = main(given.quick, given.out)
    print(result.to_string(index=False))
    print(findings(result))
