"""
How many bits do I need?
========================

One more bit divides the error that quantization leaves by two to four. How many are enough depends on the layer, and on what you can
bear. Here a layer may lose 3 % of the variance of its output.
"""

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from stedyn import SGD, Problem
from stedyn.design.layer_report import report_layers

rng = np.random.default_rng(1)
layers = {
    "normal": rng.normal(scale=0.05, size=(64, 96)),
    "heavy tails": 0.02 * rng.standard_t(4, size=(64, 64)),
    "uniform": rng.uniform(-0.1, 0.1, size=(16, 64)),
}
path = Path(tempfile.mkdtemp()) / "model.safetensors"
save_file({name: array.astype(np.float32) for name, array in layers.items()}, path)

allowed = 0.03
table = report_layers(
    path, Problem(noise_std=0.1, rule=SGD(0.1)), bits=[2, 3, 4]
).to_pandas()
errors = table.pivot(index="bits", columns="layer", values="error")
errors

# %%
# The fewest bits that keep every layer below the line, each at its own best range:

ax = errors.plot(
    marker="o",
    logy=True,
    figsize=(6, 3.6),
    xticks=errors.index,
    ylabel="final error over the variance of the output",
)
ax.axhline(allowed, color="0.4", ls=":", label="allowed")
ax.legend(frameon=False)

fewest = table[table["error"] < allowed].groupby("layer")["bits"].min()
fewest

# %%
# Uniform weights, whose levels are all used alike, need three bits, normal ones four. For heavy tails four are not enough: the
# outer levels are there for few weights.

assert fewest["uniform"] == 3
assert fewest["normal"] == 4
assert "heavy tails" not in fewest
ratios = (errors.shift() / errors).loc[3:]
assert ((ratios > 2) & (ratios < 5)).all(axis=None)
ratios.round(2)

# %%
# On the command line ``stedyn choose --bits 2 3 4 --max-error 0.03`` answers this for one law of weights, and ``stedyn layers`` for
# a file. What these errors leave out: layers are predicted one by one (:doc:`/limits`).
