"""The horizon of a problem and its saved times."""

from __future__ import annotations

import equinox as eqx
import numpy as np

from ..checks import checked, fail, finite, positive, whole

#: Largest number of a problem: beside a larger one, double precision loses 1.
LARGEST = 1e15
#: Smallest range, latent clip and horizon.
SMALLEST = 1e-30


class Run(eqx.Module):
    """Horizon and saved times: ``points`` equally spaced in ``[0, tau]``, or an explicit list ``taus``."""

    tau: float = eqx.field(static=True)
    points: int = eqx.field(static=True)
    explicit: tuple[float, ...] | None = eqx.field(static=True)

    @checked()
    def __init__(self, tau=100.0, points=201, *, taus=None):
        self.explicit = None
        if taus is None:
            self.tau, self.points = _horizon("tau", positive("tau", tau)), whole("points", points, 2, 10**6)
            return
        values = tuple(float(finite("taus", t)) for t in np.atleast_1d(np.asarray(taus, dtype=object)))
        if len(values) < 2 or values[0] < 0 or any(b <= a for a, b in zip(values, values[1:], strict=False)):
            fail("taus", "at least two increasing times, the first 0 or later", list(values)[:6], "sort them")
        self.explicit, self.tau, self.points = values, _horizon("taus", values[-1]), len(values)

    @property
    def taus(self) -> np.ndarray:
        """The saved times (T,), in units of steps / d."""
        return np.linspace(0.0, self.tau, self.points) if self.explicit is None else np.array(self.explicit)


def _horizon(name: str, tau) -> float:
    if not SMALLEST <= tau <= LARGEST:
        fail(name, f"a horizon from {SMALLEST:g} to {LARGEST:g}", tau, "choose one in these bounds")
    return float(tau)
