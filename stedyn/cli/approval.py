"""Asking before a job that takes hours, or more memory than there is."""

import sys

import typer

from ..checks import InputError

#: Seconds from which on a job is announced.
LONG = 3600.0


def approve(problem, dim: int, seeds: int, yes: bool, runs: int = 1) -> None:
    """Say what a simulation will cost if that is much; go on with ``yes``, or when a terminal says so.

    Raises
    ------
    InputError
        With the numbers, if there is neither.
    """
    from ..checks import whole
    from ..machine import free_memory
    from ..simulation.cost import cost

    whole("dim", dim, 2, 2**29)
    whole("seeds", seeds, 1, 2**32)
    problem.rule.check_dim(dim)
    needed, free = cost(problem, dim=dim, seeds=seeds), free_memory()
    agree(
        needed.seconds * runs,
        needed.bytes,
        free,
        f"{seeds} seeds of d = {dim} to tau = {problem.run.tau:g}",
        yes,
    )


def agree(seconds: float, needed: float, free: float, what: str, yes: bool) -> None:
    """Ask about these costs, if they are more than an hour or than the free memory."""
    parts = [f"about {seconds / 3600:.3g} hours"] if seconds > LONG else []
    if needed > free:
        parts.append(f"about {needed / 2**30:.3g} GiB of memory, of which {free / 2**30:.3g} GiB are free")
    if not parts:
        return
    sentence = f"{what} will take {' and '.join(parts)}"
    if yes:
        print(f"stedyn: {sentence}.", file=sys.stderr)
    elif not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(f"{sentence}; make it smaller, or give --yes to go on.")
    elif not typer.confirm(f"{sentence}. Go on?", err=True):
        raise InputError(f"{sentence}; nothing was computed.")
