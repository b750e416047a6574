"""The progress of a simulation: a bar, or a function that is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm


class Told(contextlib.nullcontext):
    """In the place of a progress bar: a function that is told the part that is done."""

    def __init__(self, tell: Callable[[float], None], total: int, done: int):
        super().__init__(self)
        self.tell, self.total, self.done = tell, max(total, 1), done

    def update(self, number: int) -> None:
        self.done += number
        self.tell(self.done / self.total)


def progress_bar(progress: bool | Callable[[float], None], total: int, done: int) -> Any:
    """A bar on stderr, a function that is told, or neither; ``done`` of ``total`` steps are made."""
    if callable(progress):
        return Told(progress, total, done)
    return tqdm(total=total, initial=done, unit="step", unit_scale=True, disable=not progress)
