"""Reading lists of numbers and writing whole files or none."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..checks import InputError, fail

if TYPE_CHECKING:  # the command line answers faults at once
    from ..inputs.samples import Samples

_LONGEST_NAME = 200  # bytes
#: What NumPy raises for damaged files, and for headers that are no Python or promise too much.
UNREADABLE = (ValueError, EOFError, MemoryError, OverflowError, RecursionError, SyntaxError, TokenError)
SAMPLE_SUFFIXES = (".npy", ".csv")
#: Files that are written and not yet renamed, scratch and target, inside `all_or_none`.
_waiting: list[tuple[Path, Path]] | None = None


@contextmanager
def all_or_none() -> Iterator[None]:
    """Files written inside by `write_atomic` get their names together at the end; after an error none does."""
    global _waiting
    waiting: list[tuple[Path, Path]] = []
    _waiting = waiting
    try:
        yield
        for scratch, target in waiting:
            os.replace(scratch, target)
    finally:
        _waiting = None
        for scratch, _ in waiting:
            scratch.unlink(missing_ok=True)


def refuse_special(path: Path, name: str) -> None:
    """Refuse a pipe, a device or a socket, whose reading might never end; what is not there passes."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        fail(name, "an ordinary file", f"{path} (a pipe, a device or a socket)", "copy it to a file")


def beside(path: Path, ending: str) -> Path:
    """A hidden name in the same folder, also where the name is as long as names can be."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.{ending}")


def write_atomic(path: str | os.PathLike, *parts: str | bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a file so that it is there whole or not at all; an old one stays until the new one is.

    A part that is a function writes itself to the open file, in which it may read and go back.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written; nothing is left behind.
    """
    target = Path(os.path.realpath(path))
    scratch = beside(target, f"{secrets.token_hex(4)}.tmp")
    try:
        with open(scratch, "x+b") as file:
            for part in parts:
                part(file) if callable(part) else file.write(part.encode() if isinstance(part, str) else part)
            file.flush()
            os.fsync(file.fileno())
        if _waiting is None:
            os.replace(scratch, target)
        else:
            _waiting.append((scratch, target))
    except BaseException as error:
        scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # writing names no file
        raise
    return Path(path)


def read_samples(path: Path, name: str) -> np.ndarray:
    """The numbers of a ``.npy`` or ``.csv`` file, as float64 ``(n,)``.

    A CSV file holds one number on each line, or one line of numbers; it has no header. ``name`` is
    the key that named the file, for the message of an error.

    Raises
    ------
    ValueError
        If the file is missing, has another suffix, or does not hold a list of numbers.
    """
    if path.suffix not in SAMPLE_SUFFIXES:
        fail(name, "a file ending in .npy or .csv", str(path), "convert it to one of these")
    refuse_special(path, name)
    try:
        return _read_npy(path, name) if path.suffix == ".npy" else _one_line(read_csv(path, name), path, name)
    except FileNotFoundError:
        fix = "check the name; it is relative to the folder of the problem file"
        fail(name, "a file that exists", str(path), fix)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        fail(name, "a file that can be read", f"{path} ({reason})", "check it")


def _read_npy(path: Path, name: str) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except UNREADABLE:
        array = None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim != 1:
        kind = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "something else"
        fail(name, "one list of floats in NumPy's format", f"{kind} in {path}", "save it with numpy.save")
    return array.astype(float)


def read_csv(path: Path, name: str) -> np.ndarray:
    """The numbers of a CSV file without a header, as float64 ``(rows, columns)``.

    Raises
    ------
    ValueError
        If a cell is not a number or the rows have different lengths; ``name`` begins its sentence.
    OSError, UnicodeDecodeError
        If the file cannot be read.
    """
    rows: list[list[float]] = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            cells = line.strip().split(",")
            if cells == [""]:
                continue
            try:
                rows.append([float(cell) for cell in cells])
            except ValueError:
                fail(
                    name,
                    "numbers only, without a header",
                    f"{line.strip()[:100]!r} on line {number} of {path}",
                    "remove what is not a number",
                )
            if len(rows[-1]) != len(rows[0]):
                fail(
                    name,
                    f"rows as long as the first, which has {len(rows[0])}",
                    f"{len(rows[-1])} on line {number} of {path}",
                    "make it one number on each line",
                )
    return np.array(rows, dtype=float).reshape(len(rows), -1 if rows else 0)


def _one_line(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    if 1 not in array.shape:
        shape = " x ".join(map(str, array.shape)) if array.size else "no"
        fail(name, "one column or one row", f"{shape} numbers in {path}", "keep the column you mean")
    return array.ravel()


def keep_samples(data: Samples, path: Path, table: str) -> str:
    """The path of a file with these samples, written if there is none; relative to the problem file if below."""
    folder = Path(os.path.abspath(path)).parent
    kept = None if data.path is None else Path(os.path.abspath(data.path))
    if kept is None or not _holds(kept, data.values):
        kept = folder / f"{path.stem}-{table}.npy"
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(data.values))
        write_atomic(kept, buffer.getvalue())
    return kept.relative_to(folder).as_posix() if kept.is_relative_to(folder) else str(kept)


def _holds(path: Path, values: Any) -> bool:
    try:
        return np.array_equal(read_samples(path, "path"), np.asarray(values))
    except InputError:
        return False
