"""High-dimensional dynamics of quantized SGD: predict, simulate, compare.

>>> import stedyn
>>> p = stedyn.Problem(weights=stedyn.Quantizer(2, 2.0), rule=stedyn.SGD(lr=0.1))
>>> p.weights.n_levels
4
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._check import InputError
    from .choices import Choices
    from .compare import Comparison, compare
    from .fixed_points import FixedPoint, fixed_point
    from .maps import RangeMap, range_map
    from .plateau import Plateau, find_plateaus
    from .plateau_table import PlateauTable, plateau_table
    from .populations import Covariance, Start, Teacher
    from .problem import Problem, Run
    from .quantizers import Quantizer
    from .ranges import choose
    from .rules import SGD, Rule
    from .sensitivities import Sensitivity, sensitivity
    from .simulate import Ensemble, simulate
    from .solution import Solution, SolveError
    from .solve import solve
    from .stairs import small_lr_stairs
    from .sweep import sweep

__version__ = "0.1.0"
__all__ = [
    "SGD",
    "Choices",
    "Comparison",
    "Covariance",
    "Ensemble",
    "FixedPoint",
    "InputError",
    "Plateau",
    "PlateauTable",
    "Problem",
    "Quantizer",
    "RangeMap",
    "Rule",
    "Run",
    "Sensitivity",
    "Solution",
    "SolveError",
    "Start",
    "Teacher",
    "choose",
    "compare",
    "find_plateaus",
    "fixed_point",
    "plateau_table",
    "range_map",
    "sensitivity",
    "simulate",
    "small_lr_stairs",
    "solve",
    "sweep",
]

#: Where the public names live. Each is imported when first used: help and faults of the command line
#: need not wait for the solvers.
_HOME = {
    "_check": ("InputError",),
    "choices": ("Choices",),
    "compare": ("Comparison", "compare"),
    "fixed_points": ("FixedPoint", "fixed_point"),
    "maps": ("RangeMap", "range_map"),
    "plateau": ("Plateau", "find_plateaus"),
    "plateau_table": ("PlateauTable", "plateau_table"),
    "populations": ("Covariance", "Start", "Teacher"),
    "problem": ("Problem", "Run"),
    "quantizers": ("Quantizer",),
    "ranges": ("choose",),
    "rules": ("SGD", "Rule"),
    "sensitivities": ("Sensitivity", "sensitivity"),
    "simulate": ("Ensemble", "simulate"),
    "solution": ("Solution", "SolveError"),
    "solve": ("solve",),
    "stairs": ("small_lr_stairs",),
    "sweep": ("sweep",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}


class _Package(types.ModuleType):
    """The package; a submodule does not take the place of the function that has its name."""

    def __setattr__(self, name, value):
        if not (name in _MODULE and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name):
        if name not in _MODULE:
            raise AttributeError(f"module 'stedyn' has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_MODULE[name]}", __name__), name)


sys.modules[__name__].__class__ = _Package
