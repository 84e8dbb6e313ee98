"""`python Engine.py runs`: lists the runs in the output folder, oldest first, and marks the best."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from MLPipeline.Config import Config, read_settings
from MLPipeline.console.Console import say
from MLPipeline.Errors import UsageError
from MLPipeline.files.Destination import Reserved
from MLPipeline.files.PlainFile import open_regular
from MLPipeline.files.RunFolder import METRICS_FILE, Run, list_runs
from MLPipeline.files.RunsTable import finished_row, read_runs
from MLPipeline.files.TableFile import TableFile

_RECORDED = ("path", "class", "digest", "split")  # of splits.csv
_LARGE_BYTES = 2**24
_SPLITTING = ("data", "labels", "split_folders", "fixes", "seed", "test_fraction", "group")


def run(config: Config) -> None:
    """Print one line per run: folder, end time, model, weights, validation and test accuracy, and duration.

    A star marks the highest test accuracy among runs with the same test images.

    Raises:
        UsageError: the output folder is a file, or a link that leads nowhere.
        DataError: the table of runs is damaged.
    """
    Reserved([]).check_folder("--output", config.output)
    table = {row["run"]: row for row in read_runs(config.output)}
    runs = list_runs(config.output)
    rows = {run.path.name: row for run in runs if (row := finished_row(run, table))}
    if not runs:
        say(f"{config.output} has no runs yet. Train one: python Engine.py --model resnet50")
        return
    best = _best(runs, rows)
    names = max(len("run"), *(len(run.path.name) for run in runs))
    models = max(len("model"), *(len(str(row["model"])) for row in rows.values()), 0)
    say(f"{'run':{names}}  {'ended':16}  {'model':{models}}  weights       val     test    minutes")
    for run in runs:
        if row := rows.get(run.path.name):
            val, test = (_percent(row[f"{split}_accuracy"]) for split in ("val", "test"))
            star = "*" if run.path.name in best else " "
            say(
                f"{run.path.name:{names}}  {_ended(run):16}  {row['model']:{models}}  {row['weights']:8}"
                f"  {val}  {test} {star}  {row['seconds'] / 60:7.1f}"
            )
        else:
            say(f"{run.path.name:{names}}  not finished")
    if best:
        say("* best on the same test images; is the difference significant? python Engine.py compare R1 R2")


def _best(runs: Sequence[Run], rows: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the names of the runs with the highest test accuracy among at least two with the same test images."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for run in runs:
        row = rows.get(run.path.name)
        if row and row["test_accuracy"] == row["test_accuracy"]:  # not NaN: there are test images
            groups.setdefault(_test_images(run, row), []).append(row)
    highest = {key: max(row["test_accuracy"] for row in group) for key, group in groups.items() if len(group) > 1}
    return {row["run"] for key, top in highest.items() for row in groups[key] if row["test_accuracy"] == top}


def _test_images(run: Run, row: Mapping[str, Any]) -> tuple:
    """Return a key that is equal for runs with the same test images."""
    with contextlib.suppress(UsageError):
        settings = read_settings(run.path / "config.json")
        recorded = _recorded(run, are_all_tested=bool(settings.get("folds")))
        return row["test_images"], recorded, *(str(settings.get(name)) for name in _SPLITTING)
    return (run.path.name,)  # without settings or images, it is not compared with other runs


def _recorded(run: Run, are_all_tested: bool) -> str:
    """Return a hash of the paths, classes and contents of the test images: a file may have been replaced since.

    Of a large table, which takes seconds to parse, it is that of the whole content.

    Raises:
        UsageError: the run has no record of its images.
    """
    table, state = TableFile(run.path / "splits.csv", ""), hashlib.blake2b(digest_size=16)
    with open_regular(table.file) as file:
        if os.fstat(file.fileno()).st_size > _LARGE_BYTES:
            for block in iter(lambda: file.read(2**20), b""):
                state.update(block)
            return state.hexdigest()
    if "split" not in table.header:
        raise table.unreadable("it lacks the column split")
    columns = [table.header.index(name) for name in _RECORDED if name in table.header]
    for _, cells in table.rows(columns):
        if are_all_tested or cells[-1] == "test":
            state.update("\0".join(cells).encode() + b"\n")
    return state.hexdigest()


def _ended(run: Run) -> str:
    """Return the time at which a run ended (its metrics are written last): `2026-11-22 14:05`."""
    try:
        ended = (run.path / METRICS_FILE).stat().st_mtime
    except OSError:
        return "-"
    return datetime.fromtimestamp(ended).strftime("%Y-%m-%d %H:%M")


def _percent(value: float) -> str:
    return f"{100 * value:5.1f} %" if value == value else "      -"
