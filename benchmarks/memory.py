"""The memory a simulation takes beside its estimate: ``python benchmarks/memory.py``.

Each line is two processes of their own: the largest resident memory of one that simulates a few steps, less that of one
that does so with d = 64 and one seed (imports and compiling), beside what `stedyn.simulation.cost.memory_of` says,
which decides whether the command line asks for ``--yes``. The last lines are solves of the theory, which has no
estimate, less a solve of its own with few points and classes. Linux and macOS.
"""

import json
import resource
import subprocess
import sys

from stedyn import SGD, Covariance, Problem, Quantizer, Run, Teacher, simulate, solve
from stedyn.rules import Sign
from stedyn.simulation.cost import memory_of

R1 = dict(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1))
PROBLEMS = {
    "R1": lambda: Problem(**R1),
    "no quantizers": lambda: Problem(),
    "8 bits": lambda: Problem(weights=Quantizer(8, 3.0)),
    "power law": lambda: Problem(**R1, covariance=Covariance.power_law(0.5)),
    "sign rule": lambda: Problem(weights=Quantizer(2, 2.0), rule=Sign(0.1)),
    "Gaussian": lambda: Problem(Teacher.gaussian(1.0), **R1),
}
SIMULATIONS = [
    ("R1", 10**6, 1, 2), ("R1", 10**6, 4, 2), ("R1", 4 * 10**6, 2, 2), ("R1", 10**5, 64, 2), ("R1", 1000, 2000, 2),
    ("R1", 1000, 16, 20_000), ("no quantizers", 10**6, 4, 2), ("8 bits", 10**6, 4, 2), ("8 bits", 1000, 16, 5000),
    ("power law", 10**6, 4, 2), ("sign rule", 10**6, 4, 2), ("Gaussian", 10**6, 4, 2),
]  # fmt: skip
THEORY = [
    ("grid, 10^5 points", dict(law="grid"), 100_000), ("grid, 512 classes", dict(law="grid", classes=512), 11),
    ("mixture, 10^5 points", dict(law="mixture"), 100_000),
    ("mixture, 4096 classes", dict(law="mixture", classes=4096), 11),
]  # fmt: skip


def child(what: str, name: str, *numbers) -> None:
    """Simulate or solve, and print the largest resident memory of this process in bytes."""
    problem = PROBLEMS[name]()
    if what == "simulate":
        dim, seeds, times = numbers
        simulate(problem, dim=dim, seeds=seeds, taus=[k / dim for k in range(times)])
    else:
        given, points = numbers
        solve(Problem(Teacher.gaussian(1.0), **R1, run=Run(20.0, points)), **given)
    unit = 1 if sys.platform == "darwin" else 1024
    print(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measured(*case) -> float:
    """Bytes a case takes in a process of its own."""
    command = [sys.executable, __file__, json.dumps(case)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Print the table."""
    print(
        "| problem | d | seeds | times | measured, MB | estimate, MB | ratio |\n|---|---|---|---|---|---|---|"
    )
    base = {name: measured("simulate", name, 64, 1, 2) for name in PROBLEMS}
    for name, dim, seeds, times in SIMULATIONS:
        taken = measured("simulate", name, dim, seeds, times) - base[name]
        said = memory_of(PROBLEMS[name](), dim, seeds, times)
        print(
            f"| {name} | {dim} | {seeds} | {times} | {taken / 1e6:.0f} | {said / 1e6:.0f} | {said / taken:.2f} |",
            flush=True,
        )
    for name, given, points in THEORY:
        taken = measured("solve", "R1", given, points) - measured("solve", "R1", {"law": given["law"]}, 11)
        print(f"| {name} | | | | {taken / 1e6:.0f} | | |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*json.loads(sys.argv[1]))
    else:
        main()
