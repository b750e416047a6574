r"""The ``mixture`` law: mean and variance of every (teacher, start) class, one shape within a class.

State: ``mean, var (C, J)`` for ``C`` teacher and ``J`` start classes. With the drift
``v(w) = a c - b psi(w) - lr weight_decay w`` the moments follow (``docs/theory.md``, equation 15)

    ``d mean / d tau = E[v]``,    ``d var / d tau = 2 Cov(w, v) + D``,

and the expectations are closed by assuming a shape: Gaussian, which is the law, or Laplace, which has the exponential
tails of a weight held at a threshold. The distance between the two closures is the error the law claims; for a linear
``psi`` both are exact and it vanishes.
"""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...code.compiling import Program, soon
from ...inputs.moments import split_between
from ...problem.problem import Problem
from ...quantizers.pieces import PartialMoments, partial_moments
from ...rules import Order
from ..classes import channel_classes
from ..limit import Limit, limit_of
from ..solution import INACCURATE, MAX_STEPS, REACHED, UNESTIMATED
from .law import Accuracy, Asked, Solved
from .legs import counted, joined
from .remembering import flow_of

#: Start and teacher classes.
STARTS, CLASSES = 16, 32
#: Teacher classes where the error of rounded weights is observed.
PTQ_CLASSES = 512
#: Classes of input variances where nothing else limits the accuracy.
LINEAR_VARIANCES = 64
#: Cells in which the density of a mixture is handed out.
DENSITY_CELLS = 2000


class MixtureFlow(eqx.Module):
    """The moment equations of all classes.

    ``blend`` is None for Gaussian classes; a number mixes in Laplace moments, up to 1.
    """

    limit: Limit
    blend: Float[Array, ""] | None
    share: Float[Array, "*C J"]
    mean0: Float[Array, "*C J"]
    var0: Float[Array, "*C J"]

    def __init__(self, limit: Limit, starts: int, blend=None, coarse=False):
        self.limit, self.blend = limit, blend
        self.share, self.mean0, self.var0 = limit.start.classes(starts, coarse)

    def start(self):
        """``(mean, var)`` at ``tau = 0``, each (C, J)."""
        shape = (self.limit.teacher.size, self.share.shape[1])
        mean, var = jnp.broadcast_to(self.mean0, shape), jnp.broadcast_to(self.var0, shape)
        if not self.limit.has_mean:
            return mean, var
        limit = self.limit
        # the sum of squares of a mean output Z that falls by 1 - kappa in a step, each of which moves w by -lr Z phi
        kappa, Z = self.kappa(0.0), self.output(mean)
        kicks = limit.shift(0.0) * Z**2 / (self.lever * jnp.maximum(2 - kappa, 1e-3))
        return self.on_constraint(mean), var + kicks * limit.k2[:, None]

    @property
    def lever(self) -> Float[Array, ""]:
        """``E[mean^2]`` over the classes: what moves of ``mean`` change in the mean output."""
        return self.limit.share @ self.limit.mean**2

    def kappa(self, tau) -> Float[Array, ""]:
        """``lr E[mean^2]``, for a linear ``psi``."""
        return self.limit.shift(tau) * self.lever

    def output(self, mean) -> Float[Array, ""]:
        """Mean output of the student less that of the teacher, over ``sqrt(d)``, for a linear ``psi``."""
        each = jnp.sum(mean * self.share, axis=1)
        return (self.limit.share * self.limit.mean) @ each - self.limit.target

    def on_constraint(self, mean):
        """Means moved together until the mean outputs agree (``docs/inputs.md``)."""
        return mean - self.limit.mean[:, None] * self.output(mean) / self.lever

    def _partial(self, state) -> PartialMoments:
        mean, var = state
        std = jnp.sqrt(jnp.maximum(var, 1e-14 * self.limit.scale))
        breaks = self.limit.pieces.breaks
        normal = partial_moments(breaks, mean, std)
        if self.blend is None or breaks.size == 0:
            return normal
        laplace = _laplace_moments(breaks, mean, std)
        return PartialMoments(
            *[(1 - self.blend) * g + self.blend * x for g, x in zip(normal, laplace, strict=True)]
        )

    def moments(self, state):
        """``E[psi], E[psi^2]`` of every teacher class, (C,) each."""
        return self._of_classes(self._averages(self._partial(state)))

    def _of_classes(self, averages):
        psi, square = averages
        return jnp.sum(psi * self.share, axis=1), jnp.sum(square * self.share, axis=1)

    def _averages(self, p: PartialMoments, pieces=None):
        """``E[psi], E[psi^2]`` of every class, (C, J) each; or those of other pieces."""
        _, first, second = self.limit.pieces if pieces is None else pieces
        psi = p.zeroth @ first[:, 0] + p.first @ first[:, 1]
        return psi, p.zeroth @ second[:, 0] + p.first @ second[:, 1] + p.second @ second[:, 2]

    def error(self, state) -> Float[Array, ""]:
        """Generalization error of the classes."""
        return self.order(state).V - self.limit.noise_var

    def order(self, state, memory=None, tau=0.0) -> Order:
        """What rules see of the classes, and remember."""
        order = self.limit.order(self.limit.error(*self.moments(state)))
        if self.limit.has_mean:
            order = self.limit.order_at(self.limit.with_mean_mode(order.V, self.kappa(tau)))
        return order._replace(memory=memory)

    def velocity(self, tau, state, memory=None):
        """Velocities of mean and variance, and their (diagonal) relaxation rates."""
        limit = self.limit
        mean, var = state
        p = self._partial(state)
        psi, _ = self._averages(p)
        a, b, D, _ = (x[:, None] for x in limit.coefficients(self.order(state, memory, tau), tau))
        decay = limit.decay(tau)
        first = limit.pieces.first
        both = p.first @ first[:, 0] + p.second @ first[:, 1]
        covariance = jnp.maximum(both - mean * psi, 0.0)
        rate = b * covariance / jnp.maximum(var, 1e-14 * limit.scale) + decay
        up = a * limit.teacher[:, None] - b * psi - decay * mean
        if limit.has_mean:
            up -= (
                limit.mean[:, None]
                * ((limit.share * limit.mean) @ jnp.sum(up * self.share, axis=1))
                / self.lever
            )
        return (up, D - 2 * b * covariance - 2 * decay * var), (rate, 2 * rate)

    def __call__(self, tau, state, memory=None):
        """``d (mean, var) / d tau``."""
        return self.velocity(tau, state, memory)[0]

    def advance(self, tau, step, state, memory=None):
        """One linearly implicit Euler step with the relaxation rates as its Jacobian."""
        velocity, rate = self.velocity(tau + step, state, memory)
        mean, var = (y + step * dy / (1 + step * k) for y, dy, k in zip(state, velocity, rate, strict=True))
        return self.on_constraint(mean) if self.limit.has_mean else mean, jnp.maximum(var, 0.0)

    def watch(self, best, other):
        """Values whose relative accuracy the step controller keeps, and their errors."""
        scale = jnp.sqrt(self.limit.scale) + jnp.abs(best[0])
        spread = jnp.max(jnp.abs(best[1] - other[1]) / (best[1] + 1e-4 * self.limit.scale))
        here, there = jax.vmap(self.error)(jax.tree.map(lambda *pair: jnp.stack(pair), best, other))
        values = jnp.stack([here, 1.0, 1.0])
        errors = [here - there, jnp.max(jnp.abs(best[0] - other[0]) / scale), spread]
        return values, jnp.abs(jnp.stack(errors))

    def observe(self, tau, state, memory=None) -> dict[str, Array]:
        """Order parameters and observables (``docs/theory.md``, section 8)."""
        limit = self.limit
        mean, var = state
        psi, square = self.moments(state)
        weight = limit.share[:, None] * self.share
        out = dict(
            error=limit.error(psi, square),
            m=(limit.share * limit.teacher) @ psi,
            q=limit.share @ square,
            overlap=jnp.sum(weight * limit.teacher[:, None] * mean),
            norm=jnp.sum(weight * (mean**2 + var)),
        )
        order = self.order(state, memory, tau)
        if limit.has_mean:
            whole = order.V - limit.noise_var
            out |= dict(error=whole, kappa=self.kappa(tau), mean_mode=whole - out["error"])
        out |= limit.observables(psi, square)
        out["effective_step"] = limit.effective_step(order, tau)
        std = jnp.sqrt(jnp.maximum(var, 1e-14 * limit.scale))
        if limit.ptq is not None:
            rounded = self._averages(partial_moments(limit.ptq.breaks, mean, std), limit.ptq)
            out["ptq_error"] = limit.error(*self._of_classes(rounded))
        levels = limit.levels
        if levels.size:
            p = partial_moments(limit.pieces.breaks, mean, std)
            if limit.pieces.first.shape[0] == levels.size:
                out["occupancy"] = jnp.tensordot(weight, p.zeroth, 2)
                if limit.model.gaussian:
                    mean_abs = limit.coefficients(order, tau).mean_abs
                    out["flip_rate"] = jnp.sum(weight * mean_abs[:, None] * p.pdf.sum(-1))
            else:
                each = split_between(levels, limit.pieces.first[1:-1, 1], p.zeroth, p.first)
                out["occupancy"] = jnp.tensordot(weight, each, 2)
        if limit.range is not None:
            p = partial_moments(jnp.stack([-limit.range, limit.range]), mean, std)
            out["saturated"] = jnp.sum(weight * (p.zeroth[..., 0] + p.zeroth[..., 2]))
        return out

    def masses(self, mean, var):
        """Cell masses of saved states ``(K, C, J)``: edges (N+1,), (K, C, N), teacher, share."""
        std = jnp.sqrt(jnp.maximum(var, 1e-14 * self.limit.scale))
        low, high = jnp.min(mean - 6 * std), jnp.max(mean + 6 * std)
        edges = jnp.linspace(low, high, DENSITY_CELLS + 1)
        each = partial_moments(edges[1:-1], mean, std).zeroth
        share = jnp.broadcast_to(self.share, mean.shape[1:])
        return edges, jnp.einsum("kcjn,cj->kcn", each, share), self.limit.teacher, self.limit.share


def _laplace_moments(breaks, mean, std) -> PartialMoments:
    """As `partial_moments`, for a Laplace law of the same mean and variance."""
    scale, excess = (std / jnp.sqrt(2.0))[..., None], mean[..., None] - breaks
    decay, above = jnp.exp(-jnp.abs(excess) / scale), excess <= 0
    tail = jnp.where(above, 0.5 * decay, 1 - 0.5 * decay)
    gain = jnp.where(above, 0.5 * scale * decay, excess + 0.5 * scale * decay)
    square = jnp.where(above, scale**2 * decay, 2 * scale**2 + excess**2 - scale**2 * decay)
    first = gain + breaks * tail
    second = square + 2 * breaks * gain + breaks**2 * tail

    def between(whole, upper):
        ends = jnp.broadcast_to(whole[..., None], (*upper.shape[:-1], 1))
        edges = jnp.concatenate([ends, upper, jnp.zeros_like(ends)], -1)
        return edges[..., :-1] - edges[..., 1:]

    return PartialMoments(
        between(jnp.ones_like(mean), tail),
        between(mean, first),
        between(mean**2 + std**2, second),
        0.5 * decay / scale,
    )


def _pass(problem, legs, accuracy, blend, coarse, classes, linear, single=False, forward=False):
    from ..integrate import failed, integrate, steps  # see `passes.follow`

    variances, columns = (LINEAR_VARIANCES, 8) if linear else (None, 3)
    found, runs, kept, state = channel_classes(problem, classes, coarse, variances), [], [], None
    for part, leg in zip(problem.parts, legs, strict=True):
        law = MixtureFlow(limit_of(part, found), 2 if single else STARTS, blend, coarse | single)
        memory = None
        if state is not None:
            (mean, var), memory = state
            law = eqx.tree_at(lambda law: (law.mean0, law.var0), law, (mean, var))
        flow, split = flow_of(law, memory)
        run = integrate(flow, leg.taus, leg.keep, accuracy, forward, leg.begin, columns, leg.stops)
        runs.append((run.ys[0], run.stats, steps(run), failed(run)))
        if leg.keep.size:
            states = split(run.ys[1])
            kept.append(jax.tree.map(lambda saved, leg=leg: saved[: leg.kept], states[0]))
            state = jax.tree.map(lambda saved: saved[-1], states)
    curves, stats, path, bad = zip(*runs, strict=True)
    means, variances = (jnp.concatenate(each) for each in zip(*kept, strict=True)) if kept else ([], [])
    masses = law.masses(means, variances) if len(means) else None
    return joined(curves, legs), counted(stats), masses, path, functools.reduce(jnp.logical_or, bad)


_compiled, _traced = soon(functools.partial(_pass, forward=True)), Program(_pass)  # _traced in reverse, too


def mixture_curves(problem: Problem, asked: Asked) -> Solved:
    """Curves of the law, with an estimate of their error from half the classes and from another shape."""
    legs, tol, least, _, classes, traced, _ = asked
    if len(legs) == 1:  # whose curves are cut by `solve`: the number of its times is no other program
        legs = (legs[0]._replace(saved=legs[0].taus.size),)
    if classes is None:  # rounded narrow classes bend sharply from one teacher value to the next
        classes = CLASSES if problem.ptq is None else PTQ_CLASSES
    linear = all(part.weights.is_none for part in problem.parts)
    rtol = 1e-8 if linear else 1e-5  # a linear psi leaves nothing but the error in time
    single = linear and problem.ptq is not None and problem.start.data is None  # whose classes stay Gaussian
    one_pass = _traced if traced else _compiled
    least = jnp.asarray(least)

    def run(rtol, blend, coarse):
        accuracy = Accuracy(jnp.asarray(rtol), least)
        return one_pass(problem, legs, accuracy, blend, jnp.asarray(coarse), classes, linear, single)

    blend = None if traced or linear else jnp.zeros(())
    curves, stats, kept, path, bad = run(rtol, blend, False)
    counts = dict(stats, classes=classes, starts=STARTS, passes=1)
    if traced:
        return Solved(curves, counts, kept, path, None, jnp.where(bad, MAX_STEPS, UNESTIMATED))

    def apart(other, name="error"):
        return jnp.max(jnp.abs(other[name] - curves[name]) / jnp.maximum(curves[name], least))

    merged = run(8 * rtol, blend, True)[0]
    estimate = apart(merged)
    if problem.ptq is not None:
        estimate = jnp.maximum(estimate, apart(merged, "ptq_error"))
    if not linear:
        estimate = 2 * (estimate + apart(run(rtol, jnp.ones(()), False)[0]))
    estimate = jnp.maximum(estimate, rtol)  # of steps that end at jumps of a schedule with either tolerance
    code = jnp.where(bad, MAX_STEPS, jnp.where(estimate <= tol, REACHED, INACCURATE))
    return Solved(curves, counts, kept, path, estimate, code)
