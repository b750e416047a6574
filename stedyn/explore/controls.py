"""The controls of the page: one for every key of the tables that goes with its kind, and a sentence below it."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from math import log10
from typing import Any

import panel as pn

from ..checks import InputError
from ..files.tables import keys_of
from ..inputs.law import KINDS as LAWS
from ..problem.moving_range import RANGE_RULES
from ..quantizers.formats import NAMED
from ..quantizers.quantizer import FIXED_BITS, KINDS
from ..rules import RULES
from .layout import TEXT, WIDE
from .view import View

_QUANTIZERS = ["none", *dict.fromkeys([*(kind for kind in KINDS if kind != "none"), *NAMED])]
#: Title, table, keys that are always shown, choices of its kind.
GROUPS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Weights", "weights", ("bits", "range", "edge", "levels", "rounding", "ste"), tuple(_QUANTIZERS)),
    ("Rule and optimizer", "rule", ("lr", "momentum", "delta", "zeta", "nu", "q"), tuple(RULES)),
    ("Label noise", "noise", ("std",), ()),
    ("Inputs", "inputs", ("bits", "range", "edge", "levels", "law"), tuple(_QUANTIZERS)),
    ("Teacher", "teacher", ("value", "std", "scale", "model"), ("constant", "gaussian", "rademacher")),
    ("Start", "start", ("mean", "std", "value", "scale"), ("gaussian", "constant", "teacher")),
    ("Run", "run", ("tau",), ()),
)
_YES = ("false", "true")
CHOICES: dict[str, tuple[str, ...]] = {
    "edge": ("level", "bin"),
    "rounding": ("nearest", "stochastic"),
    "ste": ("identity", "clipped", "triangular"),
    "model": ("linear", "sign"),
    "law": tuple(law for law in LAWS if law != "file"),
    "range_rule": tuple(RANGE_RULES),
    **dict.fromkeys(("nesterov", "bias_correction", "centre"), _YES),
}
#: Sliders: least, largest value, step, and whether they are logarithmic to base 10.
SLIDERS: dict[tuple[str, str], tuple[float, float, float, bool]] = {
    ("weights", "bits"): (1, 8, 1, False),
    ("weights", "range"): (0.1, 4.0, 0.05, False),
    ("rule", "lr"): (-3.0, 0.3, 0.05, True),
    ("noise", "std"): (0.0, 1.0, 0.01, False),
}
#: Keys that a page in the browser does not set.
_UNSHOWN = ("path", "values", "tensor", "normalise", "points", "taus")
_LABELS = {
    "lr": "learning rate",
    "std": "standard deviation",
    "ste": "straight-through estimator",
    "dim": "d",
}
#: Names in messages that are those of parameters, not of keys.
_NAMES = {"noise_std": "noise.std"}


class Control:
    """A text field or a choice for one key, with a slider for some, and the sentence about its fault."""

    def __init__(
        self,
        table: str,
        key: str,
        options: tuple[str, ...],
        text: str,
        changed: Callable[[Control, str], None],
    ):
        self.table, self.key, self._changed, self._quiet = table, key, changed, False
        name = key.replace("_", " ") if key == "kind" else _LABELS.get(key, key.replace("_", " "))
        common: dict[str, Any] = dict(**WIDE, margin=(2, 0), css_classes=[f"{table}-{key}"])
        if options:
            chosen = text or options[0]
            known = list(options) if chosen in options else [*options, chosen]
            self.field = pn.widgets.Select(name=name, options=known, value=chosen, **common)
        else:
            self.field = pn.widgets.TextInput(name=name, value=text, **common)
        self.field.param.watch(self._set, "value")
        self.fault = pn.pane.HTML(
            "", visible=False, css_classes=["fault"], stylesheets=[TEXT], margin=0, **WIDE
        )
        parts: list[Any] = [self.field, self.fault]
        self.slider = None
        if (bounds := SLIDERS.get((table, key))) and not options:
            low, high, step, self._log = bounds
            self.slider = pn.widgets.FloatSlider(
                start=low, end=high, step=step, value=self._place(text, low), show_value=False,
                **WIDE, margin=(0, 8, 4, 8), tooltips=False, css_classes=[f"{table}-{key}-slider"],
            )  # fmt: skip
            self.slider.param.watch(self._slid, "value")
            parts.insert(1, self.slider)
        self.box = pn.Column(*parts, **WIDE, margin=(0, 0))

    def show(self, text: str) -> None:
        """Show a value that was set elsewhere."""
        self._quiet = True
        self.field.value = text or (self.field.options[0] if hasattr(self.field, "options") else "")
        if self.slider is not None:
            self.slider.value = self._place(text, self.slider.value)
        self._quiet = False

    def say(self, sentence: str) -> None:
        """Show a sentence below the control; an empty one takes it away."""
        self.fault.object = f'<div role="alert">{escape(sentence)}</div>' if sentence else ""
        self.fault.visible = bool(sentence)

    def _place(self, text: str, otherwise: float) -> float:
        try:
            number = float(text)
            number = log10(number) if self._log else number
        except (ValueError, OverflowError):
            return otherwise
        low, high, _, _ = SLIDERS[self.table, self.key]
        return min(max(number, low), high) if number == number else otherwise

    def _set(self, event) -> None:
        if not self._quiet:
            if self.slider is not None:
                self._quiet, self.slider.value = True, self._place(event.new, self.slider.value)
                self._quiet = False
            self._changed(self, event.new)

    def _slid(self, event) -> None:
        if not self._quiet:
            value = 10**event.new if self._log else event.new
            text = f"{value:.3g}"
            self._quiet, self.field.value = True, text
            self._quiet = False
            self._changed(self, text)


class Controls:
    """All controls of a view; ``changed(view, control)`` is called with what the user makes of it."""

    def __init__(self, view: View, changed: Callable[[View, Control | None], None]):
        self.view, self._changed = view, changed
        self.controls: dict[tuple[str, str], Control] = {}
        self._cards = {table: pn.Column(**WIDE) for _, table, *_ in GROUPS}
        for group in GROUPS:
            self._fill(group)
        self.runs = [self._control("page", key, (), str(getattr(view, key))) for key in ("dim", "seeds")]
        self.elsewhere = pn.pane.HTML("", visible=False, css_classes=["fault"], stylesheets=[TEXT], **WIDE)
        cards = [
            pn.Card(self._cards[table], title=title, **WIDE, margin=(0, 0, 8, 0),
                    collapsed=table in ("inputs", "teacher", "start"), css_classes=[f"card-{table}"])
            for title, table, *_ in GROUPS
        ]  # fmt: skip
        self.box = pn.Column(self.elsewhere, *cards, **WIDE, margin=(0, 0))

    def say(self, sentence: str, at: Control | None = None) -> None:
        """Put a sentence at the control it names, or at the one that was changed last, or above all."""
        for control in self.controls.values():
            control.say("")
        self.elsewhere.visible = False
        if not sentence:
            return
        named = sentence.split(":", 1)[0].strip()
        table, _, key = _NAMES.get(named, named).partition(".")
        found = self.controls.get((table, key)) or self.controls.get(("page", named)) or at
        if found is not None:
            found.say(sentence)
        else:
            self.elsewhere.object = f'<div role="alert">{escape(sentence)}</div>'
            self.elsewhere.visible = True

    def _control(self, table: str, key: str, options: tuple[str, ...], text: str) -> Control:
        control = self.controls[table, key] = Control(table, key, options, text, self._set)
        return control

    def _fill(self, group) -> None:
        """Make the controls of a table anew, as its kind wants them."""
        _, table, main, kinds = group
        for known in [known for known in self.controls if known[0] == table]:
            del self.controls[known]
        kind = self.view.kind(table) if kinds else None
        parts: list[Any] = []
        more: list[Any] = []
        if kinds:
            parts.append(self._control(table, "kind", kinds, str(kind)).box)
        for key in keys_of(table, kind) or ():
            if key in _UNSHOWN or (key == "bits" and kind in FIXED_BITS):
                continue
            if kind == "levels" and key in ("bits", "range", "edge"):
                continue
            place = parts if key in main else more
            place.append(self._control(table, key, CHOICES.get(key, ()), self.view.text(table, key)).box)
        if more:
            parts.append(pn.Card(*more, title="more", collapsed=True, **WIDE, margin=(4, 0)))
        self._cards[table].objects = parts

    def _set(self, control: Control, text: str) -> None:
        try:
            self.view = self.view.with_text(control.table, control.key, text)
        except InputError as error:
            self.say(str(error), control)
            return
        if control.key == "kind":
            self._fill(next(group for group in GROUPS if group[1] == control.table))
        self._changed(self.view, control)
