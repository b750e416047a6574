"""The check of arrays that jaxtyping's import hook puts on every function of stedyn."""

import re

from beartype import beartype

ARRAYS = re.compile(r"\b(Float|Int|UInt|Bool|Complex|Num|Real|Shaped|Inexact|Key)\d*\[")


def shapes(function):
    """A function whose arrays are checked for shapes and kinds; of all else a user enters, stedyn says what is wrong."""
    hints = getattr(function, "__annotations__", {})
    arrays = {name: hint for name, hint in hints.items() if ARRAYS.search(str(hint))}
    if not arrays:
        return function
    function.__annotations__ = arrays
    return beartype(function)
