"""Moments of the inputs ``x`` and of what the student sees of them, ``phi(x)``, in closed form."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, Float

from ..code.compiling import Program
from ..quantizers.quantizer import Quantizer
from .law import InputLaw


class InputMoments(NamedTuple):
    """What the limit needs of ``x`` and ``phi(x)`` (``docs/inputs.md``).

    ``std^2 = Var x``, ``k1 = Cov(x, phi)``, ``k2 = Var phi``; ``mean_x = E[x]`` and ``mean = E[phi]`` as teacher and
    student see them, and ``mean_abs = E|phi|``. ``levels (*n, L)``, ``mass = P(phi = level)`` and ``overlap =
    E[x; phi = level]`` describe the joint law of ``x`` and ``phi``, both with their means taken off; all three are None
    for unquantized Gaussian inputs. An array of variances leads all shapes. ``crowd`` is the average of ``E|phi|`` over
    all inputs, those of other variances included, for rules that couple the coordinates.
    """

    k1: Float[Array, "*n"]
    k2: Float[Array, "*n"]
    mean_abs: Float[Array, "*n"]
    levels: Float[Array, "*n L"] | None
    mass: Float[Array, "*n L"] | None
    overlap: Float[Array, "*n L"] | None
    std: Float[Array, "*n"]
    crowd: Float[Array, "*n"]
    mean_x: Float[Array, "*n"]
    mean: Float[Array, "*n"]


def input_moments(
    quantizer: Quantizer, std=1.0, law: InputLaw | None = None, means: str = "zero", own=0.0
) -> InputMoments:
    """Moments of a quantized input of the law (N(0, 1) by default) times ``std``, in closed form.

    ``own`` is a mean of its own, added to that of the law.

    ``means`` says whether ``E[x]`` and ``E[phi]`` are known to be ``"zero"``, are ``"removed"`` before teacher and
    student see them, or ``"kept"``.
    """
    law = InputLaw() if law is None else law
    std = jnp.asarray(std) * 1.0
    spread = std * jnp.sqrt(law.variance)
    zero = jnp.zeros_like(std)
    shift = jnp.asarray(law.mean) + own
    mean_x = zero if means == "zero" else shift + law.base[0] * jnp.asarray(law.scale) * std
    if quantizer.is_none and law.kind == "gaussian":
        seen = mean_x if means == "kept" else zero
        ratio = seen / spread
        size = spread * np.sqrt(2 / np.pi) * jnp.exp(-(ratio**2) / 2) + seen * erf(ratio / np.sqrt(2))
        return InputMoments(spread**2, spread**2, size, None, None, None, spread, size, seen, seen)
    if quantizer.is_none:
        x, mass = law.nodes(std, mean_x if means == "removed" else zero, own)
        size = jnp.sum(mass * jnp.abs(x), -1)
        seen = mean_x if means == "kept" else zero
        x = x - seen[..., None]
        return InputMoments(spread**2, spread**2, size, x, mass, mass * x, spread, size, seen, seen)
    levels = quantizer.levels
    zeroth, first, second = law.partial(quantizer.pieces.breaks, std, own)
    if quantizer.rounding == "nearest":
        mass, overlap = zeroth, first
    else:
        rises = quantizer.pieces.first[1:-1, 1]
        mass, overlap = (split_between(levels, rises, *pair) for pair in ((zeroth, first), (first, second)))
    mean = zero if means == "zero" else mass @ levels
    centred = levels - mean[..., None]
    size = jnp.sum(mass * jnp.abs(levels if means == "kept" else centred), -1)
    overlap = overlap - mean_x[..., None] * mass
    k1, k2 = jnp.sum(overlap * centred, -1), jnp.sum(mass * centred**2, -1)
    if means != "kept":
        mean_x, mean = zero, zero
    return InputMoments(k1, k2, size, centred, mass, overlap, spread, size, mean_x, mean)


def split_between(levels, rises, moment, next_moment) -> Float[Array, "*n L"]:
    """Share of every level in a moment under stochastic rounding.

    ``moment`` and ``next_moment`` are ``E[w^n; piece]`` and ``E[w^(n+1); piece]`` (*n, L + 1): between two
    levels each is taken with the fraction of the way to it. Where it does not rise, ``rises (L - 1,)`` is 0: between
    levels that fill up a program, whose compiled differences need not be 0 (`Pieces.first` knows which).
    """
    inner, leading = moment[..., 1:-1], [(0, 0)] * (moment.ndim - 1)
    steps = jnp.where(rises > 0, jnp.diff(levels), 1.0)
    rise = jnp.where(rises > 0, (next_moment[..., 1:-1] - levels[:-1] * inner) / steps, 0.0)
    each = jnp.pad(rise, [*leading, (1, 0)]) + jnp.pad(inner - rise, [*leading, (0, 1)])
    return each.at[..., 0].add(moment[..., 0]).at[..., -1].add(moment[..., -1])


#: `input_moments` as one program.
moments_compiled = Program(input_moments)
