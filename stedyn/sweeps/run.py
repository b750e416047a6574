"""Sweeps: one problem for each row of a table, computed by any executor, each result in a file of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from ..checks import PATH, checked, fail, several, whole
from ..files.report import write_csv
from ..files.tables import DEFAULT_TABLES
from ..files.whole import write_atomic
from ..machine import cores
from .rows import (
    Outcome,
    Row,
    bug,
    check_rows,
    compute,
    read_cells,
    read_result,
    summary,
    write_result,
)
from .workers import compute_all

if TYPE_CHECKING:
    import pandas as pd

    from ..problem.problem import Problem

SUMMARY = "sweep.csv"


@checked(out=PATH, executor=Executor)
def sweep(
    table: str | os.PathLike | pd.DataFrame | Iterable[dict[str, Any]],
    problem: Problem | str | os.PathLike | None = None,
    *,
    out: str | os.PathLike,
    what: str = "predict",
    executor: Executor | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Compute one problem for each row of a table; what is in ``out`` already is not computed again.

    The columns are keys of a problem file, such as ``weights.range`` or ``rule.lr``, which are laid over
    ``problem``, and ``what``, ``law``, ``dim``, ``seeds``, ``seed``. An empty cell changes nothing. All rows
    are checked before any is computed.

    Parameters
    ----------
    table : path, DataFrame or list of dicts
        The rows; a path is a CSV file.
    problem : Problem, path or None
        What the rows change; setting R1 (2-bit weights and inputs) by default.
    out : path
        Folder for ``HASH.json``, one file for each problem, and the summary ``sweep.csv``. The hash is that of all
        that a result depends on (``docs/errors.md``): equal rows share a file, and a row may be moved.
    what : {"predict", "simulate", "compare", "fixed-point"}
        What is computed, unless the row says so.
    executor : concurrent.futures.Executor, optional
        Where rows are computed, such as ``dask.distributed.Client(...).get_executor()``; stedyn has to be
        installed there. By default processes of this machine,
        which are spawned: a script calls this below ``if __name__ == "__main__":``.
    workers : int, optional
        Number of these processes, by default one for each core; 1 means none but this one.
    progress : bool
        Whether to show a progress bar on stderr.

    Returns
    -------
    DataFrame
        What ``sweep.csv`` holds: ``row``, the cells, ``failure`` (one sentence, or None; a bug also leaves
        ``HASH.traceback.txt``), ``file``, and the
        single values of the result, of learning curves the last.

    Raises
    ------
    ValueError
        For the first fault in the table, with its row and column; nothing has been computed then.
    OSError
        If ``out`` cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> rows = [{"weights.range": 1.0, "run.tau": 2.0, "run.points": 3, "law": "fluid"}]
    >>> frame = sweep(rows, out=tempfile.mkdtemp(), workers=1)
    >>> frame["failure"].tolist()
    [None]
    """
    return carried_out(planned(table, problem, out=out, what=what, workers=workers), executor, progress)


class Plan(NamedTuple):
    """A sweep that is checked but not begun: all rows, those of which nothing is there yet, folder, processes."""

    rows: list[Row]
    missing: list[Row]
    out: Path
    workers: int

    @property
    def distinct(self) -> int:
        """Number of different rows."""
        return len({row.key for row in self.rows})


def planned(table, problem, *, out, what: str, workers: int | None) -> Plan:
    """The arguments of `sweep`, checked."""
    workers = whole("workers", cores() if workers is None else workers, 1)
    source, cells = _cells(table)
    rows = check_rows(source, cells, *_base(problem), what)
    distinct = {row.key: row for row in reversed(rows)}  # of equal rows the first
    missing = [row for row in reversed(distinct.values()) if read_result(row, Path(out)) is None]
    return Plan(rows, missing, Path(out), max(1, min(workers, len(missing))))


def carried_out(plan: Plan, executor: Executor | None, progress: bool) -> pd.DataFrame:
    """Compute the missing rows, and summarize all."""
    rows, missing, out, workers = plan
    out.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    total = plan.distinct
    with tqdm(total=total, initial=total - len(missing), unit="row", disable=not progress) as bar:
        for row, failure in _computed(missing, out, executor, workers):
            if failure is not None:
                failures[row.key] = failure
            bar.update()
    return _summary(rows, out, failures)


def _cells(table: Any) -> tuple[str, list[dict[str, Any]]]:
    """A name for messages, and the rows without their empty cells."""
    if isinstance(table, (str, os.PathLike)):
        return str(table), read_cells(Path(table))
    if hasattr(table, "to_dict"):
        table = table.to_dict("records")
    rows = several("table", table)
    for row in rows:
        if not isinstance(row, dict):
            fail("table", "a dictionary for each row", row, "write {'rule.lr': 0.1}")
    plain = [{str(key): _plain(value) for key, value in row.items()} for row in rows]
    return "table", [{key: value for key, value in row.items() if value is not None} for row in plain]


def _plain(value: Any) -> Any:
    """A cell as a problem file could hold it; None if it is empty."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if value is None or value != value else value  # nan marks a missing cell of a DataFrame


def _base(problem: Any) -> tuple[dict[str, Any], Path]:
    """The tables that the rows change, and the folder of their relative paths."""
    from ..files.problems import read_tables
    from ..files.writing import problem_to_dict

    if problem is None:
        return DEFAULT_TABLES, Path()
    if isinstance(problem, (str, os.PathLike)):
        return read_tables(problem), Path(problem).parent
    return problem_to_dict(problem), Path()


def _computed(rows: list[Row], out: Path, executor: Executor | None, workers: int):
    """Compute and write the rows; give each, with the sentence of its failure, as it is done."""
    if not rows:
        return
    if executor is not None:
        yield from _parallel(rows, out, executor, 1)
    elif workers > 1:
        jobs = [row.job for row in rows]
        for k, outcome in compute_all(compute, jobs, workers, max(1, cores() // workers)):
            if isinstance(outcome, BrokenProcessPool):
                outcome = Outcome(None, "its process was killed twice, perhaps for want of memory")
            yield _kept(rows[k], out, bug(outcome) if isinstance(outcome, Exception) else outcome)
    else:
        for row in rows:
            yield _kept(row, out, compute(row.job, cores()))


def _parallel(rows: list[Row], out: Path, executor: Executor, threads: int):
    futures = {executor.submit(compute, row.job, threads): row for row in rows}
    try:
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except Exception as error:  # a worker that died, or that lacks stedyn
                outcome = bug(error)
            yield _kept(futures[future], out, outcome)
    finally:
        for future in futures:
            future.cancel()


def _kept(row: Row, out: Path, outcome: Outcome) -> tuple[Row, str | None]:
    """Write the result, or the traceback of a bug; an old traceback goes."""
    log = row.log(out)
    log.unlink(missing_ok=True)
    if outcome.record is not None:
        write_result(row, out, outcome.record)
    if outcome.traceback is None:
        return row, outcome.failure
    write_atomic(log, outcome.traceback)
    return row, f"{outcome.failure} (traceback in {log})"


def _summary(rows: list[Row], out: Path, failures: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    lines = []
    for row in rows:
        record = read_result(row, out)
        failure = failures.get(row.key) if record is None else None
        line = {"row": row.number, **row.cells, "what": row.job["what"], "failure": failure}
        line["file"] = None if record is None else row.file(out).name
        lines.append(line | summary(record or {}))
    frame = pd.DataFrame(lines)
    write_csv(out / SUMMARY, frame)
    return frame
