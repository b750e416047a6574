"""The multinomial rule: closed forms, mini-batches of quantized inputs, counts of the simulation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from systems import COARSE, FLOAT, TREAD, VS, coefficients

from stedyn import Quantizer
from stedyn.inputs.moments import input_moments
from stedyn.rules import Multinomial
from stedyn.rules.multinomial import lengths, multinomial


def test_multinomial_without_constant():
    a, b, D, _ = coefficients(Multinomial(0.2, 1.5, 0.0), FLOAT)
    np.testing.assert_allclose(a, 0.3 / np.sqrt(VS), rtol=1e-10)
    np.testing.assert_allclose(b, a, rtol=1e-12)
    np.testing.assert_allclose(D, 0.04 * (1.5 + 1.5**2 * np.pi / 2), rtol=1e-10)


def test_multinomial_against_adaptive_integration():
    zeta, nu, c, V = 0.2, 1.5, 0.4, 0.7
    rule, root = Multinomial(zeta, nu, c), np.sqrt(0.7)

    def mean(z, x):
        return nu * (root * z * x + c) / (root * z * np.sqrt(2 / np.pi) + c)

    def average(f):
        def weighted(z, x):
            return f(z, x) * 4 * stats.norm.pdf(z) * stats.norm.pdf(x)

        return integrate.dblquad(weighted, 0, 9, 0, 9, epsabs=1e-10)[0]

    a, _, D, _ = rule.coefficients(V, FLOAT, 0.0)
    np.testing.assert_allclose(a, average(lambda z, x: z * x * zeta * mean(z, x)) / root, rtol=1e-8)
    np.testing.assert_allclose(D, zeta**2 * average(lambda z, x: mean(z, x) + mean(z, x) ** 2), rtol=1e-8)


def test_two_one_bit_inputs_a_batch():
    """``E|X| = max(|r_1|, |r_2|)``: averages of the secant over an eighth of a turn."""
    rule, bit = Multinomial(0.2, 1.5, 0.0, batch=2), input_moments(Quantizer(1, 1.0))
    a, b, D, _ = coefficients(rule, bit)
    secant = 4 / np.pi * np.log(1 + np.sqrt(2))
    np.testing.assert_allclose(b, 0.3 * np.sqrt(np.pi / 2 / VS) * secant, rtol=1e-4)
    np.testing.assert_allclose(a, b * bit.k1, rtol=1e-10)
    np.testing.assert_allclose(D, 0.04 * (1.5 + 1.5**2 * 4 / np.pi), rtol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "batch"),
    [pytest.param(COARSE, 3, marks=pytest.mark.slow), (TREAD, 2)],
    ids=["coarse-3", "tread-2"],
)
def test_a_batch_of_quantized_inputs_by_sampling(inputs, batch):
    """The definition: residuals, inputs and Poisson counts are drawn, the normalizer is a sum over all inputs."""
    zeta, nu, c, V, n = 0.2, 1.5, 0.3, 0.7, 150_000
    levels, mass, overlap = (np.asarray(x) for x in (inputs.levels, inputs.mass, inputs.overlap))
    rng = np.random.default_rng(1)
    r = rng.normal(size=(n, batch)) * V**0.5
    every = np.array(list(itertools.product(range(levels.size), repeat=batch)))
    size = np.abs(r @ levels[every].T) @ np.prod(mass[every], 1) / batch
    drawn = rng.choice(levels.size, p=mass, size=(n, batch))
    phi, x = levels[drawn], (overlap / mass)[drawn]
    g = np.mean(r * phi, 1)
    U = zeta * np.sign(g) * rng.poisson(nu * (np.abs(g) + c) / (size + c))
    samples = U * np.sum(r * x, 1) / V, U * np.sum(r * phi, 1) / V, U**2, np.abs(U)
    found = Multinomial(zeta, nu, c, batch=batch).coefficients(V, inputs, 0.0)
    for exact, each in zip(found, samples, strict=True):
        assert abs(np.mean(each) - exact) < 4 * stats.sem(each)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantizer", "batch"),
    [
        (Quantizer(8, 3.0), 2),
        (Quantizer(3, 2.5, kind="mid-tread"), 5),
        (Quantizer(2, 3.3, kind="mid-tread"), 10),
        (Quantizer(levels=(-1.7436600905968613, 0.1, 2.0), kind="levels"), 3),
    ],
    ids=["8-bit-2", "3-bit-5", "mostly-zeros-10", "asymmetric-3"],
)
@pytest.mark.parametrize("c", [0.0, 0.1])
def test_the_normalizer_of_a_batch_is_accurate(quantizer, batch, c):
    """Sums over all inputs, exact lengths, many directions of the residuals, paired to reduce their noise."""
    inputs, (zeta, nu, V) = input_moments(quantizer), (0.2, 1.5, 0.7)
    levels, mass, overlap = (np.asarray(x) for x in (inputs.levels, inputs.mass, inputs.overlap))
    index = np.indices((levels.size,) * batch).reshape(batch, -1).T
    share, phi, x = mass[index].prod(1), levels[index], (overlap / mass)[index]
    u = np.random.default_rng(0).normal(size=(8000 if len(index) < 20_000 else 500, batch))
    size, weight = lengths(batch)
    r, averages = np.sqrt(V) * size, []
    for one in u / np.linalg.norm(u, axis=1, keepdims=True):
        X, Y = phi @ one, x @ one
        first, sign, moves = np.abs(X) @ share, (np.sign(X) * Y) @ share, (X != 0) @ share
        second, cross = X**2 @ share, (X * Y) @ share
        g, square, rate = r * first / batch, r**2 * second / batch**2, zeta * nu / V
        a = rate * (r**2 * cross / batch + c * r * sign) / (g + c)
        b = rate * (square * batch + c * r * first) / (g + c)
        D = zeta**2 * (
            nu * (g + c * moves) / (g + c) + nu**2 * (square + 2 * c * g + c**2 * moves) / (g + c) ** 2
        )
        averages.append(np.array([a, b, D]) @ weight)
    found = Multinomial(zeta, nu, c, batch=batch).coefficients(V, inputs, 0.0)
    for exact, each in zip(found, np.array(averages).T, strict=False):
        assert abs(np.mean(each) / exact - 1) < 5e-4 + 3 * stats.sem(each) / exact


@pytest.mark.parametrize("batch", [1, 2, 7, 500])
def test_lengths_of_residuals(batch):
    """Moments of the chi law, and a layer at 0, against adaptive integration."""
    x, weight = lengths(batch)
    np.testing.assert_allclose(
        [weight.sum(), x**2 @ weight, x**4 @ weight], [1, batch, batch * (batch + 2)], rtol=1e-12
    )
    law, centre = stats.chi(batch), np.sqrt(batch)
    ends = [max(0.0, centre - 8), 0.01 * centre, centre, centre + 8]
    parts = [
        integrate.quad(lambda z: z**2 / (z + 0.01) * law.pdf(z), *part, epsabs=1e-13)[0]
        for part in itertools.pairwise(sorted(ends))
    ]
    np.testing.assert_allclose((x**2 / (x + 0.01)) @ weight, sum(parts), rtol=1e-8)


def test_nothing_moves_without_a_residual():
    rule = Multinomial(0.2, 1.5, 0.3, batch=2)
    assert not coefficients(rule, TREAD, np.zeros(1)).any()
    assert np.isfinite(jax.jit(jax.grad(lambda V: rule.coefficients(V, TREAD, 0.0).D))(0.0))
    moves = Multinomial(0.2, 1.5, 0.0).moves(jnp.zeros((1, 4)), jnp.full((1, 8), 0.5), 0.0)
    assert not moves.any()


# ---- counts


_multinomial = jax.jit(multinomial)


@given(st.sampled_from([2, 23]), st.integers(1, 60), st.integers(0, 10**6), st.sampled_from([0.0, 0.7]))
def test_multinomial_counts_sum_to_the_trials(d, n, seed, kept):
    """Also if no coordinate has a weight: a gradient of 0 with c = 0, whose counts move nothing."""
    rng = np.random.default_rng(seed)
    weight = rng.exponential(size=d) * (rng.random(d) < kept)
    counts = _multinomial(jnp.asarray(weight, jnp.float32), jnp.asarray(rng.random(67), jnp.float32), n)
    assert counts.sum() == n
    assert counts.min() >= 0


def test_multinomial_counts_have_the_law_of_the_multinomial():
    weight, n, runs = np.array([0.5, 2.0, 0.0, 1.5]), 6, 40_000
    u = np.random.default_rng(1).random((runs, n + 1))
    draw = jax.jit(jax.vmap(lambda one: multinomial(jnp.asarray(weight), one, n)))
    counts = np.asarray(draw(jnp.asarray(u)))
    p = weight / weight.sum()
    covariance = n * (np.diag(p) - np.outer(p, p))
    assert np.all(np.abs(counts.mean(0) - n * p) <= 4 * np.sqrt(n * p * (1 - p) / runs))
    np.testing.assert_allclose(np.cov(counts.T), covariance, atol=0.05)
    assert not counts[:, 2].any()
