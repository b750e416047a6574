"""Integration of a law with Diffrax; the only module that imports it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import RESULTS
from jaxtyping import Array, Float

from ..curves.dense import Steps
from .laws.law import Accuracy, Flow

#: Largest number of steps, and the smallest step, where the integration stops: numbers no longer become finite.
MAX_STEPS, DTMIN = 200_000, 1e-250


class ExtrapolatedEuler(diffrax.AbstractAdaptiveSolver):
    """Linearly implicit Euler steps of size ``h, h/2, .. h/k``, extrapolated to order ``k``.

    The law is the argument ``args`` and has to offer ``advance(t, h, y)``, one linearly implicit step,
    and ``watch(best, other)``: the values whose relative accuracy counts and how far two results lie
    apart in them. The state is ``(y, values)``, and only ``values`` carry an error estimate: the
    difference to the member of order ``k - 1`` of the tableau (Deuflhard 1985). Below ``least`` the first of them
    counts as that much.
    """

    columns: int = 3
    least: Float[Array, ""] | float = 0.0

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable] = diffrax.LocalLinearInterpolation

    def order(self, terms):
        return self.columns

    def error_order(self, terms):
        return self.columns

    def init(self, terms, t0, t1, y0, args):
        return None

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        h, state, k = t1 - t0, y0[0], self.columns
        parts = [
            part for n in range(1, k + 1) for part in zip(np.arange(n) / n, np.full(n, 1 / n), strict=True)
        ]

        def substep(current, where):
            start, fraction = where
            current = jax.tree.map(lambda now, first: jnp.where(start == 0, first, now), current, state)
            new = args.advance(t0 + start * h, fraction * h, current)
            return new, new

        _, out = jax.lax.scan(substep, state, tuple(jnp.array(parts).T))
        best, finer = (
            jax.tree.map(lambda y, first=first: _extrapolated(y, first, k), out) for first in (1, 2)
        )
        values, error = args.watch(best, finer)
        size, least = jnp.abs(values[0]), jnp.maximum(self.least, 1e-300)
        error = error.at[0].multiply(size / jnp.maximum(size, least))
        error = jnp.where(jnp.isnan(error), jnp.inf, error)  # rejected, and tried again with a smaller step
        y1 = (best, values)
        unseen = jax.tree.map(jnp.zeros_like, best)
        return y1, (unseen, error), dict(y0=y0, y1=y1), None, RESULTS.successful


def _extrapolated(y: Array, first: int, last: int) -> Array:
    """Value at ``1/n = 0`` of the polynomial through the results of ``n = first .. last`` substeps."""
    n = np.arange(first, last + 1)
    weights = [float(np.prod(own / np.delete(own - n, i))) for i, own in enumerate(n)]
    return functools.reduce(
        operator.add, (w * y[i * (i + 1) // 2 - 1] for w, i in zip(weights, n, strict=True))
    )


def _field(t, y, law):
    """The vector field of ``(state, values)``; the law travels as the argument of the solve."""
    return law(t, y[0]), jnp.zeros_like(y[1])


def _largest(scaled):
    """Largest scaled error of the watched values; infinity if one is no number, so that steps shrink until they end."""
    size = jnp.max(jnp.abs(scaled[1]))
    return jnp.where(jnp.isnan(size), jnp.inf, size)


def _record(tau, y, law):
    """Time and error, the first of the watched values."""
    return tau, y[1][0]


def integrate(
    law: Flow,
    taus: Float[Array, " T"],
    keep: Float[Array, " K"],
    accuracy: Accuracy,
    forward: bool = False,
    begin: Float[Array, ""] | float = 0.0,
    columns: int = 3,
    stops: Float[Array, " E"] | None = None,
) -> diffrax.Solution:
    """Integrate a law from ``tau = begin`` to its last saved time.

    Parameters
    ----------
    law
        Grid or mixture, or another `Flow`.
    taus, keep
        Increasing times at which the observables, and the whole state, are saved. Every one of them
        ends a step, so that nothing is interpolated.
    accuracy
        Relative error of the watched values in one step, and the least error that is distinguished from 0.
    forward
        Whether to be differentiated in forward mode (jvp) only; otherwise in reverse mode only.
    columns
        Order of the steps.
    stops
        Increasing times at which steps end; by default those at which something is saved, which they have to hold.

    Returns
    -------
    diffrax.Solution
        ``ys[0]`` the observables, ``ys[1]`` the states if ``keep`` is not empty; see also `steps`; never raises.
    """
    times = jnp.sort(jnp.concatenate([taus, keep])) if stops is None else stops
    controller = diffrax.ClipStepSizeController(
        diffrax.PIDController(rtol=accuracy.rtol, atol=1e-12, norm=_largest, dtmin=DTMIN, force_dtmin=False),
        step_ts=times,
    )
    saves = [diffrax.SubSaveAt(ts=taus, fn=lambda t, y, args: args.observe(t, y[0]))]
    if keep.size:
        saves.append(diffrax.SubSaveAt(ts=keep, fn=lambda t, y, args: y[0]))
    saves.append(diffrax.SubSaveAt(t0=True, steps=True, fn=_record))
    start = law.start()
    return diffrax.diffeqsolve(
        diffrax.ODETerm(_field),
        ExtrapolatedEuler(columns, accuracy.least),
        t0=jnp.asarray(begin),
        t1=times[-1],
        dt0=1e-4 * (times[-1] - begin),
        y0=(start, law.watch(start, start)[0]),
        args=law,
        saveat=diffrax.SaveAt(subs=saves),
        stepsize_controller=controller,
        adjoint=diffrax.ForwardMode() if forward else diffrax.RecursiveCheckpointAdjoint(),
        max_steps=MAX_STEPS,
        throw=False,
    )


def steps(solution: diffrax.Solution) -> Steps:
    """The error at every step, however the solution is saved."""
    saved: Any = solution.ys
    return Steps(*saved[-1])


def failed(solution: diffrax.Solution):
    """Whether an integration stopped before its last time."""
    return solution.result != RESULTS.successful
