r"""The limit ``d -> infinity``: classes, drift, diffusion and observables of a problem.

At fixed ``tau = steps / d`` the coordinates decouple. Given its teacher value ``c`` a latent weight
follows (``docs/theory.md``, equation 7; Ito)

    ``dw = [ h(w) (a c - b psi(w)) - lr weight_decay w ] dtau + h(w) sqrt(D) dB``

with ``a, b, D`` functions of the residual, of variance ``V = noise_std^2 + error``, and

    ``error = sum_c share_c E[ v c^2 - 2 k1 c psi + k2 psi^2 ]``

for a linear teacher; the model of the problem (`stedyn.problem.models`) says what others change.

Coordinates whose inputs have the variance ``v`` are a class of their own: ``a, b, D`` and ``k1, k2`` are then
averages over ``x ~ N(0, v)``, since ``r`` feels one coordinate only by ``(c x - psi phi) / sqrt(d)``.

This module turns a `Problem` into the numbers that every law needs, and nothing else.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..checks import is_traced
from ..code.compiling import once
from ..inputs.moments import InputMoments
from ..problem.models import Linear
from ..problem.moving_range import MovingRange
from ..problem.problem import Problem
from ..quantizers.pieces import Pieces
from ..quantizers.quantizer import as_arrays
from ..quantizers.surrogates import Surrogate
from ..rules import Coefficients, Order, Response, Rule
from .classes import Classes, channel_classes
from .refused import check_model
from .starts import Starts, starts_of

#: Largest kappa, near 2, at which there is a law of inputs with a mean.
LARGEST_KAPPA = 1.95


class Limit(eqx.Module):
    """A problem as the laws see it: ``C`` classes of coordinates, levels, polynomials of ``psi``.

    A class has a teacher value and one of ``K`` input variances (``group`` says which); ``inputs`` and
    ``response`` hold one entry for each of these. The weights of a class, with levels, range, clip and teacher value,
    are in units of its ``unit``, the range of its channel (1 without channels; ``docs/channels.md``). The last
    ``spare`` levels repeat the largest (`stedyn.quantizers.padded`). ``rho`` is ``E[w*^2 Var x]``, the variance of the
    teacher's output.
    """

    teacher: Float[Array, " C"]
    share: Float[Array, " C"]
    group: Int[Array, " C"]
    unit: Float[Array, "*C"] | float
    levels: Float[Array, " L"]
    spare: Int[Array, ""] | int
    pieces: Pieces
    inputs: InputMoments
    rule: Rule
    response: Response
    start: Starts
    rho: Float[Array, ""]
    noise_var: Float[Array, ""]
    range: Float[Array, ""] | None
    latent_clip: Float[Array, ""] | None
    surrogate: Surrogate
    model: Linear = eqx.field(static=True)
    has_mean: bool = eqx.field(static=True)
    range_rule: MovingRange | None = None
    ptq: Pieces | None = None

    @property
    def mean(self) -> Float[Array, " C"]:
        """``E[phi(x)]`` of every class."""
        return self.inputs.mean[self.group]

    @property
    def target(self) -> Float[Array, ""]:
        """Mean output of the teacher, over ``sqrt(d)``."""
        return (self.share * self.unit * self.inputs.mean_x[self.group]) @ self.teacher

    def shift(self, tau) -> Float[Array, ""]:
        """``E[U | r] / (r E[phi])`` of a rule that is linear (`Rule.shift`)."""
        shift = self.rule.shift(tau)
        assert shift is not None  # others are refused
        return shift

    def with_mean_mode(self, V, kappa) -> Float[Array, ""]:
        """Variance of the residual with that of the mean output, ``V (1 + kappa / (B (2 - kappa)))``.

        ``V`` is that of the centred outputs. Beyond `LARGEST_KAPPA`, where there is soon no law (``docs/inputs.md``),
        it falls back to ``V``, so that a solution goes on to its end, which is then cut off.
        """
        held = jnp.minimum(kappa, LARGEST_KAPPA)
        back = jnp.exp(-20 * jnp.maximum(kappa - LARGEST_KAPPA, 0.0))
        return V * (1 + back * held / (self.rule.batch * (2 - held)))

    @property
    def breaks(self) -> Int[Array, ""] | int:
        """How many breaks the pieces have, without those that no weight reaches."""
        return self.pieces.breaks.size - self.spare

    def widened(self, classes: int) -> Limit:
        """The same with classes without a share, of which there are ``classes`` then, as copies of the last."""
        if classes == self.teacher.size:
            return self
        number, size = np.arange(classes), self.teacher.size
        each = np.minimum(number, size - 1)

        def pick(values):
            return values[each] if eqx.is_array(values) and values.ndim else values

        start, moved = self.start, ("group", "factor", "shift")
        start = dataclasses.replace(start, **{name: pick(getattr(start, name)) for name in moved})
        return dataclasses.replace(
            self, teacher=self.teacher[each], share=jnp.where(number < size, self.share[each], 0.0),
            group=self.group[each], unit=pick(self.unit), start=start,
        )  # fmt: skip

    def scaled(self, unit) -> Limit:
        """The same with weights in units of ``unit``, but not levels and thresholds: a range ``unit`` times as wide."""
        start = self.start
        if start is not None:
            start = dataclasses.replace(start, factor=start.factor / unit, shift=start.shift / unit)
        return dataclasses.replace(self, teacher=self.teacher / unit, unit=self.unit * unit, start=start)

    def without_levels(self) -> Limit:
        """What the steps of the grid law need: classes, rule, model; not levels and start, which its cells know."""
        inputs = self.inputs._replace(levels=None, mass=None, overlap=None)
        none = dict.fromkeys(("ptq", "pieces", "start", "range", "latent_clip", "surrogate"))
        return dataclasses.replace(self, levels=jnp.zeros(0), spare=0, inputs=inputs, **none)

    @property
    def still(self) -> Limit:
        """The same as constants to derivatives."""
        return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, self)

    @property
    def k1(self) -> Float[Array, " C"]:
        """``gain Cov(x, phi)`` of every class: what an input tells of the label, per unit of the teacher weight."""
        return self.model.gain(self.rho) * self.inputs.k1[self.group]

    @property
    def k2(self) -> Float[Array, " C"]:
        """``Var phi`` of every class."""
        return self.inputs.k2[self.group]

    @property
    def weight(self) -> Float[Array, " C"]:
        """``share unit^2``: how much products of two weights of every class count."""
        return self.share * self.unit**2

    @property
    def power(self) -> Float[Array, ""]:
        """Variance of the label without its noise, the error of a student whose weights are 0."""
        return jnp.asarray(self.model.power(self.rho, self.rho))

    @property
    def scale(self) -> Float[Array, ""]:
        """``power``, or the label noise where the teacher is 0: small values are small against this."""
        return jnp.where(self.power > 0, self.power, self.noise_var + 1e-12)

    def order(self, error) -> Order:
        """The order parameters that rules see when the generalization error is ``error``."""
        return self.order_at(self.noise_var + jnp.maximum(error, 0.0))

    def order_at(self, V) -> Order:
        """The same at residual variance ``V``."""
        return self.model.order(V, self.rho)

    def coefficients(self, order: Order, tau) -> Coefficients:
        """``a, b, D, E|U|`` (C,) of every class, in its units."""
        each = eqx.filter_vmap(lambda response, memory: response(order._replace(memory=memory), tau))(
            self.response, order.memory
        )
        a, b, D, mean_abs = (jnp.asarray(value)[self.group] for value in each)
        return Coefficients(a, b, D / self.unit**2, mean_abs / self.unit)

    def memory(self, order: Order):
        """What the rule remembers at ``tau = 0``, of every input variance; None for nothing (`Response.start`)."""
        return eqx.filter_vmap(lambda response: response.start(order))(self.response)

    def remembered(self, memory, order: Order, tau, step):
        """The same after an implicit Euler step."""
        return eqx.filter_vmap(lambda response, own: response.advance(own, order, tau, step))(
            self.response, memory
        )

    def effective_step(self, order: Order, tau) -> Float[Array, ""]:
        """``b / (lr k2)``: 1 for SGD, the part of the step that is left by rounding (0 once lr is 0)."""
        rate = self.rule.rate(tau)
        part = (self.share @ self.coefficients(order, tau).b) / (self.share @ self.k2)
        return jnp.where(rate > 0, part / jnp.where(rate > 0, rate, 1.0), 0.0)

    def decay(self, tau) -> Float[Array, ""]:
        """``lr weight_decay``: rate at which latent weights shrink."""
        return self.rule.rate(tau) * self.rule.weight_decay

    def error(self, psi, square) -> Float[Array, "*n"]:
        """Generalization error from ``E[psi]`` and ``E[psi^2]`` of every class (C, *n)."""
        squares, products = (self.weight * self.k2) @ square, (self.weight * self.k1 * self.teacher) @ psi
        return self.power + squares - 2 * products

    def observables(self, psi, square) -> dict[str, Array]:
        """Observables of the model alone, from ``E[psi]`` and ``E[psi^2]`` of every class (C, *n)."""
        cross = self.weight * self.inputs.k1[self.group] * self.teacher
        return self.model.observables(self.rho, cross @ psi, (self.weight * self.k2) @ square)

    @property
    def floor(self) -> Float[Array, ""]:
        """A lower bound of the error: every weight on the level that suits its teacher best."""
        ideal = self.k1 / self.k2 * self.teacher
        unavoidable = self.power - (self.weight * self.k2) @ ideal**2
        if self.levels.size == 0:
            return unavoidable
        return unavoidable + (self.weight * self.k2) @ jnp.min((ideal[:, None] - self.levels) ** 2, axis=1)

    @property
    def ceiling(self) -> Float[Array, ""]:
        """An upper bound of the error, with every weight at the worse end; infinite if ``psi`` is unbounded."""
        if self.levels.size:
            ends = self.levels[jnp.array([0, -1])]
        elif self.latent_clip is not None:
            ends = jnp.stack([-self.latent_clip, self.latent_clip])
        else:
            return jnp.asarray(jnp.inf)
        each = self.k2[:, None] * ends**2 - 2 * (self.k1 * self.teacher)[:, None] * ends
        return self.power + self.weight @ jnp.max(each, axis=1)


def derive(
    problem: Problem,
    classes: int = 64,
    coarse=False,
    variances: int | None = None,
    folded: bool = False,
    nodes: int | None = None,
) -> Limit:
    """The limit of a problem with about ``classes`` teacher classes for each of ``variances`` (even numbers).

    ``coarse``, ``folded`` and ``nodes`` as in `coordinate_classes`; a problem is ``folded`` only if it `is_symmetric`.
    """
    return limit_of(problem, channel_classes(problem, classes, coarse, variances, folded, nodes))


def limit_of(problem: Problem, found: Classes) -> Limit:
    """The limit of a problem without phases, with given classes."""
    check_model(problem)
    wall = problem.latent_clip
    inputs = problem.moments(found.variance, found.mean)
    every = found.share @ inputs.mean_abs[found.group]
    inputs = inputs._replace(crowd=jnp.full_like(inputs.std, 1.0) * every)
    scale = problem.weights.range
    rho = (found.share * found.unit**2) @ (inputs.std[found.group] * found.teacher) ** 2
    return Limit(
        found.teacher,
        found.share,
        found.group,
        found.unit,
        problem.weights.levels,
        problem.weights.spare,
        problem.weights.pieces,
        inputs,
        problem.rule,
        eqx.filter_vmap(problem.rule.response)(inputs),
        starts_of(problem, found),
        rho,
        jnp.asarray(problem.noise_std) ** 2,
        None if scale is None else jnp.asarray(scale),
        None if wall is None else jnp.asarray(wall),
        as_arrays(problem.surrogate),
        problem.labels,
        problem.means == "kept",
        problem.range_rule,
        None if problem.ptq is None else problem.ptq.pieces,
    )


def is_symmetric(problem: Problem) -> bool:
    """Whether the laws of a problem are known to stay the same when weights and teacher change their signs."""
    start = problem.start
    centred = start.data is None and not is_traced(start.mean) and np.all(np.asarray(start.mean) == 0)
    return (
        bool(centred)
        and problem.means != "kept"
        and problem.teacher.kind in ("gaussian", "rademacher")
        and all(part.weights.symmetric for part in problem.parts)
        and (problem.ptq is None or problem.ptq.symmetric)
    )


#: `derive` where nothing is traced: what runs once needs no optimized program.
derived = once(derive)
