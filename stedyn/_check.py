"""Checks of user input: each failure is one sentence that says what, where and how to mend it."""

from __future__ import annotations

import math
import numbers
import sys
from typing import NoReturn

import numpy as np


class InputError(ValueError):
    """A fault of the input, said in one sentence; every other exception is a bug and shows its traceback."""


def is_traced(value) -> bool:
    """Whether a value is known only inside a JAX transformation, so that it cannot be checked."""
    jax = sys.modules.get("jax")  # not imported here: the command line checks its files without it
    return jax is not None and isinstance(value, jax.core.Tracer)


def fail(name: str, expected: str, found, mend: str) -> NoReturn:
    """Raise the `InputError` of a bad argument."""
    raise InputError(f"{name}: expected {expected}, found {found!r}; {mend}.")


def finite(name: str, value):
    """A finite number, returned as it is if traced and as a float otherwise."""
    if is_traced(value):
        return value
    if hasattr(value, "ndim") and hasattr(value, "dtype"):
        if value.ndim > 0:
            return _array(name, value)
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        fail(name, "a finite number", value, "give one")
    return float(value)


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
    if value not in options:
        fail(name, "one of " + ", ".join(repr(o) for o in options), value, "choose one of these")
    return value
