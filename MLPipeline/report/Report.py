"""The tables and pictures in the folder of a run, and the lines that the console shows before, during and after it."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from MLPipeline.Augment import Augmentation, make_augmentation
from MLPipeline.Config import Config
from MLPipeline.decoding.Levels import LEVELS_FILE
from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.decoding.ReadImage import UnreadableImage
from MLPipeline.Errors import one_line
from MLPipeline.Evaluate import SplitPredictions
from MLPipeline.Features import Dataset
from MLPipeline.files.AtomicFile import write_file, write_text
from MLPipeline.files.CsvFile import write_rows
from MLPipeline.files.Json import dump_json
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ScanFolders import SPLITS, TEST, TRAIN, VAL, Gap, ImageIndex
from MLPipeline.Recipes import flags_of
from MLPipeline.report.Drawing import drawing
from MLPipeline.report.Environment import environment
from MLPipeline.report.Fonts import figure_names
from MLPipeline.report.Names import drawable
from MLPipeline.report.Scores import Scores
from MLPipeline.scoring.Metrics import baseline
from MLPipeline.scoring.Predictions import worst_mistakes
from MLPipeline.scoring.PredictionsTable import MAX_CLASS_COLUMNS, Columns, all_probabilities, predictions_table
from MLPipeline.scoring.Unknown import UnknownRule
from MLPipeline.training.Phases import folds_are_heads, is_solved
from MLPipeline.training.TrainState import EpochRecord
from MLPipeline.Weights import WeightsReport

MAX_GRID_IMAGES = 16
HEAD_NAMES = {
    "ridge": "ridge regression, penalty chosen out of fold",
    "logistic": "logistic regression, penalty chosen out of fold",
    "auto": "ridge or logistic regression, whichever is better out of fold",
}
FEW_TESTED = 100  # test images: fewer give an interval more than ten points wide
_MAX_CAUSES = 5  # lines on classes without images

logger = logging.getLogger(__name__)


def write_inputs(
    folder: Path,
    dataset: Dataset,
    digests: np.ndarray,
    preprocessing: Preprocessing,
    shown: np.ndarray,
    augment: Augmentation,
    seed: int,
) -> None:
    """Write the inputs of a run: classes, splits with file `digests` (N,), skipped files, versions, `samples.png`.

    That shows the first images of `shown`, augmented by `augment` as in the first epoch.
    """
    index = dataset.index
    write_text(folder / "classes.txt", "".join(f"{one_line(name)}\n" for name in index.classes))
    used = np.flatnonzero(index.splits >= 0)
    table = {
        "path": [index.name(position) for position in used.tolist()],
        "class": [index.classes[label] for label in index.labels[used]],
        "split": [SPLITS[split] for split in index.splits[used]],
        "digest": [content.tobytes().hex() for content in digests[used]],
    }
    write_rows(folder / "splits.csv", table, zip(*table.values(), strict=True))
    write_rows(folder / "skipped.csv", ["path", "reason"], ((each.path, each.reason) for each in index.skipped))
    write_json(folder / "environment.json", environment() | {"data": str(index.root.resolve())})
    if preprocessing.levels and preprocessing.levels.by_depth:
        write_json(folder / LEVELS_FILE, preprocessing.levels.to_plain())
    shown = shown[:MAX_GRID_IMAGES]
    names = figure_names(index.classes)
    _note_numbers(names)
    titles = [names[index.classes[index.labels[position]]] for position in shown]
    images = torch.from_numpy(_pixels(index, shown, dataset.image_size, preprocessing))
    seen, _ = augment(images, torch.zeros(len(shown), 1), seed, 1, torch.from_numpy(shown))
    drawing.draw("Plots.plot_samples", seen.numpy(), titles, folder / "samples.png")


def _note_numbers(names: Mapping[str, str]) -> None:
    """Note which classes appear in the PNG plots under a number; `names` as `figure_names` returns them."""
    numbered = [name for name, shown in names.items() if shown != name]
    if numbered:
        logger.warning(
            "no font on this system can draw the name of %s: the PNG plots show numbers, report.html says which "
            "class each one is; install the Noto fonts to see the names",
            f"class {drawable(numbered[0], 40)!r}{f' and {len(numbered) - 1} more' if len(numbered) > 1 else ''}",
        )


def write_history(folder: Path, history: Sequence[EpochRecord]) -> None:
    """Write `history.csv`: one row per epoch."""
    table = _history_table(history)
    write_rows(folder / "history.csv", table, zip(*table.values(), strict=True))


def draw_history(folder: Path, history: Sequence[EpochRecord]) -> None:
    """Start drawing `history.png`, for which `drawing.finish` waits."""
    drawing.draw("Plots.plot_history", _history_table(history), folder / "history.png")


def measure(index: ImageIndex, scored: Sequence[SplitPredictions]) -> dict[str, Any]:
    """Return the metrics of each split by its name, and the accuracy and class of the majority-class baseline."""
    metrics: dict[str, Any] = {SPLITS[each.split]: each.metrics(index.classes) for each in scored}
    train_labels = torch.from_numpy(index.labels[index.positions(TRAIN)]).long()
    accuracy, label = baseline(train_labels, _evaluated(scored).predictions.labels) or (None, None)
    name = None if label is None else index.classes[label]
    return metrics | {"baseline_accuracy": accuracy, "baseline_class": name}


def write_results(
    folder: Path,
    index: ImageIndex,
    scored: Sequence[SplitPredictions],
    metrics: Mapping[str, Any],
    image_size: int,
    preprocessing: Preprocessing = PLAIN,
) -> None:
    """Start drawing the pictures of a run, for which `drawing.finish` waits, and write its predictions meanwhile.

    `metrics.json` is left to the caller, who writes it last.
    """
    evaluated = _evaluated(scored)
    predicted, labels = evaluated.predictions.predicted.numpy(), evaluated.predictions.labels.numpy()
    probabilities = evaluated.predictions.probabilities.numpy()
    names = figure_names(index.classes)
    figures = metrics[SPLITS[evaluated.split]]
    figures = figures | {"per_class": {names[name]: scores for name, scores in figures["per_class"].items()}}
    scores = Scores(probabilities, predicted, labels, figures, list(names.values()))
    drawing.draw("ScorePlots.plot_scores", scores, folder)
    worst = worst_mistakes(evaluated.predictions, MAX_GRID_IMAGES)
    drawing.draw(
        "Plots.plot_mistakes",
        _pixels(index, evaluated.positions[worst], image_size, preprocessing),
        [names[index.classes[labels[k]]] for k in worst],
        [names[index.classes[predicted[k]]] for k in worst],
        evaluated.predictions.confidence[worst].tolist(),
        len(labels),
        folder / "mistakes.png",
    )
    _write_predictions(folder, index, scored)


def summary_lines(index: ImageIndex, config: Config, weights: WeightsReport, device: torch.device) -> list[str]:
    """Return the lines that say, before training, what is trained on which images, and how."""
    sizes = ", ".join(f"{len(index.positions(split))} {name}" for split, name in enumerate(SPLITS))
    start = {"imagenet": "ImageNet weights", "file": "weights of a file", "none": "random weights"}[weights.kind]
    trained = {"backbone": "only the head is trained", "none": "all layers are trained"}
    layers = trained.get(str(config.freeze), f"the layers after {config.freeze} are trained")
    if config.unfreeze_after:
        first = "fitted first" if is_solved(config) else f"trained for {counted(config.unfreeze_after, 'epoch')}"
        layers = f"the head is {first}, then {layers}"
    return [
        *([f"recipe   {config.recipe} stands for {flags_of(config.recipe)}"] if config.recipe else []),
        f"images   {len(index.classes)} classes in {index.root}: {sizes}",
        f"model    {config.model} with {start}; {layers}",
        *([f"         {weights.note}"] if weights.kind == "none" and config.weights != "none" else []),
        f"training {_method(config)}, {config.image_size}x{config.image_size} pixels, seed {config.seed}, "
        f"on {device.type}",
        augment_line(config),
        *([_folds_line(config)] if config.folds else []),
        *([_repeats_line(config.repeats)] if config.repeats > 1 else []),
    ]


def _folds_line(config: Config) -> str:
    if folds_are_heads(config):
        return f"folds    {config.folds}: afterwards every image is tested once, by a head fitted without it"
    return f"folds    {config.folds}: afterwards the training is repeated without each fold, which is then tested"


def _repeats_line(number: int) -> str:
    how = "once with another seed" if number == 2 else f"{number - 1} times with other seeds"
    return f"repeats  {number}: afterwards the training is repeated {how}, and the weights are averaged"


def _method(config: Config) -> str:
    """Return how the weights are found: `10 epochs, batch 8, adam at 0.001`."""
    if is_solved(config):
        head = f"head by {HEAD_NAMES[config.head]}"
        if not config.unfreeze_after:
            return head
        return f"{head}; then {counted(config.epochs - config.unfreeze_after, 'epoch')}, {_descent(config)}"
    return f"{counted(config.epochs, 'epoch')}, {_descent(config)}"


def _descent(config: Config) -> str:
    return f"batch {config.batch_size}, {config.optimizer} at {config.lr:g}"


def augment_line(config: Config) -> str:
    """Return the line that says how training images are augmented."""
    augmentation = make_augmentation(config.augment)
    if not augmentation:
        return "augment  none"
    when = " in fine-tuning" if config.unfreeze_after else ""
    return f"augment  {augmentation}{when}: {augmentation.describe()}"


def oddity_lines(notes: Sequence[Skipped]) -> list[str]:
    """Return one line per kind of irregularity among the files that are used anyway."""
    kinds: dict[str, list[str]] = {}
    for each in notes:
        kinds.setdefault(each.reason, []).append(each.path)
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {reason}; used anyway"
        for reason, paths in kinds.items()
    ]


def epoch_line(record: EpochRecord | None) -> str:
    """Return one row of the epoch table; its header for None."""
    if record is None:
        return "epoch  train loss  train acc  val loss   val acc  seconds  (* lowest validation loss so far)"
    has_val = record.val_loss == record.val_loss
    val = f"{record.val_loss:8.4f}  {100 * record.val_accuracy:6.1f} %" if has_val else f"{'-':>8}  {'-':>8}"
    return (
        f"{record.epoch:5d}  {record.train_loss:10.4f}  {100 * record.train_accuracy:7.1f} %"
        f"  {val}  {record.seconds:7.2f}{' *' if record.is_best else ''}"
    )


def closing_lines(metrics: Mapping[str, Any], gaps: Sequence[Gap] = ()) -> list[str]:
    """Return the lines that sum up the `metrics` of a run; `gaps` are the classes that its splits lack, with causes."""
    split = next((split for split in (TEST, VAL) if metrics[SPLITS[split]]["n"]), None)
    if split is None:
        return ["result   accuracy unknown: there are no validation or test images"]
    scores, name = metrics[SPLITS[split]], title_of_split(split, metrics)
    causes = [gap.to_text() for gap in gaps if gap.split == split]
    result, *others = result_lines(scores, name, causes)
    if (baseline := metrics["baseline_accuracy"]) is not None:
        result += f"; majority-class baseline {100 * baseline:.1f} %"
        result += f" (class {drawable(metrics['baseline_class'], 40)})" if scores["classes_without_images"] else ""
    if metrics.get("folds") and (found := rule_of(metrics, split)):  # `scores` has no rule, and no line on it
        others.append(found[0].to_text(found[1]))
    return [result, *others]


def rule_of(metrics: Mapping[str, Any], split: int) -> tuple[UnknownRule, str] | None:
    """Return the rule for withholding answers, and which images its figures are of; None without a rule.

    The predictions of folds are not those of the saved model, whose rule is then measured on the validation images.
    """
    of_folds = split == TEST and metrics.get("folds")
    rule = metrics[SPLITS[VAL if of_folds else split]].get("unknown")
    return (UnknownRule(**rule), "validation images" if of_folds else "images") if rule else None


def title_of_split(split: int, metrics: Mapping[str, Any]) -> str:
    """Return what the images of an evaluated split are called: those of the folds are not test images only."""
    return "cross-validated" if split == TEST and metrics.get("folds") else SPLITS[split]


def too_few_tested(metrics: Mapping[str, Any]) -> str:
    """Return `only 30 test images` if folds, which test all images, would say more."""
    number = metrics[SPLITS[TEST]]["n"]
    return f"only {counted(number, 'test image')}" if number < FEW_TESTED and not metrics.get("folds") else ""


def result_lines(scores: Mapping[str, Any], split: str = "", causes: Sequence[str] = ()) -> list[str]:
    """Return the lines that sum up `scores`: accuracy with its interval, the weakest class, classes without images.

    Args:
        scores: as `Metrics.evaluate` returns them, of at least one image.
        split: the name of the split, or empty.
        causes: sentences that name the classes without images and say why; otherwise they are only named.
    """
    low, high = (100 * bound for bound in scores["accuracy_ci95"])
    title = f"{split} accuracy".strip()
    lines = [
        f"result   {title} {100 * scores['accuracy']:.1f} % "
        f"(95 % interval {low:.1f} to {high:.1f} %, {counted(scores['n'], 'image')})"
    ]
    if scores["weakest_class_taken_for"]:
        weakest, confused_with = scores["weakest_class"], scores["weakest_class_taken_for"]
        recall = f"recall {100 * scores['per_class'][weakest]['recall']:.0f} %"
        names = f"class {drawable(weakest, 40)}: {recall}, most often confused with {drawable(confused_with, 40)}"
        lines.append(f"weakest  {names}")
    if left_out := scores["classes_without_images"]:
        lines += [f"missing  {cause}" for cause in (causes or [_named(split, left_out)])[:_MAX_CAUSES]]
        number, total = len(scores["per_class"]) - len(left_out), len(scores["per_class"])
        lines.append(f"         the figures are over {number} of {total} classes")
    if rule := scores.get("unknown"):
        lines.append(UnknownRule(**rule).to_text())
    return lines


def _named(split: str, classes: Sequence[str]) -> str:
    """Return `no test images of a, b and 3 more`."""
    shown = ", ".join(drawable(name, 40) for name in classes[:_MAX_CAUSES])
    more = f" and {len(classes) - _MAX_CAUSES} more" if len(classes) > _MAX_CAUSES else ""
    return f"no {split} images of ".replace("  ", " ") + shown + more


def per_class_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return a table of precision, recall and F1, one line per class."""

    def percent(value: float | None) -> str:
        return "    -  " if value is None else f"{100 * value:5.1f} %"

    names = [drawable(name, 40) for name in metrics["per_class"]]
    width = max(map(len, ("class", *names)))
    lines = [f"{'class':{width}}  precision   recall       F1  images"]
    for name, scores in zip(names, metrics["per_class"].values(), strict=True):
        figures = "  ".join(percent(scores[key]) for key in ("precision", "recall", "f1"))
        lines.append(f"{name:{width}}    {figures}  {scores['support']:6d}")
    return lines


def counted(number: int, noun: str) -> str:
    """Return `1 image`, `2 images`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON; numbers that are not finite become null."""
    write_text(path, dump_json(content, indent=2) + "\n")


def stored_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return `metrics` without the confusion matrices of many classes, which would take tens of megabytes of zeros.

    They can be counted from the columns `true` and `predicted` of `predictions.csv`.
    """
    if len(metrics.get("confusion_matrix") or ()) > MAX_CLASS_COLUMNS:
        metrics = {**metrics, "confusion_matrix": None}
    return {key: stored_metrics(value) if key in SPLITS and value else value for key, value in metrics.items()}


def table_of(index: ImageIndex, scored: SplitPredictions) -> Columns:
    """Return the rows of `predictions.csv` for one split; with a rule for withholding answers, also `answered`."""
    names = [index.name(position) for position in scored.positions.tolist()]
    table = predictions_table(scored.predictions, names, SPLITS[scored.split], index.classes)
    if scored.is_withheld is None:
        return table
    with_answered: Columns = {}
    for name, column in table.items():
        with_answered[name] = column
        if name == "loss":
            with_answered["answered"] = ["false" if each else "true" for each in scored.is_withheld.tolist()]
    return with_answered


def _write_predictions(folder: Path, index: ImageIndex, scored: Sequence[SplitPredictions]) -> None:
    """Write `predictions.csv`, and with many classes `predictions.npz`, which has all probabilities in its order.

    The column `answered` is empty for predictions of folds, to which no rule is applied.
    """
    tables = [table_of(index, each) for each in scored]
    columns = max(tables, key=len)
    parts = [[table.get(name, itertools.repeat(None, len(table["path"]))) for name in columns] for table in tables]
    rows = itertools.chain.from_iterable(zip(*part, strict=True) for part in parts)
    write_rows(folder / "predictions.csv", columns, rows)
    if len(index.classes) > MAX_CLASS_COLUMNS:
        probabilities = all_probabilities([each.predictions for each in scored])
        classes = np.array(index.classes, np.str_)
        file = folder / "predictions.npz"
        write_file(file, lambda opened: np.savez_compressed(opened, probabilities=probabilities, classes=classes))


def _evaluated(scored: Sequence[SplitPredictions]) -> SplitPredictions:
    """Return the split that the figures and pictures are of: the last of `scored` that has images."""
    return next((each for each in reversed(scored) if len(each.positions)), scored[-1])


def _history_table(history: Sequence[EpochRecord]) -> dict[str, list[float]]:
    """Return the columns of `history.csv`."""
    names = [each.name for each in fields(EpochRecord) if each.name != "is_best"]
    return {name: [getattr(record, name) for record in history] for name in names}


def _pixels(
    index: ImageIndex, positions: np.ndarray, image_size: int, preprocessing: Preprocessing = PLAIN
) -> np.ndarray:
    """Return images (B, 3, H, W) uint8 as the network gets them; white for a file that no longer exists."""
    pictures = np.full((len(positions), image_size, image_size, 3), 255, np.uint8)
    for picture, position in zip(pictures, positions, strict=True):
        with contextlib.suppress(UnreadableImage):
            picture[:] = preprocessing.read(index.path(position), image_size).pixels
    return pictures.transpose(0, 3, 1, 2)
