"""`report.html` of a run: how good, how sure, where wrong and why, on one self-contained page."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from MLPipeline.Config import Config
from MLPipeline.Evaluate import SplitPredictions
from MLPipeline.images.ImageWalk import Skipped, count_reasons
from MLPipeline.images.Preprocessing import PLAIN, Preprocessing
from MLPipeline.images.ScanFolders import SPLITS, VAL, ImageIndex
from MLPipeline.report.Charts import LineChart, confidence_histogram, line_chart, reliability_diagram
from MLPipeline.report.Environment import environment
from MLPipeline.report.Fonts import figure_names
from MLPipeline.report.Gallery import answers_of, gallery_of, samples_of
from MLPipeline.report.MatrixView import most_confused, shaded_rows
from MLPipeline.report.Page import write_page
from MLPipeline.report.Thumbnails import Photo
from MLPipeline.report.Verdict import advice, measures, verdict
from MLPipeline.scoring.Intervals import wilson_interval
from MLPipeline.training.TrainState import EpochRecord
from MLPipeline.Weights import WeightsReport

MAX_MATRIX_CLASSES = 100  # beyond, only the most confused pairs are listed
MAX_FILES_LISTED = 200
NO_ANSWERS = dict.fromkeys(("matrix", "pairs", "gallery", "histogram", "reliability", "measures"))
SPLIT_NAMES = ("training", "validation", "test")


@dataclass(frozen=True)
class ReportContent:
    """What a run has come to so far; what does not exist is empty, and its section is left out."""

    config: Config
    weights: WeightsReport
    index: ImageIndex  # with what is skipped
    notes: Sequence[Skipped] = ()  # files that are used, but odd
    history: Sequence[EpochRecord] = ()
    scored: Sequence[SplitPredictions] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)  # as `Report.measure` returns them
    timing: Mapping[str, float] = field(default_factory=dict)  # seconds: total_s, features_s
    interrupted: str = ""  # what ended the run early: "stopped by Ctrl-C"
    heat_maps: Mapping[int, np.ndarray] = field(default_factory=dict)  # position in the index -> (H, W, 3) uint8 RGB
    photos: Mapping[Path, Photo] = field(default_factory=dict)  # small pictures that were taken already
    preprocessing: Preprocessing = PLAIN


def write_report(folder: Path, content: ReportContent) -> Path:
    """Return the path of the page that tells people about the run in `folder`.

    Raises:
        ResourceError: it cannot be written.
    """
    page = folder / "report.html"
    write_page(page, "report.html.jinja", _context(folder, content))
    return page


def _context(folder: Path, content: ReportContent) -> dict[str, Any]:
    """Return what `report.html.jinja` needs."""
    index, config = content.index, content.config
    judged = next((each for each in reversed(content.scored) if len(each.positions)), None)
    split = VAL if judged is None else judged.split
    scores = _scores_so_far(content) if judged is None else content.metrics[SPLITS[split]]
    baseline = content.metrics.get("baseline_accuracy") if scores else None
    from_scratch = content.weights.kind == "none"
    best = next((record for record in reversed(content.history) if record.is_best), None)
    return {
        "run": folder.name,
        "written": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "content": content,
        "classes": index.classes,
        "scores": scores,
        "split": SPLIT_NAMES[split],
        "baseline": baseline,
        "verdict": "" if content.interrupted and not scores else verdict(scores, baseline),
        "advice": advice(scores, content.history, config.epochs, from_scratch, len(content.index.skipped)),
        "from_scratch": from_scratch,
        "best": best,
        "curves": _curves(content.history, best),
        **(NO_ANSWERS if judged is None else _on_answers(content, judged, scores or {})),
        "samples": samples_of(index, content.preprocessing),
        "counts": _counts(index),
        "numbered": {shown: name for name, shown in figure_names(index.classes).items() if shown != name},
        "num_images": int((index.splits >= 0).sum()),
        "skipped": content.index.skipped[:MAX_FILES_LISTED],
        "skipped_reasons": count_reasons(content.index.skipped),
        "levels": content.preprocessing.levels.lines() if content.preprocessing.levels else [],
        "notes": Counter(each.reason for each in content.notes).most_common(),
        "settings": {name: value for name, value in asdict(config).items() if value not in (None, (), False)},
        "environment": {
            name: value for name, value in environment().items() if value is not None and name != "command"
        },
        "commands": _commands(folder, content),
    }


def _counts(index: ImageIndex) -> list[list[int]]:
    """Return for each class its numbers of training, validation and test images."""
    labels = [index.labels[index.positions(split)] for split in range(len(SPLITS))]
    return np.stack([np.bincount(each, minlength=len(index.classes)) for each in labels], axis=1).tolist()


def _scores_so_far(content: ReportContent) -> dict[str, Any] | None:
    """Return accuracy on the validation images at the best epoch: all there is of a run that was not scored."""
    best = next((record for record in reversed(content.history) if record.is_best), None)
    num_images = len(content.index.positions(VAL))
    if best is None or math.isnan(best.val_accuracy) or not num_images:
        return None
    interval = wilson_interval(round(best.val_accuracy * num_images), num_images)
    return {"n": num_images, "accuracy": best.val_accuracy, "accuracy_ci95": interval}


def _curves(history: Sequence[EpochRecord], best: EpochRecord | None) -> list[LineChart]:
    epochs, marked = [record.epoch for record in history], best.epoch if best else None
    if not history:
        return []
    both = {"validation": "val", "training": "train"}
    return [
        line_chart(
            name.capitalize(),
            epochs,
            {label: [getattr(record, f"{split}_{name}") for record in history] for label, split in both.items()},
            marked,
            as_share=name == "accuracy",
        )
        for name in ("loss", "accuracy")
    ]


def _on_answers(content: ReportContent, judged: SplitPredictions, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is drawn from the answers to single images."""
    answers, classes = answers_of(judged), content.index.classes
    matrix = np.array(scores["confusion_matrix"])
    return {
        "matrix": shaded_rows(matrix) if len(classes) <= MAX_MATRIX_CLASSES else None,
        "pairs": most_confused(matrix, 12 if len(classes) <= MAX_MATRIX_CLASSES else 60),
        "gallery": gallery_of(
            content.index, answers, content.heat_maps, content.photos, preprocessing=content.preprocessing
        ),
        "histogram": confidence_histogram(answers.confidence, answers.is_right),
        "reliability": reliability_diagram(answers.confidence, answers.is_right),
        "measures": measures(scores),
        "unknown": judged.unknown.to_text() if judged.unknown else "",
    }


def _commands(folder: Path, content: ReportContent) -> list[tuple[str, str]]:
    """Return what one may do next with the run, and the command for it."""
    run, settings = shlex.quote(str(folder)), shlex.quote(str(folder / "config.json"))
    commands = [("Train it again, to the same numbers", f"python Engine.py --config {settings}")]
    if content.history:  # there is a model
        commands = [
            ("Name the class of new images", f"python Engine.py predict IMAGE_OR_FOLDER --run {run}"),
            ("Score it again, or on other labelled folders with --data", f"python Engine.py evaluate --run {run}"),
            *commands,
        ]
    if content.interrupted:
        commands = [("Go on where it stopped", f"python Engine.py --resume {run}"), *commands]
    return commands
