"""Gradients of few bits: what is left of them by layer and step, beside the effective step size of the limit.

An MLP 64-64-64-10 is trained by SGD (rate 0.1, batches of 32, 600 steps); before every step the gradient of each
weight matrix is rounded to the nearest level of 2, 3 or 4 bits (mid-tread) or FP4 (e2m1). The range is the largest
gradient of the matrix at that step (absmax), or stays that of the first step (fixed). Biases are not rounded.

Measured, averaged over 50 steps: size ``|Q(g)| / |g|`` and projection ``p = <Q(g), g> / |g|^2``, which is the
effective step size along the gradient. Derived: ``q(V) = b(V) / (lr k2)`` of the rule `quantized-gradient` of the
linear student, whose gradients are products ``r x`` of two Gaussians, at the measured mean square ``V`` of the
entries; and the same for Gaussian entries. Three runs of each seed: rounded gradients; not rounded, but every
matrix times its own ``p`` (the effective step size alone); and SGD as it is.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax
from scipy import stats
from shared import arguments, cross_entropy, digits, mlp, save, starts

from stedyn.inputs.moments import input_moments
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import QuantizedGradient

SEEDS = (range(0, 5), range(100, 105))
RATE, LAYERS, RUNS = 0.1, ("fc1", "fc2", "out"), ("rounded", "effective step", "float")
FORMATS = {f"{b} bits": Quantizer(b, 1.0, kind="mid-tread") for b in (2, 3, 4)} | {
    "FP4": Quantizer(range=1.0, kind="fp4-e2m1")
}


def trainer(net, quantizer: Quantizer, fixed: bool, points: int):
    """``train(data, params, run)``: loss on all training images and what is left of the gradients, ``points`` times."""

    def loss(params, x, y):
        return cross_entropy(net.inputs(params, x)["out"], y)

    def gradients(params, data, chosen):
        return jax.grad(loss)(params, data.x[chosen], data.y[chosen])

    def train(data, params, run):
        first = {name: jnp.max(jnp.abs(g)) for name, g in gradients(params, data, data.order[0]).items()}

        def step(params, chosen):
            g, seen = gradients(params, data, chosen), {}
            for name in LAYERS:
                width = jnp.maximum(first[name] if fixed else jnp.max(jnp.abs(g[name])), 1e-12)
                rounded, square = quantizer.with_range(width).round(g[name]), jnp.sum(g[name] ** 2)
                p = jnp.sum(rounded * g[name]) / jnp.maximum(square, 1e-20)
                size = jnp.sqrt(jnp.sum(rounded**2) / jnp.maximum(square, 1e-20))
                seen[name] = jnp.stack([size, p, jnp.sqrt(square / g[name].size) / width])
                g[name] = jnp.stack([rounded, p * g[name], g[name]])[run]
            return jax.tree.map(lambda w, change: w - RATE * change, params, g), seen

        def record(params, chosen):
            params, seen = lax.scan(step, params, chosen)
            return params, (loss(params, data.x, data.y), jax.tree.map(lambda a: a.mean(0), seen))

        return lax.scan(record, params, data.order.reshape(points, -1, data.order.shape[1]))[1]

    return train


def derived(quantizer: Quantizer, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``q(V)`` of the linear student, and of Gaussian entries, at the root mean squares ``root`` over the range."""
    rule, inputs = QuantizedGradient(1.0, quantizer=quantizer), input_moments(Quantizer(kind="none"))
    products = jax.vmap(lambda V: rule.coefficients(V, inputs, 0.0).b)(jnp.asarray(root**2))
    return np.asarray(products), np.asarray(rule.profile(jnp.asarray(root), 0.0).slope)


def study(formats, scales, groups, steps: int, points: int, width: int) -> pd.DataFrame:
    """A row for each run, layer and record."""
    net, rows = mlp(width), []
    for name in formats:
        for scale in scales:
            train = jax.jit(
                jax.vmap(jax.vmap(trainer(net, FORMATS[name], scale == "fixed", points), (None, None, 0)))
            )
            for seeds in groups:
                runs = jnp.broadcast_to(jnp.arange(len(RUNS)), (len(seeds), len(RUNS)))
                losses, seen = train(digits(seeds, steps), starts(net, seeds), runs)
                for layer in LAYERS:
                    size, projection, root = np.moveaxis(np.asarray(seen[layer], float), -1, 0)
                    products, gaussian = (q.reshape(root.shape) for q in derived(FORMATS[name], root.ravel()))
                    for s, r, k in np.ndindex(root.shape):
                        rows.append(dict(
                            format=name, range=scale, first=seeds[0], seed=seeds[s], run=RUNS[r], layer=layer,
                            step=(k + 1) * steps // points, loss=float(losses[s, r, k]), size=size[s, r, k],
                            projection=projection[s, r, k], rms_over_range=root[s, r, k],
                            derived=products[s, r, k], derived_gaussian=gaussian[s, r, k],
                        ))  # fmt: skip
    return pd.DataFrame(rows)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Means and standard errors over seeds of all, and of each five, at the first and the last record."""
    rows, ends = [], (runs["step"].min(), runs["step"].max())
    numbers = ("loss", "size", "projection", "rms_over_range", "derived", "derived_gaussian")
    for label, group in {**{str(k): part for k, part in runs.groupby("first")}, "all": runs}.items():
        part = group[group["step"].isin(ends)]
        for key, one in part.groupby(["format", "range", "run", "layer", "step"], sort=False):
            row = dict(zip(("format", "range", "run", "layer", "step"), key, strict=True), seeds=label)
            for number in numbers:
                row |= {number: one[number].mean(), f"{number}_sem": stats.sem(one[number])}
            rows.append(row)
    return pd.DataFrame(rows)


def draw(runs: pd.DataFrame):
    """Projection against the derived ``q(V)`` of all records, and loss curves of the three runs."""
    import matplotlib.pyplot as plt

    scales = list(dict.fromkeys(runs["range"]))
    figure, axes = plt.subplots(
        len(scales), 3, figsize=(12.5, 3.6 * len(scales)), layout="constrained", squeeze=False
    )
    means = (
        runs.groupby(["format", "range", "run", "layer", "step"], sort=False)
        .mean(numeric_only=True)
        .reset_index()
    )
    for row, scale in zip(axes, scales, strict=True):
        part = means[(means["range"] == scale) & (means["run"] == "rounded")]
        for k, (name, some) in enumerate(part.groupby("format", sort=False)):
            for marker, (layer, one) in zip("os^", some.groupby("layer", sort=False), strict=True):
                row[0].plot(
                    one["derived"], one["projection"], color=f"C{k}", marker=marker, ms=4, ls="none",
                    label=name if layer == "fc1" else None,
                )  # fmt: skip
            middle = some[some["layer"] == "fc2"]
            row[1].plot(
                middle["step"],
                middle["projection"],
                color=f"C{k}",
                label="measured projection" if k == 0 else None,
            )
            row[1].plot(
                middle["step"],
                middle["derived"],
                color=f"C{k}",
                ls=":",
                label="derived q(V)" if k == 0 else None,
            )
            for run, style in zip(RUNS, ("-", "--", ":"), strict=True):
                if run == "float" and k:
                    continue
                loss = means[(means["range"] == scale) & (means["run"] == run) & (means["format"] == name)]
                loss = loss[loss["layer"] == "fc1"]
                row[2].plot(loss["step"], loss["loss"], color="k" if run == "float" else f"C{k}", ls=style,
                            label=run if k == 0 else None)  # fmt: skip
        row[0].axline((0.0, 0.0), slope=1.0, color="0.6", lw=0.8)
        row[0].set(
            xlabel="derived q(V), linear student", ylabel="measured projection", title=f"range: {scale}"
        )
        row[1].set(xlabel="step", ylabel="effective step size", title="hidden layer")
        row[2].set(xlabel="step", ylabel="training loss", yscale="log", title="loss")
        for ax in row:
            ax.legend(frameon=False, fontsize="x-small")
    return figure


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``networks_gradients.csv`` and ``.png``; return the table."""
    begin = time.perf_counter()
    if quick:
        runs = study(["2 bits"], ["absmax"], (range(2),), steps=20, points=2, width=16)
    else:
        runs = study(list(FORMATS), ["absmax", "fixed"], SEEDS, steps=600, points=12, width=64)
    table = summary(runs)
    last = table[(table["seeds"] == "all") & (table["step"] == table["step"].max())]
    print(
        last.drop(columns=[c for c in last if c.endswith("_sem")]).to_string(index=False, float_format="%.3g")
    )
    save(table, out, "networks_gradients", "0 to 1" if quick else str(SEEDS), begin, draw(runs))
    return table


if __name__ == "__main__":
    given = arguments(__doc__)
    main(given.quick, given.out)
