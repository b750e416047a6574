r"""The compiled loop of one-pass SGD (``docs/theory.md``, equation 3), for a group of seeds.

One step draws ``x_i ~ N(0, v_i)`` and ``xi ~ N(0, 1)`` for every seed and does, with ``g`` the label of the model,

    ``r = g(w*.x / sqrt(d)) + noise_std xi - psi(w).phi(x) / sqrt(d)``,
    ``w <- clip( w + h(w) U(r, phi) / sqrt(d) - lr weight_decay w / d )``.

Weights are kept with the rest that float32 cannot hold: ``w + rest`` is the latent weight, and the small terms of a
step are added to each other and to the rest first (Kahan's sum, ``docs/simulator.md``). One complex number holds both,
which costs a few per cent; with two arrays more it was 10 to 40 %.

Three things make it fast on CPUs. The coordinates are kept as two halves, because the generator makes numbers in
pairs. The draws of the next step (or sample) are part of the loop state: XLA then computes them once, not again in
every fused loop that reads them. Sums are folded in a fixed order by elementwise additions of slices, which vectorise
and do not depend on how the work is divided. What the loop carries of weights and rules is a `State`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, UInt32

from ..rules import Seen
from . import sampler
from .draws import Draws, Sample, draw, draw_sample
from .layout import AXIS, fold, fold_both, halves, pairs_of, split, whole
from .model import Model, bound_of, integer, unit
from .moving import learned, scale_of
from .state import Coordinate, Halves, State, latent


class Fixed(NamedTuple):
    """What a run does not change: teacher weights, and standard deviations of the inputs if not all are 1.

    ``pairs`` says which pair each column is, where the columns are spread over devices (`layout`); ``ranges`` are those
    of the weights, in units of that of the model, if not all are 1 (0 in the padding); ``centres`` the means that are
    taken off ``x`` and ``phi``; ``input_mean`` those of the inputs if they are not all alike.
    """

    teacher: Halves
    input_std: Halves | None
    pairs: UInt32[Array, "1 P"] | None = None
    ranges: Halves | None = None
    centres: tuple[Halves, Halves] | None = None
    input_mean: Halves | None = None


def step(model: Model, fixed: Fixed, state: State, draws: Draws, now: sampler.Counter) -> tuple[State, Draws]:
    """The step that ``now`` names, at time ``tau = steps / d``: the state after it, and the draws of the next."""
    tau = sampler.time_of(now, model.dim)
    values, rounding, scale = latent(model, state), split(draws.weights), state.scale
    if model.range is not None:
        fixed = fixed._replace(ranges=(scale_of(model, values, scale, tau),) * 2)
    if model.rule.batch == 1:
        (r, phis), ahead = _seen(model, fixed, values, rounding, draws.sample), None
    else:
        phis, ahead = _averaged(model, fixed, values, rounding, draws.sample, now)
        r = jnp.ones_like(values[0][:, :1])
    if scale is not None:
        scale = learned(model, values, rounding, r, phis, scale)
    seed = model.rule.remember(state.seed, r, tau, model.dim)
    ranges, decay = fixed.ranges or (None, None), decay_of(model, tau)
    memories = [part.memory for part in state.parts]
    seen = [
        Seen(r, phi, w, u, tau, model.dim, seed)
        for phi, w, u in zip(phis, values, _uniforms(phis, draws), strict=True)
    ]
    if model.rule.joint and draws.rule is not None:
        moves = _joint(model, r, phis, draws.rule, tau)
        acts = [(scaled(model, *part), None) for part in zip(moves, values, ranges, strict=True)]
    else:
        acts = [act(model, *part) for part in zip(seen, memories, ranges, strict=True)]
    a, b = (
        Coordinate(_updated(model, part.w, move, u, own, decay), memory)
        for part, (move, memory), u, own in zip(state.parts, acts, split(draws.decay), ranges, strict=True)
    )
    following = draw(model, now._replace(low=now.low + jnp.uint32(1)), values[0].shape[1], ahead)
    return State((a, b), seed, scale), following


def _seen(model: Model, fixed: Fixed, w: Halves, rounding, sample: Sample):
    """Residual (S, 1) of one sample and the inputs that the student sees."""
    dim = model.dim
    root, xs = jnp.float32(dim**-0.5), split(sample.x)
    if fixed.input_std is not None:
        xs = tuple(std * x for std, x in zip(fixed.input_std, xs, strict=True))
    if model.source is not None:
        xs = tuple(mean + x for mean, x in zip(fixed.input_mean or (model.source.mean,) * 2, xs, strict=True))
    codes = [model.inputs.code(x, u) for x, u in zip(xs, split(sample.inputs), strict=True)]
    codes = [_mask(code, n, fixed.pairs) for code, n in zip(codes, (-(-dim // 2), dim // 2), strict=True)]
    phis = [model.inputs.value(code) for code in codes]
    if fixed.centres is not None:
        xs, phis = (
            [part - mean for part, mean in zip(parts, means, strict=True)]
            for parts, means in zip((xs, phis), fixed.centres, strict=True)
        )
    label = sum(t * x for t, x in zip(fixed.teacher, xs, strict=True))
    student = terms(model, w, rounding, codes, phis, fixed.ranges)
    bound = bound_of(model)
    if fixed.pairs is None:
        label, student = fold(label), fold(student, bound)
    else:
        label, student = fold_both(label, student, bound, pairs_of(dim))
    if model.range is not None and fixed.ranges is not None:
        student = student * fixed.ranges[0]
    r = model.label(label * root) + model.noise_std * sample.xi - student * unit(model) * root
    return r, phis


def _averaged(model: Model, fixed: Fixed, w: Halves, rounding, sample: Sample, now: sampler.Counter):
    """``(1/B) sum_b r_b phi_b`` from the draws of the first sample, and those of the first one of the next step."""
    batch = jnp.uint32(model.rule.batch)

    def add(carried, b):
        total, sample = carried
        r, phis = _seen(model, fixed, w, rounding, sample)
        ahead = sampler.counter_of(now._replace(low=now.low + b // batch), b % batch)
        total = tuple(old + r * phi for old, phi in zip(total, phis, strict=True))
        return (total, draw_sample(model, ahead, w[0].shape[1])), None

    start = tuple(jnp.zeros_like(part) for part in w), sample
    (total, ahead), _ = lax.scan(add, start, jnp.arange(1, model.rule.batch + 1, dtype=jnp.uint32))
    return [part / jnp.float32(model.rule.batch) for part in total], ahead


def _mask(code, count: int, index=None):
    """Zero beyond the first ``count`` coordinates, so that the padding takes no part."""
    if index is None:
        if count == code.shape[1]:
            return code
        index = lax.broadcasted_iota(jnp.uint32, code.shape, 1)
    return jnp.where(index < jnp.uint32(count), code, jnp.zeros_like(code))


def _scaled(w, ranges):
    """Weights (of one half) over their ranges, where levels and thresholds are those of the model."""
    return w if ranges is None else w / jnp.where(ranges > 0, ranges, jnp.float32(1.0))


def terms(model: Model, w, uniforms, codes, phis, ranges: Halves | None = None) -> Array:
    """The terms of ``psi(w).phi(x)``, those of the two halves added: int32, of the codes of ``phi``, or float32."""
    w = [_scaled(part, own) for part, own in zip(w, ranges or (None, None), strict=True)]
    psis = [model.weights.code(part, u) for part, u in zip(w, uniforms, strict=True)]
    if integer(model):
        products = [p.astype(jnp.int32) * c.astype(jnp.int32) for p, c in zip(psis, codes, strict=True)]
    else:
        products = [model.weights.value(p) * phi for p, phi in zip(psis, phis, strict=True)]
    if ranges is not None and model.per_channel:  # one range for all multiplies their sum
        products = [own * product for own, product in zip(ranges, products, strict=True)]
    return products[0] + products[1]


def _joint(model: Model, r, phis, numbers: Array, tau):
    """The moves of a rule that couples all coordinates."""
    streams = [whole(split(stream), model.dim) for stream in numbers]
    g = whole(tuple(r * phi for phi in phis), model.dim)
    return halves(model.rule.moves(g, jnp.concatenate(streams, 1), tau).astype(jnp.float32))


def _uniforms(phis, draws: Draws):
    """The uniform numbers of the rule for each half, those of all coordinates first."""
    for phi, u in zip(phis, split(draws.rule), strict=True):
        if draws.common is not None:
            common = jnp.broadcast_to(draws.common, (*draws.common.shape[:2], phi.shape[1]))
            u = common if u is None else jnp.concatenate([common, u])
        yield u


def act(model: Model, seen: Seen, memory, ranges=None):
    """The moves of some coordinates, surrogate derivative included, and what the rule remembers of them.

    The derivative is a factor of the gradient, which rules with a memory keep; that of others it multiplies.
    """
    if memory is None:
        move, _ = model.rule.step(seen, None)
        return scaled(model, move.astype(jnp.float32), seen.w, ranges), None
    move, new = model.rule.step(seen._replace(phi=scaled(model, seen.phi, seen.w, ranges)), memory)
    return move.astype(jnp.float32), jax.tree.map(lambda value, old: value.astype(old.dtype), new, memory)


def scaled(model: Model, move, w, ranges=None):
    """Moves times the surrogate derivative at latent weights."""
    return model.surrogate.scaled(move, _scaled(w, ranges)) if model.surrogate.ends else move


def _updated(model: Model, w, move, u, ranges, decay):
    """Weights as they are kept after a move."""
    if model.lattice is not None:
        return update(model, w, None, move, u, decay)[0]
    return lax.complex(*update(model, lax.real(w), lax.imag(w), move, u, decay, ranges))


def update(model: Model, w, rest, move, u, decay, ranges=None):
    """Weights and their rests after a move; codes and None on a lattice."""
    if model.lattice is not None:
        return model.lattice.update(w, move, decay, u, model.latent_clip), None
    change = move * jnp.float32(model.dim**-0.5) + (rest - decay * w)
    new = w + change
    rest = change - (new - w)
    if model.latent_clip is None:
        return new, rest
    clip = model.latent_clip if ranges is None else model.latent_clip * ranges
    inside = jnp.abs(new) <= clip
    return jnp.clip(new, -clip, clip), jnp.where(inside, rest, jnp.float32(0.0))


def decay_of(model: Model, tau) -> Float32[Array, ""]:
    """The part of every weight that decays in a step at ``tau``."""
    return jnp.asarray(model.rule.decay(tau)).astype(jnp.float32) / jnp.float32(model.dim)


def _loop(model, seeds, fixed, state, low, high, n, visit, carry):
    """``n`` steps from step ``low + 2^32 high``; ``visit(carry, now, before, after)`` sees each."""
    pairs = state.parts[0].w.shape[1]

    def body(i, carried):
        before, draws, carry = carried
        now = sampler.Counter(seeds, low + i.astype(jnp.uint32), high, fixed.pairs)
        after, ahead = step(model, fixed, before, draws, now)
        return after, ahead, visit(carry, now, before, after)

    start = (state, draw(model, sampler.Counter(seeds, low, high, fixed.pairs), pairs), carry)
    state, _, carry = lax.fori_loop(jnp.int32(0), n, body, start)
    return state, carry


def advance(model: Model, seeds: UInt32[Array, " S"], fixed: Fixed, state: State, low, high, n) -> State:
    """The state after ``n`` steps (`programs.Programs`)."""
    return _loop(model, seeds, fixed, state, low, high, n, lambda *_: None, None)[0]


def flips(model: Model, seeds: UInt32[Array, " S"], fixed: Fixed, state: State, low, high, n):
    """How many weights of every seed change their level in ``n`` steps, summed over the steps."""

    def levels(state, tau):
        values, ranges = latent(model, state), fixed.ranges or (None, None)
        if model.range is not None:
            ranges = (scale_of(model, values, state.scale, tau),) * 2
        return [
            model.weights.code(_scaled(part, own), None) for part, own in zip(values, ranges, strict=True)
        ]

    def visit(total, now, before, after):
        tau = sampler.time_of(now, model.dim)
        both = levels(before, tau), levels(after, tau + jnp.float32(1 / model.dim))
        changed = [old != new for old, new in zip(*both, strict=True)]
        sizes = -(-model.dim // 2), model.dim // 2
        changed = [_mask(part, n, fixed.pairs) for part, n in zip(changed, sizes, strict=True)]
        count = jnp.asarray(sum(jnp.sum(part, axis=1, dtype=jnp.int32) for part in changed))
        return total + (count if fixed.pairs is None else lax.psum(count, AXIS)).astype(jnp.float32)

    return _loop(model, seeds, fixed, state, low, high, n, visit, jnp.zeros(seeds.shape, jnp.float32))[1]
