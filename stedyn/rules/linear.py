"""Rules that are linear in the gradient: SGD, and SGD with a shrunken, noisy gradient."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..checks import fail, finite, is_traced, nonnegative
from ..inputs.moments import InputMoments
from .base import Coefficients, GradientResponse, Response
from .momentum import WithMomentum, log_transform
from .quadrature import Profile
from .schedules import Schedule, as_schedule, check_schedule
from .together import linear

_ROOT, _ROOT_TWO = float(np.sqrt(2 / np.pi)), float(np.sqrt(2))


class SGD(WithMomentum):
    """Stochastic gradient descent: ``U = lr r phi``, so ``a = lr k1``, ``b = lr k2``, ``D = lr^2 k2 V / B``.

    With momentum the limit is that at ``lr (1 - dampening) / (1 - momentum)``.
    With quantized weights (``Problem(weights=...)``) it is BinaryConnect: latent weights are floats and
    the forward pass sees them rounded, to the nearest level or stochastically.

    Parameters
    ----------
    lr, weight_decay, batch, schedule
        See `Rule`.
    momentum, dampening, nesterov
        See `stedyn.rules.momentum.WithMomentum`.
    """

    kind: ClassVar[str] = "sgd"
    product: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    @property
    def sized(self):
        return True

    def move(self, r, phi, u, tau):
        return self.rate(tau) * r * phi

    def together(self, inputs, order, tau):
        return linear(self.rate(tau), inputs, order.V, self.batch)

    def shift(self, tau):
        return None if self.momentum is not None else self.rate(tau)  # the mean output would remember, too

    def profile(self, s, tau):
        lr = self.rate(tau)
        return Profile(jnp.full_like(s, 1.0) * lr, (lr * s) ** 2, _ROOT * lr * s)

    def response(self, inputs):
        if self.batch == 1:
            alone: Response = _Single(self, inputs._replace(levels=None, mass=None, overlap=None))
        else:
            alone = GradientResponse(self, inputs)
        return self.with_memory(alone, inputs)


class _Single(Response):
    """SGD with single samples, from the input moments alone."""

    rule: SGD
    inputs: InputMoments

    def __call__(self, order, tau):
        lr, V = self.rule.rate(tau), jnp.maximum(order.V, 0.0)
        root = jnp.sqrt(2 * V / jnp.pi)
        k1, k2 = self.inputs.k1, self.inputs.k2
        return Coefficients(order.gain * (lr * k1), lr * k2, lr**2 * k2 * V, lr * root * self.inputs.mean_abs)


def _fraction(name: str, value):
    value = finite(name, value)
    if not is_traced(value) and not np.all((np.asarray(value) > 0) & (np.asarray(value) <= 1)):
        fail(name, "a number above 0 and at most 1", value, "give one in (0, 1]")
    return value


class Shrinkage(WithMomentum):
    """SGD with a shrunken gradient: ``U = lr (q r phi + s z)``, ``z ~ N(0, 1)`` (arXiv 2508.07142).

    ``a = lr E[q] k1``, ``b = lr E[q] k2``, ``D = lr^2 (E[q^2] k2 V / B + s^2)``. Without noise a constant
    q is exactly SGD at rate ``lr q``.

    Parameters
    ----------
    lr, weight_decay, batch, schedule
        See `Rule`.
    momentum, dampening, nesterov
        See `stedyn.rules.momentum.WithMomentum`; they act on the shrunken gradient.
    q : float
        Shrinkage factor in (0, 1].
    q_min : float, optional
        Makes the factor random, uniform on ``[q_min, q]``: one draw for all coordinates of a step, as in the paper.
        A coordinate of the limit sees ``d`` of them in a unit of ``tau``, so that only ``E[q]`` and ``E[q^2]`` stay.
    noise_std : float
        The standard deviation ``s`` of the added noise.
    q_schedule : Schedule, function of tau, or None
        Multiplies ``q`` (and ``q_min``); at most 1.
    """

    kind: ClassVar[str] = "shrinkage"
    product: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    q: Float[Array, ""] | float = eqx.field(default=1.0, converter=lambda v: _fraction("q", v))
    q_min: Float[Array, ""] | float | None = eqx.field(
        default=None, converter=lambda v: None if v is None else _fraction("q_min", v)
    )
    noise_std: Float[Array, ""] | float = eqx.field(
        default=0.0, converter=lambda v: nonnegative("noise_std", v)
    )
    q_schedule: Schedule | None = eqx.field(default=None, converter=as_schedule)
    noisy: bool = eqx.field(static=True, init=False)

    def __post_init__(self):
        noise = nonnegative("noise_std", self.noise_std)  # the converter comes later
        self.noisy = is_traced(noise) or bool(np.any(np.asarray(noise) != 0))

    def __check_init__(self):
        known = not is_traced(self.q) and not is_traced(self.q_min)
        if self.q_min is not None and known and np.any(np.asarray(self.q_min) > self.q):
            fail("q_min", f"at most q = {self.q}", self.q_min, "lower it")

    @property
    def sized(self):
        return True

    @property
    def uniforms(self) -> int:  # type: ignore[override]
        """One for a random factor, one for the noise."""
        return (self.q_min is not None) + self.noisy

    @property
    def shared(self) -> int:  # type: ignore[override]
        """The random factor."""
        return int(self.q_min is not None)

    def factors(self, tau) -> tuple[Array, Array]:
        """``E[q]`` and ``E[q^2]`` at ``tau``."""
        low, high = self.bounds(tau)
        return 0.5 * (low + high), (low**2 + low * high + high**2) / 3

    def bounds(self, tau) -> tuple[Array, Array]:
        """Smallest and largest factor at ``tau``."""
        scale = 1.0 if self.q_schedule is None else self.q_schedule(tau)
        high = jnp.asarray(self.q) * scale
        return (high if self.q_min is None else jnp.asarray(self.q_min) * scale), high

    def gradient(self, r, phi, u, tau):
        low, high = self.bounds(tau)
        q = high if self.q_min is None else low + (high - low) * u[0]
        noise = self.noise_std * _ROOT_TWO * lax.erf_inv(2 * u[-1] - 1) if self.noisy else 0.0
        return q * r * phi + noise

    def move(self, r, phi, u, tau):
        return self.rate(tau) * self.gradient(r, phi, u, tau)

    def log_transform(self, t, V, inputs, tau):
        q, weight = self._factors(tau)
        each = t * V * (q[:, None] / self.batch) ** 2
        log = self.batch * log_transform(each.reshape(-1), inputs).reshape(each.shape)
        return jnp.log1p(weight @ jnp.expm1(log)) - t * self.noise_std**2

    def response(self, inputs):
        return self.with_memory(GradientResponse(self, inputs), inputs)

    def together(self, inputs, order, tau):
        # the noise does not follow the residual
        return linear(self.rate(tau) * self.bounds(tau)[1], inputs, order.V, self.batch)

    def shift(self, tau):
        # a random factor is common to all coordinates, and would leave its own traces in the mean output
        own = self.q_min is not None or self.momentum is not None
        return None if own else self.rate(tau) * self.bounds(tau)[1]

    def profile(self, s, tau):
        lr = self.rate(tau)
        first, second = self.factors(tau)
        square = lr**2 * (second * s**2 + self.noise_std**2)
        return Profile(jnp.full_like(s, 1.0) * lr * first, square, _ROOT * lr * self._spread(s, tau))

    def _spread(self, s, tau):
        """``E[sqrt(q^2 s^2 + noise^2)]`` over the factor (Gauss-Legendre)."""
        q, weight = self._factors(tau)
        square = (q * s[..., None]) ** 2 + self.noise_std**2
        root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        return root @ weight

    def _factors(self, tau):
        """Nodes and weights of averages over the factor (Gauss-Legendre)."""
        low, high = self.bounds(tau)
        x, w = np.polynomial.legendre.leggauss(8)
        return 0.5 * (low + high) + 0.5 * (high - low) * x, w / 2

    def check(self, problem):
        super().check(problem)
        check_schedule("rule.q_schedule", self.q_schedule, problem.taus)
        if self.q_schedule is not None and not is_traced(self.q):
            for tau in problem.taus[:: max(1, len(problem.taus) // 100)]:
                top = float(np.max(self.bounds(jnp.asarray(tau))[1]))
                if not 0 < top <= 1:
                    fail(
                        "rule.q_schedule",
                        "factors that keep q in (0, 1]",
                        f"q = {top:g} at tau = {tau:g}",
                        "scale it",
                    )
