"""Plateaus of a real layer: steps to escape against range and bits, beside threshold over speed.

The hidden layer of an MLP 64-64-64-10 has mid-tread weights of 2, 3, 4 bits and starts near zero (a fiftieth of the
first threshold), so that all of it is rounded to 0 and the loss stays at ln 10 until weights reach the first
threshold, half a step of the quantizer. Identity STE, batches of 32. A run escapes when the loss of all training
images first falls below the mean of its plateau (the first record) and its end.

Predicted: escape in proportion to the threshold. By Adam, whose steps are of one size while the gradient keeps its
sign, the number of steps is threshold / rate, without any parameter; by SGD, threshold / (rate x gradient) with the
mean absolute gradient of the layer at the start, measured on all training images.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from shared import all_runs, arguments, at_ranges, cross_entropy, digits, mlp, save, starts, trainer

from stedyn.quantizers.quantizer import Quantizer

SEEDS = (range(0, 5), range(100, 105))
RATES = {"SGD": 0.1, "Adam": 1e-3}
#: First thresholds, in units of the He start of the layer, ``sqrt(2/64) = 0.18``; the same for all bits.
THRESHOLDS = np.array([0.125, 0.25, 0.5, 1.0])


def escape(loss: np.ndarray, every: int) -> np.ndarray:
    """Steps until ``loss`` (..., points) falls below the mean of first and last, between two records; else nan."""
    level = 0.5 * (loss[..., :1] + loss[..., -1:])
    below = loss < level
    k = np.argmax(below, axis=-1)
    before, after = (np.take_along_axis(loss, np.maximum(k - i, 0)[..., None], -1)[..., 0] for i in (1, 0))
    part = (before - level[..., 0]) / np.where(before > after, before - after, 1.0)
    deep = loss[..., -1] < 0.8 * loss[..., 0]
    return np.where(deep & (k > 0), (k + part) * every, np.nan)


def study(optimizers, bits, groups, steps: int, points: int, width: int) -> list[dict]:
    """A row for each run."""
    net, rows, he = mlp(width), [], (2 / width) ** 0.5
    for name in optimizers:
        optimizer = (optax.sgd if name == "SGD" else optax.adam)(RATES[name])
        for b in bits:
            quantizer = Quantizer(b, 1.0, kind="mid-tread")
            top = (quantizer.n_levels - 1) / 2
            ranges = THRESHOLDS * he * 2 * top
            run = all_runs(_started(net, quantizer, optimizer, points, top))
            for seeds in groups:
                data, params = digits(seeds, steps), starts(net, seeds)
                params |= {"fc2_b": jnp.full_like(params["fc2_b"], 0.1)}
                setting = jnp.broadcast_to(jnp.asarray(ranges, jnp.float32), (len(seeds), len(ranges)))
                _, curves = run(data, params, setting)
                loss = np.asarray(curves["train_loss"])
                left = escape(loss, steps // points)
                speeds = RATES[name] * (
                    np.asarray(_gradients(net, data, params)) if name == "SGD" else np.ones(len(seeds))
                )
                for i, seed in enumerate(seeds):
                    for j, threshold in enumerate(THRESHOLDS * he):
                        rows.append(dict(
                            optimizer=name, bits=b, first=seeds[0], seed=seed, range=ranges[j], threshold=threshold,
                            escape=left[i, j], predicted=threshold / speeds[i], last_loss=loss[i, j, -1],
                        ))  # fmt: skip
    return rows


def _started(net, quantizer, optimizer, points, top):
    """The trainer, from weights of the layer with a standard deviation of a fiftieth of the threshold."""
    train = trainer(
        net, lambda params, width: at_ranges(quantizer, net.hidden)(params, {"fc2": width}), optimizer, points
    )

    def run(data, params, width):
        small = params["fc2"] / jnp.std(params["fc2"]) * width / (100 * top)
        return train(data, params | {"fc2": small}, width)

    return run


def _gradients(net, data, params):
    """Mean absolute gradient of the hidden layer at zero weights, over all training images."""

    def loss(weights, own, x, y):
        return cross_entropy(net.inputs(own | {"fc2": weights}, x)["out"], y)

    def size(x, y, own):
        return jnp.mean(jnp.abs(jax.grad(loss)(jnp.zeros_like(own["fc2"]), own, x, y)))

    return jax.jit(jax.vmap(size))(data.x, data.y, params)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Means and standard errors over seeds, of all and of each five; runs that did not escape are counted."""
    rows = []
    for label, group in {**{str(k): part for k, part in runs.groupby("first")}, "all": runs}.items():
        for (optimizer, b, threshold), part in group.groupby(["optimizer", "bits", "threshold"]):
            seen = part["escape"].dropna()
            rows.append(dict(
                optimizer=optimizer, bits=b, seeds=label, threshold=threshold, range=part["range"].mean(),
                runs=len(part), escaped=len(seen), escape=seen.mean(), escape_sem=seen.sem(),
                predicted=part["predicted"].mean(), ratio=(part["escape"] / part["predicted"]).mean(),
            ))  # fmt: skip
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame):
    """Steps to escape against the range, a panel for each optimizer."""
    import matplotlib.pyplot as plt

    table = table[table["seeds"] == "all"]
    names = list(dict.fromkeys(table["optimizer"]))
    figure, axes = plt.subplots(
        1, len(names), figsize=(4.4 * len(names), 3.4), layout="constrained", squeeze=False
    )
    for ax, name in zip(axes[0], names, strict=True):
        for k, (b, part) in enumerate(table[table["optimizer"] == name].groupby("bits")):
            ax.plot(part["range"], part["predicted"], color=f"C{k}", lw=1)
            ax.errorbar(
                part["range"],
                part["escape"],
                part["escape_sem"],
                color=f"C{k}",
                marker="o",
                ls="none",
                label=f"{b} bits",
            )
        ax.set(xscale="log", yscale="log", xlabel="range", ylabel="steps to escape")
        ax.set_title(f"{name}: lines are threshold / speed")
        ax.legend(frameon=False)
    return figure


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``networks_plateaus.csv`` and ``.png``; return the table."""
    begin = time.perf_counter()
    if quick:
        rows = study(["SGD"], [2], (range(2),), steps=40, points=8, width=16)
    else:
        rows = study(list(RATES), [2, 3, 4], SEEDS, steps=600, points=30, width=64)
    table = summary(pd.DataFrame(rows))
    print(table.to_string(index=False, float_format="%.3g"))
    save(table, out, "networks_plateaus", "0 to 1" if quick else str(SEEDS), begin, draw(table))
    return table


if __name__ == "__main__":
    given = arguments(__doc__)
    main(given.quick, given.out)
