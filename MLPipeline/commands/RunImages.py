"""Which images a run is scored on: its own, checked by content, or labelled ones that the user names.

Own images have the labels and the split that `splits.csv` of the run records, corrections of labels included.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from MLPipeline.commands.OpenRun import OpenedRun
from MLPipeline.Config import DEFAULT_DATA, Config
from MLPipeline.console.Console import note, progress
from MLPipeline.decoding.ReadImage import UnreadableImage, read_bytes
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError
from MLPipeline.files.Cache import digest
from MLPipeline.files.RunFolder import recorded_data
from MLPipeline.frozen.DecodeOnce import RowKeeper
from MLPipeline.frozen.FrozenStages import FrozenStages
from MLPipeline.images.ImageWalk import ImageWalk, Skipped
from MLPipeline.images.Inspect import Inspection, inspect_images
from MLPipeline.images.ListImages import data_folder, index_images
from MLPipeline.images.ReadAhead import decoding_threads, read_ahead
from MLPipeline.images.RunSplits import OwnImages, read_splits, same_contents
from MLPipeline.images.ScanFolders import SPLITS, TRAIN, UNSPLIT, VAL, ImageIndex

MAX_CHANGED = 0.01  # share of the run's images that may be others than those it had
_FROZEN = "backbone"  # what is frozen to score other images: features take less room than pixels


@dataclass(frozen=True)
class ScoredImages:
    """The images to score, in the chosen split of the index; all others are in none."""

    index: ImageIndex
    keys: np.ndarray  # (N,) V16: where the rows of each file are stored
    notes: tuple[Skipped, ...]  # those of a depth that the model was not trained on


def images_to_score(opened: OpenedRun, config: Config) -> ScoredImages:
    """Return the run's own images of `--split`, or those that `--data` and `--labels` name; freeze the model to suit.

    Raises:
        UsageError: a label table cannot be used.
        DataError: the images are gone, more than 1 % are not what they were, or a class is unknown to the model.
    """
    split, folders = SPLITS.index(config.split), recorded_folders(opened)
    root = next((folder for folder in folders if folder.is_dir()), None)
    if config.data is None and config.labels is None:
        recorded = read_splits(opened.run.path / "splits.csv", opened.card.classes)
        if root is None:
            what = f"{opened.run.path}: its images are gone from {' and '.join(map(str, folders))}"
            raise DataError(what, "If the folder has moved, give its new place with --data")
        return _own_images(opened, config, recorded.find(root, split))
    if root is None and config.data and not config.labels and (moved := _moved_images(opened, config, config.data)):
        return moved
    return _labelled_images(opened, config, split)


def recorded_folders(opened: OpenedRun) -> list[Path]:
    """Return where the run's images may be: the folder it had, by its absolute path, then as it was typed."""
    typed = Path(opened.settings.get("data", DEFAULT_DATA))
    return list(dict.fromkeys([recorded_data(opened.run.path) or typed, typed]))


def _own_images(opened: OpenedRun, config: Config, own: OwnImages) -> ScoredImages:
    """Return the run's own images, without those that are not what they were."""
    root, split = own.index.root, SPLITS.index(config.split)
    if not len(own.index):
        hint = "Give --data FOLDER or another --split"
        raise DataError(f"{root}: no {SPLITS[split]} images of the run {opened.run.path}", hint)
    ranks.require_same({"images": own.index.identity})
    opened.model.freeze(opened.settings.get("freeze", _FROZEN))
    inspection = _inspect(opened, config, own.index)
    contents = inspection.prints["digest"]
    is_changed = np.zeros(len(own.index), bool) if own.digests is None else contents != own.digests
    if own.digests is None:
        note(f"{opened.run.path} did not record the contents of its images: whether they have changed is not checked")
    _check_unchanged(own, is_changed, split)
    index = replace(own.index, splits=np.where(is_changed, UNSPLIT, split).astype(np.int8))
    return _scored(opened, index, inspection)


def _scored(opened: OpenedRun, index: ImageIndex, inspection: Inspection) -> ScoredImages:
    levels = opened.card.levels
    return ScoredImages(index, inspection.row_keys(levels), inspection.unknown_depths(index, levels))


def _check_unchanged(own: OwnImages, is_changed: np.ndarray, split: int) -> None:
    """Say how many of the run's images have changed, moved or gone; refuse where these are too many."""
    allowed, num_changed, num_moved = MAX_CHANGED * own.num_recorded, int(is_changed.sum()), 0
    if len(own.gone) + num_changed <= max(1, allowed):
        num_moved = _count_moved(own)
    root = own.index.root
    counts = {
        f"have changed in {root}": num_changed,
        f"have moved in {root}": num_moved,
        f"are gone from {root}": len(own.gone) - num_moved,
    }
    found = [
        f"{number} of the run's {own.num_recorded} {SPLITS[split]} images {what}"
        for what, number in counts.items()
        if number
    ]
    if num_changed + num_moved > allowed or num_changed + len(own.gone) > max(1, allowed):
        example = own.gone[0] if own.gone else own.index.name(int(np.flatnonzero(is_changed)[0]))
        hint = f"Score the images as they are now with --data {shlex.quote(str(root))}, or train again"
        if num_changed > own.num_recorded / 2:
            hint = f"Is it another folder of that name? {hint}"
        raise DataError(f"{', '.join(found)}, such as {example}", hint)
    for what in found:
        note(what)


def _count_moved(own: OwnImages) -> int:
    """Return how many of the images that are gone lie at another place below the root, by their contents."""
    if not own.gone or own.gone_digests is None:
        return 0
    root = own.index.root
    known = {own.index.path(position) for position in range(len(own.index))}
    others = [path for path in ImageWalk(root, follow_links=False).images(root) if path not in known]
    contents = np.array(list(read_ahead(_digest_of, others, decoding_threads(None))), own.gone_digests.dtype)
    return int(same_contents(own.gone_digests, contents).sum())


def _digest_of(path: Path) -> np.void:
    with suppress(UnreadableImage):
        return np.void(digest(read_bytes(path)))
    return np.void(bytes(16))


def _moved_images(opened: OpenedRun, config: Config, data: Path) -> ScoredImages | None:
    """Return the run's own images if `data` is where its folder lies now; None if it is another folder."""
    with suppress(DataError):
        recorded = read_splits(opened.run.path / "splits.csv", opened.card.classes)
        own = recorded.find(data, SPLITS.index(config.split))
        if own.digests is None or len(own.gone) > MAX_CHANGED * own.num_recorded:
            return None
        images = _own_images(opened, config, own)
        note(f"{data} holds the images of {opened.run.path}: its own {config.split} images are scored")
        return images
    return None


def _labelled_images(opened: OpenedRun, config: Config, split: int) -> ScoredImages:
    """Return all images of a bare root or table, or the chosen split where there are splits."""
    root = data_folder(config.data, config.labels, config.output)
    classes = opened.card.classes
    index = index_images(root, config.follow_links, config.split_folders, config.labels, classes=classes)
    is_chosen = np.isin(index.splits, (UNSPLIT, split))
    if not is_chosen.any():
        raise DataError(f"{root}: no {SPLITS[split]} images", "Give --data FOLDER or another --split")
    index = replace(index, splits=np.where(is_chosen, split, UNSPLIT).astype(np.int8))
    ranks.require_same({"images": index.identity})
    opened.model.freeze(_FROZEN)
    inspection = _inspect(opened, config, index)
    with suppress(DataError):
        _note_learned(opened, inspection.prints["digest"][is_chosen])
    return _scored(opened, index, inspection)


def _note_learned(opened: OpenedRun, contents: np.ndarray) -> None:
    """Say how many of the images, given by their digests (N,), the run has learned from."""
    learned = read_splits(opened.run.path / "splits.csv", opened.card.classes).contents_of(TRAIN, VAL)
    if number := int(same_contents(contents, learned).sum()):
        what = f"{number} of the {len(contents)} images are training or validation images of {opened.run.path}"
        note(f"{what}: the figures are too good")


def _inspect(opened: OpenedRun, config: Config, index: ImageIndex) -> Inspection:
    """Return what is known of all files of `index`; rows for scoring are computed from what is decoded on the way."""
    cache, size, fit = config.output / "cache", opened.card.image_size, opened.card.preprocessing.fit

    def frozen_stages() -> FrozenStages:
        return FrozenStages(opened.model, size, config.precision, fit)

    keeper = RowKeeper(size, frozen_stages, cache, len(index), config.cache_limit, fit) if ranks.size == 1 else None
    return inspect_images(index, cache, decoding_threads(config.workers), config.verify, progress, keeper)
