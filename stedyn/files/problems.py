"""Problems as TOML: tables teacher, start, noise, weights, inputs, rule, covariance, channels, run, and [[phase]].

What is written and read back is equal. The keys of ``[rule]`` are the parameters of its class in `stedyn.rules.RULES`.
"""

from __future__ import annotations

import inspect
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import PATH, InputError, checked, choice, fail
from ..inputs.law import KINDS as LAWS
from ..inputs.law import InputLaw
from ..problem.moving_range import PARAMETERS, RANGE_RULES, MovingRange
from ..problem.phases import Phase
from ..problem.populations import Channels, Covariance, Start, Teacher
from ..problem.problem import Problem, Run
from ..quantizers.quantizer import Quantizer
from ..rules import RULES, Rule
from .layers import input_means, input_variances, load_weights
from .tables import checked_phases, checked_tables, rule_parameters
from .whole import SAMPLE_SUFFIXES, read_samples, refuse_special


@checked(path=PATH)
def load_problem(path: str | os.PathLike) -> Problem:
    """Read a problem from a TOML file; an InputError names file, table and key, and says how to fix them."""
    return problem_from_dict(read_tables(path), folder=Path(path).parent, source=str(path))


def read_tables(path: str | os.PathLike) -> dict[str, Any]:
    """The tables of a TOML file, not yet checked; ValueError if it is missing or not TOML."""
    refuse_special(Path(path), "problem")
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the name.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a problem file.") from None
    except RecursionError:
        raise InputError(f"{path}: lists or tables are nested too deeply; flatten them.") from None
    except ValueError as error:  # faults of TOML, and bytes that are not UTF-8
        raise InputError(f"{path}: not valid TOML ({error}); correct it there.") from None


@checked(folder=PATH, source=str)
def problem_from_dict(
    tables: dict[str, Any], *, folder: str | os.PathLike = ".", source: str | None = None
) -> Problem:
    """Build a problem from its tables.

    Parameters
    ----------
    tables : dict
        What `problem_to_dict` returns or a TOML file holds. Absent tables and keys take the defaults;
        absent ``weights`` or ``inputs`` mean not quantized.
    folder : path
        Where relative paths of samples start.
    source : str
        Put before the message of an error; usually the name of the file.

    Raises
    ------
    ValueError
        One sentence: table and key, what was expected, what was found, how to fix it.

    Examples
    --------
    >>> problem_from_dict({"weights": {"bits": 2, "range": 2.0}, "rule": {"lr": 0.1}}).weights.n_levels
    4
    """
    with _named(f"{source}: " if source else ""):
        checked = checked_tables(tables)
        weights, run = checked["weights"], checked["run"]
        model = checked["teacher"].pop("model", "linear")
        ste, latent_clip = weights.pop("ste", "identity"), weights.pop("latent_clip", None)
        range_rule = _range_rule(weights)
        if "taus" in run and len(run) > 1:
            raise InputError("run.taus: already sets the saved times; remove run.tau and run.points.")
        with _named("run."):
            horizon = Run(**run)
        return Problem(
            _law(Teacher, "teacher", checked["teacher"], folder),
            _law(Start, "start", checked["start"], folder),
            model=model,
            noise_std=checked["noise"].get("std", 0.0),
            weights=_quantizer("weights", weights) if "weights" in tables else None,
            input_law=_input_law(checked["inputs"], folder),
            inputs=_quantizer("inputs", checked["inputs"]) if "inputs" in tables else None,
            ste=ste,
            latent_clip=latent_clip,
            range_rule=range_rule,
            rule=_rule(checked["rule"]),
            covariance=_covariance(checked["covariance"], folder),
            channels=_channels(checked["channels"]) if "channels" in tables else None,
            run=horizon,
            ptq=_quantizer("ptq", checked["ptq"]) if "ptq" in tables else None,
            phases=[_phase(number, phase) for number, phase in enumerate(checked_phases(tables), 2)],
        )


@contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Put the name of a table or file before the message of an InputError raised inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{prefix}{error}") from None


def _law(law: Any, table: str, content: dict[str, Any], folder: str | os.PathLike):
    """The teacher, the start or the covariance; its kind names the method that builds it."""
    kind = content.pop("kind")
    if kind != "file":
        return getattr(law, kind.replace("-", "_"))(**content)
    if ("path" in content) == ("values" in content):
        found = "both" if "path" in content else "neither"
        fail(table, "one of path or values for kind = 'file'", found, "give one")
    if "values" in content:
        values = content["values"]
        if len(content) > 1:
            fail(table, "values alone", sorted(content), "tensor and normalise go with path")
        if not _are_numbers(values):
            fail(f"{table}.values", "a list of numbers", values, "give one")
        return law.samples(values)
    if not isinstance(content["path"], str):
        fail(f"{table}.path", "the name of a file", content["path"], "put it in quotes")
    path = Path(os.path.abspath(Path(folder) / content["path"]))
    values = _measured(table, path, content.get("tensor"), content.get("normalise"))
    with _named(f"{table}.path: "):
        return law.samples(values, path=str(path))


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, Real) and not isinstance(value, bool) for value in values
    )


def _covariance(content: dict[str, Any], folder: str | os.PathLike) -> Covariance:
    """The variances; ``means`` of a file of activations (true), of a list, or of a file of numbers."""
    means = content.pop("means", None)
    path, tensor = (content.get(key) for key in ("path", "tensor"))
    law = _law(Covariance, "covariance", content, folder)
    if means is None or means is False:
        return law
    if means is True:
        if path is None:
            fail("covariance.means", "true with path, a file of activations", True, "give a list of numbers")
        with _named("covariance: "):
            means = input_means(Path(folder) / path, tensor)
    elif isinstance(means, str):
        means = read_samples(Path(os.path.abspath(Path(folder) / means)), "covariance.means")
    elif not _are_numbers(means):
        fail("covariance.means", "true, a list of numbers or the name of a file", means, "give one of them")
    return Covariance.samples(law.data, means=means)


def _input_law(content: dict[str, Any], folder: str | os.PathLike) -> InputLaw:
    """The law of the inputs; its keys are taken out of the table."""
    law = {key: content.pop(key) for key in ("mean", "scale", "centre") if key in content}
    kind = choice("inputs.law", content.pop("law", "gaussian"), LAWS)
    files: dict[str, Any] = {key: content.pop(key) for key in ("path", "values") if key in content}
    if files and kind != "file":
        fail(
            f"inputs.{next(iter(files))}", "it with law = 'file' only", f"law = {kind!r}", "set law = 'file'"
        )
    data = _law(InputLaw, "inputs", {"kind": "file", **files}, folder).data if kind == "file" else None
    with _named("inputs."):
        return InputLaw(kind, **law, data=data)


def _measured(table: str, path: Path, tensor, normalise) -> np.ndarray:
    """The numbers of a file: weights of a tensor, or the variances of inputs from their activations."""
    if table != "covariance" and tensor is None and normalise is None and path.suffix in SAMPLE_SUFFIXES:
        return read_samples(path, f"{table}.path")
    with _named(f"{table}: "):
        if table == "covariance":
            return input_variances(path, tensor)
        layers = load_weights(path, tensor, normalise="none" if normalise is None else normalise)
        return next(iter(layers.values())).weights


def _quantizer(table: str, content: dict[str, Any]) -> Quantizer:
    levels = content.get("levels", [])
    if not isinstance(levels, list):
        fail(f"{table}.levels", "a list of numbers", levels, "write it as [-1.0, 0.0, 1.0]")
    with _named(f"{table}."):
        return Quantizer(**content)


def _range_rule(content: dict[str, Any]) -> MovingRange | None:
    """How the range of the weights moves; its keys are taken out of the table, a range that it sets is put in as 1."""
    kind = content.pop("range_rule", "fixed")
    given = {key: content.pop(f"range_{key}") for key in PARAMETERS if f"range_{key}" in content}
    if choice("weights.range_rule", kind, ("fixed", *RANGE_RULES)) == "fixed":
        for key, value in given.items():
            fail(f"weights.range_{key}", "it with a range_rule other than 'fixed' only", value,
                 f"set range_rule ({', '.join(RANGE_RULES)})")  # fmt: skip
        return None
    rule = MovingRange(kind, **given)
    if rule.measured and content.get("kind") not in ("none", "levels"):
        content.setdefault("range", 1.0)
    return rule


def _phase(number: int, content: dict[str, Any]) -> Phase:
    """A phase from its checked tables."""
    with _named(f"phase {number}: "):
        changes: dict[str, Any] = {}
        if "weights" in content:
            weights = content["weights"]
            changes = {key: weights.pop(key) for key in ("ste", "latent_clip") if key in weights}
            if (moving := _range_rule(weights)) is not None:
                fail(
                    "weights.range_rule", "'fixed' in a phase (not implemented)", moving.kind, "leave it out"
                )
            changes["weights"] = _quantizer("weights", weights)
        if "inputs" in content:
            changes["inputs"] = _quantizer("inputs", content["inputs"])
        if "rule" in content:
            changes["rule"] = _rule(content["rule"])
        return Phase(content["from"], **changes)


def _channels(content: dict[str, Any]) -> Channels:
    if "teacher" not in content:
        fail("channels.teacher", "a list of numbers, one for each channel", None, "set it")
    return Channels(**content)


def _rule(content: dict[str, Any]) -> Rule:
    kind = content.pop("kind")
    for name, parameter in rule_parameters(kind).items():
        if parameter.default is inspect.Parameter.empty and name not in content:
            fail(f"rule.{name}", f"a value, as kind {kind!r} needs it", None, "set it")
    with _named("rule."):
        return RULES[kind](**content)
