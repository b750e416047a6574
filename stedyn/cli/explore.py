"""The command ``stedyn explore``. No annotation is postponed: typer reads them."""

import contextlib
import importlib.util
import os
import sys
from typing import Annotated, NoReturn

import typer

from ..checks import InputError
from .options import build_problem, takes_problem


@takes_problem
def explore(
    flags: dict,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 for any free one.")] = 5016,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> NoReturn:
    """A page in the browser to play with: curve, plateaus, densities, ranges and simulations, live.

    It is served on 127.0.0.1 until Ctrl-C. Without PROBLEM.toml: mid-tread weights of range 1 that start near 0.
    """
    if importlib.util.find_spec("panel") is None:
        raise InputError(
            "stedyn explore: expected the package panel, found none; python -m pip install 'stedyn[explore]'."
        )
    from ..explore.view import TABLES, View

    view = View.of(build_problem(flags, TABLES))
    from ..explore.server import ADDRESS, free_port, serve

    port = free_port(port)
    print(f"stedyn explore: http://{ADDRESS}:{port}/  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        serve(view, port, show=open_)
    # a page's thread may be inside a program of XLA, which aborts if the interpreter ends around it
    sys.stderr.flush()
    os._exit(0)
