"""Tables of a problem, drawn at random from every table that a problem file has."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from stedyn.files.problems import problem_from_dict
from stedyn.problem.problem import Problem

#: Longest run and number of saved times.
HORIZON, POINTS = 40.0, 15


class Draw:
    """Numbers and choices of one generator."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def one(self, *options: Any) -> Any:
        """One of the options."""
        return copy.deepcopy(options[self.rng.integers(len(options))])

    def chance(self, probability: float) -> bool:
        """Whether something happens."""
        return bool(self.rng.random() < probability)

    def between(self, low: float, high: float) -> float:
        """A number of three digits, even in the logarithm."""
        return float(f"{np.exp(self.rng.uniform(np.log(low), np.log(high))):.3g}")

    def sign(self) -> float:
        """1 or -1."""
        return self.one(-1.0, 1.0)


def teacher(draw: Draw) -> dict:
    """A law of the teacher weights, sometimes of a sign teacher."""
    table = draw.one(
        {"kind": "constant", "value": draw.sign() * draw.between(0.3, 1.5)},
        {"kind": "gaussian", "std": draw.between(0.3, 1.5)},
        {"kind": "rademacher", "scale": draw.between(0.3, 1.5)},
        {"kind": "file", "values": [draw.sign() * draw.between(0.05, 2.0) for _ in range(5)]},
    )
    return table | ({"model": "sign"} if draw.chance(0.1) else {})


def start(draw: Draw) -> dict:
    """A law of the weights at the start."""
    return draw.one(
        {"kind": "gaussian", "mean": 0.0, "std": draw.between(0.01, 1.5)},
        {"kind": "gaussian", "mean": draw.sign() * draw.between(0.1, 1.0), "std": draw.between(0.1, 1.0)},
        {"kind": "constant", "value": draw.one(0.0, draw.sign() * draw.between(0.05, 1.0))},
        {"kind": "teacher", "scale": draw.between(0.3, 1.2), "std": draw.between(0.01, 0.5)},
    )


def quantizer(draw: Draw) -> dict:
    """A weight quantizer: every kind, both edges, both ways to round."""
    kind = draw.one("mid-rise", "mid-rise", "mid-tread", "mid-tread", "twos-complement", "sign", "ternary",
                    "nf4", "fp4-e2m1", "int4", "power-of-two", "levels")  # fmt: skip
    if kind == "levels":
        levels = np.cumsum([draw.between(0.2, 1.0) for _ in range(draw.one(2, 3, 6))])
        return {"kind": kind, "levels": [float(f"{v:.3g}") for v in levels - levels.mean()]}
    table: dict[str, Any] = {"kind": kind, "range": draw.between(0.4, 3.0)}
    if kind in ("mid-rise", "mid-tread", "twos-complement", "power-of-two"):
        table["bits"] = draw.one(2, 2, 3, 3, 4) if kind != "mid-rise" else draw.one(1, 2, 3, 4)
    if kind in ("mid-rise", "mid-tread", "twos-complement") and draw.chance(0.2):
        table["edge"] = "bin"
    if kind not in ("power-of-two", "sign") and draw.chance(0.15):
        table["rounding"] = "stochastic"
    return table


def moving(draw: Draw) -> dict:
    """How the range moves, seldom."""
    if draw.chance(0.85):
        return {}
    kind = draw.one("learned", "fast-learned", "absmean", "rms", "percentile", "schedule")
    own: dict[str, Any] = {"range_rule": kind}
    if "learned" in kind:
        own |= {"range_lr": draw.between(0.1, 5.0), "range_estimator": draw.one("lsq", "pact")}
    elif kind == "schedule":
        own["range_schedule"] = {"kind": "cosine", "period": HORIZON, "final": draw.between(0.4, 0.9)}
    else:
        own["range_factor"] = draw.between(0.7, 2.0)
    return own | ({"range_percentile": draw.between(90.0, 99.9)} if kind == "percentile" else {})


def weights(draw: Draw) -> dict:
    """The weight quantizer and what belongs to it."""
    table = quantizer(draw) | moving(draw)
    if table.get("range_rule") in ("absmean", "rms", "percentile"):
        table.pop("range", None)
    if draw.chance(0.2):
        table["ste"] = draw.one("clipped", "triangular")
    if draw.chance(0.1):
        table["latent_clip"] = draw.between(1.0, 3.0)
    return table


def inputs(draw: Draw) -> dict:
    """Law and quantizer of the inputs."""
    table: dict[str, Any] = {}
    if draw.chance(0.5):
        table |= {
            "kind": draw.one("mid-rise", "mid-tread"),
            "bits": draw.one(2, 3, 4),
            "range": draw.between(1.2, 3.0),
        }
    if draw.chance(0.35):
        table["law"] = draw.one("relu", "uniform", "laplace")
        table |= {"centre": True} if draw.chance(0.5) else {}
    return table


def schedule(draw: Draw) -> dict:
    """How a rate falls."""
    return draw.one(
        {"kind": "inverse", "tau0": draw.between(2.0, 40.0)},
        {"kind": "cosine", "period": HORIZON, "final": 0.1},
        {"kind": "step", "every": draw.between(3.0, 20.0), "factor": draw.between(0.2, 0.8)},
    )


def rule(draw: Draw) -> dict:
    """An update rule with its settings."""
    kind = draw.one("sgd", "sgd", "sgd", "shrinkage", "quantized-gradient", "deterministic-rounding",
                    "stochastic-rounding", "sign", "adam", "signum", "multinomial")  # fmt: skip
    table: dict[str, Any] = {"kind": kind, "lr": draw.between(0.02, 0.6)}
    remembers = ("sgd", "shrinkage", "quantized-gradient", "deterministic-rounding", "stochastic-rounding")
    if kind in remembers and draw.chance(0.2):
        table |= {"momentum": draw.between(0.3, 0.9), "nesterov": draw.chance(0.3)}
    if kind == "shrinkage":
        table |= {"q": draw.between(0.3, 1.0), "noise_std": draw.one(0.0, draw.between(0.05, 0.5))}
    elif kind == "quantized-gradient":
        table["quantizer"] = {"kind": "mid-tread", "bits": draw.one(2, 3), "range": draw.between(0.5, 2.5)}
    elif "rounding" in kind:
        table["delta"] = draw.between(0.05, 0.5)
    elif kind == "adam":
        table |= {"memory": draw.between(0.1, 10.0), "lr": draw.between(0.02, 0.3)}
    elif kind == "multinomial":
        table = {"kind": kind, "zeta": draw.between(0.03, 0.3), "nu": draw.between(0.2, 1.0), "c": 1.0}
    if draw.chance(0.15):
        table["batch"] = draw.one(2, 4, 16)
    if draw.chance(0.15):
        table["weight_decay"] = draw.between(0.01, 0.5)
    return table | ({"schedule": schedule(draw)} if draw.chance(0.25) else {})


def phase(draw: Draw, horizon: float) -> dict:
    """What changes during a run."""
    changes = draw.one({"weights": quantizer(draw)}, {"rule": rule(draw)})
    return {"from": draw.between(0.1 * horizon, 0.9 * horizon), **changes}


def tables_of(seed: int) -> dict[str, Any]:
    """Tables of a problem as `stedyn.files.problems.problem_from_dict` takes them; it may well be refused."""
    draw = Draw(seed)
    tables: dict[str, Any] = {
        "teacher": teacher(draw), "start": start(draw), "rule": rule(draw),
        "noise": {"std": draw.one(0.0, draw.between(0.05, 0.8))},
        "run": {"tau": draw.between(5.0, HORIZON), "points": POINTS},
    }  # fmt: skip
    if draw.chance(0.85):
        tables["weights"] = weights(draw)
    if own := inputs(draw):
        tables["inputs"] = own
    if draw.chance(0.15):
        tables["covariance"] = {"kind": "power-law", "exponent": draw.between(0.2, 0.8)}
    if draw.chance(0.08):
        tables["channels"] = {
            "teacher": [1.0, draw.between(0.2, 0.8)],
            "range": [1.0, draw.between(0.2, 0.8)],
        }
    if draw.chance(0.12):
        tables["phase"] = [phase(draw, tables["run"]["tau"])]
    return tables


def problem_of(seed: int) -> Problem:
    """The problem of a seed.

    Raises
    ------
    InputError
        If its tables do not go together; `stedyn.solve` refuses those that have no limit.
    """
    return problem_from_dict(tables_of(seed))
