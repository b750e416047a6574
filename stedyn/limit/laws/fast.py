r"""The ``grid`` law for inputs with a mean (``docs/inputs.md``, the fast mode).

State: ``(mass, push, V)``: cell masses as in `GridFlow`, the multiplier ``push`` of the constraint

    ``sum share unit mean E[psi] = sum share unit mean_x w*``,

which drives every weight at ``mean push``, and the residual variance with the variance of the mean output.
A step is one linearly implicit step of the masses at the new ``push`` and ``V``, which two Newton steps find: both act
on the thresholds within the boundary layers, so that neither can be taken from the step before.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...quantizers.pieces import jumps
from ...rules import Order
from ...rules.nodes import input_atoms
from ..limit import Limit
from .fluxes import implicit, velocity
from .grid import GridFlow

#: Newton steps of a time step.
NEWTON = 2
#: Most steps of the microscopic algorithm after the start, the mean output at which it has settled, and that from
#: which on single inputs, which spread weights by its square, no longer count.
FIRST_STEPS, SETTLED, NEARLY = 4000, 1e-9, 1e-4

State = tuple[Float[Array, "N C"], Float[Array, ""], Float[Array, ""]]


class FastFlow(GridFlow):
    """The grid law under the constraint; ``crossing (N,)`` gives ``<psi'>``, ``drawn (N,)`` is ``Var[psi | w]``."""

    crossing: Float[Array, " N"]
    drawn: Float[Array, " N"]

    def __init__(self, limit: Limit, cells, horizon, coarse=False, shape=None, reach=None, limits=None):
        super().__init__(limit, cells, horizon, coarse, shape, reach, limits)
        slope = limit.pieces.first[jnp.searchsorted(limit.pieces.breaks, self.centers, side="right"), 1]
        self.drawn = self.second - self.first**2 - slope**2 * self.widths**2 / 12
        self.crossing = slope + self.at_breaks(limit, jumps(limit.pieces))
        self.initial = self._settled(limit)

    def masses(self, state: State) -> Float[Array, "*n N C"]:
        return state[0]

    @property
    def levers(self) -> Float[Array, " C"]:
        """What ``E[psi]`` of every class adds to the mean output of the student, over ``sqrt(d)``."""
        return self.limit.share * self.limit.unit * self.limit.mean

    def output(self, mass) -> Float[Array, ""]:
        """Mean output of the student less that of the teacher, over ``sqrt(d)``: 0 under the constraint."""
        return self.first @ mass @ self.levers - self.limit.target

    def kappa(self, mass, tau) -> Float[Array, ""]:
        """``lr sum share mean^2 <psi'>``."""
        return self.limit.shift(tau) * (self.crossing @ mass @ (self.limit.share * self.limit.mean**2))

    def variance(self, mass, tau) -> Float[Array, ""]:
        """``V``: label noise, error of the centred outputs, and the variance of the mean output."""
        return self.limit.with_mean_mode(self.limit.noise_var + self._centred(mass), self.kappa(mass, tau))

    def _centred(self, mass):
        """Error without the variance of the mean output; rounded weights are drawn anew at every step."""
        return super().error(mass) + self.drawn @ mass @ (self.limit.weight * self.limit.mean**2)

    def start(self) -> State:  # type: ignore[override]
        """The start, moved until the constraint holds, with the multiplier of the first instant."""
        mass = self.initial
        V = self.variance(mass, 0.0)
        speed, faster = (
            self.first @ velocity(*self._rates(V, 0.0, push), mass) @ self.levers
            for push in (jnp.zeros(()), jnp.ones(()))
        )
        gain = faster - speed
        return mass, jnp.where(gain > 0, -speed / jnp.where(gain > 0, gain, 1.0), 0.0), V

    def _settled(self, limit: Limit):
        """Masses after the first steps, in which a mean output of order ``sqrt(d)`` moves weights by order one.

        A step moves a weight by ``-lr Z phi``, ``Z`` the mean output over ``sqrt(d)``, with its own input ``phi``.
        """
        faces, levers, group = self.faces, self.levers, self.limit.group
        value, share, _ = jax.vmap(input_atoms)(limit.inputs)
        value, mass, rate = value + limit.inputs.mean[:, None], self.initial, limit.shift(0.0)
        unit = jnp.broadcast_to(self.limit.unit, group.shape)
        same = limit.start.group is None and not any(
            jnp.ndim(x) for x in (limit.start.factor, limit.start.shift, self.limit.unit)
        )
        if same:  # classes behind the same inputs start alike, and are moved once
            count = limit.inputs.std.size
            first = jax.ops.segment_min(jnp.arange(group.size), group, count)
            first = jnp.minimum(first, group.size - 1)  # of a group without classes any
            mass, unit = mass[:, first], unit[first]
            levers, own = jax.ops.segment_sum(levers, group, count), jnp.arange(count)
        else:
            own = group

        def output(mass):
            return self.first @ mass @ levers - self.limit.target

        def settled(mass, value, share, least):
            """Masses after steps until the mean output is as small as ``least``."""

            def move(state):
                count, mass, Z = state
                cdf = jnp.concatenate([jnp.zeros((1, mass.shape[1])), jnp.cumsum(mass, 0)])

                def one(cdf, value, share):
                    moved = faces[1:-1] + rate * Z * value[:, None]
                    return share @ jnp.interp(moved, faces, cdf, left=0.0, right=1.0)

                inner = jax.vmap(one)(cdf.T, value, share).T
                edge = jnp.ones((1, mass.shape[1]))
                mass = jnp.diff(jnp.concatenate([0 * edge, inner, edge]), axis=0)
                return count + 1, mass, output(mass)

            def going(state):
                count, _, Z = state
                return (jnp.abs(Z) > least * jnp.sqrt(limit.scale)) & (count < FIRST_STEPS)

            return jax.lax.while_loop(going, move, (0, mass, output(mass)))[1]

        mean = limit.inputs.mean[own] / unit
        mass = settled(mass, value[own] / unit[:, None], share[own], NEARLY)
        mass = settled(mass, mean[:, None], jnp.ones((mean.size, 1)), SETTLED)
        return mass[:, group] if same else mass

    def _rates(self, V, tau, push) -> tuple[Array, Array]:
        return self.rates(self.limit.order_at(V), tau, push * self.limit.mean / self.limit.unit)

    def advance(self, tau, step, state: State, memory=None) -> State:  # type: ignore[override]
        """One linearly implicit Euler step; ``push`` and ``V`` are those at its end."""
        mass, push, V = state
        end, one = tau + step, jnp.ones(())

        def variance(mass):
            return self.variance(mass, end)

        for _ in range(NEWTON):
            (up, down), follow = jax.linearize(lambda V, push: self._rates(V, end, push), V, push)
            up, down, shifts = step * up, step * down, []
            new = implicit(up, down, mass)
            for by in ((0 * one, one), (one, 0 * one)):  # push, V
                more, less = follow(*by)
                shifts.append(implicit(up, down, step * velocity(more, less, new)))
            found, change = jax.linearize(variance, new)
            a, b = (self.first @ shift @ self.levers for shift in shifts)
            c, d = -change(shifts[0]), 1 - change(shifts[1])
            left, gap, det = -self.output(new), found - V, a * d - b * c
            det = jnp.where(jnp.abs(det) > 1e-300, det, 1e-300)
            by_push, by_V = (left * d - b * gap) / det, (a * gap - c * left) / det
            push, V = push + by_push, V + by_V
        return new + by_push * shifts[0] + by_V * shifts[1], push, V

    def __call__(self, tau, state: State, memory=None) -> State:  # type: ignore[override]
        """The velocity of the masses; the two other numbers follow from them."""
        mass, push, V = state
        return velocity(*self._rates(V, tau, push), mass), jnp.zeros(()), jnp.zeros(())

    def order(self, state: State, memory=None) -> Order:
        return self.limit.order_at(state[2])

    def error(self, state: State) -> Float[Array, ""]:
        return state[2] - self.limit.noise_var

    def watch(self, best: State, other: State):
        variation = self.variation(best[0] - other[0])
        return jnp.stack([self.error(best), 1.0]), jnp.stack([jnp.abs(best[2] - other[2]), variation])

    def observe(self, tau, state: State, memory=None) -> dict[str, Any]:
        """As of the grid, ``kappa``, and the part of the error that the mean output costs."""
        mass, whole = state[0], self.error(state)
        own = dict(error=whole, kappa=self.kappa(mass, tau), mean_mode=whole - self._centred(mass))
        return self.sums(mass) | own | dict(memory=memory)

    def curves(self, tau, seen) -> dict[str, Array]:
        out = super().curves(tau, seen)
        if self.limit.rule.kind != "sgd" or self.limit.rule.batch > 1:  # whose E|U| is that of centred inputs
            out.pop("flip_rate", None)
        return out
