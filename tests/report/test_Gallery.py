"""Which images a report shows, in which order, and how small they are made."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.decoding.ReadImage import cv2, decode_image, read_thumbnail
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL
from MLPipeline.report import Gallery as GalleryFile
from MLPipeline.report.Gallery import Answers, answers_of, choose_order, gallery_of, order_photos, samples_of
from MLPipeline.report.Thumbnails import FRAME_BYTES, SIDE, Photo, embed, take_photos
from tests.support.page_cases import index_of, scores_of

THREE = ("cat", "dog", "emu")


def answers(true: list[int], predicted: list[int], losses: list[float]) -> Answers:
    count = len(true)
    return Answers(*map(np.array, (range(count), true, predicted, [0.5] * count, losses, [False] * count)))


def test_every_kind_of_mistake_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GalleryFile, "NUM_WORST", 1)
    given = answers([0, 0, 0, 1, 0], [1, 1, 1, 2, 0], [3.0, 9.0, 5.0, 0.5, 0.1])
    # The worst first whatever it is; then the best of each cell: 0 for 1 has had one, 1 for 2 has not.
    assert choose_order(given, is_right=False).tolist() == [1, 3, 2, 0]
    assert choose_order(given, is_right=True).tolist() == [4]


def test_answers_are_those_of_the_predictions_at_their_temperature(tmp_path: Path) -> None:
    index = index_of(tmp_path, THREE, (1, 1, 4))
    scored = scores_of(index, TEST, {0: 1})
    scored = replace(scored, predictions=scored.predictions.scaled(2.5))
    found = answers_of(scored)
    assert np.allclose(found.confidence, scored.predictions.confidence, atol=1e-12)
    assert np.allclose(found.losses, scored.predictions.losses, atol=1e-12)
    assert found.is_right.tolist() == (scored.predictions.predicted == scored.predictions.labels).tolist()


def test_mistakes_come_first_and_what_has_no_room_is_counted(tmp_path: Path) -> None:
    index = index_of(tmp_path, THREE, (1, 1, 6))
    found = answers_of(scores_of(index, TEST, {0: 1}))
    whole = gallery_of(index, found, {})
    assert (len(whole.items), whole.num_mistakes, whole.num_right, whole.num_left_out) == (18, 2, 16, 0)
    assert [item.is_right for item in whole.items] == [False] * 2 + [True] * 16
    size = max(item.thumbnail.num_bytes for item in whole.items)
    some = gallery_of(index, found, {}, limit=5 * size)
    assert 5 <= len(some.items) <= 6 and some.num_left_out == 18 - len(some.items)
    assert sum(item.thumbnail.num_bytes for item in some.items) <= 5 * size
    assert [item.is_right for item in some.items][:2] == [False] * 2
    assert {item.true for item in some.items[2:]} == {0, 1, 2}  # a right answer of each class


def test_heat_maps_go_with_their_images(tmp_path: Path) -> None:
    index = index_of(tmp_path, THREE, (1, 1, 6))
    found = answers_of(scores_of(index, TEST, {0: 1}))
    position = int(found.positions[found.true != found.predicted][1])
    shown = gallery_of(index, found, {position: np.zeros((200, 200, 3), np.uint8)})
    (item,) = [item for item in shown.items if item.thumbnail.heat]
    assert item.name == index.name(position) and shown.has_heat_maps
    photo, heat = (decode_image(pixels_of(each)).pixels for each in (item.thumbnail.photo, item.thumbnail.heat))
    assert photo.shape == heat.shape == (48, 64, 3) and heat.max() < 9  # black, as given, in the photo's proportions


def pixels_of(address: str) -> bytes:
    assert address.startswith("data:image/jpeg;base64,")
    return base64.b64decode(address.partition(",")[2])


def test_samples_are_of_each_class_in_turn(tmp_path: Path) -> None:
    index = index_of(tmp_path, THREE, (10, 1, 1))
    samples = samples_of(index)
    assert [name for name, _ in samples] == ["cat"] * 6 + ["dog"] * 6 + ["emu"] * 6
    many = index_of(tmp_path / "many", tuple(f"class {i}" for i in range(40)), (2, 0, 0))
    assert len({name for name, _ in samples_of(many)}) == 18
    assert samples_of(replace(index, splits=np.full(len(index), TEST, np.int8))) == []
    assert len(index.positions(TRAIN)) == 30


def test_thumbnails_keep_proportions_and_the_limit(tmp_path: Path) -> None:
    wide = np.zeros((300, 600, 3), np.uint8)
    wide[:, 300:] = (0, 0, 255)
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(cv2.imencode(Path(name).suffix, wide)[1].tobytes())
    for name in ("a.png", "b.jpg"):
        small = read_thumbnail(tmp_path / name, SIDE)
        assert small.shape == (SIDE // 2, SIDE, 3)
        assert np.abs(small[40, 140].astype(int) - (255, 0, 0)).max() < 6  # RGB: red on the right
        assert small[40, 20].max() < 6
    assert read_thumbnail(tmp_path / "a.png", 1000).shape == (300, 600, 3)  # never enlarged
    paths = [tmp_path / "a.png", tmp_path / "gone.png", tmp_path / "b.jpg"]
    first, gone, last = embed(paths, 10**6)
    assert gone.photo == "" and gone.num_bytes == FRAME_BYTES
    assert decode_image(pixels_of(first.photo)).pixels.shape == (80, 160, 3)
    assert embed(paths, first.num_bytes + FRAME_BYTES) == [first, gone]
    assert embed(paths, 10) == [] and last.photo


def test_a_jpeg_keeps_the_order_of_colours() -> None:
    orange = np.full((16, 16, 3), (230, 120, 10), np.uint8)
    decoded = decode_image(encode_jpeg(orange, 95)).pixels
    assert np.abs(decoded.astype(int) - orange).max() < 8


def test_labels_are_whole_numbers_for_torch(tmp_path: Path) -> None:
    index = index_of(tmp_path, THREE, (1, 1, 2))
    assert scores_of(index, TEST).predictions.labels.dtype == torch.int64


def test_photos_taken_beforehand_are_the_ones_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(tmp_path, THREE, (1, 1, 6))
    answers, heat = answers_of(scores_of(index, TEST, {0: 1})), np.zeros((200, 200, 3), np.uint8)
    heat_maps = {int(answers.positions[0]): heat}
    before, photos = gallery_of(index, answers, heat_maps), order_photos(index).result()
    assert sorted(photos) == sorted(index.path(position) for position in index.positions(TEST).tolist())
    monkeypatch.setattr("MLPipeline.report.Thumbnails.read_thumbnail", lambda *_: pytest.fail("it is read again"))
    assert gallery_of(index, answers, heat_maps, photos) == before and before.has_heat_maps


def test_they_are_of_the_split_that_is_judged_if_all_of_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(tmp_path, THREE, (1, 2, 0))
    assert sorted(order_photos(index).result()) == sorted(index.path(each) for each in index.positions(VAL).tolist())
    monkeypatch.setattr(GalleryFile, "SURELY_SHOWN", 5)
    assert order_photos(index).result() == {}


def test_a_file_that_is_gone_has_an_empty_photo(tmp_path: Path) -> None:
    assert take_photos([tmp_path / "gone.png"]) == {tmp_path / "gone.png": Photo()}
    assert embed([tmp_path / "gone.png"], 10**6, {0: np.zeros((8, 8, 3), np.uint8)})[0].num_bytes == FRAME_BYTES
