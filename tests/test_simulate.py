"""The simulator does exactly the algorithm of docs/theory.md, section 1, whatever the way it is run."""

import dataclasses
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from systems import Remembering

from stedyn.inputs.law import InputLaw
from stedyn.problem.problem import Problem, Start, Teacher
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD, Rule
from stedyn.simulation import kernel, programs, simulate
from stedyn.simulation.codes import coder
from stedyn.simulation.model import bound_of, model_of, unit
from stedyn.simulation.observe import Observer
from stedyn.simulation.sources import centres
from stedyn.simulation.state import encode, latent

DIM = 129  # odd, and not a multiple of the widths of the kernel; one shape, so that it compiles once
R1 = Problem(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1))
NOISY = {"noise_std": 0.3, "rule": SGD(0.3)}
PROBLEMS = {
    "R1": R1,
    "no quantizers": Problem(Teacher.gaussian(0.7), **NOISY),
    "float path": Problem(weights=Quantizer(3, 1.5), **NOISY),
    "12 bits": Problem(weights=Quantizer(12, 1.5), inputs=Quantizer(2, 2.0), **NOISY),
    "8 bits, half-integers": Problem(weights=Quantizer(8, 1.5), inputs=Quantizer(8, 2.5), **NOISY),
    "mid-tread, bin": Problem(
        weights=Quantizer(3, 1.0, kind="mid-tread", edge="bin"),
        inputs=Quantizer(kind="ternary", range=1.2),
        **NOISY,
    ),
    "two's complement": Problem(weights=Quantizer(4, 1.0, kind="twos-complement"), **NOISY),
    "unsigned": Problem(weights=Quantizer(8, 1.5, kind="unsigned", zero_point=100), **NOISY),
    "sign": Problem(
        weights=Quantizer(kind="sign", range=0.7), inputs=Quantizer(kind="sign", range=1.0), **NOISY
    ),
    "levels": Problem(weights=Quantizer(kind="levels", levels=[-1.0, -0.2, 0.1, 1.3]), **NOISY),
    "many levels": Problem(weights=Quantizer(kind="levels", levels=np.linspace(-2, 2, 40).tolist()), **NOISY),
    "sign teacher": Problem(model="sign", weights=Quantizer(2, 1.5), **NOISY),
    "clipped": Problem(weights=Quantizer(2, 1.5), ste="clipped", **NOISY),
    "triangular": Problem(weights=Quantizer(2, 1.5), ste="triangular", **NOISY),
    "latent clip": Problem(weights=Quantizer(2, 1.0), inputs=Quantizer(3, 2.0), latent_clip=0.8, **NOISY),
    "stochastic weights": Problem(weights=Quantizer(2, 2.0, rounding="stochastic"), **NOISY),
    "stochastic inputs": Problem(
        weights=Quantizer(2, 2.0), inputs=Quantizer(3, 2.0, rounding="stochastic"), **NOISY
    ),
    "stochastic levels": Problem(
        weights=Quantizer(kind="levels", levels=[-1.0, -0.2, 0.1, 1.3], rounding="stochastic"), **NOISY
    ),
    "many stochastic levels": Problem(
        weights=Quantizer(kind="levels", levels=np.linspace(-2, 2, 40).tolist(), rounding="stochastic"),
        **NOISY,
    ),
    "weight decay": Problem(
        Teacher.rademacher(0.8),
        Start.gaussian(0.5, 0.2),
        weights=Quantizer(2, 1.0),
        rule=SGD(0.3, weight_decay=2.0),
    ),
}
UNSIGNED = Quantizer(2, 1.5, kind="unsigned")
PROBLEMS |= {
    "relu, centred": Problem(
        weights=Quantizer(2, 1.5), inputs=UNSIGNED, input_law=InputLaw.relu(0.1, 0.9, centre=True), **NOISY
    ),
    "relu": Problem(weights=Quantizer(2, 1.5), inputs=UNSIGNED, input_law=InputLaw.relu(), **NOISY),
    "uniform": Problem(input_law=InputLaw.uniform(0.3, 1.7), **NOISY),
    "laplace": Problem(
        inputs=Quantizer(3, 2.0, rounding="stochastic", kind="twos-complement"),
        input_law=InputLaw.laplace(0.2, 0.7, centre=True),
        **NOISY,
    ),
    "file": Problem(
        inputs=UNSIGNED, input_law=InputLaw.samples(np.linspace(0, 2, 37) ** 2, centre=True), **NOISY
    ),
}
#: Whose parts are tested by others, too.
VARIANTS = ("12 bits", "two's complement", "levels", "many levels", "stochastic levels", "latent clip")


class Counted(Rule):
    """``U = tau`` and one lattice step for each step: shows how many steps were made, and which."""

    kind: ClassVar[str] = "counted"
    traces: ClassVar[list] = []
    lr: float = 0.1
    weight_decay: float = 0.0
    slope: float = 0.0

    def move(self, r, phi, u, tau):
        Counted.traces.append(1)
        return 1.0 + self.slope * tau + 0 * r * phi


class Rounded(Rule):
    """Stochastic rounding of the update, with two uniform numbers to see that both are used."""

    kind: ClassVar[str] = "rounded"
    uniforms: ClassVar[int] = 2
    lr: float = 0.3
    weight_decay: float = 0.0

    def move(self, r, phi, u, tau):
        return 0.5 * jnp.floor(self.lr * r * phi / 0.5 + u[0]) + 0.1 * (u[1] - 0.5)


def rounded(problem, r, phi, u, tau):
    return 0.5 * np.floor(float(problem.rule.lr) * r * phi / 0.5 + u[0]) + 0.1 * (u[1] - 0.5)


def advance(problem, start, teacher, keys, steps, first=0):
    """Weights (S, d) after ``steps`` steps of the compiled loop alone."""
    parts = [kernel.halves(jnp.asarray(x, jnp.float32)) for x in (teacher, start)]
    words = np.uint32(first % 2**32), np.uint32(first // 2**32), np.int32(steps)
    run, dim = programs.programs("cpu").advance, np.shape(start)[1]
    means = centres(problem, None)
    if means is not None:
        means = tuple(kernel.halves(jnp.broadcast_to(mean, parts[0][0].shape[:1] + (dim,))) for mean in means)
    model, fixed = model_of(problem, dim), kernel.Fixed(parts[0], None, centres=means)
    moved = run(model, jnp.asarray(keys, jnp.uint32), fixed, encode(model, parts[1]), *words)
    return np.asarray(kernel.whole(latent(model, moved), dim))


# ---- the algorithm


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        *(pytest.param(name, 15, marks=pytest.mark.slow if name in VARIANTS else ()) for name in PROBLEMS),
        *[("R1", 2), ("R1", 64), ("8 bits, half-integers", 75)],
    ],
)
def test_agrees_with_the_reference_fed_the_same_draws(name, dim):
    problem, steps, keys = PROBLEMS[name], 40, [5, 2**32 - 1]
    starts = np.random.default_rng(4).normal(size=(2, dim)).astype(np.float32)
    teachers = np.random.default_rng(5).normal(1.0, 0.3, size=(2, dim)).astype(np.float32)
    found = advance(problem, starts, teachers, keys, steps)
    for w, start, teacher, key in zip(found, starts, teachers, keys, strict=True):
        expected = reference.run(problem, start, teacher, key, steps)
        np.testing.assert_allclose(w, expected, rtol=0, atol=2e-5)
        assert np.abs(expected - start).max() > 1e-2  # so that the tolerance means something


def test_whole_run_agrees_with_the_reference():
    ensemble = simulate(R1, dim=DIM, seeds=2, seed=3, taus=[0.1, 0.3], snapshots=[0.0])
    for s in range(2):
        w = reference.run(R1, ensemble.snapshots[s, 0], ensemble.teacher[s], 3 + s, 39)
        np.testing.assert_allclose(ensemble.weights[s], w, rtol=0, atol=2e-5)


def test_agrees_with_the_reference_for_a_rule_with_uniforms():
    problem = Problem(inputs=Quantizer(2, 2.0), noise_std=0.1, rule=Rounded())
    ensemble = simulate(problem, dim=31, seeds=1, taus=[30 / 31], snapshots=[0.0])
    w = reference.run(problem, ensemble.snapshots[0, 0], ensemble.teacher[0], 0, 30, rounded)
    np.testing.assert_allclose(ensemble.weights[0], w, rtol=0, atol=2e-5)


class Remembered:
    """`Remembering` in NumPy."""

    def __init__(self, problem):
        self.lr, self.mean, self.square = float(problem.rule.lr), 0.0, 1.0

    def __call__(self, w, g, r, at):
        self.square += 0.1 * (r**2 - self.square)
        self.mean = 0.7 * self.mean + 0.3 * g
        return w + self.lr * self.mean / (0.5 + self.square) / w.size**0.5


def test_agrees_with_the_reference_for_a_rule_that_remembers():
    """Numbers of a coordinate and of a seed; the surrogate derivative is a part of the gradient."""
    problem = Problem(weights=Quantizer(2, 1.5), ste="triangular", noise_std=0.1, rule=Remembering(0.5))
    ensemble = simulate(problem, dim=31, seeds=2, taus=[1.0], snapshots=[0.0])
    for s in range(2):
        start, optimizer = ensemble.snapshots[s, 0], Remembered(problem)
        w = reference.run(problem, start, ensemble.teacher[s], s, 31, optimizer=optimizer)
        np.testing.assert_allclose(ensemble.weights[s], w, rtol=0, atol=2e-5)
        assert np.abs(w - start).max() > 1e-2


@pytest.mark.parametrize("bits", [(2, 2), (7, 7), (8, 8), (8, 3)])
def test_integer_path_equals_float_path(bits):
    dim = 200
    problem = Problem(weights=Quantizer(bits[0], 1.5), inputs=Quantizer(bits[1], 2.5))
    integers = model_of(problem, dim)
    assert integers.weights.integer
    assert integers.inputs.integer
    as_floats = [dataclasses.replace(c, integer=False) for c in (integers.weights, integers.inputs)]
    floats = dataclasses.replace(integers, weights=as_floats[0], inputs=as_floats[1])
    rng = np.random.default_rng(1)
    w, x = (kernel.halves(jnp.asarray(rng.normal(size=(3, dim)), jnp.float32)) for _ in range(2))

    @jax.jit
    def overlap(model):
        codes = [kernel._mask(model.inputs.code(part, None), dim // 2) for part in x]
        products = kernel.terms(model, w, (None, None), codes, [model.inputs.value(code) for code in codes])
        return kernel.fold(products, bound_of(model)) * unit(model)

    exact = [
        reference.quantize(q, np.asarray(kernel.whole(v, dim), float), None)
        for q, v in ((problem.weights, w), (problem.inputs, x))
    ]
    expected = np.sum(exact[0] * exact[1], axis=1, keepdims=True)
    np.testing.assert_allclose(overlap(integers), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(overlap(floats), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["mid-rise", "mid-tread", "twos-complement", "unsigned"])
@pytest.mark.parametrize("bits", [2, 7, 8])
def test_codes_fit_their_type_and_give_back_the_levels(kind, bits):
    quantizer = Quantizer(bits, 1.7, kind=kind)
    c = coder(quantizer)
    codes = c.code(jnp.asarray(quantizer.levels, jnp.float32), None)
    assert codes.dtype == (jnp.int16 if bits == 8 and kind in ("mid-rise", "unsigned") else jnp.int8)
    assert np.abs(np.asarray(codes, int)).max() == c.bound
    np.testing.assert_allclose(c.value(codes), quantizer.levels, rtol=1e-6)
    far = c.code(jnp.asarray([-1e30, 1e30], jnp.float32), None)
    np.testing.assert_allclose(c.value(far), quantizer.levels[jnp.array([0, -1])], rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 12])
@pytest.mark.parametrize("kind", ["mid-rise", "mid-tread", "twos-complement", "unsigned", "levels"])
def test_ties_go_up(kind, bits):
    levels = np.arange(2.0**bits) - 2.0 ** (bits - 1)  # all thresholds are exact in float32
    reach = {
        "mid-rise": 2.0**bits - 1,
        "mid-tread": 2.0 ** (bits - 1) - 1,
        "twos-complement": 2.0 ** (bits - 1),
        "unsigned": 2.0**bits - 1,
    }
    if kind == "levels":
        quantizer = Quantizer(kind=kind, levels=levels.tolist())
    else:
        quantizer = Quantizer(bits, reach[kind], kind=kind)
    c = coder(quantizer)
    at = jnp.asarray(quantizer.thresholds, jnp.float32)
    np.testing.assert_allclose(c.value(c.code(at, None)), quantizer.levels[1:], rtol=1e-6, atol=1e-6)
    below = c.value(c.code(at - jnp.float32(1e-3), None))
    np.testing.assert_allclose(below, quantizer.levels[:-1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 64, 75, 1501])
def test_fold_adds_integers_exactly(width):
    x = np.random.default_rng(width).integers(-1000, 1000, (2, width)).astype(np.int32)
    np.testing.assert_array_equal(kernel.fold(jnp.asarray(x), 1000)[:, 0], x.sum(axis=1))


def test_fold_does_not_overflow():
    width = 2**17
    x = jnp.full((1, width), 255 * 255, jnp.int32)  # the sum is 4 times the largest int32
    np.testing.assert_allclose(float(kernel.fold(x, 255 * 255)[0, 0]), width * 255.0**2, rtol=1e-6)


# ---- order parameters


@pytest.mark.parametrize(
    "name", ["R1", "float path", "stochastic inputs", "stochastic weights", "stochastic levels"]
)
def test_error_is_the_mean_square_on_fresh_samples(name):
    problem, dim, samples = PROBLEMS[name], 40, 20000
    rng = np.random.default_rng(0)
    w, teacher = rng.normal(0.3, 1.2, size=dim), rng.normal(1.0, 0.5, size=dim)
    x = rng.normal(size=(samples, dim))
    psi = reference.quantize(problem.weights, np.tile(w, (samples, 1)), rng.random(x.shape))
    phi = reference.quantize(problem.inputs, x, rng.random(x.shape))
    square = (x @ teacher - np.sum(psi * phi, axis=1)) ** 2 / dim
    standard_error = square.std() / np.sqrt(samples)
    assert abs(square.mean() - Observer(problem)(w, teacher).error) < 4 * standard_error
    assert standard_error < 0.02 * square.mean()


@pytest.mark.parametrize(
    "name", ["clipped", "levels", "stochastic weights", "stochastic levels", "no quantizers"]
)
def test_order_parameters_are_averages_over_coordinates(name):
    quantizer = PROBLEMS[name].weights
    rng = np.random.default_rng(1)
    w, teacher = rng.normal(size=(2, 200))
    psi = np.stack(
        [reference.quantize(quantizer, w, (k + 0.5) / 4000) for k in range(4000)]
    )  # all u in (0, 1)
    seen = Observer(PROBLEMS[name])(w, teacher)
    for name, values, atol in (
        ("m", teacher * psi, 1e-3),
        ("q", psi**2, 1e-3),
        ("overlap", teacher * w, 1e-12),
        ("norm", w**2, 1e-12),
    ):
        np.testing.assert_allclose(getattr(seen, name), values.mean(), rtol=0, atol=atol)
    if quantizer.is_none:
        assert seen.occupancy is None
        assert seen.saturated is None
        return
    np.testing.assert_allclose(seen.saturated, np.mean(np.abs(w) > float(quantizer.range)), rtol=1e-12)
    counts = [np.mean(np.isclose(psi, level)) for level in np.asarray(quantizer.levels)]
    np.testing.assert_allclose(seen.occupancy, counts, rtol=0, atol=1e-3)


def test_run_records_the_order_parameters_of_its_weights():
    taus = [0.0, 0.5, 1.0]
    ensemble = simulate(R1, dim=DIM, seeds=2, taus=taus, snapshots=taus)
    observer = Observer(R1)
    for s in range(2):
        for k in range(3):
            seen = observer(ensemble.snapshots[s, k], ensemble.teacher[s])
            for name in ("error", "m", "q", "overlap", "norm", "saturated"):
                assert getattr(seen, name) == getattr(ensemble, name)[s, k]
            np.testing.assert_array_equal(seen.occupancy, ensemble.occupancy[s, k])


def test_no_flip_rate_where_it_has_no_meaning():
    for name in ("stochastic weights", "no quantizers"):
        assert simulate(PROBLEMS[name], dim=15, seeds=1, taus=[0.0]).flip_rate is None


def test_flip_rate_counts_level_changes_of_the_next_steps():
    window = 4  # DIM // 32
    taus = (60 + np.arange(window + 1)) / DIM
    ensemble = simulate(R1, dim=DIM, seeds=2, taus=taus, snapshots=taus)
    levels = reference.quantize(R1.weights, ensemble.snapshots.astype(float), None)
    changed = np.mean(levels[:, 1:] != levels[:, :-1], axis=(1, 2)) * np.sqrt(DIM)
    assert np.all(changed > 0)
    np.testing.assert_allclose(ensemble.flip_rate[:, 0], changed, rtol=1e-6)


# ---- counting


@pytest.mark.parametrize("steps", [1, 999, 1000, 1001, 1700])
def test_makes_exactly_the_steps_asked_for(steps):
    problem = Problem(start=Start.constant(0.0), rule=Counted())
    ensemble = simulate(problem, dim=16, seeds=1, taus=[0.0, steps / 16], chunk=1000)
    assert ensemble.steps.tolist() == [0, steps]
    assert ensemble.tau.tolist() == [0.0, steps / 16]
    np.testing.assert_array_equal(ensemble.weights, np.full((1, 16), steps / 4))


def test_rule_sees_the_time_of_every_step():
    problem = Problem(start=Start.constant(0.0), rule=Counted(slope=16.0))
    ensemble = simulate(problem, dim=16, seeds=1, taus=[1.0, 1001 / 16], chunk=300)
    np.testing.assert_array_equal(ensemble.weights, np.full((1, 16), sum(1 + t for t in range(1001)) / 4))


def test_times_are_rounded_to_whole_steps():
    ensemble = simulate(R1, dim=DIM, seeds=1, taus=[0.003, 0.3, 1.0])
    assert ensemble.steps.tolist() == [0, 39, DIM]
    np.testing.assert_array_equal(ensemble.tau, ensemble.steps / DIM)


def test_step_counters_go_beyond_32_bits():
    first, dim = 2**32 - 3, 33
    start, teacher = np.random.default_rng(2).normal(size=(2, 1, dim)).astype(np.float32)
    w = advance(R1, start, teacher, [9], 3, first)
    w = advance(R1, w, teacher, [9], 4, first + 3)
    expected = reference.run(R1, start[0], teacher[0], 9, 7, first=first)
    np.testing.assert_allclose(w[0], expected, rtol=0, atol=1e-5)


def test_chunks_do_not_cross_a_multiple_of_two_to_the_32(monkeypatch):
    calls = []

    def jump(model, keys, teacher, w, low, high, n):
        calls.append((int(low) + 2**32 * int(high), int(n)))
        return w

    monkeypatch.setattr(programs, "programs", lambda *a: programs.Programs(jump, lambda *a: np.zeros(1)))
    ensemble = simulate(R1, dim=2, seeds=1, taus=[2.0**32 + 0.5], chunk=2**31 - 1)
    made = [call for call in calls if call[1] > 0]
    assert ensemble.steps.tolist() == [2**33 + 1] == [sum(n for _, n in made)]
    assert [at for at, _ in made] == np.cumsum([0, *(n for _, n in made)])[:-1].tolist()
    assert all(at // 2**32 == (at + n - 1) // 2**32 and n < 2**31 for at, n in made)


# ---- independence of how it is run


def test_run_depends_only_on_its_key():
    base = simulate(R1, dim=DIM, seeds=4, taus=[1.0, 2.0])
    for other in (
        simulate(R1, dim=DIM, seeds=4, taus=[1.0, 2.0], chunk=7),
        simulate(R1, dim=DIM, seeds=4, taus=[1.0, 2.0], threads=1),
        simulate(R1, dim=DIM, seeds=4, taus=[0.0, 0.5, 1.0, 1.7, 2.0], snapshots=[0.1]),
    ):
        np.testing.assert_array_equal(other.weights, base.weights)
        np.testing.assert_array_equal(other.error[:, -1], base.error[:, -1])
    single = simulate(R1, dim=DIM, seeds=1, seed=2, taus=[2.0])
    np.testing.assert_array_equal(single.weights[0], base.weights[2])
    assert not np.array_equal(base.weights[0], base.weights[1])


@pytest.mark.parametrize("name", ["R1", "float path"])
def test_group_of_seeds_gives_the_same_weights(name):
    start, teacher = np.random.default_rng(3).normal(size=(2, 5, DIM)).astype(np.float32)
    group = advance(PROBLEMS[name], start, teacher, range(5), 100)
    single = advance(PROBLEMS[name], start[3:4], teacher[3:4], [3], 100)
    np.testing.assert_array_equal(group[3:4], single)


def test_same_result_without_64_bit_floats():
    start, teacher = np.random.default_rng(6).normal(size=(2, 1, 75)).astype(np.float32)
    wide = advance(PROBLEMS["stochastic inputs"], start, teacher, [8], 100)
    with jax.enable_x64(False):
        narrow = advance(PROBLEMS["stochastic inputs"], start, teacher, [8], 100)
    np.testing.assert_array_equal(wide, narrow)


def test_new_numbers_do_not_compile_again():
    def run(lr, reach, noise_std):
        problem = Problem(
            weights=Quantizer(2, reach),
            inputs=Quantizer(2, 2 * reach),
            noise_std=noise_std,
            rule=Counted(lr=lr),
        )
        simulate(problem, dim=18, seeds=3, taus=[1.0])

    Counted.traces.clear()
    run(0.1, 1.0, 0.0)
    first = len(Counted.traces)
    assert first > 0
    run(0.2, 1.3, 0.5)
    assert len(Counted.traces) == first


# ---- populations, arguments, the answer


def test_samples_are_used_as_they_are_or_drawn_with_replacement():
    values = np.linspace(-1, 1, 30)
    problem = Problem(Teacher.samples(values), Start.samples(values[::-1].copy()))
    same = simulate(problem, dim=30, seeds=2, taus=[0.0])
    np.testing.assert_array_equal(same.teacher, np.tile(values.astype(np.float32), (2, 1)))
    np.testing.assert_array_equal(same.weights, np.tile(values[::-1].astype(np.float32), (2, 1)))
    drawn = simulate(problem, dim=29, seeds=2, taus=[0.0])
    assert np.isin(drawn.teacher, values.astype(np.float32)).all()
    assert not np.array_equal(drawn.teacher[0], drawn.teacher[1])


def test_populations_have_the_right_moments():
    problem = Problem(Teacher.gaussian(0.5), Start.gaussian(0.3, 2.0))
    ensemble = simulate(problem, dim=40000, seeds=1, taus=[0.0])
    teacher, start = ensemble.teacher[0].astype(float), ensemble.weights[0].astype(float)
    assert abs(teacher.std() - 0.5) < 4 * 0.5 / np.sqrt(80000)
    assert abs(teacher.mean()) < 4 * 0.5 / 200
    assert abs(start.std() - 2.0) < 4 * 2.0 / np.sqrt(80000)
    assert abs(start.mean() - 0.3) < 4 * 2.0 / 200
    assert abs(np.corrcoef(teacher, start)[0, 1]) < 4 / 200
    signs = simulate(Problem(Teacher.rademacher(0.4)), dim=10000, seeds=1, taus=[0.0]).teacher
    assert set(np.unique(signs)) == {np.float32(-0.4), np.float32(0.4)}
    assert abs(np.mean(signs > 0) - 0.5) < 0.02


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"dim": 1}, "dim"),
        ({"dim": 2.5}, "dim"),
        ({"dim": 2**30}, "dim"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": True}, "seeds"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32 - 1}, "seed"),
        ({"taus": [1.0, 0.5]}, "taus"),
        ({"taus": [-1.0]}, "taus"),
        ({"taus": [float("nan")]}, "taus"),
        ({"taus": []}, "taus"),
        ({"taus": [1e16]}, "taus"),
        ({"snapshots": [2.0, 1.0]}, "snapshots"),
        ({"threads": 0}, "threads"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, word):
    with pytest.raises(ValueError, match=rf"^{word}: expected .*, found .*; .*\.$"):
        simulate(R1, **({"dim": 10} | arguments))


def test_weights_that_diverge_are_refused():
    with pytest.raises(FloatingPointError, match="lower lr"):
        simulate(Problem(rule=SGD(50.0)), dim=20, seeds=3, taus=[100.0])


def test_interrupt_stops_the_run(monkeypatch):
    from stedyn.simulation import progress

    calls = []

    class Bar(progress.tqdm):
        def update(self, n=1):
            calls.append(n)
            if len(calls) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(progress, "tqdm", Bar)
    with pytest.raises(KeyboardInterrupt):
        simulate(R1, dim=DIM, seeds=4, taus=[1000.0], chunk=100)
    assert len(calls) < 20  # of 5160


def test_progress_is_on_stderr_and_complete(capsys):
    simulate(R1, dim=DIM, seeds=2, taus=[1.0], chunk=30, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "258/258" in err
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d, .*step/s\]", err)  # elapsed < left


def test_ensemble_summaries():
    ensemble = simulate(R1, dim=DIM, seeds=3, seed=7, taus=[0.0, 1.0], snapshots=[0.5, 1.0])
    assert list(ensemble.to_dict()) == [
        "tau", "error_mean", "error_std", "seeds", "dim", "steps", "seconds", "coordinate_steps_per_second", "device", "partial",
    ]  # fmt: skip
    assert ensemble.to_dict()["steps"] == DIM
    np.testing.assert_allclose(ensemble.error_sem, ensemble.error.std(axis=0, ddof=1) / np.sqrt(3))
    table = ensemble.to_pandas()
    assert len(table) == 6
    assert table.seed.tolist() == [7, 7, 8, 8, 9, 9]
    np.testing.assert_array_equal(table.error.to_numpy().reshape(3, 2), ensemble.error)
    assert ensemble.snapshots.shape == (3, 2, DIM)
    np.testing.assert_array_equal(ensemble.snapshots[:, 1], ensemble.weights)
    assert "3 seeds from 7, d = 129, 129 steps each" in str(ensemble)
    assert len(str(ensemble).splitlines()) == 4


# ---- physics


def _check_table(problem, table, dim, seeds):
    ensemble = simulate(problem, dim=dim, seeds=seeds, taus=list(table))
    gaps = (ensemble.error_mean - np.array(list(table.values()))) / ensemble.error_sem
    assert np.all(np.abs(gaps) < 4.5), gaps  # about 0.2 % for a t variable with 7 degrees of freedom
    assert np.all(ensemble.error_sem < 0.03 * ensemble.error_mean)


def test_reference_curve_of_section_10():
    _check_table(R1, {10.0: 0.3691}, 1500, 8)


@pytest.mark.slow
def test_reference_curves_of_section_10():
    _check_table(R1, {10.0: 0.3691, 25.0: 0.2552, 50.0: 0.3424}, 3000, 8)
    weights = Quantizer(2, 2.0, rounding="stochastic")
    r4 = Problem(weights=weights, noise_std=0.1, rule=SGD(0.3))
    _check_table(r4, {3.0: 0.7641, 6.0: 0.4035, 12.0: 0.3431, 30.0: 0.3549}, 3000, 8)
