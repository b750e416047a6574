"""The commands ``stedyn choose`` and ``stedyn layers``. No annotation is postponed: typer reads them."""

import itertools
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checks import InputError, in_float64, printable
from .approval import approve
from .lists import numbers
from .options import Bits, Json, Plot, Yes, build_problem, check_outputs, takes_problem, write_outputs

Points = Annotated[int, typer.Option(min=5, help="Ranges of the scan.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Write CSV and JSON here.")]
Tensor = Annotated[str | None, typer.Option(help="Name of the tensor in the file.", metavar="NAME")]
Normalise = Annotated[
    str, typer.Option(help="Divide weights by their root mean square or maximum.", metavar="std|max|none")
]


@takes_problem(without=("bits", "range"))
def choose(
    flags: dict,
    bits: Bits = None,
    kinds: Annotated[
        Any, numbers(str, "Kinds of quantizers to compare: --kinds int4,fp4-e2m1,nf4.", "KIND")
    ] = None,
    objective: Annotated[
        str,
        typer.Option(help="final-error, error-at=TAU, time-to=ERROR or plateau-length.", metavar="NAME"),
    ] = "final-error",
    max_error: Annotated[
        float | None, typer.Option(help="The wanted error; the fewest bits that reach it are named.")
    ] = None,
    ranges: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Bounds of the search.  [default: MSE-optimal range / 4 to * 4]", metavar="LOW HIGH"
        ),
    ] = None,
    lrs: Annotated[
        Any, numbers(float, "Learning rates to choose from, too: --lrs 0.05,0.1,0.2.", "LR")
    ] = None,
    layer: Annotated[Path | None, typer.Option(help="Teacher weights from a file.", metavar="FILE")] = None,
    tensor: Tensor = None,
    normalise: Normalise = "std",
    scan: Points = 40,
    tol: Annotated[float, typer.Option(help="Relative accuracy asked of curves.")] = 1e-2,
    baselines: Annotated[bool, typer.Option(help="Predict the outcome of calibration rules.")] = True,
    libraries: Annotated[
        bool, typer.Option("--libraries", help="Name every choice as other libraries do.")
    ] = False,
    simulated: Annotated[
        bool, typer.Option("--confirm", help="Simulate every range of the table as well.")
    ] = False,
    dim: Annotated[int, typer.Option(min=2, help="Input dimension d of --confirm.")] = 3000,
    seeds: Annotated[int, typer.Option(min=2, help="Number of runs of --confirm.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="First seed of --confirm.")] = 0,
    yes: Yes = False,
    json: Json = False,
    out: Out = None,
) -> int:
    """The best range for every bit width, beside calibration rules with their predicted outcome.

    Without PROBLEM.toml: R1, whose inputs have 2 bits; with --layer: inputs that are not quantized, label noise 0.1.
    """
    if layer is None and tensor is not None:
        raise InputError("--tensor: expected --layer FILE with it, found none; name the file.")
    if layer is not None:
        flags = flags | {"set_": [*_teacher(layer, tensor, normalise), *(flags["set_"] or ())]}
    from ..files.tables import LAYER_TABLES

    problem = build_problem(flags, None if layer is None else LAYER_TABLES)
    check_outputs(out, None)
    scale, units = (None, "") if layer is None else _scale(layer, tensor, normalise)
    from ..design.ranges import candidates, choose

    quantizers, rates = candidates(problem, bits, kinds), lrs or [None]
    # about ten ranges of each
    runs = [(problem, dim, seeds)] * (10 * len(quantizers) if simulated else 0)
    what = f"{scan} ranges of {len(quantizers)} quantizers"
    _approve(what, yes, problem, quantizers[0], scan * len(quantizers) * len(rates), objective, runs)

    progress = sys.stderr.isatty()
    choices = choose(
        problem,
        bits=bits,
        kinds=kinds,
        objective=objective,
        max_error=max_error,
        ranges=ranges,
        lrs=lrs,
        points=scan,
        tol=tol,
        baselines=baselines,
        progress=progress,
    )
    if simulated:
        from ..design.confirm import confirm

        choices = confirm(choices, dim=dim, seeds=seeds, seed=seed, progress=progress)
    text = str(choices) + ("\n\n" + _named(choices) if libraries else "") + units
    _show("choose", problem, choices, text, json, out, more=scale)
    return 0


@takes_problem(without=("bits", "range"))
def layers(
    flags: dict,
    file: Annotated[Path, typer.Argument(help="Weights: .safetensors, .npz, .npy or .csv.", metavar="FILE")],
    tensor: Tensor = None,
    activations: Annotated[
        Path | None,
        typer.Option(help="Inputs of the layers, under their names: .safetensors or .npz.", metavar="FILE"),
    ] = None,
    bits: Bits = None,
    per_channel: Annotated[bool, typer.Option("--per-channel", help="A range for every channel.")] = False,
    axis: Annotated[int, typer.Option(help="The channel axis.")] = 0,
    normalise: Normalise = "std",
    scan: Points = 16,
    yes: Yes = False,
    json: Json = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write CSV, JSON, TOML and a figure here.")
    ] = None,
    plot: Plot = None,
) -> int:
    """The best range for every layer of a file of weights: each is the teacher of a problem of its own.

    Without PROBLEM.toml: inputs that are not quantized, label noise 0.1, start N(0, 1), SGD at lr 0.1.
    Weights are divided by their root mean square (--normalise), inputs by the root of their mean variance: the start,
    the noise, the range of the inputs and the learning rate of the problem are in these units.
    """
    from ..files.tables import LAYER_TABLES

    problem = build_problem(flags, LAYER_TABLES)
    check_outputs(out, plot)
    os.environ["MPLBACKEND"] = "Agg"
    from ..design.layer_report import entries_of, problem_of, report_layers, with_inputs
    from ..design.ranges import template
    from ..files.layers import Layer

    options: dict[str, Any] = dict(per_channel=per_channel, axis=axis, normalise=normalise)
    entries, measured = with_inputs(entries_of(file, tensor, **options), activations, axis, problem)
    names, widths = [entry for entry in entries if isinstance(entry, Layer)], bits or (2, 3, 4)
    if names:
        own = problem_of(problem, names[0], measured.get(names[0].name))
        what = f"{len(names)} layers in {len(widths)} bit widths"
        _approve(what, yes, own, template(own, widths[0]), len(names) * len(widths) * (scan + 14))
    report = report_layers(
        file,
        problem,
        tensor=tensor,
        activations=activations,
        bits=widths,
        **options,
        points=scan,
        progress=sys.stderr.isatty(),
    )
    _show("layers", problem, report, str(report), json, out, plot, "layers_figure")
    return 0


def _approve(
    what: str, yes: bool, problem, quantizer, count: int, objective: str = "final-error", runs=()
) -> None:
    """`approve` outcomes at ``count`` ranges and simulations."""
    from ..curves.objectives import Objective
    from ..design.predictor import Predictor

    places = itertools.count(1)

    @in_float64
    def one():
        predictor = Predictor(problem, quantizer, Objective.parse(objective), None, 1e-2)
        predictor.scan(1 + 0.01 * next(places), float(problem.rule.lr))

    approve(what, yes, runs=runs, count=count, one=one)


def _teacher(layer: Path, tensor: str | None, normalise: str) -> list[str]:
    """Assignments, as of ``--set``, that make a tensor the teacher."""
    import json

    given = {"kind": "file", "path": str(layer.absolute()), "tensor": tensor, "normalise": normalise}
    return [f"teacher.{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def _scale(layer: Path, tensor: str | None, normalise: str) -> tuple[dict[str, float], str]:
    """By what the weights of a file are divided, for the record and in a sentence."""
    from ..files.layers import load_weights

    (weights,) = load_weights(layer, tensor, normalise=normalise).values()
    return {"scale": weights.scale}, (
        f"\nThe weights of {layer} were divided by {weights.scale:.6g} (--normalise {normalise}): ranges times this "
        "number are in the units of the file."
    )


def _named(choices: Any) -> str:
    """The quantizers of the choices under the names of other libraries."""
    from ..design.ranges import template
    from ..quantizers.conventions import library_names

    lines = []
    for choice in choices.choices:
        lines.append(f"{choice.kind}, {choice.bits} bits, range {choice.range:.5g}:")
        names = library_names(template(choices.problem, choice.bits, choice.kind).with_range(choice.range))
        for library, given in names.items():
            text = (
                given
                if isinstance(given, str)
                else ", ".join(
                    f"{k}={v:.7g}" if isinstance(v, float) else f"{k}={v}" for k, v in given.items()
                )
            )
            lines.append(f"  {library:<9} {text}")
    return "\n".join(lines)


def _show(
    name: str,
    problem,
    result,
    text: str,
    json: bool,
    out: Path | None,
    plot: Path | None = None,
    draw: str = "",
    more: dict[str, Any] | None = None,
) -> None:
    from .. import __version__
    from ..design.ranges import template
    from ..files.report import describe, to_json
    from ..files.writing import problem_to_dict

    record = result.to_dict() | (more or {}) | {"problem": problem_to_dict(problem), "version": __version__}
    quantizer = template(problem, problem.weights.bits or 2)
    teacher = "each layer of the file" if name == "layers" else None
    print(to_json(record) if json else f"{describe(problem, quantizer, teacher)}\n\n{printable(text)}")
    write_outputs(name, problem, record, out, plot, {name: result}, draw, result)
