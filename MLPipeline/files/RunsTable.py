"""`output/runs.csv`: the table of runs, one row per finished run."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files.CsvFile import write_csv
from MLPipeline.files.ErrnoHints import errno_hint
from MLPipeline.files.PlainFile import read_bytes
from MLPipeline.files.RunFolder import RUNS_TABLE, Run, locked_output

if TYPE_CHECKING:  # imported where a table is made: pandas takes 0.3 s
    import pandas as pd

_TEXTS = {"run": str, "model": str, "weights": str}
_SHARES = ("val_accuracy", "test_accuracy")
_FIGURES = (*_SHARES, "test_images", "seconds")
_MAX_BYTES = 64 * 10**6

logger = logging.getLogger(__name__)


def record_run(output: Path, run: Run, metrics: Mapping[str, Any], seconds: float) -> None:
    """Add the row of `run` to `output/runs.csv`; safe if other runs do so at the same time.

    Raises:
        ResourceError: the table cannot be written, or it is locked by another run.
    """
    import pandas as pd

    table = output / RUNS_TABLE
    row = {"run": run.path.name, "model": metrics["model"], "weights": metrics["weights"]["kind"]}
    for split in ("val", "test"):
        row |= {f"{split}_accuracy": metrics[split]["accuracy"], f"{split}_images": metrics[split]["n"]}
    row |= {"macro_f1": metrics["test"]["macro_f1"], "baseline_accuracy": metrics["baseline_accuracy"]}
    with locked_output(output):
        rows = _other_runs(table, run.path.name)
        write_csv(pd.concat([rows, pd.DataFrame([row | {"seconds": seconds}])]), table)


def read_runs(output: Path) -> pd.DataFrame:
    """Return `output/runs.csv` with one row per run, in the columns that `record_run` writes; empty without that file.

    Rows that are damaged are left out, which is logged; figures that are no numbers become NaN.

    Raises:
        DataError: the file is not a table of runs.
        ResourceError: it cannot be read.
    """
    import pandas as pd

    table = output / RUNS_TABLE
    if not os.path.lexists(table):
        return pd.DataFrame()
    try:
        rows = pd.read_csv(io.BytesIO(read_bytes(table, _MAX_BYTES)), dtype=_TEXTS)
        if missing := [name for name in (*_TEXTS, *_FIGURES) if name not in rows]:
            raise ValueError(f"it lacks the column {missing[0]}")
    except (OSError, ValueError) as error:
        if isinstance(cause := error.__cause__ or error, OSError):  # the table may be good
            what = f"{table}: cannot be read ({cause.strerror or cause})"
            raise ResourceError(what, errno_hint(cause, "Give another --output")) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{table}: is not a table of runs ({reason})", "Move it away; a new one is written") from error
    figures = rows[list(_FIGURES)].apply(pd.to_numeric, errors="coerce").astype(float)
    is_sound = rows[list(_TEXTS)].notna().all(axis=1) & rows["run"].str.fullmatch(r"\d{3,}-.+").fillna(False)
    is_sound &= np.isfinite(figures["seconds"]) & ~rows["run"].duplicated(keep="last")
    is_sound &= ~(figures[list(_SHARES)] < 0).any(axis=1) & ~(figures[list(_SHARES)] > 1).any(axis=1)
    if number := int((~is_sound).sum()):
        logger.warning("%s: %d of %d rows are damaged and left out", table, number, len(rows))
    return rows.assign(**{name: figures[name] for name in _FIGURES})[is_sound]


def _other_runs(table: Path, name: str) -> pd.DataFrame:
    """Return the rows of all runs except `name`; a damaged table is renamed, so that a new one can be written."""
    import pandas as pd

    try:
        rows = read_runs(table.parent)
    except DataError as error:
        renamed = table.with_name(table.name + ".damaged")
        os.replace(table, renamed)
        logger.warning("%s; renamed to %s", error.what, renamed)
        return pd.DataFrame()
    return rows[rows["run"] != name] if len(rows) else rows
