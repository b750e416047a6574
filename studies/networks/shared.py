"""What the studies of real networks share: data, two small networks, quantized weights, one training loop.

Quantizers and their rounding are those of the package (`stedyn.Quantizer`). Weights are float32; a run is given by
its seed alone: the split of the data, the start and the order of the samples follow from it, so that runs of one
seed with different settings are pairs. Runs of several seeds and settings are two nested ``vmap``: one program
trains all.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax

from stedyn.files import report
from stedyn.quantizers.quantizer import Quantizer

try:
    import optax
    from sklearn.datasets import load_digits
except ImportError as missing:
    print(
        f"studies/networks: not run, as {missing.name} is not installed: python -m pip install '.[studies]'"
    )
    sys.exit(0)

#: Images for training; the other 500 of the 1797 digits are the test set.
TRAIN = 1297


class Data(NamedTuple):
    """Images ``x`` and labels ``y``, of training and test; ``order`` (steps, batch): the images of every step."""

    x: jax.Array
    y: jax.Array
    x_test: jax.Array
    y_test: jax.Array
    order: jax.Array


class Net(NamedTuple):
    """``start(key)`` draws parameters; ``inputs(params, x)`` gives the inputs of every layer, and logits as ``out``.

    ``hidden`` names the weights that are quantized, ``loss(logits, y)`` is what is trained.
    """

    start: Callable
    inputs: Callable
    hidden: tuple[str, ...]
    loss: Callable


def digits(seeds, steps: int, batch: int = 32) -> Data:
    """The digits of scikit-learn in [0, 1], split anew by every seed, batches drawn with replacement: seeds first."""
    x, y = load_digits(return_X_y=True)
    draws = [np.random.default_rng(seed) for seed in seeds]
    split = np.stack([draw.permutation(len(y)) for draw in draws])
    order = np.stack([draw.integers(TRAIN, size=(steps, batch), dtype=np.int32) for draw in draws])
    x, y = (x / 16).astype(np.float32)[split], y.astype(np.int32)[split]
    return Data(*map(jnp.asarray, (x[:, :TRAIN], y[:, :TRAIN], x[:, TRAIN:], y[:, TRAIN:], order)))


def starts(net: Net, seeds) -> dict[str, jax.Array]:
    """The start of every seed, in float32."""
    drawn = jax.vmap(lambda seed: net.start(jax.random.key(seed)))(jnp.asarray(list(seeds)))
    return jax.tree.map(lambda w: w.astype(jnp.float32), drawn)


def cross_entropy(logits, y):
    """Mean of ``-log p(y)``."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def squared(logits, y):
    """Mean of half the squared distance to the label as a unit vector."""
    return 0.5 * jnp.mean(jnp.sum((logits - jax.nn.one_hot(y, logits.shape[-1])) ** 2, axis=-1))


def mlp(width: int = 64, hidden: tuple[str, ...] = ("fc2",), loss: Callable = cross_entropy) -> Net:
    """64 - width - width - 10 with ReLU and biases; He start."""
    shapes = {"fc1": (64, width), "fc2": (width, width), "out": (width, 10)}

    def inputs(params, x):
        seen = {"fc1": x}
        seen["fc2"] = jax.nn.relu(x @ params["fc1"] + params["fc1_b"])
        seen["last"] = jax.nn.relu(seen["fc2"] @ params["fc2"] + params["fc2_b"])
        return seen | {"out": seen["last"] @ params["out"] + params["out_b"]}

    return Net(lambda key: _start(key, shapes), inputs, hidden, loss)


def cnn(channels: int = 4) -> Net:
    """Two 3x3 convolutions, the first with stride 2, and a linear layer; all quantized."""
    shapes = {"conv1": (9, channels), "conv2": (9 * channels, 2 * channels), "out": (32 * channels, 10)}

    def inputs(params, x):
        seen = {"conv1": patches(x.reshape(-1, 8, 8, 1))[:, ::2, ::2]}
        first = jax.nn.relu(seen["conv1"] @ params["conv1"] + params["conv1_b"])
        seen["conv2"] = patches(first)
        second = jax.nn.relu(seen["conv2"] @ params["conv2"] + params["conv2_b"])
        seen["last"] = second.reshape(len(x), -1)
        return seen | {"out": seen["last"] @ params["out"] + params["out_b"]}

    return Net(lambda key: _start(key, shapes), inputs, ("conv1", "conv2", "out"), cross_entropy)


def patches(x: jax.Array) -> jax.Array:
    """The 3x3 neighbourhood of every pixel, (n, h, w, 9 c), with zeros beyond the edge: a convolution is a product."""
    h, w = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)


def _start(key, shapes):
    params = {}
    for i, (name, shape) in enumerate(shapes.items()):
        params[name] = jax.random.normal(jax.random.fold_in(key, i), shape) * (2 / shape[0]) ** 0.5
        params[f"{name}_b"] = jnp.zeros(shape[1])
    return params


def ste(w: jax.Array, psi: jax.Array) -> jax.Array:
    """``psi`` forward, the gradient of ``w`` backward: the straight-through estimator."""
    return w + lax.stop_gradient(psi - w)


def at_ranges(quantizer: Quantizer, hidden: tuple[str, ...]) -> Callable:
    """``quantize(params, ranges)``: weights on the levels of given ranges, one for each name, with the identity STE."""

    def quantize(params, ranges):
        rounded = {
            name: ste(params[name], quantizer.with_range(ranges[name]).round(params[name])) for name in hidden
        }
        return params | rounded

    return quantize


def learned(quantizer: Quantizer, hidden: tuple[str, ...]) -> Callable:
    """LSQ (Esser et al. 2020): steps are parameters ``name_step``, with the gradient scale ``1/sqrt(n Qp)``.

    With ``R = Qp step`` (mid-tread), ``psi = R q(clip(w/R))`` and the STE of rounding alone has LSQ's derivatives, and
    none beyond the range for ``w``.
    """
    unit, top = quantizer.with_range(1.0), (quantizer.n_levels - 1) / 2

    def quantize(params, _):
        rounded = {}
        for name in hidden:
            w, step = params[name], params[f"{name}_step"]
            scale = (w.size * top) ** -0.5
            width = top * (scale * step + lax.stop_gradient((1 - scale) * step))
            u = jnp.clip(w / width, -1, 1)
            rounded[name] = width * ste(u, unit.round(u))
        return params | rounded

    return quantize


def as_is(params, _):
    """Weights that are not quantized."""
    return params


def measured(net: Net, params, data: Data) -> dict[str, jax.Array]:
    """Loss on all training images, loss and accuracy on the test images."""
    train, test = (net.inputs(params, x)["out"] for x in (data.x, data.x_test))
    return {
        "train_loss": net.loss(train, data.y),
        "test_loss": net.loss(test, data.y_test),
        "accuracy": jnp.mean(jnp.argmax(test, -1) == data.y_test),
    }


def trainer(net: Net, quantize: Callable, optimizer, points: int, place: Callable | None = None) -> Callable:
    """``train(data, params, setting) -> params, curves``: one step for every row of ``data.order``, ``points`` records.

    ``quantize(params, setting)`` gives the weights of the forward pass. ``place(setting, t, new)``, if given, puts new
    parameters on a lattice after step ``t``.
    """

    def loss(params, setting, x, y):
        return net.loss(net.inputs(quantize(params, setting), x)["out"], y)

    def train(data, params, setting):
        def step(carry, now):
            t, chosen = now
            params, state = carry
            gradient = jax.grad(loss)(params, setting, data.x[chosen], data.y[chosen])
            updates, state = optimizer.update(gradient, state, params)
            new = optax.apply_updates(params, updates)
            return (new if place is None else place(setting, t, new), state), None

        def record(carry, now):
            carry, _ = lax.scan(step, carry, now)
            return carry, measured(net, quantize(carry[0], setting), data)

        times = jnp.arange(len(data.order))
        parts = jax.tree.map(lambda a: a.reshape(points, -1, *a.shape[1:]), (times, data.order))
        (params, _), curves = lax.scan(record, (params, optimizer.init(params)), parts)
        return params, curves

    return train


def all_runs(train: Callable) -> Callable:
    """``train`` of all seeds (first axis of everything) with all settings (second axis of ``setting``)."""
    return jax.jit(jax.vmap(jax.vmap(train, in_axes=(None, None, 0))))


def commit() -> str:
    """The commit of the working tree, or the word that there is none."""
    root = Path(__file__).parent
    done = subprocess.run(["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "no commit"


def save(table: pd.DataFrame, out: str, name: str, seeds: str, begin: float, figure=None) -> None:
    """Write ``name.csv`` with seeds, commit, device and seconds in its first lines, and ``name.png``."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    device, seconds = jax.devices()[0].platform, time.perf_counter() - begin
    about = f"studies/networks: seeds {seeds}; after commit {commit()}; device {device}; {seconds:.0f} s"
    report.write_csv(folder / f"{name}.csv", table, about)
    if figure is not None:
        report.write_figure(folder / f"{name}.png", figure)


def arguments(doc: str) -> argparse.Namespace:
    """``--quick`` and ``--out`` of a study."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, seeds and settings")
    parser.add_argument("--out", default="data", help="folder of the results")
    return parser.parse_args()
