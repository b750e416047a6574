"""Running the microscopic simulation: seeds over threads, time in chunks, exact step counts."""

from __future__ import annotations

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from .._check import fail, finite, whole
from ..problem import Problem
from . import kernel, sampler
from .ensemble import Ensemble
from .observe import Observed, Observer
from .population import population

_CHUNK = 2**25  # coordinate-steps of one compiled call: about a tenth of a second
_MAX_STEPS = 2**53  # tau * dim is exact up to here
_FLIP_STEPS = 32


class _Record(NamedTuple):
    """What one group of seeds returns, for every seed: observed (T), flips (T), weights, snapshots (n)."""

    observed: list[list[Observed]]
    flips: list[np.ndarray]
    weights: np.ndarray
    snapshots: list[np.ndarray]


def simulate(
    problem: Problem,
    *,
    dim: int = 3000,
    seeds: int = 4,
    seed: int = 0,
    taus=None,
    snapshots=(),
    progress: bool = False,
    threads: int | None = None,
    chunk: int | None = None,
) -> Ensemble:
    """Quantized one-pass SGD in ``dim`` dimensions, ``seeds`` times.

    ``w <- clip( w + h(w) U(r, phi) / sqrt(d) - lr weight_decay w / d )`` with a fresh sample
    ``x_i ~ N(0, v_i)`` at every step, ``r = w*.x/sqrt(d) + noise_std xi - psi(w).phi(x)/sqrt(d)``.
    Nothing of the limit is used. Run ``s`` has the key ``seed + s`` and depends on nothing else: not
    on the other runs, the threads, the chunks or the saved times.

    Parameters
    ----------
    problem : Problem
        What to simulate. Samples of a teacher or start file are used as they are when there are
        exactly ``dim`` of them; otherwise every seed draws ``dim`` of them with replacement.
    dim : int
        Input dimension ``d``, at least 2.
    seeds, seed : int
        Number of independent runs (own teacher, start and data each), and the key of the first.
    taus : sequence of float, optional
        Saved times ``tau = steps / d``, increasing; those of ``problem.run`` by default. Time
        ``tau`` is saved after ``round(tau * dim)`` steps exactly.
    snapshots : sequence of float
        Times, increasing, at which the weights themselves are kept; none by default.
    progress : bool
        Whether to show a progress bar on stderr.
    threads : int, optional
        CPU threads; by default as many as the process may use.
    chunk : int, optional
        Most steps in one compiled call, which cannot be interrupted; by default about 0.1 s of work.

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        For an argument out of bounds, in one sentence.
    FloatingPointError
        If the weights grow beyond float32.

    Examples
    --------
    >>> from stedyn.problem import Problem
    >>> from stedyn.quantizers import Quantizer
    >>> ensemble = simulate(Problem(weights=Quantizer(2, 2.0)), dim=50, seeds=2, taus=[0.0, 1.0])
    >>> ensemble.steps.tolist(), ensemble.error.shape
    ([0, 50], (2, 2))
    """
    dim = whole("dim", dim, 2, 2 * sampler.MAX_PAIRS)
    seeds = whole("seeds", seeds, 1)
    seed = whole("seed", seed, 0, 2**32 - seeds)
    threads = whole("threads", _cores() if threads is None else threads, 1)
    chunk = whole("chunk", max(1, _CHUNK // dim) if chunk is None else chunk, 1, 2**31 - 1)
    steps = _steps("taus", problem.taus if taus is None else taus, dim)
    kept = _steps("snapshots", snapshots, dim)
    if steps.size == 0:
        fail("taus", "at least one time", [], "give one")

    # one seed at a time on a CPU, where threads share the seeds; all of them at once elsewhere
    platform = jax.default_backend()
    group = 1 if platform == "cpu" else seeds
    task = _Task(problem, dim, steps, kept, chunk, platform)
    keys = [list(range(s, min(s + group, seed + seeds))) for s in range(seed, seed + seeds, group)]
    groups = [task.start(members) for members in keys]
    task.compile(groups)
    threads = min(threads, len(groups))
    begin = time.perf_counter()
    last = int(max(steps[-1], kept[-1] if kept.size else 0))
    with tqdm(total=last * seeds, unit="step", unit_scale=True, disable=not progress) as bar:
        records = _run(task, groups, threads, bar)
    seconds = time.perf_counter() - begin
    return _ensemble(problem, task, groups, records, seed, seconds, f"{platform}, {threads} thread(s)")


def _cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _steps(name: str, taus, dim: int) -> np.ndarray:
    """Whole numbers of steps (T,), int64, at the given times."""
    values = [float(finite(name, tau)) for tau in np.atleast_1d(np.asarray(taus, dtype=object))]
    if any(value < 0 for value in values) or any(b <= a for a, b in itertools.pairwise(values)):
        fail(name, "increasing times, the first 0 or later", values[:6], "sort them and drop repeats")
    if values and values[-1] * dim > _MAX_STEPS:
        fail(name, f"at most 2^53 steps, so tau up to {_MAX_STEPS // dim}", values[-1], "shorten the run")
    return np.array([round(value * dim) for value in values], dtype=np.int64)


class _Group(NamedTuple):
    keys: jax.Array
    teacher: np.ndarray
    start: np.ndarray
    variance: np.ndarray | None


class _Task:
    """One simulation: the compiled programs, the events in time, and a flag to stop."""

    def __init__(self, problem, dim, steps, kept, chunk, platform):
        self.problem, self.dim, self.steps, self.kept, self.chunk = problem, dim, steps, kept, chunk
        self.model = kernel.model(problem, dim)
        self.programs = kernel.programs(platform)
        self.observer = Observer(problem)
        self.flip_steps = max(1, min(_FLIP_STEPS, dim // 32))
        self.counts_flips = problem.weights.n_levels > 0 and problem.weights.rounding == "nearest"
        self.stop = threading.Event()

    def start(self, keys: list[int]) -> _Group:
        drawn = [population(self.problem, self.dim, key) for key in keys]
        variances = [one.variance for one in drawn if one.variance is not None]
        return _Group(
            jnp.asarray(np.array(keys, np.uint32)),
            np.stack([one.teacher for one in drawn]),
            np.stack([one.start for one in drawn]),
            np.stack(variances) if variances else None,
        )

    def compile(self, groups: list[_Group]) -> None:
        """Calls the programs with no steps, for every shape, both at the same time."""
        programs = self.programs if self.counts_flips else self.programs[:1]
        with ThreadPoolExecutor(2) as pool:
            futures = [
                pool.submit(self._call, program, group, *self._arrays(group), 0, 0)
                for group in {g.teacher.shape: g for g in groups}.values()
                for program in programs
            ]
            for future in futures:
                future.result()

    def _arrays(self, group: _Group) -> tuple[kernel.Fixed, kernel.Halves]:
        def halves(values):
            return kernel.halves(jnp.asarray(values, jnp.float32))

        spread = None if group.variance is None else halves(np.sqrt(group.variance))
        return kernel.Fixed(halves(group.teacher), spread), kernel.encode(self.model, halves(group.start))

    def _call(self, program, group, fixed, w, at: int, n: int):
        low, high = np.uint32(at % 2**32), np.uint32(at // 2**32)
        return jax.block_until_ready(program(self.model, group.keys, fixed, w, low, high, np.int32(n)))

    def run(self, group: _Group, advanced) -> _Record:
        """All the steps of a group; ``advanced(n)`` hears of every ``n`` of them."""
        fixed, w = self._arrays(group)
        record = _Record([[] for _ in group.teacher], [], group.start, [])
        at = 0
        for target in np.union1d(self.steps, self.kept).tolist():
            while at < target and not self.stop.is_set():
                n = min(self.chunk, target - at, 2**32 - at % 2**32)
                w = self._call(self.programs.advance, group, fixed, w, at, n)
                at += n
                advanced(n * len(group.teacher))
            if self.stop.is_set():
                break
            if at != target:
                raise RuntimeError(f"the simulation is at step {at} where step {target} was asked for.")
            record = self._save(record, group, fixed, w, at)
        return record

    def _save(self, record: _Record, group: _Group, fixed, w, at: int) -> _Record:
        weights = np.asarray(kernel.whole(kernel.latent(self.model, w), self.dim))
        if not np.all(np.isfinite(weights)):
            raise FloatingPointError(
                f"the weights grew beyond float32 before tau = {at / self.dim:.4g}; lower lr or stop sooner."
            )
        record.snapshots.extend([weights] * int(np.count_nonzero(self.kept == at)))
        for _ in range(int(np.count_nonzero(self.steps == at))):
            for k, (seen, row) in enumerate(zip(record.observed, weights, strict=True)):
                variance = None if group.variance is None else group.variance[k]
                seen.append(self.observer(row, group.teacher[k], variance))
            if self.counts_flips:
                record.flips.append(self._flip_rate(group, fixed, w, at))
        return record._replace(weights=weights)

    def _flip_rate(self, group: _Group, fixed, w, at: int) -> np.ndarray:
        n = min(self.flip_steps, 2**32 - at % 2**32)
        total = np.asarray(self._call(self.programs.flips, group, fixed, w, at, n), float)
        return total / (n * self.dim**0.5)


def _run(task: _Task, groups: list[_Group], threads: int, bar: tqdm) -> list[_Record]:
    lock = threading.Lock()

    def advanced(n: int) -> None:
        with lock:
            bar.update(n)

    def run(group: _Group) -> _Record:
        try:
            return task.run(group, advanced)
        except BaseException:
            task.stop.set()  # the other threads stop at their next chunk
            raise

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run, group) for group in groups]
        try:
            return [future.result() for future in futures]
        except BaseException:
            task.stop.set()
            raise


def _ensemble(problem, task: _Task, groups, records, seed, seconds, device) -> Ensemble:
    rows = [row for record in records for row in record.observed]

    def column(name):
        values = [[getattr(entry, name) for entry in row] for row in rows]
        return None if values[0][0] is None else np.array(values)

    flips = [np.stack(record.flips, axis=1) for record in records] if task.counts_flips else None
    kept = task.kept.size
    snapshots = [
        np.stack(r.snapshots, axis=1) if kept else np.zeros((len(r.weights), 0, task.dim), np.float32)
        for r in records
    ]
    return Ensemble(
        tau=task.steps / task.dim,
        steps=task.steps,
        **{name: column(name) for name in Observed._fields},
        flip_rate=None if flips is None else np.concatenate(flips),
        weights=np.concatenate([record.weights for record in records]),
        teacher=np.concatenate([group.teacher for group in groups]),
        snapshot_tau=task.kept / task.dim,
        snapshots=np.concatenate(snapshots),
        dim=task.dim,
        seeds=len(rows),
        seed=seed,
        seconds=seconds,
        device=device,
        problem=problem,
    )
