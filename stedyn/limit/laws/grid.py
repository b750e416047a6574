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

from ..limit import Limit
from .mesh import faces_of


class GridFlow(eqx.Module):
    """The semi-discrete equation ``d mass / d tau = A(tau, error) mass``; ``A`` is tridiagonal.

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
        start, inner = self.limit.start.law, self.faces[1:-1]
        if start.kind == "gaussian":
            z = (self._inside(inner) - start.mean) / start.std
            below, above = norm.cdf(z), norm.cdf(-z)
            lower = jnp.concatenate([jnp.zeros(1), below, jnp.ones(1)])
            upper = jnp.concatenate([jnp.ones(1), above, jnp.zeros(1)])
            in_tail = jnp.concatenate([z > 0, jnp.ones(1, bool)])
            mass = jnp.where(in_tail, upper[:-1] - upper[1:], jnp.diff(lower))
        else:
            mass = self.limit.start.masses(self._inside(inner))
        return jnp.broadcast_to(mass, (self.limit.teacher.size, mass.shape[-1]))

    def _inside(self, faces):
        """The faces, with those on or behind the walls of a latent clip put at infinity."""
        if self.limit.latent_clip is None:
            return faces
        edge = self.limit.latent_clip * (1 - 1e-12)
        return jnp.where(faces >= edge, jnp.inf, jnp.where(faces <= -edge, -jnp.inf, faces))

    @property
    def error_weights(self) -> Float[Array, "C N"]:
        """``share_c (v c^2 - 2 k1 c psi + k2 psi^2)`` of every cell, so that the error is a sum over cells."""
        limit = self.limit
        own = (limit.inputs.std[limit.group] * limit.teacher) ** 2
        cross, square = 2 * limit.k1 * limit.teacher, limit.k2
        each = own[:, None] - cross[:, None] * self.first + square[:, None] * self.second
        return limit.share[:, None] * each

    def error(self, mass) -> Float[Array, ""]:
        """Generalization error of the cell masses."""
        return jnp.sum(self.error_weights * mass)

    def watch(self, best, other):
        """Values whose relative accuracy the step controller keeps, and their errors."""
        miss = best - other
        variation = jnp.max(jnp.sum(jnp.abs(miss), axis=-1))
        return jnp.stack([self.error(best), 1.0]), jnp.stack([jnp.abs(self.error(miss)), variation])

    def rates(self, error, tau) -> tuple[Float[Array, "C N-1"], Float[Array, "C N-1"]]:
        """Rates of crossing every inner face upwards and downwards, per unit mass and ``tau``."""
        limit = self.limit
        a, b, D, _ = limit.coefficients(error, tau)
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
        up = half / gap * _bernoulli(-peclet) * self.square[:-1] / h[:-1]
        down = half / gap * _bernoulli(peclet) * self.square[1:] / h[1:]
        if absorbs:
            up = jnp.where(inside | out_down, 0.0, up)
            down = jnp.where(inside | out_up, 0.0, down)
        open_ = jnp.isfinite(self._inside(self.faces[1:-1])) & (self.faces[1:-1] < self.wall)
        if limit.surrogate.smooth:  # no weight reaches an end of the range, and none comes back from beyond
            open_ &= ~(self.frozen[1:] | self.frozen[:-1])
        return jnp.where(open_, up, 0.0), jnp.where(open_, down, 0.0)

    def __call__(self, tau, mass, args=None) -> Float[Array, "C N"]:
        """``d mass / d tau`` (N cells, total zero)."""
        up, down = self.rates(self.error(mass), tau)
        flux = up * mass[:, :-1] - down * mass[:, 1:]
        zero = jnp.zeros((mass.shape[0], 1))
        return jnp.concatenate([zero, flux], 1) - jnp.concatenate([flux, zero], 1)

    def advance(self, tau, step, mass) -> Float[Array, "C N"]:
        """One linearly implicit Euler step: ``(1 - step A(tau + step, error(mass))) new = mass``."""
        up, down = self.rates(self.error(mass), tau + step)
        zero = jnp.zeros((mass.shape[0], 1))
        diagonal = 1 + step * (jnp.concatenate([up, zero], 1) + jnp.concatenate([zero, down], 1))
        lower = jnp.concatenate([zero, -step * up], 1)
        upper = jnp.concatenate([-step * down, zero], 1)
        return jax.lax.linalg.tridiagonal_solve(lower, diagonal, upper, mass[..., None])[..., 0]

    def observe(self, tau, mass) -> dict[str, Array]:
        """Order parameters and observables (``docs/theory.md``, section 8)."""
        limit, h, w = self.limit, self.widths, self.centers
        total = limit.share @ mass
        weighted = (limit.share * limit.teacher) @ mass
        out = dict(
            error=self.error(mass),
            m=weighted @ self.first,
            q=total @ self.second,
            overlap=weighted @ w,
            norm=total @ (w**2 + h**2 / 12),
        )
        out["effective_step"] = limit.effective_step(out["error"], tau)
        levels, theta = limit.levels, limit.pieces.breaks
        if levels.size:
            each = _occupancy(limit, total, self.first, theta, w)
            out["occupancy"] = 0.5 * (each + each[::-1]) if limit.folded else each
            nearest = limit.pieces.first.shape[0] == levels.size
            if nearest:
                face = jnp.searchsorted(self.faces, theta)
                mean_abs = limit.coefficients(out["error"], tau).mean_abs
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


def _bernoulli(x):
    """``x / (exp(x) - 1)`` without overflow, nor of its derivative, in which the square of ``exp(x)`` occurs."""
    safe = jnp.where(jnp.abs(x) < 1e-8, 1.0, jnp.clip(x, -1e300, 350.0))
    return jnp.where(jnp.abs(x) < 1e-8, 1 - 0.5 * x, safe / jnp.expm1(safe))
