"""The answer of `stedyn.choose`: ranges with their predicted outcomes, beside those of calibration rules."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ..curves.objectives import Objective
from ..files.results import Result
from ..problem.problem import Problem

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class Simulated:
    """Simulated value of an objective: mean and standard error over seeds.

    ``difference`` is that to the chosen range, run by run with the same keys, and ``verdict`` says what it means:
    ``lower``, ``higher``, ``equal`` within the standard error (each range tested by itself at the level 5 %), or
    ``undecided`` where a run has no number or neither range reaches the objective in all runs. None and ``""`` for the
    chosen range itself.
    """

    value: float
    sem: float
    difference: float | None = None
    difference_sem: float | None = None
    verdict: str = ""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best range for one bit width. Errors are without factor 1/2 and label noise, times ``tau = steps / d``.

    Attributes
    ----------
    bits, range, lr
        The quantizer and the learning rate.
    value, uncertainty
        The objective, and the relative error of it by the law's own estimate.
    error
        The predicted error: of the fixed point for ``final-error`` and ``plateau-length`` (if there is one), at the
        time of ``error-at``, and at the end of the run otherwise (for ``time-to`` relative to a tenth of the error
        wanted, where that is more).
    range_interval
        Ranges around it at which the objective is within 1 % of its value here.
    misses
        ``{0.5: ..., 0.9: ..., 1.1: ..., 1.5: ...}``: the objective at these multiples of the range, over its value
        here.
    plateau_length, time_to_target, fixed_point
        Longest plateau of the curve (None if one is not over within the run), time to the wanted error (None if none
        was given or it is not reached), and error of the fixed point (None if there is none).
    edges
        The range in both edge conventions: ``{"level": ..., "bin": ...}``.
    rivals
        Other ranges whose objective is equal within the uncertainty.
    status
        A sentence.
    kind
        That of the quantizer.
    """

    bits: int
    range: float
    lr: float
    value: float
    uncertainty: float
    error: float
    range_interval: tuple[float, float]
    misses: dict[float, float]
    plateau_length: float | None
    time_to_target: float | None
    fixed_point: float | None
    edges: dict[str, float]
    rivals: tuple[float, ...]
    status: str
    simulated: Simulated | None = None
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The range of a calibration rule, and the outcome of training with it."""

    bits: int
    rule: str
    range: float
    value: float
    error: float
    edges: dict[str, float]
    simulated: Simulated | None = None
    kind: str = ""


@dataclasses.dataclass(frozen=True, repr=False)
class Choices(Result):
    """Best ranges for several bit widths, and baselines.

    ``fewest_bits`` is the smallest bit width whose predicted error is at most ``max_error``, None if there is none (or
    no error was asked for).
    """

    problem: Problem
    objective: Objective
    max_error: float | None
    choices: tuple[Choice, ...]
    baselines: tuple[Baseline, ...]
    fewest_bits: int | None

    def to_dict(self) -> dict[str, Any]:
        """One object of plain numbers: ``objective``, ``choices``, ``baselines``, ``max_error``, ``fewest_bits``."""
        return {
            "objective": str(self.objective),
            "choices": [_plain(choice) for choice in self.choices],
            "baselines": [_plain(baseline) for baseline in self.baselines],
            "max_error": self.max_error,
            "fewest_bits": self.fewest_bits,
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row for each choice (rule ``best``) and baseline."""
        import pandas as pd  # slow to import

        rows = []
        entries: list[Choice | Baseline] = [*self.choices, *self.baselines]
        for entry in entries:
            row: dict[str, Any] = {"kind": entry.kind} if self._several else {}
            row |= {
                "bits": entry.bits,
                "rule": getattr(entry, "rule", "best"),
                "range": entry.range,
                "range_level": entry.edges["level"],
                "range_bin": entry.edges["bin"],
                str(self.objective): entry.value,
                "error": entry.error,
            }
            if entry.simulated is not None:
                seen = entry.simulated
                row |= {"simulated": seen.value, "sem": seen.sem, "against the best": seen.verdict or "-"}
            rows.append(row)
        order = ["bits", "kind"] if self._several else ["bits"]
        return pd.DataFrame(rows).sort_values(order, kind="stable", ignore_index=True)

    @property
    def _several(self) -> bool:
        """Whether kinds of quantizers are compared."""
        return len({choice.kind for choice in self.choices}) > 1

    def _summary(self) -> str:
        best = ", ".join(f"{self._name(c)}: range {c.range:.4g} ({c.value:.4g})" for c in self.choices)
        return f"{self.objective}; {best}"

    def _name(self, choice: Choice) -> str:
        return (f"{choice.kind}, " if self._several else "") + f"{choice.bits} bits"

    def _draw(self, ax) -> None:
        from ..drawing.axes import choices

        choices(ax, self)

    def __str__(self):
        frame = self.to_pandas()
        if str(self.objective) == "final-error":
            frame = frame.drop(columns="error")
        lines = [
            f"objective: {self.objective}, to be small; ranges by outermost level and by outermost bin edge",
            frame.to_string(index=False, float_format=lambda x: f"{x:.4g}"),
        ]
        lines += [_describe(self._name(choice), choice) for choice in self.choices]
        for bits in sorted({choice.bits for choice in self.choices}) if self._several else ():
            same = sorted((c for c in self.choices if c.bits == bits), key=lambda c: c.value)
            order = ", ".join(f"{c.kind} {c.value:.5g} (+- {c.uncertainty:.1%})" for c in same)
            lines.append(f"{bits} bits, each at its best range, by {self.objective}: {order}")
        if self.max_error is not None:
            enough = f"{self.fewest_bits} bits are the fewest that reach"
            none = "none of these bit widths reaches"
            best = min(choice.error for choice in self.choices)
            tail = "" if self.fewest_bits is not None else f"; the best reachable is {best:.4g}"
            lines.append(f"{none if self.fewest_bits is None else enough} the error {self.max_error:g}{tail}")
        return "\n".join(lines)


def _describe(name: str, choice: Choice) -> str:
    low, high = choice.range_interval
    misses = ", ".join(f"{factor:g}: {_times(ratio)}" for factor, ratio in choice.misses.items())
    facts = [f"within 1 % from {low:.4g} to {high:.4g}", f"at multiples of the range {misses}"]
    if choice.fixed_point is not None:
        facts.append(f"fixed point {choice.fixed_point:.4g}")
    if choice.plateau_length:
        facts.append(f"plateau {choice.plateau_length:.4g}")
    if choice.time_to_target is not None:
        facts.append(f"time to target {choice.time_to_target:.4g}")
    if choice.rivals:
        facts.append("equal within the uncertainty: " + ", ".join(f"{r:.4g}" for r in choice.rivals))
    return (
        f"{name}: range {choice.range:.5g}, lr {choice.lr:g}: {choice.value:.5g} "
        f"(+- {choice.uncertainty:.1%}); " + "; ".join(facts) + f". {choice.status}"
    )


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times" if np.isfinite(ratio) else "not reached"


def _plain(record: Any) -> dict[str, Any]:
    table = dataclasses.asdict(record)
    for name, value in table.items():
        if isinstance(value, dict):
            table[name] = {str(key): item for key, item in value.items()}
    if table["simulated"] is None:
        del table["simulated"]
    return table
