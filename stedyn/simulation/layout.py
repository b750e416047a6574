"""Where coordinates lie: two halves on one device, or halves spread over several; and their sums.

`fold` adds the columns ``j + k W'`` of a vector of width ``W``, with ``W' = ceil(W / 8)`` and ``k = 0 ... 7``, to
column ``j`` of one of width ``W'``, and so on. All that ends in one column after some of these rounds lies on
one device, which makes those rounds alone; the few hundred sums that are left are exchanged, once a step for
its two products together. So the numbers are added in the same order on any number of devices, and without
spreading; but a compiler may round products differently there (fused multiply-add), so that the two ways agree
to the bit on some versions of JAX and to the rounding of float32 on others.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Complex64, Float32, Shaped

from .state import Pair, State

AXIS = "pairs"  # of the mesh over which columns are spread
_INT32_MAX = 2**31 - 1
_FOLD = 8  # slices added at a time
_GATHERED = 512  # columns that are exchanged at most
_NONE = np.uint32(2**32 - 1)  # index of a column that is padding


def pairs_of(dim: int) -> int:
    """Width of a half: ``ceil(d / 2)``, rounded up to a multiple of 8."""
    return -(-dim // (2 * _FOLD)) * _FOLD


@jax.jit
def halves(values: Shaped[Array, "S d"]) -> Pair:
    """Coordinates ``[0, P)`` and ``[P, d)`` with ``P = ceil(d / 2)``, both padded with 0 to a round width."""
    dim = values.shape[1]
    first = -(-dim // 2)
    width = pairs_of(dim)
    parts = values[:, :first], values[:, first:]
    a, b = (jnp.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts)
    return a, b


@functools.partial(jax.jit, static_argnames="dim")
def whole(parts: Pair, dim: int) -> Shaped[Array, "S d"]:
    """The coordinates in order: the inverse of `halves`."""
    first = -(-dim // 2)
    return jnp.concatenate([parts[0][:, :first], parts[1][:, : dim - first]], axis=1)


def split(z: Complex64[Array, "*n"] | None):
    """The halves of complex numbers: real and imaginary part."""
    return (None, None) if z is None else (lax.real(z), lax.imag(z))


def fold(x: Array, bound: int | None = None) -> Float32[Array, "S 1"]:
    """Sum over the last axis in a fixed order, as float32.

    Integers, at most ``bound`` in absolute value, are added exactly in int32 in blocks whose sums
    cannot overflow; the block sums are added in float32.
    """
    while x.shape[1] > 1:
        x, bound = _round(x, bound, min(_FOLD, x.shape[1]))
    return x.astype(jnp.float32)


def _round(x: Array, bound: int | None, count: int) -> tuple[Array, int | None]:
    """The sum of ``count`` slices of the last axis, and its bound."""
    width = -(-x.shape[1] // count)
    if bound is not None:
        bound = bound * count
        if bound > _INT32_MAX:
            bound, x = None, x.astype(jnp.float32)
    x = jnp.pad(x, ((0, 0), (0, width * count - x.shape[1])))
    parts = [x[:, k * width : (k + 1) * width] for k in range(count)]
    while len(parts) > 1:
        odd = parts[len(parts) & ~1 :]
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
    return parts[0], bound


def fold_both(a: Array, b: Array, bound: int | None, pairs: int) -> tuple[Array, Array]:
    """The `fold` of two vectors of ``pairs`` columns that are spread, with one exchange; ``bound`` is that of b."""
    no_bound = None
    while pairs > _GATHERED:
        (a, no_bound), (b, bound) = _round(a, no_bound, _FOLD), _round(b, bound, _FOLD)
        pairs = -(-pairs // _FOLD)
    both = jnp.stack([lax.bitcast_convert_type(part, jnp.uint32) for part in (a, b)])
    bits = lax.all_gather(both, AXIS, axis=2, tiled=True)[:, :, :pairs]
    a, b = (lax.bitcast_convert_type(part, old.dtype) for part, old in zip(bits, (a, b), strict=True))
    return fold(a), fold(b, bound)


@functools.lru_cache(maxsize=2)
def spread_over(devices: tuple[jax.Device, ...], dim: int) -> Spread:
    """The layout, kept because programs are compiled for it."""
    return Spread(dim, devices)


class Spread:
    """Halves of ``dim`` coordinates spread over devices, as arrays (S, K, C) with the columns C split.

    Column ``c`` holds the ``K`` pairs that `fold` adds to one number before the exchange, padded.

    Attributes
    ----------
    index : array (1, K, C), uint32
        Which pair lies where.
    """

    def __init__(self, dim: int, devices: tuple[jax.Device, ...]):
        self.dim = dim
        widths = [pairs_of(dim)]
        while widths[-1] > _GATHERED:
            widths.append(-(-widths[-1] // _FOLD))
        pairs = np.arange(-(-widths[-1] // len(devices)) * len(devices))
        valid = pairs < widths[-1]
        for above, below in zip(widths[-2::-1], widths[:0:-1], strict=True):
            # slice k of the wider vector begins at k times the width of the narrower
            pairs = (np.arange(_FOLD) * below).reshape(-1, *[1] * pairs.ndim) + pairs
            valid = valid & (pairs < above)
        self._place = np.where(valid, pairs, _NONE).reshape(1, -1, pairs.shape[-1]).astype(np.uint32)
        mesh = Mesh(np.array(devices), (AXIS,))
        self.split = NamedSharding(mesh, PartitionSpec(None, None, AXIS))
        self.copied = NamedSharding(mesh, PartitionSpec())
        self.index = jax.device_put(self._place, self.split)

    def put(self, values: np.ndarray) -> Pair:
        """Coordinates (S, d) of the host."""
        first = -(-self.dim // 2)
        wide = np.zeros((len(values), 2, pairs_of(self.dim) + 1), values.dtype)  # the last column is padding
        wide[:, 0, :first], wide[:, 1, : self.dim - first] = values[:, :first], values[:, first:]
        where = np.minimum(self._place[0], wide.shape[2] - 1)
        a, b = (jax.device_put(wide[:, k][:, where], self.split) for k in range(2))
        return a, b

    def whole(self, parts: Pair) -> np.ndarray:
        """The coordinates (S, d) on the host: the inverse of `put`."""
        first = -(-self.dim // 2)
        found = np.zeros((len(parts[0]), self.dim), parts[0].dtype)
        for values, begin, end in ((parts[0], 0, first), (parts[1], first, self.dim)):
            real = self._place[0] < end - begin
            found[:, begin + self._place[0][real].astype(np.int64)] = np.asarray(values)[:, real]
        return found

    def jit(self, function, gives_state: bool, options: dict):
        """A function of the kernel, such as ``advance``, compiled to run on all devices together."""

        def local(model, seeds, fixed, state, low, high, n):
            shape = state.parts[0].w.shape
            fixed, parts = jax.tree.map(lambda part: part.reshape(len(part), -1), (fixed, state.parts))
            result = function(model, seeds, fixed, State(parts, state.seed, state.scale), low, high, n)
            if not gives_state:
                return result
            return result._replace(parts=jax.tree.map(lambda part: part.reshape(shape), result.parts))

        split, copied = self.split.spec, self.copied.spec
        mapped = jax.shard_map(
            local,
            mesh=self.split.mesh,
            in_specs=(copied, copied, split, State(split, copied), copied, copied, copied),
            out_specs=State(split, copied) if gives_state else copied,
            check_vma=False,
        )
        return jax.jit(mapped, compiler_options=options)
