"""Jobs for processes of `stedyn.sweeps.workers`, which import them by name; nothing here imports JAX."""

import os
import signal
import time


def job(what):
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise ValueError("said")
    if what == "wait":
        os.write(1, f"{os.getpid()}\n".encode())  # one write: the lines of two processes do not mix
        time.sleep(60)
    return what
