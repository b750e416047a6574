"""The tables and keys of a problem file: which exist, which go together, and how to change one."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterable
from typing import Any

from ..checks import InputError, check_known, choice, fail
from ..problem.moving_range import MEASURED, PARAMETERS
from ..quantizers.formats import NAMED
from ..quantizers.quantizer import FIXED_BITS, KINDS
from ..rules import RULES
from ..rules.memory import check_momentum

_LATTICE = ("bits", "range", "edge", "rounding")
_QUANTIZER: dict[str | None, tuple[str, ...]] = dict.fromkeys(KINDS, _LATTICE)
_QUANTIZER |= {
    **dict.fromkeys(NAMED, ("bits", "range", "rounding")),
    "unsigned": (*_LATTICE, "zero_point"),
    "levels": ("levels", *_LATTICE),
    "none": ("range", "edge"),
}
_STE = ("ste", "latent_clip", "range_rule", *(f"range_{key}" for key in PARAMETERS))
_FILE = ("path", "values", "tensor", "normalise")
_LAW = ("law", "mean", "scale", "centre", "path", "values")
#: Keys of every table but [rule], by its kind; tables without a kind have one entry under None.
_KEYS: dict[str, dict[str | None, tuple[str, ...]]] = {
    "teacher": {
        "constant": ("value", "model"),
        "gaussian": ("std", "model"),
        "rademacher": ("scale", "model"),
        "file": (*_FILE, "model"),
    },
    "start": {
        "gaussian": ("mean", "std"),
        "constant": ("value",),
        "file": _FILE,
        "teacher": ("scale", "std"),
    },
    "noise": {None: ("std",)},
    "weights": {kind: keys + _STE for kind, keys in _QUANTIZER.items()},
    "inputs": {kind: keys + _LAW for kind, keys in _QUANTIZER.items()},
    "ptq": {kind: keys for kind, keys in _QUANTIZER.items() if kind != "none"},
    "covariance": {
        "identity": (),
        "power-law": ("exponent", "scale"),
        "file": ("path", "values", "tensor", "means"),
    },
    "channels": {None: ("teacher", "range", "start", "shares")},
    "run": {None: ("tau", "points", "taus")},
}
_DEFAULT_KIND = {
    "teacher": "constant",
    "start": "gaussian",
    "weights": "mid-rise",
    "inputs": "mid-rise",
    "ptq": "mid-rise",
    "rule": "sgd",
    "covariance": "identity",
}
#: Tables that a phase may have.
PHASE_TABLES = ("weights", "inputs", "rule")
TABLES = ("teacher", "start", "noise", "weights", "inputs", "rule", "covariance", "channels", "run", "ptq")


#: What a command computes when it is given no problem file: setting R1.
DEFAULT_TABLES: dict[str, dict[str, Any]] = {
    "teacher": {"kind": "constant", "value": 1.0},
    "start": {"kind": "gaussian", "mean": 0.0, "std": 1.0},
    "weights": {"bits": 2, "range": 2.0},
    "inputs": {"bits": 2, "range": 2.0},
    "rule": {"kind": "sgd", "lr": 0.1},
    "run": {"tau": 100.0, "points": 201},
}
#: What a layer of a file is trained in: inputs that are not quantized, labels with noise.
LAYER_TABLES = {name: table for name, table in DEFAULT_TABLES.items() if name != "inputs"} | {
    "noise": {"std": 0.1}
}
#: What the commands about plateaus start from: mid-tread weights that start near 0; they add a run.
PLATEAU_TABLES: dict[str, dict[str, Any]] = {
    "teacher": {"kind": "constant", "value": 1.0},
    "start": {"kind": "gaussian", "mean": 0.0, "std": 0.02},
    "noise": {"std": 0.1},
    "weights": {"kind": "mid-tread", "bits": 2, "range": 1.0},
    "rule": {"kind": "sgd", "lr": 0.02},
}


def rule_parameters(kind: str) -> dict[str, inspect.Parameter]:
    """The parameters of the rule of this kind, which are its keys in ``[rule]``."""
    return dict(inspect.signature(RULES[kind]).parameters)


def keys_of(table: str, kind: Any) -> tuple[str, ...] | None:
    """Keys of a table of this kind, without ``kind``; None if there is no such kind."""
    if not isinstance(kind, (str, type(None))):
        return None
    if table == "rule":
        return tuple(rule_parameters(kind)) if kind in RULES else None
    return _KEYS[table].get(kind)


def known_keys(table: str) -> tuple[str, ...]:
    """Every key that a table can have, whatever its kind."""
    kinds: list[Any] = list(RULES) if table == "rule" else list(_KEYS[table])
    found = dict.fromkeys(key for kind in kinds for key in keys_of(table, kind) or ())
    return ("kind", *found) if table in _DEFAULT_KIND else tuple(found)


def checked_tables(tables: Any) -> dict[str, dict[str, Any]]:
    """A copy with every table present, every ``kind`` set, and no key that would be ignored.

    Raises
    ------
    ValueError
        At the first table or key that is unknown, or that does not go with its kind.
    """
    if not isinstance(tables, dict):
        fail("problem", "tables", tables, "give a dictionary of dictionaries")
    for table, content in tables.items():
        check_known("table", table, (*TABLES, "phase"))
        if table != "phase" and not isinstance(content, dict):
            fail(table, "a table", content, f"write [{table}] and its keys below it")
    return {table: _checked(table, dict(tables.get(table, {}))) for table in TABLES}


def checked_phases(tables: dict[str, Any]) -> list[dict[str, Any]]:
    """The phases of a problem with complete tables, every ``kind`` set, and no key that would be ignored.

    A table of a phase that has no ``kind`` changes keys of the phase before; one that has is complete.

    Raises
    ------
    ValueError
        At the first fault, with the number of the phase; the first is that of the other tables.
    """
    phases = tables.get("phase", [])
    if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
        fail("phase", "tables", phases, "write [[phase]] and its keys below it")
    now = {name: dict(tables.get(name, {})) for name in PHASE_TABLES}
    checked = []
    for number, phase in enumerate(phases, 2):
        for key in phase:
            check_known(f"key of [[phase]] {number}", key, ("from", *PHASE_TABLES))
        if "from" not in phase:
            fail(f"phase {number}: from", "the time tau at which the phase begins", None, "set it")
        found = {"from": phase["from"]}
        for name in PHASE_TABLES:
            if name in phase:
                now[name] = _following(f"phase {number}: {name}", name, now[name], phase[name])
                found[name] = _checked(name, dict(now[name]))
        checked.append(found)
    return checked


def _following(where: str, table: str, before: dict[str, Any], content: Any) -> dict[str, Any]:
    """A table of a phase, after that of the phase before."""
    if not isinstance(content, dict):
        fail(where, "a table", content, f"write [phase.{table}] and its keys below it")
    if table == "inputs":
        before = {key: value for key, value in before.items() if key not in _LAW}
        for key in content:
            if key in _LAW:
                fail(f"{where}.{key}", "a quantizer alone (the law of the inputs is one for all phases)",
                     content[key], "set it in [inputs]")  # fmt: skip
    complete = "kind" in content or before.get("kind") == "none"
    return dict(content) if complete else {**before, **content}


def _checked(table: str, content: dict[str, Any]) -> dict[str, Any]:
    for key in content:
        check_known(f"key of [{table}]", key, known_keys(table))
    if table not in _DEFAULT_KIND:
        return content
    kinds: Iterable[Any] = RULES if table == "rule" else _KEYS[table]
    default = _DEFAULT_KIND[table]
    if table == "inputs" and content and not content.keys() - {*_LAW}:  # a law alone: not quantized
        default = "none"
    kind = choice(f"{table}.kind", content.setdefault("kind", default), tuple(kinds))
    allowed = keys_of(table, kind) or ()
    for key in content:
        if key != "kind" and key not in allowed:
            if table == "rule":
                check_momentum(kind, [key], allowed)
            takes = ", ".join(allowed) or "no other key"
            raise InputError(
                f"{table}.{key}: does not go with kind = {kind!r}, which takes {takes}; remove it."
            )
    return content


def set_value(tables: dict[str, Any], table: str, key: str, value: Any) -> dict[str, Any]:
    """A copy of ``tables`` with ``tables[table][key] = value``.

    A new ``kind`` drops the keys that it does not take (and the bits, for kinds of fixed bits);
    ``run.tau`` and ``run.points`` replace ``run.taus`` and the reverse.
    """
    content = dict(tables.get(table, {}))
    if key == "kind" and value != content.get("kind", _DEFAULT_KIND[table]):
        allowed = keys_of(table, value)
        fixed = ("bits",) if isinstance(value, str) and value in FIXED_BITS else ()
        if allowed is not None:
            content = {name: old for name, old in content.items() if name in allowed and name not in fixed}
    if (table, key) == ("weights", "range_rule") and value in MEASURED:
        content.pop("range", None)
    if table == "run":
        for name in ("tau", "points") if key == "taus" else ("taus",):
            content.pop(name, None)
    return {**tables, table: {**content, key: value}}


def toml_value(text: str) -> Any:
    """The value that a text is in TOML; an InputError if it is none, as numbers of thousands of digits are not."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        raise InputError("expected a TOML value") from None


def set_key(tables: dict[str, Any], assignment: str) -> dict[str, Any]:
    """A copy of ``tables`` with one key changed, such as ``"rule.lr=0.1"`` (see `set_value`).

    The value is read as TOML; a bare word is a string.

    Raises
    ------
    ValueError
        If the text is not ``TABLE.KEY=VALUE``, or the table or the key is unknown.

    Examples
    --------
    >>> set_key({"rule": {"lr": 0.1}}, "rule.lr=0.2")
    {'rule': {'lr': 0.2}}
    """
    match = re.fullmatch(r"\s*([^.=\s]+)\.([^.=\s]+)\s*=\s*(\S(?:.*\S)?)\s*", assignment)
    if match is None:
        fail("--set", "TABLE.KEY=VALUE", assignment, "write for example --set rule.lr=0.1")
    table, key, text = match.groups()
    check_known("table", table, TABLES)
    check_known(f"key of [{table}]", key, known_keys(table))
    try:
        value = toml_value(text)
    except InputError:
        if re.search(r"[\s\"'\[\]{}=,]", text):
            fail("--set", "a TOML value", text, "quote text, and write lists as [1, 2]")
        value = text
    return set_value(tables, table, key, value)
