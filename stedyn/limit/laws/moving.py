r"""The ``grid`` law with a range that moves (``docs/moving-ranges.md``).

State: ``(mass, scale, speed)``: cell masses, the range over that of the problem, and ``d ln(scale) / dtau``. The cells
around levels and thresholds move in proportion to the range, so that the mesh can be fine where it has to be; those
farther out move along without changing their width, so that a range that shrinks does not carry the densities through
them. The face at ``x`` of the mesh at ``scale = 1`` lies at ``scale clip(x) + x - clip(x)``, with ``clip`` to the
`mesh.core_of`, and the flux through it is that relative to its own velocity.

All range rules are one equation ``miss(mass, scale, speed) = 0``: a differential equation of a learned range, and for
others what holds at every time. A step is one linearly implicit step of the masses, with one Newton step for ``speed``.
"""

from __future__ import annotations

import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...checks import fail, is_traced
from ...problem.moving_range import MovingRange
from ...rules import Order
from ..limit import Limit
from .fluxes import implicit, velocity
from .grid import GridFlow
from .masses import start_masses
from .mesh import core_of
from .opening import first_zero, range_at_start

#: Between which multiples of its start a range is expected, at first; how far it falls matters little.
REACH = np.array([1 / 64, 4.0])

State = tuple[Float[Array, "N C"], Float[Array, ""], Float[Array, ""]]


class MovingFlow(GridFlow):
    """The grid law on cells that move; what it inherits is that at ``scale = 1``, `at` gives that at another.

    ``core, rest (N+1,)`` are the parts of the faces that move in proportion to the range, and that do not. ``seen
    (2, N)`` are cell averages of ``E[e | w]`` and ``E[psi e | w]`` at ``scale = 1`` for the estimate ``e`` of
    ``dpsi/dR``; for a percentile, the part of a cell that it counts. ``target`` is the statistic that is held.
    """

    moving: MovingRange
    core: Float[Array, " N+1"]
    rest: Float[Array, " N+1"]
    seen: Float[Array, "k N"]
    target: Float[Array, ""]
    unit: Float[Array, ""]
    width: Float[Array, ""]
    begin: Float[Array, ""]

    def __init__(self, limit: Limit, cells, horizon, coarse=False, shape=None, reach=None):
        moving = limit.range_rule
        assert moving is not None
        assert limit.range is not None
        unit = range_at_start(limit) / limit.range if moving.measured else jnp.ones(())
        self.moving, self.unit = moving, unit
        super().__init__(limit.scaled(unit), cells, horizon, coarse, shape, reach)

    def _at_start(self, limit, wall):
        moving, edge = self.moving, core_of(limit)
        self.core = jnp.clip(self.faces, -edge, edge)
        self.rest = self.faces - self.core
        self.width, self.target, self.begin = limit.range * self.unit, jnp.zeros(()), jnp.ones(())
        self.seen = self._seen(limit)
        if moving.schedule is not None:
            self.begin = jnp.asarray(moving.schedule(jnp.zeros(()))) * 1.0

        def masses(scale):
            kinks = None if moving.kind == "percentile" else scale * limit.pieces.breaks  # see `_split`
            mass = start_masses(limit, (scale * self.core + self.rest)[1:-1], wall, kinks)
            return jnp.broadcast_to(mass, (mass.shape[0], limit.teacher.size))

        if moving.kind == "fast-learned":
            self.begin = first_zero(lambda scale: self._force(limit, masses(scale), scale))
        mass = masses(self.begin)
        if moving.kind == "percentile":
            mass = self._split(limit, mass)
        if moving.measured:
            self.target = self._statistic(self.faces) @ (mass @ limit.share)
        return mass

    def _split(self, limit, mass):
        """Cell masses at the start with the percentile inside: equal weights at it are on both of its sides at once.

        Where a part of the start sits on one value, the range begins there, and the cell of that value would count as
        it lies to the mesh. As much of it goes to the next cell as is missing inside, or too much.
        """
        edge = limit.range / self.moving.factor * jnp.array([-1.0, 1.0])
        at = jnp.clip(jnp.searchsorted(self.faces, edge, side="right") - 1, 1, mass.shape[0] - 2)
        missing = self.moving.percentile / 100 - self.seen[0] @ (mass @ limit.share)
        inward = jnp.where(missing > 0, 1, -1)
        gain = jnp.where(missing > 0, 1 - self.seen[0, at], self.seen[0, at]) @ (mass[at] @ limit.share)
        moved = mass[at] * jnp.clip(jnp.abs(missing) / jnp.maximum(gain, 1e-300), 0.0, 1.0)
        return mass.at[at].add(-moved).at[at + inward * jnp.array([1, -1])].add(moved)

    def check(self) -> None:
        """Refuse a fast range that goes to 0 at the start."""
        if not is_traced(self.begin) and not np.isfinite(self.begin):
            fail("weights.range_rule", "a start of which a fast range keeps a part (without correlation of weights and "
                 "teacher the best range is 0, and it goes there at once)", self.moving.kind,
                 "start at trained weights (start.kind = 'teacher'), or set range_rule = 'learned'")  # fmt: skip

    def _seen(self, limit):
        w, h, ends = self.centers, self.widths, limit.levels[jnp.array([0, -1])]
        moving, size = self.moving, limit.range

        def part(low, high):  # of every cell
            return jnp.clip(
                (jnp.minimum(self.faces[1:], high) - jnp.maximum(self.faces[:-1], low)) / h, 0.0, 1.0
            )

        if moving.learned:
            inside = part(*ends)
            if moving.estimator == "pact":
                return jnp.stack([self.first, self.second]) * (1 - inside) / size
            slope = limit.pieces.first[jnp.searchsorted(limit.pieces.breaks, w, side="right"), 1]
            product = w * self.first + slope * h**2 / 12
            return jnp.stack([self.first - w * inside, self.second - product * inside]) / size
        if moving.kind == "percentile":
            edge = limit.range / moving.factor
            return part(-edge, edge)[None]
        return jnp.zeros((0, w.size))

    def _statistic(self, faces):
        """Cell averages (N,) whose mean, over ``scale`` to their degree, a range in proportion to it keeps."""
        low, high = faces[:-1], faces[1:]
        if self.moving.kind == "absmean":
            across = 0.5 * (low**2 + high**2) / (high - low)
            return jnp.where((low < 0) & (high > 0), across, 0.5 * jnp.abs(low + high))
        if self.moving.kind == "rms":
            return (low**2 + low * high + high**2) / 3
        return self.seen[0]

    def _force(self, limit: Limit, mass, scale) -> Float[Array, ""]:
        """``<(k1 w* - k2 psi) e> - decay R`` of a learned range."""
        e, product = self.seen @ mass
        mean = (limit.share * limit.unit) @ (limit.k1 * limit.teacher * e - limit.k2 * scale * product)
        return mean - self.moving.decay * self.width * scale

    def miss(self, mass, scale, speed, tau) -> Float[Array, ""]:
        """What the range rule sets to 0."""
        moving = self.moving
        if moving.schedule is not None:
            return scale - moving.schedule(tau)
        if moving.measured:
            mean = self._statistic(scale * self.core + self.rest) @ (mass @ self.limit.share)
            return mean - self.target * scale ** {"absmean": 1, "rms": 2, "percentile": 0}[moving.kind]
        force = self._force(self.limit, mass, scale)
        return force if moving.kind == "fast-learned" else self.width * scale * speed - moving.lr * force

    def at(self, scale) -> MovingFlow:
        """The law with the cells and levels at a scale."""
        faces = scale * self.core + self.rest
        h, w = jnp.diff(faces), 0.5 * (faces[1:] + faces[:-1])
        first, second, gap = scale * self.first, scale**2 * self.second, 0.5 * (h[:-1] + h[1:])

        def way(value):
            return 0.5 * (h[:-1] * value[:-1] + h[1:] * value[1:])

        rise, fall = (jnp.where(self.rise > 0, 1 / (gap * side), 0.0) for side in (h[:-1], h[1:]))
        parts = faces, first, second, gap, way(first), way(w), rise, fall
        names = "faces", "first", "second", "span", "pull", "shrink", "rise", "fall"
        return eqx.tree_at(operator.attrgetter(*names), self, parts)

    def _rates(self, order, tau, scale, speed):
        """`rates` through faces of cells that move."""
        law = self.at(scale)
        h, core = law.widths, 0.5 * (self.core[1:] + self.core[:-1])
        carried = 0.5 * scale * speed * (h[:-1] * core[:-1] + h[1:] * core[1:])
        return law.rates(order, tau, carried=carried)

    def start(self) -> State:  # type: ignore[override]
        return self.initial, self.begin, jnp.zeros(())

    def error(self, state: State) -> Float[Array, ""]:
        mass, scale, _ = state
        parts = scale * self.first, scale**2 * self.second
        return jnp.sum(eqx.tree_at(operator.attrgetter("first", "second"), self, parts).error_weights * mass)

    def order(self, state: State, memory=None) -> Order:
        return self.limit.order(self.error(state))._replace(memory=memory)

    def watch(self, best: State, other: State):
        values = jnp.stack([self.error(best), 1.0, best[1]])
        apart = jnp.abs(self.error(best) - self.error(other)), jnp.abs(best[1] - other[1])
        return values, jnp.stack([apart[0], self.variation(best[0] - other[0]), apart[1]])

    def __call__(self, tau, state: State, memory=None) -> State:  # type: ignore[override]
        mass, scale, speed = state
        up, down = self._rates(self.order(state, memory), tau, scale, speed)
        return velocity(up, down, mass), scale * speed, jnp.zeros(())

    def advance(self, tau, step, state: State, memory=None) -> State:  # type: ignore[override]
        """One linearly implicit Euler step; ``speed`` is that at its end."""
        mass, scale, speed = state
        order, end = self.order(state, memory), tau + step
        if self.moving.schedule is not None:
            speed = jnp.log(self.moving.schedule(end) / scale) / step

        def rates(speed):
            return self._rates(order, end, scale * jnp.exp(step * speed), speed)

        def miss(mass, speed):
            return self.miss(mass, scale * jnp.exp(step * speed), speed, end)

        (up, down), follow = jax.linearize(rates, speed)
        up, down, one = step * up, step * down, jnp.ones(())
        new = implicit(up, down, mass)
        more, less = follow(one)
        shift = implicit(up, down, step * velocity(more, less, new))
        left, change = jax.linearize(miss, new, speed)
        slope = change(shift, one)
        by = -left / jnp.where(jnp.abs(slope) > 1e-300, slope, 1e-300)
        return new + by * shift, scale * jnp.exp(step * (speed + by)), speed + by

    @property
    def edges(self) -> Float[Array, " E"]:
        return self.faces * self.unit

    def masses(self, state) -> Float[Array, "*n N C"]:
        mass, scale, _ = state

        def one(mass, scale):
            faces = scale * self.core + self.rest
            below = jnp.concatenate([jnp.zeros((1, mass.shape[1])), jnp.cumsum(mass, axis=0)])
            inner = jax.vmap(lambda cdf: jnp.interp(self.faces[1:-1], faces, cdf), 1, 1)(below)
            return jnp.diff(jnp.concatenate([below[:1], inner, below[-1:]]), axis=0)

        return jax.lax.map(lambda both: one(*both), (mass, scale))

    def observe(self, tau, state: State, memory=None) -> dict[str, Any]:
        mass, scale, _ = state
        found = self.at(scale).sums(mass)
        if self.flips is not None:
            found["sums"] = found["sums"].at[-1].divide(scale)
        return found | dict(error=self.error(state), memory=memory, range=self.width * scale)

    def curves(self, tau, seen) -> dict[str, Array]:
        out = super().curves(tau, seen)
        if self.moving.kind == "fast-learned":  # whose thresholds move as far as the weights in a step
            out.pop("flip_rate", None)
        return out


def reach_of(problem, horizon) -> tuple[np.ndarray, ...]:
    """Between which multiples of its start the range is expected, as an array of two; nothing for a fixed range."""
    rule = problem.range_rule
    if rule is None:
        return ()
    if rule.schedule is None or is_traced(rule.schedule(0.0)):
        return (REACH,)
    path = np.asarray(jax.vmap(rule.schedule)(horizon * jnp.linspace(0.0, 1.0, 513))) * 1.0
    return (np.array([path.min(), path.max()]),)


def within(problem, reach, curves, xp):
    """Whether the range stayed below what was expected, and where it is to be expected then."""
    if not reach:
        return True, reach
    path = curves["range"]
    begin = path[0] if problem.range_rule.measured else problem.weights.range
    (old,), high = reach, xp.max(path) / begin
    inside = high <= old[1] * (1 + 1e-6)
    if xp is jnp:
        return inside, reach
    return bool(inside), (old if inside else np.array([old[0], 2 * high]),)
