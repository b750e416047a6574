"""Update rules: how one coordinate moves, and the coefficients of the limit that follow from it.

`Rule` is the seam; a rule of your own is a subclass with `Rule.move`. ``RULES`` holds the kinds that a
problem file can name. BinaryConnect is `SGD` with quantized weights.
"""

from .adam import Adam
from .base import Coefficients, Order, Response, Rule
from .linear import SGD, Shrinkage
from .memory import Memory, Seen
from .momentum import WithMomentum
from .multinomial import Multinomial
from .quadrature import Profile
from .rounding import DeterministicRounding, QuantizedGradient, Sign, StochasticRounding
from .schedules import SCHEDULES, Constant, Cosine, Custom, Inverse, Schedule, Step
from .signum import Signum

__all__ = [
    "RULES",
    "SCHEDULES",
    "SGD",
    "Adam",
    "Coefficients",
    "Constant",
    "Cosine",
    "Custom",
    "DeterministicRounding",
    "Inverse",
    "Memory",
    "Multinomial",
    "Order",
    "Profile",
    "QuantizedGradient",
    "Response",
    "Rule",
    "Schedule",
    "Seen",
    "Shrinkage",
    "Sign",
    "Signum",
    "Step",
    "StochasticRounding",
    "WithMomentum",
]

RULES: dict[str, type[Rule]] = {
    rule.kind: rule
    for rule in (
        SGD,
        Shrinkage,
        QuantizedGradient,
        DeterministicRounding,
        StochasticRounding,
        Sign,
        Multinomial,
        Adam,
        Signum,
    )
}
