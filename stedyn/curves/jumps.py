"""Plateaus of a curve that jumps up where a phase begins: they are those of the parts between the jumps."""

from __future__ import annotations

import numpy as np

from .plateaus import Plateau, find_plateaus

#: Part by which an error rises from one time to the next where it jumps.
RISE = 0.05


def plateaus_between(tau, error, begins: tuple[float, ...], noise=None, **options) -> list[Plateau]:
    """`find_plateaus` of a curve (T,) of phases that begin at some times; ``options`` are for the last part.

    A drop that follows a jump up ends no plateau before the jump. Where a curve jumps down, or not at all, a plateau
    goes on.
    """
    tau, error = np.asarray(tau), np.asarray(error)
    first = np.searchsorted(tau, np.array(begins[1:]) * (1 - 1e-9))
    cuts = [k for k in first if 0 < k < tau.size and error[k] > (1 + RISE) * error[k - 1]]
    edges, found = [0, *cuts, tau.size], []
    for k, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        own = noise[low:high] if np.ndim(noise) else noise
        given = options if k == len(cuts) else {}
        if high - low > 1:
            found += find_plateaus(tau[low:high], error[low:high], own, **given)
    return found
