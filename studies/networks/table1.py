"""Table 1 of Li et al. (2017) on the digits: ADAM, BC-ADAM, SR-ADAM, R-ADAM with binary weights, and their annealing.

MLP 64-64-64-10 (its two hidden layers are binary) and a CNN (its two convolutions are); the last layer and the
biases are floats that all rules train. All rules start at the same random ``u = +-1``; the forward weight is ``u
sqrt(2 / fan_in)``, times ``sign(u)`` for BC. ADAM trains ``u``; BC-ADAM a latent ``u`` clipped to [-1, 1] (STE);
SR-ADAM and R-ADAM round ``u`` after every step to +-1, stochastically and to the nearest. Rate 0.01 (a step of
0.005 of the spacing 2), which falls by ten after each third of 2400 steps; batches of 32, no weight decay.

Beside it the exact limits of the same rules at the same ratios of step to spacing: a linear student of a +-1
teacher, label noise 0.3, 64 inputs to a weight (so that the spacing 2 is ``delta = 16``), walls at -1 and 1: error
of the fixed point.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from scipy import stats
from shared import all_runs, arguments, cnn, digits, mlp, save, starts, ste, trainer

from stedyn import Problem, Run, Start, Teacher, solve
from stedyn.limit.stationary import final_error
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import Adam

SEEDS = (range(0, 5), range(100, 105))
RULES = ("ADAM", "BC-ADAM", "SR-ADAM", "R-ADAM")
COLORS = dict(zip(RULES, ("0.35", "#0072B2", "#D55E00", "#009E73"), strict=True))
RATE, STAGES, SPACING, FAN_IN = 0.01, 3, 2.0, 64
NEAREST, STOCHASTIC = (
    Quantizer(kind="sign", range=1.0, rounding=rounding) for rounding in ("nearest", "stochastic")
)


def binary(names: tuple[str, ...]):
    """``quantize`` and ``place`` of all rules, chosen by ``setting["rule"]``, an index of `RULES`."""

    def quantize(params, setting):
        forward = {}
        for name in names:
            u, scale = params[name], (2 / params[name].shape[0]) ** 0.5
            forward[name] = scale * jnp.where(setting["rule"] == 1, ste(u, NEAREST.round(u)), u)
        return params | forward

    def place(setting, t, params):
        key, placed = jax.random.fold_in(jax.random.key(setting["seed"]), t), {}
        for i, name in enumerate(names):
            u = params[name]
            draw = jax.random.uniform(jax.random.fold_in(key, i), u.shape, u.dtype)
            cases = [u, jnp.clip(u, -1, 1), STOCHASTIC.round(u, draw), NEAREST.round(u)]
            placed[name] = jnp.stack(cases)[setting["rule"]]
        return params | placed

    return quantize, place


def study(name: str, net, names, groups, steps: int, points: int) -> list[dict]:
    """A row for each run and record."""
    rate = optax.piecewise_constant_schedule(RATE, {steps // STAGES * k: 0.1 for k in range(1, STAGES)})
    quantize, place = binary(names)
    run, rows = all_runs(trainer(net, quantize, optax.adam(rate), points, place)), []
    for seeds in groups:
        start = starts(net, seeds)
        start |= {layer: jnp.where(start[layer] < 0, -1.0, 1.0).astype(jnp.float32) for layer in names}
        index = jnp.broadcast_to(jnp.arange(len(RULES)), (len(seeds), len(RULES)))
        setting = {"rule": index, "seed": jnp.broadcast_to(jnp.array(seeds)[:, None], index.shape)}
        _, curves = run(digits(seeds, steps), start, setting)
        curves = {key: np.asarray(value) for key, value in curves.items()}
        for s, seed in enumerate(seeds):
            for r, rule in enumerate(RULES):
                for k in range(points):
                    row = dict(net=name, rule=rule, first=seeds[0], seed=seed, step=(k + 1) * steps // points)
                    rows.append(row | {key: float(value[s, r, k]) for key, value in curves.items()})
    return rows


def summary(runs: pd.DataFrame, points: int) -> pd.DataFrame:
    """Test error at the end, training loss at the end of every stage: means and standard errors over seeds."""
    rows, per_stage = [], points // STAGES
    groups = {str(first): part for first, part in runs.groupby("first")} | {"all": runs}
    for first, group in groups.items():
        for (net, rule), part in group.groupby(["net", "rule"], sort=False):
            loss = part.pivot(index="seed", columns="step", values="train_loss").to_numpy()
            wrong = 100 * (1 - part.pivot(index="seed", columns="step", values="accuracy").to_numpy())
            late = max(1, per_stage // 4)
            ends = [loss[:, (k + 1) * per_stage - late : (k + 1) * per_stage].mean(1) for k in range(STAGES)]
            row = dict(net=net, rule=rule, seeds=first, runs=len(loss))
            final = wrong[:, -late:].mean(1)
            row |= {"test_error_percent": final.mean(), "test_error_sem": stats.sem(final)}
            for k, end in enumerate(ends):
                row |= {f"train_loss_{k + 1}": end.mean(), f"train_loss_{k + 1}_sem": stats.sem(end)}
            rows.append(row)
    return pd.DataFrame(rows)


def limits(stages: int = STAGES) -> pd.DataFrame:
    """Error of the fixed point of each rule at the ratios of step to spacing of all stages, 2 at the start."""
    rows, delta, root = [], SPACING * FAN_IN**0.5, FAN_IN**0.5
    for k in range(stages):
        lr = RATE * 0.1**k * root
        rounded = Adam(lr, rounding="stochastic", delta=delta)
        problems = {
            "ADAM": dict(rule=Adam(lr)),
            "BC-ADAM": dict(rule=Adam(lr), weights=Quantizer(kind="sign", range=1.0), latent_clip=1.0),
            "SR-ADAM": dict(rule=rounded, latent_clip=1.0),
        }
        for rule, given in problems.items():
            error = final_error(Problem(Teacher.rademacher(1.0), noise_std=0.3, **given))
            rows.append(dict(rule=rule, step_over_spacing=lr / delta, limit_error=error))
        # steps of a few rates do not reach half a spacing: nothing moves, and the limit stays at its start
        still = Problem(
            Teacher.rademacher(1.0), start=Start.gaussian(std=1.0), noise_std=0.3, run=Run(1 / lr, 2),
            rule=Adam(lr, beta1=0.0, rounding="nearest", delta=delta),
        )  # fmt: skip
        error = solve(still, law="mixture").final_error
        rows.append(dict(rule="R-ADAM", step_over_spacing=lr / delta, limit_error=error))
    return pd.DataFrame(rows)


def draw(runs: pd.DataFrame, limit: pd.DataFrame, steps: int):
    """Training loss of all rules, mean and standard error over all seeds, and the limits."""
    import matplotlib.pyplot as plt

    nets = list(dict.fromkeys(runs["net"]))
    size = dict(figsize=(4.2 * (len(nets) + 1), 3.6), layout="constrained")
    figure, axes = plt.subplots(1, len(nets) + 1, **size)
    for ax, net in zip(axes, nets, strict=False):
        for rule, part in runs[runs["net"] == net].groupby("rule", sort=False):
            loss = part.pivot(index="seed", columns="step", values="train_loss")
            mean, sem = loss.mean(), loss.sem()
            ax.plot(mean.index, mean, color=COLORS[rule], label=rule)
            ax.fill_between(mean.index, mean - sem, mean + sem, color=COLORS[rule], alpha=0.25, lw=0)
        for k in range(1, STAGES):
            ax.axvline(steps // STAGES * k, color="0.7", lw=0.8, ls=":")
        ax.set(
            yscale="log", xlabel="step", ylabel="training loss", title=f"{net}: rate / 10 at the dotted lines"
        )
    for rule, part in limit.groupby("rule", sort=False) if len(limit) else ():
        axes[-1].plot(
            part["step_over_spacing"], part["limit_error"], color=COLORS[rule], marker="o", label=rule
        )
    axes[-1].set(xscale="log", yscale="log", xlabel="step / spacing", ylabel="error of the fixed point")
    axes[-1].set_title("exact limit, linear student")
    axes[-1].invert_xaxis()
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``networks_table1.csv``, its ``_limits.csv`` and ``.png``; return the table. Quick: no limits, no CNN."""
    begin = time.perf_counter()
    jax.config.update("jax_enable_x64", True)
    groups, steps, points = ((range(2),), 30, 6) if quick else (SEEDS, 2400, 24)
    rows = study("MLP", mlp(16 if quick else 64), ("fc1", "fc2"), groups, steps, points)
    if not quick:
        rows += study("CNN", cnn(8), ("conv1", "conv2"), groups, steps, points)
    runs, limit = pd.DataFrame(rows), limits(0 if quick else STAGES)
    table = summary(runs, points)
    print(table.to_string(index=False, float_format="%.3g"), limit.to_string(index=False), sep="\n")
    if not quick:
        save(limit, out, "networks_table1_limits", "none, exact", begin)
    save(table, out, "networks_table1", str(groups), begin, draw(runs, limit, steps))
    return table


if __name__ == "__main__":
    given = arguments(__doc__)
    main(given.quick, given.out)
