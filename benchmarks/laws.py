"""How long the laws take, compiling apart from solving: ``python benchmarks/laws.py``.

Each figure is the best of several runs. The grid law is set against SciPy's LSODA on the same semi-discrete
equations with their banded Jacobian, the mixture law without quantizers against SciPy's RK45 on the closed
two-variable equations, and the sweep against a Python loop of single solves: ratios of one run.

Floor of the grid law: a step of the extrapolated solver makes 6 tridiagonal solves and assembles 6
operators with 2 exponentials a cell; the table gives the time per cell and solve.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from stedyn import SGD, Problem, Quantizer, Run, solve
from stedyn.limit.laws.grid import GridFlow
from stedyn.limit.limit import derive
from stedyn.quantizers.quantizer import as_arrays


def best(function, repeats=5):
    """Shortest of several timings, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times)


def r1(points=201):
    two = Quantizer(2, 2.0)
    return Problem(weights=two, inputs=two, rule=SGD(0.1), run=Run(100.0, points))


def grid_law():
    problem = r1()
    start = time.perf_counter()
    solution = solve(problem, law="grid")
    first = time.perf_counter() - start
    again = best(lambda: solve(problem, law="grid").error)
    counts = solution.statistics
    work = 2 * 6 * int(counts["num_steps"]) * counts["cells"]
    print(
        f"grid law, R1 to tau = 100, 201 times, claims {solution.error_estimate:.1e}: first call {first:.2f} s, "
        f"again {again * 1e3:.0f} ms"
    )
    print(
        f"  {counts['cells']} cells, {int(counts['num_steps'])} steps, {again / work * 1e9:.0f} ns a cell and solve"
    )

    flow = GridFlow(derive(as_arrays(problem)), counts["cells"] // 4, 100.0)
    mass = np.asarray(flow.start())[:, 0]
    field = jax.jit(lambda t, y: flow(t, y[:, None])[:, 0])
    start = time.perf_counter()
    peer = solve_ivp(
        lambda t, y: np.asarray(field(t, y)), (0, 100), mass, method="LSODA", t_eval=problem.taus, rtol=1e-4,
        atol=1e-9, lband=1, uband=1,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    ends = float(flow.error(jnp.asarray(peer.y[:, -1:])))
    print(
        f"  SciPy LSODA, banded, one grid of {counts['cells']} cells, no error estimate: {seconds:.2f} s "
        f"({seconds / again:.0f} times), final error {ends:.5f} against {solution.final_error:.5f}"
    )


def sweep():
    traces = []

    @jax.jit
    @jax.vmap
    def final(lr, scale):
        traces.append(1)
        inputs = Quantizer(2, 2.0)
        problem = Problem(weights=Quantizer(2, scale), inputs=inputs, rule=SGD(lr), run=Run(50.0, 101))
        return solve(problem, law="mixture").error

    lr, scale = (x.ravel() for x in jnp.meshgrid(jnp.geomspace(0.02, 0.5, 8), jnp.linspace(1.0, 3.0, 8)))
    start = time.perf_counter()
    jax.block_until_ready(final(lr, scale))
    first = time.perf_counter() - start
    again = best(lambda: final(lr * 1.01, scale))
    compilations = len(traces)
    one = best(lambda: final(lr[:1], scale[:1]))
    print(
        f"mixture law, 64 pairs (lr, range) to tau = 50, 101 times: first call {first:.2f} s, again {again:.2f} s "
        f"({again / 64 * 1e3:.1f} ms each), {compilations} compilation for both; one pair alone {one * 1e3:.1f} ms"
    )


def closed():
    """A problem without quantizers, and the seconds that SciPy takes for its two equations."""
    taus, sigma = np.linspace(0, 100, 201), 0.1

    def velocity(_, y):
        m, q = y
        return [0.1 * (1 - m), 0.2 * (m - q) + 0.01 * (1 - 2 * m + q + sigma**2)]

    peer = best(lambda: solve_ivp(velocity, (0, 100), [0.0, 1.0], t_eval=taus, rtol=1e-6, atol=1e-9).y)
    return Problem(noise_std=sigma, rule=SGD(0.1), run=Run(taus=taus)), peer


def closed_equations():
    problem, peer = closed()

    @jax.jit
    def curve(pair):
        return solve(Problem(noise_std=pair[0], rule=SGD(pair[1]), run=problem.run), law="mixture").error

    pair = (jnp.asarray(problem.noise_std), jnp.asarray(0.1))
    jax.block_until_ready(curve(pair))
    ours = best(lambda: curve(pair))
    assert np.allclose(curve(pair), solve(problem).error, rtol=1e-6)
    print(
        f"no quantizers, one curve to tau = 100: mixture law {ours * 1e3:.1f} ms, SciPy RK45 {peer * 1e3:.1f} ms "
        f"({peer / ours:.1f} times)"
    )


def main():
    jax.config.update("jax_enable_x64", True)
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}")
    grid_law()
    sweep()
    closed_equations()


if __name__ == "__main__":
    main()
