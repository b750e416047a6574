"""The problem: teacher, start, noise, quantizers, rule and horizon, checked when built."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import array_of, checked, choice, fail, nonnegative, positive, several
from ..inputs.law import InputLaw
from ..inputs.moments import InputMoments, moments_compiled
from ..quantizers.padded import INPUTS, PaddedQuantizer, filled_up
from ..quantizers.quantizer import Quantizer, as_arrays
from ..quantizers.surrogates import SURROGATES, Surrogate
from ..rules import SGD, Rule
from .consistency import check_start, check_together, means_of
from .models import MODELS, Linear
from .moving_range import MovingRange
from .phases import Phase, check_phases, parts_of, replaced
from .populations import Channels, Covariance, Start, Teacher
from .run import Run

#: A run whose error grows by this factor over its first value and the variance of the label diverges.
DIVERGENCE = 1e6


class Problem(eqx.Module):
    """A quantized teacher-student problem (``docs/theory.md``, sections 0 to 2).

    ``y = w*.x / sqrt(d) + noise_std xi`` (``model = "sign"``: ``sign(w*.x / sqrt(d)) + noise_std xi``) and the student
    predicts ``psi(w).phi(x) / sqrt(d)``, with ``psi`` the weight quantizer and ``phi`` the input quantizer,
    ``x_i ~ N(0, v_i)`` or another law. The loss is the squared difference of the two.

    Parameters
    ----------
    teacher, start : Teacher, Start
        Laws of ``w*`` and of the latent weights at the start.
    model : {"linear", "sign"}
        What the teacher's output becomes (``docs/models.md``).
    noise_std : float
        Standard deviation of the label noise.
    weights, inputs : Quantizer or None
        None means not quantized.
    ste : {"identity", "clipped", "triangular"}
        Surrogate derivative ``h``: 1, ``1{|w| <= R}`` or ``max(0, 2 - 2 |w| / R)``, ``R = weights.range``
        (``docs/surrogates.md``).
    latent_clip : float or None
        Latent weights are clipped to ``[-latent_clip, latent_clip]`` after every step.
    range_rule : MovingRange or None
        How the range of the weights moves (``docs/moving-ranges.md``); fixed by default.
    rule : Rule
        The update rule; `SGD` by default.
    covariance : Covariance
        Variances ``v_i`` of the inputs; all 1 by default.
    input_law : InputLaw
        Law of the inputs; Gaussian by default (``docs/inputs.md``).
    channels : Channels or None
        Groups of coordinates with their own teacher scale, range and start (a range per channel).
    run : Run
        Horizon and saved times, in units of ``tau = steps / d``.
    ptq : Quantizer or None
        What the weights would be rounded by without further training: the curve ``ptq_error`` is the error of that
        at every saved time (``docs/phases.md``). It changes nothing in the run.
    phases : sequence of Phase
        What changes during the run, and when (``docs/phases.md``); the fields above hold until then.

    Raises
    ------
    ValueError
        If a field is out of bounds, or two of them do not go together.

    Examples
    --------
    >>> from stedyn import Problem, Quantizer, SGD
    >>> p = Problem(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(lr=0.1))
    >>> p.weights.n_levels
    4
    """

    teacher: Teacher
    start: Start
    model: str = eqx.field(static=True)
    noise_std: Float[Array, ""] | float
    weights: Quantizer
    inputs: Quantizer
    ste: str = eqx.field(static=True)
    latent_clip: Float[Array, ""] | float | None
    rule: Rule
    covariance: Covariance
    channels: Channels | None
    input_law: InputLaw
    means: str = eqx.field(static=True, init=False)
    run: Run
    range_rule: MovingRange | None
    ptq: Quantizer | None
    phases: tuple[Phase, ...]

    @checked(
        teacher=Teacher,
        start=Start,
        weights=Quantizer,
        inputs=Quantizer,
        rule=Rule,
        covariance=Covariance,
        channels=Channels,
        input_law=InputLaw,
        run=Run,
        range_rule=MovingRange,
        ptq=Quantizer,
    )
    def __init__(
        self,
        teacher: Teacher | None = None,
        start: Start | None = None,
        *,
        model: str = "linear",
        noise_std=0.0,
        weights: Quantizer | None = None,
        inputs: Quantizer | None = None,
        ste: str = "identity",
        latent_clip=None,
        rule: Rule | None = None,
        covariance: Covariance | None = None,
        channels: Channels | None = None,
        input_law: InputLaw | None = None,
        run: Run | None = None,
        range_rule: MovingRange | None = None,
        ptq: Quantizer | None = None,
        phases: Iterable[Phase] = (),
    ):
        self.teacher = Teacher.constant() if teacher is None else teacher
        self.start = Start.gaussian() if start is None else start
        self.model = choice("teacher.model", model, tuple(MODELS))
        self.noise_std = nonnegative("noise.std", noise_std)
        self.weights = Quantizer(kind="none") if weights is None else weights
        self.inputs = Quantizer(kind="none") if inputs is None else inputs
        self.ste = choice("weights.ste", ste, tuple(SURROGATES))
        self.latent_clip = None if latent_clip is None else positive("weights.latent_clip", latent_clip)
        self.rule = SGD() if rule is None else rule
        self.covariance = Covariance.identity() if covariance is None else covariance
        self.channels = channels
        self.input_law = InputLaw() if input_law is None else input_law
        self.run = Run() if run is None else run
        self.range_rule = range_rule
        self.ptq = ptq
        self.phases = several("phases", phases)
        if not all(isinstance(phase, Phase) for phase in self.phases):
            fail("phases", "a list of Phase", self.phases, "give Phase(begin, weights=..., rule=...)")
        check_start(self)
        with jax.enable_x64(True):  # the means are compared with 1e-6 and less
            self.means = means_of(self)
            check_together(self.parts[0])
            check_phases(self)

    @property
    def filled_inputs(self) -> Quantizer | PaddedQuantizer:
        """The input quantizer with the levels of `moments`: some repeat the largest, and have mass 0."""
        return filled_up(self.inputs, INPUTS)

    def moments(self, variance, mean=0.0) -> InputMoments:
        """Moments of inputs with the variances ``v`` of any shape, and with means of their own."""
        law = as_arrays(self.input_law)
        return moments_compiled(self.filled_inputs, jnp.sqrt(variance), law, self.means, mean)

    @property
    def measured(self) -> dict[str, Teacher | Start | Covariance | InputLaw]:
        """What may hold samples, by its table in a problem file."""
        return {
            "teacher": self.teacher,
            "start": self.start,
            "covariance": self.covariance,
            "inputs": self.input_law,
        }

    def steady(self, what: str) -> None:
        """Refuse phases for ``what``, which is not implemented for them."""
        if self.phases:
            found = f"{len(self.phases)} of them"
            fail("phase", f"no phases for {what}", found, "use solve, simulate or compare")

    def alike(self, what: str) -> None:
        """Refuse phases, channels and moving ranges for ``what``, which is not implemented for them."""
        fix = "use solve, simulate or compare"
        self.steady(what)
        if self.channels is not None:
            fail("channels", f"none for {what}", f"{len(self.channels.shares)} channels", fix)
        if self.range_rule is not None:
            fail("weights.range_rule", f"'fixed' for {what}", self.range_rule.kind, fix)

    @property
    def parts(self) -> tuple[Problem, ...]:
        """Problems without phases, one for each: what holds from each of `begins` on."""
        return parts_of(self)

    @property
    def begins(self) -> tuple[float, ...]:
        """When the phases begin, in units of ``tau``; the first at 0."""
        return (0.0, *(phase.begin for phase in self.phases))

    @property
    def taus(self) -> np.ndarray:
        """The saved times ``tau = steps / d`` (T,)."""
        return self.run.taus

    @property
    def together(self) -> tuple[int, ...]:
        """Teacher (0), start (1) and variances (2): for each the first of them that was measured together with it.

        Measured values that are equally many belong to the same coordinates, in the same order.
        """
        data = self.teacher.data, self.start.data, self.covariance.data
        sizes = [None if one is None else one.values.size for one in data]
        return tuple(k if size is None else sizes.index(size) for k, size in enumerate(sizes))

    @property
    def paired(self) -> bool:
        """Whether teacher weights and input variances were measured together, coordinate by coordinate."""
        return self.together[2] == 0

    @property
    def labels(self) -> Linear:
        """The model as a record."""
        return MODELS[self.model]

    @property
    def rho(self) -> Float[Array, ""] | float:
        """``E[w*^2]`` of all coordinates."""
        return self.teacher.rho * (1.0 if self.channels is None else self.channels.power)

    @property
    def signal(self) -> Float[Array, ""] | float:
        """``rho = E[w*^2 Var x]``: the variance of the teacher's output."""
        variance = self.covariance.values() * self.input_law.variance
        if not self.paired:
            return variance.mean() * self.rho
        return (variance * array_of(self.teacher.data.values) ** 2).mean()

    @property
    def target(self) -> Teacher:
        """The law of the weights at which a student aims: teacher weights times the gain of the model."""
        return self.teacher if self.model == "linear" else self.teacher.scaled(self.labels.gain(self.signal))

    @property
    def label_variance(self) -> Float[Array, ""] | float:
        """``noise_std^2 + E[g(out)^2]``: the scale of errors of the problem."""
        signal = self.signal
        return array_of(self.noise_std) ** 2 + self.labels.power(signal, signal)

    def diverges(self, error) -> np.ndarray:
        """Which errors ``(*n, T)`` of a curve lie so far above its first one and the label that nothing bounds them."""
        error = np.asarray(error)
        return error > DIVERGENCE * np.maximum(error[..., :1], float(self.label_variance))

    @property
    def surrogate(self) -> Surrogate:
        """The surrogate derivative ``h`` as a record."""
        return SURROGATES[self.ste](self.weights.range)

    @property
    def timeless(self) -> Problem:
        """The same with arrays for numbers and no run of its own, as programs take it: one serves all horizons."""
        phases = tuple(replaced(phase, begin=0.0) for phase in self.phases)
        return as_arrays(replaced(self, run=Run(1.0, 2), phases=phases))

    @property
    def absorbs(self) -> bool:
        """Whether weights that leave the range, where ``h`` vanishes, stop there for good."""
        return self.surrogate.ends and (
            self.latent_clip is None or bool(self.latent_clip > self.weights.range)
        )

    def unquantized(self) -> Problem:
        """The same problem with weights that are not quantized (inputs and rule as they are)."""
        channels = self.channels and dataclasses.replace(self.channels, range=None)
        none = dict(weights=None, ste="identity", latent_clip=None, range_rule=None)
        return dataclasses.replace(self, channels=channels, **none)
