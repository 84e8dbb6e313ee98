"""Hundreds of thousands of images, without their files: memory and time from the scan to the split.

python -m pytest tests/images/test_ManyImages.py --log-cli-level INFO        shows the figures
"""

from __future__ import annotations

import logging
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from MLPipeline.images.Duplicates import Pairs, find_duplicates, find_leaks, group_images
from MLPipeline.images.Fingerprint import FINGERPRINT, ROW
from MLPipeline.images.ImageWalk import ImageWalk
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.LabelTable import scan_table
from MLPipeline.images.ScanFolders import ImageIndex, scan_folders
from MLPipeline.images.SplitImages import split_images

MANY = 200_000  # tests/benchmarks/CostModel.py counts a million
Result = TypeVar("Result")
logger = logging.getLogger(__name__)

pytestmark = pytest.mark.slow


def timed(label: str, work: Callable[[], Result]) -> Result:
    start = time.process_time()
    result = work()
    logger.info("%s: %.1f s", label, time.process_time() - start)
    return result


def inspection_of(number: int) -> Inspection:
    """Return fingerprints of distinct pictures, in which every hundredth image is a copy of the one before it."""
    generator = np.random.default_rng(0)
    prints = np.zeros(number, FINGERPRINT)
    prints["digest"] = np.frombuffer(generator.bytes(16 * number), "V16")
    prints["digest"][1::100] = prints["digest"][::100]
    for name in ("phash", "dhash"):
        prints[name] = generator.integers(0, 2**64, number, dtype=np.uint64)
    prints["contrast"] = 50
    return Inspection(prints, np.zeros(1, ROW), np.zeros(number, np.int32), {}, number)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageIndex]:
    """The index of ten folders with 20,000 images each, which the walk only claims to have seen."""
    root = tmp_path_factory.mktemp("Data")
    for label in range(10):
        (root / f"class{label}").mkdir()

    def images(walk: ImageWalk, folder: Path) -> Iterator[Path]:
        return (folder / f"photo_of_a_camera_{number:07}.jpg" for number in range(MANY // 10))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageWalk, "images", images)
        yield timed("packing the index", lambda: scan_folders(root))


@pytest.fixture(scope="module")
def inspection() -> Inspection:
    return inspection_of(MANY)


def test_an_image_takes_under_200_bytes_and_no_object(index: ImageIndex, inspection: Inspection) -> None:
    packed = (index.labels, index.splits, index._ends, inspection.prints, inspection.numbers)
    total = sum(array.nbytes for array in packed) + len(index._names)
    logger.info("an image takes %d bytes: %d of them its name", total / MANY, len(index._names) / MANY)
    assert len(index) == MANY and total / MANY < 200
    assert index.name(MANY - 1) == "class9/photo_of_a_camera_0019999.jpg"


def test_scanning_makes_no_object_that_stays(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    def images(walk: ImageWalk, folder: Path) -> Iterator[Path]:
        return (folder / f"photo_of_a_camera_{number:07}.jpg" for number in range(3_000))

    monkeypatch.setattr(ImageWalk, "images", images)
    measured = []
    for _ in range(3):  # in one of them Python's own table of names may grow, by 10 MB
        tracemalloc.start()
        small = scan_folders(index.root)
        measured.append(tracemalloc.get_traced_memory())
        tracemalloc.stop()
    kept, peak = min(measured)
    assert len(small) == 30_000 and kept / len(small) < 100 and peak / len(small) < 200


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], ImageIndex]:
    """Return `read(number)`: the index of a table of so many rows, whose images the walk only claims to have seen."""

    def read(number: int) -> ImageIndex:
        with open(tmp_path / "labels.csv", "w", encoding="utf-8") as file:
            file.write("image_id,label,group\n")
            file.writelines(f"photo_of_a_camera_{k:07},{k % 1000:03},{k // 7}\n" for k in range(number))

        def names(walk: ImageWalk, folder: Path) -> Iterator[str]:
            return (f"{folder}/images/photo_of_a_camera_{k:07}.jpg" for k in range(number))

        monkeypatch.setattr(ImageWalk, "names", names)
        return scan_table(tmp_path / "labels.csv", tmp_path)

    return read


def test_many_labels_from_a_table(listed: Callable[[int], ImageIndex]) -> None:
    number = 97_000
    index = timed("reading a table of 97,000 rows", lambda: listed(number))
    assert index.groups is not None
    packed = (index.labels, index.splits, index._ends, index.groups)
    assert (sum(array.nbytes for array in packed) + len(index._names)) / number < 100
    last = number - 1
    assert index.name(last) == "images/photo_of_a_camera_0096999.jpg"
    assert (
        index.classes[index.labels[last]] == "999"
        and index.groups[last] != index.groups[last - 1] == index.groups[last - 2]
    )


def test_reading_a_table_leaves_no_object_per_row(listed: Callable[[int], ImageIndex]) -> None:
    tracemalloc.start()
    index = listed(30_000)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / len(index) < 100 and peak / len(index) < 800  # a gigabyte for a million, with the interpreter


def test_many_are_searched_for_duplicates_in_seconds(index: ImageIndex) -> None:
    inspection = inspection_of(50_000)
    pairs = timed("duplicates among 50,000", lambda: find_duplicates(index, inspection))
    assert pairs.are_copies.sum() == 500 and np.all(pairs.second[pairs.are_copies] % 100 == 1)


def test_many_are_grouped_and_split_in_seconds(index: ImageIndex, inspection: Inspection) -> None:
    copies = np.arange(0, MANY, 100)
    pairs = Pairs(copies, copies + 1, np.ones(len(copies), np.float32))
    groups = timed("groups", lambda: group_images(index, inspection, pairs))
    split = timed("split", lambda: split_images(index, 0.15, 0.15, 0, groups))
    assert np.bincount(split.splits).tolist() == [140_000, 30_000, 30_000] and len(find_leaks(split, groups)) == 0
