"""The command line: ``stedyn predict | simulate | compare | plan | fixed-point | plateaus | choose | layers | ...``.

Results go to standard output, everything else to standard error. A fault of the input is one sentence
and exit code 2; a computation that failed is exit code 1; an interrupt is 130, SIGTERM 143. Any other
exception is a bug of stedyn, or of a rule defined in Python: it keeps its traceback, and the exit code is 1.
Imports that take time are made inside the commands, so that help and faults come at once; typer reads the annotations.
"""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..checks import Failure, InputError, printable, shortened
from ..files.report import describe, to_json
from ..limit.laws.registry import has_densities, names
from .approval import approve
from .convert import convert
from .environment import set_environment, show_warning
from .explore import explore
from .interrupts import LOST, interruptible
from .lists import ListCommand
from .measured import Data, Loss, Noisy, read_measured
from .options import Json, Out, Plot, build_problem, check_outputs, takes_problem, write_outputs
from .planning import plan
from .plateaus import plateaus
from .ranges import choose, layers
from .stopped import Stopped
from .sweeps import sweep

app = typer.Typer(
    name="stedyn",
    help="Predict the learning curve of quantized SGD, simulate it, and compare the two.",
    epilog="tau = steps / d. Without PROBLEM.toml a command works on setting R1: 2-bit weights and inputs.",
    pretty_exceptions_enable=False,
)

Law = Annotated[str, typer.Option(help="How the limit is solved.", metavar="|".join(names()))]
Dim = Annotated[int | None, typer.Option(help="Predict the spread of one run of this dimension, too.")]
Given = Annotated[str, typer.Option(metavar="teacher,start", help="With --dim: what all runs share.")]
Tol = Annotated[float, typer.Option(help="Relative accuracy asked of the law.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"stedyn {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
@takes_problem
def predict(
    flags: dict,
    law: Law = "auto",
    tol: Tol = 5e-3,
    dim: Dim = None,
    given: Given = "",
    json: Json = False,
    out: Out = None,
    plot: Plot = None,
) -> int:
    """The learning curve of the limit, its plateaus and its minimum; how far one run strays from it, for a --dim.

    {plateau}
    """
    problem = _prepare(flags, out, plot)
    which = list(filter(None, given.split(",")))
    solution = _solve(problem, law=law, tol=tol, dim=dim, given=which, throw=False)
    if len(solution.tau) < 2:
        return _status(solution.status)
    record = solution.to_dict() | _about(problem)
    _print(json, problem, record, str(solution))
    write_outputs("predict", problem, record, out, plot, {"predict": solution}, "solution_figure", solution)
    return _status(solution.status)


@app.command()
@takes_problem
def simulate(
    flags: dict,
    simulation: dict,
    json: Json = False,
    out: Out = None,
    plot: Plot = None,
) -> int:
    """One-pass SGD in dimension d, several seeds at once."""
    problem = _prepare(flags, out, plot)
    _approve(problem, simulation)
    ensemble = _simulate(problem, **simulation)
    record = ensemble.to_dict() | _about(problem)
    _print(json, problem, record, str(ensemble))
    write_outputs("simulate", problem, record, out, plot, {"simulate": ensemble}, "ensemble_figure", ensemble)
    return _completed(ensemble)


@app.command()
@takes_problem
def compare(
    flags: dict,
    simulation: dict,
    context: typer.Context,
    data: Data = None,
    loss: Loss = "mse",
    includes_noise: Noisy = False,
    law: Law = "auto",
    tol: Tol = 5e-3,
    json: Json = False,
    out: Out = None,
    plot: Plot = None,
) -> int:
    """Prediction and simulation, or measured curves, side by side, with a verdict and a figure.

    {plateau}
    """
    if plot is None and out is None and not json:
        plot = Path("stedyn-compare.png")
    problem = _prepare(flags, out, plot)
    problem, runs = read_measured(context, problem, data, loss, includes_noise)
    if runs is None:
        _approve(problem, simulation)
    from ..comparison.comparison import compare

    # the last weights of the simulation are set against the density at the same time
    densities = [float(problem.taus[-1])] if data is None and has_densities(law, problem) else None
    solution = _solve(problem, law=law, tol=tol, densities=densities)
    if runs is None:
        runs = _simulate(problem, **simulation)
        _completed(runs)
    comparison = compare(solution, runs)
    record = comparison.to_dict() | _about(problem)
    _print(json, problem, record, str(comparison))
    tables = {"theory": solution, runs.noun: runs}
    write_outputs("compare", problem, record, out, plot, tables, "compare_figure", comparison)
    return _status(solution.status)


@app.command("fixed-point")
@takes_problem
def fixed_point(flags: dict, json: Json = False, out: Out = None) -> int:
    """Where the curve ends: error, excess over the unquantized model, stability."""
    problem = _prepare(flags, out, None)
    from ..limit.fixed_points import fixed_point

    point = fixed_point(problem)  # refuses what has none before a curve is solved
    point = point.beside(_solve(problem, throw=False))
    record = point.to_dict() | _about(problem)
    _print(json, problem, record, str(point))
    write_outputs("fixed-point", problem, record, out, None, {}, "", None)
    return 0


for command in (plateaus, choose, layers):
    app.command(cls=ListCommand)(command)
for command in (plan, sweep, convert, explore):
    app.command()(command)


def _prepare(flags: dict, out: Path | None, plot: Path | None):
    problem = build_problem(flags)
    check_outputs(out, plot)
    os.environ["MPLBACKEND"] = "Agg"
    return problem


def _approve(problem, simulation: dict) -> None:
    dim, seeds = simulation["dim"], simulation["seeds"]
    what = f"{seeds} seeds of d = {dim} to tau = {problem.run.tau:g}"
    approve(what, simulation.pop("yes"), runs=[(problem, dim, seeds)])


def _simulate(problem, *, checkpoint: Path | None, **given):
    """The ensemble; a partial one after an interrupt, if there is something to show and no checkpoint."""
    from ..simulation import Interrupted, simulate

    try:
        return simulate(problem, checkpoint=checkpoint, progress=_shows_progress(), **given)
    except Interrupted as stopped:
        if checkpoint is not None:
            raise Stopped(f"interrupted; {checkpoint} holds the state: the same command goes on.") from None
        if stopped.ensemble is None:
            raise
        return stopped.ensemble


def _solve(problem, **given):
    from ..limit.solver import solve

    return solve(problem, progress=_shows_progress(), **given)


def _completed(ensemble) -> int:
    if ensemble.partial:
        reached = f"interrupted at tau = {ensemble.tau[-1]:g} of {ensemble.problem.taus[-1]:g}"
        raise Stopped(f"{reached}, where the result ends; give --checkpoint FILE to be able to go on.")
    if ensemble.problem.diverges(ensemble.error).any():
        raise Failure("The error grows without bound: the run diverges; lower lr.")
    return 0


def _shows_progress() -> bool:
    return sys.stderr.isatty()


def _about(problem) -> dict[str, Any]:
    from ..files.writing import problem_to_dict

    return {"problem": problem_to_dict(problem), "version": __version__}


def _print(as_json: bool, problem, record: dict[str, Any], text: str) -> None:
    print(to_json(record) if as_json else f"{describe(problem)}\n\n{printable(text)}")


def _status(status) -> int:
    if status.ok:
        return 0
    print(f"stedyn: {status}", file=sys.stderr)
    return 1


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; SIGTERM ends a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # signals belong to that one
        return _run(argv)
    with interruptible(for_good=argv is None) as received:
        code = _run(argv)
    return 143 if code == 130 and signal.SIGTERM in received else code


def _run(argv: list[str] | None) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show_warning
        return _command(argv)


def _command(argv: list[str] | None) -> int:
    set_environment()
    command: Callable[..., Any] = typer.main.get_command(app)
    try:
        code = command(args=argv, prog_name="stedyn", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Stopped as stopped:
        return _complain(str(stopped), 130)
    except InputError as error:
        return _complain(str(error), 2)
    except Failure as error:
        return _complain(str(error), 1)
    except OSError as error:
        return _complain(f"cannot write {error.filename or 'a file'} ({error.strerror or error}).", 1)
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        return _complain(f"there is not enough memory{reason}; make the problem smaller.", 1)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):  # what XLA says
            return _complain("there is not enough memory for XLA; make the problem smaller.", 1)
        if not hasattr(error, "format_message"):  # what typer raises for a fault of usage has one
            raise
        return _complain(error.format_message().rstrip(".") + "; see stedyn --help.", 2)
    if code == 130:  # typer turns an interrupt into this code
        return _complain(LOST, code)
    return code if isinstance(code, int) else 0


def _complain(sentence: str, code: int) -> int:
    print("stedyn: " + shortened(" ".join(sentence.split())), file=sys.stderr)
    return code
