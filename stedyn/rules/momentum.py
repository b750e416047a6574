r"""Momentum as ``torch.optim.SGD`` has it: a memory in the simulation, another rate in the limit.

With the gradient ``g``, weight decay included, a step is

    ``v <- momentum v + (1 - dampening) g``,  ``U = lr v``,   or   ``U = lr (g + momentum v)`` with ``nesterov``.

In the limit that is the rule without momentum at ``lr (1 - dampening) / (1 - momentum)``, whatever gives ``g``
(``docs/optimizers.md``).
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..checks import fail, finite, flag, is_traced
from ..inputs.moments import InputMoments
from .base import Response, Rule
from .memory import Memory, Seen

#: Steps back whose inputs are averaged one by one; what is left of those before is, if anything, an average of many.
_TERMS = 256
_NODES = 0.5 * np.arange(-72, 73)


def _harmonics(most: int = 64, step: float = 0.125, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of ``sum_(n>0) f(n) / (pi n)^2``: integers, and Simpson's rule in ``ln n`` beyond."""
    n, tail = np.arange(1.0, most + 1), (most + 0.5) * np.exp(step * np.arange(count + 1))
    simpson = np.where(np.arange(count + 1) % 2, 4.0, 2.0)
    simpson[[0, -1]] = 1.0
    return np.append(n, tail), np.append(n**-2, step / 3 * simpson / tail) / np.pi**2


_HARMONICS, _HARMONIC_WEIGHTS = _harmonics()


def below_one(name: str):
    def check(value):
        value = finite(name, value)
        if not is_traced(value) and not np.all((np.asarray(value) >= 0) & (np.asarray(value) < 1)):
            fail(name, "a number from 0 up to, but not including, 1", value, "give one in [0, 1)")
        return value

    return check


def _momentum(value):
    value = None if value is None else below_one("momentum")(value)
    return value if is_traced(value) or np.any(np.asarray(value or 0.0) != 0) else None


class WithMomentum(Rule):
    """A rule that moves by ``lr`` times a `gradient`, or a buffer of them; yours needs no more than its own `gradient`.

    Its limit is that of moves ``lr gradient`` at the `rate`, the `gain` included. Where a subclass makes moves of the
    buffer that are not linear in it (`placed`), it needs a `Rule.response` of its own.

    Parameters
    ----------
    momentum : float, optional
        In [0, 1); None, which 0 becomes, for no momentum.
    dampening : float
        In [0, 1); the first step has none.
    nesterov : bool
        Nesterov's form, without dampening.
    """

    momentum: Float[Array, ""] | float | None = eqx.field(default=None, kw_only=True, converter=_momentum)
    dampening: Float[Array, ""] | float = eqx.field(
        default=0.0, kw_only=True, converter=below_one("dampening")
    )
    nesterov: bool = eqx.field(
        default=False, static=True, kw_only=True, converter=lambda v: flag("nesterov", v)
    )

    def __check_init__(self):
        damped = not is_traced(self.dampening) and np.any(np.asarray(self.dampening) != 0)
        for name, used in (("dampening", damped), ("nesterov", self.nesterov)):
            if used and self.momentum is None:
                fail(
                    name,
                    "none without momentum, where it would do nothing",
                    getattr(self, name),
                    "set momentum",
                )
        if self.nesterov and damped:
            fail("dampening", "0 with nesterov, as in PyTorch", self.dampening, "remove one of them")

    def gradient(self, r, phi, u, tau):
        """What ``lr`` multiplies, before momentum."""
        return r * phi

    def placed(self, move, u):
        """The move that is made of ``lr`` times the buffer."""
        return move

    def log_transform(self, t, V, inputs: InputMoments, tau):
        """``ln E exp(-t s^2)``, ``s^2`` the variance of a Gaussian `gradient` given all but the residuals."""
        return self.batch * log_transform(t * V / self.batch**2, inputs)

    def move(self, r, phi, u, tau):
        return self.placed(self.rate(tau) * self.gradient(r, phi, u, tau), u)

    def response(self, inputs: InputMoments) -> Response:
        return super().response(inputs)  # of single moves: the buffer adds them up

    @property
    def sized(self):
        return self.momentum is None

    def check_limit(self, problem):
        if self.momentum is None:
            return
        if type(self).placed is not WithMomentum.placed and type(self).response is WithMomentum.response:
            fail("rule", "a response (stedyn.rules.Response) beside `placed` with momentum, whose limit is not that of "
                 "single moves", self.kind, "write it, or simulate")  # fmt: skip
        if problem.surrogate.ends and self.lattice is None and not type(self).linear:
            fail("weights.ste", f"'identity' with momentum of {self.kind!r} (it sees gradients times the derivative, "
                 "which is not implemented)", problem.ste, "choose it, or simulate")  # fmt: skip

    @property
    def gain(self):
        return 1.0 if self.momentum is None else (1 - self.dampening) / (1 - self.momentum)

    def rate(self, tau):
        return super().rate(tau) if self.momentum is None else super().rate(tau) * self.gain

    def decay(self, tau):
        return super().decay(tau) if self.momentum is None else jnp.zeros(())

    @property
    def state(self):
        return Memory() if self.momentum is None else Memory(own=0.0)

    def step(self, seen: Seen, own):
        if self.momentum is None:
            return super().step(seen, own)
        lr, beta = super().rate(seen.tau), self.momentum
        decay = self.weight_decay / jnp.sqrt(jnp.float32(seen.dim))
        g = self.gradient(seen.r, seen.phi, seen.u, seen.tau) - decay * seen.w
        v = beta * own + jnp.where(seen.tau > 0, 1 - self.dampening, 1.0) * g
        return self.placed(lr * (g + beta * v if self.nesterov else v), seen.u), v

    def with_memory(self, response: Response, inputs: InputMoments) -> Response:
        """The response with momentum, from that without at the same `rate`."""
        return response if self.momentum is None else _Remembering(response, self, inputs)


class _Remembering(Response):
    """The same drift and diffusion; of a single move ``U = sum_k c_k g_(t-k)`` only ``E|U|`` is another.

    Given the inputs of all steps ``U`` is Gaussian, of variance ``S = sum_k c_k^2 s_k^2``, and ``E sqrt(S) =
    int_0^oo (1 - E exp(-t S)) t^(-3/2) dt / (2 sqrt(pi))``, where the average is a product over the steps.
    """

    single: Response
    rule: WithMomentum
    inputs: InputMoments

    def __call__(self, order, tau):
        rule = self.rule

        def transform(t, V):
            return rule.log_transform(t, V, self.inputs, tau)

        size = mean_size(rule.momentum, rule.nesterov, order.V, transform)
        lr = Rule.rate(rule, tau) * (1 - rule.dampening)
        return self.single(order, tau)._replace(mean_abs=lr * size)


def _squares(beta, nesterov: bool) -> Float[Array, " n"]:
    """Squares of what the gradients of the steps before count."""
    c = beta ** jnp.arange(_TERMS)
    return ((beta * c).at[0].add(1.0) if nesterov else c) ** 2


def mean_size(beta, nesterov: bool, V, log_transform) -> Float[Array, ""]:
    """``E|v|`` of ``v <- beta v + g``, or of ``g + beta v``; ``log_transform(t, V)`` as in `WithMomentum`."""
    V = jnp.maximum(V, 0.0)
    square = _squares(beta, nesterov)
    left = square[-1] * beta**2 / (1 - beta**2)  # of all steps before
    alive = V > 0
    V = jnp.where(alive, V, 1.0)
    tiny = 1e-9 / V
    mean = -log_transform(jnp.reshape(tiny, (1,)), V)[0] / tiny  # E[s^2]
    total = mean * (jnp.sum(square) + left)
    t = jnp.exp(jnp.asarray(_NODES)) / total

    def add(k, log):
        return log + log_transform(square[k] * t, V)

    log = lax.fori_loop(0, _TERMS, add, -t * mean * left)
    step = _NODES[1] - _NODES[0]
    root = jnp.sum(-jnp.expm1(log) * jnp.exp(-jnp.asarray(_NODES) / 2)) * step / (2 * np.sqrt(np.pi))
    return jnp.where(alive, np.sqrt(2 / np.pi) * root * jnp.sqrt(total), 0.0)


def fraction_variance(beta, nesterov: bool, part, V, log_transform) -> Float[Array, ""]:
    """``E[f (1 - f)]``, ``f`` the fractional part of ``part`` times what `mean_size` has the size of.

    ``sum_(n>0) (1 - E cos(2 pi n part v)) / (pi n)^2``, where the average is ``E exp(-(2 pi n part)^2 S / 2)``, ``S``
    the variance of ``v`` given all inputs; the many terms at large ``n`` are an integral over ``ln n``.
    """
    V = jnp.maximum(V, 0.0)
    t = 0.5 * (2 * np.pi * jnp.asarray(_HARMONICS) * part) ** 2
    square = _squares(beta, nesterov)
    log = lax.fori_loop(0, _TERMS, lambda k, log: log + log_transform(square[k] * t, V), jnp.zeros_like(t))
    return -jnp.expm1(log) @ jnp.asarray(_HARMONIC_WEIGHTS)


def log_transform(t: Float[Array, " n"], inputs: InputMoments) -> Float[Array, " n"]:
    """``ln E exp(-t phi^2)``."""
    if inputs.levels is None or inputs.mass is None:
        return -0.5 * jnp.log1p(2 * t * inputs.std**2)
    # masses add up to 1 but for a last digit, and no average is below 0
    return jnp.log1p(jnp.maximum(jnp.expm1(-t[:, None] * inputs.levels**2) @ inputs.mass, -1 + 2.0**-53))
