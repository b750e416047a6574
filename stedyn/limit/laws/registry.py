"""The registry of laws, which `solve`, sweeps, design and the command line read.

What computes is imported when it is asked for, since the command line answers faults at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...checks import InputError, choice
from .law import Law, Solved

if TYPE_CHECKING:
    from ...problem.problem import Problem

#: The law that estimates and refines its own error, for all problems.
REFERENCE = "grid"


class Grid(Law):
    def check(self, problem, asked):
        if any(leg.kept for leg in asked.legs) and problem.channels is not None:
            problem.alike("densities")

    def solve(self, problem, asked):
        from ..refinement import grid_curves

        return Solved(*grid_curves(problem, *asked))


class Mixture(Law):
    def exact(self, problem):
        return (
            problem.weights.is_none
            and problem.latent_clip is None
            and not problem.surrogate.ends
            and problem.channels is None
            and not (problem.means == "kept" and problem.rule.schedule is not None)
        )

    def check(self, problem, asked):
        _check_moves("mixture", problem)
        if problem.means == "kept" and not (problem.weights.is_none and problem.rule.schedule is None):
            raise InputError(
                "law: expected 'grid' with inputs that have a mean and quantized weights or a schedule, found "
                "'mixture', which does not know the density at the thresholds; choose 'grid'."
            )
        if problem.surrogate.ends or problem.latent_clip is not None:
            raise InputError(
                "law: expected 'grid' or 'fluid' with the clipped estimator or a latent clip, found 'mixture', whose "
                "Gaussian classes know no edge; choose 'grid'."
            )

    def solve(self, problem, asked):
        from .mixture import mixture_curves

        return mixture_curves(problem, asked)


class Fluid(Law):
    densities = False

    def check(self, problem, asked):
        from .fluid import check_drift

        _check_moves("fluid", problem)
        if problem.means == "kept":
            raise InputError(
                "law: expected 'grid' with inputs that have a mean, found 'fluid', in which the mean output does not "
                "fluctuate; choose 'grid'."
            )
        if any(leg.kept for leg in asked.legs):
            raise InputError(
                "densities: expected none with law = 'fluid', which has no density; choose 'grid'."
            )
        if not asked.traced:
            check_drift(problem, asked.legs[-1].taus[-1])

    def solve(self, problem, asked):
        from .fluid import fluid_curves

        return fluid_curves(problem, asked)


def _check_moves(name: str, problem: Problem) -> None:
    problem.alike(f"law = {name!r}")
    if problem.surrogate.smooth:
        raise InputError(
            f"law: expected 'grid' with weights.ste = {problem.ste!r}, found {name!r}, which knows moves of "
            "one size only; choose 'grid'."
        )


LAWS: dict[str, Law] = {"grid": Grid(), "mixture": Mixture(), "fluid": Fluid()}


def names() -> tuple[str, ...]:
    """What may be asked for."""
    return ("auto", *LAWS)


def chosen(name: str, problem: Problem) -> str:
    """The law of this name for a problem; "auto" is the first that is exact for it, or the reference."""
    if choice("law", name, names()) != "auto":
        return name
    exact = (other for other, law in LAWS.items() if all(law.exact(part) for part in problem.parts))
    return next(exact, REFERENCE)


def has_densities(name: str, problem: Problem) -> bool:
    """Whether a law, or the one that "auto" may choose, has densities for a problem."""
    return problem.channels is None and (name not in LAWS or LAWS[name].densities)
