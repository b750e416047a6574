"""64-bit floats without asking the user: the same numbers whatever JAX's flag is, and the flag stays as it is."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedyn import (
    SGD,
    InputError,
    Problem,
    Quantizer,
    Run,
    SolveError,
    Start,
    Teacher,
    choose,
    compare,
    fixed_point,
    plateau_table,
    range_map,
    sensitivity,
    simulate,
    solve,
)
from stedyn.design.layer_report import report_layers
from stedyn.rules.multinomial import Multinomial

PROBLEM = Problem(
    start=Start.gaussian(std=0.02),
    noise_std=0.1,
    weights=Quantizer(2, 1.0, kind="mid-tread"),
    rule=SGD(0.02),
    run=Run(40.0, 5),
)


def _answers():
    solution, ensemble = solve(PROBLEM, law="mixture"), simulate(PROBLEM, dim=50, seeds=2)
    text = str(solution), str(compare(solution, ensemble)), repr(solution.plateaus())
    return solution, text, ensemble.error, ensemble.weights


def test_every_flag_gives_the_same_digits_and_programs():
    compiled = []
    solution, *wide = _answers()
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    try:
        with jax.enable_x64(False):
            off, *narrow = _answers()
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled, compiled
    assert narrow[0] == wide[0]
    for one, other in zip(wide[1:], narrow[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not any(
        isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(off)
    )  # JAX rounds its own: x * 2 is float32
    for name in ("tau", "error", "m", "q", "overlap", "norm", "effective_step"):
        assert getattr(off, name).dtype == np.float64
        np.testing.assert_array_equal(getattr(off, name), getattr(solution, name))


def test_the_flag_stays_in_every_thread_and_after_a_failure():
    seen = []

    def elsewhere():  # a new thread has the flag of the process, which is on in these tests
        with jax.enable_x64(False):
            error = solve(PROBLEM, law="mixture").error
            seen.append((error, jnp.ones(1).dtype))

    thread = threading.Thread(target=elsewhere)
    with jax.enable_x64(False):
        thread.start()
        for call in (
            lambda: solve(PROBLEM, tol=-1.0),
            lambda: solve(Problem(rule=SGD(3.0), run=Run(20.0, 5))),
        ):
            with pytest.raises((InputError, SolveError)):
                call()
            assert jnp.ones(1).dtype == jnp.float32
        thread.join()
    assert jnp.ones(1).dtype == jnp.float64
    assert seen[0][1] == jnp.float32
    np.testing.assert_array_equal(seen[0][0], solve(PROBLEM, law="mixture").error)


def test_inside_a_transformation_the_flag_is_asked_for():
    with (
        jax.enable_x64(False),
        pytest.raises(InputError, match=r"^solve: expected 64-bit floats inside "),
    ):
        jax.jit(lambda lr: solve(Problem(rule=SGD(lr), run=Run(1.0, 2)), law="mixture").error)(0.5)


@pytest.mark.slow
def test_sums_of_many_multinomial_weights_are_64_bits_whatever_the_flag():
    with jax.enable_x64(False):
        narrow = simulate(Problem(rule=Multinomial(nu=1.0)), dim=65538, seeds=1, taus=[0.0, 3e-5])
    wide = simulate(Problem(rule=Multinomial(nu=1.0)), dim=65538, seeds=1, taus=[0.0, 3e-5])
    np.testing.assert_array_equal(wide.weights, narrow.weights)


@pytest.mark.slow
def test_fixed_points_maps_and_choices_are_the_same_whatever_the_flag():
    def answers():
        problem = Problem(Teacher.gaussian(1.0), noise_std=0.1, rule=SGD(0.1), run=Run(100.0, 5))
        chosen = choose(problem, bits=[2], points=5)
        return (
            fixed_point(problem).to_dict(),
            repr((chosen.choices, chosen.baselines)),
            range_map(problem, bits=[2], ranges=[1.0, 1.5]).values.tolist(),
            repr(sensitivity(problem, "final-error", "lr")),
            repr(plateau_table(PROBLEM, bits=[2], tol=0.05).rows),
        )

    wide = answers()
    with jax.enable_x64(False):
        assert answers() == wide


@pytest.mark.slow
def test_layers_of_a_file_are_reported_in_64_bits(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(-1.0, 1.5, 24).reshape(4, 6))
    given = dict(bits=[2], points=5)
    wide = report_layers(tmp_path / "a.npy", Problem(noise_std=1e3), **given)
    with jax.enable_x64(False):
        narrow = report_layers(tmp_path / "a.npy", Problem(noise_std=1e3), **given)
    assert narrow.rows == wide.rows
