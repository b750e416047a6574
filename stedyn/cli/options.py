"""Flags of the command line that describe a problem or name an output.

No annotation is postponed here: typer reads them when the commands are made.
"""

import functools
import inspect
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checks import InputError
from .lists import numbers

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Write CSV, JSON, TOML and a figure here.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a figure: .png, .pdf or .svg.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a job of hours or of too much memory.")]
Bits = Annotated[Any, numbers(int, "Bit widths: --bits 2,3,4.  [default: 2,3,4]", "B")]
#: Stands for ``{plateau}`` in the help of a command.
PLATEAU = (
    "A plateau starts where nine tenths of the drop before it are done (or at 0), ends where a tenth of its own drop "
    "is done, and escapes at half. It counts if the slope of ln(error) falls below half of its peaks in the drops "
    "around it (docs/plateaus.md)."
)
FIGURE_FORMATS = (".png", ".pdf", ".svg")
#: Flag -> table and key, in the order in which they are applied: a kind before what goes with it.
_FLAGS = {
    "kind": ("weights", "kind"),
    "bits": ("weights", "bits"),
    "range": ("weights", "range"),
    "edge": ("weights", "edge"),
    "rounding": ("weights", "rounding"),
    "ste": ("weights", "ste"),
    "latent_clip": ("weights", "latent_clip"),
    "input_bits": ("inputs", "bits"),
    "input_range": ("inputs", "range"),
    "rule": ("rule", "kind"),
    "lr": ("rule", "lr"),
    "batch": ("rule", "batch"),
    "delta": ("rule", "delta"),
    "q": ("rule", "q"),
    "q_min": ("rule", "q_min"),
    "rule_noise_std": ("rule", "noise_std"),
    "zeta": ("rule", "zeta"),
    "nu": ("rule", "nu"),
    "c": ("rule", "c"),
    "weight_decay": ("rule", "weight_decay"),
    "momentum": ("rule", "momentum"),
    "beta1": ("rule", "beta1"),
    "memory": ("rule", "memory"),
    "eps": ("rule", "eps"),
    "model": ("teacher", "model"),
    "noise_std": ("noise", "std"),
    "tau": ("run", "tau"),
    "points": ("run", "points"),
}


def _flag(help: str, *names: str, panel: str | None = None, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, show_default=panel is None)


def _problem_flag(help: str, *names: str, metavar: str | None = None) -> Any:
    return _flag(help, *names, panel="The problem (each overrides the file)", metavar=metavar)


def _problem_flags(
    problem: Annotated[
        Path | None,
        typer.Argument(metavar="[PROBLEM.toml]", help="A file; without one, R1 (docs/command-line.md)."),
    ] = None,
    bits: Annotated[int | None, _problem_flag("Bits of the weights.")] = None,
    range: Annotated[float | None, _problem_flag("Range of the weights.")] = None,
    kind: Annotated[
        str | None,
        _problem_flag(
            "mid-rise, mid-tread, ..., none, or a format such as nf4 (docs/conventions.md).", metavar="KIND"
        ),
    ] = None,
    edge: Annotated[
        str | None,
        _problem_flag("What lies at the range: a level or the edge of a bin.", metavar="level|bin"),
    ] = None,
    rounding: Annotated[
        str | None, _problem_flag("Rounding of the weights.", metavar="nearest|stochastic")
    ] = None,
    ste: Annotated[
        str | None, _problem_flag("Straight-through estimator.", metavar="identity|clipped|triangular")
    ] = None,
    latent_clip: Annotated[
        float | None, _problem_flag("Clip the latent weights to this magnitude after every step.")
    ] = None,
    input_bits: Annotated[int | None, _problem_flag("Bits of the inputs.")] = None,
    input_range: Annotated[float | None, _problem_flag("Range of the inputs.")] = None,
    rule: Annotated[
        str | None,
        _problem_flag(
            "sgd, shrinkage, quantized-gradient, deterministic- or stochastic-rounding, sign, signum, adam, ...",
            metavar="KIND",
        ),
    ] = None,
    lr: Annotated[float | None, _problem_flag("Learning rate.")] = None,
    batch: Annotated[int | None, _problem_flag("Mini-batch size.")] = None,
    delta: Annotated[
        float | None, _problem_flag("Lattice spacing times sqrt(d) of the rounding rules.")
    ] = None,
    q: Annotated[float | None, _problem_flag("Shrinkage factor.")] = None,
    q_min: Annotated[float | None, _problem_flag("Smallest factor of a random shrinkage.")] = None,
    rule_noise_std: Annotated[float | None, _problem_flag("Noise added by the shrinkage rule.")] = None,
    zeta: Annotated[
        float | None, _problem_flag("Lattice spacing times sqrt(d) of the multinomial rule.")
    ] = None,
    nu: Annotated[float | None, _problem_flag("Trials for each coordinate of the multinomial rule.")] = None,
    c: Annotated[float | None, _problem_flag("Constant c of the multinomial rule.")] = None,
    weight_decay: Annotated[float | None, _problem_flag("Weight decay.")] = None,
    momentum: Annotated[float | None, _problem_flag("Momentum.")] = None,
    beta1: Annotated[float | None, _problem_flag("Momentum of Adam.")] = None,
    memory: Annotated[
        float | None, _problem_flag("Time tau of Adam's mean squares, 1 / (d (1 - beta2)).")
    ] = None,
    eps: Annotated[float | None, _problem_flag("The eps of Adam, times sqrt(d).")] = None,
    model: Annotated[
        str | None, _problem_flag("What the teacher's output becomes.", metavar="linear|sign")
    ] = None,
    noise_std: Annotated[float | None, _problem_flag("Standard deviation of the label noise.")] = None,
    tau: Annotated[float | None, _problem_flag("Horizon, in units of steps / d.")] = None,
    points: Annotated[int | None, _problem_flag("Number of saved times.")] = None,
    set_: Annotated[
        list[str] | None,
        _problem_flag(
            "Any key of a problem file, such as inputs.kind=none. Repeatable.",
            "--set",
            metavar="TABLE.KEY=VALUE",
        ),
    ] = None,
) -> None:
    """The parameters that `takes_problem` adds; never called."""


def simulation_flags(
    dim: Annotated[int, typer.Option(min=1, help="Input dimension d of the simulation.")] = 3000,
    seeds: Annotated[int, typer.Option(min=1, help="Number of simulated runs.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the state here; the same command goes on from it."),
    ] = None,
    every: Annotated[float | None, typer.Option(help="Seconds between checkpoints.  [default: 60]")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Refuse a checkpoint of another arithmetic.")
    ] = False,
    devices: Annotated[int | None, typer.Option(help="Devices that share the runs.  [default: all]")] = None,
    split: Annotated[str, typer.Option(help="What the devices divide.", metavar="seeds|weights")] = "seeds",
    yes: Yes = False,
) -> None:
    """The parameters in place of ``simulation`` in a command; never called."""


def takes_problem(command: Callable[..., Any] | None = None, *, without: tuple[str, ...] = ()) -> Callable:
    """Give a command the argument PROBLEM.toml and the flags; it gets them as one dict ``flags``.

    ``without`` names flags that the command does not take, or takes in another form. A command with the parameter
    ``simulation`` gets the flags of a simulation as a dict, too.
    """
    if command is None:
        return functools.partial(takes_problem, without=without)
    own = dict(inspect.signature(command).parameters)
    groups = {
        name: {key: p for key, p in inspect.signature(flags).parameters.items() if key not in without}
        for name, flags in (("flags", _problem_flags), ("simulation", simulation_flags))
        if own.pop(name, None)
    }

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        dicts = {name: {key: given.pop(key) for key in group} for name, group in groups.items()}
        dicts["flags"] |= dict.fromkeys(without)
        return command(**dicts, **given)

    parameters = [p for group in groups.values() for p in group.values()] + list(own.values())
    parameters.sort(key=lambda p: p.default is not p.empty)  # required ones first
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = (command.__doc__ or "").replace("{plateau}", PLATEAU)
    del run.__wrapped__
    return run


def build_problem(flags: dict[str, Any], default: dict[str, dict[str, Any]] | None = None):
    """The problem of the file, or the default one (R1), with the flags laid over it.

    Raises
    ------
    ValueError
        One sentence about the file, the flag or the key at fault.
    """
    from ..files.problems import problem_from_dict, read_tables
    from ..files.tables import DEFAULT_TABLES, checked_tables, set_key, set_value

    path, source = flags["problem"], None
    tables = DEFAULT_TABLES if default is None else default
    if path is not None:
        tables, source = read_tables(path), str(path)
        try:
            checked_tables(tables)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
    given = {name: flags[name] for name in _FLAGS if flags[name] is not None}
    of_weights = {_FLAGS[name][1] for name in given if _FLAGS[name][0] == "weights"}
    if of_weights and of_weights <= {"ste", "latent_clip"} and "weights" not in tables:
        tables = set_value(tables, "weights", "kind", "none")
    for name, value in given.items():
        tables = set_value(tables, *_FLAGS[name], value)
    for assignment in flags["set_"] or ():
        tables = set_key(tables, assignment)
    if source and (given or flags["set_"]):
        source += " with these flags"
    return problem_from_dict(tables, folder=path.parent if path is not None else ".", source=source)


def check_outputs(out: Path | None, plot: Path | None) -> None:
    """Refuse outputs that could not be written, before anything is computed.

    Raises
    ------
    ValueError
        Which flag, what is wrong with it, and what to give.
    """
    if plot is not None:
        if plot.suffix.lower() not in FIGURE_FORMATS:
            formats = ", ".join(FIGURE_FORMATS)
            raise InputError(f"--plot: expected a file ending in {formats}, found {str(plot)!r}; rename it.")
        if plot.is_dir():
            raise InputError(f"--plot: expected a file, found the folder {str(plot)!r}; add a file name.")
        if not plot.parent.is_dir():
            raise InputError(
                f"--plot: expected a file in a folder that exists, found {str(plot)!r}; make it."
            )
        _check_writable("--plot", plot.parent)
    if out is not None:
        nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise InputError(f"--out: expected a folder, found the file {str(nearest)!r}; name another.")
        _check_writable("--out", nearest)


def _check_writable(flag: str, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{flag}: expected a folder that can be written, found {str(folder)!r} ({error.strerror}); "
            "name another."
        ) from None


def write_outputs(
    name: str,
    problem,
    record: dict[str, Any],
    out: Path | None,
    plot: Path | None,
    tables,
    draw=None,
    shown=None,
) -> None:
    """Write what --out and --plot ask for, and say so on standard error.

    ``tables`` are records with ``to_pandas`` by name; ``draw`` names the figure of `plots` that shows ``shown``.
    """
    if out is None and plot is None:
        return
    from ..files.report import write_csv, write_figure, write_json
    from ..files.whole import all_or_none
    from ..files.writing import save_problem

    written = []
    with all_or_none():
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            written += [write_json(out / f"{name}.json", record), save_problem(problem, out / "problem.toml")]
            about = ["interrupted: the last times are missing"] if record.get("partial") else []
            written += [
                write_csv(out / f"{key}.csv", table.to_pandas(), *about) for key, table in tables.items()
            ]
        if draw:
            from .. import plots

            targets = [
                path for path in (plot, None if out is None else out / f"{name}.png") if path is not None
            ]
            written += [write_figure(path, getattr(plots, draw)(shown)) for path in targets]
    print("wrote " + ", ".join(map(str, written)), file=sys.stderr)
