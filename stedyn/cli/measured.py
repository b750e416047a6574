"""Measured curves in place of a simulation: the flags of ``stedyn compare --data``."""

import dataclasses
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checks import InputError
from .options import simulation_flags

Data = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV", help="Measured curves in place of a simulation (docs/measured.md); give --dim."
    ),
]
Loss = Annotated[str, typer.Option(help="What the losses of --data are.", metavar="mse|half-mse")]
Noisy = Annotated[
    bool, typer.Option("--includes-noise", help="The losses of --data contain the label noise.")
]
_SIMULATED = {*inspect.signature(simulation_flags).parameters} - {"dim", "yes"}


def read_measured(
    context: typer.Context, problem, data: Path | None, loss: str, noisy: bool
) -> tuple[Any, Any]:
    """The problem at the times of a file, and the curves in it; the problem as it is, and None, without a file.

    Raises
    ------
    InputError
        If the file is at fault, if the input dimension is missing, or if a flag would be ignored.
    """
    if data is None:
        _refuse(context, ("loss", "includes_noise"), "without --data no curves are read")
        return problem, None
    _refuse(context, _SIMULATED, "nothing is simulated")
    _refuse(context, ("tau", "points"), "the times are those of --data")
    if not _given(context, "dim"):
        raise InputError("--dim: expected the input dimension of the measured runs, found none; add --dim D.")
    from ..comparison.measured import Measured
    from ..problem.run import Run

    noise_std = float(problem.noise_std)
    runs = Measured.read(data, context.params["dim"], loss=loss, includes_noise=noisy, noise_std=noise_std)
    times = runs.tau if runs.tau[0] == 0 else [0.0, *runs.tau]
    return dataclasses.replace(problem, run=Run(taus=times)), runs


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse(context: typer.Context, names: Iterable[str], reason: str) -> None:
    for name in names:
        if _given(context, name):
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag}: expected none here, because {reason}; leave it out.")
