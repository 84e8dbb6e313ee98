"""`output/runs.csv`: the table of runs, one row per finished run."""

from __future__ import annotations

import csv
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files.CsvFile import write_rows
from MLPipeline.files.ErrnoHints import errno_hint
from MLPipeline.files.Json import read_json
from MLPipeline.files.PlainFile import read_bytes
from MLPipeline.files.PlainValues import is_text
from MLPipeline.files.RunFolder import METRICS_FILE, RUNS_TABLE, Run, locked_output

Row = dict[str, Any]  # the cells of a run by the names of their columns: texts, and figures as float

_TEXTS = ("run", "model", "weights")
_SHARES = ("val_accuracy", "test_accuracy")
_FIGURES = (*_SHARES, "test_images", "seconds")
_RUN_NAME = re.compile(r"\d{3,}-.+")
_MAX_BYTES = 64 * 10**6

logger = logging.getLogger(__name__)


def record_run(output: Path, run: Run, metrics: Mapping[str, Any], seconds: float) -> None:
    """Add the row of `run` to `output/runs.csv`; safe if other runs do so at the same time.

    Raises:
        ResourceError: the table cannot be written, or it is locked by another run.
    """
    table = output / RUNS_TABLE
    row = _row_of(run, metrics, seconds)
    with locked_output(output):
        rows = [*_other_runs(table, run.path.name), row]
        columns = list(dict.fromkeys(name for each in rows for name in each))
        write_rows(table, columns, ([each.get(name) for name in columns] for each in rows))


def read_runs(output: Path) -> list[Row]:
    """Return `output/runs.csv` with one row per run, in the columns that `record_run` writes; empty without that file.

    Rows that are damaged are left out, which is logged; figures that are no numbers become NaN.

    Raises:
        DataError: the file is not a table of runs.
        ResourceError: it cannot be read.
    """
    table = output / RUNS_TABLE
    if not os.path.lexists(table):
        return []
    try:
        rows = _read_rows(table)
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(cause := error.__cause__ or error, OSError):  # the table may be good
            what = f"{table}: cannot be read ({cause.strerror or cause})"
            raise ResourceError(what, errno_hint(cause, "Give another --output")) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{table}: is not a table of runs ({reason})", "Move it away; a new one is written") from error
    sound = {row["run"]: row for row in rows if _is_sound(row)}  # the last row of a run counts
    if number := len(rows) - len(sound):
        logger.warning("%s: %d of %d rows are damaged and left out", table, number, len(rows))
    return list(sound.values())


def finished_row(run: Run, rows: Mapping[str, Row]) -> Row | None:
    """Return the row of `run`, in the columns that `read_runs` gives; None if it has not finished.

    It is made from the run's own `metrics.json`: a row of the table, of which `rows` has the last one of each name, may
    be that of a run that was deleted, and runs that were renamed or come from another machine have none. Where that
    file is damaged, the row of the table counts.
    """
    file = run.path / METRICS_FILE
    if not os.path.lexists(file):
        return None
    with suppress(ValueError, KeyError, TypeError):
        metrics = read_json(file)
        row = _row_of(run, metrics, metrics["timing"]["total_s"])
        row |= {name: _number(row[name]) for name in _FIGURES}
        if all(map(is_text, (row[name] for name in _TEXTS))) and _is_sound(row):
            return row
    return rows.get(run.path.name)


def _row_of(run: Run, metrics: Mapping[str, Any], seconds: float) -> Row:
    row = {"run": run.path.name, "model": metrics["model"], "weights": metrics["weights"]["kind"]}
    for split in ("val", "test"):
        row |= {f"{split}_accuracy": metrics[split]["accuracy"], f"{split}_images": metrics[split]["n"]}
    row |= {"macro_f1": metrics["test"]["macro_f1"], "baseline_accuracy": metrics["baseline_accuracy"]}
    return row | {"seconds": seconds}


def _read_rows(table: Path) -> list[Row]:
    """Return all rows of the table.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, not UTF-8, or lacks columns.
        csv.Error: it is not CSV.
    """
    lines = read_bytes(table, _MAX_BYTES).decode("utf-8-sig").splitlines(keepends=True)
    header, *rows = list(csv.reader(lines, strict=True)) or [[]]
    if missing := [name for name in (*_TEXTS, *_FIGURES) if name not in header]:
        raise ValueError(f"it lacks the column {missing[0]}")
    return [_row(header, cells) for cells in rows if cells]


def _row(header: Sequence[str], cells: Sequence[str]) -> Row:
    row: Row = dict(zip(header, cells, strict=False))
    return row | {name: _number(row.get(name, "")) for name in header if name not in _TEXTS}


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (ValueError, TypeError, OverflowError):
        return math.nan


def _is_sound(row: Row) -> bool:
    is_named = all(row.get(name) for name in _TEXTS) and _RUN_NAME.fullmatch(row["run"])
    shares = [row[name] for name in _SHARES if not math.isnan(row[name])]
    return bool(is_named) and math.isfinite(row["seconds"]) and all(0 <= share <= 1 for share in shares)


def _other_runs(table: Path, name: str) -> list[Row]:
    """Return the rows of all runs except `name`; a damaged table is renamed, so that a new one can be written."""
    try:
        rows = read_runs(table.parent)
    except DataError as error:
        renamed = table.with_name(table.name + ".damaged")
        os.replace(table, renamed)
        logger.warning("%s; renamed to %s", error.what, renamed)
        return []
    return [row for row in rows if row["run"] != name]
