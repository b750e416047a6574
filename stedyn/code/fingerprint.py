"""Fingerprints of Python code: is a rule or a schedule defined in Python still the one of another day?

A name does not tell: two lambdas have the same one. What counts is the compiled code with everything that it
reaches, which are constants, defaults, closures, global names, base classes, and what a partial binds. Libraries
that stedyn stands on are given by the names in them.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ..checks import fail

#: Libraries whose code is given by its names.
LIBRARIES = {
    "stedyn",
    "numpy",
    "scipy",
    "jax",
    "jaxlib",
    "equinox",
    "diffrax",
    "optimistix",
    "lineax",
    "jaxtyping",
}
_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes)


def fingerprint(name: str, value: Any) -> str:
    """16 hexadecimal digits, the same wherever the code and what it uses are the same.

    They depend on the version of Python, whose compiled code they are made of. What a function reads from files
    is not seen.

    Parameters
    ----------
    name : str
        What to call it in a message.
    value
        A function, a class, an object, or plain data.

    Raises
    ------
    InputError
        If it uses something whose content cannot be known, such as an open file or a random generator.

    Examples
    --------
    >>> fingerprint("f", lambda x: 2 * x) == fingerprint("f", lambda x: 2 * x)
    True
    >>> fingerprint("f", lambda x: 2 * x) == fingerprint("f", lambda x: 3 * x)
    False
    """
    return hashlib.sha256(repr(_parts(name, value, ())).encode()).hexdigest()[:16]


def is_library(value: Any) -> bool:
    """Whether a function, a class or a module is one of Python, of stedyn or of a library it stands on, by its name.

    A class that is made by a call has the module of its metaclass, but not a name in it.
    """
    if isinstance(value, types.ModuleType):
        return _is_name_of_library(value.__name__)
    module = getattr(value, "__module__", None)
    if not _is_name_of_library(module):
        return False
    found = sys.modules.get(str(module))
    for name in getattr(value, "__qualname__", getattr(value, "__name__", "")).split("."):
        found = getattr(found, name, None)
    return found is value


def _is_name_of_library(module: Any) -> bool:
    root = str(module).partition(".")[0]
    return root in LIBRARIES or (root in sys.stdlib_module_names and root != "__main__")


def _parts(name: str, value: Any, above: tuple) -> Any:
    """Nested tuples of text that say what a value is; ``above`` holds the values on the way to it."""
    if isinstance(value, _PLAIN):
        return repr(value)
    for depth, old in enumerate(above):
        if old is value:
            return f"the value {depth} above"
    parts = functools.partial(_parts, name, above=(*above, value))
    if isinstance(value, (tuple, list)):
        return type(value).__name__, *(parts(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, *sorted(repr(parts(item)) for item in value)
    if isinstance(value, dict):
        return "dict", *((parts(key), parts(item)) for key, item in value.items())
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        array = np.ascontiguousarray(value)
        if array.dtype != object:
            return str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()
    if isinstance(value, functools.partial):
        return "partial", parts(value.func), parts(value.args), parts(value.keywords)
    if isinstance(value, types.MethodType):
        return "method", parts(value.__func__), parts(value.__self__)
    if isinstance(value, (staticmethod, classmethod)):
        return type(value).__name__, parts(value.__func__)
    if isinstance(value, property):
        return "property", parts(value.fget)
    qualname = getattr(value, "__qualname__", getattr(value, "__name__", None))
    if isinstance(value, types.ModuleType) or (qualname and is_library(value)):
        return getattr(value, "__module__", None), qualname or value.__name__
    if isinstance(value, types.CodeType):
        return value.co_code.hex(), value.co_names, value.co_varnames, *(parts(c) for c in value.co_consts)
    if isinstance(value, types.FunctionType):
        held = [value.__defaults__, value.__kwdefaults__, *_cells(value)]
        inside = _is_name_of_library(value.__globals__.get("__name__"))  # wherever it says that it is from
        named = () if inside else _globals(value, parts)
        return "function", parts(value.__code__), *map(parts, held), *named
    if isinstance(value, type):
        own = [(key, parts(vars(value)[key])) for key in sorted(vars(value)) if _is_own(key)]
        return "class", value.__name__, *map(parts, value.__bases__), *own
    if hasattr(value, "__wrapped__"):  # what jax.jit and functools.wraps return
        return "wrapped", parts(value.__wrapped__)
    if type(value) is object:  # a mark without content
        return "object"
    if hasattr(value, "__dict__") and _is_all_in_its_dict(value):
        return parts(type(value)), parts(vars(value))
    fail(name, "code whose content can be compared with that of another run",
         f"a {type(value).__name__}", "make it a function of numbers and of other functions")  # fmt: skip


def _is_all_in_its_dict(value: Any) -> bool:
    """Whether Python could copy an object: an open file has attributes too, but is more than these."""
    try:
        value.__reduce_ex__(2)
    except TypeError:
        return False
    return True


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield None


def _globals(function: types.FunctionType, parts) -> Iterator[tuple[str, Any]]:
    """The global values that a function names; of a module that is no library, what it names in it."""
    codes, names = [function.__code__], set()
    for code in codes:  # it grows
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        names |= {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = sorted({word for code in codes for word in code.co_names})
    for name in sorted(names & function.__globals__.keys()):
        found = function.__globals__[name]
        yield name, parts(found)
        if isinstance(found, types.ModuleType) and not is_library(found):
            yield from ((f"{name}.{word}", parts(vars(found)[word])) for word in inner if word in vars(found))


def _is_own(key: str) -> bool:
    """Whether a class has this attribute from its author, not from Python or equinox."""
    return key == "__call__" or not (key.startswith("__") or key == "_abc_impl")
