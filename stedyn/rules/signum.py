r"""The sign of a running mean of gradients: Signum (``docs/optimizers.md``)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import fail, finite, is_traced
from ..inputs.moments import InputMoments
from .base import Coefficients, Response, Rule
from .memory import Memory, Seen
from .momentum import log_transform

#: Largest ``beta`` of the limit, whose sums grow like ``1 / (1 - beta)``.
LARGEST_BETA = 0.995
_LOG_T = 0.5 * np.arange(-72, 73)  # nodes of integrals over t
_STEP = 0.25
_LOG_OMEGA = _STEP * np.arange(
    -72, 73
)  # nodes of integrals over omega, and those of the characteristic function
_WIDE = _STEP * (np.arange(-160, 160) + 0.5)
_LEAST, _LARGE = 64, 1e250


def _beta(value):
    value = finite("beta", value)
    if not is_traced(value) and not np.all((np.asarray(value) > 0) & (np.asarray(value) < 1)):
        fail(
            "beta", "a number above 0 and below 1", value, "give one; the rule 'sign' is that without memory"
        )
    return value


class Signum(Rule):
    r"""``m <- beta m + (1 - beta) g``, ``U = lr sign(m)``, ``g = r phi`` the (averaged) gradient.

    The learning rate of a program is ``lr / sqrt(d)``. In the limit ``a = lr A / sqrt(V)``, ``b = lr B / sqrt(V)`` and
    ``D = lr^2 C`` with three numbers that depend on ``beta`` and the law of the inputs (`SignOfMean`). Where many
    gradients are averaged, ``A = k1 sqrt(2/pi) / s``, ``B`` alike, ``s^2 = k2 (1 - beta) / (1 + beta)``, and
    ``C = (2/pi) sum_k arcsin(beta^|k|)``.

    Parameters
    ----------
    lr, weight_decay, batch, schedule
        See `Rule`; the decay is decoupled.
    beta : float
        Above 0 and below 1; 0.9 by default.
    """

    kind: ClassVar[str] = "signum"
    product: ClassVar[bool] = True

    beta: Float[Array, ""] | float = eqx.field(default=0.9, converter=_beta)

    @property
    def state(self):
        return Memory(0.0)

    def step(self, seen: Seen, own):
        mean = own + (1 - self.beta) * (seen.r * seen.phi - own)
        return self.rate(seen.tau) * jnp.sign(mean), mean

    def move(self, r, phi, u, tau):
        """The direction of a step that remembers nothing."""
        return self.rate(tau) * jnp.sign(r * phi)

    def response(self, inputs: InputMoments) -> Response:
        return _Signs(self, sign_of_mean(self.beta, self.batch, inputs))

    def check_limit(self, problem) -> None:
        if problem.surrogate.ends:
            fail("weights.ste", "'identity' with the rule 'signum' (beyond the range gradients are 0, but not the sign "
                 "of what is remembered: weights go on for ever)", problem.ste, "choose it, or simulate")  # fmt: skip
        if not is_traced(self.beta) and np.any(np.asarray(self.beta) > LARGEST_BETA):
            fail("rule.beta", f"at most {LARGEST_BETA} for the limit", self.beta, "lower it, or simulate")


class SignOfMean(NamedTuple):
    """``teacher = A``, ``own = B`` and ``diffusion = C`` of `Signum`."""

    teacher: Float[Array, ""]
    own: Float[Array, ""]
    diffusion: Float[Array, ""]


def sign_of_mean(beta, batch: int, inputs: InputMoments) -> SignOfMean:
    r"""The numbers of `Signum` for residuals of variance 1.

    Given all inputs ``m = sum_k beta^k g_(t-k)`` is Gaussian, of variance ``S = sum_k beta^(2k) |phi_(t-k)|^2 / B^2``.
    With ``L(t) = ln E exp(-t |phi|^2 / B^2)`` and ``T(t) = E[phi^2 exp(-t phi^2 / B^2)] / E[exp(-t phi^2 / B^2)]``

        ``B = sqrt(2/pi) sum_k beta^k E[|phi_k|^2 / (B sqrt(S))]
        = (sqrt(2) / pi) int_0^oo dt t^(-1/2) exp(sum_j L(t beta^(2j))) sum_k beta^k T(t beta^(2k))``,

    ``A`` with ``phi x`` in the place of ``phi^2``. The characteristic function of ``m`` is ``exp(sum_j L(omega^2
    beta^(2j) / 2))``, ``H(omega) = E sin(omega |m|)`` its Hilbert transform, ``m_k = beta^k m_0 +`` fresh gradients:

        ``E[sign(m_0) sign(m_k)]
        = (2/pi) int_0^oo d ln(omega) H(omega) prod_(j=1..k) exp(L(omega^2 beta^(-2j) / 2))``.

    Integrals are trapezoids in the logarithm, exact to about 1e-9.
    """
    rate = -jnp.log(beta)
    total = inputs.k2 / batch / (1 - beta**2)

    def log(t):
        return batch * log_transform(jnp.minimum(t / batch**2, _LARGE), inputs)

    def going(depth):
        return lambda state: (state[0] * rate < depth) | (state[0] < _LEAST)

    t = jnp.exp(jnp.asarray(_LOG_T)) / total

    def add(state):
        k, sums, own, teacher = state
        at = t * beta ** (2 * k)
        a, b = _products(jnp.minimum(at / batch**2, _LARGE), inputs)
        return k + 1, sums + log(at), own + beta**k * b, teacher + beta**k * a

    none = jnp.zeros_like(t)
    _, sums, own, teacher = jax.lax.while_loop(going(25.0), add, (0.0, none, none, none))
    weight = (_LOG_T[1] - _LOG_T[0]) * np.sqrt(2) / np.pi * jnp.sqrt(t) * jnp.exp(sums)

    wide, omega = (jnp.exp(jnp.asarray(x)) / jnp.sqrt(total) for x in (_WIDE, _LOG_OMEGA))
    _, sums = jax.lax.while_loop(
        going(65.0),
        lambda state: (state[0] + 1, state[1] + log((wide * beta ** state[0]) ** 2 / 2)),
        (0.0, jnp.zeros_like(wide)),
    )
    hilbert = -_STEP / np.pi * (np.sinh(_WIDE[None] - _LOG_OMEGA[:, None]) ** -1.0) @ jnp.exp(sums)

    def follow(state):
        k, product, sums = state
        product = product * jnp.exp(log((omega * jnp.exp(jnp.minimum(rate * k, 250.0))) ** 2 / 2))
        return k + 1, product, sums + product

    start = (1.0, jnp.ones_like(omega), jnp.zeros_like(omega))
    sums = jax.lax.while_loop(going(40.0), follow, start)[2]
    return SignOfMean(weight @ teacher, weight @ own, jnp.ones(()) + 4 / np.pi * _STEP * (hilbert @ sums))


def _products(t: Float[Array, " n"], inputs: InputMoments) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """``E[phi x exp(-t phi^2)]`` and ``E[phi^2 exp(-t phi^2)]`` over ``E exp(-t phi^2)``."""
    if inputs.levels is None or inputs.mass is None or inputs.overlap is None:
        both = inputs.std**2 / (1 + 2 * t * inputs.std**2)
        return both, both
    square = inputs.levels**2
    low = jnp.min(jnp.where(inputs.mass > 0, square, jnp.inf))  # of which there is always some
    each = jnp.exp(-t[:, None] * jnp.maximum(square - low, 0.0))  # those without mass may be smaller
    whole = each @ inputs.mass
    return each @ (inputs.levels * inputs.overlap) / whole, each @ (square * inputs.mass) / whole


class _Signs(Response):
    rule: Signum
    numbers: SignOfMean

    def __call__(self, order, tau):
        lr, V = self.rule.rate(tau), jnp.maximum(order.V, 0.0)
        moves = V > 0
        over = jnp.where(moves, 1 / jnp.sqrt(jnp.where(moves, V, 1.0)), 0.0)
        size = jnp.where(moves, lr, 0.0)
        teacher, own, diffusion = self.numbers
        return Coefficients(order.gain * lr * teacher * over, lr * own * over, size**2 * diffusion, size)
