r"""Quadrature over the inputs: the law of ``|phi|^2 = sum_b phi_b^2`` of a mini-batch.

Given its inputs, the averaged gradient ``g = (1/B) sum_b r_b phi_b`` of one coordinate is Gaussian with
variance ``V |phi|^2 / B^2`` (``docs/theory.md``, section 4). The nodes here turn averages over the inputs
into sums. Unquantized inputs use a double-exponential rule (B = 1) or the Gauss rule of the chi-squared
law; quantized ones their atoms, whose sums are compressed to Gauss rules of the same moments.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..inputs.moments import InputMoments

#: Nodes of a compressed law, and of the chi-squared law.
COMPRESSED, CHI_SQUARED = 24, 64


def _half_normal() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of ``|z|``, ``z ~ N(0, 1)``: trapezoids in ``y``, ``x = exp(y - exp(-y))``."""
    y = np.arange(-3.4, 2.5, 1 / 16)
    x = np.exp(y - np.exp(-y))
    return x, np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2) * x * (1 + np.exp(-y)) / 16


HALF_NORMAL = _half_normal()


class Nodes(NamedTuple):
    """``K`` nodes: ``norm = |phi| / B``, and weights of three averages.

    ``mass`` gives ``E[f(norm)]``, ``own`` gives ``E[f(norm) |phi|^2 / B]``, and ``teacher`` gives
    ``E[f(norm) sum_b phi_b x_b / B]``.
    """

    norm: Float[Array, " K"]
    mass: Float[Array, " K"]
    own: Float[Array, " K"]
    teacher: Float[Array, " K"]


def batch_nodes(inputs: InputMoments, batch: int) -> Nodes:
    """Nodes for mini-batches of ``batch`` inputs."""
    if inputs.levels is None or inputs.mass is None or inputs.overlap is None:
        if batch == 1:
            x, mass = (jnp.asarray(part) for part in HALF_NORMAL)
            square = x**2
        else:
            square, mass = (jnp.asarray(part) for part in _chi_squared(batch))
        square = inputs.std**2 * square
        return Nodes(jnp.sqrt(square) / batch, mass, mass * square / batch, mass * square / batch)
    first = inputs.levels**2
    rest, weight = _power(first, inputs.mass, batch - 1)
    total = (first[:, None] + rest).reshape(-1)
    norm = jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1.0)), 0.0) / batch

    def spread(values):
        return (values[:, None] * weight).reshape(-1)

    own, teacher = inputs.mass * first, inputs.overlap * inputs.levels
    return Nodes(norm, spread(inputs.mass), spread(own), spread(teacher))


class Atoms(NamedTuple):
    """Values of one input with their mass and overlap ``E[x; phi]``, each (L,)."""

    value: Float[Array, " L"]
    mass: Float[Array, " L"]
    overlap: Float[Array, " L"]


def input_atoms(inputs: InputMoments) -> Atoms:
    """The atoms of a quantized input, or quadrature nodes of an unquantized one."""
    if inputs.levels is not None and inputs.mass is not None and inputs.overlap is not None:
        return Atoms(inputs.levels, inputs.mass, inputs.overlap)
    x, mass = HALF_NORMAL[0][::2], 2 * HALF_NORMAL[1][::2]
    both = inputs.std * np.concatenate([-x[::-1], x])
    half = jnp.asarray(np.concatenate([mass[::-1], mass]) / 2)
    return Atoms(both, half, half * both)


def _chi_squared(dof: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss rule of the chi-squared law, from its Jacobi matrix (Golub and Welsch 1969)."""
    k = np.arange(CHI_SQUARED)
    shape = dof / 2 - 1
    beside = np.sqrt(k[1:] * (k[1:] + shape))
    nodes, vectors = np.linalg.eigh(np.diag(2 * k + shape + 1) + np.diag(beside, 1) + np.diag(beside, -1))
    return 2 * np.maximum(nodes, 0.0), vectors[0] ** 2


def _power(x, mass, count: int):
    """The law of the sum of ``count`` independent copies of ``x``: nodes and masses."""
    total = jnp.zeros(1), jnp.ones(1)
    power = x, mass
    while count:
        if count & 1:
            total = _sum(total, power)
        count >>= 1
        if count:
            power = _sum(power, power)
    return total


def _sum(left, right):
    x = (left[0][:, None] + right[0]).reshape(-1)
    return _compress(x, (left[1][:, None] * right[1]).reshape(-1))


def _compress(x, mass):
    """Gauss rule with at most ``COMPRESSED`` nodes of a discrete law (Lanczos, reorthogonalized)."""
    size = COMPRESSED
    if x.size <= size:
        return x, mass
    scale = jnp.max(jnp.abs(x))
    start = jnp.sqrt(mass / jnp.sum(mass))
    basis = jnp.zeros((size, x.size)).at[0].set(start)

    def grow(k, state):
        basis, alpha, beta = state
        v = basis[k]
        w = x / scale * v
        alpha = alpha.at[k].set(w @ v)
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        length = jnp.sqrt(w @ w)
        alive = length > 1e-13
        beta = beta.at[k].set(jnp.where(alive, length, 0.0))
        new = jnp.where(alive, w / jnp.where(alive, length, 1.0), 0.0)
        return basis.at[k + 1].set(new, mode="drop"), alpha, beta

    state = basis, jnp.zeros(size), jnp.zeros(size)
    _, alpha, beta = lax.fori_loop(0, size, grow, state)
    inner = beta[:-1]
    nodes, vectors = jnp.linalg.eigh(jnp.diag(alpha) + jnp.diag(inner, 1) + jnp.diag(inner, -1))
    return scale * jnp.maximum(nodes, 0.0), vectors[0] ** 2
