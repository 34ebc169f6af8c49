"""Image files that cost far more to decode than to send."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

EMPTY_SCANS = 1200
_END_OF_BANDS = 16  # 32,767 blocks without data each, and there are 390,625


def jpeg_of_empty_scans(side: int = 5000, scans: int = EMPTY_SCANS) -> bytes:
    """A grey progressive JPEG whose refinement scans say of every block that nothing changes."""
    frame = struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])
    one_code = bytes([1, *[0] * 15])
    parts = [
        b"\xff\xd8",
        _segment(0xDB, bytes([0, *[1] * 64])),
        _segment(0xC2, frame),
        # Of DC: no difference. Of AC: the end of as many bands as can be, with 14 more bits.
        _segment(0xC4, bytes([0x00]) + one_code + bytes([0])),
        _segment(0xC4, bytes([0x10]) + one_code + bytes([0xE0])),
        _segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0x00])),
        bytes(-(-((side // 8 + 1) ** 2) // 8)),
        _segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x01])),
        _bands(),
    ]
    refinement = _segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x10])) + _bands()
    return b"".join([*parts, refinement * scans, b"\xff\xd9"])


def _bands() -> bytes:
    """The one code, a 0, then fourteen 1s, sixteen times; a stuffed zero after each full byte."""
    bits = ("0" + "1" * 14) * _END_OF_BANDS
    bits += "1" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return packed.replace(b"\xff", b"\xff\x00")


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_of_segments(count: int) -> bytes:
    """A small JPEG after so many comments of no length, each of which Pillow keeps."""
    plain = write(Image.new("RGB", (64, 64)), "JPEG")
    return plain[:2] + _segment(0xFE, b"") * count + plain[2:]


def png_of_texts(count: int = 60) -> bytes:
    """A small PNG with compressed texts of a megabyte each."""
    plain = write(Image.new("RGB", (64, 64)), "PNG")
    text = b"Comment\0\0" + zlib.compress(bytes(1_000_000))
    chunk = (
        struct.pack(">I", len(text))
        + b"zTXt"
        + text
        + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    )
    return plain[:33] + chunk * count + plain[33:]


def write(picture: Image.Image, kind: str, **options: object) -> bytes:
    """A picture as a file."""
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def grey(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture of one colour: small as a file."""
    return Image.new(mode, (width, height), (128,) * len(mode))


def noise(width: int, height: int, bands: int) -> Image.Image:
    """A picture that cannot be compressed."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, bands), np.uint8)
    return Image.fromarray(pixels)
