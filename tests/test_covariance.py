"""Inputs of unequal variance: closed forms, a second integrator, classes, files, and the simulation."""

import equinox as eqx
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from stedyn import (
    SGD,
    Covariance,
    InputLaw,
    Problem,
    Quantizer,
    Run,
    Teacher,
    compare,
    fixed_point,
    simulate,
    solve,
)
from stedyn.files.problems import load_problem
from stedyn.files.writing import problem_to_dict, save_problem
from stedyn.inputs.moments import input_moments
from stedyn.limit.classes import coordinate_classes
from stedyn.limit.limit import derive
from stedyn.rules import Sign
from stedyn.simulation.observe import Observer
from stedyn.simulation.population import population

POWER = Covariance.power_law(0.5)
TWO_BIT = Quantizer(2, 2.0)


@pytest.mark.parametrize("quantizer", [TWO_BIT, Quantizer(3, 1.5, kind="mid-tread", rounding="stochastic")])
def test_input_moments_scale(quantizer):
    """``phi(s x)`` of a quantizer of range R is s times that of range R / s at x."""
    std = 1.7
    wide = input_moments(quantizer, std)
    narrow = input_moments(quantizer.with_range(quantizer.range / std))
    np.testing.assert_allclose([wide.k1, wide.k2], np.array([narrow.k1, narrow.k2]) * std**2, rtol=1e-12)
    several = input_moments(quantizer, np.array([1.0, std]))
    np.testing.assert_allclose(several.k2[1], wide.k2, rtol=1e-12)
    assert np.all(np.abs(input_moments(quantizer, np.array([0.3, std]), means="kept").mean) < 1e-14)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.8])
def test_power_law_has_its_mean_in_every_dimension(exponent):
    law = Covariance.power_law(exponent, 2.0)
    for n in (7, 1000):
        values = np.asarray(law.values(n))
        assert values.sum() == pytest.approx(2 * n, rel=1e-12)
        assert np.all(np.diff(values) <= 1e-12)
    # v_i over v_j is (j / i)^exponent
    assert values[99] / values[899] == pytest.approx(9**exponent, rel=1e-2)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("teacher", [Teacher.gaussian(0.7), Teacher.constant(0.7), Teacher.rademacher(0.7)])
def test_classes_keep_the_variance_of_the_output(teacher, coarse):
    found = coordinate_classes(Problem(teacher, covariance=POWER), 32, coarse)
    assert found.share.sum() == pytest.approx(1, rel=1e-12)
    assert (found.share * found.variance[found.group]) @ found.teacher**2 == pytest.approx(0.49, rel=1e-12)


@pytest.mark.parametrize("law", [InputLaw.uniform(), InputLaw.samples([-1.0, -0.2, 0.2, 1.0])])
@pytest.mark.parametrize("rounding, numbers", [("nearest", (12, 24, 48)), ("stochastic", (24, 48))])
def test_classes_of_bounded_inputs(law, rounding, numbers):
    """Averages over the variances, which have kinks where an end of the inputs passes a break, and their claim."""
    inputs = Quantizer(2, 1.5, rounding=rounding)
    problem = Problem(input_law=law, inputs=inputs, covariance=Covariance.power_law(0.7))

    def error(variance, share):  # of weights on a level
        moments = problem.moments(variance)
        return float(share @ (moments.std**2 - 2 * 0.8 * moments.k1 + 0.8**2 * moments.k2))

    values = problem.covariance.values()
    exact = error(values, np.full(values.size, 1 / values.size))
    for variances in numbers:
        found, other = (coordinate_classes(problem, 96, coarse, variances) for coarse in (False, True))
        off = abs(error(found.variance, found.share) - exact) / exact
        assert off < min(1e-5, abs(error(other.variance, other.share) / exact - 1))


def test_classes_of_unquantized_measured_inputs_have_no_jumps():
    law = InputLaw.samples(np.linspace(-1.0, 1.0, 40))
    problem = Problem(input_law=law, covariance=Covariance.power_law(0.7))
    found = coordinate_classes(problem, 48, True, 12)
    assert np.sum(np.asarray(found.share) > 0) == 10


def test_classes_of_pairs_know_their_correlation():
    rng = np.random.default_rng(2)
    variance = np.exp(rng.normal(size=500))
    weights = rng.normal(size=500) / variance  # small where the variance is large
    pairs = Problem(Teacher.samples(weights), covariance=Covariance.samples(variance))
    assert pairs.paired
    assert float(eqx.filter_jit(derive)(pairs, 32).rho) == pytest.approx(
        np.mean(variance * weights**2), rel=1e-12
    )
    apart = Problem(Teacher.samples(weights), covariance=Covariance.samples(variance[:499]))
    assert not apart.paired
    product = np.mean(variance[:499]) * np.mean(weights**2)
    assert float(eqx.filter_jit(derive)(apart, 32).rho) == pytest.approx(product, rel=1e-9)
    assert product > 2 * np.mean(variance * weights**2)


def test_unquantized_weights_against_scipy():
    """A class of variance v: ``dm/dtau = lr v (c - m)``, ``dq/dtau = 2 lr v (c m - q) + lr^2 v V``, ``V = s^2 + error``."""
    values, lr, sigma = np.array([0.2, 0.6, 1.1, 4.0]), 0.25, 0.4
    taus = np.linspace(0, 20, 21)

    def velocity(_, y):
        m, q = y[:4], y[4:]
        error = np.mean(values * (1 - 2 * m + q))
        return np.concatenate(
            [lr * values * (1 - m), 2 * lr * values * (m - q) + lr**2 * values * (sigma**2 + error)]
        )

    path = solve_ivp(velocity, (0, 20), [0.0] * 4 + [1.0] * 4, t_eval=taus, rtol=1e-9, atol=1e-12).y
    error = np.mean(values[:, None] * (1 - 2 * path[:4] + path[4:]), axis=0)
    problem = Problem(
        noise_std=sigma, rule=SGD(lr), covariance=Covariance.samples(values), run=Run(taus=taus)
    )
    np.testing.assert_allclose(solve(problem).error, error, rtol=1e-5)


def test_fixed_point_of_unquantized_weights():
    """Every class has the variance ``lr V / 2``: ``error = lr t s^2 / (2 - lr t)`` with the mean variance t."""
    lr, sigma, scale = 0.3, 0.5, 1.4
    problem = Problem(noise_std=sigma, rule=SGD(lr), covariance=Covariance.power_law(0.6, scale))
    found = fixed_point(problem)
    assert found.error == pytest.approx(lr * scale * sigma**2 / (2 - lr * scale), rel=1e-8)
    assert found.lr_ceiling == pytest.approx(2 / scale, rel=1e-8)


PROBLEMS = {
    "weights and inputs": Problem(
        weights=Quantizer(3, 1.5), inputs=TWO_BIT, noise_std=0.3, rule=SGD(0.2), covariance=POWER, run=Run(12.0, 13)
    ),
    "sign": Problem(weights=Quantizer(3, 1.5), noise_std=0.3, rule=Sign(0.1), covariance=POWER, run=Run(12.0, 13)),
    "clipped": Problem(
        weights=Quantizer(2, 1.5), ste="clipped", noise_std=0.3, rule=SGD(0.2), covariance=Covariance.power_law(0.3),
        run=Run(12.0, 13),
    ),
}  # fmt: skip


def agrees(problem, dim, seeds):
    verdict = compare(solve(problem), simulate(problem, dim=dim, seeds=seeds)).verdict
    assert verdict.startswith("Theory and simulation agree"), verdict


@pytest.mark.slow
def test_simulation_agrees_with_the_limit():
    agrees(PROBLEMS["weights and inputs"], 800, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sign", "clipped"])
def test_other_rules_and_estimators_agree_with_the_limit(name):
    agrees(PROBLEMS[name], 2400, 8)


@pytest.mark.slow
def test_pairs_agree_with_the_limit():
    rng = np.random.default_rng(5)
    variance = np.exp(0.7 * rng.normal(size=600))
    problem = Problem(
        Teacher.samples(rng.normal(size=600) / np.sqrt(variance)),
        covariance=Covariance.samples(variance),
        weights=Quantizer(3, 1.5, kind="mid-tread"),
        inputs=Quantizer(3, 2.5),
        noise_std=0.2,
        rule=SGD(0.2),
        run=Run(12.0, 13),
    )
    agrees(problem, 2400, 8)


def test_error_of_given_weights_is_the_mean_square_on_fresh_samples():
    rng = np.random.default_rng(4)
    problem = PROBLEMS["weights and inputs"]
    dim = 40
    teacher, start, variance, _ = population(problem, dim, 7)
    x = rng.normal(size=(200_000, dim)) * np.sqrt(variance)
    psi, phi = (np.asarray(q.round(v)) for q, v in ((problem.weights, start), (problem.inputs, x)))
    gap = (x @ teacher - phi @ psi) / np.sqrt(dim)
    error = Observer(problem)(start, teacher, variance).error
    assert error == pytest.approx(np.mean(gap**2), rel=4 * np.sqrt(2 / len(x)))


def test_pairs_are_drawn_together():
    values = np.linspace(1.0, 2.0, 50)
    problem = Problem(Teacher.samples(values), covariance=Covariance.samples(values**2))
    drawn = population(problem, 30, 3)
    np.testing.assert_allclose(drawn.teacher**2, drawn.variance, rtol=1e-6)
    np.testing.assert_allclose(population(problem, 50, 3).variance, values**2)


def test_to_a_file_and_back(tmp_path):
    for k, covariance in enumerate([POWER, Covariance.samples([0.5, 1.0, 2.0, 3.0])]):
        problem = Problem(covariance=covariance)
        again = load_problem(save_problem(problem, tmp_path / f"{k}.toml"))
        np.testing.assert_array_equal(again.covariance.values(), covariance.values())
        assert again.covariance.kind == covariance.kind
    assert "covariance" not in problem_to_dict(Problem())


def test_variances_from_a_file_of_activations(tmp_path):
    activations = np.random.default_rng(0).normal(size=(400, 6)) * np.arange(1, 7)
    np.save(tmp_path / "a.npy", activations)
    path = tmp_path / "p.toml"
    path.write_text('[covariance]\nkind = "file"\npath = "a.npy"\n')
    values = np.asarray(load_problem(path).covariance.values())
    np.testing.assert_allclose(values, activations.var(axis=0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Covariance.power_law(1.0), "covariance.exponent: expected a number below 1"),
        (lambda: Covariance.power_law(-0.1), "covariance.exponent: expected zero or a positive number"),
        (lambda: Covariance.samples([1.0, 0.0, 2.0, 3.0]), "at least 4 variances above 0"),
        (lambda: Covariance.samples([1.0, 2.0]), "at least 4 variances above 0"),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(ValueError, match="expected") as caught:
        make()
    assert said in str(caught.value)
