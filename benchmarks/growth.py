"""How the time of an answer grows with the work: exponents of powers, fitted to the two largest sizes of each row.

    python benchmarks/growth.py

Every size has the best of four calls, of which the first compiles. A simulation makes the same number
of steps at all dimensions and for all numbers of seeds; curves are those of the ``grid`` law to its tolerance.
"""

import functools

import numpy as np
from laws import best

from stedyn import SGD, Problem, Quantizer, Run, Teacher, simulate, solve

STEPS = 400
R1 = dict(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1), noise_std=0.1)


def simulated(dim: int, seeds: int) -> None:
    """`STEPS` steps of setting R1."""
    simulate(Problem(**R1), dim=dim, seeds=seeds, taus=[0.0, STEPS / dim])


def curve(teacher=None, levels: int = 4, points: int = 21) -> None:
    """A curve of one teacher value, unless a teacher is given, with so many levels."""
    bits = int(np.log2(levels))
    problem = Problem(teacher, **(R1 | {"weights": Quantizer(bits, 2.0), "run": Run(40.0, points)}))
    solve(problem, law="grid")


def values(number: int) -> Teacher:
    """A teacher of so many values."""
    return Teacher.samples(np.random.default_rng(0).normal(size=number))


ROWS = {
    "d, one seed": ((10**3, 10**4, 10**5, 10**6), lambda d: simulated(d, 1)),
    "seeds, d = 1000": ((1, 8, 64, 512), lambda seeds: simulated(1000, seeds)),
    "teacher values": ((2, 8, 32, 128), lambda number: curve(values(number))),
    "levels": ((4, 16, 64, 256), lambda levels: curve(levels=levels)),
    "saved times": ((20, 200, 2000), lambda points: curve(points=points)),
}


def main() -> None:
    """Print one row for each kind of growth."""
    print("| grows | sizes | seconds | exponent |\n|---|---|---|---|")
    for name, (sizes, task) in ROWS.items():
        seconds = [best(functools.partial(task, size), 4) for size in sizes]
        exponent = np.log(seconds[-1] / seconds[-2]) / np.log(sizes[-1] / sizes[-2])
        shown = ", ".join(f"{value:.3g}" for value in seconds)
        print(f"| {name} | {', '.join(map(str, sizes))} | {shown} | {exponent:.2f} |", flush=True)


if __name__ == "__main__":
    main()
