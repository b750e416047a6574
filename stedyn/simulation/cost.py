"""What a simulation will cost, before it starts: seconds, from some measured steps, and bytes of its arrays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from ..checks import in_float64
from ..machine import cores, free_memory
from ..problem.problem import Problem
from .task import Task

#: Coordinate-steps below which a run takes seconds, so that nothing is measured.
SHORT = 1e11
#: Bytes of a process of a sweep that has computed nothing.
PROCESS = 4e8
_MEASURED = 0.2  # seconds of steps that are timed


class Cost(NamedTuple):
    """Seconds and bytes; 0 seconds where a run is too short to be measured."""

    seconds: float
    bytes: float


def memory_of(problem: Problem, dim: int, seeds: int, times: int) -> float:
    """Bytes that a simulation takes beside its programs: what `benchmarks/memory.py` measures, to a quarter."""
    memory = len(jax.tree.leaves(problem.rule.state.own))
    # of every seed: state, teacher on the host and the device, last weights, weights at two saved times
    coordinate = 44.0 + 4.0 * memory + 16.0 * (problem.covariance.kind != "identity")
    saved = 8.0 * (8 + problem.weights.n_levels)
    return seeds * (dim * coordinate + times * saved + 3e4) + 140.0 * dim  # the latter while a seed is drawn


@in_float64
def cost(runs: Sequence[tuple[Problem, int, int]], at_once: int = 1) -> Cost:
    """What ``simulate`` will need for some ``(problem, dim, seeds)``, ``at_once`` of them in processes of their own.

    The seconds are those of one seed of the longest that is timed for a fifth of a second, times all steps of all, on
    the first device and as many threads as there are cores; nothing is measured where that is a matter of seconds, or
    where the memory of this machine does not suffice.
    """
    each = [memory_of(problem, dim, n, problem.taus.size) for problem, dim, n in runs]
    bytes_ = sum(sorted(each)[-at_once:]) + PROCESS * (min(at_once, len(each)) if at_once > 1 else 0)
    works = [_work(*run) for run in runs]
    if sum(works) < SHORT or bytes_ > free_memory():
        return Cost(0.0, bytes_)
    problem, dim, _ = runs[int(np.argmax(works))]
    shared = [work / min(n * at_once, cores()) for work, (_, _, n) in zip(works, runs, strict=True)]
    return Cost(sum(shared) * seconds_of_a_step(problem, dim) / dim, bytes_)


def _work(problem: Problem, dim: int, seeds: int) -> float:
    """Steps of all coordinates, those of flip rates included."""
    return float(problem.taus[-1]) * dim * dim * seeds + 32.0 * dim * problem.run.points * seeds


def seconds_of_a_step(problem: Problem, dim: int) -> float:
    """Seconds of one step of one seed, timed for a fifth of a second on one thread; compiling aside."""
    device, never = jax.local_devices()[0], np.array([2**53])
    task = Task(problem, dim, np.zeros(1, np.uint32), never, never[:0], 1, device.platform)
    task.counts_flips = False  # whose program need not be compiled
    task.place(task.draw(), 1, [device])
    task.compile()
    while True:
        begin = time.perf_counter()
        steps = task.turn(task.groups[0])
        seconds = time.perf_counter() - begin
        if seconds > _MEASURED:
            return seconds / steps
        task.chunk *= 2
