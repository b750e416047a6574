"""The latent weights at the start, class by class: independent of teacher and variance, or measured with them."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtr, ndtri

from .classes import Classes, gaussian_bins, merge_pairs, sample_bins
from .populations import Start
from .problem import Problem


class Starts(eqx.Module):
    """The start of ``C`` classes of coordinates: one law for all, or measured values with the classes they belong to.

    ``law`` is that of all coordinates together. ``values (n,)`` belong to ``owner (n,)``, one of ``owners`` groups, and
    ``group (C,)`` says which of these is the start of a class; all three are None if one law serves for all.
    """

    law: Start
    values: Float[Array, " n"] | None = None
    owner: Int[Array, " n"] | None = None
    group: Int[Array, " C"] | None = None
    owners: int = eqx.field(static=True, default=1)

    def classes(self, n: int, coarse=False) -> tuple[Float[Array, "C J"], ...]:
        """Share, mean and variance of the ``J <= n`` start classes of every class (``C = 1``: the same for all)."""
        if self.values is not None and self.owner is not None and self.group is not None:
            own = _own_classes(self.values, self.owner, self.owners, n, coarse)
            return tuple(part[self.group] for part in own)
        law = self.law
        if law.kind == "constant":
            return jnp.ones((1, 1)), jnp.reshape(jnp.asarray(law.mean) * 1.0, (1, 1)), jnp.zeros((1, 1))
        if law.data is not None:
            share, mean, var = merge_pairs(sample_bins(law.data.values, n), coarse)
        else:
            share, mean, var = merge_pairs(gaussian_bins(n), coarse)
            std = jnp.asarray(law.std)
            mean, var = jnp.asarray(law.mean) + std * mean, std**2 * var
        return share[None], mean[None], var[None]

    def masses(self, edges: Float[Array, " E"]) -> Float[Array, "C E+1"]:
        """The probabilities of the intervals between edges if the start is measured or constant (``C`` as above)."""
        law = self.law
        single = law.mean if law.data is None else law.data.values
        values = single if self.values is None else self.values
        values = jnp.reshape(jnp.asarray(values), -1)
        owner = jnp.zeros(values.size, int) if self.owner is None else self.owner
        cell = jnp.searchsorted(edges, values, side="right")
        mass = jnp.zeros((self.owners, edges.size + 1)).at[owner, cell].add(1.0)
        mass = mass / jnp.sum(mass, axis=1, keepdims=True)
        return mass if self.group is None else mass[self.group]


def _own_classes(values, owner, owners: int, n: int, coarse):
    """Share, mean and variance (owners, J) of groups of neighbours, smaller towards the ends as in `gaussian_bins`."""
    n += n % 2
    ordered = values[jnp.lexsort((values, owner))]
    size = jnp.zeros(owners).at[owner].add(1.0)[:, None]
    parts = ndtr(np.sqrt(3.0) * ndtri(np.linspace(0, 1, n + 1)))
    edges = jnp.round(jnp.cumsum(size)[:, None] - size * (1 - parts)).astype(int)
    count = jnp.diff(edges)
    total = [jnp.concatenate([jnp.zeros(1), jnp.cumsum(power)])[edges] for power in (ordered, ordered**2)]
    mean, square = (jnp.diff(sums) / jnp.maximum(count, 1) for sums in total)
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
    law, many = problem.start, found.variance.size
    _, start, variance = problem.together
    if law.data is None or (start == 1 and variance != 1):
        return Starts(law)
    values, by_variance = jnp.asarray(law.data.values), None
    if variance != 2:
        v = problem.covariance.values()
        share = jnp.zeros(many).at[found.group].add(found.share)
        by_variance = _group_of_ranks(jnp.argsort(v), share)
        if start == 1:
            return Starts(law, values, by_variance, found.group, many)
    assert problem.teacher.data is not None
    c = jnp.asarray(problem.teacher.data.values)
    if by_variance is None:  # all variances for every teacher value
        owners = found.teacher.size // many
        teacher, weight, v = found.teacher[::many], jnp.ones(owners), jnp.ones(c.size)
        owner = _group_of_ranks(jnp.argsort(c), jnp.sum(found.share.reshape(owners, many), axis=1))
        group = jnp.arange(found.teacher.size) // many
    else:
        owners, teacher = found.teacher.size, found.teacher
        weight, group = found.variance[found.group], jnp.arange(owners)
        owner = _group_of_ranks(jnp.lexsort((c, by_variance)), found.share)
    if problem.weights.is_none:  # then the error needs no more of the start than this
        values = _moments_kept(values, owner, c, v, teacher, weight)
    return Starts(law, values, owner, group, owners)


def _group_of_ranks(order, share):
    """The group of every value: in increasing order, groups follow one another with these shares."""
    rank = (jnp.arange(order.size) + 0.5) / order.size
    group = jnp.clip(jnp.searchsorted(jnp.cumsum(share), rank), 0, share.size - 1)
    return jnp.zeros(order.size, int).at[order].set(group)


def _moments_kept(w, owner, c, v, teacher, weight):
    """Starts moved a little, so that ``E[v c w]`` and ``E[v w^2]`` are exact although a class has one ``c`` and ``v``.

    Each is shifted by a multiple of its teacher value, and distances from the mean of a class are scaled, by amounts
    that vanish like the square of the width of the classes.
    """
    size = jnp.zeros(teacher.size).at[owner].add(1.0)
    mean = (jnp.zeros(teacher.size).at[owner].add(w) / size)[owner]
    teacher, weight = teacher[owner], weight[owner]
    norm = jnp.mean(weight * teacher**2)
    lost = jnp.mean(v * c * w) - jnp.mean(weight * teacher * w)
    centre = mean + jnp.where(norm > 0, lost / jnp.where(norm > 0, norm, 1.0), 0.0) * teacher
    left = jnp.mean(v * w**2) - jnp.mean(weight * centre**2)
    spread = jnp.mean(weight * (w - mean) ** 2)
    some = (spread > 0) & (left > 0)
    return centre + jnp.where(some, jnp.sqrt(jnp.where(some, left / spread, 1.0)), 0.0) * (w - mean)
