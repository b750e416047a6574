"""The figures of the page, drawn by Bokeh; the time of density and occupancy is moved in the browser."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool, Range1d
from bokeh.plotting import figure

from .answers import Band, Curve, RangeCurve

#: Colours of the limit, of simulations, of the fixed point and of calibration rules.
LIMIT, SIMULATION, FIXED, RULE = "#3d8fd1", "#d55e00", "#009e73", "#a06cd5"
#: Most levels whose occupancy is drawn.
MOST_LEVELS = 256
#: Bins of a simulated histogram.
HISTOGRAM = 60
#: Moves density, occupancy, histogram and the mark on the curve to a frame, in the browser.
MOVE = """
const k = cb_obj.value
for (const [frames, shown] of [[density_frames, density], [level_frames, levels], [histogram_frames, histogram]]) {
  const n = shown.data.y.length, all = frames.data.y
  if (n > 0 && all.length >= (k + 1) * n) shown.data = {...shown.data, y: all.slice(k * n, (k + 1) * n)}
}
const tau = times.data.y[k]
if (tau !== undefined) {
  cursor.data = {x: [tau]}
  title.text = "Density of the latent weights at tau = " + tau.toPrecision(3)
}
"""


def _source(**columns) -> ColumnDataSource:
    return ColumnDataSource({name: np.asarray(values, float) for name, values in columns.items()})


class Figures:
    """The figures and their data."""

    def __init__(self, dark: bool):
        self._text = "#c8c8c8" if dark else "#444444"
        self._grid = "#444444" if dark else "#e4e4e4"
        empty: dict[str, Any] = dict(x=[], y=[])
        self.line, self.fixed = _source(**empty), _source(y=[])
        self.plateaus, self.escapes = _source(left=[], right=[]), _source(x=[])
        self.band, self.runs = _source(x=[], low=[], high=[]), _source(x=[], y=[], low=[], high=[])
        self.cursor, self.times = _source(x=[]), _source(y=[])
        self.density, self.levels = _source(**empty), _source(**empty, width=[])
        self.histogram, self.thresholds = _source(**empty, width=[]), _source(x=[])
        self.density_frames, self.level_frames, self.histogram_frames = (_source(y=[]) for _ in range(3))
        self.ranges, self.now = _source(**empty), _source(x=[])
        self.rules = ColumnDataSource(dict(x=[], y=[], rule=[]))
        for name in ("line", "plateaus", "cursor", "runs", "fixed", "rules", "band"):
            getattr(self, name).name = name
        self._linear, self._log, self._tau = Range1d(0, 1), Range1d(0.01, 1), Range1d(0, 1)
        self.curves = [self._curve(kind) for kind in ("linear", "log")]
        self.show_logarithmic(False)
        self.density_figure, self.level_figure = self._densities(), self._occupancy()
        self._range_axis = Range1d(0, 1)
        self.range_figure = self._ranges()

    @property
    def moved(self) -> dict[str, Any]:
        """What `MOVE` needs."""
        names = (
            "density_frames",
            "level_frames",
            "histogram_frames",
            "density",
            "levels",
            "histogram",
            "times",
            "cursor",
        )
        return {name: getattr(self, name) for name in names} | {"title": self.density_figure.title}

    def name_shown(self) -> None:
        """Keep in the legends what has data."""
        for plot in self.curves:
            for item in plot.legend[0].items:
                item.visible = len(next(iter(item.renderers[0].data_source.data.values()))) > 0

    def show_logarithmic(self, logarithmic: bool) -> None:
        """Show the curve with a linear or a logarithmic axis."""
        for kind, plot in zip((False, True), self.curves, strict=True):
            plot.visible = kind is logarithmic

    def show_curve(self, curve: Curve, frame: int) -> None:
        """Curve, plateaus, density and occupancy of a solution, at a frame."""
        solution = curve.solution
        tau, error = solution.dense
        self.line.data = dict(x=tau, y=error)
        end = float(solution.tau[-1])
        ends = [end if plateau.end is None else plateau.end for plateau in curve.plateaus]
        self.plateaus.data = dict(left=[plateau.start for plateau in curve.plateaus], right=ends)
        self.escapes.data = dict(
            x=[plateau.escape for plateau in curve.plateaus if plateau.escape is not None]
        )
        top, low = float(np.max(error)), float(np.min(error[error > 0], initial=np.inf))
        self._linear.update(start=0.0, end=1.08 * top if top > 0 else 1.0)
        if np.isfinite(low):
            self._log.update(start=max(0.4 * low, 1e-9 * top), end=2 * top)
        self._tau.update(start=0.0, end=end)
        self.times.data = dict(y=np.asarray(solution.tau, float))
        frame = min(frame, len(solution.tau) - 1)
        self.cursor.data = dict(x=[float(solution.tau[frame])])
        self.density_figure.title.text = (
            f"Density of the latent weights at tau = {float(solution.tau[frame]):.3g}"
        )
        weights = solution.problem.weights
        many = weights.n_levels > MOST_LEVELS
        levels = np.zeros(0) if weights.is_none or many else np.asarray(weights.levels, float)
        self.thresholds.data = dict(x=0.5 * (levels[1:] + levels[:-1]) if len(levels) else [])
        densities = curve.densities()
        if densities is not None:
            bins, each = densities
            self.density_frames.data = dict(y=each.ravel())
            self.density.data = dict(x=0.5 * (bins[1:] + bins[:-1]), y=each[min(frame, len(each) - 1)])
        if solution.occupancy is not None and len(levels):
            shares = np.asarray(solution.occupancy, float)
            gaps = np.diff(levels)
            width = (
                0.7 * np.minimum(np.append(gaps, np.inf), np.append(np.inf, gaps))
                if len(levels) > 1
                else [1.0]
            )
            self.level_frames.data = dict(y=shares.ravel())
            self.levels.data = dict(x=levels, y=shares[frame], width=width)
        else:
            self.level_frames.data, self.levels.data = dict(y=[]), dict(x=[], y=[], width=[])

    def show_fixed(self, error: float | None) -> None:
        """A line at the error of the fixed point."""
        self.fixed.data = dict(y=[] if error is None else [error])

    def show_band(self, band: Band | None) -> None:
        """One standard deviation of a run around the curve."""
        if band is None:
            self.band.data = dict(x=[], low=[], high=[])
        else:
            low = np.maximum(band.error - band.std, 1e-12)
            self.band.data = dict(x=band.tau, low=low, high=band.error + band.std)

    def show_ranges(self, curve: RangeCurve | None, now: float | None = None) -> None:
        """Error against range, with the ranges of the calibration rules."""
        if curve is None:
            self.ranges.data, self.now.data = dict(x=[], y=[]), dict(x=[])
            self.rules.data = dict(x=[], y=[], rule=[])
            return
        self.ranges.data = dict(x=curve.ranges, y=curve.errors)
        self.now.data = dict(x=[] if now is None else [now])
        top = float(np.max(curve.errors))
        self._range_axis.update(start=0.0, end=1.1 * top)
        marks = curve.marks()
        widths = np.array(list(marks.values()))
        self.rules.data = dict(x=widths, y=np.interp(widths, curve.ranges, curve.errors), rule=list(marks))
        self.range_figure.yaxis.axis_label = curve.what

    def show_runs(self, ensemble: Any | None, frame: int) -> None:
        """Mean and standard deviation of simulated runs, and the histogram of their weights at every frame."""
        if ensemble is None:
            self.runs.data = dict(x=[], y=[], low=[], high=[])
            self.histogram_frames.data, self.histogram.data = dict(y=[]), dict(x=[], y=[], width=[])
            return
        errors = np.asarray(ensemble.error, float)
        mean, std = errors.mean(0), errors.std(0, ddof=1) if len(errors) > 1 else np.zeros(errors.shape[1])
        self.runs.data = dict(x=ensemble.tau, y=mean, low=np.maximum(mean - std, 1e-12), high=mean + std)
        snapshots = np.asarray(ensemble.snapshots, float)
        if snapshots.shape[1] == 0 or not len(self.density.data["x"]):
            return
        bins = np.linspace(self.density.data["x"][0], self.density.data["x"][-1], HISTOGRAM + 1)
        size, width = snapshots[:, 0].size, np.diff(bins)
        each = np.array([np.histogram(one, bins)[0] for one in snapshots.swapaxes(0, 1)]) / size / width
        self.histogram_frames.data = dict(y=each.ravel())
        self.histogram.data = dict(
            x=0.5 * (bins[1:] + bins[:-1]), y=each[min(frame, len(each) - 1)], width=width
        )

    def _figure(self, title: str, x: str, y: str, height: int = 300, **options) -> figure:
        plot = figure(
            title=title, x_axis_label=x, y_axis_label=y, height=height, sizing_mode="stretch_width", min_width=260,
            tools="pan,box_zoom,reset,save", toolbar_location="above", background_fill_alpha=0, border_fill_alpha=0,
            outline_line_color=self._grid, **options,
        )  # fmt: skip
        plot.toolbar.logo = None
        plot.toolbar.autohide = True
        plot.title.text_color = self._text
        for axis in plot.axis:
            axis.axis_label_text_color = axis.major_label_text_color = self._text
            axis.axis_line_color = axis.major_tick_line_color = self._text
            axis.minor_tick_line_color = None
        plot.grid.grid_line_color = self._grid
        return plot

    def _legend(self, plot: figure, where: str) -> None:
        plot.legend.location = where
        plot.legend.background_fill_alpha = plot.legend.border_line_alpha = 0
        plot.legend.label_text_color = self._text
        plot.legend.label_text_font_size = "8.5pt"
        plot.legend.spacing, plot.legend.padding = 0, 2

    def _curve(self, kind: str) -> figure:
        limits = self._linear if kind == "linear" else self._log
        plot = self._figure("Learning curve", "tau = steps / d", "error", 340, y_axis_type=kind, y_range=limits,
                            x_range=self._tau)  # fmt: skip
        plot.vstrip("left", "right", source=self.plateaus, fill_color="#999999", fill_alpha=0.22, line_alpha=0,
                    legend_label="plateau")  # fmt: skip
        plot.varea(
            "x", "low", "high", source=self.band, fill_color=LIMIT, fill_alpha=0.22, legend_label="one run"
        )
        plot.varea("x", "low", "high", source=self.runs, fill_color=SIMULATION, fill_alpha=0.22)
        plot.hspan(
            "y",
            source=self.fixed,
            line_color=FIXED,
            line_dash="dashed",
            line_width=1.5,
            legend_label="fixed point",
        )
        plot.vspan("x", source=self.escapes, line_color="#999999", line_dash="dashed", legend_label="escape")
        plot.vspan("x", source=self.cursor, line_color=self._text, line_width=1, line_alpha=0.6)
        limit = plot.line("x", "y", source=self.line, line_color=LIMIT, line_width=2.5, legend_label="limit")
        plot.scatter(
            "x", "y", source=self.runs, size=5, line_color=SIMULATION, fill_alpha=0, legend_label="simulation"
        )
        plot.add_tools(HoverTool(renderers=[limit], tooltips=[("tau", "@x{0.00}"), ("error", "@y{0.0000}")]))
        self._legend(plot, "top_right" if kind == "linear" else "bottom_left")
        return plot

    def _densities(self) -> figure:
        plot = self._figure(
            "Density of the latent weights", "latent weight", "density", y_range=DataRange1d(start=0)
        )
        plot.vbar(
            "x", "width", "y", source=self.histogram, fill_color=SIMULATION, fill_alpha=0.35, line_alpha=0
        )
        plot.varea("x", 0, "y", source=self.density, fill_color=LIMIT, fill_alpha=0.25)
        plot.line("x", "y", source=self.density, line_color=LIMIT, line_width=1.5)
        plot.vspan("x", source=self.thresholds, line_color="#999999", line_dash="dotted")
        return plot

    def _occupancy(self) -> figure:
        plot = self._figure("Share of the weights on every level", "level", "share", y_range=Range1d(0, 1))
        plot.vbar("x", "width", "y", source=self.levels, fill_color=LIMIT, fill_alpha=0.7, line_alpha=0)
        return plot

    def _ranges(self) -> figure:
        plot = self._figure(
            "Error against range", "range of the weights", "final error", y_range=self._range_axis
        )
        line = plot.line("x", "y", source=self.ranges, line_color=LIMIT, line_width=2.5)
        plot.vspan("x", source=self.now, line_color=self._text, line_width=1.5)
        marks = plot.scatter("x", "y", source=self.rules, size=9, marker="diamond", color=RULE)
        plot.text("x", "y", "rule", source=self.rules, angle=np.pi / 2, x_offset=5, y_offset=-8, text_color=RULE,
                  text_font_size="8.5pt")  # fmt: skip
        plot.add_tools(
            HoverTool(
                renderers=[marks],
                tooltips=[("rule", "@rule"), ("range", "@x{0.000}"), ("error", "@y{0.0000}")],
            )
        )
        plot.add_tools(
            HoverTool(renderers=[line], tooltips=[("range", "@x{0.000}"), ("error", "@y{0.0000}")])
        )
        return plot
