"""
Many problems on many machines
==============================

A table of problems is computed row by row, each result in a file of its own. Rows that are there are not computed again, so that a sweep
can be interrupted, extended and shared.
"""

import itertools
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from stedyn import Problem, Quantizer, Run, Start, sweep

# the student of the first tutorial
problem = Problem(
    start=Start.gaussian(std=0.02),
    noise_std=0.1,
    weights=Quantizer(2, 1.0, kind="mid-tread"),
    run=Run(tau=40.0, points=81),
)

# %%
# Columns are keys of a problem file; what a row does not name is that of the problem. The law ``fluid`` is the one of small learning
# rates, without diffusion, and takes no time; without that column each row is solved as ``stedyn.solve`` does.

table = pd.DataFrame(
    itertools.product((0.5, 0.75, 1.0), (0.02, 0.04)),
    columns=["weights.range", "rule.lr"],
)
table["law"] = "fluid"
out = Path(tempfile.mkdtemp())
results = sweep(table, problem, out=out, workers=1)
results[
    ["weights.range", "rule.lr", "failure", "first_plateau.escape", "final_error"]
]

# %%
# A second call finds everything there, and computes the new row only.

before = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
more = pd.concat(
    [
        table,
        pd.DataFrame(
            {"weights.range": [1.25], "rule.lr": [0.04], "law": ["fluid"]}
        ),
    ]
)
results = sweep(more, problem, out=out, workers=1)
assert len(results) == 7
assert results["failure"].isna().all()
assert all(path.stat().st_mtime_ns == time for path, time in before.items())

# %%
# The escape goes like range over rate: all points lie on one line.

figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ratio = results["weights.range"] / results["rule.lr"]
ax.plot(ratio, results["first_plateau.escape"], "o", label="sweep")
ax.plot(
    [0, ratio.max()],
    [0, 0.5 * ratio.max()],
    color="0.5",
    ls=":",
    label="closed form, small lr",
)
ax.set(xlabel="range / lr", ylabel=r"escape $\tau$")
ax.legend(frameon=False)
assert ((results["first_plateau.escape"] / (0.5 * ratio)).between(0.97, 1.03)).all()

# %%
# On all cores, and on many machines
# ----------------------------------
#
# ``workers=1`` keeps this page in one process. By default a sweep uses all cores; a script then calls it below
# ``if __name__ == "__main__":``. With a Dask cluster (``pip install 'stedyn[dask]'``) it is
#
# .. code-block:: python
#
#     from dask.distributed import Client
#
#     sweep("table.csv", problem, out="results", executor=Client("tcp://HOST:8786").get_executor(), progress=True)
#
# or on the command line ``stedyn sweep table.csv problem.toml --out results --scheduler tcp://HOST:8786``.
