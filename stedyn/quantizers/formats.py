r"""Levels of named formats, those of floats of few bits and their like, for range 1.

===========  ======  =========================================================================================
format       levels  values
===========  ======  =========================================================================================
fp4-e2m1     15      OCP Microscaling Formats 1.0 (2023): 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives
fp6-e2m3     63      the same source, largest 7.5
fp6-e3m2     63      the same source, largest 28
fp8-e4m3     253     OCP 8-bit Floating Point 1.0 (2023): the variant without infinities, largest 448
fp8-e5m2     247     the same source, largest finite value 57344
nf4          16      quantiles of a normal, not symmetric: see `normal_float`
===========  ======  =========================================================================================

``int4`` is two's complement with 4 bits, ``power-of-two`` with ``b`` bits the levels 0 and
``+-2^-k, k = 0 .. 2^(b-1) - 2``. Values of floats are taken from ``ml_dtypes``; each of them counts once (there
are two zeros), infinities and nan do not. All are divided by the largest.
"""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

#: Bits and type of every format of floats.
_FLOATS = {
    "fp4-e2m1": (4, ml_dtypes.float4_e2m1fn),
    "fp6-e2m3": (6, ml_dtypes.float6_e2m3fn),
    "fp6-e3m2": (6, ml_dtypes.float6_e3m2fn),
    "fp8-e4m3": (8, ml_dtypes.float8_e4m3fn),
    "fp8-e5m2": (8, ml_dtypes.float8_e5m2),
}
#: Bits of the formats whose levels are not equally spaced; None where they are to be given.
FORMATS: dict[str, int | None] = {name: bits for name, (bits, _) in _FLOATS.items()}
FORMATS |= {"nf4": 4, "power-of-two": None}
#: All named formats, whose range is the largest absolute level.
NAMED = ("int4", *FORMATS)
#: Most bits of powers of two: with 7 the smallest level would be 2^-62 of the range.
MOST_POWER_BITS = 6
#: The quantile at which the outermost levels of NF4 stand before they are scaled.
_OFFSET = 0.9677083


def normal_float() -> Float[np.ndarray, " 16"]:
    """The 16 levels of NF4: quantiles of a standard normal over the largest of them.

    Eight at equally spaced probabilities above 1/2 up to ``e = 0.9677083``, seven below 1/2 down to ``1 - e``, and 0;
    ``e`` is ``1 - (1/32 + 1/30)/2`` in seven digits. Dettmers et al., "QLoRA", arXiv 2305.14314 (2023), section 3;
    these are the numbers of its appendix E to 2e-7 (made in single precision, by the program ``bitsandbytes``).
    """
    above, below = ndtri(np.linspace(0.5, _OFFSET, 9)), ndtri(np.linspace(0.5, _OFFSET, 8))
    return np.concatenate([-below[:0:-1], above]) / above[-1]


@functools.cache
def format_levels(name: str, bits: int) -> Float[np.ndarray, " L"]:
    """The levels of a format, increasing, the largest of size 1."""
    if name == "nf4":
        return normal_float()
    if name == "power-of-two":
        sizes = 0.5 ** np.arange(2 ** (bits - 1) - 1)
        return np.concatenate([-sizes, [0.0], sizes[::-1]])
    codes = np.arange(2**bits, dtype=np.uint8).view(_FLOATS[name][1]).astype(float)
    values = np.unique(codes[np.isfinite(codes)])  # of the two zeros one
    return (values + 0.0) / values[-1]
