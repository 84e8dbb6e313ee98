"""What PNG and AVIF headers say about colour: an ICC profile, an exponent, or something that is not followed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

MAX_PROFILE_BYTES = 2**23
UNREADABLE = "colour profile unreadable: colours left as stored"
_SRGB_GAMMA, _SRGB_PRIMARIES = 45455, (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)  # in 1/100000
# Code points of ITU-T H.273 that are shown as sRGB is: BT.709, "unspecified", BT.601; sRGB.
_USUAL_PRIMARIES, _USUAL_TRANSFERS = (1, 2), (1, 2, 6, 13)


def png_colour(chunks: Mapping[bytes, bytes]) -> tuple[bytes, float, str]:
    """Return (ICC profile, exponent of gAMA or 0, note); the order of precedence is that of the PNG specification.

    The exponent is 0 where it is that of sRGB, within 5 %.
    """
    if len(chunks.get(b"cICP", b"")) == 4:
        return b"", 0.0, _note_of(*chunks[b"cICP"][:2])
    if b"iCCP" in chunks:
        profile = _inflate(chunks[b"iCCP"].partition(b"\0")[2][1:])
        return profile, 0.0, "" if profile else UNREADABLE
    if b"sRGB" in chunks:
        return b"", 0.0, ""
    gamma = struct.unpack(">I", chunks[b"gAMA"])[0] if len(chunks.get(b"gAMA", b"")) == 4 else _SRGB_GAMMA
    note = ""
    if len(chunks.get(b"cHRM", b"")) == 32:
        places = struct.unpack(">8I", chunks[b"cHRM"])
        if any(abs(place - usual) > 1000 for place, usual in zip(places, _SRGB_PRIMARIES, strict=True)):
            note = "primary colours other than sRGB's: colours left as stored"
    is_usual = gamma == 0 or abs(gamma / _SRGB_GAMMA - 1) < 0.05
    return b"", 0.0 if is_usual else gamma / 100_000, note


def avif_colour(properties: bytes) -> tuple[bytes, str]:
    """Return (ICC profile, note) from the item properties of an AVIF file. Raises struct.error if they are cut off."""
    at, profile, note = properties.find(b"colr"), b"", ""
    while at >= 0:
        (length,) = struct.unpack_from(">I", properties, at - 4)
        kind = properties[at + 4 : at + 8]
        if kind in (b"prof", b"rICC"):
            profile = profile or properties[at + 8 : at - 4 + length]
        elif kind == b"nclx":
            note = note or _note_of(*struct.unpack_from(">HH", properties, at + 8))
        at = properties.find(b"colr", at + 4)
    return profile, "" if profile else note


def _note_of(primaries: int, transfer: int) -> str:
    if primaries in _USUAL_PRIMARIES and transfer in _USUAL_TRANSFERS:
        return ""
    return f"colour code points {primaries}/{transfer} are not sRGB: colours left as stored"


def _inflate(data: bytes) -> bytes:
    """Return the decompressed profile; empty if it is damaged or too long."""
    stream = zlib.decompressobj()
    try:
        profile = stream.decompress(data, MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if stream.eof else b""
