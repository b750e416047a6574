"""The GPU kernel of the simulator: agreement with the CPU, speed beside the counted floor, R1 in high dimension.

    PYTHONPATH=. python benchmarks/gpu.py [--out data/gpu.json] [--clock 1.755e9] [--multiprocessors 132]
    PYTHONPATH=. python benchmarks/gpu.py --quick     # a smoke test in Pallas' interpreter, on any machine

Rates are coordinate-steps a second on R1 (2-bit weights and inputs, SGD). The counted floor is that of
``stedyn/simulation/gpu.py``: integer operations at half and all operations at full rate, and for streamed
weights 22 bytes a coordinate and step. ``plain`` is the same loop as XLA compiles it. Compiling is not
counted; each figure is the best of three calls.
"""

from __future__ import annotations

import argparse
import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from stedyn import Run, solve
from stedyn.problem.problem import Problem
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD, StochasticRounding
from stedyn.simulation import gpu, kernel, programs, sampler, simulate
from stedyn.simulation.model import model_of
from stedyn.simulation.observe import Observer
from stedyn.simulation.state import encode, latent

TWO_BIT = Quantizer(2, 2.0)
R1 = Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(0.1))
CHECKED = {
    "R1": R1,
    "R1 with noise": Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(0.3), noise_std=0.1),
    "no quantizers": Problem(rule=SGD(0.3), noise_std=0.1),
    "stochastic weights": Problem(
        weights=Quantizer(2, 2.0, rounding="stochastic"), rule=SGD(0.3), noise_std=0.1
    ),
    "stochastic rounding": Problem(inputs=TWO_BIT, rule=StochasticRounding(0.3, delta=0.5), noise_std=0.1),
}
INTEGER, ALL, BYTES = 83, 168, 22  # counted: operations of a pair and step, bytes of a coordinate and step
INTEGER_LANES, LANES = 64, 128  # a multiprocessor issues in a clock
SAVED = (10.0, 25.0, 50.0, 100.0)


def prepared(problem: Problem, dim: int, seeds: int):
    """Arguments of ``advance`` but the number of steps."""
    rng = np.random.default_rng(0)
    model = model_of(problem, dim)
    start = kernel.halves(jnp.asarray(rng.normal(size=(seeds, dim)), jnp.float32))
    teacher = kernel.halves(jnp.ones((seeds, dim), jnp.float32))
    keys = jnp.arange(seeds, dtype=jnp.uint32)
    return model, keys, kernel.Fixed(teacher, None), encode(model, start), np.uint32(0), np.uint32(0)


def draws(interpret: bool) -> dict:
    """Differing words, differing uniform numbers and the largest difference of normal numbers in 2^16 pairs."""
    pairs = 2**10
    blocks = 2 if interpret else 64

    def draw(*out):
        seed = pl.program_id(0).astype(jnp.uint32)
        at = sampler.Counter(seed, jnp.uint32(7), jnp.uint32(3))
        words = sampler.words_of(at, sampler.INPUTS, jax.lax.iota(jnp.uint32, pairs))
        for ref, value in zip(
            out, (*words, *sampler.units(*words), *sampler.box_muller(*words)), strict=True
        ):
            ref[...] = value

    kinds = [jnp.uint32] * 2 + [jnp.float32] * 4
    found = pl.pallas_call(
        draw,
        grid=(blocks,),
        out_specs=[pl.BlockSpec((None, pairs), lambda s: (s, 0))] * 6,
        out_shape=[jax.ShapeDtypeStruct((blocks, pairs), kind) for kind in kinds],
        compiler_params=gpu.triton.CompilerParams(num_warps=4),
        interpret=interpret,
    )()

    @jax.jit
    def expected():
        words = sampler.words(
            sampler.Counter(jnp.arange(blocks, dtype=jnp.uint32), jnp.uint32(7), jnp.uint32(3)),
            sampler.INPUTS,
            pairs,
        )
        return *words, *sampler.units(*words), *sampler.box_muller(*words)

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        pairs_of = [(np.asarray(a), np.asarray(b)) for a, b in zip(found, expected(), strict=True)]
    return {
        "words": int(sum(np.sum(a != b) for a, b in pairs_of[:2])),
        "uniforms": int(sum(np.sum(a != b) for a, b in pairs_of[2:4])),
        "normals": float(max(np.max(np.abs(a - b)) for a, b in pairs_of[4:])),
    }


def agreement(problem: Problem, dim: int, steps: int, advance) -> dict:
    """Weights and order parameters of two seeds beside those of the CPU kernel; two calls beside one."""
    arguments = prepared(problem, dim, 2)
    model, rest = arguments[0], arguments[1:4]
    cpu = jax.local_devices(backend="cpu")[0]
    on_cpu = jax.device_put(arguments[:4], cpu)
    expected = programs.programs("cpu").advance(*on_cpu, *arguments[4:], np.int32(steps))
    found = advance(*arguments, np.int32(steps))
    cut = steps // 3
    first = advance(*arguments, np.int32(cut))
    again = advance(model, *rest[:2], first, np.uint32(cut), np.uint32(0), np.int32(steps - cut))
    w, wanted, twice = (np.asarray(kernel.whole(latent(model, x), dim)) for x in (found, expected, again))
    observer, teacher = Observer(problem), np.ones(dim)
    seen, known = ([observer(row, teacher) for row in rows] for rows in (w, wanted))
    return {
        "d": dim,
        "steps": steps,
        "moved": float(np.abs(w - np.asarray(kernel.whole(latent(model, arguments[3]), dim))).max()),
        "weights": float(np.abs(w - wanted).max()),
        "error": float(max(abs(a.error / b.error - 1) for a, b in zip(seen, known, strict=True))),
        "m": float(max(abs(a.m - b.m) for a, b in zip(seen, known, strict=True))),
        "chunks differ": int(np.sum(twice != w)),
    }


def rate(advance, dim: int, seeds: int, seconds: float) -> float:
    """Coordinate-steps a second, from calls of about ``seconds``."""
    arguments = prepared(R1, dim, seeds)

    def call(steps: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(advance(*arguments, np.int32(steps)))
        return time.perf_counter() - begin

    call(1)
    steps = 2
    while (spent := call(steps)) < seconds / 4:
        steps = max(2 * steps, int(0.5 * seconds / max(spent, 1e-6)) * steps // 2)
    steps = max(1, int(steps * seconds / spent))
    return dim * seeds * steps / min(call(steps) for _ in range(3))


def floor(dim: int, clock: float, multiprocessors: int, bandwidth: float) -> float:
    """Counted coordinate-steps a second, all multiprocessors being at work."""
    clocks = max(INTEGER / INTEGER_LANES, ALL / LANES)
    rate = 2 * clock * multiprocessors / clocks
    held = gpu.layout_of(-(-dim // 2)).held
    return rate if held else min(rate, bandwidth / BYTES)


def validation(dim: int, seeds: int, taus) -> dict:
    """R1 beside its limit: the gap in standard errors of the mean over the seeds (the limit claims 0.5 %)."""
    problem = Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(0.1), run=Run(taus=(0.0, *taus)))
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        theory = np.asarray(solve(problem).error)
    ensemble = simulate(problem, dim=dim, seeds=seeds)
    return {
        "d": dim,
        "seeds": seeds,
        "tau": ensemble.tau.tolist(),
        "error": ensemble.error_mean.tolist(),
        "sem": ensemble.error_sem.tolist(),
        "limit": theory.tolist(),
        "gap": ((ensemble.error_mean - theory) / np.maximum(ensemble.error_sem, 1e-12)).tolist(),
        "rate": ensemble.coordinate_steps_per_second,
        "device": ensemble.device,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, in the interpreter")
    parser.add_argument("--out", help="a JSON file for the figures")
    parser.add_argument("--clock", type=float, default=1.755e9, help="of a multiprocessor under load, in Hz")
    parser.add_argument("--multiprocessors", type=int, default=132)
    parser.add_argument("--bandwidth", type=float, default=3.35e12, help="of the memory, in bytes a second")
    options = parser.parse_args()
    quick = options.quick
    jax.config.update("jax_enable_x64", True)  # for the limit
    device = jax.devices()[0]
    if not quick and device.platform != "gpu":
        parser.exit(2, "error: no GPU is found; --quick runs in the interpreter.\n")
    advance = functools.partial(gpu.advance, interpret=quick)
    streamed = functools.partial(advance, held=0)
    plain = jax.jit(kernel.advance)
    head = f"{device.device_kind}, jax {jax.__version__}" + (", INTERPRETED" if quick else "")
    print(head)

    result: dict = {"device": head, "draws": draws(quick)}
    print("draws that differ from the CPU's:", result["draws"], flush=True)
    names, dims, steps = (list(CHECKED)[1:2], (100,), 12) if quick else (list(CHECKED), (3000,), 300)
    result["agreement"] = [
        {"problem": name, "streamed": run is streamed} | agreement(CHECKED[name], dim, steps, run)
        for name in names
        for dim in dims
        for run in (advance, streamed)
    ]
    for row in result["agreement"]:
        print(row, flush=True)

    sizes, counts = ((256, 1000), (2,)) if quick else ((1024, 4096, 16384, 10**6), (132, 264, 528, 1056))
    seconds = 0.02 if quick else 1.0
    print(f"\n{'d':>8} {'S':>5} {'rate':>10} {'floor':>10} {'part':>6} {'plain':>10}")
    result["rates"] = []
    for dim in sizes:
        for seeds in counts:
            row = {"d": dim, "S": seeds, "rate": rate(advance, dim, seeds, seconds)}
            row["floor"] = floor(dim, options.clock, options.multiprocessors, options.bandwidth)
            row["plain"] = rate(plain, dim, seeds, seconds) if quick or seeds == counts[0] else None
            result["rates"].append(row)
            slow = "-" if row["plain"] is None else f"{row['plain']:.3g}"
            print(
                f"{dim:8d} {seeds:5d} {row['rate']:10.3g} {row['floor']:10.3g} "
                f"{row['rate'] / row['floor']:6.2f} {slow:>10}",
                flush=True,
            )

    runs = [(64, 2, (0.5,))] if quick else [(16384, 132, SAVED), (10**5, 132, SAVED[:1])]
    result["validation"] = [validation(*run) for run in runs]
    for row in result["validation"]:
        print(row, flush=True)
    if options.out:
        with open(options.out, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
