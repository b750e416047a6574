"""What surrounds a command: the cache of compiled programs, and warnings."""

import contextlib
import os
import sys
from pathlib import Path

from ..checks import Notice, printable


def set_environment() -> None:
    """Keep compiled programs, and their traces, between calls (unless ``STEDYN_CACHE=off``), if JAX does not run yet.

    The folder is made private: whoever can write to it can have code run.
    A program with a call back into Python cannot be kept: checks of equinox then put nan instead, which
    a solve reports as its status.
    """
    if "jax" in sys.modules or os.environ.get("STEDYN_CACHE", "") == "off":
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stedyn"
    with contextlib.suppress(OSError):  # without a folder nothing is kept
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # one of an older version
    for name, value in {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "STEDYN_PROGRAMS": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "EQX_ON_ERROR": "nan",
    }.items():
        os.environ.setdefault(name, value)
    # loading a kept program logs features of the machine; 1 is what JAX sets, for the processes it starts, too
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Show only what is said to the user; remove a damaged program of the cache, to be compiled and kept anew."""
    if issubclass(category, Notice):
        print(f"stedyn: {printable(str(message))}", file=sys.stderr)
    elif "persistent compilation cache entry for" in str(message) and "reading" in str(message):
        name, folder = str(message).split("'")[1], os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
        for path in Path(folder).glob(f"{name}*-cache") if folder else ():
            path.unlink(missing_ok=True)
