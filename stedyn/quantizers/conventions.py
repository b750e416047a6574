"""The same quantizer under the names of brevitas, torchao, AQT, qwix, QPyTorch, ONNX and TensorRT, both ways.

Every library here quantizes with equally spaced levels; they differ in what they call the step and
the range, in which geometries they have, and in ties. Formulas (``s`` the scale, ``z`` the zero
point, ``round`` to the nearest integer):

========  ==================================================================================
brevitas  ``(round(clamp(w/s + z, lo, hi)) - z) s``; ``lo = -2^(b-1)``, or one more with
          ``narrow_range``; ``hi = 2^(b-1) - 1``
torchao   ``(clamp(round(w/s) + z, quant_min, quant_max) - z) s``; with a zero point in the
          floats the levels are ``(q - (quant_min + quant_max + 1)/2) s + z``
AQT       ``s = bound / n``, with ``n = 2^(b-1)``, less 1/2 with ``preserve_zero`` and less 1/2
          with ``preserve_max_val``; integers with ``preserve_zero``, odd halves without
qwix      ``clip(round(w/s), -2^(b-1), 2^(b-1) - 1) s`` with ``s = absmax / (2^(b-1) - 1/2)``; between
          limits of unequal size ``(clip(round(w/s + z), -2^(b-1), 2^(b-1) - 1) - z) s`` with
          ``s = (high - low)/(2^b - 1)`` and ``z = round(-2^(b-1) - low/s)``
QPyTorch  ``clamp(round(w 2^fl) / 2^fl)`` to ``-2^(wl-fl-1)`` (one step more with
          ``symmetric``) and ``2^(wl-fl-1) - 2^-fl``
ONNX      ``(clamp(round(w/s) + z, lo, hi) - z) s`` (QuantizeLinear), ``lo, hi`` the ends of its type
TensorRT  ``clamp(round(w/s), lo, hi) s`` with ``s = amax/hi`` and ``hi = 2^(b-1) - 1``, or
          ``2^b - 1`` and ``lo = 0`` with ``unsigned``; ``lo = -hi``, or one less without ``narrow_range``
========  ==================================================================================

Sources: the programs themselves, read in 2026: ``brevitas/core/quant``, ``torchao/quantization/
quant_primitives.py``, ``aqt/jax/v2/numerics/int_numerics.py``, ``qwix/_src/core/{qarray,numerics}.py``,
``qtorch/quant``, the operator QuantizeLinear of ONNX, ``pytorch_quantization/tensor_quant.py`` of TensorRT.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from ..checks import checked, choice, fail
from .dialects import READERS, WRITERS
from .formats import FORMATS
from .lattices import grid
from .quantizer import Quantizer

#: What becomes of a weight half-way between two levels.
TIES = {
    "stedyn": "up",
    "brevitas": "to the even integer; BINARY up; TERNARY to zero",
    "torchao": "to the even integer",
    "AQT": "to the even integer with preserve_zero, up without",
    "qwix": "to the even integer",
    "QPyTorch": "to the even integer on CPUs, away from zero on GPUs",
    "ONNX": "to the even integer",
    "TensorRT": "to the even integer",
}


@checked(quantizer=Quantizer)
def both_edges(quantizer: Quantizer) -> dict[str, float]:
    """The range of the same levels in both edge conventions.

    Returns
    -------
    dict
        ``"level"``, the outermost level, and ``"bin"``, the edge of the outermost bin, half a step
        beyond it. For two's complement they are, as in `quantizers`, the size of the lowest level and
        the upper bin edge, half a step short of it. For levels that are not equally spaced the bin ends half the
        outermost step beyond.

    Raises
    ------
    ValueError
        If the quantizer has no range of its own (kinds ``levels`` and ``none``).

    Examples
    --------
    >>> both_edges(Quantizer(2, 2.0, kind="mid-rise", edge="bin"))
    {'level': 1.5, 'bin': 2.0}
    """
    if quantizer.kind in FORMATS:
        level, unit = float(np.asarray(quantizer.range)), quantizer.unit
        return {"level": level, "bin": level * float(1.5 - 0.5 * unit[-2])}
    lattice = grid(quantizer)
    return {"level": lattice.level * lattice.step, "bin": lattice.bin * lattice.step}


@checked(quantizer=Quantizer)
def library_names(quantizer: Quantizer) -> dict[str, dict[str, Any] | str]:
    """The parameters with which every library has these levels and thresholds.

    Returns
    -------
    dict
        For each library its parameters and their values, or a sentence that says why it has no such
        quantizer. Ties differ (`TIES`). The ``absmax`` calibration of qwix stands for mid-tread levels on
        weights of which ``absmax`` is the largest size: what lies beyond it would get a level more below.

    Examples
    --------
    >>> names = library_names(Quantizer(4, 1.5, kind="twos-complement", edge="bin"))
    >>> names["qwix"]
    {'qtype': 'int4', 'calibration_method': 'fixed,-1.5,1.5', 'noise_fn': None}
    >>> print(names["AQT"])
    AQT has symmetric levels only, and two's complement has one more below zero than above.
    """
    if quantizer.is_none:
        return dict.fromkeys(WRITERS, "Nothing is quantized: leave the quantizer out.")
    if quantizer.lattice is None:
        these = "a list" if quantizer.explicit is not None else f"those of {quantizer.kind}"
        return {name: f"{name} has equally spaced levels only, and these are {these}." for name in WRITERS}
    return {name: write(grid(quantizer)) for name, write in WRITERS.items()}


def from_library(library: str, **parameters: Any) -> Quantizer:
    """The quantizer that a library's parameters describe: the inverse of `library_names`.

    Parameters
    ----------
    library : str
        One of the seven, in any case.
    **parameters
        By the library's own names. The range comes back as the library states it: the bin edge for qwix
        (with limits of equal size) and for AQT without ``preserve_max_val``, the outermost level otherwise.

    Raises
    ------
    ValueError
        If the library or a parameter is unknown, one is missing, or they contradict each other.

    Examples
    --------
    >>> q = from_library("brevitas", bit_width=4, scale=0.25, narrow_range=True)
    >>> q.kind, q.edge, q.range
    ('mid-tread', 'level', 1.75)
    """
    names = {name.lower(): name for name in READERS}
    name = names[choice("library", str(library).lower(), tuple(names))]
    fields = inspect.signature(READERS[name]).parameters
    known = ", ".join(fields)
    for key in parameters:
        if key not in fields:
            fail(name, f"one of the parameters {known}", key, "leave it out or correct its name")
    for key, field in fields.items():
        if field.default is field.empty and key not in parameters:
            fail(f"{name}.{key}", "a value", None, "give it, as the levels depend on it")
    return READERS[name](**parameters)
