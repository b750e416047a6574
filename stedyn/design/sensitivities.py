r"""How an error, a plateau or a time changes with the range, the learning rate or the label noise.

The solver itself is differentiated. A fixed point is the root of ``V = noise_std^2 + error(V, p)``, whose
derivative follows from the implicit function theorem. Of a curve ``error(tau; p)`` the tangent

    ``t(tau) = d error(tau; p) / dp``

is the forward-mode derivative of the grid law, steps and features of the mesh included. What is read off a curve, a
functional ``F[error]``, then changes at the rate ``dF/dp``, which is taken along the tangent:

    ``( F[error exp(+h t/error)] - F[error exp(-h t/error)] ) / (2 h)``,  ``h = STEP p``,

since plateaus are found by comparisons, which have no derivative of their own. No second solve is needed.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import checked, choice, fail, in_float64, positive
from ..code.compiling import Program
from ..curves.objectives import Objective
from ..limit.classes import teacher_points
from ..limit.laws.registry import REFERENCE
from ..limit.limit import derive
from ..limit.stationary import CLASSES, largest_error
from ..problem.problem import Problem
from .predictor import need_fixed_point
from .tangents import TO, moved, of_curve

#: Objectives.
OBJECTIVES = "final-error, error-at=TAU, time-to=ERROR, plateau-length, escape"
#: Classes of a fixed point times levels. Every class bends the error where a level crosses it; the derivative
#: needs more of them than the error itself.
WORK, MOST_CLASSES = 2**14, 4096


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """An objective and its derivative with respect to one parameter, all others kept.

    Attributes
    ----------
    objective, to
        Names of the objective and of the parameter.
    parameter, value
        Of the parameter and of the objective. Errors are without factor 1/2 and label noise, times ``tau = steps / d``.
    derivative
        ``d value / d parameter``.
    elasticity
        ``d ln(value) / d ln(parameter)``: per cent for a per cent. None if the value is 0.
    law
        ``fixed point`` or ``grid``.
    estimate
        Relative error of value and derivative by the law's own estimate, of the latter relative to the larger one of
        itself and ``value / parameter``; for a curve the largest of the error and of its tangent (relative to the
        largest tangent).
    """

    objective: str
    to: str
    parameter: float
    value: float
    derivative: float
    elasticity: float | None
    law: str
    estimate: float

    def to_dict(self) -> dict:
        """The attributes as plain values."""
        return dataclasses.asdict(self)

    def __str__(self):
        rate = "" if self.elasticity is None else f", {self.elasticity:.4g} % for 1 %"
        return (
            f"d({self.objective}) / d({self.to}) = {self.derivative:.5g} at {self.to} {self.parameter:g}, where "
            f"{self.objective} is {self.value:.5g}{rate} ({self.law}, relative error about {self.estimate:.1g})"
        )


@checked(problem=Problem)
@in_float64
def sensitivity(
    problem: Problem, objective: str = "final-error", to: str = "range", *, tol: float = 5e-3
) -> Sensitivity:
    r"""Derivative of an objective with respect to one parameter, by differentiating the solver.

    Parameters
    ----------
    problem : Problem
        Its run is the horizon of what is read off a curve.
    objective : str
        ``final-error`` (of the fixed point), ``error-at=TAU``, ``time-to=ERROR``, ``plateau-length`` or ``escape``
        (both of the longest plateau, see `stedyn.find_plateaus`). Errors are without factor 1/2 and label noise,
        times ``tau = steps / d``.
    to : {"range", "lr", "noise_std"}
        ``weights.range``, ``rule.lr`` or ``noise_std``. All else stays, also a latent clip at the range.
    tol : float
        Relative error of the curve and of its tangent (see `stedyn.solve`); not used by ``final-error``.

    Returns
    -------
    Sensitivity

    Raises
    ------
    ValueError
        If the problem lacks the parameter or the objective (no fixed point, no plateau, an error that is not reached);
        if the objective jumps there, so that it has no derivative; if a rule of your own has jumps that move with lr.

    Notes
    -----
    A fixed point of a discrete teacher, and all that depends on where a curve ends, bends sharply where a level
    crosses a teacher weight: the derivative there holds only for changes of the range below the width of the
    boundary layer, about ``lr k2 V / 2``. Times are read between the steps of the
    solver (`stedyn.curves.dense`).

    References
    ----------
    ``docs/theory.md``, sections 5 to 7.

    Examples
    --------
    >>> from stedyn import Problem, SGD
    >>> s = sensitivity(Problem(noise_std=0.5, rule=SGD(0.5)), "final-error", to="lr")
    >>> print(f"{s.value:.6f} {s.derivative:.6f}")  # lr sigma^2 / (2 - lr), 2 sigma^2 / (2 - lr)^2
    0.083333 0.222222
    """
    problem.alike("sensitivities")
    choice("to", to, tuple(TO))
    positive("tol", tol)
    goal = None if objective == "escape" else _parsed(objective)
    parameter = _parameter(problem, to)
    if goal is not None and not goal.needs_curve:
        need_fixed_point("objective", objective, problem)
        value, derivative, estimate = _final(problem, to, parameter)
        law = "fixed point"
    else:
        value, derivative, estimate = of_curve(problem, goal, objective, to, parameter, tol)
        law = REFERENCE
    elasticity = derivative * parameter / value if value > 0 else None
    return Sensitivity(objective, to, parameter, value, derivative, elasticity, law, estimate)


def _parsed(objective: str) -> Objective:
    kind = str(objective).partition("=")[0]
    if kind not in ("final-error", "error-at", "time-to", "plateau-length"):
        fail("objective", f"one of {OBJECTIVES}", objective, "choose one of these")
    return Objective.parse(objective)


def _parameter(problem: Problem, to: str) -> float:
    """The value of the parameter, checked to be one."""
    if to == "range" and (problem.weights.range is None or problem.weights.explicit is not None):
        fail("to", "a weight quantizer with a range", problem.weights.kind, "choose mid-rise or mid-tread")
    if to == "lr" and problem.rule.kind == "multinomial":
        fail("to", "a rule with a learning rate", problem.rule.kind, "choose range or noise_std")
    if to == "lr":
        _check_rule(problem)
    return float(TO[to](problem))


@Program
def _coefficients(problem: Problem, lr):
    def at(lr):
        limit = derive(moved(problem, "lr", lr), 2)
        return jnp.stack(limit.coefficients(limit.order(limit.power), 0.0)[:3])

    step = 1e-3 * lr
    derivative = jax.jvp(at, (lr,), (jnp.ones_like(lr),))[1]
    return derivative, (at(lr + step) - at(lr - step)) / (2 * step)


def _check_rule(problem: Problem) -> None:
    """Refuse a rule whose jumps move with lr: its quadrature finds them by comparisons, which have no derivative."""
    arrays = problem.timeless
    derivative, expected = (np.asarray(x) for x in _coefficients(arrays, arrays.rule.lr))
    if not np.all(np.abs(derivative - expected) <= 1e-2 * np.max(np.abs(expected), axis=1, keepdims=True)):
        fail("to", "a rule whose jumps stay where they are, as lr changes", f"the rule {problem.rule.kind!r}",
             "take differences of two predictions instead")  # fmt: skip


@Program
def _final_pass(problem: Problem, to: str, classes: int, coarse):
    """Error of the fixed point, its derivative, and what the latter jumps by, up or down, where a level crosses one of
    the values that stand for a continuous teacher.
    """
    _, weights, exact = teacher_points(problem.teacher, folded=False)

    def error(value):
        limit = derive(moved(problem, to, value), classes, coarse)
        grain = jnp.zeros(())
        if to == "range" and not exact:
            grain = jnp.max(weights) * jnp.max(jnp.diff(limit.levels), initial=0.0)
        return largest_error(limit), grain

    value = TO[to](problem)
    return jax.jvp(error, (value,), (jnp.ones_like(value),), has_aux=True)


def _final(problem: Problem, to: str, parameter: float) -> tuple[float, float, float]:
    """Error of the fixed point, its derivative, and the relative error of both, by merging classes."""
    classes = max(CLASSES, min(MOST_CLASSES, WORK // max(1, problem.weights.n_levels)))
    fine, coarse = (
        [float(x) for x in _final_pass(problem.timeless, to, classes, jnp.asarray(flag))]
        for flag in (False, True)
    )
    value, derivative, grain = fine
    if not np.isfinite(value):
        fail("objective", "a problem whose error has a fixed point for 'final-error'",
             "an error that grows without bound", "lower lr")  # fmt: skip
    if value == 0:
        return 0.0, 0.0, 0.0
    if not np.isfinite(derivative):
        fail(
            "objective",
            f"a fixed point that moves smoothly with {to}",
            f"one that meets another at {to} = {parameter:g}, where d error/dV = 1",
            "move the parameter away from it",
        )
    scale = max(abs(derivative), value / parameter if parameter > 0 else 0.0)
    apart = max(abs(coarse[1] - derivative) / 3, grain)
    return value, derivative, max(abs(coarse[0] / value - 1) / 3, apart / scale if scale > 0 else 0.0)
