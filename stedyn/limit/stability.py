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

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

from .limit import Limit

#: Cells for every factor e of the distance to a threshold, in a width of a smooth density; most in an interval.
FOLD, WIDTH, MOST = 16, 8, 2000
#: Densities are kept down to exp(-DEPTH) of their maximum.
DEPTH = 40.0
#: Modes that are looked at; a mode whose share of the error is below VISIBLE does not show in it.
MODES, VISIBLE = 12, 1e-3
#: Rates of a weight below which it does not move.
STILL = 1e-30
FROZEN = "no weight moves there in any time (rates are below 1e-30)"
#: Classes with a share of at most FEW are left out, if together they change the error by less than SMALL of it.
FEW, SMALL = 0.05, 0.01


class Spectrum(NamedTuple):
    """Leading eigenvalue among the modes that change the error; None where there is none (``reason``)."""

    leading: complex | None
    reason: str | None = None


@eqx.filter_jit
def _coefficients(limit: Limit, V):
    """``a, b, D`` (C,) and their derivatives with respect to ``V``."""
    return jax.jvp(lambda v: limit.coefficients(limit.order_at(v), jnp.inf)[:3], (V,), (jnp.ones_like(V),))


def spectrum(limit: Limit, few: Limit, V: float) -> Spectrum:
    """Leading eigenvalue of the linearized limit at a fixed point with residual variance ``V``, per unit of ``tau``.

    ``few`` is the same limit with fewer classes, for which the densities are followed.
    """
    if limit.levels.size and float(limit.noise_var) == 0 and V <= 1e-9 * float(limit.power):
        return Spectrum(None, "without noise nothing moves once it has vanished")
    values, slopes = (np.array(x) for x in _coefficients(few, jnp.asarray(V)))
    if np.any(values[1:] < STILL):
        return Spectrum(None, FROZEN)
    decay = float(limit.decay(jnp.inf))
    if limit.levels.size == 0 and limit.latent_clip is None:
        return _of_moments(few, values, slopes, decay)
    if decay > 0 or limit.latent_clip is not None:
        return _slowest(_of_densities(few, values, slopes, decay, np.ones(values.shape[1], bool)))
    every = np.array(_coefficients(limit, jnp.asarray(V))[0])
    outward, rates = _edge(limit, every)
    kept = _kept(limit, every[1], outward, rates, V - float(limit.noise_var))
    leaves = kept & (outward >= 0)
    if np.any(leaves & (rates == 0)):
        return Spectrum(
            None, "weights diffuse freely on the outermost level: the error ends like 1/sqrt(tau)"
        )
    found = [complex(-rate) for rate in rates[leaves]]
    outward, edge = _edge(few, values)
    inside = (outward < 0) & ((edge >= np.min(rates[kept])) | (np.asarray(few.share) > FEW))
    if np.any(inside):
        found += _of_densities(few, values, slopes, decay, inside)
    return _slowest(found)


def _slowest(values: list[complex]) -> Spectrum:
    if not values:
        return Spectrum(None, "none of its slowest modes changes the error")
    return Spectrum(max(values, key=lambda value: value.real))


def _leading(values, vectors, share_of_error) -> list[complex]:
    """Eigenvalues of the modes that change the error."""
    return [complex(x) for x, seen in zip(values, share_of_error(vectors), strict=True) if seen > VISIBLE]


def _of_moments(limit: Limit, values, slopes, decay) -> Spectrum:
    """``M = <c w>, Q = <w^2>`` of every input variance: ``M' = a <c^2> - b M``, ``Q' = 2 a M - 2 b Q + D``."""
    group = np.asarray(limit.group)
    _, first = np.unique(group, return_index=True)
    share, teacher = np.asarray(limit.share), np.asarray(limit.teacher)
    part, square = np.bincount(group, share), np.bincount(group, share * teacher**2)
    (a, b, D), (da, db, dD) = values[:, first], slopes[:, first]
    back = b + decay
    M = a * square / back
    Q = (2 * a * M + D * part) / (2 * back)
    feed = np.concatenate([da * square - db * M, 2 * da * M - 2 * db * Q + dD * part])
    k1, k2 = np.asarray(limit.k1)[first], np.asarray(limit.k2)[first]
    weight = np.concatenate([-2 * k1, k2])
    matrix = np.block([[np.diag(-back), np.zeros((back.size,) * 2)], [np.diag(2 * a), np.diag(-2 * back)]])
    found, vectors = np.linalg.eig(matrix + np.outer(feed, weight))

    def seen(vectors):
        return np.abs(weight @ vectors) / (np.abs(weight) @ np.abs(vectors))

    return _slowest(_leading(found, vectors, seen))


def _edge(limit: Limit, values):
    """Drift out of the outermost level (C,), negative if it holds the weights, and ``v^2/(2 D)``.

    Below that rate a class has no modes but its stationary density; if the drift leads outward, it is the rate at
    which the last weights of the class leave the range.
    """
    a, b, D = values
    pull, ends = a * np.asarray(limit.teacher), np.asarray(limit.levels)[[0, -1]]
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


def _faces(limit: Limit, a, b, D, teacher, decay) -> np.ndarray:
    """Cell edges that hold the densities of all classes, finer towards the thresholds and in narrow densities."""
    breaks, first = np.asarray(limit.pieces.breaks), np.asarray(limit.pieces.first)
    wall = None if limit.latent_clip is None else float(limit.latent_clip)
    inner = breaks if wall is None else breaks[np.abs(breaks) < wall * (1 - 1e-9)]
    levels = np.asarray(limit.levels)
    gap = (
        2.0 * wall
        if levels.size < 2 and wall is not None
        else (levels[-1] - levels[0]) / max(1, levels.size - 1)
    )
    layer = min(gap, np.min(D / (2 * b * gap)))
    if wall is not None:
        ends = -wall, wall
    else:
        reach = []
        for k, sign in ((0, -1), (-1, 1)):
            inward = sign * (b * first[k, 0] + decay * breaks[k] - a * teacher) * 2 / D
            top = np.maximum(-inward * D / 2, 0) / decay if decay > 0 else 0.0
            stiff, back = 2 * decay / D, np.maximum(inward, 0.0)
            reach.append(np.max(top + 2 * DEPTH / (back + np.sqrt(back**2 + 2 * stiff * DEPTH))))
        ends = breaks[0] - reach[0], breaks[-1] + reach[1]
    edges = np.concatenate([ends[:1], inner, ends[1:]])
    rise = first[np.searchsorted(breaks, 0.5 * (edges[1:] + edges[:-1]), side="right"), 1]
    found = []
    for k, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        pull = np.max((b * rise[k] + decay) / D)
        if pull > 0 and wall is not None or rise[k] > 0:
            cells = int(np.clip(WIDTH * (high - low) * np.sqrt(2 * pull), 2 * FOLD, MOST))
            found.append(np.linspace(low, high, cells + 1)[:-1])
            continue
        outer = wall is None and k in (0, edges.size - 2)
        length = (high - low) * (1.0 if outer else 0.5)
        folds = np.log1p(length / layer)
        away = layer * np.expm1(np.linspace(0, folds, int(FOLD * folds) + 4))
        away *= length / away[-1]
        up, down = low + away[:-1], (high - away)[::-1]
        found.append(
            up if k == edges.size - 2 and outer else down[:-1] if outer else np.append(up, down[:-1])
        )
    return np.append(np.concatenate(found), edges[-1])


def _of_densities(limit: Limit, values, slopes, decay, inside) -> list[complex]:
    """Eigenvalues of the slowest modes of the classes ``inside``, which have stationary densities."""
    (a, b, D), (da, db, dD) = values[:, inside, None], slopes[:, inside, None]
    teacher, share = (np.asarray(x)[inside, None] for x in (limit.teacher, limit.share))
    k1, k2 = (np.asarray(x)[inside, None] for x in (limit.k1, limit.k2))
    faces = _faces(limit, a[:, 0], b[:, 0], D[:, 0], teacher[:, 0], decay)
    w, h = 0.5 * (faces[1:] + faces[:-1]), np.diff(faces)
    piece = np.searchsorted(np.asarray(limit.pieces.breaks), w, side="right")
    psi, square = (
        sum(np.asarray(poly)[piece, n] * w**n for n in range(poly.shape[1]))
        for poly in (limit.pieces.first, limit.pieces.second)
    )
    # log ratio of neighbouring densities, and its derivative with respect to V
    half, between = D / 2, 0.5 * (h[1:] + h[:-1])
    drift, change = a * teacher - b * psi - decay * w, da * teacher - db * psi
    change = change - drift * dD / D

    def work(v):
        return 0.5 * (v[:, 1:] * h[1:] + v[:, :-1] * h[:-1]) / half

    ratio, moved = work(drift), _sums(work(change))
    log = _sums(ratio)
    log -= np.max(log, axis=1, keepdims=True)
    density = np.exp(np.maximum(log, -2 * DEPTH))
    total = np.sum(density * h, axis=1, keepdims=True)
    p = density * h / total
    live = np.minimum(log[:, 1:], log[:, :-1]) > -DEPTH
    log_crossing = 0.5 * (log[:, 1:] + log[:, :-1]) - _log_sinhc(ratio / 2)
    resistance = np.where(live, between / half * total * np.exp(np.minimum(-log_crossing, 600.0)), 0.0)
    moved -= np.sum(p * moved, axis=1, keepdims=True)
    cost = k2 * square - 2 * k1 * teacher * psi
    cost = cost - np.sum(p * cost, axis=1, keepdims=True)
    mass, from_left = share * p, np.cumsum(p, axis=1)[:, :-1] < 0.5
    gain = np.sum(mass * cost * moved)
    if abs(1 - gain) < 1e-12:
        return [0j]
    root = np.sqrt(mass)

    def inverse(z):
        """``L^-1`` in the variables ``x / sqrt(mass)``, in which ``A`` is symmetric."""
        source = root * z.reshape(root.shape)
        source = source - p * np.sum(source, axis=1, keepdims=True)
        rest = np.cumsum(source[:, ::-1], axis=1)[:, ::-1]
        flux = np.where(from_left, np.cumsum(source, axis=1)[:, :-1], -rest[:, 1:])
        y = _sums(flux * resistance / share)
        y -= np.sum(p * y, axis=1, keepdims=True)
        return (root * (y + moved * np.sum(mass * cost * y) / (1 - gain))).ravel()

    start = np.random.default_rng(0).standard_normal(root.size)
    operator = LinearOperator((root.size,) * 2, matvec=inverse, dtype=float)
    count = min(MODES, root.size - 2)
    try:
        found, vectors = eigs(operator, count, which="LM", v0=start, tol=1e-9, ncv=min(root.size, 4 * MODES))
    except ArpackNoConvergence as some:
        found, vectors = some.eigenvalues, some.eigenvectors
    costs = (root * cost).ravel()

    def seen(vectors):
        return np.abs(costs @ vectors) / (np.linalg.norm(costs) * np.linalg.norm(vectors, axis=0) + 1e-300)

    return _leading(1 / found, vectors, seen)


def _sums(x):
    """Cumulative sums along the cells, from 0."""
    return np.concatenate([np.zeros((x.shape[0], 1)), np.cumsum(x, axis=1)], axis=1)


def _log_sinhc(x):
    """``log(sinh(x) / x)``."""
    x = np.maximum(np.abs(x), 1e-6)
    return x + np.log(-np.expm1(-2 * x) / (2 * x))
