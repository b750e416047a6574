"""A problem survives being written and read; every fault of a file is one clear sentence."""

import os
import tomllib

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stedyn import InputError, rules
from stedyn.files import whole as _io
from stedyn.files.problems import load_problem, problem_from_dict, read_tables
from stedyn.files.tables import set_key
from stedyn.files.whole import write_atomic
from stedyn.files.writing import problem_to_dict, save_problem
from stedyn.problem.problem import Problem, Run, Start, Teacher
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD

ISSUE = """
[teacher]
kind = "constant"
value = 1.0
[start]
kind = "gaussian"
mean = 0.0
std = 1.0
[noise]
std = 0.1
[weights]
bits = 2
range = 2.0
kind = "mid-rise"
edge = "level"
rounding = "nearest"
ste = "identity"
latent_clip = 2.0
[inputs]
bits = 2
range = 2.0
[rule]
kind = "sgd"
lr = 0.1
weight_decay = 0.0
[run]
tau = 100.0
points = 201
"""

positive = st.floats(1e-29, 1e15)
number = st.floats(-1e15, 1e15)


@st.composite
def quantizers(draw, centred=False):
    kind = draw(st.sampled_from(["mid-rise", "mid-tread", "sign", "ternary"]))
    if not centred:
        kind = draw(st.sampled_from([kind, "twos-complement", "unsigned", "levels", "none"]))
    edge = draw(st.sampled_from(["level", "bin"]))
    rounding = draw(st.sampled_from(["nearest", "stochastic"]))
    if kind == "none":
        return Quantizer(kind=kind, edge=edge, range=draw(st.none() | positive))
    if kind == "levels":
        levels = draw(st.lists(number, min_size=2, max_size=9, unique=True))
        assume(max(map(abs, levels)) > 1e-29)
        bits = draw(st.sampled_from([None, 4]))
        return Quantizer(bits, kind=kind, edge=edge, rounding=rounding, levels=sorted(levels))
    # inputs have their moments taken: few shapes, each of which is compiled once, and moderate ranges
    bits = None if kind in ("sign", "ternary") else draw(st.integers(2, 3 if centred else 9))
    range_ = draw(st.floats(0.1, 50.0) if centred else positive)
    zero = draw(st.sampled_from([None, 0, 3])) if kind == "unsigned" else None
    return Quantizer(bits, range_, kind=kind, edge=edge, rounding=rounding, zero_point=zero)


@st.composite
def problems(draw):
    teacher = draw(
        st.one_of(
            st.builds(Teacher.constant, number),
            st.builds(Teacher.gaussian, positive),
            st.builds(Teacher.rademacher, positive),
            st.builds(Teacher.samples, st.lists(number, min_size=2, max_size=5)),
        )
    )
    clip = draw(st.none() | positive)
    start = draw(
        st.one_of(
            st.builds(Start.gaussian, number, positive),
            st.builds(Start.constant, number if clip is None else st.just(0.0)),
            st.builds(Start.samples, st.lists(number, min_size=2, max_size=5)),
        )
    )
    weights = draw(quantizers())
    steps = st.lists(st.floats(1e-30, 1e9), min_size=2, max_size=6, unique=True).map(sorted)
    run = draw(st.builds(Run, positive, st.integers(2, 99)) | st.builds(lambda t: Run(taus=t), steps))
    return Problem(
        teacher,
        start,
        noise_std=draw(st.floats(0.0, 1e15)),
        weights=weights,
        inputs=draw(st.none() | quantizers(centred=True)),
        ste=draw(
            st.sampled_from(["identity"] if weights.range is None else ["identity", "clipped", "triangular"])
        ),
        latent_clip=clip,
        rule=draw(st.builds(SGD, positive, st.floats(0.0, 1e15))),
        run=run,
    )


@given(problems())
def test_a_problem_survives_its_tables(problem):
    assert eqx.tree_equal(problem_from_dict(problem_to_dict(problem)), problem)


@given(problems())
def test_a_problem_survives_its_file(tmp_path_factory, problem):
    path = save_problem(problem, tmp_path_factory.mktemp("problem") / "p.toml")
    back = load_problem(path)
    for table in ("teacher", "start"):  # samples now have a file, and the same values
        data, kept = getattr(problem, table).data, getattr(back, table).data
        if data is not None:
            np.testing.assert_array_equal(kept.values, data.values)
            back = eqx.tree_at(lambda p, t=table: getattr(p, t), back, getattr(problem, table))
    assert eqx.tree_equal(back, problem)


def test_the_file_of_the_issue(tmp_path):
    (tmp_path / "p.toml").write_text(ISSUE)
    problem = load_problem(tmp_path / "p.toml")
    assert problem_to_dict(problem)["weights"] == tomllib.loads(ISSUE)["weights"]
    assert (problem.weights.n_levels, problem.latent_clip, problem.noise_std) == (4, 2.0, 0.1)
    assert problem.taus.shape == (201,)
    assert problem.taus[-1] == 100.0


def test_an_empty_file_is_the_default_problem(tmp_path):
    (tmp_path / "p.toml").write_text("")
    assert eqx.tree_equal(load_problem(tmp_path / "p.toml"), Problem())


def test_values_of_jax_are_written_as_numbers():
    problem = Problem(rule=SGD(jnp.asarray(0.25)), noise_std=np.float64(0.5))
    assert problem_to_dict(problem)["rule"]["lr"] == 0.25
    with pytest.raises(ValueError, match=r"^rule\.lr: expected one value, found .*one at a time\.$"):
        problem_to_dict(Problem(rule=SGD(np.array([0.1, 0.2]))))


def test_a_rule_added_later_needs_no_change_here(monkeypatch):
    class Lazy(SGD):
        kind = "lazy"
        delta: float

        def __init__(self, lr, delta=0.5):
            super().__init__(lr)
            self.delta = delta

    monkeypatch.setitem(rules.RULES, "lazy", Lazy)
    problem = problem_from_dict({"rule": {"kind": "lazy", "lr": 0.3}})
    assert problem_to_dict(problem)["rule"] == {"kind": "lazy", "lr": 0.3, "delta": 0.5}
    with pytest.raises(ValueError, match=r"^rule\.lr: expected a value"):
        problem_from_dict({"rule": {"kind": "lazy"}})
    with pytest.raises(ValueError, match=r"^rule\.delta: does not go with kind = 'sgd'"):
        problem_from_dict({"rule": {"delta": 0.5}})


def test_samples_of_a_file_keep_their_path(tmp_path):
    np.save(tmp_path / "w.npy", [1.0, 2.0, 4.0])
    (tmp_path / "s.csv").write_text("0.5\n-0.25\n")
    text = '[teacher]\nkind = "file"\npath = "w.npy"\n[start]\nkind = "file"\npath = "s.csv"\n'
    (tmp_path / "p.toml").write_text(text)
    problem = load_problem(tmp_path / "p.toml")
    np.testing.assert_array_equal(problem.teacher.data.values, [1.0, 2.0, 4.0])
    np.testing.assert_array_equal(problem.start.data.values, [0.5, -0.25])
    save_problem(problem, tmp_path / "q.toml")
    assert read_tables(tmp_path / "q.toml")["teacher"] == {"kind": "file", "path": "w.npy"}
    assert eqx.tree_equal(load_problem(tmp_path / "q.toml"), problem)
    # a file that has changed since is not named again: the values win
    np.save(tmp_path / "w.npy", [9.0, 9.0])
    save_problem(problem, tmp_path / "r.toml")
    np.testing.assert_array_equal(load_problem(tmp_path / "r.toml").teacher.data.values, [1.0, 2.0, 4.0])


def test_one_row_of_a_csv_is_as_good_as_a_column(tmp_path):
    (tmp_path / "row.csv").write_text("1, 2,3\n")
    (tmp_path / "column.csv").write_text("1\n2\n\n3\n")
    row, column = (_io.read_samples(tmp_path / f"{name}.csv", "x") for name in ("row", "column"))
    np.testing.assert_array_equal(row, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(row, column)


BAD = {
    "[teachr]\n": r"unknown table 'teachr'.*did you mean 'teacher'\?$",
    "[weights]\nbits = 2\nrange = 2.0\nroundin = 1\n": r"unknown key of \[weights\] 'roundin'.*'rounding'\?$",
    "[inputs]\nbits = 2\nrange = 2.0\nste = 'clipped'\n": r"unknown key of \[inputs\] 'ste'",
    "teacher = 3\n": r"teacher: expected a table, found 3",
    "[rule]\nlr = -0.1\n": r"rule\.lr: expected a positive number, found -0\.1",
    "[rule]\nlr = '0.1'\n": r"rule\.lr: expected a finite number, found '0\.1'",
    "[rule]\nlr = true\n": r"rule\.lr: expected a finite number, found True",
    "[rule]\nkind = 'adamax'\n": r"rule\.kind: expected one of 'sgd'",
    "[rule]\nkind = ['sgd']\n": r"rule\.kind: expected one of",
    "[noise]\nstd = nan\n": r"noise\.std: expected a finite number, found nan",
    "[noise]\nstd = -1\n": r"noise\.std: expected zero or a positive number, found -1",
    "[teacher]\nvalue = inf\n": r"teacher\.value: expected a finite number, found inf",
    "[teacher]\nstd = 1.0\n": r"teacher\.std: does not go with kind = 'constant', which takes value",
    "[start]\nkind = 'gaussian'\nstd = 0\n": r"start\.std: expected a positive number, found 0",
    "[weights]\nbits = 0\nrange = 2.0\n": r"weights\.bits: expected a whole number from 1 to 16, found 0",
    "[weights]\nbits = 99\nrange = 2.0\n": r"weights\.bits: expected a whole number from 1 to 16, found 99",
    "[weights]\nbits = 2.0\nrange = 2.0\n": r"weights\.bits: expected a whole number from 1 to 16, found 2\.0",
    "[weights]\nbits = 2\nrange = 0\n": r"weights\.range: expected a positive number, found 0",
    "[weights]\nbits = 2\n": r"weights\.range: expected a positive number, found None",
    "[weights]\nrange = 2.0\n": r"weights\.bits: expected a whole number from 1 to 16, found None",
    "[weights]\nkind = 'none'\nbits = 2\n": r"weights\.bits: does not go with kind = 'none'",
    "[weights]\nkind = 'sign'\nbits = 2\nrange = 1.0\n": r"weights\.bits: expected 1 for kind 'sign', found 2",
    "[weights]\nkind = 'midrise'\n": r"weights\.kind: expected one of",
    "[weights]\nbits = 2\nrange = 2.0\nste = 'relu'\n": r"weights\.ste: expected one of 'identity', 'clipped'",
    "[weights]\nkind = 'none'\nste = 'clipped'\n": r"weights\.range: expected a positive number for ste",
    "[weights]\nkind = 'levels'\nlevels = [1.0, 0.0]\n": r"weights\.levels: expected strictly increasing numbers",
    "[weights]\nkind = 'levels'\nlevels = 3\n": r"weights\.levels: expected a list of numbers, found 3",
    "[weights]\nkind = 'levels'\nlevels = ['a', 'b']\n": r"weights\.levels: expected a finite number, found 'a'",
    "[weights]\nkind = 'levels'\n": r"weights\.levels: expected at least two increasing numbers, found None",
    "[weights]\nbits = 2\nrange = 2.0\nzero_point = 1\n": r"weights\.zero_point: does not go with kind = 'mid-rise'",
    "[weights]\nbits = 2\nrange = 2.0\nkind = 'unsigned'\nzero_point = 4\n": r"zero_point: expected a whole number from 0 to 3",
    "[run]\ntau = 0\n": r"run\.tau: expected a positive number, found 0",
    "[run]\npoints = 1\n": r"run\.points: expected a whole number from 2",
    "[run]\npoints = 1.5\n": r"run\.points: expected a whole number from 2",
    "[run]\ntaus = [1.0, 0.5]\n": r"run\.taus: expected at least two increasing times",
    "[run]\ntaus = ['a', 'b']\n": r"run\.taus: expected a finite number",
    "[run]\ntaus = [[1, 2], [3]]\n": r"run\.taus: expected a finite number",
    "[run]\ntaus = [0, 1]\ntau = 1\n": r"run\.taus: already sets the saved times",
    "[teacher]\nkind = 'file'\n": r"teacher: expected one of path or values .* found 'neither'",
    "[teacher]\nkind = 'file'\npath = 3\n": r"teacher\.path: expected the name of a file, found 3",
    "[teacher]\nkind = 'file'\nvalues = ['a']\n": r"teacher\.values: expected a list of numbers",
    "[teacher]\nkind = 'file'\nvalues = [1.0]\n": r"expected a one-dimensional list of at least 2 numbers",
    "[teacher]\nkind = 'file'\npath = 'no.npy'\n": r"teacher\.path: expected a file that exists, found '.*no\.npy'",
    "[teacher]\nkind = 'file'\npath = 'w.txt'\n": r"teacher: file: expected one ending in \.npy, \.npz, \.csv, \.safetensors",
    "[teacher]\nkind = 'file'\npath = 'folder.npy'\n": r"teacher\.path: expected a file that can be read",
    "[teacher]\nkind = 'file'\npath = 'words.npy'\n": r"teacher\.path: expected one list of floats.*<U1 of shape",
    "[teacher]\nkind = 'file'\npath = 'square.npy'\n": r"teacher\.path: expected one list of floats.*\(2, 2\)",
    "[teacher]\nkind = 'file'\npath = 'objects.npy'\n": r"teacher\.path: expected one list of floats",
    "[teacher]\nkind = 'file'\npath = 'broken.npy'\n": r"teacher\.path: expected one list of floats",
    "[teacher]\nkind = 'file'\npath = 'nan.npy'\n": r"teacher\.path: file .*: expected finite numbers only",
    "[start]\nkind = 'file'\npath = 'ragged.csv'\n": r"start\.path: expected rows as long as the first, which has 2, "
    r"found '1 on line 2",
    "[start]\nkind = 'file'\npath = 'header.csv'\n": r"start\.path: expected numbers only.*'weight' on line 1",
    "[start]\nkind = 'file'\npath = 'table.csv'\n": r"start\.path: expected one column or one row, found '2 x 2",
    "[start]\nkind = 'file'\npath = 'empty.csv'\n": r"start\.path: expected one column or one row, found 'no",
    "[start]\nkind = 'file'\npath = 'bytes.csv'\n": r"start\.path: expected a file that can be read, .*not text",
    "[start\n": r"not valid TOML",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    for name, array in {
        "words": np.array(["a", "b"]),
        "square": np.eye(2),
        "nan": np.array([1.0, np.nan]),
        "objects": np.array([1.0, None], dtype=object),
    }.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "broken.npy").write_bytes(b"not numpy")
    (folder / "folder.npy").mkdir()
    (folder / "ragged.csv").write_text("1,2\n3\n")
    (folder / "header.csv").write_text("weight\n1\n2\n")
    (folder / "table.csv").write_text("1,2\n3,4\n")
    (folder / "empty.csv").write_text("\n")
    (folder / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    return folder


@pytest.mark.parametrize("text", BAD)
def test_a_fault_is_one_sentence_with_its_place(folder, text):
    path = folder / "p.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=BAD[text]) as caught:
        load_problem(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert message[-1] in ".?"


@pytest.mark.parametrize(("name", "expected"), [("no.toml", "no such file"), (".", "cannot be read")])
def test_a_problem_file_that_cannot_be_read(tmp_path, name, expected):
    with pytest.raises(ValueError, match=expected):
        load_problem(tmp_path / name)


def test_a_problem_file_that_is_not_text(tmp_path):
    (tmp_path / "p.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not valid TOML"):
        load_problem(tmp_path / "p.toml")


SET = {
    "rule.lr=0.2": ("rule", {"lr": 0.2}),
    "weights.kind=mid-tread": ("weights", {"bits": 2, "range": 2.0, "kind": "mid-tread"}),
    " weights.bits = 3 ": ("weights", {"bits": 3, "range": 2.0}),
    "weights.kind='none'": ("weights", {"range": 2.0, "kind": "none"}),
    "weights.kind=sign": ("weights", {"range": 2.0, "kind": "sign"}),
    "weights.levels=[-1.0, 1.0]": ("weights", {"bits": 2, "range": 2.0, "levels": [-1.0, 1.0]}),
    "teacher.kind=gaussian": ("teacher", {"kind": "gaussian"}),
    "run.tau=5": ("run", {"tau": 5}),
    "noise.std=0.1": ("noise", {"std": 0.1}),
}


@pytest.mark.parametrize("assignment", SET)
def test_set_key_changes_one_key(assignment):
    tables = {
        "teacher": {"value": 1.0},
        "weights": {"bits": 2, "range": 2.0},
        "rule": {"lr": 0.1},
        "run": {"taus": [0.0, 1.0]},
    }
    before = repr(tables)
    table, expected = SET[assignment]
    assert set_key(tables, assignment)[table] == expected
    assert repr(tables) == before


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("lr=0.1", r"^--set: expected TABLE\.KEY=VALUE"),
        ("rule.lr", r"^--set: expected TABLE\.KEY=VALUE"),
        ("rule.lr=", r"^--set: expected TABLE\.KEY=VALUE"),
        ("rules.lr=0.1", r"unknown table 'rules'.*did you mean 'rule'\?$"),
        ("rule.rl=0.1", r"unknown key of \[rule\] 'rl'.*did you mean 'lr'\?$"),
        ("rule.eta=0.1", r"unknown key of \[rule\] 'eta'.*did you mean 'lr'\?$"),
        ("weights.wl=3", r"unknown key of \[weights\] 'wl'.*did you mean 'bits'\?$"),
        ("rule.zzz=3", r"unknown key of \[rule\] 'zzz': expected one of .*; remove it\.$"),
        ("rule.lr=[0.1", r"^--set: expected a TOML value"),
        ("weights.kind=a b", r"^--set: expected a TOML value"),
    ],
)
def test_set_key_refuses_what_it_cannot_read(assignment, expected):
    with pytest.raises(ValueError, match=expected):
        set_key({}, assignment)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "p.toml"
    write_atomic(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["p.toml"]


def test_a_header_that_ends_too_early_is_a_sentence(tmp_path):
    """NumPy parses it as Python, which raises an error of its own kind."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3"
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24))
    with pytest.raises(InputError, match="something else"):
        _io.read_samples(path, "teacher.path")
