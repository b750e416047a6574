"""The latent weights of an ensemble in bins, against the predicted density."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from ..curves.runs import Runs
from ..limit.limit import derive
from ..limit.solution import Solution
from ..rules import Sign
from ..simulation import Ensemble
from .verdict import shares_test

#: Largest number of bins, least number of weights expected in one of them, its least width in root mean square moves.
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

    Bins have equal predicted probability and are no narrower than a few moves. They end midway between the values that
    weights can have, where these are on a lattice, and not in a cell that holds the weights which stop at an end of the
    range. Of a problem with a latent clip the two outermost are left out.
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
    spacing, origin = _lattice(solution, ensemble)
    if spacing > 0:
        inner = origin + (np.floor((inner - origin) / spacing) + 0.5) * spacing
    inner = _off_ends(inner, solution, np.asarray(densities.edges))
    kept, least = [inner[0]], max(STEPS * _step(solution, ensemble), 2 * STEPS * spacing)
    for edge in inner[1:]:
        if edge - kept[-1] > least:
            kept.append(edge)
    edges = np.concatenate([[-np.inf], kept, [np.inf]])
    probability = np.diff(densities.cdf(last, edges))
    counts = np.array([np.diff(np.searchsorted(w, kept), prepend=0, append=w.size) for w in weights])
    used, clip = probability * weights.size >= LEAST / 2, solution.problem.parts[-1].latent_clip
    if (
        clip is not None
    ):  # a share of order 1/sqrt(d) more than predicted stops at it: the others are compared alone
        used &= (edges[:-1] >= -float(clip)) & (edges[1:] <= float(clip))
    inside = counts[:, used] / np.maximum(counts[:, used].sum(axis=1, keepdims=True), 1)
    test = (
        shares_test(inside, probability[used] / probability[used].sum())
        if np.count_nonzero(used) > 1
        else None
    )
    everything = np.sort(weights.ravel())
    predicted, rank = densities.cdf(last, everything), np.arange(everything.size + 1) / everything.size
    distance = float(max(np.max(rank[1:] - predicted), np.max(predicted - rank[:-1])))
    edges[0], edges[-1] = min(everything[0], edges[1]), max(everything[-1], edges[-2])
    statistic, dof, p_value = (None, None, None) if test is None else test
    expected = probability * everything.size
    return Histogram(edges, counts.sum(axis=0), expected, statistic, dof, p_value, distance)


def _lattice(solution: Solution, ensemble: Ensemble) -> tuple[float, float]:
    """Spacing and origin of the values that weights have; spacing 0 if they may have any.

    The moves of ``sign`` are of one size, so that its weights are on a lattice once they have been at a latent clip.
    """
    problem, root = solution.problem.parts[-1], ensemble.dim**0.5
    if problem.rule.lattice is not None:
        return float(problem.rule.lattice) / root, 0.0
    if isinstance(problem.rule, Sign) and problem.latent_clip is not None:
        return float(problem.rule.rate(float(ensemble.tau[-1]))) / root, float(problem.latent_clip)
    return 0.0, 0.0


def _off_ends(inner: np.ndarray, solution: Solution, edges: np.ndarray) -> np.ndarray:
    """Edges of bins, moved out of the cells next to the ends of the range if weights stop there."""
    problem = solution.problem.parts[-1]
    if not problem.absorbs:
        return inner
    for side in (-1, 1):
        end = side * float(np.asarray(problem.weights.range))
        near = np.argmin(np.abs(edges - end))
        low, high = np.sort(edges[[near - side, near + side]])
        outside = edges[near + side]
        inner = np.where((inner > low) & (inner < high), outside, inner)
    return np.unique(inner)


def _step(solution: Solution, ensemble: Ensemble) -> float:
    """Standard deviation of one move of a weight at the end."""
    limit = derive(solution.problem.parts[-1].timeless, 2)
    diffusion = limit.coefficients(limit.order(float(solution.error[-1])), float(solution.tau[-1])).D
    return float(np.sqrt(np.max(diffusion) / ensemble.dim))
