"""What a choice of range and bits should make small: an error, a time, or the length of a plateau."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..checks import fail
from .plateaus import find_plateaus

#: Kinds, and what the number after the ``=`` of a kind means.
KINDS: dict[str, str | None] = {
    "final-error": None,
    "error-at": "a time tau = steps / d",
    "time-to": "an error",
    "plateau-length": None,
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """An objective to be minimized; ``str()`` is its name, such as ``error-at=20``.

    ``final-error`` is the error of the fixed point, ``error-at=TAU`` that at time ``TAU``, ``time-to=ERROR`` the first
    time at which the error is ``ERROR`` or less (infinite if never), ``plateau-length`` the length of the longest
    plateau of the curve.
    """

    kind: str
    number: float | None = None

    @classmethod
    def parse(cls, text: str) -> Objective:
        """An objective from its name.

        Raises
        ------
        ValueError
            If the kind is unknown, or its number is missing, not wanted, or not above 0.

        Examples
        --------
        >>> Objective.parse("error-at=20")
        Objective(kind='error-at', number=20.0)
        """
        kind, _, rest = str(text).partition("=")
        names = ", ".join(name if meaning is None else f"{name}=NUMBER" for name, meaning in KINDS.items())
        if kind not in KINDS:
            fail("objective", f"one of {names}", text, "choose one of these")
        meaning = KINDS[kind]
        if meaning is None:
            if rest:
                fail("objective", f"{kind!r} without a number", text, "leave the number out")
            return cls(kind)
        try:
            number = float(rest)
        except ValueError:
            number = -1.0
        if not (np.isfinite(number) and number > 0):
            fail("objective", f"{kind}= and {meaning}, above 0", text, f"write for example {kind}=0.5")
        return cls(kind, number)

    def __str__(self):
        return self.kind if self.number is None else f"{self.kind}={self.number:g}"

    @property
    def needs_curve(self) -> bool:
        """Whether it is read off a curve."""
        return self.kind != "final-error"

    def measure(self, tau, error, floor: float | None = None) -> float:
        """The value that a curve (T,) gives it, which falls to ``floor`` in the end (see `find_plateaus`)."""
        number = self.number or 0.0
        if self.kind == "error-at":
            return float(np.interp(number, tau, error))
        if self.kind == "time-to":
            return time_to(tau, error, number)
        if self.kind == "plateau-length":
            return longest_plateau(tau, error, floor)
        return float(error[-1])


def time_to(tau, error, target: float) -> float:
    """First time at which a curve is at ``target`` or below, infinite if never; log-linear between saved times."""
    tau, error = np.asarray(tau, float), np.asarray(error, float)
    below = np.flatnonzero(error <= target)
    if below.size == 0:
        return np.inf
    k = below[0]
    if k == 0:
        return float(tau[0])
    high, low = np.log(error[k - 1]), np.log(max(error[k], 1e-300))
    return float(tau[k - 1] + (tau[k] - tau[k - 1]) * (high - np.log(target)) / (high - low))


def longest_plateau(tau, error, floor: float | None = None) -> float:
    """Length of the longest plateau of a noiseless curve; 0 without one, infinite if one is open."""
    found = find_plateaus(tau, error, 0.0, floor=floor)
    return max((np.inf if plateau.length is None else plateau.length for plateau in found), default=0.0)
