"""Synthetic photographs, and the typical modifications of copied photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from MLPipeline.decoding.ReadImage import cv2, decode_image
from MLPipeline.images.Duplicates import Pairs, find_duplicates
from MLPipeline.images.Fingerprint import make_rows
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.ScanFolders import UNSPLIT
from tests.support.split_cases import index_from


def scene(seed: int, height: int = 240, width: int = 180) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 RGB with detail at every scale, like a photograph, and colours of its own."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cells, strength in ((3, 80.0), (7, 50.0), (19, 35.0), (43, 25.0)):
        coarse = generator.normal(0, strength, (cells, cells, 3)) * [1, 0.7, 0.4]
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, suffix: str = ".jpg", quality: int = 92) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def trim(pixels: np.ndarray, share: float = 0.03) -> np.ndarray:
    """Return the picture without `share` of its height and width, half of it on each side."""
    height, width = pixels.shape[:2]
    top, left = round(height * share / 2), round(width * share / 2)
    return pixels[top : height - top, left : width - left]


def _brighter(pixels: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(pixels, alpha=1.1)


def _scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


CHANGES: dict[str, Callable[[np.ndarray], bytes]] = {
    "rescaled": lambda pixels: encode(_scaled(pixels, 0.6)),
    "enlarged": lambda pixels: encode(_scaled(pixels, 1.7)),
    "recompressed": lambda pixels: encode(pixels, quality=40),
    "another format": lambda pixels: encode(pixels, ".png"),
    "trimmed": lambda pixels: encode(trim(pixels)),
    "trimmed on every side": lambda pixels: encode(trim(pixels, 0.06)),
    "brighter": lambda pixels: encode(_brighter(pixels)),
    "all at once": lambda pixels: encode(_brighter(_scaled(trim(pixels), 0.7)), quality=70),
}


def pixels_of(path: Path) -> np.ndarray:
    return decode_image(path.read_bytes()).pixels


def row_of(data: bytes) -> np.ndarray:
    """Return the fingerprint of one file as a row."""
    return make_rows([data])[0][0]


def inspection_of(*files: bytes) -> Inspection:
    """Return the inspection of image files, given as bytes."""
    rows, _ = make_rows(files)
    return Inspection(rows["print"].copy(), rows, np.arange(len(rows), dtype=np.int32), {}, len(rows))


def duplicates_among(folder: Path, *files: bytes, cache: Path | None = None) -> Pairs:
    """Return the duplicate pairs among image files, given as bytes, which are written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(files):
        (folder / str(number)).write_bytes(data)
    index = index_from([(UNSPLIT, 0, str(number)) for number in range(len(files))], 1)
    return find_duplicates(replace(index, root=folder), inspection_of(*files), cache)


def listed(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
