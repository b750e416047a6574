"""Programs that are kept for other processes: the same numbers, traced once, and never those of other code."""

import functools
import os
import re
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedyn.code import compiling
from stedyn.code.compiling import FOLDER, Program, version_of
from stedyn.limit.laws.fluxes import implicit


class Pair(eqx.Module):
    value: jax.Array
    name: str = eqx.field(static=True)
    power: int = 1


def product(pair, factor):
    return Pair(factor * pair.value**pair.power, pair.name + "!", pair.power), {"kept": "text"}


@pytest.fixture
def traced(tmp_path, monkeypatch):
    """How often a program was traced."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "programs"))
    compiling._folder.cache_clear()
    count, run = [], Program._run
    monkeypatch.setattr(Program, "_run", lambda self, *a: (count.append(1), run(self, *a))[1])
    yield count
    compiling._folder.cache_clear()


def files(tmp_path):
    return sorted(path for path in (tmp_path / "programs").rglob("*-*") if path.is_file())


def test_a_kept_program_is_traced_once_and_returns_the_same(traced, tmp_path):
    pair = Pair(jnp.arange(3.0), "a", 2)
    for _ in range(2):  # as two processes do
        found, other = Program(product)(pair, factor=np.asarray(2.0))
        np.testing.assert_array_equal(found.value, 2 * np.arange(3.0) ** 2)
        assert (found.name, found.power, other) == ("a!", 2, {"kept": "text"})
    assert len(traced) == 1
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    "pair, factor",
    [
        (Pair(jnp.arange(3.0), "b"), jnp.asarray(2.0)),
        (Pair(jnp.arange(3.0), "a", 3), jnp.asarray(2.0)),
        (Pair(jnp.arange(4.0), "a"), jnp.asarray(2.0)),
        (Pair(jnp.arange(3), "a"), jnp.asarray(2.0)),
        (Pair(jnp.arange(3.0), "a"), jnp.asarray(2)),
        (Pair(jnp.arange(3.0), "a"), 2.0),
    ],
)
def test_another_content_or_shape_is_another_program(traced, pair, factor):
    Program(product)(Pair(jnp.arange(3.0), "a"), jnp.asarray(2.0))
    found, _ = Program(product)(pair, factor)
    expected, _ = product(pair, factor)
    np.testing.assert_array_equal(found.value, expected.value)
    assert (found.value.dtype, found.name) == (expected.value.dtype, expected.name)
    assert len(traced) == 2


def test_equal_values_of_other_types_are_other_programs(traced):
    program = Program(lambda x, factor: x * factor)
    assert [program(jnp.ones((), int), factor).dtype.kind for factor in (1, True, 1.0)] == ["i", "i", "f"]
    assert len(traced) == 3


def test_other_code_is_another_program(traced):
    def scaled(factor):
        return Program(lambda x: factor * x)

    assert [float(scaled(k)(jnp.ones(()))) for k in (2.0, 3.0)] == [2.0, 3.0]
    assert float(Program(functools.partial(jnp.add, 1.0))(jnp.ones(()))) == 2.0
    assert float(Program(functools.partial(jnp.add, 2.0))(jnp.ones(()))) == 3.0
    assert len(traced) == 4


def test_other_floats_are_another_program(traced):
    program = Program(lambda x: x + jnp.arange(3) / 3)
    with jax.enable_x64(False):
        assert program(np.zeros((), np.float32)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert program(np.zeros((), np.float32)).dtype == jnp.float64


def test_a_damaged_program_is_made_anew(traced, tmp_path):
    Program(jnp.sin)(jnp.ones(2))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[:-7], whole[:40] + b"x" + whole[41:], b""):
        path.write_bytes(damaged)
        np.testing.assert_allclose(Program(jnp.sin)(jnp.ones(2)), np.sin(1))
    assert len(traced) == 4
    assert path.stat().st_size == len(whole)


def test_what_cannot_be_kept_runs(traced, tmp_path):
    with open(tmp_path / "file", "w") as file:

        def held(x):
            return x + len(file.name)

        assert float(Program(held)(jnp.zeros(()))) == len(file.name)

    def calls_back(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    assert float(Program(calls_back)(jnp.zeros(()))) == 0.0
    assert not files(tmp_path)


def test_without_a_folder_to_write_to_it_runs(traced, tmp_path):
    (tmp_path / "programs").write_text("a file")
    np.testing.assert_allclose(Program(jnp.cos)(jnp.zeros(2)), 1.0)


def test_transformations_trace_it(traced, tmp_path):
    square = Program(lambda x, n: x**n)
    assert float(jax.grad(lambda x: square(x, 3))(jnp.asarray(2.0))) == 12.0
    np.testing.assert_array_equal(jax.vmap(lambda x: square(x, 2))(jnp.arange(3.0)), [0, 1, 4])
    assert not files(tmp_path)


def test_every_byte_of_the_sources_counts(tmp_path):
    (tmp_path / "room").mkdir()
    for name in ("one.py", "room/two.py"):
        (tmp_path / name).write_text("x = 1\n")
    before = version_of(tmp_path)
    assert before == version_of(tmp_path)
    (tmp_path / "room/two.py").write_text("x = 2\n")
    assert before != version_of(tmp_path)


def test_old_programs_of_other_versions_are_removed(traced, tmp_path):
    for name, age in (("traces-old", 2 * compiling.OLD), ("traces-new", 0), ("mine", 2 * compiling.OLD)):
        (tmp_path / "programs" / name).mkdir(parents=True)
        os.utime(tmp_path / "programs" / name, (time.time() - age,) * 2)
    Program(jnp.sin)(jnp.ones(2))
    left = {path.name for path in (tmp_path / "programs").iterdir()}
    assert len(left) == 3
    assert left > {"traces-new", "mine"}


def dense(up, down, mass):
    """One implicit step of every class by a dense solve."""
    size = len(mass)
    columns = []
    for u, d, m in zip(up.T, down.T, mass.T, strict=True):
        leave = np.append(u, 0) + np.append(0, d)
        columns.append(np.linalg.solve(np.eye(size) + np.diag(leave) - np.diag(u, -1) - np.diag(d, 1), m))
    return np.array(columns).T


@pytest.mark.parametrize("transformed", ["plain", "batch", "derivative", "loop", "alike", "kept"])
def test_one_kernel_is_one_call_with_the_same_numbers(transformed):
    up, down = jax.random.uniform(jax.random.key(0), (2, 39, 5))
    mass = jax.random.uniform(jax.random.key(1), (40, 5))
    step = {
        "plain": implicit,
        "batch": lambda up, down, mass: jax.vmap(implicit, (None, None, 0))(up, down, mass[None])[0],
        "derivative": lambda up, down, mass: jax.jvp(implicit, (up, down, mass), (up, down, mass))[0],
        "loop": lambda up, down, mass: jax.lax.fori_loop(0, 1, lambda k, m: implicit(up, down, m), mass),
        "alike": lambda up, down, mass: implicit(up, up, mass),
        "kept": jax.export.export(jax.jit(implicit))(up, down, mass).call,
    }[transformed]
    compiled = jax.jit(step).lower(up, down, mass).compile()
    assert re.search(r" call\(.*xla_cpu_small_call", compiled.as_text())
    expected = dense(*map(np.asarray, (up, up if transformed == "alike" else down, mass)))
    np.testing.assert_allclose(compiled(up, down, mass), expected, rtol=1e-12)
