r"""How far one run of finite dimension strays from the limit: the covariance of its error over time.

One run has ``error_d(tau) = error(tau) + xi(tau) / sqrt(d) + O(1/d)`` with ``xi`` Gaussian of mean 0. With the cell
masses ``p`` of the `grid` law, ``d p / d tau = A(V) p`` and ``error = e . p``, the response of the error at ``t`` to
the masses at ``s <= t`` is ``x_t(s)``,

    ``- d x / d s = A(V)^T x + e G``,   ``G = (dA/dV p) . x``,   ``x_t(t) = e``,

and the noise of the inputs, the random start and the random size of the residual give, for ``t <= u``,

    ``Cov(xi(t), xi(u)) = H_u(t) - E[x_t] E[x_u] + int_0^t { H_t G_u + H_u G_t + k_t . Q k_u } ds``,

``H = E[x e]``, ``k = (E[x' c], -E[x' psi], E[x''] / 2)`` of every input variance, and the matrix ``Q`` says how the
moves of a rule vary together (`stedyn.rules.together`). What a rule remembers has a response of its own, which is a
part of ``G`` and ``k``. The singular ``int E[D x'^2] ds`` is gone: both equations turn it into ``H`` and ``G``
(``docs/width.md``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from ..checks import InputError, any_traced, fail, whole
from ..code.compiling import Program
from ..inputs.moments import InputMoments
from ..inputs.samples import Samples
from ..problem.populations import Covariance
from ..problem.problem import Problem
from ..quantizers.padded import padded
from ..rules import Order, Rule
from ..rules.symmetry import outdated
from .bias import error_bias
from .classes import channel_classes
from .laws.grid import GridFlow
from .laws.mesh import cells_of
from .passes import make_compiled
from .refinement import filled, first_mesh
from .responses import PART, Steps, steps_between, sums
from .spread import Spread

if TYPE_CHECKING:
    from .solution import Solution

#: Fewest steps of the sweep, responses that are swept at once, cells; teacher classes, alone and of every variance.
STEPS, AT_ONCE, CELLS, CLASSES, FEWER_CLASSES = 300, 64, 400, 32, 8
#: Cells of one teacher value without a quantizer, where a closed form is met to 8e-5.
MORE_CELLS = 3200
#: Variances of a power law that are taken as they are.
MOST_VALUES = 2**22
#: What of a run may be given, instead of drawn anew for every seed.
GIVEN = ("teacher", "start")


def check_width(problem: Problem, given: Sequence[str]) -> None:
    """Refuse what the fluctuations are not derived for, in one sentence."""
    for name in given:
        if name not in GIVEN:
            fail("given", f"names of {', '.join(GIVEN)}", name, "choose these")
    problem.steady("dim")
    rule, fix = problem.rule, "leave dim out, or simulate"
    if (old := outdated(type(rule), Rule, ("together", "given", "powers"))) is not None:
        fail("rule", *old)
    reasons = [
        (not rule.spreads, "rule", "'sgd', 'shrinkage' without q_min, 'adam' without rounding, or single samples of "
         "another rule that is a function of the gradient alone and remembers nothing,", rule.kind),
        (problem.model != "linear", "teacher.model", "'linear'", problem.model),
        (problem.surrogate.ends or problem.surrogate.smooth, "weights.ste", "'identity'", problem.ste),
        (problem.range_rule is not None, "weights.range_rule", "a fixed range", "one that moves"),
        (problem.means == "kept", "inputs", "inputs without a mean", "E[phi] other than 0"),
        ("start" in given and "teacher" not in given and (problem.together[1] == 0 or problem.start.scale is not None),
         "given", "'teacher' beside 'start', which was measured or made with it", given),
    ]  # fmt: skip
    for refused, name, expected, found in reasons:
        if refused:
            fail(name, f"{expected} with dim (the fluctuations of others are not derived)", found, fix)


def with_spread(solution: Solution, dim: int, given: Sequence[str] = ()) -> Solution:
    """A solution with its `Spread`: how far one run of dimension ``dim`` strays from it.

    ``given`` names what is the same in all runs: "teacher", "start"; both are drawn by default, if their law is one
    that is drawn. Variances of inputs and scales of channels are the same in all runs, unless they are measured
    together with a teacher that is drawn.

    Raises
    ------
    InputError
        For a problem for which this is not derived, or a ``dim`` out of bounds.
    """
    problem = solution.problem
    dim = whole("dim", dim, 2, 2**29)
    check_width(problem, given)
    given = tuple(dict.fromkeys([*given, *the_same_in_all(problem, dim)]))
    if any_traced(solution.error, problem):
        raise InputError("dim: expected none inside a JAX transformation; leave it out there.")
    plateaus = solution.plateaus()
    closed = [plateau for plateau in plateaus if plateau.end is not None]
    saved = np.asarray(solution.tau)
    times = np.concatenate([saved, *([p.start, p.end, p.escape] for p in closed)])
    covariance, drawn, draws = (part / dim for part in _covariance(solution, dim, times, given))
    size, std = saved.size, np.sqrt(np.maximum(np.diag(covariance)[: saved.size], 0.0))
    tau, error = solution.dense
    slope = np.interp(times[size:], tau, np.gradient(error, tau))
    escape_std: list[float | None] = []
    length_std: list[float | None] = []
    for plateau in plateaus:
        if plateau.end is None:
            escape_std.append(None)
            length_std.append(None)
            continue
        first = 3 * closed.index(plateau)
        own, part = slope[first : first + 3], covariance[size + first :, size + first :][:3, :3]
        at_start = 0.0 if plateau.start <= saved[0] else -1 / own[0]
        change = np.array([at_start, 1 / own[1], 0.0])
        length_std.append(float(np.sqrt(max(change @ part @ change, 0.0))))
        escape_std.append(float(np.sqrt(max(part[2, 2], 0.0)) / abs(own[2])))
    own = covariance[:size, :size]
    bias = error_bias(problem, dim, float(solution.m[0]), float(solution.q[0]))
    spread = Spread(dim, given, std, own, escape_std, length_std, drawn[:, :size], draws, bias)
    return dataclasses.replace(solution, spread=spread)


def at_width(problem: Problem, dim: int) -> Problem:
    """The problem with the ``dim`` variances that every run has, where the limit has a power law of them.

    Squares of variances decide how far a run strays, and they may have no mean: that of ``dim`` values is another.
    """
    if problem.covariance.kind != "power-law":
        return problem
    if dim > MOST_VALUES:
        fail("dim", f"at most {MOST_VALUES} with a power law of variances", dim, "lower it, or leave it out")
    values = Samples(np.asarray(problem.covariance.values(dim)))
    return dataclasses.replace(problem, covariance=Covariance("file", None, None, values))


def the_same_in_all(problem: Problem, dim: int) -> list[str]:
    """Which of `GIVEN` are measured values that every run of this dimension has as they are."""
    data = {"teacher": problem.teacher.data, "start": problem.start.data}
    return [name for name, own in data.items() if own is not None and own.values.size == dim]


def _covariance(solution: Solution, dim: int, times, given) -> tuple[np.ndarray, ...]:
    """Covariance of ``xi`` at any times (T, T), that with `_draws` (Q, T), and of these (Q, Q)."""
    problem, order = solution.problem, np.argsort(times, kind="stable")  # late times are swept by themselves
    times = times[order]
    tau, V, at = _steps_of(solution, times)
    problem = at_width(problem, dim).timeless
    classes = CLASSES if problem.covariance.kind == "identity" else FEWER_CLASSES
    smooth = problem.weights.is_none and problem.teacher.kind in ("constant", "rademacher")
    mesh, sizes, _ = first_mesh(problem, None, classes, foldable=False)
    each = int((MORE_CELLS if smooth else CELLS) / np.sum(sizes))
    mesh = mesh._replace(cells=max(16, each // 2 * 2))
    shape = mesh._replace(cells=filled(int(np.sum(cells_of(sizes, mesh.cells, np)))))
    none = np.zeros(3, bool)
    law = make_compiled(padded(problem), np.asarray(tau[-1]), none, np.asarray(mesh.cells), shape).laws[0]
    count = max(16, min(AT_ONCE, 1 << (times.size - 1).bit_length()))
    drawn, mass = _draws(law), np.asarray(law.initial) * np.asarray(law.limit.share)
    found = channel_classes(problem, shape.classes, none[1:], shape.variances, shape.folded, shape.nodes)
    inputs = problem.moments(found.variance, found.mean)._replace(crowd=law.limit.inputs.crowd)
    steps = steps_between(law, tau, V)
    together = np.asarray(_together(problem.rule, inputs, steps))
    parts, means, crossed = [], [], []
    for first in range(0, times.size, count):
        some = np.resize(at[first : first + count], count)
        part = jax.tree.map(np.asarray, sums(law, steps, some))
        both = np.concatenate([part.start, drawn], axis=2)
        mean = _means(problem, dim, law, both, given)
        crossed.append(np.einsum("nc,nct,ncq->qt", mass, both, drawn) - mean[:, count:].T @ mean)
        means.append(mean[:, :count])
        parts.append(part._replace(start=0.0))
    inner, gain, common, ends = (
        np.concatenate([np.asarray(part[k]) for part in parts], axis=-1)[..., : times.size] for k in range(4)
    )
    size = np.diff(tau)[:, None] * np.array([1 - PART, PART])
    both = np.einsum("ks,ksi,ksj->ij", size, inner, gain)
    moved = size[..., None, None] * (together[:, None] @ common)
    out = both + both.T + np.tensordot(common, moved, axes=([0, 1, 2], [0, 1, 2]))
    mean = np.concatenate(means, axis=-1)[:, : times.size]
    earlier = np.where(times[:, None] <= times, at[:, None], at[None, :])
    later = np.where(times[:, None] <= times, np.arange(times.size), np.arange(times.size)[:, None])
    cross = np.concatenate([part[:, :count] for part in crossed], axis=1)[:, : times.size]
    whole, back = out + ends[earlier, later] - mean.T @ mean, np.argsort(order)
    return whole[np.ix_(back, back)], cross[:, back], crossed[0][:, count:]


@Program
def _together(rule: Rule, inputs: InputMoments, steps: Steps):
    """`Rule.together` of every step (K, 3 G + M, 3 G + M)."""

    def each(step):
        return rule.together(inputs, Order(step.V, memory=step.memory), step.tau)

    return jax.lax.map(each, steps)


def _draws(law: GridFlow) -> np.ndarray:
    """What a run draws, whose mean is a norm of the teacher, the overlap and the norm at the start (N, C, Q)."""
    limit, w = law.limit, np.asarray(law.centers)[:, None]
    c, unit = np.asarray(limit.teacher), np.asarray(limit.unit)
    square = w**2 + np.asarray(law.widths)[:, None] ** 2 / 12
    return np.stack([c**2 + 0 * w, c * w, square + 0 * c], axis=2) * (unit**2 * np.ones(c.size))[:, None]


def _steps_of(solution: Solution, times) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times and residual variances of the ends of all steps, `STEPS` or more, and which of them are ``times``."""
    horizon = float(solution.tau[-1])
    path = np.asarray(solution.steps[0].within(horizon).tau) if solution.steps else np.asarray(solution.tau)
    tau = np.unique(np.concatenate([[0.0], path, times]))
    tau = tau[np.append(True, np.diff(tau) > 1e-12 * horizon)]
    count = max(tau.size - 1, 1)
    parts = (filled(-(-STEPS // count) * count + 1) - 1) // count  # what would be filled up is used
    tau = np.append((tau[:-1, None] + np.diff(tau)[:, None] * np.arange(parts) / parts).ravel(), tau[-1])
    at = np.abs(tau - times[:, None]).argmin(axis=1)
    tau = np.append(tau, np.full(filled(tau.size) - tau.size, tau[-1]))
    noise = float(np.asarray(solution.problem.noise_std)) ** 2
    return tau, noise + np.interp(tau, solution.dense[0], solution.dense[1]), at


def _means(problem: Problem, dim: int, law: GridFlow, start, given) -> np.ndarray:
    """Mean responses at the start of all coordinates that are alike in what is given, times the root of their share."""
    limit = law.limit
    share, group = np.asarray(limit.share), np.asarray(limit.group)
    mass = np.asarray(law.initial)
    fixed = problem.covariance.data is None or dim == problem.covariance.data.values.size
    own = group if fixed or (problem.paired and "teacher" in given) else np.zeros(group.size)
    keys = [own, np.asarray(limit.unit) * np.ones(group.size)]
    keys += [np.asarray(limit.teacher)] if "teacher" in given else []
    number = np.unique(np.stack(keys), axis=1, return_inverse=True)[1].ravel()  # NumPy 2.0.0: not flat
    size = int(number.max()) + 1
    cells, times = mass.shape[0], start.shape[2]
    weight, summed = np.zeros((size, cells)), np.zeros((size, cells, times))
    np.add.at(weight, number, (mass * share).T)
    np.add.at(summed, number, np.moveaxis(mass[:, :, None] * start, 1, 0))
    parts = 1 if "start" not in given else cells
    weight = weight.reshape(size * parts, -1).sum(axis=1)
    some = weight > 0
    return summed.reshape(size * parts, -1, times).sum(axis=1)[some] / np.sqrt(weight[some])[:, None]
