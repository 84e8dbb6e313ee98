"""What training and tuning begin with: the images in their splits, and the model with its first weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import DEFAULT_DATA, Config
from MLPipeline.console.Console import note, progress, remembered_if_stopped
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import UsageError
from MLPipeline.files.RunFolder import check_output
from MLPipeline.frozen.DecodeOnce import RowKeeper
from MLPipeline.frozen.FrozenStages import FrozenStages
from MLPipeline.Head import make_head
from MLPipeline.images.Duplicates import find_conflicts, find_duplicates, find_leaks, group_images
from MLPipeline.images.Fixes import apply_fixes
from MLPipeline.images.Inspect import Inspection, inspect_images
from MLPipeline.images.NamedData import named_data
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import VAL, ImageIndex, scan_folders
from MLPipeline.images.SplitImages import split_images, split_record
from MLPipeline.Models import build_model, find_model
from MLPipeline.training.Phases import plan, resolve
from MLPipeline.Weights import WeightsReport, load_weights


def with_data(config: Config) -> Config:
    """Return the settings with the folder of the images: `Data/` if none is stated; a data set called by name is made.

    Raises:
        ResourceError: it cannot be fetched or unpacked.
    """
    config = config.resolve({"data": DEFAULT_DATA})
    with ranks.in_turn():
        return replace(config, data=named_data(config.data, config.output) or config.data)


def list_images(config: Config) -> ImageIndex:
    """Return the images below the data folder, none of which is opened yet, with the corrected labels of `--fixes`."""
    check_output(config.output, config.name or config.model, config.data)
    index = scan_folders(config.data, config.follow_links)
    ranks.require_same({"images": index.identity})
    return apply_fixes(index, config.fixes) if config.fixes else index


def inspect_and_split(index: ImageIndex, model: Classifier, config: Config) -> tuple[ImageIndex, Inspection]:
    """Return the index with each image in a split or unusable, and what is known of each.

    Pictures that show the same stay on one side of the split. What training will read of each image is made on the way.
    """
    cache, shares = config.output / "cache", (config.val_fraction, config.test_fraction)
    model.freeze(plan(config, find_model(config.model))[0].config.freeze)  # as the first phase reads them
    keeper = RowKeeper(
        config.image_size,
        lambda: FrozenStages(model, config.image_size, config.precision),
        cache,
        len(index),
        config.cache_limit,
    )
    alone = keeper if ranks.size == 1 else None  # several ranks share out the images anew for that
    with remembered_if_stopped():
        inspection = inspect_images(index, cache, decoding_threads(config.workers), config.verify, progress, alone)
    model.freeze(config.freeze)
    pairs = find_duplicates(index, inspection, cache)
    groups = group_images(index, inspection, pairs, config.group)
    find_conflicts(index, pairs)
    index = replace(index, skipped=(*index.skipped, *inspection.skipped(index)))
    record = split_record(cache, index.root, *shares, config.seed, config.group)
    index = split_images(index, *shares, config.seed, groups, record)
    if config.target_precision and not len(index.positions(VAL)):
        raise UsageError("--target-precision: there are no validation images to learn it from", "Hold some out")
    find_leaks(index, groups)  # of the user's own split folders, or where a new picture joins two old ones
    return index, inspection


def build(config: Config, num_classes: int) -> tuple[Classifier, Config, WeightsReport]:
    """Return the model with its first weights; the settings with the model's defaults filled in."""
    spec, freeze_is_stated = find_model(config.model), config.freeze is not None
    config = resolve(config, spec)
    torch.manual_seed(config.seed % 2**63)
    model = build_model(config.model, num_classes, config.image_size)
    with ranks.in_turn():
        weights = load_weights(model, spec, config.weights)
    model.head = make_head(model.head, config.hidden, config.dropout, config.seed)
    if weights.kind == "none" and config.freeze != "none":
        if freeze_is_stated:
            note(f"--freeze {config.freeze} keeps random weights: the head learns from features that mean nothing")
        else:
            config = replace(config, freeze="none", unfreeze_after=None)
    model.freeze(config.freeze)
    return model, config, weights
