"""One simulation: compiled programs, groups of seeds on their devices, and what is saved at which step."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt32

from ..checks import fail, same_floats
from ..problem.problem import Problem
from . import kernel, programs
from .lattice import LAST
from .layout import Spread, halves, whole
from .moving import Diverged, scales_at
from .observe import Observed
from .population import population, ranges
from .stages import Stages
from .state import Pair, State, encode, halved, joined, latent

_FLIP_STEPS = 32
_PER_SEED = ("snapshots", "weights", "teacher", "variance", "input_mean")  # not one value a saved step

#: Arrays of an `Ensemble` by their names, filled while the runs go on; and variances of the inputs.
Record = dict[str, np.ndarray]


class Place(NamedTuple):
    """Where a group stands: how many saved steps lie behind it, its step, and the state of its loop.

    It is replaced as a whole and its arrays never change, so that any thread can read it at any time.
    """

    done: int
    at: int
    state: State


class Standing(NamedTuple):
    """Where every seed stands, on the host: the same as `Place`, one row a seed, coordinates in order."""

    done: Int[np.ndarray, " S"]
    at: Int[np.ndarray, " S"]
    state: State


class Group:
    """A few seeds that advance together on one device.

    Attributes
    ----------
    rows, keys, fixed : slice, array (s,), tuple of kernel.Fixed
        Their rows in the record, their keys, and teachers and input variances for every stage.
    place : Place
    weights : dict
        Weights (s, d) by saved step, from the last one that all groups have reached.
    """

    def __init__(self, rows: slice, keys: jax.Array, fixed: tuple[kernel.Fixed, ...], place: Place):
        self.rows, self.keys, self.fixed, self.place = rows, keys, fixed, place
        self.weights: dict[int, np.ndarray] = {}

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return self.rows.stop - self.rows.start


class Task:
    """The runs of some seeds of one problem.

    Parameters
    ----------
    problem, dim : Problem, int
        What to simulate.
    keys : array (S,)
        The key of every run.
    steps, kept : arrays (T,) and (n,)
        Steps, increasing, at which the order parameters and the weights themselves are saved.
    chunk : int
        Most steps in one call of a program.
    spread : Spread or None
        Devices over which the coordinates are spread, instead of the seeds.

    Attributes
    ----------
    events : array (E,)
        ``steps`` and ``kept`` together.
    record : Record
        What has been saved. Of a seed it is complete up to the events that its `Place` counts.
    stop : threading.Event
        Once set, no more calls are made.
    """

    def __init__(
        self,
        problem: Problem,
        dim: int,
        keys: UInt32[np.ndarray, " S"],
        steps: Int[np.ndarray, " T"],
        kept: Int[np.ndarray, " n"],
        chunk: int,
        platform: str,
        spread: Spread | None = None,
    ):
        self.problem, self.dim, self.keys = problem, dim, keys
        self.steps, self.kept, self.chunk = steps, kept, chunk
        self.events = np.union1d(steps, kept)
        self.stages = Stages.of(problem, dim)
        self.model = self.stages[0].model
        self.ranges, self.shift = ranges(problem, dim), np.asarray(problem.input_law.mean)
        self.programs = programs.programs(platform, spread)
        lattice = self.model.lattice
        #: Weights are smaller than this, or have diverged.
        self.limit = np.inf if lattice is None else float(lattice.decode(jnp.int32(LAST)))
        self.flip_steps = max(1, min(_FLIP_STEPS, dim // 32))
        self.spread = spread
        self.stop = threading.Event()
        self.groups: list[Group] = []
        S = keys.size
        self.record: Record = self.stages.columns(S, steps.size)
        self.counts_flips = "flip_rate" in self.record
        self.record["snapshots"] = np.zeros((S, kept.size, dim), np.float32)
        self.record["weights"] = np.zeros((S, dim), np.float32)
        self.record["teacher"] = np.zeros((S, dim), np.float32)
        law = problem.covariance
        names = ["variance"] * (law.kind != "identity") + ["input_mean"] * (law.means is not None)
        self.record |= {name: np.zeros((S, dim)) for name in names}

    def draw(self) -> Standing:
        """Draw teacher and start of every seed."""
        starts = np.zeros((self.keys.size, self.dim), np.float32)
        for row, key in enumerate(self.keys):
            drawn = population(self.problem, self.dim, int(key))
            self.record["teacher"][row] = drawn.teacher
            if drawn.variance is not None:
                self.record["variance"][row] = drawn.variance
            if drawn.mean is not None:
                self.record["input_mean"][row] = drawn.mean
            if not np.all(np.abs(drawn.start) < self.limit):
                most = f"start weights below {self.limit:.3g}, where the codes of the lattice end"
                fail("start", most, float(np.abs(drawn.start).max()), "scale it down, or raise the spacing")
            starts[row] = drawn.start
        zeros = np.zeros(self.keys.size, np.int64)
        return Standing(zeros, zeros, jax.tree.map(np.asarray, self._encoded(jnp.asarray(starts))))

    def form(self) -> Standing:
        """The arrays of `standing`, by their types alone."""
        numbers = jax.ShapeDtypeStruct((self.keys.size,), np.int64)
        weights = jax.ShapeDtypeStruct((self.keys.size, self.dim), np.float32)
        return Standing(numbers, numbers, jax.eval_shape(self._encoded, weights))  # type: ignore[arg-type]

    def _encoded(self, w) -> State:
        return joined(encode(self.model, halves(w)), lambda parts: whole(parts, self.dim))

    def place(self, standing: Standing, size: int, devices: list[jax.Device]) -> None:
        """Make groups of up to ``size`` seeds, all of a group at one step, on the devices in turn."""
        first, groups = 0, []
        for row in range(1, self.keys.size + 1):
            if row == self.keys.size or row - first == size or standing.at[row] != standing.at[first]:
                groups.append(slice(first, row))
                first = row
        for k, rows in enumerate(groups):
            device = devices[k % len(devices)] if self.spread is None else self.spread.copied
            variance, own = self._inputs(rows)
            std = None if variance is None else self._put(np.sqrt(variance).astype(np.float32), device)
            mean = None if own is None else self._put((own + self.shift).astype(np.float32), device)
            teacher = self._put(self.record["teacher"][rows], device)
            state = jax.tree.map(lambda part, rows=rows: part[rows], standing.state)
            state = halved(state, lambda part, device=device: self._put(part, device))
            state = state._replace(**jax.device_put(dict(seed=state.seed, scale=state.scale), device))
            shape = rows.stop - rows.start, self.dim
            widths = None if self.ranges is None else self._put(np.broadcast_to(self.ranges, shape), device)
            pairs = None if self.spread is None else self.spread.index
            each = range(rows.start, rows.stop if std is not None else rows.start + 1)

            def put(part, shape=shape, device=device):
                return self._put(np.broadcast_to(part, shape), device)

            common = kernel.Fixed(teacher, std, pairs, widths, input_mean=mean)
            fixed = self.stages.fixed(common, [*map(self._inputs, each)], put)
            keys = jax.device_put(jnp.asarray(self.keys[rows]), device)
            place = Place(int(standing.done[rows.start]), int(standing.at[rows.start]), state)
            self.groups.append(Group(rows, keys, fixed, place))

    def _inputs(self, row: int | slice) -> list[np.ndarray | None]:
        """Variances of the inputs of a seed, or of several, and their own means; None where they have none."""
        both = self.record.get("variance"), self.record.get("input_mean")
        return [None if part is None else part[row] for part in both]

    def standing(self) -> Standing:
        """Where every seed stands now; safe while other threads go on."""
        places = [(group.seeds, group.place) for group in self.groups]
        states = [jax.tree.map(np.asarray, joined(place.state, self._whole)) for _, place in places]
        return Standing(
            np.concatenate([np.full(seeds, place.done) for seeds, place in places]),
            np.concatenate([np.full(seeds, place.at) for seeds, place in places]),
            jax.tree.map(lambda *rows: np.concatenate(rows), *states),
        )

    def compile(self) -> None:
        """Call the programs with no steps, for every shape and device, two at a time."""
        programs = self.programs if self.counts_flips else self.programs[:1]
        unlike = {(group.seeds, group.keys.device): group for group in self.unfinished()}
        with ThreadPoolExecutor(2) as pool:
            futures = [
                pool.submit(same_floats(self._call), program, group, group.place.state, stage.begin, 0)
                for group in unlike.values()
                for program in programs
                for stage in self.stages
            ]
            for future in futures:
                future.result()

    def unfinished(self) -> list[Group]:
        """The groups with saved steps ahead."""
        return [group for group in self.groups if group.place.done < self.events.size]

    def turn(self, group: Group) -> int:
        """One call of the program, up to the next saved step at most; the number of steps made."""
        done, at, state = group.place
        target = int(self.events[done])
        n = min(self.chunk, target - at, self.stages.left(at), 2**32 - at % 2**32)
        if n > 0:
            state, at = self._call(self.programs.advance, group, state, at, n), at + n
        if at == target:
            self._save(group, state, at)
            done += 1
        group.place = Place(done, at, state)
        return n

    def partial(self) -> Record | None:
        """The record up to the last saved step that all seeds have reached; None if that is not known.

        Only after all threads have stopped.
        """
        at = min(max(group.weights, default=-1) for group in self.groups)
        if not all(at in group.weights for group in self.groups):
            return None
        times, kept = (int(np.count_nonzero(steps <= at)) for steps in (self.steps, self.kept))
        cut = {name: values[:, :times] for name, values in self.record.items() if name not in _PER_SEED}
        return cut | {
            "snapshots": self.record["snapshots"][:, :kept],
            "weights": np.concatenate([group.weights[at] for group in self.groups]),
            "teacher": self.record["teacher"],
        }

    def _call(self, program, group: Group, state: State, at: int, n: int):
        words = np.uint32(at % 2**32), np.uint32(at // 2**32), np.int32(n)
        k = self.stages.number(at)
        return jax.block_until_ready(program(self.stages[k].model, group.keys, group.fixed[k], state, *words))

    def _put(self, values: np.ndarray, device) -> Pair:
        if self.spread is not None:
            return self.spread.put(values)
        return jax.device_put(halves(jnp.asarray(values)), device)

    def _whole(self, w: Pair) -> np.ndarray:
        return np.asarray(whole(w, self.dim)) if self.spread is None else self.spread.whole(w)

    def _save(self, group: Group, state: State, at: int) -> None:
        weights = self._whole(latent(self.model, state))
        if not np.all(np.abs(weights) < self.limit):  # nan is not
            what = "float32" if self.model.lattice is None else f"{self.limit:.3g}, where int32 codes end,"
            raise Diverged(
                f"the weights grew beyond {what} before tau = {at / self.dim:.4g}: the run diverges; "
                "lower lr or stop sooner."
            )
        rows, record = group.rows, self.record
        record["snapshots"][rows, self.kept == at] = weights[:, None]
        columns = np.flatnonzero(self.steps == at)
        if columns.size == 0:
            return
        stage = self.stages[self.stages.number(at)]
        scales = scales_at(stage.model, state, at)
        for row, values in zip(range(rows.start, rows.stop), weights, strict=True):
            variance, mean = self._inputs(row)
            own = self.ranges if scales is None else np.full(self.dim, scales[row - rows.start])
            seen = stage.observe(values, record["teacher"][row], variance, own, mean)
            for name in set(Observed._fields) & record.keys():
                record[name][row, columns] = getattr(seen, name)
            if stage.rounded is not None:
                rounded = stage.rounded(values, record["teacher"][row], variance, own, mean)
                record["ptq_error"][row, columns] = rounded.error
        if scales is not None:
            record["range"][rows, columns] = scales[:, None] * float(np.asarray(self.problem.weights.range))
        if self.counts_flips:
            record["flip_rate"][rows, columns] = self._flip_rate(group, state, at)[:, None]
        record["weights"][rows] = weights
        common = min(max(other.weights, default=0) for other in self.groups)
        group.weights = {step: old for step, old in group.weights.items() if step >= common} | {at: weights}

    def _flip_rate(self, group: Group, state: State, at: int) -> np.ndarray:
        n = min(self.flip_steps, self.stages.left(at), 2**32 - at % 2**32)
        total = np.asarray(self._call(self.programs.flips, group, state, at, n), float)
        return total / (n * self.dim**0.5)
