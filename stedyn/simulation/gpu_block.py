"""What one block of the GPU kernel (`gpu`) does: all steps of one seed, in Pallas."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float32

from ..rules import Seen
from . import kernel, sampler
from .model import Model, integer, unit
from .sampler import Counter


class Layout(NamedTuple):
    """How a block divides its pairs: ``tiles`` of ``tile`` pairs, ``warps`` of 32 threads, weights held or not."""

    tile: int
    tiles: int
    warps: int
    held: bool


class Cell(NamedTuple):
    """Some coordinates (`state.Coordinate`): weights with their rests, or codes and None; what the rule remembers."""

    w: Array
    rest: Array | None
    memory: Any


class Block(NamedTuple):
    """What a block works with; ``fixed``, ``start`` and ``seed`` refer to memory."""

    model: Model
    fixed: Any
    start: Any
    seed: Any
    layout: Layout
    interpret: bool


Tile = tuple[Cell, Cell]  # two halves of some coordinates
Pair = tuple[Array, Array]  # numbers of these


def block(structure, layout: Layout, interpret: bool, leaves, key, fixed, start, seed, low, high, n, *out):
    """All steps of one seed; every argument from ``leaves`` on refers to memory."""
    model = jax.tree.unflatten(structure, [leaf[()] for leaf in leaves])
    self = Block(model, fixed, start, seed, layout, interpret)
    first, (parts, after, *codes) = Counter(key[()], low[()], high[()]), out
    at_end = _held(self, first, n[()], parts) if layout.held else _streamed(self, first, n[()], parts, *codes)
    jax.tree.map(lambda ref, value: ref.__setitem__((), value), after, at_end)


def _held(self: Block, first: Counter, n, out):
    """The steps with all weights in registers; what the rule remembers of the seed after them."""
    model, tile = self.model, self.layout.tile
    places = [k * tile for k in range(self.layout.tiles)]

    def sample(w, now, noise):
        """Residual of one sample and the inputs that the student sees."""
        label, student, codes = zip(
            *[_see(self, now, part, at) for part, at in zip(w, places, strict=True)], strict=True
        )
        r = _residual(self, functools.reduce(jnp.add, label) + noise, functools.reduce(jnp.add, student))
        return r, [_values(model, code) for code in codes]

    def average(w, now):
        def add(b, total):
            counter = sampler.counter_of(now, b.astype(jnp.uint32))
            xi = _normals(counter, sampler.NOISE, jnp.zeros(tile, jnp.uint32))[0]
            r, phis = sample(w, counter, _only(self, xi, np.uint32(0)))
            return jax.tree.map(lambda old, phi: old + r * phi, total, phis)

        batch, zero = np.int32(model.rule.batch), jnp.zeros(tile, jnp.float32)
        total = lax.fori_loop(np.int32(0), batch, add, [(zero, zero) for _ in w])
        return jnp.float32(1.0), jax.tree.map(lambda part: part / jnp.float32(batch), total)

    def body(i, carried):
        w, noise, seed = carried
        now = _later(first, i)
        if model.rule.batch == 1:
            noise = _renewed(self, now, noise)
            r, phis = sample(w, now, _only(self, noise, now.low))
        else:
            r, phis = average(w, now)
        seed = _remembered(self, seed, r, now)
        parts = zip(w, phis, places, strict=True)
        return [_update(self, now, part, r, phi, seed, at) for part, phi, at in parts], noise, seed

    w = [_load(self.start, at, tile) for at in places]
    w, _, seed = lax.fori_loop(np.int32(0), n, body, (w, _noise(self, first), _seed(self)))
    for part, at in zip(w, places, strict=True):
        _store(out, at, part)
    return seed


def _streamed(self: Block, first: Counter, n, w, codes):
    """The same with the weights in memory."""
    model, (tile, tiles, *_) = self.model, self.layout
    kind = jnp.int32 if integer(model) else jnp.float32

    def buffer(now, at):
        """Two steps have their own codes, as a thread may read while another writes."""
        return at + (now.low & jnp.uint32(1)).astype(jnp.int32) * jnp.int32(tile * tiles)

    def sweep(visit, now, noise):
        """Visit every tile, which gives its weights, and find the residual of the step ``now`` with them."""

        def enter(j, sums):
            at = pl.multiple_of(j * jnp.int32(tile), tile)
            part = visit(at)
            label, student, code = _see(self, now, part, at)
            _store(w, at, part)
            _store(codes, buffer(now, at), code)
            return sums[0] + label, sums[1] + student

        zeros = jnp.zeros(tile, jnp.float32), jnp.zeros(tile, kind)
        label, student = lax.fori_loop(np.int32(0), np.int32(tiles), enter, zeros)
        if not self.interpret:
            triton.debug_barrier()  # what a thread has written, others may read in the next sweep
        return _residual(self, label + _only(self, noise, now.low), student)

    def body(i, carried):
        """The update of the step before, where there is one, and the residual of this one."""
        r, noise, seed = carried
        before, now = _later(first, i - jnp.int32(1)), _later(first, i)
        moves = i > jnp.int32(0)
        noise = _renewed(self, now, noise)
        seed = lax.cond(moves, lambda: _remembered(self, seed, r, before), lambda: seed)

        def moved(at):
            phi = _values(model, _load(codes, buffer(before, at), tile))
            return _update(self, before, _load(w, at, tile), r, phi, seed, at)

        def visit(at):
            return lax.cond(moves, moved, lambda at: _load(self.start, at, tile), at)

        return sweep(visit, now, noise), noise, seed

    # the first sweep is one of the loop: compiled apart from it, it could add up in another order
    none = jnp.float32(0.0), _noise(self, first), _seed(self)
    return lax.fori_loop(np.int32(0), n + jnp.int32(1), body, none)[2]


def _seed(self: Block):
    """What the rule remembers of the seed, at the start."""
    return jax.tree.map(lambda ref: ref[()], self.seed)


def _remembered(self: Block, seed, r, now: Counter):
    """The same after the step ``now``."""
    return self.model.rule.remember(seed, r, sampler.time_of(now, self.model.dim), self.model.dim)


def _see(self: Block, now: Counter, w: Tile, at) -> tuple[Array, Array, Pair]:
    """A tile of a sample: terms of the label and of the student, codes of the inputs."""
    model, tile, dim = self.model, self.layout.tile, self.model.dim
    lane = _lanes(self, at)
    x = _normals(now, sampler.INPUTS, lane)
    if self.fixed.input_std is not None:
        std = _load(self.fixed.input_std, at, tile)
        x = std[0] * x[0], std[1] * x[1]
    uniforms = _uniforms(now, sampler.ROUND_INPUTS, lane, model.inputs.stochastic)
    codes = [model.inputs.code(part, u) for part, u in zip(x, uniforms, strict=True)]
    inside = isinstance(at, int) and at + tile <= dim // 2
    if not inside:  # the padding takes no part
        counts = (jnp.uint32(-(-dim // 2)), jnp.uint32(dim // 2))
        codes = [
            jnp.where(lane < count, code, jnp.zeros_like(code))
            for code, count in zip(codes, counts, strict=True)
        ]
    teacher = _load(self.fixed.teacher, at, tile)
    rounding = _uniforms(now, sampler.ROUND_WEIGHTS, lane, model.weights.stochastic)
    values = [_latent(model, cell) for cell in w]
    student = kernel.terms(model, values, rounding, codes, _values(model, (codes[0], codes[1])))
    return teacher[0] * x[0] + teacher[1] * x[1], student, (codes[0], codes[1])


def _residual(self: Block, label, student) -> Float32[Array, ""]:
    total = jnp.sum(label - student.astype(jnp.float32) * unit(self.model))
    return total * jnp.float32(self.model.dim**-0.5)


def _latent(model: Model, cell: Cell) -> Array:
    return cell.w if model.lattice is None else model.lattice.decode(cell.w)


def _values(model: Model, codes: Pair) -> Pair:
    return model.inputs.value(codes[0]), model.inputs.value(codes[1])


def _update(self: Block, now: Counter, w: Tile, r, phis: Pair, seed, at) -> Tile:
    """A tile after the step ``now``."""
    model, lane = self.model, _lanes(self, at)
    tau, count = sampler.time_of(now, model.dim), model.rule.streams
    decay = kernel.decay_of(model, tau)
    decays = model.lattice is not None and model.lattice.decays
    shared = model.rule.shared  # the first number of the first pair, for all coordinates
    streams = [_uniforms(now, sampler.RULE + k, jnp.zeros_like(lane), True)[:1] * 2 for k in range(shared)]
    streams += [_uniforms(now, sampler.RULE + k, lane, True) for k in range(shared, count)]
    rounding = _uniforms(now, sampler.RULE + count, lane, decays)
    new = []
    for half in range(2):
        u = tuple(stream[half] for stream in streams) or None
        cell = w[half]
        seen = Seen(r, phis[half], _latent(model, cell), u, tau, model.dim, seed)
        move, memory = kernel.act(model, seen, cell.memory)
        weight, rest = kernel.update(model, cell.w, cell.rest, move, rounding[half], decay)
        new.append(Cell(weight, rest, memory))
    return new[0], new[1]


def _noise(self: Block, now: Counter) -> Float32[Array, " t"]:
    """Label noise of the steps that share all but their lowest bits with ``now``, a lane each."""
    tile = self.layout.tile
    steps = (now.low & jnp.uint32(2**32 - tile)) + lax.iota(jnp.uint32, tile)
    return _normals(now._replace(low=steps), sampler.NOISE, jnp.zeros(tile, jnp.uint32))[0]


def _renewed(self: Block, now: Counter, noise):
    """The noise for ``now``, given that for the step before."""
    starts = now.low & jnp.uint32(self.layout.tile - 1) == jnp.uint32(0)
    return lax.cond(starts, lambda: _noise(self, now), lambda: noise)


def _only(self: Block, noise, step) -> Float32[Array, " t"]:
    """The noise of one step as a term of the label: 0 in the lanes of others."""
    tile, scale = self.layout.tile, self.model.noise_std * jnp.float32(self.model.dim**0.5)
    mine = lax.iota(jnp.uint32, tile) == step & jnp.uint32(tile - 1)
    return jnp.where(mine, noise * scale, jnp.float32(0.0))


def _later(first: Counter, i) -> Counter:
    return first._replace(low=first.low + i.astype(jnp.uint32))


def _lanes(self: Block, at):
    """The numbers of the pairs of a tile."""
    return lax.iota(jnp.uint32, self.layout.tile) + jnp.asarray(at, jnp.uint32)


def _normals(counter: Counter, stream: int, pair) -> Pair:
    return sampler.box_muller(*sampler.words_of(counter, stream, pair))


def _uniforms(counter: Counter, stream: int, pair, wanted: bool):
    return sampler.units(*sampler.words_of(counter, stream, pair)) if wanted else (None, None)


def _load(refs, at, tile: int):
    return jax.tree.map(lambda ref: ref[pl.ds(at, tile)], refs)


def _store(refs, at, values) -> None:
    jax.tree.map(lambda ref, value: ref.__setitem__(pl.ds(at, value.shape[0]), value), refs, values)
