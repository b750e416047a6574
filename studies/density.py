"""How the latent weights are distributed while a 2-bit student learns: the limit against simulation.

Setting R1, that of the density figure of arXiv 2510.10693 with our choice of geometry and learning rate
(the paper's are not known to us): ``w* = 1``, ``w0 ~ N(0, 1)``, weights and inputs with 2 bits and range
2, mid-rise with levels at the range, lr 0.1, no label noise, d = 3000. For every time the density of
``w`` is drawn over the histogram of the simulated weights of all seeds.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from stedyn import plots
from stedyn.files import report
from stedyn.limit.solver import solve
from stedyn.problem.problem import Problem, Run
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD
from stedyn.simulation import simulate


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``density.csv`` and ``density.png``; return the table, one row for each time and bin."""
    jax.config.update("jax_enable_x64", True)
    dim, seeds, seed = (300, 2, 0) if quick else (3000, 8, 0)
    taus = (1.0, 2.0, 4.0, 8.0) if quick else (10.0, 25.0, 50.0, 100.0)
    two_bits = Quantizer(2, 2.0, kind="mid-rise", edge="level")
    problem = Problem(weights=two_bits, inputs=two_bits, rule=SGD(lr=0.1), run=Run(taus=(0.0, *taus)))
    densities = solve(problem, law="grid", densities=taus).densities
    ensemble = simulate(problem, dim=dim, seeds=seeds, seed=seed, snapshots=taus)

    edges = np.linspace(-2.0, 2.4, 45 if quick else 177)
    rows = []
    for k, tau in enumerate(taus):
        weights = ensemble.snapshots[:, k].astype(float)
        counts = np.stack([np.histogram(run, edges)[0] for run in weights])
        rows.append(
            pd.DataFrame(
                {
                    "tau": tau,
                    "w_low": edges[:-1],
                    "w_high": edges[1:],
                    "density_limit": np.diff(densities.cdf(k, edges)) / np.diff(edges),
                    "density_simulation": counts.sum(0) / weights.size / np.diff(edges),
                    "standard_error": counts.std(0, ddof=1) / np.sqrt(seeds) / dim / np.diff(edges),
                }
            )
        )
    table = pd.concat(rows, ignore_index=True)

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = f"studies/density.py: d = {dim}, seeds {seed} to {seed + seeds - 1}, {ensemble.device}"
    report.write_csv(folder / "density.csv", table, about, *report.describe(problem).splitlines())
    figure, axes = plots.panels(len(taus), width=3.1, height=2.9)
    for ax, (tau, part) in zip(axes, table.groupby("tau"), strict=True):
        k = taus.index(tau)
        plots.density_panel(
            ax,
            0.5 * (densities.edges[1:] + densities.edges[:-1]),
            densities.pdf[k],
            edges=edges,
            histogram=part["density_simulation"].to_numpy(),
            thresholds=two_bits.thresholds,
        )
        ax.set_title(rf"$\tau = {tau:g}$", fontsize="medium")
        ax.set_xlim(edges[0], edges[-1])
        if ax is not axes[0]:
            ax.set_ylabel("")
        if ax is not axes[-1]:  # where the left of the panel is empty
            ax.get_legend().remove()
    report.write_figure(folder / "density.png", figure)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small dimension and short times")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    main(given.quick, given.out)
