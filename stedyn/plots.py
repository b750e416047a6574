"""Figures: axes in, axes out. Theory is a line, simulation points with a band, plateaus are shaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .limit.solution import QUANTITIES

if TYPE_CHECKING:
    from .comparison.comparison import Comparison
    from .design.maps import RangeMap
    from .design.plateau_tables import PlateauTable
    from .limit.solution import Solution
    from .simulation import Ensemble

# blue and vermilion are told apart by every common colour vision; grey marks places only
THEORY, SIMULATION, PLACE = "#0072B2", "#D55E00", "0.88"
#: Spread of an error above which its axis is logarithmic.
LOG_SPREAD = 20.0
#: Bins of the histogram, and about how many points of a simulated curve are marked.
BINS, MARKERS = 80, 30


def learning_curve(ax: Axes, solution: Solution | None = None, ensemble: Ensemble | None = None) -> Axes:
    """Error against ``tau``: predicted line, simulated mean with a band of one standard deviation.

    The plateaus of the prediction are shaded.
    """
    lowest, highest = np.inf, 0.0
    if solution is not None:
        for i, plateau in enumerate(solution.plateaus()):
            ax.axvspan(
                plateau.start,
                float(solution.tau[-1]) if plateau.end is None else plateau.end,
                color=PLACE, lw=0, zorder=0, label="plateau" if i == 0 else None,
            )  # fmt: skip
    if ensemble is not None:
        runs = np.asarray(ensemble.error)
        mean = runs.mean(0)
        label = f"simulation, d = {ensemble.dim}, {len(runs)} seed{'s' if len(runs) > 1 else ''}"
        if len(runs) > 1:
            std = runs.std(0, ddof=1)
            ax.fill_between(ensemble.tau, mean - std, mean + std, color=SIMULATION, alpha=0.25, lw=0)
        every = max(1, len(mean) // MARKERS)
        line = ax.plot(ensemble.tau, mean, color=SIMULATION, lw=0.5, zorder=3, label=label)[0]
        line.set(marker="o", ms=4, mfc="white", mew=1.2, markevery=every)
        lowest, highest = mean.min(), mean.max()
    if solution is not None:
        error = np.asarray(solution.error)
        ax.plot(solution.tau, error, color=THEORY, lw=1.8, label=f"limit ({solution.law})")
        lowest, highest = min(lowest, error.min()), max(highest, error.max())
    if lowest > 0 and highest > LOG_SPREAD * lowest:
        # a band that reaches zero must not stretch the axis
        ax.set_yscale("log", nonpositive="clip")
        ax.set_ylim(0.4 * lowest, 2 * highest)
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel(axis_label("tau"))
    ax.set_ylabel(axis_label("error"))
    ax.margins(x=0)
    ax.legend(frameon=False)
    return ax


def density_panel(
    ax: Axes,
    w: Float[ArrayLike, " N"] | None = None,
    density: Float[ArrayLike, " N"] | None = None,
    *,
    edges: Float[ArrayLike, "B+1"] | None = None,
    histogram: Float[ArrayLike, " B"] | None = None,
    thresholds: Float[ArrayLike, "L-1"] | None = None,
) -> Axes:
    """Density of the latent weights: predicted line, simulated histogram, thresholds of the quantizer."""
    for i, threshold in enumerate([] if thresholds is None else np.asarray(thresholds)):
        ax.axvline(threshold, color="0.6", lw=0.8, ls=":", label="threshold" if i == 0 else None)
    if edges is not None and histogram is not None:
        ax.stairs(histogram, edges, fill=True, color=SIMULATION, alpha=0.35, label="simulation")
    if w is not None and density is not None:
        ax.plot(w, density, color=THEORY, lw=1.5, label="limit")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("latent weight $w$")
    ax.set_ylabel("density")
    ax.legend(facecolor="white", edgecolor="none", framealpha=1.0, fontsize="small")
    return ax


def range_map(ax: Axes, found: RangeMap, label: str | None = None) -> Axes:
    """A map as colours: the range across, bits or lr upwards; best range (line), calibrated range (crosses).

    Grey where there is no value. A quantity that spans more than a factor of 20 has logarithmic colours. The best range
    is not drawn for plateau lengths, which are least at the smallest range.
    """
    values, low, high = found.values.T, found.values.min(), found.values.max()
    wide = low is not np.ma.masked and low > 0 and high > LOG_SPREAD * low
    y_edges = np.append(found.points - 0.5, found.points[-1] + 0.5)
    if found.axis == "lr":
        y_edges = np.exp(_edges(np.log(found.points)))
        ax.set_yscale("log")
    else:
        ax.set_yticks(found.points)
    ax.set_facecolor(PLACE)
    mesh = ax.pcolormesh(
        _edges(found.ranges), y_edges, values, cmap="cividis_r", norm="log" if wide else None, rasterized=True
    )
    ax.figure.colorbar(mesh, ax=ax, label=label or found.quantity)
    if found.axis == "lr" and min(values.shape) > 1 and low is not np.ma.masked and low < high:
        lines = ax.contour(found.ranges, found.points, values, colors="0.25", linewidths=0.6)
        ax.clabel(lines, fontsize="x-small")
    if found.quantity != "plateau-length":
        ax.plot(found.best, found.points, color="white", lw=3.2, zorder=3)
        ax.plot(
            found.best, found.points, color=SIMULATION, marker="o", ms=4, lw=1.6, zorder=4, label="best range"
        )
    inside = (found.calibrated >= found.ranges[0]) & (found.calibrated <= found.ranges[-1])
    ax.plot(
        found.calibrated[inside],
        found.points[inside],
        color="black",
        marker="x",
        ms=6,
        ls="none",
        zorder=5,
        label="least rounding error",
    )
    ax.set_xlabel("range of the weights")
    ax.set_ylabel("bits" if found.axis == "bits" else "learning rate")
    ax.legend(framealpha=0.9, fontsize="small", loc="upper right")
    return ax


def _edges(points: np.ndarray) -> np.ndarray:
    """Edges of the cells around points in increasing order."""
    if points.size == 1:
        return points[0] + np.array([-0.5, 0.5])
    middle = 0.5 * (points[1:] + points[:-1])
    return np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])


def axis_label(name: str) -> str:
    """Label of a quantity of the registry, with its symbol and, if it has one, its unit."""
    quantity = QUANTITIES[name]
    unit = "" if quantity.unit in ("", "1") else f" [{quantity.unit}]"
    return f"{quantity.label} ${quantity.symbol}${unit}"


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
    if comparison.histogram is None or densities is None:
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
        thresholds=solution.problem.weights.thresholds,
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


def panels(count: int, width: float = 5.6, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` axes side by side."""
    figure, axes = plt.subplots(
        1, count, figsize=(width * count, height), layout="constrained", squeeze=False
    )
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])
