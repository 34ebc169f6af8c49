"""Decoding of image files to upright 8-bit RGB pixels, by Pillow: it detects truncation."""

from __future__ import annotations

import struct
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from engine.errors import ImageDamaged, ImageTooLarge, ImageUnsupported
from engine.formatting import size

ORIENTATION = 0x0112
"""EXIF tag: orientation of the stored picture (EXIF 2.32; 1, upright, to 8)."""

PICTURE_COUNT = 0xB001
"""Multi-Picture Format tag: number of pictures in the file (CIPA DC-007)."""


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

    Pillow's own reader warns about damaged EXIF; the photograph is usable without it.
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


Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Accepted sizes, and how far a large JPEG is reduced while it is decoded.

    A JPEG is decoded at 1/2, 1/4 or 1/8 if its longer side is still `reduced_side_px` or more.
    """

    max_size_bytes: int = 8 * 1024 * 1024
    max_pixels: int = 25_000_000
    reduced_side_px: int = 1280


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Upright `pixels` uint8[h, w, 3] in RGB, of a picture of `size_px` (width, height).

    `reduction` full pixels make one of `pixels`: 1, 2, 4 or 8.
    """

    pixels: Pixels
    size_px: tuple[int, int]
    reduction: int


_READERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
}

# EXIF orientation to the transposition that makes the stored picture upright.
_UPRIGHT = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}

_SIDEWAYS = (5, 6, 7, 8)

# What Pillow's readers raise on damaged files; OSError includes "image file is truncated".
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError)

# `warnings.catch_warnings` changes the process's filters: one thread at a time.
_warning_filters = threading.Lock()


def decode(data: bytes, limits: ImageLimits) -> Image:
    """Decode a JPEG, PNG or WebP by its content; transparency is laid on white.

    Bytes after a JPEG's end are ignored (phones append video there), and so is an HDR gain map.
    Raises ImageTooLarge (before decoding), ImageUnsupported or ImageDamaged.
    """
    if not data:
        raise ImageDamaged("the image is empty; send the file's bytes")
    if len(data) > limits.max_size_bytes:
        raise ImageTooLarge(
            f"the image has {size(len(data))}; send at most {size(limits.max_size_bytes)}"
        )
    try:
        picture = _open(data, limits)
        width, height = picture.size
        reduction = _reduce_scale(picture, limits)
        picture.load()
        # After loading: a PNG may carry its EXIF behind its pixels.
        orientation = _read_orientation(picture)
        colours = _to_rgb(picture)
    except _DAMAGE as error:
        raise ImageDamaged("the image is truncated or damaged; send it again") from error
    if orientation in _UPRIGHT:
        colours = colours.transpose(_UPRIGHT[orientation])
    size_px = (height, width) if orientation in _SIDEWAYS else (width, height)
    return Image(np.asarray(colours), size_px, reduction)


def _open(data: bytes, limits: ImageLimits) -> ImageFile:
    """The picture with its header read and checked."""
    kind = sniff_format(data)
    if kind is None:
        raise ImageUnsupported("not a JPEG, PNG or WebP image; convert it to one of these")
    if kind == "WEBP":
        head = read_webp_size(data)
        if head is None:
            raise ImageDamaged("the WebP image has a damaged header; send it again")
        _check_size((head[0], head[1]), limits)
        if head[2]:
            raise ImageUnsupported("an animated WebP image; send a single picture")
    # The format classes instead of Pillow's `open`, which warns of sizes that we refuse.
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture: ImageFile = _READERS[kind](BytesIO(data))
    _check_size(picture.size, limits)
    if kind == "PNG" and getattr(picture, "is_animated", False):
        raise ImageUnsupported("an animated PNG image; send a single picture")
    if kind == "JPEG" and _count_pictures(picture) > 1 and not has_gain_map(data):
        raise ImageUnsupported("a JPEG with several pictures (MPO); send a single picture")
    return picture


def _check_size(size_px: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size_px
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the image has {width} x {height} pixels; "
            f"send at most {limits.max_pixels / 1e6:g} megapixels"
        )
    if width * height == 0:
        raise ImageDamaged("the image has no pixels; send it again")


def _count_pictures(picture: ImageFile) -> int:
    directory = picture.info.get("mp")
    count = read_tag(directory, PICTURE_COUNT) if directory else None
    return count or 1


def _reduce_scale(picture: ImageFile, limits: ImageLimits) -> int:
    """Set a large JPEG to be decoded at 1/8, 1/4 or 1/2 size, within libjpeg's DCT."""
    width, height = picture.size
    for reduction in (8, 4, 2):
        narrow = min(width, height) < reduction
        if max(width, height) // reduction >= limits.reduced_side_px and not narrow:
            drafted = picture.draft("RGB", (width // reduction, height // reduction))
            return reduction if drafted is not None else 1
    return 1


def _read_orientation(picture: ImageFile) -> int:
    exif = picture.info.get("exif", b"")
    tag = read_tag(exif.removeprefix(b"Exif\0\0"), ORIENTATION)
    return 1 if tag is None else tag


def _to_rgb(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion would clip at 255.
        grey = np.asarray(picture).astype(np.uint32) >> 8
        return PillowImage.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        layers = picture.convert("RGBA")
        white = PillowImage.new("RGBA", layers.size, (255, 255, 255, 255))
        return PillowImage.alpha_composite(white, layers).convert("RGB")
    return picture.convert("RGB")
