"""Whether a move has mean 0, without which no limit exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from .._check import fail, is_traced
from ..moments import input_moments
from .nodes import HALF_NORMAL, input_atoms

if TYPE_CHECKING:
    from ..problem import Problem

#: Standard deviations of the residual that are tried, values of a uniform number, and values of an input (its levels
#: if they are no more).
SCALES, STRATA, LEVELS = (0.05, 0.3, 1.0, 4.0), 64, 32
#: Largest mean of a move over its root mean square; with uniform numbers it is itself a sample mean.
TOLERANCE, RANDOM_TOLERANCE = 1e-4, 1e-2


def check_centred(problem: Problem) -> None:
    """Refuse a rule known by its move alone with ``E[U(r, phi)] != 0`` for ``r ~ N(0, V)``.

    A step moves every weight by ``U / sqrt(d)``, so that a mean of ``U`` adds up to ``sqrt(d)`` in a unit of
    ``tau = steps / d``. A move that is odd in the gradient has none.
    """
    rule = problem.rule
    if not rule.derived or any(is_traced(leaf) for leaf in jax.tree.leaves((rule, problem.inputs))):
        return
    if 0 < problem.inputs.n_levels <= LEVELS:
        value, share, _ = (np.asarray(part) for part in input_atoms(input_moments(problem.inputs)))
    else:
        value, share = ndtri((np.arange(LEVELS) + 0.5) / LEVELS), np.full(LEVELS, 1 / LEVELS)
    z, weight = (part[::5] for part in HALF_NORMAL)
    z, weight = np.concatenate([z, -z]), np.concatenate([weight, weight]) / (2 * weight.sum())
    count = STRATA if rule.uniforms else 1
    phi = jnp.asarray(np.tile(np.repeat(value, count), (z.size, 1)))
    u = None
    if rule.uniforms:
        rng, grid = np.random.default_rng(0), (np.arange(count) + 0.5) / count
        strata = np.stack([np.tile(rng.permutation(grid), value.size) for _ in range(rule.uniforms)])
        u = jnp.asarray(np.tile(strata[:, None], (1, z.size, 1)))
    for scale in SCALES:
        U = np.asarray(rule.move(jnp.asarray(scale * z[:, None]), phi, u, jnp.zeros(())), dtype=float)
        each = np.broadcast_to(U, phi.shape).reshape(z.size, value.size, count)
        mean, square = (weight @ power.mean(2) @ share for power in (each, each**2))
        if abs(mean) > (RANDOM_TOLERANCE if rule.uniforms else TOLERANCE) * np.sqrt(square):
            fail(
                "rule",
                "a move of mean 0, such as one that is odd in the gradient (otherwise all weights drift away like "
                "sqrt(d) and no limit exists)",
                f"{rule.kind!r} with mean {mean:.3g} and root mean square {np.sqrt(square):.3g}",
                "correct its move",
            )
