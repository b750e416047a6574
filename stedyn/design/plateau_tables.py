"""How long a curve stays flat: plateaus over bits, ranges and learning rates, beside the closed form for a small lr."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..checks import fail, in_float64, positive, whole
from ..curves.plateaus import Plateau
from ..limit.laws.registry import REFERENCE
from ..limit.solver import solve
from ..limit.stairs import Stair, stair_at
from ..problem.problem import Problem
from .predictor import with_quantizer
from .ranges import template

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class PlateauRow:
    """Plateau ``number`` (from 1) of one problem, with the closed form of the same height; None where there is none."""

    bits: int
    range: float
    lr: float | None
    number: int | None
    plateau: Plateau | None
    stair: Stair | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``escape_small_lr`` and ``length_small_lr`` are those of the closed form."""
        own = {"bits": self.bits, "range": self.range, "lr": self.lr, "number": self.number}
        names = ("start", "escape", "length", "height", "next_height")
        own |= {name: None if self.plateau is None else getattr(self.plateau, name) for name in names}
        stair = self.stair
        own["escape_small_lr"] = None if stair is None else stair.leave
        return own | {"length_small_lr": None if stair is None else stair.leave - stair.enter}


@dataclasses.dataclass(frozen=True)
class PlateauTable:
    """Plateaus of the predicted curve for every bit width, range and learning rate; times are ``tau = steps / d``.

    ``endings`` says of the curves that are flat, or sink, at the horizon where they go.
    """

    rows: tuple[PlateauRow, ...]
    problem: Problem
    endings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """``{"rows": [...], "endings": [...]}``: one a plateau (see `PlateauRow.to_dict`), one a curve that sinks."""
        return {"rows": [row.to_dict() for row in self.rows], "endings": list(self.endings)}

    def to_pandas(self) -> pd.DataFrame:
        """One row a plateau; what is not known, or not there, is missing."""
        import pandas as pd  # slow to import

        return pd.DataFrame(self.to_dict()["rows"])

    def __str__(self):
        frame = self.to_pandas()
        text = frame.to_string(index=False, na_rep="-", float_format=lambda x: f"{x:.4g}")
        lines = [
            text,
            f"small_lr: closed form for a small lr; horizon tau = {self.problem.run.tau:g} (steps / d)",
        ]
        for row in self.rows:
            where = _name(row.bits, row.range, row.lr)
            if row.plateau is None:
                lines.append(f"{where}: no plateau")
            elif row.plateau.open:
                lines.append(f"{where}: plateau {row.number} {row.plateau}")
        return "\n".join([*lines, *self.endings])


def _name(bits: int, range_: float, lr: float | None) -> str:
    return f"{bits} bits, range {range_:g}" + ("" if lr is None else f", lr {lr:g}")


@in_float64
def plateau_table(
    problem: Problem,
    *,
    bits: Sequence[int] = (2, 3, 4),
    ranges: Sequence[float] | None = None,
    lrs: Sequence[float] | None = None,
    tol: float = 5e-3,
    progress: bool = False,
) -> PlateauTable:
    """Plateaus (`stedyn.find_plateaus`) of a problem with other bit widths, ranges and learning rates, all combined.

    Parameters
    ----------
    problem : Problem
        Its weight quantizer gives kind, edge and rounding, its run the horizon.
    bits, ranges, lrs : sequence
        By default the range and the learning rate of the problem. Every bit width is compiled once.
    tol : float
        Relative error of the curves.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    InputError
        If an argument is out of bounds, or if a range or a learning rate is given or needed where there is none.
    """
    problem.steady("a table of plateaus")
    widths = [whole("bits", b, 1, 8) for b in bits]
    own_lr = None if problem.rule.kind == "multinomial" else float(problem.rule.lr)
    if own_lr is None and lrs is not None:
        fail("lrs", "a rule with a learning rate", problem.rule.kind, "leave them out")
    if ranges is None and problem.weights.range is None:
        fail("ranges", "ranges for a problem whose weights have none", None, "give some")
    spans = [positive("ranges", r) for r in ([problem.weights.range] if ranges is None else ranges)]
    rates = [own_lr] if lrs is None else [float(positive("lrs", lr)) for lr in lrs]
    cells = [(b, float(r), lr) for b in widths for r in spans for lr in rates]
    rows: list[PlateauRow] = []
    endings = []
    for b, r, lr in tqdm(cells, unit="curve", disable=not progress):
        case = with_quantizer(problem, template(problem, b).with_range(r), lr)
        solution = solve(case, law=REFERENCE, tol=tol)
        plateaus, ending = solution.plateaus(), solution.ending()
        rows += [PlateauRow(b, r, lr, n, p, stair_at(case, p.height)) for n, p in enumerate(plateaus, 1)]
        if not plateaus:
            rows.append(PlateauRow(b, r, lr, None, None, None))
        if ending:
            endings.append(f"{_name(b, r, lr)}: {ending}")
    return PlateauTable(tuple(rows), problem, tuple(endings))
