"""What `solve` chooses, refuses and returns; and how the package hangs together."""

import ast
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import TWO_BIT, reference

import stedyn
from stedyn import SGD, Problem, Quantizer, Run, SolveError, Start, Teacher, solve
from stedyn.drawing.quantities import QUANTITIES
from stedyn.limit.laws.law import Law, Solved
from stedyn.limit.laws.registry import LAWS, chosen, has_densities
from stedyn.limit.solution import CURVES, UNESTIMATED
from stedyn.limit.stationary import final_error
from stedyn.sweeps.rows import check_rows

PACKAGE = Path(stedyn.__file__).parent


def test_auto_takes_the_law_that_is_exact():
    run = Run(1.0, 2)
    assert solve(Problem(inputs=TWO_BIT, run=run)).law == "mixture"
    assert chosen("auto", Problem(weights=TWO_BIT)) == "grid"
    assert chosen("auto", Problem(latent_clip=1.0)) == "grid"


class Flat(Law):
    """A law whose curves are all 1."""

    densities = False

    def solve(self, problem, asked):
        names = ("error", "m", "q", "overlap", "norm", "effective_step")
        return Solved(
            dict.fromkeys(names, jnp.ones_like(asked.legs[0].taus)),
            {},
            None,
            (),
            None,
            jnp.asarray(UNESTIMATED),
        )


def test_a_law_is_an_entry_of_the_registry(monkeypatch, tmp_path):
    monkeypatch.setitem(LAWS, "flat", Flat())
    solution = solve(Problem(), law="flat")
    assert (solution.law, solution.final_error) == ("flat", 1.0)
    (row,) = check_rows("table", [{"law": "flat"}], {}, tmp_path, "compare")
    assert row.job["law"] == "flat"
    assert not has_densities(row.job["law"], Problem())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(law="exact"), "law: expected one of"),
        (dict(tol=0.0), "tol: expected a positive number"),
        (dict(cells=2), "cells: expected a whole number"),
        (dict(densities=[2.0, 1.0]), "densities: expected increasing times"),
        (dict(densities=[1e3]), "densities: expected times between 0 and the horizon"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}.*found.*;.*\\.$"):
        solve(Problem(weights=TWO_BIT), **arguments)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Problem(rule=SGD(-0.1)), "lr: expected a positive number"),
        (lambda: Problem(rule=SGD(0.1, weight_decay=-1)), "weight_decay: expected zero or a positive"),
        (lambda: Problem(noise_std=float("nan")), "noise.std: expected a finite number"),
        (lambda: Problem(noise_std=-1.0), "noise.std: expected zero or a positive number"),
        (lambda: Problem(run=Run(0.0)), "tau: expected a positive number"),
        (lambda: Problem(run=Run(1.0, 1)), "points: expected a whole number from 2"),
        (lambda: Problem(run=Run(taus=[1.0, 0.5])), "taus: expected at least two increasing times"),
        (lambda: Problem(ste="soft"), "weights.ste: expected one of"),
        (lambda: Problem(ste="clipped"), "weights.range: expected a positive number"),
        (lambda: Problem(latent_clip=0.0), "weights.latent_clip: expected a positive number"),
        (lambda: Problem(start=Start.constant(2.0), latent_clip=1.0), "start.value: expected a value inside"),
        (lambda: Teacher.gaussian(0.0), "teacher.std: expected a positive number"),
        (lambda: Teacher.samples([1.0, np.nan]), "samples: expected finite numbers"),
        (lambda: Start.samples([[1.0, 2.0]]), "samples: expected a one-dimensional list"),
    ],
)
def test_a_bad_problem_is_refused_when_built(build, message):
    with pytest.raises(ValueError, match=f"^{message}.*found.*;.*\\.$"):
        build()


def test_clipped_estimator_with_decay_has_no_limit():
    with pytest.raises(ValueError, match=r"^rule\.weight_decay: expected 0 with weights\.ste = 'clipped'"):
        solve(Problem(weights=TWO_BIT, ste="clipped", rule=SGD(0.1, weight_decay=0.1)))


def test_a_diverging_run_is_a_failure_not_a_number():
    problem = Problem(rule=SGD(3.0), run=Run(20.0, 51))
    with pytest.raises(SolveError, match="grows without bound"):
        solve(problem)
    kept = solve(problem, throw=False)
    assert not kept.status.ok
    assert 1 < len(kept.tau) < 51
    assert np.all(np.isfinite(kept.error))
    assert kept.final_error < 1e6 * float(kept.error[0])


def test_the_answer_prints_and_becomes_a_table():
    solution = solve(reference("R2", Run(4.0, 9)))
    frame = solution.to_pandas()
    curves = [name for name in CURVES if getattr(solution, name) is not None]
    assert list(frame.columns) == ["tau", *curves, *(f"occupancy_{k}" for k in range(8))]
    assert set(CURVES) <= QUANTITIES.keys()
    text = str(solution)
    assert "tau = steps / d" in text
    assert str(solution.status) in text
    record = solution.to_dict()
    assert record["minimum"]["error"] == min(record["error"])
    assert len(record["tau"]) == len(record["m"]) == len(record["q"]) == 9


def _final(lr):
    problem = Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(lr), noise_std=0.1, run=Run(5.0, 2))
    return solve(problem, law="grid", cells=30, tol=0.1).error[-1]


@pytest.mark.slow
def test_grid_sweep_inside_a_transformation_equals_single_solves():
    swept = jax.jit(jax.vmap(_final))(jnp.array([0.1, 0.4]))
    assert abs(float(swept[1] - swept[0])) > 0.05
    problem = Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(0.4), noise_std=0.1, run=Run(5.0, 2))
    alone = solve(problem, law="grid", cells=30, tol=0.1)
    assert alone.statistics["passes"] == 1
    assert alone.final_error == pytest.approx(float(swept[1]), rel=1e-9)


@pytest.mark.slow
def test_gradient_of_the_grid_law():
    gradient = float(jax.jit(jax.grad(_final))(0.4))
    ends = jax.jit(jax.vmap(_final))(jnp.array([0.399, 0.401]))
    assert gradient == pytest.approx(float(ends[1] - ends[0]) / 0.002, rel=2e-2)


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_only_one_module_imports_diffrax():
    users = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if any(n.split(".")[0] == "diffrax" for n in _imports(path))
    ]
    assert users == ["integrate.py"]


#: Quantizers that share the programs of the grid law with `TWO_BIT`.
SAME = [
    Quantizer(3, 1.3, kind="mid-tread"),
    Quantizer(4, 1.3, edge="bin"),
    Quantizer(5, 1.3, kind="twos-complement"),
    Quantizer(kind="levels", levels=[-1.0, 0.2, 1.3]),
]


@pytest.mark.parametrize(("law", "others"), [("mixture", [Quantizer(2, 1.3)]), ("grid", SAME)])
def test_problems_that_differ_in_numbers_and_times_share_a_program(law, others):
    """Counted by JAX: none for another range, lr, noise, horizon, saved times, inputs; bits, kind with "grid"."""
    compiled = []

    def count(event, *_, **__):
        if "backend_compile" in event:
            compiled.append(event)

    def solved(weights, lr, noise, run, bits):
        problem = Problem(
            weights=weights, noise_std=noise, rule=SGD(lr), run=run, inputs=Quantizer(bits, 2.0)
        )
        assert 0 < final_error(problem, shared=True) < 1
        return solve(problem, law=law, tol=0.5)

    solved(Quantizer(2, 1.5), 0.2, 0.1, Run(2.0, 5), 2)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        answers = [solved(weights, 0.1, 0.2, Run(4.0, 9), 4 if law == "grid" else 2) for weights in others]
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled
    for weights, answer in zip(others, answers, strict=True):
        assert answer.tau.size == answer.error.size == 9
        assert answer.occupancy is None or answer.occupancy.shape == (9, weights.n_levels)


def test_modules_stay_short_and_no_name_is_eta():
    for path in itertools.chain(PACKAGE.rglob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        assert not {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)} & {"eta"}, (
            path
        )


def test_a_latent_clip_within_the_range_of_the_clipped_estimator():
    """Nothing is between the wall and the ends of the range: the mesh there must not stop the run."""
    problem = Problem(
        Teacher.rademacher(1.159),
        Start.gaussian(-0.381, 0.918),
        noise_std=0.374,
        weights=Quantizer(3, 1.501, rounding="stochastic"),
        ste="clipped",
        latent_clip=1.3,
        rule=SGD(0.359),
        run=Run(taus=[0.0, 0.25]),
    )
    assert solve(problem, tol=1.0).status.ok
