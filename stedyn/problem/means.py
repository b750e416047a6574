"""Whether the mean output of inputs with a mean is fast beside a run: its time is ``1/kappa`` steps."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

#: Relaxation times in which the mean output settles; of a run as long as `LONG` of them that is a tenth.
SETTLED, LONG = 10.0, 100.0


def slow_mean(kappa: float, dim: int, tau: float, times: float = LONG, about: str = "") -> str | None:
    """One sentence if a run to ``tau`` in dimension ``dim`` has fewer relaxation ``times`` of the mean output."""
    if kappa * dim * tau >= times:
        return None
    time = "does not relax" if kappa <= 0 else f"relaxes over tau = 1/(kappa d) = {1 / (kappa * dim):.3g}"
    return (
        f"The mean output of these inputs {time} (kappa {about}{kappa:.2g}, d = {dim}), which is not short beside the "
        f"run (tau = {tau:.3g}), so that the limit, in which it has always relaxed, does not describe it: set "
        "inputs.centre = true, or take a larger d."
    )


def slow_mean_of(problem, dim: int, tau: float) -> str | None:
    """The same of a run that does not settle, before it is solved: ``kappa = lr E[phi]^2``, of unquantized weights."""
    rate = problem.rule.shift(jnp.zeros(())) if problem.means == "kept" else None
    if rate is None:
        return None
    moments = problem.moments(*problem.covariance.some((np.arange(16) + 0.5) / 16))
    return slow_mean(float(rate * jnp.mean(moments.mean**2)), dim, tau, SETTLED, "about ")


def slow_in(comparison) -> list[str]:
    """The same for a comparison, by the least kappa of its solution."""
    kappa, runs = comparison.solution.kappa, comparison.ensemble
    slow = None if kappa is None else slow_mean(float(np.min(kappa)), runs.dim, float(runs.tau[-1]))
    return [slow] if slow else []


def mean_mode_line(kappa, part: float, tau: float) -> str:
    """What the mean costs, in one line: ``kappa (T,)`` along a run to ``tau``, and the part of the final error."""
    least = float(np.min(kappa)) * tau
    far = f"above {LONG / least:.2g}" if least > 0 else "without end, as kappa vanishes on the way"
    return (
        f"mean of the inputs: kappa {float(kappa[-1]):.4g} at the end, {np.max(kappa):.4g} at most (of 2, as lr "
        f"goes); fluctuations of the mean output are {100 * part:.3g} % of the final error; limit of dimensions {far}"
    )
