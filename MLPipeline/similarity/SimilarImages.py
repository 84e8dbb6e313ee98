"""The images of a collection that are most similar to a query, and which of them are copies of it.

Similar are images whose features have a high cosine: they show similar things. Copies are the same picture, perhaps
resized, cropped a little or saved again, which comparing the pixels shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MLPipeline.decoding.Levels import Levels
from MLPipeline.decoding.ReadImage import UnreadableImage, read_bytes, read_thumbnail
from MLPipeline.files.Cache import digest
from MLPipeline.files.Destination import identity_of
from MLPipeline.files.Json import dump_json
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.SamePicture import READ_SIDE, is_same_picture
from MLPipeline.similarity.EmbedFiles import Collection
from MLPipeline.similarity.Nearest import find_nearest

SAME_FILE, SAME_PICTURE, OTHER = "same file", "same picture", ""
MAX_COMPARED = 24  # of the nearest images, pixel by pixel: copies are among them


@dataclass(frozen=True)
class Match:
    """An image of the collection that is similar to the query."""

    name: str  # its path, as the collection has it
    path: Path  # where the file is
    cosine: float  # of its features with those of the query, -1 to 1
    copy: str  # "same file", "same picture", or empty: not a copy of the query, or not compared

    def to_text(self) -> str:
        """Return `0.982  photos/3.jpg  (same picture)`."""
        return f"{self.cosine:6.3f}  {self.name}{f'  ({self.copy})' if self.copy else ''}"


@dataclass(frozen=True)
class Similar:
    """A query and the images that are most similar to it, the most similar first."""

    name: str
    path: Path
    matches: tuple[Match, ...]

    def to_json(self) -> str:
        """Return one line of JSON: path, similar."""
        similar = [{"path": m.name, "cosine": round(m.cosine, 6), "copy": m.copy or None} for m in self.matches]
        return dump_json({"path": self.name, "similar": similar})


def find_similar(
    queries: Collection, collection: Collection, num_similar: int, levels: Levels | None = None
) -> Iterator[Similar]:
    """Yield the images of `collection` that are most similar to each of `queries`, which itself is left out.

    Args:
        queries: images with features of the same network as those of `collection`.
        collection: where to search.
        num_similar: how many images to find for each query.
        levels: black and white levels of images with more than 8 bits.

    Raises:
        DataError: the features are not finite numbers.
    """
    rows = queries.block(0, len(queries))
    nearest = find_nearest(collection.block, len(collection), rows, num_similar + 1)  # one may be the query itself
    for number, name in enumerate(queries.names):
        query = _Query(queries.path(number), levels)
        cosines = dict(zip(nearest.positions[number].tolist(), nearest.cosines[number].tolist(), strict=True))
        kept = [place for place in cosines if not query.is_at(collection.path(place))][:num_similar]
        copies = query.copies([collection.path(place) for place in kept])
        matches = tuple(
            Match(collection.names[place], collection.path(place), max(-1.0, min(1.0, cosines[place])), copy)
            for place, copy in zip(kept, copies, strict=True)
        )
        yield Similar(name, query.path, matches)


class _Query:
    """The file of a query, against which others are compared; files that are gone are no copies."""

    def __init__(self, path: Path, levels: Levels | None) -> None:
        self.path, self.levels, self.identity = path, levels, identity_of(path)

    def is_at(self, path: Path) -> bool:
        """Return whether `path` leads to the very file of the query."""
        return self.identity is not None and identity_of(path) == self.identity

    def copies(self, paths: list[Path]) -> list[str]:
        """Return for each of `paths` whether it is the same file, the same picture, or another one."""
        data, picture = _content(self.path), _picture(self.path, self.levels)
        with ThreadPoolExecutor(decoding_threads(None)) as threads:
            compared = list(threads.map(lambda path: self._compare(path, data, picture), paths[:MAX_COMPARED]))
        return compared + [OTHER] * (len(paths) - len(compared))

    def _compare(self, path: Path, data: bytes, picture: np.ndarray | None) -> str:
        if data and _content(path) == data:
            return SAME_FILE
        other = _picture(path, self.levels)
        is_same = picture is not None and other is not None and is_same_picture(picture, other)
        return SAME_PICTURE if is_same else OTHER


def _content(path: Path) -> bytes:
    """Return a digest of the bytes of a file; nothing if it cannot be read."""
    try:
        return digest(read_bytes(path))
    except UnreadableImage:
        return b""


def _picture(path: Path, levels: Levels | None) -> np.ndarray | None:
    try:
        return read_thumbnail(path, READ_SIDE, levels)
    except UnreadableImage:
        return None
