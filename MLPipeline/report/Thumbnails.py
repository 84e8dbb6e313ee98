"""The small pictures of a page as `data:` addresses, as many as fit into a limit of bytes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from MLPipeline.images.EncodeImage import encode_jpeg
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ReadImage import UnreadableImage, read_thumbnail, resize

SIDE = 160  # pixels: sharp enough to see why, small enough for hundreds
QUALITY = 78
FRAME_BYTES = 800  # what stands around a picture on the page: its caption and its name
_CHUNK = 64


@dataclass(frozen=True)
class Thumbnail:
    """The small picture of one image, and a second one with a heat map laid over it where there is one."""

    photo: str  # data:image/jpeg;base64,...; empty for a file that has vanished since
    heat: str = ""

    @property
    def num_bytes(self) -> int:
        """What it adds to the page."""
        return len(self.photo) + len(self.heat) + FRAME_BYTES


def embed(paths: Sequence[Path], limit: int, heat_maps: Mapping[int, np.ndarray] | None = None) -> list[Thumbnail]:
    """Return the thumbnails of the first of `paths` that fit into `limit` bytes; reads with one thread per core.

    Args:
        paths: the images, the most deserving first.
        limit: of what they add to the page, in bytes.
        heat_maps: pictures (H, W, 3) uint8 RGB with a heat map on them, by place in `paths`.
    """
    kept: list[Thumbnail] = []
    with ThreadPoolExecutor(decoding_threads(None)) as threads:
        numbered = iter(enumerate(paths))
        while chunk := list(islice(numbered, _CHUNK)):
            for thumbnail in threads.map(lambda item: _thumbnail(item[1], (heat_maps or {}).get(item[0])), chunk):
                limit -= thumbnail.num_bytes
                if limit < 0:
                    return kept
                kept.append(thumbnail)
    return kept


def _thumbnail(path: Path, heat_map: np.ndarray | None) -> Thumbnail:
    try:
        photo = read_thumbnail(path, SIDE)
    except UnreadableImage:
        return Thumbnail("")
    height, width = photo.shape[:2]
    return Thumbnail(_address(photo), "" if heat_map is None else _address(resize(heat_map, (width, height))))


def _address(pixels: np.ndarray) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(pixels, QUALITY)).decode("ascii")
