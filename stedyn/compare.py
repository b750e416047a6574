"""Hold a solution of the limit against an ensemble of simulated runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.special import chdtrc, stdtr, stdtrit

from ._check import fail
from .limit import derive
from .plateau import Plateau, find_plateaus, simulated_times
from .quantizers import as_arrays
from .simulate import Ensemble
from .solution import Solution

if TYPE_CHECKING:
    import pandas as pd

#: The curve is tested in this many stretches of time, at this level for all of them together.
BLOCKS, LEVEL = 5, 0.01
#: Largest number of bins of the latent-weight histogram.
BINS = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Latent weights of all seeds at the last time, against the predicted density.

    ``edges (B+1,)``, ``observed`` and ``expected (B,)`` counts; ``chi2`` is Pearson's statistic with
    ``dof`` degrees of freedom and ``distance`` the largest difference of the distribution functions.
    Weights of one seed share the path of their residual variance, which adds a few units to ``chi2``.
    """

    edges: Float[np.ndarray, " B+1"]
    observed: Float[np.ndarray, " B"]
    expected: Float[np.ndarray, " B"]
    chi2: float
    dof: int
    p_value: float
    distance: float


@dataclasses.dataclass(frozen=True)
class PlateauPair:
    """A predicted plateau beside the simulated one: mean and standard error over the seeds that escape.

    Seeds are timed by the errors of the predicted plateau (`stedyn.plateau.simulated_times`).
    """

    theory: Plateau
    length: float | None
    length_sem: float | None
    escape: float | None
    escape_sem: float | None
    seeds: int


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Theory and simulation side by side; times are ``tau = steps / d``.

    Attributes
    ----------
    tau, gap : (T,)
        Saved times of the simulation and ``mean simulated error - predicted error``.
    gap_in_standard_errors : (T,) or None
        The gap over the standard error of the mean of the seeds; None for a single seed.
    block_p : (BLOCKS,) or None
        Two-sided p-values of the mean relative gap in successive stretches of the curve (Student's t over
        the seeds).
    plateaus_theory, plateaus_simulation : list of Plateau
        Of the predicted and of the mean simulated curve.
    pairs : list of PlateauPair
    histogram : Histogram or None
        None without a predicted density at the last time.
    verdict : str
    """

    solution: Solution
    ensemble: Ensemble
    tau: Float[np.ndarray, " T"]
    theory: Float[np.ndarray, " T"]
    gap: Float[np.ndarray, " T"]
    gap_in_standard_errors: Float[np.ndarray, " T"] | None
    block_p: Float[np.ndarray, " B"] | None
    plateaus_theory: list[Plateau]
    plateaus_simulation: list[Plateau]
    pairs: list[PlateauPair]
    histogram: Histogram | None
    verdict: str

    def to_pandas(self) -> pd.DataFrame:
        """One row a saved time: prediction, mean, standard error and gap."""
        import pandas as pd

        frame = {
            "tau": self.tau,
            "error_theory": self.theory,
            "error_mean": self.ensemble.error_mean,
            "error_sem": self.ensemble.error_sem,
            "gap": self.gap,
        }
        if self.gap_in_standard_errors is not None:
            frame["gap_in_standard_errors"] = self.gap_in_standard_errors
        return pd.DataFrame(frame)

    def to_dict(self) -> dict:
        """What `Solution.to_dict` and `Ensemble.to_dict` hold, the gaps, both lists of plateaus, verdict."""
        gaps = self.gap_in_standard_errors
        fit = self.histogram
        return (
            self.solution.to_dict()
            | self.ensemble.to_dict()
            | {
                "gap": self.gap.tolist(),
                "gap_in_standard_errors": None if gaps is None else gaps.tolist(),
                "plateaus_theory": [p.to_dict() for p in self.plateaus_theory],
                "plateaus_simulation": [p.to_dict() for p in self.plateaus_simulation],
                "histogram": None
                if fit is None
                else {"chi2": fit.chi2, "dof": fit.dof, "p_value": fit.p_value, "distance": fit.distance},
                "verdict": self.verdict,
            }
        )

    def __str__(self):
        frame = self.to_pandas()
        rows = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, 9).round().astype(int))]
        lines = [rows.to_string(index=False, float_format=lambda x: f"{x:.4g}")]
        for pair in self.pairs:
            seen = "not seen in the simulation"
            if pair.length is not None:
                seen = (
                    f"simulation {_pm(pair.length, pair.length_sem)}, escape {_pm(pair.escape, pair.escape_sem)} "
                    f"({pair.seeds} seeds)"
                )
            lines.append(f"plateau length {pair.theory.length:.4g}, escape {pair.theory.escape:.4g}; {seen}")
        if not self.pairs:
            lines.append(
                f"no plateau predicted to end, {len(self.plateaus_simulation)} in the mean simulated curve"
            )
        if (fit := self.histogram) is not None:
            lines.append(
                f"latent weights at tau = {self.tau[-1]:g}: chi2/dof = {fit.chi2 / fit.dof:.2f} on {fit.dof} bins "
                f"(p = {fit.p_value:.2g}), largest difference of the distribution functions {fit.distance:.4f}"
            )
        return "\n".join([*lines, self.verdict])


def _pm(value, sem):
    return f"{value:.4g}" if sem is None else f"{value:.4g} +- {sem:.2g}"


def compare(solution: Solution, ensemble: Ensemble) -> Comparison:
    """Compare a predicted and a simulated curve of one problem.

    The gap is judged by its standard error and nothing else: the relative gap is averaged over each of
    ``BLOCKS`` stretches of the curve and tested with Student's t over the seeds, at ``LEVEL`` for all
    stretches together. The error that the law claims for itself is named, not forgiven.

    Raises
    ------
    ValueError
        If the simulation ends after the solution.
    """
    tau = np.asarray(ensemble.tau)
    horizon = float(solution.tau[-1])
    if tau[-1] > horizon * (1 + 1e-9) + 1.0 / ensemble.dim:
        fail(
            "ensemble",
            f"a simulation that ends by tau = {horizon:g}",
            float(tau[-1]),
            "solve for a longer run",
        )
    theory = np.interp(tau, np.asarray(solution.tau), np.asarray(solution.error))
    gap = ensemble.error_mean - theory
    in_errors = block_p = None
    if ensemble.seeds > 1:
        # one weight of one seed is the least an ensemble resolves, also where all seeds are equal
        resolved = np.max(theory) / (ensemble.dim * ensemble.seeds)
        in_errors = gap / np.maximum(ensemble.error_sem, resolved)
        size = np.maximum(theory, resolved)
        relative, least = (ensemble.error - theory) / size, resolved / size
        blocks = zip(*(np.array_split(x, BLOCKS, axis=-1) for x in (relative, least)), strict=True)
        block_p = np.array([_p_value(block.mean(axis=1), small.mean()) for block, small in blocks])
    predicted = solution.plateaus()
    noise = ensemble.error_std / np.maximum(ensemble.error_mean, 1e-300)
    simulated = find_plateaus(
        tau, ensemble.error_mean, noise / np.sqrt(ensemble.seeds) if ensemble.seeds > 1 else None
    )
    return Comparison(
        solution,
        ensemble,
        tau,
        theory,
        gap,
        in_errors,
        block_p,
        predicted,
        simulated,
        [
            _pair(*both, tau, theory, ensemble.error)
            for both in zip(predicted, [None, *predicted], strict=False)
            if not both[0].open
        ],
        _histogram(solution, ensemble),
        _verdict(solution, ensemble, theory, gap, in_errors, block_p),
    )


def _sem(values) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _p_value(values, least: float) -> float:
    """Two-sided p-value of a mean of zero, whose standard error is ``least`` at least."""
    return float(2 * stdtr(values.size - 1, -abs(np.mean(values)) / max(_sem(values), least)))


def _pair(plateau: Plateau, before: Plateau | None, tau, predicted, simulated) -> PlateauPair:
    """A predicted plateau, and the one before it, in the curves (S, T) of all seeds."""
    each = [simulated_times(plateau, before, tau, predicted, error) for error in simulated]
    found = np.array([times for times in each if times is not None])
    if not found.size:
        return PlateauPair(plateau, None, None, None, None, 0)
    length, escape = (float(x) for x in found.mean(axis=0))
    sems = [_sem(x) for x in found.T] if len(found) > 1 else [None, None]
    return PlateauPair(plateau, length, sems[0], escape, sems[1], len(found))


def _histogram(solution: Solution, ensemble: Ensemble) -> Histogram | None:
    """Chi-squared of the weights in bins of equal predicted probability, no narrower than a few steps."""
    densities = solution.densities
    if densities is None or abs(float(densities.tau[-1]) - float(ensemble.tau[-1])) > 1.0 / ensemble.dim:
        return None
    last = len(densities.tau) - 1
    weights = np.sort(np.asarray(ensemble.weights, dtype=float).ravel())
    cdf = densities.cdf(last, np.asarray(densities.edges))
    inner = np.interp(np.linspace(0, 1, BINS + 1)[1:-1], cdf, np.asarray(densities.edges))
    problem = as_arrays(solution.problem)
    limit = derive(problem, 2)
    diffusion = limit.coefficients(float(solution.error[-1]), float(solution.tau[-1])).D
    step = np.sqrt(float(np.max(diffusion)) / ensemble.dim)
    kept = [inner[0]]
    for edge in inner[1:]:
        if edge - kept[-1] > 4 * step:
            kept.append(edge)
    edges = np.concatenate([[-np.inf], kept, [np.inf]])
    expected = np.diff(densities.cdf(last, edges)) * weights.size
    observed = np.diff(np.searchsorted(weights, edges[1:-1], side="left"), prepend=0, append=weights.size)
    big = expected >= 5
    if big.sum() < 2:
        return None
    chi2 = float(np.sum((observed[big] - expected[big]) ** 2 / expected[big]))
    dof = int(big.sum() - 1)
    empirical = np.arange(1, weights.size + 1) / weights.size
    predicted = densities.cdf(last, weights)
    distance = float(max(np.max(empirical - predicted), np.max(predicted - empirical + 1 / weights.size)))
    edges[0], edges[-1] = min(weights[0], edges[1]), max(weights[-1], edges[-2])
    return Histogram(edges, observed, expected, chi2, dof, float(chdtrc(dof, chi2)), distance)


def _verdict(solution, ensemble, theory, gap, in_errors, block_p) -> str:
    worst = int(np.argmax(np.abs(gap) / np.maximum(theory, 1e-300)))
    relative = abs(gap[worst]) / max(theory[worst], 1e-300)
    where = f"the largest relative gap is {relative:.2%} at tau = {ensemble.tau[worst]:.4g}"
    estimate = solution.error_estimate
    claim = "the law claims no accuracy" if estimate is None else f"the law claims {float(estimate):.1e}"
    if block_p is None:
        return f"Undecided: one seed has no standard error ({where}; {claim}); run at least two."
    p = min(1.0, BLOCKS * float(np.min(block_p)))
    share = float(np.mean(np.abs(in_errors) <= stdtrit(ensemble.seeds - 1, 0.975)))
    detail = (
        f"{where}; {share:.0%} of the curve lies within the 95% interval of {ensemble.seeds} seeds; {claim}"
    )
    if p >= LEVEL:
        return f"Theory and simulation agree within the standard error (p = {p:.2g}): {detail}."
    return (
        f"Theory and simulation differ beyond the standard error (p = {p:.1g}) at d = {ensemble.dim}: {detail}. "
        "A finite-size bias shrinks with d: repeat with a larger dim to tell it from a fault."
    )
