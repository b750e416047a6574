"""What the studies of real networks compute by themselves: LSQ's derivative, escapes, regrets."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stedyn.quantizers.quantizer import Quantizer

pytestmark = (
    pytest.mark.slow
)  # needs the extra 'studies', which the test command of the README does not install
STUDIES = str(Path(__file__).parent.parent / "studies" / "networks")


@pytest.fixture(autouse=True)
def studies(monkeypatch):
    pytest.importorskip("optax")
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(STUDIES)
    yield
    for name in ("shared", "ranges", "plateaus"):
        sys.modules.pop(name, None)


def test_the_derivative_of_a_learned_range_is_that_of_lsq():
    import jax
    import jax.numpy as jnp
    from shared import learned

    quantizer, width = Quantizer(3, 1.0, kind="mid-tread"), 0.9
    w = jnp.array([[-2.0, -0.7, 0.05], [0.2, 0.8, 1.4]])
    quantize = learned(quantizer, ("fc",))

    def output(params):
        return jnp.sum(quantize(params, None)["fc"])

    step = width / 3
    slope, inside = jax.grad(output)({"fc": w, "fc_step": jnp.asarray(step)}), np.abs(np.asarray(w)) <= width
    rounded = np.asarray(quantizer.with_range(width).round(w))
    of_step = np.where(
        inside, (rounded - np.asarray(w)) / step, np.sign(w) * 3
    )  # Esser et al. 2020, equation 3
    scale = 1 / np.sqrt(w.size * 3)
    np.testing.assert_allclose(slope["fc_step"], scale * of_step.sum(), rtol=1e-5)
    np.testing.assert_array_equal(slope["fc"], inside)


def test_an_escape_is_between_two_records():
    from plateaus import escape

    loss = np.array([[2.0, 2.0, 1.8, 0.6, 0.0], [2.0, 2.0, 2.0, 1.9, 1.9]])
    left = escape(loss, every=10)
    assert left[0] == pytest.approx((3 + 0.8 / 1.2) * 10)
    assert np.isnan(left[1])


def test_the_best_range_is_chosen_by_the_other_seeds():
    from ranges import MEASURES, regrets

    losses = {"1.000": [1.0, 1.2, 5.0, 5.2], "2.000": [3.0, 3.0, 2.0, 2.4], "mse": [1.5, 1.5, 2.5, 2.5]}
    rows = [
        dict(net="MLP", optimizer="SGD", start="scratch", bits=2, mark=mark, seed=seed, fc2_factor=1.0)
        | dict.fromkeys(MEASURES, loss)
        for mark, values in losses.items()
        for seed, loss in zip((0, 1, 100, 101), values, strict=True)
    ]
    table = regrets(pd.DataFrame(rows), (range(0, 2), range(100, 102)))
    found = table[table["mark"] == "mse"].set_index("seeds")["test_loss_regret"]
    assert found["0"] == pytest.approx(-1.5)  # seeds 100, 101 choose 2.000
    assert found["100"] == pytest.approx(-2.6)  # seeds 0, 1 choose 1.000
