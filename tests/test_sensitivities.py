"""Derivatives of fixed points and of what is read off a curve: closed forms, scaling laws, finite differences."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import stedyn.design.tangents as tangents
from stedyn import (
    SGD,
    Problem,
    Quantizer,
    Run,
    Start,
    Teacher,
    find_plateaus,
    fixed_point,
    sensitivity,
    solve,
)
from stedyn.curves.dense import Steps, between
from stedyn.curves.objectives import Objective
from stedyn.limit.solution import INACCURATE, MAX_STEPS, REACHED
from stedyn.rules import Multinomial, Rule

TAU = 100.0 * tangents.TIMES


def r7(range_=1.2, lr=0.02):
    """Plateau of mid-tread weights started near 0."""
    weights = Quantizer(2, range_, kind="mid-tread")
    return Problem(
        start=Start.gaussian(std=0.02), noise_std=0.1, weights=weights, rule=SGD(lr), run=Run(1.6 / lr, 801)
    )


def test_without_quantizers_the_final_error_has_a_closed_form():
    lr, noise = 0.5, 0.4
    found = sensitivity(Problem(noise_std=noise, rule=SGD(lr)), "final-error", "noise_std")
    assert found.value == pytest.approx(lr * noise**2 / (2 - lr), rel=1e-9)
    assert found.derivative == pytest.approx(2 * lr * noise / (2 - lr), rel=1e-7)
    assert found.elasticity == pytest.approx(2, rel=1e-7)
    assert (found.law, found.parameter) == ("fixed point", noise)
    assert "2 % for 1 %" in str(found)


def curve(monkeypatch, error, tangent, code=REACHED):
    """A solver that returns a given curve, and its tangent for the range 1.2."""
    curves = {"error": jnp.asarray(error), "tangent": jnp.asarray(tangent)}
    returned = curves, {}, None, (), 1e-3, code
    monkeypatch.setattr(tangents, "grid_curves", lambda *args, **kwargs: returned)


def staircase(stretch, depth=0.5):
    s = TAU / stretch
    return 0.1 + depth / (1 + np.exp(s - 30)) + 0.3 / (1 + np.exp(s - 70))


@pytest.mark.parametrize("objective", ["plateau-length", "escape", "time-to=0.2"])
def test_times_of_a_curve_that_is_stretched_have_elasticity_one(monkeypatch, objective):
    problem = dataclasses.replace(r7(), run=Run(100.0, 2))
    stretched = [staircase(1 + h) for h in (-1e-4, 0.0, 1e-4)]
    curve(monkeypatch, stretched[1], (stretched[2] - stretched[0]) / 2e-4 / 1.2)
    found = sensitivity(problem, objective)
    expected = {"plateau-length": 40 - 2 * np.log(9), "escape": 70, "time-to=0.2": 70 + np.log(2)}[objective]
    assert found.value == pytest.approx(expected, rel=0.01)
    assert found.elasticity == pytest.approx(1, abs=0.02)
    assert found.derivative == pytest.approx(found.value / 1.2, rel=0.02)
    assert found.estimate == 1e-3


DROP = 1 / (1 + np.exp(TAU - 50))
DIP = np.exp(-(((TAU - 10) / 2) ** 2))


def smallest_drop():
    """The depth from which on a fall to 0.4 counts as a drop."""
    low, high = 0.05, 0.2
    for _ in range(40):
        middle = 0.5 * (low + high)
        found = find_plateaus(*between(Steps(TAU, 0.4 + middle * DROP)), 0.0)
        low, high = (low, middle) if found else (middle, high)
    return high


@pytest.mark.parametrize(
    ("objective", "error", "tangent"),
    [
        ("plateau-length", 0.4 + (smallest_drop() + 1e-6) * DROP, DROP),  # there is none for a smaller range
        ("escape", 0.4 + (smallest_drop() - 1e-6) * DROP, DROP),  # there is one for a larger range
        ("time-to=0.4", 0.2 + 0.25 * DROP - 0.0499 * DIP, -DIP),  # reached at tau = 10 for a larger range
    ],
)
def test_a_jump_has_no_derivative(monkeypatch, objective, error, tangent):
    curve(monkeypatch, error, tangent)
    with pytest.raises(
        ValueError, match=r"^objective: expected .* changes smoothly with range, found .*jump.*; .*\.$"
    ):
        sensitivity(dataclasses.replace(r7(), run=Run(100.0, 2)), objective)


def test_a_curve_without_a_plateau_and_one_that_breaks_off_are_refused(monkeypatch):
    problem = dataclasses.replace(r7(), run=Run(100.0, 2))
    curve(monkeypatch, np.exp(-0.05 * TAU), np.zeros(TAU.size))
    with pytest.raises(ValueError, match="a curve with a plateau within tau = 100"):
        sensitivity(problem, "escape")
    with pytest.raises(ValueError, match="an error that is reached within tau = 100"):
        sensitivity(problem, "time-to=0.001")
    curve(monkeypatch, staircase(1.0), np.zeros(TAU.size), MAX_STEPS)
    with pytest.raises(ValueError, match="stopped before the horizon"):
        sensitivity(problem, "escape")
    curve(monkeypatch, staircase(1.0), np.zeros(TAU.size), INACCURATE)
    assert sensitivity(problem, "escape").derivative == 0


class Cut(Rule):
    """Small steps are left out: a jump in the gradient whose place moves with lr."""

    kind = "cut"
    product = True

    def move(self, r, phi, u, tau):
        step = self.rate(tau) * r * phi
        return jnp.where(jnp.abs(step) > 0.1, step, 0.0)


@pytest.mark.parametrize(
    ("problem", "objective", "to", "sentence"),
    [
        (r7(), "error", "range", "one of final-error"),
        (r7(), "error-at", "range", "error-at="),
        (r7(), "escape", "bits", "'range', 'lr', 'noise_std'"),
        (Problem(), "final-error", "range", "a weight quantizer with a range"),
        (Problem(), "escape", "lr", "not quantized"),
        (Problem(rule=Multinomial()), "final-error", "lr", "a rule with a learning rate"),
        (Problem(rule=Cut(0.1)), "final-error", "lr", "jumps stay where they are"),
        (Problem(rule=SGD(3.0)), "final-error", "noise_std", "grows without bound"),
        (Problem(weights=Quantizer(2, 1.0), ste="clipped"), "final-error", "range", "a fixed point"),
        (
            Problem(weights=Quantizer(2, 1.0), ste="clipped", latent_clip=1.2),
            "final-error",
            "lr",
            "a fixed point",
        ),
    ],
)
def test_what_has_no_derivative_is_refused(problem, objective, to, sentence):
    with pytest.raises(ValueError, match=rf"expected .*{sentence}.*, found .*; .*\.$|{sentence}"):
        sensitivity(problem, objective, to)


@pytest.mark.parametrize("to", ["lr", "noise_std"])
def test_a_teacher_on_an_inner_level(to):
    """Nothing drives the weights on that level, so that their density has no scale of its own there."""
    problem = Problem(noise_std=0.1, rule=SGD(0.1), weights=Quantizer(3, 1.5, kind="mid-tread"))
    found, h = sensitivity(problem, to=to), 1e-4
    low, high = (
        fixed_point(
            dataclasses.replace(problem, rule=SGD(0.1 + k * h))
            if to == "lr"
            else dataclasses.replace(problem, noise_std=0.1 + k * h)
        ).error
        for k in (-1, 1)
    )
    assert found.derivative == pytest.approx((high - low) / (2 * h), rel=1e-4)


def test_where_two_fixed_points_meet_there_is_no_derivative(monkeypatch):
    monkeypatch.setattr(
        "stedyn.design.sensitivities._final_pass",
        lambda *_: (jnp.asarray(0.3), jnp.asarray(jnp.inf), jnp.asarray(0.0)),
    )
    with pytest.raises(
        ValueError, match=r"expected a fixed point that moves smoothly with lr, found .*; move"
    ):
        sensitivity(r7(), "final-error", "lr")


@pytest.mark.slow
@pytest.mark.parametrize("range_", [0.9, 1.2, 1.5])
def test_the_final_error_of_a_gaussian_teacher(range_):
    problem = Problem(Teacher.gaussian(1.0), noise_std=0.1, weights=Quantizer(2, range_), rule=SGD(0.1))
    found = sensitivity(problem)
    # the derivative of the third order in a step that many classes cross
    difference = {}
    for h in (0.02, 0.04):
        near = [
            fixed_point(
                dataclasses.replace(problem, weights=Quantizer(2, range_ + k * h)), classes=2048
            ).error
            for k in (-1, 1)
        ]
        difference[h] = (near[1] - near[0]) / (2 * h)
    expected = (4 * difference[0.02] - difference[0.04]) / 3
    scale = max(abs(found.derivative), found.value / range_)
    assert found.estimate < 5e-3
    assert abs(found.derivative - expected) < found.estimate * scale


def measured(problem, objective):
    """What a refined solve gives."""
    if objective.startswith("error-at"):
        problem = dataclasses.replace(problem, run=Run(float(objective[9:]), 3))
    solution = solve(problem, law="grid", tol=1e-3, classes=128)
    if objective == "escape":
        return solution.plateaus()[0].escape
    return Objective.parse(objective).measure(*solution.dense)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "to", "tolerance"),
    [
        ("escape", "range", 1e-3),
        ("plateau-length", "range", 1e-2),
        ("time-to=0.3", "range", 2e-3),
        ("error-at=25", "lr", 3e-3),
        ("escape", "lr", 2e-3),
    ],
)
def test_a_plateau_against_two_solves(objective, to, tolerance):
    found = sensitivity(r7(), objective, to)
    h = 5e-3 * found.parameter
    low, high = (
        measured(
            dataclasses.replace(r7(), weights=r7(1.2 + k * h).weights)
            if to == "range"
            else dataclasses.replace(r7(), rule=SGD(0.02 + k * h)),
            objective,
        )
        for k in (-1, 1)
    )
    assert found.derivative == pytest.approx((high - low) / (2 * h), rel=tolerance)


def test_at_the_start_of_a_gaussian_teacher_the_range_scales_the_weights():
    problem = Problem(Teacher.gaussian(1.0), noise_std=0.1, weights=Quantizer(1, 0.8), rule=SGD(0.1))
    found = sensitivity(problem, "error-at=1e-4")
    assert found.value == pytest.approx(1 + 0.8**2, rel=1e-3)
    assert found.derivative == pytest.approx(2 * 0.8, rel=1e-3)


@pytest.mark.slow
def test_a_gaussian_teacher_against_two_solves():
    problem = Problem(Teacher.gaussian(1.0), noise_std=0.1, weights=Quantizer(2, 1.2), rule=SGD(0.1))
    found, h = sensitivity(problem, "error-at=20"), 0.02
    low, high = (
        measured(dataclasses.replace(problem, weights=Quantizer(2, 1.2 + k * h)), "error-at=20")
        for k in (-1, 1)
    )
    assert found.derivative == pytest.approx((high - low) / (2 * h), rel=5e-3)


@pytest.mark.slow
def test_the_escape_grows_with_the_range_as_in_the_closed_form():
    # (step / 2) / (lr w*), step = range: the slope 1 / (2 lr) is approached from above as lr falls
    gaps = [2 * lr * sensitivity(r7(0.8, lr), "escape").derivative - 1 for lr in (0.04, 0.01)]
    assert 0 < gaps[1] < 0.6 * gaps[0] < 0.12
