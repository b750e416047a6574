r"""The multinomial update of arXiv 2512.04051: ``n`` trials spread over all coordinates at every step."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._check import fail, is_traced, nonnegative, positive, whole
from ..moments import InputMoments
from .base import MAX_BATCH, Coefficients, Response, Rule
from .nodes import HALF_NORMAL, batch_nodes, input_atoms
from .schedules import as_schedule

#: Streams of uniform numbers that the simulation keeps for a rule.
MAX_STREAMS = 12


class Multinomial(Rule):
    r"""``n = nu d`` trials choose coordinates with ``p_i = (|g_i| + c) / sum_j (|g_j| + c)``; each moves a weight
    by one lattice step ``zeta / sqrt(d)`` in the direction of its gradient ``g_i = r phi_i``.

    In the limit the counts are independent Poisson numbers of mean ``nu (|g| + c) / (E_phi|g| + c)``; with
    ``c = 0`` and unquantized inputs ``a = b = zeta nu / sqrt V`` and ``D = zeta^2 (nu + nu^2 pi / 2)``. The learning
    rate does not enter: what stands in its place, also for weight decay, is ``zeta nu``.

    Parameters
    ----------
    zeta : float
        Spacing of the weight lattice times ``sqrt(d)``.
    nu : float
        Trials for each coordinate and step, below 12 in a simulation; a schedule multiplies it.
    c : float
        What is added to ``|g_i|``, in units of ``1/sqrt(d)`` of the gradient; 0 or above.
    weight_decay, batch, schedule
        See `Rule`; a schedule is at most 1. With quantized inputs and ``batch > 1`` there is no closed limit here:
        simulate such a problem.
    """

    kind: ClassVar[str] = "multinomial"
    joint: ClassVar[bool] = True

    zeta: Float[Array, ""] | float = 0.1
    nu: Float[Array, ""] | float = 1.0
    c: Float[Array, ""] | float = 1.0
    streams: int = eqx.field(static=True, default=0)

    def __init__(self, zeta=0.1, nu=1.0, c=1.0, weight_decay=0.0, batch=1, schedule=None):
        self.zeta, self.nu, self.c = positive("zeta", zeta), positive("nu", nu), nonnegative("c", c)
        self.weight_decay = nonnegative("weight_decay", weight_decay)
        self.batch, self.schedule = whole("batch", batch, 1, MAX_BATCH), as_schedule(schedule)
        self.lr = self.zeta * self.nu
        self.streams = MAX_STREAMS if is_traced(nu) else int(np.max(np.asarray(nu))) + 1

    @property
    def lattice(self):
        return self.zeta

    def trials(self, tau) -> Float[Array, ""]:
        """``nu`` at ``tau``."""
        nu = jnp.asarray(self.nu)
        return nu if self.schedule is None else nu * self.schedule(tau)

    def rate(self, tau):
        """``zeta nu``, which plays the part of a learning rate."""
        return self.zeta * self.trials(tau)

    def moves(self, g, u, tau):
        """``U`` of all coordinates: ``g (S, d)``, ``u (S, n)`` with more uniform numbers than trials."""
        trials = jnp.round(self.trials(tau) * g.shape[1]).astype(jnp.int32)
        counts = jax.vmap(lambda weight, one: multinomial(weight, one, trials))(jnp.abs(g) + self.c, u)
        return self.zeta * jnp.sign(g) * counts

    def response(self, inputs: InputMoments) -> Response:
        return _Poisson(self, inputs)

    def check(self, problem):
        super().check(problem)
        if self.schedule is not None and not is_traced(self.nu):
            top = max(
                float(self.schedule(jnp.asarray(tau)))
                for tau in problem.taus[:: max(1, len(problem.taus) // 99)]
            )
            if top > 1 + 1e-6:
                fail(
                    "rule.schedule", "a factor of at most 1 for the multinomial rule", top, "raise nu instead"
                )

    def check_dim(self, dim):
        nu = float(self.nu)
        if nu * dim < 1:
            fail("rule.nu", f"at least 1/d = {1 / dim:g}, which is one trial a step", nu, "raise nu or d")
        if self.streams > MAX_STREAMS:
            fail("rule.nu", f"a number below {MAX_STREAMS} in a simulation", nu, "lower nu and raise zeta")


def multinomial(weight: Float[Array, " d"], u: Float[Array, " n"], trials) -> Float[Array, " d"]:
    """Counts of ``trials`` draws with probabilities ``weight / sum(weight)``; they sum to ``trials`` exactly.

    The order statistics of ``trials`` uniform numbers are partial sums of exponentials over their total;
    a count is the number of them between two partial sums of the weights.
    """
    waits = jnp.cumsum(-jnp.log(u))
    k = jnp.arange(u.shape[0])
    places = jnp.where(k < trials, waits / waits[trials], jnp.inf)
    ends = jnp.cumsum(weight)
    below = jnp.searchsorted(places, ends / jnp.maximum(ends[-1], 1e-30), side="right")
    below = below.at[-1].set(trials)
    return jnp.diff(below, prepend=0).astype(weight.dtype)


class _Poisson(Response):
    """Poisson counts given ``|r|`` and the input: sums over nodes of both."""

    rule: Multinomial
    inputs: InputMoments

    def __check_init__(self):
        if self.rule.batch > 1 and self.inputs.levels is not None:
            raise ValueError(
                "rule.batch: expected 1 for the limit of the multinomial rule with quantized inputs, whose normalizer "
                f"has no closed form, found {self.rule.batch}; set it to 1, or simulate."
            )

    def __call__(self, V, tau):
        rule, inputs, batch = self.rule, self.inputs, self.rule.batch
        value, mass, overlap = input_atoms(inputs)
        if batch == 1:
            size, share = (jnp.asarray(part) for part in HALF_NORMAL)
        else:  # the residuals of a batch act through the length of their vector
            size, share, _, _ = batch_nodes(inputs, batch)
        V = jnp.maximum(V, 0.0)
        alive = V > 0
        sigma = jnp.sqrt(jnp.where(alive, V, 1.0))
        r = sigma * size[:, None]
        trials = rule.trials(tau)
        mean = trials * (r * jnp.abs(value) + rule.c) / (r * inputs.mean_abs + rule.c)
        moves = jnp.where(alive & (value != 0), 1.0, 0.0)
        slope = jnp.sign(value) * rule.zeta * ((share * batch * size) @ mean) / sigma * moves
        square = rule.zeta**2 * (share @ (mean + mean**2)) * moves
        mean_abs = rule.zeta * (share @ mean) * moves
        return Coefficients(slope @ overlap, slope @ (mass * value), square @ mass, mean_abs @ mass)
