"""Cells for the grid law: edges on thresholds and walls, sizes that follow the boundary layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...quantizers.pieces import gaussian_moments, size_of_steps
from ..limit import Limit

#: Start densities are resolved to this many standard deviations.
EXTENT = 6.5
#: Share of all moves, that is of the integrated rate, whose boundary layers need not be resolved.
MOVES = 1e-3
#: Features that lie closer, in distances of levels, are one.
SAME = 1e-9
#: Edges are within this part of a cell of their place before the last step, after at most so many bisections.
CLOSE, _BISECTIONS = 1e-3, 200
#: How much farther than levels and range the cells go that move with it.
CORE = 1.25
#: Shares of the four coordinates of `faces_of` among the cells of an interval.
SHARES = np.array([0.2, 0.2, 0.4, 0.2])[:, None]
#: The least part of the cells of a large interval that a small one has.
LEAST_PART = 1 / 32


def cells_of(sizes, cells, xp=jnp):
    """Cells (even) of intervals whose steps have these sizes (see `size_of_steps`), ``cells`` for a size of 1."""
    return 2 * xp.ceil(cells * xp.maximum(sizes, LEAST_PART) / 2 - 1e-6).astype(int)


def faces_of(
    limits: Sequence[Limit],
    cells,
    horizon,
    coarse=False,
    size: int | None = None,
    reach: Float[Array, "2"] | None = None,
) -> tuple[Float[Array, " E"], Float[Array, ""]]:
    """Edges of ``size`` cells, with ``cells`` (even) in every interval between two features, and the upper wall.

    The limits are those of the phases of a run, one for each set of features; all share the mesh. Between thresholds
    of steps that are much smaller than others there are fewer (`cells_of`), but not with several phases. As many empty
    cells as are left are put behind the wall, so that meshes of different problems have one shape and share a
    compilation; with ``coarse`` (traced, as ``cells``) every other edge is dropped.

    Features are thresholds, the ends of the range where the surrogate derivative vanishes, and the walls of a latent
    clip; the two ends of the domain are none. Cells are equally spaced in a sum of four coordinates, each with its
    share: between two features the logarithmic distances to either of them, measured in boundary layers, and the
    position itself; in the two outer intervals the logarithmic distance to the feature, in layers and twice in units
    of the bulk; and everywhere ``arcsinh`` of the distance to the start in its standard deviations. The layer is
    ``D / (2 b step)`` at the smallest residual variance the problem allows and the smallest rate that still moves
    weights. ``reach`` are multiples of a range that moves, for which the mesh of `laws.moving` is meant.
    To derivatives the features move, and the other edges with them.
    """
    moving, limits = limits, [limit.still for limit in limits]
    horizon = jax.lax.stop_gradient(horizon)
    centre, spread = _start_scale(limits[0])
    centre += _shift(limits[0], centre, spread) if limits[0].has_mean else 0.0
    extents = [_extent(limit, centre, spread, horizon, *_rate_times(limit, horizon)) for limit in limits]
    gap = functools.reduce(jnp.maximum, [extent.gap for extent in extents])
    features = [_features(limit, own.gap) for limit, own in zip(moving, extents, strict=True)]
    hard = jnp.sort(jnp.concatenate(features))
    for scale in () if reach is None else reach:
        times = _rate_times(limits[0], horizon)
        own = _extent(limits[0].scaled(scale), centre / scale, spread / scale, horizon, *times)
        slack = core_of(limits[0]) * (1 - scale)
        extents.append(own._replace(low=scale * own.low - slack, high=scale * own.high + slack))
    layer, low = (functools.reduce(jnp.minimum, [own[k] for own in extents]) for k in (0, 2))
    high = functools.reduce(jnp.maximum, [extent.high for extent in extents])
    bulk = jnp.maximum(spread, gap)
    spread = jnp.maximum(spread, layer)
    if len(limits) > 1:  # what two phases share is one feature
        hard = jnp.sort(jnp.where(jnp.diff(hard, prepend=-jnp.inf) <= SAME * gap, jnp.inf, hard))
    last = jnp.sum(jnp.isfinite(hard))
    ends = jnp.concatenate([low[None], hard, high[None]])
    ends = jnp.where(np.arange(ends.size) > last, high, ends)
    number = jnp.arange((cells * (hard.size + 1) if size is None else size) + 1)
    counts = _counts(limits, ends, cells)
    counts = jnp.where(coarse, counts // 2, counts)
    until = jnp.cumsum(counts)
    interval = jnp.minimum(jnp.searchsorted(until, number, side="right"), last)
    each = counts[interval]
    below, above = ends[interval], ends[interval + 1]
    # for each coordinate: whether distances are taken from the upper end, and their unit
    lowest, highest = interval == 0, interval == last
    from_above = jnp.stack([lowest & ~highest, ~highest, lowest & ~highest])
    near, outer = jnp.full(number.shape, layer), lowest | highest
    unit = jnp.stack([near, jnp.where(outer, bulk, near), jnp.where(outer, bulk, 1e6 * (above - below))])
    sign = jnp.where(from_above, -1.0, 1.0)
    place = number - (until[interval] - each)

    def placed(below, above):
        """How many cells beyond its place an edge at ``w`` is, as a function."""

        def coordinates(w):
            distance = jnp.where(from_above, above - w, w - below)
            offset = (w - centre) / spread
            # log(1 + x) and arcsinh(x), spelled out in one logarithm: it compiles three times faster
            start = jnp.abs(offset) + jnp.sqrt(1 + offset**2)
            logs = jnp.log(jnp.concatenate([1 + distance / unit, start[None]]))
            return logs * jnp.concatenate([sign, jnp.sign(offset)[None]])

        first, final = coordinates(below), coordinates(above)
        span = final - first
        # the others have too few digits between the ends
        seen = span > 1e-9 * (1 + jnp.abs(first) + jnp.abs(final))
        weight = jnp.where(seen, SHARES / jnp.where(seen, span, 1.0), 0.0)
        weight = weight * each / jnp.maximum(jnp.sum(weight * span, axis=0), 1e-300)
        return lambda w: jnp.sum(weight * (coordinates(w) - first), axis=0) - place

    still = jax.lax.stop_gradient((below, above))
    # intervals behind a wall may run backwards, where nothing is, and logarithms are not numbers: none of them counts
    beyond, inside = placed(*still), (place > 0) & (place < each) & (below < above)

    def halve(state):
        count, left, right, *_ = state
        w = 0.5 * (left + right)
        missing = beyond(w)
        worst = jnp.max(jnp.abs(missing), where=inside, initial=0.0)
        return count + 1, jnp.where(missing < 0, w, left), jnp.where(missing < 0, right, w), w, worst

    start = 0, *still, still[0], jnp.inf
    w = jax.lax.while_loop(lambda state: (state[0] < _BISECTIONS) & (state[4] > CLOSE), halve, start)[3]
    # a step of Newton's method, which gives the digits that are left and moves with the ends
    missing, slope = jax.jvp(placed(below, above), (w,), (jnp.ones_like(w),))
    w = w - jnp.where(slope > 0, missing / jnp.where(slope > 0, slope, 1.0), 0.0)
    faces = jnp.where(place == 0, below, w)
    return jnp.where(place >= each, high + (high - low) * (place - each), faces), high


def core_of(limit: Limit) -> Float[Array, ""]:
    """How far from 0 a mesh moves in proportion to a range that moves: a little beyond levels and statistics of it."""
    edges, rule = [limit.range, limit.levels[0], limit.levels[-1]], limit.range_rule
    if rule is not None and rule.percentile is not None:
        edges.append(limit.range / rule.factor)
    return CORE * jnp.max(jnp.abs(jnp.stack(edges)))


class _Extent(NamedTuple):
    """Thinnest layer, distance between levels, ends of the domain."""

    layer: Float[Array, ""]
    gap: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]


def _extent(limit: Limit, centre, spread, horizon, fast, slow) -> _Extent:
    at_start, at_floor, at_end = _extremes(limit, centre, spread, fast, slow)
    layer, gap = _layer(limit, at_end, slow)
    return _Extent(layer, gap, *_domain(limit, at_start, at_floor, horizon, gap))


def _features(limit: Limit, gap):
    """Thresholds, ends of the range and walls; infinity for what is none."""
    hard = limit.pieces.breaks
    real = np.arange(hard.size) < limit.breaks
    for edge in (limit.surrogate.end, limit.latent_clip):
        if edge is not None:
            pushed = _pushed_out(hard, edge, gap, jnp.sum(real))
            hard = jnp.concatenate([pushed, jnp.stack([-edge, edge])])
            real = jnp.concatenate([real, np.ones(2, bool)])
    return jnp.where(real, hard, jnp.inf)


def _counts(limits: Sequence[Limit], ends, cells):
    """Cells of every interval: fewer in those between two thresholds of a small step, where nothing else lies."""
    full, pieces = jnp.full(ends.size - 1, cells), limits[0].pieces
    if len(limits) > 1 or pieces.breaks.size < 2 or ends.size - 2 > pieces.breaks.size:
        return full
    real = np.arange(pieces.breaks.size - 1) < limits[0].breaks - 1
    steps = jnp.where(real, jnp.diff(pieces.breaks), jnp.inf)
    return full.at[1:-1].set(cells_of(size_of_steps(steps), cells))


def _pushed_out(features, edge, gap, number):
    """The first ``number`` features, those at or beyond ``-edge`` and ``edge`` put well behind them.

    Nothing happens there; and two features on one place would leave cells without width between them.
    """
    rank = jnp.arange(1, features.size + 1)
    above, below = features >= edge * (1 - 1e-9), features <= -edge * (1 - 1e-9)
    return jnp.where(above, edge + gap * rank, jnp.where(below, -edge - gap * (number + 1 - rank), features))


def _start_scale(limit: Limit):
    """Mean and standard deviation of the start; of the narrowest with channels."""
    start = limit.start.law
    if start.data is not None:
        values = jnp.asarray(start.data.values)
        return jnp.mean(values) * limit.start.factor, jnp.std(values) * limit.start.factor
    if jnp.ndim(limit.start.shift):  # one for each class: all of them together
        centre = limit.share @ limit.start.shift
        square = (start.std * limit.start.factor) ** 2 + limit.share @ limit.start.shift**2
        return centre, jnp.sqrt(square - centre**2)
    factor = jnp.min(jnp.asarray(limit.start.factor))
    return jnp.asarray(start.mean) * factor, jnp.asarray(start.std) * factor


def _shift(limit: Limit, centre, spread):
    """By how much, about, a mean of the inputs shifts the start (`laws.fast`)."""
    levers = limit.share * limit.unit * limit.mean
    if limit.levels.size == 0:
        return limit.target / jnp.sum(levers) - centre
    reach = jnp.max(jnp.abs(limit.levels)) + 3 * spread + jnp.abs(centre)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        psi = gaussian_moments(limit.pieces, centre + middle, jnp.maximum(spread, 1e-9)).mean
        above = (jnp.sum(levers) * psi - limit.target) * jnp.sum(levers) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    return jax.lax.fori_loop(0, _BISECTIONS, halve, (-reach, reach))[0]


def _rate_times(limit: Limit, horizon):
    """Times of the largest rate, and of the smallest with at least `MOVES` of the integrated rate on either side."""
    if limit.rule.schedule is None:
        return 0.0, 0.0
    tau = horizon * jnp.linspace(0.0, 1.0, 513)
    rate = jax.vmap(limit.rule.rate)(tau)
    done = jnp.cumsum(rate) - 0.5 * rate
    done = done / done[-1]
    moving = (done >= MOVES) & (done <= 1 - MOVES)
    return tau[jnp.argmax(rate)], tau[jnp.argmin(jnp.where(moving, rate, jnp.inf))]


def _extremes(limit: Limit, centre, spread, fast, slow):
    """Coefficients at the start and at the smallest error the problem allows, at the largest and at a small rate."""
    every = limit.start.factor / jnp.min(jnp.asarray(limit.start.factor)) * jnp.ones_like(limit.teacher)
    if jnp.ndim(limit.start.shift):
        centre, spread = limit.start.shift, limit.start.law.std * limit.start.factor
    moments = gaussian_moments(limit.pieces, every * centre, every * jnp.maximum(spread, 1e-9))
    start = limit.error(moments.mean, moments.square)
    floor = limit.order(jnp.maximum(limit.floor, 1e-6 * limit.power))
    return (
        limit.coefficients(limit.order(start), fast),
        limit.coefficients(floor, fast),
        limit.coefficients(floor, slow),
    )


def _layer(limit: Limit, at_end, slow):
    """Width of the thinnest boundary layer, and the distance between levels (or the teacher's size)."""
    levels = limit.levels
    gap = jnp.sqrt(limit.power)
    if levels.size > 1:
        gap = (levels[-1] - levels[0]) / (levels.size - 1 - limit.spare)
    tiny = 1e-200  # rules that round may stand still at the floor
    layer = jnp.min((at_end.D + tiny) / (2 * (at_end.b + tiny) * gap))
    layer = 0.5 * layer if limit.has_mean else layer  # the common drift may be as large as that of a class
    held = jnp.min(jnp.sqrt((at_end.D + tiny) / (2 * limit.decay(slow) + tiny)))  # by weight decay
    return jnp.maximum(jnp.minimum(jnp.clip(layer, 1e-7 * gap, gap), held), 1e-12 * gap), gap


def _domain(limit: Limit, at_start, at_floor, horizon, gap):
    """Ends of the domain: the start and the reach of drift and diffusion, or a little behind the walls."""
    if limit.latent_clip is not None:
        behind = limit.latent_clip + gap * (limit.breaks + 4)
        return -behind, behind
    start = limit.start.law
    if start.data is not None:
        low, high = (end(jnp.asarray(start.data.values)) * limit.start.factor for end in (jnp.min, jnp.max))
    else:
        low, high = start.mean - EXTENT * start.std, start.mean + EXTENT * start.std
        low, high = jnp.min(low * limit.start.factor), jnp.max(high * limit.start.factor)
        low, high = low + jnp.min(limit.start.shift), high + jnp.max(limit.start.shift)
    a, b = jnp.maximum(at_start.a, at_floor.a), jnp.maximum(jnp.minimum(at_start.b, at_floor.b), 1e-200)
    D = 2 * jnp.maximum(at_start.D, at_floor.D)
    pull = a * limit.teacher
    if limit.has_mean:  # the common drift is at most that of a class; the mean output makes V larger
        reach = jnp.max(jnp.abs(limit.levels), initial=0.0) + jnp.sqrt(limit.power)
        common = jnp.max(jnp.abs(pull)) + jnp.max(b) * reach
        pull = jnp.stack([pull - common, pull + common])
        D = 4 * D
        shift = jnp.abs(_shift(limit, *_start_scale(limit)))
        low, high = low - 4 * shift, high + 4 * shift  # single steps go farther
    if limit.surrogate.ends:
        edge = limit.range + gap * (limit.breaks + 2)
        drift_low, drift_high, spread = 0.0, 0.0, 0.0
    elif limit.levels.size == 0:
        edge, spread = gap, EXTENT * jnp.sqrt(D * jnp.minimum(horizon, 1 / b))
        # to a / b times the teacher, at the same V: at the floor both may be 0
        ratios = [at.a / jnp.maximum(at.b, 1e-200) for at in (at_start, at_floor)]
        time = jnp.minimum(horizon, jnp.maximum(*ratios) / jnp.maximum(a, 1e-200))
        drift_low, drift_high = jnp.maximum(-pull * time, 0.0), jnp.maximum(pull * time, 0.0)
    else:
        edge, spread = jnp.max(jnp.abs(limit.levels)) + gap, EXTENT * jnp.sqrt(D * horizon)
        drift_low = jnp.maximum(-(pull - b * limit.levels[0]), 0.0) * horizon
        drift_high = jnp.maximum(pull - b * limit.levels[-1], 0.0) * horizon
    drift_low, drift_high, spread = (jnp.max(jnp.asarray(x)) for x in (drift_low, drift_high, spread))
    return jnp.minimum(low, -edge) - drift_low - spread, jnp.maximum(high, edge) + drift_high + spread
