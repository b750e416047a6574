"""Inputs with means of their own beside variances: cells, moments, the fast mode, files (``docs/inputs.md``)."""

import numpy as np
import pytest

from stedyn import SGD, Problem, Quantizer, Run, Start, Teacher, simulate, solve
from stedyn.checks import InputError
from stedyn.files.problems import load_problem
from stedyn.files.writing import problem_to_dict, save_problem
from stedyn.inputs.law import InputLaw
from stedyn.limit.cells import input_cells
from stedyn.limit.classes import coordinate_classes
from stedyn.limit.limit import derive
from stedyn.problem.populations import Covariance
from stedyn.simulation.observe import Observer
from stedyn.simulation.sources import centres

RNG = np.random.default_rng(0)
VARIANCES, MEANS = np.exp(0.5 * RNG.standard_normal(500)), 0.6 + 0.5 * RNG.standard_normal(500)
TEACHER = 0.4 + 0.5 * RNG.standard_normal(500) + 0.3 * (MEANS - 0.6)
OWN = Covariance.samples(VARIANCES, means=MEANS)
TWO_GROUPS = Covariance.samples([0.5, 1.5] * 4, means=[1.0, -0.3] * 4)
TWO_BITS = Quantizer(2, 1.5)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("n", [8, 16, 64])
def test_cells_keep_the_averages(n, coarse):
    cells = input_cells(OWN, n, coarse)
    assert cells.share.size <= n
    assert cells.share @ cells.variance == pytest.approx(VARIANCES.mean())
    assert cells.share @ cells.mean == pytest.approx(MEANS.mean())
    assert cells.share @ cells.mean**2 == pytest.approx(np.mean(MEANS**2))
    np.testing.assert_allclose(np.bincount(cells.group, minlength=cells.share.size) / 500, cells.share)


def test_few_pairs_are_the_cells():
    cells = input_cells(TWO_GROUPS, 16)
    np.testing.assert_allclose(
        sorted(zip(cells.variance, cells.mean, strict=True)), [(0.5, 1.0), (1.5, -0.3)]
    )
    np.testing.assert_allclose(cells.share, 0.5)


def test_classes_of_teacher_variance_and_mean():
    """The mean output of the teacher needs teacher and mean of the same inputs."""
    problem = Problem(Teacher.samples(TEACHER), covariance=OWN, weights=TWO_BITS)
    assert problem.means == "kept"
    found = coordinate_classes(problem, 64, False, 64)
    own = found.share @ (found.mean[found.group] * found.teacher)
    assert own == pytest.approx(np.mean(MEANS * TEACHER), rel=0.03)
    assert abs(own - MEANS.mean() * TEACHER.mean()) > 0.1 * own


def test_the_error_of_given_weights():
    w = RNG.standard_normal(500).astype(np.float32)
    problem = Problem(Teacher.samples(TEACHER), covariance=OWN)
    exact = np.mean(VARIANCES * (TEACHER - w) ** 2) + np.sum(MEANS * (w - TEACHER)) ** 2 / 500
    seen = Observer(problem)(w, TEACHER, VARIANCES, own=MEANS)
    assert seen.error == pytest.approx(exact)


def twice():
    """The same problem in two ways: a mean of the law, and the same mean for each input."""
    for means, law in ((None, InputLaw.gaussian(mean=1.0)), (np.ones(8), None)):
        yield Problem(
            Teacher.constant(0.7), Start.gaussian(std=0.5), noise_std=0.1, weights=TWO_BITS, rule=SGD(0.2),
            covariance=Covariance.samples(np.ones(8), means=means), input_law=law, run=Run(taus=[0.0, 1.0]),
        )  # fmt: skip


def test_one_mean_for_all_is_the_mean_of_the_law():
    one, own = (derive(problem) for problem in twice())
    for name in ("teacher", "share", "group", "mean", "k1", "k2", "target"):
        np.testing.assert_allclose(getattr(one, name), getattr(own, name), rtol=1e-12)
    one, own = (simulate(problem, dim=60, seeds=1).error for problem in twice())
    np.testing.assert_allclose(one, own, rtol=1e-4)


@pytest.mark.slow
def test_the_limits_of_the_same_problem():
    one, own = (solve(problem, tol=0.05).error for problem in twice())
    np.testing.assert_allclose(one, own, rtol=1e-9)


def test_means_taken_off():
    """What the simulation takes off, averages over values of every input, are the means of the limit."""
    law = InputLaw.gaussian(centre=True)
    problem = Problem(
        covariance=OWN, input_law=law, inputs=Quantizer(3, 3.0, kind="unsigned"), run=Run(taus=[0.0, 0.2])
    )
    assert problem.means == "removed"
    x, phi = centres(problem, VARIANCES, MEANS)
    np.testing.assert_allclose(x, MEANS, atol=1e-4)
    kept = Problem(covariance=OWN, inputs=problem.inputs)
    np.testing.assert_allclose(phi, kept.moments(VARIANCES, MEANS).mean, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["two groups", "measured with the teacher", "the same, fewer, and quantized"]
)
def test_limit_against_simulation(name):
    few = Covariance.samples(VARIANCES[:24], means=MEANS[:24])
    teacher, covariance, weights, tol = {
        "two groups": (Teacher.constant(0.5), TWO_GROUPS, TWO_BITS, 0.02),
        "measured with the teacher": (Teacher.samples(TEACHER), OWN, None, 0.02),
        "the same, fewer, and quantized": (Teacher.samples(TEACHER[:24]), few, TWO_BITS, 0.05),
    }[name]
    taus = np.append(0.0, np.linspace(1.9, 2.1, 9))
    problem = Problem(
        teacher, Start.gaussian(std=0.5), covariance=covariance, weights=weights, noise_std=0.3, rule=SGD(0.2),
        run=Run(taus=taus),
    )  # fmt: skip
    runs = simulate(problem, dim=1008, seeds=32).error[:, 1:].mean(axis=1)
    expected = solve(problem, tol=tol).error[1:].mean()
    assert abs(runs.mean() - expected) < 4 * runs.std(ddof=1) / 32**0.5


def test_files(tmp_path):
    problem = Problem(Teacher.samples(TEACHER), covariance=OWN)
    save_problem(problem, tmp_path / "own.toml")
    again = load_problem(tmp_path / "own.toml")
    np.testing.assert_array_equal(again.covariance.means, MEANS)
    assert again.paired
    assert problem_to_dict(problem)["covariance"]["means"] == MEANS.tolist()
    acts = RNG.standard_normal((50, 7)) + np.arange(7)
    np.save(tmp_path / "acts.npy", acts)
    (tmp_path / "acts.toml").write_text('[covariance]\nkind = "file"\npath = "acts.npy"\nmeans = true\n')
    np.testing.assert_allclose(load_problem(tmp_path / "acts.toml").covariance.means, acts.mean(axis=0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("values = [1.0, 2.0, 3.0, 4.0]\nmeans = [1.0, 2.0]", "covariance.means: expected 4 numbers"),
        ("values = [1.0, 2.0, 3.0, 4.0]\nmeans = true", "covariance.means: expected true with path"),
        ("values = [1.0, 2.0, 3.0, 4.0]\nmeans = 3", "covariance.means: expected true, a list of numbers"),
        ('path = "list.npy"\nmeans = true', "expected activations, whose means are those of their inputs"),
    ],
)
def test_faults(content, said, tmp_path):
    np.save(tmp_path / "list.npy", np.ones(4))
    (tmp_path / "p.toml").write_text(f'[covariance]\nkind = "file"\n{content}\n')
    with pytest.raises(InputError, match=said):
        load_problem(tmp_path / "p.toml")


def test_a_start_of_the_same_file_is_refused_in_the_limit():
    problem = Problem(Teacher.samples(TEACHER), Start.samples(TEACHER[::-1]), covariance=OWN)
    with pytest.raises(InputError, match="classes by start and mean"):
        solve(problem)
