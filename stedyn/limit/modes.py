"""Modes of densities that are close to stationary ones: the slow eigenvalues of `stability`, by Arnoldi iteration."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

from ..quantizers.pieces import jumps
from .limit import Limit

#: A class with this part of its weights in one cell is not resolved.
CROWDED = 0.25
#: Cells for every factor e of the distance to a threshold, in a width of a smooth density; most in an interval.
FOLD, WIDTH, MOST = 16, 8, 2000
#: Densities are kept down to exp(-DEPTH) of their maximum.
DEPTH = 40.0
#: Modes that are looked at; a mode whose share of the error is below VISIBLE does not show in it.
MODES, VISIBLE = 12, 1e-3


class Fading(NamedTuple):
    """A rule that remembers: it sees ``u`` with ``du/dtau = rate (V - u)``; derivatives at fixed ``u`` (3, C)."""

    rate: float
    slopes: np.ndarray


class Held(NamedTuple):
    """Of inputs with a mean: the drift over ``mean`` that holds the mean outputs together, kappa, and ``V``."""

    push: float
    kappa: float
    V: float


def leading(values, vectors, share_of_error) -> list[complex]:
    """Eigenvalues of the modes that change the error."""
    return [complex(x) for x, seen in zip(values, share_of_error(vectors), strict=True) if seen > VISIBLE]


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


def modes_of_densities(
    limit: Limit, values, slopes, decay, inside, fading: Fading | None, held: Held | None = None
) -> list[complex] | None:
    """Eigenvalues of the slowest modes of the classes ``inside``, which are stationary; None if they are too narrow.

    With inputs that have a mean, all are driven at ``mean push``, and a deviation keeps the mean output: its part along
    the response to ``push`` is what does that.

    Of a rule that remembers, ``u`` is one variable more: with ``G`` the part of ``dA/dV p`` that comes by ``u``,
    the inverse of a source ``(r, s)`` is ``x = L^-1 (r + G s / rate)``, ``u = e . x - s / rate``.
    """
    inside = inside & (np.asarray(limit.share) > 0)
    a, b, D = values[:, inside, None]
    teacher, share = (np.asarray(x)[inside, None] for x in (limit.teacher, limit.share))
    k1, k2 = (np.asarray(x)[inside, None] for x in (limit.k1, limit.k2))
    mean = np.asarray(limit.mean)[inside, None]
    aim = teacher if held is None else teacher + held.push * mean / a
    faces = _faces(limit, a[:, 0], b[:, 0], D[:, 0], aim[:, 0], decay)
    w, h = 0.5 * (faces[1:] + faces[:-1]), np.diff(faces)
    piece = np.searchsorted(np.asarray(limit.pieces.breaks), w, side="right")
    psi, square = (
        sum(np.asarray(poly)[piece, n] * w**n for n in range(poly.shape[1]))
        for poly in (limit.pieces.first, limit.pieces.second)
    )
    # log ratio of neighbouring densities, and its derivative with respect to V
    half, between = D / 2, 0.5 * (h[1:] + h[:-1])
    drift = a * aim - b * psi - decay * w

    def work(v):
        return 0.5 * (v[:, 1:] * h[1:] + v[:, :-1] * h[:-1]) / half

    def moves(slopes):
        da, db, dD = slopes[:, inside, None]
        return _sums(work(da * teacher - db * psi - drift * dD / D))

    ratio, moved = work(drift), moves(slopes)
    log = _sums(ratio)
    log -= np.max(log, axis=1, keepdims=True)
    density = np.exp(np.maximum(log, -2 * DEPTH))
    total = np.sum(density * h, axis=1, keepdims=True)
    p = density * h / total
    if not np.max(p) < CROWDED:
        return None
    live = np.minimum(log[:, 1:], log[:, :-1]) > -DEPTH
    log_crossing = 0.5 * (log[:, 1:] + log[:, :-1]) - _log_sinhc(ratio / 2)
    resistance = np.where(live, between / half * total * np.exp(np.minimum(-log_crossing, 600.0)), 0.0)
    moved -= np.sum(p * moved, axis=1, keepdims=True)
    cost = k2 * square - 2 * k1 * teacher * psi
    if held is not None:
        cost = _with_mean_mode(limit, held, cost, mean**2, square - psi**2, faces, piece)
    cost = cost - np.sum(p * cost, axis=1, keepdims=True)
    mass, from_left = share * p, np.cumsum(p, axis=1)[:, :-1] < 0.5

    def kept(x):
        """A response ``x / mass`` without what changes the mean output."""
        if held is None:
            return x
        return x - pushed * (np.sum(mass * mean * psi * x) / np.sum(mass * mean * psi * pushed))

    pushed = _sums(work(mean * np.ones_like(w)))
    pushed -= np.sum(p * pushed, axis=1, keepdims=True)
    moved = kept(moved)
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
        y = kept(y - np.sum(p * y, axis=1, keepdims=True))
        return (root * (y + moved * np.sum(mass * cost * y) / (1 - gain))).ravel()

    costs = (root * cost).ravel()
    size, matvec = root.size, inverse
    if fading is not None:
        later = moved - moves(fading.slopes)
        later -= np.sum(p * later, axis=1, keepdims=True)
        by_memory = -(root * (later + moved * np.sum(mass * cost * later) / (1 - gain))).ravel()
        unit, rate = np.linalg.norm(costs), fading.rate

        def matvec(z):
            """The same with ``u``, in units in which it is as large as the others."""
            z = z.ravel()
            x = inverse(z[:-1]) + unit * z[-1] / rate * by_memory
            return np.append(x, costs[:-1] @ x / unit - z[-1] / rate)

        size, costs = size + 1, np.append(costs, 0.0)
    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size,) * 2, matvec=matvec, dtype=float)
    count = min(MODES, size - 2)
    try:
        found, vectors = eigs(operator, count, which="LM", v0=start, tol=1e-9, ncv=min(size, 4 * MODES))
    except ArpackNoConvergence as some:
        found, vectors = some.eigenvalues, some.eigenvectors

    def seen(vectors):
        return np.abs(costs @ vectors) / (np.linalg.norm(costs) * np.linalg.norm(vectors, axis=0) + 1e-300)

    return leading(1 / found, vectors, seen)


def _with_mean_mode(limit: Limit, held: Held, cost, mean_square, drawn, faces, piece):
    """What masses of cells add to ``V``: by the centred outputs, which are ``cost``, and by densities at thresholds."""
    B, left = limit.rule.batch, 2 - held.kappa
    more = 1 + held.kappa / (B * left)
    breaks, first = np.asarray(limit.pieces.breaks), np.asarray(limit.pieces.first)
    rise, h = first[piece, 1].copy(), np.diff(faces)
    heights = np.asarray(jumps(limit.pieces))
    for theta, height in zip(breaks, heights, strict=True):
        face = int(np.searchsorted(faces, theta - 1e-9 * np.abs(theta)))
        below = h[face] / (h[face] + h[face - 1])
        rise[face - 1] += height * below / h[face - 1]
        rise[face] += height * (1 - below) / h[face]
    rate = float(limit.shift(jnp.inf))
    return more * (cost + mean_square * drawn) + held.V / more * 2 / (B * left**2) * rate * mean_square * rise


def _sums(x):
    """Cumulative sums along the cells, from 0."""
    return np.concatenate([np.zeros((x.shape[0], 1)), np.cumsum(x, axis=1)], axis=1)


def _log_sinhc(x):
    """``log(sinh(x) / x)``."""
    x = np.maximum(np.abs(x), 1e-6)
    return x + np.log(-np.expm1(-2 * x) / (2 * x))
