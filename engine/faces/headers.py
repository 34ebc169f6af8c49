"""What the headers of an image file say, read before any decoder allocates memory."""

from __future__ import annotations

import struct

ORIENTATION = 0x0112
"""EXIF tag: how the stored picture lies (EXIF 2.32, 1 upright to 8)."""

PICTURE_COUNT = 0xB001
"""Multi-Picture Format tag: how many pictures the file holds (CIPA DC-007)."""


def sniff_format(data: bytes) -> str | None:
    """JPEG, PNG or WEBP by the content's first bytes, else None."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def read_tag(tiff: bytes, tag: int) -> int | None:
    """The integer value of a tag in the first directory of a TIFF header, None if unreadable.

    Pillow's own reader warns about damaged EXIF; a photograph is worth judging without it.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            found, kind, _ = struct.unpack_from(order + "HHI", tiff, entry)
            if found == tag:
                # A short lies in the first half of the four value bytes.
                width = {3: "H", 4: "I"}.get(kind)
                if width is None:
                    return None
                return int(struct.unpack_from(order + width, tiff, entry + 8)[0])
    except struct.error:
        return None
    return None


def read_webp_size(data: bytes) -> tuple[int, int, bool] | None:
    """(width, height, animated) of a WebP file, None if its first chunk is not one we know.

    RFC 9649. Pillow's WebP reader allocates whole canvases as soon as it opens a file.
    """
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if chunk == b"VP8X":
        width = int.from_bytes(body[4:7], "little") + 1
        height = int.from_bytes(body[7:10], "little") + 1
        return width, height, bool(body[0] & 0x02)
    if chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF, False
    if chunk == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, False
    return None


def has_gain_map(data: bytes) -> bool:
    """True where the second picture of a JPEG only brightens the first (Ultra HDR, Apple)."""
    return b"hdrgm:" in data or b"HDRGainMap" in data
