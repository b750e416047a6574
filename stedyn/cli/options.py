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
        typer.Argument(metavar="[PROBLEM.toml]", help="A problem file; without one, setting R1 (README)."),
    ] = None,
    bits: Annotated[int | None, _problem_flag("Bits of the weights.")] = None,
    range: Annotated[float | None, _problem_flag("Range of the weights.")] = None,
    kind: Annotated[
        str | None,
        _problem_flag("mid-rise, mid-tread, twos-complement, sign, ternary or none.", metavar="KIND"),
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
            "sgd, shrinkage, quantized-gradient, deterministic-rounding, stochastic-rounding, sign or multinomial.",
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


def takes_problem(command: Callable[..., Any] | None = None, *, without: tuple[str, ...] = ()) -> Callable:
    """Give a command the argument PROBLEM.toml and the flags; it gets them as one dict ``flags``.

    ``without`` names flags that the command does not take, or takes in another form.
    """
    if command is None:
        return functools.partial(takes_problem, without=without)
    every = inspect.signature(_problem_flags).parameters
    shared = {name: p for name, p in every.items() if name not in without}
    own = [p for name, p in inspect.signature(command).parameters.items() if name != "flags"]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        return command(dict.fromkeys(without) | {name: given.pop(name) for name in shared}, **given)

    parameters = sorted(
        [*shared.values(), *own], key=lambda p: p.default is not p.empty
    )  # required ones first
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    del run.__wrapped__
    return run


def build_problem(flags: dict[str, Any], default: dict[str, dict[str, Any]] | None = None):
    """The problem of the file, or the default one (R1), with the flags laid over it; x64 is switched on first.

    Raises
    ------
    ValueError
        One sentence about the file, the flag or the key at fault.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
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


def repeated(argv: list[str]) -> list[str]:
    """``--bits 2 3 4`` as ``--bits 2 --bits 3 --bits 4``, for the options that take several numbers."""
    if not argv or argv[0] not in ("plateaus", "choose", "layers"):
        return list(argv)
    out: list[str] = []
    option, count = "", 0
    several = ("--bits", "--lrs", "--ranges") if argv[0] == "plateaus" else ("--bits", "--lrs")
    for word in argv:
        number = word.replace(".", "", 1).replace("e-", "", 1).isdigit()
        if word in several:
            option, count = word, 0
            continue
        if option and (number or count == 0):
            out += [option, word]
            count += 1
            continue
        option = ""
        out.append(word)
    return out + ([option] if option and count == 0 else [])


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
    from ..files.problems import save_problem
    from ..files.report import write_csv, write_figure, write_json
    from ..files.whole import all_or_none

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
