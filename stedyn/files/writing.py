"""Problems as tables of TOML, which `stedyn.files.problems` reads back as equal ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..checks import PATH, checked, fail
from ..inputs.law import InputLaw
from ..inputs.samples import Samples
from ..problem.moving_range import MovingRange
from ..problem.phases import Phase
from ..problem.problem import Problem
from ..quantizers.formats import NAMED
from ..quantizers.quantizer import Quantizer
from ..rules import RULES, SCHEDULES, Rule, Schedule
from .tables import rule_parameters
from .whole import keep_samples, write_atomic


@checked(problem=Problem)
def problem_to_dict(problem: Problem) -> dict[str, Any]:
    """The tables of a problem, in plain Python numbers, strings and lists.

    Samples that came from a file are given by its ``path``, others as a list ``values``.

    Raises
    ------
    ValueError
        If a field holds an array of values (a sweep): a file describes one problem.
    """
    teacher, start, rule, run = problem.teacher, problem.start, problem.rule, problem.run
    covariance = problem.covariance
    name = {"constant": "value", "gaussian": "std", "rademacher": "scale"}.get(teacher.kind)
    own = {"gaussian": ("mean", "std"), "teacher": ("scale", "std")}.get(start.kind)
    tables: dict[str, dict[str, Any]] = {
        "teacher": _samples(teacher.data) if name is None else {name: teacher.scale},
        "start": _samples(start.data)
        or ({key: getattr(start, key) for key in own} if own else {"value": start.mean}),
        "noise": {"std": problem.noise_std},
        "weights": _weights_table(problem) | _range_rule_table(problem.range_rule),
        "inputs": _quantizer_table(problem.inputs) | _law_table(problem.input_law),
        "rule": _rule_table(rule),
        "covariance": _samples(covariance.data)
        | ({} if covariance.means is None else {"means": covariance.means})
        or {"exponent": covariance.exponent, "scale": covariance.scale},
        "channels": {} if problem.channels is None else vars(problem.channels),
        "run": {"tau": run.tau, "points": run.points} if run.explicit is None else {"taus": run.explicit},
    }
    if problem.ptq is not None:
        tables["ptq"] = _quantizer_table(problem.ptq)
    kinds = {"teacher": teacher.kind, "start": start.kind, "rule": rule.kind, "covariance": covariance.kind}
    plain = {table: {"kind": kinds[table]} if table in kinds else {} for table in tables}
    for table, content in tables.items():
        for key, value in content.items():
            if value is not None:
                plain[table][key] = _plain(f"{table}.{key}", value)
    if problem.model != "linear":
        plain["teacher"]["model"] = problem.model
    plain["rule"] = _without_defaults(plain["rule"])
    if plain["weights"] == {"kind": "none", "ste": "identity"}:
        del plain["weights"]
    if plain["inputs"] == {"kind": "none"}:
        del plain["inputs"]
    if problem.channels is None:
        del plain["channels"]
    if covariance.kind == "identity":
        del plain["covariance"]
    if problem.phases:
        plain["phase"] = [_phase_table(phase) for phase in problem.phases]  # type: ignore[assignment]
    return plain


def _phase_table(phase: Phase) -> dict[str, Any]:
    """A phase, with complete tables."""
    table: dict[str, Any] = {"from": phase.begin}
    if phase.weights is not None:
        table["weights"] = _weights_table(phase)
    if phase.inputs is not None:
        table["inputs"] = _quantizer_table(phase.inputs)
    if phase.rule is not None:
        table["rule"] = {"kind": phase.rule.kind, **_rule_table(phase.rule)}
    plain = _plain("phase", {key: value for key, value in table.items() if value is not None})
    return {
        key: _without_defaults(value) if isinstance(value, dict) else value for key, value in plain.items()
    }


def _weights_table(owner: Any) -> dict[str, Any]:
    """That of a problem or a phase."""
    return {**_quantizer_table(owner.weights), "ste": owner.ste, "latent_clip": owner.latent_clip}


def _without_defaults(table: dict[str, Any]) -> dict[str, Any]:
    """A table without what a file may leave out."""
    defaults: dict[str, Any] = {"batch": 1, "dampening": 0, "nesterov": False, "bias_correction": True}
    return {k: value for k, value in table.items() if value is not None and defaults.get(k, ...) != value}


def _rule_table(rule: Rule) -> dict[str, Any]:
    if RULES.get(rule.kind) is not type(rule):
        fail("rule", f"one of the kinds {', '.join(RULES)}", f"the class {type(rule).__name__}",
             "a rule defined in Python cannot be written to a problem file: keep the program that makes it, or enter "
             "the class in stedyn.rules.RULES under a kind of its own")  # fmt: skip
    return {key: _rule_value(rule, key) for key in rule_parameters(rule.kind)}


def _rule_value(rule: Rule, key: str) -> Any:
    """A parameter of a rule; schedules and quantizers as tables of their own."""
    value = getattr(rule, key)
    if isinstance(value, Quantizer):
        return {k: v for k, v in _quantizer_table(value).items() if v is not None}
    return _schedule_table(f"rule.{key}", value)


def _range_rule_table(rule: MovingRange | None) -> dict[str, Any]:
    if rule is None:
        return {}
    own = {
        f"range_{key}": _schedule_table(f"weights.range_{key}", value)
        for key, value in rule.parameters().items()
    }
    return {"range_rule": rule.kind} | own


def _schedule_table(name: str, value: Any) -> Any:
    """A schedule as a table; anything else as it is."""
    if not isinstance(value, Schedule):
        return value
    if value.kind not in SCHEDULES:
        known = f"one of the kinds {', '.join(SCHEDULES)}"
        fail(name, known, value.kind, "a file holds no function")
    return {"kind": value.kind} | {k: getattr(value, k) for k in value.parameters()}


def _law_table(law: InputLaw) -> dict[str, Any]:
    """What of a law of inputs differs from N(0, 1)."""
    table = {"law": law.kind, "mean": law.mean, "scale": law.scale, "centre": law.centre}
    default = {"law": "gaussian", "mean": 0.0, "scale": 1.0, "centre": False}
    return {key: value for key, value in table.items() if not np.all(value == default[key])} | _samples(
        law.data
    )


def _samples(data: Samples | None) -> dict[str, Any]:
    if data is None:
        return {}
    return {"values": data.values} if data.path is None else {"path": os.path.abspath(data.path)}


def _quantizer_table(quantizer: Quantizer) -> dict[str, Any]:
    plain = quantizer.is_none or quantizer.kind in NAMED
    edge = None if plain and quantizer.edge == "level" else quantizer.edge
    rounding = None if quantizer.is_none else quantizer.rounding
    range_ = None if quantizer.kind == "levels" else quantizer.range
    table = {"bits": quantizer.bits, "range": range_, "kind": quantizer.kind, "edge": edge}
    return {
        **table,
        "rounding": rounding,
        "levels": quantizer.explicit,
        "zero_point": quantizer.zero_point or None,
    }


def _plain(name: str, value: Any) -> Any:
    """A value as TOML and JSON can hold it."""
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        if value.ndim > 0 and not name.endswith((".values", ".means")):
            fail(
                name, "one value", f"an array of {value.size}", "write the problems of a sweep one at a time"
            )
        return np.asarray(value).tolist()
    if isinstance(value, dict):
        return {key: _plain(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(name, item) for item in value]
    return value


@checked(problem=Problem, path=PATH)
def save_problem(problem: Problem, path: str | os.PathLike) -> Path:
    """Write a problem as TOML, and samples that are in no file as ``.npy`` beside it.

    Raises
    ------
    ValueError
        If a field holds an array of values (see `problem_to_dict`).
    OSError
        If a file cannot be written; an old one stays as it was.
    """
    import tomli_w

    path = Path(path)
    tables = problem_to_dict(problem)
    for table, law in problem.measured.items():
        if (data := law.data) is not None:
            tables[table].pop("values", None)
            tables[table]["path"] = keep_samples(data, path, table)
    if problem.covariance.means is not None:
        tables["covariance"]["means"] = keep_samples(Samples(problem.covariance.means), path, "means")
    return write_atomic(path, "# a problem of stedyn; tau = steps / d\n" + tomli_w.dumps(tables))
