"""What the kernel needs of a problem: quantizers as codes, the rule, and numbers in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from ..checks import fail
from ..problem.moving_range import MovingRange
from ..problem.problem import Problem
from ..quantizers.surrogates import SURROGATES, Surrogate
from ..rules import Rule
from . import sampler
from .codes import Coder, coder
from .lattice import Lattice, lattice_of
from .sources import Source, source_of

#: What the teacher's output becomes, by the model of the problem.
LABELS: dict[str, Callable[[Array], Array]] = {"linear": lambda output: output, "sign": jnp.sign}


class RangeModel(NamedTuple):
    """How the range moves: the rule, the range of the problem, and its outermost levels."""

    rule: MovingRange
    width: Float32[Array, ""]
    low: Float32[Array, ""]
    high: Float32[Array, ""]


class Model(eqx.Module):
    """What the kernel needs of a problem; every number is an array, so new values do not recompile."""

    weights: Coder
    inputs: Coder
    rule: Rule
    noise_std: Float32[Array, ""]
    surrogate: Surrogate
    latent_clip: Float32[Array, ""] | None
    lattice: Lattice | None
    dim: int = eqx.field(static=True)
    label: Callable[[Array], Array] = eqx.field(static=True)
    per_channel: bool = eqx.field(static=True)
    source: Source | None  # of inputs that are not standard normal
    range: RangeModel | None = None  # where it moves


def model_of(problem: Problem, dim: int) -> Model:
    """The kernel's form of a problem in ``dim`` dimensions."""

    def single(value):
        return None if value is None else jnp.asarray(value, jnp.float32)

    def leaf(value):
        array = jnp.asarray(value)
        return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array

    problem.rule.check_dim(dim)
    lattice = lattice_of(problem.rule, dim)
    if problem.rule.streams + (lattice is not None) > sampler.MAX_RULE_STREAMS:
        most = f"at most {sampler.MAX_RULE_STREAMS} uniform numbers for each coordinate"
        fail("rule.uniforms", most, problem.rule.streams, "use fewer")
    moving = None
    if problem.range_rule is not None:
        ends = problem.weights.levels[jnp.array([0, -1])]
        moving = RangeModel(
            jax.tree.map(leaf, problem.range_rule), *map(single, (problem.weights.range, *ends))
        )
    return Model(
        coder(problem.weights),
        coder(problem.inputs),
        jax.tree.map(leaf, problem.rule),
        single(problem.noise_std),
        SURROGATES[problem.ste](single(problem.weights.range) if problem.surrogate.ends else None),
        single(problem.latent_clip),
        lattice,
        dim,
        LABELS[problem.model],
        problem.channels is not None and not problem.channels.one_range,
        source_of(problem),
        moving,
    )


def integer(model: Model) -> bool:
    """Whether ``psi(w).phi(x)`` is a sum of integers, in units of `unit`."""
    centred = model.source is not None and model.source.centred
    return model.weights.integer and model.inputs.integer and not model.per_channel and not centred


def unit(model: Model) -> Float32[Array, ""]:
    """What one unit of the `terms` is worth."""
    return model.weights.unit * model.inputs.unit if integer(model) else jnp.float32(1.0)


def bound_of(model: Model) -> int | None:
    """Largest absolute value of a pair of `terms` if they are integers."""
    return 2 * model.weights.bound * model.inputs.bound if integer(model) else None
