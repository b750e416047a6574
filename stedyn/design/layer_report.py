"""The best range and bit width of every layer in a file of weights, behind measured inputs if there are any."""

from __future__ import annotations

import dataclasses
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..checks import checked, fail, in_float64, whole
from ..curves.objectives import Objective
from ..drawing.shown import Shown
from ..files.activations import LayerInputs, condensed, layer_inputs
from ..files.layers import Layer, Skipped, layers_of, load_weights
from ..inputs.law import InputLaw
from ..problem.populations import Covariance, Teacher
from ..problem.problem import Problem
from .calibration import calibrated_range
from .predictor import Predictor
from .ranges import REACH, checked_bits, template
from .search import best_range

if TYPE_CHECKING:
    import pandas as pd

#: A layer is represented by this many values, the means of equally many neighbours, so that all layers share a
#: compilation; variances of its inputs by so many groups of equally many weights, or by one if they differ by less.
VALUES, GROUPS, ALIKE = 1024, 8, 1.1
#: Relative error of curves, where there is no fixed point; ratio of channel scales from which on they are named.
TOLERANCE, APART = 1e-2, 3.0


@dataclasses.dataclass(frozen=True, repr=False)
class LayerReport(Shown):
    """One row for each layer and bit width, ``rows``, the tensors left out, ``skipped``, and ``hints`` on channels.

    A layer's weights are divided by ``scale`` (its root mean square, by default) and its measured inputs by
    ``input_scale`` (the root of their mean variance). Ranges (``range``, ``mse_range``) are in the units of the file,
    ``normalised`` is the range over ``scale``; errors are final errors over the variance ``E[v w*^2]`` of the output.
    """

    rows: tuple[dict[str, Any], ...]
    skipped: tuple[Skipped, ...]
    hints: tuple[str, ...] = ()

    def to_pandas(self) -> pd.DataFrame:
        """``layer, weights, bits, range, normalised``, predicted ``error``, range and error of the mse rule, scales."""
        import pandas as pd  # slow to import

        return pd.DataFrame(list(self.rows))

    def to_dict(self) -> dict[str, Any]:
        """``layers``, the rows; ``skipped``, names with their reasons; ``hints``."""
        left = [{"layer": tensor.name, "reason": tensor.reason} for tensor in self.skipped]
        return {"layers": list(self.rows), "skipped": left, "hints": list(self.hints)}

    def _summary(self) -> str:
        return f"{len({row['layer'] for row in self.rows})} layers, {len(self.skipped)} skipped"

    def _draw(self, ax) -> None:
        from ..drawing.layers import final_errors

        final_errors(ax, self.to_pandas())

    def __str__(self):
        lines = [self.to_pandas().to_string(index=False, float_format=lambda x: f"{x:.4g}")]
        lines += [f"skipped {tensor.name}: {tensor.reason}" for tensor in self.skipped]
        return "\n".join([*lines, *self.hints])


@checked(problem=Problem)
@in_float64
def report_layers(
    path: str | PathLike,
    problem: Problem,
    *,
    tensor: str | None = None,
    activations: str | PathLike | None = None,
    bits=(2, 3, 4),
    per_channel: bool = False,
    axis: int = 0,
    normalise: str = "std",
    points: int = 16,
    progress: bool = False,
) -> LayerReport:
    """The range of least final error for every layer of a file, and what the rule of least rounding error costs.

    Every layer is the teacher of a problem of its own: everything else (start, noise, inputs, rule, horizon) is that
    of ``problem``, in units of the normalised weights.

    Parameters
    ----------
    path : path
        ``.safetensors``, ``.npz``, ``.npy`` or ``.csv`` (see `stedyn.files.layers`).
    tensor : str, optional
        One tensor; all with two dimensions or more by default.
    activations : path, optional
        A file with the inputs of the layers, (..., d) each, under the names of the layers
        (`stedyn.files.activations`). Their variances, their mean and the law that they share take the place of
        those of ``problem``; its input quantizer, for inputs of variance 1, and ``centre`` stay. Layers without
        activations are left out.
    bits, points
        See `stedyn.choose`.
    per_channel, axis, normalise
        See `stedyn.files.layers.load_weights`.

    Raises
    ------
    ValueError
        If the file or a tensor cannot be used, in one sentence.
    """
    entries = entries_of(path, tensor, per_channel=per_channel, axis=axis, normalise=normalise)
    problem.alike("layers of a file")
    widths, points = checked_bits(bits, problem), whole("points", points, 5, 10_000)
    entries, measured = with_inputs(entries, activations, axis, problem)
    layers = [entry for entry in entries if isinstance(entry, Layer)]
    lr, rows = float(problem.rule.lr), []
    with tqdm(total=len(layers) * len(widths), unit="range", disable=not progress) as bar:
        for layer in layers:
            own = problem_of(problem, layer, measured.get(layer.name))
            output = float(own.signal)
            for b in widths:
                predictor = Predictor(own, template(own, b), Objective("final-error"), None, TOLERANCE)
                mse = calibrated_range(own.target, predictor.quantizer, "mse")
                bounds = mse / REACH, mse * REACH
                chosen = best_range(predictor, lr, bounds, points, None, interval=False, known=[mse])
                row = {
                    "layer": layer.name,
                    "weights": int(layer.weights.size),
                    "bits": b,
                    "range": chosen.range * layer.scale,
                    "normalised": chosen.range,
                    "error": chosen.value / output,
                    "mse_range": mse * layer.scale,
                    "mse_error": predictor.exact(mse, lr).value / output,
                    "scale": layer.scale,
                }
                inputs = measured.get(layer.name)
                rows.append(row if inputs is None else row | {"input_scale": inputs.scale})
                bar.update()
    hints = [hint for layer in layers for hint in _hints(layer, measured.get(layer.name), axis, per_channel)]
    skipped = (entry for entry in entries if isinstance(entry, Skipped))
    return LayerReport(tuple(rows), tuple(skipped), tuple(dict.fromkeys(hints)))


def with_inputs(
    entries: list[Layer | Skipped], activations, axis: int, problem: Problem
) -> tuple[list[Layer | Skipped], dict[str, LayerInputs]]:
    """The layers with their measured inputs; those that have none are skipped."""
    if activations is None:
        return entries, {}
    if problem.input_law.kind != "gaussian" or problem.covariance.kind != "identity":
        fail(
            "inputs",
            "no law or covariance beside measured activations",
            problem.input_law.kind,
            "leave it out",
        )
    measured = layer_inputs(activations, [entry for entry in entries if isinstance(entry, Layer)], axis)
    none = "no activations of its name"
    return [
        Skipped(entry.name, entry.shape, none)
        if isinstance(entry, Layer) and entry.name not in measured
        else entry
        for entry in entries
    ], measured


def problem_of(problem: Problem, layer: Layer, inputs: LayerInputs | None) -> Problem:
    """The problem whose teacher is a layer, in its normalised units."""
    if inputs is None:
        return dataclasses.replace(problem, teacher=Teacher.samples(condensed(layer.weights, VALUES)))
    law = InputLaw.samples(inputs.base, centre=problem.input_law.centre)
    weights, variances = _grouped(layer.weights, inputs.variances)
    covariance = Covariance.identity() if variances is None else Covariance.samples(variances)
    return dataclasses.replace(
        problem, teacher=Teacher.samples(weights), covariance=covariance, input_law=law
    )


def _grouped(weights: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """`VALUES` weights with the variances of their inputs: near-equal variances are one, others `GROUPS` at most.

    The mean of ``v``, and that of ``v w^2`` within every group, are kept.
    """
    if variances.max() <= ALIKE * variances.min():
        return condensed(weights, VALUES), None
    order = np.argsort(variances, kind="stable")
    parts = [part for part in np.array_split(order, min(GROUPS, np.unique(variances).size)) if part.size]
    size = min(VALUES // len(parts), min(part.size for part in parts))
    found, behind = [], []
    for part in parts:
        values, v = condensed(weights[part], size), variances[part].mean()
        wanted = np.mean(variances[part] * weights[part] ** 2) / v
        found.append(values * np.sqrt(wanted / np.mean(values**2)) if np.any(values) else values)
        behind.append(np.full(values.size, v))
    return np.concatenate(found), np.concatenate(behind)


def _hints(layer: Layer, inputs: LayerInputs | None, axis: int, per_channel: bool) -> list[str]:
    """What to do where the scales of channels lie far apart."""
    hints = []
    if not per_channel and len(layer.shape) > 1:
        rows = np.moveaxis(layer.weights.reshape(layer.shape), axis, 0).reshape(layer.shape[axis], -1)
        sizes = np.sqrt(np.mean(rows**2, axis=1))
        sizes = sizes[sizes > 0]
        if (ratio := sizes.max() / sizes.min()) > APART:
            hints.append(f"{layer.name}: its output channels differ by a factor {ratio:.3g} in size; ranges per "
                         "channel (--per-channel) suit them better")  # fmt: skip
    if inputs is not None and inputs.spread > APART:
        name = layer.name.rsplit("[", 1)[0] if per_channel else layer.name
        hints.append(f"{name}: its inputs differ by a factor {inputs.spread:.3g} in standard deviation; one range for "
                     "all of them (inputs.range) suits few")  # fmt: skip
    return hints


def entries_of(path: str | PathLike, tensor: str | None, **options: Any) -> list[Layer | Skipped]:
    """The layers of a file, or of one of its tensors, and what is left out."""
    if tensor is None:
        return list(layers_of(path, **options))
    return list(load_weights(path, tensor, **options).values())
