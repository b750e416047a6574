"""How far one run strays, predicted and simulated: the standard deviation over runs of many settings.

400 runs at d = 200, each with its own teacher, start and samples, beside ``solve(problem, dim=200)``
(``docs/width.md``): two geometries, every rule whose spread is known, mini-batches, momentum, a Gaussian teacher,
unequal variances. The sampling error of a standard deviation over 400 runs is 3.5 %.
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

from stedyn.drawing.axes import SIMULATION, THEORY
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.problem.populations import Covariance, Teacher
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import (
    SGD,
    Adam,
    DeterministicRounding,
    Multinomial,
    QuantizedGradient,
    Shrinkage,
    Sign,
    StochasticRounding,
)
from stedyn.simulation import simulate

DIM, RUNS, SEED = 200, 400, 7000
TWO = Quantizer(2, 2.0)


def setting(rule=None, **changes) -> Problem:
    """Weights of 3 bits and range 1.5, label noise 0.1, to ``tau = 20``, unless told otherwise."""
    given = {"weights": Quantizer(3, 1.5), "rule": rule or SGD(0.3), "noise_std": 0.1, "run": Run(20.0, 5)}
    return Problem(**(given | changes))


def on_lattice(rule, **changes) -> Problem:
    """Weights on the lattice of the rule, not quantized besides."""
    return setting(rule, **({"weights": None, "noise_std": 0.3} | changes))


SETTINGS = {
    "R1": setting(SGD(0.1), weights=TWO, inputs=TWO, noise_std=0.0),
    "R2": setting(),
    "3 bits mid-tread": setting(SGD(0.2), weights=Quantizer(3, 1.5, kind="mid-tread")),
    "batches of 4": setting(SGD(0.6, batch=4)),
    "Gaussian teacher": setting(teacher=Teacher.gaussian(1.0)),
    "power law, exponent 0.5": setting(covariance=Covariance.power_law(0.5)),
    "shrinkage, noise": setting(Shrinkage(0.3, q=0.7, noise_std=0.5)),
    "sign": setting(Sign(0.1), noise_std=0.3),
    "SR": on_lattice(StochasticRounding(0.2, delta=0.4)),
    "R": on_lattice(DeterministicRounding(0.4, delta=0.2)),
    "R, 2-bit inputs": on_lattice(DeterministicRounding(0.4, delta=0.2), inputs=TWO),
    "gradient 3 bits": setting(QuantizedGradient(0.2, quantizer=Quantizer(3, 1.0, kind="mid-tread"))),
    "gradient 2 bits, stochastic": setting(
        QuantizedGradient(0.2, quantizer=Quantizer(2, 1.5, rounding="stochastic")), inputs=TWO
    ),
    "multinomial": setting(Multinomial(0.1, 0.5, 0.5)),
    "momentum 0.8": setting(SGD(0.06, momentum=0.8)),
    "Adam": setting(Adam(0.2)),
    "Adam, memory 5, power law": setting(Adam(0.2, memory=5.0), covariance=Covariance.power_law(0.5)),
    "Adam, batches of 4": setting(Adam(0.3, batch=4, weight_decay=0.1), noise_std=0.3),
    "SR, power law": on_lattice(StochasticRounding(0.2, delta=0.4), covariance=Covariance.power_law(0.5)),
}
#: Rules whose moves are proportional to the residual, drawn in another colour.
LINEAR = (SGD, Shrinkage, Adam)


def rows_of(name: str, runs: int, seed: int) -> pd.DataFrame:
    """One row a time: predicted and simulated standard deviation, their ratio and its sampling error."""
    problem = SETTINGS[name]
    solution = solve(problem, dim=DIM)
    ensemble = simulate(problem, dim=DIM, seeds=runs, seed=seed)
    table = pd.DataFrame({
        "setting": name, "rule": problem.rule.kind, "tau": solution.tau, "dim": DIM, "runs": runs, "seed": seed,
        "error": solution.error, "simulated_error": ensemble.error_mean,
        "predicted_std": solution.error_std, "simulated_std": ensemble.error_std,
    })  # fmt: skip
    ratio = table["simulated_std"] / table["predicted_std"]
    deviations = ensemble.error - ensemble.error_mean
    # of any law of the errors: their fourth moments decide; 1 / (2 runs) for a Gaussian
    kurtosis = np.mean(deviations**4, axis=0) / np.mean(deviations**2, axis=0) ** 2
    table["ratio"], table["ratio_sem"] = ratio, ratio * np.sqrt((kurtosis - 1) / (4 * runs))
    return table[table["tau"] > 0]


def draw(table: pd.DataFrame):
    """Ratios of all settings, four times each from left to right, with one standard error."""
    names = list(dict.fromkeys(table["setting"]))
    figure, ax = plt.subplots(figsize=(7.2, 0.31 * len(names) + 1.3), layout="constrained")
    half = 1 / np.sqrt(2 * table["runs"].max())
    ax.axvspan(1 - half, 1 + half, color="0.9", lw=0)
    ax.axvline(1.0, color="0.5", lw=0.8)
    for place, name in enumerate(names):
        part = table[table["setting"] == name]
        y = place + np.linspace(-0.27, 0.27, len(part))
        color = THEORY if isinstance(SETTINGS[name].rule, LINEAR) else SIMULATION
        ax.errorbar(part["ratio"], y, xerr=part["ratio_sem"], fmt="o", ms=3.5, lw=1, color=color)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    ax.set_xlabel(f"standard deviation over {table['runs'].max()} runs / predicted, d = {DIM}")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def main(quick: bool = False, out: str = "data", only: list[str] | None = None) -> pd.DataFrame:
    """Write ``spread.csv`` and ``.png``; return the table, one row a setting and time.

    ``only`` some settings: their rows replace those in the files, whose others are kept.
    """
    jax.config.update("jax_enable_x64", True)
    names, runs = (["SR"], 50) if quick else (only or list(SETTINGS), RUNS)
    folder, tables = Path(out), []
    if only and (folder / "spread.csv").exists():
        kept = pd.read_csv(folder / "spread.csv", comment="#")
        tables.append(kept[~kept["setting"].isin(names)])
    for name in tqdm(names, desc="settings"):
        tables.append(rows_of(name, runs, SEED + 1000 * list(SETTINGS).index(name)))
        table = write(pd.concat(tables), folder, runs)
    return table


def write(table: pd.DataFrame, folder: Path, runs: int) -> pd.DataFrame:
    """The table in the order of the settings, and the figure."""
    order = {name: place for place, name in enumerate(SETTINGS)}
    table = table.sort_values("setting", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    off = (table["ratio"] - 1) / table["ratio_sem"]
    line = f"off by {np.sqrt(np.mean(off**2)):.2f} standard errors on average, by {np.max(np.abs(off)):.2f} at most"
    print(table.tail(4).to_string(float_format="%.4g"), line, sep="\n")
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/spread.py: d = {DIM}, {runs} runs of every setting, {jax.devices()[0].platform}"
    report.write_csv(folder / "spread.csv", table, about, line)
    report.write_figure(folder / "spread.png", draw(table))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one setting, few runs")
    parser.add_argument("--out", default="data", help="folder of the results")
    parser.add_argument(
        "--only", nargs="+", choices=SETTINGS, metavar="SETTING", help="replace the rows of these"
    )
    given = parser.parse_args()
    main(given.quick, given.out, given.only)
