"""What float32 and int32 would lose in a long sum of small steps, the simulator keeps, or it refuses the run."""

import jax
import numpy as np
import pytest
import reference

from stedyn.problem.problem import Problem, Start
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD, Multinomial, Rule, Sign, StochasticRounding
from stedyn.rules.multinomial import multinomial
from stedyn.simulation import simulate

LARGE = 10**5
DECAYS = {"lr": 0.1, "weight_decay": 0.01}  # of every weight 1e-8 a step
NOISY = {"noise_std": 0.1}


def sign(problem, r, phi, u, tau):
    return float(problem.rule.lr) * np.sign(r * phi)


def test_weight_decay_without_any_move():
    """A sixth of the last bit of a weight is lost a step, a hundred times."""
    found = simulate(Problem(start=Start.constant(1.0), rule=SGD(**DECAYS)), dim=LARGE, seeds=1, taus=[0.001])
    change = found.weights[0].astype(float) - 1.0
    assert found.steps.tolist() == [100]
    np.testing.assert_allclose(change, -1e-6, rtol=0, atol=3.1e-8)  # half of a last bit


@pytest.mark.parametrize(
    ("problem", "move"),
    [
        (Problem(inputs=Quantizer(2, 2.0, kind="mid-tread"), rule=SGD(**DECAYS), **NOISY), reference.sgd),
        pytest.param(
            Problem(weights=Quantizer(2, 0.5), ste="clipped", rule=SGD(**DECAYS), **NOISY),
            reference.sgd,
            marks=pytest.mark.slow,
        ),
        pytest.param(Problem(rule=Sign(**DECAYS), **NOISY), sign, marks=pytest.mark.slow),
    ],
    ids=["inputs of 0", "no moves outside", "moves of one size"],
)
def test_weight_decay_among_moves(problem, move):
    """Beside float64 with the same draws: where moves are 0 or all alike, rounding is not random."""
    steps = 12
    found = simulate(problem, dim=LARGE, seeds=1, taus=[steps / LARGE], snapshots=[0.0])
    start = found.snapshots[0, 0].astype(float)
    expected = reference.run(problem, start, found.teacher[0], 0, steps, move)
    gap = np.mean((found.weights[0] - expected) * start)
    decay = steps * 1e-8 * np.mean(start**2)
    assert abs(gap) < 0.05 * decay


@pytest.mark.parametrize("lr", [1e-5, 1e-7])
def test_steps_below_the_last_bit_of_a_weight_add_up(lr):
    problem, steps = Problem(noise_std=0.3, rule=SGD(lr)), 200
    found = simulate(problem, dim=129, seeds=1, taus=[steps / 129], snapshots=[0.0])
    start = found.snapshots[0, 0].astype(float)
    expected = reference.run(problem, start, found.teacher[0], 0, steps)
    last_bit = np.spacing(np.abs(found.weights[0]))
    assert np.all(
        np.abs(found.weights[0] - expected) <= 0.51 * last_bit + 2e-5 * np.abs(expected - start).max()
    )


def test_an_error_without_noise_falls_until_the_teacher_is_met():
    """To half of the last bit of a weight of 1, which is an error of 1e-15."""
    found = simulate(Problem(rule=SGD(0.3)), dim=129, seeds=2, taus=[60.0, 80.0])
    assert np.all(found.error[:, 1] < 1e-14)


def test_the_rest_is_dropped_at_a_latent_clip():
    problem = Problem(latent_clip=0.8, rule=SGD(0.3), **NOISY)
    found = simulate(problem, dim=129, seeds=1, taus=[3.0], snapshots=[0.0])
    expected = reference.run(problem, found.snapshots[0, 0], found.teacher[0], 0, 3 * 129)
    np.testing.assert_allclose(found.weights[0], expected, rtol=0, atol=2e-6)
    assert np.sum(found.weights == np.float32(0.8)) >= 3


# ---- codes


class Escaping(Rule):
    """A quarter of int32 a step."""

    kind = "escaping"
    lr: float = 0.1
    size: float = 2.0**29

    def move(self, r, phi, u, tau):
        return self.size + 0 * r * phi

    @property
    def lattice(self):
        return 1.0


LOST = r"grew beyond 1\.2e\+08, where int32 codes end, before tau = \d+: the run diverges; .* stop sooner\.$"


@pytest.mark.parametrize(
    "problem",
    [
        Problem(rule=StochasticRounding(50.0, delta=0.5)),
        Problem(rule=StochasticRounding(50.0, delta=0.5, weight_decay=50.0)),
        Problem(rule=StochasticRounding(50.0, delta=0.5), latent_clip=1e9),
    ],
    ids=["plain", "decay", "clip beyond"],
)
def test_codes_that_diverge_are_refused(problem):
    with pytest.raises(FloatingPointError, match=LOST):
        simulate(problem, dim=20, seeds=2, taus=[100.0])


@pytest.mark.parametrize("size", [2.0**29, 2.0**40, np.nan])
def test_codes_do_not_wrap(size):
    """Eight steps bring a code that wraps back to where it was."""
    with pytest.raises(FloatingPointError, match="where int32 codes end"):
        simulate(Problem(rule=Escaping(size=size)), dim=16, seeds=1, taus=[0.5])


def test_codes_stop_at_a_latent_clip():
    problem = Problem(rule=StochasticRounding(50.0, delta=0.5), latent_clip=2.0)
    found = simulate(problem, dim=20, seeds=2, taus=[100.0])
    assert np.abs(found.weights).max() <= 2.0


def test_a_start_beyond_the_codes_is_refused():
    problem = Problem(start=Start.constant(1e6), rule=StochasticRounding(0.1, delta=1e-3))
    with pytest.raises(
        ValueError, match=r"^start: expected start weights below 2.4e\+05, where the codes .*\.$"
    ):
        simulate(problem, dim=20, seeds=1, taus=[0.0])


# ---- the multinomial rule


def test_multinomial_counts_of_a_million_coordinates():
    """The same draws in NumPy, float64; the sums of float32 gave another count to 7 % of the coordinates."""
    rng, d = np.random.default_rng(0), 10**6
    weight = (np.abs(rng.normal(size=d)) + 0.1).astype(np.float32)
    u = ((rng.integers(0, 2**23, 2 * d) + 0.5) * 2.0**-23).astype(np.float32)
    counts = np.asarray(jax.jit(multinomial)(weight, u, d))
    waits, ends = np.cumsum(-np.log(u.astype(float))), np.cumsum(weight, dtype=float)
    below = np.searchsorted(waits[:d] / waits[d], ends / ends[-1], side="right")
    below[-1] = d
    assert np.mean(counts != np.diff(below, prepend=0)) < 1e-4  # logarithms are still float32
    assert counts.sum() == d


def test_more_uniform_numbers_than_an_index_counts_are_refused():
    with pytest.raises(
        ValueError, match=r"^rule.nu: expected fewer than 4 uniform numbers a coordinate.*\.$"
    ):
        simulate(Problem(rule=Multinomial(nu=8.0)), dim=2**29 - 2**26, seeds=1, taus=[0.0])
