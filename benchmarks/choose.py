"""How long a choice of range takes, compiling apart from solving: ``python benchmarks/choose.py``.

Each line is a 40-point scan of the range at 3 bit widths with what follows from it (refinement, the cost of missing
the best range, its curve). The second call has slightly other numbers and finds everything compiled; the first call
minus the second is what compiling costs. JAX's own clocks split that into tracing, lowering and XLA; what is left of
the first call after them is solving and dispatch. The two splits check each other.
"""

import time

import jax

from stedyn import SGD, Problem, Quantizer, Run, Start, Teacher, choose, range_map, sensitivity

BITS, POINTS = (2, 3, 4), 40
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "XLA",
}
spent = dict.fromkeys(STAGES.values(), 0.0)
compilations = 0


def listen(event: str, seconds: float, **_) -> None:
    """Add up what JAX reports about its own stages. Nested traces are counted in the outer one as well."""
    global compilations
    if event in STAGES:
        spent[STAGES[event]] += seconds
        compilations += STAGES[event] == "XLA"


def gaussian(noise_std: float) -> Problem:
    """A Gaussian teacher in 32 to 256 classes."""
    return Problem(Teacher.gaussian(1.0), noise_std=noise_std, rule=SGD(0.1), run=Run(40.0, 21))


def near_zero(noise_std: float) -> Problem:
    """One teacher value and mid-tread weights started near 0: a plateau."""
    weights = Quantizer(2, 1.0, kind="mid-tread")
    start = Start.gaussian(std=0.02)
    return Problem(start=start, noise_std=noise_std, weights=weights, rule=SGD(0.02), run=Run(80.0, 161))


def timed(name: str, function) -> None:
    """One line: first call, second call, and the stages of the first."""
    global compilations
    spent.update(dict.fromkeys(spent, 0.0))
    compilations = 0
    seconds = []
    for noise_std in (0.1, 0.101):
        start = time.perf_counter()
        function(noise_std)
        seconds.append(time.perf_counter() - start)
        if noise_std == 0.1:
            stages, first_compilations = dict(spent), compilations
    again = compilations - first_compilations
    inside = ", ".join(f"{stage} {value:.1f} s" for stage, value in stages.items())
    print(
        f"{name}: {seconds[0]:.1f} s, again {seconds[1]:.2f} s, so compiling {seconds[0] - seconds[1]:.1f} s\n"
        f"  of the first call by JAX's clocks: {inside} ({first_compilations} programs); the second compiled {again}",
        flush=True,
    )


def main():
    jax.config.update("jax_enable_x64", True)
    jax.monitoring.register_event_duration_secs_listener(listen)
    print(
        f"jax {jax.__version__}, {jax.devices()[0].platform}; {POINTS} ranges, {BITS} bits, without baselines"
    )

    def chosen(problem, objective, **more):
        return lambda noise_std: choose(
            problem(noise_std), bits=BITS, points=POINTS, objective=objective, baselines=False, **more
        )

    timed("choose, final-error, Gaussian teacher", chosen(gaussian, "final-error"))
    timed("choose, error-at=20, Gaussian teacher", chosen(gaussian, "error-at=20"))
    ranges = [0.4 + 0.06 * k for k in range(POINTS)]
    timed("range_map, final-error", lambda noise: range_map(gaussian(noise), ranges=ranges, bits=BITS))
    timed("sensitivity, final-error", lambda noise: sensitivity(with_bits(gaussian(noise))))
    timed("sensitivity, escape", lambda noise: sensitivity(near_zero(noise), "escape"))
    timed("choose, plateau-length, one teacher value", chosen(near_zero, "plateau-length", max_error=0.5))


def with_bits(problem: Problem) -> Problem:
    """With 2-bit weights."""
    return Problem(
        problem.teacher,
        noise_std=problem.noise_std,
        weights=Quantizer(2, 1.2),
        rule=problem.rule,
        run=problem.run,
    )


if __name__ == "__main__":
    main()
