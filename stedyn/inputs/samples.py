"""Measured values: of weights, of starts, of the variances of inputs, of inputs themselves."""

from __future__ import annotations

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from ..checks import fail

#: Samples with at most this many distinct values keep them exactly (``atoms`` and their shares).
MAX_ATOMS = 64


class Samples(eqx.Module):
    """Measured values and, if they came from a file, its path (kept for writing the problem back)."""

    values: Float[Array, " n"]
    atoms: Float[Array, " U"] | None
    weights: Float[Array, " U"] | None
    path: str | None = eqx.field(static=True)

    def __init__(self, values, path: str | None = None):
        where = f"file {path}" if path else "samples"
        try:
            array = np.asarray(values)
        except ValueError:  # rows of different lengths
            fail(where, "a one-dimensional list of at least 2 numbers", values, "give one list")
        if array.ndim != 1 or array.size < 2 or array.dtype.kind not in "fiu":
            fail(where, "a one-dimensional list of at least 2 numbers", f"shape {array.shape}", "reshape it")
        if not np.all(np.isfinite(array)):
            fail(where, "finite numbers only", f"{np.sum(~np.isfinite(array))} nan or inf", "remove them")
        self.values = array.astype(float)
        self.path = path
        atoms, counts = np.unique(self.values, return_counts=True)
        few = atoms.size <= MAX_ATOMS
        self.atoms, self.weights = (atoms, counts / array.size) if few else (None, None)
