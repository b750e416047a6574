"""Passes of the grid law: it is made for every phase of a run on one mesh, and followed from one to the next."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..code.compiling import Program, once, soon
from ..curves.dense import Steps
from ..problem.phases import with_new
from .classes import channel_classes
from .laws.fast import FastFlow
from .laws.grid import GridFlow
from .laws.legs import Leg, counted, joined
from .laws.masses import within_walls
from .laws.moving import MovingFlow
from .laws.remembering import flow_of
from .limit import limit_of


class Mesh(NamedTuple):
    """Resolution of the grid law: cells between features, teacher classes with their nodes, variance classes.

    Programs are compiled for the number of all cells in the place of ``cells``. ``folded`` and ``nodes`` as in
    `coordinate_classes`.
    """

    cells: int
    classes: int
    variances: int
    folded: bool
    nodes: int


class Made(NamedTuple):
    """The grid law of every phase of a problem on one mesh, with the classes that have a share."""

    laws: tuple[GridFlow, ...]
    teacher: Float[Array, " C"]
    share: Float[Array, " C"]


def make(problem, horizon, coarse, cells, mesh: Mesh, reach=None) -> Made:
    """The laws with ``cells`` (traced) between features, filled up to the cells of ``mesh``; ``coarse`` as below.

    A range that moves is expected between ``reach`` times its start.
    """
    found = channel_classes(problem, mesh.classes, coarse[1:], mesh.variances, mesh.folded, mesh.nodes)
    limits = [limit_of(part, found) for part in problem.parts]
    limit, featured = limits[0], with_new(problem, limits, "weights")
    grain = 2 ** max(0, (limit.teacher.size - 1).bit_length() - 4)  # at most an eighth more classes
    shape = mesh.cells, limit.teacher.size + -limit.teacher.size % grain
    if limit.range_rule is not None:
        return Made((MovingFlow(limit, cells, horizon, coarse[0], shape, reach),), limit.teacher, limit.share)
    flow = FastFlow if limit.has_mean else GridFlow
    laws = [flow(one, cells, horizon, coarse[0], shape, limits=featured) for one in limits]
    return Made(tuple(laws), limit.teacher, limit.share)


class Followed(NamedTuple):
    """What comes of a leg: curves, counts, masses and memories at the times ``keep``, steps and failure."""

    curves: dict[str, Any]
    stats: dict[str, Any]
    states: Any
    memory: Any
    path: Steps
    bad: Array


def follow(law, times, accuracy, memory=None, forward=False) -> Followed:
    """The law at the `Leg.times`, after a phase that left ``memory``; the others as in `integrate`."""
    # Diffrax is slow to import, and kept programs need none of it
    from .integrate import failed, integrate, steps

    begin, taus, keep, stops = times
    flow, split = flow_of(law, memory)
    solution: Any = integrate(flow, taus, keep, accuracy, forward, begin, stops=stops)
    states, memory = split(solution.ys[1]) if keep.size else (None, None)
    states = None if states is None else law.masses(states)
    # one time after the other: XLA takes seconds to compile the products of all of them
    curves = jax.lax.map(lambda saved: law.curves(*saved), (taus, solution.ys[0]))
    return Followed(curves, solution.stats, states, memory, steps(solution), failed(solution))


make_compiled, follow_compiled = once(make), soon(functools.partial(follow, forward=True))


def grid_pass(
    problem,
    legs: tuple[Leg, ...],
    accuracy,
    coarse,
    cells,
    mesh: Mesh,
    reach=None,
    programs=(make_compiled, follow_compiled),
):
    """Curves, counts, densities, steps by leg and failure of the grid law on one mesh; jvp is the only derivative.

    ``coarse`` are three flags: whether to halve cells, teacher classes, classes of variances. One program makes the
    law of a problem; a second one follows it, the same for all quantizers, teachers and starts.
    """
    make, follow = programs
    laws, teacher, share = make(problem, legs[-1].taus[-1], coarse, cells, mesh, reach)
    if isinstance(laws[0], MovingFlow):
        laws[0].check()
    runs: list[Followed] = []
    for law, part, leg in zip(laws, problem.parts, legs, strict=True):
        memory = None
        if runs:
            mass = within_walls(runs[-1].states[-1], law.centers, part.latent_clip)
            law = eqx.tree_at(lambda law: law.initial, law, mass)
            memory = jax.tree.map(lambda kept: kept[-1], runs[-1].memory)
        runs.append(follow(law, leg.times, accuracy, memory))
    curves, stats, states, _, path, bad = zip(*runs, strict=True)
    kept = [one[: leg.kept] for one, leg in zip(states, legs, strict=True) if leg.kept]
    return (
        joined(list(curves), legs),
        counted(stats),
        (laws[0].edges, jnp.concatenate(kept) if kept else None, teacher, share),
        path,
        functools.reduce(jnp.logical_or, bad),
    )


#: The same where JAX transforms it, in reverse mode too; it takes no options of programs.
traced_pass = Program(functools.partial(grid_pass, programs=(make, follow)))
