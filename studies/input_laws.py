"""Every law of inputs, limit against simulation: centred, and with its mean where the limit knows it.

One student (2-bit weights of range 1.5, start N(0, 0.5^2), label noise 0.1, lr 0.5; teacher weights -0.5, 0.5 and 1 in
equal parts) behind inputs of each law, not quantized, and quantized by 2 unsigned or two's complement bits. Then two
students behind inputs that keep their mean, in growing dimension: the mean output moves by whole thresholds, so that
they approach their limit slowly. Their errors are averaged over 0.2 units of tau around 4, as the mean output is drawn
anew within a few steps.
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
from stedyn.limit.solver import solve
from stedyn.problem.populations import Start, Teacher
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD
from stedyn.simulation import simulate

TAUS = (2.0, 4.0, 8.0, 16.0)
UNSIGNED, SIGNED = Quantizer(2, 1.5, kind="unsigned"), Quantizer(2, 1.5, kind="twos-complement")
#: A sample of activations with a heavy tail, as behind a layer of a trained network.
SAMPLE = np.random.default_rng(0).gamma(0.7, 0.8, 4000)
LAWS = {
    "gaussian": (InputLaw.gaussian, SIGNED),
    "relu": (InputLaw.relu, UNSIGNED),
    "uniform": (InputLaw.uniform, SIGNED),
    "laplace": (InputLaw.laplace, SIGNED),
    "file": (lambda **given: InputLaw.samples(SAMPLE, **given), UNSIGNED),
}


def problem_of(law: InputLaw, inputs: Quantizer | None) -> Problem:
    """The student behind inputs of a law."""
    teacher, start = Teacher.samples([-0.5, 0.5, 1.0]), Start.gaussian(std=0.5)
    run = Run(TAUS[-1], 33)
    return Problem(teacher, start, noise_std=0.1, weights=Quantizer(2, 1.5), inputs=inputs, input_law=law,
                   rule=SGD(0.5), run=run)  # fmt: skip


def centred(dim: int, seeds: int, quick: bool) -> list[dict]:
    """A row for each law, quantized and not, with the means taken off; of one law, if ``quick``."""
    rows = []
    for k, (name, (law, quantizer)) in enumerate(tqdm(LAWS.items(), desc="centred")):
        for inputs in (None, quantizer) if name == "relu" or not quick else ():
            seed = 1000 * (2 * k + (inputs is None))  # draws of their own
            problem = problem_of(law(mean=0.3, centre=True), inputs)
            solution, ensemble = solve(problem), simulate(problem, dim=dim, seeds=seeds, seed=seed)
            comparison = compare(solution, ensemble)
            row = {
                "law": name,
                "inputs": "none" if inputs is None else inputs.kind,
                "dim": dim,
                "seeds": seeds,
            }
            for tau in TAUS:
                k = int(np.searchsorted(solution.tau, tau))
                row |= {f"limit_{tau:g}": solution.error[k], f"mean_{tau:g}": ensemble.error_mean[k]}
                row[f"sem_{tau:g}"] = ensemble.error_sem[k]
            gap = (ensemble.error_mean - solution.error)[1:] / ensemble.error_sem[1:]
            row |= {"largest_gap_in_errors": np.abs(gap).max()}
            rows.append(row | {"p_value": comparison.p_value, "agreement": comparison.agreement})
    return rows


def with_mean(runs: dict[int, int], quick: bool) -> list[dict]:
    """A row for each student and dimension: kappa, limit (roughly, if ``quick``), and the mean simulated error."""
    taus = [0.0, *np.linspace(3.9, 4.1, 41)]
    shared = dict(start=Start.gaussian(std=0.5), weights=Quantizer(2, 1.5), noise_std=0.1, run=Run(taus=taus))
    students = {
        "N(1, 1), not quantized": Problem(
            Teacher.constant(0.7), input_law=InputLaw.gaussian(1.0), rule=SGD(0.2), **shared
        ),
        "relu, unsigned": Problem(
            Teacher.samples([-0.5, 0.5, 1.0]),
            inputs=UNSIGNED,
            input_law=InputLaw.relu(),
            rule=SGD(0.5),
            **shared,
        ),
    }
    rows = []
    for name, problem in list(students.items())[: 1 if quick else None]:
        solution = solve(problem, tol=1.0, cells=12) if quick else solve(problem, tol=2e-3)
        limit = solution.error[1:].mean()
        for dim, seeds in tqdm(runs.items(), desc=name):
            error = simulate(problem, dim=dim, seeds=seeds, seed=dim, taus=taus[1:]).error.mean(axis=1)
            row = {"student": name, "dim": dim, "seeds": seeds, "kappa": solution.kappa[-1], "limit": limit}
            rows.append(row | {"mean": error.mean(), "sem": error.std(ddof=1) / seeds**0.5})
    return rows


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``input_laws.csv`` and ``.png``; return the table, one row a law and quantizer."""
    jax.config.update("jax_enable_x64", True)
    table = pd.DataFrame(centred(200 if quick else 2000, 4 if quick else 16, quick))
    print(table.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
    runs = {100: 4, 200: 4} if quick else {250: 64, 1000: 32, 4000: 16, 16000: 6}
    means = pd.DataFrame(with_mean(runs, quick))
    lines = means.to_string(index=False, float_format=lambda x: f"{x:.4g}").splitlines()
    print("\n".join(lines))
    figure, axes = plots.panels(3, width=4.6)
    for name, part in means.groupby("student", sort=False):
        gap, error = part["mean"] / part["limit"] - 1, part["sem"] / part["limit"]
        axes[2].errorbar(part["dim"], gap, 2 * error, label=name, marker="o", mfc="white")
    axes[2].axhline(0.0, color="0.4", lw=1.0)
    axes[2].set(xscale="log", xlabel="dimension $d$", ylabel="relative gap", title="with their mean")
    axes[2].legend(frameon=False, fontsize="small")
    for ax, (kind, part) in zip(axes, table.groupby(table["inputs"] == "none"), strict=False):
        for row in part.itertuples():
            (line,) = ax.plot(TAUS, [getattr(row, f"limit_{tau:g}") for tau in TAUS], label=row.law)
            means, errors = ([getattr(row, f"{what}_{tau:g}") for tau in TAUS] for what in ("mean", "sem"))
            ax.errorbar(
                TAUS, means, 2 * np.array(errors), color=line.get_color(), ls="none", marker="o", mfc="white"
            )
        ax.set(
            yscale="log",
            xlabel="tau = steps / d",
            ylabel="error",
            title="not quantized" if kind else "2 bits",
        )
        ax.legend(frameon=False, fontsize="small")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/input_laws.py: mean 0.3, {jax.devices()[0].platform}"
    report.write_csv(folder / "input_laws.csv", table, about, *lines)
    report.write_figure(folder / "input_laws.png", figure)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small dimension, few runs")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    main(given.quick, given.out)
