r"""The ``grid`` law: cell masses of the latent-weight density, by finite volumes.

State: ``mass (C, N)``, the probability of each of ``N`` cells given each of ``C`` teacher classes. The
flux between neighbours is exponentially fitted (Scharfetter and Gummel 1969), which conserves mass,
keeps it positive and has the exact piecewise-exponential stationary densities. Thresholds, the ends of
the range and walls lie on cell edges and the cells shrink towards them down to a fraction of the
boundary layer ``D / (2 |drift|)`` (``docs/theory.md``, section 5).
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ...rules import Order
from ..limit import Limit
from .mesh import faces_of


class GridFlow(eqx.Module):
    """The semi-discrete equation ``d mass / d tau = A(tau, order) mass``; ``A`` is tridiagonal.

    ``faces (N+1,)``, ``first, second (N,)`` the cell averages of ``E[psi|w]`` and ``E[psi^2|w]``,
    ``square (N,)`` those of ``h^2``; ``below, above (N,)`` the integrals of ``1/h`` over the lower and upper half of a
    cell. ``frozen (N,)`` marks cells where ``h`` vanishes; nothing crosses ``wall``. For a smooth ``h`` the flux is
    that of ``u = h^2 p``, ``J = (v/h) u - D u'/2`` with the drift ``h v`` (``docs/surrogates.md``).
    """

    limit: Limit
    faces: Float[Array, " N+1"]
    first: Float[Array, " N"]
    second: Float[Array, " N"]
    square: Float[Array, " N"]
    below: Float[Array, " N"]
    above: Float[Array, " N"]
    frozen: Float[Array, " N"]
    wall: Float[Array, ""]

    def __init__(self, limit: Limit, cells: int, horizon, coarse=False):
        self.limit = limit
        self.faces, self.wall = faces_of(limit, cells, horizon, coarse)
        w, h = self.centers, self.widths
        piece = jnp.searchsorted(limit.pieces.breaks, w, side="right")
        p1, p2 = limit.pieces.first[piece], limit.pieces.second[piece]
        self.first = p1[:, 0] + p1[:, 1] * w
        self.second = p2[:, 0] + p2[:, 1] * w + p2[:, 2] * (w**2 + h**2 / 12)
        surrogate = limit.surrogate
        self.frozen = jnp.zeros_like(w, bool) if surrogate.end is None else jnp.abs(w) > surrogate.end
        self.square, self.below, self.above = jnp.ones_like(w), 0.5 * h, 0.5 * h
        if surrogate.smooth:
            edge, middle = surrogate.passage(self.faces), surrogate.passage(w)
            self.square = surrogate.square(self.faces)
            self.below, self.above = middle - edge[:-1], edge[1:] - middle

    @property
    def centers(self) -> Float[Array, " N"]:
        return 0.5 * (self.faces[1:] + self.faces[:-1])

    @property
    def widths(self) -> Float[Array, " N"]:
        return jnp.diff(self.faces)

    def start(self) -> Float[Array, "C N"]:
        """Cell masses at ``tau = 0``; what lies beyond the domain sits in its outermost cells."""
        mass = jax.vmap(self._masses)(jnp.atleast_1d(self.limit.start.factor))
        mass = mass.reshape(-1, mass.shape[-1])
        return jnp.broadcast_to(mass, (self.limit.teacher.size, mass.shape[-1]))

    def _masses(self, factor):
        """The same for ``factor`` times the start of the problem."""
        start, inner = self.limit.start.law, self._inside(self.faces[1:-1]) / factor
        if start.kind == "gaussian":
            z = (inner - start.mean) / start.std
            below, above = norm.cdf(z), norm.cdf(-z)
            lower = jnp.concatenate([jnp.zeros(1), below, jnp.ones(1)])
            upper = jnp.concatenate([jnp.ones(1), above, jnp.zeros(1)])
            in_tail = jnp.concatenate([z > 0, jnp.ones(1, bool)])
            return jnp.where(in_tail, upper[:-1] - upper[1:], jnp.diff(lower))
        return self.limit.start.masses(inner)

    def _inside(self, faces):
        """The faces, with those on or behind the walls of a latent clip put at infinity."""
        if self.limit.latent_clip is None:
            return faces
        edge = self.limit.latent_clip * (1 - 1e-12)
        return jnp.where(faces >= edge, jnp.inf, jnp.where(faces <= -edge, -jnp.inf, faces))

    @property
    def error_weights(self) -> Float[Array, "C N"]:
        """``weight_c (v c^2 - 2 k1 c psi + k2 psi^2)`` of every cell, as the model has it, for a sum."""
        limit = self.limit
        own = limit.model.power((limit.inputs.std[limit.group] * limit.teacher) ** 2, limit.rho)
        cross, square = 2 * limit.k1 * limit.teacher, limit.k2
        each = own[:, None] - cross[:, None] * self.first + square[:, None] * self.second
        return limit.weight[:, None] * each

    def error(self, mass) -> Float[Array, ""]:
        """Generalization error of the cell masses."""
        return jnp.sum(self.error_weights * mass)

    def order(self, mass) -> Order:
        """What rules see of the cell masses."""
        return self.limit.order(self.error(mass))

    def watch(self, best, other):
        """Values whose relative accuracy the step controller keeps, and their errors."""
        miss, limit = best - other, self.limit
        weight = limit.weight * limit.k2
        variation = weight @ jnp.sum(jnp.abs(miss), axis=-1) / jnp.sum(weight)
        return jnp.stack([self.error(best), 1.0]), jnp.stack([jnp.abs(self.error(miss)), variation])

    def rates(self, order: Order, tau) -> tuple[Float[Array, "C N-1"], Float[Array, "C N-1"]]:
        """Rates of crossing every inner face upwards and downwards, per unit mass and ``tau``."""
        limit = self.limit
        a, b, D, _ = limit.coefficients(order, tau)
        half = jnp.maximum(0.5 * D, 1e-30)[:, None]
        drift = (a * limit.teacher)[:, None] - b[:, None] * self.first - limit.decay(tau) * self.centers
        h = self.widths
        # the potential difference between two centres, through half of either cell
        work = drift[:, :-1] * self.above[:-1] + drift[:, 1:] * self.below[1:]
        gap = 0.5 * (h[:-1] + h[1:])
        inside = jnp.zeros((), bool)
        absorbs = limit.surrogate.ends and not limit.surrogate.smooth
        if absorbs:  # at the ends of the range the density vanishes and nothing comes back
            out_up = self.frozen[1:] & ~self.frozen[:-1]
            out_down = self.frozen[:-1] & ~self.frozen[1:]
            inside = self.frozen[1:] & self.frozen[:-1]
            work = jnp.where(out_up, 0.5 * drift[:, :-1] * h[:-1], work)
            work = jnp.where(out_down, 0.5 * drift[:, 1:] * h[1:], work)
            gap = jnp.where(out_up, 0.5 * h[:-1], jnp.where(out_down, 0.5 * h[1:], gap))
        peclet = work / half
        up, down = _bernoulli(peclet)
        up = half * up * (self.square[:-1] / (gap * h[:-1]))
        down = half * down * (self.square[1:] / (gap * h[1:]))
        if absorbs:
            up = jnp.where(inside | out_down, 0.0, up)
            down = jnp.where(inside | out_up, 0.0, down)
        open_ = jnp.isfinite(self._inside(self.faces[1:-1])) & (self.faces[1:-1] < self.wall)
        if limit.surrogate.smooth:  # no weight reaches an end of the range, and none comes back from beyond
            open_ &= ~(self.frozen[1:] | self.frozen[:-1])
        return jnp.where(open_, up, 0.0), jnp.where(open_, down, 0.0)

    def __call__(self, tau, mass, args=None) -> Float[Array, "C N"]:
        """``d mass / d tau`` (N cells, total zero)."""
        up, down = self.rates(self.order(mass), tau)
        flux = up * mass[:, :-1] - down * mass[:, 1:]
        zero = jnp.zeros((mass.shape[0], 1))
        return jnp.concatenate([zero, flux], 1) - jnp.concatenate([flux, zero], 1)

    def advance(self, tau, step, mass) -> Float[Array, "C N"]:
        """One linearly implicit Euler step: ``(1 - step A(tau + step, order(mass))) new = mass``."""
        up, down = self.rates(self.order(mass), tau + step)
        return _implicit(step * up.T, step * down.T, mass.T).T

    def observe(self, tau, mass) -> dict[str, Array]:
        """Order parameters and observables (``docs/theory.md``, section 8)."""
        limit, h, w = self.limit, self.widths, self.centers
        total, power = limit.share @ mass, limit.weight @ mass
        weighted = (limit.weight * limit.teacher) @ mass
        out = dict(
            error=self.error(mass),
            m=weighted @ self.first,
            q=power @ self.second,
            overlap=weighted @ w,
            norm=power @ (w**2 + h**2 / 12),
        )
        order = self.order(mass)
        out |= limit.observables(mass @ self.first, mass @ self.second)
        out["effective_step"] = limit.effective_step(order, tau)
        levels, theta = limit.levels, limit.pieces.breaks
        if levels.size:
            each = _occupancy(limit, total, self.first, theta, w)
            out["occupancy"] = 0.5 * (each + each[::-1]) if limit.folded else each
            nearest = limit.pieces.first.shape[0] == levels.size
            if nearest and limit.model.gaussian:
                face = jnp.searchsorted(self.centers, theta)  # that on a threshold, whatever its last digit
                mean_abs = limit.coefficients(order, tau).mean_abs
                moving = (limit.share * mean_abs) @ mass / h
                # linear interpolation between the two neighbouring centres
                left = h[face] / (h[face] + h[face - 1])
                crossing = left * moving[face - 1] + (1 - left) * moving[face]
                if limit.surrogate.smooth:  # the others are 1 at thresholds
                    crossing = limit.surrogate(theta) * crossing
                out["flip_rate"] = jnp.sum(crossing)
        if limit.range is not None:
            lower = jnp.clip((-limit.range - self.faces[:-1]) / h, 0, 1)
            upper = jnp.clip((self.faces[1:] - limit.range) / h, 0, 1)
            out["saturated"] = total @ (lower + upper)
        return out


def _occupancy(limit: Limit, total, first, theta, w) -> Float[Array, " L"]:
    """Probability of every level; stochastic rounding splits a cell between its two neighbours."""
    levels = limit.levels
    if limit.pieces.first.shape[0] == levels.size:
        index = jnp.searchsorted(theta, w, side="right")
        return jnp.zeros(levels.size).at[index].add(total)
    low = jnp.clip(jnp.searchsorted(levels, first, side="right") - 1, 0, levels.size - 2)
    up = (first - levels[low]) / (levels[low + 1] - levels[low])
    return jnp.zeros(levels.size).at[low].add(total * (1 - up)).at[low + 1].add(total * up)


def _implicit(up, down, mass):
    """Masses (N, C) after an implicit Euler step in which the faces between cells are crossed at ``up, down`` (N-1, C).

    Elimination from below, in which nothing is subtracted: of the mass that came from below a part ``stay`` is left.
    """
    none = jnp.zeros((1, mass.shape[1]))

    def eliminate(below, cell):
        stay, arriving = below
        up, down, mass = cell
        stay = 1 + down * stay
        part = 1 / (stay + up)
        value = (mass + arriving) * part
        return (stay * part, up * value), (value, part)

    cells = jnp.concatenate([up, none]), jnp.concatenate([none, down]), mass
    _, (value, part) = jax.lax.scan(eliminate, (none[0], none[0]), cells)

    def substitute(above, cell):
        value, part, back = cell
        new = value + part * back * above
        return new, new

    back = jnp.concatenate([down, none])
    return jax.lax.scan(substitute, none[0], (value, part, back), reverse=True)[1]


def _bernoulli(x):
    """``B(-x), B(x)`` with ``B(x) = x / (exp(x) - 1)``, from one exponential that cannot overflow."""
    size = jnp.where(x < 0, -x, x)
    small = size < 1e-8
    safe = jnp.where(small, 1.0, size)
    less = jnp.where(small, -size, jnp.expm1(-safe))
    large = jnp.where(small, 1 + 0.5 * size, -safe / less)
    little = large * (1 + less)
    return jnp.where(x < 0, little, large), jnp.where(x < 0, large, little)
