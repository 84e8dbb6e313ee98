"""`audit.html`: the results of an audit with the pictures concerned, on one self-contained page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from MLPipeline.audit.Audit import Audit, forecast_line
from MLPipeline.audit.Findings import Finding
from MLPipeline.audit.Judgement import LearningCurve
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.files.CsvFile import cell_text
from MLPipeline.files.TableFile import cell_key
from MLPipeline.images.Fixes import Cells, Fix, row_cells
from MLPipeline.report.Page import write_page
from MLPipeline.report.Thumbnails import Thumbnail, embed

MAX_SHOWN = {"pairs": 12, "pictures": 24, "table": 100}  # audit.csv has all
NUM_SUSPECTS = 120
WITHOUT_PICTURES = ("proportions", "unreadable", "left-out", "small-class")
MAX_BYTES = 12 * 2**20  # of all pictures together
LEFT, RIGHT, TOP, BOTTOM = 44, 390, 12, 196  # the plot inside its picture of 400 x 230


@dataclass(frozen=True)
class CurveChart:
    """Where the lines of the learning curve lie, in a picture of 400 x 230, y pointing down."""

    measured: str  # "x,y x,y ..."
    band: str  # the outline of its interval
    forecast: str
    forecast_band: str
    dots: tuple[tuple[float, float, str], ...]  # x, y, and what a pointer resting there reads
    x_ticks: tuple[dict[str, Any], ...]
    y_ticks: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Suspect:
    """An image whose label looks wrong, and what is chosen for it on the page."""

    fix: Fix
    cells: Cells  # its row of fixes.csv
    label: str  # the cell of the label that is chosen at first: the one it has, or that of an earlier decision


def write_audit_page(page: Path, audit: Audit, fixes: Path, decided: Sequence[Cells] = ()) -> None:
    """Write what was found to `page`, where labels can be corrected and saved as a new table of fixes.

    Args:
        page: the file.
        audit: what was found.
        fixes: the table of label corrections.
        decided: its rows that were decided before this audit; the new table has them, too.

    Raises:
        ResourceError: it cannot be written.
    """
    layouts = {each.name: _layout(each) for each in audit.findings}
    shown = {each.name: each.examples[: MAX_SHOWN[layouts[each.name]]] for each in audit.findings}
    suspects, kept = _suspects(audit.fixes[:NUM_SUSPECTS], decided)
    paths = [path for examples in shown.values() for example in examples for path in example.paths]
    paths = list(dict.fromkeys([*paths, *(each.fix.path for each in suspects)]))
    curve, classes = audit.judgement.curve, audit.index.classes
    files = [audit.index.root / path for path in paths]
    photos = embed(files, MAX_BYTES, preprocessing=Preprocessing(levels=audit.levels))
    counts = np.bincount(audit.index.labels, minlength=len(classes)).tolist()
    content = {
        "audit": audit,
        "root": str(audit.index.root),
        "written": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "classes": classes,
        "counts": sorted(zip(classes, counts, strict=True), key=lambda each: -each[1]),
        "num_images": len(audit.index),
        "shown": shown,
        "layouts": layouts,
        "photos": dict.fromkeys(paths, Thumbnail("")) | dict(zip(paths, photos, strict=False)),  # not all may fit
        "suspects": suspects,
        "kept": kept,
        "class_cells": [cell_text(name) for name in classes],
        "fixes": str(fixes),
        "chart": curve_chart(curve) if curve else None,
        "forecast": forecast_line(curve, classes) if curve else "",
        "command": f"python Engine.py --data {shlex.quote(str(audit.index.root))} --fixes {shlex.quote(str(fixes))}",
    }
    write_page(page, "audit.html.jinja", content)


def _suspects(fixes: Sequence[Fix], decided: Sequence[Cells]) -> tuple[list[Suspect], list[Cells]]:
    """Return the suspects to show, and the decided rows of other images."""
    earlier = {cell_key(row["path"]): row for row in decided}
    suspects = []
    for fix in fixes:
        cells = row_cells(fix)
        row = earlier.pop(cell_key(fix.path), cells)
        suspects.append(Suspect(fix, cells | {"given": row["given"]}, row["label"]))
    return suspects, list(earlier.values())


def _layout(finding: Finding) -> str:
    """Return how the examples of `finding` are shown: as pairs or single pictures, or as rows of a table."""
    if finding.name in WITHOUT_PICTURES or not finding.examples[0].paths:
        return "table"
    return "pairs" if len(finding.examples[0].paths) == 2 else "pictures"


def curve_chart(curve: LearningCurve) -> CurveChart:
    """Return the lines of a learning curve over the number of images, each step to the right twice as many."""
    numbers = [*curve.num_images.tolist(), 2 * int(curve.num_images[-1])]
    low, high = (np.append(bounds, end) for bounds, end in zip(curve.interval, curve.overall.interval, strict=True))
    middle = np.append(curve.accuracy, curve.overall.then)
    bottom, top = np.floor(10 * low.min()) / 10, np.ceil(10 * high.max()) / 10
    xs = np.linspace(LEFT + 12, RIGHT - 12, len(numbers)).round(1).tolist()

    def y(share: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (share - bottom) / (top - bottom), 1)

    def points(places: Sequence[int], values: np.ndarray) -> str:
        return " ".join(f"{xs[k]},{y(float(values[k]))}" for k in places)

    known, beyond = list(range(len(numbers) - 1)), [len(numbers) - 2, len(numbers) - 1]
    step = 0.1 if top - bottom < 0.55 else 0.2
    levels = np.arange(bottom, top + step / 2, step)
    texts = [
        f"{number:,} images: {100 * share:.1f} % ({100 * one:.1f} to {100 * other:.1f})"
        for number, share, one, other in zip(numbers, middle, low, high, strict=True)
    ]
    return CurveChart(
        measured=points(known, middle),
        band=f"{points(known, high)} {points(known[::-1], low)}",
        forecast=points(beyond, middle),
        forecast_band=f"{points(beyond, high)} {points(beyond[::-1], low)}",
        dots=tuple((x, y(float(share)), text) for x, share, text in zip(xs, middle, texts, strict=True)),
        x_ticks=tuple({"at": x, "label": f"{number:,}"} for x, number in zip(xs, numbers, strict=True)),
        y_ticks=tuple({"at": y(float(level)), "label": f"{100 * level:.3g} %"} for level in levels),
    )
