"""How many runs of which dimension show a difference."""

import json

import pytest

from stedyn import Covariance, plan
from stedyn.checks import InputError
from stedyn.cli import app
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD, Adam, Sign

TWO_BIT = Quantizer(2, 2.0)
R2 = Problem(weights=Quantizer(3, 1.5), inputs=TWO_BIT, rule=SGD(0.3), noise_std=0.1, run=Run(20.0, 5))


@pytest.fixture
def timed(monkeypatch):
    """A nanosecond a coordinate and a microsecond a step, on two cores; nothing is compiled."""
    monkeypatch.setattr("stedyn.design.planning.seconds_of_a_step", lambda problem, dim: 1e-6 + 1e-9 * dim)
    monkeypatch.setattr("stedyn.design.planning.cores", lambda: 2)


def test_seeds_and_dimensions_that_show_a_gap(timed):
    found = plan(R2, 0.02)
    assert [row.dim for row in found.rows] == [400 * 2**k for k in range(len(found.rows))]
    for row in found.rows:
        assert row.detectable_gap <= found.gap
        assert row.bias_bound <= found.gap / 4
        # one seed fewer would not do: what is seen falls as 1 / sqrt(seeds)
        assert row.seeds == 1 or row.detectable_gap * (row.seeds / (row.seeds - 1)) ** 0.5 > found.gap
        assert row.steps == 20 * row.dim
    assert found.rows[0].seconds == pytest.approx(8000 * 1.4e-6 * found.rows[0].seeds / 2)
    assert found.cheapest.seconds == min(row.seconds for row in found.rows)
    assert f"stedyn compare --dim {found.cheapest.dim} --seeds {found.cheapest.seeds}" in str(found)
    half = plan(R2, 0.01).rows[0]
    assert half.dim == found.rows[1].dim == 800
    assert half.seeds == pytest.approx(4 * found.rows[1].seeds, abs=4)


def test_the_command_prints_json(timed, capsys, tmp_path):
    assert (
        app.main(["plan", "--gap", "0.05", "--tau", "5", "--points", "5", "--json", "--out", str(tmp_path)])
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert record["cheapest"] in record["choices"]
    assert {path.name for path in tmp_path.iterdir()} == {"plan.csv", "plan.json", "problem.toml"}


@pytest.mark.parametrize(
    ("problem", "gap", "message"),
    [
        (R2, 1.0, "gap: expected a relative difference below 1"),
        (R2, 0.0, "gap: expected a positive number"),
        (R2, 1e-8, "gap: expected at least"),
        (Problem(rule=Adam(0.1)), 0.1, "rule: expected 'sgd'"),
        (Problem(rule=Sign(0.1)), 0.1, "rule: expected 'sgd' or 'shrinkage' without momentum for a plan"),
        (Problem(rule=SGD(0.1, momentum=0.5)), 0.1, "rule: expected 'sgd' or 'shrinkage' without momentum"),
        (Problem(weights=TWO_BIT, latent_clip=2.0), 0.1, "weights.latent_clip: expected none for a plan"),
        (Problem(covariance=Covariance.power_law(0.5)), 0.1, "covariance: expected none that is a power law"),
    ],
)
def test_what_cannot_be_planned_is_refused(problem, gap, message):
    with pytest.raises(InputError, match=message):
        plan(problem, gap)
