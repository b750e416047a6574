"""What the command line prints and writes: the conventions, JSON, CSV, figures."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..checks import in_float64
from ..quantizers.formats import NAMED
from .whole import write_atomic

if TYPE_CHECKING:
    import pandas as pd

    from ..problem.phases import Phase
    from ..problem.problem import Problem
    from ..quantizers.quantizer import Quantizer
    from ..rules import Rule

CONVENTIONS = "tau = steps / d; the error has no factor 1/2 and leaves the label noise out"


def versions() -> str:
    """Versions of everything a result depends on, in one line."""
    import jax
    import numpy

    python = platform.python_version()
    return f"stedyn {__version__}, python {python}, jax {jax.__version__}, numpy {numpy.__version__}"


@in_float64
def describe(problem: Problem, weights: Quantizer | None = None, teacher: str | None = None) -> str:
    """The problem in a few lines that name every convention its numbers depend on.

    With ``weights``, a quantizer whose bits and range are still to be chosen, its geometry stands for both. ``teacher``
    says what stands in the place of that of the problem.
    """
    from ..problem.phases import replaced
    from ..rules import SGD
    from .writing import problem_to_dict

    # no table holds a rule defined in Python
    tables = problem_to_dict(replaced(problem, rule=SGD(), phases=()))
    laws = {table: tables[table] for table in ("teacher", "start")}
    law, start = (_law(law) for law in laws.values())
    shown = (
        _quantizer(problem.weights)
        if weights is None
        else f"bits and range to be chosen, {_geometry(weights)}"
    )
    weights_line = shown + _estimator(problem)
    if problem.range_rule is not None:
        own = [
            f"{key} {_field(value)}"
            for key, value in problem.range_rule.parameters().items()
            if value is not None
        ]
        weights_line += f"; range: {problem.range_rule.kind} ({', '.join(own)})"
    channels = [
        f"{key} {', '.join(f'{x:g}' for x in values)}" for key, values in tables.get("channels", {}).items()
    ]
    if channels:
        weights_line += f"; {len(tables['channels']['shares'])} channels: {'; '.join(channels)}"
    lines = {
        "teacher": f"{law if teacher is None else teacher}; start {start}; label noise std {problem.noise_std:g}",
        "weights": weights_line,
        "inputs": _quantizer(problem.inputs) + _input_law(problem, tables) + _covariance(tables),
        "rule": _rule(problem.rule),
        **({} if problem.ptq is None else {"ptq": f"rounding without training: {_quantizer(problem.ptq)}"}),
        **{f"phase {number}": _phase(phase) for number, phase in enumerate(problem.phases, 2)},
        "units": CONVENTIONS,
    }
    return "\n".join(f"{name:<8} {text}" for name, text in lines.items())


def _phase(phase: Phase) -> str:
    """What changes, and when."""
    changes = []
    if phase.weights is not None:
        changes.append(f"weights {_quantizer(phase.weights)}{_estimator(phase)}")
    if phase.inputs is not None:
        changes.append(f"inputs {_quantizer(phase.inputs)}")
    if phase.rule is not None:
        changes.append(f"rule {_rule(phase.rule)}")
    return f"from tau = {phase.begin:g}: " + "; ".join(changes)


def _estimator(owner: Problem | Phase) -> str:
    clip = "" if owner.latent_clip is None else f", latent clip {owner.latent_clip:g}"
    return f"; straight-through estimator: {owner.ste}{clip}"


def _rule(rule: Rule) -> str:
    """Kind and fields; of a rule defined in Python the name of its class and the fields."""
    from ..rules import RULES

    name = rule.kind if RULES.get(rule.kind) is type(rule) else f"{type(rule).__name__} (defined in Python)"
    fields = {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}
    silent = (("batch", 1), ("dampening", 0), ("nesterov", False))
    shown = {key: value for key, value in fields.items() if value is not None and (key, value) not in silent}
    return ", ".join([name, *(f"{key} {_field(value)}" for key, value in shown.items())])


def _field(value: Any) -> str:
    """A field of a rule: a number, a quantizer, a schedule, or whatever a rule defined in Python has."""
    from ..quantizers.quantizer import Quantizer

    if isinstance(value, Quantizer):
        return f"({_quantizer(value)})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        rest = [f"{field.name} {_field(getattr(value, field.name))}" for field in dataclasses.fields(value)]
        return f"{getattr(value, 'kind', type(value).__name__)} ({', '.join(rest)})"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return _number(value.tolist() if hasattr(value, "tolist") else value)


def _input_law(problem: Problem, tables: dict[str, Any]) -> str:
    """The law of inputs that are not standard normal, and what becomes of its mean."""
    law = problem.input_law
    if law.standard and not law.centre:
        return ""
    rest = [f"{key} {value:g}" for key, value in (("mean", law.mean), ("scale", law.scale))]
    found = "" if law.data is None else f" {_number(tables['inputs'].get('path', list(law.data.values)))}"
    means = {"zero": "no mean", "removed": "means taken off", "kept": "with their means"}[problem.means]
    return f"; {law.kind}{found}, {', '.join(rest)}, {means}"


def _covariance(tables: dict[str, Any]) -> str:
    return f"; variances {_law(tables['covariance'])}" if "covariance" in tables else ""


def _law(table: dict[str, Any]) -> str:
    rest = ", ".join(f"{key} {_number(value)}" for key, value in table.items() if key != "kind")
    return f"{table['kind']} ({rest})"


def _number(value: Any) -> str:
    if isinstance(value, list):
        return f"of {len(value)} numbers"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _quantizer(quantizer: Quantizer) -> str:
    if quantizer.is_none:
        return "not quantized"
    if quantizer.explicit is not None:
        return (
            f"levels {', '.join(f'{level:g}' for level in quantizer.explicit)}; {quantizer.rounding} rounding"
        )
    bits = f"{quantizer.bits} bit{'s' if quantizer.bits != 1 else ''}"
    return f"{bits}, range {quantizer.range:g}, {_geometry(quantizer)}"


def _geometry(quantizer: Quantizer) -> str:
    zero = f", zero point {quantizer.zero_point}" if quantizer.zero_point else ""
    edge = "" if quantizer.kind in NAMED else f", {quantizer.edge} edge"
    return f"{quantizer.kind}{zero}{edge}, {quantizer.rounding} rounding"


def to_json(record: dict[str, Any]) -> str:
    """One JSON object; what is not finite becomes null."""
    return json.dumps(_finite(record), allow_nan=False)


def _finite(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, record: dict[str, Any]) -> Path:
    """Write `to_json` and a line end."""
    return write_atomic(path, to_json(record) + "\n")


def write_csv(path: Path, frame: pd.DataFrame, *about: str) -> Path:
    """Write a table below comment lines (``#``) with the versions, the conventions and ``about``."""
    buffer = io.StringIO()
    for line in (versions(), CONVENTIONS, *about):
        buffer.write(f"# {line}\n")
    frame.to_csv(buffer, index=False)
    return write_atomic(path, buffer.getvalue())


def write_figure(path: Path, figure: Any) -> Path:
    """Write a matplotlib figure in the format of the file name and close it."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150)
    plt.close(figure)
    return write_atomic(path, buffer.getvalue())
