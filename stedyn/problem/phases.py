"""Phases of a run: from a time on, weights, inputs or rule are others (``docs/phases.md``)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from ..checks import InputError, checked, choice, fail, is_traced, positive
from ..quantizers.quantizer import Quantizer
from ..quantizers.surrogates import SURROGATES
from ..rules import Rule
from .consistency import check_together, means_of

#: What of a problem a phase may change.
CHANGES = ("weights", "ste", "latent_clip", "inputs", "rule")


class Phase(eqx.Module):
    """What changes at ``tau = begin``; all else goes on as before.

    Parameters
    ----------
    begin : float
        Above 0, in units of ``tau = steps / d`` of the whole run. A saved time at ``begin`` shows the new phase.
    weights : Quantizer, optional
        The weight quantizer from then on, with its ``ste`` and ``latent_clip`` (see `stedyn.Problem`);
        ``Quantizer(kind="none")`` ends quantization.
    inputs : Quantizer, optional
        The input quantizer from then on.
    rule : Rule, optional
        The update rule from then on. Its schedule, too, sees the ``tau`` of the whole run.

    Raises
    ------
    ValueError
        If a field is out of bounds, or if nothing changes.
    """

    begin: float = eqx.field(static=True)
    weights: Quantizer | None
    ste: str | None = eqx.field(static=True)
    latent_clip: Float[Array, ""] | float | None
    inputs: Quantizer | None
    rule: Rule | None

    @checked(weights=Quantizer, inputs=Quantizer, rule=Rule)
    def __init__(
        self,
        begin,
        *,
        weights: Quantizer | None = None,
        ste: str | None = None,
        latent_clip=None,
        inputs: Quantizer | None = None,
        rule: Rule | None = None,
    ):
        self.begin = positive("phase.from", begin)
        if weights is None and (ste is not None or latent_clip is not None):
            name = "latent_clip" if ste is None else "ste"
            fail(f"phase.weights.{name}", "it beside the weight quantizer of the phase",
                 latent_clip if ste is None else ste, "give weights, too")  # fmt: skip
        if weights is None and inputs is None and rule is None:
            fail("phase", "weights, inputs or rule", None, "say what changes, or remove the phase")
        self.weights, self.inputs, self.rule = weights, inputs, rule
        self.ste = None
        if weights is not None:
            self.ste = choice("phase.weights.ste", "identity" if ste is None else ste, tuple(SURROGATES))
        self.latent_clip = None if latent_clip is None else positive("phase.weights.latent_clip", latent_clip)


def parts_of(problem) -> tuple:
    """Problems without phases, one for each phase of a problem: what holds while it lasts."""
    if not problem.phases:
        return (problem,)
    parts = [replaced(problem, phases=())]
    for phase in problem.phases:
        names = [name for name in CHANGES if getattr(phase, name) is not None]
        if phase.weights is not None and "latent_clip" not in names:
            names.append("latent_clip")
        parts.append(replaced(parts[-1], **{name: getattr(phase, name) for name in names}))
    return tuple(parts)


def with_new(problem, parts: Sequence, *names: str) -> list:
    """Of what belongs to each phase of a problem, that of the first and of those that renew one of ``names``."""
    rest = zip(parts[1:], problem.phases, strict=True)
    return [
        parts[0],
        *(part for part, phase in rest if any(getattr(phase, name) is not None for name in names)),
    ]


def replaced(record, **fields):
    """A copy with other fields, which are not checked: they may be padded or traced."""
    new = copy.copy(record)
    for name, value in fields.items():
        object.__setattr__(new, name, value)
    return new


def check_phases(problem) -> None:
    """Refuse phases that are not in order, and those to which the state of a run cannot be handed on.

    Raises
    ------
    ValueError
        One sentence that says which phase, what was expected, and how to fix it.
    """
    if not problem.phases:
        return
    begins = [phase.begin for phase in problem.phases]
    if any(b <= a for a, b in zip(begins, begins[1:], strict=False)):
        fail("phase.from", "increasing times", begins, "sort the phases")
    if begins[-1] >= problem.run.tau:
        fail("phase.from", f"a time before the horizon {problem.run.tau:g}", begins[-1],
             "extend run.tau, or remove the phase")  # fmt: skip
    if problem.channels is not None:
        fail(
            "phase",
            "no phases with channels (not implemented)",
            f"{len(begins)} of them",
            "leave one of both out",
        )
    if problem.range_rule is not None:
        fail("phase", "no phases with a range that moves (not implemented)", f"{len(begins)} of them",
             "set range_rule = 'fixed', or remove the phases")  # fmt: skip
    first, *rest = parts_of(problem)
    for number, part in enumerate(rest, 2):
        where = f"phase {number}: "
        try:
            check_together(part)
            if means_of(part) != first.means:
                fail("inputs", "a quantizer that leaves the mean of the inputs as it is (how the mean output settles "
                     "after a change is not derived)", part.inputs.kind,
                     "choose a symmetric one, or centre the inputs")  # fmt: skip
            _check_rule(first.rule, part.rule)
        except InputError as error:
            raise InputError(where + str(error)) from None


def _check_rule(first: Rule, rule: Rule) -> None:
    """Refuse a rule that remembers other things, or keeps weights on another lattice, than that before."""
    one, other = (jax.tree.structure(each.state) for each in (first, rule))
    if str(one) != str(other) or (jax.tree.leaves(first.state) and first.kind != rule.kind):
        fail("rule", f"a rule that remembers what the first one, {first.kind!r}, does (momentum, squares of gradients)",
             f"{rule.kind!r}, whose memory is another", "keep its kind, and momentum where there is some")  # fmt: skip
    spacings = first.lattice, rule.lattice
    if any(is_traced(one) for one in spacings):
        return
    one, other = (None if each is None else np.asarray(each) for each in spacings)
    if (one is None) != (other is None) or (one is not None and np.any(one != other)):
        shown = ["floats" if each is None else f"a spacing of {float(each):g}" for each in spacings]
        fail("rule", f"the lattice of the first rule ({shown[0]}; integer weights cannot be handed on to another one)",
             shown[1], "keep it")  # fmt: skip
