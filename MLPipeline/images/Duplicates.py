"""Fingerprints -> which images are copies of one image and must therefore be in the same split.

    hashes --sorted in 32 orders, neighbours compared--> candidates --grey thumbnails fitted--> likely pairs
           --both files read again, compared in colour and at every position--> pairs

Copies have the same bytes, or are one image rescaled, recompressed, adjusted in brightness, cropped or converted to
grey. No step is quadratic in the number of images: each image is compared with its neighbours only. Different documents
on one form, frames in which one object has moved, and different shirts on one table are not copies.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MLPipeline.files.Cache import digest
from MLPipeline.files.StoredResult import decode_arrays, encode_arrays, result_file, stored_result
from MLPipeline.images.Candidates import MAX_DISTANCE, NUM_NEIGHBOURS, NUM_ORDERS, find_candidates
from MLPipeline.images.ClassNames import class_name
from MLPipeline.images.ConfirmCopies import confirm_copies
from MLPipeline.images.Fingerprint import GREY, IDENTITY
from MLPipeline.images.GroupPattern import match_paths
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.Likeness import compare
from MLPipeline.images.ReadAhead import Progress, decoding_threads, no_progress
from MLPipeline.images.ScanFolders import SPLITS, ImageIndex

if TYPE_CHECKING:  # imported where a table is made: pandas takes 0.3 s
    import pandas as pd

MIN_LIKENESS = 0.95  # of pairs worth reading again: copies of text reach 0.96, of photographs 0.98
MAX_TINT = 0.12  # difference in the share of red, green or blue; more contrast in a dark image gives 0.08
MIN_CONTRAST = 4  # standard deviation of the grey values, below which there is nothing to compare
_PAIRS_AT_ONCE = 256
_SEARCH = f"3 {NUM_ORDERS} {NUM_NEIGHBOURS} {MAX_DISTANCE} {MIN_LIKENESS} {MAX_TINT} {IDENTITY}"  # what pairs depend on

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """Exact and near-duplicates: `first[k] < second[k]`, both (K,) int64 positions in the index."""

    first: np.ndarray
    second: np.ndarray
    likeness: np.ndarray  # (K,) float32 share of one image that the other explains; 1 for exact duplicates only

    def __len__(self) -> int:
        return len(self.first)

    @property
    def are_copies(self) -> np.ndarray:
        """Which pairs are the same file, byte for byte: (K,) bool."""
        return self.likeness == 1

    def table(self, index: ImageIndex) -> pd.DataFrame:
        """Return one row per pair: path, class and split of both images, and their likeness."""
        import pandas as pd

        columns: dict[str, list] = {}
        for prefix, positions in (("", self.first.tolist()), ("same_", self.second.tolist())):
            columns[f"{prefix}path"] = [index.name(position) for position in positions]
            columns[f"{prefix}class"] = [index.classes[index.labels[position]] for position in positions]
            columns[f"{prefix}split"] = [SPLITS[split] if split >= 0 else "" for split in index.splits[positions]]
        return pd.DataFrame(columns | {"likeness": np.round(self.likeness, 4)})


def find_duplicates(
    index: ImageIndex, inspection: Inspection, cache: Path | None = None, progress: Progress = no_progress
) -> Pairs:
    """Return the pairs of images that are copies of one image.

    Among files with the same bytes, the first is paired with each of the others. The pairs of near-duplicates are not
    all of them, but enough to link all copies of an image. Mirrored and rotated images, different photographs of the
    same object and images without contrast are not found. The same images in the same order are searched only once:
    the `cache` keeps the pairs.

    Raises:
        ResourceError: the cache cannot be written.
    """
    if cache is None:
        return _search(index, inspection, progress)
    file = result_file(cache, "duplicates", _SEARCH, inspection.prints["digest"], index.labels, index.splits)
    found = stored_result(file, lambda: _search(index, inspection, progress).__dict__, encode_arrays, decode_arrays)
    return Pairs(**found)


def _search(index: ImageIndex, inspection: Inspection, progress: Progress) -> Pairs:
    readable = np.flatnonzero(inspection.is_readable)
    originals, first, second = _copies(inspection.prints["digest"][readable])
    compared = readable[originals]
    has_contrast = inspection.prints["contrast"][compared] >= MIN_CONTRAST
    near = _near_duplicates(index, inspection, compared[has_contrast], progress)
    return Pairs(
        np.concatenate([readable[first], near.first]),
        np.concatenate([readable[second], near.second]),
        np.concatenate([np.ones(len(first), np.float32), near.likeness]),
    )


def group_images(index: ImageIndex, inspection: Inspection, pairs: Pairs, pattern: str | None = None) -> np.ndarray:
    """Return the group of each image (N,) int64: the position of the first image of the group; -1 if unreadable.

    A group contains copies of one image, linked directly or through others, and images for which `pattern` matches the
    same text in the path below the data folder: its first capturing group, or the whole match. An image whose path does
    not match is not grouped by `pattern`.

    Raises:
        UsageError: `pattern` is not a regular expression, or takes too long.
    """
    first, second = pairs.first, pairs.second
    if index.groups is not None:
        grouped = np.flatnonzero(index.groups >= 0)
        _, same, repeat = _copies(index.groups[grouped].astype(np.int64).view("V8"))
        first, second = np.concatenate([first, grouped[same]]), np.concatenate([second, grouped[repeat]])
    if pattern is not None:
        matching, keys = _keys(index, pattern)
        _, same, repeat = _copies(keys)
        first, second = np.concatenate([first, matching[same]]), np.concatenate([second, matching[repeat]])
    return np.where(inspection.is_readable, _join(len(index), first, second), -1)


def find_leaks(index: ImageIndex, groups: np.ndarray) -> np.ndarray:
    """Return the pairs of `split_groups`; warns if there are any."""
    leaks = split_groups(index, groups)
    if len(leaks):
        one, other = (index.name(position) for position in leaks[0].tolist())
        what = "%d images of val or test are copies of, or in the same group as, images of another split: %s and %s"
        logger.warning(what + "; scores on them are too optimistic", len(leaks), one, other)
    return leaks


def split_groups(index: ImageIndex, groups: np.ndarray) -> np.ndarray:
    """Return pairs (K, 2) of positions in the same group but in different splits.

    Each image outside the first split of its group (train before val before test) is paired with an image of that one.
    """
    used = np.flatnonzero((groups >= 0) & (index.splits >= 0))
    used = used[np.lexsort((index.splits[used], groups[used]))]
    _, starts, group = np.unique(groups[used], return_index=True, return_inverse=True)
    pairs = np.stack([used[starts[group]], used], axis=1)
    return pairs[index.splits[pairs[:, 0]] != index.splits[pairs[:, 1]]]


def find_conflicts(index: ImageIndex, pairs: Pairs) -> np.ndarray:
    """Return which pairs (K,) bool have different labels; warns if there are any."""
    is_conflict = index.labels[pairs.first] != index.labels[pairs.second]
    for number in np.flatnonzero(is_conflict)[:1].tolist():
        one, other = (index.name(int(each[number])) for each in (pairs.first, pairs.second))
        logger.warning("pictures with two labels: %d, such as %s and %s", is_conflict.sum(), one, other)
    return is_conflict


def _keys(index: ImageIndex, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (M,) of the images whose path matches `pattern`, and a digest (M,) of the matched text."""
    names = [class_name(index.name(position)) for position in range(len(index))]  # in NFC, as patterns are typed
    texts = match_paths(names, class_name(pattern))
    kept = [(position, text) for position, text in enumerate(texts) if text is not None]
    if not kept:
        logger.warning("--group %s matches no file and groups no images", pattern)
    digests = b"".join(digest(key.encode("utf-8", "surrogateescape")) for _, key in kept)
    return np.array([position for position, _ in kept], np.int64), np.frombuffer(digests, "V16")


def _join(number: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return for each of `number` items the first item that it is linked to by pairs, directly or through others."""
    root = np.arange(number)
    while True:
        one, other = root[first], root[second]
        if np.array_equal(one, other):
            return root
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(root, root[root]):
            root = root[root]


def _copies(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions where a digest first occurs, then (first, second) for each position that repeats one."""
    _, first, inverse = np.unique(digests.view(f"S{digests.itemsize}"), return_index=True, return_inverse=True)
    original = first[inverse]
    repeats = np.flatnonzero(original != np.arange(len(digests)))
    return np.sort(first), original[repeats], repeats


def _near_duplicates(index: ImageIndex, inspection: Inspection, compared: np.ndarray, progress: Progress) -> Pairs:
    prints = inspection.prints
    first, second = find_candidates(np.stack([prints[name][compared] for name in ("phash", "dhash")], axis=1))
    first, second = compared[first], compared[second]
    is_alike = _same_tint(prints[first], prints[second])
    first, second = first[is_alike], second[is_alike]
    likeness = np.zeros(len(first), np.float32)

    def look(start: int) -> None:
        chosen = slice(start, start + _PAIRS_AT_ONCE)
        likeness[chosen] = compare(inspection.thumbnails(first[chosen]), inspection.thumbnails(second[chosen]))

    with ThreadPoolExecutor(decoding_threads(None)) as threads:
        for _ in threads.map(look, range(0, len(first), _PAIRS_AT_ONCE)):
            pass
    likely = np.flatnonzero(likeness >= MIN_LIKENESS)
    first, second, likeness = first[likely], second[likely], likeness[likely]
    levels, classes = inspection.levels, _shared_classes(index, first, second)
    is_copy = confirm_copies(first, second, likeness, index.path, levels, classes, progress)
    return Pairs(first[is_copy], second[is_copy], np.minimum(likeness[is_copy], np.float32(0.9999)))


def _shared_classes(index: ImageIndex, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the class (K,) of each pair; -1 if a copy would be a finding: two labels, or two of the user's splits."""
    is_shared = (index.labels[first] == index.labels[second]) & (index.splits[first] == index.splits[second])
    return np.where(is_shared, index.labels[first].astype(np.int64), -1)


def _same_tint(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return which pairs of fingerprints have the same mean colour, ignoring brightness; grey matches any colour."""

    def shares(prints: np.ndarray) -> np.ndarray:
        colour = prints["colour"].astype(np.float32) + 1
        return colour / colour.sum(axis=1, keepdims=True)

    is_grey = ((first["flags"] | second["flags"]) & GREY) > 0
    return is_grey | (np.abs(shares(first) - shares(second)).max(axis=1) <= MAX_TINT)
