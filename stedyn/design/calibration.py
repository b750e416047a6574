r"""The ranges that calibration rules give, to compare with those of the dynamics.

A calibration rule looks at the weights and not at the training: it is a function of their law alone.
Every rule below returns the range ``R`` in the edge convention of the quantizer it is for
(`stedyn.quantizers.quantizer`); ``b`` is its bit width, ``w`` a weight and ``Q_R`` the quantizer with range ``R``.

===========  ===================================================================================
max          ``R = max |w|``
percentile   ``R`` = the percentile (99.999) of ``|w|``
k-sigma      ``R = |E w| + k std(w)``, ``k = 3``: all within ``k`` deviations of the mean
mse          ``argmin_R E[(w - Q_R(w))^2]``
aciq         ``argmin_A E[(|w| - A)^2; |w| > A] + A^2 / (3 4^b)`` for a centred Gaussian ``w``
kl           ``argmin_T KL(|w| cut at T || the same in 2^(b-1) equal steps)``
lsq          step ``= 2 E|w| / sqrt(Qp)``, ``Qp`` the highest level in steps
===========  ===================================================================================

Max, percentile, k-sigma and kl name a threshold, which is the range: outermost level or edge of the outermost bin, by
the convention of the quantizer. Mse, aciq and lsq name levels, the same in both conventions.
Aciq, kl and lsq are made for equally spaced levels; other formats (nf4, floats) have the first four rules, of which max
is what block formats use.
All rules see the same weights. Measured ones are the sample. A Gaussian stands for ``count`` draws from it (4096): what
depends on single draws (max, percentile, kl's end) takes medians of order statistics, what depends on averages the law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from ..checks import checked, choice, fail, positive, whole
from ..problem.problem import Start, Teacher
from ..quantizers.formats import FORMATS
from ..quantizers.lattices import grid
from ..quantizers.quantizer import Quantizer
from .rounding import outermost, rounding_errors, tried_ranges, unit_pieces
from .weight_law import WeightLaw, weight_law


@dataclass(frozen=True)
class Options:
    """The numbers that the rules leave open.

    A Gaussian stands for ``count`` draws from it, in the median; ``percentile`` and ``k`` are those of the
    rules; ``bins`` is the number of bins of the histogram of kl.
    """

    count: int = 4096
    percentile: float = 99.999
    k: float = 3.0
    bins: int = 2048

    def __post_init__(self):
        whole("count", self.count, 1)
        whole("bins", self.bins, 2, 2**16)
        positive("k", self.k)
        if positive("percentile", self.percentile) >= 100:
            fail("percentile", "a number between 0 and 100", self.percentile, "use the rule 'max' for 100")


@checked(quantizer=Quantizer)
def calibrated_range(
    weights: Teacher | Start | ArrayLike, quantizer: Quantizer, rule: str, **options
) -> float:
    """The range that a calibration rule gives a quantizer for these weights.

    Parameters
    ----------
    weights : Teacher, Start or array
        The law of the weights, or measured values of any shape.
    quantizer : Quantizer
        Its bits, kind, edge and rounding are used and its range is not.
    rule : str
        One of `CALIBRATIONS`; see there for the equations and the module for a table.
    **options
        Fields of `Options`: ``count``, ``percentile``, ``k``, ``bins``.

    Returns
    -------
    float
        The range, in the edge convention of the quantizer and in units of the weights; positive.

    Raises
    ------
    ValueError
        If the levels of the quantizer are a list or there are none, the rule or an option is out of
        bounds, or the weights have no range: none, all zero, or not finite.

    Examples
    --------
    >>> q = Quantizer(2, 1.0, kind="mid-rise", edge="bin")
    >>> round(calibrated_range(Teacher.gaussian(1.0), q, "mse"), 3)
    1.991
    >>> calibrated_range([0.5, -2.0, 1.0], q, "max")
    2.0
    """
    choice("rule", rule, tuple(CALIBRATIONS))
    return _checked(rule, CALIBRATIONS[rule](weight_law(weights), quantizer, _options(options)))


@checked(quantizer=Quantizer)
def calibrated_ranges(
    weights: Teacher | Start | ArrayLike, quantizer: Quantizer, **options
) -> dict[str, float]:
    """`calibrated_range` of every rule that these levels have, in the order of `CALIBRATIONS`."""
    law, chosen = weight_law(weights), _options(options)
    rules = (
        CALIBRATIONS if quantizer.kind not in FORMATS else {rule: CALIBRATIONS[rule] for rule in ANY_LEVELS}
    )
    return {rule: _checked(rule, function(law, quantizer, chosen)) for rule, function in rules.items()}


@checked(quantizer=Quantizer)
def rounding_error(weights: Teacher | Start | ArrayLike, quantizer: Quantizer) -> float:
    """``E[(w - Q(w))^2]``, over the weights and stochastic rounding.

    In closed form for a Gaussian, the exact mean for values. ValueError if the levels of the quantizer
    are a list or there are none.
    """
    pieces = unit_pieces(quantizer)
    return float(
        rounding_errors(weight_law(weights), pieces, np.array([float(np.asarray(quantizer.range))]))[0]
    )


def _options(options: dict) -> Options:
    for key in options:
        choice("option", key, tuple(Options.__dataclass_fields__))
    return Options(**options)


def _checked(rule: str, width: float) -> float:
    if not 0 < width < np.inf:
        fail(rule, "weights that give a positive range", width, "more of them are 0 than the rule allows")
    return width


def _max(law: WeightLaw, quantizer: Quantizer, options: Options) -> float:
    """``R = max |w|``; of a Gaussian the median of the largest of ``count`` draws, ``P(|w| <= R)^count = 1/2``.

    Wu et al., arXiv 2004.09602 (2020).
    """
    outermost(quantizer)
    return law.largest(options.count)


def _percentile(law: WeightLaw, quantizer: Quantizer, options: Options) -> float:
    """``P(|w| <= R) = percentile / 100`` over the values, between two of them if need be.

    Of a Gaussian the values are the medians of ``count`` ordered draws. Wu et al., arXiv 2004.09602 (2020).
    """
    outermost(quantizer)
    return law.percentile(options.percentile, options.count)


def _k_sigma(law: WeightLaw, quantizer: Quantizer, options: Options) -> float:
    """``R = |E w| + k sqrt(E[(w - E w)^2])``: of centred weights ``k`` standard deviations.

    A rule of thumb of quantization programs, such as ``MeanSigmaStd`` of brevitas.
    """
    outermost(quantizer)
    return abs(law.mean) + options.k * law.std


def _mse(law: WeightLaw, quantizer: Quantizer, options: Options) -> float:
    """``argmin_R E[(w - Q_R(w))^2]``, over the weights and stochastic rounding.

    The error has many minima in ``R``: it is computed on a grid fine enough to see a level pass every
    weight, and the lowest dips are refined; with more than 8 bits the grid is coarser, which matters for
    a few distinct values only, whose error is then negligible at many ranges. Of equal minima the smallest
    found is returned. Ranges with an outermost level from ``E|w| / 20`` to 8 times the largest ``|w|`` are
    tried.

    J. Max, IRE Trans. Inf. Theory 6 (1960) for the Gaussian; Choukroun et al., arXiv 1902.06822 (2019).
    """
    pieces = unit_pieces(quantizer)
    widths = tried_ranges(law, outermost(quantizer), pieces.breaks.size)

    def error(width: float) -> float:
        return float(rounding_errors(law, pieces, np.array([width]))[0])

    errors = rounding_errors(law, pieces, widths)
    dips = 1 + np.flatnonzero((errors[1:-1] <= errors[:-2]) & (errors[1:-1] <= errors[2:]))
    best = np.unique(np.concatenate([dips[:1], dips[np.argsort(errors[dips])[:5]], [errors.argmin()]]))
    minima = [(float(errors[i]), float(widths[i])) for i in best]
    for i in best[(best > 0) & (best < widths.size - 1)]:
        bounds = (widths[i - 1], widths[i + 1])
        near = optimize.minimize_scalar(
            error, bounds=bounds, method="bounded", options={"xatol": 1e-9 * widths[i]}
        )
        minima.append((float(near.fun), float(near.x)))
    lowest = min(minima)[0] + 1e-12 * law.mean_square
    return min(width for value, width in minima if value <= lowest)


def _aciq(law: WeightLaw, quantizer: Quantizer, options: Options) -> float:
    """``argmin_A E[(|w| - A)^2; |w| > A] + A^2 / (3 4^b)`` for ``w ~ N(0, E[w^2])``, whatever their law.

    ``A`` tiles ``[-A, A]`` with ``2^b`` bins, whose rounding noise is a twelfth of the bin width squared:
    it is a bin edge. The range is that of the levels whose bins end at ``A`` (at the upper end for two's
    complement).

    Banner, Nahshan, Soudry, arXiv 1810.05723 (2019), section 3.
    """
    numbers = grid(quantizer)
    noise = 1 / (6 * 4.0**numbers.bits)  # half the slope of the second term, divided by A

    def slope(edge: float) -> float:
        return edge * noise - (np.exp(-(edge**2) / 2) / np.sqrt(2 * np.pi) - edge * special.ndtr(-edge))

    edge = law.mean_square**0.5 * float(optimize.brentq(slope, 1e-3, 20.0, xtol=1e-14))
    return edge * numbers.range / (numbers.bin * numbers.step)


def _kl(law: WeightLaw, quantizer: Quantizer, options: Options) -> float:
    """``argmin_T KL(p_T || q_T)`` over the edges ``T`` of a histogram of ``|w|``.

    ``p_T`` is the histogram up to ``T`` with what is beyond put into its last bin; ``q_T`` is the
    histogram up to ``T`` averaged over the bins, not empty, of each of ``2^(b-1)`` equal steps. A ``T``
    where ``q_T`` has no mass and ``p_T`` has is not taken. The ``bins`` bins, 2048, end at the largest
    ``|w|`` as in max; if there are not more bins than steps the range is that of max.

    Migacz, "8-bit inference with TensorRT", GTC (2017).
    """
    steps, top = grid(quantizer).half, law.largest(options.count)
    edges = np.linspace(0.0, top, options.bins + 1)
    cdf = law.cdf(edges)
    cdf[0] = 0.0
    mass, best = np.diff(cdf), (np.inf, top)
    for n in range(max(steps, 2), options.bins + 1):  # in one bin everything is alike
        p, kept = mass[:n].copy(), mass[:n] > 0
        p[-1] += 1 - cdf[n]
        if not kept[-1] and p[-1] > 0:
            continue
        starts = -(-np.arange(steps) * n // steps)
        totals, full = np.add.reduceat(mass[:n], starts), np.add.reduceat(kept, starts, dtype=int)
        q = np.repeat(totals / np.maximum(full, 1), np.diff(np.append(starts, n)))
        divergence = np.sum(p[kept] * np.log(p[kept] / q[kept])) + np.log(cdf[n])
        best = min(best, (float(divergence), float(edges[n])))
    return best[1]


def _lsq(law: WeightLaw, quantizer: Quantizer, options: Options) -> float:
    """Step ``2 E|w| / sqrt(Qp)``, with which learning the step starts.

    ``Qp`` is the highest level in steps: ``2^(b-1) - 1`` for mid-tread and two's complement, as in the
    paper (1 for two's complement with 1 bit, whose highest level is 0), and ``2^(b-1) - 1/2`` for
    mid-rise, which the paper does not have.

    Esser et al., "Learned step size quantization", ICLR (2020), arXiv 1902.08153.
    """
    numbers = grid(quantizer)
    highest = numbers.half - (0.5 if numbers.family == "mid-rise" else 1.0)
    return 2 * law.mean_abs / (highest or 1.0) ** 0.5 * numbers.range / numbers.step


#: The rules that take any levels.
ANY_LEVELS = ("max", "percentile", "k-sigma", "mse")
#: The rules by name: each is a function of the law of the weights, the quantizer and the `Options`.
CALIBRATIONS: dict[str, Callable[[WeightLaw, Quantizer, Options], float]] = {
    "max": _max,
    "percentile": _percentile,
    "k-sigma": _k_sigma,
    "mse": _mse,
    "aciq": _aciq,
    "kl": _kl,
    "lsq": _lsq,
}
