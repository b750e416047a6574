r"""The limit ``d -> infinity``: classes, drift, diffusion and observables of a problem.

At fixed ``tau = steps / d`` the coordinates decouple. Given its teacher value ``c`` a latent weight
follows (``docs``, theory section 3; Ito)

    ``dw = [ h(w) (a c - b psi(w)) - lr weight_decay w ] dtau + h(w) sqrt(D) dB``

with ``a, b, D`` functions of the residual variance ``V = noise_std^2 + error`` alone, and

    ``error = sum_c share_c E[ c^2 - 2 k1 c psi + k2 psi^2 ]``.

This module turns a `Problem` into the numbers that every law needs, and nothing else.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtr, ndtri

from ._check import fail, is_traced
from .moments import InputMoments, Pieces, input_moments
from .problem import Problem, Start, Teacher
from .rules import Coefficients, Response, Rule


class Limit(eqx.Module):
    """A problem as the laws see it: ``C`` teacher classes, levels, polynomials of ``psi``, input moments."""

    teacher: Float[Array, " C"]
    share: Float[Array, " C"]
    levels: Float[Array, " L"]
    pieces: Pieces
    inputs: InputMoments
    rule: Rule
    response: Response
    start: Start
    noise_var: Float[Array, ""]
    range: Float[Array, ""] | None
    latent_clip: Float[Array, ""] | None
    clipped: bool = eqx.field(static=True)

    @property
    def rho(self) -> Float[Array, ""]:
        """``E[w*^2]`` over the classes."""
        return self.share @ self.teacher**2

    def coefficients(self, error, tau) -> Coefficients:
        """``a, b, D, E|U|`` when the generalization error is ``error``."""
        return self.response(self.noise_var + jnp.maximum(error, 0.0), tau)

    def effective_step(self, error, tau) -> Float[Array, ""]:
        """``b / (lr k2)``: 1 for SGD, the part of the step that is left by rounding (0 once lr is 0)."""
        rate = self.rule.rate(tau)
        b = self.coefficients(error, tau).b
        return jnp.where(rate > 0, b / (jnp.where(rate > 0, rate, 1.0) * self.inputs.k2), 0.0)

    def decay(self, tau) -> Float[Array, ""]:
        """``lr weight_decay``: rate at which latent weights shrink."""
        return self.rule.rate(tau) * self.rule.weight_decay

    def error(self, m, q) -> Float[Array, ""]:
        """``rho - 2 k1 m + k2 q``."""
        return self.rho - 2 * self.inputs.k1 * m + self.inputs.k2 * q

    @property
    def floor(self) -> Float[Array, ""]:
        """A lower bound of the error: every weight on the level that suits its teacher best."""
        k1, k2 = self.inputs.k1, self.inputs.k2
        unavoidable = self.rho * (1 - k1**2 / k2)
        if self.levels.size == 0:
            return unavoidable
        ideal = k1 / k2 * self.teacher
        distance = jnp.min(jnp.abs(ideal[:, None] - self.levels), axis=1)
        return unavoidable + k2 * (self.share @ distance**2)


def derive(problem: Problem, classes: int = 64, coarse=False) -> Limit:
    """The limit of a problem with at most ``classes`` teacher classes (an even number).

    With ``coarse`` neighbouring classes are merged in pairs, the shapes kept: comparing the two shows
    what the finite number of classes costs.
    """
    wall = problem.latent_clip
    clipped = problem.ste == "clipped"
    teacher, share = teacher_classes(problem.teacher, classes, coarse)
    inputs = input_moments(problem.inputs)
    scale = problem.weights.range
    return Limit(
        teacher,
        share,
        problem.weights.levels,
        problem.weights.pieces,
        inputs,
        problem.rule,
        problem.rule.response(inputs),
        problem.start,
        jnp.asarray(problem.noise_std) ** 2,
        None if scale is None else jnp.asarray(scale),
        None if wall is None else jnp.asarray(wall),
        clipped,
    )


def check_closes(problem: Problem) -> None:
    """Refuse a problem whose limit is no equation in ``V`` alone.

    Raises
    ------
    ValueError
        For the clipped straight-through estimator with weight decay: weights beyond the range drift back
        and stick to its ends for a time set by the overshoot of single steps. Simulate such a problem.
    """
    decay = problem.rule.weight_decay
    if problem.ste == "clipped" and not is_traced(decay) and np.any(np.asarray(decay) != 0):
        fail(
            "rule.weight_decay",
            "0 with weights.ste = 'clipped' (decayed weights stick to the ends of the range and no limit closes)",
            decay,
            "set it to 0, use the identity estimator, or simulate",
        )


def gaussian_bins(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split N(0, 1) into ``n`` intervals: share, conditional mean, conditional variance of each.

    The edges are quantiles of N(0, 3): for a quadratic observable the best density of bins is the
    cube root of the probability density (Panter and Dite 1951), which resolves the tails better
    than bins of equal probability.
    """
    edges = np.sqrt(3.0) * ndtri(np.linspace(0, 1, n + 1))
    finite = np.where(np.isfinite(edges), edges, 0.0)
    share, density = np.diff(ndtr(edges)), np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
    mean = -np.diff(density) / share
    square = 1 - np.diff(finite * density) / share
    return share, mean, square - mean**2


def sample_bins(values, n: int):
    """Split measured values into ``n`` groups of neighbours: share, mean, variance of each."""
    ordered = jnp.sort(jnp.asarray(values))
    n = min(n, ordered.size - ordered.size % 2)
    edges = np.linspace(0, ordered.size, n + 1).round().astype(int)
    count = np.diff(edges)
    total = jnp.concatenate([jnp.zeros(1), jnp.cumsum(ordered)])[edges]
    squares = jnp.concatenate([jnp.zeros(1), jnp.cumsum(ordered**2)])[edges]
    mean = jnp.diff(total) / count
    return count / ordered.size, mean, jnp.maximum(jnp.diff(squares) / count - mean**2, 0.0)


def merge_pairs(bins, coarse):
    """Give neighbouring ``(share, mean, var)`` their common mean and variance if ``coarse`` (traced)."""
    share, mean, var = (jnp.asarray(x) for x in bins)
    pair = share.reshape(-1, 2)
    weight = pair / jnp.sum(pair, axis=1, keepdims=True)
    common = jnp.sum(weight * mean.reshape(-1, 2), axis=1, keepdims=True)
    square = jnp.sum(weight * (mean**2 + var).reshape(-1, 2), axis=1, keepdims=True)
    return (
        share,
        jnp.where(coarse, jnp.repeat(common, 2), mean),
        jnp.where(coarse, jnp.repeat(square - common**2, 2), var),
    )


def teacher_classes(teacher: Teacher, n: int, coarse=False) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
    """Values and shares of the teacher classes; ``sum share c^2`` is exactly ``rho``."""
    if teacher.kind == "constant":
        return jnp.reshape(jnp.asarray(teacher.scale) * 1.0, (1,)), jnp.ones(1)
    if teacher.kind == "rademacher":
        return jnp.asarray(teacher.scale) * jnp.array([-1.0, 1.0]), jnp.full(2, 0.5)
    if teacher.data is not None and teacher.data.atoms is not None:
        return jnp.asarray(teacher.data.atoms), jnp.asarray(teacher.data.weights)
    bins = gaussian_bins(n) if teacher.data is None else sample_bins(teacher.data.values, n)
    share, mean, _ = merge_pairs(bins, coarse)
    return mean * jnp.sqrt(teacher.rho / (share @ mean**2)), share


def start_classes(start: Start, n: int, coarse=False):
    """Share, mean and variance of the ``J <= n`` start classes of the mixture law."""
    if start.kind == "constant":
        return jnp.ones(1), jnp.reshape(jnp.asarray(start.mean) * 1.0, (1,)), jnp.zeros(1)
    if start.data is not None:
        return merge_pairs(sample_bins(start.data.values, n), coarse)
    share, mean, var = merge_pairs(gaussian_bins(n), coarse)
    return share, start.mean + start.std * mean, start.std**2 * var
