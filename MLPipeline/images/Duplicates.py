"""Fingerprints -> which images are copies of one picture, and so must stay on one side of the split.

    hashes --sorted in 32 orders, neighbours compared--> candidates --small grey pictures fitted--> likely pairs
           --both files read again, compared in colour and in every place--> pairs

Copies are the same bytes, or one picture rescaled, recompressed, relit, cropped or without its colour. Nothing grows
with the square of the number of images: each is compared with its neighbours only. Documents on one form, frames in
which one thing has moved, and shirts on one table stay apart.
"""

from __future__ import annotations

import contextlib
import logging
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import UsageError
from MLPipeline.files.AtomicFile import write_file
from MLPipeline.files.Cache import digest
from MLPipeline.images.ConfirmCopies import confirm_copies
from MLPipeline.images.Fingerprint import GREY, IDENTITY
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.Likeness import compare
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import SPLITS, ImageIndex

NUM_ORDERS, NUM_NEIGHBOURS = 32, 8  # find 98 % of the pairs trimmed by 3 % on every side among 54,000 images
MAX_DISTANCE = 32  # bits of 128 that may differ; trimming by 3 % on every side changes up to 30
MAX_CANDIDATES, MIN_CANDIDATES = 8, 1000  # per image, in all: bounds the time where all pictures look alike
MIN_LIKENESS = 0.95  # of pairs worth reading again: copies of text reach 0.96, of photographs 0.98
MAX_TINT = 0.12  # difference in the share of red, green or blue; more contrast in a dark picture gives 0.08
MIN_CONTRAST = 4  # standard deviation of the greys below which there is nothing to compare
_PAIRS_AT_ONCE = 256
_SEARCH = f"2 {NUM_ORDERS} {NUM_NEIGHBOURS} {MAX_DISTANCE} {MIN_LIKENESS} {MAX_TINT} {IDENTITY}"  # what pairs depend on

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """Images that show the same picture, `first[k] < second[k]` (K,) int64 positions in the index."""

    first: np.ndarray
    second: np.ndarray
    likeness: np.ndarray  # (K,) float32 share of one picture that the other explains; 1 for copies alone

    def __len__(self) -> int:
        return len(self.first)

    @property
    def are_copies(self) -> np.ndarray:
        """Which pairs are the same file, byte for byte: (K,) bool."""
        return self.likeness == 1

    def table(self, index: ImageIndex) -> pd.DataFrame:
        """Return one row per pair: path, class and split of both, and how alike they are."""
        columns: dict[str, list] = {}
        for prefix, positions in (("", self.first.tolist()), ("same_", self.second.tolist())):
            columns[f"{prefix}path"] = [index.name(position) for position in positions]
            columns[f"{prefix}class"] = [index.classes[index.labels[position]] for position in positions]
            columns[f"{prefix}split"] = [SPLITS[split] if split >= 0 else "" for split in index.splits[positions]]
        return pd.DataFrame(columns | {"likeness": np.round(self.likeness, 4)})


def find_duplicates(index: ImageIndex, inspection: Inspection, cache: Path | None = None) -> Pairs:
    """Return the pairs of images that are copies of one picture.

    Of files with the same bytes the first is paired with each other one. Of near-duplicates there are enough pairs to
    link them all. Mirrored and rotated pictures, other shots of the same thing and pictures without contrast are not
    found. The same images in the same order are searched once: the `cache` keeps the pairs.

    Raises:
        ResourceError: the cache cannot be written.
    """
    if cache is None:
        return _search(index, inspection)
    contents = np.ascontiguousarray(inspection.prints["digest"]).tobytes()
    file = cache / "duplicates" / f"{digest(_SEARCH.encode() + contents).hex()}.npz"
    with contextlib.suppress(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile), np.load(file) as kept:
        return Pairs(kept["first"], kept["second"], kept["likeness"])
    pairs = _search(index, inspection)
    if ranks.is_first:
        write_file(file, lambda opened: np.savez(opened, **pairs.__dict__))
    return pairs


def _search(index: ImageIndex, inspection: Inspection) -> Pairs:
    readable = np.flatnonzero(inspection.is_readable)
    originals, first, second = _copies(inspection.prints["digest"][readable])
    compared = readable[originals]
    near = _near_duplicates(index, inspection, compared[inspection.prints["contrast"][compared] >= MIN_CONTRAST])
    return Pairs(
        np.concatenate([readable[first], near.first]),
        np.concatenate([readable[second], near.second]),
        np.concatenate([np.ones(len(first), np.float32), near.likeness]),
    )


def group_images(index: ImageIndex, inspection: Inspection, pairs: Pairs, pattern: str | None = None) -> np.ndarray:
    """Return for each image the number of its group (N,) int64: that of the group's first image; -1 if unreadable.

    A group is what shows one picture, directly or by way of others, and what `pattern` finds alike in the paths below
    the data folder: its first bracket, or the whole match. Files without a match stand alone.

    Raises:
        UsageError: `pattern` is no regular expression.
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
    """Return pairs (K, 2) of positions that are of one group and in different splits; warns if there are any.

    Each image outside its group's first split (train before val before test) is paired with an image of that split.
    """
    used = np.flatnonzero((groups >= 0) & (index.splits >= 0))
    used = used[np.lexsort((index.splits[used], groups[used]))]
    _, starts, group = np.unique(groups[used], return_index=True, return_inverse=True)
    pairs = np.stack([used[starts[group]], used], axis=1)
    leaks = pairs[index.splits[pairs[:, 0]] != index.splits[pairs[:, 1]]]
    if len(leaks):
        one, other = (index.name(position) for position in leaks[0].tolist())
        what = "%d images of val or test are the same as, or of one group with, images of another split: %s and %s"
        logger.warning(what + "; figures on them are too good", len(leaks), one, other)
    return leaks


def find_conflicts(index: ImageIndex, pairs: Pairs) -> np.ndarray:
    """Return which pairs (K,) bool show one picture under two labels; warns if there are any."""
    is_conflict = index.labels[pairs.first] != index.labels[pairs.second]
    for number in np.flatnonzero(is_conflict)[:1].tolist():
        one, other = (index.name(int(each[number])) for each in (pairs.first, pairs.second))
        logger.warning("pictures with two labels: %d, such as %s and %s", is_conflict.sum(), one, other)
    return is_conflict


def _keys(index: ImageIndex, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (M,) whose path `pattern` matches, and a digest (M,) of what it finds there."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        hint = r"Give a regular expression, such as 'patient(\d+)'"
        raise UsageError(f"--group {pattern}: {error}", hint) from error
    matches = ((position, expression.search(index.name(position))) for position in range(len(index)))
    number = 1 if expression.groups else 0
    kept = [(position, match[number]) for position, match in matches if match and match[number] is not None]
    if not kept:
        logger.warning("--group %s matches no file: every image stands for itself", pattern)
    digests = b"".join(digest(key.encode("utf-8", "surrogateescape")) for _, key in kept)
    return np.array([position for position, _ in kept], np.int64), np.frombuffer(digests, "V16")


def _join(number: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return for each of `number` items the first one it is linked to by pairs, directly or by way of others."""
    root = np.arange(number)
    while True:
        one, other = root[first], root[second]
        if np.array_equal(one, other):
            return root
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(root, root[root]):
            root = root[root]


def _copies(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the places that come first with their digest, then (first, second) for each that repeats one."""
    _, first, inverse = np.unique(digests.view(f"S{digests.itemsize}"), return_index=True, return_inverse=True)
    original = first[inverse]
    repeats = np.flatnonzero(original != np.arange(len(digests)))
    return np.sort(first), original[repeats], repeats


def _near_duplicates(index: ImageIndex, inspection: Inspection, compared: np.ndarray) -> Pairs:
    prints = inspection.prints[compared]
    first, second = _candidates(np.stack([prints["phash"], prints["dhash"]], axis=1))
    is_alike = _same_tint(prints[first], prints[second])
    first, second = compared[first[is_alike]], compared[second[is_alike]]
    likeness = np.zeros(len(first), np.float32)

    def look(start: int) -> None:
        chosen = slice(start, start + _PAIRS_AT_ONCE)
        likeness[chosen] = compare(inspection.thumbnails(first[chosen]), inspection.thumbnails(second[chosen]))

    with ThreadPoolExecutor(decoding_threads(None)) as threads:
        for _ in threads.map(look, range(0, len(first), _PAIRS_AT_ONCE)):
            pass
    likely = np.flatnonzero(likeness >= MIN_LIKENESS)
    found = likely[confirm_copies(first[likely], second[likely], likeness[likely], index.path, inspection.levels)]
    return Pairs(first[found], second[found], np.minimum(likeness[found], np.float32(0.9999)))


def _candidates(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of places (first < second) whose hashes (N, 2) uint64 differ in few bits: nearly all such pairs.

    Sorted by their bits in a random order, hashes that agree in the leading ones are neighbours; 32 orders give 32
    chances (Charikar 2002, "Similarity estimation techniques from rounding algorithms", section 3).
    """
    number = len(hashes)
    bits = np.ascontiguousarray(np.unpackbits(hashes.view(np.uint8), axis=1).T)
    generator = np.random.default_rng(0)
    found = np.empty(0, np.int64)  # (distance, first, second) in one number each
    for _ in range(NUM_ORDERS if number > 1 else 0):
        leading = np.packbits(bits[generator.permutation(len(bits))[:64]], axis=0)
        order = np.argsort(np.ascontiguousarray(leading.T).view(np.uint64)[:, 0], kind="stable")
        ordered, new = hashes[order], [found]
        for step in range(1, min(NUM_NEIGHBOURS + 1, number)):
            differing = _count_bits(ordered[step:] ^ ordered[:-step])
            distance = (differing[:, 0] + differing[:, 1]).astype(np.int64)
            near = np.flatnonzero(distance <= MAX_DISTANCE)
            one, other = order[near], order[near + step]
            new.append((distance[near] * number + np.minimum(one, other)) * number + np.maximum(one, other))
        found = np.unique(np.concatenate(new))[
            : max(MAX_CANDIDATES * number, MIN_CANDIDATES)
        ]  # the closest, where all look alike
    first, second = np.divmod(found, max(number, 1))
    return first % max(number, 1), second


def _count_bits(numbers: np.ndarray) -> np.ndarray:
    """Return how many bits are set in each uint64 (as `np.bitwise_count`, which numpy has from 2.0 on)."""
    pairs, nibbles, bytes_ = (np.uint64(0x0101010101010101 * byte) for byte in (0x55, 0x33, 0x0F))
    numbers = numbers - ((numbers >> np.uint64(1)) & pairs)
    numbers = (numbers & nibbles) + ((numbers >> np.uint64(2)) & nibbles)
    return ((numbers + (numbers >> np.uint64(4))) & bytes_) * np.uint64(0x0101010101010101) >> np.uint64(56)


def _same_tint(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return which pairs of fingerprints have the same mean colour, whatever their brightness; grey suits any."""

    def shares(prints: np.ndarray) -> np.ndarray:
        colour = prints["colour"].astype(np.float32) + 1
        return colour / colour.sum(axis=1, keepdims=True)

    is_grey = ((first["flags"] | second["flags"]) & GREY) > 0
    return is_grey | (np.abs(shares(first) - shares(second)).max(axis=1) <= MAX_TINT)
