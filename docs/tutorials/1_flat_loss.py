"""
Why is my loss flat?
====================

A student with quantized weights can stand still for a long time and then lose nearly all of its error within moments.
Nothing is wrong with its optimizer: the latent weights move all the time, but none of them has reached the first
threshold of its quantizer, so that the forward pass does not change.
"""

import matplotlib.pyplot as plt
import numpy as np
from stedyn import (
    SGD,
    Problem,
    Quantizer,
    Run,
    Start,
    simulate,
    small_lr_stairs,
    solve,
)


def student(width=1.0, lr=0.02, bits=2):
    """Weights that start near 0, on the middle one of the levels."""
    weights = Quantizer(bits, width, kind="mid-tread")
    return Problem(
        start=Start.gaussian(std=0.02),
        noise_std=0.1,
        weights=weights,
        rule=SGD(lr),
        run=Run(tau=40.0, points=81),
    )


solution = solve(student(), tol=2e-2)
solution

# %%
# The limit of high dimension knows when it ends. Time is ``tau = steps / d``, with ``d`` the number of inputs.

(plateau,) = solution.plateaus()
plateau

# %%
# Simulated, the same student does the same. On the right the part of the weights on every level: while the error is flat, all of
# them are on level 0.

ensemble = simulate(student(), dim=100, seeds=8)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
solution.plot(left)
left.plot(
    ensemble.tau[::4],
    ensemble.error_mean[::4],
    "o",
    color="#D55E00",
    mfc="white",
    label="simulation, d = 100",
)
left.legend(frameon=False)
for level, part in zip((-1, 0, 1), solution.occupancy.T, strict=True):
    right.plot(solution.tau, part, label=f"level {level}")
right.set(xlabel=r"$\tau$ [steps / d]", ylabel="part of the weights")
right.legend(frameon=False)

assert solution.occupancy[solution.tau < plateau.end, 1].min() > 0.9
late = np.abs(ensemble.error_mean - solution.error) / np.maximum(
    ensemble.error_sem, 1e-9
)
assert np.median(late[solution.tau > plateau.end]) < 3

# %%
# How long it lasts, in closed form
# ---------------------------------
#
# A weight drifts at the speed ``lr w*`` over half a step of the quantizer. So the curve escapes near ``step / (2 lr w*)``.

closed = small_lr_stairs(student())[0].leave
assert abs(closed - 25) < 1e-6
assert abs(plateau.escape / closed - 1) < 0.05
print(f"closed form {closed:.1f}, limit {plateau.escape:.1f}")

# %%
# What helps
# ----------
#
# Half the range halves the wait, and so does twice the learning rate; a third bit divides it by three. A range that is
# too narrow has a price at the end, which is the subject of the next pages.

cases = {
    "as above": student(),
    "half the range": student(0.5),
    "and twice the rate": student(0.5, lr=0.04),
}
curves = {name: solve(problem, tol=2e-2) for name, problem in cases.items()}
figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, curve in curves.items():
    ax.semilogy(
        curve.tau,
        curve.error,
        label=f"{name}: escape at {curve.plateaus()[0].escape:.1f}",
    )
ax.set(xlabel=r"$\tau$ [steps / d]", ylabel="generalization error")
ax.legend(frameon=False)

for name, factor in (("half the range", 2), ("and twice the rate", 4)):
    assert (
        abs(factor * curves[name].plateaus()[0].escape / plateau.escape - 1) < 0.1
    )
assert abs(3 * small_lr_stairs(student(bits=3))[0].leave / closed - 1) < 1e-6
