"""SGD, momentum and Adam with the same budget on a ternary student: plateau, final error, best range of each.

Teacher ``N(0, 1)``, start ``N(0, 0.02^2)``, label noise 0.1, ternary weights, inputs not quantized, to ``tau = 40``.

* **Momentum.** At one lr of 0.01 the student ends lower with momentum 0.80 than with 0.95, and than without: the
  preference that users of ternary weights report. In the limit a run with momentum is one without at the rate
  ``lr / (1 - momentum)``, so that 0.80 in the place of 0.95 is a learning rate four times smaller. The simulation has
  both: momentum at lr 0.01, and SGD at that rate.
* **Adam** (memory 1, as ``beta2 = 0.999`` at d = 1000) moves at the rate ``lr / sqrt(V)``, ``V`` the variance of the
  residual: once the error has fallen its rate is higher than at the start, the opposite of annealing. Each optimizer at
  several rates and the best of some ranges: by the error at the end of the budget, beside the escape from the plateau.

Every simulated row has seeds of its own.
"""

import argparse
import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from stedyn import SGD, Problem, Quantizer, Run, Start, Teacher, simulate, solve
from stedyn.comparison.pairs import pair_plateaus
from stedyn.files import report
from stedyn.rules import Adam

BUDGET, LR, RANGE = 40.0, 0.01, 1.25
MOMENTA = (0.0, 0.8, 0.9, 0.95)
RATES = (0.025, 0.05, 0.1, 0.2)
RANGES = (0.7, 0.8, 0.9, 1.0, 1.15, 1.3)
RULES = {"sgd": SGD, "adam": lambda lr: Adam(lr, memory=1.0, eps=1e-3)}
# told apart by every common colour vision, and by their markers
STYLES = {"sgd": ("#0072B2", "o", "SGD, momentum"), "adam": ("#D55E00", "s", "Adam")}


def problem_of(rule, width: float, tau: float) -> Problem:
    """The ternary student with this rule and range."""
    return Problem(
        Teacher.gaussian(1.0),
        Start.gaussian(std=0.02),
        noise_std=0.1,
        weights=Quantizer(kind="ternary", range=width),
        rule=rule,
        run=Run(tau=tau, points=161 if tau == BUDGET else 13),
    )


def limit(rule, width: float, tau: float, tol: float):
    """The solution and its row."""
    solution = solve(problem_of(rule, width, tau), tol=tol)
    plateaus = solution.plateaus()
    escape = plateaus[0].escape if plateaus and not plateaus[0].open else None
    return solution, {"range": width, "error": float(solution.error[-1]), "escape": escape}


def simulated(solution, rule, row: dict, tau: float, dim: int, seeds: int, seed: int) -> dict:
    """The same of the simulation, with standard errors over the runs."""
    ensemble = simulate(problem_of(rule, row["range"], tau), dim=dim, seeds=seeds, seed=seed)
    last = ensemble.error[:, -1]
    found = {"seed": seed, "simulated": last.mean(), "sem": last.std(ddof=1) / seeds**0.5}
    same = rule == solution.problem.rule  # not so of a run with momentum beside the limit of the other
    if same and row["escape"] is not None:
        curves = solution.error, ensemble.error
        pairs = pair_plateaus(solution.plateaus(), ensemble.tau, *curves, dim)
        found |= {"simulated_escape": pairs[0].escape, "escape_sem": pairs[0].escape_sem}
    return found


def main(quick: bool = False, out: str | Path = "data") -> pd.DataFrame:
    """Write ``optimizers.csv`` and ``.png``; return the table, one row an optimizer and rate."""
    tau, tol, dim, seeds = (6.0, 0.2, 200, 2) if quick else (BUDGET, 2e-2, 1000, 32)
    momenta, rates, ranges = ((0.8,), (0.2,), (1.25,)) if quick else (MOMENTA, RATES, RANGES)
    rows, seed = [], itertools.count(1000, 1000)
    for momentum in momenta:
        rate = LR / (1 - momentum)
        rule = SGD(LR, momentum=momentum) if momentum else SGD(LR)
        solution, row = limit(SGD(rate) if quick else rule, RANGE, tau, tol)  # the same, but for flip rates
        for name, one in (("momentum", rule), ("sgd", SGD(rate)))[: 1 + (momentum > 0 and not quick)]:
            found = simulated(solution, one, row, tau, dim, seeds, next(seed))
            key = {"part": "momentum", "optimizer": name, "momentum": momentum if one is rule else 0.0}
            rows.append(key | {"lr": float(one.lr), "rate": rate} | row | found)
            print(rows[-1], flush=True)
    for name, make in list(RULES.items())[: 1 if quick else None]:
        for lr in rates:
            each = [limit(make(lr), width, tau, tol) for width in ranges]
            solution, row = min(each, key=lambda pair: pair[1]["error"])
            found = {} if quick else simulated(solution, make(lr), row, tau, dim, seeds, next(seed))
            last_rate = float(solution.effective_step[-1]) * lr
            rows.append({"part": "optimizers", "optimizer": name, "lr": lr, "rate": last_rate} | row | found)
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows).astype({"escape": float})
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"limit to tau = {tau:g}, simulation with d = {dim}, {seeds} runs from the seed of a row; rate: at the end"
    report.write_csv(folder / "optimizers.csv", table, about)
    report.write_figure(folder / "optimizers.png", draw(table))
    return table


def draw(table: pd.DataFrame) -> plt.Figure:
    """Error against rate with momentum; error against escape for each optimizer."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0))
    part = table[table.part == "momentum"]
    theory = part.drop_duplicates("rate")
    left.plot(theory.rate, theory.error, color="0.4", label="limit, of both")
    for name, style in {"momentum": ("#D55E00", "s"), "sgd": ("#0072B2", "o")}.items():
        own = part[part.optimizer == name]
        label = "momentum, lr 0.01" if name == "momentum" else "SGD at that rate"
        left.errorbar(own.rate, own.simulated, 2 * own["sem"], color=style[0], marker=style[1], ls="none", mfc="none",
                      ms=6 if name == "sgd" else 9, label=label)  # fmt: skip
        for _, row in own.iterrows() if name == "momentum" else ():
            left.annotate(
                f"{row.momentum:g}", (row.rate, row.simulated), (6, 6), textcoords="offset points", size=8
            )
    left.set(xscale="log", xlabel="rate lr / (1 - momentum)", ylabel="error at the end of the budget")
    for name, (colour, marker, label) in STYLES.items():
        own = table[(table.part == "optimizers") & (table.optimizer == name)]
        right.plot(own.escape, own.error, color=colour, label=f"{label}, limit")
        if "simulated_escape" in own:
            right.errorbar(own.simulated_escape, own.simulated, 2 * own["sem"], 2 * own.escape_sem, color=colour,
                            marker=marker, ls="none", mfc="none", ms=5)  # fmt: skip
        for _, row in own.iterrows():
            right.annotate(f"{row.lr:g}", (row.escape, row.error), (5, 5), textcoords="offset points", size=8)
    right.set(
        xlabel=r"escape from the plateau, $\tau$", ylabel="error at the end, at the best range of the scan"
    )
    for ax in (left, right):
        ax.legend(frameon=False, fontsize="small")
    figure.suptitle("ternary weights, equal budgets; points: simulation, 2 standard errors; numbers: momentum, lr",
                    fontsize="medium")  # fmt: skip
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="SGD and momentum only, small dimension, a short run"
    )
    parser.add_argument("--out", default="data", help="folder of the results")
    main(**vars(parser.parse_args()))
