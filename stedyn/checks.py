"""Checks of user input: each failure is one sentence that says what, where and how to fix it."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar, cast

import numpy as np


def printable(text: str) -> str:
    """Text for a terminal: line ends stay, control characters are written as Python writes them."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def shortened(message: str) -> str:
    """A message whose quotations are cut where it is too long, without control characters."""
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE // 2]} ... {message[-_LONGEST_MESSAGE // 4 :]}"
    return printable(message)


class InputError(ValueError):
    """A fault of the input, said in one sentence; every exception but this and `Failure` is a bug.

    What it quotes is cut where it is long, and shows no control characters.
    """

    def __init__(self, message: str = ""):
        super().__init__(shortened(message))


class Notice(RuntimeWarning):
    """A warning to the user, said in one sentence; the command line shows no others."""


class UnknownKeyword(InputError, TypeError):
    """A keyword argument that a function or a record does not take."""


class Failure(Exception):
    """A computation of valid input that could not be completed; the message says why."""


#: What other programs and papers call some of the parameters.
_OTHER_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("eta", "mu", "alpha", "learning_rate", "step_size"), ("lr", "lrs")),
    **dict.fromkeys(("bit_width", "n_bits", "num_bits", "wl"), ("bits",)),
    **dict.fromkeys(("bound", "clip", "max_val", "threshold"), ("range", "ranges")),
    **dict.fromkeys(("sigma", "noise_std"), ("std", "noise_std")),
    **dict.fromkeys(("d", "n", "dimension"), ("dim",)),
    **dict.fromkeys(("of", "quantity"), ("objective",)),
    **dict.fromkeys(("beta2", "betas"), ("memory",)),
}
#: Types of the name of a file or a folder.
PATH = (str, os.PathLike)
_LONGEST = 200  # characters of a value in a message
_LONGEST_MESSAGE = 2000  # characters
_F = TypeVar("_F", bound=Callable[..., Any])


def is_traced(value) -> bool:
    """Whether a value is known only inside a JAX transformation, so that it cannot be checked."""
    jax = sys.modules.get("jax")  # not imported here: the command line checks its files without it
    return jax is not None and isinstance(value, jax.core.Tracer)


def any_traced(*parts) -> bool:
    """Whether a leaf of pytrees is known only inside a JAX transformation."""
    jax = sys.modules.get("jax")
    return jax is not None and any(map(is_traced, jax.tree.leaves(parts)))


def array_of(value):
    """An array: of NumPy, for which nothing is compiled, but as it is where it is traced."""
    return value if is_traced(value) else np.asarray(value)


def fail(name: str, expected: str, found, fix: str) -> NoReturn:
    """Raise the `InputError` of a bad argument."""
    shown = " ".join(repr(found).split())
    if len(shown) > _LONGEST:
        shown = f"{shown[:_LONGEST]}..."
    raise InputError(f"{name}: expected {expected}, found {shown}; {fix}.")


def check_known(what: str, name: Any, known: Iterable[str], error: type[InputError] = InputError) -> None:
    """Refuse a name that is not known, with the known one that was probably meant."""
    known = list(known)
    if name in known:
        return
    close = [other for other in _OTHER_NAMES.get(name, ()) if other in known]
    close = close or difflib.get_close_matches(str(name)[:_LONGEST], known, n=1, cutoff=0.5)
    fix = f"did you mean {close[0]!r}?" if close else "remove it."
    raise error(f"unknown {what} {name!r}: expected one of {', '.join(known)}; {fix}")


def check_keywords(owner: str, function: Callable, given: dict[str, Any]) -> None:
    """Refuse keyword arguments that a function does not take; ``owner`` is its name for the message."""
    if not given:
        return
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.name not in ("self", "cls")]
    for name in given:
        check_known(f"argument of {owner}", name, known, UnknownKeyword)


def checked(**kinds: type | tuple[type, ...]) -> Callable[[_F], _F]:
    """Decorator of a public function: arguments of these types, or None where it is the default, and no others.

    What does not fit is an `InputError`, and what Python itself says well (a missing argument) a TypeError.
    """

    def decorate(function: _F) -> _F:
        parameters = inspect.signature(function).parameters
        owner = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def run(*args, **given):
            check_keywords(owner, function, given)
            for name, value in [*zip(parameters, args, strict=False), *given.items()]:
                default = value is None and parameters[name].default is None
                if name in kinds and not default and not isinstance(value, kinds[name]):
                    optional = " or None" if parameters[name].default is None else ""
                    fail(name, _names(kinds[name]) + optional, value, f"give one to {owner}")
            return function(*args, **given)

        return cast(_F, run)

    return decorate


def in_float64(function: _F) -> _F:
    """Decorator of a function that computes with 64-bit floats whatever JAX's flag is, which stays as it is.

    The flag belongs to a thread: see `same_floats`. Arrays that the function hands out have to be NumPy's: JAX rounds
    its own to 32 bits in most of what is done with them while the flag is off.
    """

    @functools.wraps(function)
    def run(*args, **given):
        import jax  # not at the top: see `is_traced`

        if not jax.config.read("jax_enable_x64") and any_traced(args, given):
            raise InputError(
                f"{function.__qualname__}: expected 64-bit floats inside a JAX transformation (jit, grad, vmap), found "
                "32-bit ones; put it into `with jax.enable_x64(True):`."
            )
        with jax.enable_x64(True):
            return function(*args, **given)

    return cast(_F, run)


def same_floats(function: _F) -> _F:
    """The function, to be run in another thread with the floats (64 or 32 bits) of this one."""
    import jax

    wide = jax.config.read("jax_enable_x64")

    @functools.wraps(function)
    def run(*args, **given):
        with jax.enable_x64(wide):
            return function(*args, **given)

    return cast(_F, run)


def _names(kinds: type | tuple[type, ...]) -> str:
    if kinds is PATH:
        return "a path"
    names = [kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
    return " or ".join(f"{'an' if name[0] in 'AEIOU' else 'a'} {name}" for name in names)


def several(name: str, values: Any) -> tuple:
    """The entries of a list, a tuple or an array."""
    if (
        isinstance(values, (str, bytes, dict))
        or not isinstance(values, Iterable)
        or getattr(values, "ndim", 1) == 0
    ):
        fail(name, "a list", values, f"write {name}=[...], also for one value")
    return tuple(values)


def array(name: str, values: Any) -> np.ndarray:
    """Numbers as an array of floats, of any shape."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        fail(name, "numbers", values, "give a list or an array of them")


def finite(name: str, value):
    """A finite number, returned as it is if traced and as a float otherwise."""
    if is_traced(value):
        return value
    if hasattr(value, "ndim") and hasattr(value, "dtype"):
        if value.ndim > 0:
            return _array(name, value)
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not _is_finite(value):
        fail(name, "a finite number", value, "give one")
    return float(value)


def _is_finite(value: numbers.Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def _array(name: str, value):
    if not np.issubdtype(value.dtype, np.floating) or not np.all(np.isfinite(value)):
        fail(name, "finite numbers", value, "give an array of floats without nan or inf")
    return value


def positive(name: str, value):
    """A finite number above zero."""
    value = finite(name, value)
    if not is_traced(value) and not np.all(np.asarray(value) > 0):
        fail(name, "a positive number", value, "give one above 0")
    return value


def flag(name: str, value: Any) -> bool:
    """True or false, and nothing that merely counts as such."""
    if not isinstance(value, (bool, np.bool_)):
        fail(name, "true or false", value, "give one of these")
    return bool(value)


def nonnegative(name: str, value):
    """A finite number, zero or above."""
    value = finite(name, value)
    if not is_traced(value) and not np.all(np.asarray(value) >= 0):
        fail(name, "zero or a positive number", value, "give one that is not negative")
    return value


def whole(name: str, value, low: int, high: int | None = None) -> int:
    """A whole number from ``low`` to ``high``."""
    bounds = (
        f"a whole number from {low} to {high}" if high is not None else f"a whole number of at least {low}"
    )
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        fail(name, bounds, value, "give one")
    number = int(value)
    if number < low or (high is not None and number > high):
        fail(name, bounds, value, "give one in these bounds")
    return number


def choice(name: str, value, options) -> str:
    """One of a few words."""
    if not isinstance(value, (str, int, type(None))) or value not in options:  # no array: its == is one
        fail(name, "one of " + ", ".join(repr(o) for o in options), value, "choose one of these")
    return cast(str, value)
