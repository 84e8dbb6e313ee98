"""The drawn specimens in Data/: complete, small, redrawn from their code, told apart by nothing cheap."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.specimens import CLASSES, COUNT, draw, encode, file_name, frame_of
from tests.specimens.Encode import Frame
from tests.support.paths import ROOT

DATA = ROOT / "Data"
MAX_TOTAL_BYTES = 4_000_000
# Levels of 255 between thumbnails. Data/ was drawn with OpenCV 5, whose JPEGs are up to 1.7 from what was drawn;
# OpenCV 4 letters in another font: up to 8.5. Two different specimens are at least 24 apart.
MAX_THUMBNAIL_DIFFERENCE = 3.0 if cv2.__version__.startswith("5") else 12.0
MIN_DIFFERENCE_OF_OTHERS = 20.0
CHANCE_AND_A_LITTLE = 0.55  # three classes of equal size: chance is 0.33


def shipped(class_name: str, index: int) -> Path:
    return DATA / class_name / file_name(class_name, index)


def decoded(data: bytes, flags: int = cv2.IMREAD_COLOR) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert pixels is not None
    return np.asarray(pixels[:, :, ::-1], np.uint8)


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(pixels, (24, 24), interpolation=cv2.INTER_AREA), np.uint8)


def mean_difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(np.float32) - second).mean())


def cross_validated_accuracy(features: list[list[float]], labels: list[str]) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return float(cross_val_score(model, np.array(features), labels, cv=5).mean())


def test_the_class_folders_hold_the_specimens_and_nothing_else() -> None:
    expected = {shipped(class_name, index) for class_name in CLASSES for index in range(COUNT)}
    found = {path for class_name in CLASSES for path in (DATA / class_name).rglob("*")}
    assert found == expected
    assert sum(path.stat().st_size for path in found) < MAX_TOTAL_BYTES


def test_all_decode_to_the_size_of_their_frame() -> None:
    for class_name in CLASSES:
        for index in range(COUNT):
            frame = frame_of(class_name, index)
            assert decoded(shipped(class_name, index).read_bytes()).shape == (frame.height, frame.width, 3)


@pytest.mark.parametrize(("class_name", "index"), [("driving_license", 4), ("social_security", 21), ("others", 35)])
def test_a_redrawn_specimen_is_the_same(class_name: str, index: int) -> None:
    pixels = draw(class_name, index)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, draw(class_name, index))
    on_disk = thumbnail(decoded(shipped(class_name, index).read_bytes()))
    assert mean_difference(on_disk, thumbnail(pixels)) < MAX_THUMBNAIL_DIFFERENCE
    assert mean_difference(on_disk, thumbnail(draw(class_name, index, seed=1))) > MIN_DIFFERENCE_OF_OTHERS


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_once_its_exif_orientation_is_applied(orientation: int) -> None:
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[:60, :40] = 255, 40, 40  # no turn or mirror image of it looks the same
    pixels[90:, 80:] = 40, 40, 255
    frame = Frame(0, 160, 120, "jpg", orientation, budget=100_000)
    data = encode(pixels, frame)
    assert mean_difference(decoded(data), pixels) < 3
    stored = decoded(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert stored.shape[:2] == ((120, 160) if orientation < 5 else (160, 120))


def test_formats_and_exif_orientations_are_the_same_in_every_class() -> None:
    stored = [sorted((f.format, f.orientation, f.width, f.height) for f in frames(name)) for name in CLASSES]
    assert stored[0] == stored[1] == stored[2]
    formats = [ending for ending, *_ in stored[0]]
    assert {ending: formats.count(ending) for ending in formats} == {"bmp": 1, "jpg": 55, "png": 4, "webp": 4}
    assert sum(orientation > 1 for _, orientation, *_ in stored[0]) >= 6


def frames(class_name: str) -> list[Frame]:
    return [frame_of(class_name, index) for index in range(COUNT)]


def test_neither_mean_colour_nor_the_file_tells_the_class() -> None:
    colours, files, labels = [], [], []
    for class_name in CLASSES:
        for index in range(COUNT):
            path = shipped(class_name, index)
            stored = decoded(path.read_bytes(), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            height, width = stored.shape[:2]
            num_bytes = path.stat().st_size
            suffixes = [float(path.suffix == suffix) for suffix in (".jpg", ".png", ".webp", ".bmp")]
            colours.append(stored.mean(axis=(0, 1)).tolist())
            files.append([height, width, height / width, num_bytes, num_bytes / (height * width), *suffixes])
            labels.append(class_name)
    assert cross_validated_accuracy(colours, labels) < CHANCE_AND_A_LITTLE
    assert cross_validated_accuracy(files, labels) < CHANCE_AND_A_LITTLE
