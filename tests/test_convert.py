"""Training recipes and problems: units both ways, against a plain program in its own units."""

import dataclasses
import json

import numpy as np
import pytest
import reference

from stedyn import Problem, Quantizer, Run, simulate
from stedyn.checks import InputError
from stedyn.cli import app as cli
from stedyn.files.recipes import Recipe, read_settings
from stedyn.files.writing import save_problem
from stedyn.rules import SGD, Inverse, Sign

D = 31
RECIPES = {
    "sgd": Recipe(D, "sgd", lr=3e-3, weight_decay=0.2, momentum=0.8, loss="mse", outputs="plain", range=0.3, steps=40),
    "adamw": Recipe(D, "adamw", lr=5e-3, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3, loss="mse", outputs="plain",
                    range=0.3, steps=40),
    "scaled": Recipe(D, "adamw", lr=3e-2, betas=(0.5, 0.9), eps=1e-4, loss="mse", range=1.7, steps=40),
}  # fmt: skip


def program(recipe, problem, W, teacher):
    """The training loop of a plain program: weights of its own units, a loss, an optimizer of PyTorch's."""
    d, plain = recipe.dim, recipe.outputs == "plain"
    over, factor = 1.0 if plain else d**-0.5, 2.0 if recipe.loss == "mse" else 1.0
    quantizer = Quantizer(2, recipe.range, kind="mid-tread")
    first = second = 0.0
    for at in range(recipe.steps):
        x, xi = reference.normals(0, at, 0, d), reference.normals(0, at, reference.STREAMS["noise"], 1)[0]
        r = (
            teacher @ x / d**0.5
            + float(problem.noise_std) * xi
            - over * reference.quantize(quantizer, W, None) @ x
        )
        grad = -factor * r * over * x
        if recipe.optimizer == "sgd":
            grad = grad + recipe.weight_decay * W
            first = grad if at == 0 else recipe.momentum * first + grad
            W = W - recipe.lr * first
            continue
        one, two = recipe.betas
        first, second = one * first + (1 - one) * grad, two * second + (1 - two) * grad**2
        W = W - recipe.lr * recipe.weight_decay * W
        root = np.sqrt(second / (1 - two ** (at + 1))) + recipe.eps
        W = W - recipe.lr * first / (1 - one ** (at + 1)) / root
    return W


@pytest.mark.parametrize("name", RECIPES)
def test_the_problem_of_a_recipe_is_what_the_program_does(name):
    recipe, tables = RECIPES[name], RECIPES[name].tables()
    weights = Quantizer(2, tables["weights"]["range"], kind="mid-tread")
    problem = Problem(weights=weights, noise_std=0.1, rule=recipe.rule(), run=Run(tables["run"]["tau"], 2))
    ensemble = simulate(problem, dim=D, seeds=1, snapshots=[0.0])
    stretch = D**0.5 if recipe.outputs == "plain" else 1.0
    start, teacher = ensemble.snapshots[0, 0].astype(float), ensemble.teacher[0].astype(float)
    found = stretch * program(recipe, problem, start / stretch, teacher)
    assert ensemble.steps[-1] == recipe.steps
    np.testing.assert_allclose(ensemble.weights[0], found, rtol=0, atol=5e-5)
    assert np.abs(found - start).max() > 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_there_and_back(name):
    recipe = RECIPES[name]
    weights = Quantizer(2, recipe.tables()["weights"]["range"])
    problem = Problem(weights=weights, rule=recipe.rule(), run=Run(recipe.steps / D, 2))
    again = Recipe.from_problem(problem, D, recipe.loss, recipe.outputs)
    for field in dataclasses.fields(recipe):
        expected = getattr(recipe, field.name)
        found = getattr(again, field.name)
        assert found == (expected if isinstance(expected, str) else pytest.approx(expected)), field.name


def test_the_command(tmp_path, capsys):
    group = {
        "lr": 1e-3,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decoupled_weight_decay": True,
    }
    file = tmp_path / "adam.json"
    file.write_text(json.dumps({"state": {}, "param_groups": [group]}))
    assert read_settings(file)["optimizer"] == "adamw"
    assert cli.main(["convert", str(file), "--dim", "4096", "--batch", "64", "--json"]) == 0
    rule = json.loads(capsys.readouterr().out)["rule"]
    assert [rule["kind"], rule["batch"], rule["lr"]] == ["adam", 64, pytest.approx(0.064)]
    assert rule["memory"] == pytest.approx(1000 / 4096)
    save_problem(Problem(weights=Quantizer(2, 2.0), rule=SGD(0.1, momentum=0.9)), tmp_path / "a.toml")
    assert (
        cli.main(["convert", str(tmp_path / "a.toml"), "--dim", "100", "--outputs", "plain", "--json"]) == 0
    )
    recipe = json.loads(capsys.readouterr().out)
    assert [recipe[key] for key in ("optimizer", "lr", "momentum", "range")] == ["sgd", 0.001, 0.9, 0.2]


REFUSED = {
    "optimizer": (lambda: Recipe(10, "lion"), "optimizer: expected one of"),
    "setting": (lambda: Recipe(10, "adamw", momentum=0.9), "momentum: expected the settings of 'adamw'"),
    "decay": (lambda: Recipe(10, "adam", weight_decay=0.1), "weight_decay: expected 0 with 'adam'"),
    "lr": (lambda: Recipe(10, lr=0.0), "lr: expected a positive number"),
    "rule": (lambda: Recipe.from_problem(Problem(rule=Sign(0.1)), 10), "rule: expected 'sgd', 'adam' or 'signum'"),
    "schedule": (lambda: Recipe.from_problem(Problem(rule=SGD(0.1, schedule=Inverse(1.0))), 10), "rule: expected 'sgd'"),
    "missing": (lambda: read_settings("nowhere.json"), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_sentence(name):
    call, sentence = REFUSED[name]
    with pytest.raises(InputError, match=sentence):
        call()
