"""The algorithm of docs/theory.md, section 1, in plain NumPy, float64, with the draws of the counter-based generator.

Nothing here is fast or shared with the package: Threefry is written from its definition, the normals
use the logarithm, sine and cosine of NumPy, the quantizers a search through their levels.
"""

import numpy as np
from scipy import integrate, stats

STREAMS = {"inputs": 0, "noise": 1, "round_weights": 2, "round_inputs": 3, "rule": 4}


def threefry(k0, k1, c0, c1, rounds=20):
    """Threefry-2x32 (Salmon et al., 2011): uint32 arrays to two uint32 arrays."""
    with np.errstate(over="ignore"):
        k = [np.uint32(k0), np.uint32(k1), np.uint32(0x1BD11BDA) ^ np.uint32(k0) ^ np.uint32(k1)]
        x0, x1 = np.uint32(c0) + k[0], np.uint32(c1) + k[1]
        for i in range(rounds):
            turn = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
            x0 = x0 + x1
            x1 = (x1 << np.uint32(turn)) | (x1 >> np.uint32(32 - turn))
            x1 = x1 ^ x0
            if i % 4 == 3:
                j = i // 4 + 1
                x0, x1 = x0 + k[j % 3], x1 + k[(j + 1) % 3] + np.uint32(j)
    return x0, x1


def words(key, step, stream, pairs):
    counters = np.arange(pairs, dtype=np.uint32) + np.uint32(stream << 28)
    low = np.full(pairs, step % 2**32, np.uint32)
    return threefry(key, step // 2**32, low, counters)


def normals(key, step, stream, dim):
    """``dim`` standard normals: the first half of the coordinates takes the cosines."""
    radius, angle = words(key, step, stream, -(-dim // 2))
    length = np.sqrt(-2 * np.log(np.minimum((radius + 0.5) * 2.0**-32, 1.0)))
    y = angle.view(np.int32) * 2.0**-31
    return np.concatenate([length * np.cos(np.pi * y), length * np.sin(np.pi * y)])[:dim]


def uniforms(key, step, stream, dim):
    pair = words(key, step, stream, -(-dim // 2))
    return np.concatenate([((word >> np.uint32(9)) + 0.5) * 2.0**-23 for word in pair])[:dim]


def inputs(problem, key, at, dim):
    """The inputs of a step (d,), by the law of the problem."""
    law, stream = problem.input_law, STREAMS["inputs"]
    if law.kind in ("gaussian", "relu"):
        x = normals(key, at, stream, dim)
        x = np.maximum(x, 0) if law.kind == "relu" else x
    elif law.kind == "file":
        values = np.asarray(law.data.values)
        x = np.concatenate([values[word % values.size] for word in words(key, at, stream, -(-dim // 2))])[
            :dim
        ]
    else:
        y = 2 * uniforms(key, at, stream, dim) - 1
        x = y if law.kind == "uniform" else -np.sign(y) * np.log1p(-np.abs(y))
    return float(law.mean) + float(law.scale) * x


def centres(problem):
    """``E[x]`` and ``E[phi(x)]``, from the distribution function of the law, if they are taken off."""
    law, mean, scale = problem.input_law, float(problem.input_law.mean), float(problem.input_law.scale)
    if not law.centre:
        return 0.0, 0.0
    values = None if law.data is None else np.sort(np.asarray(law.data.values))
    base, cdf = {
        "gaussian": lambda: (0.0, stats.norm.cdf),
        "relu": lambda: ((2 * np.pi) ** -0.5, lambda t: np.where(t >= 0, stats.norm.cdf(t), 0.0)),
        "uniform": lambda: (0.0, stats.uniform(-1, 2).cdf),
        "laplace": lambda: (0.0, stats.laplace.cdf),
        "file": lambda: (values.mean(), lambda t: np.searchsorted(values, t) / values.size),
    }[law.kind]()
    if problem.inputs.is_none:
        return (mean + scale * base,) * 2
    levels = np.asarray(problem.inputs.levels, float)
    if problem.inputs.rounding == "nearest":
        inner = cdf(((levels[1:] + levels[:-1]) / 2 - mean) / scale)
        return mean + scale * base, levels @ np.diff(np.concatenate([[0.0], inner, [1.0]]))
    t = np.linspace(levels[0], levels[-1], 100_001)  # the mean of a clipped number is an integral of 1 - cdf
    return mean + scale * base, levels[0] + integrate.trapezoid(1 - cdf((t - mean) / scale), t)


def quantize(quantizer, w, u):
    """The level of every entry, by searching through the levels."""
    if quantizer.is_none:
        return w
    levels = np.asarray(quantizer.levels, float)
    if quantizer.rounding == "nearest":
        return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, w, side="right")]
    w = np.clip(w, levels[0], levels[-1])
    low = np.clip(np.searchsorted(levels, w, side="right") - 1, 0, levels.size - 2)
    fraction = (w - levels[low]) / (levels[low + 1] - levels[low])
    return levels[low + (fraction > u)]


def sgd(problem, r, phi, u, tau):
    return float(problem.rule.lr) * r * phi


def step(problem, w, teacher, key, at, move=sgd, optimizer=None):
    """One step: the latent weights (d,) after step number ``at``.

    An ``optimizer`` is a function of weights, gradient ``h r phi``, residual and step that remembers what it needs.
    """
    d = w.size
    x = inputs(problem, key, at, d)
    phi = quantize(problem.inputs, x, uniforms(key, at, STREAMS["round_inputs"], d))
    mean_x, mean_phi = centres(problem)
    x, phi = x - mean_x, phi - mean_phi
    psi = quantize(problem.weights, w, uniforms(key, at, STREAMS["round_weights"], d))
    xi = normals(key, at, STREAMS["noise"], 1)[0]
    label = teacher @ x / np.sqrt(d)
    label = np.sign(label) if problem.model == "sign" else label
    r = label + float(problem.noise_std) * xi - psi @ phi / np.sqrt(d)
    u = [uniforms(key, at, STREAMS["rule"] + k, d) for k in range(problem.rule.uniforms)]
    u[: problem.rule.shared] = [one[0] for one in u[: problem.rule.shared]]
    h = 1.0
    if problem.ste == "clipped":
        h = np.abs(w) <= float(problem.weights.range)
    if problem.ste == "triangular":
        h = np.clip(2 - 2 * np.abs(w) / float(problem.weights.range), 0, None)
    if optimizer is None:
        update = h * move(problem, r, phi, u, at / d) / np.sqrt(d)
        w = w + update - float(problem.rule.lr) * float(problem.rule.weight_decay) * w / d
    else:
        w = optimizer(w, h * r * phi, r, at)
    if problem.latent_clip is not None:
        w = np.clip(w, -float(problem.latent_clip), float(problem.latent_clip))
    return w


def run(problem, start, teacher, key, steps, move=sgd, first=0, optimizer=None):
    """Latent weights (d,) after ``steps`` steps."""
    w = np.asarray(start, float)
    teacher = np.asarray(teacher, float)
    for at in range(first, first + steps):
        w = step(problem, w, teacher, key, at, move, optimizer)
    return w
