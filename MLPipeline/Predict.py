"""Predicts the classes of images, preprocessed exactly as in training, in a stream of any number of images.

B images of a batch, C classes, D features.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.CreateDataset import Reading, read_images
from MLPipeline.Device import threads
from MLPipeline.Errors import DataError
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.images.ImageWalk import ImageWalk, Skipped
from MLPipeline.images.ReadAhead import Progress, decoding_threads, no_progress
from MLPipeline.scoring.Explain import draw_heat
from MLPipeline.scoring.Unknown import distances_to


@dataclass(frozen=True)
class Answer:
    """The prediction for one file: classes with probabilities, most probable first; none for an unreadable file."""

    path: Path
    top: tuple[tuple[str, float], ...]
    reason: str = ""
    note: str = ""  # a remark on a file that could be read
    is_withheld: bool = False  # confidence below the threshold, or an image far from the training images
    is_far: bool = False
    heat: np.ndarray | None = field(default=None, compare=False, repr=False)  # (H, W, 3) uint8 RGB, if asked for

    @property
    def predicted(self) -> str:
        """The most probable class, even if the answer is withheld."""
        return self.top[0][0]

    @property
    def confidence(self) -> float:
        """The probability of the most probable class."""
        return self.top[0][1]

    def to_text(self) -> str:
        """Return `cat.jpg  cat 97.3 %  dog 2.1 %`, with a remark in brackets at the end if the answer is withheld."""
        shares = "  ".join(f"{name} {100 * p:.1f} %" for name, p in self.top)
        why = "unlike the training images" if self.is_far else "confidence below the threshold"
        return f"{self.path}  {shares}{f'  (withheld: {why})' if self.is_withheld else ''}"

    def to_json(self) -> str:
        """Return one line of JSON: path, answered, predicted, confidence, top."""
        top = [{"class": name, "confidence": round(p, 6)} for name, p in self.top]
        content = {"predicted": self.predicted, "confidence": round(self.confidence, 6), "top": top}
        return json.dumps({"path": str(self.path), "answered": not self.is_withheld} | content)

    def to_row(self) -> list[object]:
        """Return the cells of the row for the columns `answer_columns`."""
        cells = [(name, round(probability, 6)) for name, probability in self.top]
        return [str(self.path), "false" if self.is_withheld else "true", *chain.from_iterable(cells)]


def answer_columns(card: ModelCard, topk: int) -> list[str]:
    """Return the header of a table of answers: path, answered, predicted, confidence, class_2, confidence_2, ..."""
    places = range(2, min(topk, len(card.classes)) + 1)
    return [
        "path",
        "answered",
        "predicted",
        "confidence",
        *(f"{kind}_{place}" for place in places for kind in ("class", "confidence")),
    ]


def find_images(paths: Sequence[Path], follow_links: bool = False) -> tuple[list[Path], list[Skipped]]:
    """Return the images in `paths`, each one once, and the files that were skipped.

    Paths are files, globs, or folders, which are searched recursively. Files that are given by name are used, whatever
    their suffix.

    Raises:
        DataError: a path does not exist, or there are no images.
    """
    found: dict[Path, None] = {}
    skipped: list[Skipped] = []
    for path in paths:
        # os.path: unlike the methods of Path, it does not raise for names that are too long or unreadable.
        matches = [path] if os.path.exists(path) else _expand(path)
        if not matches:
            raise DataError(f"{path}: no such file or folder", "Give images, folders or quoted globs like 'new/*.jpg'")
        for match in matches:
            if os.path.isdir(match):
                walk = ImageWalk(match, follow_links)
                found.update(dict.fromkeys(walk.images(match)))
                skipped += [Skipped(str(match / each.path), each.reason) for each in walk.skipped]
            else:
                found[match] = None
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no images there", "Give images, or a folder that holds some")
    return list(found), skipped


def _expand(pattern: Path) -> list[Path]:
    """Return the files and folders that match a glob, sorted.

    A part of the path that exists as it is written is not a pattern: `shots [2]/*.png` means the folder `shots [2]`.
    """
    *folders, last = pattern.parts
    bases = [""]
    for part in folders:
        bases = [os.path.join(base, name) for base in bases for name in _matches(base, part, is_last=False)]
    names = (os.path.join(base, name) for base in bases for name in _matches(base, last, is_last=True))
    return sorted({Path(name) for name in names})


def _matches(folder: str, part: str, is_last: bool) -> list[str]:
    """Return the names in `folder` that match one part of a glob; for `**`, the paths of all folders below it."""
    root = folder or os.curdir
    if part == "**":
        return ["", *glob.glob("**" if is_last else "**/", root_dir=root, recursive=True)]
    if os.path.exists(os.path.join(folder, part)):
        return [part]
    if not glob.has_magic(part):
        return []
    # `img [1]*.png` may mean `img [1]a.png`, in which the brackets are no pattern.
    return glob.glob(part, root_dir=root) or glob.glob(part.replace("[", "[[]"), root_dir=root)


def predict(
    model: Classifier,
    card: ModelCard,
    files: Sequence[Path],
    topk: int = 1,
    precision: str = "auto",
    workers: int | None = None,
    progress: Progress = no_progress,
    with_heat: bool = False,
) -> Iterator[Answer]:
    """Yield one answer per file, in order, with the `topk` most probable classes."""
    model.freeze("backbone")
    forward = FastForward(model.eval(), card.image_size, precision)
    readings = read_images(files, card.image_size, decoding_threads(workers), preprocessing=card.preprocessing)
    batches = _batches(progress(readings, "predicting", len(files)), forward.batch_size, card.image_size)
    for batch, rows in forward.stream(batches):
        # The cores are busy with the next batches: an operation that uses all of them would wait 6 ms for its threads.
        with torch.inference_mode(), threads(1):
            logits = model.head(rows.to(forward.device).float()).cpu().double()
            answers = iter(_answers(card, logits, rows, topk))
        pixels = [reading.pixels for reading in batch if reading.pixels is not None]
        pictures = iter(draw_heat(model, np.stack(pixels), precision) if with_heat and pixels else [])
        for reading in batch:
            if reading.reason:
                yield Answer(reading.path, (), reading.reason)
            else:
                yield replace(next(answers), path=reading.path, note=reading.note, heat=next(pictures, None))


def _batches(
    readings: Iterable[Reading], batch_size: int, image_size: int
) -> Iterator[tuple[list[Reading], np.ndarray]]:
    """Yield readings with the pixels (B, H, W, 3) of the readable images; a batch without any gets a black image."""
    remaining = iter(readings)
    while batch := list(islice(remaining, batch_size)):
        pixels = [reading.pixels for reading in batch if reading.pixels is not None]
        yield batch, np.stack(pixels or [np.zeros((image_size, image_size, 3), np.uint8)])


def _answers(card: ModelCard, logits: Tensor, features: Tensor, topk: int) -> list[Answer]:
    """Return an answer, without its path, for each row of `logits` (B, C) float64 and `features` (B, D)."""
    best = (logits / card.temperature).softmax(1).topk(min(topk, len(card.classes)))
    none = torch.zeros(len(logits), dtype=torch.bool)
    is_far = card.fingerprint.is_far(distances_to(card.fingerprint.centers, features)) if card.fingerprint else none
    is_withheld = card.unknown.is_withheld(best.values[:, 0], is_far) if card.unknown else none
    tops = [
        tuple((card.classes[label], probability) for probability, label in zip(*pair, strict=True))
        for pair in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    flags = zip(tops, is_withheld.tolist(), is_far.tolist(), strict=True)
    return [Answer(Path(), top, is_withheld=withheld, is_far=far) for top, withheld, far in flags]
