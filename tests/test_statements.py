"""Statements of the papers, held against the exact limit and against simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from stedyn import Problem, Quantizer, Run, Start, Teacher, simulate, solve
from stedyn.inputs.moments import input_moments
from stedyn.rules import SGD, Inverse, Shrinkage, StochasticRounding
from stedyn.statements import ShrinkageBound, bc_bound, rounding_chain, sr_error_bound

FLOAT = input_moments(Quantizer(kind="none"))


@pytest.mark.parametrize("lr", [0.02, 0.3, 2.0])
def test_lemma_1_bounds_the_error_of_one_rounding(lr):
    """Against the diffusion that rounding adds in the limit, and against single moves in 40 dimensions."""
    d, delta, V = 40, 0.4, 0.6
    bound = sr_error_bound(d, delta / d**0.5, lr, V**0.5)
    exact = float(StochasticRounding(lr, delta=delta).coefficients(V, FLOAT, 0.0).D) - lr**2 * V
    rng = np.random.default_rng(3)
    r, x, u = rng.normal(size=(4000, 1)) * V**0.5, rng.normal(size=(4000, d)), rng.random((1, 4000, d))
    exact_step = lr * r * x
    misses = (
        np.sum((np.asarray(StochasticRounding(lr, delta=delta).move(r, x, u, 0.0)) - exact_step) ** 2, 1) / d
    )
    assert abs(misses.mean() - exact) < 4 * misses.std() / 4000**0.5
    assert exact < bound
    if (
        lr < 0.1
    ):  # as lr falls only the step from |g|_1 to |g|_2 is lost: E|r| E|x| = 2/pi, less what is rounded exactly
        assert exact > 0.55 * bound


TARGET, NOISE = 0.23, 0.3
#: ``|z|^2 / 2`` and one with a term of third order, ``z = w - TARGET``: loss and gradient of one weight, and convexity
#: on the box [-1, 1]. The Hessian of the second is 0.5-Lipschitz.
LOSSES = {
    "quadratic": (lambda z: z**2 / 2, lambda z: z, 1.0),
    "cubic": (lambda z: z**2 / 2 + z**3 / 12, lambda z: z + z**2 / 4, 0.385),
}


def _binary_connect(name, d, steps, runs):
    """Excess loss at the averaged latent weights, and averaged over t, (runs,) each; rates 1/(mu (t + 1))."""
    loss, gradient, mu = LOSSES[name]
    rng = np.random.default_rng(0)
    w, mean, excess = np.zeros((runs, d)), 0.0, 0.0
    for t in range(1, steps + 1):
        rounded = np.floor(w + rng.random(w.shape))
        g = gradient(rounded - TARGET) + NOISE * rng.choice([-1.0, 1.0], w.shape)
        w = np.clip(w - g / (mu * (t + 1)), -1, 1)
        mean, excess = mean + w / steps, excess + loss(w - TARGET).sum(1) / steps
    return loss(mean - TARGET).sum(1), excess


def _exact_average(name, steps, n=4001):
    """Excess loss of one weight averaged over t, from its law on a grid of the box (shared between neighbours)."""
    loss, gradient, mu = LOSSES[name]
    w = np.linspace(-1, 1, n)
    p, total = (w == 0).astype(float), 0.0
    up = w - np.floor(w)
    for t in range(1, steps + 1):
        new = 0.0
        for level, chance in ((np.floor(w), 1 - up), (np.floor(w) + 1, up)):
            for noise in (-NOISE, NOISE):
                to = np.clip(w - (gradient(level - TARGET) + noise) / (mu * (t + 1)), -1, 1)
                place = (to + 1) / 2 * (n - 1)
                low = np.minimum(place.astype(int), n - 2)
                right = place - low
                for shift, part in ((0, 1 - right), (1, right)):
                    new = new + np.bincount(low + shift, 0.5 * p * chance * part, n)
        p = new
        total += p @ loss(w - TARGET) / steps
    return total


@pytest.mark.parametrize("steps", [20, 1500])
def test_theorem_1_and_corollary_1_for_binary_connect(steps):
    """A quadratic loss leaves no floor, a third order leaves one below the bound's: exact law and simulation.

    By convexity the loss at the average is at most the average of the losses, which the proof bounds.
    """
    d, spacing, found = 4, 1.0, {}
    largest = np.sqrt(d) * (1 + TARGET + NOISE)
    for name, (_, _, mu) in LOSSES.items():
        more = dict(diameter=1.23 * d**0.5, hessian_lipschitz=0.5, dim=d, spacing=spacing)
        growth = 1.0 if name == "quadratic" else 1.5
        bound = bc_bound(steps, mu, growth * largest, **({} if name == "quadratic" else more))
        at_mean, average = _binary_connect(name, d, steps, 100)
        exact = d * _exact_average(name, steps)
        assert abs(average.mean() - exact) < 4 * average.std() / 10
        assert at_mean.mean() < exact < bound
        found[name] = at_mean.mean()
    assert bound - bc_bound(steps, mu, growth * largest) == pytest.approx(1.23 * 0.5 * d * spacing / 2)
    if steps == 1500:
        assert found["quadratic"] < 0.002
        assert found["cubic"] > 3 * found["quadratic"]


def _teacher_student(rounding, taus):
    """Rates 1/(mu (t + 1)) with mu = 1/d, d = 200: ``lr = d`` at the start, then ``1 / (tau + 1/d)``."""
    d = 200
    return Problem(
        teacher=Teacher.constant(0.6),
        start=Start.gaussian(0.0, 0.3),
        noise_std=0.5,
        weights=Quantizer(2, 1.0, rounding=rounding),
        latent_clip=1.0,
        rule=SGD(float(d), schedule=Inverse(1 / d)),
        run=Run(taus=taus),
    ), d


def _latent_excess(curves):
    """``F - F*`` of the latent weights, with ``F = (error + noise_std^2) / 2``."""
    return 0.5 * (0.36 - 2 * np.asarray(curves.overlap) + np.asarray(curves.norm))


def _average(tau, values):
    """Averages over [0, tau], by trapezoids, along the first axis."""
    width = np.diff(tau).reshape(-1, *[1] * (values.ndim - 1))
    return np.cumsum(width * (values[1:] + values[:-1]) / 2, axis=0) / tau[1:].reshape(width.shape)


@pytest.mark.slow
def test_corollary_1_at_the_rates_of_the_paper():
    """``F`` is quadratic with ``mu = k2/d``; the mean square gradient is at most ``(1 + 2/d) max V`` on the curve.

    The first steps, of length sqrt(d), throw the weights from wall to wall, which no limit describes.
    """
    taus = np.append(0.0, np.geomspace(0.005, 30.0, 41))
    problem, d = _teacher_student("stochastic", tuple(taus))
    s, e = solve(problem), simulate(problem, dim=d, seeds=6, snapshots=taus)
    for tau, error, excess in (
        (np.asarray(s.tau), np.asarray(s.error), _latent_excess(s)),
        (e.tau, e.error_mean, _latent_excess(e).mean(0)),
    ):
        largest = np.sqrt((1 + 2 / d) * np.max(error + 0.25))
        bound = bc_bound(np.round(tau[1:] * d), 1 / d, largest)
        average = _average(tau, excess)
        assert np.all(average < bound)
        assert bound[-1] < 12 * average[-1]
    mean = _average(e.tau, np.moveaxis(e.snapshots, 1, 0).astype(float))
    assert np.all(0.5 * np.mean((mean - 0.6) ** 2, axis=(1, 2)) < bound)
    late = taus > 5
    gap = np.abs(e.error_mean - s.error)[late]
    assert np.all(gap < 4.5 * e.error_sem[late] + 0.02 * np.asarray(s.error)[late])


@pytest.mark.slow
def test_corollary_1_needs_stochastic_rounding():
    """Nearest rounding leaves the latent weights at the threshold 2/3 beside their target 0.6."""
    taus = (0.0, 200.0, 400.0)
    stochastic, nearest = (
        _latent_excess(solve(_teacher_student(r, taus)[0])) for r in ("stochastic", "nearest")
    )
    assert stochastic[2] < 0.6 * stochastic[1]
    assert stochastic[2] < 0.001
    assert nearest[2] > 0.8 * nearest[1] > 0.7 * 0.5 * (2 / 3 - 0.6) ** 2


def binary_connect(tau0, horizon, points):
    """BinaryConnect with stochastic forward rounding at the rates ``1 / (tau + tau0)``, well inside its range."""
    return Problem(
        Teacher.constant(0.3), Start.gaussian(0.0, 0.5), weights=Quantizer(2, 3.0, rounding="stochastic"), noise_std=0.3,
        rule=SGD(1 / tau0, schedule=Inverse(tau0)), run=Run(horizon, points),
    )  # fmt: skip


def averaged_excess(tau, latent_error):
    """Half the error of the latent weights, averaged over the time so far."""
    area = np.concatenate([[0.0], np.cumsum(0.5 * np.diff(tau) * (latent_error[1:] + latent_error[:-1]))])
    return 0.5 * area[1:] / tau[1:]


@pytest.mark.slow
@pytest.mark.parametrize("tau0", [2.0, 8.0])
def test_corollary_1_on_the_limit_and_in_simulation(tau0):
    """The excess at the average of the weights, at most the average of the excess, falls below every floor.

    The quantized weights keep a floor, ``E[psi^2] - E[w^2] = step^2 f (1 - f)``, which the bound does not see.
    """
    problem, dim = binary_connect(tau0, 200.0, 401), 400
    solution = solve(problem)
    tau = np.asarray(solution.tau)
    latent = 0.09 - 2 * np.asarray(solution.overlap) + np.asarray(solution.norm)
    largest = float(np.max(solution.error)) + 0.09  # E|g|^2 = V
    bound = bc_bound(
        tau[1:] * dim, 1 / dim, largest**0.5, delay=tau0 * dim, distance=(dim * latent[0]) ** 0.5
    )
    closed = (tau0 * latent[0] + largest * np.log1p(tau[1:] / tau0)) / (2 * tau[1:])
    np.testing.assert_allclose(bound, closed, rtol=2 / (tau0 * dim) + 1e-3)
    excess = averaged_excess(tau, latent)
    assert np.all(excess <= bound)
    assert bound[-1] < 12 * excess[-1]  # no empty statement
    assert excess[-1] < 0.15 * excess[20]
    assert solution.error[-1] == pytest.approx(2.0**2 * 0.65 * 0.35, rel=0.03)

    ensemble = simulate(problem, dim=dim, seeds=2, snapshots=tau[1:])
    seen = np.mean(0.09 - 2 * ensemble.overlap + ensemble.norm, axis=0)
    assert np.all(averaged_excess(tau, seen) <= bound)
    count = np.arange(1, tau.size)[:, None]
    for weights, teacher in zip(ensemble.snapshots, ensemble.teacher, strict=True):
        average = np.cumsum(weights, axis=0) / count
        assert np.all(0.5 * np.mean((average - teacher) ** 2, axis=1) <= bound)


@pytest.mark.parametrize(
    ("low", "high", "noise"),
    [(1.0, 1.0, 0.0), pytest.param(0.5, 0.5, 0.4, marks=pytest.mark.slow), (0.3, 0.9, 0.2)],
)
def test_shrinkage_bound_for_a_fixed_step(low, high, noise):
    """F = error/2: L = c = 1/d, M = sigma^2, M_G = d + 2, by Gaussian moments of x."""
    d, sigma, lr = 200, 0.5, 0.2
    bound = ShrinkageBound(1 / d, 1 / d, sigma**2, d + 2, low, high, noise**2)
    rule = Shrinkage(lr, q=high, q_min=low, noise_std=noise)
    problem = Problem(noise_std=sigma, rule=rule, run=Run(tau=40.0, points=21))
    solution, ensemble = solve(problem), simulate(problem, dim=d, seeds=4)
    above = 2 * bound.fixed(np.round(np.asarray(solution.tau) * d), lr, float(solution.error[0]) / 2)
    assert np.all(solution.error <= above * (1 + 1e-9))
    # the start is a sample: from its own value on, the same bound with the standard error of four runs
    above = 2 * bound.fixed(ensemble.steps, lr, ensemble.error_mean[0] / 2)
    assert np.all(ensemble.error_mean <= above + 4 * ensemble.error_sem)
    assert (
        2 * bound.floor(lr) < 2.2 * float(solution.error[-1]) * (0.5 * (low + high) / low) * (high / low) ** 2
    )
    with pytest.raises(ValueError, match=r"^lr: expected a rate above 0 and at most"):
        bound.fixed(10, 2.0, 1.0)


@pytest.mark.slow
def test_shrinkage_bound_for_diminishing_steps():
    """Steps beta/(gamma + k) are lr tau0/(tau + tau0) with beta = lr tau0 d and gamma = tau0 d."""
    d, sigma, lr, tau0, q = 200, 0.5, 0.4, 6.0, 0.6
    rule = Shrinkage(lr, q=q, noise_std=0.2, schedule=Inverse(tau0))
    problem = Problem(noise_std=sigma, rule=rule, run=Run(tau=300.0, points=31))
    s, e = solve(problem), simulate(problem, dim=d, seeds=4)
    bound = ShrinkageBound(1 / d, 1 / d, sigma**2, d + 2, q, q, 0.2**2)
    above = 2 * bound.diminishing(s.tau * d, lr * tau0 * d, tau0 * d, float(s.error[0]) / 2)
    assert np.all(s.error <= above * (1 + 1e-9))
    above = 2 * bound.diminishing(e.steps, lr * tau0 * d, tau0 * d, e.error_mean[0] / 2)
    assert np.all(e.error_mean <= above + 4 * e.error_sem)
    assert abs(e.error_mean[-1] - s.error[-1]) < 4.5 * e.error_sem[-1] + 0.02 * s.error[-1]
    assert s.error[-1] < 0.25 * bound.fixed(10**9, lr, 1.0) * 2
    with pytest.raises(ValueError, match=r"^beta: expected a number above"):
        bound.diminishing(10, 0.5 * d, 10, 1.0)


CHAINS = {
    "double well": rounding_chain(lambda p: p * (p**2 - 1), [-1.5], [1.5], 0.5, noise=[-2.5, 0.5, 2.0]),
    "two weights": rounding_chain(
        lambda p: p - p[:, ::-1] / 2 - 0.2, [-1.0, -1.0], [1.0, 1.5], 0.5, noise=[-2.0, 2.0]
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_theorem_2_the_stationary_law_stops_changing(name):
    chain = CHAINS[name]
    limit = chain.stationary_limit()
    lrs = np.array([0.08, 0.04, 0.02, 0.01])
    apart = [0.5 * np.abs(chain.stationary(lr) - limit).sum() for lr in lrs]
    for lr in lrs:
        T = chain.transition(lr)
        np.testing.assert_allclose(T.sum(1), 1, rtol=1e-12)
        assert T.min() >= 0
        np.testing.assert_allclose(chain.stationary(lr) @ T, chain.stationary(lr), atol=1e-10)
    assert limit.min() > 1e-5
    np.testing.assert_allclose(
        (chain.transition(1e-6) - np.eye(len(limit))) / 1e-6, chain.limit_rates(), atol=1e-4
    )
    assert apart[-1] < 0.05
    if name == "two weights":  # both coordinates move in one step with a probability of order lr^2
        np.testing.assert_allclose(np.array(apart[:-1]) / apart[1:], 2, rtol=0.2)


@pytest.mark.parametrize("name", CHAINS)
def test_theorem_3_the_mixing_time_diverges(name):
    chain = CHAINS[name]
    lrs = np.array([0.04, 0.01, 0.0025])
    times = np.array([chain.mixing_time(lr) for lr in lrs])
    T = np.linalg.matrix_power(chain.transition(0.04), times[0])
    before = np.linalg.matrix_power(chain.transition(0.04), times[0] - 1)
    pi = chain.stationary(0.04)
    assert 0.5 * np.abs(T - pi).sum(1).max() <= 0.25 < 0.5 * np.abs(before - pi).sum(1).max()
    limit, rates = chain.stationary_limit(), chain.limit_rates()
    assert abs(0.5 * np.abs(expm(rates * lrs[-1] * times[-1]) - limit).sum(1).max() - 0.25) < 0.01
    np.testing.assert_allclose(times[1:] * lrs[1:], times[:-1] * lrs[:-1], rtol=0.1)


def test_the_chain_is_that_of_a_simulation():
    """The rule's own move, 20 000 walkers, one step from the stationary law and many from one place."""
    chain, lr, n = CHAINS["double well"], 0.1, 20_000
    rng, noise = np.random.default_rng(5), np.array([-2.5, 0.5, 2.0])
    rule = StochasticRounding(lr, delta=0.5)
    move = jax.jit(lambda g, u: rule.move(-1.0, g, u, 0.0))
    w = np.full(n, -1.0)
    law = np.zeros(len(chain.points))
    law[1] = 1.0
    for _ in range(40):
        g = w * (w**2 - 1) + rng.choice(noise, n)
        w = np.clip(w + np.asarray(move(jnp.asarray(g), jnp.asarray(rng.random((1, n))))), -1.5, 1.5)
        law = law @ chain.transition(lr)
    seen = np.bincount(np.round((w + 1.5) / 0.5).astype(int), minlength=law.size) / n
    assert np.all(np.abs(seen - law) < 4.5 * np.sqrt(law * (1 - law) / n) + 1e-4)


@pytest.mark.slow
def test_stochastic_rounding_does_not_anneal_and_binary_connect_does():
    """Floors of the limit: lr to zero leaves SR at about delta E|r x| / 2, and BinaryConnect's latents at none."""

    def floor(rule, **more):
        s = solve(
            Problem(noise_std=0.5, rule=rule, run=Run(taus=(0.0, 4.0 / rule.lr, 8.0 / rule.lr)), **more)
        )
        return float(1 - 2 * s.overlap[-1] + s.norm[-1])

    plain = [floor(SGD(lr)) for lr in (0.4, 0.1)]
    rounded = [floor(StochasticRounding(lr, delta=0.5)) for lr in (0.4, 0.1)]
    latent = [floor(SGD(lr), weights=Quantizer(3, 2.0, rounding="stochastic")) for lr in (0.4, 0.1)]
    assert rounded[1] > 0.7 * rounded[0]
    assert max(plain[1] / plain[0], latent[1] / latent[0]) < 0.3
