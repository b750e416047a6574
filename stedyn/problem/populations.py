"""Laws of the coordinates: teacher weights, starts, input variances."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import array_of, checked, fail, finite, is_traced, nonnegative, positive, several
from ..inputs.samples import MAX_ATOMS, Samples

#: Most channels, each of which has classes of its own in the limit.
MAX_CHANNELS = 16
#: Inputs that stand for a power law of variances in the limit.
POWER_LAW_VALUES = 2**14


class Teacher(eqx.Module):
    """Law of the teacher weights ``w*``: one independent draw for each coordinate.

    ``Teacher.constant(value)``, ``Teacher.gaussian(std)``, ``Teacher.rademacher(scale)`` (``+-scale``
    with equal probability) or ``Teacher.samples(values)``.
    """

    kind: str = eqx.field(static=True)
    scale: Float[Array, ""] | float | None
    data: Samples | None

    @classmethod
    @checked()
    def constant(cls, value=1.0):
        return cls("constant", finite("teacher.value", value), None)

    @classmethod
    @checked()
    def gaussian(cls, std=1.0):
        return cls("gaussian", positive("teacher.std", std), None)

    @classmethod
    @checked()
    def rademacher(cls, scale=1.0):
        return cls("rademacher", positive("teacher.scale", scale), None)

    @classmethod
    @checked()
    def samples(cls, values, path=None):
        return cls("file", None, values if isinstance(values, Samples) else Samples(values, path))

    @property
    def rho(self) -> Float[Array, ""] | float:
        """``E[w*^2]``."""
        return (array_of(self.scale if self.data is None else self.data.values) ** 2).mean()

    @property
    def mean(self) -> Float[Array, ""]:
        """``E[w*]``."""
        if self.data is not None:
            return jnp.mean(jnp.asarray(self.data.values))
        return jnp.asarray(self.scale) * (1.0 if self.kind == "constant" else 0.0)

    def scaled(self, factor) -> Teacher:
        """The law of ``factor w*``."""
        if self.data is not None:
            return Teacher.samples(np.asarray(factor * self.data.values))
        return Teacher(self.kind, factor * jnp.asarray(self.scale), None)


class Start(eqx.Module):
    """Law of the latent weights at ``tau = 0``.

    ``Start.gaussian(mean, std)``, ``Start.constant(value)``, ``Start.samples(values)`` or
    ``Start.teacher(scale, std)``, which is ``scale w* + std z`` with a standard normal ``z`` for each coordinate:
    weights that were trained before. The others are independent of teacher and variances, unless these are measured
    too and equally many: then value ``i`` of each belongs to coordinate ``i``.
    """

    kind: str = eqx.field(static=True)
    mean: Float[Array, ""] | float | None
    std: Float[Array, ""] | float | None
    data: Samples | None
    scale: Float[Array, ""] | float | None = None

    @classmethod
    @checked()
    def gaussian(cls, mean=0.0, std=1.0):
        return cls("gaussian", finite("start.mean", mean), positive("start.std", std), None)

    @classmethod
    @checked()
    def constant(cls, value=0.0):
        return cls("constant", finite("start.value", value), 0.0, None)

    @classmethod
    @checked()
    def samples(cls, values, path=None):
        return cls("file", None, None, values if isinstance(values, Samples) else Samples(values, path))

    @classmethod
    @checked()
    def teacher(cls, scale=1.0, std=0.1):
        return cls("teacher", 0.0, positive("start.std", std), None, finite("start.scale", scale))


class Covariance(eqx.Module):
    """Variances ``v_i`` of the inputs, ``x_i ~ N(0, v_i)`` independently: a diagonal covariance.

    ``Covariance.identity()``; ``Covariance.power_law(exponent, scale)``, ``v_i`` proportional to ``i^-exponent`` with
    mean ``scale``; or ``Covariance.samples(values, means=None)``, measured variances, and with ``means`` a mean of its
    own for each of the inputs, added to that of their law (``docs/inputs.md``). Variances are independent of the
    teacher, unless both are measured and equally many: then value ``i`` of one belongs to value ``i`` of the other.

    ``pair (n,)`` says which of the ``pairs`` of variance and mean that occur an input has; None if there are many.
    """

    kind: str = eqx.field(static=True)
    exponent: Float[Array, ""] | float | None
    scale: Float[Array, ""] | float | None
    data: Samples | None
    means: Float[Array, " n"] | Float[np.ndarray, " n"] | None = None
    pair: Array | np.ndarray | None = None
    pairs: int = eqx.field(static=True, default=0)

    @classmethod
    @checked()
    def identity(cls):
        return cls("identity", None, None, None)

    @classmethod
    @checked()
    def power_law(cls, exponent=0.5, scale=1.0):
        exponent = nonnegative("covariance.exponent", exponent)
        if not is_traced(exponent) and np.any(np.asarray(exponent) >= 1):
            fail("covariance.exponent", "a number below 1 (else a few inputs carry all the variance)", exponent,
                 "lower it, or give the variances in a file")  # fmt: skip
        return cls("power-law", exponent, positive("covariance.scale", scale), None)

    @classmethod
    @checked()
    def samples(cls, values, path=None, means=None):
        data = values if isinstance(values, Samples) else Samples(values, path)
        if not is_traced(data.values) and (data.values.size < 4 or np.any(np.asarray(data.values) <= 0)):
            found = f"{data.values.size} of which {np.sum(np.asarray(data.values) <= 0)} are not"
            fail("covariance", "at least 4 variances above 0", found, "remove inputs that are constant")
        if means is None:
            return cls("file", None, None, data)
        own = Samples(means).values
        if own.size != data.values.size:
            fail("covariance.means", f"{data.values.size} numbers, one for each variance", own.size,
                 "give both of the same inputs")  # fmt: skip
        distinct, pair = np.unique(np.stack([data.values, own]), axis=1, return_inverse=True)
        few = distinct.shape[1] <= MAX_ATOMS
        return cls("file", None, None, data, own, pair.reshape(-1) if few else None, distinct.shape[1])

    def values(self, n: int = POWER_LAW_VALUES) -> Float[Array | np.ndarray, " n"]:
        """The measured variances, or those of ``n`` inputs, whose sum is exactly ``n scale``, largest first.

        Input ``i`` has the mean of ``(1 - exponent) u^-exponent`` over ``u`` from ``i/n`` to ``(i + 1)/n``.
        """
        if self.data is not None:
            return array_of(self.data.values)
        if self.kind == "identity":
            return np.ones(n)
        sums = (np.arange(n + 1) / n) ** (1 - array_of(self.exponent))
        return array_of(self.scale) * n * (sums[1:] - sums[:-1])

    @property
    def alike(self) -> bool:
        """Whether all variances are one number."""
        return self.data is not None and self.data.atoms is not None and self.data.atoms.size == 1

    def some(self, parts: Float[np.ndarray, " P"]) -> tuple[Float[Array, " P"], Float[Array, " P"] | float]:
        """Variances and means of inputs at these parts of their order, by mean if they have their own."""
        values = jnp.asarray(self.values())
        if self.means is None:
            return jnp.quantile(values, parts), 0.0
        order = jnp.argsort(jnp.asarray(self.means))
        at = order[np.round(parts * (values.size - 1)).astype(int)]
        return values[at], jnp.asarray(self.means)[at]


class Channels(eqx.Module):
    """Groups of coordinates, each with its own teacher scale, weight range and start (``docs/channels.md``).

    Of the ``d`` coordinates the part ``shares[g]`` is in channel ``g``, independently of all else. There the teacher's
    weights are ``teacher[g] w*`` and the latent weights start at ``start[g] w_0``; levels, thresholds, the range of the
    surrogate derivative and a latent clip are ``range[g]`` times those of the problem: a weight is used as
    ``range[g] psi(w / range[g])``.

    Parameters
    ----------
    teacher, range, start : sequences of G numbers above 0
        Scales; ``range`` and ``start`` are 1 by default: one range and one start for all.
    shares : sequence of G numbers above 0 that add up to 1
        Equal by default.

    Raises
    ------
    InputError
        If one is out of bounds or has another length.

    Examples
    --------
    >>> Channels([1.0, 0.25], range=[1.0, 0.25]).shares
    (0.5, 0.5)
    """

    teacher: tuple
    range: tuple
    start: tuple
    shares: tuple

    @checked()
    def __init__(self, teacher, range=None, start=None, shares=None):
        count = len(several("channels.teacher", teacher))
        if not 1 <= count <= MAX_CHANNELS:
            fail("channels.teacher", f"1 to {MAX_CHANNELS} numbers, one for each channel", count,
                 "join channels that are alike")  # fmt: skip
        given = {"teacher": teacher, "range": range, "start": start, "shares": shares}
        for name, values in given.items():
            path = f"channels.{name}"
            default = (1.0 / count if name == "shares" else 1.0,) * count
            values = default if values is None else several(path, values)
            if len(values) != count:
                fail(
                    path,
                    f"{count} numbers, as channels.teacher has",
                    len(values),
                    "give one for each channel",
                )
            setattr(self, name, tuple(positive(path, value) for value in values))
        if not any(is_traced(share) for share in self.shares) and abs(sum(self.shares) - 1) > 1e-9:
            fail("channels.shares", "numbers that add up to 1", sum(self.shares), "scale them")

    @property
    def columns(self) -> tuple[tuple, ...]:
        """Teacher scales, ranges, scales of the start and shares."""
        return self.teacher, self.range, self.start, self.shares

    @property
    def one_range(self) -> bool:
        """Whether all have the range of the problem."""
        return all(scale == 1 for scale in self.range)

    @property
    def power(self) -> float:
        """``E[w*^2]`` over that of one channel of scale 1."""
        return sum(share * scale**2 for share, scale in zip(self.shares, self.teacher, strict=True))

    def check(self, problem) -> None:
        """Refuse a problem that channels do not go with."""
        many = f"{len(self.shares)} channels"
        if problem.start.kind == "teacher":
            fail("channels", "none with a start at the teacher (not implemented)", many,
                 "start from another law")  # fmt: skip
        for name in ("teacher", "start"):
            if getattr(problem, name).data is not None:
                fail("channels", f"none with a measured {name} (which channel has which values is not known)",
                     many, f"give the {name} by a law")  # fmt: skip
        if problem.weights.is_none and any(scale != 1 for scale in self.range if not is_traced(scale)):
            fail("channels.range", "1 for weights that are not quantized", self.range, "leave it out")
        if problem.rule.lattice is not None:
            fail("channels", f"none with the rule {problem.rule.kind!r}, whose lattice is one for all weights",
                 many, "choose another rule")  # fmt: skip
