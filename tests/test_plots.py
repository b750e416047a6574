"""Figures show what they are given: lines, bands, plateaus, histograms, labels."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from stedyn import plots

TAU = np.linspace(0.0, 10.0, 21)


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def solution(error, plateaus=()):
    return SimpleNamespace(tau=TAU, error=error, law="grid", plateaus=lambda: list(plateaus))


def ensemble(error):
    return SimpleNamespace(tau=TAU, error=error, dim=300, seeds=len(error), noun="simulation")


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_learning_curve_holds_theory_simulation_and_plateaus(ax):
    error = 1 + np.cos(TAU / 5)
    runs = error + np.array([[-0.1], [0.1]])
    stays = [SimpleNamespace(start=0.0, end=2.0), SimpleNamespace(start=4.0, end=5.0)]
    plots.learning_curve(ax, solution(error, stays), ensemble(runs))
    simulated, theory = ax.get_lines()
    np.testing.assert_allclose(simulated.get_ydata(), error)
    np.testing.assert_allclose(theory.get_ydata(), error)
    assert labels(ax) == ["plateau", "simulation, d = 300, 2 runs", "limit (grid)"]
    assert [(p.get_x(), p.get_width()) for p in ax.patches] == [(0.0, 2.0), (4.0, 1.0)]
    band = ax.collections[0].get_paths()[0].get_extents()
    assert band.y1 == pytest.approx(2 + 0.1 * np.sqrt(2))  # one standard deviation of two runs
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_one_seed_has_no_band(ax):
    plots.learning_curve(ax, ensemble=ensemble(np.exp(-TAU)[None]))
    assert not ax.collections
    assert labels(ax) == ["simulation, d = 300, 1 run"]


@pytest.mark.parametrize(("lowest", "scale"), [(0.1, "linear"), (0.01, "log"), (0.0, "linear")])
def test_a_wide_curve_gets_a_logarithmic_axis(ax, lowest, scale):
    plots.learning_curve(ax, solution(np.linspace(1.0, lowest, 21)))
    assert ax.get_yscale() == scale


def test_a_band_that_reaches_zero_does_not_stretch_a_logarithmic_axis(ax):
    runs = np.geomspace(1, 1e-3, 21) * np.array([[0.01], [4.0]])
    plots.learning_curve(ax, ensemble=ensemble(runs))
    assert 1e-4 < ax.get_ylim()[0] < runs.mean(0).min()


def test_the_density_panel_holds_both_and_the_thresholds(ax):
    w = np.linspace(-1, 1, 11)
    plots.density_panel(
        ax,
        w,
        1 - np.abs(w),
        edges=np.array([-1.0, 0.0, 1.0]),
        histogram=np.array([0.4, 0.6]),
        thresholds=np.array([-0.5, 0.5]),
    )
    np.testing.assert_array_equal(ax.get_lines()[-1].get_ydata(), 1 - np.abs(w))
    np.testing.assert_array_equal(ax.patches[0].get_data().values, [0.4, 0.6])
    assert [line.get_xdata()[0] for line in ax.get_lines()[:2]] == [-0.5, 0.5]
    assert labels(ax) == ["threshold", "simulation", "limit"]


def test_the_figure_of_a_comparison_sets_weights_against_their_density():
    edges = np.linspace(-1.0, 1.0, 101)
    densities = SimpleNamespace(edges=edges, pdf=np.full((2, 100), 0.5))
    theory = solution(np.exp(-TAU))
    phase = SimpleNamespace(weights=SimpleNamespace(thresholds=np.zeros(1)))
    theory.densities, theory.problem = densities, SimpleNamespace(weights=phase.weights, parts=(phase,))
    runs = ensemble(np.exp(-TAU) * np.array([[0.9], [1.1]]))
    runs.weights = np.random.default_rng(0).uniform(-1, 1, (2, 5000))
    shown = SimpleNamespace(solution=theory, ensemble=runs, histogram=object())
    figure = plots.compare_figure(shown)
    left, right = figure.axes
    assert len(left.get_lines()) == 2
    histogram = right.patches[0].get_data()
    assert np.sum(histogram.values * np.diff(histogram.edges)) == pytest.approx(1, abs=0.01)
    assert np.all(right.get_lines()[-1].get_ydata() == 0.5)
    shown.histogram = None  # a law without a density
    assert len(plots.compare_figure(shown).axes) == 1
    plt.close("all")
