"""Speed of the simulator on R1: nanoseconds per coordinate and step, beside loops a user would write.

    python benchmarks/kernel.py [--quick] [--out result.json]

All figures come from one run on one machine; the ratios matter, not the nanoseconds. ``floor`` is the
price of the normal numbers alone, from the simulator's own generator on one thread. Numba and PyTorch
are timed if they are installed (``pip install stedyn[bench]``). Compiling is not counted; each figure
is the best of two or three.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stedyn.problem.problem import Problem
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD
from stedyn.simulation import kernel, sampler, simulate
from stedyn.simulation.draws import draw
from stedyn.simulation.model import bound_of, model_of, unit
from stedyn.simulation.state import encode, latent

R1 = Problem(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1))
STEP, LR = np.float32(4 / 3), np.float32(0.1)
OPTIONS = {"xla_cpu_prefer_vector_width": 512}


def best(run, work: int, repeats: int = 3) -> float:
    """Nanoseconds per unit of work of the fastest of some calls, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return 1e9 * min(times) / work


def stedyn(dim: int, seeds: int, size: float, threads: int | None, batch: int = 1) -> float:
    """A whole call of `simulate`, long enough for the price of its single saved time not to show; a sample."""
    problem, steps = replace(R1, rule=SGD(0.1, batch=batch)), max(500, int(size / (3 * dim * batch)))
    runs = [simulate(problem, dim=dim, seeds=seeds, taus=[steps / dim], threads=threads) for _ in range(2)]
    return 1e9 / (batch * max(run.coordinate_steps_per_second for run in runs))


def floor(dim: int, seeds: int, size: float) -> float:
    """The normal numbers alone."""
    pairs, steps = dim // 2, max(20, int(size / dim))
    keys = jnp.zeros(1, jnp.uint32)

    def body(i, total):
        return total + sampler.normals(
            sampler.Counter(keys, i.astype(jnp.uint32), jnp.uint32(0)), sampler.INPUTS, pairs
        )

    run = jax.jit(lambda n, z: lax.fori_loop(jnp.int32(0), n, body, z), compiler_options=OPTIONS)
    zero = jnp.zeros((1, pairs), jnp.complex64)
    return best(lambda: jax.block_until_ready(run(np.int32(steps), zero)), steps * dim)


def quantize(w):
    return (np.clip(np.floor(w / STEP), np.float32(-2), np.float32(1)) + np.float32(0.5)) * STEP


def numpy_loop(dim: int, seeds: int, size: float) -> float:
    steps = max(5, int(size / (dim * seeds)))
    rng = np.random.default_rng(0)
    root = np.float32(dim**-0.5)

    def run():
        w = rng.standard_normal((seeds, dim), dtype=np.float32)
        for _ in range(steps):
            x = rng.standard_normal((seeds, dim), dtype=np.float32)
            phi = quantize(x)
            r = (x.sum(axis=1, keepdims=True) - (quantize(w) * phi).sum(axis=1, keepdims=True)) * root
            w += LR * root * r * phi

    return best(run, steps * dim * seeds)


def numba_loop(dim: int, seeds: int, size: float) -> float | None:
    try:
        import numba
    except ImportError:
        return None
    step, lr, root = STEP, LR, np.float32(dim**-0.5)

    @numba.njit(fastmath=True)
    def loop(steps, w, phi):
        for s in range(w.shape[0]):
            for _ in range(steps):
                r = np.float32(0)
                for i in range(w.shape[1]):
                    x = np.float32(np.random.standard_normal())  # noqa: NPY002
                    phi[i] = (min(max(np.floor(x / step), -2), 1) + np.float32(0.5)) * step
                    r += x - (min(max(np.floor(w[s, i] / step), -2), 1) + np.float32(0.5)) * step * phi[i]
                for i in range(w.shape[1]):
                    w[s, i] += lr * root * root * r * phi[i]

    steps = max(5, int(size / (dim * seeds)))
    w, phi = np.zeros((seeds, dim), np.float32), np.zeros(dim, np.float32)
    return best(lambda: loop(steps, w, phi), steps * dim * seeds)


def torch_loop(dim: int, seeds: int, size: float) -> float | None:
    try:
        import torch
    except ImportError:
        return None
    step, root, steps = float(STEP), dim**-0.5, max(5, int(size / (dim * seeds)))

    def fake(w):
        return w + ((torch.clamp(torch.floor(w / step), -2, 1) + 0.5) * step - w).detach()

    def run():
        w = torch.randn(seeds, dim, requires_grad=True)
        for _ in range(steps):
            x = torch.randn(seeds, dim)
            r = (x.sum(1) - (fake(w) * fake(x)).sum(1)) * root
            (0.5 * r**2).sum().backward()
            with torch.no_grad():
                w -= float(LR) * w.grad
            w.grad = None

    return best(run, steps * dim * seeds)


def breakdown(dim: int, size: float) -> dict[str, float]:
    """Nanoseconds per coordinate and step of the loop with more and more of its parts, one seed."""
    model, steps = model_of(R1, dim), max(20, int(size / dim))
    keys = jnp.zeros(1, jnp.uint32)
    teacher, start = (kernel.halves(jnp.full((1, dim), v, jnp.float32)) for v in (1.0, 0.1))
    pairs, start = start[0].shape[1], encode(model, start)

    def part(level):
        def body(i, state):
            w, draws = state
            now = sampler.Counter(keys, i.astype(jnp.uint32), jnp.uint32(0))
            ahead = draw(model, now, pairs)
            x = (jnp.real(draws.sample.x), jnp.imag(draws.sample.x))
            total = jnp.zeros((1, 1), jnp.float32)
            if level >= 1:
                total += kernel.fold(teacher[0] * x[0] + teacher[1] * x[1])
            if level >= 2:
                codes = [model.inputs.code(half, None) for half in x]
                phis = [model.inputs.value(code) for code in codes]
                products = kernel.terms(model, latent(model, w), (None, None), codes, phis)
                total += kernel.fold(products, bound_of(model)) * unit(model)
            if level == 3:
                return kernel.step(model, kernel.Fixed(teacher, None), w, draws, now)
            # one number of the result goes to the state, so that nothing is dead code
            first = w.parts[0].w.at[:, 0].add(1e-9 * total[:, 0])
            return eqx.tree_at(lambda state: state.parts[0].w, w, first), ahead

        def run(n, w):
            first = draw(model, sampler.Counter(keys, jnp.uint32(0), jnp.uint32(0)), pairs)
            return lax.fori_loop(jnp.int32(0), n, body, (w, first))

        run = jax.jit(run, compiler_options=OPTIONS)
        return best(lambda: jax.block_until_ready(run(np.int32(steps), start)), steps * dim)

    empty = jax.jit(lambda n, a: lax.fori_loop(jnp.int32(0), n, lambda i, a: a * jnp.float32(0.5) + 1, a))
    one = jnp.ones(1, jnp.float32)
    names = ("numbers", "+ label", "+ student", "+ update")
    costs = {"loop": best(lambda: jax.block_until_ready(empty(np.int32(steps), one)), steps * dim)}
    return costs | {name: part(level) for level, name in enumerate(names)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes and short runs")
    parser.add_argument("--out", help="a JSON file for the figures")
    arguments = parser.parse_args()
    dims, counts = ((256, 4096), (1, 8)) if arguments.quick else ((256, 1024, 4096, 16384), (1, 8, 64))
    size = 2e6 if arguments.quick else 3e7
    cores = len(os.sched_getaffinity(0))
    device = f"{platform.machine()}, {cores} cores, jax {jax.__version__}, numpy {np.__version__}"
    print(f"R1, nanoseconds per coordinate and step; {device}")
    names = ("floor", "1 thread", f"{cores} threads", "numpy", "numba", "torch", "numpy/1 thread")
    print(f"{'d':>6} {'S':>4} " + " ".join(f"{name:>15}" for name in names))
    rows = []
    for dim in dims:
        for seeds in counts:
            values = [
                floor(dim, seeds, size),
                stedyn(dim, seeds, size, 1),
                stedyn(dim, seeds, size, None),
                numpy_loop(dim, seeds, size / 10),
                numba_loop(dim, seeds, size / 10),
                torch_loop(dim, seeds, size / 10),
            ]
            values.append(values[3] / values[1])
            rows.append({"d": dim, "S": seeds} | dict(zip(names, values, strict=True)))
            cells = (f"{'-':>15}" if value is None else f"{value:15.2f}" for value in values)
            print(f"{dim:6d} {seeds:4d} " + " ".join(cells), flush=True)
    parts = {dim: breakdown(dim, size) for dim in dims}
    print("\nthe loop with more and more of its parts, one seed, one thread")
    print(f"{'d':>6} " + " ".join(f"{name:>15}" for name in parts[dims[0]]))
    for dim, costs in parts.items():
        print(f"{dim:6d} " + " ".join(f"{cost:15.2f}" for cost in costs.values()))
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump({"device": device, "rows": rows, "breakdown": parts}, file, indent=1)


if __name__ == "__main__":
    main()
