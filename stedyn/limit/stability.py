r"""How fast, and whether, the limit returns to a fixed point: the spectrum of the linearized equation.

With cell masses ``p`` of every class, ``d p / d tau = A(V) p`` and ``V = const + e . p`` (see `laws.grid`),
a small deviation ``x`` follows

    ``d x / d tau = L x``,   ``L x = A x + (dA/dV p) (e . x)``:

tridiagonal plus rank one. Every class is in detailed balance: a source ``r`` of mass 0 is met by fluxes
``cumsum(r)``, and those by two more sums, so that ``u = A^-1 r`` needs no elimination, however small its rates are.
With ``p' = dp/dV = -A^-1 (dA/dV p)`` and ``slope = e . p' = d error/dV`` (Sherman and Morrison 1950)

    ``L^-1 r = u + p' (e . u) / (1 - slope)``,

whose largest eigenvalues are the slowest modes of ``L`` (Arnoldi iteration). For a linear ``psi`` the moments
``E[w* w]`` and ``E[w^2]`` close, and ``L`` is a small matrix. See ``docs/fixed-points.md``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..code.compiling import Program
from .limit import Limit
from .modes import Fading, Held, leading, modes_of_densities

#: Rates of a weight below which it does not move.
STILL = 1e-30
NARROW = "its densities are too narrow to be followed, so that its slowest mode is not known"
FROZEN = "no weight moves there in any time (rates are below 1e-30)"
#: Classes with a share of at most FEW are left out, if together they change the error by less than SMALL of it.
FEW, SMALL = 0.05, 0.01


class Spectrum(NamedTuple):
    """Leading eigenvalue among the modes that change the error; None where there is none (``reason``)."""

    leading: complex | None
    reason: str | None = None


@Program
def _coefficients(limit: Limit, V, memory=None):
    """``a, b, D`` (C,) and their derivatives with respect to ``V``; at fixed ``memory`` if there is any."""

    def at(V):
        return limit.coefficients(limit.order_at(V)._replace(memory=memory), jnp.inf)[:3]

    return jax.jvp(at, (V,), (jnp.ones_like(V),))


@Program
def _memory(limit: Limit, V):
    return limit.memory(limit.order_at(V))


def _fading(limit: Limit, V) -> Fading | None:
    """What the rule remembers at a fixed point; None for nothing."""
    rate = limit.rule.fading
    if rate is None:
        return None
    memory = _memory(limit, V)
    return Fading(float(rate), np.array(_coefficients(limit, V, memory)[1]))


def spectrum(limit: Limit, few: Limit, V: float, held: Held | None = None) -> Spectrum:
    """Leading eigenvalue of the linearized limit at a fixed point with residual variance ``V``, per unit of ``tau``.

    ``few`` is the same limit with fewer classes, for which the densities are followed; ``held`` is for
    inputs with a mean.
    """
    if limit.levels.size and float(limit.noise_var) == 0 and V <= 1e-9 * float(limit.power):
        return Spectrum(None, "without noise nothing moves once it has vanished")
    values, slopes = (np.array(x) for x in _coefficients(few, jnp.asarray(V)))
    if np.any(values[1:] < STILL):
        return Spectrum(None, FROZEN)
    decay, fading = float(limit.decay(jnp.inf)), _fading(few, jnp.asarray(V))
    if limit.levels.size == 0 and limit.latent_clip is None:
        moments = _of_moments_with_a_mean if few.has_mean else _of_moments
        return moments(few, values, slopes, decay, fading)
    if decay > 0 or limit.latent_clip is not None:
        every = np.ones(values.shape[1], bool)
        return _slowest(modes_of_densities(few, values, slopes, decay, every, fading, held))
    every, push = np.array(_coefficients(limit, jnp.asarray(V))[0]), 0.0 if held is None else held.push
    outward, rates = _edge(limit, every, push)
    kept = _kept(limit, every[1], outward, rates, V - float(limit.noise_var))
    leaves = kept & (outward >= 0)
    if np.any(leaves & (rates == 0)):
        return Spectrum(
            None, "weights diffuse freely on the outermost level: the error ends like 1/sqrt(tau)"
        )
    found = [complex(-rate) for rate in rates[leaves]]
    outward, edge = _edge(few, values, push)
    inside = (outward < 0) & ((edge >= np.min(rates[kept], initial=np.inf)) | (np.asarray(few.share) > FEW))
    if np.any(inside):
        slow = modes_of_densities(few, values, slopes, decay, inside, fading, held)
        if slow is None:
            return _slowest(None)
        found += slow
    return _slowest(found)


def _slowest(values: list[complex] | None) -> Spectrum:
    if values is None:
        return Spectrum(None, NARROW)
    if not values:
        return Spectrum(None, "none of its slowest modes changes the error")
    return Spectrum(max(values, key=lambda value: value.real))


def _of_moments(limit: Limit, values, slopes, decay, fading: Fading | None) -> Spectrum:
    """``M = <c w>, Q = <w^2>`` of every input variance: ``M' = a <c^2> - b M``, ``Q' = 2 a M - 2 b Q + D``.

    And ``u`` of a rule that remembers.
    """
    group = np.asarray(limit.group)
    _, first = np.unique(group, return_index=True)
    share, teacher = np.asarray(limit.share), np.asarray(limit.teacher)
    part, square = np.bincount(group, share), np.bincount(group, share * teacher**2)
    a, b, D = values[:, first]
    back = b + decay
    M = a * square / back
    Q = (2 * a * M + D * part) / (2 * back)

    def feed(slopes):
        da, db, dD = slopes[:, first]
        return np.concatenate([da * square - db * M, 2 * da * M - 2 * db * Q + dD * part])

    k1, k2 = np.asarray(limit.k1)[first], np.asarray(limit.k2)[first]
    weight = np.concatenate([-2 * k1, k2])
    matrix = np.block([[np.diag(-back), np.zeros((back.size,) * 2)], [np.diag(2 * a), np.diag(-2 * back)]])
    if fading is None:
        matrix = matrix + np.outer(feed(slopes), weight)
    else:
        now = feed(fading.slopes)
        matrix = np.block([
            [matrix + np.outer(now, weight), (feed(slopes) - now)[:, None]],
            [fading.rate * weight, np.full((1, 1), -fading.rate)],
        ])  # fmt: skip
        weight = np.append(weight, 0.0)
    found, vectors = np.linalg.eig(matrix)

    def seen(vectors):
        return np.abs(weight @ vectors) / (np.abs(weight) @ np.abs(vectors))

    return _slowest(leading(found, vectors, seen))


def _of_moments_with_a_mean(limit: Limit, values, slopes, decay, _) -> Spectrum:
    """The same with ``N = <w>`` of every input variance, under the constraint on the sum of ``mean N``."""
    group = np.asarray(limit.group)
    _, first = np.unique(group, return_index=True)
    share, teacher = np.asarray(limit.share), np.asarray(limit.teacher)
    part, sums, square = (np.bincount(group, share * teacher**n) for n in range(3))
    (a, b, D), (da, db, dD) = values[:, first], slopes[:, first]
    mean, k1, k2 = (np.asarray(x)[first] for x in (limit.mean, limit.k1, limit.k2))
    kappa = float(limit.shift(jnp.inf)) * (part @ mean**2)
    more = 1 + kappa / (limit.rule.batch * (2 - kappa))
    count, back, lever = part.size, b + decay, part @ mean**2
    push = (float(limit.target) - mean @ (a * sums / back)) / (mean**2 @ (part / back))
    N = (a * sums + push * mean * part) / back
    M = (a * square + push * mean * sums) / back
    Q = (2 * a * M + 2 * push * mean * N + D * part) / (2 * back)
    zero = np.zeros((count, count))
    matrix = np.block([
        [np.diag(-back), zero, zero],
        [np.diag(2 * a), np.diag(-2 * back), np.diag(2 * push * mean)],
        [zero, zero, np.diag(-back)],
    ])  # fmt: skip
    weight = more * np.concatenate([-2 * k1, k2, 0 * k1])
    feed = np.concatenate([da * square - db * M, 2 * da * M - 2 * db * Q + dD * part, da * sums - db * N])
    matrix = matrix + np.outer(feed, weight)
    pushed = np.concatenate([mean * sums, 2 * mean * N, mean * part])
    held = np.concatenate([0 * mean, 0 * mean, mean])
    matrix = matrix - np.outer(pushed, held @ matrix) / lever
    found, vectors = np.linalg.eig(matrix)
    # what would change the mean output is none of the modes
    kept = np.abs(held @ vectors) < 1e-8 * (np.abs(held) @ np.abs(vectors) + 1e-300)

    def seen(vectors):
        return np.abs(weight @ vectors) / (np.abs(weight) @ np.abs(vectors))

    return _slowest(leading(found[kept], vectors[:, kept], seen))


def _edge(limit: Limit, values, push: float = 0.0):
    """Drift out of the outermost level (C,), negative if it holds the weights, and ``v^2/(2 D)``.

    Below that rate a class has no modes but its stationary density; if the drift leads outward, it is the rate at
    which the last weights of the class leave the range.
    """
    a, b, D = values
    pull, ends = (
        a * np.asarray(limit.teacher) + push * np.asarray(limit.mean),
        np.asarray(limit.levels)[[0, -1]],
    )
    outward = np.maximum(pull - b * ends[1], b * ends[0] - pull)
    outward[np.abs(outward) <= 1e-12 * (np.abs(pull) + b * np.max(np.abs(ends)))] = 0.0
    return outward, outward**2 / (2 * D)


def _kept(limit: Limit, b, outward, rates, error):
    """All classes but the slowest of many, as long as these together change the error by less than ``SMALL`` of it.

    Of teacher values in a continuum some lie arbitrarily near the edge of saturation and are arbitrarily slow, but
    there a weight leaves the outermost level only for a part ``|drift| / (b step)`` of the time.
    """
    share, steps = np.asarray(limit.share), np.diff(np.asarray(limit.levels))
    step = max(steps[0], steps[-1])
    part = share * np.asarray(limit.k2) * step * np.minimum(np.abs(outward) / b, step)
    order = np.argsort(rates)
    kept = np.ones(share.size, bool)
    kept[order] = (np.cumsum(part[order]) > SMALL * error) | (np.maximum.accumulate(share[order]) > FEW)
    return kept
