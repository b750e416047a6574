"""Asking before a job that takes hours, or more memory than there is."""

import sys
import time
from collections.abc import Callable, Sequence

import typer

from ..checks import InputError

#: Seconds from which on a job is announced.
LONG = 3600.0
#: Seconds from which on its time is named, without a question.
NAMED = 60.0
#: Curves or fixed points from which on one is timed.
MANY = 500


def approve(
    what: str,
    yes: bool,
    *,
    runs: Sequence = (),
    at_once: int = 1,
    count: int = 0,
    one: Callable | None = None,
) -> None:
    """Say what a job will cost if that is much; go on with ``yes``, or when a terminal says so.

    It consists of simulations ``(problem, dim, seeds)`` and of ``count`` computations like ``one``, ``at_once`` of all
    these in processes of their own. Where there are `MANY`, ``one`` is called twice and the second call is timed.

    Raises
    ------
    InputError
        With the numbers, if there is neither.
    """
    from ..checks import whole
    from ..machine import free_memory
    from ..simulation.cost import Cost, cost

    for problem, dim, seeds in runs:
        whole("dim", dim, 2, 2**29)
        whole("seeds", seeds, 1, 2**32)
        problem.rule.check_dim(dim)
    needed, seconds = cost(runs, at_once) if runs else Cost(0.0, 0.0), 0.0
    if count >= MANY and one is not None:
        one()
        begin = time.perf_counter()
        one()
        seconds = count * (time.perf_counter() - begin) / at_once
    agree(needed.seconds + seconds, needed.bytes, free_memory(), what, yes)


def agree(seconds: float, needed: float, free: float, what: str, yes: bool) -> None:
    """Ask about these costs, if they are more than an hour or than the free memory."""
    parts = [f"about {seconds / 3600:.3g} hours"] if seconds > LONG else []
    if needed > free:
        parts.append(f"about {needed / 2**30:.3g} GiB of memory, of which {free / 2**30:.3g} GiB are free")
    if not parts:
        if seconds > NAMED:
            print(f"stedyn: {what} will take about {seconds / 60:.2g} minutes.", file=sys.stderr)
        return
    sentence = f"{what} will take {' and '.join(parts)}"
    if yes:
        print(f"stedyn: {sentence}.", file=sys.stderr)
    elif not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(f"{sentence}; make it smaller, or give --yes to go on.")
    elif not typer.confirm(f"{sentence}. Go on?", err=True):
        raise InputError(f"{sentence}; nothing was computed.")
