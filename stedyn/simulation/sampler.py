r"""Random numbers from a counter: ``(seed, step, stream, pair)`` to two uniform or two normal numbers.

The bits are Threefry-2x32 with 20 rounds [1]_, written out so that XLA fuses them with the rest of
the draw and vectorises it (rotations are single AVX-512 instructions). The key is the seed and the
high word of the step, the counter is the low word of the step and ``(stream, pair)``: a number
depends on nothing else, so runs can be cut into chunks, threads and groups of seeds at will.

Two words make two normals by Box-Muller. Logarithm, sine and cosine are float32 polynomials, accurate
to 5e-7 absolute; the radius is taken from 32 bits, so the largest normal is ``sqrt(2 ln 2^33) = 6.76``.

.. [1] Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex64, Float32, UInt32

#: Streams of one step. Every stream has its own counters, so no number is used twice.
INPUTS, NOISE, ROUND_WEIGHTS, ROUND_INPUTS, RULE = range(5)
_STREAM_BITS = 4
#: Pairs are counted in the remaining bits of a word.
MAX_PAIRS = 2 ** (32 - _STREAM_BITS)
#: Streams left for the uniform numbers of a rule.
MAX_RULE_STREAMS = 2**_STREAM_BITS - RULE

_SAMPLE_BITS = 21  # steps are counted up to 2^53, so that this many bits of the high word are taken
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
# Chebyshev fits: cos(pi y) in y^2; sin(pi y) / (y (1 - y^2)) in y^2; log(1 + m) / m in m
_COS = (0.9999999891, -4.934801125, 4.058694841, -1.33515843, 0.2350298084, -0.02535898364, 0.001593910683)
_SIN = (3.141592644, -2.026119464, 0.5240361514, -0.07518726335, 0.006860187322, -0.000385937707)
_LOG = (
    0.9999999743, -0.4999998703, 0.3333418334, -0.2500215346, 0.1995697748,
    -0.1656069599, 0.1494909548, -0.1437733057, 0.08743945359,
)  # fmt: skip
_ROOT_HALF = 0x3F3504F3  # bits of sqrt(1/2) in float32


class Counter(NamedTuple):
    """What a draw depends on, besides the stream: seed keys (S,), low and high word of the step, and pairs.

    The pairs are counted from 0, or are those given.
    """

    seeds: UInt32[Array, " S"]
    low: UInt32[Array, ""]
    high: UInt32[Array, ""]
    pairs: UInt32[Array, "1 P"] | None = None


def _word(value: int) -> UInt32[Array, ""]:
    return jnp.asarray(value, jnp.uint32)


def _single(value: float) -> Float32[Array, ""]:
    return jnp.asarray(value, jnp.float32)


def threefry(k0, k1, x0, x1) -> tuple[UInt32[Array, "*n"], UInt32[Array, "*n"]]:
    """Threefry-2x32 with 20 rounds: two key words and two counter words to two random words."""
    keys = (k0, k1, k0 ^ k1 ^ _word(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for i in range(20):
        turn = _ROTATIONS[i % 8]
        x0 = x0 + x1
        x1 = ((x1 << _word(turn)) | (x1 >> _word(32 - turn))) ^ x0
        if i % 4 == 3:
            j = i // 4 + 1
            x0, x1 = x0 + keys[j % 3], x1 + keys[(j + 1) % 3] + _word(j)
    return x0, x1


def words(counter: Counter, stream: int, pairs: int) -> tuple[UInt32[Array, "S P"], UInt32[Array, "S P"]]:
    """Two random words for each seed and pair."""
    pair = counter.pairs
    if pair is None:
        pair = lax.broadcasted_iota(jnp.uint32, (counter.seeds.shape[0], pairs), 1)
    pair = jnp.broadcast_to(pair, (counter.seeds.shape[0], pairs))
    return words_of(counter._replace(seeds=counter.seeds[:, None]), stream, pair)


def words_of(counter: Counter, stream: int, pair: UInt32[Array, "*n"]):
    """Two random words for each of the given pairs; seeds and steps have one entry, or one for each pair."""
    low = jnp.broadcast_to(counter.low, pair.shape)
    return threefry(counter.seeds, counter.high, low, pair + _word(stream << (32 - _STREAM_BITS)))


def uniforms(counter: Counter, stream: int, pairs: int) -> Complex64[Array, "S P"]:
    """Two numbers ``U(0, 1)`` for each pair, neither 0 nor 1, as real and imaginary part."""
    return lax.complex(*units(*words(counter, stream, pairs)))


def normals(counter: Counter, stream: int, pairs: int) -> Complex64[Array, "S P"]:
    """Two numbers ``N(0, 1)`` for each pair, as real and imaginary part."""
    return lax.complex(*box_muller(*words(counter, stream, pairs)))


def units(first: UInt32[Array, "*n"], second: UInt32[Array, "*n"]):
    """Two numbers ``U(0, 1)`` from two words."""
    return _unit(first), _unit(second)


def _unit(bits: UInt32[Array, "*n"]) -> Float32[Array, "*n"]:
    # 23 bits and a half: exact in float32, which 24 bits and a half would not be
    return (bits >> _word(9)).astype(jnp.float32) * _single(2.0**-23) + _single(2.0**-24)


def laplace(y: Float32[Array, "*n"]) -> Float32[Array, "*n"]:
    """A number of density ``exp(-|x|) / 2`` from one uniform on (-1, 1): ``-sign(y) ln(1 - |y|)``."""
    return jnp.sign(y) * jnp.maximum(-_log(_single(1.0) - jnp.abs(y)), _single(0.0))


def box_muller(radius: UInt32[Array, "*n"], angle: UInt32[Array, "*n"]):
    """``sqrt(-2 ln u) (cos pi y, sin pi y)`` with ``u`` in (0, 1], ``y`` in [-1, 1] from two words."""
    u = radius.astype(jnp.float32) * _single(2.0**-32) + _single(2.0**-33)
    length = jnp.sqrt(_single(-2.0) * jnp.minimum(_log(u), _single(0.0)))
    y = lax.bitcast_convert_type(angle, jnp.int32).astype(jnp.float32) * _single(2.0**-31)
    t = y * y
    return length * _polynomial(_COS, t), length * (y * (_single(1.0) - t) * _polynomial(_SIN, t))


def _log(u: Float32[Array, "*n"]) -> Float32[Array, "*n"]:
    bits = lax.bitcast_convert_type(u, jnp.int32) - jnp.int32(_ROOT_HALF)
    exponent = (bits >> jnp.int32(23)).astype(jnp.float32)
    mantissa = (bits & jnp.int32(0x7FFFFF)) + jnp.int32(_ROOT_HALF)
    m = lax.bitcast_convert_type(mantissa, jnp.float32) - _single(1.0)
    return exponent * _single(math.log(2.0)) + m * _polynomial(_LOG, m)


def _polynomial(coefficients: tuple[float, ...], t: Float32[Array, "*n"]) -> Float32[Array, "*n"]:
    total = jnp.full_like(t, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * t + _single(coefficient)
    return total


def counter_of(now: Counter, b) -> Counter:
    """The counter of sample ``b`` of a mini-batch: they differ in the upper bits of the high word."""
    return now._replace(high=now.high | (b << jnp.uint32(_SAMPLE_BITS)))


def time_of(counter: Counter, dim: int) -> Float32[Array, ""]:
    """``tau`` of the step that ``counter`` names."""
    steps = counter.high.astype(jnp.float32) * jnp.float32(2.0**32) + counter.low.astype(jnp.float32)
    return steps / jnp.float32(dim)
