"""Reading many images ahead in threads: order, reasons, bounded memory, and an end to the threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from MLPipeline.CreateDataset import Reading, read_images
from MLPipeline.decoding import ReadImage
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.files.Cache import digest


def grey(path: Path, level: int, size: tuple[int, int] = (4, 4)) -> Path:
    assert cv2.imwrite(str(path), np.full((*size, 3), level, np.uint8))
    return path


def levels(readings: list[Reading]) -> list[int]:
    return [int(reading.pixels[0, 0, 0]) for reading in readings]


def decoding_threads() -> int:
    return sum(thread.name.startswith("decode") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_readings_come_in_the_order_of_the_paths(tmp_path, workers):
    paths = [grey(tmp_path / f"{level}.png", level) for level in range(200)]
    readings = list(read_images(paths, 8, workers))
    assert levels(readings) == list(range(200))
    assert [reading.path for reading in readings] == paths
    assert {reading.pixels.shape for reading in readings} == {(8, 8, 3)}
    assert [reading.key for reading in readings] == [digest(path.read_bytes()) for path in paths]
    assert decoding_threads() == 0


def test_no_paths_give_no_readings():
    assert list(read_images([], 8, 2)) == []


def test_pixels_are_rgb_and_those_of_read_image(tmp_path):
    bgr = np.zeros((30, 50, 3), np.uint8)
    bgr[:, :, 2], bgr[:15, :, 0] = 200, 90  # red; blue too in the upper half
    cv2.imwrite(str(tmp_path / "red.png"), bgr)
    (reading,) = read_images([tmp_path / "red.png"], 10, 1)
    assert reading.pixels[9, 0].tolist() == [200, 0, 0] and reading.pixels[0, 9].tolist() == [200, 0, 90]
    assert np.array_equal(reading.pixels, read_image(tmp_path / "red.png", (10, 10)).pixels)


def test_what_cannot_be_read_has_a_reason_and_blocks_nobody(tmp_path):
    png = grey(tmp_path / "good.png", 7).read_bytes()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "page.jpg").write_text("<html><body>404</body></html>")
    (tmp_path / "huge.png").write_bytes(png[:16] + (70_000).to_bytes(4, "big") * 2 + png[24:])
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    names = "good.png empty.jpg cut.png page.jpg huge.png folder.jpg fifo.jpg zero.jpg gone.jpg good.png".split()
    readings = list(read_images([tmp_path / name for name in names], 4, 2))
    assert [reading.reason for reading in readings] == [
        "", "empty file", "truncated PNG", "not an image (HTML)", "too large: 70000x70000",
        "not a regular file", "not a regular file", "not a regular file", "no such file or directory", "",
    ]  # fmt: skip
    assert all((reading.pixels is None) == bool(reading.reason) for reading in readings)


def test_names_that_are_not_utf8_and_odd_shapes_are_read(tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff\xfe.png")
    odd.write_bytes(grey(tmp_path / "point.png", 9, (1, 1)).read_bytes())
    grey(tmp_path / "line.png", 9, (4000, 1))
    readings = list(read_images([odd, tmp_path / "point.png", tmp_path / "line.png"], 4, 2))
    assert [np.unique(reading.pixels).tolist() for reading in readings] == [[9], [9], [9]]


def test_a_note_comes_with_the_pixels(tmp_path):
    cv2.imwrite(str(tmp_path / "1.jpg"), np.full((32, 32, 3), 99, np.uint8))
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[:-2])
    (reading,) = read_images([tmp_path / "1.jpg"], 8, 1)
    assert (reading.note, reading.reason, int(reading.pixels.mean())) == ("end marker missing", "", 99)


def test_files_that_the_store_knows_are_not_decoded(tmp_path, monkeypatch):
    known, new, bad = grey(tmp_path / "1.png", 1), grey(tmp_path / "2.png", 2), tmp_path / "3.png"
    bad.write_bytes(b"not an image, and known all the same")
    rows = {digest(known.read_bytes()): 12, digest(bad.read_bytes()): 0}
    decoded = []
    header = ReadImage.read_header
    monkeypatch.setattr(ReadImage, "read_header", lambda data: decoded.append(data) or header(data))
    readings = list(read_images([known, new, bad], 8, 2, rows.get))
    assert [(reading.row, reading.pixels is None) for reading in readings] == [(12, True), (None, False), (0, True)]
    assert decoded == [new.read_bytes()]


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_read_ahead_than_eight_images_a_thread(tmp_path, workers):
    image = grey(tmp_path / "1.png", 1)
    asked = []

    def endless() -> Iterator[Path]:
        while True:
            asked.append(1)
            yield image

    readings = read_images(endless(), 8, workers)
    for number in range(1, 6):
        next(readings)
        assert len(asked) == 8 * workers + number
    readings.close()
    assert decoding_threads() == 0


def test_closing_early_drops_what_waits_and_ends_the_threads(tmp_path):
    image, begun, gate = grey(tmp_path / "1.png", 1), [], threading.Event()

    def find(key: bytes) -> None:
        begun.append(key)
        if len(begun) > 1:  # the first is let through
            gate.wait(20)

    readings = read_images([image] * 100, 8, 1, find)
    next(readings)
    threading.Timer(0.2, gate.set).start()
    readings.close()
    assert len(begun) <= 2 and decoding_threads() == 0


def test_an_error_of_ours_is_not_taken_for_a_bad_image(tmp_path):
    def find(key: bytes) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_images([grey(tmp_path / "1.png", 1)] * 3, 8, 2, find))
    assert decoding_threads() == 0


def test_known_pixels_need_no_file_and_no_file_is_lost_for_lack_of_a_key(tmp_path):
    pixels = np.ones((4, 4, 3), np.uint8)
    paths = [tmp_path / "gone.png", tmp_path / "unknown.png"]
    first, second = read_images(paths, 4, 1, keys=[b"known", b"other"], decoded={b"known": pixels})
    assert first.pixels is pixels and first.key == b"known" and second.reason == "no such file or directory"
    with pytest.raises(ValueError, match="shorter"):
        list(read_images(paths, 4, 1, keys=[b"known"], decoded={b"known": pixels}))
