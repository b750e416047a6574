r"""What the papers on quantized training prove, as functions to hold against runs and the exact limit.

Bounds are in the notation of their sources but for the learning rate, which is ``lr`` here as everywhere.
``lr`` and the gradients in this module are those of a plain optimizer, ``w <- w - lr g``; in the units of the
rest of the package a gradient coordinate is ``-r phi / sqrt(d)``, and a lattice spacing ``delta / sqrt(d)``.

Sources: Li et al. 2017, "Training quantized nets: a deeper understanding" (``li2017``); Yun 2025, "SGD
convergence under stepsize shrinkage in low-precision training", arXiv 2508.07142 (``yun2025``), whose bounds
are derived here again from the assumptions that its summary states.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import digamma

from .checks import fail, nonnegative, positive, whole


def sr_error_bound(dim: int, spacing: float, lr: float, gradient: float) -> float:
    """Largest mean square error of one stochastic rounding: ``E|r|^2 <= sqrt(d) spacing lr G`` (li2017, Lemma 1).

    ``r`` is the difference of the rounded and the exact weights after one step ``w - lr g``. A coordinate errs by
    ``spacing^2 f (1 - f)`` with ``f (1 - f) <= |lr g_i| / spacing``, and ``|g|_1 <= sqrt(d) |g|_2``.

    Assumes the weights lie on the lattice before the step and ``E|g|^2 <= G^2``.
    """
    dim = whole("dim", dim, 1)
    size = positive("spacing", spacing) * positive("lr", lr) * nonnegative("gradient", gradient)
    return float(np.sqrt(dim) * size)


def bc_bound(
    steps,
    convexity: float,
    gradient: float,
    *,
    diameter: float = 0.0,
    hessian_lipschitz: float = 0.0,
    dim: int = 1,
    spacing: float = 0.0,
    delay: float = 1.0,
    distance: float | None = None,
):
    """Excess loss of BinaryConnect with stochastic rounding at the averaged latent weights (li2017, Theorem 1).

    ``E[F(mean of w_1..w_T) - F*] <= (1 + log(T + 1)) G^2 / (2 mu T) + D L2 sqrt(d) spacing / 2`` for the rates
    ``lr_t = 1 / (mu (t + 1))``. For a quadratic loss ``L2 = 0``, the default: the floor vanishes (Corollary 1).

    With ``distance``, that of the start from the minimizer, the rates are ``1 / (mu (t + delay))`` and the first term
    is ``(mu delay distance^2 + G^2 / mu sum_t 1 / (t + delay)) / (2 T)``, as the proof gives it before
    ``mu distance <= G`` and ``delay = 1`` are used. A delay in proportion to the dimension keeps the rates of the
    limit bounded: there ``mu = 1/d``, ``T = tau d``, ``delay = tau0 d``, ``distance^2 = d E[(w - w*)^2]``
    and ``E|g|^2 = V``, so that the excess, half the error of the latent weights, is at most
    ``(tau0 E[(w_0 - w*)^2] + max V log(1 + tau/tau0)) / (2 tau)``.

    Assumes that F is ``mu``-strongly convex (``convexity``), all sample gradients are at most ``G`` (``gradient``),
    the weights stay within ``D`` (``diameter``) of the minimizer, and the Hessian is ``L2``-Lipschitz.

    On the teacher-student problem ``F = (error + noise_std^2) / 2`` at unquantized weights is quadratic with
    ``mu = k2 / d``. The rates are ``SGD(lr=d / k2, schedule=Inverse(1 / d))``, ``steps`` is ``tau d``, and the box is
    a latent clip at the range. Gaussian inputs have no largest gradient; the proof only needs mean squares,
    ``E|g|^2 = k2 V (1 + O(1/d))``, so that their largest value on a curve may stand for ``G^2``.
    """
    T, mu = np.asarray(steps, dtype=float), positive("convexity", convexity)
    square = nonnegative("gradient", gradient) ** 2
    if distance is None:
        first = (1 + np.log(T + 1)) * square / (2 * mu * T)
    else:
        delay = positive("delay", delay)
        total = digamma(T + delay + 1) - digamma(delay + 1)
        first = (mu * delay * nonnegative("distance", distance) ** 2 + square / mu * total) / (2 * T)
    floor = nonnegative("diameter", diameter) * nonnegative("hessian_lipschitz", hessian_lipschitz)
    return first + floor * np.sqrt(whole("dim", dim, 1)) * nonnegative("spacing", spacing) / 2


class ShrinkageBound(NamedTuple):
    """Setting of the bounds for SGD with shrunken gradients, ``w <- w - lr (q g + noise)`` (yun2025).

    F is ``smoothness``-smooth (L) and ``convexity``-strongly convex (c), ``E|g|^2 <= M + M_G |grad F|^2``
    (``gradient_floor, gradient_growth``), ``q_min <= q <= q_max``, independent of ``g``, and the noise has mean
    zero and mean square ``noise``.
    """

    smoothness: float
    convexity: float
    gradient_floor: float
    gradient_growth: float
    q_min: float = 1.0
    q_max: float = 1.0
    noise: float = 0.0

    @property
    def largest_lr(self) -> float:
        """``q_min / (L q_max^2 M_G)``."""
        return self.q_min / (self.smoothness * self.q_max**2 * self.gradient_growth)

    def floor(self, lr: float) -> float:
        """``B = lr L (q_max^2 M + noise) / (2 c q_min)``, the part that a fixed step does not remove."""
        source = self.q_max**2 * self.gradient_floor + self.noise
        return lr * self.smoothness * source / (2 * self.convexity * self.q_min)

    def fixed(self, steps, lr: float, start: float):
        """Bound of ``E[F - F*]`` after ``steps`` steps of size ``lr`` from the excess ``start``.

        ``B + (1 - lr c q_min)^steps (start - B)``: descent by ``lr q_min |grad F|^2 / 2`` against the second
        moment of the step, with ``|grad F|^2 >= 2 c (F - F*)``.

        Raises
        ------
        ValueError
            If ``lr`` is above `largest_lr`.
        """
        if not 0 < lr <= self.largest_lr * (1 + 1e-12):
            fail(
                "lr",
                f"a rate above 0 and at most q_min / (L q_max^2 M_G) = {self.largest_lr:.6g}",
                lr,
                "lower it",
            )
        B = self.floor(lr)
        return B + (1 - lr * self.convexity * self.q_min) ** np.asarray(steps, dtype=float) * (start - B)

    def diminishing(self, steps, beta: float, gamma: float, start: float):
        """Bound of ``E[F - F*]`` after ``steps`` steps of sizes ``beta / (gamma + k)``, ``k = 1, 2, ...``.

        ``nu / (gamma + steps + 1)`` with ``nu`` the larger of
        ``beta^2 L (q_max^2 M + noise) / (2 (beta c q_min - 1))`` and ``(gamma + 1) start``.

        Raises
        ------
        ValueError
            Unless ``beta c q_min > 1`` and the first step is at most `largest_lr`.
        """
        pull = beta * self.convexity * self.q_min
        if pull <= 1:
            fail("beta", f"a number above 1 / (c q_min) = {pull and beta / pull:.6g}", beta, "raise it")
        if beta / (gamma + 1) > self.largest_lr * (1 + 1e-12):
            fail(
                "gamma",
                f"a first step beta / (gamma + 1) of at most {self.largest_lr:.6g}",
                gamma,
                "raise it",
            )
        source = self.q_max**2 * self.gradient_floor + self.noise
        nu = max(beta**2 * self.smoothness * source / (2 * (pull - 1)), (gamma + 1) * start)
        return nu / (gamma + np.asarray(steps, dtype=float) + 1)


class RoundingChain(NamedTuple):
    """Stochastic rounding on a small lattice as a Markov chain (li2017, section 5).

    ``points (n, k)`` are the states, a box of a lattice of ``spacing`` in ``k = 1, 2`` dimensions. At a state the
    gradient of coordinate ``j`` takes the values ``gradients[i, j, :]`` with probabilities ``chances (s,)``,
    independently of the other coordinate. Steps that would leave the box end at its wall.
    """

    points: Float[np.ndarray, "n k"]
    sides: tuple[int, ...]
    spacing: float
    gradients: Float[np.ndarray, "n k s"]
    chances: Float[np.ndarray, " s"]

    def transition(self, lr: float) -> Float[np.ndarray, "n n"]:
        """Probabilities ``T[x, y]`` of going from state ``x`` to ``y`` in one step ``w - lr g``, rounded."""
        each = [self._along(axis, lr) for axis in range(len(self.sides))]
        index = np.stack(np.unravel_index(np.arange(len(self.points)), self.sides), axis=1)
        matrix = np.ones((len(self.points), len(self.points)))
        for axis, rows in enumerate(each):
            matrix *= rows[:, index[:, axis]]
        return matrix

    def _along(self, axis: int, lr: float) -> np.ndarray:
        """Probability of every position of one coordinate after a step, from every state (n, side)."""
        side = self.sides[axis]
        now = np.unravel_index(np.arange(len(self.points)), self.sides)[axis]
        target = now[:, None] - lr * self.gradients[:, axis] / self.spacing
        low = np.floor(target)
        rows = np.zeros((len(self.points), side))
        for shift, chance in ((0, 1 - (target - low)), (1, target - low)):
            end = np.clip(low + shift, 0, side - 1).astype(int)
            np.add.at(rows, (np.arange(len(self.points))[:, None], end), chance * self.chances)
        return rows

    def limit_rates(self) -> Float[np.ndarray, "n n"]:
        """Rates of the jumps to neighbours per unit of ``lr`` as ``lr -> 0`` (li2017, Theorem 2).

        Up with ``E[g-] / spacing``, down with ``E[g+] / spacing``, in one coordinate at a time; rows sum to 0.
        """
        index = np.stack(np.unravel_index(np.arange(len(self.points)), self.sides), axis=1)
        rates = np.zeros((len(self.points), len(self.points)))
        for axis, side in enumerate(self.sides):
            for sign in (1, -1):
                rate = np.maximum(-sign * self.gradients[:, axis], 0) @ self.chances / self.spacing
                there = index.copy()
                there[:, axis] += sign
                inside = np.flatnonzero((there[:, axis] >= 0) & (there[:, axis] < side))
                rates[inside, np.ravel_multi_index(there[inside].T, self.sides)] += rate[inside]
        return rates - np.diag(rates.sum(1))

    def stationary(self, lr: float) -> Float[np.ndarray, " n"]:
        """Stationary law at rate ``lr``."""
        return _null(self.transition(lr) - np.eye(len(self.points)))

    def stationary_limit(self) -> Float[np.ndarray, " n"]:
        """The law to which `stationary` tends as ``lr -> 0``; positive everywhere (li2017, Theorem 2)."""
        return _null(self.limit_rates())

    def mixing_time(self, lr: float, distance: float = 0.25) -> int:
        """Least number of steps that brings every start within ``distance`` of the stationary law.

        The distance is total variation. The number diverges as ``1 / lr`` (li2017, Theorem 3): ``lr`` times it
        tends to the mixing time of the limit rates.
        """
        pi, powers = self.stationary(lr), [self.transition(lr)]

        def apart(matrix):
            return 0.5 * np.max(np.sum(np.abs(matrix - pi), axis=1))

        while apart(powers[-1]) > distance:
            if len(powers) > 60:
                fail("lr", "a chain that mixes", lr, "raise lr")
            powers.append(powers[-1] @ powers[-1])
        steps, matrix = 0, np.eye(len(self.points))
        for k in range(len(powers) - 1, -1, -1):  # the largest number of steps that is not enough
            further = matrix @ powers[k]
            if apart(further) > distance:
                steps, matrix = steps + 2**k, further
        return steps + 1


def rounding_chain(gradient, low, high, spacing: float, *, noise, chances=None) -> RoundingChain:
    """Chain of stochastic rounding on the box ``[low, high]`` (each of length k = 1 or 2).

    ``gradient(points (n, k)) -> (n, k)`` is the mean gradient; the noise added to every coordinate takes the values
    ``noise (s,)`` with probabilities ``chances`` (equal by default), and should have mean 0.
    """
    spacing = positive("spacing", spacing)
    low, high, noise = (np.atleast_1d(np.asarray(x, dtype=float)) for x in (low, high, noise))
    sides = tuple(int(n) + 1 for n in np.round((high - low) / spacing))
    if min(sides) < 2 or int(np.prod(sides)) > 2000:
        fail("spacing", "a box of 2 points a side or more and 2000 points in all", spacing, "change it")
    weights = np.full(noise.size, 1 / noise.size) if chances is None else np.asarray(chances, dtype=float)
    index = np.stack(np.unravel_index(np.arange(np.prod(sides)), sides), axis=1)
    points = low + spacing * index
    gradients = np.asarray(gradient(points), dtype=float)[:, :, None] + noise
    return RoundingChain(points, sides, spacing, gradients, weights)


def _null(generator: np.ndarray) -> np.ndarray:
    """The probability vector ``pi`` with ``pi generator = 0``."""
    system = np.vstack([generator.T, np.ones(len(generator))])
    scale = np.abs(generator).max()
    system[:-1] /= scale
    return np.clip(
        np.linalg.lstsq(system, np.append(np.zeros(len(generator)), 1.0), rcond=None)[0], 0.0, None
    )
