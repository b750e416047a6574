"""Measured inputs of layers: which variance meets which weight, and the report over layers that uses them."""

import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from stedyn import SGD, InputError, InputLaw, Problem
from stedyn.cli import app as cli
from stedyn.design.layer_report import _grouped, problem_of, report_layers
from stedyn.files.activations import condensed, layer_inputs
from stedyn.files.layers import layers_of


def network(folder):
    """Three layers with heavy tails, output channels up to ten times apart, ReLU between them; their inputs."""
    rng = np.random.default_rng(0)
    x, weights, inputs = rng.normal(size=(500, 40)), {}, {}
    for name, (outputs, width) in {"fc1": (32, 40), "fc2": (24, 32), "fc3": (8, 24)}.items():
        w = 0.02 * rng.standard_t(3, size=(outputs, width)) * 10 ** rng.uniform(size=(outputs, 1))
        weights |= {f"{name}.weight": w.astype(np.float32), f"{name}.bias": np.zeros(outputs, np.float32)}
        inputs[name] = x.astype(np.float32)
        x = np.maximum(x @ w.T, 0)
    save_file(weights, folder / "model.safetensors")
    save_file(inputs, folder / "acts.safetensors")
    return folder / "model.safetensors", folder / "acts.safetensors", inputs


def layers(file, **options):
    return [one for one in layers_of(file, **options) if hasattr(one, "weights")]


@pytest.mark.parametrize("axis", [0, -1])
def test_every_weight_meets_the_variance_of_its_input(tmp_path, axis):
    rng = np.random.default_rng(1)
    std, w = np.array([1.0, 2.0, 5.0]), rng.normal(size=(4, 3, 2, 2))
    w = w if axis == 0 else np.moveaxis(w, (2, 3, 1, 0), (0, 1, 2, 3))  # kernel first, outputs last
    np.savez(tmp_path / "w.npz", conv=w)
    np.savez(tmp_path / "x.npz", conv=rng.normal(1.0, 1.0, size=(300, 7, 3)) * std)
    (whole,) = layers(tmp_path / "w.npz", axis=axis)
    found = layer_inputs(tmp_path / "x.npz", [whole], axis)["conv"]
    mean = np.moveaxis(found.variances.reshape(w.shape), (1, -2)[axis == -1], 0).reshape(3, -1)
    assert np.all(mean == mean[:, :1])
    assert np.sqrt(mean[:, 0] / mean[0, 0]) == pytest.approx(std, rel=0.05)
    assert mean[:, 0].mean() == pytest.approx(1.0)
    assert found.scale == pytest.approx(10**0.5, rel=0.05)
    assert found.spread == pytest.approx(5.0, rel=0.05)
    assert (found.base.std(), found.base.mean()) == pytest.approx((1.0, 1.0), rel=0.05)
    each = layers(tmp_path / "w.npz", per_channel=True, axis=axis)
    own = layer_inputs(tmp_path / "x.npz", each, axis)
    assert np.array_equal(np.unique(own["conv[2]"].variances), np.unique(found.variances))


def test_groups_of_variances_keep_what_counts(tmp_path):
    rng = np.random.default_rng(2)
    w, v = rng.standard_t(3, size=5000), np.exp(rng.normal(size=5000))
    weights, variances = _grouped(w, v)
    assert weights.size == variances.size == 1024
    assert np.unique(variances).size == 8
    assert np.mean(variances * weights**2) == pytest.approx(np.mean(v * w**2), rel=1e-3)
    assert np.mean(variances) == pytest.approx(v.mean(), rel=1e-3)
    weights, variances = _grouped(w, 1 + 0.01 * rng.random(5000))
    assert variances is None
    few = condensed(w, 100)
    assert (few.mean(), few.std()) == pytest.approx((w.mean(), w.std()))


def test_the_problem_of_a_layer(tmp_path):
    file, acts, inputs = network(tmp_path)
    one, two, _ = layers(file)
    found = layer_inputs(acts, [one, two], 0)
    first, second = (problem_of(Problem(), layer, found[layer.name]) for layer in (one, two))
    assert first.means == "removed" or first.input_law.symmetric or abs(first.input_law.base[0]) < 1e-12
    assert second.means == "kept"
    assert second.paired
    x, scale = inputs["fc2"], found["fc2.weight"].scale
    output = np.mean(np.var(x, axis=0) * (two.weights.reshape(two.shape)) ** 2) / scale**2
    assert float(second.signal) == pytest.approx(output, rel=5e-3)


def test_faults_of_activations(tmp_path, capsys):
    file, acts, inputs = network(tmp_path)
    np.savez(tmp_path / "other.npz", conv=np.ones((3, 4)))
    np.savez(tmp_path / "dead.npz", fc1=np.where(np.arange(40) == 7, 0.0, inputs["fc1"]))
    np.savez(tmp_path / "narrow.npz", fc1=inputs["fc1"][:, :7])
    np.savez(tmp_path / "one.npz", fc1=inputs["fc1"][0])
    for name, said in [
        ("other.npz", "activations: expected a tensor with the name of a layer, such as 'fc1.weight'"),
        ("dead.npz", "1 of 40 inputs, the first is input 7, that do not vary"),
        ("narrow.npz", "fc1: expected 40 inputs, as many as the weights of an output of fc1.weight"),
        ("one.npz", "fc1: expected activations of two samples or more"),
    ]:
        assert cli.main(["layers", str(file), "--activations", str(tmp_path / name), "--bits", "2"]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(InputError, match="no law or covariance beside measured activations"):
        report_layers(file, Problem(input_law=InputLaw.relu()), activations=acts, bits=[2])


@pytest.mark.slow
def test_three_layers_behind_measured_inputs(tmp_path, capsys):
    file, acts, _ = network(tmp_path)
    problem = Problem(noise_std=0.1, rule=SGD(0.1))
    given = dict(activations=acts, bits=[3])
    report_layers(file, problem, **given)
    start = time.process_time()
    report = report_layers(file, problem, **given)
    assert time.process_time() - start < 30  # its programs are compiled
    table = report.to_pandas()
    assert len(table) == 3
    assert np.all(table["error"] <= table["mse_error"] * (1 + 1e-9))
    assert table["range"].to_numpy() == pytest.approx((table["normalised"] * table["scale"]).to_numpy())
    assert any("fc1.weight: its output channels differ by a factor" in hint for hint in report.hints)
    assert any("fc2.weight: its inputs differ by a factor" in hint for hint in report.hints)
    words = ["layers", str(file), "--activations", str(acts), "--bits", "3", "--set", "inputs.kind=none"]
    assert cli.main([*words, "--plot", str(tmp_path / "layers.png"), "--tensor", "fc3.weight"]) == 0
    assert "per channel" in capsys.readouterr().out
    assert (tmp_path / "layers.png").stat().st_size > 1000
