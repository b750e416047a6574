"""How long a user waits for an answer, as ratios: ``python benchmarks/answers.py [--only NAME ...]``.

Commands run in processes of their own, with a folder of kept programs of their own. Their unit is what no command can
do without, ``python -c "import jax, diffrax, pandas"``; ``predict`` is the second unit. Every command is timed in turn
with its unit (wall clock, medians of the pairs), after a call that leaves its programs behind where the row says
*kept*; a program that was compiled in spite of that is counted by what it adds to the folder. Calls from Python are
timed in this process, after one that compiles, beside their peer: SciPy, or the normal numbers of the simulator alone.

Columns: what, the time, its ratio, the goal, the floor and what the floor is made of.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TURNS = 3
IMPORTS = [sys.executable, "-c", "import jax, diffrax, pandas"]
OTHER = {  # other bits, range, inputs, horizon and constants of the rule
    "weights": {"bits": 3, "range": 1.7, "edge": "level", "kind": "mid-rise"},
    "inputs": {"bits": 4, "range": 2.5, "edge": "level", "kind": "mid-rise"},
    "rule": {"kind": "sgd", "lr": 0.13},
    "run": {"tau": 37.0, "points": 90},
    "noise": {"std": 0.2},
}


def command(*arguments: object) -> list[str]:
    """A command of this environment."""
    return [sys.executable, "-m", "stedyn", *map(str, arguments)]


class Commands:
    """Commands in one empty folder, with one folder of kept programs."""

    def __init__(self, folder: Path):
        self.folder, self.kept = folder, folder / "stedyn"
        own = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "STEDYN"))}
        self.environment = own | {"XDG_CACHE_HOME": str(folder), "MPLBACKEND": "Agg"}
        self.environment.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))

    def __call__(self, arguments: list[str]) -> float:
        """Seconds of one call."""
        begin = time.perf_counter()
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        seconds = time.perf_counter() - begin
        if done.returncode not in (0, 1):
            raise SystemExit(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
        return seconds

    def programs(self) -> set[str]:
        """Names of what is kept: traced programs and compiled ones."""
        return {
            path.name
            for path in self.kept.rglob("*-*")
            if path.is_file() and not path.name.endswith("-atime")
        }

    def against(self, arguments: list[str], unit: list[str]) -> tuple[float, float]:
        """Median seconds, and the median of the ratios to the unit that ran beside each call."""
        pairs = [(self(arguments), self(unit)) for _ in range(TURNS)]
        return statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


def show(what: str, seconds: float, ratio: str, goal: str, floor: str) -> None:
    """One row."""
    print(f"| {what} | {seconds:.3g} s | {ratio} | {goal} | {floor} |", flush=True)


def commands(only: set[str]) -> None:
    """The rows of commands."""
    import tomli_w

    with tempfile.TemporaryDirectory() as name:
        run = Commands(Path(name))
        run(IMPORTS)
        if "predict" in only:
            seconds = run(command("predict"))
            imports = statistics.median(run(IMPORTS) for _ in range(TURNS))
            show("`predict`, first on a machine", seconds, f"{seconds / imports:.1f} imports", "3 s",
                 f"imports {imports:.2f} s and one program ({len(run.programs())} kept)")  # fmt: skip
        run(command("predict"))
        if "predict" in only:
            seconds, ratio = run.against(command("predict"), IMPORTS)
            show("`predict`, kept", seconds, f"{ratio:.1f} imports", "2 imports", "imports")
        if "another" in only:
            (run.folder / "other.toml").write_bytes(tomli_w.dumps(OTHER).encode())
            before = run.programs()
            seconds = run(command("predict", "other.toml"))
            new = {name.rsplit("-", 2)[0] for name in run.programs() - before}
            show("`predict` of another problem", seconds, f"{len(new)} programs {' '.join(sorted(new))}", "0",
                 "as above")  # fmt: skip
        for objective, goal in [
            ("final-error", 3),
            ("error-at=20", 6),
            ("time-to=0.2", 6),
            ("plateau-length", 6),
        ]:
            if objective.partition("=")[0] in only:
                arguments = command("choose", "--bits", "2,3,4", "--objective", objective)
                arguments += ["--max-error", "0.2"] * (objective == "plateau-length")
                run(arguments)
                before = run.programs()
                seconds, ratio = run.against(arguments, command("predict"))
                new = f", {len(run.programs() - before)} compiled again" if run.programs() - before else ""
                show(f"`choose --bits 2,3,4 --objective {objective}`, kept", seconds,
                     f"{ratio:.1f} predicts{new}", f"{goal} predicts", "one predict")  # fmt: skip
        if "layers" in only:
            layers(run.folder)
            for arguments in (
                ["layers.safetensors"],
                ["layers.safetensors", "--activations", "inputs.safetensors"],
            ):
                call = command("layers", *arguments, "--bits", "3")
                first = run(call)
                seconds, ratio = run.against(call, IMPORTS)
                name = "three measured layers" + (", measured inputs" if arguments[1:] else "")
                show(f"{name}, one bit width, kept (first call {first:.1f} s)", seconds, f"{ratio:.1f} imports",
                     "5 s", "imports, three predicts without them")  # fmt: skip


def layers(folder: Path) -> None:
    """A file of three layers with heavy-tailed weights, and one of activations after a ReLU."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    shapes = {"in": (64, 192), "hidden": (64, 96), "out": (16, 64)}
    weights = {k: 0.05 * rng.standard_t(5, size=s).astype(np.float32) for k, s in shapes.items()}
    scales = {k: np.geomspace(1.0, 10.0, s[1]) for k, s in shapes.items()}
    inputs = {
        k: np.maximum(rng.normal(size=(2000, s[1])), 0).astype(np.float32) * scales[k].astype(np.float32)
        for k, s in shapes.items()
    }
    save_file({f"{k}.weight": v for k, v in weights.items()}, folder / "layers.safetensors")
    save_file(inputs, folder / "inputs.safetensors")


def curves() -> None:
    """1000 curves of learning rates and ranges by the grid law."""
    from laws import best

    from stedyn import SGD, Problem, Quantizer, Run, range_map

    problem = Problem(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1), run=Run(40.0, 21))
    rates, ranges = np.geomspace(0.02, 0.3, 25), np.linspace(1.0, 3.0, 40)

    def call():
        return (
            range_map(problem, ranges=ranges, lrs=rates, objective="error-at=40", tol=1e-2).to_pandas().size
        )

    first, again = best(call, 1), best(call, 1)
    show("1000 curves (lr, range), one teacher value", again, f"first call {first:.3g} s", "10 s", "")


def classes() -> None:
    """One curve of 64 teacher values."""
    from laws import best

    from stedyn import SGD, Problem, Quantizer, Run, Teacher, solve

    teacher = Teacher.samples(np.random.default_rng(0).normal(size=64))
    problem = Problem(
        teacher, weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1), run=Run(40.0, 81)
    )
    solution = solve(problem, tol=5e-3)
    again = best(lambda: solve(problem, tol=5e-3).error)
    counts = solution.statistics
    show("64 teacher classes, one curve, 0.5 %", again, f"claims {solution.error_estimate:.1e}", "0.3 s",
         f"{counts.get('num_steps')} steps of {counts.get('cells')} cells")  # fmt: skip


def unquantized() -> None:
    """SGD without quantizers, beside SciPy on the two closed equations."""
    from laws import best, closed

    from stedyn import solve

    problem, peer = closed()
    solve(problem)
    ours = best(lambda: solve(problem).error)
    show("one curve without quantizers", ours, f"{ours / peer:.1f} times SciPy's RK45", "below 1",
         f"the exponentials of {problem.taus.size} times")  # fmt: skip


def simulator() -> None:
    """The loop of R1 on one thread beside its normal numbers alone."""
    from kernel import floor, stedyn

    for dim, batch, goal in ((256, 1, "2.5"), (1024, 1, "1.5"), (16384, 1, "1.5"), (1024, 8, "")):
        numbers, loop = floor(dim, 1, 2e8), stedyn(dim, 1, 2e8, 1, batch)
        show(f"simulator, one thread, d = {dim}, batch {batch}, ns a coordinate and sample", loop * 1e-9,
             f"{loop / numbers:.1f} times its numbers", goal, f"{numbers:.2f} ns of normal numbers")  # fmt: skip


ROWS = ("predict", "another", "final-error", "error-at", "time-to", "plateau-length", "layers")
CALLS = {"curves": curves, "classes": classes, "unquantized": unquantized, "simulator": simulator}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*ROWS, *CALLS], default=[*ROWS, *CALLS], help="rows")
    only = set(parser.parse_args().only)
    print("| what | time | ratio | goal | floor |\n|---|---|---|---|---|")
    if only & set(ROWS):
        commands(only)
    for name, call in CALLS.items():
        if name in only:
            call()


if __name__ == "__main__":
    main()
