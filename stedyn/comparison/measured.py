"""Error curves that a user's program has measured (``docs/measured.md``)."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ..checks import PATH, InputError, array, checked, choice, fail, nonnegative, whole
from ..curves.runs import Runs
from ..files.frames import read_frame
from ..files.results import Result

if TYPE_CHECKING:
    import pandas as pd

#: ``E[(y - student)^2]`` over a loss.
LOSSES = {"mse": 1.0, "half-mse": 2.0}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Measured(Runs, Result):
    """Error curves of a user's runs; time is ``tau = steps / d``.

    Attributes
    ----------
    tau : array (T,)
        Increasing times, in steps divided by ``dim``.
    error : array (S, T)
        Generalization error ``E[(teacher - student)^2]`` of every run, without label noise; an array (T,) is one run.
    dim : int
        Input dimension of the runs.

    Raises
    ------
    InputError
        If the shapes do not fit together, times do not increase, or a number is not finite.
    """

    noun = "measurement"
    tau: Float[np.ndarray, " T"]
    error: Float[np.ndarray, "S T"]
    dim: int

    @checked()
    def __init__(self, tau, error, dim: int):
        values = {name: _numbers(name, value) for name, value in (("tau", tau), ("error", error))}
        times, errors = values["tau"], np.atleast_2d(values["error"])
        if times.ndim != 1 or errors.ndim != 2 or errors.shape[1] != times.size:
            fail(
                "error",
                f"an array (S, {times.size}), one row a run",
                errors.shape,
                "give a column for every time",
            )
        if times.size < 2 or times[0] < 0 or np.any(np.diff(times) <= 0):
            fail(
                "tau", "at least two increasing times, the first 0 or later", times[:6].tolist(), "sort them"
            )
        for name, value in (("tau", times), ("error", errors), ("dim", whole("dim", dim, 1, 2**31 - 1))):
            object.__setattr__(self, name, value)

    @property
    def seeds(self) -> int:  # type: ignore[override]
        """Number of runs."""
        return len(self.error)

    @classmethod
    @checked(path=PATH, includes_noise=bool)
    def read(
        cls,
        path: str | os.PathLike,
        dim: int,
        *,
        loss: str = "mse",
        includes_noise: bool = False,
        noise_std: float = 0.0,
    ) -> Measured:
        """The curves in a CSV file: a column ``tau`` or ``step``, and one for every run (``docs/measured.md``).

        Their names begin with ``error`` or ``loss``. With a column ``seed``, as ``stedyn simulate --out`` writes it,
        the first of them holds the runs below each other. A column of losses is multiplied to ``E[(y - student)^2]``:
        ``loss`` is ``"mse"`` or ``"half-mse"``. With ``includes_noise`` the label noise ``noise_std^2`` is then
        subtracted. Other columns are ignored.

        Raises
        ------
        InputError
            If the file is missing or is no such table.
        """
        factor = LOSSES[choice("loss", loss, tuple(LOSSES))]
        noise = float(nonnegative("noise_std", noise_std)) ** 2 if includes_noise else 0.0
        frame = read_frame(Path(path), "data")
        clock = next((name for name in ("tau", "step", "steps") if name in frame), None)
        curves = [name for name in frame if str(name).startswith(("error", "loss"))]
        if clock is None or not curves or not len(frame):
            fail(
                str(path),
                "a column tau or step and a column error or loss, with rows",
                list(frame)[:6],
                "name them so",
            )
        if "seed" in frame:
            try:
                frame = frame.pivot(index=clock, columns="seed", values=curves[0]).reset_index()
            except ValueError:
                fail(
                    str(path),
                    f"every {clock} once for a seed",
                    "some twice",
                    "give every run a seed of its own",
                )
            curves = [name for name in frame if name != clock]
            frame = frame.iloc[np.argsort(_column(path, frame, clock), kind="stable")]
        scale = np.array([factor if str(name).startswith("loss") else 1.0 for name in curves])
        errors = np.array([_column(path, frame, name) for name in curves]) * scale[:, None] - noise
        return cls(
            _column(path, frame, clock) / (1 if clock == "tau" else whole("dim", dim, 1, 2**31 - 1)),
            errors,
            dim,
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row for each run and time."""
        import pandas as pd  # slow to import

        runs = np.repeat(np.arange(self.seeds), self.tau.size)
        return pd.DataFrame({"seed": runs, "tau": np.tile(self.tau, self.seeds), "error": self.error.ravel()})

    def to_dict(self) -> dict:
        """Plain numbers and lists, for JSON."""
        curves = {name: getattr(self, name).tolist() for name in ("tau", "error_mean", "error_std")}
        return curves | {"seeds": self.seeds, "dim": self.dim}

    def _summary(self) -> str:
        return (
            f"{self.seeds} run{'s' if self.seeds > 1 else ''}, d = {self.dim}, {self.tau.size} times to "
            f"tau = {self.tau[-1]:g}, error {self.error_mean[0]:.4g} to {self.error_mean[-1]:.4g}"
        )

    def _draw(self, ax) -> None:
        from ..drawing.axes import learning_curve

        learning_curve(ax, ensemble=self)


def _numbers(name: str, value) -> np.ndarray:
    numbers = array(name, value)
    if not np.all(np.isfinite(numbers)):
        fail(name, "finite numbers", value, "leave out what was not measured")
    return numbers


def _column(path, frame: pd.DataFrame, name) -> np.ndarray:
    for row, text in enumerate(frame[name], 1):
        try:
            number = float(text)
        except (TypeError, ValueError):
            number = np.nan
        if not np.isfinite(number):
            raise InputError(
                f"{path}: column {name}, row {row}: expected a number, found {text!r}; leave the row out."
            )
    return frame[name].to_numpy(dtype=float)
