"""Maps over the range: fixed points in every cell, plateau lengths near those of a refined curve, faults."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest

from stedyn import (
    SGD,
    Problem,
    Quantizer,
    Run,
    Start,
    Teacher,
    fixed_point,
    plots,
    range_map,
    small_lr_stairs,
    solve,
)
from stedyn.rules import Multinomial


def student(range_=1.0, lr=0.1, bits=2, noise=0.1):
    return Problem(noise_std=noise, weights=Quantizer(bits, range_), rule=SGD(lr))


@pytest.mark.parametrize("axis", [pytest.param("bits", marks=pytest.mark.slow), "lr"])
def test_final_errors_are_those_of_fixed_points(axis):
    ranges = [0.8, 1.5, 2.2]
    points = [1, 2] if axis == "bits" else [0.02, 0.3]
    found = range_map(student(), ranges=ranges, **{"bits" if axis == "bits" else "lrs": points})
    assert (found.axis, found.law, found.values.shape) == (axis, "fixed point", (3, 2))
    for i, width in enumerate(ranges):
        for j, point in enumerate(points):
            cell = student(width, bits=point) if axis == "bits" else student(width, lr=point)
            assert found.values[i, j] == pytest.approx(fixed_point(cell).error, rel=1e-9)
    frame = found.to_pandas()
    assert list(frame.columns) == ["range", axis, "final-error"]
    row = frame[(frame["range"] == 1.5) & (frame[axis] == points[1])]
    assert row["final-error"].item() == found.values[1, 1]
    best = [ranges[i] for i in np.argmin(found.values, axis=0)]
    assert list(found.best) == best
    figure, ax = plt.subplots()
    plots.range_map(ax, found)
    mesh, *contours = ax.collections
    assert bool(contours) == (axis == "lr")
    np.testing.assert_array_equal(mesh.get_array(), found.values.T)
    np.testing.assert_array_equal(ax.get_lines()[1].get_xdata(), best)
    np.testing.assert_array_equal(ax.get_lines()[-1].get_xdata(), found.calibrated)
    plt.close(figure)


def test_an_error_that_vanishes_is_zero():
    # a level on the teacher, and no noise
    problem = Problem(weights=Quantizer(2, 1.0, kind="mid-tread"), rule=SGD(0.1))
    found = range_map(problem, ranges=[0.9, 1.0], bits=[2])
    assert found.values[0, 0] == pytest.approx(0.01, rel=1e-6)  # the weights stay on the outer level
    assert found.values[1, 0] == 0


@pytest.mark.parametrize(
    ("problem", "change", "sentence"),
    [
        (student(), {"bits": [2], "lrs": [0.1]}, "either bits or lrs"),
        (student(), {}, "either bits or lrs"),
        (student(), {"bits": [2.5]}, "a whole number from 1 to 8"),
        (student(), {"bits": [3, 2]}, "in increasing order"),
        (student(), {"bits": [2], "ranges": []}, "in increasing order"),
        (student(), {"bits": [2], "ranges": [1.0, -1.0]}, "a positive number"),
        (student(), {"bits": [2], "objective": "escape"}, "one of final-error"),
        (student(), {"bits": [2], "tol": 0.1}, "none for 'final-error'"),
        (Problem(), {"lrs": [0.1]}, "a quantizer with bits and a range"),
        (
            Problem(rule=Multinomial(), weights=Quantizer(2, 1.0)),
            {"lrs": [0.1]},
            "a rule with a learning rate",
        ),
        (Problem(weights=Quantizer(2, 1.0), ste="clipped"), {"bits": [2]}, "a problem with a fixed point"),
        # ranges below the wall have none
        (
            Problem(weights=Quantizer(2, 1.0), ste="clipped", latent_clip=1.0),
            {"bits": [2]},
            "a problem with a fixed point",
        ),
    ],
)
def test_faults_are_sentences(problem, change, sentence):
    with pytest.raises(ValueError, match=rf"expected .*{sentence}.*, found .*; .*\.$"):
        range_map(problem, **{"ranges": [1.0, 2.0]} | change)


@pytest.mark.slow
def test_plateau_lengths_are_near_those_of_a_refined_curve():
    lr, ranges = 0.02, [0.5, 0.7, 1.1, 1.5]
    problem = Problem(
        start=Start.gaussian(std=0.02),
        noise_std=0.1,
        weights=Quantizer(2, 1.0, kind="mid-tread"),
        rule=SGD(lr),
        run=Run(100.0, 401),
    )
    found = range_map(problem, ranges=ranges, bits=[2, 3], objective="plateau-length")
    assert found.law == "grid"
    refined = range_map(problem, ranges=ranges, bits=[2, 3], objective="plateau-length", tol=1e-2)
    np.testing.assert_allclose(found.values, refined.values, rtol=0.01)
    # it is shorter than the time on level 0 for a small lr, by the duration of the drop
    for width, length in zip(ranges, refined.values[:, 0], strict=True):
        weights = Quantizer(2, width, kind="mid-tread")
        leave = small_lr_stairs(dataclasses.replace(problem, weights=weights))[0].leave
        assert 0.5 * leave < length < leave
    (plateau,) = solve(dataclasses.replace(problem, weights=weights), law="grid").plateaus()
    assert refined.values[-1, 0] == pytest.approx(plateau.length, rel=0.01)


@pytest.mark.slow
def test_what_is_not_there_is_masked():
    problem = Problem(Teacher.gaussian(1.0), noise_std=0.1, rule=SGD(0.1), run=Run(30.0, 31))
    found = range_map(problem, ranges=[0.3, 1.3], bits=[2], objective="time-to=0.3")
    assert np.ma.getmaskarray(found.values).ravel().tolist() == [True, False]
    assert found.best[0] == 1.3
    assert found.to_pandas()["time-to=0.3"].isna().tolist() == [True, False]
    none = range_map(problem, ranges=[1.3, 1.4], bits=[2], objective="plateau-length")
    assert none.values.count() == 0
    assert "none at any of these ranges" in str(none)
