"""The test of one backbone: what it reads, where features go, and which images are tested."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from MLPipeline.choosing.Backbones import Backbone
from MLPipeline.choosing.Prober import Place, Prober, TimeIsOverError, out_of_fold
from MLPipeline.decoding.Preprocessing import PLAIN
from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files.Cache import digest
from MLPipeline.heads.HeadImages import plain_images
from MLPipeline.images.ScanFolders import TEST, TRAIN, scan_folders

LITE = Backbone("efficientnet_lite0", 32)


@pytest.fixture(scope="module")
def prober(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Prober:
    """Tests of 24 training images; the six test images have been deleted, so that reading one would fail."""
    root = tmp_path_factory.mktemp("prober")
    index = scan_folders(make_images(root / "Data", {"cat": 15, "dog": 15}))
    splits = np.where(np.arange(30) % 5, TRAIN, TEST).astype(np.int8)
    keys = np.array([np.void(digest(index.path(place).read_bytes())) for place in range(30)])
    for place in np.flatnonzero(splits == TEST).tolist():
        index.path(place).unlink()
    place = Place(root / "cache", torch.device("cpu"), workers=1)
    return Prober(replace(index, splits=splits, groups=np.arange(30) // 2), keys, PLAIN, place, seed=0)


def test_a_part_of_the_sample_is_tested_then_all(prober: Prober) -> None:
    part, whole = prober.test(LITE, 10), prober.test(LITE, 100)
    assert 10 <= part.num_images <= 11 and part.num_tested == part.num_images
    assert (whole.num_images, whole.num_tested) == (24, 24) and whole.accuracy > 0.9
    assert (whole.outcomes[part.outcomes >= 0] >= 0).all()
    assert np.array_equal(prober.test(LITE, 100).outcomes, whole.outcomes)


def test_the_cost_is_that_of_images_whose_features_are_not_stored(prober: Prober) -> None:
    before = sorted(prober.place.cache.rglob("rows.bin"))
    cost = prober.measure(LITE)
    assert sorted(prober.place.cache.rglob("rows.bin")) == before
    assert 0 < cost.seconds_per_image < 5 and cost.start_s > 0 and cost.megabytes == pytest.approx(13.7, abs=0.05)


def test_at_the_deadline_it_stops_and_what_is_stored_needs_no_time(prober: Prober) -> None:
    other = replace(LITE, image_size=40)
    with pytest.raises(TimeIsOverError):
        prober.test(other, 24, deadline=time.monotonic() - 1)
    assert prober.test(LITE, 24, deadline=time.monotonic() - 1).num_tested == 24


def test_without_room_for_features_it_is_an_error(prober: Prober) -> None:
    prober.place, place = replace(prober.place, cache_limit=0.0), prober.place
    try:
        with pytest.raises(ResourceError, match=r"--cache-limit: no room for the features of 24 images"):
            prober.test(replace(LITE, image_size=48), 24)
    finally:
        prober.place = place


def test_a_single_group_per_class_cannot_be_tested(prober: Prober) -> None:
    index = replace(prober.index, groups=prober.index.labels.astype(np.int64))
    with pytest.raises(DataError, match="no class has two training images that are not copies"):
        Prober(index, prober.contents, PLAIN, prober.place, seed=0)


def test_out_of_fold_means_without_the_image_and_its_copies() -> None:
    """Labels that follow from nothing but the copy: known if copies may be separated, else not."""
    draw = np.random.default_rng(0)
    rows = np.repeat(draw.standard_normal((200, 300)).astype(np.float32), 2, axis=0)
    labels = np.repeat(draw.integers(0, 2, 200), 2)
    apart = out_of_fold(plain_images(rows, labels, 2), seed=0)
    together = out_of_fold(plain_images(rows, labels, 2, np.arange(400) // 2), seed=0)
    assert apart.mean() > 0.8 and together.mean() < 0.62


def test_the_only_group_of_a_class_is_not_tested() -> None:
    rows = np.random.default_rng(0).standard_normal((21, 8)).astype(np.float32)
    labels = np.array([0] * 10 + [1] * 10 + [2])
    found = out_of_fold(plain_images(rows, labels, 3), seed=0)
    assert found[-1] == -1 and (found[:-1] >= 0).all()
