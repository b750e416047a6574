"""Curves that a user's own program has measured: the verdict of a simulation, other units, faults."""

import json

import numpy as np
import pytest

from stedyn import SGD, InputError, Measured, Problem, Run, Start, compare, load, simulate, solve
from stedyn.cli.app import main

NOISE = 0.3
PROBLEM = Problem(start=Start.gaussian(0.2, 0.7), rule=SGD(0.4), noise_std=NOISE, run=Run(4.0, 9))


@pytest.fixture(scope="module")
def both():
    return solve(PROBLEM), simulate(PROBLEM, dim=200, seeds=6)


def losses(ensemble) -> str:
    """A training log: half the squared error, label noise in it, by steps, one column a run."""
    rows = np.column_stack([ensemble.steps, (ensemble.error.T + NOISE**2) / 2])
    names = ",".join(["step", *(f"loss_{s}" for s in range(ensemble.seeds))])
    return "\n".join([names, *(",".join(repr(float(x)) for x in row) for row in rows)])


def test_a_training_log_has_the_verdict_of_its_simulation(both, tmp_path):
    solution, ensemble = both
    (tmp_path / "log.csv").write_text(losses(ensemble))
    units = dict(loss="half-mse", includes_noise=True, noise_std=NOISE)
    runs = Measured.read(tmp_path / "log.csv", 200, **units)
    assert np.allclose(runs.tau, ensemble.tau)
    assert np.allclose(runs.error, ensemble.error, rtol=1e-12)
    ours, theirs = compare(solution, runs), compare(solution, ensemble)
    assert ours.relative_gap == pytest.approx(theirs.relative_gap)
    assert ours.agreement == theirs.agreement == "agree"
    assert ours.histogram is None
    assert len(runs.to_pandas()) == 6 * 9
    again = load(ours.save(tmp_path / "comparison.npz"))
    assert np.array_equal(again.ensemble.error, runs.error)
    assert str(again) == str(ours)
    assert compare(solution, Measured(runs.tau, 1.5 * runs.error, 200)).agreement == "differ"
    assert ours.spread is None  # several noisy runs say themselves how far they stray
    one = compare(solution, Measured(runs.tau, runs.error[0], 200))
    assert one.agreement == "agree"
    assert "predicts for d = 200 (of an error without noise of test samples)" in one.verdict
    assert compare(solution, Measured(runs.tau, 3 * runs.error[0], 200)).agreement == "differ"


def test_what_simulate_writes_can_be_read(both, tmp_path):
    _, ensemble = both
    ensemble.to_pandas().to_csv(tmp_path / "simulate.csv", index=False)
    runs = Measured.read(tmp_path / "simulate.csv", 200)
    assert np.allclose(runs.tau, ensemble.tau)
    assert np.allclose(runs.error, ensemble.error, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2", "expected a column tau or step and a column error or loss"),
        ("tau,error", "with rows"),
        ("tau,error\n0,1\n1,", "column error, row 2: expected a number, found ''"),
        ("tau,error\n0,1\n1,inf", "expected a number, found 'inf'"),
        ("tau,error\n1,1\n0,1", "tau: expected at least two increasing times"),
        ("tau,error\n0,1", "tau: expected at least two increasing times"),
        ("tau,seed,error\n0,1,1\n0,1,2", "every tau once for a seed"),
        ("tau,seed,error\n0,1,1\n1,1,1\n0,2,1\n2,2,1", "expected a number, found nan"),
    ],
)
def test_faults_of_a_file_are_sentences(text, sentence, tmp_path):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        Measured.read(tmp_path / "log.csv", 10)


def test_faults_of_arrays_are_sentences():
    for given in (([0, 1], [[1, 2, 3]]), ([0, 1], [1, np.nan]), ([0, 1], [[[1]]]), ("ab", [1, 2])):
        with pytest.raises(InputError):
            Measured(*given, 10)
    with pytest.raises(InputError, match="dim"):
        Measured([0, 1], [1, 2], 0)


def test_command(both, tmp_path, capsys):
    (tmp_path / "log.csv").write_text(losses(both[1]))
    problem = ["--kind=none", "--set=inputs.kind=none", f"--noise-std={NOISE}", "--lr=0.4"]
    problem += ["--set=start.mean=0.2", "--set=start.std=0.7"]
    command = ["compare", *problem, f"--data={tmp_path}/log.csv", "--includes-noise", "--loss=half-mse"]
    assert main([*command, "--dim=200", "--json", f"--out={tmp_path}/out"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["agreement"], record["seeds"], record["dim"]) == ("agree", 6, 200)
    runs = Measured(both[1].tau, both[1].error, 200)
    assert record["p_value"] == pytest.approx(compare(both[0], runs).p_value, rel=1e-2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "compare.json", "compare.png", "measurement.csv", "problem.toml", "theory.csv",
    }  # fmt: skip
    for wrong, sentence in (
        (command, "--dim: expected the input dimension"),
        ([*command, "--dim=200", "--seeds=3"], "--seeds: expected none here, because nothing is simulated"),
        (
            [*command, "--dim=200", "--tau=3"],
            "--tau: expected none here, because the times are those of --data",
        ),
        (["compare", "--loss=mse"], "--loss: expected none here, because without --data no curves are read"),
    ):
        assert main(wrong) == 2
        assert sentence in capsys.readouterr().err
