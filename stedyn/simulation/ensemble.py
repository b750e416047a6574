"""The answer of a simulation: order parameters of every seed at every saved time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int

from ..curves.runs import Runs
from ..files.results import Result
from ..problem.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 12  # rows of the printed table


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Runs, Result):
    """Microscopic runs of one problem with several seeds; time is ``tau = steps / d``.

    Attributes
    ----------
    tau, steps : arrays (T,)
        Saved times, and the whole number of steps done by then; ``tau = steps / dim`` exactly.
    error : array (S, T)
        Generalization error of the weights, without label noise (`stedyn.simulation.observe`).
    m, q : arrays (S, T)
        ``mean(w* psi)`` and ``mean(psi^2)``, averaged over stochastic rounding if there is any.
    overlap, norm : arrays (S, T)
        ``mean(w* w)`` and ``mean(w^2)`` of the latent weights.
    saturated : array (S, T) or None
        Fraction of latent weights with ``|w| > weights.range``; None without a range.
    flip_rate : array (S, T) or None
        ``sqrt(d)`` times the fraction of weights whose level changes in a step, averaged over the
        ``max(1, min(32, d // 32))`` steps that follow the saved time; None for stochastic rounding
        of the weights and without a weight quantizer.
    ptq_error : array (S, T) or None
        Error of the latent weights rounded by ``problem.ptq``; None if the problem names no such quantizer.
    classification_error : array (S, T) or None
        ``arccos(correlation of the outputs of teacher and student) / pi``; None for a linear teacher.
    range : array (S, T) or None
        The range of the weights, where it moves.
    occupancy : array (S, T, L) or None
        Fraction of weights on every level; None without a weight quantizer.
    weights, teacher : arrays (S, d), float32
        Latent weights at the last time, and the teacher of every seed.
    snapshots : array (S, n, d), float32
        Latent weights at ``snapshot_tau`` (n,).
    dim, seeds, seed : int
        Input dimension, number of seeds, and the key of the first; run ``s`` has key ``seed + s``.
    seconds : float
        Wall-clock time of the run, without compiling.
    device : str
        Where it ran.
    problem : Problem
        What was simulated.
    partial : bool
        Whether the run was interrupted before its last time.
    """

    noun = "simulation"
    tau: Float[np.ndarray, " T"]
    steps: Int[np.ndarray, " T"]
    error: Float[np.ndarray, "S T"]
    m: Float[np.ndarray, "S T"]
    q: Float[np.ndarray, "S T"]
    overlap: Float[np.ndarray, "S T"]
    norm: Float[np.ndarray, "S T"]
    saturated: Float[np.ndarray, "S T"] | None
    flip_rate: Float[np.ndarray, "S T"] | None
    occupancy: Float[np.ndarray, "S T L"] | None
    weights: Float32[np.ndarray, "S d"]
    teacher: Float32[np.ndarray, "S d"]
    snapshot_tau: Float[np.ndarray, " n"]
    snapshots: Float32[np.ndarray, "S n d"]
    dim: int
    seeds: int
    seed: int
    seconds: float
    device: str
    problem: Problem
    partial: bool = False
    classification_error: Float[np.ndarray, "S T"] | None = None
    range: Float[np.ndarray, "S T"] | None = None
    ptq_error: Float[np.ndarray, "S T"] | None = None

    @property
    def coordinate_steps_per_second(self) -> float:
        """Speed: seeds times dimension times steps, per second."""
        return self.seeds * self.dim * int(self.steps[-1]) / max(self.seconds, 1e-9)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each seed and time, the seed's own key in the column ``seed``."""
        import pandas as pd  # slow to import

        columns = {
            "seed": np.repeat(self.seed + np.arange(self.seeds), self.tau.size),
            "tau": np.tile(self.tau, self.seeds),
            "steps": np.tile(self.steps, self.seeds),
        }
        for name in (
            "error",
            "m",
            "q",
            "overlap",
            "norm",
            "saturated",
            "flip_rate",
            "classification_error",
            "ptq_error",
            "range",
        ):
            values = getattr(self, name)
            if values is not None:
                columns[name] = values.ravel()
        return pd.DataFrame(columns)

    def to_dict(self) -> dict:
        """Plain numbers and lists, for JSON; ``steps`` is the length of each run."""
        some = {name: getattr(self, name) for name in ("range", "classification_error", "ptq_error")}
        return {f"{name}_mean": v.mean(axis=0).tolist() for name, v in some.items() if v is not None} | {
            "tau": self.tau.tolist(),
            "error_mean": self.error_mean.tolist(),
            "error_std": self.error_std.tolist(),
            "seeds": self.seeds,
            "dim": self.dim,
            "steps": int(self.steps[-1]),
            "seconds": self.seconds,
            "coordinate_steps_per_second": self.coordinate_steps_per_second,
            "device": self.device,
            "partial": self.partial,
        }

    def _summary(self) -> str:
        return (
            f"{self.seeds} seed{'s' if self.seeds > 1 else ''}, d = {self.dim}, {self.tau.size} times to "
            f"tau = {self.tau[-1]:g}, error {self.error_mean[0]:.4g} to {self.error_mean[-1]:.4g}"
            + (", interrupted" if self.partial else "")
        )

    def _draw(self, ax) -> None:
        from ..drawing.axes import learning_curve

        learning_curve(ax, ensemble=self)

    def __str__(self) -> str:
        rows = np.unique(np.linspace(0, self.tau.size - 1, min(_SHOWN, self.tau.size)).astype(int))
        lines = [
            f"{self.seeds} seed{'s' if self.seeds > 1 else ''} from {self.seed}, d = {self.dim}, "
            f"{int(self.steps[-1])} steps each, {self.seconds:.2f} s on {self.device}, "
            f"{self.coordinate_steps_per_second:.3g} coordinate-steps per second"
            + (", interrupted" if self.partial else ""),
            f"{'tau':>10} {'error':>11} {'+-sem':>9} {'m':>9} {'q':>9}",
        ]
        lines += [
            f"{self.tau[k]:10.4g} {self.error_mean[k]:11.5g} {self.error_sem[k]:9.2g} "
            f"{self.m[:, k].mean():9.4f} {self.q[:, k].mean():9.4f}"
            for k in rows
        ]
        return "\n".join(lines)
