r"""Averages of ``y ~ N(0, t^2)`` rounded to the integers: sums over thresholds, exact for every ``t``.

Up to ``t = 6`` the sums have 56 terms (9 standard deviations); beyond, they equal their smooth parts to
``exp(-2 pi^2 36)``, but for ``E|round(y)|``, where three terms of the Euler-Maclaurin series are kept.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array

from .quadrature import Profile

_TERMS, _LARGE, _TINY = 56, 6.0, 1e-30
_ROOT = float(np.sqrt(2 / np.pi))
_PDF0 = float(1 / np.sqrt(2 * np.pi))


def nearest(t) -> Profile:
    """``E[y round(y)] / t^2``, ``E[round(y)^2]``, ``E|round(y)|``."""
    t = jnp.maximum(jnp.asarray(t), _TINY)
    small = jnp.minimum(t, _LARGE)[..., None]
    index = np.arange(1, _TERMS + 1)
    z = (index - 0.5) / small
    tail = norm.cdf(-z)
    slope = 2 * jnp.sum(norm.pdf(z) / small, axis=-1)
    square = 2 * jnp.sum((2 * index - 1) * tail, axis=-1)
    size = 2 * jnp.sum(tail, axis=-1)
    big = jnp.maximum(t, _LARGE)
    series = _ROOT * big - _PDF0 / (12 * big) - 14 * _PDF0 / (5760 * big**3)
    return Profile(
        jnp.where(t > _LARGE, 1.0, slope),
        jnp.where(t > _LARGE, big**2 + 1 / 12, square),
        jnp.where(t > _LARGE, series, size),
    )


def fraction_variance(t) -> Array:
    """``E[f (1 - f)]``, ``f`` the fractional part of ``y``: the variance that stochastic rounding adds.

    ``t sqrt(2/pi) - t^2 + 4 sum_n E[(y - n)+]``, and 1/6 for large ``t``.
    """
    t = jnp.maximum(jnp.asarray(t), _TINY)
    small = jnp.minimum(t, _LARGE)
    n = np.arange(1, _TERMS + 1)
    z = n / small[..., None]
    loss = jnp.sum(small[..., None] * norm.pdf(z) - n * norm.cdf(-z), axis=-1)
    return jnp.where(t > _LARGE, 1 / 6, _ROOT * small - small**2 + 4 * loss)
