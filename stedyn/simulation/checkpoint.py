"""Checkpoints: one file with everything that a long run needs to go on, or its result once it is done.

A line that names the format, a line with the SHA-256 of the rest, and a NumPy archive: a header in
JSON, where every seed stands, and all that was saved so far. Random numbers are functions of seed and
step, so the state of the loop is all there is to keep.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from platform import machine
from typing import Any

import jax
import jaxlib
import numpy as np

from .. import __version__
from ..checks import InputError, Notice
from ..code.fingerprint import fingerprint, is_library
from ..files.whole import beside, write_atomic
from .task import Standing, Task

_FIRST_LINE = b"stedyn checkpoint 3\n"
_OLDER = (
    b"stedyn checkpoint 1\n",
    b"stedyn checkpoint 2\n",
)  # without the rests of the weights; of weights alone
_LONGEST = 80  # bytes of a line


class Checkpoint:
    """The file of one simulation.

    Parameters
    ----------
    path : path
        The file, in a folder that exists.
    task : Task
        What is simulated; with ``platform`` it decides which file can be continued.
    """

    def __init__(self, path: Path, task: Task, platform: str, exact: bool = False):
        self.path, self.task, self.exact = path, task, exact
        self.header = _header(task)
        self.arithmetic = arithmetic(platform)
        self.seconds = 0.0
        self._lock = _locked(path)

    def close(self) -> None:
        """Let another process use the file."""
        if self._lock is not None:
            _lock_path(self.path).unlink(missing_ok=True)  # while it is ours: the next one's file is another
            os.close(self._lock)
            self._lock = None

    def load(self) -> Standing | None:
        """Fill the record of the task and return where its seeds stand; None without a file.

        Raises
        ------
        ValueError
            If the file is damaged, is no checkpoint, or is one of another simulation.
        """
        for scratch in self.path.parent.glob(glob.escape(beside(self.path, "").name) + "?" * 8 + ".tmp"):
            scratch.unlink(missing_ok=True)  # left by a process that was killed while it wrote
        try:
            with open(self.path, "rb") as file:
                entries = self._read(file)
        except FileNotFoundError:
            return None
        header = json.loads(str(entries.pop("header")))
        self._compare_arithmetic(header.pop("arithmetic", {}))
        self._compare(header)
        self.seconds = float(entries.pop("seconds"))
        standing = jax.tree_util.tree_map_with_path(
            lambda path, _: entries.pop(_name(path)), self.task.form()
        )
        self.task.record.update(entries)
        return standing

    def _read(self, file: io.BufferedReader) -> dict[str, Any]:
        first = file.readline(_LONGEST)
        if first in _OLDER:
            raise InputError(
                f"{self.path}: was written by an older stedyn, which kept other things of a run; name another file "
                "or delete it."
            )
        if first != _FIRST_LINE:
            raise InputError(
                f"{self.path}: is not a checkpoint of stedyn, or is damaged; name another file or delete it."
            )
        digest, begin = file.readline(_LONGEST).removesuffix(b"\n"), file.tell()
        if hashlib.file_digest(file, "sha256").hexdigest().encode() != digest:
            raise InputError(f"{self.path}: is damaged, its checksum is wrong; delete it to start again.")
        file.seek(begin)
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    def save(self, seconds: float) -> None:
        """Write the file; ``seconds`` of computing have passed since `load`."""
        standing = self.task.standing()  # first: what it counts is in the record and stays there
        entries: dict[str, Any] = {_name(path): part for path, part in jax.tree.leaves_with_path(standing)}
        entries |= self.task.record
        entries["header"] = np.array(json.dumps(self.header | {"arithmetic": self.arithmetic}))
        entries["seconds"] = np.array(self.seconds + seconds)

        def body(file):
            """To the file at once: in memory it would take as much as the weights, twice while it grows."""
            begin = file.tell()
            np.savez(file, **entries)
            file.seek(begin)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(len(_FIRST_LINE))
            file.write(digest.encode())

        write_atomic(self.path, _FIRST_LINE, f"{'0' * 64}\n", body)

    def _compare_arithmetic(self, found: dict[str, str]) -> None:
        """Say what the bits depend on and is another here than where the file was written."""
        names = [name for name in self.arithmetic if found.get(name) != self.arithmetic[name]]
        if not names:
            return
        changed = ", ".join(
            f"{n} was {found.get(n, 'not recorded')} and is {self.arithmetic[n]}" for n in names
        )
        sentence = f"{self.path}: was written with another arithmetic: {changed}"
        if self.exact:
            raise InputError(f"{sentence}; go on there, or without --exact.")
        warnings.warn(f"{sentence}; the run goes on, but not to the same bits.", Notice, 4)

    def _compare(self, found: dict[str, Any]) -> None:
        for name in {**self.header, **found}:
            there, here = found.get(name), self.header.get(name)
            if there != here:
                raise InputError(
                    f"{self.path}: belongs to another simulation, {name} is {_shown(there)} there and "
                    f"{_shown(here)} here; name another file or delete it."
                )


def _name(path) -> str:
    """Of an array of the state, such as ``standing.state.parts.w``."""
    return f"standing{jax.tree_util.keystr(path)}"


def arithmetic(platform: str) -> dict[str, str]:
    """What the last bits of a run depend on besides the problem."""
    device = jax.local_devices()[0]
    found = {"JAX": jax.__version__, "XLA": jaxlib.__version__, "device": f"{platform} {device.device_kind}"}
    if platform == "cpu":
        found["instruction set"] = f"{machine()} {_instructions()}"
        found["largest loop of one kernel"] = (
            _flag("xla_cpu_small_while_loop_byte_threshold=") or "that of XLA"
        )
    return found


def _instructions() -> str:
    """The widest vectors of this processor that XLA may use, and whether it fuses products with sums."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    allowed = _flag("--xla_cpu_max_isa=")
    known = [name for name in ("sse4_2", "avx", "avx2", "fma", "avx512f", "asimd", "sve") if name in flags]
    return " ".join(known + ([f"at most {allowed}"] if allowed else []))


def _flag(name: str) -> str:
    """The value of a flag of XLA in the environment, empty without it."""
    return os.environ.get("XLA_FLAGS", "").partition(name)[2].split(" ")[0]


def _lock_path(path: Path) -> Path:
    return beside(path, "lock")


def _locked(path: Path) -> int | None:
    """Keep every other process from this checkpoint until this one ends, in whatever way; None where no lock exists."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    name = _lock_path(path)
    while True:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"{path}: another process works on this checkpoint; wait for it, or name another file."
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        if name.exists() and os.path.samestat(os.fstat(descriptor), os.stat(name)):
            return descriptor
        os.close(descriptor)  # its last owner removed it just now


def _header(task: Task) -> dict[str, Any]:
    """What has to be the same for a run to go on to the same bits."""
    return {
        "stedyn": __version__,
        "split": "seeds" if task.spread is None else "weights",
        "dim": task.dim,
        "seed": int(task.keys[0]),
        "seeds": int(task.keys.size),
        "taus": (task.steps / task.dim).tolist(),
        "snapshots": (task.kept / task.dim).tolist(),
        **dict(_entries("", task.problem)),
    }


def _entries(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every number and word of a problem with its name, such as ``("rule.lr", 0.1)``.

    Long lists are given by their hash, code that is not stedyn's by its `stedyn.fingerprint`; what does not enter a
    run is left out.

    Raises
    ------
    InputError
        If the problem uses code whose content cannot be known.
    """
    if dataclasses.is_dataclass(value):
        yield f"{name}.class".lstrip("."), type(value).__qualname__
        if not is_library(type(value)):
            yield f"{name}.code".lstrip("."), fingerprint(name, type(value))
        for field in dataclasses.fields(value):
            inner = f"{name}.{field.name}".lstrip(".")
            if inner != "run" and field.name not in ("path", "atoms"):
                yield from _entries(inner, getattr(value, field.name))
    elif name == "phases":  # none leaves no entry: files from before there were any go on
        for number, phase in enumerate(value, 2):
            yield from _entries(f"phase {number}", phase)
    elif value is None or isinstance(value, (bool, int, str)):
        yield name, value
    elif (array := _numbers(value)) is None:
        yield name, f"code {fingerprint(name, value)}"
    else:
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
        yield name, array.item() if array.size == 1 else f"{array.size} numbers ({digest})"


def _numbers(value: Any) -> np.ndarray | None:
    """A number, a list of numbers or an array as an array; None for anything else."""
    if callable(value) or isinstance(value, (dict, bytes)):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biufc" else None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} times up to {value[-1]:g}" if value else "no times"
    return "absent" if value is None else str(value)
