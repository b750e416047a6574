"""The best range and bit width of every layer in a file of weights."""

from __future__ import annotations

import dataclasses
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..checks import checked, in_float64, whole
from ..curves.objectives import Objective
from ..files.layers import Layer, Skipped, layers_of, load_weights
from ..limit.limit import derive
from ..problem.populations import Teacher
from ..problem.problem import Problem
from .calibration import calibrated_range
from .predictor import Predictor
from .ranges import REACH, checked_bits, template
from .search import best_range

if TYPE_CHECKING:
    import pandas as pd

#: A layer is represented by this many values, the means of equally many neighbours, so that all layers share a
#: compilation.
VALUES = 1024
#: Relative error of curves, where there is no fixed point.
TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One row for each layer and bit width, ``rows``, and the tensors left out, ``skipped``.

    Ranges are in the units of the file; errors are final errors over the variance ``E[v w*^2]`` of the layer's output.
    """

    rows: tuple[dict[str, Any], ...]
    skipped: tuple[Skipped, ...]

    def to_pandas(self) -> pd.DataFrame:
        """``layer, weights, bits, range``, predicted ``error`` and the range and error of the mse rule."""
        import pandas as pd  # slow to import

        return pd.DataFrame(list(self.rows))

    def to_dict(self) -> dict[str, Any]:
        """``layers``, the rows; ``skipped``, names with their reasons."""
        left = [{"layer": tensor.name, "reason": tensor.reason} for tensor in self.skipped]
        return {"layers": list(self.rows), "skipped": left}

    def __str__(self):
        lines = [self.to_pandas().to_string(index=False, float_format=lambda x: f"{x:.4g}")]
        lines += [f"skipped {tensor.name}: {tensor.reason}" for tensor in self.skipped]
        return "\n".join(lines)


@checked(problem=Problem)
@in_float64
def report_layers(
    path: str | PathLike,
    problem: Problem,
    *,
    tensor: str | None = None,
    bits=(2, 3, 4),
    per_channel: bool = False,
    axis: int = 0,
    normalise: str = "std",
    points: int = 40,
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
    layers = [entry for entry in entries if isinstance(entry, Layer)]
    problem.alike("layers of a file")
    widths, points = checked_bits(bits, problem), whole("points", points, 5, 10_000)
    lr = float(problem.rule.lr)
    rows = []
    for layer in tqdm(layers, unit="layer", disable=not progress):
        own = dataclasses.replace(problem, teacher=Teacher.samples(_condensed(layer.weights)))
        for b in widths:
            predictor = Predictor(own, template(own, b), Objective("final-error"), None, TOLERANCE)
            mse = calibrated_range(own.target, predictor.quantizer, "mse")
            chosen = best_range(predictor, lr, (mse / REACH, mse * REACH), points, None)
            output = float(derive(own, 2).power)
            rows.append(
                {
                    "layer": layer.name,
                    "weights": int(layer.weights.size),
                    "bits": b,
                    "range": chosen.range * layer.scale,
                    "error": chosen.value / output,
                    "mse_range": mse * layer.scale,
                    "mse_error": predictor.exact(mse, lr).value / output,
                }
            )
    return LayerReport(tuple(rows), tuple(entry for entry in entries if isinstance(entry, Skipped)))


def entries_of(path: str | PathLike, tensor: str | None, **options: Any) -> list[Layer | Skipped]:
    """The layers of a file, or of one of its tensors, and what is left out."""
    if tensor is None:
        return list(layers_of(path, **options))
    return list(load_weights(path, tensor, **options).values())


def _condensed(weights: np.ndarray) -> np.ndarray:
    """At most `VALUES` values with the mean square of the weights: means of neighbours in the order of size."""
    if weights.size <= VALUES:
        return weights
    total = np.concatenate([[0.0], np.cumsum(np.sort(weights))])
    means = np.diff(np.interp(np.linspace(0, weights.size, VALUES + 1), np.arange(weights.size + 1), total))
    return means * np.sqrt(np.mean(weights**2) / np.mean(means**2))
