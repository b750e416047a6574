r"""Averages of ``y ~ N(0, t^2)`` rounded to the integers, to machine accuracy for every ``t``.

Up to ``t = 0.3`` they are sums over the thresholds within 9 standard deviations; beyond, Fourier series of the rounding
error, whose terms fall as ``exp(-2 pi^2 k^2 t^2)`` (Poisson's summation formula). ``E|round(y)|`` bends at 0: it is the
sum up to ``t = 1.5``, and its Euler-Maclaurin series in ``1/t`` beyond.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array
from scipy.special import bernoulli, factorial, factorial2

from .quadrature import Profile

#: Where the sums end, with their terms, and the terms of the Fourier series.
_LARGE, _TERMS, _WAVES, _TINY = 0.3, 4, 5, 1e-30
#: The same for ``E|round(y)|``.
_LARGE_SIZE, _TERMS_SIZE = 1.5, 14
_ROOT = float(np.sqrt(2 / np.pi))


def _series(count: int) -> np.ndarray:
    """Coefficients of ``t^(1 - 2k)``, ``k = 0 .. count``, in ``E|round(y)| = 2 sum_n P(y > n - 1/2)``."""
    k = np.arange(1, count + 1)
    at_half = -(1 - 2.0 ** (1 - 2 * k)) * bernoulli(2 * count)[2 * k]
    odd = np.array([1.0, *factorial2(2 * k[1:] - 3)])
    return _ROOT * np.append(1.0, (-1.0) ** (k - 1) * at_half / factorial(2 * k) * odd)


_SERIES = _series(15)


def nearest(t) -> Profile:
    """``E[y round(y)] / t^2``, ``E[round(y)^2]``, ``E|round(y)|``."""
    t = jnp.maximum(jnp.asarray(t), _TINY)
    n, few, many = _terms(t, _LARGE, _TERMS)
    z = (n - 0.5) / few
    slope = 2 * jnp.sum(norm.pdf(z) / few, axis=-1)
    square = 2 * jnp.sum((2 * n - 1) * norm.cdf(-z), axis=-1)
    k, wave = _waves(many)
    signed = (-1.0) ** k * wave  # round(y) = y + sum_k (-1)^k sin(2 pi k y) / (pi k)
    smooth_slope = 1 + 2 * jnp.sum(signed, axis=-1)
    smooth_square = many**2 * (2 * smooth_slope - 1) + 1 / 12 + jnp.sum(signed / (np.pi * k) ** 2, axis=-1)
    n, few, big = _terms(t, _LARGE_SIZE, _TERMS_SIZE)
    size = 2 * jnp.sum(norm.cdf(-(n - 0.5) / few), axis=-1)
    smooth_size = big * jnp.polyval(_SERIES[::-1], 1 / big**2)
    return Profile(
        jnp.where(t > _LARGE, smooth_slope, slope),
        jnp.where(t > _LARGE, smooth_square, square),
        jnp.where(t > _LARGE_SIZE, smooth_size, size),
    )


def fraction_variance(t) -> Array:
    """``E[f (1 - f)]``, ``f`` the fractional part of ``y``: the variance that stochastic rounding adds.

    ``t sqrt(2/pi) - t^2 + 4 sum_n E[(y - n)+]``, or ``1/6 - sum_k E[cos(2 pi k y)] / (pi k)^2``.
    """
    t = jnp.maximum(jnp.asarray(t), _TINY)
    n, few, many = _terms(t, _LARGE, _TERMS)
    loss = jnp.sum(few * norm.pdf(n / few) - n * norm.cdf(-n / few), axis=-1)
    small = few[..., 0]
    k, wave = _waves(many)
    smooth = 1 / 6 - jnp.sum(wave / (np.pi * k) ** 2, axis=-1)
    return jnp.where(t > _LARGE, smooth, _ROOT * small - small**2 + 4 * loss)


def _terms(t, large: float, count: int):
    """Numbers of the thresholds, ``t`` where they are summed, and where they are not."""
    return np.arange(1, count + 1), jnp.minimum(t, large)[..., None], jnp.maximum(t, large)


def _waves(t):
    """``k`` and ``E[cos(2 pi k y)]``."""
    k = np.arange(1, _WAVES + 1)
    return k, jnp.exp(-2 * (np.pi * k * t[..., None]) ** 2)
