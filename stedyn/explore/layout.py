"""Where the parts of the page are, and how they look: one grid, whose columns join where the page is narrow."""

from __future__ import annotations

from html import escape
from typing import Any

import panel as pn

WIDE: dict[str, Any] = {"sizing_mode": "stretch_width"}
BODY = "body { font-family: system-ui, sans-serif; margin: 0; padding: 8px; max-width: 1500px; }"
#: On a narrow page the curve comes first, then the controls, then the rest.
AREAS = """
:host { display: grid !important; gap: 8px; grid-template-columns: 260px minmax(0, 1fr);
  grid-template-rows: auto 1fr; grid-template-areas: "left top" "left rest"; }
.left { grid-area: left; } .top { grid-area: top; } .rest { grid-area: rest; }
@media (max-width: 700px) {
  :host { grid-template-columns: minmax(0, 1fr); grid-template-rows: auto; grid-template-areas: "top" "left" "rest"; }
}
"""
SIDE = """
:host { display: grid !important; gap: 8px; grid-template-columns: repeat(auto-fit, minmax(min(360px, 100%), 1fr)); }
"""
TEXT = """
:host(.fault) { color: #d9442f; font-size: 0.9em; }
h2 { font-size: 1em; margin: 4px 0; } ul { margin: 0; padding-left: 1.1em; }
li, p { line-height: 1.35; margin: 2px 0; overflow-wrap: anywhere; }
"""
CODE = "textarea { font-family: monospace; white-space: pre; font-size: 0.85em; }"
#: Opens the page dark where the browser asks for it, unless its address says how.
THEME = """<script>
if (!new URLSearchParams(location.search).has("theme") && matchMedia("(prefers-color-scheme: dark)").matches) {
  const url = new URL(location.href); url.searchParams.set("theme", "dark"); location.replace(url)
}
</script>"""


def row(*parts: Any) -> Any:
    """Parts side by side, one below the other where the page is narrow."""
    return pn.Column(*parts, stylesheets=[SIDE], margin=0, **WIDE)


def drawn(plot: Any) -> Any:
    """A figure of Bokeh."""
    return pn.pane.Bokeh(plot, theme=None, margin=0, **WIDE)


def text(*classes: str) -> Any:
    """A place for words."""
    return pn.pane.HTML(css_classes=list(classes), stylesheets=[TEXT], margin=0, **WIDE)


def card(title: str, lines: list[str]) -> str:
    """A title and a list, as HTML."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines if line)
    return f"<section><h2>{title}</h2><ul>{items}</ul></section>"


def paragraph(sentence: str) -> str:
    """A sentence, as HTML."""
    return f"<p>{escape(sentence)}</p>" if sentence else ""


def page(top: list[Any], left: list[Any], rest: list[Any]) -> Any:
    """All parts."""
    areas = [
        pn.Column(*parts, css_classes=[name], **WIDE)
        for name, parts in (
            ("top", [pn.pane.HTML(THEME, margin=0, height=0), *top]),
            ("left", left),
            ("rest", rest),
        )
    ]
    return pn.Column(*areas, stylesheets=[AREAS], css_classes=["page"], **WIDE)
