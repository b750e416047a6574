"""Signals, kills and full disks against the command itself: nothing is lost, and nothing stays behind."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
RUN = [
    "simulate",
    "--kind",
    "none",
    "--dim",
    "200",
    "--seeds",
    "2",
    "--tau",
    "1500",
    "--points",
    "5",
    "--json",
]


def started(folder, *argv, **given):
    command = [sys.executable, "-m", "stedyn", *argv]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given
    )


def finished(folder, *argv, **given):
    with started(folder, *argv, **given) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def numbers(out):
    import json

    return {key: value for key, value in json.loads(out).items() if key in ("tau", "error_mean", "error_std")}


def test_kills_at_any_moment_lose_nothing(tmp_path):
    expected = numbers(finished(tmp_path, *RUN)[1])
    rng = random.Random(0)
    for k in range(4):
        name, number = f"{k}.ckpt", rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        argv = [*RUN, "--checkpoint", name, "--every", "0.05"]
        with started(tmp_path, *argv) as process:
            time.sleep(rng.uniform(0.0, 8.0))
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        assert "Traceback" not in err or process.returncode < 0
        code, out, err = finished(tmp_path, *argv)
        assert (code, err) == (0, "")
        assert numbers(out) == expected
    assert not [path.name for path in tmp_path.iterdir() if path.suffix != ".ckpt"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_are_answered(tmp_path, number, code):
    with started(tmp_path, *RUN, "--tau", "100000", "--checkpoint", "a.ckpt", "--every", "0.1") as process:
        while not (tmp_path / "a.ckpt").exists():
            time.sleep(0.1)
        process.send_signal(number)
        begin = time.monotonic()
        err = process.communicate(timeout=60)[1]
    assert time.monotonic() - begin < 10
    assert process.returncode == code
    assert err.startswith("stedyn: interrupted; a.ckpt holds the state")
    assert len(err.splitlines()) == 1


def test_a_second_process_is_refused(tmp_path):
    argv = [*RUN, "--tau", "100000", "--checkpoint", "a.ckpt", "--every", "0.1"]
    with started(tmp_path, *argv) as process:
        while not (tmp_path / "a.ckpt").exists():
            time.sleep(0.1)
        code, _, err = finished(tmp_path, *argv)
        process.kill()
    assert (code, len(err.splitlines())) == (2, 1)
    assert "another process works on this checkpoint" in err


def test_files_that_may_not_grow(tmp_path):
    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    import matplotlib.font_manager  # noqa: F401  its list of fonts is made once on a machine, and kept in a file

    environment = dict(os.environ, STEDYN_CACHE="off")
    for argv in (["--out", "o"], ["--plot", "a.png"]):
        code, _, err = finished(tmp_path, *RUN, "--tau", "5", *argv, preexec_fn=small, env=environment)
        assert (code, len(err.splitlines())) == (1, 1), err
        assert "File too large" in err
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []
    argv = [*RUN, "--tau", "5", "--checkpoint", "a.ckpt"]
    code, _out, err = finished(tmp_path, *argv, preexec_fn=small, env=environment)
    assert code == 0
    assert "cannot write a.ckpt" in err
    assert len(err.splitlines()) == 1


ROWS = "what,dim,seeds,run.tau,run.points,weights.kind\n" + "".join(
    f"simulate,{200 + 8 * k},1,{tau},3,none\n" for k, tau in enumerate((500, 500, 500, 500))
)


def workers_of(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = path.read_text().rpartition(")")[2].split()
            if (
                int(rest[1]) == pid
                and rest[0] != "Z"
                and b"spawn_main" in (path.parent / "cmdline").read_bytes()
            ):
                found.append(int(path.parent.name))
        except (OSError, ValueError):
            pass
    return found


def waited(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_sweep_whose_worker_is_killed_computes_all(tmp_path):
    (tmp_path / "t.csv").write_text(ROWS)
    with started(tmp_path, "sweep", "t.csv", "--out", "o", "--workers", "2") as process:
        os.kill(waited(lambda: workers_of(process.pid))[0], signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("4 of 4 rows are in o")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_sigterm_ends_a_sweep_and_its_workers(tmp_path):
    (tmp_path / "t.csv").write_text(ROWS)
    with started(tmp_path, "sweep", "t.csv", "--out", "o", "--workers", "2") as process:
        workers = waited(lambda: len(found := workers_of(process.pid)) == 2 and found)
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert err.startswith("stedyn: interrupted; the rows that were done are in o")
    assert len(err.splitlines()) == 1
    waited(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)


def test_another_instruction_set_is_noticed(tmp_path):
    """XLA is told to do without fused products and sums, as on an older processor."""
    argv = [*RUN, "--checkpoint", "a.ckpt", "--every", "0.1"]
    with started(tmp_path, *argv) as process:
        waited((tmp_path / "a.ckpt").exists)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    older = dict(os.environ, XLA_FLAGS="--xla_cpu_max_isa=AVX")
    code, _, err = finished(tmp_path, *argv, "--exact", env=older)
    assert (code, len(err.splitlines())) == (2, 1)
    assert re.search(r"instruction set was .* and is .* at most AVX; go on there, or without --exact", err)
    code, _, err = finished(tmp_path, *argv, env=older)
    assert code == 0
    assert re.search(
        r"another arithmetic: instruction set was .*; the run goes on, but not to the same bits", err
    )


def limited(*numbers):
    """Limits of a process: of its address space here, in bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_AS, numbers)


LARGE = ["simulate", "--dim", "20000000", "--seeds", "6", "--tau", "1e-6", "--points", "2"]


def test_memory_that_ulimit_denies_is_said_before(tmp_path):
    code, _, err = finished(tmp_path, *LARGE, preexec_fn=limited(5 * 10**9, 5 * 10**9))
    assert (code, len(err.splitlines())) == (2, 1)
    assert re.search("will take about .* GiB of memory, of which .* are free", err)


def test_xla_out_of_memory_is_a_sentence(tmp_path):
    code, _, err = finished(tmp_path, *LARGE, "--yes", preexec_fn=limited(6 * 10**9, 6 * 10**9))
    assert code == 1
    assert err.splitlines()[-1] == "stedyn: there is not enough memory for XLA; make the problem smaller."


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_full_disk(tmp_path):
    """A file system of 64 KiB: outputs are refused and leave nothing, a checkpoint is warned about."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this container mounts nothing")
    try:
        (disk / "filling").write_bytes(bytes(60 * 1024))
        code, _, err = finished(tmp_path, *RUN, "--tau", "5", "--out", "disk/o")
        assert (code, len(err.splitlines())) == (1, 1), err
        assert "No space left on device" in err
        assert [path.name for path in disk.rglob("*") if path.is_file()] == ["filling"]
        code, _, err = finished(tmp_path, *RUN, "--tau", "5", "--checkpoint", "disk/a.ckpt")
        assert (code, len(err.splitlines())) == (0, 1), err
        assert "cannot write disk/a.ckpt (No space left on device); the run goes on" in err
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_signal_while_xla_runs_is_answered(tmp_path):
    """A solve whose passes take minutes each."""
    (tmp_path / "a.toml").write_text(
        'teacher = {kind = "gaussian"}\nweights = {kind = "mid-rise", bits = 3, range = 1.0}'
    )
    with started(tmp_path, "predict", "a.toml", "--tau", "1000", "--tol", "1e-8") as process:
        time.sleep(20.0)  # past its imports, on a slow machine as well
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        err = process.communicate(timeout=60)[1]
    assert time.monotonic() - begin < 10
    assert (process.returncode, err) == (130, "stedyn: interrupted; what was being computed is lost.\n")
