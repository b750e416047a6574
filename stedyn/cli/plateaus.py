"""The command ``stedyn plateaus``. No annotation is postponed: typer reads them."""

import sys
from typing import Annotated, Any

import typer

from .approval import approve
from .lists import numbers
from .options import Bits, Json, Out, Plot, Yes, build_problem, check_outputs, takes_problem, write_outputs

#: The run without a problem file.
RUN = {"tau": 400.0, "points": 201}


@takes_problem(without=("bits", "range", "lr"))
def plateaus(
    flags: dict,
    bits: Bits = None,
    ranges: Annotated[Any, numbers(float, "Ranges.  [default: that of the problem]", "R")] = None,
    lrs: Annotated[Any, numbers(float, "Learning rates.  [default: that of the problem]", "LR")] = None,
    tol: Annotated[float, typer.Option(help="Relative accuracy asked of the law.")] = 5e-3,
    yes: Yes = False,
    json: Json = False,
    out: Out = None,
    plot: Plot = None,
) -> int:
    """How long the curve stays flat, for bits, ranges and learning rates, beside the closed form for a small lr.

    {plateau} Without PROBLEM.toml: mid-tread weights of range 1 that start at N(0, 0.02^2), teacher 1, lr 0.02, label
    noise 0.1, tau = 400.
    """
    from ..files.tables import PLATEAU_TABLES

    problem = build_problem(flags, PLATEAU_TABLES | {"run": RUN})
    check_outputs(out, plot)
    from .. import __version__
    from ..design.plateau_tables import plateau_table
    from ..files.report import describe, to_json
    from ..files.writing import problem_to_dict
    from ..limit.laws.registry import REFERENCE
    from ..limit.solver import solve

    problem.steady("a table of plateaus")
    widths = bits or (2, 3, 4)
    count = len(widths) * len(ranges or [None]) * len(lrs or [None])
    approve(
        f"{count} curves", yes, count=count, one=lambda: solve(problem, law=REFERENCE, tol=tol, throw=False)
    )
    if not json:
        print(
            f"{len(set(widths))} bit widths are compiled, each once (seconds; kept for the next call)",
            file=sys.stderr,
        )
    table = plateau_table(problem, bits=widths, ranges=ranges, lrs=lrs, tol=tol, progress=sys.stderr.isatty())
    record = table.to_dict() | {"problem": problem_to_dict(problem), "version": __version__}
    print(to_json(record) if json else f"{describe(problem)}\n\n{table}")
    write_outputs("plateaus", problem, record, out, plot, {"plateaus": table}, "plateaus_figure", table)
    return 0
