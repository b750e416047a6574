"""The latent weights at the start, class by class: independent of teacher and variance, or measured with them."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtr, ndtri

from ..problem.populations import Start
from ..problem.problem import Problem
from .classes import Classes, gaussian_bins, group_sums, merge_pairs, sample_bins


class Starts(eqx.Module):
    """The start of ``C`` classes of coordinates: one law for all, or measured values with the classes they belong to.

    ``law`` is that of all coordinates together. ``values (n,)`` belong to ``owner (n,)``, one of ``owners`` groups, and
    ``group (C,)`` says which of these is the start of a class; all three are None if one law serves for all. The values
    of a class are ``factor`` times these, and ``shift`` more.
    """

    law: Start
    values: Float[Array, " n"] | None = None
    owner: Int[Array, " n"] | None = None
    group: Int[Array, " C"] | None = None
    owners: int = eqx.field(static=True, default=1)
    factor: Float[Array, "*F"] | float = 1.0
    shift: Float[Array, "*C"] | float = 0.0

    def classes(self, n: int, coarse=False) -> tuple[Float[Array, "C J"], ...]:
        """Share, mean and variance of the ``J <= n`` start classes of every class (``C = 1``: the same for all)."""
        if self.group is not None:
            return tuple(part[self.group] for part in self._own_classes(n, coarse))
        law = self.law
        if law.kind == "constant":
            return jnp.ones((1, 1)), jnp.reshape(jnp.asarray(law.mean) * 1.0, (1, 1)), jnp.zeros((1, 1))
        if law.data is not None:
            share, mean, var = merge_pairs(sample_bins(law.data.values, n), coarse)
        else:
            share, mean, var = merge_pairs(gaussian_bins(n), coarse)
            mean, var = law.mean + law.std * mean, law.std**2 * var
        if jnp.ndim(self.shift) == 0:
            return share[None], mean[None], var[None]
        shape = (jnp.size(self.shift), mean.size)
        share, var = (jnp.broadcast_to(part, shape) for part in (share, var))
        return share, self.shift[:, None] + mean, var

    def masses(
        self, edges: Float[Array, " E"], kinks: Float[Array, " K"] | None = None
    ) -> Float[Array, "C E+1"]:
        """The probabilities of the intervals between edges if the start is measured or constant (``C`` as above).

        With ``kinks`` a value is shared by two neighbours, so that the mean of their centres is right; not if their
        edge is a kink.
        """
        owned, law = self.group is not None, self.law
        values = self.values if owned else law.mean if law.data is None else law.data.values
        values = jnp.reshape(jnp.asarray(values), -1)
        owner = self.owner if owned else jnp.zeros(values.size, int)
        cell = jnp.searchsorted(edges, values, side="right")
        mass = jnp.zeros((self.owners, edges.size + 1))
        if kinks is None:
            mass = mass.at[owner, cell].add(1.0)
        else:
            centre = jnp.pad(0.5 * (edges[1:] + edges[:-1]), 1, constant_values=jnp.inf)
            other = jnp.clip(cell + jnp.where(values < centre[cell], -1, 1), 0, edges.size)
            shared = ~jnp.any(edges[:, None] == kinks, axis=1)[jnp.minimum(cell, other)]
            shared &= jnp.isfinite(centre[cell]) & jnp.isfinite(centre[other])
            offset, apart = (
                jnp.where(shared, place - centre[cell], safe)
                for place, safe in ((values, 0.0), (centre[other], 1.0))
            )
            part = offset / apart
            mass = mass.at[owner, cell].add(1 - part).at[owner, other].add(part)
        mass = mass / jnp.sum(mass, axis=1, keepdims=True)
        return mass[self.group] if owned else mass

    def _own_classes(self, n: int, coarse):
        """The same for the values of every owner: groups of neighbours, smaller towards the ends as `gaussian_bins`."""
        n += n % 2
        ordered = self.values[jnp.lexsort((self.values, self.owner))]
        size = jnp.zeros(self.owners).at[self.owner].add(1.0)[:, None]
        parts = ndtr(np.sqrt(3.0) * ndtri(np.linspace(0, 1, n + 1)))
        edges = jnp.round(jnp.cumsum(size)[:, None] - size * (1 - parts)).astype(int)
        count = jnp.diff(edges)
        mean, square = (group_sums(power, edges) / jnp.maximum(count, 1) for power in (ordered, ordered**2))
        share, var = count / size, jnp.maximum(square - mean**2, 0.0)
        # groups without a value keep a share that their mean survives
        flat = jnp.maximum(share, 1e-300).reshape(-1), mean.reshape(-1), var.reshape(-1)
        _, mean, var = merge_pairs(flat, coarse)
        return share, mean.reshape(share.shape), var.reshape(share.shape)


def starts_of(problem: Problem, found: Classes) -> Starts:
    """The start of the classes of a problem.

    A file of starts as long as that of the teacher (or of the variances) holds the same coordinates in the same order.
    The coordinates of a class are those whose teacher values (variances) have its ranks.
    """
    law = problem.start
    if law.scale is not None:
        return Starts(law, shift=jnp.asarray(law.scale) * found.teacher)
    _, start, variance = problem.together
    if start == 1 and variance != 1:
        return Starts(law, factor=found.start)
    values, many = jnp.asarray(law.data.values), found.variance.size
    linear = problem.weights.is_none
    v = jnp.ones_like(values) if variance == 2 else jnp.asarray(problem.covariance.data.values)
    shares = jnp.zeros(many).at[found.group].add(found.share)
    by_variance = jnp.argsort(v)
    if start == 1:
        values, owner = _owned(values, by_variance, shares)
        return Starts(law, values, owner, found.group, many)
    c = jnp.asarray(problem.teacher.data.values)
    if variance == 2:  # the classes of every variance hold all coordinates: as many copies of the values
        part = found.share.reshape(many, -1) / jnp.where(shares > 0, shares, 1.0)[:, None]
        per, order = part.shape[1], jnp.argsort(c)

        def copy(share, teacher):
            own, owner = _owned(values, order, share)
            return (_moments_kept(own, owner, share, c, v, teacher, 1.0) if linear else own), owner

        values, owner = jax.vmap(copy)(part, found.teacher.reshape(many, per))
        behind = found.share.size  # no class has this number
        owner = jnp.where(owner < per, owner + per * jnp.arange(many)[:, None], behind)
        values, owner = values.reshape(-1), owner.reshape(-1)
    else:
        order = jnp.lexsort((c, _group_of_ranks(by_variance, shares)))
        values, owner = _owned(values, order, found.share)
        if linear:
            weight = found.variance[found.group]
            values = _moments_kept(values, owner, found.share, c, v, found.teacher, weight)
    return Starts(law, values, owner, jnp.arange(found.share.size), found.share.size)


def _group_of_ranks(order, share):
    """The group of every value: in increasing order, groups follow one another with these shares."""
    rank = (jnp.arange(order.size) + 0.5) / order.size
    group = jnp.clip(jnp.searchsorted(jnp.cumsum(share), rank), 0, share.size - 1)
    return jnp.zeros(order.size, int).at[order].set(group)


def _owned(values, order, share):
    """Values with the group of each, and one more for every group that is too small to have any: that of its rank.

    Groups that have values do not get it: it then belongs to a group behind the last, which is none.
    """
    owner = _group_of_ranks(order, share)
    some = jnp.zeros(share.size).at[owner].add(1.0) > 0
    rank = (jnp.cumsum(share) - 0.5 * share) * order.size
    own = values[order[jnp.clip(rank.astype(int), 0, order.size - 1)]]
    group = jnp.where(some, share.size, jnp.arange(share.size))
    return jnp.concatenate([values, own]), jnp.concatenate([owner, group])


def _moments_kept(values, owner, share, c, v, teacher, weight):
    """Starts moved a little, so that ``E[v c w]`` and ``E[v w^2]`` are exact although a class has one ``c`` and ``v``.

    Each is shifted by a multiple of its teacher value, and distances from the mean of a class are scaled, by amounts
    that vanish like the square of the width of the classes.
    """
    w, size = values[: c.size], jnp.zeros(share.size).at[owner].add(1.0)
    mean = jnp.zeros(share.size).at[owner].add(values) / size
    square = jnp.zeros(share.size).at[owner].add((values - mean[owner]) ** 2) / size
    norm = jnp.sum(share * weight * teacher**2)
    lost = jnp.mean(v * c * w) - jnp.sum(share * weight * teacher * mean)
    centre = mean + jnp.where(norm > 0, lost / jnp.where(norm > 0, norm, 1.0), 0.0) * teacher
    left = jnp.mean(v * w**2) - jnp.sum(share * weight * centre**2)
    spread = jnp.sum(share * weight * square)
    some = (spread > 0) & (left > 0)
    scale = jnp.where(some, jnp.sqrt(jnp.where(some, left / spread, 1.0)), 0.0)
    return centre[owner] + scale * (values - mean[owner])
