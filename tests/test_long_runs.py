"""Long runs: checkpoints go on to the same bits after a kill, and faults of the file are one sentence."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from systems import Remembering

from stedyn.cli import app as cli
from stedyn.problem.moving_range import MovingRange
from stedyn.problem.phases import Phase
from stedyn.problem.populations import Covariance, Teacher
from stedyn.problem.problem import Problem
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD, Adam, Rule, StochasticRounding
from stedyn.simulation import Interrupted, checkpoint, progress, run, simulate
from stedyn.simulation.cost import memory_of

R1 = Problem(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1))
DIM = 129
SHORT = {"dim": DIM, "seeds": 3, "seed": 4, "taus": [0.0, 1.0, 2.0], "snapshots": [0.5, 1.5], "chunk": 50}
ARRAYS = [
    "steps", "error", "m", "q", "overlap", "norm", "saturated", "flip_rate", "occupancy", "weights", "teacher",
    "snapshots", "snapshot_tau",
]  # fmt: skip


def same(a, b):
    """Whether all numbers of two ensembles are the same bits."""
    for name in ARRAYS:
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None):
            return False
        if x is not None and (x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes()):
            return False
    return True


class Bar(progress.tqdm):
    """A progress bar that interrupts the run after some updates."""

    left = 0

    def update(self, n=1):
        Bar.left -= 1
        if Bar.left == 0:
            raise KeyboardInterrupt
        return super().update(n)


@pytest.fixture
def interrupt_after(monkeypatch):
    monkeypatch.setattr(progress, "tqdm", Bar)
    return lambda updates: setattr(Bar, "left", updates)


@pytest.fixture(scope="module")
def whole_run():
    return simulate(R1, **SHORT)


# ---- going on


@pytest.mark.parametrize("updates", [1, 2, 9, 16])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, interrupt_after, whole_run, updates):
    file = tmp_path / "run.ckpt"
    interrupt_after(updates)
    with pytest.raises(Interrupted) as stopped:
        simulate(R1, **SHORT, checkpoint=file)
    assert stopped.value.ensemble is None
    again = simulate(R1, **SHORT | {"chunk": 7, "threads": 1}, checkpoint=file, every=0.001)
    assert same(again, whole_run)
    assert [path.name for path in tmp_path.iterdir()] == ["run.ckpt"]


STATES = {
    "memory": Problem(weights=R1.weights, noise_std=0.1, rule=Remembering(0.3)),
    "momentum": Problem(weights=R1.weights, noise_std=0.1, rule=SGD(0.3, momentum=0.9)),
    "adam": Problem(weights=R1.weights, noise_std=0.1, rule=Adam(0.3, weight_decay=0.1)),
    "range": Problem(
        weights=R1.weights, noise_std=0.1, rule=SGD(0.3), range_rule=MovingRange("learned", lr=0.5)
    ),
    "lattice": Problem(rule=StochasticRounding(lr=0.3, delta=0.5), noise_std=0.1),
    "phases": Problem(
        weights=R1.weights, rule=SGD(0.3), phases=[Phase(1.3, weights=Quantizer(3, 1.0), rule=SGD(0.1))]
    ),
    "variances": Problem(covariance=Covariance.power_law(0.5), weights=R1.weights, rule=SGD(0.1)),
}


@pytest.mark.parametrize("name", STATES)
def test_other_states_go_on_too(tmp_path, interrupt_after, name):
    short = {"dim": 40, "seeds": 1, "taus": [4.0], "chunk": 20}
    interrupt_after(3)
    with pytest.raises(Interrupted):
        simulate(STATES[name], **short, checkpoint=tmp_path / "a")
    assert same(simulate(STATES[name], **short, checkpoint=tmp_path / "a"), simulate(STATES[name], **short))


def test_a_finished_run_is_read_and_not_computed(tmp_path, monkeypatch, whole_run):
    file = tmp_path / "run.ckpt"
    first = simulate(R1, **SHORT, checkpoint=file)
    assert same(first, whole_run)
    monkeypatch.setattr(run.Task, "turn", lambda *a: pytest.fail("a step was made"))
    monkeypatch.setattr(run.Task, "draw", lambda *a: pytest.fail("a population was drawn"))
    data = file.read_bytes()
    second = simulate(R1, **SHORT, checkpoint=file)
    assert same(second, first)
    assert not second.partial
    assert second.seconds == pytest.approx(first.seconds, abs=0.2)
    assert file.read_bytes() == data


def test_checkpoints_are_written_every_so_often(tmp_path, monkeypatch):
    times = []
    save = checkpoint.Checkpoint.save

    def counted(self, seconds):
        times.append(seconds)
        save(self, seconds)

    monkeypatch.setattr(checkpoint.Checkpoint, "save", counted)
    simulate(R1, dim=DIM, seeds=2, taus=[500.0], chunk=500, checkpoint=tmp_path / "a", every=0.01)
    assert len(times) >= 3
    assert np.all(np.diff(times[:-1]) >= 0.01)


# ---- other files


def flip(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGE = {
    "cut": lambda data: data[:-100],
    "cut to the first line": lambda data: data[:20],
    "longer": lambda data: data + b"\0",
    "a bit at the end": lambda data: flip(data, len(data) - 1),
    "a bit in the middle": lambda data: flip(data, len(data) // 2),
    "a bit of the checksum": lambda data: flip(data, 30),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    file = tmp_path_factory.mktemp("finished") / "run.ckpt"
    simulate(R1, **SHORT, checkpoint=file)
    return file.read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(tmp_path, finished, damage):
    file = tmp_path / "run.ckpt"
    file.write_bytes(DAMAGE[damage](finished))
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"run\.ckpt: is damaged.*; delete it to start again\.$"):
        simulate(R1, **SHORT, checkpoint=file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"tau,error\n0,1\n", b"stedyn checkpoint 9\n"])
def test_another_file_is_not_touched(tmp_path, content):
    file = tmp_path / "run.ckpt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a checkpoint of stedyn, or is damaged; .*\.$"):
        simulate(R1, **SHORT, checkpoint=file)
    assert file.read_bytes() == content


@pytest.mark.parametrize("version", [b"1", b"2"])
def test_a_checkpoint_of_an_older_stedyn_is_refused(tmp_path, finished, version):
    file = tmp_path / "run.ckpt"
    content = finished.replace(b"stedyn checkpoint 3\n", b"stedyn checkpoint " + version + b"\n", 1)
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"run\.ckpt: was written by an older stedyn, .*; name another file .*\.$"
    ):
        simulate(R1, **SHORT, checkpoint=file)
    assert file.read_bytes() == content


class Halved(Rule):
    """A rule that is in no table."""

    kind = "halved"
    part: float = 0.5

    def move(self, r, phi, u, tau):
        return self.part * r * phi


def change(**fields):
    return dataclasses.replace(R1, **fields) if not fields.keys() & {"rule"} else Problem(
        weights=R1.weights, inputs=R1.inputs, **fields
    )  # fmt: skip


OTHERS = {
    "dim is 129 there and 130 here": (R1, {"dim": 130}),
    "seeds is 3 there and 2 here": (R1, {"seeds": 2}),
    "seed is 4 there and 5 here": (R1, {"seed": 5}),
    "taus is 3 times up to 2 there and 2 times up to 3 here": (R1, {"taus": [0.0, 3.0]}),
    "snapshots is 2 times up to 1.50388 there and no times here": (R1, {"snapshots": []}),
    "rule.lr is 0.1 there and 0.2 here": (change(rule=SGD(0.2)), {}),
    "rule.class is SGD there and Halved here": (change(rule=Halved()), {}),
    "weights.range is 2.0 there and 2.5 here": (
        Problem(weights=Quantizer(2, 2.5), inputs=R1.inputs, rule=R1.rule),
        {},
    ),
    "teacher.kind is constant there and file here": (change(teacher=Teacher.samples(np.arange(5.0))), {}),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_a_checkpoint_of_another_simulation_is_refused(tmp_path, finished, difference):
    file = tmp_path / "run.ckpt"
    file.write_bytes(finished)
    problem, arguments = OTHERS[difference]
    with pytest.raises(ValueError, match="belongs to another simulation") as found:
        simulate(problem, **SHORT | arguments, checkpoint=file)
    assert difference in str(found.value)
    assert str(found.value).endswith("name another file or delete it.")


def test_samples_and_schedules_are_told_apart():
    def entries(problem):
        return dict(checkpoint._entries("", problem))

    base = entries(Problem(Teacher.samples(np.arange(5.0)), rule=SGD(0.1, schedule={"kind": "inverse"})))
    assert base["rule.schedule.tau0"] == 1.0
    other = entries(Problem(Teacher.samples(np.arange(5.0) + 1e-9), rule=SGD(0.1, schedule={"kind": "step"})))
    assert base["teacher.data.values"] != other["teacher.data.values"]
    assert base["rule.schedule.class"] == "Inverse" != other["rule.schedule.class"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"checkpoint": "nowhere/a"}, "a file in a folder that exists"),
        ({"checkpoint": "."}, "the name of a file"),
        ({"checkpoint": "a", "every": 0.0}, "every: expected a positive number"),
        ({"every": 5.0}, "every: expected None without a checkpoint"),
        ({"devices": 0}, "devices: expected a whole number from 1"),
        ({"devices": 100}, "devices: expected a whole number from 1"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        simulate(R1, **SHORT | arguments)
    assert not list(tmp_path.iterdir())


# ---- interrupts without a checkpoint


def test_a_partial_result_ends_at_the_last_common_time(interrupt_after, whole_run):
    interrupt_after(25)  # the first seed has ended, the others have two of the three times
    with pytest.raises(Interrupted) as stopped:
        simulate(R1, **SHORT, threads=1)
    partial = stopped.value.ensemble
    assert partial.partial
    assert partial.steps.tolist() == [0, DIM]
    assert "interrupted" in str(partial)
    for name in ("error", "flip_rate", "occupancy"):
        np.testing.assert_array_equal(getattr(partial, name), getattr(whole_run, name)[:, :2])
    np.testing.assert_array_equal(partial.snapshots, whole_run.snapshots[:, :1])
    shorter = simulate(R1, **SHORT | {"taus": [1.0], "snapshots": []})
    np.testing.assert_array_equal(partial.weights, shorter.weights)


def test_nothing_is_left_before_the_first_common_time(interrupt_after):
    interrupt_after(1)
    with pytest.raises(Interrupted) as stopped:
        simulate(R1, **SHORT | {"taus": [1.0]})
    assert stopped.value.ensemble is None


COMMAND = ["simulate", "--dim", "129", "--seeds", "3", "--tau", "400", "--points", "401"]


def test_the_command_says_where_it_is_and_how_to_go_on(tmp_path, monkeypatch, capsys, interrupt_after):
    monkeypatch.chdir(tmp_path)
    interrupt_after(100)
    assert cli.main([*COMMAND, "--checkpoint", "a.ckpt", "--every", "9", "--out", "out"]) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("stedyn: interrupted; a.ckpt holds the state: the same command goes on.")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
    assert cli.main([*COMMAND, "--checkpoint", "a.ckpt", "--json"]) == 0
    assert '"partial": false' in capsys.readouterr().out


def test_the_command_writes_a_partial_result(tmp_path, monkeypatch, capsys, interrupt_after):
    monkeypatch.chdir(tmp_path)
    interrupt_after(100)
    assert cli.main([*COMMAND, "--out", "out"]) == 130
    printed = capsys.readouterr()
    assert '"partial": true' in (tmp_path / "out" / "simulate.json").read_text()
    assert "# interrupted: the last times are missing" in (tmp_path / "out" / "simulate.csv").read_text()
    assert printed.err.count("stedyn: ") == 1
    assert "interrupted at tau = " in printed.err
    assert ", interrupted" in printed.out


# ---- kill -9

PROGRAM = textwrap.dedent(
    """
    import sys
    import jax
    jax.config.update("jax_enable_x64", True)
    from stedyn import Problem, Quantizer, SGD, simulate
    problem = Problem(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1))
    print("started", flush=True)
    simulate(problem, dim=129, seeds=3, seed=4, taus=[0.0, 1000.0, 4000.0], snapshots=[5.5], chunk=2000,
             checkpoint=sys.argv[1], every=0.02)
    print("finished", flush=True)
    """
)
LONG = SHORT | {"taus": [0.0, 1000.0, 4000.0], "snapshots": [5.5], "chunk": 2000}


def kill_and_go_on(folder, times, seed):
    """Kill the same program until it has been killed ``times`` times or is done; the number of kills."""
    rng, kills = np.random.default_rng(seed), 0
    file = folder / "run.ckpt"
    while kills < times:
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(file)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout.readline() == "started\n"
            deadline = time.monotonic() + 60
            before = file.stat().st_mtime_ns if file.exists() else None
            while child.poll() is None and time.monotonic() < deadline:
                if file.exists() and file.stat().st_mtime_ns != before:  # it is under way
                    time.sleep(rng.uniform(0.0, 0.1))
                    break
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            if "finished" in child.stdout.read():
                break
            kills += 1
    return kills


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    assert kill_and_go_on(tmp_path, 1, seed=0) == 1
    again = simulate(R1, **LONG, checkpoint=tmp_path / "run.ckpt")
    assert same(again, simulate(R1, **LONG))


@pytest.mark.slow
def test_twenty_killed_runs_go_on_to_the_same_bits(tmp_path):
    expected, kills = simulate(R1, **LONG), 0
    for k in range(20):
        folder = tmp_path / str(k)
        folder.mkdir()
        kills += kill_and_go_on(folder, 1, seed=k + 1)
        assert same(simulate(R1, **LONG, checkpoint=folder / "run.ckpt"), expected)
    assert kills >= 18


# ---- memory

MEMORY = textwrap.dedent(
    """
    import json, re, sys
    from pathlib import Path
    import jax
    jax.config.update("jax_enable_x64", True)
    from test_long_runs import LARGE, simulate

    def peak():  # ru_maxrss would count what the parent had, too
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

    problem, peaks = LARGE[sys.argv[1]], []
    for k, dim in enumerate([10**6, 4 * 10**6]):
        file = f"{sys.argv[2]}{k}"
        simulate(problem, dim=dim, seeds=1, taus=[0.0, 60 / dim], chunk=20, checkpoint=file, every=0.2)
        peaks.append(peak())
    print(json.dumps((peaks[1] - peaks[0]) / 3e6))
    """
)
LARGE = {
    "R1": R1,
    "floats": Problem(weights=Quantizer(12, 2.0), noise_std=0.1),
    "stochastic": Problem(
        weights=Quantizer(2, 2.0, rounding="stochastic"), inputs=Quantizer(2, 2.0, rounding="stochastic")
    ),
    "variances": Problem(covariance=Covariance.power_law(0.5), weights=R1.weights, inputs=R1.inputs),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/status")
@pytest.mark.parametrize("name", LARGE)
def test_a_weight_takes_no_more_memory_than_planned(tmp_path, name):
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    command = [sys.executable, "-c", MEMORY, name, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    planned = memory_of(LARGE[name], 2, 1, 2) - memory_of(LARGE[name], 1, 1, 2)  # to a quarter
    assert 20 < json.loads(done.stdout) < min(200, 1.25 * planned)
