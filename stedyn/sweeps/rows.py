"""Rows of a sweep: reading a table, checking every row, computing one, keeping its result.

A column is a key of a problem file, such as ``rule.lr``, or one of ``what``, ``law``, ``dim``, ``seeds``
and ``seed``. An empty cell leaves the value of the problem file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..checks import Failure, InputError, choice, whole
from ..code.fingerprint import fingerprint, is_library
from ..files.frames import read_frame
from ..files.report import to_json, write_json
from ..files.tables import TABLES, known_keys, set_value, toml_value
from ..limit.laws.registry import has_densities, names

#: What can be computed, and the columns and options that go with it.
WHAT: dict[str, tuple[str, ...]] = {
    "predict": ("law",),
    "simulate": ("dim", "seeds", "seed"),
    "compare": ("law", "dim", "seeds", "seed"),
    "fixed-point": (),
}
_DEFAULTS = {"law": "auto", "dim": 3000, "seeds": 4, "seed": 0}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: its number from 1, its cells as given, and everything that its result depends on.

    ``job`` is plain (tables, numbers, strings), so that it can be sent to any machine. Rows with equal jobs share
    one result, wherever they stand.
    """

    number: int
    cells: dict[str, Any]
    job: dict[str, Any]

    @property
    def key(self) -> str:
        """Hash of the job."""
        return hashlib.sha256(to_json(self.job).encode()).hexdigest()[:16]

    def file(self, out: Path) -> Path:
        """Where its result is kept."""
        return out / f"{self.key}.json"

    def log(self, out: Path) -> Path:
        """Where the traceback of a bug is kept."""
        return out / f"{self.key}.traceback.txt"


class Outcome(NamedTuple):
    """What came of a job: its record, or else why not, in one sentence; of a bug also the traceback."""

    record: dict[str, Any] | None
    failure: str | None = None
    traceback: str | None = None


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file, without their empty cells; a value is read as TOML, a bare word is a string.

    Raises
    ------
    ValueError
        If the file is missing or is no table.
    """
    rows = read_frame(path, "table").to_dict("records")
    return [{name: _value(text) for name, text in row.items() if text} for row in rows]


def _value(text: str) -> Any:
    try:
        return toml_value(text)
    except InputError:
        return text


def check_rows(source: str, rows: list[dict[str, Any]], tables: dict[str, Any], folder: Path, what: str):
    """The rows, laid over the tables of a problem, every one checked.

    Raises
    ------
    ValueError
        At the first fault: one sentence with the source, the row and the column.
    """
    if not rows:
        raise InputError(f"{source}: expected at least one row, found none; add one.")
    checked = []
    for number, cells in enumerate(rows, 1):
        try:
            checked.append(Row(number, cells, _job(cells, tables, folder, what)))
        except InputError as error:
            raise InputError(f"{source}, row {number}: {error}") from None
    return checked


def _job(cells: dict[str, Any], tables: dict[str, Any], folder: Path, what: str) -> dict[str, Any]:
    from ..files.problems import problem_from_dict
    from ..files.writing import problem_to_dict

    what = choice("what", cells.get("what", what), tuple(WHAT))
    options = {name: cells.get(name, _DEFAULTS[name]) for name in WHAT[what]}
    # a kind before what goes with it
    for name in sorted(cells, key=lambda name: not name.endswith(".kind")):
        table, dot, key = name.partition(".")
        if name == "what" or name in options:
            continue
        if name in _DEFAULTS:
            raise InputError(f"{name}: does not go with what = {what!r}; leave the cell empty.")
        if not dot or table not in TABLES or key not in known_keys(table):
            known = ", ".join(["what", *_DEFAULTS])
            raise InputError(
                f"unknown column {name!r}: expected TABLE.KEY of a problem file or one of {known}; rename it."
            )
        tables = set_value(tables, table, key, cells[name])
    problem = problem_from_dict(tables, folder=folder)
    if "law" in options:
        choice("law", options["law"], names())
    if "dim" in options:
        whole("dim", options["dim"], 2, 2**29)
        problem.rule.check_dim(options["dim"])
        whole("seeds", options["seeds"], 1)
        whole("seed", options["seed"], 0, 2**32 - options["seeds"])
    plain = problem_to_dict(problem)
    for name, content in plain.items():
        if "path" in content:  # the machine that computes need not have the file
            plain[name] = {"kind": content["kind"], "values": getattr(problem, name).data.values.tolist()}
    job = {"what": what, "problem": plain, **options, "versions": _versions()}
    if not is_library(type(problem.rule)):  # entered in RULES: its kind does not tell what it does
        job["code"] = fingerprint("rule", type(problem.rule))
    return job


def _versions() -> dict[str, str]:
    """Versions of what computes: stedyn and the libraries that make the numbers."""
    return {"stedyn": __version__} | {name: metadata.version(name) for name in ("jax", "diffrax")}


def compute(job: dict[str, Any], threads: int) -> Outcome:
    """The outcome of a job. It raises nothing: a bug is an outcome, too, with its traceback."""
    from ..files.problems import problem_from_dict

    try:
        return Outcome(_COMPUTE[job["what"]](problem_from_dict(job["problem"]), job, threads))
    except (InputError, Failure) as error:
        return Outcome(None, str(error))
    except Exception as error:
        return bug(error)


def bug(error: Exception) -> Outcome:
    """The outcome of an exception that is no fault of the input."""
    lines = str(error).strip().splitlines() or ["it says no more"]
    return Outcome(
        None, f"bug: {type(error).__name__}: {lines[0]}", "".join(traceback.format_exception(error))
    )


def _predict(problem, job, threads):
    from ..limit.solver import solve

    return solve(problem, law=job["law"]).to_dict()


def _simulate(problem, job, threads):
    return _ensemble(problem, job, threads).to_dict()


def _ensemble(problem, job, threads):
    from ..simulation import simulate

    return simulate(problem, dim=job["dim"], seeds=job["seeds"], seed=job["seed"], threads=threads)


def _compare(problem, job, threads):
    from ..comparison.comparison import compare
    from ..limit.solver import solve

    densities = [float(problem.taus[-1])] if has_densities(job["law"], problem) else None
    solution = solve(problem, law=job["law"], densities=densities)
    return compare(solution, _ensemble(problem, job, threads)).to_dict()


def _fixed_point(problem, job, threads):
    from ..limit.fixed_points import fixed_point
    from ..limit.solver import solve

    found = fixed_point(problem)  # refuses what has none before a curve is solved
    return found.beside(solve(problem, throw=False)).to_dict()


_COMPUTE = {
    "predict": _predict, "simulate": _simulate, "compare": _compare, "fixed-point": _fixed_point
}  # fmt: skip


def write_result(row: Row, out: Path, record: dict[str, Any]) -> None:
    """Write a result with what it is the result of, and a checksum."""
    content = row.job | {"result": record}
    write_json(row.file(out), content | {"sha256": _checksum(content)})


def read_result(row: Row, out: Path) -> dict[str, Any] | None:
    """The record of a row; None if there is no file or if it is damaged."""
    try:
        content = json.loads(row.file(out).read_bytes())
        found = content.pop("sha256")
        return content["result"] if found == _checksum(content) else None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """The single values of a record, of its curves the last, of its plateaus the first and the longest."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if name == "plateaus":
            found |= _plateaus(value)
        elif isinstance(value, dict):
            found |= {f"{name}.{key}": item for key, item in value.items()}
        elif isinstance(value, (list, tuple)):
            if name in ("error_mean", "error_std"):
                found[f"final_{name}"] = value[-1]
        else:
            found[name] = value
    return found


def _plateaus(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Their number, whether the last is open, and the first and the longest of those that end."""
    ended = [plateau for plateau in found if plateau["length"] is not None]
    line: dict[str, Any] = {"plateaus": len(found), "open_plateau": len(ended) < len(found)}
    chosen = {"first_plateau": ended[:1], "longest_plateau": sorted(ended, key=lambda p: -p["length"])[:1]}
    for name, plateaus in chosen.items():
        for key in ("escape", "length", "height"):
            line[f"{name}.{key}"] = plateaus[0][key] if plateaus else None
    return line
