"""The independent simulation of ``studies/independent``, against the definitions of docs/theory.md, sections 1, 2 and 4."""

import ast
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

SOURCE = Path(__file__).parent.parent / "studies" / "independent" / "simulation.py"
SIMULATION = runpy.run_path(str(SOURCE))
LEVELS = {
    ("mid-rise", "level"): [-1, -1 / 3, 1 / 3, 1],
    ("mid-rise", "bin"): [-0.75, -0.25, 0.25, 0.75],
    ("mid-tread", "level"): [-1, 0, 1],
    ("mid-tread", "bin"): [-2 / 3, 0, 2 / 3],
    ("twos-complement", "level"): [-1, -0.5, 0, 0.5],
    ("twos-complement", "bin"): [-4 / 3, -2 / 3, 0, 2 / 3],
}


def test_it_shares_no_code_with_the_package():
    imports = [
        node
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    names = {alias.name for node in imports for alias in node.names} | {
        getattr(node, "module", None) for node in imports
    }
    assert names == {"numpy", "stats", "scipy", None}


@pytest.mark.parametrize("kind, edge", LEVELS)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_levels_rounding_and_moments(kind, edge, rounding):
    table = {"kind": kind, "edge": edge, "bits": 2, "range": 1.0, "rounding": rounding}
    psi = SIMULATION["Rounding"](table, np.random.default_rng(0))
    levels = np.array(LEVELS[kind, edge])
    np.testing.assert_allclose(psi.levels, levels, atol=1e-15)
    w = np.linspace(-1.6, 1.6, 14)
    first, second = psi.mean(w)
    if rounding == "nearest":
        np.testing.assert_allclose(psi.draw(w), levels[np.argmin(abs(w[:, None] - levels), axis=1)])
        np.testing.assert_allclose(second, first**2)
    else:
        draws = psi.draw(np.tile(w, (20_000, 1)))
        assert np.all(np.min(abs(draws[..., None] - levels), axis=-1) < 1e-12)
        np.testing.assert_allclose(first, np.clip(w, levels[0], levels[-1]))
        assert np.all(abs(draws.mean(0) - first) < 5 * draws.std(0) / 20_000**0.5 + 1e-12)
        assert np.all(abs((draws**2).mean(0) - second) < 5 * (draws**2).std(0) / 20_000**0.5 + 1e-12)
    x = np.linspace(-12, 12, 200_001)
    value, square = psi.mean(x)
    density = norm.pdf(x, scale=1.7**0.5) * (x[1] - x[0])
    assert psi.moments(np.array(1.7)) == pytest.approx((density @ (x * value), density @ square), rel=1e-4)


@pytest.mark.parametrize(
    "rule, mean, square",
    [
        ({"kind": "stochastic-rounding", "delta": 0.5}, 0.06, 0.03),
        (
            {"kind": "shrinkage", "q": 1.0, "q_min": 0.2, "noise_std": 0.1},
            0.036,
            0.2**2 * (0.3**2 * 1.24 / 3 + 0.1**2),
        ),
        ({"kind": "multinomial", "zeta": 0.1, "nu": 0.8, "c": 0.2}, 0.08, 0.01 * (0.8 + 0.8**2)),
    ],
)
def test_random_moves_have_the_mean_and_the_square_of_their_definition(rule, mean, square):
    """Gradients of 0.3 everywhere and rate 0.2; all coordinates being alike, multinomial counts are Poisson's of mean nu."""
    U = SIMULATION["mover"](rule, np.random.default_rng(1))(np.full((4000, 50), 0.3), 0.2)
    assert U.mean() == pytest.approx(mean, rel=0.02)
    assert (U**2).mean() == pytest.approx(square, rel=0.03)
