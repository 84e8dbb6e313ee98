"""Augmentation for what is computed only once, and what happens where the cache has no room."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from MLPipeline.Augment import make_augmentation
from MLPipeline.Classifier import Classifier
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.Errors import DataError
from MLPipeline.Features import NO_VIEWS, Dataset, Views, extract
from MLPipeline.files.Cache import RowStore, digest, has_room
from MLPipeline.frozen.Rows import CachedRows, FileRows
from MLPipeline.images.ScanFolders import TRAIN, VAL, ImageIndex, scan_folders
from MLPipeline.images.SplitImages import split_images
from tests.support.made_up_net import build

SIZE = 16
VIEWS = Views(3, make_augmentation("hflip,translate,jitter"), seed=5)
KB = 1e-6  # of a GB


@pytest.fixture
def root(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path / "Data", {"cat": 9, "dog": 9}, size=24)


def a_model(freeze: str = "backbone") -> Classifier:
    torch.manual_seed(3)
    model = build(2)
    model.freeze(freeze)
    return model.eval()


def split(root: Path) -> ImageIndex:
    return split_images(scan_folders(root), 0.2, 0.2, seed=0)


def contents_of(index: ImageIndex) -> np.ndarray:
    return np.array([np.void(digest(index.path(p).read_bytes())) for p in range(len(index))])


def extracted(root: Path, freeze: str = "backbone", views: Views = NO_VIEWS, limit: float = np.inf) -> Dataset:
    return extract(a_model(freeze), split(root), SIZE, root.parent / "cache", "fp32", 2, views=views, cache_limit=limit)


def test_an_epoch_shows_the_view_of_its_number_and_validation_the_image_itself(root: Path) -> None:
    dataset, model = extracted(root, views=VIEWS), a_model()
    index, position = dataset.index, int(dataset.index.positions(TRAIN)[0])
    pixels = read_image(index.path(position), (SIZE, SIZE)).pixels[None]
    content = digest(index.path(position).read_bytes())
    for epoch, view in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 1), (9, 3)):
        shown = VIEWS.apply(pixels, [content], view) if view else pixels
        expected = model.frozen_features(torch.from_numpy(shown.copy()).permute(0, 3, 1, 2))
        torch.testing.assert_close(dataset.rows.take(np.array([position]), epoch), expected, rtol=1e-2, atol=1e-3)
    rows = [dataset.rows.take(np.array([position]), epoch) for epoch in range(4)]
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 4
    val_rows = torch.cat([batch for batch, _ in dataset.batches(VAL, 4)])
    assert torch.equal(val_rows, dataset.rows.take(dataset.index.positions(VAL), 0))


def test_views_are_computed_once_and_other_images_change_none(root: Path, make_images: Callable[..., Path]) -> None:
    first = extracted(root, views=VIEWS)
    num_train = len(first.index.positions(TRAIN))
    assert first.num_computed == 18 + 3 * num_train
    assert extracted(root, views=VIEWS).num_computed == 0
    assert extracted(root).num_computed == 0  # the images themselves
    assert extracted(root, views=dataclasses.replace(VIEWS, number=4)).num_computed == num_train
    make_images(root, {"ant": 4}, size=24)  # comes first: every position moves
    more = extracted(root, views=VIEWS)
    assert more.num_computed == 4 + 3 * int((more.index.labels[more.index.positions(TRAIN)] == 0).sum())


@pytest.mark.parametrize("change", [{"seed": 6}, {"augment": make_augmentation("hflip,translate")}])
def test_views_of_another_seed_or_augmentation_are_others(root: Path, change: dict) -> None:
    first = extracted(root, views=VIEWS)
    other = extracted(root, views=dataclasses.replace(VIEWS, **change))
    assert other.num_computed == 3 * len(first.index.positions(TRAIN))
    positions = first.index.positions(TRAIN)
    assert not torch.equal(first.rows.take(positions, 1), other.rows.take(positions, 1))


def test_with_known_contents_only_files_without_a_row_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = split(root)
    contents, cache = contents_of(index), root.parent / "cache"
    first = extract(a_model(), index, SIZE, cache, "fp32", 2, contents=contents)
    read: list[Path] = []
    from MLPipeline import CreateDataset

    real = CreateDataset.read_bytes
    monkeypatch.setattr(CreateDataset, "read_bytes", lambda path: read.append(path) or real(path))
    changed = contents.copy()
    changed[3] = np.void(b"0123456789abcdef")  # as if the file had changed: it is read, and its row found by content
    again = extract(a_model(), index, SIZE, cache, "fp32", 2, contents=changed)
    assert read == [index.path(3)] and again.num_computed == 0
    assert torch.equal(first.rows.take(np.arange(18)), again.rows.take(np.arange(18)))


@pytest.mark.parametrize(
    ("freeze", "limit", "kind", "are_pixels"),
    [
        ("backbone", 1.0, CachedRows, False),
        ("one", 16 * KB, CachedRows, True),  # 18 x 768 bytes of pixels fit, the wider activations do not
        ("one", 1 * KB, FileRows, True),
        ("none", 1 * KB, FileRows, True),
    ],
)
def test_what_has_no_room_is_computed_anew(root: Path, freeze: str, limit: float, kind: type, are_pixels: bool) -> None:
    dataset = extracted(root, freeze, limit=limit)
    assert type(dataset.rows) is kind and dataset.rows.are_pixels == are_pixels
    positions = np.array([4, 0, 17])
    rows, model = dataset.rows.take(positions), a_model(freeze)
    if are_pixels:
        whole = [read_image(dataset.index.path(p), (SIZE, SIZE)).pixels for p in positions.tolist()]
        assert torch.equal(rows, torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2))
        assert model(rows).shape == (3, 2)


def test_a_file_that_goes_during_training_is_named(root: Path) -> None:
    dataset = extracted(root, "none", limit=1 * KB)
    gone = dataset.index.path(2)
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone}: no such file or directory, but could be read before"):
        dataset.rows.take(np.array([1, 2]))


def a_store(cache: Path, identity: str, used: float, num_rows: int = 10) -> RowStore:
    store = RowStore(cache, "rows", identity, (100,), np.dtype(np.uint8))
    with store.writing():
        store.append([digest(bytes([n])) for n in range(num_rows)], np.zeros((num_rows, 100), np.uint8))
    os.utime(store.folder / "keys.bin", (used, used))
    return store


def test_what_was_used_longest_ago_makes_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Three stores of 1.2 KB (rows and keys); the fourth needs 1 KB of 3."""
    caplog.set_level(logging.INFO)
    old, older, new = (a_store(tmp_path, name, used) for name, used in (("a", 200), ("b", 100), ("c", 300)))
    wanted = RowStore(tmp_path, "rows", "d", (100,), np.dtype(np.uint8))
    assert has_room(tmp_path, wanted, 10, 3.5 * KB)
    left = {store.folder.name for store in (old, older, new) if (store.folder / "rows.bin").exists()}
    assert left == {old.folder.name, new.folder.name}
    with older.writing():
        assert older.find(digest(b"\0")) is None  # deleted whole: it is simply empty


def test_a_store_in_use_stays_and_too_much_has_no_room(tmp_path: Path) -> None:
    used = a_store(tmp_path, "a", 100)
    wanted = RowStore(tmp_path, "rows", "d", (100,), np.dtype(np.uint8))
    with used.writing():
        assert has_room(tmp_path, wanted, 10, 1.1 * KB)
    assert (used.folder / "rows.bin").stat().st_size == 1000
    assert not has_room(tmp_path, wanted, 10, 0.9 * KB)
    assert not has_room(tmp_path, wanted, 10**15, np.inf)  # more than any disk
    assert (used.folder / "rows.bin").exists()  # nothing is deleted for what will not come
