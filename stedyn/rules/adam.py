r"""Adam and AdamW: gradients over the root of their running mean square (``docs/optimizers.md``)."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import choice, fail, flag, is_traced, positive
from ..inputs.moments import InputMoments
from . import lattice
from .base import Coefficients, Response, Rule
from .buffer import RoundedBuffer, check_forgets
from .memory import Memory, Seen
from .momentum import below_one, fraction_variance, log_transform, mean_size
from .nodes import batch_nodes
from .together import linear


def _rounding(value):
    return None if value is None else choice("rounding", value, ("stochastic", "nearest"))


class Adam(Rule):
    r"""With the gradient ``g = h r phi``, ``1 - beta2 = 1 / (d memory)`` and ``n`` steps made:

    ``m <- beta1 m + (1 - beta1) g``,  ``v <- beta2 v + (1 - beta2) g^2``,
    ``U = lr (m / (1 - beta1^n)) / (sqrt(v / (1 - beta2^n)) + eps)``.

    Weight decay is decoupled (AdamW). The learning rate and the eps of ``torch.optim.AdamW`` are ``lr / sqrt(d)`` and
    ``eps / sqrt(d)``, its weight decay is ``weight_decay / sqrt(d)`` (`from_torch`). In the limit ``beta1`` drops out;
    with ``v`` of every input variance, ``dv/dtau = (k2 V / B - v) / memory`` and
    ``s = lr / (sqrt(v / (1 - exp(-tau / memory))) + eps)``: ``a = s k1``, ``b = s k2``, ``D = s^2 k2 V / B``.

    Parameters
    ----------
    lr, weight_decay, batch, schedule
        See `Rule`.
    beta1 : float
        In [0, 1).
    memory : float
        Time ``tau = steps / d`` over which squares of gradients are averaged.
    eps : float
        Above 0, in units of the gradient ``r phi``.
    bias_correction : bool
        Without it only the simulation runs: the first steps are then larger the larger ``d`` is.
    rounding : {"stochastic", "nearest"}, optional
        Steps are rounded to multiples of ``delta``, and weights live on that lattice: SR-ADAM, R-ADAM (Li et al. 2017).
        Stochastic rounding keeps ``a`` and ``b`` and adds ``delta^2 E[f (1 - f)]`` to ``D``, ``f`` the fractional part
        of a step over ``delta``; for "nearest" see `stedyn.rules.buffer`.
    delta : float, optional
        Spacing of the lattice, times ``sqrt(d)``.
    """

    kind: ClassVar[str] = "adam"
    product: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    beta1: Float[Array, ""] | float = eqx.field(default=0.9, converter=below_one("beta1"))
    memory: Float[Array, ""] | float = eqx.field(default=1.0, converter=lambda v: positive("memory", v))
    eps: Float[Array, ""] | float = eqx.field(default=1e-6, converter=lambda v: positive("eps", v))
    bias_correction: bool = eqx.field(
        default=True, static=True, converter=lambda v: flag("bias_correction", v)
    )
    rounding: str | None = eqx.field(default=None, static=True, converter=_rounding)
    delta: Float[Array, ""] | float | None = eqx.field(
        default=None, converter=lambda v: None if v is None else positive("delta", v)
    )

    def __check_init__(self):
        if (self.rounding is None) != (self.delta is None):
            name, other = ("delta", "rounding") if self.delta is None else ("rounding", "delta")
            fail(
                name,
                f"a value with {other}, as rounding needs a lattice and a way",
                None,
                f"set it, or leave {other} out",
            )

    @classmethod
    def from_torch(cls, dim: int, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, **more) -> Adam:
        """The rule of ``torch.optim.AdamW`` with these arguments, for the loss ``r^2 / 2`` in ``dim`` dimensions."""
        root = dim**0.5
        memory = 1 / (dim * (1 - below_one("beta2")(betas[1])))
        return cls(lr * root, weight_decay * root, beta1=betas[0], memory=memory, eps=eps * root, **more)

    @property
    def state(self):
        return Memory({"mean": 0.0, "square": 0.0})

    @property
    def uniforms(self) -> int:  # type: ignore[override]
        """One for stochastic rounding."""
        return int(self.rounding == "stochastic")

    @property
    def lattice(self):
        return self.delta

    @property
    def fading(self):
        return 1 / self.memory

    def step(self, seen: Seen, own):
        g, part = seen.r * seen.phi, 1 / (seen.dim * self.memory)
        mean = own["mean"] + (1 - self.beta1) * (g - own["mean"])
        square = own["square"] + part * (g**2 - own["square"])
        lr, over = self.rate(seen.tau), jnp.ones(())
        if self.bias_correction:
            n = seen.tau * seen.dim + 1
            lr = lr / -jnp.expm1(n * jnp.log(self.beta1))
            over = 1 / -jnp.expm1(n * jnp.log1p(-part))
        move = lr * mean / (jnp.sqrt(over * square) + self.eps)
        if self.delta is not None:
            move = self.delta * jnp.floor(move / self.delta + (0.5 if seen.u is None else seen.u[0]))
        return move, {"mean": mean, "square": square}

    def move(self, r, phi, u, tau):
        """The direction of a step that remembers nothing."""
        return self.rate(tau) * r * phi

    @property
    def spreads(self) -> bool:
        """Not with rounded steps."""
        return super().spreads and self.rounding is None

    def scale(self, square, tau):
        """What a step is to a gradient, whose squares average ``square``."""
        root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        return self.rate(tau) / (root + self.eps)

    def forgetting(self, tau):
        """Part of the average of squares that is renewed in a unit of ``tau``: all of it at first."""
        return self.fading / -jnp.expm1(-self.fading * tau)

    def together(self, inputs, order, tau):
        fresh = self.forgetting(tau) * inputs.k2 * order.V / self.batch
        return linear(self.scale(order.memory, tau), inputs, order.V, self.batch, fresh)

    def response(self, inputs: InputMoments) -> Response:
        return _Normalized(self, inputs)

    def check_limit(self, problem) -> None:
        if not self.bias_correction:
            fail("rule.bias_correction", "true (without it the first steps grow with d, and no limit exists)", False,
                 "set it, or simulate")  # fmt: skip
        if problem.surrogate.smooth:
            fail("weights.ste", "'identity' or 'clipped' with the rule 'adam' (with others the mean square of a "
                 "gradient depends on the path of its weight, which is not implemented)", problem.ste,
                 "choose one of these, or simulate")  # fmt: skip

        if self.rounding is not None and problem.model != "linear":
            fail("teacher.model", "'linear' with rounded steps", problem.model, "choose it, or simulate")
        if self.rounding == "nearest":
            check_forgets("rule.beta1", self.beta1)

    def check_dim(self, dim):
        if float(self.memory) * dim < 1:
            fail(
                "rule.memory",
                f"at least 1/d = {1 / dim:g}, which is one step",
                self.memory,
                "raise memory or d",
            )


class _Normalized(Response):
    """What is remembered is ``v / (1 - exp(-tau / memory))``, the mean square of the gradients so far."""

    rule: Adam
    inputs: InputMoments
    rounded: RoundedBuffer | None

    def __init__(self, rule: Adam, inputs: InputMoments):
        self.rule, self.inputs, self.rounded = rule, inputs, None
        if rule.rounding == "nearest" and (is_traced(rule.beta1) or np.any(np.asarray(rule.beta1) != 0)):
            self.rounded = RoundedBuffer(rule.beta1, rule.batch, inputs)

    def _square(self, order):
        """Mean square of the gradient."""
        return self.inputs.k2 * jnp.maximum(order.V, 0.0) / self.rule.batch

    def start(self, order):
        return self._square(order)

    def advance(self, memory, order, tau, step):
        weight = step * self.rule.forgetting(tau + step)
        return (memory + weight * self._square(order)) / (1 + weight)

    def __call__(self, order, tau):
        rule, inputs, square = self.rule, self.inputs, self._square(order)
        known = square if order.memory is None else order.memory
        s = rule.scale(known, tau)
        if self.rounded is not None:
            return self.rounded(s * (1 - rule.beta1), jnp.asarray(rule.delta), order)
        if rule.rounding == "nearest":
            return self._nearest(s, order)

        def transform(t, V):
            return rule.batch * log_transform(t * V / rule.batch**2, inputs)

        D, size = s**2 * square, s * (1 - rule.beta1) * mean_size(rule.beta1, False, order.V, transform)
        if rule.rounding == "stochastic":
            delta = jnp.asarray(rule.delta)
            part = s * (1 - rule.beta1) / delta
            D = D + delta**2 * fraction_variance(rule.beta1, False, part, order.V, transform)
        return Coefficients(order.gain * s * inputs.k1, s * inputs.k2, D, size)

    def _nearest(self, s, order):
        """The step of one gradient, rounded: as of deterministic rounding at the rate ``s``."""
        delta, nodes = jnp.asarray(self.rule.delta), batch_nodes(self.inputs, self.rule.batch)
        V = jnp.maximum(order.V, 0.0)
        root = jnp.where(V > 0, jnp.sqrt(jnp.where(V > 0, V, 1.0)), 0.0)
        p = lattice.nearest(s * root * nodes.norm / delta)
        a, b = order.gain * s * (p.slope @ nodes.teacher), s * (p.slope @ nodes.own)
        return Coefficients(a, b, delta**2 * (p.square @ nodes.mass), delta * (p.mean_abs @ nodes.mass))
