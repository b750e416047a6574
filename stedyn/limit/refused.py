"""What has no limit, or none that is derived, in one sentence each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import InputError, any_traced, fail, is_traced
from ..problem.problem import Problem
from ..rules import Rule
from ..rules.symmetry import check_centred


def check_model(problem: Problem) -> None:
    """Refuse a rule whose coefficients are known for a Gaussian residual only, with a model that has none.

    And a rule that remembers something and leaves its response to a quadrature of single moves.
    """
    rule = problem.rule
    if type(rule).response is Rule.response and jax.tree.leaves(rule.state):
        fail("rule", "a response (stedyn.rules.Response) beside the step of a rule that remembers, as its limit is not "
             "that of single moves", rule.kind, "write it, or simulate")  # fmt: skip
    mover = next(cls for cls in type(rule).__mro__ if "move" in vars(cls))
    if not (problem.labels.gaussian or vars(mover).get("linear", False)):
        fail("rule", f"'sgd' or 'shrinkage' with model = {problem.model!r} (the limit of others is known for a "
             "Gaussian residual only)", rule.kind, "choose one of these, or simulate")  # fmt: skip


@jax.ensure_compile_time_eval()
def check_seen(problem: Problem) -> None:
    """Refuse an input quantizer that takes every input to one level: there is nothing to learn from."""
    inputs, law, covariance = problem.inputs, problem.input_law, problem.covariance
    if inputs.is_none or any_traced(inputs, law, covariance):
        return
    levels, nearest = np.asarray(inputs.levels), inputs.rounding == "nearest"
    own = 0.0 if covariance.means is None else np.asarray(covariance.means)
    low, high = (
        law.mean + own + law.scale * np.sqrt(np.asarray(covariance.values())) * end for end in law.ends
    )
    breaks = 0.5 * (levels[1:] + levels[:-1]) if nearest else levels[[0, -1]]
    below, above = np.searchsorted(breaks, low, "right"), np.searchsorted(breaks, high)
    if np.all(below >= above) and (nearest or not np.any(below == 1)):
        level = levels[below[0]] if nearest else levels[-1 if below[0] else 0]
        fail(
            "inputs",
            "inputs at two levels or more",
            f"each at one, the first at {level:.4g}",
            "change range or kind",
        )


def check_means(problem: Problem) -> None:
    """Refuse what has no limit, or none that is derived, together with inputs that have a mean (``docs/inputs.md``)."""
    if problem.covariance.means is not None and problem.start.data is not None and problem.together[1] != 1:
        fail("start", "no file of as many values beside means of the inputs (classes by start and mean are not "
             "implemented)", problem.start.data.values.size, "use start.kind = 'teacher', or simulate")  # fmt: skip
    if problem.means != "kept":
        return
    fix = "set inputs.centre = true, or simulate"
    if problem.ptq is not None:
        fail("ptq", "none with inputs that have a mean (rounding shifts the mean output, and the error of that grows "
             "like d)", problem.ptq.kind, fix)  # fmt: skip
    if problem.rule.shift(0.0) is None:
        fail("rule", "'sgd', or 'shrinkage' with a fixed q, with inputs that have a mean (the law of the mean output "
             "under others is not derived)", problem.rule.kind, fix)  # fmt: skip
    if problem.model != "linear":
        fail("teacher.model", "'linear' with inputs that have a mean", problem.model, fix)
    if problem.surrogate.ends or problem.latent_clip is not None:
        fail("weights", "ste = 'identity' and no latent clip with inputs that have a mean (how weights at an end "
             "follow the common shifts is not derived)", problem.ste, fix)  # fmt: skip
    if any_traced(problem.inputs, problem.input_law, problem.teacher):
        return
    moments = problem.moments(*problem.covariance.some(np.array([0.0, 0.5, 1.0])))
    none = np.abs(moments.mean) <= 1e-6 * np.sqrt(moments.k2)
    if np.all(none) if problem.covariance.means is not None else np.any(none):
        fail("inputs", "E[phi] other than 0 where E[x] is not 0 (the mean output of the teacher, which grows like "
             "sqrt(d), cannot be learned)", "E[phi] = 0", fix)  # fmt: skip
    if not problem.weights.is_none and problem.covariance.kind == "identity" and problem.channels is None:
        wanted = float(moments.mean_x[0] / moments.mean[0] * problem.teacher.mean)
        low, high = float(problem.weights.levels[0]), float(problem.weights.levels[-1])
        if not low < wanted < high:
            fail("weights", f"levels around {wanted:.4g} = E[x] E[w*] / E[phi], which the weights have to have on "
                 "average for the mean outputs to agree", f"{low:.4g} to {high:.4g}",
                 "widen the range, or set inputs.centre = true")  # fmt: skip


def check_range_rule(problem: Problem) -> None:
    """Refuse what has no limit, or none that is derived, with a range that moves (``docs/moving-ranges.md``)."""
    if problem.range_rule is None:
        return
    kind = problem.range_rule.kind
    if problem.means == "kept":
        fail("inputs", f"inputs without a mean with weights.range_rule = {kind!r} (a range acts on the mean output, "
             "too, which is not derived)", "E[phi] other than 0", "set inputs.centre = true, or simulate")  # fmt: skip
    if problem.surrogate.ends:
        fail("weights.ste", f"'identity' with weights.range_rule = {kind!r} (weights at an end of the range are taken "
             "along by it, and how long they stick there depends on the overshoot of single steps)", problem.ste,
             "choose it, or simulate")  # fmt: skip


def check_closes(problem: Problem) -> None:
    """Refuse a problem whose limit is no equation in ``V`` alone, in one of its phases.

    Raises
    ------
    ValueError
        For a surrogate derivative that vanishes beyond the range with weight decay: weights beyond the range drift
        back; those of the clipped one stick to its ends for a time set by the overshoot of single steps. Simulate such
        a problem. Or for a rule of your own whose move has a mean.
    """
    if problem.phases and problem.means == "kept":
        fail("phase", "no phases with inputs that have a mean (how the mean output settles then is not derived)",
             f"{len(problem.phases)} of them", "set inputs.centre = true, or simulate")  # fmt: skip
    for part in problem.parts:
        _check_part(part)


def check_settles(problem: Problem) -> None:
    """Refuse a problem that has no fixed point, or none that is implemented, in one sentence."""
    check_seen(problem)
    check_means(problem)
    check_centred(problem)
    problem.rule.check_limit(problem)
    if problem.absorbs:
        raise InputError(
            f"weights.ste: expected 'identity' for a fixed point, found {problem.ste!r}, beyond whose range nothing "
            "moves so that the final error depends on the start; use predict with a long tau instead."
        )
    if problem.surrogate.smooth:
        raise InputError(
            f"weights.ste: expected 'identity' for a fixed point, found {problem.ste!r}, whose stationary density is "
            "not implemented; use predict with a long tau instead."
        )
    final = float(problem.rule.rate(jnp.inf))
    if not 0 < final < np.inf:
        raise InputError(
            f"rule.schedule: expected a rate that stays above 0 for a fixed point, found {final:g} at the end, "
            "where nothing moves any more; use predict with a long tau instead."
        )


def _check_part(problem: Problem) -> None:
    check_seen(problem)
    check_means(problem)
    check_range_rule(problem)
    check_centred(problem)
    problem.rule.check_limit(problem)
    decay = problem.rule.weight_decay
    surrogate = problem.surrogate
    if surrogate.ends and not is_traced(decay) and np.any(np.asarray(decay) != 0):
        why = "decayed weights stick to the ends of the range and no limit closes"
        if surrogate.smooth:
            why = "the limit of weights that drift back from beyond the range is not implemented"
        fail(
            "rule.weight_decay",
            f"0 with weights.ste = {problem.ste!r} ({why})",
            decay,
            "set it to 0, use the identity estimator, or simulate",
        )
