"""Whether the fields of a problem go together, and what the means of its inputs are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import any_traced, fail, is_traced
from ..inputs.moments import moments_compiled
from ..quantizers.quantizer import as_arrays
from .run import LARGEST, SMALLEST

#: Largest |E[x]| / sqrt(Var x), of phi alike, that counts as none: the neglected drift stays small up to d = 1e8.
MEAN_TOLERANCE = 1e-6


def check_together(problem) -> None:
    """Refuse fields that do not go together, with one sentence."""
    surrogate, rule = problem.surrogate, problem.rule
    if surrogate.ends and problem.weights.range is None:
        fail("weights.range", f"a positive number for ste = {problem.ste!r}", None, "set it")
    if surrogate.smooth and rule.lattice is not None:
        fail("weights.ste", f"'identity' or 'clipped' with the rule {rule.kind!r} (other multiples of a "
             "move leave its lattice)", problem.ste, "choose one of these, or another rule")  # fmt: skip
    _check_magnitudes(problem)
    if problem.ptq is not None and problem.ptq.is_none:
        fail("ptq.kind", "a quantizer", problem.ptq.kind, "choose one, or remove ptq")
    if problem.ptq is not None and problem.range_rule is not None:
        fail(
            "ptq",
            "none with a range that moves (not implemented)",
            problem.range_rule.kind,
            "leave out either",
        )
    for own in (problem.channels, problem.range_rule):
        if own is not None:
            own.check(problem)
    signal = problem.signal
    if problem.model != "linear" and not is_traced(signal) and np.any(np.asarray(signal) == 0):
        fail("teacher", f"weights that are not all 0 for model = {problem.model!r}", 0.0, "give it some")
    rule.check(problem)


def _check_magnitudes(problem) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(problem):
        numbers = isinstance(leaf, (float, jax.Array, np.ndarray, np.number)) and not is_traced(leaf)
        if numbers and np.asarray(leaf).dtype.kind == "f":
            largest = float(np.max(np.abs(np.asarray(leaf)), initial=0.0))
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            if np.isfinite(largest) and largest > LARGEST:
                fail(name, f"numbers of at most {LARGEST:g}", largest, "choose other units")
            if name.endswith(("range", "levels", "clip")) and 0 < largest < SMALLEST:
                fail(name, f"numbers of at least {SMALLEST:g}", largest, "choose other units")


def check_start(problem) -> None:
    """Refuse a constant start behind the latent clip."""
    clip, value = problem.latent_clip, problem.start.mean
    if clip is None or problem.start.kind != "constant" or is_traced(clip) or is_traced(value):
        return
    if problem.channels is not None:
        scales = zip(problem.channels.start, problem.channels.range, strict=True)
        value = max(start / range for start, range in scales) * value
    if np.any(np.abs(value) > clip):
        fail("start.value", f"a value inside the latent clip {clip}", value, "move it or widen the clip")


def means_of(problem) -> str:
    """What `input_moments` has to know of ``E[x]`` and ``E[phi]``: they are zero, removed, or kept."""
    law = problem.input_law
    own = problem.covariance.means is not None
    if law.symmetric and problem.inputs.symmetric and not own:
        return "zero"
    if law.centre:
        return "removed"
    if any_traced(problem.inputs, problem.covariance, law):
        return "zero"
    variance, means = problem.covariance.some(np.array([0.0, 0.5, 1.0]))
    found = moments_compiled(problem.filled_inputs, jnp.sqrt(variance), as_arrays(law), "kept", means)
    size = jnp.maximum(jnp.abs(found.mean_x) / found.std, jnp.abs(found.mean) / jnp.sqrt(found.k2))
    return "kept" if np.any(~(np.asarray(size) <= MEAN_TOLERANCE)) else "zero"
