"""The command ``stedyn convert``: a training recipe in the units of a problem, and back."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..checks import InputError
from .options import Json

Optimizer = Annotated[str | None, typer.Option(help="sgd, adam, adamw or signum.", metavar="NAME")]
Number = Annotated[float | None, typer.Option(help="As in PyTorch.")]


def convert(
    dim: Annotated[int, typer.Option(help="Input dimension of the layer.")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="state_dict of an optimizer (.json), or a problem (.toml)."),
    ] = None,
    optimizer: Optimizer = None,
    lr: Number = None,
    weight_decay: Number = None,
    momentum: Number = None,
    dampening: Number = None,
    nesterov: Annotated[bool, typer.Option("--nesterov", help="As in PyTorch.")] = False,
    beta1: Number = None,
    beta2: Number = None,
    eps: Number = None,
    batch: Annotated[int | None, typer.Option(help="Mini-batch size.")] = None,
    range: Annotated[float | None, typer.Option(help="Range of the weight quantizer.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the training.")] = None,
    loss: Annotated[
        str, typer.Option(help="The loss, averaged over a batch.", metavar="half-mse|mse")
    ] = "half-mse",
    outputs: Annotated[
        str, typer.Option(help="w.x / sqrt(d), or W.x with small weights.", metavar="scaled|plain")
    ] = "scaled",
    json: Json = False,
) -> int:
    """A training recipe in the units of a problem file; of a problem file, the recipe (docs/convert.md)."""
    from ..files.problems import load_problem
    from ..files.recipes import Recipe, read_settings
    from ..files.report import to_json

    named = dict(optimizer=optimizer, lr=lr, weight_decay=weight_decay, momentum=momentum, dampening=dampening,
                 nesterov=nesterov or None, eps=eps, batch=batch, range=range, steps=steps)  # fmt: skip
    given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if file is not None and file.suffix == ".toml":
        extra = [*given, *(["beta1"] if beta1 is not None else []), *(["beta2"] if beta2 is not None else [])]
        if extra:
            flag = "--" + extra[0].replace("_", "-")
            raise InputError(
                f"{flag}: expected none with a problem file, which has its own settings; leave it out."
            )
        found = Recipe.from_problem(load_problem(file), dim, loss, outputs)
        record = found.to_dict()
        print(
            to_json(record)
            if json
            else "\n".join(f"{key:<13} {_shown(value)}" for key, value in record.items())
        )
        return 0
    settings = ({} if file is None else read_settings(file)) | given
    if beta1 is not None or beta2 is not None:
        first, second = settings.get("betas", (0.9, 0.999))
        settings["betas"] = (first if beta1 is None else beta1, second if beta2 is None else beta2)
    tables = Recipe(dim, **settings, loss=loss, outputs=outputs).tables()
    if json:
        print(to_json(tables))
        return 0
    import tomli_w

    print(tomli_w.dumps(tables), end="")
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
