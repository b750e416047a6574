r"""How the range of the weight quantizer moves during a run (``docs/moving-ranges.md``).

The quantizer at range ``R`` is ``psi_R(w) = R psi_1(w / R)``: levels and thresholds move in proportion.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from ..checks import check_keywords, choice, fail, finite, is_traced, nonnegative, positive
from ..rules.schedules import Schedule, as_schedule

#: The range rules, and the parameters that each of them takes.
RANGE_RULES: dict[str, tuple[str, ...]] = {
    "learned": ("lr", "estimator", "decay"),
    "fast-learned": ("lr", "estimator", "decay"),
    "absmean": ("factor",),
    "rms": ("factor",),
    "percentile": ("percentile", "factor"),
    "schedule": ("schedule",),
}
#: Those that take the range from the weights.
MEASURED = tuple(kind for kind, takes in RANGE_RULES.items() if "factor" in takes)
#: All parameters.
PARAMETERS = ("lr", "estimator", "decay", "factor", "percentile", "schedule")
ESTIMATORS = ("lsq", "pact")
_NEEDED = {"learned": "lr", "fast-learned": "lr", "percentile": "percentile", "schedule": "schedule"}


class MovingRange(eqx.Module):
    r"""A range ``R`` that is learned, taken from the weights at every step, or given in time.

    ============  ==================================================================================
    kind          range
    ============  ==================================================================================
    learned       ``R <- R + (lr / d) (r sum_i phi_i e_i / sqrt(d) - decay R)``, ``e_i`` the
                  estimate of ``dpsi_i/dR``; in the limit ``R' = lr (<(k1 w* - k2 psi) e> - decay R)``
    fast-learned  the same with ``lr / sqrt(d)`` in the place of ``lr / d``, which is what LSQ's own
                  gradient scale makes of it; in the limit ``<(k1 w* - k2 psi) e> = decay R`` always
    absmean       ``R = factor mean|w|`` (BitNet b1.58)
    rms           ``R = factor sqrt(mean w^2)``
    percentile    ``R = factor`` times that percentile of ``|w|``
    schedule      ``R = weights.range schedule(tau)``
    ============  ==================================================================================

    Parameters
    ----------
    kind : str
        Of the table.
    lr : float
        Rate of a learned range, in units of ``tau`` for "learned".
    estimator : {"lsq", "pact"}
        Between the outermost levels ``e = (psi - w) / R`` (LSQ, arXiv 1902.08153, eq. 3) or 0
        (PACT, arXiv 1805.06085, eq. 3); beyond them ``psi / R``, which is -1 or 1 where these levels are
        ``-R`` and ``R``.
    decay : float
        Weight decay of the range.
    factor : float
        See the table; 1 by default.
    percentile : float
        Above 0 and below 100.
    schedule : Schedule, function of tau, or table
        Factor of ``weights.range``, above 0 and continuous (`stedyn.rules.schedules`).

    Raises
    ------
    InputError
        For a parameter that is out of bounds, that the kind does not take, or that it needs.
    """

    kind: str = eqx.field(static=True)
    lr: Float[Array, ""] | float | None
    estimator: str | None = eqx.field(static=True)
    decay: Float[Array, ""] | float | None
    factor: Float[Array, ""] | float | None
    percentile: Float[Array, ""] | float | None
    schedule: Schedule | None

    def __init__(self, kind: str, **given: Any):
        takes = RANGE_RULES[choice("weights.range_rule", kind, tuple(RANGE_RULES))]
        check_keywords("MovingRange", _parameters, given)
        given = {key: value for key, value in given.items() if value is not None}
        for key in given:
            if key not in takes:
                fail(f"weights.range_{key}", f"the keys of range_rule = {kind!r} ({_keys(takes)})", given[key],
                     "remove it")  # fmt: skip
        needed = _NEEDED.get(kind)
        if needed is not None and needed not in given:
            fail(f"weights.range_{needed}", f"a value, as range_rule = {kind!r} needs it", None, "set it")
        learns, scales = "lr" in takes, "factor" in takes
        self.kind = kind
        self.lr = positive("weights.range_lr", given["lr"]) if learns else None
        self.estimator = (
            choice("weights.range_estimator", given.get("estimator", "lsq"), ESTIMATORS) if learns else None
        )
        self.decay = nonnegative("weights.range_decay", given.get("decay", 0.0)) if learns else None
        self.factor = positive("weights.range_factor", given.get("factor", 1.0)) if scales else None
        self.percentile = _percentile(given["percentile"]) if kind == "percentile" else None
        self.schedule = as_schedule(given["schedule"]) if kind == "schedule" else None
        if self.schedule is not None and self.schedule.kind == "step":
            _refuse_jumps("step")

    @property
    def learned(self) -> bool:
        """Whether the range follows a gradient."""
        return self.lr is not None

    @property
    def measured(self) -> bool:
        """Whether the range is a statistic of the latent weights."""
        return self.factor is not None

    def parameters(self) -> dict[str, Any]:
        """The keys of its kind with their values."""
        return {key: getattr(self, key) for key in RANGE_RULES[self.kind]}

    def check(self, problem) -> None:
        """Refuse a problem that a moving range does not go with."""
        if self.schedule is not None and (jumps := self.schedule.jumps(problem.taus[-1])).size:
            _refuse_jumps(f"a function that jumps at tau = {jumps[0]:.4g}")
        lattice = None if problem.rule.lattice is None else problem.rule.kind
        channels = None if problem.channels is None else f"{len(problem.channels.shares)} channels"
        for name, value, why in (
            ("weights.kind", "none" if problem.weights.is_none else None, "there is nothing to scale"),
            ("weights.latent_clip", problem.latent_clip, "whether its walls move along is not defined"),
            ("rule", lattice, "its lattice stands still"),
            ("channels", channels, "a range for each of them is not implemented"),
        ):
            if value is not None:
                fail(
                    name,
                    f"another with weights.range_rule = {self.kind!r} ({why})",
                    value,
                    "remove one of the two",
                )
        width = problem.weights.range
        if self.measured and not is_traced(width) and np.any(np.asarray(width) != 1):
            if problem.weights.explicit:
                fail("weights.levels", f"1 as the largest absolute level with range_rule = {self.kind!r}, which scales "
                     "them", width, "divide the levels by it")  # fmt: skip
            fail("weights.range", f"no range (in Python 1) with range_rule = {self.kind!r}, which sets it", width,
                 "leave it out; range_factor scales what is measured")  # fmt: skip
        if self.schedule is None:
            return
        for tau in np.linspace(0.0, problem.taus[-1], 101):
            factor = self.schedule(tau)
            if not is_traced(factor) and not (np.all(np.isfinite(factor)) and np.all(np.asarray(factor) > 0)):
                fail("weights.range_schedule", "a factor above 0 at every tau",
                     f"{float(np.min(factor)):g} at tau = {tau:g}", "change it")  # fmt: skip


def _parameters(*, lr, estimator, decay, factor, percentile, schedule):
    """The arguments of `MovingRange` after its kind."""


def _keys(takes) -> str:
    return ", ".join(f"range_{key}" for key in takes)


def _percentile(value):
    value = finite("weights.range_percentile", value)
    if not is_traced(value) and not np.all((np.asarray(value) > 0) & (np.asarray(value) < 100)):
        fail("weights.range_percentile", "a number above 0 and below 100", value, "give one of these")
    return value


def _refuse_jumps(found: str):
    fail("weights.range_schedule", "a continuous schedule (thresholds that jump move many weights at once, which has "
         "another limit)", found, "use 'cosine' or 'inverse'")  # fmt: skip
