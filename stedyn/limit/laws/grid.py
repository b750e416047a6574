r"""The ``grid`` law: cell masses of the latent-weight density, by finite volumes.

State: ``mass (N, C)``, the probability of each of ``N`` cells given each of ``C`` teacher classes. The
flux between neighbours is exponentially fitted (Scharfetter and Gummel 1969), which conserves mass,
keeps it positive and has the exact piecewise-exponential stationary densities. Thresholds, the ends of
the range and walls lie on cell edges and the cells shrink towards them down to a fraction of the
boundary layer ``D / (2 |drift|)`` (``docs/theory.md``, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...quantizers.pieces import cell_averages
from ...rules import Order
from ..limit import Limit
from .fluxes import bernoulli, implicit, velocity
from .masses import behind_walls, start_masses
from .mesh import faces_of


class GridFlow(eqx.Module):
    """The semi-discrete equation ``d mass / d tau = A(tau, order) mass``; ``A`` is tridiagonal.

    ``faces (N+1,)``, ``first, second (N,)`` the cell averages of ``E[psi|w]`` and ``E[psi^2|w]``. The potential
    difference between two centres is ``force span - b pull - decay shrink``, ``force = a c``, with the four (N-1,)
    integrated over the way, ``1/h`` in them; ``rise, fall (N-1,)`` are geometry, ``h^2`` in them, and 0 for faces that
    nothing crosses: walls and what lies behind them, and where ``h`` vanishes. For a smooth ``h`` the flux is
    that of ``u = h^2 p``, ``J = (v/h) u - D u'/2`` with the drift ``h v`` (``docs/surrogates.md``).

    What the steps need is the same for all quantizers and estimators, so that these share a program: ``level, part
    (N,)`` are a cell's level and its part in the next one, ``flips (N,)`` gives the rate of flips from the mean moves,
    ``saturated (N,)`` the part of a cell beyond the range, ``rounded`` averages of weights rounded by ``ptq``, and
    ``limit`` has neither levels nor start.
    """

    limit: Limit
    initial: Float[Array, "N C"]
    faces: Float[Array, " N+1"]
    first: Float[Array, " N"]
    second: Float[Array, " N"]
    span: Float[Array, " N-1"]
    pull: Float[Array, " N-1"]
    shrink: Float[Array, " N-1"]
    rise: Float[Array, " N-1"]
    fall: Float[Array, " N-1"]
    level: Int[Array, " N"] | None
    part: Float[Array, " N"] | None
    flips: Float[Array, " N"] | None
    saturated: Float[Array, " N"] | None
    rounded: Float[Array, "2 N"] | None
    levels: int = eqx.field(static=True)

    def __init__(
        self,
        limit: Limit,
        cells,
        horizon,
        coarse=False,
        shape: tuple[int, int] | None = None,
        reach=None,
        limits: Sequence[Limit] | None = None,
    ):
        """``cells``, ``coarse`` and ``reach`` as in `faces_of`; ``shape`` (cells, classes) if these are filled up.

        ``limits`` are those whose features the mesh has, where these are more than its own.
        """
        size, classes = (None, limit.teacher.size) if shape is None else shape
        self.faces, wall = faces_of(limits or (limit,), cells, horizon, coarse, size, reach)
        limit = limit.widened(classes)
        w, h = self.centers, self.widths
        piece = jnp.searchsorted(limit.pieces.breaks, w, side="right")
        p1, p2 = limit.pieces.first[piece], limit.pieces.second[piece]
        self.first = p1[:, 0] + p1[:, 1] * w
        self.second = p2[:, 0] + p2[:, 1] * w + p2[:, 2] * (w**2 + h**2 / 12)
        self._set_ways(limit, wall)
        self.initial = jnp.broadcast_to(self._at_start(limit, wall), (w.size, classes))
        self._set_observables(limit)
        self.limit = limit.without_levels()

    def _at_start(self, limit: Limit, wall) -> Float[Array, "N *C"]:
        ends = [] if limit.surrogate.end is None else [-limit.surrogate.end, limit.surrogate.end]
        kinks = jnp.concatenate([limit.pieces.breaks, jnp.asarray(ends)])
        return start_masses(limit, self.faces[1:-1], wall, kinks)

    def _set_ways(self, limit: Limit, wall) -> None:
        """The ways from centre to centre, through half of either cell, and the geometry of the faces."""
        w, h, surrogate = self.centers, self.widths, limit.surrogate
        frozen = jnp.zeros_like(w, bool) if surrogate.end is None else jnp.abs(w) > surrogate.end
        lower, upper = frozen[:-1], frozen[1:]
        square, below, above = jnp.ones_like(w), 0.5 * h, 0.5 * h
        if surrogate.smooth:
            edge, middle = surrogate.passage(self.faces), surrogate.passage(w)
            square = surrogate.square(self.faces)
            below, above = middle - edge[:-1], edge[1:] - middle
        ways, gap = (above[:-1], below[1:]), 0.5 * (h[:-1] + h[1:])
        crossed = jnp.isfinite(behind_walls(limit, self.faces[1:-1])) & (self.faces[1:-1] < wall)
        rises = falls = crossed
        if surrogate.smooth:  # no weight reaches an end of the range, and none comes back from beyond
            rises = falls = crossed & ~lower & ~upper
        elif surrogate.ends:  # there the density vanishes and nothing comes back
            out_up, out_down = upper & ~lower, lower & ~upper
            ways = (jnp.where(out_down, 0.0, ways[0]), jnp.where(out_up, 0.0, ways[1]))
            gap = jnp.where(out_up, 0.5 * h[:-1], jnp.where(out_down, 0.5 * h[1:], gap))
            rises, falls = crossed & ~lower, crossed & ~upper
        self.span = ways[0] + ways[1]
        self.pull = ways[0] * self.first[:-1] + ways[1] * self.first[1:]
        self.shrink = ways[0] * w[:-1] + ways[1] * w[1:]
        self.rise = jnp.where(rises, square[:-1] / (gap * h[:-1]), 0.0)
        self.fall = jnp.where(falls, square[1:] / (gap * h[1:]), 0.0)

    def _set_observables(self, limit: Limit) -> None:
        """What the curves of levels, flips and saturation take from every cell."""
        w, h, levels, theta = self.centers, self.widths, limit.levels, limit.pieces.breaks
        self.level = self.part = self.flips = self.saturated = None
        self.rounded = None if limit.ptq is None else cell_averages(limit.ptq, self.faces)
        self.levels = levels.size
        if levels.size:
            nearest = limit.pieces.first.shape[0] == levels.size
            if nearest:
                self.level, self.part = jnp.searchsorted(theta, w, side="right"), jnp.zeros_like(w)
            else:  # stochastic rounding splits a cell between its two neighbours
                most = levels.size - limit.spare - 2
                self.level = jnp.clip(jnp.searchsorted(levels, self.first, side="right") - 1, 0, most)
                low, high = levels[self.level], levels[self.level + 1]
                self.part = (self.first - low) / (high - low)
            if nearest and limit.model.gaussian:
                # h is 1 at the thresholds of the others
                each = limit.surrogate(theta) if limit.surrogate.smooth else jnp.ones_like(theta)
                self.flips = self.at_breaks(limit, each)
        if limit.range is not None:
            lower = jnp.clip((-limit.range - self.faces[:-1]) / h, 0, 1)
            upper = jnp.clip((self.faces[1:] - limit.range) / h, 0, 1)
            self.saturated = lower + upper

    @property
    def centers(self) -> Float[Array, " N"]:
        return 0.5 * (self.faces[1:] + self.faces[:-1])

    @property
    def widths(self) -> Float[Array, " N"]:
        return jnp.diff(self.faces)

    def start(self) -> Float[Array, "N C"]:
        """Cell masses at ``tau = 0``."""
        return self.initial

    @property
    def error_weights(self) -> Float[Array, "N C"]:
        """``weight_c (v c^2 - 2 k1 c psi + k2 psi^2)`` of every cell, as the model has it, for a sum."""
        limit = self.limit
        own = limit.model.power((limit.inputs.std[limit.group] * limit.teacher) ** 2, limit.rho)
        cross, square = 2 * limit.k1 * limit.teacher, limit.k2
        return limit.weight * (own - cross * self.first[:, None] + square * self.second[:, None])

    def error(self, mass) -> Float[Array, ""]:
        """Generalization error of the cell masses."""
        return jnp.sum(self.error_weights * mass)

    def order(self, mass, memory=None) -> Order:
        """What rules see of the cell masses, and remember."""
        return self.limit.order(self.error(mass))._replace(memory=memory)

    def watch(self, best, other):
        """Values whose relative accuracy the step controller keeps, and their errors."""
        miss = best - other
        return jnp.stack([self.error(best), 1.0]), jnp.stack(
            [jnp.abs(self.error(miss)), self.variation(miss)]
        )

    def variation(self, miss) -> Float[Array, ""]:
        """Total variation of a difference of masses, classes by their part in the error."""
        weight = self.limit.weight * self.limit.k2
        return jnp.sum(jnp.abs(miss) * weight) / jnp.sum(weight)

    def rates(
        self, order: Order, tau, push: Float[Array, " C"] | float = 0.0, shrinking=0.0, carried=0.0
    ) -> tuple[Float[Array, "F C"], Float[Array, "F C"]]:
        """Rates of crossing every inner face upwards and downwards, per unit mass and ``tau``.

        ``push`` is a further drift of every class, ``shrinking`` a further rate at which weights decay, ``carried`` the
        velocity of the cells along the way from centre to centre.
        """
        limit = self.limit
        a, b, D, _ = limit.coefficients(order, tau)
        half = jnp.maximum(0.5 * D, 1e-30)
        work = (a * limit.teacher + push) * self.span[:, None] - b * self.pull[:, None]
        decay = limit.decay(tau) + shrinking
        up, down = bernoulli((work - (decay * self.shrink + carried)[:, None]) / half)
        return half * up * self.rise[:, None], half * down * self.fall[:, None]

    def __call__(self, tau, mass, memory=None) -> Float[Array, "N C"]:
        """``d mass / d tau`` (total zero)."""
        up, down = self.rates(self.order(mass, memory), tau)
        return velocity(up, down, mass)

    def advance(self, tau, step, mass, memory=None) -> Float[Array, "N C"]:
        """One linearly implicit Euler step: ``(1 - step A(tau + step, order(mass))) new = mass``."""
        up, down = self.rates(self.order(mass, memory), tau + step)
        return implicit(step * up, step * down, mass)

    @property
    def edges(self) -> Float[Array, " E"]:
        """Edges of the cells of `masses`."""
        return self.faces

    def masses(self, state) -> Float[Array, "*n N C"]:
        """The cell masses of a state."""
        return state

    def at_breaks(self, limit: Limit, heights: Float[Array, " B"]) -> Float[Array, " N"]:
        """What every cell adds to the density at the breaks of ``psi``, times their ``heights``."""
        w, h, theta = self.centers, self.widths, limit.pieces.breaks
        face = jnp.searchsorted(w, theta)  # that on a threshold, whatever its last digit
        # linear interpolation between the two neighbouring centres
        left = h[face] / (h[face] + h[face - 1])
        each = jnp.where(np.arange(theta.size) < limit.breaks, heights, 0.0)
        below, above = each * left / h[face - 1], each * (1 - left) / h[face]
        return jnp.zeros_like(w).at[face - 1].add(below).at[face].add(above)

    def observe(self, tau, mass, memory=None) -> dict[str, Any]:
        """What `curves` needs of the masses; little, as it is compiled into the loop more than once."""
        return self.sums(mass) | dict(error=self.error(mass), memory=memory)

    def sums(self, mass) -> dict[str, Any]:
        """Sums over the cells of every class, and occupancies."""
        h, w = self.widths, self.centers
        rows = [
            self.first,
            self.second,
            w,
            w**2 + h**2 / 12,
            *(() if self.rounded is None else self.rounded),
            *filter(eqx.is_array, (self.saturated, self.flips)),
        ]
        sums = jnp.sum(jnp.stack(rows)[:, :, None] * mass, axis=1)
        out = dict(sums=sums)
        if self.level is not None:
            total = jnp.sum(mass * self.limit.share, axis=1)
            lower, upper = total * (1 - self.part), total * self.part
            out["occupancy"] = jnp.zeros(self.levels).at[self.level].add(lower).at[self.level + 1].add(upper)
        return out

    def curves(self, tau, seen) -> dict[str, Array]:
        """Order parameters and observables from what was observed (``docs/theory.md``, section 8)."""
        limit = self.limit
        psi, square, weights, norms, *others = seen["sums"]
        out = {name: value for name, value in seen.items() if name not in ("sums", "memory")}
        if self.rounded is not None:
            out["ptq_error"], others = limit.error(*others[:2]), others[2:]
        out |= dict(
            m=psi @ (limit.weight * limit.teacher),
            q=square @ limit.weight,
            overlap=weights @ (limit.weight * limit.teacher),
            norm=norms @ limit.weight,
        )
        order = limit.order(seen["error"])._replace(memory=seen["memory"])
        out |= limit.observables(psi, square)
        out["effective_step"] = limit.effective_step(order, tau)
        if self.saturated is not None:
            out["saturated"] = others[0] @ limit.share
        if self.flips is not None:
            out["flip_rate"] = others[-1] @ (limit.share * limit.coefficients(order, tau).mean_abs)
        return out
