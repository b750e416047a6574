"""Laws of inputs: their moments against quadrature, and the curves they lead to."""

import functools

import numpy as np
import pytest
from scipy import integrate, optimize, stats
from systems import reference

from stedyn import (
    SGD,
    InputError,
    InputLaw,
    Problem,
    Quantizer,
    Run,
    SolveError,
    Start,
    Teacher,
    compare,
    simulate,
    solve,
)
from stedyn.files.problems import load_problem, problem_from_dict
from stedyn.files.writing import problem_to_dict, save_problem
from stedyn.inputs.moments import input_moments, split_between
from stedyn.rules import Sign, StochasticRounding
from stedyn.simulation.sources import centres

SAMPLE = np.random.default_rng(3).gamma(2.0, 0.4, 900)
LAWS = {
    "gaussian": InputLaw.gaussian(0.7, 0.6),
    "relu": InputLaw.relu(-0.2, 1.3),
    "uniform": InputLaw.uniform(0.4, 1.2),
    "laplace": InputLaw.laplace(-0.3, 0.5),
    "file": InputLaw.samples(SAMPLE, 0.1, 0.9),
}
QUANTIZERS = {
    "none": Quantizer(kind="none"),
    "nearest": Quantizer(3, 1.5, kind="unsigned", zero_point=2),
    "stochastic": Quantizer(2, 1.2, kind="unsigned", zero_point=1, rounding="stochastic"),
}


def expected(name, f, kinks=()):
    """``E[f(x)]`` by quadrature between kinks."""
    law = LAWS[name]
    mean, scale = float(law.mean), float(law.scale)
    if name == "file":
        return np.mean([f(mean + scale * value) for value in SAMPLE])
    density = {"gaussian": stats.norm.pdf, "relu": stats.norm.pdf, "uniform": stats.uniform(-1, 2).pdf,
               "laplace": stats.laplace.pdf}[name]  # fmt: skip
    low, high = {"uniform": (-1, 1), "relu": (0, 12), "laplace": (-60, 60)}.get(name, (-12, 12))
    inner = [t for t in sorted([0.0, *((np.asarray(kinks) - mean) / scale)]) if low < t < high]
    ends = [low, *inner, high]
    parts = [
        integrate.quad(lambda t: f(mean + scale * t) * density(t), a, b, epsabs=1e-12, limit=200)[0]
        for a, b in zip(ends, ends[1:], strict=False)
    ]
    return sum(parts) + (0.5 * f(mean) if name == "relu" else 0.0)


def test_levels_that_differ_in_their_last_digit_are_one():
    """Those that fill up a program: compiled, ``range * unit`` of equal ones need not be equal."""
    levels = np.array([-0.4, 0.0, 0.4, np.nextafter(0.4, 1.0), 0.4])
    zeroth, first = np.array([0.3, 0.1, 0.1, 0.3, 0.1, 0.1]), np.array([-0.4, -0.02, 0.02, 0.3, 0.1, 0.1])
    mass = np.asarray(split_between(levels, np.array([1.0, 1.0, 0.0, 0.0]), zeroth, first))
    assert mass.sum() == pytest.approx(1.0)
    assert mass[:2] == pytest.approx([0.35, 0.1])


def seen(quantizer, x):
    """Mean and mean square of the quantized values of inputs, from their levels alone."""
    levels = np.asarray(quantizer.levels)
    low = np.clip(np.searchsorted(levels, x, side="right") - 1, 0, levels.size - 2)
    part = np.clip((x - levels[low]) / (levels[low + 1] - levels[low]), 0, 1)
    return [levels[low] ** power * (1 - part) + levels[low + 1] ** power * part for power in (1, 2)]


@pytest.mark.slow  # with programs that are optimized, as those of a user
@pytest.mark.parametrize("edge", ["level", "bin"])
@pytest.mark.parametrize("kind", ["mid-rise", "mid-tread", "twos-complement"])
def test_moments_of_stochastic_rounding_for_many_ranges(kind, edge):
    x = np.linspace(-9, 9, 90001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()
    for bits in (2, 3, 4, 5):
        for width in np.random.default_rng(bits).uniform(0.5, 3.0, 4).round(3):
            quantizer = Quantizer(bits, float(width), kind=kind, edge=edge, rounding="stochastic")
            moments = Problem(inputs=quantizer).moments(1.0)
            mean, square = seen(quantizer, x)
            assert moments.k1 == pytest.approx(density @ (x * mean), rel=1e-5)
            assert moments.k2 == pytest.approx(density @ square - (density @ mean) ** 2, rel=1e-5)
            assert np.sum(moments.mass) == pytest.approx(1.0)
            assert np.min(moments.mass) > -1e-12


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", LAWS)
def test_moments_against_quadrature(name, quantizer):
    q = QUANTIZERS[quantizer]
    breaks, first, second = map(np.asarray, q.pieces)

    def of(power):
        def f(x):
            k = np.searchsorted(breaks, x, side="right")
            return first[k] @ [1, x] if power == 1 else second[k] @ [1, x, x * x]

        return f

    mean_x, mean = expected(name, lambda x: x), expected(name, of(1), breaks)
    square = expected(name, of(2), breaks)
    cross = expected(name, lambda x: x * of(1)(x), breaks)
    k0 = expected(name, lambda x: x * x) - mean_x**2
    for means in ("kept", "removed"):
        got = input_moments(q, 1.0, LAWS[name], means)
        found = [got.std**2, got.k1, got.k2]
        np.testing.assert_allclose(
            found, [k0, cross - mean_x * mean, square - mean**2], rtol=1e-8, atol=1e-10
        )
        kept = (mean_x, mean) if means == "kept" else (0.0, 0.0)
        np.testing.assert_allclose([got.mean_x, got.mean], kept, rtol=1e-8, atol=1e-10)
        origin = 0.0 if means == "kept" else mean
        if quantizer == "nearest":
            size = expected(name, lambda x, origin=origin: abs(of(1)(x) - origin), breaks)
            assert float(got.mean_abs) == pytest.approx(size, rel=1e-8)
        if quantizer == "none":
            size = expected(name, lambda x, origin=origin: abs(x - origin), [origin])
            assert float(got.mean_abs) == pytest.approx(size, rel=1e-5 if name == "file" else 1e-8)
        if got.levels is not None and quantizer != "none":
            np.testing.assert_allclose(got.overlap @ got.levels, got.k1, rtol=1e-9)
            assert abs(float(got.mass @ got.levels)) < 1e-12


@pytest.mark.parametrize("name", LAWS)
def test_the_nodes_of_an_unquantized_law(name):
    x, share = map(np.asarray, LAWS[name].nodes(1.0, 0.3))
    for f in (lambda y: abs(y) ** 0.5 * np.exp(-(y**2)), lambda y: abs(y), lambda y: y**2):
        exact = expected(name, lambda x, f=f: f(x - 0.3), [0.3])
        assert share @ f(x) == pytest.approx(exact, rel=2e-3 if name == "file" else 2e-4)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_what_the_simulation_takes_off(name, quantizer):
    law = LAWS[name]
    centred = InputLaw(law.kind, law.mean, law.scale, True, law.data)
    problem = Problem(inputs=QUANTIZERS[quantizer], input_law=centred)
    moments = input_moments(problem.inputs, 1.0, law, "kept")
    np.testing.assert_allclose(
        np.concatenate(centres(problem, None)), [moments.mean_x, moments.mean], rtol=0, atol=4e-6
    )
    many = centres(problem, np.linspace(0.3, 2.0, 200))
    moments = input_moments(problem.inputs, np.sqrt(np.linspace(0.3, 2.0, 200)), law, "kept")
    np.testing.assert_allclose(many, [moments.mean_x, moments.mean], rtol=0, atol=1e-3)


R9 = dict(
    inputs=Quantizer(2, 1.5, kind="unsigned"),
    teacher=Teacher.samples([-0.5, 0.5, 1.0]),
    start=Start.gaussian(std=0.5),
    weights=Quantizer(2, 1.5),
    noise_std=0.1,
    rule=SGD(0.5),
    run=Run(taus=[0.0, 2.0, 4.0, 8.0, 16.0]),
)


def test_reference_r9():
    solution = solve(Problem(**R9, input_law=InputLaw.relu(centre=True)))
    np.testing.assert_allclose(solution.error[1:], [0.16316, 0.10226, 0.05624, 0.04322], rtol=5e-3)


def test_a_centred_gaussian_is_a_gaussian():
    one = Problem(**{**R9, "inputs": None}, input_law=InputLaw.gaussian(0.9, centre=True))
    other = Problem(**{**R9, "inputs": None})
    assert one.means == "removed"
    np.testing.assert_allclose(solve(one).error, solve(other).error, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("quantizer", ["none", "nearest"])
def test_limit_and_simulation_meet(name, quantizer):
    law = LAWS[name]
    fields = {**R9, "inputs": QUANTIZERS[quantizer], "run": Run(8.0, 17), "teacher": Teacher.gaussian(0.7)}
    problem = Problem(**fields, input_law=InputLaw(law.kind, law.mean, law.scale, True, law.data))
    comparison = compare(solve(problem), simulate(problem, dim=1000, seeds=8))
    assert comparison.agreement == "agree", str(comparison)


@pytest.mark.slow
def test_rules_that_are_not_linear():
    for rule, law in [
        (Sign(0.1), InputLaw.uniform(scale=1.5)),
        (Sign(0.1, batch=3), InputLaw.laplace(scale=0.7)),
        (StochasticRounding(0.3, delta=1.0), InputLaw.relu(centre=True)),
    ]:
        problem = Problem(Teacher.gaussian(0.7), noise_std=0.3, rule=rule, input_law=law, run=Run(8.0, 17))
        comparison = compare(solve(problem), simulate(problem, dim=1000, seeds=8))
        assert comparison.agreement == "agree", str(comparison)


def test_a_law_survives_its_tables_and_its_file(tmp_path):
    for law in (*LAWS.values(), InputLaw.relu(centre=True)):
        for inputs in (None, Quantizer(2, 1.5, kind="unsigned", zero_point=1)):
            problem = Problem(inputs=inputs, input_law=law)
            back = problem_from_dict(problem_to_dict(problem))
            assert problem_to_dict(back) == problem_to_dict(problem)
            assert (back.input_law.kind, back.means) == (law.kind, problem.means)
            read = load_problem(save_problem(problem, tmp_path / "p.toml"))
            assert read.input_law.kind == law.kind
            if law.data is not None:
                np.testing.assert_array_equal(read.input_law.data.values, law.data.values)
    assert problem_from_dict({"inputs": {"mean": 1.0}}).inputs.is_none
    assert "inputs" not in problem_to_dict(reference("R7"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"law": "relu6"}, "inputs.law: expected one of 'gaussian', 'relu'"),
        ({"law": "relu", "values": [1.0, 2.0]}, "inputs.values: expected it with law = 'file' only"),
        ({"law": "file"}, "inputs: expected one of path or values"),
        ({"law": "file", "values": [1.0, 1.0]}, "values that are not all equal"),
        ({"scale": 0.0}, "inputs.scale: expected a positive number"),
        ({"centre": 1.5}, "inputs.centre: expected one of True, False"),
        ({"law": "relu", "bits": 2}, "inputs.range: expected a positive number"),
    ],
)
def test_what_is_refused(table, said):
    with pytest.raises(InputError) as caught:
        problem_from_dict({"inputs": table})
    assert said in str(caught.value)


# ---- inputs with a mean


def held(levels_mean, std, weights):
    """The start N(m, std^2) with ``E[psi] = levels_mean``, which the mean outputs leave where it is."""
    levels, theta = np.asarray(weights.levels), np.asarray(weights.thresholds)

    def mean(m):
        return levels @ np.diff([0.0, *stats.norm.cdf(theta, m, std), 1.0])

    return Start.gaussian(optimize.brentq(lambda m: mean(m) - levels_mean, -2, 2, xtol=1e-13), std)


R10 = dict(
    teacher=Teacher.constant(0.7),
    weights=Quantizer(2, 1.5),
    noise_std=0.1,
    rule=SGD(0.2),
    input_law=InputLaw.gaussian(1.0),
)


@functools.cache
def solved_r10():
    problem = Problem(**R10, start=held(0.7, 0.5, R10["weights"]), run=Run(taus=[0.0, 2.0, 4.0, 8.0, 12.0]))
    return solve(problem, tol=4e-3)


@pytest.mark.slow
def test_reference_r10():
    """The reference moves the start rigidly to where the mean outputs agree; here it starts there."""
    solution = solved_r10()
    np.testing.assert_allclose(solution.error[1:], [0.29663, 0.29135, 0.31254, 0.31882], rtol=5e-3)
    assert solution.kappa[-1] == pytest.approx(0.954, rel=5e-3)
    V = solution.error + 0.01
    np.testing.assert_allclose(V, (V - solution.mean_mode) * 2 / (2 - solution.kappa), rtol=2e-3)
    assert "kappa 0.95" in str(solution)


@pytest.mark.slow
def test_reference_r11():
    start = held((2 * np.pi) ** -0.5 / float(input_moments(R9["inputs"], 1.0, InputLaw.relu(), "kept").mean) / 3, 0.5,
                 R9["weights"])  # fmt: skip
    solution = solve(Problem(**{**R9, "start": start}, input_law=InputLaw.relu()))
    np.testing.assert_allclose(solution.error[1:], [0.15496, 0.11286, 0.07734, 0.05846], rtol=5e-3)
    assert solution.kappa[-1] == pytest.approx(0.408, rel=1e-2)


@pytest.mark.slow
def test_the_first_steps_spread_a_start_that_is_off():
    """Each moves weights by their own inputs, by order one: seen in the norm of the weights, which hardly fluctuates."""
    problem = Problem(**R10, start=Start.gaussian(std=0.5), run=Run(taus=[0.0, 0.02, 0.1]))
    solution = solve(problem, tol=0.05)
    norm = simulate(problem, dim=4000, seeds=8, taus=[0.02, 0.1]).norm
    rigid = solved_r10().norm[0]
    error = norm.std(0, ddof=1) / 8**0.5
    assert np.all(np.abs(norm.mean(0) - solution.norm[1:]) < 4 * error + 0.01)
    assert np.all(norm.mean(0) - rigid > 10 * error)


@pytest.mark.slow
def test_linear_weights_have_closed_first_steps():
    """The mixture law, in which all is closed, against the grid."""
    fields = {**R10, "weights": None, "teacher": Teacher.rademacher(0.7), "rule": SGD(0.4)}
    problem = Problem(**fields, start=Start.gaussian(0.6, 0.5), run=Run(taus=[0.0, 1.0, 4.0]))
    exact, grid = solve(problem), solve(problem, law="grid", tol=0.05)
    assert (exact.law, grid.law) == ("mixture", "grid")
    np.testing.assert_allclose(grid.error, exact.error, rtol=1e-2)
    np.testing.assert_allclose(grid.norm, exact.norm, rtol=1e-2)
    np.testing.assert_allclose(exact.kappa, 0.4)
    np.testing.assert_allclose(exact.mean_mode, (exact.error + 0.01) * 0.2, rtol=1e-9)
    # the mean output is gone at once, and has spread the weights by lr k2 Z^2 / (2 - kappa)
    assert exact.norm[0] == pytest.approx(0.25 + 0.4 * 0.36 / 1.6, rel=1e-9)


def test_an_lr_above_the_ceiling_is_told_and_diverges():
    fields = {**R10, "weights": None, "run": Run(taus=[0.0, 0.2])}
    with pytest.raises(SolveError, match=r"kappa.*reached 2.*kappa = 2\.5, which allows lr below 2 there"):
        solve(Problem(**{**fields, "rule": SGD(2.5)}))
    with pytest.raises(Exception, match="diverges"):
        simulate(Problem(**{**fields, "rule": SGD(2.5)}), dim=200, seeds=1, taus=[2.0])
    assert np.isfinite(simulate(Problem(**{**fields, "rule": SGD(0.4)}), dim=200, seeds=1).error).all()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rule": Sign(0.1)}, "rule: expected 'sgd', or 'shrinkage' with a fixed q"),
        ({"rule": SGD(0.1, momentum=0.5)}, "rule: expected 'sgd', or 'shrinkage' with a fixed q"),
        ({"ste": "clipped"}, "weights: expected ste = 'identity' and no latent clip"),
        ({"model": "sign"}, "teacher.model: expected 'linear'"),
        ({"weights": Quantizer(2, 0.5)}, "weights: expected levels around 0.7"),
        (
            {"inputs": Quantizer(2, 100.0, kind="mid-tread")},
            "inputs: expected inputs at two levels or more, found 'each at one, the first at 0'",
        ),
        ({"inputs": Quantizer(kind="levels", levels=[-0.5, 0.4], bits=1)}, None),
    ],
)
def test_what_has_no_derived_limit(fields, said):
    problem = Problem(**{**R10, **fields})
    if said is None:
        assert problem.means == "kept"
        return
    with pytest.raises(InputError) as caught:
        solve(problem)
    assert said in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
def test_limit_and_simulation_meet_with_a_mean(batch):
    """Averaged over a stretch of time, as the mean output is drawn anew within a few steps."""
    taus = [0.0, *np.linspace(3.9, 4.1, 41)]
    problem = Problem(
        **{**R10, "rule": SGD(0.2, batch=batch)}, start=Start.gaussian(std=0.5), run=Run(taus=taus)
    )
    predicted = solve(problem).error[1:].mean()
    each = simulate(problem, dim=4000, seeds=8, taus=taus[1:]).error.mean(axis=1)
    assert abs(each.mean() / predicted - 1) < 3.5 * each.std(ddof=1) / 8**0.5 / predicted + 0.015
