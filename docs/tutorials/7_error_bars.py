"""
One run and its error bars
==========================

A run of finite dimension strays from the limit by ``1 / sqrt(d)``. The limit knows by how much, so that one run of yours can be
held against it, and an experiment can be planned before anything is trained.
"""

import matplotlib.pyplot as plt
import numpy as np
from stedyn import SGD, Problem, Quantizer, Run, Start, simulate, solve

# the student of the first tutorial
problem = Problem(
    start=Start.gaussian(std=0.02), noise_std=0.1, weights=Quantizer(2, 1.0, kind="mid-tread"), rule=SGD(0.02),
    run=Run(tau=40.0, points=81),
)  # fmt: skip
solution = solve(problem, dim=100, tol=2e-2)
(escape,), (escape_std,) = (
    [p.escape for p in solution.plateaus()],
    solution.spread.escape_std,
)
print(f"escape of one run at d = 100: {escape:.1f} +- {escape_std:.1f}")

# %%
# Eight runs, each with a teacher, a start and samples of its own, beside the band of one predicted standard deviation.

ensemble = simulate(problem, dim=100, seeds=8)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(ensemble.tau, ensemble.error.T, color="#D55E00", lw=0.6, alpha=0.7)
solution.plot(left)
right.plot(solution.tau, solution.error_std, label="limit")
right.plot(
    ensemble.tau,
    ensemble.error.std(axis=0, ddof=1),
    "o",
    mfc="white",
    ms=4,
    markevery=4,
    label="8 runs",
)
right.set(xlabel=r"$\tau$ [steps / d]", ylabel="standard deviation of the error")
right.legend(frameon=False)

# %%
# A standard deviation of 8 runs is itself known to 27 %. During the escape, where runs stray most, both agree within that.

middle = np.abs(solution.tau - escape) < 4
ratio = (
    ensemble.error.std(axis=0, ddof=1)[middle].mean()
    / solution.error_std[middle].mean()
)
print(f"simulated over predicted: {ratio:.2f}")
assert abs(ratio - 1) < 0.27

# %%
# A band of two standard deviations around the limit is what a correct run should stay in, nearly always; here during the escape.

gaps = np.abs(ensemble.error - solution.error)[:, middle]
inside = gaps < 2 * solution.error_std[middle]
print(f"inside: {inside.mean():.0%}")
assert inside.mean() > 0.9

# %%
# ``stedyn plan`` turns this into a number of seeds for a difference that you want to see: :doc:`/width`. For a run of your own,
# ``stedyn compare --data log.csv --dim 100`` draws and tests this: :doc:`/measured`.
