"""When to quantize: what share of a budget should be spent in float, before weights are quantized?

A student of a Gaussian teacher (lr 0.2, label noise 0.1, start ``N(0, 0.1^2)``) is trained for a budget of ``tau``: in
float up to the switch, with quantized weights from then on (mid-rise, the range of least rounding error), to be used
quantized. A switch at 0 is training with quantized weights from the start; one at the end is rounding without further
training (PTQ), the observable ``ptq_error`` of the float run. The final error is that of the limit; the best switch of
every budget is simulated beside the two ends, each with seeds of its own.

The reason is in two numbers. Rounding puts a weight on the nearest level: for a teacher weight at distance ``x`` and
``step - x`` from its levels it costs ``min(x, step - x)^2``. Trained with quantized weights, the latent weight goes to
the threshold between the two and its level chatters, so that they are right on average and each costs
``x (step - x)``: twice as much on average over ``x``. That takes a time of the order ``step / (2 lr x)``, so that only
a short phase at the end keeps what rounding gives. What training gains is speed: a quantized output holds the
weights' drift up until they cross the threshold, while in float they slow down before.
"""

import argparse
import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from stedyn import SGD, Phase, Problem, Quantizer, Run, Start, Teacher, simulate, solve
from stedyn.design.calibration import calibrated_range
from stedyn.files import report

# told apart by every common colour vision, and by their markers
STYLES = {1: ("#CC79A7", "D"), 2: ("#0072B2", "o"), 3: ("#D55E00", "s"), 4: ("#009E73", "^")}
LR = 0.2
#: Parts of the budget before the switch; 0 and 1 are computed as runs without a switch.
PARTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def quantizer(bits: int) -> Quantizer:
    """The range of least rounding error of ``N(0, 1)``."""
    unit = Quantizer(bits, 1.0)
    return unit.with_range(calibrated_range(Teacher.gaussian(1.0), unit, "mse"))


def problem(bits: int, budget: float, switch: float) -> Problem:
    """A run whose weights are quantized from the switch on; float up to the end for a switch there."""
    weights = quantizer(bits)
    late = [Phase(switch, weights=weights)] if 0 < switch < budget else []
    return Problem(
        Teacher.gaussian(1.0),
        Start.gaussian(std=0.1),
        noise_std=0.1,
        weights=weights if switch == 0 else None,
        rule=SGD(LR),
        run=Run(taus=[0.0, 0.999 * budget, budget]),
        ptq=weights if switch == budget else None,
        phases=late,
    )


def final(result, ptq: bool) -> np.ndarray:
    """The last error, of rounded weights after a run in float."""
    return np.asarray(result.ptq_error if ptq else result.error)[..., -1]


def chattering(bits: int) -> tuple[float, float]:
    """Errors of Gaussian teacher weights on the nearest level, and on two levels that are right on average."""
    weights = quantizer(bits)
    w = np.random.default_rng(0).standard_normal(400_000)
    levels = np.asarray(weights.levels, float)
    rounded = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, w)]
    nearest = np.mean((w - rounded) ** 2)
    inside = np.clip(w, levels[0], levels[-1])
    low = np.clip(np.searchsorted(levels, inside, side="right") - 1, 0, levels.size - 2)
    below, above = inside - levels[low], levels[low + 1] - inside
    return float(nearest), float(np.mean((w - inside) ** 2 + below * above))


def main(quick: bool = False, out: str | Path = "data") -> pd.DataFrame:
    """Compute the table, simulate the best switches, and draw."""
    widths, budgets, parts = (
        ((2,), (10.0,), (0.5,)) if quick else ((1, 2, 3, 4), (5.0, 10.0, 20.0, 40.0), PARTS)
    )
    dim, seeds, tol = (400, 3, 0.1) if quick else (2000, 32, 5e-3)
    rows, seed = [], itertools.count(1000, 1000)
    for bits in widths:
        for budget in budgets:
            errors = {}
            for part in (0.0, *parts, 1.0):
                case = problem(bits, budget, part * budget)
                errors[part] = float(final(solve(case, tol=tol, throw=False), part == 1))
            best = min(errors, key=lambda part: errors[part])
            for part, error in errors.items():
                row = dict(
                    bits=bits, range=float(quantizer(bits).range), budget=budget, part=part, error=error
                )
                if part in (0.0, best, 1.0):
                    case = problem(bits, budget, part * budget)
                    ensemble = simulate(case, dim=dim, seeds=seeds, seed=next(seed))
                    runs = final(ensemble, part == 1)
                    row |= dict(
                        seed=ensemble.seed, simulated=runs.mean(), sem=runs.std(ddof=1) / np.sqrt(seeds)
                    )
                rows.append(row | dict(best=part == best))
            print(f"{bits} bits, budget {budget:g}: from the start {errors[0.0]:.4g}, best {errors[best]:.4g} "
                  f"with {best:.0%} in float, rounded at the end {errors[1.0]:.4g}", flush=True)  # fmt: skip
    frame = pd.DataFrame(rows)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    reasons = [
        f"{b} bits: nearest level {n:.4g}, chattering {c:.4g}" for b in widths for n, c in [chattering(b)]
    ]
    report.write_csv(out / "when_to_quantize.csv", frame, *reasons)
    report.write_figure(out / "when_to_quantize.png", draw(frame))
    return frame


def draw(frame: pd.DataFrame):
    """Final error against the share in float, one panel for every budget."""
    budgets = frame.budget.unique()
    figure, axes = plt.subplots(
        1, budgets.size, figsize=(3.2 * budgets.size, 3.4), squeeze=False, sharey=True
    )
    for ax, budget in zip(axes[0], budgets, strict=True):
        for bits, rows in frame[frame.budget == budget].groupby("bits"):
            color, marker = STYLES[bits]
            ax.plot(rows["part"], rows["error"], color=color, lw=1.6)
            label, points = (
                f"{bits} bit{'s' if bits > 1 else ''}",
                (rows["part"], rows["simulated"], rows["sem"]),
            )
            ax.errorbar(*points, color=color, marker=marker, ls="", ms=5, mfc="white", label=label)
            low = rows["error"].idxmin()
            ax.plot(rows["part"][low], rows["error"][low], color=color, marker="*", ms=11, ls="")
        ax.set_title(f"budget {budget:g}", fontsize=10)
        ax.set_yscale("log")
        ax.set_xlabel("part of the budget in float")
    axes[0, 0].set_ylabel("final error, quantized")
    axes[0, 0].legend(loc="lower left", frameon=False, fontsize=8, title="simulated", title_fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few points and small simulations")
    parser.add_argument("--out", default="data")
    arguments = parser.parse_args()
    main(arguments.quick, arguments.out)
