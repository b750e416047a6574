r"""The compiled loop of one-pass SGD (``docs``, theory section 1), for a group of seeds.

One step draws ``x ~ N(0, I_d)`` and ``xi ~ N(0, 1)`` for every seed and does

    ``r = w*.x / sqrt(d) + noise_std xi - psi(w).phi(x) / sqrt(d)``,
    ``w <- clip( w + h(w) U(r, phi) / sqrt(d) - lr weight_decay w / d )``.

Three things make it fast on CPUs. The coordinates are kept as two halves, because the generator
makes numbers in pairs. The draws of the next step are part of the loop state: XLA then computes them
once, instead of again in every fused loop that reads them. Sums are folded in a fixed order by
elementwise additions of slices, which vectorise and do not depend on how the work is divided.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, UInt32

from .._check import fail
from ..problem import Problem
from ..rules import Rule
from . import sampler
from .codes import Coder, coder

Halves = tuple[Float32[Array, "S P"], Float32[Array, "S P"]]
_INT32_MAX = 2**31 - 1
_FOLD = 8  # slices added at a time


class Model(eqx.Module):
    """What the kernel needs of a problem; every number is an array, so new values do not recompile."""

    weights: Coder
    inputs: Coder
    rule: Rule
    noise_std: Float32[Array, ""]
    ste_range: Float32[Array, ""] | None
    latent_clip: Float32[Array, ""] | None
    dim: int = eqx.field(static=True)


class Draws(NamedTuple):
    """The random numbers of one step; the two halves are real and imaginary parts."""

    x: Array
    xi: Array
    weights: Array | None
    inputs: Array | None
    rule: Array | None


def model(problem: Problem, dim: int) -> Model:
    """The kernel's form of a problem in ``dim`` dimensions."""

    def single(value):
        return None if value is None else jnp.asarray(value, jnp.float32)

    def leaf(value):
        array = jnp.asarray(value)
        return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array

    if problem.rule.uniforms > sampler.MAX_RULE_STREAMS:
        most = f"at most {sampler.MAX_RULE_STREAMS} uniform numbers for each coordinate"
        fail("rule.uniforms", most, problem.rule.uniforms, "use fewer")
    return Model(
        coder(problem.weights),
        coder(problem.inputs),
        jax.tree.map(leaf, problem.rule),
        single(problem.noise_std),
        single(problem.weights.range) if problem.ste == "clipped" else None,
        single(problem.latent_clip),
        dim,
    )


def halves(values: Float32[Array, "S d"]) -> Halves:
    """Coordinates ``[0, P)`` and ``[P, d)`` with ``P = ceil(d / 2)``, both padded with 0 to a round width."""
    dim = values.shape[1]
    first = -(-dim // 2)
    width = -(-first // _FOLD) * _FOLD
    parts = values[:, :first], values[:, first:]
    a, b = (jnp.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts)
    return a, b


def whole(parts: Halves, dim: int) -> Float32[Array, "S d"]:
    """The coordinates in order: the inverse of `halves`."""
    first = -(-dim // 2)
    return jnp.concatenate([parts[0][:, :first], parts[1][:, : dim - first]], axis=1)


def fold(x: Array, bound: int | None = None) -> Float32[Array, "S 1"]:
    """Sum over the last axis in a fixed order, as float32.

    Integers, at most ``bound`` in absolute value, are added exactly in int32 in blocks whose sums
    cannot overflow; the block sums are added in float32.
    """
    while x.shape[1] > 1:
        count = min(_FOLD, x.shape[1])
        width = -(-x.shape[1] // count)
        if bound is not None:
            bound = bound * count
            if bound > _INT32_MAX:
                bound, x = None, x.astype(jnp.float32)
        x = jnp.pad(x, ((0, 0), (0, width * count - x.shape[1])))
        parts = [x[:, k * width : (k + 1) * width] for k in range(count)]
        while len(parts) > 1:
            odd = parts[len(parts) & ~1 :]
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
        x = parts[0]
    return x.astype(jnp.float32)


def draw(model: Model, counter: sampler.Counter, pairs: int) -> Draws:
    """The random numbers of the step that ``counter`` names."""
    rule = [sampler.uniforms(counter, sampler.RULE + k, pairs) for k in range(model.rule.uniforms)]
    return Draws(
        sampler.normals(counter, sampler.INPUTS, pairs),
        lax.real(sampler.normals(counter, sampler.NOISE, 1)),
        sampler.uniforms(counter, sampler.ROUND_WEIGHTS, pairs) if model.weights.stochastic else None,
        sampler.uniforms(counter, sampler.ROUND_INPUTS, pairs) if model.inputs.stochastic else None,
        jnp.stack(rule) if rule else None,
    )


def _split(z: Array | None):
    return (None, None) if z is None else (lax.real(z), lax.imag(z))


def step(model: Model, teacher: Halves, w: Halves, draws: Draws, tau: Float32[Array, ""]) -> Halves:
    """One step of SGD at time ``tau = steps / d``: the latent weights (two halves) after it."""
    dim, pairs = model.dim, w[0].shape[1]
    root = jnp.float32(dim**-0.5)
    xs = _split(draws.x)
    codes = [model.inputs.code(x, u) for x, u in zip(xs, _split(draws.inputs), strict=True)]
    codes = [_mask(code, n) for code, n in zip(codes, (-(-dim // 2), dim // 2), strict=True)]
    label = fold(sum(t * x for t, x in zip(teacher, xs, strict=True))) * root
    student = _overlap(model, w, _split(draws.weights), codes, 2 * pairs) * root
    r = label + model.noise_std * draws.xi - student
    decay = (model.rule.rate(tau) * model.rule.weight_decay).astype(jnp.float32) / jnp.float32(dim)
    phis = [model.inputs.value(code) for code in codes]
    moves = _moves(model, r, phis, draws.rule, tau)
    return tuple(_update(model, part, move * root, decay) for part, move in zip(w, moves, strict=True))


def _mask(code, count: int):
    """Zero beyond the first ``count`` coordinates, so that the padding takes no part."""
    if count == code.shape[1]:
        return code
    return jnp.where(lax.broadcasted_iota(jnp.int32, code.shape, 1) < count, code, jnp.zeros_like(code))


def _overlap(model: Model, w: Halves, uniforms, codes, count: int) -> Float32[Array, "S 1"]:
    """``psi(w).phi(x)``: exact in int32 when both are on lattices."""
    psis = [model.weights.code(part, u) for part, u in zip(w, uniforms, strict=True)]
    if model.weights.integer and model.inputs.integer:
        products = [p.astype(jnp.int32) * c.astype(jnp.int32) for p, c in zip(psis, codes, strict=True)]
        bound = 2 * model.weights.bound * model.inputs.bound
        return fold(products[0] + products[1], bound) * (model.weights.unit * model.inputs.unit)
    values = [model.weights.value(p) * model.inputs.value(c) for p, c in zip(psis, codes, strict=True)]
    return fold(values[0] + values[1])


def _moves(model: Model, r, phis, uniforms, tau):
    """The rule on each half; one that couples coordinates needs `whole` before and `halves` after."""
    moves = [model.rule.move(r, phi, u, tau) for phi, u in zip(phis, _split(uniforms), strict=True)]
    return [move.astype(jnp.float32) for move in moves]


def _update(model: Model, w, move, decay):
    if model.ste_range is not None:
        move = jnp.where(jnp.abs(w) <= model.ste_range, move, jnp.float32(0.0))
    w = w + move - decay * w
    return w if model.latent_clip is None else jnp.clip(w, -model.latent_clip, model.latent_clip)


def _time(counter: sampler.Counter, dim: int) -> Float32[Array, ""]:
    steps = counter.high.astype(jnp.float32) * jnp.float32(2.0**32) + counter.low.astype(jnp.float32)
    return steps / jnp.float32(dim)


def _loop(model, seeds, teacher, w, low, high, n, visit, carry):
    """``n`` steps from step ``low + 2^32 high``; ``visit(carry, before, after)`` sees each."""
    pairs = w[0].shape[1]

    def body(i, state):
        w, draws, carry = state
        now = sampler.Counter(seeds, low + i.astype(jnp.uint32), high)
        after = step(model, teacher, w, draws, _time(now, model.dim))
        ahead = draw(model, now._replace(low=now.low + jnp.uint32(1)), pairs)
        return after, ahead, visit(carry, w, after)

    start = (w, draw(model, sampler.Counter(seeds, low, high), pairs), carry)
    w, _, carry = lax.fori_loop(jnp.int32(0), n, body, start)
    return w, carry


class Programs(NamedTuple):
    """The two jitted functions; ``low, high`` are the words of the first step, ``n`` the number of steps.

    A call must not cross a multiple of ``2^32`` steps. ``advance(model, seeds, teacher, w, low, high, n)``
    returns the latent weights; ``flips`` (same arguments) the number of level changes, summed over the
    steps (S,).
    """

    advance: Callable[..., Halves]
    flips: Callable[..., Float32[Array, " S"]]


@functools.cache
def programs(platform: str) -> Programs:
    """The compiled functions for a platform, with full vectors on CPUs (XLA's default is 256 bits)."""
    options = {"xla_cpu_prefer_vector_width": 512} if platform == "cpu" else {}
    return Programs(jax.jit(_advance, compiler_options=options), jax.jit(_flips, compiler_options=options))


def _advance(model: Model, seeds: UInt32[Array, " S"], teacher: Halves, w: Halves, low, high, n):
    return _loop(model, seeds, teacher, w, low, high, n, lambda *_: None, None)[0]


def _flips(model: Model, seeds: UInt32[Array, " S"], teacher: Halves, w: Halves, low, high, n):
    def levels(parts):
        return whole(tuple(model.weights.code(part, None) for part in parts), model.dim)

    def visit(total, before, after):
        return total + jnp.sum(levels(before) != levels(after), axis=1, dtype=jnp.float32)

    return _loop(model, seeds, teacher, w, low, high, n, visit, jnp.zeros(seeds.shape, jnp.float32))[1]
