"""At what width is a fast range at its limit: thresholds that fluctuate.

A range learned with LSQ's own gradient scale is fast: ``R <- R + range_lr f / sqrt(d)``, where a step's ``f`` has the
mean ``F(R) = <(w* - psi) e>`` and the variance ``V <e^2>``. At width ``d`` it fluctuates about its place with the
variance ``s^2 = range_lr V <e^2> / (2 lambda sqrt(d))``, ``lambda = -dF/dR``. So ``s`` falls like ``d^(-1/4)``, and
thresholds move by as much. Where that is wide beside the layer of weights that chatter at a threshold (about ``lr V``),
the error does not follow a power of ``d``.

`fluctuating` is a limit of its own, in NumPy and SciPy alone: the densities of 2-bit weights, with all averages over
``R + N(0, s^2)``, too, and ``s`` at every time from the formula. Beside it: the limit (``s = 0``), and simulations at
several widths. A fixed range, as a control, has no such gap. The problem is that of ``learned_range.py`` at 2 bits.
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from learned_range import COLOURS, TAIL, cases, late_error
from scipy.linalg import solve_banded
from scipy.optimize import brentq
from scipy.stats import norm

from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.simulation import simulate

#: Widths, with the number of seeds of each.
WIDTHS = {"fixed": {250: 128, 1000: 64}, "fast": {250: 128, 1000: 64, 4000: 32}}
LR, NOISE, RANGE_LR = 0.1, 0.1, 1.0
#: Nodes and weights of a Gaussian, for the range.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class Fluctuating:
    """Densities of latent weights, one a teacher value, under a 2-bit mid-rise quantizer whose range fluctuates."""

    def __init__(self, cell: float, classes: int):
        self.cell, self.w = cell, np.arange(-7.0, 7.0 + cell / 2, cell)
        self.sub = self.w[:, None] + cell * ((np.arange(8) + 0.5) / 8 - 0.5)
        self.teacher = np.linspace(-4.8, 4.8, classes)
        self.share = norm.pdf(self.teacher) / norm.pdf(self.teacher).sum()
        start = np.exp(-0.5 * ((self.w - 0.8 * self.teacher[:, None]) / 0.3) ** 2)
        self.density = start / start.sum(axis=1, keepdims=True)

    def at(self, width: float):
        """Force on the range, error, mean square of the estimator, output of every cell, at one range."""
        psi = np.sign(self.sub) * np.where(np.abs(self.sub) > 2 * width / 3, width, width / 3)
        e = np.where(np.abs(self.sub) < width, psi - self.sub, psi) / width
        mean, square, slope, both, strength = (
            (psi**i * e**j).mean(axis=1) for i, j in ((1, 0), (2, 0), (0, 1), (1, 1), (0, 2))
        )
        all_weights, with_teacher = self.share @ self.density, (self.share * self.teacher) @ self.density
        force = with_teacher @ slope - all_weights @ both
        return force, 1.0 - 2 * with_teacher @ mean + all_weights @ square, all_weights @ strength, mean

    def averaged(self, width: float, std: float) -> tuple:
        """The same, averaged over ``N(width, std^2)``."""
        if std == 0:
            return self.at(width)
        each = [self.at(width + std * node) for node in NODES]
        return tuple(
            sum(g * x for g, x in zip(WEIGHTS, values, strict=True)) for values in zip(*each, strict=True)
        )

    def force(self, width: float, std: float) -> float:
        """The mean force on the range."""
        return self.averaged(width, std)[0]

    def step(self, psi, error: float, dtau: float) -> None:
        """A backward step of all densities with exponentially fitted fluxes."""
        diffusion, rates = LR**2 * (error + NOISE**2) / 2, np.zeros((3, self.w.size))
        for k, c in enumerate(self.teacher):
            z = LR * (c - (psi[1:] + psi[:-1]) / 2) * self.cell / diffusion
            z = np.where(np.abs(z) < 1e-8, 1e-8, z)
            right, left = (
                dtau * diffusion / self.cell**2 * y / np.expm1(np.minimum(y, 500.0)) for y in (-z, z)
            )
            rates[1] = 1.0
            rates[1, :-1] += right
            rates[1, 1:] += left
            rates[0, 1:], rates[2, :-1] = -left, -right
            self.density[k] = solve_banded((1, 1), rates, self.density[k])


def fluctuating(dim: float, tau: float, cell: float = 0.004, classes: int = 49, dtau: float = 0.05) -> tuple:
    """Error, range and its standard deviation, means over the last quarter of a run at width ``dim``."""
    state, width, std, late = Fluctuating(cell, classes), 1.49, 0.0, []
    for _ in range(round(tau / dtau)):
        width = brentq(state.force, 0.7 * width, 1.4 * width, (std,), xtol=1e-5)
        _, error, strength, psi = state.averaged(width, std)
        late.append((error, width, std))
        if np.isfinite(dim):
            stiffness = (state.force(width - 0.06, std) - state.force(width + 0.06, std)) / 0.12
            std = np.sqrt(RANGE_LR * (error + NOISE**2) * strength / (2 * stiffness * np.sqrt(dim)))
        state.step(psi, error, dtau)
    return tuple(np.mean(late[round((1 - TAIL) * len(late)) :], axis=0))


def simulated(problem, dim: int, seeds: int, late) -> dict:
    """Error and range over the last quarter of simulated runs; the range's standard deviation within a run."""
    ensemble = simulate(problem, dim=dim, seeds=seeds, seed=100_000 + dim)
    found = {"seed": 100_000 + dim, "seeds": seeds} | late_error(ensemble, late)
    if ensemble.range is not None:
        ranges = ensemble.range[:, late]
        found["simulated_range"] = ranges.mean()
        found["simulated_std"] = np.sqrt(ranges.var(axis=1, ddof=1).mean())
    return found


def rows(tau: float, tol: float, widths: dict, **mesh):
    """A row a range and width."""
    problems = {(method, start): problem for method, _, start, problem in cases(2, tau)}
    at_rest = fluctuating(np.inf, tau, **mesh)[0]
    for method, each in widths.items():
        problem = problems[method, 1.0]
        solution = solve(problem, tol=tol)
        late = solution.tau >= (1 - TAIL) * tau
        limit = {"limit": float(solution.error[late].mean()), "estimate": solution.error_estimate}
        for dim, seeds in each.items():
            row = {"method": method, "dim": dim} | limit
            if method == "fast":
                row |= dict(zip(("fluctuating", "range", "std"), fluctuating(dim, tau, **mesh), strict=True))
                row["at_rest"] = at_rest
            yield row | simulated(problem, dim, seeds, late)


def figure(table: pd.DataFrame) -> plt.Figure:
    """The late error over the width."""
    fig, axes = plt.subplots(figsize=(6.4, 4.2))
    for method, each in table.groupby("method"):
        gap, sem = each.simulated / each.limit - 1, each["sem"] / each.limit
        axes.errorbar(
            each.dim,
            100 * gap,
            100 * sem,
            color=COLOURS[method],
            marker="x",
            ls="none",
            label=f"{method}, simulated",
        )
    fast = table[table.method == "fast"]
    axes.plot(
        fast.dim,
        100 * (fast.fluctuating / fast.at_rest - 1),
        color=COLOURS["fast"],
        label="fast, thresholds that fluctuate",
    )
    axes.axhline(0.0, color="0.7", lw=0.8, zorder=0)
    axes.set(xscale="log", xlabel="width d", ylabel="error beside the limit, %")
    axes.set_xticks(fast.dim, fast.dim)
    axes.minorticks_off()
    axes.legend(frameon=False)
    fig.tight_layout()
    return fig


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``fast_range.csv`` and ``.png``; return the table, one row a range and width."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_x64", True)
    if quick:
        found = rows(4.0, 0.2, {"fast": {250: 4}}, cell=0.02, classes=25, dtau=0.1)
    else:
        found = rows(60.0, 1e-2, WIDTHS)
    table, tau = pd.DataFrame(), 4.0 if quick else 60.0
    for row in found:
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
        print(row, flush=True)
        about = f"2 bits, error over the last quarter of a run to tau = {tau:g}"
        report.write_csv(folder / "fast_range.csv", table, about)
    report.write_figure(folder / "fast_range.png", figure(table))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short run at one width")
    parser.add_argument("--out", default="data", help="folder of the results")
    main(**vars(parser.parse_args()))
