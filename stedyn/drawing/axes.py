"""Drawn on axes: theory is a line, simulation points with a band, plateaus are shaded."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .quantities import QUANTITIES

# blue and vermilion are told apart by every common colour vision; grey marks places only
THEORY, SIMULATION, PLACE = "#0072B2", "#D55E00", "0.88"
#: Spread of an error above which its axis is logarithmic.
LOG_SPREAD = 20.0
#: About how many points of a simulated curve are marked.
MARKERS = 30


def learning_curve(ax: Axes, solution: Any = None, ensemble: Any = None) -> Axes:
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
        label = f"{ensemble.noun}, d = {ensemble.dim}, {len(runs)} run{'s' if len(runs) > 1 else ''}"
        if len(runs) > 1:
            std = runs.std(0, ddof=1)
            ax.fill_between(ensemble.tau, mean - std, mean + std, color=SIMULATION, alpha=0.25, lw=0)
        spacing = max(1, len(mean) // MARKERS)
        line = ax.plot(ensemble.tau, mean, color=SIMULATION, lw=0.5, zorder=3, label=label)[0]
        line.set(marker="o", ms=4, mfc="white", mew=1.2, markevery=spacing)
        lowest, highest = mean.min(), mean.max()
    if solution is not None:
        error = np.asarray(solution.error)
        if getattr(solution, "spread", None) is not None:
            std, label = solution.error_std, f"one run, d = {solution.spread.dim} (standard deviation)"
            low, high = np.maximum(error - std, 0.0), error + std
            ax.fill_between(solution.tau, low, high, color=THEORY, alpha=0.2, lw=0, label=label)
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
    edges: Float[ArrayLike, " E"] | None = None,
    histogram: Float[ArrayLike, " B"] | None = None,
    thresholds: Float[ArrayLike, " K"] | None = None,
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


def range_map(ax: Axes, chart: Any, label: str | None = None) -> Axes:
    """A map as colours: the range across, bits or lr upwards; best range (line), calibrated range (crosses).

    Grey where there is no value. An objective that spans more than a factor of 20 has logarithmic colours. The best
    range is not drawn for plateau lengths, which are least at the smallest range.
    """
    values, low, high = chart.values.T, chart.values.min(), chart.values.max()
    wide = low is not np.ma.masked and low > 0 and high > LOG_SPREAD * low
    y_edges = np.append(chart.points - 0.5, chart.points[-1] + 0.5)
    if chart.axis == "lr":
        y_edges = np.exp(_edges(np.log(chart.points)))
        ax.set_yscale("log")
    else:
        ax.set_yticks(chart.points)
    ax.set_facecolor(PLACE)
    mesh = ax.pcolormesh(
        _edges(chart.ranges), y_edges, values, cmap="cividis_r", norm="log" if wide else None, rasterized=True
    )
    ax.figure.colorbar(mesh, ax=ax, label=label or str(chart.objective))
    if chart.axis == "lr" and min(values.shape) > 1 and low is not np.ma.masked and low < high:
        lines = ax.contour(chart.ranges, chart.points, values, colors="0.25", linewidths=0.6)
        ax.clabel(lines, fontsize="x-small")
    if chart.objective.kind != "plateau-length":
        ax.plot(chart.best, chart.points, color="white", lw=3.2, zorder=3)
        ax.plot(
            chart.best, chart.points, color=SIMULATION, marker="o", ms=4, lw=1.6, zorder=4, label="best range"
        )
    inside = (chart.calibrated >= chart.ranges[0]) & (chart.calibrated <= chart.ranges[-1])
    ax.plot(
        chart.calibrated[inside],
        chart.points[inside],
        color="black",
        marker="x",
        ms=6,
        ls="none",
        zorder=5,
        label="least rounding error",
    )
    ax.set_xlabel("range of the weights")
    ax.set_ylabel("bits" if chart.axis == "bits" else "learning rate")
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


def choices(ax: Axes, table: Any) -> Axes:
    """Best range for every bit width (points), what is within 1 % (bars), ranges of calibration rules (crosses)."""
    best = table.choices
    centre = np.array([choice.range for choice in best])
    spread = np.abs(np.array([choice.range_interval for choice in best]).T - centre)
    rules = list(dict.fromkeys(baseline.rule for baseline in table.baselines))
    for k, rule in enumerate(rules):
        where = [(b.bits, b.range) for b in table.baselines if b.rule == rule]
        ax.plot(*zip(*where, strict=True), color=f"C{(k + 2) % 10}", marker="x", ls="none", label=rule)
    label = f"best for {table.objective}"
    ax.errorbar(
        [choice.bits for choice in best], centre, spread, color=THEORY, marker="o", ls="none", label=label
    )
    ax.set_xticks(sorted(choice.bits for choice in best))
    ax.set_xlabel("bits")
    ax.set_ylabel("range of the weights")
    ax.legend(frameon=False, fontsize="small")
    return ax


def fixed_point(ax: Axes, point: Any) -> Axes:
    """The error of a fixed point (line), that of unquantized weights (dotted), and the end of a given curve (point)."""
    ax.axhline(point.error, color=THEORY, lw=1.8, label="fixed point")
    if point.unquantized_error is not None:
        ax.axhline(point.unquantized_error, color="0.4", ls=":", label="unquantized weights")
    if point.horizon is not None:
        ax.plot(*point.horizon, color=THEORY, marker="o", ls="none", label="end of the curve")
    ax.set_ylim(bottom=0)
    ax.set_xlabel(axis_label("tau"))
    ax.set_ylabel(axis_label("error"))
    ax.legend(frameon=False)
    return ax


def panels(count: int, width: float = 5.6, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` axes side by side."""
    figure, axes = plt.subplots(
        1, count, figsize=(width * count, height), layout="constrained", squeeze=False
    )
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])
