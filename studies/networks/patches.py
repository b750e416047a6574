"""A linear student on patches of real images, beside limits that know variances, means, one spike, the spectrum.

Patches of 16 x 16 and 32 x 32 pixels (d = 256, 1024) of photographs of scikit-image, grey, over their root mean square
("raw", with the mean of intensities) or less their common mean ("centred"); and centred patches whitened in part,
``C^(-alpha/2) x``, again over their root mean square. C is the matrix of second moments, of trace d. Teacher N(0, 1),
labels without noise, start N(0, 0.25), SGD at lr 0.1 with single samples; the student is linear or, on raw and centred
patches of d = 256, has 3-bit mid-rise weights of range 2. The error ``(w* - psi)^T C (w* - psi) / d`` is exact over the
bank of patches.

Limits: (a) unit variances, (b) measured second moments, (c) measured variances and means (of raw patches; the others
have none), (d) the leading eigenvector of C as a mean, ``m = sqrt(lambda) v``, beside the variances that are left: one
spike as a fast mode. Of the linear student in eigenvectors: (e) the eigenvalues of C as variances, by its linear
equation, which is exact for Gaussian inputs in high dimension; (f) the same with the measured ``E|x|^4 / d^2`` in the
place of 1, as patches differ in contrast. With 3 bits there is (a) alone.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax
from scipy import stats
from scipy.linalg import expm
from shared import arguments, save

from stedyn import SGD, Covariance, Problem, Quantizer, Run, Start, Teacher, solve

SEEDS = (range(0, 10), range(100, 110))
LR, TIMES = 0.1, np.array([0.5, 1.0, 2.0, 4.0, 8.0])
PICTURES = ("astronaut", "camera", "coffee", "cat", "rocket", "coins", "grass", "gravel", "brick", "moon")
STUDENTS = {"linear": Quantizer(kind="none"), "3 bits": Quantizer(3, 2.0)}


def bank(side: int, count: int) -> np.ndarray:
    """``count`` patches at random places of the pictures, (count, side^2), over their standard deviation."""
    from skimage import color, data

    rng, found = np.random.default_rng(7), []
    for name in PICTURES:
        picture = getattr(data, name)()
        picture = color.rgb2gray(picture) if picture.ndim == 3 else picture / 255
        for _ in range(count // len(PICTURES)):
            i, j = (rng.integers(0, size - side) for size in picture.shape)
            found.append(picture[i : i + side, j : j + side].ravel())
    found = np.array(found)
    return found / found.std()


def whitened(x: np.ndarray, alpha: float) -> np.ndarray:
    """``C^(-alpha/2) x`` with trace d; eigenvalues below 1e-4 of the mean count as this much."""
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    x = x @ (vectors * np.maximum(values, 1e-4 * values.mean()) ** (-alpha / 2)) @ vectors.T
    return x / np.sqrt(np.mean(x**2))


def simulated(x: np.ndarray, student: Quantizer, seeds, steps: np.ndarray) -> np.ndarray:
    """Errors of all seeds at ``steps``, (S, T): the algorithm itself on patches drawn with replacement."""
    d, matrix = x.shape[1], jnp.asarray(x.T @ x / len(x), jnp.float32)
    draws = [np.random.default_rng(seed) for seed in seeds]
    teacher = np.stack([draw.normal(size=d) for draw in draws]).astype(np.float32)
    start = np.stack([0.5 * draw.normal(size=d) for draw in draws]).astype(np.float32)
    order = np.stack([draw.integers(len(x), size=steps[-1]) for draw in draws])
    patches, every = jnp.asarray(x, jnp.float32), int(steps[0])

    def run(w, target, chosen):
        def step(w, k):
            one = patches[k]
            r = (target - student.round(w)) @ one / d**0.5
            return w + LR * r * one / d**0.5, None

        def record(w, part):
            w, _ = lax.scan(step, w, part)
            gap = target - student.round(w)
            return w, gap @ matrix @ gap / d

        return lax.scan(record, w, chosen.reshape(-1, every))[1]

    curves = jax.jit(jax.vmap(run))(jnp.asarray(start), jnp.asarray(teacher), jnp.asarray(order, jnp.int32))
    return np.asarray(curves)[:, steps // every - 1]


def limits(x: np.ndarray, student: Quantizer) -> dict[str, np.ndarray]:
    """Errors at `TIMES` of all limits that the student has; with quantized weights (a) alone."""
    matrix, moments, means = x.T @ x / len(x), np.mean(x**2, axis=0), x.mean(axis=0)
    values, vectors = np.linalg.eigh(matrix)
    inputs, spike = {"a unit": Covariance.identity()}, np.sqrt(values[-1]) * vectors[:, -1]
    if student.is_none:
        inputs["b variances"] = Covariance.samples(moments)
        if np.abs(means).min() > 0.1:
            inputs["c variances, means"] = Covariance.samples(x.var(axis=0), means=means)
        inputs["d one spike"] = Covariance.samples(np.maximum(moments - spike**2, 1e-3), means=spike)
    weights, found = None if student.is_none else student, {}
    for name, covariance in inputs.items():
        problem = Problem(Teacher.gaussian(1.0), start=Start.gaussian(std=0.5), noise_std=0.0, weights=weights,
                          rule=SGD(LR), run=Run(taus=np.append(0.0, TIMES)), covariance=covariance)  # fmt: skip
        solution = solve(problem, tol=0.02)
        found[name] = np.full(TIMES.size, np.nan)
        found[name][: solution.tau.size - 1] = np.asarray(solution.error)[1:]
    if student.is_none:
        found["e spectrum"] = spectrum(values)
        found["f spectrum, lengths"] = spectrum(values, np.mean(np.mean(x**2, axis=1) ** 2))
    return found


def spectrum(values: np.ndarray, lengths: float = 1.0) -> np.ndarray:
    """Errors at `TIMES` of a linear student whose inputs have these eigenvalues and ``E|x|^4 = lengths d^2``.

    With ``e_k`` the mean square of the gap along eigenvector k ``e_k' = -2 lr lambda_k e_k + lr^2 lambda_k V lengths``,
    ``V = sum_k lambda_k e_k / d``: the limit with ``lambda_k`` as variances if ``lengths`` is 1.
    """
    A = -2 * LR * np.diag(values) + LR**2 * lengths * np.outer(values, values) / values.size
    return np.array([values @ expm(A * tau) @ np.full(values.size, 1.25) / values.size for tau in TIMES])


def study(sides, kinds, groups, count: int, quick: bool) -> pd.DataFrame:
    """One row for each kind of inputs, student, time and limit."""
    rows = []
    for side in sides:
        raw = bank(side, count)
        for kind in kinds:
            x = (
                raw
                if kind == "raw"
                else whitened(raw - raw.mean(), float(kind.split()[-1]) if " " in kind else 0.0)
            )
            x = x / np.sqrt(np.mean(x**2))
            d = side**2
            share = np.linalg.eigvalsh(x.T @ x / len(x))[-1] / d
            for name, student in STUDENTS.items():
                if name != "linear" and (quick or side > 16 or kind in kinds[2:]):
                    continue
                every = int(TIMES[0] * d)
                steps = np.round(TIMES / TIMES[0]).astype(int) * every
                seen = {seeds: simulated(x, student, seeds, steps) for seeds in groups}
                everything = np.concatenate(list(seen.values()))
                known = {} if quick else limits(x, student)
                for k, tau in enumerate(TIMES):
                    row = dict(d=d, inputs=kind, share=share, student=name, tau=tau, runs=len(everything))
                    row |= dict(simulated=everything[:, k].mean(), sem=stats.sem(everything[:, k]))
                    row |= {f"simulated_{seeds[0]}": curves[:, k].mean() for seeds, curves in seen.items()}
                    rows.append(row | {limit: curve[k] for limit, curve in known.items()})
                print(f"d = {d}, {kind}, {name}: share {share:.3f}", flush=True)
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame):
    """Curves of two kinds of inputs, and the gap of every limit at the last time against the share."""
    import matplotlib.pyplot as plt

    names = [column for column in table if column[:2] in ("a ", "b ", "c ", "d ", "e ", "f ")]
    students = list(dict.fromkeys(table["student"]))
    figure, axes = plt.subplots(
        len(students), 3, figsize=(12.5, 3.4 * len(students)), layout="constrained", squeeze=False
    )
    for row, student in zip(axes, students, strict=True):
        part = table[(table["student"] == student) & (table["d"] == table["d"].min())]
        for ax, kind in zip(row, ("raw", "centred"), strict=False):
            here = part[part["inputs"] == kind]
            if here.empty:
                continue
            ax.errorbar(
                here["tau"],
                here["simulated"],
                2 * here["sem"],
                color="k",
                marker="o",
                mfc="w",
                ls="none",
                label="simulated",
            )
            for k, name in enumerate(names):
                ax.plot(here["tau"], here[name], color=f"C{k}")
            ax.set(
                xscale="log",
                yscale="log",
                xlabel=r"$\tau$",
                ylabel="error",
                title=f"{student}, {kind}, d = {part['d'].min()}",
            )
        late = table[(table["student"] == student) & (table["tau"] == TIMES[-2])]
        for marker, (d, here) in zip("os", late.groupby("d"), strict=False):
            for k, name in enumerate(names):
                row[2].plot(here["share"], here[name] / here["simulated"], color=f"C{k}", marker=marker, ls="none",
                            mfc=f"C{k}" if marker == "o" else "w", label=f"{name}, d = {d}")  # fmt: skip
        for ax in row[:2]:
            ax.set_xticks(TIMES, [f"{tau:g}" for tau in TIMES], minor=False)
            ax.set_xticks([], minor=True)
        row[2].axhline(1.0, color="0.6", lw=0.8)
        row[2].set(
            xscale="log", yscale="log", xlabel="share of the leading eigenvector", ylabel="limit / simulated"
        )
        row[2].set_title(rf"$\tau$ = {TIMES[-2]:g}")
    axes[0][0].legend(frameon=False)
    axes[0][2].legend(frameon=False, fontsize="x-small", loc="upper left")
    return figure


def main(quick: bool = False, out: str = "data") -> pd.DataFrame:
    """Write ``networks_patches.csv`` and ``.png``; return the table. Quick: no limits."""
    begin = time.perf_counter()
    jax.config.update("jax_enable_x64", True)
    if quick:
        table = study([8], ["centred"], (range(2),), count=200, quick=True)
    else:
        kinds = ["raw", "centred", "whitened 0.25", "whitened 0.5", "whitened 0.75", "whitened 1"]
        table = study([16, 32], kinds, SEEDS, count=10_000, quick=False)
    print(table.to_string(index=False, float_format="%.4g"))
    save(table, out, "networks_patches", "0 to 1" if quick else str(SEEDS), begin, draw(table))
    return table


if __name__ == "__main__":
    given = arguments(__doc__)
    main(given.quick, given.out)
