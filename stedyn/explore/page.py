"""One page of the browser: controls, figures, and what connects them."""

from __future__ import annotations

import functools
import io
from html import escape
from typing import Any

import numpy as np
import panel as pn
from panel.io import hold

from ..checks import InputError
from ..limit.fixed_points import FixedPoint
from .answers import FRAMES, Band, Curve, RangeCurve, Refused, first, fixed_point_lines, stages
from .controls import Control, Controls
from .figures import MOVE, Figures
from .latest import Latest
from .layout import CODE, WIDE, card, drawn, page, paragraph, row, text
from .runs import Simulation
from .view import View

#: Seconds after a change before what takes longer is computed.
PAUSE = 0.4


class Page:
    """A session: a view, its answer in stages, and its simulation."""

    def __init__(self, start: View, dark: bool):
        self.doc: Any = pn.state.curdoc
        query = {name: values[0].decode("utf-8", "replace") for name, values in pn.state.session_args.items()}
        self.theme = f"&theme={query['theme']}" if query.get("theme") in ("dark", "default") else ""
        fault, view = "", start
        try:
            view = View.parse(query, start)
            view.problem()
        except InputError as error:
            view, fault = start, str(error)
        self.figures, self.controls = Figures(dark), Controls(view, self._changed)
        self.simulation: Simulation | None = None
        #: Numbers of the newest question, and of those whose first curve, refined curve and last stage are shown.
        self.number, self.answered, self.refined, self.ended, self.sentence = 0, 0, 0, 0, ""
        self.status, self.plateaus, self.fixed, self.rules, self.band, self.said = (text() for _ in range(6))
        self.player = pn.widgets.Player(
            name="time of density and levels", start=0, end=FRAMES - 1, value=FRAMES - 1, interval=200,
            loop_policy="once", show_loop_controls=False, visible_buttons=["previous", "play", "pause", "next"],
            margin=0, **WIDE,
        )  # fmt: skip
        self.player.jscallback(args=self.figures.moved, value=MOVE)
        self.logarithmic = pn.widgets.Checkbox(name="logarithmic error", margin=(0, 4))
        self.logarithmic.param.watch(
            lambda event: self._later(self.figures.show_logarithmic, event.new), "value"
        )
        self.start = pn.widgets.Button(name="Simulate", button_type="primary", margin=(0, 8, 0, 0))
        self.cancel = pn.widgets.Button(name="Cancel", disabled=True, margin=(0, 8, 0, 0))
        self.bar = pn.indicators.Progress(value=0, max=100, margin=(6, 0), visible=False, **WIDE)
        self.start.on_click(self._simulate)
        self.cancel.on_click(lambda _: self._cancel())
        self.toml, self.python = (
            pn.widgets.TextAreaInput(
                name=name, rows=14, max_length=10**7, margin=0, stylesheets=[CODE], **WIDE
            )
            for name in ("TOML", "Python")
        )
        self._first = Latest(lambda number, result: self._later(self._show, number, result))
        self._rest = Latest(lambda number, result: self._later(self._show_rest, number, result), PAUSE)
        pn.state.on_session_destroyed(lambda _: self.close())
        self._changed(view, None)
        if fault:
            self.controls.say(fault)

    def close(self) -> None:
        """End what is being computed."""
        self._first.close()
        self._rest.close()
        self._cancel()

    def layout(self) -> Any:
        """The page."""
        figures, runs = self.figures, [control.box for control in self.controls.runs]
        simulation = pn.Card(
            *runs, pn.Row(self.start, self.cancel), self.bar, self.said, title="Simulation", margin=0, **WIDE
        )
        return page(
            [self.status, *map(drawn, figures.curves), self.logarithmic],
            [self.controls.box, simulation],
            [
                row(self.plateaus, self.fixed),
                self.band,
                self.player,
                row(drawn(figures.density_figure), drawn(figures.level_figure)),
                drawn(figures.range_figure),
                self.rules,
                self._problem(),
            ],
        )

    def _problem(self) -> Any:
        columns = []
        for area, file in ((self.toml, "problem.toml"), (self.python, "problem.py")):
            copy = pn.widgets.Button(name=f"Copy {area.name}", margin=(0, 8, 0, 0))
            copy.js_on_click(args={"text": area}, code="navigator.clipboard.writeText(text.value)")
            save = pn.widgets.FileDownload(
                callback=functools.partial(_file, area), filename=file, label=f"Download {file}", margin=0
            )
            columns.append(pn.Column(area, pn.Row(copy, save), **WIDE))
        return pn.Card(
            pn.Column(row(*columns), **WIDE), title="Problem", collapsed=True, css_classes=["problem"], **WIDE
        )

    def _later(self, function, *arguments) -> None:
        """Call a function with the lock of the page, which drawing needs; also from another thread.

        What it changes is sent at once, as one message.
        """

        def held() -> None:
            with hold(self.doc):
                function(*arguments)

        if self.doc is not None:
            self.doc.add_next_tick_callback(held)

    def _changed(self, view: View, at: Control | None) -> None:
        """Answer a new view; one that is at fault is told at its control, and the figures stay."""
        try:
            problem = view.problem()
        except InputError as error:
            self.controls.say(str(error), at)
            self._tell("The figures show the last problem that was valid.", "fault")
            return
        self.controls.say("")
        self.view, self.problem = view, problem
        self.toml.value, self.python.value = view.toml(), view.python()
        if pn.state.location is not None:
            pn.state.location.search = view.query() + self.theme
        self._later(self._clear)
        self.number = self._first.ask(functools.partial(first, problem))
        self._rest.ask(functools.partial(stages, problem, view.dim))
        self._tell("computing; a new kind of problem is compiled first, which takes seconds", "asked")

    def _clear(self) -> None:
        """Take away what belongs to the problem before."""
        if len(self.figures.runs.data["x"]):
            self.figures.show_runs(None, 0)
        if len(self.figures.band.data["x"]):
            self.figures.show_band(None)
        self.band.object = self.said.object = ""

    def _tell(self, sentence: str, stage: str) -> None:
        self.status.object = (
            f'<div role="status" data-number="{self.number}" data-stage="{stage}">{escape(sentence)}</div>'
        )

    def _show(self, number: int, result: Any) -> None:
        """One stage of an answer; that of an older question is dropped."""
        if number != self.number:
            return
        if isinstance(result, Curve):
            self._show_curve(number, result)
        elif isinstance(result, FixedPoint):
            self.figures.show_fixed(result.error)
            self.fixed.object = card("Fixed point", fixed_point_lines(result))
        elif isinstance(result, RangeCurve):
            self._show_ranges(result)
        elif isinstance(result, Band):
            self.figures.show_band(result)
            self.band.object = paragraph(
                f"The band is one standard deviation of one run of d = {result.dim}, predicted."
            )
        elif isinstance(result, Refused):
            self._show_refused(result)
        elif isinstance(result, Exception):
            self._tell(f"The computation failed: {result!r} (this is a bug).", "failed")
        self.figures.name_shown()

    def _show_rest(self, number: int, result: Any) -> None:
        """A stage of what takes longer; the last one ends the answer."""
        self._show(number, result)
        if result is None and number == self.number:
            self.ended = number
            if self.answered == number:
                self._tell(self.sentence, "done")

    def _show_curve(self, number: int, curve: Curve) -> None:
        if self.refined == number and not curve.refined:  # the first answer comes after the refined one
            return
        self.refined = number if curve.refined else 0
        self.figures.show_curve(curve, self.player.value)
        lines = [str(plateau) for plateau in curve.plateaus] or ["none"]
        self.plateaus.object = card("Plateaus", [*lines, curve.ending])
        self.sentence = curve.sentence()
        self.answered = number
        stage = "done" if self.ended == number else "refined" if curve.refined else "first"
        self._tell(self.sentence + ("; refining" if stage == "first" else ""), stage)

    def _show_ranges(self, curve: RangeCurve) -> None:
        self.figures.show_ranges(curve, float(np.asarray(self.problem.weights.range)))
        k = int(curve.errors.argmin())
        best = f"least {curve.what} {curve.errors[k]:.4g} at range {curve.ranges[k]:.3g} (of those drawn)"
        rules = ", ".join(f"{name} {width:.3g}" for name, width in curve.rules.items())
        self.rules.object = card("Ranges", [best, rules and f"calibration rules: {rules}"])

    def _show_refused(self, refused: Refused) -> None:
        if refused.what == "curve":
            self.sentence, self.answered = refused.sentence, self.number
            self.controls.say(refused.sentence)
            self._tell(refused.sentence, "refused")
        elif refused.what == "fixed point":
            self.figures.show_fixed(None)
            self.fixed.object = card("Fixed point", [refused.sentence])
        elif refused.what == "ranges":
            self.figures.show_ranges(None)
            self.rules.object = card("Ranges", [refused.sentence])
        else:
            self.band.object = paragraph(f"No band of one run: {refused.sentence}")

    def _simulate(self, _) -> None:
        if self.simulation is not None:
            return
        self.start.disabled, self.cancel.disabled = True, False
        self.bar.visible, self.bar.value = True, 0
        self.said.object = paragraph(f"simulating {self.view.seeds} runs of d = {self.view.dim}")
        ended = functools.partial(self._later, self._simulated, self.number)
        told = functools.partial(self._later, self._progress)
        self.simulation = Simulation(self.problem, self.view.dim, self.view.seeds, told, ended)

    def _cancel(self) -> None:
        if self.simulation is not None:
            self.simulation.cancel()

    def _progress(self, part: float) -> None:
        self.bar.value = int(100 * part)

    def _simulated(self, question: int, ensemble: Any) -> None:
        self.simulation, self.bar.visible = None, False
        self.start.disabled, self.cancel.disabled = False, True
        if isinstance(ensemble, Refused):
            self.controls.say(ensemble.sentence)
            said = ensemble.sentence
        elif ensemble is None:
            said = "cancelled before the first time was saved"
        elif question != self.number:
            said = "The problem has changed since: simulate again."
        else:
            self.figures.show_runs(ensemble, self.player.value)
            self.figures.name_shown()
            end = f"cancelled at tau = {ensemble.tau[-1]:g}"
            end = end if ensemble.partial else f"done in {ensemble.seconds:.2g} s"
            said = f"{ensemble.seeds} runs of d = {ensemble.dim}, {end}; points are means, the band is one "
            said += "standard deviation"
        self.said.object = paragraph(said)


def _file(area: Any) -> io.StringIO:
    return io.StringIO(area.value)
