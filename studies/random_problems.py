"""Do claims hold where nobody looked: random problems, each with its error estimate and its verdict put to the test.

A seed makes a problem out of all tables of a problem file (``independent/random_tables.py``). It is solved at the
default tolerance and at an eighth of it: the deviation of the curve should stay below what both claim together, that of
the curve between the steps, from which plateaus are read, below the tolerance. It is then simulated: p of
the verdict of ``stedyn compare`` should be even between 0 and 1. A curve that goes on for many relaxation times should
end at the fixed point that `stedyn.fixed_point` finds without it. ``--show SEED`` prints a problem as TOML. Seeds in
the table already are not computed again.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tomli_w
from scipy import stats
from tqdm import tqdm

from stedyn.checks import InputError
from stedyn.comparison.comparison import compare
from stedyn.drawing.axes import SIMULATION, THEORY
from stedyn.files import report
from stedyn.files.writing import problem_to_dict
from stedyn.limit.fixed_points import fixed_point
from stedyn.limit.solution import Solution
from stedyn.limit.solver import solve
from stedyn.limit.stationary import has_fixed_point
from stedyn.problem.phases import replaced
from stedyn.problem.problem import Problem, Run
from stedyn.simulation import simulate

sys.path.insert(0, str(Path(__file__).parent))
from independent.random_tables import problem_of

COLUMNS = ["seed", "rule", "refused", "law", "status", "estimate", "finer_estimate", "deviation", "ratio", "between",
           "final_error", "seconds", "agreement", "p", "gap", "gap_sem", "fixed_point", "end", "end_estimate",
           "end_ratio", "unfinished"]  # fmt: skip
FIRST, PROBLEMS, QUICK = 15_000, 60, 2
TOL, FINER, DIM, RUNS = 5e-3, 8, 1000, 16
#: Seconds after which a problem is given up: a finer curve of hundreds of classes takes an hour.
LIMIT = 300
#: Relaxation times, and most `tau`, after which a curve is expected at its fixed point, which is found to 1e-6.
RELAXED, LONGEST, FOUND = 25.0, 3000.0, 1e-6
#: Times at which the curve between the steps is compared.
BETWEEN = 200


def claims_of(solution: Solution) -> dict:
    """Estimates of a solution and of a finer one, and how far apart their curves are.

    Deviations are relative to the error, or to what counts as none (`stedyn.solve`, ``least_error``).
    """
    problem = solution.problem
    times = np.union1d(problem.taus, np.linspace(0.0, solution.tau[-1], BETWEEN))
    finer = solve(replaced(problem, run=Run(taus=times)), tol=TOL / FINER, throw=False)
    end = min(solution.tau[-1], finer.tau[-1])
    least = float(solution.least_error)

    def deviation(tau, error) -> float:
        tau, error = np.asarray(tau), np.asarray(error)
        exact = np.interp(tau[tau <= end], finer.tau, finer.error)
        return float(np.max(np.abs(error[tau <= end] - exact) / np.maximum(exact, least)))

    dense = np.interp(finer.tau, *solution.dense)
    claim = float(solution.error_estimate + finer.error_estimate)
    saved = deviation(solution.tau, solution.error)
    return {
        "law": solution.law, "estimate": float(solution.error_estimate), "finer_estimate": float(finer.error_estimate),
        "deviation": saved, "ratio": saved / claim, "between": deviation(finer.tau, dense),
        "status": str(solution.status), "final_error": solution.final_error,
    }  # fmt: skip


def verdict_of(solution: Solution, seed: int) -> dict:
    """What ``stedyn compare`` says."""
    comparison = compare(solution, simulate(solution.problem, dim=DIM, seeds=RUNS, seed=RUNS * seed))
    gap, sem = comparison.relative_gap
    return {"agreement": comparison.agreement, "p": comparison.p_value, "gap": gap, "gap_sem": sem}


def end_of(problem: Problem) -> dict:
    """The fixed point, and the end of a curve that no longer moves."""
    if problem.phases or problem.rule.schedule is not None or not has_fixed_point(problem):
        return {}
    point = fixed_point(problem)
    tau = max(1.0, RELAXED * (point.relaxation_time or np.inf)) if point.stable else np.inf
    while tau <= LONGEST:
        end = solve(replaced(problem, run=Run(taus=[0.0, 0.8 * tau, tau])), tol=TOL, throw=False)
        if not end.status.ok:
            break
        if abs(end.error[1] - end.error[2]) <= FOUND * end.error[2]:
            away = min(abs(end.final_error - error) / error for error in (point.error, *point.others))
            estimate = float(end.error_estimate)
            return {
                "fixed_point": point.error, "end": end.final_error, "end_estimate": estimate,
                "end_ratio": away / (estimate + FOUND),
            }  # fmt: skip
        tau *= 2  # plateaus come first
    return {"fixed_point": point.error}


def rows_of(seed: int) -> Iterator[dict]:
    """The row of a seed, again and again: as far as it is known."""
    begun = time.perf_counter()
    try:
        solution = solve(problem_of(seed), tol=TOL, throw=False)
    except InputError as why:
        yield {"seed": seed, "refused": str(why)}
        return
    seconds = time.perf_counter() - begun
    row = {"seed": seed, "rule": solution.problem.rule.kind, "seconds": seconds, "unfinished": True}
    yield row | {"status": str(solution.status)}
    row |= claims_of(solution)
    yield row
    if solution.status.ok:
        row |= verdict_of(solution, seed)
        yield row
    yield row | end_of(solution.problem) | {"unfinished": False}


def answered(seed: int) -> dict:
    """The row of a process of its own, which is given up after `LIMIT`."""
    command = [sys.executable, __file__, "--row", str(seed)]
    try:
        said = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=LIMIT).stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
    lines = said.splitlines()
    return json.loads(lines[-1]) if lines else {"seed": seed, "unfinished": True}


def draw(table: pd.DataFrame):
    """Ratios of deviation to claim in order, and the p values in order beside those of chance."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    shown = {"deviation / claim": table["ratio"], f"deviation between steps / {TOL}": table["between"] / TOL}
    for (label, values), color in zip(shown.items(), (THEORY, SIMULATION), strict=True):
        values = np.sort(values.dropna())
        left.step(
            np.maximum(values, 1e-5), np.arange(1, values.size + 1), where="post", color=color, label=label
        )
    left.axvline(1.0, color="0.5", lw=0.8)
    left.set(xscale="log", xlabel="part of what is claimed", ylabel="problems with at most this")
    left.set_ylim(0, 1.3 * table["ratio"].notna().sum())
    left.legend(frameon=False, loc="upper left")
    p = np.sort(table["p"].dropna())
    places = np.arange(1, p.size + 1)
    chance = stats.beta(places, p.size + 1 - places)
    right.fill_between(
        chance.mean(), chance.ppf(0.025), chance.ppf(0.975), color="0.9", lw=0, label="95 % by chance"
    )
    right.plot([0, 1], [0, 1], color="0.5", lw=0.8)
    right.plot(chance.mean(), p, "o", ms=3, color=THEORY)
    right.set(xlabel="p by chance, in order", ylabel="p of the verdict, in order", xlim=(0, 1), ylim=(0, 1))
    right.legend(frameon=False)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def sentences(table: pd.DataFrame) -> list[str]:
    """What the table says."""
    solved = table[table["ratio"].notna()]
    p = solved["p"].dropna()
    late, ends = table["unfinished"].eq(True).sum(), table["end_ratio"].dropna()
    beyond, between = (solved["ratio"] > 1).sum(), (solved["between"] > TOL).sum()
    lines = [
        f"{len(table)} problems, {table['refused'].notna().sum()} refused, {late} not finished in {LIMIT} s; "
        f"deviation beyond the claim: {beyond}, largest {solved['ratio'].max():.2f} of it; "
        f"between steps beyond {TOL}: {between}, largest {solved['between'].max():.1e}"
    ]
    if ends.size:
        lines.append(
            f"curves that end at their fixed point: {ends.size}, farther than they claim: {(ends > 1).sum()}, "
            f"largest {ends.max():.2f} of it"
        )
    if p.size > 1:
        lines.append(
            f"verdicts: {', '.join(f'{n} {word}' for word, n in solved['agreement'].value_counts().items())}; "
            f"p below 0.01: {int((p < 0.01).sum())} of {p.size}; even between 0 and 1 (Kolmogorov-Smirnov): "
            f"p = {stats.kstest(p, 'uniform').pvalue:.2g}"
        )
    return lines


def tabulated(rows: list[dict]) -> pd.DataFrame:
    """The rows in the order of their seeds."""
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("seed", ignore_index=True)


def main(
    quick: bool = False, out: str = "data", first: int = FIRST, problems: int | None = None
) -> pd.DataFrame:
    """Write ``random_problems.csv`` after every problem, and ``.png``; return the table, one row a seed."""
    folder = Path(out)
    path, rows = folder / "random_problems.csv", []
    if path.exists():
        rows = pd.read_csv(path, comment="#").to_dict("records")
    folder.mkdir(parents=True, exist_ok=True)
    about = (
        f"studies/random_problems.py: tol = {TOL}, d = {DIM}, {RUNS} runs each, {jax.devices()[0].platform}"
    )
    table = tabulated(rows)
    seeds = range(first, first + (problems or (QUICK if quick else PROBLEMS)))
    for seed in tqdm([seed for seed in seeds if seed not in set(table["seed"])], desc="problems"):
        rows.append(answered(seed))
        table = tabulated(rows)
        report.write_csv(path, table, about, *sentences(table))
    print("\n".join(sentences(table)))
    report.write_figure(folder / "random_problems.png", draw(table))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} problems")
    parser.add_argument("--out", default="data", help="folder of the results")
    parser.add_argument("--first", type=int, default=FIRST, help="the first seed")
    parser.add_argument("--problems", type=int, help="how many")
    parser.add_argument(
        "--show", type=int, metavar="SEED", help="print the problem of a seed as TOML, and do nothing"
    )
    parser.add_argument(
        "--row", type=int, metavar="SEED", help="print the row of a seed as JSON, as far as it is known"
    )
    given = parser.parse_args()
    if given.row is not None:
        jax.config.update("jax_enable_x64", True)
        for row in rows_of(given.row):
            print(json.dumps(row), flush=True)
    elif given.show is None:
        main(given.quick, given.out, given.first, given.problems)
    else:
        print(tomli_w.dumps(problem_to_dict(problem_of(given.show))))
