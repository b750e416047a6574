"""Results in files: what is saved and loaded is equal to the last bit, and damage is a sentence."""

import dataclasses
import importlib
import json
import zipfile
from io import BytesIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from test_shown import CURVE, SHORT, TAU, comparison, ensemble, fixed_point, solution

import stedyn
from stedyn import (
    SGD,
    Covariance,
    InputError,
    Plateau,
    Problem,
    Quantizer,
    Rule,
    Run,
    Start,
    Teacher,
    choose,
    compare,
    range_map,
    simulate,
    solve,
)
from stedyn.comparison.histogram import Histogram
from stedyn.comparison.pairs import PlateauPair
from stedyn.comparison.verdict import Part
from stedyn.curves.dense import Steps
from stedyn.design.confirm import confirm
from stedyn.files.results import ENTRY, RECORDS
from stedyn.limit.solution import Densities
from stedyn.rules import QuantizedGradient, Step


def same(one, other) -> bool:
    """Whether two values have the same types, the same bits and equal parts; arrays of JAX come back as NumPy's."""
    if isinstance(one, jax.Array):
        one = np.asarray(one)
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ma.MaskedArray):
        return same(one.data, other.data) and same(one.mask, other.mask)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, Problem):
        return one == other and all(
            getattr(one, law).data is None or getattr(one, law).data.path == getattr(other, law).data.path
            for law in ("teacher", "start", "covariance")
        )
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or one != one


PROBLEM = Problem(
    Teacher.samples([0.1, 0.7, -1.3], "/data/teacher.npy"),
    Start.samples([1 / 3, 0.2]),
    noise_std=0.1 + 0.2,
    weights=Quantizer(kind="levels", levels=[-1.0, 1 / 3, 2.0]),
    inputs=Quantizer(3, 1.7, kind="mid-tread", edge="bin"),
    ste="clipped",
    rule=QuantizedGradient(0.1, 0.01, 1, Step(10.0, 0.5), Quantizer(2, 1.0, kind="mid-tread")),
    covariance=Covariance.power_law(0.3, 1.1),
    run=Run(taus=[0.0, 1.0, 1 / 0.3]),
)


def full_solution():
    masses = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3))
    return dataclasses.replace(
        solution(), problem=PROBLEM, saturated=CURVE[::-1], occupancy=np.stack([CURVE, 1 - CURVE], 1),
        densities=Densities(TAU[:2], np.arange(6.0), masses, np.array([-1.0, 0.0, 1.0]), np.full(3, 1 / 3)),
        steps=(Steps(TAU, CURVE), Steps(TAU[::2], jnp.asarray(CURVE[::2]))), error_estimate=float("nan"),
        statistics={"cells": np.asarray(40), "passes": 2},
    )  # fmt: skip


def full_comparison():
    flat, still = Plateau(0.0, 3.5, 3.5, 1.0, 0.2, 3.4), Plateau(4.0, None, None, 0.2, None, None)
    histogram = Histogram(
        TAU[:3], np.array([3, 4]), np.array([3.5, 3.5]), 1.1, (2.5, 7.5), np.float64(0.3), 0.01
    )
    judged = dataclasses.replace(
        comparison().judgement, parts=(Part("curve", 0.3, (1, 7)), Part("plateaus", None))
    )
    return dataclasses.replace(
        comparison(), solution=full_solution(), plateaus_theory=[flat, still], plateaus_simulation=[flat],
        pairs=[PlateauPair(flat, 3.4, 0.1, None, None, 2)], histogram=histogram, judgement=judged,
    )  # fmt: skip


@pytest.mark.parametrize("build", [*SHORT, full_solution, full_comparison], ids=lambda build: build.__name__)
def test_what_is_loaded_is_what_was_saved(build, tmp_path):
    result = build()
    path = result.save(tmp_path / "run.npz")
    loaded = stedyn.load(path)
    assert same(result, loaded)
    assert repr(loaded) == repr(result)
    loaded.save(tmp_path / "again.npz")
    assert same(result, stedyn.load(tmp_path / "again.npz"))
    assert sorted(found.name for found in tmp_path.iterdir()) == ["again.npz", "run.npz"]


def test_a_measured_teacher_keeps_its_model(tmp_path):
    problem = Problem(Teacher.samples([0.5, -1.0, 2.0]), model="sign")
    dataclasses.replace(ensemble(), problem=problem).save(tmp_path / "a.npz")
    loaded = stedyn.load(tmp_path / "a.npz").problem
    assert (loaded.model, loaded.teacher.data.path) == ("sign", None)
    np.testing.assert_array_equal(loaded.teacher.data.values, problem.teacher.data.values)


def test_the_helper_sees_a_last_bit():
    one = full_solution()
    assert not same(one, dataclasses.replace(one, error=np.nextafter(one.error, 1)))
    assert not same(one, dataclasses.replace(one, problem=dataclasses.replace(one.problem, noise_std=0.3)))
    assert not same(one, dataclasses.replace(one, error=one.error.astype(np.float32)))


@pytest.mark.parametrize("wrong", [lambda q: q[1:], lambda q: q.astype(int)])
def test_a_wrong_shape_or_dtype_is_seen(wrong):
    """By jaxtyping's import hook (`conftest`), which watches all of stedyn in every test."""
    one = full_solution()
    with pytest.raises(TypeCheckError, match="parameter 'q'"):
        dataclasses.replace(one, q=wrong(one.q))


def test_every_record_is_where_the_table_says():
    for name, module in RECORDS.items():
        assert getattr(importlib.import_module(f"stedyn.{module}"), name).__module__ == f"stedyn.{module}"


def test_the_file_is_read_by_numpy_alone(tmp_path):
    with np.load(ensemble().save(tmp_path / "run.npz"), allow_pickle=False) as archive:
        head = json.loads(str(archive[ENTRY]))
        assert head["format"] == 1
        assert head["result"]["Ensemble"]["dim"] == 300
        np.testing.assert_array_equal(archive[head["result"]["Ensemble"]["tau"]["array"]], TAU)


class Own(Rule):
    def move(self, r, phi, u, tau):
        return self.rate(tau) * r * phi


@pytest.mark.parametrize(
    "result, words",
    [
        (lambda: dataclasses.replace(ensemble(), problem=Problem(rule=Own())), "the class Own"),
        (
            lambda: dataclasses.replace(ensemble(), problem=Problem(rule=SGD(schedule=lambda tau: 1.0))),
            "no function",
        ),
        (lambda: dataclasses.replace(ensemble(), device=object()), "result.device"),
        (lambda: dataclasses.replace(ensemble(), device=np.array([None])), "result.device"),
    ],
)
def test_what_no_file_can_hold_is_refused(result, words, tmp_path):
    with pytest.raises(InputError, match=words):
        result().save(tmp_path / "run.npz")
    assert not list(tmp_path.iterdir())


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ending in \.npz"):
        fixed_point().save(tmp_path / "run.pkl")
    with pytest.raises(InputError, match="path"):
        fixed_point().save(3)


def test_a_damaged_file_is_a_sentence_or_harmless(tmp_path):
    path, result = tmp_path / "run.npz", fixed_point()
    whole = result.save(path).read_bytes()
    rng, refused = np.random.default_rng(0), []
    cuts = [whole[:n] for n in {0, 1, *rng.integers(1, len(whole), 100).tolist()}]
    directory, flips = whole.index(b"PK\x01\x02"), []
    members = [(directory + offset, 65) for offset in (6, 8, 10)]  # version, encryption, compression
    for where, mask in [*members, *((n, 1 << n % 8) for n in rng.integers(0, len(whole), 300))]:
        flipped = bytearray(whole)
        flipped[where] ^= mask
        flips.append(bytes(flipped))
    for damaged in [*cuts, *flips]:
        path.write_bytes(damaged)
        try:
            assert same(result, stedyn.load(path))  # a date of the archive, say
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 350
    assert all(str(path) in said and "\n" not in said for said in refused)


def rewritten(path, change):
    """The same archive with another entry of JSON."""
    with np.load(path) as archive:
        entries = dict(archive)
    head = json.loads(str(entries[ENTRY]))
    change(head)
    np.savez(path, **entries | {ENTRY: np.array(json.dumps(head))})


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda head: head.update(format=2, stedyn="9.0"), "has format 2 of stedyn 9.0, .* update it"),
        (lambda head: head.clear(), "do not fit"),
        (lambda head: head.update(result=[1]), "do not fit"),
        (lambda head: head.update(result=1.0), "do not fit"),
        (lambda head: head.update(result={"os.system": {}}), "do not fit"),
        (lambda head: head.update(result={"dict": []}), "do not fit"),
        (lambda head: head["result"]["Ensemble"].pop("dim"), "do not fit"),
        (lambda head: head["result"]["Ensemble"].update(more=1), "do not fit"),
        (lambda head: head["result"]["Ensemble"].update(tau={"array": "gone"}), "do not fit"),
    ],
)
def test_a_changed_or_newer_file_is_a_sentence(change, words, tmp_path):
    path = ensemble().save(tmp_path / "run.npz")
    rewritten(path, change)
    with pytest.raises(InputError, match=words) as caught:
        stedyn.load(path)
    assert str(path) in str(caught.value)


def test_foreign_files_are_a_sentence(tmp_path):
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, a=np.ones(3))
    with pytest.raises(InputError, match="saved by stedyn"):
        stedyn.load(foreign)
    buffer = BytesIO()
    np.save(buffer, np.array([{"a": 1}]), allow_pickle=True)
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr(f"{ENTRY}.npy", buffer.getvalue())
    with pytest.raises(InputError, match="foreign"):
        stedyn.load(foreign)
    for missing in (tmp_path / "none.npz", tmp_path, "problem.toml"):
        with pytest.raises(InputError, match="file: expected"):
            stedyn.load(missing)


@pytest.mark.slow
def test_computed_results_go_through_a_file(tmp_path):
    problem = Problem(
        noise_std=0.3,
        weights=Quantizer(2, 1.5),
        rule=SGD(0.1),
        run=Run(4.0, 9),
        teacher=Teacher.gaussian(1.0),
    )
    predicted, simulated = solve(problem, densities=[4.0]), simulate(problem, dim=200, seeds=3)
    fluid = solve(dataclasses.replace(problem, teacher=Teacher.constant(1.0)), law="fluid")
    chosen = confirm(choose(problem, bits=[2], points=8), dim=100, seeds=2)
    mapped = range_map(problem, ranges=[0.01, 1.0], bits=[2])
    results = (
        predicted,
        fluid,
        simulated,
        compare(predicted, simulated),
        chosen,
        mapped,
        stedyn.fixed_point(problem),
    )
    for result in results:
        loaded = stedyn.load(result.save(tmp_path / "run.npz"))
        assert same(result, loaded)
        assert str(loaded) == str(result)
        assert loaded.to_pandas().equals(result.to_pandas())
