"""The limit against simulations that share no code with the package: NumPy, float64, from the equations alone.

The settings are problem files (``independent/settings.toml``); ``independent/simulation.py`` reads them and writes
quantizers, rules and updates anew. Predictions come from ``stedyn.solve`` and ``stedyn.fixed_point``. What every
seed measured is kept in ``independent_check_runs.csv`` under a key of its setting: a second call simulates what is
missing there, and makes all predictions.
"""

import argparse
import hashlib
import json
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from scipy import stats

from stedyn import fixed_point, plots, solve
from stedyn.files import report
from stedyn.files.problems import problem_from_dict
from stedyn.files.whole import write_atomic

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from independent.simulation import measured, read_off, simulate, values  # noqa: E402

#: Dimensions, and coordinates of all seeds together (at least 16 seeds); tolerance of `solve`.
DIMS, COORDINATES, TOL = (250, 1000), 16_000, 2e-3
#: Below this p a setting is said to differ.
LEVEL = 0.01
COLUMNS = ["key", "setting", "dim", "seed", "quantity", "at", "value"]


# --- the cache of simulations ---


def seeds_of(setting: dict, dim: int) -> int:
    """How many seeds a dimension gets."""
    return setting.get("seeds", max(16, COORDINATES // dim))


def key_of(setting: dict, dim: int, seeds: int) -> str:
    """Sixteen hexadecimal digits, which are also the seed of the generator."""
    physical = {k: v for k, v in setting.items() if k not in ("dims", "bias", "seeds")}
    return hashlib.sha256(json.dumps([physical, dim, seeds], sort_keys=True).encode()).hexdigest()[:16]


def simulated(settings: dict, path: Path | None = None) -> pd.DataFrame:
    """One row a setting, dimension, seed and quantity: those of the file, and those that were missing in it."""
    kept = pd.DataFrame(columns=COLUMNS)
    if path is not None and path.exists():
        kept = pd.read_csv(path, comment="#", dtype={"key": str})
    wanted = []
    for name, setting in settings.items():
        for dim in setting.get("dims", DIMS):
            seeds = seeds_of(setting, dim)
            key = key_of(setting, dim, seeds)
            wanted.append(key)
            if key in set(kept["key"]):
                continue
            rng = np.random.Generator(np.random.SFC64(int(key, 16)))
            rows = [
                (key, name, dim, seed, *what, float(f"{value:.7g}"))
                for seed, found in enumerate(simulate(setting, dim, seeds, rng))
                for what, value in found.items()
            ]
            kept = pd.concat(
                [f for f in (kept, pd.DataFrame(rows, columns=COLUMNS)) if len(f)], ignore_index=True
            )
            if path is not None:
                report.write_csv(path, kept, "studies/independent_check.py: error curves of single seeds")
    return kept[kept["key"].isin(wanted)]


# --- predictions, and both together ---


def predicted(setting: dict) -> tuple[dict, str]:
    """What `read_off` finds on the limit; and the solver's word on it, with its escapes and fixed point."""
    tables = {k: dict(v) for k, v in setting.items() if isinstance(v, dict)}
    for table in tables.values():
        if table.get("kind") == "sample":
            numbers = values(table).tolist()
            table.clear()
            table.update(kind="file", values=numbers)
    taus = measured(setting)
    problem = problem_from_dict(tables | {"run": {"taus": taus.tolist()}})
    solution = solve(problem, tol=TOL, throw=False)
    curve = np.full(taus.size, np.nan)
    curve[: solution.error.size] = solution.error
    found = read_off(setting, taus, curve)
    claim = "exact" if solution.error_estimate is None else f"{100 * float(solution.error_estimate):.2g} %"
    if solution.status.code != 0:
        claim += f": {solution.status}"
    if "escapes" in setting:
        claim += "; `plateaus()`: escape at " + ", ".join(
            "none by the horizon" if p.open else f"{p.escape:.4g}" for p in solution.plateaus()
        )
    if "late" in setting:
        end, late = fixed_point(problem).error, found["late", float(setting["late"][1])]
        claim += f"; `fixed_point` {end:.5g}, {100 * (end / late - 1):+.2g} % from the late mean of the curve"
    return found, f"{solution.law}, {claim}"


def hotelling(gap: np.ndarray, covariance: np.ndarray, seeds: int) -> float:
    """Probability of larger gaps (n,) of a mean of ``seeds`` Gaussian runs, whose covariance was estimated (n, n)."""
    n = gap.size
    if not np.all(np.isfinite(gap)):
        return np.nan
    statistic = gap @ np.linalg.pinv(covariance, hermitian=True) @ gap
    return float(stats.f.sf(statistic * (seeds - n) / (n * (seeds - 1)), n, seeds - n))


def held_together(name: str, setting: dict, runs: pd.DataFrame) -> pd.DataFrame:
    """One row a quantity: predicted, simulated in two dimensions, z; and what all of them together say."""
    small, large = setting.get("dims", DIMS)
    own = runs[runs["setting"] == name].pivot(
        index=["dim", "seed"], columns=["quantity", "at"], values="value"
    )
    index = list(own.columns)
    try:
        jax.clear_caches()  # the programs of all settings do not fit into the memory that LLVM has for code
        limit, claim = predicted(setting)
    except Exception as error:  # a finding, not the end of the table
        limit, claim = {}, f"{type(error).__name__}: {error}"
    theory = np.array([limit.get(what, np.nan) for what in index])
    mean, covariance, count = {}, {}, {}
    for dim in (small, large):
        table = own.loc[dim][index].to_numpy()
        count[dim] = len(table)
        mean[dim], covariance[dim] = table.mean(0), np.atleast_2d(np.cov(table.T)) / len(table)
    se = {dim: np.sqrt(np.diag(covariance[dim])) for dim in mean}
    # without the first correction to the limit, which falls like d^-power
    power = setting.get("bias", 1.0)
    share = large**power / (large**power - small**power)
    far = share * mean[large] + (1 - share) * mean[small]
    far_covariance = share**2 * covariance[large] + (1 - share) ** 2 * covariance[small]
    p = hotelling(theory - mean[large], covariance[large], count[large])
    p_far = hotelling(theory - far, far_covariance, count[large])
    return pd.DataFrame(
        {
            "setting": name,
            "quantity": [what for what, _ in index],
            "at": [at for _, at in index],
            "predicted": theory,
            "simulated": mean[large],
            "standard_error": se[large],
            "z": (mean[large] - theory) / se[large],
            "dim": large,
            "seeds": count[large],
            "small_simulated": mean[small],
            "small_standard_error": se[small],
            "small_dim": small,
            "extrapolated": far,
            "extrapolated_z": (far - theory) / np.sqrt(np.diag(far_covariance)),
            "p": p,
            "p_extrapolated": p_far,
            "law": claim,
        }
    )


def verdict(rows: pd.DataFrame) -> str:
    """What a reader should take from the rows of one setting."""
    first = rows.iloc[0]
    if not np.all(np.isfinite(rows["predicted"])):
        return "no prediction"
    if first["p"] >= LEVEL:
        return "agrees"
    return "differs at this d alone" if first["p_extrapolated"] >= LEVEL else "**differs**"


def main(quick: bool = False, out: str = "data", docs: str | None = None, only: list[str] | None = None):
    """Write ``independent_check.csv`` and ``.png``, the runs beside them and the page ``checked.md``; return the table.

    ``quick``: two settings in small dimensions, without cache and page.
    """
    jax.config.update("jax_enable_x64", True)
    settings = tomllib.loads((HERE / "independent" / "settings.toml").read_text())
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if only:
        settings = {name: settings[name] for name in only}
    if quick:
        names = "power-law-0.3-quantized-inputs", "sign-rule-weight-decay"
        settings = {name: settings[name] | {"dims": [40, 80], "taus": [1, 2]} for name in names}
        settings = {name: {k: v for k, v in s.items() if k != "late"} for name, s in settings.items()}
    runs = simulated(settings, None if quick else folder / "independent_check_runs.csv")
    table = pd.concat([held_together(name, s, runs) for name, s in settings.items()], ignore_index=True)
    report.write_csv(
        folder / "independent_check.csv",
        table,
        f"studies/independent_check.py: NumPy {np.__version__}, SFC64 seeded by a hash of each setting; solve at "
        f"tol {TOL:g}",
    )
    figure, axes = plots.panels(2, width=4.4, height=3.8)
    draw(axes, table)
    report.write_figure(folder / "independent_check.png", figure)
    if docs is not None:
        write_atomic(Path(docs) / "checked.md", page(table, settings))
    return table


def draw(axes, table: pd.DataFrame) -> None:
    """The z of all quantities, and the p of all settings, against what chance alone gives."""
    dof = int(table["seeds"].min()) - 1
    for column, color, label in (
        ("extrapolated_z", "0.6", "extrapolated in d"),
        ("z", "#0072B2", "as simulated"),
    ):
        z = np.sort(table[column].dropna())
        expected = stats.t.ppf((np.arange(z.size) + 0.5) / z.size, dof)
        axes[0].plot(expected, np.clip(z, -9, 9), "o", color=color, mfc="white", ms=4, label=label)
    axes[0].axline((0, 0), slope=1, color="0.3", lw=1)
    axes[0].set(xlabel=f"expected z (Student's t, {dof} degrees of freedom)", ylabel="z, cut at 9")
    settings = table.groupby("setting", sort=False).first()
    for column, color in (("p_extrapolated", "0.6"), ("p", "#0072B2")):
        p = np.sort(settings[column].dropna())
        axes[1].loglog(
            (np.arange(p.size) + 0.5) / p.size, np.maximum(p, 1e-8), "o", color=color, mfc="white", ms=4
        )
    axes[1].axline((1e-2, 1e-2), (1, 1), color="0.3", lw=1)
    axes[1].axhline(LEVEL, color="#D55E00", lw=1, ls=":", label=f"p = {LEVEL:g}")
    axes[1].set(xlabel="expected p of a setting", ylabel="p over all its times, cut at 1e-8")
    for ax in axes:
        ax.legend(frameon=False, fontsize="small")


# --- the page ---


def problem_line(setting: dict) -> str:
    """The problem in one line of the words of a problem file."""

    def words(table: dict) -> str:
        parts = (
            f"{k} ({words(v)})" if isinstance(v, dict) else f"{k} {v}"
            for k, v in table.items()
            if k != "kind"
        )
        return ", ".join([*([table["kind"]] if "kind" in table else []), *parts])

    return "; ".join(f"{name}: {words(table)}" for name, table in setting.items() if isinstance(table, dict))


def counts(table: pd.DataFrame, column: str) -> str:
    """How many z are large, and how many chance alone would give."""
    dof, size = int(table["seeds"].min()) - 1, abs(table[column].dropna())
    shares = {limit: 2 * stats.t.sf(limit, dof) * len(size) for limit in (2, 3)}
    return ", ".join(
        f"{int((size > limit).sum())} beyond {limit} ({n:.1f} expected)" for limit, n in shares.items()
    )


def findings(table: pd.DataFrame) -> str:
    """What the table says, in two sentences."""
    groups = {name: verdict(rows) for name, rows in table.groupby("setting", sort=False)}
    differ = [name for name, word in groups.items() if word not in ("agrees", "differs at this d alone")]
    sized = [name for name, word in groups.items() if word == "differs at this d alone"]
    return (
        f"{len(groups)} settings, {table['predicted'].count()} predictions. As simulated: {counts(table, 'z')}; "
        f"extrapolated in d: {counts(table, 'extrapolated_z')}. At the level {LEVEL:g} of a setting, {len(differ)} "
        f"differ or have no "
        f"prediction ({', '.join(differ) or 'none'}), and {len(sized)} differ at their d but not extrapolated "
        f"({', '.join(sized) or 'none'}); by chance {LEVEL * len(groups):.1f} would differ at their d."
    )


def page(table: pd.DataFrame, settings: dict) -> str:
    """The page ``checked.md``."""
    names = {"error": "tau = {:g}", "escape": "escape below {:g}", "late": "mean to tau = {:g}"}
    lines = [PREFACE.format(findings=findings(table), level=LEVEL, tol=TOL)]
    for name, rows in table.groupby("setting", sort=False):
        first = rows.iloc[0]
        cells = [f"**{name}**<br>{problem_line(settings[name])}"]
        cells.append("<br>".join(names[row.quantity].format(row.at) for row in rows.itertuples()))
        cells.append("<br>".join(f"{row.predicted:.5g}" for row in rows.itertuples()))
        cells.append(
            "<br>".join(f"{row.simulated:.5g} ± {row.standard_error:.1g}" for row in rows.itertuples())
        )
        cells.append("<br>".join(f"{row.z:+.1f}" for row in rows.itertuples()))
        cells.append("<br>".join(f"{row.extrapolated_z:+.1f}" for row in rows.itertuples()))
        cells.append(f"{verdict(rows)}<br>p {first.p:.2g}, {first.p_extrapolated:.2g}<br>{first.law}")
        if (first.small_dim, first.dim) != DIMS or "seeds" in settings[name]:
            cells[-1] += f"<br>d = {first.small_dim} and {first.dim}, {first.seeds} seeds"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


PREFACE = """# What was checked against independent simulation

Written by `studies/independent_check.py`; do not edit. The settings are the tables of
`studies/independent/settings.toml`; the tests and the other studies use none of them. The simulation
(`studies/independent/simulation.py`) is a NumPy loop in float64 with quantizers, rules and generator of its own; it
shares no line with the package. Teacher and start are drawn anew for every seed; numbers that stand for a file are
all used. The predictions are `stedyn.solve` at a tolerance of {tol:g} and `stedyn.fixed_point`.

{findings}

* `z` is (simulated - predicted) / standard error over the seeds, at the larger of two dimensions (1000 with 16 seeds,
  unless the last column says otherwise). With 16 seeds it follows Student's t with 15 degrees of freedom if the
  prediction is right. The times of one setting are correlated.
* `z, d to infinity` takes the first correction to the limit away, with the help of a smaller dimension (250 with 64
  seeds): it is taken to fall as `1/d`, or as `d^-1/2` with the clipped estimator and with a latent clip, where a
  walk of steps of this size meets a wall.
* `p` is that of all quantities of the setting together (Hotelling's test with the covariance over the seeds), as
  simulated and with the correction taken away. A setting *differs* if both are below {level:g}. No allowance is made
  for the error that the solver states for its own curve (last column).
* Where a first set of 16 seeds had some |z| above 3 without a known reason, the table shows 64 others, drawn once;
  the first ones are in `data/independent_check_runs.csv` too.
* An escape is the first crossing of the level between two plateaus. Where late times are averaged, the last column
  has the fixed point beside it, which some curves are still on their way to.

![z and p against what chance gives](../data/independent_check.png)

| setting | at | predicted | simulated | z | z, d to infinity | verdict; p; law and stated error |
|---|---|---|---|---|---|---|"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two settings, small dimensions")
    parser.add_argument("--out", default="data", help="folder of the results")
    parser.add_argument("--docs", default="docs", help="folder of the page, which --quick leaves out")
    parser.add_argument("--only", nargs="+", help="names of settings; no page is written")
    given = parser.parse_args()
    docs = None if given.quick or given.only else given.docs
    result = main(given.quick, given.out, docs, given.only)
    print(result.drop(columns=["law", "small_simulated", "small_standard_error"]).to_string(index=False))
    print(findings(result))
