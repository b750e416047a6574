"""Compiled programs: how fast they are compiled, and how they are kept for the next process.

JAX keeps what XLA compiles under a hash of the program, for which every process has to trace and lower it again; that
takes longer than the rest of an answer. Where the environment names a folder (`FOLDER`, set by the command line), the
lowered program is kept as well (`jax.export`), under a hash of all that tracing reads: the sources of stedyn, the
versions of the libraries, the flags of JAX, the shapes of the arrays and the content of everything else
(`fingerprint`). What cannot be hashed or exported is traced by every process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import secrets
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from jax import export
from jax.experimental.xla_metadata import set_xla_metadata

from ..checks import InputError, any_traced
from .fingerprint import LIBRARIES, fingerprint

#: Environment variable with the folder of kept programs; none are kept without it.
FOLDER = "STEDYN_PROGRAMS"
#: Seconds after which the programs of another version of the sources are removed.
OLD = 7 * 24 * 3600
_ONCE: dict[str, bool | int] = {"xla_backend_optimization_level": 0}
#: Options of programs that run for a while: at this level of optimization they run as fast, compiled in half the time.
SOON: dict[str, bool | int] = {"xla_backend_optimization_level": 1}
if jax.__version_info__ < (0, 11):  # which has no other way to compile loops
    _ONCE["xla_cpu_use_fusion_emitters"] = SOON["xla_cpu_use_fusion_emitters"] = False


def once(function: Callable) -> Program:
    """Compile what runs once: in a quarter of the time, to run five times as long. Not within other programs."""
    return Program(function, _ONCE)


def soon(function: Callable) -> Program:
    """Compile what runs for a while (`SOON`). Not within other programs."""
    return Program(function, SOON)


def one_kernel(function: Callable) -> Callable:
    """A function of arrays that a CPU computes as one kernel, without a way back to XLA before its end.

    XLA starts every operation of every turn of a loop by itself, unless its arrays have less than 1 kB; that takes
    longer than a turn over few classes. For arithmetic and loops alone: anything else (sorts, scatters, libraries)
    would end the process. The attributes are those that XLA gives such short loops.
    """
    marks = {"xla_cpu_small_call": "true", "inlineable": "false"}

    def within(*arrays):
        with set_xla_metadata(**dict.fromkeys(marks)):
            return function(*arrays)

    jitted = jax.jit(within)

    @functools.wraps(function)
    def run(*arrays):
        if jax.default_backend() != "cpu":
            return function(*arrays)
        with set_xla_metadata(**marks):
            return jitted(*arrays)

    return run


class _Static(eqx.Module):
    """What a program returns besides arrays."""

    value: Any = eqx.field(static=True)


class Program:
    """A compiled function of pytrees, whose arrays are its arguments; everything else in them is fixed.

    Unlike `equinox.filter_jit` a call does not wait for its result, so that calls may overlap, and the trace is kept
    for other processes. Inside a transformation of JAX it is traced like any function.
    """

    __wrapped__: Callable

    def __init__(self, function: Callable, options: dict[str, bool | int] | None = None):
        functools.update_wrapper(self, function)
        self._options = options
        self._jitted = jax.jit(self._run, static_argnums=(1, 2), compiler_options=options)
        self._kept: dict[Any, Callable | None] = {}

    def __call__(self, *args, **given):
        arrays, fixed = eqx.partition((args, given), eqx.is_array)
        leaves, tree = jax.tree.flatten(fixed)
        run = None
        if os.environ.get(FOLDER) and not any_traced(arrays):
            run = self._found(arrays, tuple(leaves), tree)
        out, static = run(arrays) if run else self._jitted(arrays, tuple(leaves), tree)
        return eqx.combine(out, static.value)

    def _run(self, arrays, leaves, tree):
        args, given = eqx.combine(arrays, jax.tree.unflatten(tree, leaves))
        out, static = eqx.partition(self.__wrapped__(*args, **given), eqx.is_array)
        return out, _Static(static)

    def _found(self, arrays, leaves, tree) -> Callable | None:
        """The kept program, or one that is kept from now on; None if it cannot be."""
        shapes = jax.tree.map(lambda x: f"{x.dtype}{x.shape}{getattr(x, 'weak_type', False)}", arrays)
        flags = _flags()
        key = str(jax.tree.leaves(shapes)), leaves, tuple(map(type, leaves)), tree, flags  # 1 == True
        if key not in self._kept:
            self._kept[key] = self._load(arrays, leaves, tree, (shapes, flags))
        return self._kept[key]

    def _load(self, arrays, leaves, tree, told) -> Callable | None:
        fixed, function = jax.tree.unflatten(tree, leaves), self.__wrapped__
        try:
            content = fingerprint("program", (function, fixed, told))
            path = _folder() / f"{getattr(function, '__name__', 'program')}-{content}"
        except (InputError, OSError, ImportError):  # the last: a library without a version
            return None
        with contextlib.suppress(OSError, ValueError):  # not there, or damaged
            return self._of(_checked(path.read_bytes()))
        made = []

        def flat(*numbers):
            out, static = self._run(jax.tree.unflatten(jax.tree.structure(arrays), numbers), leaves, tree)
            found, structure = jax.tree.flatten(out)
            made.append((static, jax.tree.unflatten(structure, range(len(found)))))
            return found

        try:
            exported = export.export(jax.jit(flat))(*jax.tree.leaves(arrays))
            kept = pickle.dumps((bytes(exported.serialize()), *made[-1]))
        except (NotImplementedError, ImportError, ValueError, pickle.PickleError, AttributeError, TypeError):
            return None  # if it is a fault of the arguments, it is met again
        with contextlib.suppress(OSError):  # whole or not at all
            scratch = path.with_name(f".{secrets.token_hex(8)}")
            scratch.write_bytes(hashlib.sha256(kept).digest() + kept)
            scratch.replace(path)
        return self._of(kept)

    def _of(self, kept: bytes) -> Callable:
        exported, static, places = pickle.loads(kept)
        call = jax.jit(export.deserialize(bytearray(exported)).call, compiler_options=self._options)

        def run(arrays):
            numbers = call(*jax.tree.leaves(arrays))
            return jax.tree.map(lambda place: numbers[place], places), static

        return run


def _checked(content: bytes) -> bytes:
    """What was kept, if it is what was written."""
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError("damaged")
    return content[32:]


def _flags() -> str:
    """The flags of JAX, XLA and equinox, the floats, and where it runs."""
    kept = {name: value for name, value in jax.config.values.items() if "cache" not in name}
    own = [os.environ.get(name) for name in ("XLA_FLAGS", "EQX_ON_ERROR")]
    return f"{kept} {own} {jax.config.read('jax_enable_x64')} {jax.default_backend()} {jax.devices()[0].device_kind}"


@functools.cache
def _folder() -> Path:
    """The folder of this version of sources and libraries; those of others (and nothing else) are removed when old."""
    folder = Path(os.environ[FOLDER]) / f"traces-{version_of(Path(__file__).parent.parent)}"
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in folder.parent.glob("traces-*"):
            with contextlib.suppress(OSError):
                if time.time() - other.stat().st_mtime > OLD:
                    shutil.rmtree(other)
    return folder


def version_of(package: Path) -> str:
    """16 hexadecimal digits of all sources of a package, of Python and of the libraries."""
    content = hashlib.sha256(f"{platform.python_version()} {platform.machine()}".encode())
    for name in sorted(LIBRARIES - {"stedyn"}):
        content.update(f"{name} {version(name)}".encode())
    for path in sorted(package.rglob("*.py")):
        content.update(f"{path.relative_to(package)}".encode() + path.read_bytes())
    return content.hexdigest()[:16]
