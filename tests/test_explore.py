"""The parts of the local page that need no browser: views, addresses, the newest question, progress that cancels."""

import threading
from urllib.parse import parse_qsl

import numpy as np
import pytest

from stedyn import InputError, Problem, Quantizer, Run, simulate
from stedyn.explore.answers import RangeCurve
from stedyn.explore.latest import Latest
from stedyn.explore.view import TABLES, View
from stedyn.files.problems import load_problem, problem_from_dict
from stedyn.files.writing import problem_to_dict
from stedyn.simulation import Interrupted


def _opened(address, start=None):
    return View.parse(dict(parse_qsl(address.removeprefix("?"))), start or View())


def test_an_address_holds_the_view():
    view = (
        View()
        .with_text("weights", "range", "1.3")
        .with_text("rule", "kind", "adam")
        .with_text("page", "dim", "50")
    )
    view = view.with_text("inputs", "kind", "nf4").with_text("rule", "schedule", '{kind = "inverse"}')
    assert _opened(view.query()) == view
    assert view.dim == 50
    assert _opened("?theme=dark", view) == view
    phases = View({**TABLES, "phase": [{"from": 10.0, "rule": {"lr": 0.01}}]})
    assert len(_opened(phases.query()).problem().phases) == 1


@pytest.mark.parametrize(
    "query", ["?weights={", "?dim=abc", "?dim=1", "?weights=[1]", "?rule={%22path%22:%22/etc/passwd%22}"]
)
def test_a_damaged_address_is_refused_in_a_sentence(query):
    with pytest.raises(InputError):
        _opened(query).problem()


def test_an_address_reads_no_file_that_the_command_line_did_not_name(tmp_path):
    np.save(tmp_path / "w.npy", np.ones(4))
    table = {"kind": "file", "path": str(tmp_path / "w.npy")}
    view = View({**TABLES, "teacher": table})
    assert _opened(view.query(), view).problem().teacher.data is not None
    with pytest.raises(InputError, match="names a file"):
        _opened(view.query())
    inside = View({**TABLES, "covariance": {"kind": "file", "values": [1.0], "means": "secret.npy"}})
    with pytest.raises(InputError, match="names a file"):
        _opened(inside.query())


@pytest.mark.parametrize(
    "table, key, text",
    [("weights", "range", "-1"), ("weights", "range", "abc"), ("weights", "bits", "2.5"), ("rule", "lr", "nan"),
     ("noise", "std", "-1"), ("run", "tau", "0"), ("rule", "momentum", "1.5"), ("rule", "schedule", "{")],
)  # fmt: skip
def test_a_bad_number_is_told_with_its_key(table, key, text):
    with pytest.raises(InputError) as fault:
        View().with_text(table, key, text).problem()
    assert str(fault.value).split(":")[0].replace("rule.schedule", "schedule") in (f"{table}.{key}", key)


def test_every_kind_of_every_control_is_a_problem():
    from stedyn.quantizers.formats import NAMED
    from stedyn.quantizers.quantizer import KINDS
    from stedyn.rules import RULES

    for table in ("weights", "inputs"):
        for kind in (*KINDS, *NAMED):
            assert View().with_text(table, "kind", kind).kind(table) == kind
            View().with_text(table, "kind", kind).problem()
    for kind in RULES:
        if kind != "quantized-gradient":  # which needs a quantizer: the page says so
            View().with_text("rule", "kind", kind).problem()
    for table, kinds in (("teacher", ("gaussian", "rademacher")), ("start", ("constant", "teacher"))):
        for kind in kinds:
            View().with_text(table, "kind", kind).problem()
    assert (
        "inputs" not in View().with_text("inputs", "kind", "nf4").with_text("inputs", "kind", "none").tables
    )


def test_toml_and_python_are_the_problem_of_the_view(tmp_path):
    view = (
        View()
        .with_text("weights", "bits", "3")
        .with_text("inputs", "law", "laplace")
        .with_text("page", "seeds", "2")
    )
    (tmp_path / "problem.toml").write_text(view.toml())
    expected = problem_to_dict(view.problem())
    assert problem_to_dict(load_problem(tmp_path / "problem.toml")) == expected
    lines = view.python().split("\n")
    names: dict = {"problem_from_dict": problem_from_dict}
    first = lines.index("solution = solve(problem)")
    exec("\n".join(lines[2:first]), names)
    assert problem_to_dict(names["problem"]) == expected
    assert "seeds=2" in lines[first + 1]


def test_the_newest_question_is_answered_and_the_one_before_is_dropped():
    told, done, going, begun = [], threading.Event(), threading.Event(), threading.Event()

    def tell(number, result):
        told.append((number, result))
        if (number, result) == (2, None):
            done.set()

    def slow():
        begun.set()
        going.wait(60)
        yield "late"
        yield "later"

    latest = Latest(tell)
    latest.ask(slow)
    assert begun.wait(60)
    latest.ask(lambda: iter(["newest"]))
    going.set()
    assert done.wait(60)
    latest.close()
    assert told == [(2, "newest"), (2, None)]


def test_a_function_is_told_the_progress_of_a_simulation_and_can_stop_it():
    problem = Problem(weights=Quantizer(2, 2.0), run=Run(tau=4.0, points=3))
    parts: list[float] = []
    simulate(problem, dim=50, seeds=2, chunk=20, progress=parts.append)
    assert parts[-1] == 1.0
    assert parts == sorted(parts)

    def stop(part):
        if part >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        simulate(problem, dim=50, seeds=2, chunk=20, threads=1, progress=stop)
    assert stopped.value.ensemble.partial
    assert stopped.value.ensemble.tau[-1] < 4.0


def test_rules_with_one_range_have_one_mark():
    curve = RangeCurve(np.ones(2), np.ones(2), "final error", {"max": 1.0, "lsq": 2.0, "mse": 1.01})
    assert curve.marks() == {"max, mse": 1.0, "lsq": 2.0}


@pytest.mark.slow  # about a minute of compilations
def test_what_takes_longer_is_what_the_functions_of_the_package_say():
    from stedyn import fixed_point, range_map, solve
    from stedyn.explore.answers import Band, Curve, Refused, stages

    view = View().with_text("weights", "kind", "mid-rise").with_text("run", "tau", "20")
    view = (
        view.with_text("teacher", "value", "0.7")
        .with_text("start", "std", "1.0")
        .with_text("rule", "lr", "0.2")
    )
    problem = view.problem()
    point, ranges, curve, band = stages(problem, 1000)
    assert point.error == fixed_point(problem).error
    k = int(np.argmin(abs(ranges.ranges - 1.0)))
    assert ranges.ranges[k] == 1.0
    expected = range_map(problem, ranges=[1.0], bits=[2]).values[0, 0]
    np.testing.assert_allclose([ranges.errors[k], point.error], expected, rtol=1e-6)
    assert isinstance(curve, Curve)
    assert curve.refined
    solution = solve(problem, dim=1000)
    claims = curve.solution.error_estimate + solution.error_estimate
    assert abs(curve.solution.final_error / solution.final_error - 1) < claims
    assert isinstance(band, Band)
    np.testing.assert_allclose(band.std[-1], solution.error_std[-1], rtol=0.02)
    edges, density = curve.densities()
    np.testing.assert_allclose((density * np.diff(edges)).sum(axis=1), 1.0, atol=1e-3)

    clipped = view.with_text("weights", "ste", "clipped").problem()
    answers = list(stages(clipped, 1000))
    assert isinstance(answers[0], Refused)
    assert answers[1].what == "error at tau = 20"
    assert isinstance(answers[3], Refused)
    assert not isinstance(answers[2], Refused)
