"""The thumbnails of a page as `data:` URLs, as many as fit into a size limit."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.decoding.Fit import matching_parts
from MLPipeline.decoding.Levels import Levels
from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.decoding.ReadImage import UnreadableImage, read_thumbnail, resize
from MLPipeline.images.ReadAhead import decoding_threads

SIDE = 160  # pixels: sharp enough to recognise the content, small enough for hundreds per page
QUALITY = 78  # of the JPEG
FRAME_BYTES = 800  # markup around an image on the page: its caption and its name
_CHUNK = 64
_NOT_SEEN = 40  # grey value of the parts that were cropped


@dataclass(frozen=True)
class Photo:
    """The thumbnail of one image, and its size in pixels."""

    address: str = ""  # data:image/jpeg;base64,...; empty if the file can no longer be read
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Thumbnail:
    """The thumbnail of one image, and a second one with a heat map overlaid if there is one."""

    photo: str  # data:image/jpeg;base64,...; empty if the file can no longer be read
    heat: str = ""  # likewise; empty if there is no heat map

    @property
    def num_bytes(self) -> int:
        """The number of bytes that it adds to the page."""
        return len(self.photo) + len(self.heat) + FRAME_BYTES


NO_HEAT_MAPS: Mapping[int, np.ndarray] = {}
NO_PHOTOS: Mapping[Path, Photo] = {}


def take_photos(paths: Sequence[Path], levels: Levels | None = None) -> dict[Path, Photo]:
    """Return the thumbnail of each image, by path; reads with one thread per core."""
    with ThreadPoolExecutor(decoding_threads(None)) as threads:
        return dict(zip(paths, threads.map(lambda path: _photo(path, levels), paths), strict=True))


def embed(
    paths: Sequence[Path],
    limit: int,
    heat_maps: Mapping[int, np.ndarray] = NO_HEAT_MAPS,
    photos: Mapping[Path, Photo] = NO_PHOTOS,
    preprocessing: Preprocessing = PLAIN,
) -> list[Thumbnail]:
    """Return the thumbnails of the first of `paths` that fit into `limit` bytes; reads with one thread per core.

    Args:
        paths: the images, the most important first.
        limit: the number of bytes that they may add to the page.
        heat_maps: images (H, W, 3) uint8 RGB with a heat map overlaid, by position in `paths`.
        photos: thumbnails that already exist.
        preprocessing: that of the model that the heat maps explain.
    """
    kept: list[Thumbnail] = []
    with ThreadPoolExecutor(decoding_threads(None)) as threads:
        numbered = iter(enumerate(paths))
        while chunk := list(islice(numbered, _CHUNK)):
            taken = threads.map(lambda item: photos.get(item[1]) or _photo(item[1], preprocessing.levels), chunk)
            for (position, _), photo in zip(chunk, taken, strict=True):
                thumbnail = Thumbnail(photo.address, _heat(photo, heat_maps.get(position), preprocessing.fit))
                limit -= thumbnail.num_bytes
                if limit < 0:
                    return kept
                kept.append(thumbnail)
    return kept


def _photo(path: Path, levels: Levels | None) -> Photo:
    try:
        pixels = read_thumbnail(path, SIDE, levels)
    except UnreadableImage:
        return Photo()
    return Photo(_address(pixels), pixels.shape[1], pixels.shape[0])


def _heat(photo: Photo, heat_map: np.ndarray | None, fit: str) -> str:
    """Return the address of a heat map as large as its photo; empty if one of the two is missing."""
    if not photo.width or heat_map is None:
        return ""
    shape, square = (photo.height, photo.width, 3), (heat_map.shape[1], heat_map.shape[0])
    seen, filled = matching_parts(shape, square, fit)
    picture = np.full(shape, _NOT_SEEN, np.uint8)
    height, width = picture[seen].shape[:2]
    picture[seen] = resize(np.ascontiguousarray(heat_map[filled]), (width, height))
    return _address(picture)


def _address(pixels: np.ndarray) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(pixels, QUALITY)).decode("ascii")
