"""Phases: what changes during a run, in limit and simulation, and that the state is handed on."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from stedyn import (
    SGD,
    InputError,
    Phase,
    Problem,
    Quantizer,
    Run,
    Start,
    Teacher,
    compare,
    fixed_point,
    simulate,
    solve,
)
from stedyn.curves.jumps import plateaus_between
from stedyn.curves.plateaus import find_plateaus
from stedyn.files.problems import load_problem, problem_from_dict
from stedyn.files.writing import problem_to_dict, save_problem
from stedyn.rules import Custom, Sign, Step, StochasticRounding
from stedyn.simulation.observe import Observer

TWO_BITS = Quantizer(2, 1.5)
FLOAT_FIRST = Problem(
    start=Start.gaussian(0.0, 0.5),
    noise_std=0.3,
    rule=SGD(0.2),
    run=Run(taus=[0.0, 2.0, 3.9, 4.0, 5.0, 8.0]),
    phases=[Phase(4.0, weights=TWO_BITS)],
    ptq=TWO_BITS,
)


def apart(solution, ensemble):
    """Gaps in standard errors, beside what the law claims for itself."""
    sem = np.hypot(ensemble.error_sem, solution.error * float(solution.error_estimate))
    return np.abs(ensemble.error_mean - solution.error) / sem


@pytest.mark.slow
def test_float_first_and_two_bits_later():
    solution = solve(FLOAT_FIRST, law="grid")
    ensemble = simulate(FLOAT_FIRST, dim=800, seeds=6)
    assert np.all(apart(solution, ensemble) < 4)
    # until then it is the student without a quantizer, whose error is known: d error = (lr^2 - 2 lr) error + lr^2 sigma^2
    rate, source = 2 * 0.2 - 0.2**2, (0.2 * 0.3) ** 2
    exact = source / rate + (1.25 - source / rate) * np.exp(-rate * solution.tau)
    np.testing.assert_allclose(solution.error[:3], exact[:3], rtol=5e-3)
    assert solution.error[3] > 1.05 * solution.error[2]  # a time at the border shows the rounded weights
    assert (solution.occupancy, ensemble.occupancy) == (None, None)  # which the first phase has not
    # rounding without training: before the border what the switch will cost, after it the error itself
    np.testing.assert_allclose(solution.ptq_error[3:], solution.error[3:], rtol=1e-6)
    np.testing.assert_allclose(ensemble.ptq_error[:, 3:], ensemble.error[:, 3:], rtol=1e-12)
    spread = ensemble.ptq_error.std(0, ddof=1) / np.sqrt(6)
    assert np.all(
        np.abs(ensemble.ptq_error.mean(0) - solution.ptq_error) < 4 * spread + 5e-3 * solution.ptq_error
    )
    # the curve ends before the border at what it was, and plateaus know the jump
    tau, error = solution.dense
    assert np.all(np.diff(tau) > 0)
    assert np.interp(3.999, tau, error) == pytest.approx(exact[3], rel=5e-3)
    assert fixed_point(FLOAT_FIRST).error == fixed_point(FLOAT_FIRST.parts[1]).error


def test_a_phase_that_changes_nothing_is_none():
    plain = Problem(weights=TWO_BITS, noise_std=0.3, rule=SGD(0.2), run=Run(taus=[0.0, 1.0, 2.0]))
    phased = dataclasses.replace(plain, phases=[Phase(1.3, rule=SGD(0.2)), Phase(1.7, weights=TWO_BITS)])
    one, other = (simulate(problem, dim=101, seeds=2, chunk=31) for problem in (plain, phased))
    for name in ("weights", "error", "flip_rate", "occupancy"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_what_a_simulation_hands_on():
    """Weights stay, and a time at the border sees the new quantizer."""
    ensemble = simulate(FLOAT_FIRST, dim=200, seeds=1, snapshots=[4.0])
    first, second = FLOAT_FIRST.parts
    weights, teacher = ensemble.snapshots[0, 0], ensemble.teacher[0]
    assert Observer(second)(weights, teacher).error == ensemble.error[0, 3]
    assert np.mean((teacher - np.asarray(TWO_BITS.round(weights))) ** 2) == pytest.approx(
        ensemble.ptq_error[0, 3], rel=1e-6
    )
    assert Observer(first)(weights, teacher).error == pytest.approx(ensemble.error[0, 2], rel=0.2)


@pytest.mark.parametrize(
    "phases",
    [
        [Phase(4, weights=Quantizer(3, 1.0, kind="mid-tread"), latent_clip=1.0)],
        [Phase(4.0, weights=Quantizer(kind="none")), Phase(5.0, weights=TWO_BITS, ste="clipped")],
        [Phase(1.0, inputs=Quantizer(2, 2.0), rule=SGD(0.3, schedule={"kind": "inverse", "tau0": 2.0}))],
    ],
)
def test_written_and_read(tmp_path, phases):
    problem = dataclasses.replace(FLOAT_FIRST, phases=phases)
    assert eqx.tree_equal(problem_from_dict(problem_to_dict(problem)), problem)
    assert eqx.tree_equal(load_problem(save_problem(problem, tmp_path / "a.toml")), problem)


def test_tables_without_a_kind_change_keys():
    tables = {
        "weights": {"bits": 2, "range": 1.5, "ste": "clipped"},
        "rule": {"kind": "sgd", "lr": 0.2, "momentum": 0.5},
        "phase": [
            {"from": 1, "weights": {"range": 1.0}},
            {"from": 2, "rule": {"lr": 0.1}, "weights": {"kind": "none"}},
            {"from": 3, "weights": {"bits": 3, "range": 1.0}},
        ],
    }
    one, two, three, four = problem_from_dict(tables).parts
    assert (two.weights, two.ste, two.rule) == (Quantizer(2, 1.0), "clipped", one.rule)
    assert (three.weights.kind, three.ste) == ("none", "identity")
    assert three.rule == four.rule == SGD(0.1, momentum=0.5)
    assert four.weights == Quantizer(3, 1.0)


def test_plateaus_between_jumps():
    """A jump up begins a part of its own; a plateau goes through a border without one, and ends with a jump down."""
    tau = np.linspace(0.0, 30.0, 3001)
    drop = 1.0 - 0.9 / (1 + np.exp(-4 * (tau - 10.0)))
    (plain,) = find_plateaus(tau, drop, 0.0)
    assert plateaus_between(tau, drop, (0.0, 5.0, 20.0), 0.0) == [plain]
    up = np.where(tau < 20.0, drop, drop + 0.5 * np.exp(-2 * (tau - 20.0)))
    assert plateaus_between(tau, up, (0.0, 20.0), 0.0) == [plain]
    down = np.where(tau < 20.0, 1.0, 0.2)
    (found,) = plateaus_between(tau, down, (0.0, 20.0), 0.0)
    assert found.end == pytest.approx(20.0, abs=0.02)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"phases": [Phase(9.0, weights=TWO_BITS)]}, "before the horizon 8"),
        ({"phases": [Phase(2.0, weights=TWO_BITS), Phase(1.0, rule=SGD(0.1))]}, "increasing times"),
        (
            {"phases": [Phase(2.0, rule=SGD(0.1, momentum=0.5))]},
            "phase 2: rule: .* momentum where there is some",
        ),
        (
            {"phases": [Phase(2.0, rule=StochasticRounding(0.1, delta=0.5))]},
            "phase 2: rule: .* spacing of 0.5",
        ),
        ({"phases": [Phase(2.0, inputs=Quantizer(2, 1.0, kind="unsigned"))]}, "phase 2: inputs: .* mean"),
        ({"phases": [Phase(2.0, weights=Quantizer(kind="none"), ste="clipped")]}, "phase 2: weights.range"),
        ({"phases": 3}, "a list"),
        ({"ptq": Quantizer(kind="none")}, "ptq.kind: expected a quantizer"),
        ({"ptq": 2}, "ptq: expected a Quantizer"),
    ],
)
def test_what_cannot_follow_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(FLOAT_FIRST, **fields)


def test_what_is_not_implemented_is_refused():
    with pytest.raises(InputError, match="no phases for law = 'fluid'"):
        solve(FLOAT_FIRST, law="fluid")


WIDE = Run(taus=[0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0])
CASES = {
    "float to 2 bits": Problem(
        Teacher.gaussian(1.0), Start.gaussian(0.0, 0.5), noise_std=0.1, rule=SGD(0.2), run=WIDE,
        phases=[Phase(6.0, weights=TWO_BITS)],
    ),
    "a range and a bit width that change": Problem(
        Teacher.gaussian(1.0), Start.gaussian(0.0, 0.5), noise_std=0.1, weights=Quantizer(2, 2.0), rule=SGD(0.2), run=WIDE,
        phases=[Phase(4.0, weights=Quantizer(2, 1.0)), Phase(10.0, weights=Quantizer(3, 1.5), ste="clipped")],
    ),
    "warm-up": Problem(
        noise_std=0.1, weights=TWO_BITS, rule=SGD(0.02), run=WIDE, phases=[Phase(4.0, rule=SGD(0.1)), Phase(8.0, rule=SGD(0.3))]
    ),
    "to float and to another rule": Problem(
        noise_std=0.3, weights=TWO_BITS, inputs=Quantizer(2, 2.0), rule=SGD(0.2), run=WIDE,
        phases=[Phase(4.0, weights=Quantizer(kind="none"), inputs=Quantizer(4, 3.0)), Phase(10.0, rule=Sign(0.05), weights=TWO_BITS, latent_clip=0.8)],
    ),
}  # fmt: skip


ROUNDED = {
    "float, Gaussian teacher": Problem(
        Teacher.gaussian(1.0), Start.gaussian(0.0, 0.5), noise_std=0.3, rule=SGD(0.2), run=WIDE, ptq=Quantizer(3, 2.0)
    ),
    "stochastic, of quantized weights": Problem(
        Teacher.gaussian(1.0), Start.gaussian(0.0, 0.5), noise_std=0.1, weights=Quantizer(4, 2.0), rule=SGD(0.2), run=WIDE,
        ptq=Quantizer(2, 1.5, rounding="stochastic"),
    ),
    "unsigned, clipped": Problem(
        noise_std=0.3, weights=Quantizer(3, 1.5), ste="clipped", rule=SGD(0.2), run=WIDE, ptq=Quantizer(2, 1.5, kind="unsigned")
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_without_training(name):
    """The observable against rounding the weights of simulated runs."""
    problem = ROUNDED[name]
    solution = solve(problem)
    ensemble = simulate(problem, dim=2000, seeds=12, snapshots=[8.0])
    sem = np.hypot(
        ensemble.ptq_error.std(0, ddof=1) / np.sqrt(12), solution.ptq_error * float(solution.error_estimate)
    )
    assert np.all(np.abs(ensemble.ptq_error.mean(0) - solution.ptq_error) < 4 * sem)
    if problem.ptq.rounding == "nearest":
        weights, place = ensemble.snapshots[:, 0], np.flatnonzero(ensemble.tau == 8.0)[0]
        rounded = np.mean((ensemble.teacher - np.asarray(problem.ptq.round(weights))) ** 2, axis=1)
        np.testing.assert_allclose(rounded, ensemble.ptq_error[:, place], rtol=1e-5)


@pytest.mark.slow
def test_the_law_of_small_lr_rounds_too():
    problem = Problem(
        start=Start.gaussian(0.0, 0.5),
        weights=Quantizer(4, 2.0),
        rule=SGD(0.01),
        run=Run(taus=[0.0, 40.0, 80.0]),
        ptq=TWO_BITS,
    )
    one, other = (solve(problem, law=law) for law in ("grid", "fluid"))
    np.testing.assert_allclose(other.ptq_error, one.ptq_error, rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_limit_and_simulation_meet(name):
    solution = solve(CASES[name], densities=[16.0])
    ensemble = simulate(CASES[name], dim=2000, seeds=12)
    found = compare(solution, ensemble)
    assert found.agreement == "agree", str(found)
    assert np.all(apart(solution, ensemble) < 4)


@pytest.mark.slow
def test_a_border_costs_no_accuracy():
    """A phase that changes nothing but the steps of the solver; one quantizer twice shares its features."""
    plain = dataclasses.replace(CASES["warm-up"], rule=SGD(0.2), phases=[])
    for phase in (Phase(5.0, rule=SGD(0.2)), Phase(5.0, weights=TWO_BITS)):
        one, other = (solve(problem) for problem in (plain, dataclasses.replace(plain, phases=[phase])))
        np.testing.assert_allclose(other.error, one.error, rtol=2e-3)
        np.testing.assert_allclose(other.flip_rate, one.flip_rate, rtol=0.02)


@pytest.mark.slow
def test_linear_students_are_followed_exactly():
    phases = [Phase(5.0, rule=SGD(0.05))]
    solution = solve(Problem(noise_std=0.5, rule=SGD(0.2), run=Run(20.0, 9), phases=phases))
    assert solution.law == "mixture"
    error = 2.0
    for tau in solution.tau[1:]:
        lr = 0.2 if tau <= 5.0 else 0.05
        rate, source = 2 * lr - lr**2, (0.5 * lr) ** 2
        error = source / rate + (error - source / rate) * np.exp(-rate * 2.5)
        assert solution.error[np.flatnonzero(solution.tau == tau)[0]] == pytest.approx(error, rel=1e-6)


def test_no_step_goes_across_a_jump_of_the_rate():
    """A rate in steps is a rule for each: of quantized weights a function of your own and phases, of others a formula."""
    problem = dataclasses.replace(
        FLOAT_FIRST, weights=TWO_BITS, phases=(), run=Run(taus=[0.0, 2.3, 3.0, 4.5])
    )
    schedule = Custom(lambda tau: jnp.where(tau < 2.3, 1.0, 0.3))
    found = solve(dataclasses.replace(problem, rule=SGD(0.2, schedule=schedule)))
    expected = solve(dataclasses.replace(problem, phases=[Phase(2.3, rule=SGD(0.06))]))
    np.testing.assert_allclose(found.error, expected.error, rtol=2e-4)

    linear = dataclasses.replace(problem, weights=None, rule=SGD(0.2, schedule=Step(2.3, 0.3)))
    error = [1.25]
    for lr, time in ((0.2, 2.3), (0.06, 0.7), (0.06, 1.5)):
        rate, source = 2 * lr - lr**2, (lr * 0.3) ** 2
        error.append(source / rate + (error[-1] - source / rate) * np.exp(-rate * time))
    np.testing.assert_allclose(solve(linear).error, error, rtol=1e-6)


@pytest.mark.parametrize(
    "weights", [Quantizer(2, 1.2), pytest.param(Quantizer(kind="none"), marks=pytest.mark.slow)]
)
def test_what_is_saved_changes_nothing(weights):
    """Steps are as long as the tolerance asks for, and end where a phase begins and a schedule jumps."""
    rule, later = SGD(0.2, schedule=Step(0.7, 0.9)), Phase(2.0, weights=weights)
    problem = Problem(noise_std=0.3, rule=rule, phases=[later], run=Run(8.0, 401))
    many = solve(problem)
    few = solve(dataclasses.replace(problem, run=Run(8.0, 5)))
    assert many.statistics["num_steps"] < 200 > few.statistics["num_steps"]
    for name in ("error", "m", "q", "norm"):
        np.testing.assert_allclose(getattr(many, name)[::100], getattr(few, name), rtol=1e-10)
