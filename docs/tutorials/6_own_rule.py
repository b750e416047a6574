"""
A rule of your own
==================

An update rule is its move, a function of residual and input of one coordinate. Its limit follows from that by quadrature; nothing has
to be derived. Here: gradients clipped at 0.5.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from stedyn import SGD, Problem, Rule, Run, simulate, solve


class Clipped(Rule):
    """``lr clip(r phi, -threshold, threshold)``."""

    kind = "clipped"
    product = True  # a function of the gradient r phi alone
    threshold: float = 1.0

    def move(self, r, phi, u, tau):
        return self.rate(tau) * jnp.clip(r * phi, -self.threshold, self.threshold)


run = Run(tau=20.0, points=41)
problem = Problem(noise_std=0.5, rule=Clipped(lr=0.3, threshold=0.5), run=run)
clipped, plain = (
    solve(problem),
    solve(Problem(noise_std=0.5, rule=SGD(lr=0.3), run=run)),
)

# %%
# Prediction and simulation share the move and nothing else.

ensemble = simulate(problem, dim=100, seeds=16)
gap = (ensemble.error_mean - clipped.error) / ensemble.error_sem
print(f"gap at the end: {gap[-1]:.1f} standard errors")
assert abs(gap[-1]) < 3.5

# %%
# Clipping acts as a smaller rate while residuals are large, and recovers as they fall. ``effective_step`` is that rate over the one of SGD.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.semilogy(plain.tau, plain.error, label="SGD")
left.semilogy(clipped.tau, clipped.error, label="clipped")
left.errorbar(
    clipped.tau,
    ensemble.error_mean,
    2 * ensemble.error_sem,
    fmt="o",
    mfc="white",
    ms=4,
    label="clipped, simulated",
    zorder=0,
    color="0.3",
)
left.set(xlabel=r"$\tau$ [steps / d]", ylabel="generalization error")
right.plot(clipped.tau, clipped.effective_step)
right.set(xlabel=r"$\tau$ [steps / d]", ylabel="rate over that of SGD", ylim=(0, 1))
left.legend(frameon=False)

assert np.all(np.diff(clipped.effective_step) > 0)
assert 1.5 * clipped.effective_step[0] < clipped.effective_step[-1] < 1
assert clipped.error[10] > plain.error[10]
print(f"from {clipped.effective_step[0]:.2f} to {clipped.effective_step[-1]:.2f}")
