"""Weights and activations of trained networks, read from files.

Files end in ``.npy``, ``.npz``, ``.csv`` (numbers only) or ``.safetensors``. The weights of a layer are
one list of numbers, which serve as teacher, start or as input of the calibration rules; the activations
of a layer give the variance of every input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike

import numpy as np
from jaxtyping import Float

from ..checks import PATH, InputError, checked, choice, fail, whole
from .tensors import Tensors, read_tensors

__all__ = ["Layer", "Skipped", "Tensors", "input_variances", "layers_of", "load_weights", "read_tensors"]

NORMALISATIONS = ("none", "std", "max")
#: Names of tensors that a message lists at most.
_MANY = 20


@dataclass(frozen=True, eq=False)
class Layer:
    """The weights of a tensor, or of one of its channels.

    Attributes
    ----------
    name : str
        Of the tensor; ``name[3]`` is channel 3.
    weights : array (n,)
        Divided by ``scale``.
    scale : float
        ``weights * scale`` are those of the file.
    shape : tuple of int
        Of the tensor or the channel.
    """

    name: str
    weights: Float[np.ndarray, " n"]
    scale: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Skipped:
    """A tensor or channel that `layers_of` leaves out, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@checked(path=PATH, tensor=str)
def load_weights(
    path: str | PathLike,
    tensor: str | None = None,
    *,
    per_channel: bool = False,
    axis: int = 0,
    normalise: str = "std",
) -> dict[str, Layer]:
    """The weights of one tensor of a file, as one list or as one for each channel.

    Parameters
    ----------
    path : path
        See `read_tensors`.
    tensor : str, optional
        Its name; not needed if the file has one tensor.
    per_channel : bool
        Take every channel by itself, under the name ``tensor[i]``.
    axis : int
        The axis of the channels (output channels are axis 0 in PyTorch, the last in Flax).
    normalise : {"std", "max", "none"}
        Divide each list by its root mean square, by its largest size, or by 1.

    Raises
    ------
    ValueError
        If the file cannot be read, the tensor is not in it or not named where there are several, the axis
        is out of bounds, or the weights are not real numbers, not finite, all equal or none.
    """
    choice("normalise", normalise, NORMALISATIONS)
    name, array = _chosen(read_tensors(path), tensor)
    pieces = _pieces(name, array, per_channel, axis)
    return {name: _layer(name, piece, normalise) for name, piece in pieces}


@checked(path=PATH)
def layers_of(
    path: str | PathLike, *, per_channel: bool = False, axis: int = 0, normalise: str = "std"
) -> Iterator[Layer | Skipped]:
    """Every tensor of floats with two or more dimensions, one at a time and in the order of the file.

    What is left out comes as a `Skipped` with the reason: tensors with fewer dimensions (biases, norms)
    or of other types, and weights that are all equal or not finite. The arguments are those of
    `load_weights`.

    Raises
    ------
    ValueError
        As in `load_weights` for the file and the axis; and at the end if no tensor was a layer.
    """
    choice("normalise", normalise, NORMALISATIONS)
    return _each(read_tensors(path), per_channel, axis, normalise)


def _each(tensors: Tensors, per_channel: bool, axis: int, normalise: str) -> Iterator[Layer | Skipped]:
    layers = 0
    for name in tensors:
        array = tensors[name]
        if array.ndim < 2 or array.dtype.kind != "f":
            reason = f"{array.ndim} of 2 dimensions" if array.ndim < 2 else f"type {array.dtype}, not floats"
            yield Skipped(name, array.shape, reason)
            continue
        for piece_name, piece in _pieces(name, array, per_channel, axis):
            try:
                layer = _layer(piece_name, piece, normalise)
            except InputError as error:
                yield Skipped(piece_name, piece.shape, str(error).removeprefix(f"{piece_name}: "))
            else:
                layers += 1
                yield layer
    if layers == 0:
        expected = "at least one tensor of floats with two or more dimensions"
        fail("file", expected, f"{len(tensors)} others in {tensors.path}", "name a file with weights")


@checked(path=PATH, tensor=str)
def input_variances(path: str | PathLike, tensor: str | None = None) -> Float[np.ndarray, " d"]:
    """The variance of every input of a layer.

    Of activations (..., d), whose last axis is the input and whose others are samples, it is the mean
    square deviation from the mean of each input (over n - 1). A list (d,) holds the variances themselves.

    Raises
    ------
    ValueError
        As in `load_weights`; if there is one sample only, or a variance is not positive: an input that
        does not vary carries nothing.
    """
    name, array = _chosen(read_tensors(path), tensor)
    values = numbers_of(name, array)
    if values.ndim > 1:
        values = values.reshape(-1, values.shape[-1])
        if len(values) < 2:
            fail(name, "two samples or more", f"shape {array.shape}", "give more activations")
        constant = np.all(values == values[0], axis=0)
        values = np.where(constant, 0.0, values.var(axis=0, ddof=1))
    bad = np.flatnonzero(values <= 0)
    if bad.size:
        found = f"{bad.size} of {values.size}, the first is input {bad[0]} with {values[bad[0]]:g}"
        fail(name, "positive variances", found, "leave these inputs out")
    return values


def input_means(path: str | PathLike, tensor: str | None = None) -> Float[np.ndarray, " d"]:
    """The mean of every input of a layer, of activations (..., d) as `input_variances` has them."""
    name, array = _chosen(read_tensors(path), tensor)
    if array.ndim < 2:
        fail(name, "activations, whose means are those of their inputs", f"shape {array.shape}",
             "give activations (samples, inputs), or a list of means")  # fmt: skip
    values = numbers_of(name, array)
    return values.reshape(-1, values.shape[-1]).mean(axis=0)


def _chosen(tensors: Tensors, tensor: str | None) -> tuple[str, np.ndarray]:
    listed = ", ".join(repr(name) for name in list(tensors)[:_MANY])
    if len(tensors) > _MANY:
        listed += f" and {len(tensors) - _MANY} more"
    if not tensors:
        fail("file", "a file with a tensor", str(tensors.path), "name another")
    if tensor is None and len(tensors) > 1:
        fail("tensor", f"one of {listed}", None, "name it, as the file has several")
    name = next(iter(tensors)) if tensor is None else tensor
    if name not in tensors:
        fail("tensor", f"one of {listed}", name, f"choose one that is in {tensors.path}")
    return name, tensors[name]


def _pieces(name: str, array: np.ndarray, per_channel: bool, axis: int) -> Iterator[tuple[str, np.ndarray]]:
    if not per_channel:
        return iter([(name, array)])
    if array.ndim < 2:
        fail(name, "two or more dimensions for weights per channel", f"shape {array.shape}", "read it whole")
    axis = whole(f"{name}: axis", axis, -array.ndim, array.ndim - 1)
    channels = np.moveaxis(array, axis, 0)
    return ((f"{name}[{i}]", channel) for i, channel in enumerate(channels))


def numbers_of(name: str, array: np.ndarray) -> np.ndarray:
    """The tensor as floats, if it holds finite numbers in at least one dimension."""
    if array.dtype.kind not in "fiu":
        fail(name, "real numbers", f"type {array.dtype}", "choose another tensor")
    if array.ndim == 0 or array.size == 0:
        found = "a single number" if array.ndim == 0 else f"shape {array.shape}"
        fail(name, "a tensor with several numbers", found, "choose another tensor")
    values = array.astype(float)
    if bad := int(np.sum(~np.isfinite(values))):
        fail(name, "finite numbers only", f"{bad} nan or inf of {values.size}", "correct the file")
    return values


def _layer(name: str, array: np.ndarray, normalise: str) -> Layer:
    weights = numbers_of(name, array).ravel()
    if np.all(weights == weights[0]):
        fail(name, "weights that differ", f"{weights.size} times {weights[0]:g}", "choose another tensor")
    largest = float(np.abs(weights).max())
    rms = largest * float(np.mean((weights / largest) ** 2)) ** 0.5
    scale = {"none": 1.0, "std": rms, "max": largest}[normalise]
    return Layer(name, weights / scale, scale, array.shape)
