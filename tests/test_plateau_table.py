"""The command plateaus: one row a plateau, the closed form of the same height beside it, one figure."""

import json

import numpy as np
import pandas as pd
import pytest

from stedyn import Plateau, plots, small_lr_stairs
from stedyn.cli import app as cli
from stedyn.cli.options import build_problem
from stedyn.cli.plateaus import RUN
from stedyn.design import plateau_tables
from stedyn.files.tables import PLATEAU_TABLES


class Solved:
    """A solution with a first plateau on level 0 that ends early, and one that is open."""

    def __init__(self, problem, **given):
        leave = small_lr_stairs(problem)[0].leave
        self.found = [
            Plateau(0.0, 0.8 * leave, 0.8 * leave, 1.0, 0.4, 1.1 * leave),
            Plateau(2 * leave, None, None, 0.3, None, None),
        ]
        if problem.weights.bits == 4:
            self.found = []

    def plateaus(self):
        return self.found

    def ending(self):
        return "" if self.found else "sinking towards the fixed point 0"


@pytest.fixture(autouse=True)
def solved(monkeypatch):
    monkeypatch.setattr(plateau_tables, "solve", Solved)


def run(*flags):
    return cli.main(["plateaus", *flags])


def test_a_row_holds_the_limit_beside_the_closed_form(capsys):
    assert run("--bits", "3", "4", "--ranges", "0.8", "1.2", "--lrs", "0.01", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    rows = pd.DataFrame(record["rows"])
    assert record["problem"]["start"]["std"] == 0.02
    pairs = [(3, 0.8)] * 2 + [(3, 1.2)] * 2 + [(4, 0.8), (4, 1.2)]
    assert list(zip(rows["bits"], rows["range"], strict=True)) == pairs
    first = rows[rows["number"] == 1]
    step = first["range"] / 3
    np.testing.assert_allclose(first["escape_small_lr"], step / 2 / 0.01)
    np.testing.assert_allclose(first["escape"], 1.1 * first["escape_small_lr"])
    np.testing.assert_allclose(first["length_small_lr"], first["escape_small_lr"])
    assert rows[rows["number"] == 2]["escape"].isna().all()


def test_text_and_files(tmp_path, capsys):
    assert (
        run(
            "--bits", "2", "4", "--tau", "70", "--out", str(tmp_path / "o"), "--plot", str(tmp_path / "p.svg")
        )
        == 0
    )
    printed = capsys.readouterr()
    assert (
        "2 bits, range 1, lr 0.02: plateau 2 from tau 50 on at error 0.3, still flat at the horizon"
        in printed.out
    )
    assert "4 bits, range 1, lr 0.02: no plateau" in printed.out
    assert "4 bits, range 1, lr 0.02: sinking towards the fixed point 0" in printed.out
    assert "2 bit widths are compiled" in printed.err
    files = {path.name for path in (tmp_path / "o").iterdir()}
    assert files == {"plateaus.json", "plateaus.csv", "plateaus.png", "problem.toml"}
    assert (tmp_path / "p.svg").exists()


def test_the_figure_has_every_plateau():
    flags = dict.fromkeys(["problem", "set_", *_flags()])
    problem = build_problem(flags, PLATEAU_TABLES | {"run": RUN})
    found = plateau_tables.plateau_table(problem, bits=[2], ranges=[0.8, 1.0, 1.2])
    left, right = plots.plateaus_figure(found).axes
    assert left.get_xlabel() == "range of the weights"
    drawn = np.concatenate([line.get_ydata() for line in left.lines if line.get_marker() == "o"]).astype(
        float
    )
    assert np.sort(drawn[np.isfinite(drawn)]) == pytest.approx(
        np.sort([row.plateau.escape for row in found.rows if row.plateau and row.plateau.escape])
    )
    opened = np.concatenate([line.get_ydata() for line in right.lines if line.get_marker() == "^"]).astype(
        float
    )
    assert list(opened) == [400.0] * 3


def _flags():
    from stedyn.cli.options import _FLAGS

    return _FLAGS


def test_faults_are_sentences(capsys):
    assert run("--bits", "9") == 2
    assert run("--ranges", "0") == 2
    assert run("--rule", "multinomial", "--lrs", "0.1") == 2
    assert capsys.readouterr().err.count("expected") == 3


@pytest.mark.parametrize("command", ["plateaus", "predict", "compare"])
def test_help_states_the_definition(command, capsys):
    assert cli.main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "ends where a tenth of its own drop is done" in text
