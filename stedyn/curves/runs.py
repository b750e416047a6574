"""Error curves of several runs of one problem: mean, spread, standard error."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float


class Runs:
    """Base of records with ``tau (T,)``, ``error (S, T)``, the input dimension ``dim`` and ``seeds`` runs."""

    #: What such runs are called in sentences and figures.
    noun: ClassVar[str]
    tau: Float[np.ndarray, " T"]
    error: Float[np.ndarray, "S T"]
    dim: int
    seeds: int

    @property
    def error_mean(self) -> Float[np.ndarray, " T"]:
        """Mean of the error over the runs."""
        return self.error.mean(axis=0)

    @property
    def error_std(self) -> Float[np.ndarray, " T"]:
        """Standard deviation of the error between runs (``ddof = 1``); 0 for a single run."""
        return self.error.std(axis=0, ddof=1) if self.seeds > 1 else np.zeros_like(self.tau)

    @property
    def error_sem(self) -> Float[np.ndarray, " T"]:
        """Standard error of the mean, ``error_std / sqrt(S)``; 0, which says nothing, for one run."""
        return self.error_std / np.sqrt(self.seeds)
