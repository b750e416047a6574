"""Tensors of ``.npy``, ``.npz``, ``.csv`` and ``.safetensors`` files, read one at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO

import numpy as np

from ..checks import fail
from .whole import UNREADABLE, read_csv, refuse_special

SUFFIXES = (".npy", ".npz", ".csv", ".safetensors")
#: An archive may become this many bytes, or this many times its size.
_SMALL, _SWELLS = 2**28, 100
#: What NumPy holds of the types of safetensors; of the others (8-bit floats) it knows nothing.
_KNOWN = {f"{kind}{bits}" for kind in "IUF" for bits in (8, 16, 32, 64)} - {"F8"} | {"BF16", "BOOL"}


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a file by name; each is read when it is asked for."""

    def __init__(self, path: Path, names: list[str], load: Callable[[str], np.ndarray]):
        self.path, self._names, self._load = path, names, load

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def read_tensors(path: str | PathLike) -> Tensors:
    """The tensors of a file by name, in the order in which it lists them.

    The one tensor of a ``.npy`` or ``.csv`` file has the name of the file without its ending; one column
    or one row of a CSV file is a list. Tensors of type bfloat16 come as float32.

    Raises
    ------
    ValueError
        If the file is missing, has another ending or cannot be read; also when a damaged tensor, or one
        of a type that NumPy does not have, is asked for.
    """
    path = Path(path)
    readers = dict(zip(SUFFIXES, (_npy, _npz, _csv, _safetensors), strict=True))
    if path.suffix not in readers:
        fail("file", "one ending in " + ", ".join(SUFFIXES), str(path), "convert it to one of these")
    if path.is_dir() or not path.exists():
        found = f"{path} ({'a folder' if path.is_dir() else 'not there'})"
        fail("file", "a file that exists", found, "check the name")
    refuse_special(path, "file")
    return readers[path.suffix](path)


@contextmanager
def _reading(path: Path):
    """What the readers raise becomes one sentence."""
    from safetensors import SafetensorError

    archive = (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError)  # the last two for odd members
    damage = (*UNREADABLE, UnpicklingError, SafetensorError, *archive)
    try:
        yield
    except OSError as error:
        fail("file", "a file that can be read", f"{path} ({error.strerror or error})", "check it")
    except damage as error:
        said = str(error).strip().rstrip(".").splitlines() or [type(error).__name__]
        fail("file", f"a whole {path.suffix} file of numbers", f"{path} ({said[0]})", "save it again")


def _npy(path: Path) -> Tensors:
    def load(name: str) -> np.ndarray:
        with _reading(path):
            array = np.load(path, allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("it holds several arrays")
            return array

    with _reading(path), open(path, "rb") as file:
        np.lib.format.read_magic(file)
    return Tensors(path, [path.stem], load)


def _csv(path: Path) -> Tensors:
    try:
        array = read_csv(path, "file")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        fail("file", "a file that can be read", f"{path} ({reason})", "check it")
    return Tensors(path, [path.stem], lambda name: array.ravel() if 1 in array.shape else array)


def _npz(path: Path) -> Tensors:
    @contextmanager
    def opened():
        with _reading(path), open(path, "rb") as stream:  # NumPy leaves a damaged file open
            _refuse_bombs(stream)
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it holds one array without a name")
            yield file

    def load(name: str) -> np.ndarray:
        with opened() as file:
            array = file[name]
            if not isinstance(array, np.ndarray):
                raise ValueError("a member is no array")
            return array

    with opened() as file:
        return Tensors(path, list(file.files), load)


def _refuse_bombs(stream: BinaryIO) -> None:
    """Refuse an archive that would become far larger than it is."""
    if zipfile.is_zipfile(stream):
        members = zipfile.ZipFile(stream).infolist()
        size, packed = (sum(getattr(m, name) for m in members) for name in ("file_size", "compress_size"))
        if size > _SMALL and size > _SWELLS * packed:
            raise ValueError(
                f"it would become {size / 2**20:.4g} MiB, {size // max(packed, 1)} times its size"
            )
    stream.seek(0)


def _safetensors(path: Path) -> Tensors:
    import ml_dtypes  # noqa: F401  (gives NumPy the type bfloat16; JAX depends on it)
    from safetensors import safe_open

    def load(name: str) -> np.ndarray:
        with _reading(path), safe_open(path, framework="numpy") as file:
            kind = file.get_slice(name).get_dtype()
            if kind in _KNOWN:
                array = file.get_tensor(name)
                return array.astype(np.float32) if kind == "BF16" else array
        fail(name, "a tensor of a type that NumPy has", kind, "save it as bfloat16 or float32")

    with _reading(path), safe_open(path, framework="numpy") as file:
        return Tensors(path, list(file.keys()), load)
