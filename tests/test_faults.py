"""Signals, dead processes, full disks and special files: nothing is lost, nothing hangs, nothing stays behind."""

import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import faulted_jobs
import numpy as np
import pytest

from stedyn.checks import InputError
from stedyn.cli import app as cli
from stedyn.cli import approval
from stedyn.cli.approval import agree, approve
from stedyn.cli.environment import show_warning
from stedyn.files import whole as _io
from stedyn.files.problems import load_problem
from stedyn.files.tensors import read_tensors
from stedyn.limit.fixed_points import fixed_point
from stedyn.limit.solver import solve
from stedyn.problem.populations import Covariance
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD, DeterministicRounding
from stedyn.simulation import checkpoint, simulate
from stedyn.sweeps.workers import compute_all

SMALL = ["--kind", "none", "--tau", "2", "--points", "3"]


def test_one_dead_process_costs_its_own_row_only():
    jobs = ["a", "die", "b", "raise", "c"]
    found = dict(compute_all(faulted_jobs.job, jobs, 2))
    assert [found[k] for k in (0, 2, 4)] == ["a", "b", "c"]
    assert isinstance(found[1], BrokenProcessPool)
    assert repr(found[3]) == "ValueError('said')"


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
import faulted_jobs
from stedyn.sweeps.workers import compute_all
if __name__ == "__main__":
    list(compute_all(faulted_jobs.job, ["wait", "wait"], 2))
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_their_parent(tmp_path, number):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(alive, workers))
        parent.send_signal(number)
        parent.wait(30)
        deadline = time.monotonic() + 20
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [pid for pid in workers if alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left


def test_sigterm_saves_the_checkpoint_and_exits_143(tmp_path, monkeypatch, capsys):
    from stedyn.simulation import task

    turn, turns = task.Task.turn, []

    def stopped(self, group):
        turns.append(group)
        if len(turns) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return turn(self, group)

    monkeypatch.setattr(task.Task, "turn", stopped)
    monkeypatch.chdir(tmp_path)
    command = ["simulate", *SMALL, "--tau", "2000", "--dim", "50", "--seeds", "1", "--checkpoint", "a.ckpt"]
    assert cli.main(command) == 143
    assert capsys.readouterr().err.startswith("stedyn: interrupted; a.ckpt holds the state")
    assert (tmp_path / "a.ckpt").stat().st_size > 0


def test_outputs_are_all_written_or_none(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).write_text("old")

    @_io.all_or_none()
    def write():
        _io.write_atomic(tmp_path / "a", "new")
        _io.write_atomic(tmp_path / "nowhere" / "b", "new")

    with pytest.raises(FileNotFoundError):
        write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").read_text() == "old"
    with _io.all_or_none():
        _io.write_atomic(tmp_path / "a", "new")
        _io.write_atomic(tmp_path / "b", "new")
        assert (tmp_path / "a").read_text() == "old"
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["new", "new"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_io.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.csv'"):
        _io.write_atomic(tmp_path / "a.csv", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_a_checkpoint_does_not_end_the_run(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device", "a.ckpt")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    with pytest.warns(RuntimeWarning, match=r"cannot write a\.ckpt .No space") as caught:
        made = simulate(
            Problem(run=Run(2.0, 3)), dim=50, seeds=1, checkpoint=tmp_path / "a.ckpt", every=1e-3, chunk=1
        )
    assert len(caught) == 1
    assert np.isfinite(made.error).all()


def test_pipes_and_devices_are_refused(tmp_path):
    for name in ("a.toml", "a.npy", "a.npz", "a.csv"):
        os.mkfifo(tmp_path / name)
    readers = {
        "a.toml": load_problem,
        "a.npy": read_tensors,
        "a.npz": read_tensors,
        "a.csv": lambda path: _io.read_samples(path, "teacher.path"),
    }
    for name, reader in readers.items():
        with pytest.raises(InputError, match="an ordinary file"):
            reader(tmp_path / name)
    with pytest.raises(InputError, match="an ordinary file"):
        load_problem("/dev/zero")
    with pytest.raises(InputError, match="an ordinary file"):
        simulate(Problem(), dim=50, seeds=1, checkpoint=tmp_path / "a.npy")


def test_nesting_and_memory_are_sentences(tmp_path, monkeypatch, capsys):
    (tmp_path / "deep.toml").write_text(f"a = {'[' * 5000}{']' * 5000}")
    assert cli.main(["predict", str(tmp_path / "deep.toml")]) == 2
    assert "nested too deeply" in capsys.readouterr().err

    def large(*args, **given):
        raise MemoryError("Unable to allocate 8 TiB")

    monkeypatch.setattr(importlib.import_module("stedyn.simulation"), "simulate", large)
    assert cli.main(["simulate", *SMALL, "--dim", "50"]) == 1
    message = "stedyn: there is not enough memory (Unable to allocate 8 TiB); make the problem smaller.\n"
    assert capsys.readouterr().err == message


def test_two_processes_on_a_checkpoint(tmp_path):
    def run():
        return simulate(Problem(run=Run(2.0, 3)), dim=50, seeds=1, checkpoint=tmp_path / "a.ckpt")

    (tmp_path / ".a.ckpt.lock").touch()  # of a process that was killed
    first = run()
    lock = checkpoint._locked(tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="another process works on this checkpoint"):
        run()
    os.close(lock)
    assert np.array_equal(run().error, first.error)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_lock_is_removed_while_it_is_held(tmp_path, monkeypatch):
    """Removed after it is let go, it might already be that of the next process."""
    there, close = [], os.close

    def closed(descriptor):
        there.append((tmp_path / ".a.ckpt.lock").exists())
        close(descriptor)

    monkeypatch.setattr(checkpoint.os, "close", closed)
    simulate(Problem(run=Run(2.0, 3)), dim=50, seeds=1, checkpoint=tmp_path / "a.ckpt")
    assert there[-1:] == [False]


def test_another_arithmetic_is_said(tmp_path, monkeypatch):
    def run(**given):
        return simulate(Problem(run=Run(2.0, 3)), dim=50, seeds=1, checkpoint=tmp_path / "a.ckpt", **given)

    first, here = run(exact=True), checkpoint.arithmetic("cpu")
    assert set(here) == {"JAX", "XLA", "device", "instruction set", "largest loop of one kernel"}
    run(exact=True)
    monkeypatch.setattr(checkpoint, "arithmetic", lambda platform: here | {"instruction set": "sse4_2"})
    with pytest.raises(InputError, match=r"instruction set was .* and is sse4_2; go on there"):
        run(exact=True)
    with pytest.warns(RuntimeWarning, match="another arithmetic: instruction set was"):
        assert np.array_equal(run().error, first.error)


def test_long_and_large_jobs_ask(capsys, tmp_path, monkeypatch):
    for flags, words in (
        (["--dim", "536870912", "--tau", "1"], "GiB of memory"),
        (["--seeds", "1000000000", "--dim", "2000"], "GiB of memory"),
        (["--dim", "2000", "--tau", "1e9"], "hours"),
    ):
        assert cli.main(["simulate", "--kind", "none", *flags]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.endswith("make it smaller, or give --yes to go on.\n")
    (tmp_path / "t.csv").write_text("what,run.tau,dim,seeds\nsimulate,1e9,2000,1\npredict,1,,\n")
    (tmp_path / "large.csv").write_text("what,dim,seeds\nsimulate,100000000,1\n" + "simulate,100000000,2\n")
    monkeypatch.chdir(tmp_path)
    for table, words in (("t.csv", "2 rows will take about"), ("large.csv", "2 rows will take about")):
        assert cli.main(["sweep", table, "--out", "o"]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.endswith("make it smaller, or give --yes to go on.\n")
    assert not (tmp_path / "o").exists()
    agree(1e6, 0.0, 1.0, "it", yes=True)
    assert capsys.readouterr().err == "stedyn: it will take about 278 hours.\n"
    agree(60.0, 0.0, 1.0, "it", yes=False)


def test_many_curves_are_timed_before_they_are_computed(capsys):
    calls = []

    def one():
        calls.append(len(calls))
        time.sleep(0.02)

    approve("few curves", False, count=approval.MANY - 1, one=one)
    assert calls == []
    with pytest.raises(InputError, match=r"curves will take about .* hours; make it smaller, or give --yes"):
        approve("curves", False, count=10**7, one=one)
    assert calls == [0, 1]
    approve("curves", True, count=10**7, one=one)
    assert "curves will take about" in capsys.readouterr().err


@pytest.mark.slow
def test_tables_of_many_curves_ask(monkeypatch, capsys):
    monkeypatch.setattr(approval, "LONG", 0.0)
    monkeypatch.setattr(approval, "MANY", 2)
    for argv in (
        ["choose", "--bits", "2", "--scan", "9", "--lr", "0.5"],
        ["plateaus", "--bits", "2,3", "--tau", "1"],
    ):
        assert cli.main(argv) == 2
        assert "hours; make it smaller, or give --yes" in capsys.readouterr().err


def test_a_damaged_program_of_the_cache_is_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    for name in ("jit_f-1-cache", "jit_g-1-cache"):
        (tmp_path / name).touch()
    damaged = "Error reading persistent compilation cache entry for 'jit_f': ValueError: x"
    show_warning(UserWarning(damaged), UserWarning, "", 0)
    show_warning(RuntimeWarning("overflow encountered in exp"), RuntimeWarning, "", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["jit_g-1-cache"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("build", "bound"),
    [
        (lambda: Problem(covariance=Covariance.power_law(0.5, 1e38)), "at most 1e+15"),
        (lambda: Problem(noise_std=1e300), "at most 1e+15"),
        (lambda: Problem(inputs=Quantizer(2, 1e-300)), "inputs.range: expected numbers of at least 1e-30"),
        (lambda: Problem(latent_clip=1e-40), "at least 1e-30"),
        (lambda: Run(1e-300, 3), "from 1e-30 to 1e+15"),
        (lambda: Run(taus=[0, 1e300]), "from 1e-30 to 1e+15"),
    ],
)
def test_magnitudes_beyond_double_precision_are_refused(build, bound):
    with pytest.raises(InputError, match=re.escape(bound)):
        build()


def extreme(inputs=2.0, weights=2.0, lr=0.1, weight_decay=0.0):
    """Setting R1 up to tau = 20, with other magnitudes."""
    rule = SGD(lr, weight_decay=weight_decay)
    return Problem(
        weights=Quantizer(2, weights),
        inputs=Quantizer(2, inputs),
        rule=rule,
        run=Run(20.0, 11),
        noise_std=0.1,
    )


K2 = 1.0930576  # of the inputs of setting R1


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"inputs": 1e14}, 4e28 / 9),  # inputs of R/3, all weights on the outer levels
        ({"weights": 1e14}, K2 * 1e28 / 9),  # no weight leaves the inner levels
        ({"weights": 1e-14}, 1.0),  # the student is 0
        ({"weight_decay": 1e10}, 1 + K2 * 4 / 9),  # half of the weights on either inner level
    ],
)
def test_extreme_magnitudes_are_answered(given, error):
    solution = solve(extreme(**given))
    assert solution.final_error == pytest.approx(error, rel=2e-4)
    assert solution.statistics["num_steps"] < 2000


@pytest.mark.parametrize("weight_decay", [1e2, 1e4, 1e10, 1e15])
def test_curve_and_fixed_point_meet_at_any_weight_decay(weight_decay):
    problem = extreme(weight_decay=weight_decay)
    end, claim = solve(problem), 5e-3
    assert fixed_point(problem).error == pytest.approx(end.final_error, rel=max(1e-6, end.error_estimate))
    assert end.error_estimate < claim


def test_the_fixed_point_of_a_small_rate():
    """Densities at thresholds are thinner than the last digit of the threshold."""
    assert fixed_point(extreme(lr=1e-14)).error == pytest.approx(
        fixed_point(extreme(lr=1e-6)).error, rel=1e-9
    )


@pytest.mark.slow
def test_numbers_that_become_infinite_end_an_integration_soon():
    diverging = solve(Problem(rule=SGD(1e6), run=Run(20.0, 3)), throw=False)
    assert "grows without bound" in str(diverging.status)


def test_rules_that_move_nothing_have_no_fixed_point():
    with pytest.raises(InputError, match="expected one that moves weights"):
        fixed_point(Problem(weights=Quantizer(2, 2.0), rule=DeterministicRounding(0.3, delta=1e6)))


def test_the_folder_of_programs_is_private(tmp_path):
    folder = tmp_path / "stedyn"
    folder.mkdir(mode=0o755)
    code = "import stedyn.cli.environment as e; e.set_environment()"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX", "STEDYN"))
    }
    subprocess.run(
        [sys.executable, "-c", code], env=environment | {"XDG_CACHE_HOME": str(tmp_path)}, check=True
    )
    assert folder.stat().st_mode & 0o777 == 0o700
