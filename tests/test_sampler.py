"""The generator: known answers, moments, tails, and no correlation between whatever makes two draws differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedyn.simulation import sampler


def test_threefry_known_answers():
    cases = [
        ((0, 0, 0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 4, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ]  # Random123 1.09, tests/kat_vectors
    for given, expected in cases:
        found = sampler.threefry(*(jnp.asarray(word, jnp.uint32) for word in given))
        assert tuple(int(word) for word in found) == expected


def _normals(seeds, steps, pairs):
    """Normals (steps, S, 2, pairs)."""

    @jax.jit
    def at(low):
        z = sampler.normals(sampler.Counter(seeds, low, jnp.uint32(0)), sampler.INPUTS, pairs)
        return jnp.stack([jnp.real(z), jnp.imag(z)], axis=1)

    return np.asarray(jax.lax.map(at, jnp.arange(steps, dtype=jnp.uint32)), float)


def test_box_muller_is_accurate():
    rng = np.random.default_rng(0)
    edges = np.array([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**24, 2**30, 3 * 2**30], np.uint32)
    radius = np.concatenate([rng.integers(0, 2**32, 100000, dtype=np.uint32), np.repeat(edges, 10)])
    angle = np.concatenate([rng.integers(0, 2**32, 100000, dtype=np.uint32), np.tile(edges, 10)])
    found = sampler.box_muller(jnp.asarray(radius), jnp.asarray(angle))
    length = np.sqrt(-2 * np.log(np.minimum((radius + 0.5) * 2.0**-32, 1)))
    for values, turn in zip(found, (np.cos, np.sin), strict=True):
        exact = length * turn(np.pi * (angle.view(np.int32) * 2.0**-31))
        error = np.abs(np.asarray(values, float) - exact)
        assert np.all(error <= 2e-6 + 2e-7 / np.maximum(length, 1e-3))  # near 0 the radius is rounded


def test_normals_have_the_right_moments_and_tails():
    from scipy.stats import chi2, norm

    x = _normals(jnp.arange(4, dtype=jnp.uint32), 500, 1024).ravel()
    n = x.size
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs(np.mean(x**power) - mean) < 4 * np.sqrt(variance / n)
    counts = np.histogram(x, norm.ppf(np.linspace(0, 1, 257)))[0]
    statistic = np.sum((counts - n / 256) ** 2) / (n / 256)
    assert chi2.ppf(1e-4, 255) < statistic < chi2.ppf(1 - 1e-4, 255)
    for reach in (3.0, 4.0, 4.5):
        expected = 2 * n * norm.sf(reach)
        assert abs(np.sum(np.abs(x) > reach) - expected) < 4 * np.sqrt(expected)


@pytest.mark.slow
def test_normals_have_the_right_tails_beyond_five_sigma():
    from scipy.stats import norm

    @jax.jit
    def count(low):
        z = sampler.normals(
            sampler.Counter(jnp.arange(8, dtype=jnp.uint32), low, jnp.uint32(0)), sampler.INPUTS, 2**16
        )
        parts = jnp.abs(jnp.stack([jnp.real(z), jnp.imag(z)]))
        return jnp.stack([jnp.sum(parts > reach) for reach in (5.0, 5.5)])

    blocks = 1500
    totals = sum(np.asarray(count(jnp.uint32(k)), float) for k in range(blocks))
    for total, reach in zip(totals, (5.0, 5.5), strict=True):
        expected = blocks * 8 * 2**17 * 2 * norm.sf(reach)
        assert expected > 50
        assert abs(total - expected) < 4 * np.sqrt(expected)


@pytest.mark.parametrize("transform", [lambda x: x, lambda x: x**2 - 1], ids=["values", "squares"])
def test_draws_are_not_correlated(transform):
    x = transform(_normals(jnp.arange(4, dtype=jnp.uint32), 400, 512))
    steps = x.shape[0]
    neighbours = {
        "steps": x[1:] * x[:-1],
        "seeds": x[:, 1:] * x[:, :-1],
        "halves": x[:, :, 0] * x[:, :, 1],
        "pairs": x[..., 1:] * x[..., :-1],
        "coordinate of next step": x[1:, ..., 1:] * x[:-1, ..., :-1],
        "step of next seed": x[1:, :-1] * x[:-1, 1:],
    }
    variance = np.mean(x**2)
    for name, product in neighbours.items():
        assert abs(product.mean()) < 4.5 * variance / np.sqrt(product.size), name
    flat = x.transpose(1, 2, 3, 0).reshape(-1, steps)
    gram = flat[:1024] @ flat[:1024].T / steps / variance
    off = gram[np.triu_indices(1024, 1)] * np.sqrt(steps)
    assert abs(np.mean(off**2) - 1) < 0.05
    assert np.abs(off).max() < 10


def test_streams_and_uniforms():
    counter = sampler.Counter(jnp.arange(2, dtype=jnp.uint32), jnp.uint32(3), jnp.uint32(0))
    streams = [
        sampler.uniforms(counter, k, 50000)
        for k in (sampler.ROUND_WEIGHTS, sampler.ROUND_INPUTS, sampler.RULE)
    ]
    u = np.stack([np.concatenate([np.real(z), np.imag(z)], 1).ravel() for z in streams]).astype(float)
    assert u.min() > 0
    assert u.max() < 1
    assert np.all(np.abs(u.mean(axis=1) - 0.5) < 4 / np.sqrt(12 * u.shape[1]))
    assert np.all(np.abs(np.corrcoef(u)[np.triu_indices(3, 1)]) < 4 / np.sqrt(u.shape[1]))
    assert float(sampler._unit(jnp.uint32(2**32 - 1))) < 1
    assert float(sampler._unit(jnp.uint32(0))) > 0


def test_draws_that_differ_in_one_bit_are_not_correlated():
    words = [(0, 0, 0)] + [
        tuple((1 << bit) * (k == part) for k in range(3)) for part in range(3) for bit in range(32)
    ]
    seeds, low, high = (jnp.asarray(word, jnp.uint32) for word in zip(*words, strict=True))

    @jax.jit
    @jax.vmap
    def of(seed, low, high):
        streams = [sampler.normals(sampler.Counter(seed[None], low, high), k, 1024)[0] for k in range(2)]
        return jnp.concatenate([part(z) for z in streams for part in (jnp.real, jnp.imag)])

    x = np.asarray(of(seeds, low, high), float)
    x = np.concatenate([x[:, :2048], x[:, 2048:]])  # the two streams are draws of their own
    gram = (x @ x.T)[np.triu_indices(len(x), 1)] / np.sqrt(x.shape[1])
    assert abs(np.mean(gram)) < 4.5 / np.sqrt(gram.size)
    assert abs(np.mean(gram**2) - 1) < 4.5 * np.sqrt(2 / gram.size)
    assert np.abs(gram).max() < 5.8  # 1e-4 of 18721 normal numbers


def test_given_pairs_are_drawn_as_counted_ones():
    counter = sampler.Counter(jnp.arange(3, dtype=jnp.uint32), jnp.uint32(7), jnp.uint32(1))
    chosen = jnp.asarray([[5, 0, 99, 31]], jnp.uint32)
    all_pairs = sampler.normals(counter, sampler.INPUTS, 100)
    some = sampler.normals(counter._replace(pairs=chosen), sampler.INPUTS, 4)
    np.testing.assert_array_equal(some, all_pairs[:, chosen[0]])
