"""Training recipes: the settings of an optimizer of another program, and the same in the units of a problem.

In a problem outputs are ``psi(w).phi(x) / sqrt(d)`` with weights of order one and the loss is ``r^2 / 2``
(``docs/convert.md``).
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from ..checks import PATH, InputError, checked, choice, fail, finite, flag, nonnegative, positive, whole
from ..problem.problem import Problem
from ..rules import SGD, Adam, Rule, Signum
from ..rules.momentum import below_one
from .whole import refuse_special

OPTIMIZERS = ("sgd", "adam", "adamw", "signum")
LOSSES = {"half-mse": 1.0, "mse": 2.0}
OUTPUTS = ("scaled", "plain")
#: Settings that an optimizer takes beside the learning rate and the weight decay.
_TAKES = {"sgd": ("momentum", "dampening", "nesterov"), "adam": ("betas", "eps"), "adamw": ("betas", "eps"),
          "signum": ("momentum",)}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings as PyTorch has them, for a layer of input dimension ``dim``.

    Parameters
    ----------
    dim : int
        Input dimension ``d`` of the layer.
    optimizer : {"sgd", "adam", "adamw", "signum"}
    lr, weight_decay, momentum, dampening, nesterov, betas, eps, batch
        Of PyTorch's optimizers; of Signum ``momentum`` is the ``beta``. Decay is a part of the gradient for "sgd" and
        decoupled for "adamw" and "signum".
    loss : {"half-mse", "mse"}
        ``r^2 / 2`` or ``r^2``, averaged over the batch.
    outputs : {"scaled", "plain"}
        ``w.x / sqrt(d)`` with weights of order one, or ``W.x`` with weights of order ``1 / sqrt(d)``, which are ``w /
        sqrt(d)``.
    range : float, optional
        Range of the weight quantizer, in units of the weights of the program.
    steps : int, optional
        Length of the training.

    Raises
    ------
    InputError
        For a setting out of bounds, or one that the optimizer does not take.

    Examples
    --------
    >>> tables = Recipe(4096, "adamw", lr=1e-3, batch=64).tables()
    >>> print(f"{tables['rule']['lr']:.3g}, memory {tables['rule']['memory']:.3g}")
    0.064, memory 0.244
    """

    dim: int
    optimizer: str = "sgd"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float | None = None
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    batch: int = 1
    loss: str = "half-mse"
    outputs: str = "scaled"
    range: float | None = None
    steps: int | None = None

    def __post_init__(self):
        whole("dim", self.dim, 2, 2**31)
        takes = _TAKES[choice("optimizer", self.optimizer, OPTIMIZERS)]
        choice("loss", self.loss, tuple(LOSSES))
        choice("outputs", self.outputs, OUTPUTS)
        positive("lr", self.lr)
        nonnegative("weight_decay", self.weight_decay)
        flag("nesterov", self.nesterov)
        for field in dataclasses.fields(self):
            settings = {name for names in _TAKES.values() for name in names}
            value = getattr(self, field.name)
            if field.name in settings - {*takes} and value != field.default:
                fail(
                    field.name,
                    f"the settings of {self.optimizer!r} ({', '.join(takes)})",
                    value,
                    "leave it out",
                )
        if self.optimizer == "adam" and self.weight_decay != 0:
            fail("weight_decay", "0 with 'adam', which divides the decay by the root of the squares (not implemented)",
                 self.weight_decay, "set it to 0, or choose 'adamw'")  # fmt: skip
        if len(self.betas) != 2:
            fail("betas", "two numbers", self.betas, "give them as in PyTorch")
        if self.range is not None:
            positive("range", self.range)
        if self.steps is not None:
            whole("steps", self.steps, 1, 2**53)

    @property
    def _stretch(self) -> float:
        """A weight of the problem over that of the program."""
        return 1.0 if self.outputs == "scaled" else self.dim**0.5

    @property
    def _slope(self) -> float:
        """A gradient of the program over ``-r phi / sqrt(d)``."""
        return LOSSES[self.loss] * self._stretch

    def rule(self) -> Rule:
        """The update rule of a problem."""
        root = self.dim**0.5
        if self.optimizer == "sgd":
            lr, decay = self.lr * self._slope * self._stretch, self.weight_decay * self.dim
            momentum: dict[str, Any] = dict(
                momentum=self.momentum, dampening=self.dampening, nesterov=self.nesterov
            )
            return SGD(lr, decay * self.lr / lr, self.batch, **momentum)
        lr = self.lr * root * self._stretch
        decay = self.weight_decay * self.lr * self.dim / lr
        if self.optimizer == "signum":
            return Signum(lr, decay, self.batch, beta=0.9 if self.momentum is None else self.momentum)
        memory = 1 / (self.dim * (1 - below_one("betas")(self.betas[1])))
        eps = self.eps * root / self._slope
        return Adam(lr, decay, self.batch, beta1=self.betas[0], memory=memory, eps=eps)

    def tables(self) -> dict[str, Any]:
        """The tables of a problem file that the recipe decides: rule, range, horizon."""
        from .writing import problem_to_dict

        tables = {"rule": problem_to_dict(Problem(rule=self.rule()))["rule"]}
        if self.range is not None:
            tables["weights"] = {"range": self.range * self._stretch}
        if self.steps is not None:
            tables["run"] = {"tau": self.steps / self.dim}
        return tables

    @classmethod
    @checked(problem=Problem)
    def from_problem(cls, problem: Problem, dim: int, loss="half-mse", outputs="scaled") -> Recipe:
        """The recipe that a problem stands for in ``dim`` dimensions.

        Raises
        ------
        InputError
            For a rule that no optimizer of the list is, or a schedule.
        """
        rule, units = problem.rule, cls(dim, loss=loss, outputs=outputs)
        names = {SGD: "sgd", Adam: "adamw", Signum: "signum"}
        if type(rule) not in names or rule.schedule is not None or rule.lattice is not None:
            fail("rule", "'sgd', 'adam' or 'signum' without a schedule or rounded steps", rule.kind,
                 "no optimizer of the list does what it does")  # fmt: skip
        root, stretch, slope = dim**0.5, units._stretch, units._slope
        width = problem.weights.range
        shared: dict[str, Any] = dict(batch=rule.batch, loss=loss, outputs=outputs,
                                      steps=max(1, round(problem.run.tau * dim)),
                                      range=None if width is None else float(width) / stretch)  # fmt: skip
        lr, decay = float(rule.lr), float(rule.weight_decay)
        if isinstance(rule, SGD):
            step = lr / (slope * stretch)
            momentum = None if rule.momentum is None else float(rule.momentum)
            return cls(
                dim,
                "sgd",
                step,
                decay * lr / step / dim,
                momentum,
                float(rule.dampening),
                rule.nesterov,
                **shared,
            )
        step = lr / (root * stretch)
        shared |= dict(lr=step, weight_decay=decay * lr / step / dim)
        if isinstance(rule, Signum):
            return cls(dim, "signum", momentum=float(rule.beta), **shared)
        assert isinstance(rule, Adam)
        rule.check_dim(dim)
        betas = float(rule.beta1), 1 - 1 / (dim * float(rule.memory))
        return cls(dim, "adamw", betas=betas, eps=float(rule.eps) * slope / root, **shared)

    def to_dict(self) -> dict[str, Any]:
        """The settings that the optimizer takes, as plain numbers."""
        others = {name for names in _TAKES.values() for name in names} - {*_TAKES[self.optimizer]}
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: value for key, value in record.items() if key not in others and value is not None}


@checked(path=PATH)
def read_settings(path: str | os.PathLike) -> dict[str, Any]:
    """The settings of the first parameter group in the ``state_dict`` of a PyTorch optimizer, saved as JSON.

    Raises
    ------
    InputError
        If the file is missing, is no JSON, or has no parameter groups.
    """
    refuse_special(Path(path), "recipe")
    try:
        group = json.loads(Path(path).read_text(encoding="utf-8"))["param_groups"][0]
        given = {
            key: group[key]
            for key in ("lr", "weight_decay", "momentum", "dampening", "nesterov", "eps")
            if key in group
        }
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a JSON file.") from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise InputError(
            f"{path}: expected the state_dict of a PyTorch optimizer as JSON, with param_groups and their lr; write "
            "json.dumps({'param_groups': optimizer.state_dict()['param_groups']})."
        ) from None
    if "betas" in group:
        given["optimizer"] = "adamw" if group.get("decoupled_weight_decay", True) else "adam"
        if not isinstance(group["betas"], list) or len(group["betas"]) != 2:
            fail("betas", "two numbers", group["betas"], f"correct it in {path}")
        given["betas"] = tuple(finite("betas", beta) for beta in group["betas"])
    else:
        given["optimizer"] = "sgd"
        given["momentum"] = given.get("momentum") or None
    if given["optimizer"] == "sgd":
        given.pop("eps", None)
    for unused in {"momentum", "dampening", "nesterov"} if "betas" in given else ():
        given.pop(unused, None)
    return given
