"""The range of the weights where it moves, from the state, the weights or the time (``docs/moving-ranges.md``).

Ranges are in units of that of the model: a weight is used as ``scale psi(w / scale)``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from ..checks import Failure
from .layout import fold, whole
from .state import Scale, State, latent


class Diverged(Failure, FloatingPointError):
    """The weights of a run grew beyond float32, or their range fell to 0."""


def scale_of(model, w, state: Scale | None, tau) -> Float32[Array, "S 1"]:
    """The scale with latent weights ``w`` (halves) at ``tau``."""
    rule = model.range.rule
    if state is not None:
        return state.value
    if rule.schedule is not None:
        return jnp.full_like(w[0][:, :1], rule.schedule(tau))
    if rule.kind == "percentile":
        size = jnp.sort(jnp.abs(whole(w, model.dim)), axis=1)
        place = rule.percentile / jnp.float32(100.0) * jnp.float32(model.dim - 1)
        below = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, model.dim - 2)
        part = place - below.astype(jnp.float32)
        found = size[:, below] + part * (size[:, below + 1] - size[:, below])
        return rule.factor * found[:, None] / model.range.width
    a, b = (masked(part, count) for part, count in zip(w, counts(model.dim), strict=True))
    over = jnp.float32(1 / model.dim)
    if rule.kind == "rms":
        return rule.factor * jnp.sqrt(fold(a**2 + b**2) * over) / model.range.width
    return rule.factor * fold(jnp.abs(a) + jnp.abs(b)) * over / model.range.width


_scale_of = jax.jit(scale_of)


def scales_at(model, state: State, at: int) -> np.ndarray | None:
    """The scales (S,) after step number ``at`` on the host; None where the range does not move."""
    if model.range is None:
        return None
    found = np.asarray(_scale_of(model, latent(model, state), state.scale, np.float32(at / model.dim)))[:, 0]
    if not np.all(found > 0):
        tau = f"{at / model.dim:.4g}"
        raise Diverged(
            f"the range of the weights fell to 0 before tau = {tau}; lower range_lr, or start nearer."
        )
    return found


def learned(model, w, uniforms, r, phis, state: Scale) -> Scale:
    """The range after a step with residual ``r`` (1 for batches) and the inputs (averaged gradients)."""
    rule, width = model.range.rule, model.range.width
    scale, dim = state.value, model.dim
    terms = []
    for part, u, phi in zip(w, uniforms, phis, strict=True):
        place = part / scale
        psi = model.weights.value(model.weights.code(place, u))
        inside = (place > model.range.low) & (place < model.range.high)
        between = psi - place if rule.estimator == "lsq" else jnp.zeros_like(psi)
        terms.append(jnp.where(inside, between, psi) * phi)
    gradient = r * fold(terms[0] + terms[1]) * jnp.float32(dim**-0.5) / width - rule.decay * width * scale
    rate = rule.lr * jnp.float32(dim**-0.5 if rule.kind == "fast-learned" else 1 / dim)
    change = rate * gradient / width + state.rest
    new = scale + change
    return Scale(new, change - (new - scale))


def counts(dim: int) -> tuple[int, int]:
    """Coordinates of each half."""
    return -(-dim // 2), dim // 2


def masked(part, count: int):
    """Zero in the padding."""
    return part if count == part.shape[1] else part * (jnp.arange(part.shape[1]) < count)
