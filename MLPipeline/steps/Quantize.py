"""The frozen backbone of a training in 8 bits: calibrated on training images, and checked before `auto` uses it.

The check: heads in closed form are fitted on what the head reads of the same images in 8 bits and in fp32, and compared
out of fold. Both the network and the check are kept in the cache, and used again where images are added; so are the
features, which the training needs anyway. No test image is looked at.
N images, S side of the square images, C classes, D features.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.console.Console import progress
from MLPipeline.CreateDataset import read_images
from MLPipeline.decoding.ReadImage import DECODER
from MLPipeline.Errors import UsageError
from MLPipeline.Features import Dataset, extract
from MLPipeline.files.CacheFiles import read_signed, write_signed
from MLPipeline.files.Json import dump_json, parse_json
from MLPipeline.files.StoredResult import decode_arrays, encode_arrays, result_file, stored_result
from MLPipeline.frozen.DecodeOnce import PixelKeeper
from MLPipeline.frozen.FrozenStages import code_hash, frozen_hash
from MLPipeline.Head import ROOTS, reads_roots
from MLPipeline.heads.CrossValidate import Answer, cross_validate
from MLPipeline.heads.GatherFeatures import inputs_of_head
from MLPipeline.heads.HeadImages import HeadImages, plain_images
from MLPipeline.heads.LinearHead import head_of_few
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import TRAIN, VAL, ImageIndex
from MLPipeline.images.SplitImages import evenly, only
from MLPipeline.onednn.Int8Backbone import NotQuantizableError, calibrate
from MLPipeline.onednn.Int8Network import Int8Network
from MLPipeline.scoring.Intervals import mean_interval
from MLPipeline.steps.Prepare import preprocessing_of

METHOD = 4  # increases with every change to the network or the check
NUM_CALIBRATED = 64
MAX_COMPARED, MIN_PER_CLASS = 400, 8
MAX_LOSS = 0.005  # of accuracy out of fold
_MOST_GROWTH = 2  # of the number of training images, for which a network stays as it is
_NUM_FOLDS, _NUM_REPEATS = 5, 20  # divided once, 400 images may differ by a point and a half by chance alone


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
    compared: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # positions of images to compare on


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
    sample = _Sample(config, index, inspection, model, kept.pixels)
    try:
        network = _network(sample, model)
        check = None if config.precision == "int8" else _check(config, sample, model, network)
    except NotQuantizableError as error:
        if config.precision == "int8":
            raise UsageError(f"--precision int8: {config.model}: {error}", "Leave it out") from error
        said = f"int8     not used: {config.model}: {error}"
        return Quantization({"obstacle": str(error)}, (said,), kept.pixels)
    figures: dict[str, Any] = {"layers": network.num_layers, "digest": network.digest}
    if check:
        figures |= {"check": asdict(check)}
        if not check.is_safe:
            return Quantization(figures, (f"int8     not used, it may cost accuracy: {check.to_text()}",), kept.pixels)
    model.quantized = network
    lines = [f"int8     {network.num_layers} layers in 8 bits, calibrated on training images"]
    lines += [f"         accuracy of a head {check.to_text()}"] if check else []
    return Quantization(figures, tuple(lines), kept.pixels, sample.compared)


class _Sample:
    """The images on which the backbone is calibrated, and those on which its features are compared with fp32."""

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
        network = frozen_hash(model), code_hash(model)
        self._about = METHOD, config.image_size, config.fit, DECODER, torch.__version__, machine, *network
        self._training, self._val = index.positions(TRAIN), index.positions(VAL)
        memory = result_file(config.output / "cache", "quantized", ("images", config.seed, *self._about))
        self.calibration, self.compared = self._remembered(read_signed(memory)) or self._drawn(memory)

    def _remembered(self, stored: bytes | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the positions of the images of an earlier training, if all may still be used.

        So the network, and with it the features of all images known before, stay the same where images are added; but
        no more than as many as there were.
        """
        if stored is None:
            return None
        found, usable = decode_arrays(stored), np.concatenate([self._training, self._val])
        place = dict(zip(self._keys[usable].tolist(), usable.tolist(), strict=True))
        keys = [found[name].tolist() for name in ("calibration", "compared")]
        if len(self._training) > _MOST_GROWTH * int(found["number"]) or not place.keys() >= {*keys[0], *keys[1]}:
            return None
        calibration, compared = (np.array([place[key] for key in each]) for each in keys)
        return calibration, compared

    def _drawn(self, memory: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return positions drawn by the seed, and the same number of each class; `memory` then has them."""
        draw, num_classes = np.random.default_rng(self.config.seed % 2**63), len(self.index.classes)
        calibration = np.sort(draw.choice(self._training, min(NUM_CALIBRATED, len(self._training)), replace=False))
        number = max(MIN_PER_CLASS, MAX_COMPARED // num_classes)
        compared = np.concatenate([self._members(label, number) for label in range(num_classes)])
        known = {"calibration": self._keys[calibration], "compared": self._keys[compared]}
        write_signed(memory, encode_arrays(known | {"number": np.array(len(self._training))}))
        return calibration, compared

    def _members(self, label: int, number: int) -> np.ndarray:
        """Return up to `number` images of a class; validation images first, as their answers in fp32 are needed later.

        See `measure_shift`.
        """
        val, training = (each[self.index.labels[each] == label] for each in (self._val, self._training))
        val = val[evenly(len(val), number)]
        return np.concatenate([val, training[evenly(len(training), number - len(val))]])

    def file(self, positions: np.ndarray, kind: str) -> Path:
        """Return where what depends on the backbone and on the images at `positions` is kept."""
        images = self._keys[positions], self.index.labels[positions]
        return result_file(self.config.output / "cache", "quantized", (kind, *self._about), *images)

    def pixels(self) -> np.ndarray:
        """Return the pixels (N, S, S, 3) uint8 of the images to calibrate on that can still be read.

        Raises:
            NotQuantizableError: there are none.
        """
        paths = [self.index.path(position) for position in self.calibration.tolist()]
        keys, size = map(bytes, self._keys[self.calibration].tolist()), self.config.image_size
        threads = decoding_threads(self.config.workers)
        readings = read_images(paths, size, threads, preprocessing=self._how, keys=keys, decoded=self._decoded)
        found = [each.pixels for each in readings if each.pixels is not None]
        if not found:
            raise NotQuantizableError("no training image can be read any more")
        return np.stack(found)

    def features(self, model: Classifier, index: ImageIndex, precision: str) -> Dataset:
        """Return the images of `index` with their features; the training finds them in the cache."""
        config = self.config
        return extract(
            model,
            index,
            config.image_size,
            config.output / "cache",
            precision,
            config.workers,
            progress,
            self._keys,
            cache_limit=config.cache_limit,
            preprocessing=self._how,
            decoded=self._decoded,
        )


def _network(sample: _Sample, model: Classifier) -> Int8Network:
    """Return what the backbone in 8 bits needs; from the cache if known.

    Raises:
        NotQuantizableError: the backbone cannot be quantized.
    """

    def measure() -> Int8Network:
        return calibrate(model.backbone, model.normalization, torch.from_numpy(sample.pixels()).permute(0, 3, 1, 2))

    return stored_result(sample.file(sample.calibration, "network"), measure, _encode, _decode)


def _encode(network: Int8Network) -> bytes:
    return encode_arrays({"ranges": network.ranges.numpy(), "means": network.means.numpy()})


def _decode(stored: bytes) -> Int8Network:
    found = decode_arrays(stored)
    return Int8Network(torch.from_numpy(found["ranges"]), torch.from_numpy(found["means"]))


def _check(config: Config, sample: _Sample, model: Classifier, network: Int8Network) -> Check:
    """Return how a head on features in 8 bits compares with one on features in fp32; from the cache if known.

    Raises:
        NotQuantizableError: the cache has no room for features.
    """
    kind = f"check on {ROOTS if reads_roots(model.head) else 'features'}"
    file = sample.file(np.concatenate([sample.calibration, sample.compared]), kind)
    known = stored_result(
        file,
        lambda: asdict(_compare(config, sample, model, network)),
        lambda found: dump_json(found).encode(),
        parse_json,
    )
    return Check(known["num_images"], known["fp32"], known["int8"], tuple(known["ci95"]))


def _compare(config: Config, sample: _Sample, model: Classifier, network: Int8Network) -> Check:
    exact = sample.features(model, only(sample.index, sample.compared, VAL), "fp32")
    model.quantized = network
    found = sample.features(model, exact.index, "int8")
    model.quantized = None
    if exact.rows.are_pixels or found.rows.are_pixels:
        raise NotQuantizableError("the cache has no room for features")
    positions = found.index.positions(VAL)
    first, second = (
        _right_out_of_fold(sample.index, positions, inputs_of_head(model, each, positions), config.seed)
        for each in (exact, found)
    )
    return Check(len(first), float(first.mean()), float(second.mean()), mean_interval(second - first))


def _right_out_of_fold(index: ImageIndex, positions: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return how often, of `_NUM_REPEATS` divisions, a head fitted without an image classifies it correctly (M,)."""
    labels, num_classes = index.labels[positions].astype(np.int64), len(index.classes)
    groups = None if index.groups is None else index.groups[positions].astype(np.int64)

    def fit(fitted: HeadImages) -> Answer:
        return head_of_few(fitted.rows, fitted.labels, num_classes, np.arange(len(fitted))).logits

    images = plain_images(rows, labels, num_classes, groups)
    tested, right = np.zeros(len(labels)), np.zeros(len(labels))
    for divided in range(seed, seed + _NUM_REPEATS):
        found = cross_validate(images, fit, _NUM_FOLDS, divided)
        tested[found.tested] += 1
        right[found.tested] += found.logits.argmax(axis=1) == labels[found.tested]
    return right[tested > 0] / tested[tested > 0]
