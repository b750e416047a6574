r"""The multinomial update of arXiv 2512.04051: ``n`` trials spread over all coordinates at every step."""

from __future__ import annotations

import itertools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from scipy.special import gammaln

from ..checks import fail, is_traced, nonnegative, positive, whole
from ..inputs.moments import InputMoments
from .base import MAX_BATCH, Coefficients, Response, Rule
from .nodes import batch_nodes
from .schedules import as_schedule
from .together import Given

#: Streams of uniform numbers that the simulation keeps for a rule.
MAX_STREAMS = 12
#: Uniform numbers of a step up to which its sums are float32: an average probability is then resolved to 0.8 %.
MOST_IN_FLOAT32 = 2**17
#: For mini-batches of quantized inputs: directions of the residuals (a power of 2) and groups of them; inputs of
#: a coordinate that are all listed, and how many are sampled (a power of 2) if there are more.
DIRECTIONS, GROUPS, LISTED, SAMPLED = 1024, 32, 2**14, 2048


class Multinomial(Rule):
    r"""``n = nu d`` trials choose coordinates with ``p_i = (|g_i| + c) / sum_j (|g_j| + c)``; each moves a weight
    by one lattice step ``zeta / sqrt(d)`` in the direction of its gradient ``g_i = r phi_i``.

    In the limit the counts are independent Poisson numbers of mean ``nu (|g| + c) / (E_phi|g| + c)``; with
    ``c = 0`` and unquantized inputs ``a = b = zeta nu / sqrt V`` and ``D = zeta^2 (nu + nu^2 pi / 2)``. The learning
    rate does not enter: what stands in its place, also for weight decay, is ``zeta nu``.

    For mini-batches of quantized inputs the normalizer ``E_phi|g|`` is averaged over quasi-random directions of the
    residuals: ``a, b, D`` are accurate to 5e-4, if at least a tenth of the inputs is not 0.

    Parameters
    ----------
    zeta : float
        Spacing of the weight lattice times ``sqrt(d)``.
    nu : float
        Trials for each coordinate and step, below 12 in a simulation; a schedule multiplies it.
    c : float
        What is added to ``|g_i|``, in units of ``1/sqrt(d)`` of the gradient; 0 or above.
    weight_decay, batch, schedule
        See `Rule`; a schedule is at most 1.
    """

    kind: ClassVar[str] = "multinomial"
    joint: ClassVar[bool] = True

    zeta: Float[Array, ""] | float = 0.1
    nu: Float[Array, ""] | float = 1.0
    c: Float[Array, ""] | float = 1.0
    streams: int = eqx.field(static=True, default=0)

    def __init__(self, zeta=0.1, nu=1.0, c=1.0, weight_decay=0.0, batch=1, schedule=None):
        self.zeta, self.nu, self.c = positive("zeta", zeta), positive("nu", nu), nonnegative("c", c)
        self.weight_decay = nonnegative("weight_decay", weight_decay)
        self.batch, self.schedule = whole("batch", batch, 1, MAX_BATCH), as_schedule(schedule)
        self.lr = self.zeta * self.nu
        self.streams = MAX_STREAMS if is_traced(nu) else int(np.max(np.asarray(nu))) + 1

    @property
    def lattice(self):
        return self.zeta

    def trials(self, tau) -> Float[Array, ""]:
        """``nu`` at ``tau``."""
        nu = jnp.asarray(self.nu)
        return nu if self.schedule is None else nu * self.schedule(tau)

    def rate(self, tau):
        """``zeta nu``, which plays the part of a learning rate."""
        return self.zeta * self.trials(tau)

    def moves(self, g, u, tau):
        """``U`` of all coordinates: ``g (S, d)``, ``u (S, n)`` with more uniform numbers than trials."""
        trials = jnp.round(self.trials(tau) * g.shape[1]).astype(jnp.int32)
        counts = jax.vmap(lambda weight, one: multinomial(weight, one, trials))(jnp.abs(g) + self.c, u)
        return self.zeta * jnp.sign(g) * counts

    def expected(self, r, phi, u, tau):
        """Up to the normalizer, which is the same for all coordinates."""
        return jnp.sign(r * phi) * (jnp.abs(r * phi) + self.c)

    def given(self, r, inputs, tau):
        norm, teacher = normalizers(inputs, 1)
        size, c = jnp.abs(r), self.c
        moving = 1.0 if inputs.levels is None else inputs.mass @ (inputs.levels != 0)
        each = self.trials(tau) / (
            size * inputs.crowd + c
        )  # a count is Poisson, of mean (|g| + c) times this
        own = jnp.sign(r) * self.zeta * each * (size * inputs.k2 + c * norm)
        again = each**2 * (inputs.k2 * size**2 + 2 * c * size * norm + c**2 * moving)
        square = self.zeta**2 * (each * (size * norm + c * moving) + again)
        return Given(jnp.sign(r) * self.zeta * each * (size * inputs.k1 + c * teacher), own, square)

    def response(self, inputs: InputMoments) -> Response:
        return _Poisson(self, inputs)

    def check(self, problem):
        super().check(problem)
        gaussian = problem.inputs.is_none and problem.input_law.kind == "gaussian"
        if self.batch > 1 and not gaussian and problem.covariance.kind != "identity":
            fail("rule.batch", "1 for the multinomial rule with inputs of unequal variance that are not Gaussian",
                 self.batch, "set it to 1")  # fmt: skip
        if self.schedule is not None and not is_traced(self.nu):
            top = max(
                float(self.schedule(jnp.asarray(tau)))
                for tau in problem.taus[:: max(1, len(problem.taus) // 99)]
            )
            if top > 1 + 1e-6:
                fail(
                    "rule.schedule", "a factor of at most 1 for the multinomial rule", top, "raise nu instead"
                )

    def check_dim(self, dim):
        nu = float(self.nu)
        if nu * dim < 1:
            fail("rule.nu", f"at least 1/d = {1 / dim:g}, which is one trial a step", nu, "raise nu or d")
        if self.streams > MAX_STREAMS:
            fail("rule.nu", f"a number below {MAX_STREAMS} in a simulation", nu, "lower nu and raise zeta")
        if self.streams * dim >= 2**31:
            fail("rule.nu", f"fewer than {2**31 // dim} uniform numbers a coordinate, as 2^31 are a step's most",
                 self.streams, "lower nu and raise zeta")  # fmt: skip


def multinomial(weight: Float[Array, " d"], u: Float[Array, " n"], trials) -> Float[Array, " d"]:
    """Counts of ``trials`` draws with probabilities ``weight / sum(weight)``; they sum to ``trials`` exactly.

    The order statistics of ``trials`` uniform numbers are partial sums of exponentials over their total;
    a count is the number of them between two partial sums of the weights. Sums of many are float64, as those of
    float32 resolve ``2^-24`` of the whole, which is ``2^-24 d`` of an average weight.
    """
    kind = float if u.shape[0] > MOST_IN_FLOAT32 else None
    waits = jnp.cumsum(-jnp.log(u), dtype=kind)
    k = jnp.arange(u.shape[0], dtype=jnp.asarray(trials).dtype)
    places = jnp.where(k < trials, waits / waits[trials], jnp.inf)
    ends = jnp.cumsum(weight, dtype=kind)
    below = jnp.searchsorted(places, ends / jnp.maximum(ends[-1], 1e-30), side="right")
    below = below.at[-1].set(trials)
    return jnp.diff(below, prepend=0).astype(weight.dtype)


class _Poisson(Response):
    r"""Poisson counts given the residuals ``r (B,)`` of a batch (``docs/theory.md``, equation 13).

    With ``X = sum_b r_b phi_b`` and ``Y = sum_b r_b x_b`` of one coordinate, ``g = X / B``. The counts have the mean
    ``nu (|X|/B + c) / (E|X|/B + c)``, and ``E[X^2] = k2 |r|^2``, ``E[X Y] = k1 |r|^2``: of the law of ``X`` given
    ``r`` only ``E|X|`` and ``E[sign(X) Y]`` are needed. Both are ``|r|`` times a function of the direction of ``r``.
    """

    rule: Multinomial
    inputs: InputMoments
    size: Float[Array, " J"]
    share: Float[Array, " J"]
    norm: Float[Array, " G"]
    teacher: Float[Array, " G"]

    def __init__(self, rule: Multinomial, inputs: InputMoments):
        self.rule, self.inputs = rule, inputs
        self.size, self.share = (jnp.asarray(part) for part in lengths(rule.batch))
        self.norm, self.teacher = normalizers(inputs, rule.batch)

    def __call__(self, order, tau):
        rule, inputs, batch = self.rule, self.inputs, self.rule.batch
        V = jnp.maximum(order.V, 0.0)
        alive = V > 0
        V = jnp.where(alive, V, 1.0)
        c, trials = rule.c, rule.trials(tau)
        r = jnp.sqrt(V) * self.size[:, None]
        size = r * self.norm / batch  # E|g|
        alone = self.norm.size == 1  # then every input has the same law of |g| but for its scale
        total = (r * inputs.crowd / batch if alone else size) + c
        moving: Array | float = 1.0  # the probability that g is not 0
        if inputs.levels is not None and inputs.mass is not None:
            moving -= (inputs.mass @ (inputs.levels == 0)) ** batch

        def average(f):
            return jnp.where(alive, self.share @ jnp.mean(f, axis=1), 0.0)

        count = trials * average((size + c * moving) / total)
        again = trials**2 * average((inputs.k2 * (r / batch) ** 2 + 2 * c * size + c**2 * moving) / total**2)
        rate = rule.zeta * trials / V
        return Coefficients(
            rate * average((inputs.k1 * r**2 / batch + c * r * self.teacher) / total),
            rate * average((inputs.k2 * r**2 / batch + c * r * self.norm) / total),
            rule.zeta**2 * (count + again),
            rule.zeta * count,
        )


def lengths(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of ``|z|``, ``z ~ N(0, I_B)``: trapezoids in ``y``, ``x = exp(y - exp(-y))``."""
    step = 1 / (16 * np.sqrt(batch))
    y = np.arange(-3.4, np.log(np.sqrt(batch) + 11), step)
    x = np.exp(y - np.exp(-y))
    log = (batch - 1) * np.log(x) - x**2 / 2 - gammaln(batch / 2) - (batch / 2 - 1) * np.log(2)
    weight = np.exp(log) * x * (1 + np.exp(-y)) * step
    kept = weight > 1e-18
    return x[kept], weight[kept]


def normalizers(inputs: InputMoments, batch: int) -> tuple[Float[Array, " G"], Float[Array, " G"]]:
    """``E|X|`` and ``E[sign(X) Y]``, over ``|r|``, in groups of equally many directions of ``r``.

    Directions are alike for single and for unquantized inputs. Otherwise they come from a Sobol sequence, as do
    inputs that are too many to list. Over all directions both averages are known: given the inputs ``X`` is
    Gaussian. Multiplied by what makes them right, the estimates err by the square of their first error.
    """
    if inputs.levels is None or inputs.mass is None or inputs.overlap is None:
        return inputs.mean_abs[None], inputs.mean_abs[None]
    if batch == 1:
        return inputs.mean_abs[None], (jnp.sign(inputs.levels) @ inputs.overlap)[None]
    length = np.sqrt(2) * np.exp(gammaln((batch + 1) / 2) - gammaln(batch / 2))
    phi_norm, mass, _, teacher = batch_nodes(inputs, batch)
    known = (
        mass @ phi_norm * batch,
        jnp.sum(jnp.where(phi_norm > 0, teacher / jnp.where(phi_norm > 0, phi_norm, 1), 0)),
    )
    count = inputs.levels.size
    if count**batch <= LISTED:
        index = jnp.asarray(np.array(list(itertools.product(range(count), repeat=batch))))
        share = jnp.prod(inputs.mass[index], axis=1)
    else:
        places = jnp.searchsorted(jnp.cumsum(inputs.mass), _sobol(batch, SAMPLED, 1))
        index, share = jnp.minimum(places, count - 1), jnp.full(SAMPLED, 1 / SAMPLED)
    phi = inputs.levels[index]
    x = (inputs.overlap / jnp.maximum(inputs.mass, 1e-300))[index]

    def given(r):
        X = phi @ r
        return jnp.abs(X) @ share, (jnp.sign(X) * (x @ r)) @ share

    norm, overlap = lax.map(given, jnp.asarray(_directions(batch)), batch_size=64)
    order = jnp.argsort(norm).reshape(GROUPS, -1)
    norm, overlap = jnp.mean(norm[order], axis=1), jnp.mean(overlap[order], axis=1)
    right = [np.sqrt(2 / np.pi) * exact / length for exact in known]
    return norm * right[0] / jnp.mean(norm), overlap * right[1] / jnp.mean(overlap)


def _sobol(dim: int, count: int, seed: int) -> np.ndarray:
    """A Sobol sequence (count, dim) with a fixed random shift, inside (0, 1)."""
    from scipy.stats import qmc  # slow to import, and few problems need it

    points = qmc.Sobol(dim, scramble=False).random_base2(int(np.log2(count)))
    return np.clip((points + np.random.default_rng(seed).random(dim)) % 1, 1e-12, 1 - 1e-12)


def _directions(dim: int) -> np.ndarray:
    """Unit vectors (DIRECTIONS, dim), uniform on the sphere, from pairs of normal numbers (Box and Muller)."""
    half = -(-dim // 2)
    radius, angle = np.split(_sobol(2 * half, DIRECTIONS, 0), 2, axis=1)
    pairs = np.sqrt(-2 * np.log(radius)) * np.exp(2j * np.pi * angle)
    z = np.concatenate([pairs.real, pairs.imag], axis=1)[:, :dim]
    return z / np.linalg.norm(z, axis=1, keepdims=True)
