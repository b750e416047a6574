"""Figures of results, drawn by `stedyn.drawing.axes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from .comparison.measured import Measured
from .drawing import layers
from .drawing.axes import density_panel, learning_curve, panels
from .drawing.axes import range_map as range_map

if TYPE_CHECKING:
    from .comparison.comparison import Comparison
    from .design.layer_report import LayerReport
    from .design.plateau_tables import PlateauTable
    from .limit.solution import Solution
    from .simulation import Ensemble

#: Bins of the histogram.
BINS = 80


def solution_figure(solution: Solution) -> Figure:
    """The predicted learning curve, its plateaus shaded."""
    figure, (ax,) = panels(1)
    learning_curve(ax, solution)
    return figure


def ensemble_figure(ensemble: Ensemble) -> Figure:
    """The simulated learning curve with its spread over the seeds."""
    figure, (ax,) = panels(1)
    learning_curve(ax, ensemble=ensemble)
    return figure


def compare_figure(comparison: Comparison) -> Figure:
    """Both learning curves and, where the law has a density, the latent weights at the last time."""
    solution, ensemble = comparison.solution, comparison.ensemble
    densities = solution.densities
    if comparison.histogram is None or densities is None or isinstance(ensemble, Measured):
        figure, (ax,) = panels(1)
        learning_curve(ax, solution, ensemble)
        return figure
    figure, (left, right) = panels(2)
    learning_curve(left, solution, ensemble)
    weights = np.asarray(ensemble.weights).ravel()
    low, high = np.quantile(weights, [0.0005, 0.9995])
    margin = 0.1 * (high - low)
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    counts = np.histogram(weights, edges)[0]
    density_panel(
        right,
        0.5 * (densities.edges[1:] + densities.edges[:-1]),
        densities.pdf[-1],
        edges=edges,
        histogram=counts / weights.size / np.diff(edges),
        thresholds=solution.problem.parts[-1].weights.thresholds,
    )
    right.set_xlim(edges[0], edges[-1])
    right.set_title(rf"$\tau = {float(ensemble.tau[-1]):g}$", fontsize="medium")
    return figure


def plateaus_figure(found: PlateauTable) -> Figure:
    """Escape from every plateau and its length: limit (circles) and closed form for a small lr (crosses).

    Across is bits, range or lr, whichever has the most values. Triangles at the horizon: not over there.
    """
    frame = found.to_pandas()
    names = {"bits": "bits", "range": "range of the weights", "lr": "learning rate"}
    across = max(names, key=lambda name: frame[name].nunique())
    others = [name for name in names if name != across and frame[name].notna().all()]
    line = "none" if across == "bits" else "-"
    figure, axes = panels(2)
    for k, (key, case) in enumerate(frame.groupby(others)):
        varied = [
            f"{name} {value:g}" for name, value in zip(others, key, strict=True) if frame[name].nunique() > 1
        ]
        color = f"C{k % 10}"
        axes[0].plot([], [], color=color, marker="o", ls=line, label=", ".join([*varied, "limit"]))
        for _, part in case.groupby("number"):
            x = part[across].to_numpy()
            for ax, name in zip(axes, ("escape", "length"), strict=True):
                y, closed = (part[column].to_numpy(dtype=float) for column in (name, f"{name}_small_lr"))
                ax.plot(x, y, color=color, ls=line, lw=1.2, marker="o", ms=6, mfc="white")
                ax.plot(x, closed, color=color, ls="none", marker="x", ms=5)
                open_ = np.isnan(y)
                ax.plot(
                    x[open_],
                    np.full(open_.sum(), found.problem.run.tau),
                    color=color,
                    marker="^",
                    ls="none",
                    ms=7,
                )
    for style, label in (("x", "closed form, small lr"), ("^", "not over at the horizon")):
        axes[0].plot([], [], color="0.4", ls="none", marker=style, label=label)
    for ax, label in zip(axes, ("escape from", "length of"), strict=True):
        ax.set_xlabel(names[across])
        ax.set_ylabel(rf"{label} a plateau, $\tau$ [steps / d]")
        ax.set_ylim(bottom=0)
        if across == "bits":
            ax.set_xticks(sorted(frame["bits"].unique()))
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def layers_figure(report: LayerReport) -> Figure:
    """Final errors and ranges of all layers."""
    figure, (left, right) = panels(2)
    rows = report.to_pandas()
    layers.final_errors(left, rows)
    layers.ranges(right, rows)
    return figure
