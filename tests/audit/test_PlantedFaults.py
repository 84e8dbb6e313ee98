"""Faults planted among real photos are found, and little else is taken for one."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.images.Duplicates import Pairs, find_conflicts, find_duplicates, find_leaks, group_images
from MLPipeline.images.Inspect import Inspection, inspect_images
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL, ImageIndex, scan_folders
from MLPipeline.images.SplitImages import split_images
from tests.support.duplicate_cases import CHANGES, pixels_of
from tests.support.paths import CLOTHING

KINDS = ("rescaled", "recompressed", "trimmed", "trimmed on every side", "brighter")
NUM_COPIES, NUM_CHANGED, NUM_BAD = 100, 100, 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLOTHING.is_dir(), reason="the clothing photos are not on this machine"),
]


@dataclass(frozen=True)
class Planted:
    index: ImageIndex
    inspection: Inspection
    pairs: Pairs
    copies: dict[str, str]  # planted name -> what it is a copy of
    changed: dict[str, str]
    bad: set[str]

    def found(self) -> set[frozenset[str]]:
        first, second = (each.tolist() for each in (self.pairs.first, self.pairs.second))
        return {frozenset((self.index.name(a), self.index.name(b))) for a, b in zip(first, second, strict=True)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    root = tmp_path_factory.mktemp("planted") / "Data"
    names = sorted(path.relative_to(CLOTHING).as_posix() for path in CLOTHING.rglob("*.jpg"))[::2]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(CLOTHING / name)
    draw = np.random.default_rng(0)
    train = draw.permutation([name for name in names if name.startswith("train/")]).tolist()
    test = draw.permutation([name for name in names if name.startswith("test/")]).tolist()
    copies, changed, bad = {}, {}, set()
    for number, name in enumerate(test[:NUM_COPIES]):  # what is tested is learnt as well
        copies[f"train/{Path(name).parent.name}/copy{number}.jpg"] = name
        shutil.copyfile(CLOTHING / name, root / f"train/{Path(name).parent.name}/copy{number}.jpg")
    for number, name in enumerate(train[:NUM_CHANGED]):
        twin = f"test/{Path(name).parent.name}/changed{number}.jpg"
        (root / twin).write_bytes(CHANGES[KINDS[number % len(KINDS)]](pixels_of(CLOTHING / name)))
        changed[twin] = name
    for number, name in enumerate(train[NUM_CHANGED : NUM_CHANGED + NUM_BAD]):
        content = (CLOTHING / name).read_bytes()
        half = f"train/{Path(name).parent.name}/bad{number}.jpg"
        (root / half).write_bytes(
            (b"", b"<html>", content[: len(content) // 2], content[len(content) // 3 :])[number % 4]
        )
        bad.add(half)
    index = scan_folders(root, follow_links=True)
    inspection = inspect_images(index, root.parent / "cache", len(os.sched_getaffinity(0)))
    return Planted(index, inspection, find_duplicates(index, inspection), copies, changed, bad)


def test_every_unreadable_file_is_found(planted: Planted) -> None:
    assert {each.path for each in planted.inspection.skipped(planted.index)} == planted.bad


def test_every_copy_is_found_as_a_leak(planted: Planted) -> None:
    groups = group_images(planted.index, planted.inspection, planted.pairs)
    leaks = {frozenset(map(planted.index.name, pair)) for pair in find_leaks(planted.index, groups).tolist()}
    assert {frozenset(pair) for pair in planted.copies.items()} <= leaks
    assert planted.pairs.are_copies.sum() == NUM_COPIES


def test_nearly_every_changed_copy_is_found(planted: Planted) -> None:
    wanted = {frozenset(pair) for pair in planted.changed.items()}
    assert len(wanted & planted.found()) >= 0.95 * NUM_CHANGED


def test_hardly_anything_else_is_taken_for_a_duplicate(planted: Planted) -> None:
    known = {frozenset(pair) for pair in (*planted.copies.items(), *planted.changed.items())}
    others = planted.found() - known
    assert len(others) <= 0.005 * (NUM_COPIES + NUM_CHANGED)  # one, and it is real: a skirt that is under shorts, too
    assert {name.split("/")[1] for pair in others for name in pair} <= {"shorts", "skirt"}
    assert find_conflicts(planted.index, planted.pairs).sum() == len(others)


def test_our_own_split_has_no_leak_and_keeps_the_proportions(planted: Planted) -> None:
    groups = group_images(planted.index, planted.inspection, planted.pairs)
    unsplit = ImageIndex(**{**planted.index.__dict__, "splits": np.full(len(planted.index), -1, np.int8)})
    split = split_images(unsplit, 0.15, 0.15, 0, groups)
    assert len(find_leaks(split, groups)) == 0
    for label in range(len(split.classes)):
        sides = split.splits[(split.labels == label) & (groups >= 0)]
        for side, share in ((TRAIN, 0.7), (VAL, 0.15), (TEST, 0.15)):
            assert abs(np.sum(sides == side) - share * len(sides)) <= 1.5
