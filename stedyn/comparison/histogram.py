"""The latent weights of an ensemble in bins, against the predicted density."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from ..curves.runs import Runs
from ..limit.limit import derive
from ..limit.solution import Solution
from ..simulation import Ensemble
from .verdict import shares_test

#: Largest number of bins, least number of weights expected in one of them, and its least width in steps of SGD.
BINS, LEAST, STEPS = 40, 10, 4


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Latent weights of all seeds at the last time, against the predicted density.

    ``edges (B+1,)``, ``observed`` and ``expected (B,)`` counts. ``statistic`` is chi-squared over its expectation,
    which is taken from the spread of the seeds, and F with ``dof`` degrees of freedom
    (`stedyn.comparison.verdict.shares_test`); it and ``p_value`` are None for one seed. ``distance`` is
    the largest difference of the distribution functions.
    """

    edges: Float[np.ndarray, " E"]
    observed: Int[np.ndarray, " B"]
    expected: Float[np.ndarray, " B"]
    statistic: float | None
    dof: tuple[float, float] | None
    p_value: float | None
    distance: float

    def to_dict(self) -> dict:
        """``statistic``, ``dof``, ``p_value``, ``distance`` and the number of ``bins``."""
        found = {name: getattr(self, name) for name in ("statistic", "dof", "p_value", "distance")}
        return found | {"bins": len(self.expected)}

    def __str__(self):
        text = (
            f"{len(self.expected)} bins, largest difference of the distribution functions {self.distance:.4f}"
        )
        if self.statistic is None:
            return text
        return f"chi2 over its expectation {self.statistic:.2f} (p = {self.p_value:.2g}), {text}"


def weight_histogram(solution: Solution, ensemble: Runs) -> Histogram | None:
    """The histogram at the last time, None without weights, without a predicted density there or with too few of them.

    Bins have equal predicted probability and are no narrower than a few steps.
    """
    densities = solution.densities
    if not isinstance(ensemble, Ensemble) or densities is None:
        return None
    if abs(float(densities.tau[-1]) - float(ensemble.tau[-1])) > 1.0 / ensemble.dim:
        return None
    weights = np.sort(np.asarray(ensemble.weights, dtype=float), axis=1)
    last, bins = len(densities.tau) - 1, min(BINS, weights.size // LEAST)
    if bins < 2 or not np.all(np.isfinite(weights)):
        return None
    cdf = densities.cdf(last, np.asarray(densities.edges))
    inner = np.interp(np.linspace(0, 1, bins + 1)[1:-1], cdf, np.asarray(densities.edges))
    kept, least = [inner[0]], STEPS * _step(solution, ensemble)
    for edge in inner[1:]:
        if edge - kept[-1] > least:
            kept.append(edge)
    edges = np.concatenate([[-np.inf], kept, [np.inf]])
    probability = np.diff(densities.cdf(last, edges))
    counts = np.array([np.diff(np.searchsorted(w, kept), prepend=0, append=w.size) for w in weights])
    used = probability * weights.size >= LEAST / 2
    test = shares_test(counts[:, used] / ensemble.dim, probability[used])
    everything = np.sort(weights.ravel())
    predicted, rank = densities.cdf(last, everything), np.arange(everything.size + 1) / everything.size
    distance = float(max(np.max(rank[1:] - predicted), np.max(predicted - rank[:-1])))
    edges[0], edges[-1] = min(everything[0], edges[1]), max(everything[-1], edges[-2])
    statistic, dof, p_value = (None, None, None) if test is None else test
    expected = probability * everything.size
    return Histogram(edges, counts.sum(axis=0), expected, statistic, dof, p_value, distance)


def _step(solution: Solution, ensemble: Ensemble) -> float:
    """Standard deviation of one move of a weight at the end."""
    limit = derive(solution.problem.parts[-1].timeless, 2)
    diffusion = limit.coefficients(limit.order(float(solution.error[-1])), float(solution.tau[-1])).D
    return float(np.sqrt(np.max(diffusion) / ensemble.dim))
