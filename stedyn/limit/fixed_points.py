"""Fixed points of the limit: where a curve ends, what quantization adds there, and whether it is stable."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.optimize import brentq

from ..checks import Failure, InputError, checked, in_float64, whole
from ..code.compiling import Program
from ..files.results import Result
from ..problem.problem import Problem
from .limit import Limit, derived
from .modes import Held
from .refused import check_settles
from .roots import Searched, error_and_slope, find_roots
from .stability import FROZEN, Spectrum, spectrum
from .stationary import Stationary, stationary

if TYPE_CHECKING:
    import pandas as pd

#: A curve whose error differs by this part of the larger one is not at its fixed point.
AWAY = 0.02
#: Teacher classes whose densities are followed for the stability.
FOLLOWED = 64


class FixedPoint(Result, eqx.Module):
    """A fixed point of the limit.

    Attributes
    ----------
    error : float
        Generalization error.
    excess : float
        ``error`` minus the fixed point of the same problem with unquantized weights, which for SGD is
        ``rho (1 - k1^2/k2) + lr k2 s^2 / (2 - lr k2)``, ``s^2 = noise_std^2 + rho (1 - k1^2/k2)`` for inputs of one
        variance.
    unquantized_error : float or None
        That fixed point; None (as ``excess``) if lr is above its ceiling, so that only quantization holds
        the weights.
    saturated_fraction : float
        Probability of the teacher values with ``|a c| >= b max|psi|``: their weights leave the range. (Inputs with a
        mean pull with the drift that holds the mean outputs together, too.)
    slope : float
        ``d error / d V`` of the stationary law; a fixed point with a slope above 1 is unstable.
    stable : bool
        Whether a small change of the densities dies out.
    relaxation_time : float or None
        A small change of the error shrinks by a factor e in this time (``tau = steps / d``) in the end:
        ``-1 / Re(leading eigenvalue)`` of the linearized limit. None if it does not die out exponentially; ``status``
        says why.
    oscillates : bool
        Whether that eigenvalue is complex, with the ``period`` (float or None) in ``tau``.
    lr_ceiling : float or None
        Largest lr with a fixed point, ``2 / k2`` for SGD with a linear ``psi`` (with momentum that over
        `Rule.gain`), and ``2 / (k2 + E[phi]^2)`` for inputs with a mean; None if ``psi`` is bounded, when no such
        ceiling applies.
    others : tuple of float
        Errors of further fixed points, if the equation has several; the reported one has the largest error.
    kappa, mean_mode : float or None
        Of inputs with a mean: how strongly a step pulls the mean output back, and its part of the error
        (``docs/inputs.md``).
    searched : Searched
        Where they were looked for.
    minimum : tuple of float or None
        ``(tau, error)`` where the curve of a given solution is lowest, if that lies below the fixed point.
    horizon : tuple or None
        ``(tau, error)`` at the end of a given solution.
    status : str
    """

    error: float
    excess: float | None
    unquantized_error: float | None
    saturated_fraction: float
    slope: float
    stable: bool
    relaxation_time: float | None
    oscillates: bool
    period: float | None
    lr_ceiling: float | None
    others: tuple[float, ...]
    searched: Searched
    minimum: tuple[float, float] | None
    horizon: tuple[float, float] | None
    outcome: str
    kappa: float | None = None
    mean_mode: float | None = None

    @property
    def status(self) -> str:
        """What a curve does at the fixed point, in a sentence or two."""
        tau, error = self.horizon or (0.0, self.error)
        if abs(error - self.error) <= AWAY * max(self.error, error):
            return self.outcome
        return f"{self.outcome} At the horizon tau = {tau:.4g} the curve is not there but at {error:.4g}."

    def beside(self, solution) -> FixedPoint:
        """The same with the end of a `Solution` of the problem, and its minimum if that lies below the fixed point."""
        lowest, end = solution.minimum, (float(solution.tau[-1]), solution.final_error)
        return dataclasses.replace(self, minimum=lowest if lowest[1] < self.error else None, horizon=end)

    def to_dict(self) -> dict:
        """The attributes as plain values; ``minimum`` and ``horizon`` with ``tau`` and ``error``."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del record["outcome"]
        for name in ("minimum", "horizon"):
            if record[name] is not None:
                record[name] = dict(zip(("tau", "error"), record[name], strict=True))
        return record | {
            "others": list(self.others),
            "searched": self.searched._asdict(),
            "status": self.status,
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row: the attributes that are single values."""
        import pandas as pd  # slow to import

        return pd.DataFrame([{k: v for k, v in self.to_dict().items() if not isinstance(v, (dict, list))}])

    def _summary(self) -> str:
        kind = "stable" if self.stable else "unstable"
        return f"error {self.error:.6g}, {kind}, {self._back}"

    @property
    def _back(self) -> str:
        time = self.relaxation_time
        return "no relaxation time" if time is None else f"relaxation time {time:.4g}"

    def _draw(self, ax) -> None:
        from ..drawing.axes import fixed_point

        fixed_point(ax, self)

    def __str__(self):
        ceiling = (
            "no ceiling of lr (psi or the rule is bounded)"
            if self.lr_ceiling is None
            else f"lr below {self.lr_ceiling:.4g}"
        )
        over = "unquantized weights would diverge"
        if self.excess is not None:
            over = f"excess {self.excess:.6g} over unquantized weights ({self.unquantized_error:.6g})"
        tau, lowest = self.minimum or (None, None)
        lower = "" if tau is None else f"\nthe curve passes below it: error {lowest:.6g} at tau = {tau:.4g}"
        back = self._back
        if self.period is not None:
            back += f", oscillating with period {self.period:.4g}"
        more = "; further ones at " if self.others else ""
        more += ", ".join(f"{error:.6g}" for error in self.others)
        if self.kappa is not None:
            more += f"\nkappa {self.kappa:.4g}: the mean output makes {self.mean_mode:.6g} of the error"
        low, high, points = self.searched
        return (
            f"fixed point: error {self.error:.8g}, {over}{lower}\nsaturated fraction {self.saturated_fraction:.4g}; "
            f"d error/dV = {self.slope:.4g}; {back}; {ceiling}\n"
            f"searched errors from {low:.3g} to {high:.3g} at {points} points{more}\n{self.status}"
        )


@Program
def _drift(limit: Limit, error) -> tuple[Array, Array, Stationary]:
    """The drift ``a c`` of every class, with that of the mean outputs, ``b`` (C,) and the law at a fixed point."""
    V = limit.noise_var + error
    a, b, *_ = limit.coefficients(limit.order_at(V), jnp.inf)
    law = stationary(limit, V)
    return a * limit.teacher + law.push * limit.mean, b, law


def _ceiling(limit: Limit, final: float) -> float | None:
    """The largest rate, in the limit, with a fixed point of weights that are not quantized; None without one.

    ``S = D / (2 b)``: the error reproduces itself once ``lr k2 = 2``; ``kappa`` comes nearer to 2 before.
    """
    far = 1e7 * limit.power  # where rounding no longer matters, and a bounded rule does not grow
    alone = dataclasses.replace(limit, has_mean=False)
    slope = float(error_and_slope(alone, far)[1])
    if not np.isfinite(slope):
        slope = final * float(limit.share @ limit.k2) / 2
    if slope < 1e-3 * final:
        return None
    if not limit.has_mean:
        return final / slope / float(limit.rule.gain)
    B, kappa = limit.rule.batch, float(limit.shift(jnp.inf) * (limit.share @ limit.mean**2)) / final

    def gap(rate):  # times 2 - kappa
        left = 2 - kappa * rate
        return slope * rate / final * (left + kappa * rate / B) - left

    return float(brentq(gap, 0.0, 2 / kappa))


@checked(problem=Problem)
@in_float64
def fixed_point(problem: Problem, *, classes: int = 512) -> FixedPoint:
    """Fixed point of the limit of a problem; of one with phases that of the last.

    Parameters
    ----------
    problem : Problem
    classes : int
        Number of teacher classes of a Gaussian or measured teacher.

    Raises
    ------
    ValueError
        If lr is above its ceiling; for a rule of your own whose move has a mean; or for a surrogate
        derivative that vanishes beyond the range: what remains depends on the start and on how long one waits.
    """
    return settled(problem, classes)


def settled(problem: Problem, classes: int = 512, compared: bool = True) -> FixedPoint:
    """`fixed_point`, not ``compared`` to unquantized weights if that (another program) is not needed."""
    problem = problem.parts[-1]
    problem.alike("a fixed point")
    whole("classes", classes, 2, 4096)
    check_settles(problem)
    final = float(problem.rule.rate(jnp.inf))
    limit = derived(problem.timeless, classes + classes % 2)
    found, searched, freezes = find_roots(limit)
    linear = problem.weights.is_none and problem.latent_clip is None
    base = found if linear else []
    if compared and not linear:
        base = find_roots(derived(problem.unquantized().timeless, classes + classes % 2))[0]
    ceiling = _ceiling(limit, final) if linear else None
    if freezes and found[0][0] >= searched.high * (1 - 1e-9):
        raise InputError(
            f"rule: expected one that moves weights at some error for a fixed point, found {problem.rule.kind!r}, with "
            "which they all stay at the start; raise lr or lower delta."
        )
    if not found and ceiling is None:
        raise Failure(
            "No fixed point was found: the numbers of the problem lie too far apart for double precision."
        )
    if not found:
        raise InputError(
            f"rule.lr: expected a rate below its ceiling {ceiling:.6g}, found {final / float(problem.rule.gain):g}, "
            "with which the error grows without bound and there is no fixed point; lower it."
        )
    error, slope = found[-1]
    pull, b, law = jax.tree.map(np.asarray, _drift(limit, jnp.asarray(error)))
    saturated = 0.0
    if problem.weights.n_levels:
        ends = [b * np.asarray(limit.levels[k]) * (1 - 1e-12) for k in (0, -1)]
        saturated = float(np.asarray(limit.share) @ ((pull <= ends[0]) | (pull >= ends[1])))
    reference = base[-1][0] if base else None
    back = Spectrum(None, FROZEN)
    if not freezes or len(found) > 1:
        few = derived(problem.timeless, min(FOLLOWED, classes + classes % 2))
        V = max(error + float(limit.noise_var), 1e-10 * float(limit.scale))
        back = spectrum(limit, few, V, Held(float(law.push), float(law.kappa), V) if limit.has_mean else None)
    return FixedPoint(
        error=error,
        excess=None if reference is None else error - reference,
        unquantized_error=reference,
        saturated_fraction=saturated,
        slope=slope,
        lr_ceiling=ceiling,
        others=tuple(other for other, _ in found[:-1]),
        kappa=float(law.kappa) if limit.has_mean else None,
        mean_mode=float(law.mean_mode) if limit.has_mean else None,
        searched=searched,
        minimum=None,
        horizon=None,
        **_verdict(error < 1e-12 * float(limit.power), back, slope),
    )


def _verdict(vanishes: bool, back: Spectrum, slope: float) -> dict:
    """``stable, relaxation_time, oscillates, period, outcome`` of the leading eigenvalue, or without one the slope."""
    value = back.leading
    rate = None if value is None else value.real
    stable = slope < 1 if rate is None else rate < 0
    oscillates = value is not None and abs(value.imag) > 1e-6 * abs(value)
    if value is None:
        end = back.reason
    elif rate < 0:
        end = f"relaxation takes tau = {-1 / rate:.3g} for a factor e"
    else:
        end = "a small excess error grows" + (f" by a factor e in tau = {1 / rate:.3g}" if rate > 0 else "")
    start = f"The fixed point is {'stable' if stable else 'unstable'}"
    if vanishes:
        start = "The error vanishes: the weights settle on levels that fit the teacher exactly"
    return dict(
        stable=stable,
        relaxation_time=-1 / rate if rate is not None and rate < 0 else None,
        oscillates=oscillates,
        period=2 * np.pi / abs(value.imag) if oscillates else None,
        outcome=f"{start}; {end}.",
    )
