"""Hostile input is answered by one sentence and the right exit code, fast, and nothing in it is executed."""

import warnings

import pytest
from attack import CASES, answer, attack, fault

#: One case in nine, of those that are read before anything is compiled.
QUICK = [case for case in CASES if case.name.split("-")[0] not in ("large", "flags", "checkpoint", "sweep")][
    ::9
]


def test_a_part_of_the_attack():
    assert len(QUICK) >= 50
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        found = {case.name: fault(case, *answer(case)) for case in QUICK}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.slow
def test_the_attack():
    assert len(CASES) >= 500
    assert len({case.name for case in CASES}) == len(CASES)
    assert [(case.name, wrong, said[-300:]) for case, wrong, said in attack(CASES) if wrong] == []
