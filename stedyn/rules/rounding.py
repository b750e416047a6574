"""Rules that round: quantized gradients, deterministic and stochastic rounding of updates, sign."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import InputError, UnknownKeyword, fail, is_traced, positive
from ..inputs.moments import InputMoments
from ..quantizers.pieces import gaussian_moments, partial_moments
from ..quantizers.quantizer import Quantizer
from . import lattice
from .base import Coefficients, GradientResponse, Response, Rule
from .buffer import RoundedBuffer, check_forgets
from .momentum import WithMomentum, fraction_variance, mean_size
from .quadrature import Profile

_ROOT = float(np.sqrt(2 / np.pi))


def _quantizer(value: Any) -> Quantizer:
    """A quantizer of gradients from a quantizer or the table ``[rule.quantizer]``."""
    if isinstance(value, dict):
        try:
            value = Quantizer(**value)
        except UnknownKeyword as error:
            raise InputError(f"quantizer: {error}") from None
        except InputError as error:
            raise InputError(f"quantizer.{error}") from None
    if not isinstance(value, Quantizer) or value.is_none:
        found = "none" if isinstance(value, Quantizer) else value
        fail("quantizer", "a quantizer of the gradient", found, "set one, or use the rule 'sgd'")
    if not is_traced(value.range) and not any(is_traced(level) for level in value.explicit or ()):
        levels = np.asarray(value.levels)
        if not np.allclose(levels, -levels[::-1], rtol=0, atol=1e-9 * np.max(np.abs(levels))):
            fail(
                "quantizer",
                "levels symmetric about 0 (otherwise all weights drift away like sqrt(d) and no limit exists)",
                f"kind {value.kind!r} with levels from {levels[0]:g} to {levels[-1]:g}",
                "use mid-rise or mid-tread",
            )
    return value


class QuantizedGradient(WithMomentum):
    """``U = lr G(r phi)`` with a quantizer ``G``, nearest or stochastic, of the (averaged) gradient.

    For a gradient ``g ~ N(0, s^2)`` a threshold ``t`` with jump ``j`` contributes ``j pdf(t/s)/s`` to
    ``E[g U]/(lr s^2)``; averaged over ``x ~ N(0, 1)`` that is ``j z K_1(z)/(pi sqrt V)``, ``z = |t|/sqrt V``.
    ``b/(lr k2)`` is the effective shrinkage of the step that arXiv 2508.07142 postulates.

    Momentum acts on the quantized gradient, as an optimizer does that gets it; the flip rate is then not predicted.

    Parameters
    ----------
    lr, weight_decay, batch, schedule
        See `Rule`.
    momentum, dampening, nesterov
        See `stedyn.rules.momentum.WithMomentum`.
    quantizer : Quantizer or dict
        Of the gradient; its levels must be symmetric about 0.
    """

    kind: ClassVar[str] = "quantized-gradient"
    product: ClassVar[bool] = True

    quantizer: Quantizer = eqx.field(default=None, converter=_quantizer)

    @property
    def uniforms(self) -> int:  # type: ignore[override]
        """One for stochastic rounding."""
        return int(self.quantizer.rounding == "stochastic")

    def gradient(self, r, phi, u, tau):
        return self.quantizer.round(r * phi, None if u is None else u[0])

    def expected(self, r, phi, u, tau):
        return self.powers(r * phi, tau)[0]

    def powers(self, g, tau):
        lr, pieces = self.rate(tau), self.quantizer.pieces
        piece = jnp.searchsorted(pieces.breaks, g, side="right")
        first, second = pieces.first[piece], pieces.second[piece]
        square = second[..., 0] + second[..., 1] * g + second[..., 2] * g**2
        return lr * (first[..., 0] + first[..., 1] * g), lr**2 * square

    def profile(self, s, tau):
        lr, pieces = self.rate(tau), self.quantizer.pieces
        s = jnp.maximum(s, 1e-30)
        m = gaussian_moments(pieces, 0.0, s)
        return Profile(lr * m.slope, lr**2 * m.square, lr * self._mean_abs(s))

    def _mean_abs(self, s):
        levels, pieces = self.quantizer.levels, self.quantizer.pieces
        p = partial_moments(pieces.breaks, 0.0, s)
        size = jnp.abs(levels)
        if self.quantizer.rounding == "nearest":
            return p.zeroth @ size
        rise = jnp.diff(size) / jnp.diff(levels)  # E|G(g)| is linear between two levels
        zeroth = jnp.concatenate([size[:1], size[:-1] - rise * levels[:-1], size[-1:]])
        first = jnp.concatenate([jnp.zeros(1), rise, jnp.zeros(1)])
        return p.zeroth @ zeroth + p.first @ first

    def check(self, problem):
        super().check(problem)
        gradient, inputs = self.quantizer, problem.inputs
        if inputs.is_none or gradient.rounding != "nearest" or is_traced(inputs.levels):
            return
        scale = float(np.max(np.abs(inputs.levels)))
        vanishes = np.any(np.abs(np.asarray(inputs.levels)) < 1e-9 * scale)
        if vanishes and not is_traced(gradient.levels) and np.any(np.asarray(gradient.thresholds) == 0):
            fail(
                "rule.quantizer",
                "a level at 0 (or stochastic rounding) for inputs with a level at 0, whose gradient of exactly 0 "
                "would else be rounded up at every step",
                f"kind {gradient.kind!r} with nearest rounding",
                "use mid-tread",
            )


def _delta(value):
    if value is None:
        fail("delta", "a positive number", None, "set it: the lattice has the spacing delta / sqrt(d)")
    return positive("delta", value)


class _OnLattice(WithMomentum):
    """Weights on the lattice ``delta / sqrt(d)``; decay is rounded onto it stochastically (see docs)."""

    product: ClassVar[bool] = True

    delta: Float[Array, ""] | float = eqx.field(default=None, converter=_delta)

    @property
    def lattice(self):
        return self.delta

    @property
    def sized(self):
        return True

    def _scale(self, s, tau):
        return self.rate(tau) * s / self.delta


class DeterministicRounding(_OnLattice):
    """R: ``U = delta round(lr r phi / delta)``: the update of SGD, rounded to the lattice (Li et al. 2017, eq. 4).

    Updates below ``delta / 2`` are lost: the effective step size falls with the residual, and learning
    stops. Weight decay is rounded onto the lattice stochastically: its variance vanishes as ``1/sqrt(d)``.

    With momentum ``lr`` times the buffer is rounded (`stedyn.rules.buffer`); its limit has no weight decay and is not
    that of Nesterov's form.

    Parameters
    ----------
    lr, weight_decay, batch, schedule
        See `Rule`.
    momentum, dampening, nesterov
        See `stedyn.rules.momentum.WithMomentum`.
    delta : float
        The weights lie on a lattice of spacing ``delta / sqrt(d)``.
    """

    kind: ClassVar[str] = "deterministic-rounding"

    def placed(self, move, u):
        return self.delta * jnp.floor(move / self.delta + 0.5)

    def response(self, inputs):
        if self.momentum is None:
            return super().response(inputs)
        return _NearestBuffer(self, RoundedBuffer(self.momentum, self.batch, inputs))

    def check_limit(self, problem):
        super().check_limit(problem)
        if self.momentum is None:
            return
        if self.nesterov:
            fail("rule.nesterov", "false with momentum of deterministic rounding (a move then comes of two numbers, "
                 "buffer and gradient, for which the limit is not derived)", True,
                 "remove it, round stochastically, or simulate")  # fmt: skip
        if not is_traced(self.weight_decay) and np.any(np.asarray(self.weight_decay) != 0):
            fail("rule.weight_decay", "0 with momentum of deterministic rounding (decay is a part of the buffer, of "
                 "which rounding leaves less as the residual falls; not implemented)", self.weight_decay,
                 "remove it, round stochastically, or simulate")  # fmt: skip
        check_forgets("rule.momentum", self.momentum)

    def profile(self, s, tau):
        slope, square, size = lattice.nearest(self._scale(s, tau))
        return Profile(self.rate(tau) * slope, self.delta**2 * square, self.delta * size)


class _NearestBuffer(Response):
    """Deterministic rounding of moves by momentum."""

    rule: DeterministicRounding
    buffer: RoundedBuffer

    def __call__(self, order, tau):
        single = Rule.rate(self.rule, tau) * (1 - self.rule.dampening)
        return self.buffer(single, jnp.asarray(self.rule.delta), order)


class StochasticRounding(_OnLattice):
    """SR: ``U = delta floor(lr r phi / delta + u)``, ``u ~ U(0, 1)`` (Li et al. 2017, eq. 6).

    Unbiased: ``a = lr k1``, ``b = lr k2``, with ``D = lr^2 k2 V / B + delta^2 E[f (1 - f)]``, ``f`` the
    fractional part of ``lr r phi / delta``. As lr falls ``D -> lr delta E|r phi|``: no annealing. Weight decay
    is rounded onto the lattice stochastically: its variance vanishes as ``1/sqrt(d)``.

    With momentum ``lr`` times the buffer is rounded: ``a, b`` and the first part of ``D`` are those of the rate
    ``lr (1 - dampening) / (1 - momentum)``, and ``f`` is the fractional part of such a move over ``delta``.

    Parameters
    ----------
    lr, weight_decay, batch, schedule
        See `Rule`.
    momentum, dampening, nesterov
        See `stedyn.rules.momentum.WithMomentum`.
    delta : float
        The weights lie on a lattice of spacing ``delta / sqrt(d)``.
    """

    kind: ClassVar[str] = "stochastic-rounding"
    uniforms: ClassVar[int] = 1

    def placed(self, move, u):
        return self.delta * jnp.floor(move / self.delta + u[0])

    def response(self, inputs):
        return GradientResponse(self, inputs) if self.momentum is None else _StochasticBuffer(self, inputs)

    def expected(self, r, phi, u, tau):
        return self.rate(tau) * r * phi

    def powers(self, g, tau):
        mean = self.rate(tau) * g
        part = mean / self.delta - jnp.floor(mean / self.delta)
        return mean, mean**2 + self.delta**2 * part * (1 - part)

    def profile(self, s, tau):
        lr = self.rate(tau)
        square = (lr * s) ** 2 + self.delta**2 * lattice.fraction_variance(self._scale(s, tau))
        return Profile(jnp.full_like(s, 1.0) * lr, square, _ROOT * lr * s)


class _StochasticBuffer(Response):
    """Stochastic rounding of moves by momentum."""

    rule: StochasticRounding
    inputs: InputMoments

    def __call__(self, order, tau):
        rule, lr, delta = self.rule, self.rule.rate(tau), jnp.asarray(self.rule.delta)
        single = Rule.rate(rule, tau) * (1 - rule.dampening)
        own = rule.momentum, rule.nesterov

        def transform(t, V):
            return rule.log_transform(t, V, self.inputs, tau)

        square = self.inputs.k2 * jnp.maximum(order.V, 0.0) / rule.batch
        D = lr**2 * square + delta**2 * fraction_variance(*own, single / delta, order.V, transform)
        size = single * mean_size(*own, order.V, transform)
        return Coefficients(order.gain * lr * self.inputs.k1, lr * self.inputs.k2, D, size)


class Sign(Rule):
    """``U = lr sign(r phi)``: for unquantized inputs ``a = b = 2 lr/(pi sqrt V)`` and ``D = lr^2``.

    Parameters
    ----------
    lr, weight_decay, batch, schedule
        See `Rule`.
    """

    kind: ClassVar[str] = "sign"
    product: ClassVar[bool] = True

    def move(self, r, phi, u, tau):
        return self.rate(tau) * jnp.sign(r * phi)

    def profile(self, s, tau) -> Profile:
        lr = self.rate(tau)
        moves = s > 0
        size: Array = jnp.where(moves, lr, 0.0)
        return Profile(jnp.where(moves, _ROOT * lr / jnp.where(moves, s, 1.0), 0.0), size**2, size)
