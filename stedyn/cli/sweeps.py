"""The command ``stedyn sweep``. No annotation is postponed: typer reads them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..checks import InputError
from .approval import approve
from .options import Yes, check_outputs
from .stopped import Stopped

Table = Annotated[Path, typer.Argument(metavar="TABLE.csv", help="One problem in each row.")]
File = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PROBLEM.toml]", help="What the rows change; without one, setting R1 (docs/command-line.md)."
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results; rows found there are kept.")]
What = Annotated[
    str, typer.Option(help="Unless a row says so.", metavar="predict|simulate|compare|fixed-point")
]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler: tcp://HOST:PORT.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Local processes.  [default: one a core]")]


def sweep(
    table: Table,
    problem: File = None,
    *,
    out: Out,
    what: What = "predict",
    scheduler: Scheduler = None,
    workers: Workers = None,
    yes: Yes = False,
) -> int:
    """One problem for each row of a table, in parallel; running it again computes what is missing.

    The columns are keys of a problem file, such as weights.range, rule.lr or run.tau, and what, law, dim,
    seeds, seed. An empty cell leaves the value of PROBLEM.toml.
    """
    if scheduler is not None and workers is not None:
        raise InputError("--workers: expected none with --scheduler, which has its own; leave one out.")
    check_outputs(out, None)
    if (out / "sweep.csv").exists() and table.exists() and table.samefile(out / "sweep.csv"):
        raise InputError(f"--out: would overwrite the table {table}; name another folder.")
    from ..sweeps.run import carried_out, planned

    plan = planned(table, problem, out=out, what=what, workers=workers)
    if scheduler is None:  # of other machines nothing is known
        _approve(plan, yes)
    client = None if scheduler is None else _client(scheduler)
    try:
        executor = None if client is None else client.get_executor()
        frame = carried_out(plan, executor, sys.stderr.isatty())
    except KeyboardInterrupt:
        raise Stopped(
            f"interrupted; the rows that were done are in {out}: the same command goes on."
        ) from None
    finally:
        if client is not None:
            client.close()
    failed = frame[frame["failure"].notna()]
    print(f"{len(frame) - len(failed)} of {len(frame)} rows are in {out}, their summary is sweep.csv there")
    for row, failure in zip(failed["row"], failed["failure"], strict=True):
        print(f"stedyn: row {row}: " + " ".join(failure.split()), file=sys.stderr)
    return 1 if len(failed) else 0


def _approve(plan, yes: bool) -> None:
    from ..files.problems import problem_from_dict
    from ..limit.solver import solve

    jobs = [row.job for row in plan.missing]
    runs = [(problem_from_dict(job["problem"]), job["dim"], job["seeds"]) for job in jobs if "dim" in job]
    curves = [job for job in jobs if job["what"] != "simulate"]

    def one():
        solve(problem_from_dict(curves[0]["problem"]), law=curves[0].get("law", "auto"), throw=False)

    approve(f"{len(jobs)} rows", yes, runs=runs, at_once=plan.workers, count=len(curves), one=one)


def _client(address: str):
    try:
        from distributed import Client
    except ImportError:
        raise InputError("--scheduler: needs Dask; install it with pip install 'stedyn[dask]'.") from None
    try:
        return Client(address, timeout=10)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"--scheduler: no answer from {address!r} ({reason}); check the address.") from None
