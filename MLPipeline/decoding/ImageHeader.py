"""An image file's header: format, size, depth, orientation, colour profile; and the error for unusable files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from MLPipeline.Errors import DataError

MAX_PIXELS = 250_000_000  # at 8 bits a channel; the largest phone sensors have 200 million


class UnreadableImage(DataError):  # noqa: N818 - it is a finding about a file more than an error
    """An image that cannot be used; `reason` says why in a few words, for the list of skipped files."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the image cannot be read: {reason}", "Replace it, or save it again as JPEG or PNG")

    def __reduce__(self) -> tuple[Any, ...]:
        return UnreadableImage, (self.reason,)  # as it travels between processes


@dataclass(frozen=True)
class ImageHeader:
    """What a file's header says; sizes are in pixels as stored, before the orientation is applied."""

    kind: str  # "JPEG", "PNG", ...
    width: int
    height: int
    frames: int = 1
    channel_bytes: int = 1
    orientation: int = 1  # EXIF number 1 to 8
    channels: int = 0  # 1 grey, 3 colour, 4 CMYK, where the header says so before decoding; 0: as decoded
    bits: int = 8  # JPEG and AVIF: of a sample
    body: int = 0  # JPEG: position of the first start-of-scan marker; WebP: of a lossless chunk with a run of zeros
    coding: int = 0xC0  # JPEG: the frame marker: C0 baseline, C2 progressive, C3 lossless, C9 arithmetic, ...
    has_extras: bool = False  # PNG: chunks that the decoder does not need
    profile: bytes = b""  # ICC profile
    gamma: float = 0.0  # PNG: the exponent of gAMA where it is not that of sRGB; 0: sRGB
    note: str = ""  # what the header declares and the reader does not follow

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UnreadableImage(f"corrupt {self.kind}")
        if self.width * self.height * self.channel_bytes > MAX_PIXELS:
            raise UnreadableImage(f"too large: {self.width}x{self.height}")
