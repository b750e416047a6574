"""Faults of the input are one sentence, wherever they enter; bugs, also those of a user's rule, keep their traceback."""

import functools
import importlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stedyn
from stedyn import SGD, InputError, Problem, Quantizer, Rule, Run, Start, Teacher, rules
from stedyn.cli import app as cli
from stedyn.code.fingerprint import fingerprint
from stedyn.design.calibration import calibrated_range
from stedyn.files import tables as _tables
from stedyn.files.layers import load_weights
from stedyn.files.problems import load_problem, problem_from_dict
from stedyn.files.report import describe
from stedyn.files.writing import problem_to_dict, save_problem
from stedyn.simulation import checkpoint, simulate

SMALL = Problem(run=Run(1.0, 3))
SOLVE = importlib.import_module("stedyn.limit.solver")


class Clipped(Rule):
    """A rule as a user writes it, without a kind."""

    product = True
    threshold: float = 0.5

    def move(self, r, phi, u, tau):
        return self.rate(tau) * jnp.clip(r * phi, -self.threshold, self.threshold)


class Broken(Rule):
    """A rule with a fault of its own."""

    kind = "broken"
    product = True

    def move(self, r, phi, u, tau):
        raise ValueError("no such thing")


BAD_TYPES = {
    "weights: expected a Quantizer or None, found 2": lambda: Problem(weights=2),
    "teacher: expected a Teacher or None, found 1.0": lambda: Problem(1.0),
    "start: expected a Start or None, found Teacher": lambda: Problem(start=Teacher.constant()),
    "rule: expected a Rule or None, found <class": lambda: Problem(rule=SGD),
    "run: expected a Run or None, found 10": lambda: Problem(run=10),
    "covariance: expected a Covariance or None": lambda: Problem(covariance="identity"),
    "weights.ste: expected one of": lambda: Problem(ste=np.ones(3)),
    "levels: expected a list, found 3": lambda: Quantizer(kind="levels", levels=3),
    "samples: expected a one-dimensional list": lambda: Teacher.samples([[1, 2], [3]]),
    "start.std: expected a finite number, found 'x'": lambda: Start.gaussian(0.0, "x"),
    "schedule.function: expected a function": lambda: rules.Custom(3),
    "quantizer: expected a quantizer": lambda: rules.QuantizedGradient(0.1, quantizer=3),
    "problem: expected a Problem, found 3": lambda: stedyn.solve(3),
    "densities: expected numbers, found 'x'": lambda: stedyn.solve(SMALL, densities="x"),
    "problem: expected a Problem, found 'x'": lambda: simulate("x"),
    "checkpoint: expected a path or None, found 3": lambda: simulate(SMALL, checkpoint=3),
    "solution: expected a Solution, found 1": lambda: stedyn.compare(1, 2),
    "bits: expected a list, found 3": lambda: stedyn.choose(SMALL, bits=3),
    "lrs: expected a list, found 0.1": lambda: stedyn.choose(SMALL, lrs=0.1, objective="error-at=1"),
    "ranges: expected a list, found 2": lambda: stedyn.choose(SMALL, ranges=2),
    "bits: expected a list, found 2": lambda: stedyn.range_map(SMALL, ranges=[1.0], bits=2),
    "classes: expected a whole number": lambda: stedyn.fixed_point(SMALL, classes="a"),
    "problem: expected a Problem, found 4": lambda: stedyn.sensitivity(4),
    "error: expected numbers": lambda: stedyn.find_plateaus([0, 1, 2], ["a", 1, 2]),
    "table: expected a list, found 3": lambda: stedyn.sweep(3, out="none"),
    "table: expected a dictionary for each row": lambda: stedyn.sweep([3], out="none"),
    "out: expected a path, found 3": lambda: stedyn.sweep([{"rule.lr": 0.1}], out=3),
    "executor: expected an Executor or None": lambda: stedyn.sweep([{}], out="none", executor=3),
    "quantizer: expected a Quantizer, found 3": lambda: calibrated_range([1.0], 3, "max"),
    "weights: expected an array of numbers": lambda: calibrated_range(
        [[1], [2, 3]], Quantizer(2, 1.0), "max"
    ),
    "path: expected a path, found 3": lambda: load_problem(3),
    "path: expected a path, found 4": lambda: save_problem(SMALL, 4),
    "tensor: expected a str or None, found 3": lambda: load_weights("x.npy", 3),
}
MEANT = {
    "noise_std": lambda: Problem(noise=0.1),
    "std": lambda: Teacher.gaussian(sigma=0.1),
    "bits": lambda: Quantizer(bit=2, range=1.0),
    "lr": lambda: SGD(eta=0.1),
    "threshold": lambda: Clipped(thresh=0.1),
    "period": lambda: rules.Cosine(perod=3.0),
    "tol": lambda: stedyn.solve(SMALL, tolerance=0.1),
    "dim": lambda: simulate(SMALL, d=10),
    "ranges": lambda: stedyn.range_map(SMALL, range=[1.0], bits=[2]),
    "objective": lambda: stedyn.range_map(SMALL, ranges=[1.0], bits=[2], quantity="final-error"),
    "classes": lambda: stedyn.fixed_point(SMALL, clases=8),
    "out": lambda: stedyn.sweep([], outt="none"),
}


@pytest.mark.parametrize("sentence", BAD_TYPES)
def test_a_wrong_type_is_one_sentence_at_once(sentence):
    with pytest.raises(InputError) as caught:
        BAD_TYPES[sentence]()
    assert str(caught.value).startswith(sentence)
    assert re.fullmatch(r"[^:\n]+: expected .*, found .*; .*\.", str(caught.value))


@pytest.mark.parametrize("meant", MEANT)
def test_an_unknown_keyword_names_the_one_that_was_meant(meant):
    with pytest.raises(InputError, match=rf"^unknown argument of .*; did you mean '{meant}'\?$") as caught:
        MEANT[meant]()
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("call", [lambda: stedyn.solve(), lambda: Problem(None, None, 0.1)])
def test_what_python_says_well_is_left_to_it(call):
    with pytest.raises(TypeError, match=r"missing (1|a) required|positional arguments?"):
        call()


def test_a_bug_keeps_its_traceback(monkeypatch, capsys):
    """A ValueError of NumPy, JAX or the solver is no fault of the input."""
    monkeypatch.setattr(SOLVE, "check_closes", lambda problem: np.zeros(2) + np.zeros(3))
    with pytest.raises(ValueError, match="could not be broadcast"):
        cli.main(["predict", "--law", "fluid", "--tau", "1"])
    assert capsys.readouterr().err == ""


def test_a_bug_ends_a_shell_with_exit_code_1():
    program = "import sys, stedyn.cli.app as c; c.build_problem = lambda flags: int('x'); sys.exit(c.main(['predict']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: invalid literal for int() with base 10: 'x'\n")


def test_a_solve_that_stops_is_a_sentence_and_exit_code_1(monkeypatch, capsys):
    def stops(problem):
        raise stedyn.SolveError("the solver stopped.")

    monkeypatch.setattr(SOLVE, "check_closes", stops)
    assert cli.main(["compare", "--law", "fluid", "--tau", "1", "--json"]) == 1
    assert capsys.readouterr().err == "stedyn: the solver stopped.\n"


# ---- rules of the user's own


def test_a_fault_of_a_users_rule_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(rules.RULES, "broken", Broken)
    with pytest.raises(ValueError, match="no such thing") as caught:
        cli.main(["simulate", "--rule", "broken", "--tau", "1", "--dim", "10", "--seeds", "1"])
    assert not isinstance(caught.value, InputError)
    assert caught.traceback[-1].name == "move"


def test_a_users_rule_is_described():
    rule = Clipped(0.2, threshold=0.25, schedule=jnp.exp)
    line = describe(Problem(rule=rule, run=Run(1.0, 3))).splitlines()[3]
    assert line == (
        "rule     Clipped (defined in Python), lr 0.2, weight_decay 0, schedule custom (function exp), threshold 0.25"
    )
    graded = rules.QuantizedGradient(0.2, quantizer=Quantizer(2, 1.0), schedule={"kind": "cosine"})
    assert describe(Problem(rule=graded)).splitlines()[3] == (
        "rule     quantized-gradient, lr 0.2, weight_decay 0, schedule cosine (period 100, final 0), "
        "quantizer (2 bits, range 1, mid-rise, level edge, nearest rounding)"
    )


@pytest.mark.parametrize("rule", [Clipped(), type("Named", (SGD,), {})()])
def test_a_users_rule_goes_into_no_file(tmp_path, rule):
    """Also not under the kind of the rule that it is made from."""
    sentence = (
        rf"^rule: expected one of the kinds sgd, .*the class {type(rule).__name__}.*defined in Python.*\.$"
    )
    problem = Problem(rule=rule)
    for write in (
        problem_to_dict,
        lambda problem: save_problem(problem, tmp_path / "p.toml"),
        lambda problem: stedyn.sweep([{"noise.std": 0.1}], problem, out=tmp_path / "out"),
    ):
        with pytest.raises(InputError, match=sentence):
            write(problem)
    assert not list(tmp_path.iterdir())


def test_a_move_that_the_limit_would_not_see_is_refused():
    """SGD gives its coefficients in closed form: with another move the curve would be that of SGD."""

    class Slower(SGD):
        def move(self, r, phi, u, tau):
            return 0.5 * self.rate(tau) * r * phi

    with pytest.raises(
        InputError, match=r"^rule: expected .* beside the move of Slower, found .* SGD.*; .*\.$"
    ):
        Problem(rule=Slower())

    class Whole(Slower):
        profile, response = Rule.profile, Rule.response

    assert type(Problem(rule=Whole(0.2)).rule).response is Rule.response


def test_a_rule_that_is_entered_goes_into_files_and_sweeps(tmp_path, monkeypatch):
    monkeypatch.setattr(Clipped, "kind", "clipped")
    monkeypatch.setitem(rules.RULES, "clipped", Clipped)
    problem = Problem(rule=Clipped(threshold=0.25), run=Run(1.0, 3))
    assert problem_from_dict(problem_to_dict(problem)).rule == problem.rule
    rows = [{"what": "simulate", "dim": 20, "seeds": 1}]
    names = [stedyn.sweep(rows, problem, out=tmp_path, workers=1)["file"][0] for _ in range(2)]
    monkeypatch.setattr(Clipped, "move", lambda self, r, phi, u, tau: 0 * r * phi)
    names.append(stedyn.sweep(rows, problem, out=tmp_path, workers=1)["file"][0])
    assert names[0] == names[1] != names[2]  # the rule does something else now


def scaled(factor, tau):
    return factor / (1 + tau)


def times(factor):
    return lambda tau: factor / (1 + tau)


def slope(factor):
    class Sloped(Rule):
        product = True

        def move(self, r, phi, u, tau):
            return self._size * r * phi

        @property
        def _size(self):
            return factor

    return Sloped()


#: Made twice the same, and once otherwise.
CODES = {
    "constant": [lambda: lambda tau: 1 / (1 + tau), lambda: lambda tau: 1 / (2 + tau)],
    "closure": [lambda: times(1.0), lambda: times(0.5)],
    "closed array": [lambda: times(np.ones(1000)), lambda: times(np.arange(1000))],
    "partial": [lambda: functools.partial(scaled, 1.0), lambda: functools.partial(scaled, 0.5)],
    "jit": [lambda: jax.jit(times(1.0)), lambda: jax.jit(times(0.5))],
    "library": [lambda: jnp.cos, lambda: jnp.cosh],
    "made by a library": [
        lambda: jax.nn.initializers.constant(1.0),
        lambda: jax.nn.initializers.constant(0.5),
    ],
    "vmap": [lambda: jax.vmap(times(1.0)), lambda: jax.vmap(times(0.5))],
    "inner": [lambda: lambda tau: times(1.0)(tau), lambda: lambda tau: scaled(1.0, tau)],
    "class": [lambda: slope(1.0), lambda: slope(0.5)],
}


@pytest.mark.parametrize("case", CODES)
def test_code_is_told_apart_by_what_it_does(case):
    one, other = CODES[case]
    assert fingerprint("f", one()) == fingerprint("f", one())
    assert fingerprint("f", one()) != fingerprint("f", other())


def test_code_is_told_apart_by_the_globals_it_names(monkeypatch):
    before = fingerprint("f", CODES["inner"][1]())
    monkeypatch.setitem(globals(), "scaled", lambda factor, tau: factor)
    assert fingerprint("f", CODES["inner"][1]()) != before


def test_code_that_cannot_be_known_is_refused(tmp_path):
    draws = np.random.default_rng(1)
    problem = Problem(rule=SGD(schedule=lambda tau: 1 + 0 * draws.random()), run=Run(1.0, 3))
    with pytest.raises(InputError, match=r"^rule\.schedule\.function: expected code .*'a Generator'; .*\.$"):
        simulate(problem, dim=20, seeds=1, checkpoint=tmp_path / "run.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_knows_the_code_of_its_run(tmp_path):
    file, small = tmp_path / "run.ckpt", {"dim": 20, "seeds": 1}

    def run(**given):
        return simulate(Problem(**given, run=Run(1.0, 3)), **small, checkpoint=file).error

    first = run(rule=SGD(schedule=functools.partial(scaled, 1.0)))
    np.testing.assert_array_equal(run(rule=SGD(schedule=functools.partial(scaled, 1.0))), first)
    for other in (functools.partial(scaled, 0.5), lambda tau: 1 / (1 + tau)):
        with pytest.raises(
            InputError, match=r"rule\.schedule\.function is code \w{16} there and code \w{16} here"
        ):
            run(rule=SGD(schedule=other))
    with pytest.raises(InputError, match="belongs to another simulation"):
        run(rule=slope(1.0))
    entries = [dict(checkpoint._entries("", Problem(rule=slope(factor)))) for factor in (1.0, 0.5)]
    assert {key for key in entries[0] if entries[0][key] != entries[1][key]} == {"rule.code"}


# ---- problem files


#: What the kinds cannot do without.
NEEDED = {
    ("mid-rise", "mid-tread", "twos-complement"): {"range": 1.0, "bits": 2},
    ("ternary",): {"range": 1.0},
    ("levels",): {"levels": [-1.0, 1.0]},
    ("quantized-gradient",): {"quantizer": {"bits": 2, "range": 1.0}},
    ("deterministic-rounding", "stochastic-rounding"): {"delta": 1.0},
    ("multinomial",): {"zeta": 1.0, "nu": 1.0},
}


def contents():
    """Every key of every kind of table, in a table that is complete without it."""
    needed = {kind: content for kinds, content in NEEDED.items() for kind in kinds}
    for table in _tables.TABLES:
        for kind in rules.RULES if table == "rule" else _tables._KEYS[table]:
            for key in _tables.keys_of(table, kind):
                content = ({} if kind is None else {"kind": kind}) | needed.get(kind, {})
                yield table, content | ({"path": "no.npy"} if key in ("tensor", "normalise") else {}), key


@pytest.mark.parametrize("value", ["x", True, -1.5, np.nan, 10**400, [[1, 2], [3]], [1.0, -1.0], {"a": 1}])
def test_whatever_a_problem_file_holds_is_a_problem_or_one_sentence(value):
    sentences = []
    for table, content, key in contents():
        try:
            problem_from_dict({table: content | {key: value}})
        except InputError as error:
            sentences.append(str(error))
    assert len(sentences) > 60
    assert "\n" not in "".join(sentences)
