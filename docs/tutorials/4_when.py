"""
Quantize from the start or later?
=================================

A budget of training can be spent in float up to a switch and with quantized weights from then on. A switch at the start is
quantization-aware training, one at the end is rounding without further training.
"""

import matplotlib.pyplot as plt
import numpy as np
from stedyn import SGD, Phase, Problem, Quantizer, Run, Start, Teacher, solve

weights, target = Quantizer(2, 1.0), 0.8  # between the levels 1/3 and 1


def final_error(budget, switch):
    """The error of the quantized weights at the end of the budget."""
    rounded = switch == budget
    problem = Problem(
        Teacher.constant(target), Start.gaussian(std=0.1), noise_std=0.1, rule=SGD(0.1),
        weights=weights if switch == 0 else None,
        phases=[Phase(switch, weights=weights)] if 0 < switch < budget else [],
        ptq=weights if rounded else None,
        run=Run(taus=[0.0, 0.999 * budget, budget]),
    )  # fmt: skip
    solution = solve(problem, tol=5e-2)
    return float((solution.ptq_error if rounded else solution.error)[-1])


# %%
# A short budget, which does not suffice for float training, and a long one.

parts = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
errors = {}
for budget in (16.0, 60.0):
    errors[budget] = np.array(
        [final_error(budget, part * budget) for part in parts]
    )
    ax.plot(parts, errors[budget], marker="o", label=rf"budget $\tau$ = {budget:g}")
    best = errors[budget].argmin()
    ax.plot(
        parts[best], errors[budget][best], marker="*", ms=14, color="k", ls="none"
    )
ax.set(
    xlabel="part of the budget in float",
    ylabel="final error, quantized",
    ylim=(0, None),
)
ax.legend(frameon=False)

# %%
# * With the short budget the best switch (the star) is in between: the level of a quantized weight is wrong until the weight crosses its
#   threshold, and that keeps its drift up, while in float it slows down as it nears the teacher.
# * With the long one it is at the very end. Rounding puts the weight on the nearest level, at the distance ``x = 0.2``, once and for all.
#   Trained on, it goes to the threshold and its level chatters between two: right on average, at the price ``x (step - x)``.

short, long = errors.values()
assert 0 < parts[short.argmin()] < 1
assert parts[long.argmin()] == 1
x, step = 0.2, float(weights.step)
assert abs(long[-1] / x**2 - 1) < 0.02
assert abs(long[0] / (x * (step - x)) - 1) < 0.02
print(f"rounding costs {x**2:.3f} and chattering {x * (step - x):.3f}")

# %%
# One value of the teacher makes this sharp, and independent inputs let no weight make up for another. The figure for Gaussian teachers, with
# simulations, is in :doc:`/phases`.
