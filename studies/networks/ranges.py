"""Does the predicted range survive in real networks? Test loss against fixed ranges, with the marks of all rules.

Quantization-aware training (identity STE, mid-tread levels of 2, 3, 4 bits, constant rate, batches of 32) of the
digits: an MLP 64-64-64-10 whose hidden 64 x 64 layer is quantized, by SGD (rate 0.1) and Adam (0.002), and a CNN of
two convolutions and a linear layer, all quantized, by Adam; 800 steps from scratch (the float start) and from float
weights (trained by 800 steps of Adam). Ranges are multiples of the root mean square of the float weights of each
layer, one multiple for all layers.

Marks: calibration rules of the float weights of each seed; ``choose``, the predicted range with the float weights
as teacher (`stedyn layers`), and ``layers``, the same behind measured inputs, both by the network of the first seed
of each five in units of the root mean square; LSQ learns the range, from its own start.

Loss of a run: cross entropy on 500 test images, averaged over its last three records of eight, 100 steps apart.
Regret of a rule: its loss less that of the best multiple of the grid, which is chosen by the mean of the *other*
five seeds and evaluated on these, so that the choice does not gain by the noise of these runs. Standard errors are
over seeds, of differences of pairs."""

import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from scipy import stats
from shared import (
    all_runs,
    arguments,
    as_is,
    at_ranges,
    cnn,
    digits,
    learned,
    mlp,
    save,
    starts,
    trainer,
)
from tqdm import tqdm

from stedyn import SGD, Problem
from stedyn.design.calibration import calibrated_ranges
from stedyn.design.layer_report import report_layers
from stedyn.quantizers.quantizer import Quantizer

SEEDS = (range(0, 5), range(100, 105))
OPTIMIZERS = {"SGD": optax.sgd(0.1), "Adam": optax.adam(2e-3)}
GRID = np.geomspace(0.5, 5.0, 9)
MEASURES = ("test_loss", "accuracy", "train_loss")
PREDICTED = ("choose", "layers")


def quantizer_of(bits: int) -> Quantizer:
    """Mid-tread levels, those of LSQ; the range is set elsewhere."""
    return Quantizer(bits, 1.0, kind="mid-tread")


def predicted(net, params, x, bits: list[int]) -> dict[tuple[str, str, int], float]:
    """Range over root mean square of ``(rule, layer, bits)``: `stedyn layers` without and with measured inputs."""
    seen = {
        name: np.asarray(value).reshape(-1, value.shape[-1]) for name, value in net.inputs(params, x).items()
    }
    problem = Problem(noise_std=0.1, rule=SGD(0.1), weights=quantizer_of(2))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        weights, inputs = Path(folder, "weights.npz"), Path(folder, "inputs.npz")
        names = {"last" if name == "out" else name: name for name in net.hidden}
        alive = {
            source: seen[source].std(axis=0) > 0 for source in names
        }  # inputs that never vary carry nothing
        np.savez(weights, **{name: np.asarray(params[name])[alive[source]] for source, name in names.items()})
        np.savez(inputs, **{name: seen[source][:2000, alive[source]] for source, name in names.items()})
        for rule, file in zip(PREDICTED, (None, inputs), strict=True):
            report = report_layers(weights, problem, activations=file, bits=bits, axis=-1, progress=True)
            rms = {name: float(np.sqrt(np.mean(np.asarray(params[name]) ** 2))) for name in net.hidden}
            found |= {
                (rule, row["layer"], row["bits"]): row["range"] / rms[row["layer"]] for row in report.rows
            }
    return found


def marks_of(net, params, bits: int, prediction: dict) -> dict[str, dict[str, np.ndarray]]:
    """Ranges of every rule and grid point for all seeds: ``{mark: {layer: (S,)}}``."""
    seeds, marks = len(params[net.hidden[0]]), {}
    for name in net.hidden:
        weights = np.asarray(params[name])
        rms = np.sqrt(np.mean(weights**2, axis=(1, 2)))
        for factor in GRID:
            marks.setdefault(f"{factor:.3f}", {})[name] = factor * rms
        each = [calibrated_ranges(w, quantizer_of(bits)) for w in weights]
        for rule in each[0]:
            marks.setdefault(rule, {})[name] = np.array([one[rule] for one in each])
        for (rule, layer, b), factor in prediction.items():
            if (layer, b) == (name, bits):
                marks.setdefault(rule, {})[name] = np.full(seeds, factor) * rms
    return marks


def trained(net, optimizer, bits: int, points: int):
    """``run(data, params, marks) -> {mark: {measure: (S,)}}``, one program for all; LSQ's runs besides."""
    fixed = all_runs(trainer(net, at_ranges(quantizer_of(bits), net.hidden), optimizer, points))
    free = all_runs(trainer(net, learned(quantizer_of(bits), net.hidden), optimizer, points))

    def run(data, params, marks):
        stacked = {
            n: jnp.asarray(np.stack([m[n] for m in marks.values()], 1), jnp.float32) for n in net.hidden
        }
        _, curves = fixed(data, params, stacked)
        late = {key: np.asarray(curves[key][..., -3:].mean(-1)) for key in MEASURES}
        found = {mark: {key: late[key][:, i] for key in MEASURES} for i, mark in enumerate(marks)}
        own = {f"{n}_R": jnp.asarray(marks["lsq"][n], jnp.float32) for n in net.hidden}
        last, curves = free(data, params | own, jnp.zeros((len(data.y), 1)))
        ends = {n: np.asarray(last[f"{n}_R"])[:, 0] for n in net.hidden}
        found["LSQ learned"] = {key: np.asarray(curves[key][:, 0, -3:].mean(-1)) for key in MEASURES}
        return found, marks | {"LSQ learned": ends}

    return run


def study(name: str, net, optimizers, bits, groups, steps: int, points: int, predict: bool) -> list[dict]:
    """A row for each run."""
    rows, ready = [], []
    floating = jax.jit(jax.vmap(trainer(net, as_is, OPTIMIZERS["Adam"], points)))
    for seeds in groups:
        data, start = digits(seeds, steps), starts(net, seeds)
        params, curves = floating(data, start, jnp.zeros(len(seeds)))
        one = {key: value[0] for key, value in params.items()}
        ready.append((seeds, data, start, params, predicted(net, one, data.x[0], bits) if predict else {}))
        for i, seed in enumerate(seeds):
            late = {key: float(curves[key][i, -3:].mean()) for key in MEASURES}
            rows.append(
                dict(net=name, optimizer="Adam", start="scratch", bits=32, mark="float", seed=seed, **late)
            )
    for optimizer in optimizers:
        for b in tqdm(bits, desc=f"{name}, {optimizer}"):
            run = trained(net, OPTIMIZERS[optimizer], b, points)
            for seeds, data, start, params, prediction in ready:
                rms = {n: np.sqrt(np.mean(np.asarray(params[n]) ** 2, axis=(1, 2))) for n in net.hidden}
                for begin, weights in (("scratch", start), ("float weights", params)):
                    found, marks = run(data, weights, marks_of(net, params, b, prediction))
                    rows += [
                        dict(net=name, optimizer=optimizer, start=begin, bits=b, mark=mark, seed=seed)
                        | {key: float(values[i]) for key, values in found[mark].items()}
                        | {f"{n}_factor": float(marks[mark][n][i] / rms[n][i]) for n in net.hidden}
                        for mark in found
                        for i, seed in enumerate(seeds)
                    ]
    return rows


def regrets(runs: pd.DataFrame, groups) -> pd.DataFrame:
    """A row for each setting, mark and five seeds (named by their first, or "all"): means, standard errors, regret."""
    rows = []
    for setting, part in runs[runs["mark"] != "float"].groupby(
        ["net", "optimizer", "start", "bits"], sort=False
    ):
        tables = {key: part.pivot(index="seed", columns="mark", values=key) for key in MEASURES}
        grid = [mark for mark in tables["test_loss"] if mark[0].isdigit()]
        best: dict[tuple, float] = {}
        for seeds, others in zip(groups, groups[::-1], strict=True):
            for key in MEASURES[::2]:
                found = tables[key][grid].loc[list(others)].mean().idxmin()
                best |= {(key, seed): tables[key].loc[seed, found] for seed in seeds}
        labels = {str(seeds[0]): list(seeds) for seeds in groups} | {"all": [*groups[0], *groups[1]]}
        for label, seeds in labels.items():
            for mark in tables["test_loss"]:
                row = dict(
                    zip(("net", "optimizer", "start", "bits"), setting, strict=True), seeds=label, mark=mark
                )
                for key in MEASURES:
                    values = tables[key].loc[seeds, mark]
                    row |= {key: values.mean(), f"{key}_sem": stats.sem(values)}
                for key in MEASURES[::2]:
                    gap = tables[key].loc[seeds, mark] - [best[key, seed] for seed in seeds]
                    row |= {f"{key}_regret": gap.mean(), f"{key}_regret_sem": stats.sem(gap)}
                factors = part[part["mark"] == mark].filter(like="_factor").dropna(axis=1)
                rows.append(row | factors.mean().to_dict())
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, runs: pd.DataFrame):
    """Test loss against the multiple, a column for each bit width, a row for each network and start; marks."""
    table = table[table["seeds"] == "all"]
    cases = list(dict.fromkeys(zip(table["net"], table["start"], strict=True)))
    bits = sorted(table["bits"].unique())
    figure, axes = _panels(len(cases), len(bits))
    marks = [m for m in dict.fromkeys(table["mark"]) if not m[0].isdigit() and m != "LSQ learned"]
    for i, (net, start) in enumerate(cases):
        for j, b in enumerate(bits):
            ax = axes[i][j]
            here = table[(table["net"] == net) & (table["start"] == start) & (table["bits"] == b)]
            grid = here[here["mark"].str[0].str.isdigit()]
            for k, (optimizer, part) in enumerate(grid.groupby("optimizer", sort=False)):
                x = part["mark"].astype(float)
                ax.errorbar(
                    x,
                    part["test_loss"],
                    part["test_loss_sem"],
                    color="k",
                    ls=("-", "--")[k],
                    lw=1,
                    label=optimizer,
                )
                own = here[here["optimizer"] == optimizer].set_index("mark")
                layer = own.filter(like="_factor").dropna(axis=1).columns[-1 if net == "MLP" else 1]
                for n, mark in enumerate([*marks, "LSQ learned"]):
                    ax.errorbar(
                        own.loc[mark, layer], own.loc[mark, "test_loss"], own.loc[mark, "test_loss_sem"],
                        color=f"C{n}", marker="*" if mark in PREDICTED else "o", ms=9 if mark in PREDICTED else 5,
                        mfc="w" if k else None, ls="none", label=mark if k == 0 else None, lw=0.8, zorder=3,
                    )  # fmt: skip
            floats = runs[(runs["mark"] == "float") & (runs["net"] == net)]["test_loss"].mean()
            ax.axhline(floats, color="0.6", lw=0.8, ls=":")
            ax.set(xscale="log", yscale="log", title=f"{net}, {start}, {b} bits")
            ax.set_ylim(top=4 * grid["test_loss"].min(), bottom=0.8 * min(here["test_loss"].min(), floats))
    for ax in axes[-1]:
        ax.set_xlabel("range / rms of float weights")
    for row in axes:
        row[0].set_ylabel("test loss")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False)
    return figure


def _panels(rows: int, columns: int):
    import matplotlib.pyplot as plt

    return plt.subplots(
        rows, columns, figsize=(4 * columns, 2.7 * rows + 0.8), layout="constrained", squeeze=False
    )


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``networks_ranges.csv``, ``.png`` and the runs; return the table. Quick: no predicted ranges."""
    begin = time.perf_counter()
    jax.config.update("jax_enable_x64", True)
    if quick:
        groups = (range(0, 2), range(100, 102))
        rows = study("MLP", mlp(16), ["Adam"], [2], groups, steps=20, points=4, predict=False)
    else:
        groups, size = SEEDS, dict(bits=[2, 3, 4], groups=SEEDS, steps=800, points=8, predict=True)
        rows = study("MLP", mlp(), list(OPTIMIZERS), **size) + study("CNN", cnn(), ["Adam"], **size)
    runs = pd.DataFrame(rows)
    table = regrets(runs, groups)
    shown = table[(table["seeds"] == "all") & ~table["mark"].str[0].str.isdigit()]
    print(
        shown.pivot_table(
            index="mark", columns=["net", "optimizer", "start", "bits"], values="test_loss_regret"
        )
        .round(3)
        .T
    )
    save(runs, out, "networks_ranges_runs", str(groups), begin)
    save(table, out, "networks_ranges", str(groups), begin, draw(table, runs))
    return table


if __name__ == "__main__":
    given = arguments(__doc__)
    main(given.quick, given.out)
