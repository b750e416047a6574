"""Problems with known answers, shared by the tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from stedyn import SGD, Problem, Quantizer, Run, Start, solve
from stedyn.inputs.moments import input_moments
from stedyn.rules import Memory, Order, Rule

TWO_BIT = Quantizer(2, 2.0)
#: Moments of inputs: unquantized, two bits, three bits with a level at 0.
FLOAT, COARSE = input_moments(Quantizer(kind="none")), input_moments(TWO_BIT)
TREAD = input_moments(Quantizer(3, 2.0, kind="mid-tread"))
VS = np.array([1e-3, 0.05, 0.7, 3.0])

#: Reference curves: problem without its run, and ``tau: error``.
REFERENCE = {
    "R1": (
        dict(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(0.1)),
        {10: 0.3691, 25: 0.2552, 50: 0.3424, 100: 0.4070},
    ),
    "R2": (
        dict(weights=Quantizer(3, 1.5), inputs=TWO_BIT, rule=SGD(0.3), noise_std=0.1),
        {2: 0.8138, 4: 0.4054, 10: 0.2060, 40: 0.1976},
    ),
    "R3": (
        dict(weights=Quantizer(2, 1.5), ste="clipped", rule=SGD(0.2), noise_std=0.1),
        {3: 1.0223, 6: 0.7611, 12: 0.7157, 30: 0.7120},
    ),
    "R4": (
        dict(weights=Quantizer(2, 2.0, rounding="stochastic"), rule=SGD(0.3), noise_std=0.1),
        {3: 0.7641, 6: 0.4035, 12: 0.3431, 30: 0.3549},
    ),
    "R7": (
        dict(
            start=Start.gaussian(0.0, 0.02),
            weights=Quantizer(2, 1.0, kind="mid-tread"),
            rule=SGD(0.02),
            noise_std=0.1,
        ),
        {20: 0.8865, 25: 0.5750, 30: 0.2369, 40: 0.0092, 80: 0.0035},
    ),
}


#: Saved times that hold those of the table.
POINTS = {"R1": 41, "R2": 41, "R3": 31, "R4": 31, "R7": 161}


def reference(name: str, run: Run | None = None) -> Problem:
    """A problem of the table; by default up to its last time."""
    fields, table = REFERENCE[name]
    return Problem(**fields, run=Run(float(max(table)), POINTS[name]) if run is None else run)


class Remembering(Rule):
    """The running mean of the gradient over that of squared residuals, which is one number for a run."""

    kind = "remembering"

    @property
    def state(self):
        return Memory({"mean": 0.0}, {"square": 1.0})

    def remember(self, seed, r, tau, dim):
        return {"square": seed["square"] + 0.1 * (r**2 - seed["square"])}

    def step(self, seen, own):
        mean = 0.7 * own["mean"] + 0.3 * seen.r * seen.phi
        # numbers of the run first: compilers may divide many numbers by one in another way
        return self.rate(seen.tau) / (0.5 + seen.seed["square"]) * mean, {"mean": mean}

    def move(self, r, phi, u, tau):
        return r * phi


@functools.cache
def solved(name: str):
    """The grid solution of a problem of the table, made once."""
    return solve(reference(name), law="grid")


@functools.cache
def _curve():
    def each(rule, inputs, V):
        response = rule.response(inputs)
        return jax.vmap(lambda one: response(Order(one), 0.0))(V)

    return jax.jit(each)


def coefficients(rule, inputs, V=VS):
    """``a, b, D, E|U|`` of a rule at residual variances ``V``: (4, n)."""
    return np.array(_curve()(rule, inputs, jnp.asarray(V)))
