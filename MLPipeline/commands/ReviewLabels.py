"""`python Engine.py label --review RUN`: the mistakes of a run and the suspects of the audit, decided on a page."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from MLPipeline.commands.LabelPlaces import fixes_file
from MLPipeline.Config import DEFAULT_DATA, Config, read_settings
from MLPipeline.console.Console import note, say
from MLPipeline.Errors import DataError, UsageError
from MLPipeline.files.Json import read_json
from MLPipeline.files.RunFolder import SETTINGS_FILE, Run, find_run, recorded_data
from MLPipeline.files.TableFile import TableFile, plain_cell
from MLPipeline.images.Fixes import Fix, read_fixes
from MLPipeline.images.ImageWalk import natural_order
from MLPipeline.images.RunSplits import spellings
from MLPipeline.labelling.Photographs import Photographs
from MLPipeline.labelling.Review import Review
from MLPipeline.report.ModelCard import AUDIT_SUMMARY
from MLPipeline.serve.Packages import require_web_packages

MAX_MISTAKES = 500
_MAX_SUMMARY_BYTES = 10**7
_COLUMNS = ("path", "true", "predicted", "confidence", "loss")


def review(config: Config) -> None:
    """Show the page on `--host` and `--port` until a signal comes.

    Raises:
        UsageError: there is no such run, or the decisions would be written where nothing may be.
        DataError: the run has no predictions, or its images are gone.
        ResourceError: a package is missing, the port is in use, or the decisions cannot be written.
        Interrupted: a signal has come.
    """
    require_web_packages("label")
    from MLPipeline.labelling.LabelPage import label_api
    from MLPipeline.serve.Server import listen

    run = find_run(config.output, config.review)
    settings = read_settings(run.path / SETTINGS_FILE)
    root = next((each for each in _folders(run, settings) if each.is_dir()), None)
    if root is None:
        raise DataError(f"{run.path}: its images are gone", "Put them back")
    suspects = _suspects(config, run, root)
    photographs = Photographs(root, tuple(suspects), ())
    file = fixes_file(config, root, run.path.name)
    command = shlex.join(["python", "Engine.py", "--config", str(run.path / SETTINGS_FILE), "--fixes", str(file)])
    desk = Review(photographs, _classes(run), list(suspects.values()), file)
    with listen(config.host, config.port, config.token) as server, desk.opened(_earlier(settings)):
        say(f"review   {run.path}: {len(suspects):,} labels")
        say(f"fixes    {file}")
        say(f"train    {command}")
        server.run(label_api(desk, run.path.name, command, is_review=True), open_browser=config.open)


def _suspects(config: Config, run: Run, root: Path) -> dict[str, Fix]:
    """Return the suspects of the audit, then the mistakes of the run, by the path that the image is found at.

    Raises:
        DataError: there are none, or the run has no predictions.
    """
    found: dict[str, Fix] = {}
    for fix in [*_audited(config.output / "audit", root), *_mistakes(run.path / "predictions.csv")]:
        if name := next((each for each in spellings(fix.path) if os.path.isfile(root / each)), None):
            found.setdefault(name, fix)
    if not found:
        raise DataError(f"{run.path}: no label of its images looks wrong", "Run `audit` to check all of them")
    return found


def _classes(run: Run) -> list[str]:
    table = TableFile(run.path / "splits.csv", "--review")
    return sorted({plain_cell(name) for _, (name,) in table.rows([table.header.index("class")])}, key=natural_order)


def _earlier(settings: dict[str, Any]) -> Path | None:
    """Return the corrections that the run was trained with, if they are still there."""
    if not (fixes := settings.get("fixes")):
        return None
    if not os.path.isfile(fixes):
        note(f"{fixes}, the corrections that the run was trained with, is gone")
        return None
    return Path(fixes)


def _folders(run: Run, settings: dict[str, Any]) -> list[Path]:
    """Return where the images of the run may be."""
    recorded, typed = recorded_data(run.path), Path(settings.get("data") or DEFAULT_DATA)
    return [recorded, typed] if recorded else [typed]


def _mistakes(table: Path) -> list[Fix]:
    """Return the misclassified validation and test images of a run, those with the highest loss first.

    Raises:
        DataError: the run has no predictions.
    """
    try:
        opened = TableFile(table, "--review")
        columns = [opened.header.index(name) for name in _COLUMNS]
    except (UsageError, ValueError) as error:
        raise DataError(f"{table}: cannot be read as predictions", "Give a finished run") from error
    found = []
    for _, (path, true, predicted, confidence, loss) in opened.rows(columns):
        if true != predicted:
            given, suggested = plain_cell(true), plain_cell(predicted)
            found.append((float(loss), Fix(plain_cell(path), given, given, suggested, float(confidence))))
    return [fix for _, fix in sorted(found, key=lambda each: -each[0])[:MAX_MISTAKES]]


def _audited(folder: Path, root: Path) -> list[Fix]:
    """Return the labels that look wrong to an audit of the same images; none if there is no such audit."""
    try:
        summary = read_json(folder / AUDIT_SUMMARY, _MAX_SUMMARY_BYTES)
        if Path(summary["data"]) == root.resolve():
            return [fix for fix in read_fixes(folder / "fixes.csv") if fix.label == fix.given]
    except (UsageError, ValueError, KeyError, TypeError):
        pass
    return []
