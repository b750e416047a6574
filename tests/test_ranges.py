"""Choosing a range: the search, known outcomes, what is refused, and the confirmation by simulation."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from stedyn import SGD, InputError, Problem, Quantizer, Run, Start, Teacher, choose
from stedyn.cli import app as cli
from stedyn.cli.lists import joined
from stedyn.curves.objectives import Objective, longest_plateau, time_to
from stedyn.design.confirm import _simulated, confirm
from stedyn.design.layer_report import report_layers
from stedyn.design.predictor import Outcome
from stedyn.design.search import best_range, within
from stedyn.files.activations import condensed

GAUSSIAN = Problem(Teacher.gaussian(1.0), noise_std=0.1, rule=SGD(0.1), run=Run(100.0, 51))
TREAD = Problem(
    start=Start.gaussian(0.0, 0.02), weights=Quantizer(2, 1.0, kind="mid-tread"), noise_std=0.1,
    rule=SGD(0.02), run=Run(100.0, 201),
)  # fmt: skip


# ---- the search, on functions whose minimum is known


def predictor(f, error=None, **laws):
    """Something with the interface of a `Predictor` whose objective (and error) is a function of the range."""

    def outcome(width, lr):
        return Outcome(f(width), f(width) if error is None else error(width))

    laws = dict(scan=outcome, search=outcome, exact=outcome) | laws
    return SimpleNamespace(**laws, by_fixed_point=True, at=lambda width, lr: GAUSSIAN)


def sawtooth(r):
    """Cusps at 0.5, 1 and 2, of which that at 1 is the lowest."""
    return min(0.3 + abs(np.log(2 * r)), 0.1 + 1.5 * abs(np.log(r)), 0.2 + abs(np.log(r / 2)))


def test_ranges_without_a_value_are_passed_over():
    """Where the objective is nan (beyond what a solve can do) the search goes on with the rest; it was an IndexError."""
    candidate = best_range(
        predictor(lambda r: sawtooth(r) if r < 1.7 else np.nan), 0.1, (0.1, 10.0), 41, None
    )
    assert candidate.range == pytest.approx(1.0, rel=1e-2)


def test_the_search_finds_the_lowest_of_several_cusps():
    found = best_range(predictor(sawtooth), 0.1, (0.2, 5.0), 30, None)
    assert found.range == pytest.approx(1.0, rel=2e-3)
    assert found.value == min(found.value, sawtooth(found.range))
    # within 1 % of 0.1 the logarithm moves by 0.001 / 1.5, and the minimum itself is met to 0.001
    assert 0.99 < found.interval[0] <= found.range <= found.interval[1] < 1.01
    assert not found.at_edge


def test_the_interval_is_where_a_parabola_has_grown_by_one_per_cent():
    found = best_range(predictor(lambda r: 1 + (r - 2) ** 2), 0.1, (0.5, 8.0), 40, None)
    assert found.range == pytest.approx(2.0, abs=4e-3)
    np.testing.assert_allclose(found.interval, (1.9, 2.1), atol=1e-2)


def test_the_search_finds_where_an_objective_begins():
    """An objective that grows with the range, from the smallest on that is allowed."""
    found = best_range(predictor(lambda r: r if r > 0.7314 else np.inf), 0.1, (0.2, 5.0), 30, None)
    assert found.range == pytest.approx(0.7314, rel=1e-3)
    assert found.range > 0.7314


def test_the_exact_law_moves_where_an_objective_begins():
    def exact(r, lr):
        return Outcome(r if r > 0.7372 else np.inf, r)

    found = best_range(
        predictor(lambda r: r if r > 0.7314 else np.inf, exact=exact), 0.1, (0.2, 5.0), 30, None
    )
    assert 0.7372 < found.range == found.value < 0.7372 * 1.001


def test_no_range_that_is_known_is_better():
    """Scan and search are less accurate: the exact law has the last word, within the bounds."""
    laws = predictor(sawtooth, exact=lambda r, lr: Outcome(1 + abs(r - 3), 1.0))
    found = best_range(laws, 0.1, (0.2, 5.0), 30, None, known=[2.5, 3.0, 7.0])
    assert (found.range, found.value) == (3.0, 1.0)


def test_of_the_ranges_without_a_plateau_the_least_error_is_chosen():
    flat = predictor(lambda r: 0.0 if 0.8 < r < 3 else 1.0, error=lambda r: (r - 1.5) ** 2)
    found = best_range(flat, 0.1, (0.2, 5.0), 40, None)
    assert found.value == 0
    assert found.range == pytest.approx(1.5, rel=0.05)
    assert found.interval == pytest.approx((0.8, 3), rel=0.35)  # the steps grow to 1.3
    assert found.interval[0] > 0.8
    assert found.interval[1] < 3


def test_where_an_objective_begins_it_may_be_least():
    """Also where the first range of the scan beyond it is worse than another minimum."""
    found = best_range(
        predictor(lambda r: min(30 * (r - 0.69), 0.5 + abs(r - 2)) if r > 0.7 else np.inf),
        0.1,
        (0.2, 5.0),
        12,
        None,
    )
    assert 0.7 < found.range < 0.7 * 1.001


def test_a_minimum_at_the_edge_and_none_at_all():
    assert best_range(predictor(lambda r: r), 0.1, (0.2, 5.0), 20, None).at_edge
    nowhere = best_range(predictor(lambda r: np.inf), 0.1, (0.2, 5.0), 20, None)
    assert nowhere.value == np.inf


def test_within_never_returns_worse_than_its_start():
    assert within(lambda x: abs(x - 1.0), (0.5, 3.0), 1.0) == 1.0


# ---- objectives


def test_time_to_is_log_linear_between_saved_times():
    tau = np.array([0.0, 1.0, 2.0, 4.0])
    error = np.exp(-tau)
    assert time_to(tau, error, np.exp(-1.5)) == pytest.approx(1.5)
    assert time_to(tau, error, np.exp(-3.0)) == pytest.approx(3.0)
    assert time_to(tau, error, 2.0) == 0.0
    assert time_to(tau, error, 1e-3) == np.inf


def test_longest_plateau_of_a_decay_is_none():
    tau = np.linspace(0, 10, 200)
    assert longest_plateau(tau, np.exp(-tau)) == 0.0


@pytest.mark.parametrize("text", ["final-error", "error-at=20", "time-to=0.01", "plateau-length"])
def test_objectives_have_names(text):
    assert str(Objective.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fastest", "expected one of final-error, error-at=NUMBER"),
        ("final-error=2", "without a number"),
        ("time-to", "above 0"),
        ("error-at=-1", "above 0"),
        ("error-at=soon", "above 0"),
    ],
)
def test_objectives_that_are_none(text, said):
    with pytest.raises(ValueError, match="objective: expected") as caught:
        Objective.parse(text)
    assert said in str(caught.value)


# ---- known outcomes


@pytest.fixture(scope="module")
def two_bits():
    return choose(GAUSSIAN, bits=[2], points=16, max_error=0.2)


def test_two_bits_on_a_gaussian_teacher(two_bits):
    """The least final error, 0.177, is near 1.25; the range of least rounding error, 1.494, ends at 0.191."""
    best = two_bits.choices[0]
    assert best.range == pytest.approx(1.26, abs=0.03)
    assert best.error == pytest.approx(0.1771, abs=3e-4)
    mse = next(b for b in two_bits.baselines if b.rule == "mse")
    assert mse.range == pytest.approx(1.494, abs=1e-3)
    assert mse.error == pytest.approx(0.191, abs=5e-4)
    assert best.error <= min(b.error for b in two_bits.baselines)
    assert best.range_interval[0] < best.range < best.range_interval[1]
    assert all(ratio > 1 for ratio in best.misses.values())
    assert best.fixed_point == best.error
    assert "fixed point is reached" in best.status
    assert two_bits.fewest_bits == 2
    assert 0 < best.uncertainty < 1e-3
    assert best.edges["bin"] == pytest.approx(best.range * 4 / 3)


def test_the_json_of_a_choice(two_bits):
    record = json.loads(json.dumps(two_bits.to_dict()))
    assert set(record) >= {"objective", "choices", "baselines"}
    keys = "bits range lr error range_interval plateau_length time_to_target fixed_point status"
    assert set(record["choices"][0]) >= set(keys.split())
    assert set(record["baselines"][0]) >= {"bits", "rule", "range", "error"}
    assert [b["rule"] for b in record["baselines"]] == [
        "max",
        "percentile",
        "k-sigma",
        "mse",
        "aciq",
        "kl",
        "lsq",
    ]
    text = str(two_bits)
    assert "2 bits are the fewest that reach the error 0.2" in text


@pytest.mark.slow
def test_three_and_four_bits_on_a_gaussian_teacher():
    found = choose(GAUSSIAN, bits=[3, 4])
    three, four = found.choices
    assert three.range == pytest.approx(1.83, abs=0.03)
    assert three.error == pytest.approx(0.0616, abs=2e-4)
    mse = next(b for b in found.baselines if b.rule == "mse" and b.bits == 3)
    assert mse.error == pytest.approx(0.0651, abs=3e-4)
    assert four.error < min(b.error for b in found.baselines if b.bits == 4)


@pytest.mark.slow
@pytest.mark.parametrize("bits, best", [(2, 0.9), (3, 0.75 * (3 + np.sqrt(0.92)))])
def test_the_shortest_plateau_is_that_of_the_smallest_range_that_will_do(bits, best):
    """All weights of a teacher 1 saturate at R < 1, which leaves the error (1 - R)^2.

    With 3 bits the one plateau before the level x = R / 3, below 1, is shorter than the last of three with R = 0.9 (19.45
    and 19.74): weights chatter between x and 2 x, which leaves (1 - x) (2 x - 1).
    """
    found = choose(TREAD, bits=[bits], objective="plateau-length", max_error=0.01, baselines=False, points=20)
    assert found.choices[0].range == pytest.approx(best, rel=2e-3)
    assert found.choices[0].error <= 0.01
    with pytest.raises(ValueError, match=r"max_error: expected an error that some range reaches in the end"):
        choose(TREAD, bits=[bits], objective="plateau-length", max_error=1e-30, ranges=(1.1, 3.0), points=8)


@pytest.mark.slow
def test_time_to_an_error_with_the_best_learning_rate():
    problem = Problem(
        Teacher.gaussian(1.0), Start.gaussian(0.0, 0.1), weights=Quantizer(3, 1.0), noise_std=0.1,
        rule=SGD(0.1), run=Run(60.0, 121),
    )  # fmt: skip
    options = dict(bits=[3], objective="time-to=0.2", points=8, baselines=False)
    fixed = choose(problem, **options).choices[0]
    joint = choose(problem, lrs=[0.05, 0.1, 0.2, 0.4], **options).choices[0]
    assert joint.time_to_target == pytest.approx(joint.value)
    assert joint.value < 0.8 * fixed.value
    assert 0.1 < joint.lr <= 0.4


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [
        Problem(
            weights=Quantizer(3, 1.5),
            inputs=Quantizer(2, 2.0),
            rule=SGD(0.3),
            noise_std=0.1,
            run=Run(120.0, 61),
        ),
        GAUSSIAN,
    ],
    ids=["R2", "gaussian"],
)
def test_the_chosen_range_is_confirmed_by_simulation(problem):
    found = confirm(choose(problem, bits=[2, 3, 4]), dim=1000, seeds=8)
    for entry in found.baselines:
        assert entry.simulated.verdict in ("higher", "equal"), entry
    assert sum(entry.simulated.verdict == "higher" for entry in found.baselines) >= 15
    assert {"simulated", "sem", "against the best"} <= set(found.to_pandas().columns)


def test_verdicts_come_from_differences_run_by_run():
    rng = np.random.default_rng(0)
    common, noise = rng.normal(size=8), 0.01 * rng.normal(size=8)
    best = 1 + common
    assert _simulated(best + 0.1 + noise, best).verdict == "higher"
    assert _simulated(best - 0.1 + noise, best).verdict == "lower"
    assert _simulated(best + noise - noise.mean(), best).verdict == "equal"
    assert _simulated(np.full(8, np.inf), best).verdict == "higher"
    assert _simulated(best, np.full(8, np.inf)).verdict == "lower"
    assert _simulated(best, best).verdict == "equal"
    assert _simulated(np.full(8, np.inf), np.full(8, np.inf)).verdict == "undecided"
    assert _simulated(np.where(noise > 0, np.nan, best), best).verdict == "undecided"
    assert np.isnan(_simulated(np.where(noise > 0, np.nan, best), None).value)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": []}, "bits: expected different bit widths"),
        ({"bits": [2, 2]}, "bits: expected different bit widths"),
        ({"bits": [12]}, "bits: expected a whole number from 1 to 8"),
        ({"objective": "plateau-length"}, "max_error: expected the error wanted"),
        ({"lrs": [0.1, 0.2]}, "lrs: expected an objective with a time"),
        ({"lrs": [-0.1], "objective": "error-at=3"}, "lrs: expected a positive number"),
        ({"ranges": (2.0, 1.0)}, "ranges: expected a lower and a higher bound"),
        ({"points": 2}, "points: expected a whole number from 5"),
        ({"max_error": -1.0}, "max_error: expected a positive number"),
    ],
)
def test_bad_arguments_of_choose(options, said):
    with pytest.raises(ValueError, match="expected") as caught:
        choose(GAUSSIAN, **options)
    assert said in str(caught.value)


def test_explicit_levels_have_no_range():
    levels = Quantizer(kind="levels", levels=[-1.0, 0.5, 1.0])
    with pytest.raises(ValueError, match=r"weights\.kind: expected a kind with bits and a range"):
        choose(Problem(weights=levels))


# ---- layers


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "net.npz"
    np.savez(path, fc=0.02 * rng.normal(size=(8, 40)), head=rng.laplace(size=(5, 9)), bias=rng.normal(size=5))
    return path


def test_a_layer_is_condensed_without_loss_of_its_mean_square():
    weights = np.random.default_rng(1).normal(size=50_000)
    few = condensed(weights, 1024)
    assert few.size == 1024
    assert np.mean(few**2) == pytest.approx(np.mean(weights**2), rel=1e-12)


@pytest.mark.slow
def test_report_of_a_file(file):
    found = report_layers(file, GAUSSIAN, bits=[2], points=8)
    table = found.to_pandas().set_index("layer")
    assert list(table.index) == ["fc", "head"]
    assert [tensor.name for tensor in found.skipped] == ["bias"]
    # the range comes in the units of the file: 1.27 standard deviations, about, of weights of 0.02
    assert table.loc["fc", "range"] == pytest.approx(0.0253, rel=0.08)
    assert np.all(table["error"] <= table["mse_error"] * (1 + 1e-9))
    assert "skipped bias" in str(found)


def test_the_units_of_a_chosen_range_are_told(file, capsys, monkeypatch):
    any_choice = choose(Problem(), bits=[2], points=5, baselines=False)
    monkeypatch.setattr("stedyn.design.ranges.choose", lambda *args, **given: any_choice)
    words = ["choose", "--layer", str(file), "--tensor", "fc", "--bits", "2"]
    assert cli.main(words) == 0
    told = re.search(r"were divided by (\S+) .*units of the file\.", capsys.readouterr().out)
    assert cli.main([*words, "--json"]) == 0
    scale = np.sqrt(np.mean(np.load(file)["fc"] ** 2))
    assert json.loads(capsys.readouterr().out)["scale"] == pytest.approx(scale, rel=1e-12)
    assert float(told[1]) == pytest.approx(scale, rel=1e-5)


def test_command_line_faults(file, capsys):
    words = ["choose", "--layer", str(file), "--tensor", "nope", "--bits", "2", "3"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "fc" in said
    assert "head" in said
    assert cli.main(["choose", "--tensor", "fc"]) == 2
    assert "--layer" in capsys.readouterr().err
    assert cli.main(["layers", str(file), "--tensor", "gone"]) == 2


@pytest.mark.parametrize(
    "words", ["--bits 2,3", "--bits 2 3", "--bits 2 --bits 3", "--bits=2,3", "p.toml --bits 2 3 --json"]
)
def test_lists_of_numbers(words, monkeypatch, tmp_path, capsys):
    given = []

    def chosen(problem, **named):
        given.append(named)
        raise InputError("done")

    monkeypatch.setattr("stedyn.design.ranges.choose", chosen)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.toml").touch()
    assert cli.main(["choose", "--lrs", "0.1", "1e-2", *words.split()]) == 2
    assert capsys.readouterr().err == "stedyn: done\n"
    assert given[0]["bits"] == (2, 3)
    assert given[0]["lrs"] == (0.1, 0.01)


@pytest.mark.parametrize("words", ["layers", "choose --tensor fc --layer"])
def test_a_file_of_weights_has_inputs_that_are_not_quantized(words, file, monkeypatch):
    given = []

    def asked(*arguments, **named):
        given.extend(one for one in arguments if isinstance(one, Problem))
        raise InputError("done")

    monkeypatch.setattr("stedyn.design.layer_report.report_layers", asked)
    monkeypatch.setattr("stedyn.design.ranges.choose", asked)
    for more, kind in (([], "none"), (["--input-bits", "3", "--input-range", "2"], "mid-rise")):
        assert cli.main([*words.split(), str(file), "--bits", "2", *more]) == 2
        assert given[-1].inputs.kind == kind
        assert float(given[-1].noise_std) == 0.1


def test_words_that_are_no_list():
    bits = {"--bits"}
    assert joined(["--bits", "--json"], bits) == ["--bits", "--json"]
    assert joined(["--bits", "-1", "p.toml", "3"], bits) == ["--bits", "-1", "p.toml", "3"]
    assert joined(["--bits", "2", "--tau", "3"], bits) == ["--bits", "2", "--tau", "3"]


@pytest.mark.parametrize(
    "words", ["choose --bits 2,x", "choose --bits 1.5", "plateaus --lrs 0.1,", "layers f.npz --bits two"]
)
def test_a_list_of_something_else_is_refused(words, capsys):
    assert cli.main(words.split()) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"stedyn: Invalid value for '--\w+': expected .*numbers such as .*, found '.*'; .*\n", said
    )
    assert cli.main(["choose", "--bits"]) == 2
    assert "--bits" in capsys.readouterr().err
