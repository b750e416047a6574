"""Hostile input is answered by one sentence and the right exit code, fast, and nothing in it is executed."""

import json
import warnings

import pytest
from attack import CASES, answer, attack, fault
from cases import NUMBERS, READ, Case
from cases import VALUES as HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st

KEYS = st.sampled_from(
    [*NUMBERS, "teacher.kind", "weights.kind", "rule.kind", "start.path", "covariance.values", "a.b"]
)
VALUES = (
    st.sampled_from([value for value in HOSTILE.values() if len(value) < 10**5])
    | st.floats().map(repr)
    | st.integers().map(str)
    | st.text(max_size=20).map(json.dumps)
    | st.text(max_size=20)
)
FLAGS = st.sampled_from(
    [
        "--bits",
        "--lr",
        "--tau",
        "--set",
        "--out",
        "--law",
        "--tol",
        "--plot",
        "--kind",
        "1",
        "nan",
        "-1",
        "--set=run.tau=1",
    ]
)

#: One case in nine, of those that are read before anything is compiled.
QUICK = [
    case
    for case in CASES
    if case.name.split("-")[0] not in ("large", "flags", "checkpoint", "sweep", "extreme")
][::9]


def test_a_part_of_the_attack():
    assert len(QUICK) >= 50
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        found = {case.name: fault(case, *answer(case)) for case in QUICK}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@given(
    hostile=st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4), junk=st.none() | st.text(max_size=40)
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_drawn_problem_files(hostile, junk):
    """Files of drawn assignments are read (then the figure is refused) or answered by a sentence."""
    text = "".join(f"[{key.split('.')[0]}]\n{key.split('.')[1]} = {value}\n" for key, value in hostile)
    content = (text + (junk or "")).encode("utf-8", "surrogatepass")
    case = Case("drawn", ["predict", "a.toml", *READ], {"a.toml": content}, refused=False)
    assert fault(case, *answer(case)) is None, content


@given(words=st.lists(FLAGS | st.text(st.characters(exclude_characters="\0"), max_size=12), max_size=5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_drawn_flags(words):
    case = Case(
        "drawn", ["predict", *(word for word in words if word not in ("--help", "-")), *READ], {}, False
    )
    assert fault(case, *answer(case)) is None, words


@pytest.mark.slow
def test_the_attack():
    assert len(CASES) >= 500
    assert len({case.name for case in CASES}) == len(CASES)
    assert [(case.name, wrong, said[-300:]) for case, wrong, said in attack(CASES) if wrong] == []
