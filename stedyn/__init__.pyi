from .checks import InputError
from .comparison.comparison import Comparison, compare
from .comparison.measured import Measured
from .curves.plateaus import Plateau, find_plateaus
from .design.choices import Choices
from .design.maps import RangeMap, range_map
from .design.planning import Plan, plan
from .design.plateau_tables import PlateauTable, plateau_table
from .design.ranges import choose
from .design.sensitivities import Sensitivity, sensitivity
from .files.results import load
from .inputs.law import InputLaw
from .limit.fixed_points import FixedPoint, fixed_point
from .limit.solution import Solution, SolveError
from .limit.solver import solve
from .limit.stairs import small_lr_stairs
from .problem.moving_range import MovingRange
from .problem.phases import Phase
from .problem.populations import Channels, Covariance, Start, Teacher
from .problem.problem import Problem, Run
from .quantizers.quantizer import Quantizer
from .rules import SGD, Rule
from .simulation import Ensemble, simulate
from .sweeps.run import sweep

__version__: str
__all__ = [
    "SGD",
    "Channels",
    "Choices",
    "Comparison",
    "Covariance",
    "Ensemble",
    "FixedPoint",
    "InputError",
    "InputLaw",
    "Measured",
    "MovingRange",
    "Phase",
    "Plan",
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
    "load",
    "plan",
    "plateau_table",
    "range_map",
    "sensitivity",
    "simulate",
    "small_lr_stairs",
    "solve",
    "sweep",
]
