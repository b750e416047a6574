"""Moments of the inputs ``x`` and of what the student sees of them, ``phi(x)``, in closed form."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..quantizers.pieces import partial_moments
from ..quantizers.quantizer import Quantizer


class InputMoments(NamedTuple):
    """What the limit needs of ``phi(x)`` with ``x ~ N(0, std^2)``.

    ``k1 = E[x phi]``, ``k2 = E[phi^2]``, ``mean_abs = E|phi|``. ``levels (L,)``, ``mass = P(phi = level)`` and
    ``overlap = E[x; phi = level]`` describe the joint law of a quantized input; all three are None for
    unquantized inputs. An array of ``std`` leads all shapes but that of ``levels``. ``crowd`` is the average of
    ``E|phi|`` over all inputs, those of other variances included, for rules that couple the coordinates.
    """

    k1: Float[Array, "*n"]
    k2: Float[Array, "*n"]
    mean_abs: Float[Array, "*n"]
    levels: Float[Array, " L"] | None
    mass: Float[Array, "*n L"] | None
    overlap: Float[Array, "*n L"] | None
    std: Float[Array, "*n"]
    crowd: Float[Array, "*n"]


def input_moments(quantizer: Quantizer, std=1.0) -> InputMoments:
    """Moments of a quantized input ``x ~ N(0, std^2)`` in closed form (``docs/theory.md``, section 0)."""
    std = jnp.asarray(std) * 1.0
    if quantizer.is_none:
        size = jnp.sqrt(2 / jnp.pi) * std
        return InputMoments(std**2, std**2, size, None, None, None, std, size)
    levels = quantizer.levels
    p = partial_moments(quantizer.pieces.breaks, 0.0, std)
    if quantizer.rounding == "nearest":
        mass, overlap = p.zeroth, p.first
    else:
        mass, overlap = split_between(levels, p.zeroth, p.first), split_between(levels, p.first, p.second)
    size = mass @ jnp.abs(levels)
    return InputMoments(overlap @ levels, mass @ levels**2, size, levels, mass, overlap, std, size)


def split_between(levels, moment, next_moment) -> Float[Array, "*n L"]:
    """Share of every level in a moment under stochastic rounding.

    ``moment`` and ``next_moment`` are ``E[w^n; piece]`` and ``E[w^(n+1); piece]`` (*n, L + 1): between two
    levels each is taken with the fraction of the way to it.
    """
    inner, leading = moment[..., 1:-1], [(0, 0)] * (moment.ndim - 1)
    rise = (next_moment[..., 1:-1] - levels[:-1] * inner) / jnp.diff(levels)
    each = jnp.pad(rise, [*leading, (1, 0)]) + jnp.pad(inner - rise, [*leading, (0, 1)])
    return each.at[..., 0].add(moment[..., 0]).at[..., -1].add(moment[..., -1])


def input_mean(quantizer: Quantizer, std=1.0) -> Float[Array, "*n"]:
    """``E[phi(x)]``, which has to vanish for a limit to exist."""
    moments = input_moments(quantizer, std)
    if moments.levels is None or moments.mass is None:
        return jnp.zeros_like(moments.std)
    return moments.mass @ moments.levels
