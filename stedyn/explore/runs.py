"""Simulations beside the page: a thread, its progress, and how it is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..checks import Failure, InputError
from ..machine import free_memory
from ..problem.problem import Problem
from ..simulation import Interrupted, simulate
from ..simulation.cost import cost
from .answers import Refused, shown_run

#: Most weights that are kept for the histograms: runs times dimension times saved times.
MOST_KEPT = 5 * 10**7


class Simulation:
    """Runs of one problem in a thread; ``told`` gets the part that is done, ``ended`` the ensemble or a `Refused`.

    Both are called from that thread. A cancelled run ends with what all its seeds have reached, or with None.
    """

    def __init__(
        self,
        problem: Problem,
        dim: int,
        seeds: int,
        told: Callable[[float], None],
        ended: Callable[[Any], None],
    ):
        self._problem, self._dim, self._seeds = shown_run(problem), dim, seeds
        self._told, self._ended, self._stopped = told, ended, threading.Event()
        threading.Thread(target=self._run, name="stedyn-simulate", daemon=True).start()

    def cancel(self) -> None:
        """Stop at the next turn of the loop, some tenths of a second later."""
        self._stopped.set()

    def _tell(self, part: float) -> None:
        if self._stopped.is_set():
            raise KeyboardInterrupt
        self._told(part)

    def _run(self) -> None:
        problem, taus = self._problem, self._problem.taus
        try:
            self._check()
            few = self._dim * self._seeds * len(taus) <= MOST_KEPT
            self._ended(
                simulate(
                    problem,
                    dim=self._dim,
                    seeds=self._seeds,
                    snapshots=taus if few else (),
                    progress=self._tell,
                )
            )
        except Interrupted as stopped:
            self._ended(stopped.ensemble)
        except (InputError, Failure, FloatingPointError) as error:
            self._ended(Refused("simulation", str(error)))
        except BaseException as error:
            self._ended(Refused("simulation", f"The simulation failed: {error!r}"))
            raise

    def _check(self) -> None:
        self._problem.rule.check_dim(self._dim)
        needed, _ = cost([(self._problem, self._dim, self._seeds)], 1)
        if needed > free_memory():
            raise InputError("seeds: these runs need more memory than is free; take fewer or smaller ones.")
