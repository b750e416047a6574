r"""How far the mean of runs of dimension ``d`` lies from the limit, where it is known: unquantized weights, SGD.

With ``r = sum_j (w*_j x_j - w_j phi_j) / sqrt(d) + noise``, a step with a batch of ``B`` gives, exactly,

    ``E[m'] = (1 - g/d) m + (lr/d) (k1 rho - k2 m)``,   ``g = lr weight_decay``,
    ``E[q'] = (1 - g/d)^2 q + 2 (1 - g/d) (lr/d) (k1 m - k2 q) + (lr^2/d) E[r^2 phi^2] / B + (lr/d)^2 (1 - 1/B) F``,
    ``E[r^2 phi^2] = k2 V + (T - k2 e) / d``,   ``F = k1^2 rho - 2 k1 k2 m + k2^2 q``,
    ``T = E[x^2 phi^2] rho - 2 E[x phi^3] m + E[phi^4] q``,

because the means of ``x`` and ``phi`` are 0: linear in ``(rho, m, q, 1)``, so that the mean over teachers, starts and
samples closes for every ``d`` (``docs/width.md``).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.linalg import expm, logm

from ..problem.problem import Problem
from ..rules.linear import SGD
from ..rules.schedules import Constant


def error_bias(problem: Problem, dim: int, m: float, q: float) -> Float[np.ndarray, " T"] | None:
    """Mean error over runs of dimension ``dim``, minus the limit, at the saved times (T,); None where it is not known.

    ``m`` and ``q`` are those of the start. Known for SGD without momentum, with weights that are not quantized, a
    constant rate, equal variances of the inputs, and inputs that are rounded to the nearest level or not at all.
    """
    rule, inputs = problem.rule, problem.inputs
    known = (
        type(rule) is SGD
        and rule.momentum is None
        and (rule.schedule is None or isinstance(rule.schedule, Constant))
        and problem.weights.is_none
        and problem.latent_clip is None
        and problem.covariance.kind == "identity"
        and (inputs.is_none or inputs.rounding == "nearest")
    )
    if not known:
        return None
    moments = problem.moments(1.0)
    v, k1, k2 = (float(x) for x in (moments.std**2, moments.k1, moments.k2))
    x2, x1, x0 = _fourth_moments(problem, moments)
    lr, decay = float(rule.rate(0.0)), float(rule.decay(0.0))
    noise = float(problem.noise_std) ** 2
    error, still = np.array([v, -2 * k1, k2, 0.0]), np.eye(4)

    def step(d: float) -> np.ndarray:
        """Change of the means of ``(rho, m, q, 1)`` in a step, times ``d``."""
        kept = 1 - decay / d
        square = k2 * error + [0, 0, 0, k2 * noise] + (np.array([x2, -2 * x1, x0, 0.0]) - k2 * error) / d
        pull = np.array([k1**2, -2 * k1 * k2, k2**2, 0.0])
        change = np.zeros((4, 4))
        change[1] = lr * np.array([k1, -k2, 0, 0]) - decay * still[1]
        change[2] = 2 * kept * lr * np.array([0, k1, -k2, 0]) - decay * (1 + kept) * still[2]
        change[2] += lr**2 * square / rule.batch + lr**2 / d * (1 - 1 / rule.batch) * pull
        return change

    start = np.array([float(problem.rho), m, q, 1.0])
    run, limit = dim * logm(still + step(dim) / dim), step(np.inf)
    return np.array(
        [error @ (expm(tau * run) - expm(tau * limit)) @ start for tau in np.asarray(problem.taus)]
    ).real


def _fourth_moments(problem: Problem, moments) -> tuple[float, float, float]:
    """``E[x^2 phi^2], E[x phi^3], E[phi^4]``, means taken off where they are."""
    if moments.levels is None:  # Gaussian
        return (3 * float(moments.std) ** 4,) * 3
    phi, mass, overlap = (np.asarray(part) for part in (moments.levels, moments.mass, moments.overlap))
    if problem.inputs.is_none:
        return (float(mass @ phi**4),) * 3
    breaks = problem.filled_inputs.pieces.breaks
    zeroth, first, second = (np.asarray(part) for part in problem.input_law.partial(breaks, jnp.asarray(1.0)))
    mean = float(jnp.sum(first)) if problem.means == "removed" else 0.0
    square = second - 2 * mean * first + mean**2 * zeroth
    return float(square @ phi**2), float(overlap @ phi**3), float(mass @ phi**4)
