"""The random numbers of a step of the kernel, from its counter."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from . import sampler
from .model import Model


class Sample(NamedTuple):
    """The random numbers of one sample: inputs, label noise, and uniform numbers of the input quantizer.

    The two halves are real and imaginary parts.
    """

    x: Array
    xi: Array
    inputs: Array | None


class Draws(NamedTuple):
    """The random numbers of one step, with the sample that is next: a mini-batch draws each before it is used.

    ``common (k, S, 1)`` are the numbers of the rule that all coordinates share; joined to the others only in a step, or
    XLA compiles for minutes.
    """

    sample: Sample
    weights: Array | None
    common: Array | None
    rule: Array | None
    decay: Array | None


def draw(model: Model, counter: sampler.Counter, pairs: int, sample: Sample | None = None) -> Draws:
    """The random numbers of the step that ``counter`` names; those of its first sample may be given."""
    streams, decays = model.rule.streams, model.lattice is not None and model.lattice.decays
    common = [
        sampler.uniforms(counter._replace(pairs=None), sampler.RULE + k, 1) for k in range(model.rule.shared)
    ]
    rule = [sampler.uniforms(counter, sampler.RULE + k, pairs) for k in range(len(common), streams)]
    return Draws(
        draw_sample(model, counter, pairs) if sample is None else sample,
        sampler.uniforms(counter, sampler.ROUND_WEIGHTS, pairs) if model.weights.stochastic else None,
        lax.real(jnp.stack(common)) if common else None,
        jnp.stack(rule) if rule else None,
        sampler.uniforms(counter, sampler.RULE + streams, pairs) if decays else None,
    )


def draw_sample(model: Model, counter: sampler.Counter, pairs: int) -> Sample:
    """The random numbers of a sample that ``counter`` names."""
    return Sample(
        sampler.normals(counter, sampler.INPUTS, pairs)
        if model.source is None
        else model.source.base(counter, pairs),
        lax.real(sampler.normals(counter._replace(pairs=None), sampler.NOISE, 1)),
        sampler.uniforms(counter, sampler.ROUND_INPUTS, pairs) if model.inputs.stochastic else None,
    )
