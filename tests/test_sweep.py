"""Sweeps: every row is the problem it says, is computed once, and faults name row and column."""

import importlib
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import stedyn
from stedyn import SGD, Problem, Quantizer, Run, simulate, solve
from stedyn.cli import app as cli
from stedyn.sweeps import rows as rows_module

TABLE = """weights.range,rule.lr,what,law,dim,seeds
1.0,,,,,
2.0,0.2,predict,fluid,,
1.5,,simulate,,40,2
"""
BASE = """[weights]
bits = 2
range = 1.0
[inputs]
bits = 3
range = 2.0
[rule]
lr = 0.1
[run]
tau = 2.0
points = 5
"""


def problem(reach, lr=0.1):
    return Problem(weights=Quantizer(2, reach), inputs=Quantizer(3, 2.0), rule=SGD(lr), run=Run(2.0, 5))


class Counting(ThreadPoolExecutor):
    """Threads that count what they are given."""

    def __init__(self):
        super().__init__(2)
        self.jobs = []

    def submit(self, function, job, *rest):
        self.jobs.append(job)
        return super().submit(function, job, *rest)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text(TABLE.replace("1.0,,,,,", "1.0,,,fluid,,"))
    Path("base.toml").write_text(BASE)
    return tmp_path


@pytest.fixture
def swept(folder):
    """A finished sweep: its frame."""
    with Counting() as pool:
        frame = stedyn.sweep("table.csv", "base.toml", out="out", executor=pool)
    assert len(pool.jobs) == 3
    return frame


def result(frame, row):
    return json.loads(Path("out", frame["file"][row]).read_text())["result"]


def test_rows_are_the_problems_they_say(swept):
    assert swept["failure"].isna().all()
    for row, expected in enumerate((problem(1.0), problem(2.0, 0.2))):
        solution = solve(expected, law="fluid")
        assert result(swept, row)["error"] == np.asarray(solution.error).tolist()
        assert swept["final_error"][row] == solution.final_error
    ensemble = simulate(problem(1.5), dim=40, seeds=2)
    assert result(swept, 2)["error_mean"] == ensemble.error_mean.tolist()
    assert swept["final_error_mean"][2] == ensemble.error_mean[-1]
    written = pd.read_csv("out/sweep.csv", comment="#")
    assert written["weights.range"].tolist() == [1.0, 2.0, 1.5]
    assert written["what"].tolist() == ["predict", "predict", "simulate"]
    assert written["row"].tolist() == [1, 2, 3]


def computed_again():
    """The jobs of a second run of the same sweep."""
    with Counting() as pool:
        again = stedyn.sweep("table.csv", "base.toml", out="out", executor=pool)
    assert again["failure"].isna().all()
    return [job["problem"]["weights"]["range"] for job in pool.jobs]


def test_only_what_is_missing_or_damaged_is_computed(swept):
    files = [Path("out", name) for name in swept["file"]]
    assert computed_again() == []
    files[0].unlink()
    assert computed_again() == [1.0]
    whole = files[1].read_text()
    for damaged in (
        whole[:-40],
        "",
        "[]",
        whole.replace('"final_error": ', '"final_error": 1', 1),
        whole + "x",
    ):
        assert damaged != whole
        files[1].write_text(damaged)
        assert computed_again() == [2.0]
        assert files[1].read_text() == whole
    Path("base.toml").write_text(BASE.replace("lr = 0.1", "lr = 0.3"))
    assert computed_again() == [1.0, 1.5]  # the other row has an lr of its own
    assert computed_again() == []


def test_a_result_belongs_to_a_problem_and_not_to_a_row(swept):
    """Rows that move keep their results, equal rows share one, and a new version computes again."""
    first, *rest = Path("table.csv").read_text().splitlines()
    before = [result(swept, row) for row in range(3)]
    Path("table.csv").write_text("\n".join([first, "1.2,,,fluid,,", *reversed(rest), rest[0]]) + "\n")
    assert computed_again() == [1.2]
    written = pd.read_csv("out/sweep.csv", comment="#")
    assert written["weights.range"].tolist() == [1.2, 1.5, 2.0, 1.0, 1.0]
    assert written["file"][1:].tolist() == [*swept["file"][::-1], swept["file"][0]]
    assert [result(written, row) for row in (3, 2, 1)] == before
    assert computed_again() == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "__version__", "0.99")
        assert computed_again() == [1.2, 1.5, 2.0, 1.0]


def test_rows_that_are_equal_are_computed_once(folder):
    rows = [{"rule.lr": 0.1, "law": "fluid"}, {"law": "fluid"}, {"law": "fluid", "weights.range": 1.0}]
    with Counting() as pool:
        frame = stedyn.sweep(rows, "base.toml", out="out", executor=pool)  # base.toml has these values
    assert len(pool.jobs) == 1
    assert frame["failure"].tolist() == [None] * 3
    assert len(set(frame["file"])) == 1
    assert frame["final_error"].nunique() == 1


def test_fixed_points_of_a_sweep(folder, monkeypatch):
    module = importlib.import_module("stedyn.limit.solver")
    monkeypatch.setattr(
        module, "solve", lambda problem, throw: solve(problem, law="fluid", throw=throw)
    )  # cheap
    rows = [{"noise.std": 0.1, "weights.kind": "none", "rule.lr": lr} for lr in (0.1, 0.2, 3.0)]
    frame = stedyn.sweep(rows, "base.toml", out="out", what="fixed-point", workers=1)
    assert frame["failure"].isna().tolist() == [True, True, False]
    assert frame["failure"][2].startswith("rule.lr: expected a rate below its ceiling")
    for row, lr in enumerate((0.1, 0.2)):
        expected = Problem(noise_std=0.1, inputs=Quantizer(3, 2.0), rule=SGD(lr))
        assert frame["error"][row] == pytest.approx(stedyn.fixed_point(expected).error, rel=1e-6)


def test_a_bug_in_a_row_keeps_its_traceback(folder, capsys, monkeypatch):
    """The same row as a fault of the input, as a failed computation, and as a bug."""

    def raises(error):
        def compute(problem, job, threads):
            raise error

        monkeypatch.setitem(rows_module._COMPUTE, "predict", compute)

    Path("table.csv").write_text("rule.lr\n0.1\n")
    line = ["sweep", "table.csv", "--out", "out", "--workers", "1"]
    for error in (stedyn.InputError("rule.lr: too high."), stedyn.SolveError("it stopped.")):
        raises(error)
        assert cli.main(line) == 1
        assert capsys.readouterr().err == f"stedyn: row 1: {error}\n"
        assert [path.name for path in Path("out").iterdir()] == ["sweep.csv"]
    raises(ValueError("operands could not be broadcast"))
    assert cli.main(line) == 1
    (log,) = Path("out").glob("*.traceback.txt")
    assert capsys.readouterr().err == (
        f"stedyn: row 1: bug: ValueError: operands could not be broadcast (traceback in {log})\n"
    )
    assert "in compute\n    raise error\nValueError: operands" in log.read_text()
    raises_no_more = {"final_error": 0.5}
    monkeypatch.setitem(rows_module._COMPUTE, "predict", lambda *_: raises_no_more)
    assert cli.main(line) == 0
    assert not log.exists()


def test_samples_of_a_file_travel_with_the_row(folder):
    np.save("values.npy", np.array([0.5, 1.0, 1.5]))
    table = [
        {"teacher.path": "values.npy", "teacher.kind": "file", "what": "simulate", "dim": 20, "seeds": 1}
    ]
    base = problem(1.0)
    with Counting() as pool:
        stedyn.sweep(table, base, out="out", executor=pool)
        np.save("values.npy", np.array([0.5, 1.0, 1.6]))
        frame = stedyn.sweep(pd.DataFrame(table), base, out="out", executor=pool)
    first, second = (job["problem"]["teacher"]["values"] for job in pool.jobs)
    assert (first, second) == ([0.5, 1.0, 1.5], [0.5, 1.0, 1.6])
    assert frame["failure"].isna().all()


def test_a_failing_row_is_reported_and_the_others_go_on(folder, capsys):
    Path("base.toml").write_text("[run]\ntau = 50.0\npoints = 3\n")  # not quantized: a large lr diverges
    line = ["sweep", "table.csv", "base.toml", "--what", "simulate", "--out", "out", "--workers", "1"]
    Path("table.csv").write_text("rule.lr,dim,seeds\n0.1,20,1\n500.0,20,1\n0.2,20,1\n")
    for _ in range(2):
        assert cli.main(line) == 1
        printed = capsys.readouterr()
        assert printed.out.startswith("2 of 3 rows are in out")
        assert printed.err.count("\n") == 1
        assert printed.err.startswith("stedyn: row 2: the weights grew beyond float32")
        kept = pd.read_csv("out/sweep.csv", comment="#")["file"].dropna()
        assert len(kept) == 2
        assert {path.name for path in Path("out").iterdir()} == {*kept, "sweep.csv"}
    assert pd.read_csv("out/sweep.csv", comment="#")["failure"].notna().tolist() == [False, True, False]


BAD = {
    "": "table.csv: cannot be read as a table",
    "rule.lr\n": "table.csv: expected at least one row",
    "rule.lr\n0.1\n-1\n": "table.csv, row 2: rule.lr: expected a positive number, found -1",
    "rule.lr\n0.1\nfast\n": "table.csv, row 2: rule.lr: expected",
    "rule.lrr\n0.1\n": "table.csv, row 1: unknown column 'rule.lrr'",
    "lr\n0.1\n": "table.csv, row 1: unknown column 'lr'",
    "what\npredict\nguess\n": "table.csv, row 2: what: expected one of",
    "law\nmagic\n": "table.csv, row 1: law: expected one of",
    "dim\n100\n": "table.csv, row 1: dim: does not go with what = 'predict'",
    "what,dim\nsimulate,1\n": "table.csv, row 1: dim: expected a whole number from 2",
    "what,seeds\nsimulate,1.5\n": "table.csv, row 1: seeds: expected a whole number",
    "what,seed\ncompare,-1\n": "table.csv, row 1: seed: expected a whole number",
    "weights.kind\nmidrise\n": "table.csv, row 1: weights.kind: expected one of",
    "rule.lr,rule.lr\n1,2,3\n": "table.csv",
}


@pytest.mark.parametrize("table", BAD)
def test_a_fault_of_the_table(folder, capsys, table):
    Path("table.csv").write_text(table)
    before = sorted(folder.rglob("*"))
    assert cli.main(["sweep", "table.csv", "--out", "out"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("stedyn: ")
    assert BAD[table] in printed.err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sweep none.csv --out out", "none.csv: there is no such file"),
        ("sweep table.csv none.toml --out out", "none.toml: there is no such file"),
        ("sweep table.csv", "--out"),
        ("sweep table.csv --out base.toml", "--out: expected a folder"),
        ("sweep table.csv --out out --workers 0", "--workers"),
        ("sweep table.csv --out out --workers 2 --scheduler tcp://127.0.0.1:1", "--workers: expected none"),
        ("sweep table.csv --out out --what guess", "what: expected one of"),
        ("sweep sweep.csv --out .", "--out: would overwrite the table"),
    ],
)
def test_a_fault_of_the_command(folder, capsys, line, words):
    Path("sweep.csv").write_text(TABLE)
    before = sorted(folder.rglob("*"))
    assert cli.main(line.split()) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_without_dask_the_scheduler_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    assert cli.main(["sweep", "table.csv", "--out", "out", "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert "pip install 'stedyn[dask]'" in capsys.readouterr().err


def test_an_interrupt_keeps_the_rows_that_are_done(folder, capsys, monkeypatch):
    done = []

    def compute(problem, job, threads):
        done.append(job)
        if len(done) == 2:
            signal.raise_signal(signal.SIGINT)
        return {"final_error": 0.5}

    monkeypatch.setitem(rows_module._COMPUTE, "predict", compute)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where tests run in the background
    try:
        assert cli.main(["sweep", "table.csv", "--out", "out", "--workers", "1"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the same command goes on" in capsys.readouterr().err
    (kept,) = Path("out").iterdir()
    assert json.loads(kept.read_text())["problem"]["weights"]["range"] == 1.0


@pytest.mark.slow
def test_local_processes(folder, capsys):
    assert cli.main(["sweep", "table.csv", "base.toml", "--out", "out", "--workers", "2"]) == 0
    assert capsys.readouterr().out.startswith("3 of 3 rows")
    assert computed_again() == []


@pytest.mark.slow
def test_a_dask_cluster(folder, capsys):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        line = ["sweep", "table.csv", "base.toml", "--out", "out", "--scheduler", cluster.scheduler_address]
        assert cli.main(line) == 0
    assert capsys.readouterr().out.startswith("3 of 3 rows")
    assert computed_again() == []


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer(folder, capsys):
    pytest.importorskip("distributed")
    assert cli.main(["sweep", "table.csv", "--out", "out", "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert "--scheduler: no answer" in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_summary_holds_the_first_and_the_longest_plateau():
    flat = [
        dict(escape=e, length=n, height=h)
        for e, n, h in ((8.0, 5.0, 1.0), (33.0, 13.0, 0.4), (None, None, 0.1))
    ]
    found = rows_module.summary({"plateaus": flat, "final_error": 0.1})
    assert found == {
        "plateaus": 3,
        "open_plateau": True,
        "first_plateau.escape": 8.0,
        "first_plateau.length": 5.0,
        "first_plateau.height": 1.0,
        "longest_plateau.escape": 33.0,
        "longest_plateau.length": 13.0,
        "longest_plateau.height": 0.4,
        "final_error": 0.1,
    }
    none = rows_module.summary({"plateaus": []})
    assert (none["plateaus"], none["open_plateau"], none["first_plateau.length"]) == (0, False, None)
