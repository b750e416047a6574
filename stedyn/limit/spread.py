"""How far one run of finite dimension strays from the limit, as a record (``docs/width.md``)."""

from __future__ import annotations

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float


class Spread(eqx.Module):
    """How far one run of dimension ``dim`` strays, beside a solution with ``T`` saved times and its plateaus.

    Attributes
    ----------
    dim, given : int, tuple of str
        For which runs: what is given is the same in all of them.
    error_std : (T,)
        Standard deviation of the error of one run, over seeds.
    covariance : (T, T)
        Covariance of the errors of one run at two saved times.
    escape_std, length_std : list of float or None
        Standard deviations of escape and length of every plateau, in ``tau``; None of an open one.
    error_bias : (T,) or None
        Mean of the error over runs, minus the limit; None where it is not known (`stedyn.limit.bias`).
    drawn, draws : (3, T), (3, 3)
        Covariance of the error with three numbers that a run draws, and of these: norm of the teacher, overlap and norm
        at the start.
    """

    dim: int = eqx.field(static=True)
    given: tuple[str, ...] = eqx.field(static=True)
    error_std: Float[Array | np.ndarray, " T"]
    covariance: Float[Array | np.ndarray, "T T"]
    escape_std: list
    length_std: list
    drawn: Float[Array | np.ndarray, "3 T"]
    draws: Float[Array | np.ndarray, "3 3"]
    error_bias: Float[Array | np.ndarray, " T"] | None = None

    @property
    def correlation(self) -> np.ndarray:
        """Correlation of the errors of one run at two saved times (T, T)."""
        scale = np.where(self.error_std > 0, self.error_std, 1.0)
        return np.asarray(self.covariance) / np.outer(scale, scale)

    def notes(self) -> list[str]:
        """What to add to the line of every plateau."""
        pairs = zip(self.length_std, self.escape_std, strict=True)
        return [
            ""
            if length is None
            else f"; one run: length +- {length:.3g}, escape +- {escape:.3g} (d = {self.dim})"
            for length, escape in pairs
        ]

    def of_plateaus(self) -> list[dict]:
        """What is added to the plain numbers of every plateau."""
        pairs = zip(self.escape_std, self.length_std, strict=True)
        return [{"escape_std": escape, "length_std": length} for escape, length in pairs]

    def to_dict(self) -> dict:
        """Plain numbers and lists; those of the plateaus stand beside these."""
        curves = {name: getattr(self, name) for name in ("error_std", "error_bias")}
        told = {name: np.asarray(curve).tolist() for name, curve in curves.items() if curve is not None}
        return {"dim": self.dim, "given": list(self.given), **told}
