"""`MODEL_CARD.md` of a run: what the model is, what it was trained on, how well it works, and what to use it for.

The sections follow M. Mitchell et al., Model Cards for Model Reporting, arXiv:1810.03993. The card holds no date and no
time, so the same run always gives the same card. Names of classes and files are code spans, in which nothing is markup.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.Errors import one_line
from MLPipeline.files.AtomicFile import write_text
from MLPipeline.images.ScanFolders import SPLITS, TEST, VAL
from MLPipeline.Models import find_model
from MLPipeline.report.Environment import environment
from MLPipeline.report.Names import drawable
from MLPipeline.report.Report import HEAD_NAMES, counted, rule_of
from MLPipeline.report.RunPage import SPLIT_NAMES, ReportContent, mean_of, split_name
from MLPipeline.report.Verdict import MISCALIBRATED, WIDE_INTERVAL, verdict
from MLPipeline.scoring.Metrics import shown_metrics
from MLPipeline.training.Phases import is_solved

CARD_FILE, AUDIT_SUMMARY = "MODEL_CARD.md", "summary.json"
MAX_ROWS, MAX_WEAK, MAX_LISTED, MAX_CLASSES_NAMED = 25, 3, 5, 12
_NAME_WIDTH, _TEXT_WIDTH, _COMMAND_WIDTH = 60, 160, 400
_VERSIONS = ("python", "torch", "torchvision")


def write_model_card(folder: Path, content: ReportContent) -> None:
    """Write the card of the finished run in `folder`.

    Raises:
        ResourceError: it cannot be written.
    """
    write_text(folder / CARD_FILE, model_card(folder, content))


def model_card(folder: Path, content: ReportContent) -> str:
    """Return the card of the finished run in `folder`, as Markdown."""
    split = next((split for split in (TEST, VAL) if content.metrics[SPLITS[split]]["n"]), None)
    scores = None if split is None else content.metrics[SPLITS[split]]
    name = "" if split is None else split_name(split, content.metrics)
    sections = {
        "": _summary(content, scores, name),
        "Model": _model(folder, content),
        "Data": _data(content),
        f"Figures on the {name} images" if scores else "Figures": _figures(scores),
        "Classes": _classes(content, scores),
        "Withheld answers": _withheld(content, split),
        "Limits": _limits(folder, content, scores, split),
        "Intended use": _intended_use(),
        "Licences": _licences(content),
        "How to use it": _usage(folder),
    }
    lines = [f"# {code(folder.name)}", ""]
    for title, text in sections.items():
        lines += [*([f"## {title}", ""] if title else []), *text, ""]
    return "\n".join(lines)


def licence_of(model: str, kind: str) -> str:
    """Return a sentence on the licence of the initial weights of `model`; `kind` is `imagenet`, `none` or `file`."""
    if kind == "none":
        return "The training started from random weights, so no licence of other weights applies."
    if kind == "file":
        return "The initial weights came from a file; its licence applies."
    pretrained = find_model(model).pretrained
    if pretrained is not None and pretrained.package:
        terms = f"come from the package {pretrained.package.replace('_', '-')} (Apache-2.0)"
    elif pretrained is not None and "swag" in pretrained.file_name:
        terms = "are the SWAG weights of torchvision (CC BY-NC 4.0): commercial use is not allowed"
    else:
        terms = "come from torchvision (BSD-3-Clause)"
    return (
        f"The initial weights {terms}. They were trained on ImageNet, whose terms allow access to its images for "
        "non-commercial research and education; whether this extends to weights is not settled."
    )


def code(text: str, in_table: bool = False, width: int = _NAME_WIDTH) -> str:
    """Return `text` as a Markdown code span on one line, at most `width` columns wide; nothing in it is markup."""
    line = drawable(one_line(text), width) or " "
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    pad = " " if "`" in (line[0], line[-1]) else ""
    line = line.replace("|", r"\|") if in_table else line
    return f"{fence}{pad}{line}{pad}{fence}"


def _percent(share: float | None) -> str:
    return "not defined" if share is None else f"{100 * share:.1f} %"


def _interval(bounds: Sequence[float]) -> str:
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _summary(content: ReportContent, scores: Mapping[str, Any] | None, split: str) -> list[str]:
    classes = content.index.classes
    named = ", ".join(code(name) for name in classes[:MAX_CLASSES_NAMED])
    more = f" and {len(classes) - MAX_CLASSES_NAMED:,} more" if len(classes) > MAX_CLASSES_NAMED else ""
    lines = [f"Classifies images into {len(classes):,} classes: {named}{more}."]
    baseline = content.metrics.get("baseline_accuracy")
    if scores is not None:
        accuracy = f"{_percent(scores['accuracy'])} of {scores['n']:,} {split} images are classified correctly"
        lines += ["", f"**{accuracy}** (95 % interval {_interval(scores['accuracy_ci95'])})."]
        if baseline is not None:
            largest = code(content.metrics["baseline_class"])
            lines[-1] += f" The majority-class baseline, which always predicts {largest}, reaches {_percent(baseline)}."
    return [*lines, "", verdict(scores, baseline).replace("\N{NO-BREAK SPACE}", " ")]


def _model(folder: Path, content: ReportContent) -> list[str]:
    config, weights, spec = content.config, content.weights, find_model(content.config.model)
    start = "random" if weights.kind == "none" else weights.kind
    versions = [f"{name} {value}" for name, value in environment().items() if name in _VERSIONS]
    lines = {
        "Network": f"{code(config.model)} ({spec.source}), with a head for {len(content.index.classes):,} classes",
        "Input": f"RGB, {_size(content)}, {_fitted(content.preprocessing)}",
        "Initial weights": start + (f", from {code(weights.source)}" if weights.source else ""),
        "Training": _training(content),
        "Calibration": f"logits are divided by {content.metrics['temperature']:.2f}, a temperature fitted on the "
        "validation images"
        if content.metrics["val"]["n"]
        else "none, for lack of validation images: confidences may be too high",
        "To repeat it": f"{_command('--config', folder / 'config.json')}, with {', '.join(versions)}",
    }
    return [f"- **{title}**: {text}." for title, text in lines.items()]


def _training(content: ReportContent) -> str:
    """Return what was trained, for how long, and how."""
    config = content.config
    parts = {"backbone": "the head, on a frozen backbone", "none": "all layers"}
    part = parts.get(str(config.freeze), f"the layers after {code(str(config.freeze))}")
    if is_solved(config):
        fitted = f"the head, by {HEAD_NAMES[config.head]}"
        if not config.unfreeze_after:
            return f"{fitted}, on a frozen backbone; seed {config.seed}"
        part = f"{fitted}, then {part}"
    elif config.unfreeze_after:
        part = f"the head for {counted(config.unfreeze_after, 'epoch')}, then {part}"
    best = max((record.epoch for record in content.history if record.is_best), default=0)
    kept = f"of which the weights of epoch {best} are kept"
    if average := mean_of(content.metrics):
        kept = f"with the weights averaged over {average}"
    return (
        f"{part}; {counted(len(content.history), 'epoch')}, {kept}; "
        f"{config.optimizer}, learning rate {config.lr:g}, batch {config.batch_size}, seed {config.seed}; "
        f"augmentation {config.augment or 'none'}"
    )


def _command(flag: str, path: Path) -> str:
    return code(f"python Engine.py {flag} {shlex.quote(str(path))}", width=_COMMAND_WIDTH)


def _size(content: ReportContent) -> str:
    """Return `224 x 224 pixels (200 x 200 in training)`."""
    trained, used = content.config.image_size, content.metrics.get("image_size", content.config.image_size)
    text = f"{used} x {used} pixels"
    return text if used == trained else f"{text} ({trained} x {trained} in training)"


def _fitted(preprocessing: Preprocessing) -> str:
    fits = {"crop": "cropped to the centre", "pad": "padded with the mean colour", "stretch": "stretched to the square"}
    levels = preprocessing.levels.lines() if preprocessing.levels else []
    return "; ".join([fits[preprocessing.fit], *levels])


def _data(content: ReportContent) -> list[str]:
    index, config = content.index, content.config
    counts = [int((index.splits == split).sum()) for split in range(len(SPLITS))]
    where = f"{code(str(config.data))}" + (f", labels from {code(str(config.labels))}" if config.labels else "")
    sizes = ", ".join(f"{number:,} {name}" for number, name in zip(counts, SPLIT_NAMES, strict=True))
    lines = [
        f"{sum(counts):,} images from {where}: {sizes}. Near-duplicates that were found stay in one "
        "split, except between split folders that were given"
        + (f"; so do files with the same text for {code(config.group)}." if config.group else "."),
    ]
    if index.skipped:
        frequent = Counter(each.reason for each in index.skipped).most_common(MAX_LISTED)
        reasons = [f"{number:,} x {code(reason)}" for reason, number in frequent]
        lines += [
            "",
            f"{counted(len(index.skipped), 'file')} not used: {', '.join(reasons)}; `skipped.csv` lists them.",
        ]
    return lines


def _figures(scores: Mapping[str, Any] | None) -> list[str]:
    if scores is None:
        return ["There are no validation or test images, so the accuracy is not known."]
    rows = [(each["title"], each["value"], each["interval"]) for each in shown_metrics(scores)]
    return _table(("figure", "value", "95 % interval"), rows)


def _classes(content: ReportContent, scores: Mapping[str, Any] | None) -> list[str]:
    """Return the table of classes, the weakest if there are many, and what they are confused with."""
    index, per_class = content.index, scores["per_class"] if scores else {}
    counts = np.zeros((len(index.classes), len(SPLITS)), np.int64)
    np.add.at(counts, (index.labels[index.splits >= 0], index.splits[index.splits >= 0]), 1)

    def recall(label: int) -> float:
        value = per_class.get(index.classes[label], {}).get("recall")
        return 2.0 if value is None else value

    order = list(range(len(index.classes)))
    lines = []
    if len(order) > MAX_ROWS:
        order = sorted(order, key=recall)[:MAX_ROWS]
        lines = [f"The {MAX_ROWS} classes of the lowest recall, of {len(index.classes):,}:", ""]
    rows = []
    for label in order:
        name = index.classes[label]
        of = per_class.get(name, {})
        figures = [_percent(of.get(key)) for key in ("precision", "recall", "f1")]
        bounds = _interval(of["recall_ci95"]) if of.get("recall") is not None else "-"
        sizes = [f"{number:,}" for number in counts[label].tolist()]
        rows.append((code(name, in_table=True), *sizes, *figures[:2], bounds, figures[2]))
    header = ("class", *SPLIT_NAMES, "precision", "recall", "95 % interval of the recall", "F1")
    return [*lines, *_table(header, rows), *_weakest(scores)]


def _weakest(scores: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each of the weakest classes: what it is most often confused with."""
    if scores is None:
        return []
    names, lines = list(scores["per_class"]), []
    having = [name for name in names if scores["per_class"][name]["support"]]
    for name in sorted(having, key=lambda name: scores["per_class"][name]["recall"])[:MAX_WEAK]:
        row = np.array(scores["confusion_matrix"][names.index(name)])
        row[names.index(name)] = 0
        if row.any():
            support = scores["per_class"][name]["support"]
            other = f"{code(names[int(row.argmax())])} ({int(row.max()):,} of {support:,} images)"
            lines.append(f"- {code(name)} is most often confused with {other}.")
    return ["", *lines] if lines else []


def _withheld(content: ReportContent, split: int | None) -> list[str]:
    rule = None if split is None else rule_of(content.metrics, split)
    if rule is None:
        return [
            "None. Every image gets one of the classes, even an image that shows none of them. Training with "
            "`--target-precision 0.98` withholds answers of low confidence and for images unlike the training images."
        ]
    found, of = rule
    if found.min_confidence > 1:
        return [f"All of them: the model {found.to_text(of)}."]
    threshold = f"Answers below a confidence of {100 * found.min_confidence:.1f} %, and those for images unlike the "
    return [f"{threshold}training images, are withheld. With this rule, the model {found.to_text(of)}."]


def _limits(folder: Path, content: ReportContent, scores: Mapping[str, Any] | None, split: int | None) -> list[str]:
    lines = ["The figures hold for images from the same sources and cameras, with the same proportions of classes."]
    if scores is not None:
        low, high = scores["accuracy_ci95"]
        if high - low > WIDE_INTERVAL:
            lines.append(f"{scores['n']:,} images are few: the accuracy may be anywhere in its interval.")
        if (scores.get("ece") or 0) > MISCALIBRATED:
            lines.append(f"Confidence and accuracy differ by {_percent(scores['ece'])} on average.")
    if split == VAL:
        lines.append("There are no test images: the epoch was chosen on the images that the figures are of.")
    lines += _first([f"{code(gap.to_text(), width=_TEXT_WIDTH)}." for gap in content.gaps if gap.split == split])
    if content.weights.kind == "none":
        lines.append(
            "The training started from random weights, which requires many more images than ImageNet weights do."
        )
    return [f"- {line}" for line in [*lines, *_audited(folder, content)]]


def _first(lines: Sequence[str]) -> list[str]:
    """Return the first few lines, and how many more there are."""
    more = [f"... and {len(lines) - MAX_LISTED:,} more." for _ in lines[MAX_LISTED : MAX_LISTED + 1]]
    return [*lines[:MAX_LISTED], *more]


def _audited(folder: Path, content: ReportContent) -> Iterator[str]:
    """Yield what `audit` has found in these images, as far as it has looked at them."""
    try:
        found = json.loads((folder.parent / "audit" / AUDIT_SUMMARY).read_text(encoding="utf-8"))
        if found["data"] != str(content.index.root.resolve()):
            raise ValueError
        shortcuts = [f"Shortcut found by `audit`: {code(text, width=_TEXT_WIDTH)}." for text in found["shortcuts"]]
        yield from _first(shortcuts)
        if not found["shortcuts"]:
            yield "`audit` found no shortcut such as size, format or mean colour that gives the classes away."
        if found["label_suspects"] is not None:
            yield f"`audit` suspects {found['label_suspects']:,} of {found['images']:,} labels of being wrong."
    except (OSError, ValueError, KeyError, TypeError):
        yield "Shortcuts and wrong labels are not known: `python Engine.py audit` looks for them."


def _intended_use() -> list[str]:
    return [
        "To sort or search images of the same kind as the training images. Not for images of other kinds, and not for "
        "decisions that affect people unless a person checks each answer."
    ]


def _licences(content: ReportContent) -> list[str]:
    return [
        f"- {licence_of(content.config.model, content.weights.kind)}",
        "- The licence of the training images is not known here. Check that it allows training on them and passing the "
        "model on. Photographs of people and documents are personal data in many countries; `report.html`, "
        "`samples.png` and `mistakes.png` contain some of the images.",
        "- The code of this project is under the MIT licence.",
    ]


def _usage(folder: Path) -> list[str]:
    run = one_line(shlex.quote(str(folder)))
    shell = [
        f"python Engine.py predict IMAGE_OR_FOLDER --run {run}",
        f"python Engine.py evaluate --run {run} --data LABELLED_FOLDERS",
    ]
    python = [
        "from MLPipeline.Predict import load",
        "",
        f'answers = load({json.dumps(one_line(str(folder)), ensure_ascii=False)}).predict(["image.jpg"])',
    ]
    return [*_fenced(shell), "", *_fenced(python, "python")]


def _fenced(lines: Sequence[str], language: str = "") -> list[str]:
    longest = max(map(len, re.findall("`+", "".join(lines))), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + language, *lines, fence]
