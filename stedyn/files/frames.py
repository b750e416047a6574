"""Tables of text from CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..checks import InputError, fail
from .whole import refuse_special

if TYPE_CHECKING:
    import pandas as pd

MOST_COLUMNS = 1000


def read_frame(path: Path, name: str) -> pd.DataFrame:
    """The cells of a CSV file as text without spaces around it, below a line of names; ``#`` starts a comment.

    ``name`` is what the file is for, for the message of an error.

    Raises
    ------
    InputError
        If the file is missing or is no table.
    """
    import pandas as pd

    refuse_special(path, name)
    try:
        with open(path, encoding="utf-8-sig") as file:
            columns = 1 + file.readline(2**20).count(",")
        if columns > MOST_COLUMNS:
            fail(str(path), f"at most {MOST_COLUMNS} columns", columns, "keep those that say something")
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, comment="#", skipinitialspace=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the name.") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: cannot be read as a table ({reason}); give a CSV file.") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas names a row by the cells before its columns
        fail(str(path), "as many cells in a row as in the first line", "more", "name every column")
    frame.columns = pd.Index([str(column).strip() for column in frame.columns])
    return frame.apply(lambda column: column.str.strip()) if len(frame) else frame
