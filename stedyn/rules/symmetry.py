"""What a limit needs of a rule: no mean given the residual, and true words about what its move depends on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import any_traced, fail, is_traced

#: Residuals that are tried, of both signs, in standard deviations of the label; irrational, so that a gradient on a
#: threshold, which has probability 0, is not one of them.
SIZES = np.pi / 3 * np.array([0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 4.0])
#: Values of an unquantized input, or of one with more levels; fewer with uniform numbers, and moves in that case.
INPUTS, FEW_INPUTS, MOVES = 2**13, 2**9, 2**17
#: Largest mean of a move over its root mean square; with uniform numbers it is itself a sample mean.
TOLERANCE, RANDOM_TOLERANCE = 1e-3, 1e-2
#: Pairs ``r, phi`` at which a function of the product is tried, and how far its values may lie apart.
PAIRS, APART = 64, 1e-5


def outdated(kind: type, base: type, names) -> tuple[str, str, str] | None:
    """A method of an older class than the move, for `fail`: expected, found, and what to do; None if there is none."""
    for name in names:
        old = next(cls for cls in kind.__mro__ if name in vars(cls))
        new = next(cls for cls in kind.__mro__ if "move" in vars(cls) or "moves" in vars(cls))
        if old is not base and new is not old and issubclass(new, old):
            return (f"a {name} beside the move of {new.__name__}", f"that of {old.__name__}, another move",
                    f"write its own ({name} = Rule.{name} integrates the move), or derive from Rule")  # fmt: skip
    return None


@jax.ensure_compile_time_eval()
def check_centred(problem) -> None:
    """Refuse a rule with ``E[U(r, phi) | r] != 0`` for some residual ``r``, averaged over ``phi`` and own draws.

    All coordinates see the same residual: a step moves each of them by ``E[U | r] / sqrt(d)`` besides what its own
    input does. In a unit of ``tau = steps / d`` these common shifts add up to ``sqrt(d)`` or, if they cancel on
    average, to a random walk that all coordinates share, so that order parameters differ from run to run however
    large ``d`` is. A move odd in ``phi`` has no such mean if the law of ``phi`` is symmetric, a move linear in
    ``phi`` whenever ``E[phi] = 0``. Of mini-batches those with one large residual are tried, which are single samples.
    """
    rule = problem.rule
    laws = problem.inputs, problem.covariance, problem.input_law
    if any_traced(rule, *laws):
        return
    r = _scale(problem) / rule.batch * np.concatenate([-SIZES, SIZES])
    tolerance = RANDOM_TOLERANCE if rule.uniforms else TOLERANCE
    taus = [0.0] if rule.schedule is None else [0.0, problem.taus[-1]]
    for std in np.unique(np.sqrt(np.quantile(problem.covariance.values(), [0, 0.5, 1]))):
        phi, share = _law(problem, float(std))
        u, count = _draws(rule, r.size, phi.size)
        every = jnp.asarray(np.tile(np.repeat(phi, count), (r.size, 1)))
        for tau in taus:
            U = np.asarray(rule.expected(jnp.asarray(r[:, None]), every, u, jnp.asarray(tau)), dtype=float)
            each = np.broadcast_to(U, every.shape).reshape(r.size, phi.size, count)
            mean, size = each.mean(2) @ share, np.sqrt((each**2).mean(2) @ share)
            worst = int(np.argmax(np.abs(mean) - tolerance * size))
            if abs(mean[worst]) > tolerance * size[worst]:
                fail(
                    "rule",
                    "a move of mean 0 for every residual r, such as one odd in phi for inputs symmetric about 0 "
                    "(otherwise all coordinates move together with r, nothing averages out and no limit exists)",
                    f"{rule.kind!r} with mean {mean[worst]:.3g} and root mean square {size[worst]:.3g} at "
                    f"r = {r[worst]:.3g}",
                    "centre the move, choose symmetric input levels, or simulate",
                )


@jax.ensure_compile_time_eval()
def check_product(problem) -> None:
    """Refuse a rule that claims to be a function of the product ``r phi`` and is not."""
    rule = problem.rule
    if not rule.product or any_traced(rule):
        return
    rng = np.random.default_rng(0)
    r = jnp.asarray(_scale(problem) * rng.choice([-1, 1], PAIRS) * np.exp(rng.normal(size=PAIRS)))[:, None]
    phi = jnp.asarray(rng.normal(size=(PAIRS, 1)))
    u = jnp.asarray(rng.random((rule.uniforms, PAIRS, 1))) if rule.uniforms else None
    one, other = rule.move(r, phi, u, jnp.zeros(())), rule.move(jnp.ones_like(r), r * phi, u, jnp.zeros(()))
    apart = float(jnp.max(jnp.abs(one - other)))
    if apart > APART * float(jnp.max(jnp.abs(other))):
        fail(
            "rule.product",
            "False for a move that does not depend on r phi alone",
            f"True, though moves with the same r phi differ by up to {apart:.3g}",
            "remove it",
        )


def _scale(problem) -> float:
    """Standard deviation of the label, 1 if it is not known or 0."""
    variance = problem.label_variance
    return 1.0 if is_traced(variance) else float(np.sqrt(np.max(variance))) or 1.0


def _law(problem, std: float) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Values of an input, quantized, and probabilities, some 0: equally many for most quantizers, to share programs."""
    count = FEW_INPUTS if problem.rule.uniforms else INPUTS
    moments = problem.moments(std**2)
    if moments.levels is not None:
        value, share = np.asarray(moments.levels), np.asarray(moments.mass)
        real, part = value[share > 0], share[share > 0]  # without those that fill a program up
        symmetric = np.allclose(real, -real[::-1]) and np.allclose(part, part[::-1])
        if real.size <= count or not symmetric:  # of few draws for each value none is spent on those
            return (real, part) if problem.rule.uniforms else (value, share)
    std *= float(problem.input_law.scale)
    x = np.linspace(-9, 9, count)
    density = np.exp(-(x**2) / 2)
    return std * x, density / density.sum()


def _draws(rule, rows: int, values: int) -> tuple[Float[Array, "n S N"] | None, int]:
    """Uniform numbers of a rule, the same for every value of the input, and how many of them."""
    if not rule.uniforms:
        return None, 1
    count = max(16, MOVES // values // 2 * 2)
    rng, grid = np.random.default_rng(0), (np.arange(count) + 0.5) / count
    own = np.stack([np.tile(rng.permutation(grid), (rows, 1)) for _ in range(rule.uniforms)])
    own[: rule.shared] = rng.random((rule.shared, rows, 1))
    return jnp.asarray(np.tile(own, values)), count
