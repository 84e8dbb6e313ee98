"""`output/runs.csv`: the table of runs, one row per finished run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files.CsvFile import write_csv
from MLPipeline.files.ErrnoHints import errno_hint
from MLPipeline.files.RunFolder import RUNS_TABLE, Run, locked_output

logger = logging.getLogger(__name__)


def record_run(output: Path, run: Run, metrics: Mapping[str, Any], seconds: float) -> None:
    """Add the row of `run` to `output/runs.csv`; safe if other runs do so at the same time.

    Raises:
        ResourceError: the table cannot be written, or it is locked by another run.
    """
    table = output / RUNS_TABLE
    row = {"run": run.path.name, "model": metrics["model"], "weights": metrics["weights"]["kind"]}
    for split in ("val", "test"):
        row |= {f"{split}_accuracy": metrics[split]["accuracy"], f"{split}_images": metrics[split]["n"]}
    row |= {"macro_f1": metrics["test"]["macro_f1"], "baseline_accuracy": metrics["baseline_accuracy"]}
    with locked_output(output):
        rows = _other_runs(table, run.path.name)
        write_csv(pd.concat([rows, pd.DataFrame([row | {"seconds": seconds}])]), table)


def read_runs(output: Path) -> pd.DataFrame:
    """Return `output/runs.csv` with one row per run; empty if there is no such file.

    Raises:
        DataError: the file is not a table of runs.
        ResourceError: it cannot be read.
    """
    table = output / RUNS_TABLE
    try:
        rows = pd.read_csv(table)
    except FileNotFoundError:
        return pd.DataFrame()
    except (ValueError, IsADirectoryError) as error:
        raise DataError(f"{table}: is not a table of runs", "Move it away; a new one is written") from error
    except OSError as error:  # the table may be good
        what = f"{table}: cannot be read ({error.strerror or error})"
        raise ResourceError(what, errno_hint(error, "Give another --output")) from error
    if "run" not in rows:
        raise DataError(f"{table}: is not a table of runs", "Move it away; a new one is written")
    return rows


def _other_runs(table: Path, name: str) -> pd.DataFrame:
    """Return the rows of all runs except `name`; a damaged table is renamed, so that a new one can be written."""
    try:
        rows = read_runs(table.parent)
    except DataError as error:
        renamed = table.with_name(table.name + ".damaged")
        os.replace(table, renamed)
        logger.warning("%s; renamed to %s", error.what, renamed)
        return pd.DataFrame()
    return rows[rows["run"] != name] if len(rows) else rows
