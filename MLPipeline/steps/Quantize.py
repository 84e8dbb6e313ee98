"""The frozen backbone of a training in 8 bits: calibrated on training images, and checked before `auto` uses it.

The check: heads in closed form are fitted on the features of the same training images in 8 bits and in fp32, and
compared out of fold. Both the network and the check are kept in the cache, and used again where images are added.
N images, S side of the square images, C classes, D features.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.CreateDataset import read_images
from MLPipeline.decoding.ReadImage import DECODER
from MLPipeline.Errors import UsageError
from MLPipeline.files.CacheFiles import read_signed, write_signed
from MLPipeline.files.Json import dump_json, parse_json
from MLPipeline.files.StoredResult import decode_arrays, encode_arrays, result_file, stored_result
from MLPipeline.frozen.DecodeOnce import PixelKeeper
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.frozen.FrozenStages import frozen_hash
from MLPipeline.heads.CrossValidate import Answer, cross_validate
from MLPipeline.heads.HeadImages import HeadImages, plain_images
from MLPipeline.heads.LinearHead import head_of_few
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import TRAIN, ImageIndex
from MLPipeline.onednn.Int8Backbone import NotQuantizableError, calibrate
from MLPipeline.onednn.Int8Network import Int8Network
from MLPipeline.scoring.Intervals import paired_interval
from MLPipeline.steps.Prepare import preprocessing_of

METHOD = 2  # increases with every change to the network or the check
NUM_CALIBRATED = 64
MAX_CHECKED, MIN_PER_CLASS = 400, 8
MAX_LOSS = 0.005  # of accuracy out of fold
_MOST_GROWTH = 2  # of the number of training images, for which a network stays as it is
_NUM_FOLDS = 5


@dataclass(frozen=True)
class Check:
    """The accuracy out of fold of a head in closed form on features in fp32, and in 8 bits, of the same images."""

    num_images: int
    fp32: float
    int8: float
    ci95: tuple[float, float]  # of int8 - fp32

    @property
    def is_safe(self) -> bool:
        """Whether no more than half a point is lost, and the interval does not exclude that nothing is."""
        return self.int8 - self.fp32 >= -MAX_LOSS and self.ci95[1] >= 0

    def to_text(self) -> str:
        """Return `84.0 -> 84.3 % out of fold (400 images, 95 % interval of the difference -0.8 to 1.3 points)`."""
        low, high = (100 * bound for bound in self.ci95)
        about = f"{self.num_images:,} images, 95 % interval of the difference {low:.1f} to {high:.1f} points"
        return f"{100 * self.fp32:.1f} -> {100 * self.int8:.1f} % out of fold ({about})"


@dataclass(frozen=True)
class Quantization:
    """What came of the plan to compute the frozen backbone in 8 bits; `model.quantized` says whether it is."""

    figures: Mapping[str, Any] = field(default_factory=dict)  # for metrics.json
    lines: tuple[str, ...] = ()  # for the console
    pixels: dict[bytes, np.ndarray] = field(default_factory=dict, repr=False)  # decoded already, by the file's digest


NOT_QUANTIZED = Quantization()


def quantize_frozen(
    config: Config, index: ImageIndex, inspection: Inspection, model: Classifier, kept: PixelKeeper | None
) -> Quantization:
    """Give `model` its backbone in 8 bits where pixels were `kept` for that; with `auto`, only if no accuracy is lost.

    Raises:
        UsageError: int8 is stated, and the backbone cannot be quantized.
    """
    if kept is None:
        return NOT_QUANTIZED
    images = _TrainingImages(config, index, inspection, model, kept.pixels)
    try:
        network = _network(images, model)
    except NotQuantizableError as error:
        if config.precision == "int8":
            raise UsageError(f"--precision int8: {config.model}: {error}", "Leave it out") from error
        said = f"int8     not used: {config.model}: {error}"
        return Quantization({"obstacle": str(error)}, (said,), kept.pixels)
    number = network.num_layers
    quantized = f"{number} of {number + 1} layers in 8 bits, calibrated on training images"
    figures: dict[str, Any] = {"layers_int8": number, "layers_fp32": 1, "digest": network.digest}
    if config.precision == "int8":
        model.quantized = network
        return Quantization(figures, (f"int8     {quantized}",), kept.pixels)
    check = _check(config, images, model, network)
    figures |= {"check": asdict(check)}
    if not check.is_safe:
        return Quantization(figures, (f"int8     not used, it costs accuracy: {check.to_text()}",), kept.pixels)
    model.quantized = network
    lines = f"int8     {quantized}", f"         accuracy of a head {check.to_text()}"
    return Quantization(figures, lines, kept.pixels)


class _TrainingImages:
    """The training images of a data set, of which some are read here."""

    def __init__(
        self,
        config: Config,
        index: ImageIndex,
        inspection: Inspection,
        model: Classifier,
        decoded: Mapping[bytes, np.ndarray],
    ) -> None:
        self.config, self.index, self._how = config, index, preprocessing_of(config, index, inspection)
        self._decoded, self._keys = decoded, inspection.row_keys(self._how.levels)
        machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        self._about = METHOD, config.image_size, config.fit, DECODER, torch.__version__, machine, frozen_hash(model)
        self._training = index.positions(TRAIN)
        memory = result_file(config.output / "cache", "quantized", ("images", config.seed, *self._about))
        self.calibration, self.checked = self._remembered(read_signed(memory)) or self._drawn(memory)

    def _remembered(self, stored: bytes | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the positions of the images of an earlier training, if all are training images still.

        So the network, and with it the features of all images known before, stay the same where images are added; but
        no more than as many as there were.
        """
        if stored is None:
            return None
        found = decode_arrays(stored)
        place = dict(zip(self._keys[self._training].tolist(), self._training.tolist(), strict=True))
        keys = [found[name].tolist() for name in ("calibration", "checked")]
        if len(self._training) > _MOST_GROWTH * int(found["number"]) or not place.keys() >= {*keys[0], *keys[1]}:
            return None
        calibration, checked = (np.array([place[key] for key in each]) for each in keys)
        return calibration, checked

    def _drawn(self, memory: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return positions drawn by the seed, and the same number of each class; `memory` then has them."""
        training, labels = self._training, self.index.labels[self._training]
        draw, num_classes = np.random.default_rng(self.config.seed % 2**63), len(self.index.classes)
        calibration = np.sort(draw.choice(training, min(NUM_CALIBRATED, len(training)), replace=False))
        per_class = max(MIN_PER_CLASS, MAX_CHECKED // num_classes)
        members = [training[labels == label] for label in range(num_classes)]
        checked = np.concatenate([each[:: max(1, -(-len(each) // per_class))] for each in members])
        known = {"calibration": self._keys[calibration], "checked": self._keys[checked]}
        write_signed(memory, encode_arrays(known | {"number": np.array(len(training))}))
        return calibration, checked

    def file(self, positions: np.ndarray, kind: str) -> Path:
        """Return where what depends on the backbone and on the images at `positions` is kept."""
        images = self._keys[positions], self.index.labels[positions]
        return result_file(self.config.output / "cache", "quantized", (kind, *self._about), *images)

    def batches(self, positions: np.ndarray, size: int) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield positions with pixels (B, S, S, 3) uint8, without files that cannot be read any more."""
        config, paths = self.config, (self.index.path(position) for position in positions.tolist())
        threads = decoding_threads(config.workers)
        readings = read_images(paths, config.image_size, threads, preprocessing=self._how, decoded=self._decoded)
        found = ((position, each.pixels) for position, each in zip(positions.tolist(), readings, strict=True))
        readable = ((position, pixels) for position, pixels in found if pixels is not None)
        while batch := list(islice(readable, size)):
            yield [position for position, _ in batch], np.stack([pixels for _, pixels in batch])


def _network(images: _TrainingImages, model: Classifier) -> Int8Network:
    """Return what the backbone in 8 bits needs; from the cache if known.

    Raises:
        NotQuantizableError: the backbone cannot be quantized.
    """

    def measure() -> Int8Network:
        (_, pixels) = next(images.batches(images.calibration, NUM_CALIBRATED))
        return calibrate(model.backbone, model.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2)))

    file = images.file(images.calibration, "network")
    return stored_result(file, measure, _encode, _decode)


def _encode(network: Int8Network) -> bytes:
    return encode_arrays({"ranges": network.ranges.numpy(), "means": network.means.numpy()})


def _decode(stored: bytes) -> Int8Network:
    found = decode_arrays(stored)
    return Int8Network(torch.from_numpy(found["ranges"]), torch.from_numpy(found["means"]))


def _check(config: Config, images: _TrainingImages, model: Classifier, network: Int8Network) -> Check:
    """Return how a head on features in 8 bits compares with one on features in fp32; from the cache if known."""
    file = images.file(np.concatenate([images.calibration, images.checked]), "check")
    known = stored_result(
        file,
        lambda: asdict(_compare(config, images, model, network)),
        lambda found: dump_json(found).encode(),
        parse_json,
    )
    return Check(known["num_images"], known["fp32"], known["int8"], tuple(known["ci95"]))


def _compare(config: Config, images: _TrainingImages, model: Classifier, network: Int8Network) -> Check:
    is_right = []
    for quantized, precision in ((None, "fp32"), (network, "int8")):
        model.quantized = quantized
        forward = FastForward(model, config.image_size, precision)
        positions, rows = _features_of(forward, images.batches(images.checked, forward.batch_size))
        is_right.append(_right_out_of_fold(images.index, positions, rows, config.seed))
    model.quantized = None
    first, second = is_right
    both, lost, won = (int(each.sum()) for each in (first & second, first & ~second, ~first & second))
    interval = paired_interval(both, lost, won, len(first) - both - lost - won)
    return Check(len(first), float(first.mean()), float(second.mean()), interval)


def _features_of(
    forward: FastForward, batches: Iterator[tuple[list[int], np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (N,) and the features (N, D) float32 of images."""
    computed = list(forward.stream(batches))
    positions = np.array([position for found, _ in computed for position in found])
    return positions, np.concatenate([rows.float().numpy() for _, rows in computed])


def _right_out_of_fold(index: ImageIndex, positions: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return which images (M,) bool a head classifies correctly that was fitted without them."""
    labels, num_classes = index.labels[positions].astype(np.int64), len(index.classes)
    groups = None if index.groups is None else index.groups[positions].astype(np.int64)

    def fit(fitted: HeadImages) -> Answer:
        return head_of_few(fitted.rows, fitted.labels, num_classes, np.arange(len(fitted))).logits

    found = cross_validate(plain_images(rows, labels, num_classes, groups), fit, _NUM_FOLDS, seed)
    return found.logits.argmax(axis=1) == labels[found.tested]
