"""Fixed points: the numbers of the specification, closed forms, and what is refused."""

import equinox as eqx
import numpy as np
import pytest
from systems import TWO_BIT, reference, solved

from stedyn import SGD, Problem, Quantizer, Run, Teacher, fixed_point, solve
from stedyn.inputs.moments import input_moments
from stedyn.limit.classes import sample_bins
from stedyn.limit.limit import derive
from stedyn.limit.roots import brackets
from stedyn.limit.stationary import largest_error, scan, stationary_error
from stedyn.quantizers.quantizer import as_arrays
from stedyn.rules import QuantizedGradient


@pytest.mark.parametrize(("name", "error"), [("R1", 0.408296), ("R2", 0.197642)])
def test_numbers_of_the_specification(name, error):
    found = fixed_point(reference(name))
    assert found.error == pytest.approx(error, abs=1e-6)
    assert found.stable
    assert found.to_dict()["status"].startswith("The fixed point is stable; relaxation takes tau = ")


def test_the_minimum_of_the_curve_below_the_fixed_point():
    """Near tau = 17 the curve of R1 lies far below its end."""
    found = fixed_point(reference("R1")).beside(solved("R1"))
    assert found.minimum == pytest.approx((17.5, 0.2428), rel=2e-2)
    assert "passes below" in str(found)
    assert fixed_point(reference("R1")).minimum is None


@pytest.mark.parametrize("lr", [0.1, 1.0, 1.9])
def test_no_quantizers(lr):
    found = fixed_point(Problem(noise_std=0.3, rule=SGD(lr)))
    assert found.error == pytest.approx(lr * 0.09 / (2 - lr), rel=1e-9)
    assert found.excess == 0
    assert found.lr_ceiling == pytest.approx(2.0, rel=1e-9)
    assert found.slope == pytest.approx(lr / 2, rel=1e-6)


def test_quantized_inputs_alone():
    lr, sigma, rho = 0.4, 0.3, 0.64
    moments = input_moments(TWO_BIT)
    k1, k2 = float(moments.k1), float(moments.k2)
    unavoidable = rho * (1 - k1**2 / k2)
    excess = lr * k2 * (sigma**2 + unavoidable) / (2 - lr * k2)
    problem = Problem(Teacher.gaussian(0.8), noise_std=sigma, inputs=TWO_BIT, rule=SGD(lr), run=Run(60.0, 3))
    found = fixed_point(problem)
    assert found.error == pytest.approx(unavoidable + excess, rel=1e-8)
    assert found.lr_ceiling == pytest.approx(2 / k2, rel=1e-8)
    assert solve(problem).final_error == pytest.approx(found.error, rel=1e-6)


def test_a_teacher_of_zeros_has_an_excess_error():
    """Unquantized weights go to 0 without noise, so that all of the error is an excess."""
    found = fixed_point(Problem(Teacher.constant(0.0), weights=Quantizer(2, 2.0), inputs=TWO_BIT))
    assert found.unquantized_error == 0
    assert found.excess == found.error > 0.4


def test_no_fixed_point_above_the_ceiling_unless_psi_is_bounded():
    with pytest.raises(ValueError, match=r"^rule\.lr: expected a rate below its ceiling 2, found 2\.5"):
        fixed_point(Problem(rule=SGD(2.5), noise_std=0.1))
    bounded = fixed_point(Problem(rule=SGD(2.5), noise_std=0.1, weights=Quantizer(2, 2.0)))
    assert bounded.lr_ceiling is None
    assert bounded.excess is None
    assert 0 < bounded.error < 5


def bistable(lr, noise_std=0.1):
    """Small gradients give small steps and large ones large steps: both keep themselves up for an lr near 1.6."""
    rule = QuantizedGradient(lr, quantizer=Quantizer(kind="levels", levels=(-3.0, -0.1, 0.1, 3.0)))
    return Problem(noise_std=noise_std, rule=rule)


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "noise_std", "apart"), [(1.508, 0.11, 1.17), (1.5173, 0.1, 1.054)])
def test_a_pair_of_close_roots_is_found(lr, noise_std, apart):
    """Sixty points over the whole interval step over both pairs."""
    found = fixed_point(bistable(lr, noise_std))
    assert len(found.others) == 2
    assert found.error / found.others[1] == pytest.approx(apart, rel=5e-3)
    limit = eqx.filter_jit(derive)(as_arrays(bistable(lr, noise_std)), 2)
    for error in (*found.others, found.error):
        again = float(stationary_error(limit, limit.noise_var + error))
        assert again == pytest.approx(error, rel=1e-9)


def test_a_pair_between_two_points_is_found_by_minimization():
    limit = eqx.filter_jit(derive)(as_arrays(bistable(1.5173)), 2)
    grid, gap, _ = (np.asarray(x) for x in eqx.filter_jit(scan)(limit, 41))
    assert np.sum(np.diff(np.sign(gap)) != 0) == 1
    assert len(brackets(limit, grid, gap)) == 3


def test_nothing_lies_outside_of_what_is_searched():
    """The weights' least and largest error, to the 0.1 % by which the interval is wider."""
    found = fixed_point(reference("R2"))
    low, high, points = found.searched
    assert low < found.error < high
    assert points > 60
    inputs = input_moments(TWO_BIT)
    k1, k2 = float(inputs.k1), float(inputs.k2)
    levels = np.asarray(Quantizer(3, 1.5).levels)
    every = 1 - 2 * k1 * levels + k2 * levels**2
    assert (low, high) == pytest.approx((every.min(), every.max()), rel=2e-3)


@pytest.mark.slow
def test_saturated_classes():
    """With levels up to 1 the teacher values beyond 1 saturate: 2 (1 - Phi(1)) of a Gaussian teacher."""
    problem = Problem(Teacher.gaussian(1.0), weights=Quantizer(2, 1.0), noise_std=0.1)
    assert fixed_point(problem).saturated_fraction == pytest.approx(0.31731, abs=4e-3)


@pytest.mark.slow
def test_stochastic_rounding_of_a_fine_lattice_is_no_quantizer():
    fine = fixed_point(
        Problem(weights=Quantizer(12, 6.0, rounding="stochastic"), noise_std=0.3, rule=SGD(0.3))
    )
    assert fine.error == pytest.approx(0.3 * 0.09 / 1.7, rel=1e-3)


@pytest.mark.parametrize(
    ("bits", "scale", "error"),
    [(2, 1.25, 0.177), (2, 1.494, 0.191), pytest.param(3, 2.051, 0.0649, marks=pytest.mark.slow)],
)
def test_gaussian_teacher(bits, scale, error):
    problem = Problem(Teacher.gaussian(1.0), noise_std=0.1, rule=SGD(0.1), weights=Quantizer(bits, scale))
    assert fixed_point(problem).error == pytest.approx(error, abs=5e-4)


def test_vanishing_error_on_a_level():
    found = fixed_point(reference("R7"))
    assert found.error == 0
    assert "vanishes" in found.status


def test_the_clipped_estimator_has_none():
    with pytest.raises(ValueError, match=r"^weights\.ste: expected 'identity'"):
        fixed_point(reference("R3"))


def test_a_wall_keeps_what_the_level_would_lose():
    """With a wall the outermost level cannot lose weights, and every problem has a stationary density."""
    free = Problem(weights=Quantizer(1, 0.5), noise_std=0.2, rule=SGD(0.5))
    walled = Problem(weights=Quantizer(1, 0.5), noise_std=0.2, rule=SGD(0.5), latent_clip=0.5)
    assert fixed_point(free).error == pytest.approx(0.25, rel=1e-12)
    assert np.isfinite(fixed_point(walled).error)
    assert fixed_point(walled).error > 0.25


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 4])
def test_few_classes_hold_a_measured_teacher_with_heavy_tails(bits):
    weights = np.random.default_rng(5).standard_t(3, size=1000)
    teacher = Teacher.samples(weights / weights.std())
    problem = Problem(teacher, noise_std=0.1, rule=SGD(0.1), weights=Quantizer(bits, 3.0))
    error = eqx.filter_jit(lambda n: largest_error(derive(problem, n)))
    every = float(error(1000))
    assert float(error(32)) == pytest.approx(every, rel=0.02)
    assert float(error(256)) == pytest.approx(every, rel=1e-3)


def test_classes_of_a_teacher_with_few_values():
    """A pruned teacher: most of its weights are 0; every value is a class of its own, or several."""
    values = np.repeat([0.0, 0.5, -2.0], [90, 7, 3])
    share, mean, variance = sample_bins(values, 16)
    assert share.shape == (16,)
    assert float(share.sum()) == pytest.approx(1)
    assert set(np.round(mean, 9).tolist()) == {0.0, 0.5, -2.0}
    np.testing.assert_allclose(
        [share[abs(mean - x) < 1e-9].sum() for x in (0.0, 0.5, -2.0)], [0.9, 0.07, 0.03]
    )
    np.testing.assert_allclose(variance, 0, atol=1e-12)
    np.testing.assert_allclose(sample_bins(np.full(10, 0.7), 4)[1], 0.7)
