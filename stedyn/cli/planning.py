"""The command ``stedyn plan``. No annotation is postponed: typer reads them."""

from typing import Annotated

import typer

from .options import Json, Out, build_problem, check_outputs, takes_problem, write_outputs

Gap = Annotated[
    float, typer.Option(help="Relative difference of the curve that is to be seen, such as 0.01.")
]


@takes_problem
def plan(flags: dict, gap: Gap, json: Json = False, out: Out = None) -> int:
    """How many seeds of which dimension show a difference, and how long they take on this machine."""
    problem = build_problem(flags)
    check_outputs(out, None)
    from .. import __version__
    from ..design.planning import plan
    from ..files.report import describe, to_json
    from ..files.writing import problem_to_dict

    found = plan(problem, gap)
    record = found.to_dict() | {"problem": problem_to_dict(problem), "version": __version__}
    print(to_json(record) if json else f"{describe(problem)}\n\n{found}")
    write_outputs("plan", problem, record, out, None, {"plan": found})
    return 0
