"""Image files: their headers, and what decoding them may cost.

Runs in processes of its own (`engine.faces.images.Decoder`) and therefore imports no numpy.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import field
from typing import Literal, NamedTuple

from engine.errors import ImageDamaged, ImageError, ImageTooCostly, ImageTooLarge, ImageUnsupported
from engine.faces import face_records, jpeg2000
from engine.formatting import size
from schema import frozen

Kind = Literal["JPEG", "PNG", "WEBP", "JPEG2000"]
Size = tuple[int, int]

REDUCTIONS = (8, 4, 2)
NAMES: dict[Kind, str] = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "JPEG2000": "JPEG 2000"}


@frozen
class ImageLimits:
    """Bounds on a file and its decoding; beyond them the photograph is refused.

    Pixels are bounded by format, so that each costs about as much CPU and memory as the others:
    `bench/micro/test_decode.py` measures it. A progressive JPEG has all coefficients in memory
    (`max_jpeg_coefficients`, two bytes each), and each of its scans visits the blocks of its
    components again, with or without data (`max_jpeg_scans`, `max_jpeg_block_visits`).
    `max_parts` are the segments of a JPEG and the chunks of a PNG; a JPEG 2000 costs by its bytes
    more than by its pixels.

    A JPEG or JPEG 2000 is decoded at 1/2, 1/4 or 1/8 if its longer side is still `reduced_side_px`
    or more, or what the caller asks for, if that is less.
    Decoding ends after `cpu_s` of CPU time, `wait_s` of any, or `memory_mb` more than before it.
    """

    max_size_bytes: int = 8 * 1024 * 1024
    max_jpeg_pixels: int = 25_000_000
    max_png_pixels: int = 12_200_000
    max_webp_pixels: int = 7_000_000
    max_jpeg2000_pixels: int = 2_000_000
    max_jpeg2000_bytes: int = 3_000_000
    max_jpeg_coefficients: int = 38_000_000
    max_jpeg_scans: int = 64
    max_jpeg_block_visits: int = 6_000_000
    max_parts: int = 8192
    reduced_side_px: int = 1280
    cpu_s: float = 2.0
    wait_s: float = 20.0
    memory_mb: int = 150

    @property
    def shared_bytes(self) -> int:
        """The size that holds any accepted file, and the RGB pixels of any picture as it is
        decoded."""
        unreduced = min(self.max_jpeg_pixels, (2 * self.reduced_side_px) ** 2)
        most = max(unreduced, self.max_png_pixels, self.max_webp_pixels, self.max_jpeg2000_pixels)
        return max(self.max_size_bytes, 3 * most, mmap.PAGESIZE)

    def max_pixels(self, kind: Kind) -> int:
        """Most pixels of a picture in this format."""
        return {
            "JPEG": self.max_jpeg_pixels,
            "PNG": self.max_png_pixels,
            "WEBP": self.max_webp_pixels,
            "JPEG2000": self.max_jpeg2000_pixels,
        }[kind]


@frozen
class ImageHeader:
    """A picture before it is decoded; `stored_px` is (width, height).

    `data` is the file without what its pixels do not need. `orientation` is EXIF's: 1, upright,
    to 8. `reductions` are the scales at which it can be decoded beside 1, smallest picture first.
    """

    kind: Kind
    stored_px: Size
    data: bytes = field(repr=False)
    orientation: int = 1
    reductions: tuple[int, ...] = ()
    is_progressive: bool = False


def sniff_format(data: bytes) -> Kind | None:
    """The format by the content's first bytes, None where it is no image."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((jpeg2000.CODESTREAM, jpeg2000.BOXED)):
        return "JPEG2000"
    return None


def is_record(data: bytes) -> bool:
    """True where the first bytes are those of a document's record of a face."""
    if data.startswith((face_records.FACE, face_records.PIV, b"\x7f\x60", b"\x7f\x61")):
        return True
    # The letters u and e, unless a length of several bytes follows.
    return data[:1] in (b"\x75", b"\x65") and b"\x81" <= data[1:2] <= b"\x84"


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """The header of an image file, or of the image in a face record, that is worth decoding.

    Bytes after a JPEG's end are ignored (phones append video there), and so is an HDR gain map.
    Raises ImageTooLarge, ImageTooCostly, ImageUnsupported or ImageDamaged.
    """
    if not data:
        raise ImageDamaged("the image is empty; send the file's bytes")
    if len(data) > limits.max_size_bytes:
        raise ImageTooLarge(
            f"the image has {size(len(data))}; send at most {size(limits.max_size_bytes)}"
        )
    declared = None
    if is_record(data):
        data, declared = face_records.find_image(data)
    kind = sniff_format(data)
    if kind is None:
        raise ImageUnsupported(
            "not a JPEG, JPEG 2000, PNG or WebP image; convert it to one of these"
        )
    if declared not in (None, kind):
        raise ImageUnsupported(
            f"the face record says that its image is {declared}, and it is {NAMES[kind]}; "
            "read the document again"
        )
    read = {"JPEG": _read_jpeg, "PNG": _read_png, "WEBP": _read_webp, "JPEG2000": _read_jpeg2000}[
        kind
    ]
    try:
        return read(data, limits)
    except (struct.error, IndexError, KeyError) as error:
        raise damaged() from error


def find_pixels(data: bytes) -> tuple[Kind, int, bool] | None:
    """Format, pixels and whether it is a progressive JPEG, by a look at the first bytes.

    None for what `read_header` would refuse as no image or a damaged one.
    """
    with suppress(struct.error, IndexError, KeyError, ImageError):
        if is_record(data):
            data, _ = face_records.find_image(data)
        kind = sniff_format(data)
        match kind:
            case "JPEG":
                for part in _list_segments(data):
                    if part.marker in _FRAMES:
                        frame = _Frame.of(data, part)
                        return kind, frame.width * frame.height, frame.is_progressive
            case "PNG":
                width, height = struct.unpack_from(">II", data, 16)
                return kind, width * height, False
            case "WEBP":
                found = read_webp_size(data)
                return None if found is None else (kind, found[0] * found[1], False)
            case "JPEG2000":
                width, height = jpeg2000.find_size(data)
                return kind, width * height, False
    return None


def damaged() -> ImageDamaged:
    return ImageDamaged("the image is truncated or damaged; send it again")


def _check_size(kind: Kind, size_px: Size, limits: ImageLimits) -> None:
    width, height = size_px
    most = limits.max_pixels(kind)
    if width * height > most:
        raise ImageTooLarge(
            f"the image has {width} x {height} pixels; "
            f"send at most {most / 1e6:g} megapixels in a {NAMES[kind]} image"
        )
    if width * height == 0:
        raise ImageDamaged("the image has no pixels; send it again")


# JPEG: ITU-T T.81.

MAX_LEADING_SEGMENTS = 512
"""Segments before the first scan; cameras write a few dozen."""
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; Huffman-coded
_OTHER_FRAMES = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xCC)
_SCAN, _END, _EXIF, _MPF = 0xDA, 0xD9, 0xE1, 0xE2
_NEEDED = (*_FRAMES, 0xC4, 0xDB, 0xDD, 0xE0, 0xEE)  # with tables, restarts, JFIF and Adobe
_SKIPPED = (*range(0xE0, 0xF0), 0xFE, 0xDC)  # applications', comments, number of lines
# A marker among coded data, where neither a stuffed byte nor a restart ends a scan.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")


class _Segment(NamedTuple):
    """A marker at `start`, and its payload from `body` to `end`."""

    marker: int
    start: int
    body: int
    end: int


def _list_segments(data: bytes) -> Iterator[_Segment]:
    """The segments up to the end, the first with a scan included; gaps hold padding alone."""
    place = 2
    for _ in range(MAX_LEADING_SEGMENTS):
        found = _MARKER.search(data, place)
        if found is None or data[place : found.start()].strip(b"\xff"):
            raise damaged()
        part = _read_segment(data, found.start())
        yield part
        if part.marker in (_SCAN, _END):
            return
        place = part.end
    raise ImageTooCostly("the JPEG has too many segments; save it as a plain JPEG")


def _read_segment(data: bytes, start: int) -> _Segment:
    marker = data[start + 1]
    if marker == _END:
        return _Segment(marker, start, start + 2, start + 2)
    (length,) = struct.unpack_from(">H", data, start + 2)
    end = start + 2 + length
    if length < 2 or end > len(data):
        raise damaged()
    return _Segment(marker, start, start + 4, end)


@frozen
class _Frame:
    """The frame header: size, and the number of 8 x 8 blocks of each component by its id."""

    width: int
    height: int
    is_progressive: bool
    blocks: dict[int, int]

    @classmethod
    def of(cls, data: bytes, part: _Segment) -> _Frame:
        precision, height, width, count = struct.unpack_from(">BHHB", data, part.body)
        fields = data[part.body + 6 : part.end]
        if precision != 8 or count not in (1, 3, 4) or len(fields) != 3 * count:
            raise damaged()
        factors = {fields[at]: divmod(fields[at + 1], 16) for at in range(0, len(fields), 3)}
        if len(factors) != count or not all(
            1 <= one <= 4 for pair in factors.values() for one in pair
        ):
            raise damaged()
        columns = -(-width // (8 * max(across for across, _ in factors.values())))
        rows = -(-height // (8 * max(down for _, down in factors.values())))
        blocks = {name: columns * across * rows * down for name, (across, down) in factors.items()}
        return cls(width, height, part.marker == 0xC2, blocks)


def _read_jpeg(data: bytes, limits: ImageLimits) -> ImageHeader:
    """The header of a JPEG; what follows its end (phones append video there) is left away."""
    kept, frame, orientation, pictures = [data[:2]], None, 1, 1
    for part in _list_segments(data):
        if part.marker == _SCAN:
            break
        if part.marker in _OTHER_FRAMES:
            raise ImageUnsupported("a JPEG of a rare kind; save it as a plain JPEG")
        if part.marker in _FRAMES:
            if frame is not None:
                raise damaged()
            frame = _Frame.of(data, part)
            _check_size("JPEG", (frame.width, frame.height), limits)
        elif part.marker == _EXIF and data.startswith(b"Exif\0\0", part.body):
            orientation = read_tag(data[part.body + 6 : part.end], ORIENTATION) or 1
        elif part.marker == _MPF and data.startswith(b"MPF\0", part.body):
            pictures = read_tag(data[part.body + 4 : part.end], PICTURE_COUNT) or 1
        if part.marker in _NEEDED:
            kept.append(data[part.start : part.end])
        elif part.marker not in _SKIPPED:
            raise damaged()
    if frame is None or part.marker != _SCAN:
        raise damaged()
    # The second picture of Ultra HDR and Apple only brightens the first.
    if pictures > 1 and not (b"hdrgm:" in data or b"HDRGainMap" in data):
        raise ImageUnsupported("a JPEG with several pictures (MPO); send a single picture")
    kept.append(data[part.start : _follow_scans(data, part, frame, limits)])
    size_px = frame.width, frame.height
    return ImageHeader(
        "JPEG", size_px, b"".join(kept), orientation, REDUCTIONS, frame.is_progressive
    )


def _follow_scans(data: bytes, first: _Segment, frame: _Frame, limits: ImageLimits) -> int:
    """The end of the picture; `ImageTooCostly` for scans that cost more than a photograph's."""
    scans = visits = 0
    part, is_buffered = first, frame.is_progressive
    for _ in range(limits.max_parts):
        if part.marker == _END:
            return part.end
        place = part.end
        if part.marker == _SCAN:
            count = data[part.body]
            components = data[part.body + 1 : part.body + 1 + 2 * count : 2]
            scans += 1
            visits += sum(frame.blocks[one] for one in components)
            is_buffered = is_buffered or count < len(frame.blocks)
            if scans > limits.max_jpeg_scans or visits > limits.max_jpeg_block_visits:
                raise ImageTooCostly("the JPEG has too many scans; save it as a plain JPEG")
            if is_buffered and 64 * sum(frame.blocks.values()) > limits.max_jpeg_coefficients:
                raise ImageTooLarge(
                    f"the image has {frame.width} x {frame.height} pixels in several scans; "
                    "save it as a baseline JPEG"
                )
        found = _MARKER.search(data, place)
        if found is None:
            raise damaged()
        part = _read_segment(data, found.start())
    raise ImageTooCostly("the JPEG has too many segments; save it as a plain JPEG")


ORIENTATION = 0x0112
"""EXIF tag: orientation of the stored picture (EXIF 2.32; 1, upright, to 8)."""

PICTURE_COUNT = 0xB001
"""Multi-Picture Format tag: number of pictures in the file (CIPA DC-007)."""


def read_tag(tiff: bytes, tag: int) -> int | None:
    """The integer value of a tag in the first directory of a TIFF header, None if unreadable.

    Pillow's own reader copies what every tag points to, 300 MB from 64 kB, and warns of damage;
    the photograph is usable without it.
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


# PNG (ISO/IEC 15948), WebP (RFC 9649), JPEG 2000 (ISO/IEC 15444-1).


def _read_png(data: bytes, limits: ImageLimits) -> ImageHeader:
    """The header of a PNG, with the chunks alone that make its pixels."""
    size_px = struct.unpack_from(">II", data, 16)
    _check_size("PNG", size_px, limits)
    kept, orientation, place = [data[:8]], 1, 8
    for _ in range(limits.max_parts):
        length, name = struct.unpack_from(">I4s", data, place)
        body, end = place + 8, place + 12 + length
        if end > len(data):
            raise damaged()
        if name == b"acTL" and struct.unpack_from(">I", data, body)[0] > 1:
            raise ImageUnsupported("an animated PNG image; send a single picture")
        if name == b"eXIf":
            orientation = read_tag(data[body : body + length], ORIENTATION) or 1
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[place:end])
        if name == b"IEND":
            return ImageHeader("PNG", size_px, b"".join(kept), orientation)
        place = end
    raise ImageTooCostly("the PNG has too many chunks; save it as a plain PNG")


def _read_webp(data: bytes, limits: ImageLimits) -> ImageHeader:
    found = read_webp_size(data)
    if found is None:
        raise ImageDamaged("the WebP image has a damaged header; send it again")
    width, height, is_animated = found
    _check_size("WEBP", (width, height), limits)
    if is_animated:
        raise ImageUnsupported("an animated WebP image; send a single picture")
    return ImageHeader("WEBP", (width, height), data)


def read_webp_size(data: bytes) -> tuple[int, int, bool] | None:
    """(width, height, animated) of a WebP file, None if its first chunk is not one we know.

    Pillow's WebP reader allocates whole canvases as soon as it opens a file.
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


def _read_jpeg2000(data: bytes, limits: ImageLimits) -> ImageHeader:
    _check_size("JPEG2000", jpeg2000.find_size(data), limits)
    found = jpeg2000.read_codestream(data)
    if len(found.data) > limits.max_jpeg2000_bytes:
        raise ImageTooLarge(
            f"the JPEG 2000 image has {size(len(found.data))}; "
            f"send at most {size(limits.max_jpeg2000_bytes)}: compress it more"
        )
    return ImageHeader("JPEG2000", found.size_px, found.data, reductions=found.reductions)
