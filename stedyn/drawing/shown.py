"""How a result shows itself: a short repr, a table in notebooks, axes."""

from __future__ import annotations

import abc
import html
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Rows of the table in a notebook.
ROWS = 9


class Shown:
    """Base of results: `str` is the whole text, `repr` a line, `plot` draws; a notebook shows a table."""

    @abc.abstractmethod
    def _summary(self) -> str:
        """A line without the name of the class."""

    @abc.abstractmethod
    def _draw(self, ax: Axes) -> None:
        """Draw on axes."""

    @abc.abstractmethod
    def to_pandas(self) -> pd.DataFrame:
        """The numbers as a table."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._summary()}>"

    def _repr_html_(self) -> str:
        frame = self.to_pandas()
        rows = frame.iloc[
            np.unique(np.linspace(0, len(frame) - 1, min(ROWS, len(frame))).round().astype(int))
        ]
        table = rows.to_html(
            index=False, border=0, na_rep="-", float_format=lambda x: f"{x:.5g}", escape=True
        )
        return f"<p>{html.escape(repr(self))}</p>\n{table}"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw on matplotlib axes, by default new ones, and return them."""
        if ax is None:
            from .axes import panels  # slow to import

            ax = panels(1)[1][0]
        self._draw(ax)
        return ax
