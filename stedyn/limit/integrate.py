"""Integration of a law with Diffrax; the only module that imports it."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import RESULTS
from jaxtyping import Array, Float, PyTree

from ..curves.dense import Steps
from .laws.law import Accuracy, Flow

#: Largest number of steps, and the smallest step, where the integration stops: numbers no longer become finite.
MAX_STEPS, DTMIN = 50_000, 1e-250


def _inside(z, before, after, bends):
    """The polynomial of `Within` at ``z``."""
    bend = functools.reduce(lambda total, one: one + z * total, list(bends)[::-1])
    return (1 + z) * after - z * before + z * (1 + z) * bend


class Within(diffrax.AbstractLocalInterpolation):
    """The state within a step, ``(1 + z) y1 - z y0 + z (1 + z) (bends[0] + z bends[1] + ..)``, ``z`` from -1 to 0.

    The values are those at its end.
    """

    t0: Float[Array, ""]  # type: ignore[misc]
    t1: Float[Array, ""]  # type: ignore[misc]
    y0: PyTree
    y1: PyTree
    bends: PyTree

    def evaluate(self, t0, t1=None, left=True):
        z = (t0 - self.t1) / jnp.where(self.t1 == self.t0, 1.0, self.t1 - self.t0)

        at = functools.partial(_inside, z)
        inside = jax.tree.map(at, self.y0[0], self.y1[0], self.bends), *self.y1[1:]
        return inside if t1 is None else jax.tree.map(operator.sub, self.evaluate(t1), inside)


class ExtrapolatedEuler(diffrax.AbstractAdaptiveSolver):
    """Linearly implicit Euler steps of size ``h, h/2, .. h/k``, extrapolated to order ``k``.

    The law is the argument ``args`` and has to offer ``advance(t, h, y)``, one linearly implicit step,
    and ``watch(best, other)``: the values whose relative accuracy counts and how far two results lie
    apart in them. The state is ``(y, values, errors)``, and only ``values`` carry an error estimate: the
    difference to the member of order ``k - 1`` of the tableau (Deuflhard 1985). Below ``least`` the first of them
    counts as that much. The ``errors`` are the first of the values at even parts of the step, the last at its end.
    """

    columns: int = 3
    least: Float[Array, ""] | float = 0.0

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable] = Within

    def order(self, terms):
        return self.columns

    def error_order(self, terms):
        return self.columns

    def init(self, terms, t0, t1, y0, args):
        return None

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        h, state, k, recorded = t1 - t0, y0[0], self.columns, y0[2].size
        parts = [
            part for n in range(1, k + 1) for part in zip(np.arange(n) / n, np.full(n, 1 / n), strict=True)
        ]

        def substep(current, where):
            start, fraction = where
            current = jax.tree.map(lambda now, first: jnp.where(start == 0, first, now), current, state)
            new = args.advance(t0 + start * h, fraction * h, current)
            return new, new

        _, out = jax.lax.scan(substep, state, tuple(jnp.array(parts).T))
        found = jax.tree.map(
            lambda y0, y: jnp.tensordot(_weights(k, recorded), jnp.concatenate([y0[None], y]), 1), state, out
        )
        best, finer, bends, inside = (
            jax.tree.map(lambda each, part=part: each[part], found)
            for part in (0, 1, slice(2, k + 1), slice(k + 1, None))
        )
        values, error = args.watch(best, finer)
        size, least = jnp.abs(values[0]), jnp.maximum(self.least, 1e-300)
        error = error.at[0].multiply(size / jnp.maximum(size, least))
        error = jnp.where(jnp.isnan(error), jnp.inf, error)  # rejected, and tried again with a smaller step
        errors = values[:1] if recorded == 1 else jnp.append(jax.vmap(args.error)(inside), values[0])
        y1 = (best, values, errors)
        unseen = jax.tree.map(jnp.zeros_like, y1)
        return y1, (unseen[0], error, unseen[2]), dict(y0=y0, y1=y1, bends=bends), None, RESULTS.successful


def _weights(last: int, parts: int) -> Float[np.ndarray, "R S"]:
    """What the start of a step and the ends of its ``1 + 2 + .. + last`` substeps (S) make of its results (R).

    First the end, extrapolated from ``1 .. last`` substeps, and from ``2 .. last``; then the bends of `Within`, from
    derivatives at the end that are extrapolated from backward differences (Hairer and Ostermann 1990); then what
    `Within` says of the ends of even ``parts``, but for the last.
    """
    each = np.eye(1 + last * (last + 1) // 2)
    at = {n: [each[0], *each[1 + n * (n - 1) // 2 :][:n]] for n in range(1, last + 1)}

    def limit(order: int, first: int):  # of the polynomial in 1/n through what n = first .. last substeps say
        total = np.zeros(len(each))
        for n in range(first, last + 1):
            others = np.delete(np.arange(first, last + 1), n - first)
            difference = np.diff(np.array(at[n]), order, axis=0)[-1]
            total += np.prod(n / (n - others)) * n**order / math.factorial(order) * difference
        return total

    end = limit(0, 1)
    bends = [end - each[0]]
    for order in range(1, last):
        bends.append(limit(order, order) - bends[-1])
    inside = [_inside(z, each[0], end, bends[1:]) for z in np.arange(1, parts) / parts - 1]
    return np.array([end, limit(0, 2), *bends[1:], *inside])


def _field(t, y, law):
    """The vector field of ``(state, values, errors)``; the law travels as the argument of the solve."""
    return law(t, y[0]), *map(jnp.zeros_like, y[1:])


def _largest(scaled):
    """Largest scaled error of the watched values; infinity if one is no number, so that steps shrink until they end."""
    size = jnp.max(jnp.abs(scaled[1]))
    return jnp.where(jnp.isnan(size), jnp.inf, size)


def _record(tau, y, law):
    """Time, and the errors at even parts of the step that ends there."""
    return tau, y[2]


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
        Increasing times at which the observables, and the whole state, are saved, between the ends of steps
        by a polynomial of their order (`Within`).
    accuracy
        Relative error of the watched values in one step, and the least error that is distinguished from 0.
    forward
        Whether to be differentiated in forward mode (jvp) only; otherwise in reverse mode only.
    columns
        Order of the steps.
    stops
        Increasing times at which steps end, the last one included; only there by default.

    Returns
    -------
    diffrax.Solution
        ``ys[0]`` the observables, ``ys[1]`` the states if ``keep`` is not empty; see also `steps`; never raises.
    """
    end = jnp.max(jnp.concatenate([taus, keep]))
    controller = diffrax.ClipStepSizeController(
        diffrax.PIDController(rtol=accuracy.rtol, atol=1e-12, norm=_largest, dtmin=DTMIN, force_dtmin=False),
        step_ts=end[None] if stops is None else stops,
    )
    saves = [diffrax.SubSaveAt(ts=taus, fn=lambda t, y, args: args.observe(t, y[0]))]
    if keep.size:
        saves.append(diffrax.SubSaveAt(ts=keep, fn=lambda t, y, args: y[0]))
    saves.append(diffrax.SubSaveAt(t0=True, steps=True, fn=_record))
    start = law.start()
    values = law.watch(start, start)[0]
    parts = columns if columns > 3 else 1  # see `Steps`
    return diffrax.diffeqsolve(
        diffrax.ODETerm(_field),
        ExtrapolatedEuler(columns, accuracy.least),
        t0=jnp.asarray(begin),
        t1=end,
        dt0=1e-4 * (end - begin),
        y0=(start, values, jnp.full(parts, values[0])),
        args=law,
        saveat=diffrax.SaveAt(subs=saves),
        stepsize_controller=controller,
        adjoint=diffrax.ForwardMode() if forward else diffrax.RecursiveCheckpointAdjoint(),
        max_steps=MAX_STEPS,
        throw=False,
    )


def steps(solution: diffrax.Solution) -> Steps:
    """The error in every step, however the solution is saved."""
    saved: Any = solution.ys
    return Steps(*saved[-1])


def failed(solution: diffrax.Solution):
    """Whether an integration stopped before its last time."""
    return solution.result != RESULTS.successful
