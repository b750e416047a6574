"""What a range that moves is at the start of a run: taken from the weights, or where a fast one goes at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ..limit import Limit
from .masses import start_masses
from .mesh import EXTENT

#: Start classes from which a range is taken, and bisections for it.
STARTS, BISECTIONS = 4000, 60
#: Ranges, over that of the problem, between which a fast range is looked for, and how many.
FASTEST, SCANNED = 64.0, 241


def range_at_start(limit: Limit) -> Float[Array, ""]:
    """The range that the rule takes from the weights at the start: of their law, or of classes of them."""
    moving = limit.range_rule
    share, mean, var = limit.start.classes(STARTS)
    if moving.kind == "percentile":

        def below(size):
            inside = start_masses(limit, jnp.stack([-size, size]), jnp.inf)[1]
            return jnp.sum(inside * limit.share) < moving.percentile / 100

        top = jnp.max(jnp.abs(mean)) + EXTENT * jnp.sqrt(jnp.max(var)) + jnp.abs(limit.range)
        return moving.factor * _bisected(below, 0.0 * top, 2 * top)[1]
    share = jnp.broadcast_to(
        share * limit.share[:, None] if share.shape[0] > 1 else share, mean.shape
    ).ravel()
    mean, var = mean.ravel(), jnp.broadcast_to(var, mean.shape).ravel()
    if moving.kind == "rms":
        return moving.factor * jnp.sqrt(share @ (mean**2 + var))
    std = jnp.sqrt(jnp.maximum(var, 1e-300))
    z = mean / std
    size = 2 * std * norm.pdf(z) + mean * (1 - 2 * norm.cdf(-z))
    return moving.factor * (share @ size)


def first_zero(force) -> Float[Array, ""]:
    """Where a fast range goes from ``scale = 1``: to the first zero of its force on that side; nan if there is none."""
    side = jnp.where(force(jnp.ones(())) >= 0, 1.0, -1.0)
    log = side * jnp.linspace(0.0, jnp.log(FASTEST), SCANNED)
    falls = side * jax.lax.map(lambda x: force(jnp.exp(x)), log) <= 0
    k = jnp.argmax(falls)
    near, far = _bisected(lambda x: side * force(jnp.exp(x)) > 0, log[jnp.maximum(k - 1, 0)], log[k])
    return jnp.where(jnp.any(falls), jnp.exp(0.5 * (near + far)), jnp.nan)


def _bisected(before, near, far):
    """Both ends of what is left between ``near``, which is ``before`` a change, and ``far``, which is not."""

    def halve(_, ends):
        middle = 0.5 * (ends[0] + ends[1])
        on = before(middle)
        return jnp.where(on, middle, ends[0]), jnp.where(on, ends[1], middle)

    return jax.lax.fori_loop(0, BISECTIONS, halve, (near, far))
