"""Measured inputs of layers: the variance behind every weight, and the law that the inputs share."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

import numpy as np
from jaxtyping import Float

from ..checks import fail
from .layers import Layer, numbers_of
from .tensors import Tensors, read_tensors

#: The law of the inputs is represented by so many values.
VALUES = 1024
#: A mean smaller than this, in standard deviations, counts as none: it would act far too slowly (``docs/inputs.md``).
CENTRED = 0.02
#: What the name of activations may have in the place of the end ``.weight`` or ``.kernel`` of a layer.
_ENDS = ("", ".input", ".inputs", ".activations", "_input")


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """Inputs of a layer as ``x_j = scale sqrt(v_j) base``.

    Attributes
    ----------
    variances : array (n,)
        ``v_j`` of the input that every weight meets, in the order of `Layer.weights`; their mean over inputs is 1.
    base : array (m,)
        A sample of the law that all inputs share, of variance 1: activations over the standard deviation of their
        channel, all channels together. Its mean is kept, but for one of less than a fiftieth.
    scale : float
        Root of the mean variance of the activations: inputs over it are those of the problem.
    spread : float
        Largest standard deviation of a channel over the smallest.
    """

    variances: Float[np.ndarray, " n"]
    base: Float[np.ndarray, " m"]
    scale: float
    spread: float


def tensor_of(tensors: Tensors, layer: str) -> str | None:
    """The name of the activations of a layer (or of ``layer[3]``, its channel): its own, or it with another end."""
    name = layer.rsplit("[", 1)[0] if layer.endswith("]") else layer
    stem = name.removesuffix(".weight").removesuffix(".kernel")
    return next((name for name in (name, *(stem + end for end in _ENDS)) if name in tensors), None)


def layer_inputs(path: str | PathLike, layers: list[Layer], axis: int) -> dict[str, LayerInputs]:
    """The measured inputs of all layers that a file has activations for, by the name of the layer.

    Activations (..., d) have inputs along their last axis and samples along the others. The ``d`` inputs are those of
    an output channel of the layer (``axis``), or each is met by equally many of its weights (a convolution).

    Raises
    ------
    InputError
        If no layer has activations, if they do not fit, or if an input does not vary.
    """
    tensors, found = read_tensors(path), {}
    made: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for layer in layers:
        name = tensor_of(tensors, layer.name)
        if name is None:
            continue
        if name not in made:
            made[name] = _measured(name, tensors[name])
        std, base = made[name]
        scale = float(np.sqrt(np.mean(std**2)))
        variances = _behind_weights(name, (std / scale) ** 2, layer, axis)
        found[layer.name] = LayerInputs(variances, base, scale, float(std.max() / std.min()))
    if not found:
        names = ", ".join(repr(name) for name in list(tensors)[:8])
        wanted = layers[0].name if layers else "a layer"
        fail("activations", f"a tensor with the name of a layer, such as {wanted!r} (or without its end '.weight')",
             names, "rename them")  # fmt: skip
    return found


def _measured(name: str, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of every input, and the sample of the law."""
    values = numbers_of(name, array)
    if values.ndim < 2 or values.size // values.shape[-1] < 2:
        fail(
            name,
            "activations of two samples or more, inputs along the last axis",
            f"shape {array.shape}",
            "give more",
        )
    values = values.reshape(-1, values.shape[-1])
    std = values.std(axis=0)
    if np.any(still := std <= 1e-12 * np.abs(values).max(axis=0)):
        found = (
            f"{still.sum()} of {still.size} inputs, the first is input {np.argmax(still)}, that do not vary"
        )
        fail(name, "inputs that vary", found, "leave these inputs out, with their weights")
    base = condensed((values / std).ravel(), VALUES)
    return std, base - base.mean() if abs(base.mean()) < CENTRED else base


def _behind_weights(name: str, variances: np.ndarray, layer: Layer, axis: int) -> np.ndarray:
    """The variance that every weight meets: that of its input, along the axes of the layer other than ``axis``."""
    whole = not layer.name.endswith("]")
    shape = list(layer.shape)
    outputs = shape.pop(axis) if whole else 1
    count, first = int(np.prod(shape)), axis in (0, -len(layer.shape)) or not whole
    if count % variances.size:
        fail(name, f"{count} inputs, as many as the weights of an output of {layer.name}, or a part of them",
             variances.size, "give its own activations")  # fmt: skip
    each = count // variances.size
    one = np.repeat(variances, each) if first else np.tile(variances, each)
    if not whole:
        return one
    return np.moveaxis(np.broadcast_to(one, (outputs, count)).reshape(outputs, *shape), 0, axis).ravel()


def condensed(values: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, " m"]:
    """At most ``count`` values of the same mean and variance: means of neighbours in the order of size."""
    if values.size <= count:
        return values
    total = np.concatenate([[0.0], np.cumsum(np.sort(values))])
    means = np.diff(np.interp(np.linspace(0, values.size, count + 1), np.arange(values.size + 1), total))
    means *= count / values.size
    centre, spread = values.mean(), means.std()
    return centre + (means - means.mean()) * (values.std() / spread if spread > 0 else 1.0)
