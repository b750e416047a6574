"""Stochastic rounding as a Markov chain: its stationary law stops changing while its mixing time diverges.

Theorems 2 and 3 of Li et al. 2017 on two small problems: a double well in one dimension and two coupled
weights. For every learning rate the exact transition matrix gives the stationary law, its distance to the
limit law that knows no learning rate, and the mixing time. In one dimension the two laws are the same as
soon as no step is longer than the lattice spacing; in two, steps of both coordinates at once leave a
distance of order lr. The mean loss shows that a smaller rate gains nothing.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from stedyn import plots
from stedyn.files import report
from stedyn.statements import RoundingChain, rounding_chain

COLORS = {"double well": "#0072B2", "two weights": "#D55E00"}


def chains(quick: bool) -> dict[str, tuple[RoundingChain, np.ndarray]]:
    """The two chains, each with the loss at its points."""
    step = 0.5 if quick else 0.25
    well = rounding_chain(lambda w: 4 * w * (w**2 - 1) + 0.5, [-1.5], [1.5], step, noise=[-9.0, 9.0])
    pair = rounding_chain(
        lambda w: 3 * w - 1.5 * w[:, ::-1] - 0.6, [-1.0, -1.0], [1.5, 1.5], step, noise=[-7.0, 7.0]
    )
    w, (x, y) = well.points[:, 0], pair.points.T
    return {
        "double well": (well, (w**2 - 1) ** 2 + 0.5 * w),
        "two weights": (pair, 1.5 * (x**2 + y**2 - x * y) - 0.6 * (x + y)),
    }


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``stochastic_rounding_chain.csv`` and ``.png``; return the table, one row a problem and rate."""
    jax.config.update("jax_enable_x64", True)
    lrs = np.geomspace(0.05, 0.005, 3) if quick else np.geomspace(0.05, 0.00025, 8)
    rows = []
    for name, (chain, loss) in chains(quick).items():
        limit = chain.stationary_limit()
        for lr in lrs:
            law = chain.stationary(lr)
            rows.append(
                {
                    "problem": name,
                    "lr": lr,
                    "distance_to_limit_law": 0.5 * np.abs(law - limit).sum(),
                    "mixing_time": chain.mixing_time(lr),
                    "mean_loss": law @ loss - loss.min(),
                    "mean_loss_of_limit_law": limit @ loss - loss.min(),
                }
            )
    table = pd.DataFrame(rows)

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = "studies/stochastic_rounding_chain.py: exact, no random numbers"
    report.write_csv(folder / "stochastic_rounding_chain.csv", table, about)
    figure, axes = plots.panels(3, width=3.4, height=3.0)
    well, _ = chains(quick)["double well"]
    for lr, shade in zip((0.05, 0.02, 0.001), ("0.7", "0.45", "0.0"), strict=True):
        axes[0].plot(well.points[:, 0], well.stationary(lr), color=shade, lw=1.4, label=f"lr {lr:g}")
    axes[0].plot(
        well.points[:, 0], well.stationary_limit(), "o", mfc="none", color="#D55E00", ms=6, label="limit law"
    )
    axes[0].set(xlabel="weight", ylabel="stationary probability (double well)", ylim=(0, None))
    axes[0].legend(frameon=False, fontsize="small")
    for name, part in table.groupby("problem"):
        axes[1].loglog(
            part["lr"], part["distance_to_limit_law"], "o-", color=COLORS[name], mfc="white", label=name
        )
        axes[2].loglog(part["lr"], part["mixing_time"], "o-", color=COLORS[name], mfc="white", label=name)
    axes[1].set(xlabel="learning rate", ylabel="distance to the limit law", ylim=(1e-5, 1))
    axes[2].set(xlabel="learning rate", ylabel="mixing time [steps]")
    axes[1].legend(frameon=False, fontsize="small")
    report.write_figure(folder / "stochastic_rounding_chain.png", figure)
    return table


def findings(table: pd.DataFrame) -> str:
    """What the table says, in two sentences."""
    parts = []
    for name, part in table.groupby("problem"):
        first, last = part.iloc[0], part.iloc[-1]
        parts.append(
            f"{name}: mixing time {first.mixing_time:.0f} to {last.mixing_time:.0f} steps, mean "
            f"loss above the minimum "
            f"{first.mean_loss:.3f} to {last.mean_loss:.3f} (limit law {last.mean_loss_of_limit_law:.3f})"
        )
    span = table["lr"].max() / table["lr"].min()
    far = table.groupby("problem")["distance_to_limit_law"].last().max()
    return (
        f"Lowering the learning rate {span:.0f} times slows the chain as 1/lr but does not "
        f"anneal it ({'; '.join(parts)}). "
        f"At the smallest rate the stationary law is within {far:.1e} in total variation of a "
        f"law without any rate."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="coarser lattices, fewer rates")
    parser.add_argument("--out", default="data", help="folder of the results")
    given = parser.parse_args()
    result = main(given.quick, given.out)
    print(result.to_string(index=False))
    print(findings(result))
