"""
Learned or fixed range?
=======================

LSQ and PACT learn the range with the weights. Where does it end, and is it worth it?
"""

import matplotlib.pyplot as plt
from stedyn import SGD, MovingRange, Problem, Quantizer, Run, Teacher, solve

# from ``stedyn choose --bits 2`` for this teacher, rate and noise
best, least_rounding = 1.27, 1.494


def student(width, moving=None):
    """2-bit weights, a Gaussian teacher and start."""
    return Problem(
        Teacher.gaussian(1.0), weights=Quantizer(2, width), noise_std=0.1, rule=SGD(0.1), range_rule=moving,
        run=Run(tau=40.0, points=41),
    )  # fmt: skip


# %%
# The range starts at half of the one of least rounding error, with a rate of its own.

curves = {
    "learned (LSQ)": solve(
        student(0.5 * least_rounding, MovingRange("learned", lr=0.5)), tol=5e-2
    ),
    "fixed, where it started": solve(student(0.5 * least_rounding), tol=5e-2),
    "fixed, best": solve(student(best), tol=5e-2),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for name, curve in curves.items():
    left.semilogy(curve.tau, curve.error, label=name)
learned = curves["learned (LSQ)"]
right.plot(learned.tau, learned.range, label="learned")
for width, text in ((least_rounding, "least rounding error"), (best, "best")):
    right.axhline(width, color="0.5", ls=":")
    right.text(0.5, width + 0.01, text, color="0.4")
left.set(xlabel=r"$\tau$ [steps / d]", ylabel="generalization error")
right.set(xlabel=r"$\tau$ [steps / d]", ylabel="range", ylim=(0, 1.7))
left.legend(frameon=False, fontsize="small")

# %%
# As long as the weights know little, a small output is best and the range falls. Then it grows to a place between the two, where
# the error is within 5 % of that of the best fixed range and far below that of the one it started from. A fixed range from ``stedyn choose`` does as well and learns nothing.

ends = {name: curve.final_error for name, curve in curves.items()}
assert best < learned.range[-1] < least_rounding
assert abs(ends["learned (LSQ)"] / ends["fixed, best"] - 1) < 0.05
assert learned.range.min() < 0.8 * learned.range[0]
assert 1.5 * ends["learned (LSQ)"] < ends["fixed, where it started"]
print(f"range at the end {learned.range[-1]:.2f}")
for name, error in ends.items():
    print(f"{name:30s}{error:.4f}")

# %%
# Start too narrow rather than too wide, and give the range a rate of its own: :doc:`/moving-ranges` says why.
