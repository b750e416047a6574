"""Does the predicted range survive in real networks? Test loss against fixed ranges, with the marks of all rules.

Quantization-aware training (identity STE, mid-tread levels of 2, 3, 4 bits, constant rate, batches of 32) of the
digits: an MLP 64-64-64-10 whose hidden 64 x 64 layer is quantized, by SGD (rate 0.1) and Adam (0.002), and a CNN of
two convolutions and a linear layer, all quantized, by Adam; the MLP also with the squared loss, by Adam at 2 bits. 800
steps (CNN: 400) from scratch (the float start) and from float weights (trained by as many steps of Adam). Ranges
are multiples of the root mean square of the float weights of each layer, one multiple for all layers.

Marks: calibration rules of the float weights of each seed; ``choose``, the predicted range with the float weights
as teacher (`stedyn layers`), and ``layers``, the same behind measured inputs, both by the network of the first seed
of each five in units of the root mean square (of the CNN ``choose`` alone: with inputs it would take an hour); LSQ
learns the range, from its own start.

Loss of a run: cross entropy on 500 test images, averaged over its last three records of eight.
Regret of a rule: its loss less that of the best multiple of the grid, which is chosen by the mean of the *other*
five seeds and evaluated on these, so that the choice does not gain by the noise of these runs. Standard errors are
over seeds, of differences of pairs.
"""

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
    squared,
    starts,
    trainer,
)
from tqdm import tqdm

from stedyn import SGD, Problem
from stedyn.design.calibration import calibrated_ranges
from stedyn.design.layer_report import report_layers
from stedyn.files import report
from stedyn.quantizers.quantizer import Quantizer

SEEDS = (range(0, 5), range(100, 105))
OPTIMIZERS = {"SGD": optax.sgd(0.1), "Adam": optax.adam(2e-3)}
GRID = np.geomspace(0.5, 5.0, 9)
MEASURES = ("test_loss", "accuracy", "train_loss")
PREDICTED, SQUARED = ("choose", "layers"), "MLP, squared loss"


def quantizer_of(bits: int) -> Quantizer:
    """Mid-tread levels, those of LSQ; the range is set elsewhere."""
    return Quantizer(bits, 1.0, kind="mid-tread")


def predicted(
    net, params, x, bits: list[int], rules: tuple[str, ...], points: int
) -> dict[tuple[str, str, int], float]:
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
        for rule in rules:
            file = inputs if rule == "layers" else None
            layers = report_layers(
                weights, problem, activations=file, bits=bits, axis=-1, points=points, progress=True
            )
            rms = {name: float(np.sqrt(np.mean(np.asarray(params[name]) ** 2))) for name in net.hidden}
            found |= {
                (rule, row["layer"], row["bits"]): row["range"] / rms[row["layer"]] for row in layers.rows
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
        top = (quantizer_of(bits).n_levels - 1) / 2
        own = {f"{n}_step": jnp.asarray(marks["lsq"][n] / top, jnp.float32) for n in net.hidden}
        last, curves = free(data, params | own, jnp.zeros((len(data.y), 1)))
        ends = {n: top * np.asarray(last[f"{n}_step"])[:, 0] for n in net.hidden}
        found["LSQ learned"] = {key: np.asarray(curves[key][:, 0, -3:].mean(-1)) for key in MEASURES}
        return found, marks | {"LSQ learned": ends}

    return run


def study(
    name: str, net, optimizers, bits, groups, steps: int, points: int, rules: tuple, scan: int = 16
) -> list[dict]:
    """A row for each run; ``rules`` of `PREDICTED` from scans of ``scan`` ranges."""
    rows, ready = [], []
    floating = jax.jit(jax.vmap(trainer(net, as_is, OPTIMIZERS["Adam"], points)))
    for seeds in groups:
        data, start = digits(seeds, steps), starts(net, seeds)
        params, curves = floating(data, start, jnp.zeros(len(seeds)))
        one = {key: value[0] for key, value in params.items()}
        ready.append((seeds, data, start, params, predicted(net, one, data.x[0], bits, rules, scan)))
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


def draw(table: pd.DataFrame, runs: pd.DataFrame, measure: str = "test_loss"):
    """A loss against the multiple: bit widths in columns, networks and starts in rows; marks of the rules."""
    import matplotlib.pyplot as plt

    table = table[(table["seeds"] == "all") & (table["net"] != SQUARED)]
    cases, bits = list(table.groupby(["net", "start"], sort=False)), sorted(table["bits"].unique())
    size = dict(figsize=(4 * len(bits), 2.7 * len(cases) + 0.8), layout="constrained", squeeze=False)
    figure, axes = plt.subplots(len(cases), len(bits), **size)
    marks = [mark for mark in dict.fromkeys(table["mark"]) if not mark[0].isdigit()]
    for row, ((net, start), case) in zip(axes, cases, strict=True):
        first = list(OPTIMIZERS).index(case["optimizer"].iloc[0])
        floats = runs[(runs["mark"] == "float") & (runs["net"] == net)][measure].mean()
        for ax, b in zip(row, bits, strict=True):
            here = case[case["bits"] == b]
            lowest = min(here[measure].min(), floats)
            for optimizer, part in here.groupby("optimizer", sort=False):
                k = list(OPTIMIZERS).index(optimizer)
                grid, own = part[part["mark"].str[0].str.isdigit()], part.set_index("mark")
                x, y, sem = grid["mark"].astype(float), grid[measure], grid[f"{measure}_sem"]
                ax.errorbar(x, y, sem, color="k", ls=("-", "--")[k], lw=1, label=f"{optimizer}, grid")
                layer = "fc2_factor" if net == "MLP" else "conv2_factor"
                for n, mark in enumerate(marks):
                    if mark not in own.index:
                        continue
                    star = dict(marker="*", ms=10) if mark in PREDICTED else dict(marker="o", ms=5)
                    place = own.loc[mark, [layer, measure, f"{measure}_sem"]].astype(float)
                    filled = "w" if k else f"C{n}"
                    label = mark if k == first else None
                    ax.errorbar(
                        *place, color=f"C{n}", mfc=filled, ls="none", label=label, lw=0.8, zorder=3, **star
                    )
            ax.axhline(floats, color="0.6", lw=0.8, ls=":")
            ax.set(xscale="log", yscale="log", title=f"{net}, {start}, {b} bits")
            ax.set_ylim(
                top=1.3 * here.loc[here["mark"] == f"{GRID[0]:.3f}", measure].max(), bottom=0.85 * lowest
            )
            ax.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"], minor=False)
            ax.set_xticks([], minor=True)
        row[0].set_ylabel(measure.replace("_", " "))
    for ax in axes[-1]:
        ax.set_xlabel("range / rms of float weights")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False)
    return figure


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``networks_ranges.csv``, ``.png`` and the runs; return the table. Quick: no predicted ranges."""
    begin = time.perf_counter()
    jax.config.update("jax_enable_x64", True)
    if quick:
        groups = (range(0, 2), range(100, 102))
        rows = study("MLP", mlp(16), ["SGD"], [2], groups, steps=20, points=4, rules=())
    else:
        groups, size = SEEDS, dict(bits=[2, 3, 4], groups=SEEDS, steps=800, points=8, rules=PREDICTED)
        rows = study("MLP", mlp(), list(OPTIMIZERS), **size) + study(
            "CNN", cnn(), ["Adam"], **(size | {"steps": 400, "rules": ("choose",), "scan": 8})
        )
        rows += study(SQUARED, mlp(loss=squared), ["Adam"], **(size | {"bits": [2]}))
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
    report.write_figure(Path(out) / "networks_ranges_train.png", draw(table, runs, "train_loss"))
    return table


if __name__ == "__main__":
    given = arguments(__doc__)
    main(given.quick, given.out)
