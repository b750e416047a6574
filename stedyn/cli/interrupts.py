"""What Ctrl-C and SIGTERM do to a command."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

LOST = "interrupted; what was being computed is lost."
#: Seconds after which a signal ends the process, where no line of Python is reached that could.
PATIENCE = 2.0


@contextlib.contextmanager
def interruptible(for_good: bool) -> Iterator[list[int]]:
    """Within it SIGINT and SIGTERM raise KeyboardInterrupt, and are noted in the list.

    While XLA compiles or runs a program, which may take minutes, Python cannot raise anything: after `PATIENCE` the
    process ends without. ``for_good`` says that afterwards a signal changes nothing any more.
    """
    received: list[int] = []
    hears, tells = socket.socketpair()
    tells.setblocking(False)

    def interrupt(number, frame):
        if _swallows(frame):  # once more, a little later
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            return
        received.append(number)
        raise KeyboardInterrupt

    def watch():
        with hears:
            while told := hears.recv(1):  # as soon as the signal is there, whatever the main thread does
                time.sleep(PATIENCE)
                # other handlers answer their signals themselves
                mine = signal.getsignal(told[0]) is interrupt
                if mine and not received:
                    os.write(2, f"stedyn: {LOST}\n".encode())
                    os._exit(128 + told[0])

    threading.Thread(target=watch, daemon=True).start()
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    other = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    try:
        yield received
    finally:
        signal.set_wakeup_fd(other)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if for_good else handler)
        tells.close()


def _swallows(frame) -> bool:
    """Whether an exception raised in a frame is printed and forgotten: in callbacks of the garbage collector."""
    while frame is not None:
        if frame.f_code.co_name in ("_xla_gc_callback", "__del__"):
            return True
        frame = frame.f_back
    return False
