r"""Laws of an input ``x = mean + scale base``, with their moments between the thresholds of a quantizer.

=========  ================================================  ==================  =======================
law        base                                              ``E[base]``         ``Var base``
=========  ================================================  ==================  =======================
gaussian   ``z``, standard normal                            0                   1
relu       ``max(z, 0)``                                     ``1/sqrt(2 pi)``    ``1/2 - 1/(2 pi)``
uniform    uniform on ``[-1, 1]``                            0                   1/3
laplace    density ``exp(-|x|) / 2``                         0                   2
file       a value of a sample, each with equal probability  of the sample       of the sample
=========  ================================================  ==================  =======================

All moments are closed forms (``docs/inputs.md``). Only averages over an unquantized input of a function that is not a
polynomial, which rules need, are sums over the nodes of `InputLaw.nodes`.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ..checks import array_of, checked, choice, fail, finite, is_traced, positive
from ..quantizers.pieces import partial_moments
from .samples import Samples

KINDS = ("gaussian", "relu", "uniform", "laplace", "file")
#: Nodes between two kinks of a density or of ``|x|``; groups of a sample; where normal and Laplace tails end.
NODES, GROUPS, NORMAL_END, LAPLACE_END = 40, 512, 9.0, 40.0
#: Most values of a sample: the simulation takes a 32-bit word modulo their number.
MAX_VALUES = 2**20


class InputLaw(eqx.Module):
    """Law of the inputs: independent ``x_i = mean + scale sqrt(v_i) base``, ``v_i`` the variances of `Covariance`.

    ``InputLaw.gaussian()``, ``.relu()``, ``.uniform()``, ``.laplace()`` or ``.samples(values)``; see the module.

    Parameters
    ----------
    values : sequence of float
        Of ``samples``: measured activations, 2 to 2^20 of them.
    mean, scale : float
        Added to all inputs; above 0.
    centre : bool
        Whether the teacher sees ``x - E[x]`` and the student ``phi(x) - E[phi(x)]``, as behind a batch norm.

    Raises
    ------
    InputError
        If one is out of bounds.

    Examples
    --------
    >>> law = InputLaw.relu(centre=True)
    >>> round(float(law.variance), 4)
    0.3408
    """

    kind: str = eqx.field(static=True)
    mean: Float[Array, ""] | float
    scale: Float[Array, ""] | float
    centre: bool = eqx.field(static=True)
    data: Samples | None

    @checked()
    def __init__(self, kind="gaussian", mean=0.0, scale=1.0, centre=False, data=None):
        self.kind = choice("law", kind, KINDS)
        self.mean, self.scale = finite("mean", mean), positive("scale", scale)
        self.centre = bool(choice("centre", centre, (True, False)))
        self.data = data
        if data is None:
            return
        values = np.asarray(data.values)
        if values.size > MAX_VALUES:
            fail("inputs", f"at most {MAX_VALUES} values", values.size, "thin them out")
        if not is_traced(data.values) and np.ptp(values) == 0:
            fail("inputs", "values that are not all equal", values[:1].tolist(), "give inputs that vary")

    @classmethod
    @checked()
    def gaussian(cls, mean=0.0, scale=1.0, centre=False):
        return cls("gaussian", mean, scale, centre)

    @classmethod
    @checked()
    def relu(cls, mean=0.0, scale=1.0, centre=False):
        return cls("relu", mean, scale, centre)

    @classmethod
    @checked()
    def uniform(cls, mean=0.0, scale=1.0, centre=False):
        return cls("uniform", mean, scale, centre)

    @classmethod
    @checked()
    def laplace(cls, mean=0.0, scale=1.0, centre=False):
        return cls("laplace", mean, scale, centre)

    @classmethod
    @checked()
    def samples(cls, values, mean=0.0, scale=1.0, centre=False, path=None):
        data = values if isinstance(values, Samples) else Samples(values, path)
        return cls("file", mean, scale, centre, data)

    @property
    def symmetric(self) -> bool:
        """Whether the law is known to be symmetric about 0."""
        known = not is_traced(self.mean) and bool(np.all(np.asarray(self.mean) == 0))
        return known and self.kind in ("gaussian", "uniform", "laplace")

    @property
    def standard(self) -> bool:
        """Whether this is N(0, 1) (or what centring leaves of such)."""
        known = not is_traced(self.scale) and bool(np.all(np.asarray(self.scale) == 1))
        return self.kind == "gaussian" and self.symmetric and known

    @property
    def base(self) -> tuple[Float[Array, ""] | float, Float[Array, ""] | float]:
        """Mean and variance of the base."""
        if self.data is not None:
            values = array_of(self.data.values)
            return values.mean(), values.var()
        return {
            "gaussian": (0.0, 1.0),
            "relu": (1 / np.sqrt(2 * np.pi), 0.5 - 0.5 / np.pi),
            "uniform": (0.0, 1 / 3),
            "laplace": (0.0, 2.0),
        }[self.kind]

    @property
    def ends(self) -> tuple[float, float]:
        """Between which values all of the base lies, but for 1e-17 of it."""
        if self.data is not None:
            values = np.asarray(self.data.values)
            return float(values.min()), float(values.max())
        return {
            "gaussian": (-NORMAL_END, NORMAL_END),
            "relu": (0.0, NORMAL_END),
            "uniform": (-1.0, 1.0),
            "laplace": (-LAPLACE_END, LAPLACE_END),
        }[self.kind]

    @property
    def variance(self) -> Float[Array, ""] | float:
        """``Var x`` where ``v_i = 1``."""
        return array_of(self.scale) ** 2 * self.base[1]

    def partial(
        self, breaks: Float[Array, " B"], std, own=0.0
    ) -> tuple[Float[Array, "*n B+1"], Float[Array, "*n B+1"], Float[Array, "*n B+1"]]:
        """``E[x^n; x in piece k]``, ``n = 0, 1, 2``, of pieces between ``breaks`` and ``v = std^2`` (any shape).

        ``own`` is added to ``x``.
        """
        scale = jnp.asarray(self.scale) * jnp.asarray(std) * 1.0
        mean = jnp.asarray(self.mean) + own + jnp.zeros_like(scale)
        if self.kind == "gaussian":
            return partial_moments(breaks, mean, scale)[:3]
        if self.kind == "relu":
            return _relu(breaks, mean, scale)
        if self.data is not None:
            return _sample(breaks, mean, scale, jnp.asarray(self.data.values))
        t = (breaks - mean[..., None]) / scale[..., None]
        zero, one, two = (_uniform if self.kind == "uniform" else _laplace)(t)
        m, s = mean[..., None], scale[..., None]
        return zero, m * zero + s * one, m**2 * zero + 2 * m * s * one + s**2 * two

    def nodes(self, std, origin=0.0, own=0.0) -> tuple[Float[Array, "*n N"], Float[Array, "*n N"]]:
        """Values of ``x + own - origin`` and probabilities that stand for an unquantized input in sums over functions.

        Gauss-Legendre nodes, with ends at the kinks of the density and at ``x = origin``; of a sample all values, or
        the means of `GROUPS` groups of equally many.
        """
        scale = jnp.asarray(self.scale) * jnp.asarray(std) * 1.0
        shift = jnp.asarray(self.mean) + own - jnp.asarray(origin) + jnp.zeros_like(scale)
        if self.data is not None:
            values, share = _groups(jnp.asarray(self.data.values))
            return shift[..., None] + scale[..., None] * values, jnp.broadcast_to(
                share, (*scale.shape, share.size)
            )
        low, high = self.ends
        kink = jnp.clip(-shift / scale, low, high)
        ends = jnp.stack([kink, *(jnp.full_like(kink, end) for end in (low, 0.5 * (low + high), high))], -1)
        ends = jnp.sort(ends, -1)
        x, w = np.polynomial.legendre.leggauss(NODES)
        half = 0.5 * jnp.diff(ends)[..., None]
        place = (ends[..., :-1, None] + half * (1 + x)).reshape(*kink.shape, -1)
        density = {
            "gaussian": norm.pdf,
            "relu": norm.pdf,
            "uniform": lambda t: jnp.full_like(t, 0.5),
            "laplace": lambda t: 0.5 * jnp.exp(-jnp.abs(t)),
        }[self.kind]
        share = density(place) * (half * w).reshape(*kink.shape, -1)
        if self.kind == "relu":  # the other half is 0
            place = jnp.concatenate([jnp.zeros_like(place[..., :1]), place], -1)
            share = jnp.concatenate([jnp.full_like(share[..., :1], 0.5), share], -1)
        return shift[..., None] + scale[..., None] * place, share


def _between(lower, at, upper):
    """Differences of an antiderivative at -inf, the breaks, and inf."""
    ends = [jnp.full((*at.shape[:-1], 1), end) for end in (lower, upper)]
    return jnp.diff(jnp.concatenate([ends[0], at, ends[1]], -1))


def _uniform(t):
    t = jnp.clip(t, -1.0, 1.0)
    return _between(-0.5, t / 2, 0.5), _between(0.25, t**2 / 4, 0.25), _between(-1 / 6, t**3 / 6, 1 / 6)


def _laplace(t):
    size = jnp.abs(t)
    tail, below = 0.5 * jnp.exp(-size), t < 0
    return (
        _between(0.0, jnp.where(below, tail, 1 - tail), 1.0),
        _between(0.0, -(size + 1) * tail, 0.0),
        _between(0.0, jnp.where(below, 1.0, -1.0) * (size**2 + 2 * size + 2) * tail + jnp.where(below, 0.0, 2.0), 2.0),
    )  # fmt: skip


def _relu(breaks, mean, scale):
    """Of a normal law the part above its mean, whose other half is put on it."""
    m, s = mean[..., None], scale[..., None]
    p = partial_moments(jnp.maximum(breaks, m), mean, scale)
    at_zero = 1 / np.sqrt(2 * np.pi)
    lower = 0.5 * jnp.ones_like(m), 0.5 * m - s * at_zero, 0.5 * (m**2 + s**2) - 2 * m * s * at_zero
    piece = jnp.sum(breaks <= m, -1, keepdims=True)
    here = jnp.arange(breaks.size + 1) == piece
    first = jnp.arange(breaks.size + 1) == 0
    atom = 0.5 * jnp.ones_like(m), 0.5 * m, 0.5 * m**2
    return tuple(
        part - jnp.where(first, old, 0.0) + jnp.where(here, new, 0.0)
        for part, old, new in zip(p[:3], lower, atom, strict=True)
    )


def _sample(breaks, mean, scale, values):
    def one(m, s):
        x = m + s * values
        piece = jnp.searchsorted(breaks, x, side="right")
        return tuple(
            jnp.zeros(breaks.size + 1).at[piece].add(power) / values.size
            for power in (jnp.ones_like(x), x, x**2)
        )

    shape = jnp.shape(mean)
    parts = jax.lax.map(lambda pair: one(*pair), (mean.reshape(-1), scale.reshape(-1)))
    return tuple(part.reshape(*shape, -1) for part in parts)


def _groups(values):
    values = jnp.sort(values)
    if values.size <= GROUPS:
        return values, jnp.full(values.size, 1 / values.size)
    edges = np.round(np.linspace(0, values.size, GROUPS + 1)).astype(int)
    total = jnp.concatenate([jnp.zeros(1), jnp.cumsum(values)])[edges]
    count = np.diff(edges)
    return jnp.diff(total) / count, jnp.asarray(count / values.size)
