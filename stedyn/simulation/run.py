"""Running the microscopic simulation: checks, threads that take turns, interrupts, the answer."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from ..checks import PATH, Notice, checked, choice, fail, finite, in_float64, positive, same_floats, whole
from ..machine import cores
from ..problem.means import slow_mean_of
from ..problem.problem import Problem
from . import sampler
from .checkpoint import Checkpoint
from .ensemble import Ensemble
from .hosts import Hosts, devices_of
from .layout import spread_over
from .progress import progress_bar
from .task import Record, Task

_CHUNK = 2**25  # coordinate-steps of one compiled call: about a tenth of a second
#: From so many seeds on they are advanced in groups, of at most 64 times as many coordinates.
MANY = 128
_MAX_STEPS = 2**53  # tau * dim is exact up to here
_SPLITS = ("seeds", "weights")
_EVERY = 60.0  # seconds between checkpoints


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `simulate`, after the threads have stopped and the checkpoint is written.

    ``ensemble`` is the result up to the last time that all seeds have reached, with ``partial`` set;
    None if there is no such time or if a checkpoint holds the state.
    """

    def __init__(self, ensemble: Ensemble | None):
        super().__init__()
        self.ensemble = ensemble


@checked(problem=Problem, checkpoint=PATH)
@in_float64
def simulate(
    problem: Problem,
    *,
    dim: int = 3000,
    seeds: int = 4,
    seed: int = 0,
    taus=None,
    snapshots=(),
    progress: bool | Callable[[float], None] = False,
    threads: int | None = None,
    chunk: int | None = None,
    devices: int | None = None,
    split: str = "seeds",
    checkpoint: str | os.PathLike | None = None,
    every: float | None = None,
    exact: bool = False,
) -> Ensemble:
    """Quantized one-pass SGD in ``dim`` dimensions, ``seeds`` times.

    ``w <- clip( w + h(w) U(r, phi) / sqrt(d) - lr weight_decay w / d )`` with a fresh sample
    ``x_i ~ N(0, v_i)`` at every step, ``r = w*.x/sqrt(d) + noise_std xi - psi(w).phi(x)/sqrt(d)``; with the model
    "sign" the label is ``sign(w*.x/sqrt(d)) + noise_std xi``.
    Nothing of the limit is used. Run ``s`` has the key ``seed + s`` and depends on nothing else: not
    on the other runs, the threads, the devices, the chunks, the saved times or interruptions.

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
    progress : bool or function
        Whether to show a progress bar on stderr; or what is told the part, from 0 to 1, that is done, from a thread
        of the run, and may raise KeyboardInterrupt to stop it as Ctrl-C does.
    threads : int, optional
        CPU threads; by default as many as the process may use.
    chunk : int, optional
        Most steps in one compiled call, which cannot be interrupted; by default about 0.1 s of work.
    devices : int, optional
        How many devices to use; all of JAX's by default. With several processes (``jax.distributed``)
        each takes its share of the seeds and all return the whole ensemble.
    split : {"seeds", "weights"}
        What is divided among the devices: the seeds, or the coordinates of each of them, for a ``dim``
        that is too large for one; every step then waits for one small exchange. Neither result depends
        on the number of devices; the two differ at most by the rounding of float32.
    checkpoint : path, optional
        A file that is written every so often and at an interrupt. The same call goes on from it, to
        the same bits, or returns the result that it holds. One of several processes adds its number.
    every : float, optional
        Seconds between checkpoints; 60 by default.
    exact : bool
        Refuse a checkpoint that was written with another arithmetic (version of JAX or XLA, instruction set, device),
        from which the run would not go on to the same bits; otherwise there is a warning.

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        For an argument out of bounds, or a checkpoint that is damaged, belongs to another
        simulation or is in use by another process; in one sentence.
    FloatingPointError
        If the weights grow beyond float32, or those of a lattice beyond int32 codes.
    Interrupted
        At Ctrl-C: a KeyboardInterrupt that holds what is finished.

    Examples
    --------
    >>> from stedyn.problem.problem import Problem
    >>> from stedyn.quantizers.quantizer import Quantizer
    >>> ensemble = simulate(Problem(weights=Quantizer(2, 2.0)), dim=50, seeds=2, taus=[0.0, 1.0])
    >>> ensemble.steps.tolist(), ensemble.error.shape
    ([0, 50], (2, 2))
    """
    dim = whole("dim", dim, 2, 2 * sampler.MAX_PAIRS)
    seeds = whole("seeds", seeds, 1)
    seed = whole("seed", seed, 0, 2**32 - seeds)
    threads = whole("threads", cores() if threads is None else threads, 1)
    chunk = whole("chunk", max(1, _CHUNK // dim) if chunk is None else chunk, 1, 2**31 - 1)
    steps = _steps("taus", problem.taus if taus is None else taus, dim)
    kept = _steps("snapshots", snapshots, dim)
    if steps.size == 0:
        fail("taus", "at least one time", [], "give one")
    if every is not None and checkpoint is None:
        fail("every", "None without a checkpoint", every, "name a file for the checkpoint")
    every = positive("every", _EVERY if every is None else every)
    places, hosts = devices_of(devices), Hosts(seeds)
    platform = places[0].platform
    spread = spread_over(tuple(places), dim) if choice("split", split, _SPLITS) == "weights" else None
    if spread is not None and problem.rule.joint:
        fail("split", "'seeds' for a rule that couples all coordinates", split, "leave it out")
    keys = seed + hosts.mine(np.arange(seeds, dtype=np.uint32))
    if spread is not None and problem.range_rule is not None:
        fail("split", "'seeds' with a range that moves (its sum over the coordinates is not exchanged)", split,
             "leave it out")  # fmt: skip
    if slow := slow_mean_of(problem, dim, float(steps[-1] / dim)):
        warnings.warn(slow, Notice, 4)
    task = Task(problem, dim, keys, steps, kept, chunk, platform, spread)
    file = None if checkpoint is None else Checkpoint(hosts.path(checkpoint), task, platform, exact)
    with contextlib.nullcontext() if file is None else contextlib.closing(file):
        standing = None if file is None else file.load()

        # a few seeds at a time on a CPU, where threads share them; an equal part on each device elsewhere
        size = _together(keys.size, dim) if platform == "cpu" else -(-keys.size // len(places))
        task.place(task.draw() if standing is None else standing, keys.size if spread else size, places)
        most = threads if platform == "cpu" else len(places)
        threads = 1 if spread else min(most, len(task.groups))  # spread: all devices work on one group
        task.compile()
        begin = time.perf_counter()
        made = sum(group.seeds * group.place.at for group in task.groups)
        total = int(task.events[-1]) * task.keys.size
        with progress_bar(progress, total, made) as bar:
            try:
                _run(task, threads, bar, None if file is None else file.save, every)
            except KeyboardInterrupt:
                partial = task.partial() if file is None and hosts.count == 1 else None
                seconds = time.perf_counter() - begin
                where = _device(platform, places, threads)
                raise Interrupted(
                    None if partial is None else _ensemble(task, partial, seed, seconds, where)
                ) from None
        seconds = time.perf_counter() - begin + (0.0 if file is None else file.seconds)
        record = {name: hosts.gather(values) for name, values in task.record.items()}
        return _ensemble(task, record, seed, seconds, _device(platform, places, threads))


def _together(seeds: int, dim: int) -> int:
    """How many seeds a thread of a CPU takes at once: more than one of very many short ones.

    If possible all groups are alike, so that one program serves them.
    """
    most = 1 if seeds < MANY else max(1, MANY * 64 // dim)
    return next((size for size in range(most, most // 4, -1) if seeds % size == 0), most)


def _steps(name: str, taus, dim: int) -> np.ndarray:
    """Whole numbers of steps (T,), int64, at the given times."""
    values = [float(finite(name, tau)) for tau in np.atleast_1d(np.asarray(taus, dtype=object))]
    if any(value < 0 for value in values) or any(b <= a for a, b in itertools.pairwise(values)):
        fail(name, "increasing times, the first 0 or later", values[:6], "sort them and drop repeats")
    if values and values[-1] * dim > _MAX_STEPS:
        fail(name, f"at most 2^53 steps, so tau up to {_MAX_STEPS // dim}", values[-1], "shorten the run")
    return np.array([round(value * dim) for value in values], dtype=np.int64)


def _device(platform: str, places: list, threads: int) -> str:
    many = f"{len(places)} devices, " if len(places) > 1 else ""
    return f"{platform}, {many}{threads} thread(s)"


def _run(task: Task, threads: int, bar: Any, save: Callable[[float], None] | None, every: float) -> None:
    """Let threads take turns with the groups until all are finished; save now and then, and at the end."""
    queue: SimpleQueue = SimpleQueue()
    for group in task.unfinished():
        queue.put(group)
    lock, begin = threading.Lock(), time.perf_counter()

    warned = False

    def saved(interrupted: bool = False) -> None:
        nonlocal warned
        try:
            if save is not None:
                save(time.perf_counter() - begin)
        except OSError as error:
            if interrupted:
                raise
            if not warned:
                reason = f"cannot write {error.filename} ({error.strerror})"
                warnings.warn(f"{reason}; the run goes on without this checkpoint.", Notice, 4)
            warned = True

    def work() -> None:
        try:
            while not task.stop.is_set():
                try:
                    group = queue.get_nowait()
                except Empty:  # as many threads as unfinished groups are at work
                    return
                n = task.turn(group)
                if group.place.done < task.events.size:
                    queue.put(group)
                with lock:
                    bar.update(n * group.seeds)
        except BaseException:
            task.stop.set()  # the other threads stop at their next turn
            raise

    if queue.empty():
        return
    try:
        with ThreadPoolExecutor(threads) as pool:
            pending = {pool.submit(same_floats(work)) for _ in range(threads)}
            try:
                while pending:
                    done, pending = wait(pending, None if save is None else every, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    if pending:
                        saved()
            except BaseException:
                task.stop.set()
                raise
    except KeyboardInterrupt:
        saved(interrupted=True)
        raise
    saved()


def _ensemble(task: Task, record: Record, seed: int, seconds: float, device: str) -> Ensemble:
    absent: dict[str, Any] = dict.fromkeys(
        ("saturated", "flip_rate", "occupancy", "classification_error", "ptq_error", "range")
    )
    times, kept = record["error"].shape[1], record["snapshots"].shape[1]
    record = {name: values for name, values in record.items() if name not in ("variance", "input_mean")}
    return Ensemble(
        tau=task.steps[:times] / task.dim,
        steps=task.steps[:times],
        **(absent | record),
        snapshot_tau=task.kept[:kept] / task.dim,
        dim=task.dim,
        seeds=len(record["error"]),
        seed=seed,
        seconds=seconds,
        device=device,
        problem=task.problem,
        partial=times < task.steps.size,
    )
