"""What the page shows: the tables of a problem, as texts of controls, as an address, and as a program."""

from __future__ import annotations

import dataclasses
import json
import pprint
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ..checks import InputError, fail, whole
from ..files.problems import problem_from_dict
from ..files.tables import PLATEAU_TABLES, keys_of, set_value, toml_value
from ..files.tables import TABLES as PROBLEM_TABLES
from ..files.writing import problem_to_dict
from ..problem.problem import Problem
from ..quantizers.quantizer import FIXED_BITS

#: What the page opens on: mid-tread weights that start near 0, on a plateau.
TABLES = PLATEAU_TABLES | {"run": {"tau": 80.0, "points": 201}}
#: What a new kind needs where it has no default.
NEEDED: dict[tuple[str, str], Any] = {
    ("weights", "bits"): 2,
    ("weights", "range"): 2.0,
    ("inputs", "bits"): 2,
    ("inputs", "range"): 2.0,
    ("rule", "delta"): 0.3,
    ("teacher", "std"): 1.0,
    ("start", "std"): 0.1,
}
#: Kinds of a rule whose lattice is given by delta.
_LATTICES = ("deterministic-rounding", "stochastic-rounding")
#: Most simulated weights of a view: ``dim * seeds``.
MOST = 10**8


@dataclasses.dataclass(frozen=True)
class View:
    """A problem as the tables of its file, and dimension and number of the runs to set beside it."""

    tables: dict[str, Any] = dataclasses.field(default_factory=lambda: TABLES)
    dim: int = 1000
    seeds: int = 4

    def __post_init__(self):
        whole("dim", self.dim, 2, 10**7)
        whole("seeds", self.seeds, 1, 1000)
        if self.dim * self.seeds > MOST:
            fail(
                "seeds",
                f"dim times seeds up to {MOST:,}",
                self.dim * self.seeds,
                "take fewer or smaller runs",
            )

    @classmethod
    def of(cls, problem: Problem) -> View:
        """The view of a problem that was read from a file."""
        return cls(problem_to_dict(problem))

    def problem(self) -> Problem:
        """The problem; InputError names the table and key at fault."""
        return problem_from_dict(self.tables)

    def kind(self, table: str) -> str:
        """The kind of a table, "none" for a quantizer without one."""
        content = self.tables.get(table, {})
        default = "identity" if table == "covariance" else "none"
        return content.get("kind", "mid-rise" if "bits" in content else default)

    def text(self, table: str, key: str) -> str:
        """The value of a key as a control shows it; empty where it is not set."""
        value = self.tables.get(table, {}).get(key)
        if value is None:
            return ""
        return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else _plain(value)

    def with_text(self, table: str, key: str, text: str) -> View:
        """The view after a control was set to a text; an empty one removes the key."""
        text = text.strip()
        if table == "page":
            return dataclasses.replace(self, **{key: _number(text)})
        if not text:
            content = {name: value for name, value in self.tables.get(table, {}).items() if name != key}
            return dataclasses.replace(self, tables={**self.tables, table: content})
        tables = set_value(self.tables, table, key, text if key == "kind" else _number(text))
        return dataclasses.replace(self, tables=_completed(tables, table) if key == "kind" else tables)

    def query(self) -> str:
        """The view as the query of an address."""
        tables = {name: json.dumps(table, separators=(",", ":")) for name, table in self.tables.items()}
        return "?" + urlencode({**tables, "dim": self.dim, "seeds": self.seeds})

    @classmethod
    def parse(cls, query: Mapping[str, str], start: View) -> View:
        """The view of an address, or ``start`` if it names none.

        Raises
        ------
        InputError
            If it is damaged, or names a file that ``start`` does not: an address that came with a link reads no files.
        """
        given = {
            name: text for name, text in query.items() if name in (*PROBLEM_TABLES, "phase", "dim", "seeds")
        }
        if not given:
            return start
        try:
            values = {name: json.loads(text) for name, text in given.items()}
        except (ValueError, RecursionError):
            raise InputError(
                "The address is damaged: expected tables as JSON; open the page without them."
            ) from None
        numbers = {name: values.pop(name) for name in ("dim", "seeds") if name in values}
        if set(_paths(values)) - set(_paths(start.tables)):
            raise InputError(
                "The address names a file, which only the command line may: start stedyn explore with the problem file."
            )
        return cls(values or start.tables, **numbers)

    def python(self) -> str:
        """A program that predicts the curve of the view and simulates it."""
        return (
            "from stedyn import compare, simulate, solve\n"
            "from stedyn.files.problems import problem_from_dict\n\n"
            f"problem = problem_from_dict(\n{pprint.pformat(self.tables, sort_dicts=False, width=88)}\n)\n"
            "solution = solve(problem)\n"
            f"ensemble = simulate(problem, dim={self.dim}, seeds={self.seeds})\n"
            "print(compare(solution, ensemble))\n"
        )

    def toml(self) -> str:
        """The problem file."""
        import tomli_w

        return "# a problem of stedyn; tau = steps / d\n" + tomli_w.dumps(self.tables)


def _plain(value: Any) -> str:
    """A value as TOML reads it back, a string without its quotes."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _number(text: str) -> Any:
    """The value of a text of TOML; other text stays what it is, for the problem to refuse."""
    try:
        return toml_value(text)
    except InputError:
        return text


def _completed(tables: dict[str, Any], table: str) -> dict[str, Any]:
    """The tables with what a new kind needs; a table of no quantizer is left out where nothing else is in it."""
    content = dict(tables[table])
    kind = content["kind"]
    for (name, key), value in NEEDED.items():
        needed = key != "delta" or kind in _LATTICES
        needed &= kind != "none" and not (key == "bits" and kind in FIXED_BITS)
        if name == table and needed and key in (keys_of(table, kind) or ()):
            content.setdefault(key, value)
    if kind == "none":
        content = {key: value for key, value in content.items() if key not in ("range", "edge")}
        if content in ({"kind": "none"}, {"kind": "none", "ste": "identity"}):
            return {name: other for name, other in tables.items() if name != table}
    if kind == "levels":
        content = {"kind": kind, "levels": content.get("levels", [-1.0, 0.0, 1.0])}
    return {**tables, table: content}


def _paths(value: Any) -> list[str]:
    """Names of files anywhere in the tables."""
    if isinstance(value, list):
        return [path for item in value for path in _paths(item)]
    if not isinstance(value, dict):
        return []
    own = [
        str(item)
        for key, item in value.items()
        if key == "path" or (key == "means" and isinstance(item, str))
    ]
    return own + [path for item in value.values() for path in _paths(item)]
