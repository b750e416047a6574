"""A thread that computes what is asked last: a newer question ends the one before between two of its stages."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any


class Latest:
    """Runs the stages of the newest question in a thread of its own.

    ``tell(number, result)`` is called from that thread with the number of the question and every stage's result, and
    at last with None; an exception is a result, too. A question that a newer one follows within ``pause`` seconds is
    not answered.
    """

    def __init__(self, tell: Callable[[int, Any], None], pause: float = 0.0):
        self._tell, self._number, self._pause = tell, 0, pause
        self._asked: Callable[[], Iterator[Any]] | None = None
        self._open, self._change = True, threading.Condition()
        self._thread = threading.Thread(target=self._work, name="stedyn-explore", daemon=True)
        self._thread.start()

    def ask(self, stages: Callable[[], Iterator[Any]]) -> int:
        """Ask a question, whose number is returned; the one before is dropped."""
        with self._change:
            self._number += 1
            self._asked = stages
            self._change.notify()
            return self._number

    def close(self) -> None:
        """End the thread after the stage that it is at."""
        with self._change:
            self._open, self._asked, self._number = False, None, self._number + 1
            self._change.notify()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._asked is not None or not self._open)
                if not self._open:
                    return
                number = self._number
                if self._change.wait_for(lambda: number != self._number, self._pause):  # noqa: B023
                    continue
                stages, self._asked = self._asked, None
            assert stages is not None
            try:
                for result in stages():
                    if number != self._number:
                        break
                    self._tell(number, result)
            except Exception as error:
                traceback.print_exc()
                self._tell(number, error)
            if number == self._number:
                self._tell(number, None)
