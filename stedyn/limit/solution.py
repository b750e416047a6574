"""What a solve returns: curves, occupancies, densities, status."""

from __future__ import annotations

import decimal
from functools import cached_property
from typing import TYPE_CHECKING

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from ..checks import Failure, is_traced
from ..curves.dense import Steps, between, smooth_sections
from ..curves.plateaus import Plateau
from ..files.results import Result
from ..problem.means import mean_mode_line
from ..problem.problem import Problem
from ..rules.schedules import jumps_of
from .endings import Course, course
from .spread import Spread

if TYPE_CHECKING:
    import pandas as pd

CURVES = (
    "error", "m", "q", "overlap", "norm", "effective_step", "saturated", "flip_rate", "classification_error",
    "ptq_error", "kappa", "mean_mode", "range",
)  # fmt: skip

_SENTENCES = (
    "The solution reached the horizon within the requested tolerance.",
    "The solution reached the horizon, but its error estimate is above the requested tolerance.",
    "The solution reached the horizon; no error estimate was made.",
    "The integration stopped before the horizon: its steps became too many or too small.",
    "The integration stopped before the horizon: the error grows without bound (lower lr).",
    "The integration stopped before the horizon: kappa = lr E[phi]^2 <psi'> reached 2, beyond which the mean output of "
    "inputs with a mean grows from step to step (lower lr, or take the mean off with inputs.centre = true).",
)
REACHED, INACCURATE, UNESTIMATED, MAX_STEPS, DIVERGED, MEAN_MODE = range(6)


class Status(eqx.Module):
    """Outcome of a solve: ``str()`` is a sentence, ``ok`` whether the horizon was reached."""

    code: Array | int

    @property
    def ok(self) -> bool:
        return int(self.code) <= UNESTIMATED

    def __str__(self):
        return _SENTENCES[int(self.code)]


class SolveError(Failure, RuntimeError):
    """A solve did not reach its horizon."""


class Densities(eqx.Module):
    """Law of the latent weights at ``K`` times: masses of ``N`` cells for every teacher class.

    Attributes
    ----------
    tau : (K,)
    edges : (N + 1,)
    mass : (K, C, N), each row sums to 1
    teacher, share : (C,), teacher values and their probabilities
    """

    tau: Float[Array | np.ndarray, " K"]
    edges: Float[Array | np.ndarray, " E"]
    mass: Float[Array | np.ndarray, "K C N"]
    teacher: Float[Array | np.ndarray, " C"]
    share: Float[Array | np.ndarray, " C"]

    @property
    def total(self) -> np.ndarray:
        """Masses averaged over the teacher (K, N)."""
        return np.einsum("c,kcn->kn", np.asarray(self.share), np.asarray(self.mass))

    @property
    def pdf(self) -> np.ndarray:
        """Density in every cell, averaged over the teacher (K, N)."""
        return self.total / np.diff(self.edges)

    def cdf(self, k: int, w) -> np.ndarray:
        """Probability of a latent weight below ``w`` at time ``tau[k]``."""
        below = np.append(0.0, np.cumsum(self.total[k]))
        return np.interp(w, self.edges, np.clip(below / below[-1], 0.0, 1.0), left=0.0, right=1.0)


def _rounded_up(value) -> str:
    """Two digits, never less than the value: an estimate above a tolerance is not printed as equal to it."""
    with decimal.localcontext(prec=2, rounding=decimal.ROUND_CEILING):
        return f"{float(+decimal.Decimal(repr(float(value)))):.1e}"


class Solution(Result, eqx.Module):
    """The limit of a problem along its run. All curves have the length of ``tau`` (T,).

    Attributes
    ----------
    tau, error, m, q, overlap, norm : (T,)
        See `stedyn.drawing.quantities` for what each is.
    effective_step : (T,)
        ``b(V) / (lr k2)``: 1 for SGD, less where rounding loses a part of the step.
    saturated, flip_rate : (T,) or None
        None where the problem has no range, or where the level changes at every step; ``flip_rate`` also for
        the model "sign".
    classification_error : (T,) or None
        ``P(sign of the student's output is not that of the teacher's)``; None for a linear teacher.
    ptq_error : (T,) or None
        The error that the weights would have if they were rounded by ``problem.ptq``, without further training.
    kappa, mean_mode : (T,) or None
        For inputs with a mean (``docs/inputs.md``): ``lr E[phi]^2 <psi'>``, which has to stay below 2, and the part of
        the error that fluctuations of the mean output cost.
    range : (T,) or None
        The range of the weights, where it moves (``docs/moving-ranges.md``).
    occupancy : (T, L) or None
        Probability of every level of the weight quantizer.
    densities : Densities or None
        Law of the latent weights at the times asked for.
    law : str
        The law that was solved.
    error_estimate, least_error : float or None, float
        Estimated largest error of ``error`` over the curve, relative to it, or to ``least_error`` where that is more;
        None if the law has none, or if the run stopped before its horizon.
    status : Status
    statistics : dict
        Steps, cells, classes, passes.
    problem : Problem
    spread : Spread or None
        How far one run strays, where a ``dim`` was asked for (``docs/width.md``).
    steps : tuple of Steps
        Error at every step of the solver, phase by phase; two of a phase are extrapolated, as the curves are.
    """

    tau: Float[Array | np.ndarray, " T"]
    error: Float[Array | np.ndarray, " T"]
    m: Float[Array | np.ndarray, " T"]
    q: Float[Array | np.ndarray, " T"]
    overlap: Float[Array | np.ndarray, " T"]
    norm: Float[Array | np.ndarray, " T"]
    effective_step: Float[Array | np.ndarray, " T"]
    saturated: Float[Array | np.ndarray, " T"] | None
    flip_rate: Float[Array | np.ndarray, " T"] | None
    occupancy: Float[Array | np.ndarray, "T L"] | None
    densities: Densities | None
    law: str = eqx.field(static=True)
    error_estimate: Array | float | None
    status: Status
    statistics: dict
    problem: Problem
    steps: tuple[Steps, ...] = ()
    classification_error: Float[Array | np.ndarray, " T"] | None = None
    ptq_error: Float[Array | np.ndarray, " T"] | None = None
    kappa: Float[Array | np.ndarray, " T"] | None = None
    mean_mode: Float[Array | np.ndarray, " T"] | None = None
    range: Float[Array | np.ndarray, " T"] | None = None
    least_error: Float[Array, ""] | float = 0.0
    spread: Spread | None = None

    @property
    def error_std(self) -> np.ndarray | None:
        """Standard deviation of the error of one run of dimension ``dim`` (T,); None without a ``dim``."""
        return None if self.spread is None else np.asarray(self.spread.error_std)

    @property
    def error_bias(self) -> np.ndarray | None:
        """Mean of the error of runs of dimension ``dim``, minus ``error`` (T,); None where it is not known."""
        bias = None if self.spread is None else self.spread.error_bias
        return None if bias is None else np.asarray(bias)

    @property
    def final_error(self) -> float:
        """Error at the last saved time (not a fixed point: see `stedyn.fixed_point`)."""
        return float(self.error[-1])

    @property
    def minimum(self) -> tuple[float, float]:
        """``(tau, error)`` where the saved curve is lowest."""
        k = int(np.argmin(np.asarray(self.error)))
        return float(self.tau[k]), float(self.error[k])

    @property
    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Times and errors (M,) on the steps of the solver and between them, whatever ``tau`` is."""
        end, problem = float(self.tau[-1]), self.problem
        if self.steps and "samples" in self.statistics:  # between which it is not smooth
            tau, error = self.steps[0].within(end)
            return tau, np.maximum(error, 0.0)
        jumps = np.concatenate([jumps_of(part.rule, end) for part in problem.parts])
        curve = smooth_sections(self.steps, len(problem.begins), end, jumps)
        return between(*curve) if curve else (np.asarray(self.tau), np.asarray(self.error))

    def plateaus(self) -> list[Plateau]:
        """Plateaus of the error curve (`stedyn.find_plateaus`), found on the steps of the solver, not on ``tau``.

        How a curve that is flat at its horizon ends is decided in `stedyn.limit.endings`.
        """
        return self._course.plateaus

    def ending(self) -> str:
        """What is known of the end of a curve that is flat, or sinks, at the horizon; empty if it does neither."""
        return self._course.ending

    @cached_property
    def _course(self) -> Course:
        return course(self.problem, *self.dense, self.statistics.get("samples"))

    def to_pandas(self) -> pd.DataFrame:
        """One row a saved time; level occupancies in columns ``occupancy_0, ...``."""
        import pandas as pd  # slow to import

        columns = {"tau": np.asarray(self.tau)}
        for name in (*CURVES, "error_std", "error_bias"):
            curve = getattr(self, name)
            if curve is not None:
                columns[name] = np.asarray(curve)
        if self.occupancy is not None:
            columns |= {f"occupancy_{k}": column for k, column in enumerate(np.asarray(self.occupancy).T)}
        return pd.DataFrame(columns)

    def to_dict(self) -> dict:
        """Plain numbers and lists: curve, plateaus, minimum, final error, law, estimate, status."""
        tau, error = self.minimum
        return {
            "tau": np.asarray(self.tau).tolist(),
            "error": np.asarray(self.error).tolist(),
            "m": np.asarray(self.m).tolist(),
            "q": np.asarray(self.q).tolist(),
            "plateaus": self._plateaus_to_dict(),
            **({} if self.spread is None else self.spread.to_dict()),
            "minimum": {"tau": tau, "error": error},
            "final_error": self.final_error,
            "law": self.law,
            **{
                name: np.asarray(curve).tolist()
                for name in ("classification_error", "ptq_error", "kappa", "range", "mean_mode")
                if (curve := getattr(self, name)) is not None
            },
            "error_estimate": None if self.error_estimate is None else float(self.error_estimate),
            "least_error": float(self.least_error),
            "status": str(self.status),
        }

    def _plateaus_to_dict(self) -> list[dict]:
        rows = [plateau.to_dict() for plateau in self.plateaus()]
        extra = [{}] * len(rows) if self.spread is None else self.spread.of_plateaus()
        return [row | more for row, more in zip(rows, extra, strict=True)]

    @property
    def claim(self) -> str:
        """What is claimed of the curve, in a few words."""
        if self.error_estimate is None:
            return "no error estimate"
        least = float(self.least_error)
        where = f" of errors above {least:.1e}" if np.min(self.error) < least else ""
        return f"relative error below {_rounded_up(self.error_estimate)}{where}"

    def _summary(self) -> str:
        if is_traced(self.error) or np.ndim(self.error) != 1:
            return f"{self.law} law, error of shape {getattr(self.error, 'shape', None)}"
        return (
            f"{self.law} law, {len(self.tau)} times to tau = {float(self.tau[-1]):g}, error {float(self.error[0]):.4g} "
            f"to {self.final_error:.4g}, {self.claim}"
        )

    def _draw(self, ax) -> None:
        from ..drawing.axes import learning_curve

        learning_curve(ax, self)

    def __str__(self):
        shown = ["tau", "error", "error_std", "error_bias", "m", "q", "range"]
        shown += ["classification_error", "ptq_error"]
        rows = self.to_pandas().filter(shown)
        picked = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, 9).round().astype(int))]
        tau, error = self.minimum
        lines = [
            f"{self.law} law to tau = {float(self.tau[-1]):g} (tau = steps / d), {self.claim}",
            picked.to_string(index=False, float_format=lambda x: f"{x:.6g}"),
            f"minimum: error {error:.6g} at tau = {tau:.4g}; final error {self.final_error:.6g}",
        ]
        if self.kappa is not None and self.mean_mode is not None:
            part = float(self.mean_mode[-1]) / self.final_error
            lines.append(mean_mode_line(self.kappa, part, float(self.tau[-1])))
        plateaus = self._course.lines(self.spread.notes() if self.spread else ())
        return "\n".join([*lines, *plateaus, str(self.status)])
