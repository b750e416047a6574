r"""The seam of all update rules: a move for the simulation, coefficients for the limit.

With residual ``r``, the input the student sees ``phi_i`` and ``h`` the surrogate derivative of the
straight-through estimator, a step of the microscopic algorithm is (``docs/theory.md``, section 1)

    ``w_i <- clip( w_i + h(w_i) U(r, phi_i) / sqrt(d) - lr weight_decay w_i / d )``.

A rule is the function ``U``. The simulator calls its moves and nothing else; the limit calls its
response and nothing else, which takes the order parameters as a record, `Order`; with ``r ~ N(0, V)``:

    ``a(V) = E[r U x] / V``,  ``b(V) = E[r U phi] / V``,  ``D(V) = E[U^2]``.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..checks import check_keywords, fail, nonnegative, positive, whole
from ..code.fingerprint import is_library
from ..inputs.moments import InputMoments
from .memory import Memory, Seen, check_momentum
from .nodes import batch_nodes, input_atoms
from .quadrature import FULL, FULL_STEP, LIGHT, LIGHT_STEP, Profile, Samples, profile_of, sample
from .response import Coefficients, Order, Response
from .schedules import Schedule, as_schedule, check_schedule
from .symmetry import check_product, outdated
from .tables import Table
from .together import Given, averaged, given_residual, powers_of

#: Largest mini-batch.
MAX_BATCH = 2**11
#: Scales (square root of the residual variance) between which a rule without closed form is tabulated.
LOWEST, HIGHEST = 1e-5, 1e4
#: With more input levels than these, errors of the quadrature average out and it is made coarser.
FEW_ATOMS = 16


class Rule(eqx.Module):
    r"""An update rule ``U(r, phi)``; a subclass with `move` is all that a new rule needs.

    Its coefficients then come from `move` by quadrature: to 1e-5, whether the residual reaches one jump or any
    number of them. With a schedule it is made again, more coarsely, at every step: to 3e-5 for a rule of the
    gradient alone, else to 1e-3 where jumps are dense. A rule that knows more overrides `profile` or `response`.
    ``kind`` is its name in messages, and in a problem file if it is entered in ``stedyn.rules.RULES``.

    Parameters
    ----------
    lr : float
        Learning rate, above 0, at the start.
    weight_decay : float
        The latent weight shrinks at rate ``lr weight_decay`` in ``tau``.
    batch : int
        Mini-batch size B: one step uses the gradient averaged over B samples; ``tau`` counts steps.
    schedule : Schedule, function of tau, or None
        Factor of ``lr`` (see `stedyn.rules.schedules`).

    Notes
    -----
    Of the class attributes, ``uniforms`` says how many independent ``U(0, 1)`` numbers one coordinate
    consumes in one step; the first ``shared`` of them are the same for all coordinates. ``product`` says that ``U``
    depends on ``r`` and ``phi`` by their product, the gradient, alone: mini-batches need it (a move then gets
    ``r = 1`` and the averaged gradient as ``phi``), and the quadrature is faster. ``linear`` says, of the move of the
    same class, that it is linear in ``r`` on average and in its mean square: such rules have a limit for every model,
    others where the residual is Gaussian. ``joint`` says that one draw couples
    all coordinates, in `moves` (its average is then `expected`). A limit exists if ``U`` has mean 0 given what all
    coordinates share, the residual and the shared numbers, as it has if it is odd in ``phi`` and the inputs are
    symmetric; `solve` refuses other rules, `simulate` runs them (``docs/refusals.md``).

    Examples
    --------
    Gradient clipping at a threshold, predicted without further work:

    >>> import jax, jax.numpy as jnp
    >>> from stedyn import Problem, Rule, Run, solve
    >>> class Clipped(Rule):
    ...     kind = "clipped"
    ...     product = True
    ...     threshold: float = 1.0
    ...
    ...     def move(self, r, phi, u, tau):
    ...         return self.rate(tau) * jnp.clip(r * phi, -self.threshold, self.threshold)
    >>> problem = Problem(noise_std=0.5, rule=Clipped(lr=0.2, threshold=0.5), run=Run(tau=40.0, points=9))
    >>> solve(problem).final_error < 0.03
    True
    """

    kind: ClassVar[str] = "custom"
    uniforms: ClassVar[int] = 0
    shared: ClassVar[int] = 0
    product: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    lr: Float[Array, ""] | float = eqx.field(default=0.1, converter=lambda v: positive("lr", v))
    weight_decay: Float[Array, ""] | float = eqx.field(
        default=0.0, converter=lambda v: nonnegative("weight_decay", v)
    )
    batch: int = eqx.field(default=1, static=True, converter=lambda v: whole("batch", v, 1, MAX_BATCH))
    schedule: Schedule | None = eqx.field(default=None, converter=as_schedule)

    def __new__(cls, *args, **given):
        check_momentum(cls.kind, given, cls.__dataclass_fields__)
        check_keywords(cls.__name__, cls.__init__, given)
        return super().__new__(cls)

    @property
    def gain(self) -> Float[Array, ""] | float:
        """By how much what is remembered multiplies a move in the limit."""
        return 1.0

    @property
    def sized(self) -> bool:
        """Whether the mean size ``E|U|`` of its moves is known, and with it the flip rate."""
        return True

    @property
    def fading(self) -> Float[Array, ""] | float | None:
        """Rate in ``tau`` at which what the limit remembers is forgotten; None if it remembers nothing."""
        return None

    def rate(self, tau) -> Float[Array, "*B"]:
        """Learning rate at ``tau = steps / d``; that of the limit, the `gain` included."""
        lr = jnp.asarray(self.lr)
        return lr if self.schedule is None else lr * self.schedule(tau)

    def shift(self, tau) -> Float[Array, ""] | None:
        """``E[U | r] / (r E[phi])``, if it is a number: by this all weights move together (``docs/inputs.md``)."""
        return None

    def move(self, r, phi, u, tau):
        """``U(r, phi)``, elementwise: ``r (S, 1)``, ``phi (S, d)``, ``u (uniforms, S, d)`` or None."""
        raise NotImplementedError

    @property
    def state(self) -> Memory:
        """What the rule remembers from one step to the next, with its values at the start: nothing by default."""
        return Memory()

    def step(self, seen: Seen, own):
        """``U`` of some coordinates and what is remembered of them then: `move` and nothing by default."""
        return self.move(seen.r, seen.phi, seen.u, seen.tau), own

    def remember(self, seed, r, tau, dim: int):
        """What a run remembers after a step with residual ``r``; its moves see it already."""
        return seed

    def decay(self, tau) -> Float[Array, ""]:
        """``d`` times the part of every weight that decays in a step, beside the move."""
        return self.rate(tau) * self.weight_decay

    def expected(self, r, phi, u, tau):
        """`move`, or its average over the uniform numbers where that is known (see `symmetry.check_centred`)."""
        return self.move(r, phi, u, tau)

    @property
    def streams(self) -> int:
        """Uniform numbers for each coordinate and step that the simulation draws."""
        return self.uniforms

    def moves(self, g, u, tau):
        """``U`` of all coordinates at once, for a rule that is ``joint``: ``g = r phi (S, d)``, ``u (S, n)``."""
        raise NotImplementedError

    @property
    def spreads(self) -> bool:
        """Whether `together` is known: single samples and nothing remembered, or its own method; nothing shared."""
        kind, single = type(self), self.product or type(self).given is not Rule.given
        alone = self.batch == 1 and single and not jax.tree.leaves(self.state)
        return self.shared == 0 and (alone or kind.together is not Rule.together)

    def together(self, inputs: InputMoments, order: Order, tau) -> Float[Array, "F F"]:
        """Covariance of ``(A, B, S)``, and the growth of what is remembered, of all inputs (``docs/width.md``)."""
        return averaged(self, inputs, order, tau)

    def given(self, r: Float[Array, " J"], inputs: InputMoments, tau) -> Given:
        """``E[U x | r], E[U phi | r], E[U^2 | r]``, for `together`."""
        return given_residual(self, r, inputs, tau)

    def powers(self, g, tau) -> tuple[Array, Array]:
        """``E[U], E[U^2]`` at gradients ``g``, for `given`; over the uniform numbers by quadrature here."""
        return powers_of(self, g, tau)

    @property
    def lattice(self) -> Float[Array, ""] | float | None:
        """Spacing, times ``sqrt(d)``, of the lattice on which the weights live; None if they are floats."""
        return None

    def samples(self, tau) -> Samples:
        """The move at all gradients, for the quadrature; of a rule of the gradient alone."""
        effort = FULL if self.schedule is None else FULL_STEP
        return sample(lambda g, u: self.move(jnp.ones_like(g), g, u, tau), self.uniforms, effort)

    def profile(self, s: Float[Array, " K"], tau) -> Profile:
        """``E[g U] / s^2, E[U^2], E|U|`` at gradients ``g ~ N(0, s^2)``; by quadrature here."""
        samples = self.samples(tau)
        return _each(lambda one: profile_of(samples, one), s)

    def response(self, inputs: InputMoments) -> Response:
        """The coefficients for these inputs, with everything prepared that does not depend on ``V``."""
        if self.product:
            return GradientResponse(self, inputs)
        return PairResponse(self, inputs)

    def coefficients(self, V, inputs: InputMoments, tau) -> Coefficients:
        """``a, b, D`` and ``E|U|`` for a Gaussian residual of variance ``V``, at time ``tau``."""
        return self.response(inputs)(Order(V), tau)

    def check(self, problem) -> None:
        """Refuse a problem that the rule cannot run, with one sentence."""
        if (found := outdated(type(self), Rule, ("profile", "response"))) is not None:
            fail("rule", *found)  # the limit would be that of an old move
        check_schedule("rule.schedule", self.schedule, problem.taus)
        if self.batch > 1 and not self.product and not self.joint:
            fail("rule.batch", f"1 for the rule {self.kind!r}, as it is no function of the gradient alone",
                 self.batch, "set it to 1, or product = True on the rule if it is one")  # fmt: skip
        if not is_library(type(self)):  # those of stedyn are tested
            check_product(problem)

    def check_limit(self, problem) -> None:
        """Refuse a problem whose limit with this rule is not known."""

    def check_dim(self, dim: int) -> None:
        """Refuse a dimension in which the rule cannot be simulated."""


class GradientResponse(Response):
    """Coefficients of a rule of the gradient alone: its `Rule.profile`, averaged over ``|phi|``.

    With ``s = sqrt(V) |phi| / B`` and ``e = E[g U] / s^2``: ``a = E[e sum_b phi_b x_b / B]``,
    ``b = E[e |phi|^2 / B]``, ``D = E[U^2]`` (``docs/theory.md``, equation 12).
    """

    rule: Rule
    nodes: tuple
    table: Table | None

    def __init__(self, rule: Rule, inputs: InputMoments):
        self.rule, self.nodes, self.table = rule, batch_nodes(inputs, rule.batch), None
        if type(rule).profile is Rule.profile and rule.schedule is None:
            self.table = Table(lambda s: rule.profile(s, 0.0), LOWEST, HIGHEST)

    def __call__(self, order, tau):
        norm, mass, own, teacher = self.nodes
        V = jnp.maximum(order.V, 0.0)
        # differentiable at V = 0, where the gradient vanishes
        s = jnp.where(V > 0, jnp.sqrt(jnp.where(V > 0, V, 1.0)), 0.0) * norm
        p = self.rule.profile(s, tau) if self.table is None else self.table(s)
        return Coefficients(
            order.gain * (p.slope @ teacher), p.slope @ own, p.square @ mass, p.mean_abs @ mass
        )


class PairResponse(Response):
    """Coefficients of a rule of ``r`` and ``phi``: an integral over ``r`` for every value of ``phi``."""

    rule: Rule
    inputs: InputMoments
    table: Table | None

    def __init__(self, rule: Rule, inputs: InputMoments):
        self.rule, self.inputs, self.table = rule, inputs, None
        if rule.schedule is None:
            self.table = Table(lambda sigma: self._direct(sigma, 0.0), LOWEST, HIGHEST)

    def _direct(self, sigma, tau) -> Coefficients:
        """Coefficients at scales ``sigma (K,)`` of the residual."""
        atoms = input_atoms(self.inputs)
        effort = FULL if atoms.value.size <= FEW_ATOMS else LIGHT
        effort = effort if self.rule.schedule is None else LIGHT_STEP

        def add(total, atom):
            phi, mass, overlap = atom

            def move(r, u):
                return self.rule.move(r, jnp.full_like(r, phi), u, tau)

            samples = sample(move, self.rule.uniforms, effort)
            p = _each(lambda one: profile_of(samples, one), sigma)
            part = p.slope * overlap, p.slope * mass * phi, p.square * mass, p.mean_abs * mass
            return Coefficients(*(old + new for old, new in zip(total, part, strict=True))), None

        start = Coefficients(*[jnp.zeros_like(sigma)] * 4)
        return jax.lax.scan(add, start, atoms)[0]

    def __call__(self, order, tau):
        V = jnp.maximum(order.V, 0.0)
        sigma = jnp.where(V > 0, jnp.sqrt(jnp.where(V > 0, V, 1.0)), 0.0)
        if self.table is not None:
            return self.table(sigma)
        return jax.tree.map(lambda x: x[0], self._direct(sigma[None], tau))


def _each(f, values):
    """``f`` of every value, a few at a time to bound the memory."""
    return jax.lax.map(f, values, batch_size=16)
