"""The tags of a TIFF file's first directory; EXIF data has the same form."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from MLPipeline.decoding.ImageHeader import ImageHeader

WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, PROFILE = 256, 257, 258, 259, 274, 34675
# Type of a tag's values -> (format, bytes): SHORT, LONG, UNDEFINED and LONG8.
_TYPES = {3: ("H", 2), 4: ("I", 4), 7: ("B", 1), 16: ("Q", 8)}


class TiffDirectory:
    """Reads the directories of classic TIFF and BigTIFF, in either byte order.

    Raises:
        struct.error: when read, if an offset leads past the end of `data`.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data[:2] == b"II" else ">"
        is_big = struct.unpack_from(self._order + "H", data, 2)[0] == 43
        # The formats of an offset and of the number of entries, and the bytes of an entry.
        self._offset, self._number, self._entry_bytes = ("Q", "Q", 20) if is_big else ("I", "H", 12)
        self._first: int = self._read(self._offset, 8 if is_big else 4)

    def num_pages(self) -> int:
        """Return the number of directories, each counted once: links may run in a circle."""
        page, pages = self._first, set[int]()
        while page and page not in pages:
            pages.add(page)
            page = self._read(self._offset, self._entries_at(page) + self._entry_bytes * self._num_entries(page))
        return len(pages)

    def numbers(self) -> dict[int, int]:
        """Return the first value of every whole-number tag; of a tag that stands twice the first counts."""
        tags: dict[int, int] = {}
        for tag, code, _, position in self._tags():
            tags.setdefault(tag, self._read(code, position))
        return tags

    def orientation(self) -> int:
        """Return the EXIF orientation 1 to 8, whatever the tags around it hold; 1 where there is none."""
        for tag, code, _, position in self._tags():
            if tag == ORIENTATION:
                return _usual(self._read(code, position))
        return 1

    def content(self, tag: int) -> bytes:
        """Return the bytes of `tag`, of type UNDEFINED; empty if it is missing."""
        for found, code, count, position in self._tags():
            if found == tag and code == "B":
                return self._data[position : position + count]
        return b""

    def _tags(self) -> Iterator[tuple[int, str, int, int]]:
        """Yield (tag, format, number of values, their position)."""
        inline = struct.calcsize("<" + self._offset)  # bytes of values that stand in the entry itself
        start = self._entries_at(self._first)
        for entry in range(start, start + self._entry_bytes * self._num_entries(self._first), self._entry_bytes):
            tag, kind, count = struct.unpack_from(f"{self._order}HH{self._offset}", self._data, entry)
            code, width = _TYPES.get(kind, ("", 0))
            if code and count:
                position = entry + 4 + inline
                yield tag, code, count, position if count * width <= inline else self._read(self._offset, position)

    def _entries_at(self, page: int) -> int:
        return page + struct.calcsize("<" + self._number)

    def _num_entries(self, page: int) -> int:
        return self._read(self._number, page)

    def _read(self, code: str, position: int) -> int:
        return struct.unpack_from(self._order + code, self._data, position)[0]


def parse_tiff(data: bytes) -> ImageHeader:
    """Return the header of a TIFF file: that of its first page. Raises struct.error if it is cut off."""
    directory = TiffDirectory(data)
    tags = directory.numbers()
    width, height, bits = (tags.get(tag, 1) for tag in (WIDTH, HEIGHT, BITS))
    pages, profile = directory.num_pages(), directory.content(PROFILE)
    return ImageHeader("TIFF", width, height, pages, max(1, -(-bits // 8)), directory.orientation(), profile=profile)


def exif_orientation(exif: bytes) -> int:
    """Return the EXIF orientation 1 to 8; 1 where there is none or the block is damaged, as viewers do."""
    try:
        return TiffDirectory(exif.removeprefix(b"Exif\0\0")).orientation()
    except (struct.error, OverflowError):
        return 1


def _usual(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1
