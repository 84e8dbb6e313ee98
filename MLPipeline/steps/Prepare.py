"""The first steps of training and tuning: list the images, build the model, inspect the files, split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, progress, resumable_reading
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import UsageError, within_memory
from MLPipeline.files.Cache import default_limit_gb
from MLPipeline.files.Machine import memory_bytes
from MLPipeline.files.OncePerMachine import once_per_machine
from MLPipeline.files.RunFolder import check_output, recorded_data
from MLPipeline.frozen.DecodeOnce import PixelKeeper, RowKeeper
from MLPipeline.frozen.FastForward import drawn_images
from MLPipeline.frozen.FrozenStages import FrozenStages
from MLPipeline.Head import have_roots, is_single_layer, make_head, with_roots
from MLPipeline.images.Duplicates import find_conflicts, find_duplicates, find_leaks, group_images
from MLPipeline.images.Inspect import Inspection, inspect_images
from MLPipeline.images.ListImages import data_folder, index_images
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL, Gap, ImageIndex
from MLPipeline.images.SplitGaps import find_gaps, gap_lines
from MLPipeline.images.SplitImages import split_images, split_record
from MLPipeline.Models import build_and_try, find_model, find_trainable, takes_size
from MLPipeline.scoring.Predictions import in_eval_mode
from MLPipeline.steps.PlanInt8 import plans_int8
from MLPipeline.training.Phases import is_solved, plan, resolve
from MLPipeline.Weights import WeightsReport, load_weights

_MOST_PIXELS = 2 * 2**30  # bytes of decoded images that are kept in memory


def with_data(config: Config) -> Config:
    """Return the settings with the folder of the images: `Data/` if none is stated; a named data set is downloaded.

    Raises:
        ResourceError: it cannot be downloaded or unpacked.
    """
    with ranks.in_turn():
        data = data_folder(config.data, config.labels, config.output)
    return replace(config, data=_replayed(config.config, data) if config.config else data)


def _replayed(settings: Path, data: Path) -> Path:
    """Return the folder of images that settings replayed from a file mean here, and say which it is."""
    recorded = recorded_data(settings.parent)
    if recorded and recorded.is_dir() and not data.exists():  # `Data`, typed in another working directory
        data = recorded
    other = f"; its run used {recorded}" if recorded and recorded != data.resolve() else ""
    note(f"--config {settings}: uses the images of {data.resolve()}{other}")
    return data


def list_images(config: Config) -> ImageIndex:
    """Return the images below the data folder, labelled by folders or tables; no image is opened yet."""
    check_output(config.output, config.name or config.model, config.data)
    given = config.data, config.follow_links, config.split_folders, config.labels, config.fixes
    index = once_per_machine(lambda: index_images(*given), config.output / "cache")
    ranks.require_same({"images": index.identity})
    return index


def preprocessing_of(config: Config, index: ImageIndex, inspection: Inspection) -> Preprocessing:
    """Return how the images of a split `index` become the input of a model."""
    return Preprocessing(config.fit, inspection.levels_of(index.positions(TRAIN)))


def build(config: Config, num_classes: int, device: torch.device) -> tuple[Classifier, Config, WeightsReport]:
    """Return the model with its first weights, on `device`; the settings with the model's defaults filled in."""
    spec, freeze_is_stated, stated_head = find_trainable(config.model), config.freeze is not None, config.head
    config = resolve(config, spec)
    if config.cache_limit is None:  # kept with the run: whether features are stored decides its last digits
        config = replace(config, cache_limit=default_limit_gb())
    torch.manual_seed(config.seed % 2**63)
    with within_memory("while the model was built", "Use a smaller --model, or close other programs"):
        model = build_and_try(config.model, num_classes, config.image_size)
        with ranks.in_turn():
            weights = load_weights(model, spec, config.weights)
        model.head = make_head(model.head, config.hidden, config.dropout, config.seed)
    _check_repetition(config, weights)
    if weights.kind == "none" and config.freeze != "none":
        if freeze_is_stated:
            note(f"--freeze {config.freeze} keeps random weights: the head is trained on meaningless features")
        else:
            config = replace(config, freeze="none", unfreeze_after=None)
    config = _suit_head(config, model, stated_head)
    if is_solved(config) and config.unfreeze_after is None and _gives_roots(model, config.image_size):
        model.head = with_roots(model.head)
    _check_test_size(config, num_classes)
    model.freeze(config.freeze)
    model.to(device).to(memory_format=torch.channels_last)  # the fastest memory format for convolutions
    return model, config, weights


def _check_repetition(config: Config, weights: WeightsReport) -> None:
    """Make sure that no long training that was not asked for is repeated, and no mean is taken of unlike networks."""
    if weights.kind != "none":
        return
    if config.repeats > 1:
        what = f"--repeats {config.repeats}: networks that are trained from random weights have no useful mean"
        raise UsageError(what, "Use --model efficientnet_lite0, whose weights need no network")
    if config.folds and config.freeze != "none" and config.weights == "auto":
        what = f"--folds {config.folds}: {config.model} has no weights here, so all of its layers would be trained"
        hint = "Use --model efficientnet_lite0, whose weights need no network, or give --weights none"
        raise UsageError(f"{what}, {config.folds + 1} times", hint)


def _check_test_size(config: Config, num_classes: int) -> None:
    """Make sure that the network can be used at `--test-size`, and that it is trained."""
    if not config.test_size:
        return
    what = f"--test-size {config.test_size}"
    if config.freeze == "backbone":
        raise UsageError(f"{what}: a frozen backbone is trained, tested and used at one size", "Give --image-size")
    if not takes_size(config.model, num_classes, config.image_size, config.test_size):
        why = f"{config.model} has other weights than at --image-size {config.image_size}"
        raise UsageError(f"{what}: {why}, or is not for images as small", "Leave it out, or give --image-size")


def _suit_head(config: Config, model: Classifier, stated: str | None) -> Config:
    """Return the settings with a head that is trained by gradient descent where this model has no other.

    Raises:
        UsageError: another one is stated.
    """
    if not is_solved(config):
        return config
    is_trained_whole = config.freeze == "none" and config.unfreeze_after is None  # there are no weights
    if not is_trained_whole and is_single_layer(model.head):
        return config
    if stated in (None, "linear"):
        return replace(config, head="linear")
    why = "all layers are trained, from random weights" if is_trained_whole else "the head has several layers"
    raise UsageError(f"--head {stated}: with --model {config.model} {why}", "Give --head linear, or another --model")


def _gives_roots(model: Classifier, image_size: int) -> bool:
    """Return whether a head that is solved for reads the square roots of the features of `model`."""
    with in_eval_mode(model), torch.inference_mode():
        return have_roots(model.features(drawn_images(1, image_size)))


def inspect(index: ImageIndex, model: Classifier, config: Config) -> tuple[Inspection, PixelKeeper | None]:
    """Return what is known of each image, and its pixels where `plans_int8`; what is new or has changed is read, once.

    What training will need of each image (features, activations at the frozen boundary, or pixels) is computed from
    the decoded pixels on the way and stored in the cache, where `store_features` finds it. Features in 8 bits come
    later: the network is calibrated on training images, and which those are follows from the inspection. So their
    pixels are kept in memory, as far as there is room.
    """
    cache = config.output / "cache"
    model.freeze(plan(config, find_model(config.model))[0].config.freeze)  # as in the first phase
    pixels = None
    if plans_int8(config, model, len(index)):
        room = min(_MOST_PIXELS, (memory_bytes() or 0) // 8)
        pixels = PixelKeeper(config.image_size, config.fit, room)
    rows = RowKeeper(
        config.image_size,
        lambda: FrozenStages(model, config.image_size, config.precision, config.fit),
        cache,
        len(index),
        config.cache_limit,
        config.fit,
    )
    keeper = (pixels or rows) if ranks.size == 1 else None  # several ranks divide the images differently for training
    with resumable_reading():
        inspection = inspect_images(index, cache, decoding_threads(config.workers), config.verify, progress, keeper)
    model.freeze(config.freeze)
    return inspection, pixels


def split(index: ImageIndex, inspection: Inspection, config: Config) -> ImageIndex:
    """Return the index with each image in a split, or unusable; near-duplicates stay on one side of the split.

    Its `gaps`, the classes of which a split has no images, are noted.
    """
    cache, shares = config.output / "cache", (config.val_fraction, config.test_fraction)
    pairs = once_per_machine(lambda: find_duplicates(index, inspection, cache, progress), cache)
    groups = once_per_machine(lambda: group_images(index, inspection, pairs, config.group), cache)
    find_conflicts(index, pairs)
    index = replace(index, skipped=(*index.skipped, *inspection.skipped(index)))
    grouping = config.group if index.groups is None else f"{config.group} and the groups of a table"
    record = split_record(cache, index.root, *shares, config.seed, grouping)
    after = split_images(index, *shares, config.seed, groups, record)

    def gaps_of() -> tuple[Gap, ...]:
        copies = group_images(replace(index, groups=None), inspection, pairs)
        return find_gaps(index, after, groups, copies, config.group)

    gaps = once_per_machine(gaps_of, cache)
    for line in gap_lines(gaps):
        note(line)
    if config.target_precision and not len(after.positions(VAL)):
        raise UsageError("--target-precision: there are no validation images to learn it from", "Hold some out")
    if ranks.is_first:  # in the user's own split folders, or where a new image joins two old ones
        find_leaks(after, groups)
    after = replace(after, gaps=gaps, groups=once_per_machine(lambda: groups.astype(np.int32), cache))
    return _without_test(after) if config.folds else after


def _without_test(index: ImageIndex) -> ImageIndex:
    """Return the index with the test images among the training images: cross-validation tests all images."""
    splits = np.where(index.splits == TEST, TRAIN, index.splits).astype(np.int8)
    return replace(index, splits=splits, gaps=tuple(gap for gap in index.gaps if gap.split != TEST))
