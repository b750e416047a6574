"""The best range and bit width of every layer in a file of weights."""

from __future__ import annotations

import dataclasses
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from .layers import Layer, Skipped, layers_of, load_weights
from .populations import Teacher
from .problem import Problem
from .ranges import choose

if TYPE_CHECKING:
    import pandas as pd

#: A layer is represented by this many values, the means of equally many neighbours, so that all layers share a
#: compilation.
VALUES = 1024


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One row for each layer and bit width, ``rows``, and the tensors left out, ``skipped``.

    Ranges are in the units of the file, errors relative to ``E[v w*^2]`` of the layer's own problem.
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
        ``.safetensors``, ``.npz``, ``.npy`` or ``.csv`` (see `stedyn.layers`).
    tensor : str, optional
        One tensor; all with two dimensions or more by default.
    bits, points
        See `stedyn.choose`.
    per_channel, axis, normalise
        See `stedyn.layers.load_weights`.

    Raises
    ------
    ValueError
        If the file or a tensor cannot be used, in one sentence.
    """
    found: list[Layer | Skipped]
    options: dict[str, Any] = dict(per_channel=per_channel, axis=axis, normalise=normalise)
    if tensor is None:
        found = list(layers_of(path, **options))
    else:
        found = list(load_weights(path, tensor, **options).values())
    layers = [entry for entry in found if isinstance(entry, Layer)]
    rows = []
    for layer in tqdm(layers, unit="layer", disable=not progress):
        teacher = Teacher.samples(_condensed(layer.weights))
        chosen = choose(dataclasses.replace(problem, teacher=teacher), bits=bits, points=points)
        for choice in chosen.choices:
            mse = next(b for b in chosen.baselines if b.bits == choice.bits and b.rule == "mse")
            rho = float(teacher.rho)
            rows.append(
                {
                    "layer": layer.name,
                    "weights": int(layer.weights.size),
                    "bits": choice.bits,
                    "range": choice.range * layer.scale,
                    "error": choice.error / rho,
                    "mse_range": mse.range * layer.scale,
                    "mse_error": mse.error / rho,
                }
            )
    return LayerReport(tuple(rows), tuple(entry for entry in found if isinstance(entry, Skipped)))


def _condensed(weights: np.ndarray) -> np.ndarray:
    """At most `VALUES` values with the mean square of the weights: means of neighbours in the order of size."""
    if weights.size <= VALUES:
        return weights
    parts = np.array_split(np.sort(weights), VALUES)
    means = np.array([part.mean() for part in parts])
    share = np.array([part.size for part in parts]) / weights.size
    return means * np.sqrt(np.mean(weights**2) / (share @ means**2))
