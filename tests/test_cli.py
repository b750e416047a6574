"""The command line: its JSON, its files, and one sentence with exit code 2 for every fault of the input."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tomli_w

from stedyn.cli import app as cli
from stedyn.cli import options
from stedyn.files.tables import DEFAULT_TABLES

BAD = {
    "predict no.toml": "no.toml: there is no such file",
    "predict .": "cannot be read",
    "predict bad.toml": "not valid TOML",
    "predict unknown.toml": "unknown key of [rule] 'lrr'",
    "predict two.toml --bits 99": "two.toml with these flags: weights.bits: expected a whole number from 1 to 16",
    "predict --bits 0": "weights.bits: expected a whole number from 1 to 16, found 0",
    "predict --bits 99": "weights.bits: expected a whole number from 1 to 16, found 99",
    "predict --bits two": "Invalid value for '--bits'",
    "predict --bits 1.5": "Invalid value for '--bits'",
    "predict --bits": "--bits",
    "predict --range 0": "weights.range: expected a positive number, found 0",
    "predict --range nan": "weights.range: expected a finite number, found nan",
    "predict --range inf": "weights.range: expected a finite number, found inf",
    "predict --kind midrise": "weights.kind: expected one of 'mid-rise'",
    "predict --kind sign --bits 2": "weights.bits: expected 1 for kind 'sign'",
    "predict --edge both": "weights.edge: expected one of 'level', 'bin'",
    "predict --rounding up": "weights.rounding: expected one of",
    "predict --ste relu": "weights.ste: expected one of",
    "predict --latent-clip -1": "weights.latent_clip: expected a positive number",
    "predict --input-bits 17": "inputs.bits: expected a whole number",
    "predict --input-range -2": "inputs.range: expected a positive number",
    "predict --lr -0.1": "rule.lr: expected a positive number, found -0.1",
    "predict --lr nan": "rule.lr: expected a finite number, found nan",
    "predict --weight-decay -1": "rule.weight_decay: expected zero or a positive number",
    "predict --noise-std -0.5": "noise.std: expected zero or a positive number",
    "predict --tau 0": "run.tau: expected a positive number, found 0",
    "predict --points 1": "run.points: expected a whole number from 2",
    "predict --set rule.eta=1": "did you mean 'lr'?",
    "predict --set rule.lr": "--set: expected TABLE.KEY=VALUE",
    "predict --set inputs.law=cauchy": "inputs.law: expected one of 'gaussian', 'relu'",
    "predict --set inputs.kind=twos-complement --ste clipped": "weights: expected ste = 'identity' and no latent clip",
    "predict --set weights.levels=[1,0] --set weights.kind=levels": "weights.levels: expected strictly increasing",
    "predict --law magic": "law: expected one of",
    "predict --tol 0": "tol: expected",
    "predict --tol nan": "tol: expected",
    "predict --plot a.gif": "--plot: expected a file ending in .png, .pdf, .svg",
    "predict --plot nowhere/a.png": "--plot: expected a file in a folder that exists",
    "predict --plot folder.png": "--plot: expected a file, found the folder",
    "predict --out two.toml": "--out: expected a folder, found the file",
    "predict --out two.toml/deeper": "--out: expected a folder, found the file",
    "predict --out /proc/stedyn": "--out: expected a folder that can be written",
    "predict --seeds 10": "No such option: --seeds",
    "predict one.toml two.toml": "unexpected extra argument",
    "simulate --dim 0": "Invalid value for '--dim'",
    "simulate --seeds 0": "Invalid value for '--seeds'",
    "simulate --seed -1": "Invalid value for '--seed'",
    "simulate --law grid": "No such option: --law",
    "compare --lr -1 --plot a.png": "rule.lr: expected a positive number",
    "compare --lr -1 --out new": "rule.lr: expected a positive number",
    "compare --plot a.gif": "--plot: expected a file ending in",
    "fixed-point --lr -1": "rule.lr: expected a positive number",
    "fixed-point --plot a.png": "No such option: --plot",
    "predct": "No such command 'predct'",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a few problem files."""
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text("[rule\n")
    Path("unknown.toml").write_text("[rule]\nlrr = 0.1\n")
    Path("two.toml").write_text("[weights]\nbits = 2\nrange = 2.0\n")
    Path("r1.toml").write_text(tomli_w.dumps(DEFAULT_TABLES))
    Path("folder.png").mkdir()
    return tmp_path


def one_line(text):
    return text.count("\n") == 1 and text.endswith("\n")


@pytest.mark.parametrize("line", BAD)
def test_a_fault_of_the_input(folder, capsys, line):
    before = sorted(folder.rglob("*"))
    assert cli.main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("stedyn: ")
    assert one_line(printed.err)
    assert BAD[line] in printed.err
    assert sorted(folder.rglob("*")) == before


def test_a_cold_shell_answers_a_fault_without_a_traceback(tmp_path):
    program = "import sys; from stedyn.cli.app import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "predict", "--bits", "99"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert one_line(done.stderr)
    assert not list(tmp_path.iterdir())


def test_help_and_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("stedyn 0")
    assert cli.main([]) == 0
    assert "fixed-point" in capsys.readouterr().out
    assert cli.main(["predict", "--help"]) == 0
    assert "--input-bits" in capsys.readouterr().out


def flags(**given):
    names = [*options._FLAGS, "problem", "set_"]
    return dict.fromkeys(names) | given


def test_without_a_file_the_problem_is_r1():
    problem = options.build_problem(flags())
    assert (problem.weights.bits, problem.weights.range, problem.weights.kind) == (2, 2.0, "mid-rise")
    assert (problem.inputs.bits, problem.inputs.range, problem.rule.lr) == (2, 2.0, 0.1)
    assert (problem.noise_std, problem.run.tau) == (0.0, 100.0)


@pytest.mark.parametrize(
    ("given", "read", "expected"),
    [
        ({"bits": 3}, lambda p: p.weights.bits, 3),
        ({"range": 1.5}, lambda p: p.weights.range, 1.5),
        ({"kind": "mid-tread"}, lambda p: p.weights.kind, "mid-tread"),
        ({"kind": "sign"}, lambda p: (p.weights.kind, p.weights.bits), ("sign", 1)),
        ({"kind": "none"}, lambda p: p.weights.is_none, True),
        (
            {"kind": "none", "bits": None, "ste": "clipped"},
            lambda p: (p.ste, p.weights.range),
            ("clipped", 2.0),
        ),
        ({"edge": "bin"}, lambda p: p.weights.edge, "bin"),
        ({"rounding": "stochastic"}, lambda p: p.weights.rounding, "stochastic"),
        ({"ste": "clipped"}, lambda p: p.ste, "clipped"),
        ({"latent_clip": 1.5}, lambda p: p.latent_clip, 1.5),
        ({"input_bits": 3}, lambda p: p.inputs.bits, 3),
        ({"input_range": 1.5}, lambda p: p.inputs.range, 1.5),
        ({"lr": 0.3}, lambda p: p.rule.lr, 0.3),
        ({"weight_decay": 0.1}, lambda p: p.rule.weight_decay, 0.1),
        ({"noise_std": 0.1}, lambda p: p.noise_std, 0.1),
        ({"tau": 5.0, "points": 6}, lambda p: p.taus.tolist(), [0, 1, 2, 3, 4, 5]),
        (
            {"set_": ["inputs.kind=none", "start.std=0.02"]},
            lambda p: (p.inputs.is_none, p.start.std),
            (True, 0.02),
        ),
        ({"lr": 0.3, "set_": ["rule.lr=0.4"]}, lambda p: p.rule.lr, 0.4),
    ],
)
def test_a_flag_overrides_its_key(given, read, expected):
    assert read(options.build_problem(flags(**given))) == expected


def test_flags_override_a_file(folder):
    Path("p.toml").write_text("[run]\ntaus = [0.0, 1.0]\n[rule]\nlr = 0.5\n")
    problem = options.build_problem(flags(problem=Path("p.toml"), tau=7.0, ste="identity", latent_clip=3.0))
    assert (problem.run.tau, problem.run.explicit, problem.rule.lr) == (7.0, None, 0.5)
    assert problem.weights.is_none
    assert problem.latent_clip == 3.0


SMALL = ["--tau", "2", "--points", "9"]
RUNS = ["--dim", "60", "--seeds", "2"]
NUMBERS = {
    "predict": ("tau", "error", "m", "q"),
    "simulate": ("tau", "error_mean", "error_std"),
    "compare": ("tau", "error", "error_mean", "error_std", "gap_in_standard_errors"),
    "fixed-point": (),
}
KEYS = {
    "predict": {"plateaus", "minimum", "final_error", "law", "error_estimate", "least_error", "status"},
    "simulate": {"seeds", "dim", "steps", "seconds", "coordinate_steps_per_second", "device"},
    "compare": {
        "plateaus_theory",
        "plateaus_simulation",
        "verdict",
        "law",
        "final_error",
        "seeds",
        "device",
        "agreement",
        "p_value",
        "detectable_gap",
        "level",
        "parts",
        "differing",
    },
    "fixed-point": {
        *("error", "excess", "saturated_fraction", "stable", "status"),
        *("relaxation_time", "oscillates", "period", "others", "searched", "horizon"),
    },
}
FLAGS = {
    "predict": [*SMALL, "--law", "fluid"],
    "simulate": [*SMALL, *RUNS],
    "compare": [*SMALL, *RUNS, "--law", "fluid"],
    "fixed-point": ["--noise-std", "0.1"],
}


@pytest.mark.parametrize("command", FLAGS)
def test_json_is_one_object_and_nothing_else(folder, capsys, command):
    before = sorted(folder.rglob("*"))
    assert cli.main([command, *FLAGS[command], "--json"]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert one_line(printed.out)
    assert printed.err == ""
    assert sorted(folder.rglob("*")) == before
    assert KEYS[command] | set(NUMBERS[command]) | {"problem", "version"} <= record.keys()
    for name in NUMBERS[command]:
        assert len(record[name]) == 9
        assert all(isinstance(value, float) for value in record[name])
    assert record["problem"]["weights"]["kind"] == "mid-rise"
    if command == "predict":
        assert record["minimum"].keys() == {"tau", "error"}
        assert record["final_error"] == record["error"][-1]
    if command == "simulate":
        assert (record["steps"], record["dim"], record["seeds"]) == (120, 60, 2)


def test_a_run_that_diverges_is_a_failure(capsys):
    line = [
        "simulate",
        "--kind",
        "none",
        "--lr",
        "3",
        "--dim",
        "40",
        "--seeds",
        "2",
        "--tau",
        "20",
        "--points",
        "3",
    ]
    assert cli.main(line) == 1
    assert "grows without bound: the run diverges" in capsys.readouterr().err


def test_json_of_a_plateau(capsys):
    flags_ = ["--kind", "mid-tread", "--range", "1", "--set", "start.std=0.02", "--lr", "0.02", "--tau", "60"]
    assert cli.main(["predict", *flags_, "--set", "inputs.kind=none", "--law", "fluid", "--json"]) == 0
    (plateau,) = json.loads(capsys.readouterr().out)["plateaus"]
    assert plateau.keys() == {"start", "end", "length", "height", "next_height", "escape", "falling"}
    assert plateau["escape"] == pytest.approx(25, rel=0.02)  # (step / 2) / lr


@pytest.mark.parametrize("command", FLAGS)
def test_the_text_names_its_conventions(capsys, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, *FLAGS[command]]) == 0
    text = capsys.readouterr().out
    assert "tau = steps / d" in text
    assert "no factor 1/2" in text
    assert "leaves the label noise out" in text
    assert "2 bits, range 2, mid-rise, level edge" in text
    figures = [path.name for path in tmp_path.iterdir()]
    assert figures == (["stedyn-compare.png"] if command == "compare" else [])


def test_out_holds_everything(folder, capsys):
    line = ["compare", "two.toml", *SMALL, *RUNS, "--law", "fluid", "--out", "new/results", "--plot", "c.pdf"]
    assert cli.main([*line, "--json"]) == 0
    printed = capsys.readouterr()
    names = {path.name for path in Path("new/results").iterdir()}
    assert names == {"compare.json", "theory.csv", "simulation.csv", "problem.toml", "compare.png"}
    assert Path("new/results/compare.json").read_text() == printed.out
    assert "c.pdf" in printed.err
    assert Path("c.pdf").read_bytes().startswith(b"%PDF")
    assert Path("new/results/compare.png").read_bytes().startswith(b"\x89PNG")
    theory = pd.read_csv("new/results/theory.csv", comment="#")
    np.testing.assert_allclose(theory["error"], json.loads(printed.out)["error"])
    assert "# tau = steps / d" in Path("new/results/theory.csv").read_text()
    # the problem that was written is the problem that was solved
    assert cli.main(["compare", "new/results/problem.toml", *RUNS, "--law", "fluid", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["error_mean"] == json.loads(printed.out)["error_mean"]


def test_out_of_the_other_commands(folder, capsys):
    for command in ("predict", "simulate", "fixed-point"):
        assert cli.main([command, *FLAGS[command], "--out", command]) == 0
        names = {path.name for path in Path(command).iterdir()}
        expected = {f"{command}.json", "problem.toml"}
        if command != "fixed-point":
            expected |= {f"{command}.csv", f"{command}.png"}
        assert names == expected


def test_an_interrupt_is_one_sentence_and_writes_nothing(folder, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("stedyn.simulation"), "simulate", interrupt)
    before = sorted(folder.rglob("*"))
    assert cli.main(["simulate", *SMALL, *RUNS, "--out", "new"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_a_full_disk_is_one_sentence(folder, capsys, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("stedyn.files.report.write_atomic", full)
    assert cli.main(["simulate", *SMALL, *RUNS, "--plot", "s.png"]) == 1
    message = capsys.readouterr().err
    assert message == "stedyn: cannot write s.png (No space left on device).\n"
    assert plt.get_fignums() == []


def test_a_shell_completes_commands_and_flags(monkeypatch, capsys):
    for words, expected in (
        ("stedyn pre", ["predict"]),
        ("stedyn plateaus --b", ["--batch", "--beta1", "--bits"]),
    ):
        given = {
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
            "_STEDYN_COMPLETE": "complete_bash",
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            cli.main([])
        assert ended.value.code == 0
        assert sorted(capsys.readouterr().out.split()) == expected


@pytest.mark.parametrize("command", ["predict", "compare", "plateaus"])
def test_help_defines_a_plateau(command, capsys):
    assert cli.main([command, "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "nine tenths of the drop" in words
    assert "{plateau}" not in words


def test_commands_leave_the_flag_of_jax_alone(monkeypatch, capsys):
    monkeypatch.setattr("jax.config.update", lambda *given: pytest.fail(f"the flag was set: {given}"))
    assert cli.main(["fixed-point", "--set", "start.path=none", "--set", "start.kind=file"]) == 2
    assert cli.main(["sweep", "none.csv", "--out", "none"]) == 2


def test_faults_are_answered_before_jax_is_imported():
    code = "import sys, stedyn.cli.app; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_what_is_slow_to_import_is_left_to_the_commands_that_need_it():
    rooms = (
        "stedyn.limit.solver, stedyn.limit.fixed_points, stedyn.design.choices, stedyn.design.layer_report"
    )
    code = f"import sys, {rooms}; sys.exit(' '.join({{'scipy.stats', 'scipy.signal', 'matplotlib'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_to_a_program_that_is_done_changes_nothing():
    code = (
        "import os, signal, sys; from stedyn.cli.app import main; sys.argv = ['stedyn', '--version']; code = main(); "
        "os.kill(os.getpid(), signal.SIGINT); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
