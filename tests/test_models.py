"""Other teachers are other models: the sign teacher, in closed form, by sampling, and simulated against its limit."""

import dataclasses
from types import SimpleNamespace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from stedyn import (
    SGD,
    Covariance,
    InputError,
    Problem,
    Quantizer,
    Run,
    Start,
    Teacher,
    compare,
    fixed_point,
    simulate,
    small_lr_stairs,
    solve,
)
from stedyn.comparison.same import check_same
from stedyn.design.sensitivities import sensitivity
from stedyn.files.problems import load_problem, problem_from_dict
from stedyn.files.writing import problem_to_dict, save_problem
from stedyn.limit.limit import derive
from stedyn.problem.models import MODELS
from stedyn.rules import Rule, Shrinkage, Sign
from stedyn.simulation import gpu
from stedyn.simulation.checkpoint import _entries
from stedyn.simulation.model import LABELS, model_of
from stedyn.simulation.observe import Observer

QUANTIZED = dict(weights=Quantizer(2, 1.0, kind="mid-tread"), inputs=Quantizer(2, 2.0), rule=SGD(0.2))
LOST = 1 - 2 / np.pi  # the part of the label's variance that no linear student explains


def as_linear(problem, rho):
    """The linear teacher that gives the same weights: scaled by the gain, with what it misses as label noise."""
    gain, noise = np.sqrt(2 / (np.pi * rho)), np.sqrt(float(problem.noise_std) ** 2 + LOST)
    teacher = eqx.tree_at(lambda teacher: teacher.scale, problem.teacher, gain * problem.teacher.scale)
    return dataclasses.replace(problem, model="linear", teacher=teacher, noise_std=float(noise))


def test_an_unquantized_student_in_closed_form():
    """``m' = lr (gain rho - m)``, ``q' = 2 lr (gain m - q) + lr^2 V``: the error decays to its fixed point."""
    lr, sigma, rho = 0.3, 0.5, 1.7**2
    problem = Problem(Teacher.constant(1.7), Start.constant(0.0), model="sign", noise_std=sigma, rule=SGD(lr),
                      run=Run(6.0, 4))  # fmt: skip
    found = solve(problem)
    end = LOST + lr * (LOST + sigma**2) / (2 - lr)
    exact = end + (1 - end) * np.exp(-lr * (2 - lr) * found.tau)
    np.testing.assert_allclose(found.error, exact, rtol=1e-6)
    m, q = np.sqrt(2 * rho / np.pi) * (1 - np.exp(-lr * found.tau)), np.asarray(found.q)
    wrong = np.arccos(m[1:] / np.sqrt(rho * q[1:])) / np.pi
    np.testing.assert_allclose(found.classification_error[1:], wrong, rtol=1e-5)
    assert found.classification_error[0] == 0.5


@pytest.mark.slow
def test_the_limit_is_that_of_a_linear_teacher_with_more_noise():
    teacher, inputs = Teacher.rademacher(1.3), Covariance.samples([0.5, 2.5, 0.5, 2.5])
    problem = Problem(teacher, model="sign", noise_std=0.3, covariance=inputs, **QUANTIZED)
    sign, linear = (derive(p, 4) for p in (problem, as_linear(problem, 1.5 * 1.3**2)))
    psi = jnp.asarray(np.random.default_rng(0).normal(size=(sign.teacher.size, 3)))
    errors = sign.error(psi, psi**2)
    np.testing.assert_allclose(errors - LOST, linear.error(psi, psi**2), rtol=1e-12)
    for name in ("floor", "ceiling"):
        assert float(getattr(sign, name)) - LOST == pytest.approx(float(getattr(linear, name)), rel=1e-12)
    ours, theirs = (
        limit.coefficients(limit.order(error), 0.0)
        for limit, error in ((sign, errors[0]), (linear, errors[0] - LOST))
    )
    np.testing.assert_allclose(ours.a * sign.teacher, theirs.a * linear.teacher, rtol=1e-12)
    np.testing.assert_allclose((ours.b, ours.D), (theirs.b, theirs.D), rtol=1e-12)
    assert float(problem.label_variance) == pytest.approx(1.09)


def test_stairs_follow_the_gain():
    problem = Problem(Teacher.constant(2.0), Start.constant(0.0), model="sign", **QUANTIZED)
    ours, theirs = small_lr_stairs(problem), small_lr_stairs(as_linear(problem, 4.0))
    assert [(s.level, s.leave) for s in ours] == [(s.level, pytest.approx(s.leave)) for s in theirs]
    assert ours[0].error == 1.0


def test_errors_of_given_weights_are_those_of_samples():
    rng = np.random.default_rng(1)
    d, n, quantizer = 400, 100_000, Quantizer(2, 1.0)
    teacher, w = rng.normal(0.3, 1.0, d), rng.normal(size=d)
    w += 0.7 * teacher
    seen = Observer(Problem(model="sign", weights=quantizer))(w, teacher)
    x = rng.normal(size=(n, d)) / np.sqrt(d)
    label, student = np.sign(x @ teacher), x @ np.asarray(quantizer.round(jnp.asarray(w)))
    squares, wrong = (label - student) ** 2, label != np.sign(student)
    for found, samples in ((seen.error, squares), (seen.classification_error, wrong)):
        assert abs(found - samples.mean()) < 4 * samples.std() / np.sqrt(n)
    assert Observer(Problem(model="sign"))(0 * w, teacher)[-1] == 0.5


@pytest.mark.parametrize("teacher", [Teacher.gaussian(3.0), Teacher.samples([3.0, -1.0, 2.0, 0.5])])
def test_ranges_are_searched_where_the_weights_are(teacher):
    """The size of the teacher's weights does not change the signs of its outputs, nor the student's weights."""
    target = Problem(teacher, model="sign").target
    assert float(target.rho) == pytest.approx(2 / np.pi)
    assert Problem(teacher).target is teacher


def test_the_two_sides_know_the_same_models():
    assert set(MODELS) == set(LABELS)


class Bent(SGD):
    """Its move is not linear, though that of its base is."""

    profile, response = Rule.profile, Rule.response

    def move(self, r, phi, u, tau):
        return self.rate(tau) * jnp.tanh(r * phi)


@pytest.mark.parametrize("rule", [Sign(0.1), Bent(0.1)], ids=["sign", "derived"])
def test_rules_for_a_gaussian_residual_are_refused(rule):
    problem = Problem(model="sign", **QUANTIZED | {"rule": rule})
    with pytest.raises(
        InputError, match=r"rule: expected 'sgd' or 'shrinkage' with model = 'sign'.*simulate"
    ):
        derive(problem, 2)


def test_bad_models_are_refused():
    with pytest.raises(InputError, match=r"teacher.model: expected .*linear.*sign.*found 'probit'"):
        Problem(model="probit")
    with pytest.raises(InputError, match=r"teacher: expected weights that are not all 0"):
        Problem(Teacher.constant(0.0), model="sign")


def test_problem_files_name_the_model(tmp_path):
    assert "model" not in problem_to_dict(Problem())["teacher"]
    assert problem_from_dict({"teacher": {"value": 2.0, "model": "sign"}}).model == "sign"
    for teacher in (Teacher.constant(1.3), Teacher.samples([1.0, 2.0, -1.0])):
        problem = Problem(teacher, model="sign", **QUANTIZED)
        assert problem_from_dict(problem_to_dict(problem)) == problem
        assert load_problem(save_problem(problem, tmp_path / "p.toml")).model == "sign"
    assert problem.unquantized().model == "sign"


def test_a_model_is_part_of_what_is_simulated():
    assert ("model", "sign") in list(_entries("", Problem(model="sign")))
    assert "label" in gpu.why_not(model_of(Problem(model="sign"), 80), 40)
    one, other = (SimpleNamespace(problem=Problem(model=model)) for model in ("linear", "sign"))
    with pytest.raises(InputError, match="the problem that was solved, model 'linear', found 'sign'"):
        check_same(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        dict(weights=Quantizer(2, 1.5), inputs=Quantizer(2, 2.0), noise_std=0.3),
        dict(teacher=Teacher.gaussian(2.0), covariance=Covariance.samples([0.5, 1.5, 0.5, 1.5]),
             weights=Quantizer(2, 1.0), rule=SGD(0.4, batch=2), run=Run(12.0, 13)),
        dict(start=Start.gaussian(0.0, 0.02), weights=Quantizer(2, 1.0, kind="mid-tread"), rule=SGD(0.05)),
        dict(weights=Quantizer(2, 1.0, rounding="stochastic"), rule=Shrinkage(0.3, q=0.5, noise_std=0.2)),
    ],
    ids=["quantized inputs", "classes", "plateau", "shrinkage"],
)  # fmt: skip
def test_predicted_and_simulated(given):
    problem = Problem(**{"rule": SGD(0.2), "run": Run(30.0, 16)} | given, model="sign")
    solution, ensemble = solve(problem, law="grid", tol=1e-2), simulate(problem, dim=1000, seeds=24)
    comparison = compare(solution, ensemble)
    assert comparison.agreement == "agree"
    assert comparison.detectable_gap < 0.02
    gap = ensemble.classification_error - np.asarray(solution.classification_error)
    late = gap[:, 4:].mean(axis=1)
    assert abs(late.mean()) < 3 * late.std(ddof=1) / np.sqrt(late.size) < 0.01


@pytest.mark.slow
def test_all_that_stands_on_the_limit_follows_the_model():
    problem = Problem(Teacher.gaussian(2.0), model="sign", noise_std=0.3, run=Run(8.0, 9), **QUANTIZED)
    linear = as_linear(problem, 4.0)
    one, other = solve(problem, law="grid", tol=1e-3), solve(linear, law="grid", tol=1e-3)
    np.testing.assert_allclose(one.error - LOST, other.error, rtol=3e-3)
    mixtures = [solve(p, law="mixture").error for p in (problem, linear)]
    np.testing.assert_allclose(mixtures[0] - LOST, mixtures[1], rtol=1e-6)
    fluids = [solve(p, law="fluid").error for p in (problem, linear)]
    np.testing.assert_allclose(fluids[0] - LOST, fluids[1], rtol=1e-9)
    ours, theirs = fixed_point(problem), fixed_point(linear)
    assert ours.error - LOST == pytest.approx(theirs.error, rel=1e-6)
    assert ours.excess == pytest.approx(theirs.excess, rel=1e-6)
    one = dataclasses.replace(
        problem, teacher=Teacher.constant(2.0)
    )  # of a Gaussian one few classes are left out
    ours, theirs = fixed_point(one), fixed_point(as_linear(one, 4.0))
    assert ours.relaxation_time == pytest.approx(theirs.relaxation_time, rel=1e-5)
    for to in ("range", "noise_std", "lr"):
        found = sensitivity(problem, "final-error", to).derivative
        scale = 0.3 / float(linear.noise_std) if to == "noise_std" else 1.0
        assert found == pytest.approx(scale * sensitivity(linear, "final-error", to).derivative, rel=1e-4)
