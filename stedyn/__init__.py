"""High-dimensional dynamics of quantized SGD: predict, simulate, compare.

>>> import stedyn
>>> p = stedyn.Problem(weights=stedyn.Quantizer(2, 2.0), rule=stedyn.SGD(lr=0.1))
>>> p.weights.n_levels
4
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compare import Comparison, compare
    from .fixed_points import FixedPoint, fixed_point
    from .plateau import Plateau, find_plateaus, small_lr_stairs
    from .problem import Problem, Run, Start, Teacher
    from .quantizers import Quantizer
    from .rules import SGD, Rule
    from .simulate import Ensemble, simulate
    from .solution import Solution, SolveError
    from .solve import solve

__version__ = "0.1.0"

#: Public names and the modules they live in; each is imported when it is first used.
_HOME = {
    "compare": ("Comparison", "compare"),
    "fixed_points": ("FixedPoint", "fixed_point"),
    "plateau": ("Plateau", "find_plateaus", "small_lr_stairs"),
    "problem": ("Problem", "Run", "Start", "Teacher"),
    "quantizers": ("Quantizer",),
    "rules": ("SGD", "Rule"),
    "simulate": ("Ensemble", "simulate"),
    "solution": ("Solution", "SolveError"),
    "solve": ("solve",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)  # pyright: ignore


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module 'stedyn' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE[name]}", __name__), name)
