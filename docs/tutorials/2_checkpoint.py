"""
From my checkpoint to a range
=============================

A file of weights goes in, a range for every layer comes out: the one with the least error *after training with it*, not the one that
rounds the weights best.
"""

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from stedyn import SGD, Problem
from stedyn.design.layer_report import report_layers

# %%
# Any ``.safetensors`` or ``.npz`` file will do. This one has three layers, one of them with weights that have heavy tails, and a
# bias, which is no layer.

rng = np.random.default_rng(0)
layers = {
    "fc1.weight": rng.normal(scale=0.05, size=(64, 96)),
    "fc2.weight": 0.02 * rng.standard_t(4, size=(64, 64)),
    "head.weight": rng.uniform(-0.1, 0.1, size=(16, 64)),
    "head.bias": np.zeros(16),
}
path = Path(tempfile.mkdtemp()) / "model.safetensors"
save_file({name: array.astype(np.float32) for name, array in layers.items()}, path)

# %%
# The weights of a layer, divided by their root mean square (``scale``), are the teacher of a problem. The rest of the
# problem (the noise of the labels, the rule and its rate) is yours.

report = report_layers(path, Problem(noise_std=0.1, rule=SGD(0.1)), bits=[3, 4])
report

# %%
# ``range`` is in the units of the file: what to give to a quantizer. ``error`` is the final error over the variance of the output of
# the layer. The columns ``mse_range`` and ``mse_error`` are those of the rule of least rounding error.

print(report)

# %%
# For every layer and bit width the range of least rounding error is the wider one, and training with it ends higher.

ax = report.plot()
table = report.to_pandas()
assert set(table["layer"]) == {"fc1.weight", "fc2.weight", "head.weight"}
assert [tensor.name for tensor in report.skipped] == ["head.bias"]
assert (table["mse_range"] > table["range"]).all()
assert (table["mse_error"] > table["error"]).all()
print(
    f"error at the range of least rounding error: up to {(table['mse_error'] / table['error']).max():.2f} times the least"
)

# %%
# On the command line the same is
#
# .. code-block:: sh
#
#     stedyn layers model.safetensors --bits 3,4
#
# With a file of activations (``--activations``) every layer is predicted behind its own measured inputs: see :doc:`/layers`.
