"""The outcome of the layers of a file, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

if TYPE_CHECKING:
    import pandas as pd

#: Names of layers that are written below the axis.
NAMED = 40


def final_errors(ax: Axes, rows: pd.DataFrame) -> Axes:
    """Final errors at the best range (points) and at that of least rounding error (crosses), for every bit width."""
    _each(ax, rows, "error", "mse_error")
    ax.set_yscale("log")
    ax.set_ylabel("final error / variance of the output")
    return ax


def ranges(ax: Axes, rows: pd.DataFrame) -> Axes:
    """The ranges, over the scale of the layer."""
    _each(ax, rows.assign(mse=rows["mse_range"] / rows["scale"]), "normalised", "mse")
    ax.set_ylabel("range / scale of the weights")
    return ax


def _each(ax: Axes, rows: pd.DataFrame, best: str, mse: str) -> None:
    layers = list(dict.fromkeys(rows["layer"]))
    for k, (bits, part) in enumerate(rows.groupby("bits")):
        at = [layers.index(layer) for layer in part["layer"]]
        ax.plot(at, part[best], color=f"C{k}", marker="o", ls="none", label=f"{bits} bits, best range")
        ax.plot(
            at, part[mse], color=f"C{k}", marker="x", ls="none", label=f"{bits} bits, least rounding error"
        )
    named = layers if len(layers) <= NAMED else []
    ax.set_xticks(np.arange(len(named)), named, rotation=30, ha="right", fontsize="small")
    ax.set_xlabel("layer")
    ax.legend(frameon=False, fontsize="small")
