"""The registry of quantities: how each is written."""

from __future__ import annotations

from typing import NamedTuple


class Quantity(NamedTuple):
    """How a quantity is written: symbol, axis label, unit, and what it is."""

    symbol: str
    label: str
    unit: str
    description: str


QUANTITIES: dict[str, Quantity] = {
    "tau": Quantity(r"\tau", "time", "steps / d", "number of steps divided by the input dimension"),
    "error": Quantity(
        r"\varepsilon",
        "generalization error",
        "output variance",
        "E[(teacher - student output)^2], without the factor 1/2 and without label noise",
    ),
    "m": Quantity("m", "overlap of teacher and quantized student", "1", "E[w* psi(w)]"),
    "q": Quantity("q", "norm of the quantized student", "1", "E[psi(w)^2]"),
    "overlap": Quantity(r"E[w^* w]", "overlap of teacher and latent weights", "1", "E[w* w]"),
    "norm": Quantity(r"E[w^2]", "norm of the latent weights", "1", "E[w^2]"),
    "saturated": Quantity(
        r"P(|w| > R)", "saturated fraction", "1", "fraction of latent weights beyond the range"
    ),
    "flip_rate": Quantity(
        r"\sqrt{d}\,P(\mathrm{flip})",
        "flip rate times sqrt(d)",
        "1 / step",
        "fraction of weights whose level changes in one step, times sqrt(d)",
    ),
    "effective_step": Quantity(
        r"b/(\eta k_2)",
        "effective step size",
        "learning rate",
        "drift of the limit towards the teacher over that of SGD at the same rate",
    ),
    "classification_error": Quantity(
        r"P(\hat y \neq y)",
        "classification error",
        "1",
        "probability that the signs of the outputs of teacher and student differ",
    ),
    "ptq_error": Quantity(
        r"\varepsilon_\mathrm{PTQ}",
        "error after rounding without training",
        "output variance",
        "error of the latent weights rounded by the quantizer ptq (post-training quantization)",
    ),
    "kappa": Quantity(
        r"\kappa", "kappa", "1", "part of the residual by which one step changes the mean output, below 2"
    ),
    "mean_mode": Quantity(
        r"\mathrm{Var}\, z",
        "variance of the mean output",
        "output variance",
        "part of the error that fluctuations of the mean output cost, for inputs with a mean",
    ),
    "range": Quantity("R", "range of the weights", "1", "range of the weight quantizer, where it moves"),
    "occupancy": Quantity("P(psi)", "level occupancy", "1", "fraction of weights on every level"),
}
