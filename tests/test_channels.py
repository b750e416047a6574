"""A range for each channel: a channel is a problem in other units, and both together are simulated against their limit."""

import numpy as np
import pytest

from stedyn import (
    SGD,
    Channels,
    Covariance,
    InputError,
    Problem,
    Quantizer,
    Run,
    Start,
    Teacher,
    choose,
    compare,
    fixed_point,
    range_map,
    sensitivity,
    simulate,
    small_lr_stairs,
    solve,
)
from stedyn.files.problems import load_problem, problem_from_dict
from stedyn.files.report import describe
from stedyn.files.writing import problem_to_dict, save_problem
from stedyn.limit.limit import derive
from stedyn.rules import StochasticRounding
from stedyn.simulation import gpu
from stedyn.simulation.checkpoint import _entries
from stedyn.simulation.model import model_of
from stedyn.simulation.population import population, scales

GIVEN = dict(noise_std=0.2, inputs=Quantizer(2, 2.0), rule=SGD(0.2))
WEIGHTS = Quantizer(2, 1.5)
CURVES = ("error", "q", "norm", "saturated", "flip_rate", "occupancy", "effective_step")
LOW = dict(law="grid", cells=16, classes=8, tol=1.0)


def short(teacher=1.0, start=1.0, width=1.5, channels=None):
    return Problem(Teacher.rademacher(teacher), Start.gaussian(0.2, start), weights=Quantizer(2, width),
                   channels=channels, run=Run(3.0, 4), **GIVEN)  # fmt: skip


@pytest.mark.slow
def test_channels_in_closed_form_relations():
    """Alike ones are one; one of other units is the problem in these units; unlike ones are neither."""
    plain, alike = (
        solve(short(), **LOW),
        solve(short(channels=Channels([1.0, 1.0], shares=[0.2, 0.8])), **LOW),
    )
    for name in CURVES:
        np.testing.assert_allclose(getattr(alike, name), getattr(plain, name), rtol=1e-11, atol=1e-13)
    scaled = Channels([2.0, 2.0], range=[3.0, 3.0], start=[0.5, 0.5])
    other = solve(short(channels=scaled), **LOW)
    start = Start.gaussian(0.1, 0.5)
    exact = solve(
        Problem(Teacher.rademacher(2.0), start, weights=Quantizer(2, 4.5), run=Run(3.0, 4), **GIVEN), **LOW
    )
    for name in CURVES:
        np.testing.assert_allclose(getattr(other, name), getattr(exact, name), rtol=1e-10, atol=1e-13)
    assert abs(other.final_error / plain.final_error - 1) > 0.1


def test_one_channel_is_no_channels():
    plain, one = (derive(short(channels=channels), 4) for channels in (None, Channels([1.0])))
    for name in ("teacher", "share", "weight", "power", "floor", "ceiling"):
        np.testing.assert_array_equal(getattr(one, name), getattr(plain, name))
    for ours, theirs in zip(
        *(limit.coefficients(limit.order(0.3), 0.0) for limit in (one, plain)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_channels_simulated_in_other_units():
    given = dict(GIVEN, ste="clipped", run=Run(3.0, 4))
    plain = Problem(
        Teacher.gaussian(2.0), Start.gaussian(0.0, 0.5), weights=Quantizer(2, 3.0), latent_clip=4.0, **given
    )
    scaled = Channels([2.0], range=[2.0], start=[0.5])
    other = Problem(Teacher.gaussian(1.0), weights=WEIGHTS, latent_clip=2.0, channels=scaled, **given)
    one, two = (simulate(problem, dim=101, seeds=2, progress=False) for problem in (plain, other))
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-5)
    for name in ("error", "saturated", "flip_rate", "occupancy"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-5, atol=1e-6)


def test_every_channel_has_its_share_wherever_variances_are_large():
    channels = Channels([1.0, 2.0, 4.0], shares=[0.5, 0.25, 0.25])
    each = scales(channels, "teacher", 1000)
    assert [int(np.sum(each == scale)) for scale in (1, 2, 4)] == [500, 250, 250]
    for part in each.reshape(10, 100):
        assert (
            np.max(np.abs([np.mean(part == scale) for scale in (1, 2, 4)] - np.array(channels.shares)))
            <= 0.03
        )
    problem = Problem(covariance=Covariance.power_law(0.5), channels=channels)
    assert float(problem.signal) == pytest.approx(5.5)
    drawn = population(problem, 1000, 3)
    np.testing.assert_array_equal(drawn.teacher, each)
    assert float(problem.rho) == pytest.approx(5.5)
    assert np.mean(drawn.variance * drawn.teacher**2) == pytest.approx(5.5, rel=0.03)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (lambda p: solve(p, law="fluid"), "none for law = 'fluid'"),
        (lambda p: solve(p, law="mixture"), "none for law = 'mixture'"),
        (lambda p: solve(p, densities=[1.0]), "none for densities"),
        (fixed_point, "none for a fixed point"),
        (small_lr_stairs, "none for closed-form stairs"),
        (sensitivity, "none for sensitivities"),
        (choose, "none for choose"),
        (lambda p: range_map(p, ranges=[1.0, 2.0], bits=[2]), "none for range maps"),
    ],
)
def test_what_is_not_implemented_refuses(asked, words):
    with pytest.raises(InputError, match=f"channels: expected {words}, found '2 channels'; use solve"):
        asked(short(channels=Channels([1.0, 0.5])))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(teacher=[]), "channels.teacher: expected 1 to 16 numbers"),
        (dict(teacher=1.0), "channels.teacher: expected a list"),
        (dict(teacher=[1.0, -1.0]), "channels.teacher: expected a positive number"),
        (dict(teacher=[1.0, 2.0], range=[1.0]), "channels.range: expected 2 numbers"),
        (dict(teacher=[1.0, 2.0], shares=[0.5, 0.4]), "channels.shares: expected numbers that add up to 1"),
    ],
)
def test_bad_channels(given, words):
    with pytest.raises(InputError, match=words):
        Channels(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(start=Start.samples([0.0, 1.0])), "channels: expected none with a measured start"),
        (dict(channels=Channels([1.0], range=[2.0])), "channels.range: expected 1 for weights that are not quantized"),
        (dict(rule=StochasticRounding(delta=0.1)), "channels: expected none with the rule 'stochastic-rounding'"),
        (dict(start=Start.constant(0.9), latent_clip=1.0, weights=WEIGHTS, channels=Channels([1.0], range=[0.5])),
         "start.value: expected a value inside the latent clip"),
    ],
)  # fmt: skip
def test_problems_that_have_no_channels(given, words):
    with pytest.raises(InputError, match=words):
        Problem(**dict(channels=Channels([1.0, 2.0])) | given)


def test_files_and_checkpoints_hold_channels(tmp_path):
    problem = short(channels=Channels([1.0, 0.25], range=[1.0, 0.5], shares=[0.25, 0.75]))
    assert problem_from_dict(problem_to_dict(problem)) == problem
    assert load_problem(save_problem(problem, tmp_path / "p.toml")) == problem
    assert "channels" not in problem_to_dict(short())
    with pytest.raises(InputError, match=r"channels.teacher: expected a list of numbers"):
        problem_from_dict({"channels": {"range": [1.0]}})
    assert dict(_entries("", problem)) != dict(_entries("", short(channels=Channels([1.0, 0.25]))))
    assert "2 channels: teacher 1, 0.25; range 1, 0.5" in describe(problem)
    assert gpu.why_not(model_of(problem, 80), 40) == "a range for each channel"
    assert gpu.why_not(model_of(short(channels=Channels([1.0, 0.25])), 80), 40) is None
    assert problem.unquantized().channels == Channels([1.0, 0.25], shares=[0.25, 0.75])


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        dict(),
        dict(ste="clipped", latent_clip=2.0, covariance=Covariance.power_law(0.4), rule=SGD(0.2, batch=2)),
    ],
    ids=["plain", "clipped"],
)
def test_predicted_and_simulated(given):
    """A range for each of two scales agrees with its simulation; one range for both ends clearly worse, also simulated."""
    errors = []
    for ranges in ([1.0, 0.25], None):
        channels = Channels([1.0, 0.25], range=ranges)
        problem = Problem(
            Teacher.gaussian(1.0), weights=WEIGHTS, channels=channels, run=Run(20.0, 11), **GIVEN | given
        )
        solution, ensemble = solve(problem, tol=1e-2), simulate(problem, dim=1000, seeds=16, progress=False)
        comparison = compare(solution, ensemble)
        print(channels, comparison, solution.error_estimate)
        for row in zip(solution.tau, solution.error, ensemble.error_mean, ensemble.error_sem, strict=True):
            print(*(f"{x:.5g}" for x in row))
        assert comparison.agreement == "agree"
        late = (ensemble.error - solution.error)[:, 3:].mean(axis=1)
        assert abs(late.mean()) < 3 * late.std(ddof=1) / np.sqrt(late.size)
        errors.append((solution.final_error, ensemble.error_mean[-1]))
    assert np.all(np.divide(*errors) < 0.75)
