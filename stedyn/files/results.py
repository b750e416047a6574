"""Results in files: a NumPy archive with one entry of JSON and one for every array (``docs/results.md``)."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import __version__
from ..checks import PATH, InputError, checked, fail, in_float64, is_traced
from ..drawing.shown import Shown
from ..problem.problem import Problem
from .problems import problem_from_dict
from .tensors import read_tensors
from .whole import write_atomic
from .writing import problem_to_dict

#: Number of the format, and the name of its entry of JSON. The number grows when older programs cannot read it.
FORMAT, ENTRY = 1, "result.json"
#: Records that a file may hold, and their modules. Rooms above this one are named here, not imported.
RECORDS = {
    "Solution": "limit.solution",
    "Densities": "limit.solution",
    "Status": "limit.solution",
    "Steps": "curves.dense",
    "Spread": "limit.spread",
    "FixedPoint": "limit.fixed_points",
    "Searched": "limit.roots",
    "Ensemble": "simulation.ensemble",
    "Measured": "comparison.measured",
    "Comparison": "comparison.comparison",
    "Gaps": "comparison.gaps",
    "Plateau": "curves.plateaus",
    "PlateauPair": "comparison.pairs",
    "Histogram": "comparison.histogram",
    "Verdict": "comparison.verdict",
    "Part": "comparison.verdict",
    "Choices": "design.choices",
    "Choice": "design.choices",
    "Baseline": "design.choices",
    "Simulated": "design.choices",
    "Objective": "curves.objectives",
    "RangeMap": "design.maps",
}
_ROOT = __name__.partition(".")[0]


class Result(Shown):
    """Base of results that can be saved: `stedyn.load` gives back what `save` wrote."""

    def save(self, path: str | os.PathLike) -> Path:
        """Write the result to an ``.npz`` file, the problem included; an old file stays until the new one is whole.

        Raises
        ------
        InputError
            If the name does not end in ``.npz``, or if the result holds what no file can: a rule or a schedule defined
            in Python, or values known only inside a JAX transformation.
        OSError
            If the file cannot be written.
        """
        return _save(self, path)


@checked(path=PATH)
def _save(result: Result, path: str | os.PathLike) -> Path:
    if Path(path).suffix != ".npz":
        fail("path", "a file ending in .npz", str(path), "rename it")
    entries: dict[str, Any] = {}
    head = {"format": FORMAT, "stedyn": __version__, "result": _encoded("result", result, entries)}
    entries[ENTRY] = np.array(json.dumps(head))
    return write_atomic(path, lambda file: np.savez(file, **entries))


@checked(path=PATH)
@in_float64
def load(path: str | os.PathLike) -> Result:
    """The result in a file that `Solution.save` or the ``save`` of another result wrote; its arrays are NumPy's.

    Raises
    ------
    InputError
        If the file is missing or damaged, is no result of stedyn, or was written by a newer one; one sentence.
    """
    tensors = read_tensors(path)
    if ENTRY not in tensors or (text := tensors[ENTRY]).dtype.kind != "U" or text.ndim:
        fail("file", "a result saved by stedyn", f"{path}, another file", "name one that .save(...) wrote")
    try:
        head = json.loads(str(text))
        number, writer, record = head["format"], head["stedyn"], head["result"]
    except (ValueError, KeyError, TypeError, RecursionError):
        _damaged(path)
    if number != FORMAT:
        raise InputError(
            f"{path}: has format {number} of stedyn {writer}, this stedyn ({__version__}) reads {FORMAT}; update it."
        )
    try:
        result = _decoded(record, tensors.__getitem__)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        _damaged(path)
    return result if isinstance(result, Result) else _damaged(path)


def _damaged(path):
    fail("file", "a whole result of stedyn", f"{path} (its parts do not fit together)", "save it again")


def _encoded(name: str, value: Any, arrays: dict[str, Any]) -> Any:
    """A value as JSON: what JSON has as it is, the rest as an object of one key, which says what it is."""

    def inner(key: str, item: Any) -> Any:
        return _encoded(f"{name}.{key}", item, arrays)

    if value is None or isinstance(value, (bool, int, str)):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.ma.MaskedArray):
        return {"masked": [inner("data", value.data), inner("mask", np.ma.getmaskarray(value))]}
    if (
        isinstance(value, (np.ndarray, np.generic, jax.Array))
        and not is_traced(value)
        and value.dtype != object
    ):
        arrays[name] = np.asarray(value)
        return {"number" if isinstance(value, np.generic) else "array": name}
    if isinstance(value, Problem):
        return {"problem": _tables(inner, value)}
    if _is_record(value):
        fields = getattr(value, "_fields", None) or [f.name for f in dataclasses.fields(value)]
        return {type(value).__name__: {field: inner(field, getattr(value, field)) for field in fields}}
    if type(value) in (list, tuple):
        return {type(value).__name__: [inner(str(n), item) for n, item in enumerate(value)]}
    if type(value) is dict:
        return {"dict": [[inner("key", key), inner(str(key), item)] for key, item in value.items()]}
    fail(
        name,
        "a number, an array or a record of stedyn",
        value,
        "a file holds no other; save a result outside jit",
    )


def _is_record(value: Any) -> bool:
    kind = type(value)
    return f"{_ROOT}.{RECORDS.get(kind.__name__)}" == kind.__module__


def _tables(inner, problem: Problem) -> Any:
    """The tables of a problem file, with the numbers of samples beside the names of the files they came from."""
    tables: dict[str, Any] = problem_to_dict(problem)
    for table, law in problem.measured.items():
        if (data := law.data) is not None:
            tables[table] |= {"values": np.asarray(data.values), "path": data.path}
    return inner("tables", tables)


def _problem(tables: dict[str, Any]) -> Problem:
    paths = {}
    for name, table in tables.items():
        if isinstance(table, dict) and isinstance(table.get("values"), np.ndarray):
            paths[name], table["values"] = table.pop("path"), table["values"].tolist()
    problem = problem_from_dict(tables)
    for name, path in paths.items():
        object.__setattr__(problem.measured[name].data, "path", path)
    return problem


def _decoded(value: Any, array: Callable[[str], np.ndarray]) -> Any:
    """What `_encoded` was given, with arrays of JAX as those of NumPy."""
    inner = functools.partial(_decoded, array=array)
    if isinstance(value, list):
        raise TypeError("a bare list")
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "float":
        return float(content)
    if kind == "array":
        return array(content)
    if kind == "number":
        return array(content)[()]
    if kind == "masked":
        return np.ma.MaskedArray(*map(inner, content))
    if kind == "problem":
        return _problem(inner(content))
    if kind == "list":
        return list(map(inner, content))
    if kind == "tuple":
        return tuple(map(inner, content))
    if kind == "dict":
        return {inner(key): inner(item) for key, item in content}
    record = getattr(importlib.import_module(f"{_ROOT}.{RECORDS[kind]}"), kind)
    return record(**{name: inner(item) for name, item in content.items()})
