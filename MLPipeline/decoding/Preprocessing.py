"""What turns the pixels of a file into the picture a model sees, besides its size; stored with the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from MLPipeline.decoding.Fit import STRETCH
from MLPipeline.decoding.Levels import EACH_ITS_OWN, Levels
from MLPipeline.decoding.ReadHeader import read_header
from MLPipeline.decoding.ReadImage import Picture, decode_image, read_image, resize, to_picture
from MLPipeline.decoding.StoredPixels import StoredPixels
from MLPipeline.files.Cache import digest

_WHAT_FITS = {
    "crop": "the shorter side of each image fills the square, the centre is used",
    "pad": "each image keeps its proportions, the rest of the square has its mean colour",
}


@dataclass(frozen=True)
class Preprocessing:
    """How pictures are made to fit a square, and which values of those with more than 8 bits are black and white."""

    fit: str = STRETCH
    levels: Levels | None = None  # None: the brightest pixel of each picture decides, as in models without levels
    is_mirrored: bool = False  # pictures in files are mirrored left to right

    def lines(self) -> list[str]:
        """Return the lines that say how pictures are changed, where it is not the usual way."""
        fitted = [f"fit      {self.fit}: {_WHAT_FITS[self.fit]}"] if self.fit in _WHAT_FITS else []
        return [*fitted, *(f"levels   {line}" for line in (self.levels.lines() if self.levels else []))]

    def decode(self, data: bytes, image_size: int) -> Picture:
        """Return the picture in an image file's bytes as a square of `image_size` pixels.

        Raises:
            UnreadableImage: see `decode_image`.
        """
        picture = decode_image(data, (image_size, image_size), self.levels, self.fit)
        return replace(picture, pixels=np.ascontiguousarray(picture.pixels[:, ::-1])) if self.is_mirrored else picture

    def read(self, path: Path, image_size: int) -> Picture:
        """Return the picture in the file `path` as a square of `image_size` pixels.

        Raises:
            UnreadableImage: see `read_image`.
        """
        return read_image(path, (image_size, image_size), self.levels, self.fit)

    def square(self, stored: StoredPixels, image_size: int) -> Picture:
        """Return the picture of pixels that were given in memory, as a square of `image_size` pixels.

        Raises:
            UnreadableImage: no value is a finite number.
        """
        picture = to_picture(stored, self.levels)
        return replace(picture, pixels=resize(picture.pixels, (image_size, image_size), self.fit))

    def key(self, data: bytes, is_deep: bool | None = None) -> bytes:
        """Return the key under which the rows of a file with these bytes are stored.

        That is their digest, for pictures of more than 8 bits together with the levels. Unless `is_deep` is given, the
        header decides, so that a file whose rows are stored need not be decoded.

        Raises:
            UnreadableImage: see `read_header`.
        """
        if self.levels is None:
            return self.of_view(digest(data))
        if is_deep is None:
            header = read_header(data)
            is_deep = header.channel_bytes > 1 or header.bits > 8
        return self.of_view(self.levels.key(digest(data)) if is_deep else digest(data))

    def of_view(self, key: bytes) -> bytes:
        """Return the key of a picture as it is mirrored, or not, from the key of the picture itself."""
        return digest(key + b"mirrored") if self.is_mirrored else key


PLAIN = Preprocessing()
UNTRAINED = Preprocessing(levels=EACH_ITS_OWN)  # of networks that no data set of ours has given levels
