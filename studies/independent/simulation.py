"""The algorithm in finite dimension, in NumPy, from docs/theory.md, sections 1, 2 and 4: nothing here is the package's.

A setting is a dict of the tables of a problem file, with ``taus`` and, if wanted, ``escapes`` and ``late`` (see
``settings.toml``). Arrays of weights are (seeds, d), float64.
"""

import numpy as np
from scipy import stats

#: Spacing of the fine grid of times.
SPACING = 0.1


def samples(name: str) -> np.ndarray:
    """The numbers that stand for a file, always the same."""
    rng = np.random.default_rng(2510)
    variance = np.exp(0.8 * rng.standard_normal(1000))
    return {
        "pairs-variance": variance,
        "pairs-teacher": rng.standard_normal(1000) / np.sqrt(variance),
        "student-t3": rng.standard_t(3.0, 1000),
        "student-t2.5": rng.standard_t(2.5, 1000),
        "two-humps": np.where(rng.random(500) < 0.3, 0.9, -0.6) + 0.15 * rng.standard_normal(500),
        "lognormal-0.6": np.exp(0.6 * rng.standard_normal(500)),
    }[name]


def values(table: dict) -> np.ndarray:
    """The numbers of a table of kind ``sample``."""
    return table.get("scale", 1.0) * samples(table["of"])


def measured(setting: dict) -> np.ndarray:
    """Times at which the error is recorded: those of the setting, and a fine grid for escapes and averages."""
    late = setting.get("late", [])
    last = max([*setting["taus"], *late])
    grid = np.arange(0.0, last + 1e-9, SPACING) if late or "escapes" in setting else []
    return np.unique(np.round(np.concatenate([[0.0], setting["taus"], grid]), 9))


def read_off(setting: dict, taus: np.ndarray, error: np.ndarray) -> dict:
    """``(quantity, at): value`` of a curve: errors, first crossings of levels, late average."""
    found = {("error", float(tau)): error[np.argmin(abs(taus - tau))] for tau in setting["taus"]}
    for level in setting.get("escapes", []):
        k = int(np.argmax(error < level))
        part = (error[k - 1] - level) / (error[k - 1] - error[k])
        found["escape", level] = taus[k - 1] + part * (taus[k] - taus[k - 1]) if k else np.nan
    if "late" in setting:
        low, high = setting["late"]
        found["late", float(high)] = error[(taus > low - 1e-9) & (taus < high + 1e-9)].mean()
    return found


def levels_of(table: dict) -> np.ndarray:
    """The levels of a quantizer, increasing."""
    kind, R, b = table["kind"], table.get("range"), table.get("bits")
    bin_edge = table.get("edge", "level") == "bin"
    if kind == "mid-rise":
        return (np.arange(2**b) + 0.5) * 2 * R / 2**b - R if bin_edge else np.linspace(-R, R, 2**b)
    if kind == "mid-tread":
        n = 2 ** (b - 1) - 1
        return np.arange(-n, n + 1) * R / (n + 0.5) if bin_edge else np.linspace(-R, R, 2 * n + 1)
    if kind == "twos-complement":
        n = 2 ** (b - 1)
        return np.arange(-n, n) * R / (n - 0.5 if bin_edge else n)
    return np.array({"sign": [-R, R], "ternary": [-R, 0.0, R]}[kind] if kind != "levels" else table["levels"])


class Rounding:
    """A quantizer: ``draw(w)`` rounds, ``mean(w)`` is ``E[psi]`` and ``E[psi^2]`` given the latent weights."""

    def __init__(self, table: dict | None, rng: np.random.Generator):
        self.none, self.rng = table is None, rng
        if table is None:
            return
        self.levels, self.stochastic = levels_of(table), table.get("rounding", "nearest") == "stochastic"
        self.low, self.step = self.levels[0], self.levels[1] - self.levels[0]
        self.even = np.allclose(np.diff(self.levels), self.step)
        assert self.even or not self.stochastic

    def draw(self, w):
        if self.none:
            return w
        if not self.even:
            edges = (self.levels[1:] + self.levels[:-1]) / 2
            steps = zip(edges, np.diff(self.levels), strict=True)
            return self.low + sum(jump * (w >= edge) for edge, jump in steps)
        k = (w - self.low) / self.step
        k += self.rng.random(w.shape) if self.stochastic else 0.5
        np.floor(k, out=k)
        np.clip(k, 0, self.levels.size - 1, out=k)
        return k * self.step + self.low

    def mean(self, w):
        if self.none or not self.stochastic:
            psi = self.draw(w)
            return psi, psi**2
        inside = np.clip(w, self.levels[0], self.levels[-1])
        f = (inside - self.low) / self.step % 1
        return inside, inside**2 + self.step**2 * f * (1 - f)

    def moments(self, v):
        """``E[x phi(x)]`` and ``E[phi(x)^2]`` for ``x ~ N(0, v)``."""
        if self.none:
            return v, v
        if self.stochastic:
            x = np.linspace(-9, 9, 400_001) * np.sqrt(v)
            weight = np.exp(-(x**2) / (2 * v))
            first, second = self.mean(x)
            return weight @ (x * first) / weight.sum(), weight @ second / weight.sum()
        s = np.sqrt(v)[..., None]
        t = (self.levels[1:] + self.levels[:-1]) / 2 / s
        fall = -np.diff(stats.norm.pdf(t), prepend=0, append=0)
        mass = np.diff(stats.norm.cdf(t), prepend=0, append=1)
        return s[..., 0] * (fall @ self.levels), mass @ self.levels**2


def factor(schedule: dict | None, tau: float) -> float:
    """What multiplies the rate at ``tau``."""
    if schedule is None:
        return 1.0
    if schedule["kind"] == "inverse":
        return schedule["tau0"] / (tau + schedule["tau0"])
    if schedule["kind"] == "step":
        return schedule["factor"] ** np.floor(tau / schedule["every"])
    return 0.5 * (1 + np.cos(np.pi * min(tau / schedule["period"], 1.0)))


def mover(rule: dict, rng: np.random.Generator):
    """``U`` as a function of the averaged gradient ``g (S, d)`` and the rate."""
    kind, delta = rule["kind"], rule.get("delta")
    gradient = Rounding(rule.get("quantizer"), rng)

    def shrinkage(g, lr):
        q = rule["q"]
        if "q_min" in rule:  # one factor a step, for all coordinates
            q = rng.uniform(rule["q_min"], q, (len(g), 1))
        noise = rule.get("noise_std", 0.0)
        return lr * (q * g + (noise * rng.standard_normal(g.shape, np.float32) if noise else 0.0))

    def multinomial(g, lr):
        p = abs(g) + rule["c"]
        counts = rng.multinomial(round(rule["nu"] * g.shape[1]), p / p.sum(1, keepdims=True))
        return rule["zeta"] * np.sign(g) * counts

    return {
        "sgd": lambda g, lr: lr * g,
        "shrinkage": shrinkage,
        "quantized-gradient": lambda g, lr: lr * gradient.draw(g),
        "deterministic-rounding": lambda g, lr: delta * np.floor(lr * g / delta + 0.5),
        "stochastic-rounding": lambda g, lr: delta * np.floor(lr * g / delta + rng.random(g.shape)),
        "sign": lambda g, lr: lr * np.sign(g),
        "multinomial": multinomial,
    }[kind]


def population(table: dict, shape: tuple, rng: np.random.Generator, order=None) -> np.ndarray:
    """Teacher or start weights, or variances, (S, d). Numbers of a sample are all used equally often."""
    kind = table["kind"]
    if kind == "constant":
        return np.full(shape, table["value"], float)
    if kind == "rademacher":
        return table["scale"] * rng.choice([-1.0, 1.0], shape)
    if kind == "gaussian":
        return table.get("mean", 0.0) + table["std"] * rng.standard_normal(shape)
    if kind == "power-law":  # the mean of (1 - a) u^-a over the cells of [0, 1]
        cells = np.diff((np.arange(shape[1] + 1) / shape[1]) ** (1 - table["exponent"]))
        return np.tile(table.get("scale", 1.0) * shape[1] * cells, (shape[0], 1))
    numbers = values(table)
    pool = np.resize(numbers, max(numbers.size, shape[1]))
    return rng.permuted(np.tile(pool, (shape[0], 1)), axis=1)[:, : shape[1]]


def simulate(setting: dict, dim: int, seeds: int, rng: np.random.Generator) -> list[dict]:
    """What `read_off` finds on the error curve of every seed."""
    rule, shape = setting["rule"], (seeds, dim)
    weights, inputs = (Rounding(setting.get(name), rng) for name in ("weights", "inputs"))
    start, teacher, v = setting["start"], setting["teacher"], np.ones(1)
    paired = "covariance" in setting and "pairs" in teacher.get("of", "")
    if paired:
        assert dim % 1000 == 0
        c, v = (np.tile(values(setting[name]), (seeds, dim // 1000)) for name in ("teacher", "covariance"))
    else:
        c = population(teacher, shape, rng)
        v = population(setting["covariance"], shape, rng) if "covariance" in setting else v
    w, std, unit = population(start, shape, rng), np.sqrt(v), bool(np.all(v == 1))
    k1, k2 = inputs.moments(v)
    table = setting.get("weights", {})
    clipped, wall = table.get("ste") == "clipped", table.get("latent_clip")
    noise, batch, decay = (
        setting.get("noise", {}).get("std", 0.0),
        rule.get("batch", 1),
        rule.get("weight_decay", 0.0),
    )
    base = rule["zeta"] * rule["nu"] if rule["kind"] == "multinomial" else rule["lr"]
    move, root = mover(rule, rng), np.sqrt(dim)
    taus = measured(setting)
    stops, errors, at = np.round(taus * dim).astype(int), np.empty((seeds, taus.size)), 0
    x = np.empty(shape)
    for k, stop in enumerate(stops):
        for step in range(at, stop):
            psi, g = weights.draw(w), 0.0
            for _ in range(batch):
                x[...] = rng.standard_normal(shape, np.float32)
                if not unit:
                    x *= std
                phi = inputs.draw(x)
                r = np.einsum("sd,sd->s", c, x) / root - np.einsum("sd,sd->s", psi, phi) / root
                r += noise * rng.standard_normal(seeds)
                g = g + (r / batch)[:, None] * phi
            lr = base * factor(rule.get("schedule"), step / dim)
            U = move(g, lr)
            if clipped:
                U *= abs(w) <= table["range"]
            w = w + U / root - lr * decay / dim * w if decay else w + U / root
            if wall is not None:
                np.clip(w, -wall, wall, out=w)
        first, second = weights.mean(w)
        at, errors[:, k] = stop, (v * c**2 - 2 * k1 * c * first + k2 * second).mean(1)
    return [read_off(setting, taus, curve) for curve in errors]
