"""The segments and scans of a JPEG file: its header, where its pixels end, and whether something is missing.

Nothing is decoded here. The layout of segments and the meaning of the tables: ITU-T T.81, annexes B, F and G.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

from MLPipeline.decoding.ImageHeader import ImageHeader
from MLPipeline.decoding.TiffTags import exif_orientation

END = b"\xff\xd9"
PROGRESSIVE = frozenset({0xC2, 0xCA})
_HUFFMAN_CODED = frozenset({0xC0, 0xC1, 0xC2})
_START_OF_SCAN, _HUFFMAN_TABLES, _RESTART_INTERVAL = 0xDA, 0xC4, 0xDD
# SOF0 to SOF15 without the three other markers in that range: DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Segments that may stand between two scans: DHT, DAC, DQT, DNL, DRI, APPn and COM.
_BETWEEN_SCANS = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
# In compressed pixels FF is followed by 00, or by D0 to D7, the restart markers; anything else ends the scan.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_HOLE = bytes(64)  # zero bytes in a row that no picture needs: a lost block of a disk or of a download is longer
_END_OF_BLOCK = 0x00


def parse_jpeg(data: bytes) -> ImageHeader:
    """Return the header of a JPEG file. Raises ValueError, IndexError or struct.error if it is cut off."""
    position, frame, exif = 2, (8, 0, 0, 3, 0xC0), b""
    profile: dict[int, bytes] = {}
    while True:
        position = data.index(b"\xff", position)
        marker = data[position + 1]
        if marker == _START_OF_SCAN:  # only compressed pixels from here on
            bits, height, width, channels, coding = frame
            return ImageHeader(
                "JPEG", width, height, 1, 1 if bits <= 8 else 2, exif_orientation(exif), channels, bits, position,
                coding, profile=b"".join(profile[number] for number in sorted(profile)),
            )  # fmt: skip
        if marker in _FRAMES:
            frame = (*struct.unpack_from(">BHHB", data, position + 4), marker)
        elif marker == 0xE1 and not exif and data.startswith(b"Exif\0\0", position + 4):
            exif = data[position + 4 : position + 65_536]
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", position + 4):  # in parts of at most 64 KB
            (length,) = struct.unpack_from(">H", data, position + 2)
            profile.setdefault(data[position + 16], data[position + 18 : position + 2 + length])
        if marker <= 0x01 or 0xD0 <= marker <= 0xD9 or marker == 0xFF:  # no length: bare markers, padding
            position += 1
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]


@dataclass(frozen=True)
class JpegScan:
    """One pass over the picture: which coefficients of which components it holds, and where its data lies."""

    components: tuple[tuple[int, int], ...]  # (identifier, number of its Huffman table for AC)
    first: int  # of the 64 coefficients
    last: int
    bits_known: int  # point transform of the scan before; 0: this is the first for these coefficients
    bits_left: int  # lowest bits that a later scan has to add
    start: int  # of the compressed data
    end: int  # position of the marker that ends it, or of the end of the file
    flat_tables: frozenset[int]  # numbers of the AC tables whose code of zeros alone is "end of block"


@dataclass(frozen=True)
class JpegBody:
    """What follows the header."""

    scans: tuple[JpegScan, ...]
    end: int  # where the compressed pixels end
    marker: int  # that ends them: D9 in a whole file; 0 at the end of the file
    has_restarts: bool

    def lacks_scans(self, header: ImageHeader) -> bool:
        """Return whether some bits of some coefficients never come: the file was cut between two scans."""
        missing: dict[int, np.ndarray] = {}  # component -> (64,) lowest bits still to come
        for scan in self.scans:
            for identifier, _ in scan.components:
                bits = missing.setdefault(identifier, np.full(64, 99))
                if header.coding in PROGRESSIVE:
                    bits[scan.first : scan.last + 1] = scan.bits_left
                else:
                    bits[:] = 0
        return len(missing) < header.channels or any(bits.any() for bits in missing.values())

    def has_hole(self, data: bytes, header: ImageHeader) -> bool:
        """Return whether zeros stand where pixels were: a run of them that means no picture under the file's tables.

        Where zeros alone are the code of "nothing more in this block", a run of them is a flat area, and no hole.
        """
        if header.coding not in _HUFFMAN_CODED:
            return False
        for scan in self.scans:
            if data.find(_HOLE, scan.start, scan.end) < 0:
                continue
            if header.coding in PROGRESSIVE and (scan.first == 0 or scan.bits_known):
                continue  # brightness alone, or single bits: zeros may mean anything
            if not {table for _, table in scan.components} <= scan.flat_tables:
                return True
        return False


def parse_body(data: bytes, header: ImageHeader) -> JpegBody:
    """Return the scans of a JPEG file whose header is known.

    Raises:
        ValueError, IndexError, struct.error: it is cut off in a scan's header.
    """
    flat, scans = _flat_tables(data, 2, header.body), []
    has_restarts = b"\xff\xdd" in data[: header.body]
    position, end, marker = header.body, header.body, _START_OF_SCAN
    while marker == _START_OF_SCAN:
        length, count = struct.unpack_from(">HB", data, position + 2)
        pairs = data[position + 5 : position + 5 + 2 * count]
        first, last, bits = struct.unpack_from("BBB", data, position + 5 + 2 * count)
        start = position + 2 + length
        end, marker = _next_marker(data, start)
        components = tuple((pairs[at], pairs[at + 1] & 15) for at in range(0, 2 * count, 2))
        scans.append(JpegScan(components, first, last, bits >> 4, bits & 15, start, end, flat))
        position = data.index(bytes((0xFF, marker)), end) if marker else end
        while marker in _BETWEEN_SCANS:
            has_restarts |= marker == _RESTART_INTERVAL
            after = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
            flat = _flat_tables(data, position, after, flat)
            position = after
            marker = data[position + 1] if data[position : position + 1] == b"\xff" and position + 1 < len(data) else 0
    return JpegBody(tuple(scans), end, marker, has_restarts)


def _next_marker(data: bytes, start: int) -> tuple[int, int]:
    """Return where the compressed data from `start` ends, and the marker there; 0 at the end of the file."""
    found = _MARKER.search(data, start)
    if found:
        return found.start(), data[found.end() - 1]
    end = len(data)
    while end > start and data[end - 1] == 0xFF:  # the first half of a marker
        end -= 1
    return end, 0


def _flat_tables(data: bytes, start: int, end: int, known: frozenset[int] = frozenset()) -> frozenset[int]:
    """Return the numbers of the AC tables, defined from `start` to `end` or known, whose code of zeros ends a block."""
    flat, position = known, start
    while position + 4 <= end:
        marker, length = data[position + 1], struct.unpack_from(">H", data, position + 2)[0]
        if marker == _HUFFMAN_TABLES:
            table, after = position + 4, position + 2 + length
            while table + 17 < after:
                number, symbols = data[table], sum(data[table + 1 : table + 17])
                if number >> 4:  # class 1: AC
                    code = data[table + 17]  # the symbol of the first code, which is zeros alone
                    is_flat = code == _END_OF_BLOCK or (code & 15 == 0 and code != 0xF0)
                    flat = flat | {number & 15} if is_flat else flat - {number & 15}
                table += 17 + symbols
        position += 1 if data[position] != 0xFF or marker in (0x01, 0xFF, 0xD8) else 2 + length
    return flat
