"""Where runs are made: the devices of this process, and its share when there are several processes."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np

from ..checks import fail, whole
from ..files.whole import refuse_special


def devices_of(count: int | None) -> list[jax.Device]:
    """The first ``count`` devices of this process; all of them for None."""
    found = jax.local_devices()
    return found if count is None else found[: whole("devices", count, 1, len(found))]


class Hosts:
    """The processes of ``jax.distributed``, one if it is not in use; each has a stretch of the seeds."""

    def __init__(self, seeds: int):
        self.count, self.index = jax.process_count(), jax.process_index()
        if seeds < self.count:
            fail("seeds", f"at least one for each of the {self.count} processes", seeds, "raise it")
        self.bounds = [seeds * k // self.count for k in range(self.count + 1)]

    def mine(self, values: np.ndarray) -> np.ndarray:
        """The rows of this process."""
        return values[self.bounds[self.index] : self.bounds[self.index + 1]]

    def path(self, path: str | os.PathLike) -> Path:
        """The checkpoint of this process, in a folder that exists.

        Raises
        ------
        ValueError
            If the path is a folder or lies in none.
        """
        target = Path(path)
        if target.is_dir():
            fail("checkpoint", "the name of a file", str(path), "add one to the folder")
        refuse_special(target, "checkpoint")
        if not target.absolute().parent.is_dir():
            fail("checkpoint", "a file in a folder that exists", str(path), "make the folder")
        if not os.access(target.absolute().parent, os.W_OK):
            fail("checkpoint", "a file in a folder that can be written", str(path), "name another")
        return target if self.count == 1 else target.with_name(f"{target.name}.{self.index}-of-{self.count}")

    def gather(self, mine: np.ndarray) -> np.ndarray:
        """The rows of all processes, in order, to the bit."""
        if self.count == 1:
            return mine
        if mine.size == 0:
            return np.zeros((self.bounds[-1], *mine.shape[1:]), mine.dtype)
        from jax.experimental import multihost_utils

        sizes = np.diff(self.bounds)
        padded = np.zeros((sizes.max(), *mine.shape[1:]), mine.dtype)
        padded[: len(mine)] = mine
        parts = multihost_utils.process_allgather(padded.view(np.uint8))  # bytes, as floats may lose half
        rows = np.asarray(parts).view(mine.dtype)
        return np.concatenate([part[:size] for part, size in zip(rows, sizes, strict=True)])
