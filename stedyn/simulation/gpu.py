r"""The loop of `kernel.step` as one persistent GPU kernel (Pallas, Triton backend), one seed a block.

NOT YET RUN ON A GPU: it is tested in Pallas' interpreter on a CPU, and its translation to Triton for an H100
is checked; no speed has been measured. So the first call for each device and problem tries it beside the plain
loop, and the plain loop goes on if they differ (`trial`).

A block makes all steps of a call. Its random numbers come from the same counters as on a CPU, inside the
kernel, so that memory holds none and the chunks do not matter. Words and uniform numbers have the same
bits on every platform; normal numbers and sums agree to their rounding, as compilers fuse multiply-adds.

With up to `HELD` pairs of coordinates the latent weights stay in registers, in tiles of a power of two
(Triton's blocks) that are unrolled: with four to eight of them at most a fourth of the lanes is spare.
Beyond `HELD` a step is one sweep over the memory, which updates a tile and at once enters it into the dot
products of the next step; the codes of the inputs wait in memory, as drawing them twice would cost more
than a byte. A step has one sum over the block, of ``w*.x - psi.phi`` a lane, where ``psi.phi`` is added
up in int32. The label noise of as many steps as a tile has lanes is drawn at once; each step takes its
lane. Seeds are the grid of the kernel; configurations are added by ``jax.vmap`` over numbers of the model.

Counted floor, R1 (2-bit weights and inputs, SGD), for a pair of coordinates and a step:

==============================  =======  =====  ===========  =======
part                            integer  float  conversions  special
==============================  =======  =====  ===========  =======
Threefry-2x32, 20 rounds        71
Box-Muller                      4        35     3            1
codes of two inputs             3        12     2
codes of two weights            3        12     2
dot products                    2        2
update                                   14     2
all                             83       75     9            1
==============================  =======  =====  ===========  =======

A multiply-add, a rotation and an addition of three integers count once. A multiprocessor of compute
capability 9.0 issues 128 lanes a clock, 64 of them integer: 83/64 = 1.30 clocks a pair bound it, as do the
168/128 = 1.31 of all. With 132 of them at 1.755 GHz (an H100 SXM) the floor is 3.5e11 coordinate-steps a
second. With weights held a step moves no memory; streamed, it moves 22 bytes a coordinate (weights with
their rests 8 + 8, teacher 4, codes 1 + 1), which at 3.35 TB/s are 1.5e11 coordinate-steps a second.

Mini-batches are covered with weights held. What is not covered (`why_not`) goes to the plain loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, UInt32

from ..quantizers.quantizer import Quantizer
from . import kernel
from .codes import coder
from .gpu_block import Cell, Layout, block
from .model import LABELS, Model, integer
from .state import Coordinate, State
from .trial import Tried, length

#: Pairs up to which a block keeps weights and rests in registers: 8 pairs, 32 numbers, for each of 512 threads.
HELD = 2**12
_STREAMED_TILE = 2**11
_WARP, _MOST_WARPS = 32, 16
_INT32_MAX = 2**31 - 1


def layout_of(pairs: int, held: int = HELD) -> Layout:
    """The layout for a number of pairs, weights being held up to ``held`` of them."""
    tile = max(_WARP, 2 ** ((pairs // 4).bit_length() - 1) if pairs >= 4 else 1)
    tile = tile if pairs <= held else min(tile, _STREAMED_TILE)
    return Layout(tile, -(-pairs // tile), min(_MOST_WARPS, tile // _WARP), pairs <= held)


def why_not(model: Model, pairs: int, held: int = HELD) -> str | None:
    """What of a model the kernel does not cover, or None; operations of a rule are not looked at."""
    layout = layout_of(pairs, held)
    if model.label is not LABELS["linear"]:
        return "a label that is not the teacher's output"
    if model.per_channel:
        return "a range for each channel"
    if model.range is not None:
        return "a range that moves"
    if model.source is not None:
        return "inputs that are not standard normal"
    if model.rule.joint:
        return "a rule that couples all coordinates"
    if model.surrogate.smooth:
        return "a smooth surrogate derivative"
    if model.weights.levels is not None or model.inputs.levels is not None:
        return "levels that are not equally spaced"
    if model.rule.batch > 1 and not layout.held:
        return f"mini-batches beyond {2 * held} dimensions"
    if integer(model) and 2 * model.weights.bound * model.inputs.bound * layout.tiles > _INT32_MAX:
        return "sums beyond int32"
    if any(jnp.ndim(leaf) > 0 for leaf in jax.tree.leaves(_portable(model))):
        return "arrays as parameters of a rule"
    return None


def _portable(model: Model) -> Model:
    """Quantizers of a rule as their arithmetic form, for want of searches in a kernel."""

    def simple(part):
        return coder(part) if isinstance(part, Quantizer) and part.lattice is not None else part

    rule = jax.tree.map(simple, model.rule, is_leaf=lambda part: isinstance(part, Quantizer))
    return eqx.tree_at(lambda m: m.rule, model, rule)


@functools.partial(jax.jit, static_argnames=("held", "interpret"))
def advance(
    model: Model,
    seeds: UInt32[Array, " S"],
    fixed: kernel.Fixed,
    state: State,
    low,
    high,
    n,
    *,
    held: int = HELD,
    interpret: bool = False,
) -> State:
    """The state after ``n`` steps: `programs.Programs.advance` for what `why_not` has nothing against.

    Parameters
    ----------
    model, seeds, fixed, state, low, high, n
        See `programs.Programs`.
    held : int
        Pairs up to which weights are held in registers.
    interpret : bool
        Whether to run in Pallas' interpreter, which works on any platform.
    """
    pairs = state.parts[0].w.shape[1]
    layout = layout_of(pairs, held)
    # rows of odd width have no common alignment: Triton would else load four neighbours at a time, and
    # move them between threads through shared memory in every step
    width = layout.tile * layout.tiles + 1

    def row(x):
        return jnp.pad(x, ((0, 0), (0, width - pairs)))

    one, per_seed = pl.BlockSpec(), pl.BlockSpec((None,), lambda s: (s,))
    rows = pl.BlockSpec((None, width), lambda s: (s, 0))
    words = (jnp.asarray(low, jnp.uint32), jnp.asarray(high, jnp.uint32), jnp.asarray(n, jnp.int32))
    # the model goes in by its leaves: a rule may check its parameters when it is built, which these are not
    leaves, structure = jax.tree.flatten(_portable(model))
    parts, seed = tuple(map(_cell, state.parts)), jax.tree.map(lambda x: x[:, 0], state.seed)
    operands = (leaves, seeds, *jax.tree.map(row, (fixed, parts)), seed, *words)
    spec = jax.tree.map(lambda _: rows, (fixed, parts)), jax.tree.map(lambda _: per_seed, seed)
    out_specs: list = [spec[0][1], spec[1]]
    out_shape = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), [*operands[3:5]])
    if not layout.held:  # the codes of two steps
        code = jax.eval_shape(lambda x: model.inputs.code(x, x), jax.ShapeDtypeStruct((1,), jnp.float32))
        both = jax.ShapeDtypeStruct((seeds.shape[0], 2 * width - 1), code.dtype)
        out_specs.append((pl.BlockSpec((None, both.shape[1]), lambda s: (s, 0)),) * 2)
        out_shape.append((both, both))
    parts, seed, *_ = pl.pallas_call(
        functools.partial(block, structure, layout, interpret),
        grid=(seeds.shape[0],),
        in_specs=([one] * len(leaves), per_seed, *spec[0], spec[1], one, one, one),
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=triton.CompilerParams(num_warps=layout.warps, num_stages=1),
        interpret=interpret,
        name="advance",
    )(*operands)
    a, b = (_coordinate(jax.tree.map(lambda x: x[:, :pairs], part)) for part in parts)
    return State((a, b), jax.tree.map(lambda x: x[:, None], seed))


def _cell(part: Coordinate) -> Cell:
    """Without complex numbers, which Triton has not."""
    if not jnp.iscomplexobj(part.w):
        return Cell(part.w, None, part.memory)
    return Cell(lax.real(part.w), lax.imag(part.w), part.memory)


def _coordinate(cell: Cell) -> Coordinate:
    return Coordinate(cell.w if cell.rest is None else lax.complex(cell.w, cell.rest), cell.memory)


def or_else(plain: Callable[..., State]) -> Tried:
    """`advance` where it is covered, translates, and agrees with the plain loop on the device; else that loop.

    The trial begins such that the label noise of a tile ends in it.
    """

    def covers(model, seeds, fixed, state, *_):
        return why_not(model, state.parts[0].w.shape[1]) is None

    def first(model, seeds, fixed, state, *_):
        return max(0, layout_of(state.parts[0].w.shape[1]).tile - length(model.dim) // 2)

    return Tried("the GPU kernel", advance, plain, covers, first)
