"""Named formats: limit against simulation, and the choice between formats of equal bits."""

import dataclasses
import time

import numpy as np
import pytest

from stedyn import SGD, Problem, Quantizer, Run, Start, Teacher, choose, compare, simulate, solve
from stedyn.checks import InputError
from stedyn.inputs.law import InputLaw
from stedyn.rules import QuantizedGradient


def problem(weights=None, inputs=None, tau=6.0):
    teacher = Teacher.samples([-0.5, 0.3, 1.1])
    return Problem(teacher, Start.gaussian(std=0.5), noise_std=0.2, weights=weights, inputs=inputs, rule=SGD(0.3),
                   run=Run(tau, 4), input_law=InputLaw.gaussian(centre=True))  # fmt: skip


def test_fp4_in_limit_and_simulation():
    own = problem(Quantizer(range=1.5, kind="fp4-e2m1"), tau=3.0)
    gap = simulate(own, dim=400, seeds=6).error - solve(own).error
    assert np.all(np.abs(gap.mean(0)) < 4 * gap.std(0, ddof=1) / 6**0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp4-e2m1", "nf4", "int4", "fp8-e4m3", "power-of-two"])
@pytest.mark.parametrize("part", ["weights", "inputs"])
def test_formats_in_limit_and_simulation(kind, part):
    bits = 4 if kind == "power-of-two" else None
    own = problem(**{part: Quantizer(bits, 1.5 if part == "weights" else 2.5, kind=kind)})
    assert compare(solve(own), simulate(own, dim=2000, seeds=12, seed=7)).agreement == "agree"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp4-e2m1", "fp8-e4m3", "power-of-two"])
def test_formats_of_gradients_in_limit_and_simulation(kind):
    bits = 4 if kind == "power-of-two" else None
    rule = QuantizedGradient(0.3, quantizer=Quantizer(bits, 2.0, kind=kind))
    own = dataclasses.replace(problem(), rule=rule, input_law=InputLaw())
    assert compare(solve(own), simulate(own, dim=1000, seeds=12, seed=7)).agreement == "agree"


@pytest.mark.slow
def test_many_levels_within_the_tolerance():
    """A Gaussian teacher behind 253 levels: the estimate covers what a much finer solution finds."""
    own = Problem(Teacher.gaussian(1.0), Start.gaussian(std=0.5), noise_std=0.2, rule=SGD(0.1), run=Run(30.0, 6),
                  weights=Quantizer(range=3.0, kind="fp8-e4m3"))  # fmt: skip
    solve(own)
    start = time.process_time()
    found = solve(own)
    assert time.process_time() - start < 30  # 10 on two busy cores; it was 140
    finer = solve(own, tol=1e-3, cells=256, classes=400)
    assert np.max(np.abs(found.error / finer.error - 1)) < found.error_estimate <= 5e-3


@pytest.mark.slow
def test_formats_of_equal_bits_are_compared():
    own = Problem(Teacher.gaussian(1.0), noise_std=0.1, rule=SGD(0.1), run=Run(40.0, 5))
    kinds = ("int4", "fp4-e2m1", "nf4")
    answer = choose(own, kinds=kinds, bits=[4], points=10, baselines=False)
    best = {choice.kind: choice for choice in answer.choices}
    assert best["nf4"].value < best["int4"].value < best["fp4-e2m1"].value
    assert set(answer.to_pandas()["kind"]) == set(kinds)
    for choice in answer.choices:
        assert all(ratio > 1 for ratio in choice.misses.values())


def test_faults_of_a_comparison_of_formats():
    with pytest.raises(InputError, match="kinds: expected kinds with one of the bit widths"):
        choose(Problem(), kinds=["int4", "fp8-e4m3"], bits=[4])
    with pytest.raises(InputError, match="kinds: expected different kinds"):
        choose(Problem(), kinds=["nf4", "nf4"])
    with pytest.raises(InputError, match="kinds: expected one of"):
        choose(Problem(), kinds=["fp3"])
