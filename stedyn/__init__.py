"""High-dimensional dynamics of quantized SGD: predict, simulate, compare.

>>> import stedyn
>>> p = stedyn.Problem(weights=stedyn.Quantizer(2, 2.0), rule=stedyn.SGD(lr=0.1))
>>> p.weights.n_levels
4
"""

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
__all__ = [
    "SGD",
    "Comparison",
    "Ensemble",
    "FixedPoint",
    "Plateau",
    "Problem",
    "Quantizer",
    "Rule",
    "Run",
    "Solution",
    "SolveError",
    "Start",
    "Teacher",
    "compare",
    "find_plateaus",
    "fixed_point",
    "simulate",
    "small_lr_stairs",
    "solve",
]
