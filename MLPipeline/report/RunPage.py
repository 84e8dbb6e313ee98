"""`report.html` of a run: accuracy, calibration, mistakes, data and settings on one self-contained page."""

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
from markupsafe import Markup

from MLPipeline.Config import Config
from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.Evaluate import SplitPredictions
from MLPipeline.files.AtomicFile import write_text
from MLPipeline.Head import ROOTS
from MLPipeline.heads.SolveHead import NAMES
from MLPipeline.images.ImageWalk import Skipped, count_reasons
from MLPipeline.images.ScanFolders import SPLITS, TEST, VAL, Gap, ImageIndex
from MLPipeline.report.Charts import LineChart
from MLPipeline.report.Drawing import drawing
from MLPipeline.report.Environment import environment
from MLPipeline.report.Fonts import figure_names
from MLPipeline.report.Gallery import answers_of, gallery_of, samples_of
from MLPipeline.report.MatrixView import most_confused, shaded_rows
from MLPipeline.report.Page import count, percent, render
from MLPipeline.report.Report import rule_of
from MLPipeline.report.Thumbnails import Photo
from MLPipeline.report.Verdict import advice, verdict
from MLPipeline.scoring.Intervals import wilson_interval
from MLPipeline.scoring.Metrics import METRICS, shown_metrics, title_of
from MLPipeline.training.Phases import head_epochs
from MLPipeline.training.TrainState import EpochRecord
from MLPipeline.Weights import WeightsReport

MAX_MATRIX_CLASSES = 100  # beyond, only the most confused pairs are listed
MAX_FILES_LISTED = 200
MAX_GAPS_LISTED = 10
NO_ANSWERS = dict.fromkeys(("matrix", "pairs", "gallery", "histogram", "reliability", "figures", "titles"))
SPLIT_NAMES = ("training", "validation", "test")


@dataclass(frozen=True)
class ReportContent:
    """What a run has produced so far; what does not exist is empty, and its section is left out."""

    config: Config
    weights: WeightsReport
    index: ImageIndex  # with what is skipped
    notes: Sequence[Skipped] = ()  # files that are used, but irregular
    history: Sequence[EpochRecord] = ()
    scored: Sequence[SplitPredictions] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)  # as `Report.measure` returns them
    gaps: Sequence[Gap] = ()  # classes that the validation or the test split lacks
    interrupted: str = ""  # what ended the run early: "stopped by Ctrl-C"
    heat_maps: Mapping[int, np.ndarray] = field(default_factory=dict)  # position in the index -> (H, W, 3) uint8 RGB
    photos: Mapping[Path, Photo] = field(default_factory=dict)  # thumbnails that were made already
    preprocessing: Preprocessing = PLAIN


NO_TIMING: Mapping[str, float] = {}
_TIME = Markup("<!-- total time -->")  # its place on a page: no text of a user, which is escaped, can look like it


@dataclass(frozen=True)
class PreparedReport:
    """A rendered page, thumbnails included: only the time is missing."""

    path: Path
    text: str

    def write(self, timing: Mapping[str, float] = NO_TIMING) -> Path:
        """Return the path of the page once it is written; `timing` are seconds: total_s, features_s.

        Raises:
            ResourceError: it cannot be written.
        """
        write_text(self.path, self.text.replace(_TIME, render("timing.html.jinja", timing=timing).strip()))
        return self.path


def prepare_report(folder: Path, content: ReportContent) -> PreparedReport:
    """Return the page about the run in `folder`, ready to be written."""
    return PreparedReport(
        folder / "report.html", render("report.html.jinja", **_context(folder, content), timing=_TIME)
    )


def write_report(folder: Path, content: ReportContent, timing: Mapping[str, float] = NO_TIMING) -> Path:
    """Return the path of the page about the run in `folder`, written.

    Raises:
        ResourceError: it cannot be written.
    """
    return prepare_report(folder, content).write(timing)


def _context(folder: Path, content: ReportContent) -> dict[str, Any]:
    """Return what `report.html.jinja` needs."""
    index, config = content.index, content.config
    evaluated = next((each for each in reversed(content.scored) if len(each.positions)), None)
    split = VAL if evaluated is None else evaluated.split
    scores = _scores_so_far(content) if evaluated is None else content.metrics[SPLITS[split]]
    baseline = content.metrics.get("baseline_accuracy") if scores else None
    return {
        "run": folder.name,
        "written": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "content": content,
        "classes": index.classes,
        "scores": scores,
        "split": split_name(split, content.metrics),
        "baseline": baseline,
        "verdict": "" if content.interrupted and not scores else verdict(scores, baseline),
        **_suggestions(content, scores),
        "from_scratch": content.weights.kind == "none",
        **_on_training(content),
        "folds": _folds(content),
        "baseline_class": content.metrics.get("baseline_class"),
        "gaps": _gap_lines(content, split, scores),
        **(NO_ANSWERS if evaluated is None else _on_answers(content, evaluated, scores or {})),
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


def _on_training(content: ReportContent) -> dict[str, Any]:
    """Return the best epoch, the curves, and the sentences on head, fine-tuning, image size and mirror images."""
    best = next((record for record in reversed(content.history) if record.is_best), None)
    is_tuned = best is not None and best.epoch > head_epochs(content.config)
    head = _head(content.metrics.get("head") or {})
    return {
        "best": best,
        "is_average": is_tuned and bool(content.config.swa),
        "mean_of": mean_of(content.metrics),
        "curves": _curves(content.history, best),
        "tuning": " ".join(filter(None, (head, _tuning(content), _repeats(content), _size(content), _mirror(content)))),
    }


def _tuning(content: ReportContent) -> str:
    """Return the sentences that compare fine-tuning with the head alone; empty without fine-tuning."""
    found = content.metrics.get("fine_tuning")
    if not found:
        return ""
    kept = "fine-tuned weights" if found["kept"] == "fine-tuned" else "head alone"
    return (
        f"Validation loss of the head alone: {found['head_loss']:.4f} (accuracy {percent(found['head_accuracy'])}); "
        f"after fine-tuning: {found['tuned_loss']:.4f} (accuracy {percent(found['tuned_accuracy'])}). "
        f"The {kept} had the lower loss {'and are' if found['kept'] == 'fine-tuned' else 'and is'} saved."
    )


def _size(content: ReportContent) -> str:
    """Return the sentence on the image sizes that were tried; empty where none was."""
    tried = {each["image_size"]: each for each in content.metrics.get("sizes") or []}
    if not tried:
        return ""
    used, trained = content.metrics["image_size"], content.config.image_size
    losses = "; ".join(f"{size}x{size} pixels: {each['val_loss']:.4f}" for size, each in tried.items())
    why = "larger images than in training validate better" if used > trained else "larger images validate no better"
    return f"The model is tested and used at {used}x{used} pixels: {why} (validation loss at {losses})."


def _mirror(content: ReportContent) -> str:
    """Return the sentence on averaging over mirror images; empty where that was not measured."""
    found = content.metrics.get("tta")
    if not found:
        return ""
    if found["refusal"]:
        return f"Mirror images must not be used for predictions: {found['refusal']}."
    low, high = found["difference_ci95"]
    return (
        f"Averaged over each image and its mirror image (--tta, twice the time), {percent(found['tta_accuracy'])} of "
        f"{count(found['num_images'], 'validation image')} are classified correctly instead of "
        f"{percent(found['accuracy'])} (95 % interval of the difference {100 * low:+.1f} to {100 * high:+.1f} points)"
        f"{'' if found['is_better'] else ', which is not significantly better'}."
    )


def split_name(split: int, metrics: Mapping[str, Any]) -> str:
    """Return what the images of an evaluated split are called on a page."""
    return "cross-validated" if split == TEST and metrics.get("folds") else SPLIT_NAMES[split]


def _suggestions(content: ReportContent, scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the run suggests, the learning curve, and remarks on its results."""
    num_skipped = len(content.index.skipped)
    return {
        "next_steps": content.metrics.get("next_steps") or [],
        "learning_curve": _learning_curve(content.metrics.get("learning_curve")),
        "advice": advice(scores, content.history, content.config, num_skipped),
    }


def mean_of(metrics: Mapping[str, Any]) -> str:
    """Return of what the saved weights are the mean: all folds, 2 trainings with different seeds; "" if of nothing."""
    if ((metrics.get("folds") or {}).get("ensemble") or {}).get("is_kept"):
        return "all folds"
    number = len((metrics.get("repeats") or {}).get("averaged", ()))
    return f"{number} trainings with different seeds" if number > 1 else ""


def _folds(content: ReportContent) -> str:
    """Return the sentence on cross-validation; empty without it."""
    found = content.metrics.get("folds")
    if not found:
        return ""
    is_head = found["of"] == "head"
    what, how = ("head", "fitted") if is_head else ("network", "trained")
    left_out = "" if is_head else " The validation images choose the epochs of all folds and are not tested."
    saved = f"The saved model is {how} on all images but the validation images."
    if mean_of(content.metrics):
        saved = "The saved network has the mean weights of the networks of all folds, which validate better."
    return (
        f"The figures are of {count(found['num_images'], 'image')}, each classified once by a {what} {how} without its "
        f"fold ({found['number']} folds).{left_out} {saved} The intervals take into account that the {what}s of the "
        "folds share most of their images (Nadeau and Bengio, 2003)."
    )


def _repeats(content: ReportContent) -> str:
    """Return the sentence on trainings with other seeds; empty without them."""
    found = content.metrics.get("repeats")
    if not found:
        return ""
    losses = ", ".join(f"{loss:.4f}" for loss in found["losses"])
    kept = f"the mean of the weights of {len(found['averaged'])} of them has {found['loss']:.4f} and is saved"
    if len(found["averaged"]) == 1:
        kept = "averaged with the weights of the first, none of the others lowered it"
    return (
        f"Validation loss of {found['number']} trainings with different seeds, of which the first is shown here: "
        f"{losses}; {kept}."
    )


def _head(found: Mapping[str, Any]) -> str:
    """Return the sentence on how the head was chosen; empty for one trained by gradient descent."""
    scored = [f"{NAMES[each['kind']]} {percent(each['accuracy'])}" for each in found.get("out_of_fold", ())]
    if not scored:
        return ""
    chosen = next(each for each in found["out_of_fold"] if each["kind"] == found["chosen"])
    name = NAMES[chosen["kind"]] + (" on the square roots of the features" if found.get("inputs") == ROOTS else "")
    return (
        f"The head is {name}, whose predictions had the lowest loss out of fold: it classified "
        f"{percent(chosen['accuracy'])} of {count(found['num_images'], 'image')} left out correctly"
        + (f" ({', '.join(scored)})." if len(scored) > 1 else ".")
        + (
            " The saved head is the average of the heads of all folds."
            if (found.get("ensemble") or {}).get("is_kept")
            else ""
        )
    )


def _counts(index: ImageIndex) -> list[list[int]]:
    """Return for each class its numbers of training, validation and test images."""
    labels = [index.labels[index.positions(split)] for split in range(len(SPLITS))]
    return np.stack([np.bincount(each, minlength=len(index.classes)) for each in labels], axis=1).tolist()


def _gap_lines(content: ReportContent, split: int, scores: Mapping[str, Any] | None) -> list[str]:
    """Return one sentence for each class that the evaluated split has no images of, with the cause."""
    if not scores or not scores.get("classes_without_images"):
        return []
    lines = [gap.to_text() for gap in content.gaps if gap.split == split]
    lines = lines or [f"no {SPLITS[split]} images of class {name}" for name in scores["classes_without_images"]]
    more = len(lines) - MAX_GAPS_LISTED
    return [*lines[:MAX_GAPS_LISTED], *([f"and {more} more"] if more > 0 else [])]


def _scores_so_far(content: ReportContent) -> dict[str, Any] | None:
    """Return the accuracy on the validation images at the best epoch, for a run that was not evaluated."""
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
    asked = [
        drawing.ask(
            "Charts.line_chart",
            name.capitalize(),
            epochs,
            {label: [getattr(record, f"{split}_{name}") for record in history] for label, split in both.items()},
            marked,
            name == "accuracy",  # whether the values are shares
        )
        for name in ("loss", "accuracy")
    ]
    return [each.result() for each in asked]


def _learning_curve(found: Mapping[str, Any] | None) -> LineChart | None:
    """Return the accuracy by the number of training images, with the estimate for the next ones."""
    if not found:
        return None
    measured = found["accuracy"]
    numbers = [*found["num_images"], found["num_images"][-1] + found["next_images"]]
    expected = [*[math.nan] * (len(measured) - 1), measured[-1], measured[-1] + found["gain"]]
    series = {"out of fold": [*measured, math.nan], "estimate": expected}
    return drawing.ask("Charts.line_chart", "Learning curve", numbers, series, None, True, "Training images").result()


def _on_answers(content: ReportContent, evaluated: SplitPredictions, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is computed from the predictions for single images."""
    answers, classes = answers_of(evaluated), content.index.classes
    matrix, rule = np.array(scores["confusion_matrix"]), rule_of(content.metrics, evaluated.split)
    charts = {
        name: drawing.ask(f"Charts.{function}", answers.confidence, answers.is_right)
        for name, function in (("histogram", "confidence_histogram"), ("reliability", "reliability_diagram"))
    }
    return {
        "matrix": shaded_rows(matrix) if len(classes) <= MAX_MATRIX_CLASSES else None,
        "pairs": most_confused(matrix, 12 if len(classes) <= MAX_MATRIX_CLASSES else 60),
        "gallery": gallery_of(
            content.index, answers, content.heat_maps, content.photos, preprocessing=content.preprocessing
        ),
        **{name: chart.result() for name, chart in charts.items()},
        "figures": shown_metrics(scores),
        "titles": {name: title_of(name, scores) for name in METRICS},
        "withheld": rule[0].to_text(rule[1]) if rule else "",
    }


def _commands(folder: Path, content: ReportContent) -> list[tuple[str, str]]:
    """Return what can be done next with the run, and the command for it."""
    run, settings = shlex.quote(str(folder)), shlex.quote(str(folder / "config.json"))
    commands = [("Repeat this run with the same settings", f"python Engine.py --config {settings}")]
    if content.history:  # a model was saved
        commands = [
            ("Classify new images", f"python Engine.py predict IMAGE_OR_FOLDER --run {run}"),
            ("Evaluate it again, or on other labelled folders with --data", f"python Engine.py evaluate --run {run}"),
            *commands,
        ]
    if content.interrupted:
        commands = [("Resume the run", f"python Engine.py --resume {run}"), *commands]
    return commands
