# ruff: noqa: E402 - torch is imported after `postpone_dynamo`
"""Predicts the classes of images, preprocessed exactly as in training: for Python programs and for the verb `predict`.

    from MLPipeline.Predict import load
    classifier = load("output/003-resnet50")            # or load(): the newest finished run
    for answer in classifier.predict(["cat.jpg", pixels, file.read()]): ...

B images of a batch, C classes, D features, N images, S side of the model's square input.
"""

from __future__ import annotations

from MLPipeline.console.PostponeDynamo import postpone_dynamo

postpone_dynamo()  # importing torchvision would take 1.4 s longer

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from operator import length_hint
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from MLPipeline.Checkpoint import ModelCard, load_checkpoint
from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.decoding.Levels import EACH_ITS_OWN
from MLPipeline.decoding.ReadImage import UnreadableImage, read_thumbnail
from MLPipeline.Device import choose_device
from MLPipeline.Errors import DataError, UsageError, one_line
from MLPipeline.files.Json import dump_json
from MLPipeline.files.RunFolder import find_run
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.frozen.NumberFormat import settle_format
from MLPipeline.images.GivenImages import THUMBNAIL_QUALITY, THUMBNAIL_SIDE, Ready, prepare_image, prepare_images
from MLPipeline.images.ReadAhead import Progress, no_progress
from MLPipeline.report.AnswerCards import answer_card, answer_cards
from MLPipeline.scoring.Explain import draw_heat
from MLPipeline.scoring.MirrorAverage import averaged
from MLPipeline.scoring.Predictions import require_finite
from MLPipeline.scoring.Unknown import distances_to

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """The prediction for one image: classes with probabilities, most probable first; none for an unreadable image."""

    path: Path  # of the file; for an image in memory `image 3`, counted from 0
    top: tuple[tuple[str, float], ...]
    reason: str = ""  # why the image cannot be read
    note: str = ""  # a remark on an image that could be read
    is_withheld: bool = False  # confidence below the threshold, or an image far from the training images
    is_far: bool = False
    heat: np.ndarray | None = field(default=None, compare=False, repr=False)  # (H, W, 3) uint8 RGB, if asked for
    thumbnail: bytes | None = field(default=None, compare=False, repr=False)  # see `Ready`

    @property
    def predicted(self) -> str:
        """The most probable class, even if the answer is withheld.

        Raises:
            DataError: the image cannot be read.
        """
        return self._best[0]

    @property
    def confidence(self) -> float:
        """The probability of the most probable class.

        Raises:
            DataError: the image cannot be read.
        """
        return self._best[1]

    @property
    def _best(self) -> tuple[str, float]:
        if not self.top:
            raise DataError(f"{self.path}: {self.reason}", "Skip answers that have a `reason`")
        return self.top[0]

    @property
    def remark(self) -> str:
        """Why there is no answer, or why it is withheld; empty for an answer that is given."""
        why = "unlike the training images" if self.is_far else "confidence below the threshold"
        return self.reason or (f"withheld: {why}" if self.is_withheld else "")

    def to_text(self) -> str:
        """Return `cat.jpg  cat 97.3 %  dog 2.1 %`, with the remark in brackets at the end if there is one."""
        shares = "".join(f"  {name} {100 * p:.1f} %" for name, p in self.top)
        return f"{self.path}{shares}{f'  ({self.remark})' if self.remark else ''}"

    def __repr__(self) -> str:
        """Return the answer as text on one line of printable characters."""
        return f"<{one_line(self.to_text())}>".encode("utf-8", "backslashreplace").decode()

    def _repr_html_(self) -> str:
        """Return the image with a bar per class, as notebooks show it."""
        return answer_card(str(self.path), self._photo(), self.top, self.remark)

    def _photo(self) -> bytes:
        """Return the image as a small JPEG; empty if it cannot be read."""
        if self.thumbnail is not None:
            return self.thumbnail
        try:
            return encode_jpeg(read_thumbnail(self.path, THUMBNAIL_SIDE, EACH_ITS_OWN), THUMBNAIL_QUALITY)
        except UnreadableImage:
            return b""

    def to_json(self) -> str:
        """Return one line of JSON: path, answered, predicted, confidence, top."""
        top = [{"class": name, "confidence": round(p, 6)} for name, p in self.top]
        content = {"predicted": self.predicted, "confidence": round(self.confidence, 6), "top": top}
        return dump_json({"path": str(self.path), "answered": not self.is_withheld} | content)

    def to_row(self) -> list[object]:
        """Return the cells of the row for the columns `answer_columns`."""
        cells = [(name, round(probability, 6)) for name, probability in self.top]
        return [str(self.path), "false" if self.is_withheld else "true", *chain.from_iterable(cells)]


class Answers(list[Answer]):
    """A list of answers, which notebooks show as pictures; so is a slice of it."""

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> Answer: ...
    @overload
    def __getitem__(self, place: slice, /) -> Answers: ...
    def __getitem__(self, place: SupportsIndex | slice, /) -> Answer | Answers:
        found = super().__getitem__(place)
        return Answers(found) if isinstance(found, list) else found

    def _repr_html_(self) -> str:
        """Return the images of the first answers, each with a bar per class."""
        return answer_cards((answer._repr_html_() for answer in self), len(self))


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


class ImageClassifier:
    """A trained model that classifies images of any kind, preprocessed exactly as in training; `load` returns one.

    `predict` and `embed` may be called from several threads at once. They print nothing, write no files, and do not
    change the settings of torch.

    An image is a path (`str` or `Path`), the bytes of an image file, a file opened with "rb", a numpy array, a torch
    tensor or a PIL image. `images` is one image, an iterable of images of any kind (a generator, too), or a batch:
    an array (N, H, W, 3) or a tensor (N, 3, H, W). Arrays are `uint8` RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W);
    tensors have the channels first. OpenCV's `imread` returns BGR, which cannot be recognised: pass
    `image[:, :, ::-1]`. `uint16` values are shown at the black and white levels of the training images, as in files.
    """

    def __init__(self, model: Classifier, card: ModelCard, precision: str = "auto", tta: bool = False) -> None:
        """Prepare `model`, which is already on its device, for prediction in the given number format.

        With `tta`, each answer is averaged over the image and its mirror image.
        """
        self.card = card.with_mirror() if tta else card
        self.tta = tta
        model.freeze("backbone")
        self._model = model.eval()
        self._precision = precision
        self._forward = FastForward(model, card.image_size, precision)

    def __repr__(self) -> str:
        """Return the name of the network, the number of classes, and the device."""
        return f"ImageClassifier({self.card.model}, {len(self.classes)} classes, on {self.device})"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.card.classes

    @property
    def device(self) -> str:
        """The device that the model computes on: `cpu`, `cuda:0`."""
        return str(self._forward.device)

    @property
    def batch_size(self) -> int:
        """How many images a pass of the model takes; with fewer, it takes as long. On a CPU, one image has its own."""
        return self._forward.batch_size

    @property
    def num_alone(self) -> int:
        """How many images are answered sooner one by one: a batch takes the same time however few it has."""
        return max(1, self.batch_size // 4) if self.device == "cpu" else 1

    def predict(self, images: Any, topk: int = 5) -> Answers:
        """Return a list with one answer per image, in order, each with its `topk` most probable classes.

        An image that cannot be read does not stop the others: its answer has a `reason` and no classes.

        Raises:
            UsageError: one of `images` is not an image, or an array whose shape or values cannot be those of an image.
        """
        return Answers(self.stream(images, topk))

    def embed(self, images: Any) -> np.ndarray:
        """Return the features (N, D) float32 of the images: what the head of the model classifies.

        Raises:
            DataError: an image cannot be read.
            UsageError: as for `predict`.
        """
        found = []
        for batch, rows in self._map(lambda rows: rows.float().numpy(), self._prepared(images), tta=False):
            for each in batch:
                if each.reason:
                    raise DataError(f"{each.path}: {each.reason}", "Leave it out; `predict` says which can be read")
            found.append(rows)
        return np.concatenate(found) if found else self.embed(np.zeros((1, 1), np.uint8))[:0]

    def stream(
        self,
        images: Any,
        topk: int = 5,
        workers: int | None = None,
        progress: Progress = no_progress,
        with_heat: bool = False,
    ) -> Iterator[Answer]:
        """Yield the answers of `predict` one by one, as they are computed; memory does not grow with their number.

        Args:
            images: as for `predict`.
            topk: how many classes an answer has.
            workers: the number of threads that decode images.
            progress: shows the progress.
            with_heat: whether to draw a heat map for each answer; not from several threads at once.
        """
        shown = progress(self._prepared(images, workers), "predicting", length_hint(images))
        yield from self.answer(shown, topk, with_heat)

    def prepare(self, image: Any) -> Ready:
        """Return one image as the model sees it, for `answer`; may be called from several threads at once."""
        return prepare_image(image, self.card.preprocessing, self.card.image_size)

    def answer(self, ready: Iterable[Ready], topk: int = 5, with_heat: bool = False) -> Iterator[Answer]:
        """Yield the answers for images that `prepare` has returned, for servers that decode ahead of the model."""
        if topk < 1:
            raise UsageError(f"topk {topk}: below 1", "Give the number of classes of an answer")
        for batch, answers in self._map(partial(self._answers, topk=topk), ready, self.tta):
            pixels = [each.pixels for each in batch if each.pixels is not None]
            heat = iter(draw_heat(self._model, np.stack(pixels), self._precision) if with_heat and pixels else [])
            answered = iter(answers)
            for each in batch:
                if each.reason:
                    yield Answer(each.path, (), each.reason, thumbnail=each.thumbnail)
                else:
                    answer, drawn = next(answered), next(heat, None)
                    yield replace(answer, path=each.path, note=each.note, thumbnail=each.thumbnail, heat=drawn)

    def _prepared(self, images: Any, workers: int | None = None) -> Iterator[Ready]:
        return prepare_images(images, self.card.preprocessing, self.card.image_size, workers)

    def _map(
        self, finish: Callable[[Tensor], Result], ready: Iterable[Ready], tta: bool
    ) -> Iterator[tuple[list[Ready], Result]]:
        """Yield batches of images with `finish(features (B, D) float16)` of those that can be read.

        With `tta`, the features of their mirror images follow: (2 B, D).
        """
        remaining, size = iter(ready), self.card.image_size
        first = list(islice(remaining, self.num_alone + 1))
        if len(first) <= self.num_alone:
            for batch, pixels in _batches(first, 1, size):
                image = torch.from_numpy(pixels).permute(0, 3, 1, 2)
                views = [image, image.flip(3)] if tta else [image]
                yield batch, finish(torch.cat([self._forward.alone(view) for view in views]))
            return
        batches = _batches(chain(first, remaining), self._forward.batch_size // (2 if tta else 1), size)
        if tta:
            batches = ((batch, np.concatenate([pixels, pixels[:, :, ::-1]])) for batch, pixels in batches)
        yield from self._forward.map(finish, batches)

    @torch.inference_mode()
    def _answers(self, rows: Tensor, topk: int) -> list[Answer]:
        """Return an answer, without its path, for each image of which `rows` are the features, as `_map` gives them."""
        card, forward, number = self.card, self._forward, len(rows)
        rows = forward.padded(rows)  # the sums of a matrix product depend on its size: an answer must not
        logits = require_finite(self._model.head(rows.to(forward.device).float()).cpu().double())
        if self.tta:
            number //= 2
            rows, logits = rows[:number], averaged(logits[:number], logits[number : 2 * number])
        best = (logits / card.temperature).softmax(1).topk(min(topk, len(card.classes)))
        none = torch.zeros(len(rows), dtype=torch.bool)
        is_far = card.fingerprint.is_far(distances_to(card.fingerprint.centers, rows)) if card.fingerprint else none
        is_withheld = card.unknown.is_withheld(best.values[:, 0], is_far) if card.unknown else none
        tops = [
            tuple((card.classes[label], probability) for probability, label in zip(*pair, strict=True))
            for pair in zip(best.values[:number].tolist(), best.indices[:number].tolist(), strict=True)
        ]
        flags = zip(tops, is_withheld[:number].tolist(), is_far[:number].tolist(), strict=True)
        return [Answer(Path(), top, is_withheld=withheld, is_far=far) for top, withheld, far in flags]


def load(
    run: str | os.PathLike[str] | int | None = None,
    output: str | os.PathLike[str] = "output",
    device: str | torch.device = "auto",
    precision: str = "auto",
    tta: bool = False,
) -> ImageClassifier:
    """Return the trained model of a run, ready to classify images.

    Args:
        run: the folder of a run, wherever it lies now; a `model.pt` alone; or the number or name of a run in `output`.
            By default, the newest finished run.
        output: the folder that holds the runs.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: "auto", "fp32", "bf16", "fp16" or "int8"; as for `--precision`.
        tta: whether to average each answer over the image and its mirror image, at twice the time.

    Raises:
        UsageError: there is no such run, device or number format, or `tta` was not measured or does harm.
        DataError: the model file is missing, damaged, or not one of this project.
        ResourceError: `precision` is "int8", and there are no kernels for it.
    """
    found = find_run(Path(output), None if run is None else str(run))
    kind, _, number = str(device).partition(":")
    Config(device=kind, precision=precision)  # checks both
    chosen = choose_device(kind)
    if number and not (kind == "cuda" and number.isdecimal() and int(number) < torch.cuda.device_count()):
        raise UsageError(f"--device {device}: not available here", "Use --device auto")
    model, card = load_checkpoint(found.model_file)
    settle_format(model.to(torch.device(str(device)) if number else chosen), precision)
    return ImageClassifier(model, card, precision, tta)


def _batches(ready: Iterable[Ready], batch_size: int, image_size: int) -> Iterator[tuple[list[Ready], np.ndarray]]:
    """Yield images with the pixels (B, S, S, 3) of those that can be read; a batch without any gets a black image."""
    remaining = iter(ready)
    while batch := list(islice(remaining, batch_size)):
        pixels = [each.pixels for each in batch if each.pixels is not None]
        yield batch, np.stack(pixels or [np.zeros((image_size, image_size, 3), np.uint8)])
