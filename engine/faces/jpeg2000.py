"""JPEG 2000 (ISO/IEC 15444-1): what a file declares and what decoding it may cost, undecoded.

OpenJPEG allocates what a header declares, tile by tile and code-block by code-block, before it
looks at the data: so everything that is declared is counted here first.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from engine.errors import ImageDamaged, ImageTooCostly, ImageUnsupported

CODESTREAM = b"\xff\x4f\xff\x51"
BOXED = b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a"

MAX_TILES = 64
MAX_LEVELS = 10
"""Decompositions; document portraits have five or six."""
MAX_PIECES = 65_536
"""Packets and code-blocks together, each of about 600 bytes in OpenJPEG."""
MAX_SEGMENTS = 2048

_CMYK, _SRGB, _GREY = 12, 16, 17
_COD, _COC, _SOT, _SOD, _EOC = 0x52, 0x53, 0x90, 0x93, b"\xff\xd9"
_HARMLESS = (0x55, 0x57, 0x58, 0x5C, 0x5D, 0x5E, 0x63, 0x64)
"""TLM, PLM, PLT, QCD, QCC, RGN, CRG, COM. What is not listed (packed headers, changes of
progression, the extensions of other parts) no document's portrait needs."""
_RARE = "a JPEG 2000 image of a rare kind; save it as a plain one"
_DAMAGED = "the JPEG 2000 image is truncated or damaged; send it again"


class Codestream(NamedTuple):
    """`data` without boxes and without what follows its end; `reductions` at which it can be
    decoded, smallest picture first.
    """

    size_px: tuple[int, int]
    reductions: tuple[int, ...]
    data: bytes


class _Size(NamedTuple):
    """SIZ: reference grid, offset of the image, tiles and their offset, components."""

    width: int
    height: int
    left: int
    top: int
    tile_width: int
    tile_height: int
    tile_left: int
    tile_top: int
    components: int

    @property
    def size_px(self) -> tuple[int, int]:
        return self.width - self.left, self.height - self.top

    @property
    def tiles(self) -> int:
        across = -(-(self.width - self.tile_left) // self.tile_width)
        return across * -(-(self.height - self.tile_top) // self.tile_height)


def find_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a file or codestream, by its first bytes; raises as `read_codestream`."""
    start, _ = _find_codestream(data)
    return _read_size(data, start).size_px


def read_codestream(data: bytes) -> Codestream:
    """The codestream of a file (JP2) or a codestream that is worth decoding.

    Raises ImageDamaged, ImageUnsupported or ImageTooCostly, or struct.error and IndexError where
    the data end early. Pixels are bounded by the caller.
    """
    start, boxes = _find_codestream(data)
    size = _read_size(data, start)
    _check_boxes(boxes, size)
    levels, end = _follow_segments(data, start, size)
    reductions = [
        1 << level
        for level in (3, 2, 1)
        if level <= levels
        and not (size.left or size.top)
        # Pillow, which rounds to the nearest size, expects what the standard rounds up.
        and all(
            (side + (1 << level) // 2) >> level == _divide(side, 1 << level)
            for side in size.size_px
        )
    ]
    return Codestream(size.size_px, tuple(reductions), data[start:end] + _EOC)


def _find_codestream(data: bytes) -> tuple[int, dict[bytes, bytes]]:
    """The start of the first codestream, and the boxes of the header before it."""
    if data.startswith(CODESTREAM):
        return 0, {}
    found: dict[bytes, bytes] = {}
    for name, body, end in _list_boxes(data, 0, len(data)):
        if name == b"jp2h":
            for part, start, stop in _list_boxes(data, body, end):
                # Of several colour specifications the first counts.
                found.setdefault(part, data[start:stop])
        elif name == b"jp2c":
            if b"ihdr" not in found or not data.startswith(CODESTREAM, body):
                break
            return body, found
    raise ImageDamaged(_DAMAGED)


def _list_boxes(data: bytes, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, first and last byte of each box."""
    for _ in range(MAX_SEGMENTS):
        if place >= end:
            return
        length, name = struct.unpack_from(">I4s", data, place)
        body = place + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, body)
            body += 8
        last = end if length == 0 else place + length
        if not body <= last <= end:
            raise ImageDamaged(_DAMAGED)
        yield name, body, last
        place = last
    raise ImageTooCostly(_RARE)


def _read_size(data: bytes, start: int) -> _Size:
    length, _, *numbers = struct.unpack_from(">HH8IH", data, start + 4)
    size = _Size(*numbers)
    depths = data[start + 42 : start + 42 + 3 * size.components]
    if not (
        length == 38 + 3 * size.components
        and 0 <= size.tile_left <= size.left < size.width
        and 0 <= size.tile_top <= size.top < size.height
        and size.tile_left + size.tile_width > size.left
        and size.tile_top + size.tile_height > size.top
        and max(size.width, size.height) < 1 << 31
    ):
        raise ImageDamaged(_DAMAGED)
    if size.components not in (1, 3):
        what = "CMYK or transparent" if size.components == 4 else f"of {size.components} components"
        raise ImageUnsupported(f"the JPEG 2000 image is {what}; save it in RGB or grey")
    bits = max((depth & 0x7F) + 1 for depth in depths[::3])
    if bits > 8:
        raise ImageUnsupported(f"the JPEG 2000 image has {bits} bits a component; save it with 8")
    if set(depths[1::3] + depths[2::3]) != {1}:
        raise ImageUnsupported("the JPEG 2000 image has subsampled colours; save it without")
    return size


def _check_boxes(boxes: dict[bytes, bytes], size: _Size) -> None:
    """The header of a file must say of its picture what its codestream says."""
    if not boxes:
        return
    height, width, components = struct.unpack_from(">IIH", boxes[b"ihdr"])
    if b"pclr" in boxes or b"cmap" in boxes:
        raise ImageUnsupported("the JPEG 2000 image has a palette; save it in RGB or grey")
    colour = boxes.get(b"colr", b"")
    if colour[:1] == b"\x01":
        (space,) = struct.unpack_from(">I", colour, 3)
        if space == _CMYK:
            raise ImageUnsupported("the JPEG 2000 image is CMYK; save it in RGB or grey")
        if space not in (_SRGB, _GREY):
            raise ImageUnsupported("the JPEG 2000 image is in a rare colour space; save it in RGB")
    if ((width, height), components) != (size.size_px, size.components):
        raise ImageDamaged("the JPEG 2000 file says another size than its picture; save it anew")
    channels = boxes.get(b"cdef")
    plain = b"".join(struct.pack(">HHH", one, 0, one + 1) for one in range(components))
    if channels is not None and channels[2:] != plain:
        raise ImageUnsupported(_RARE)


def _follow_segments(data: bytes, start: int, size: _Size) -> tuple[int, int]:
    """Least number of decompositions, and where the last tile ends."""
    if size.tiles > MAX_TILES:
        raise ImageTooCostly(f"the JPEG 2000 image has {size.tiles} tiles; save it with one")
    place = start + 4 + struct.unpack_from(">H", data, start + 4)[0]
    levels: list[int] = []
    seen: set[int] = set()
    layers, tile_end = 1, 0
    for _ in range(MAX_SEGMENTS):
        # Some writers leave out the marker at the end.
        if tile_end == place and data[place : place + 2] in (b"", _EOC):
            break
        start_code, marker, length = struct.unpack_from(">BBH", data, place)
        if marker == _SOD and tile_end:
            place = tile_end
            continue
        end = place + 2 + length
        if start_code != 0xFF or length < 2 or end > len(data):
            raise ImageDamaged(_DAMAGED)
        body = data[place + 4 : end]
        if marker == _SOT:
            tile, tile_end = _read_tile_part(data, place, body)
            seen.add(tile)
        elif marker in (_COD, _COC):
            layers = struct.unpack_from(">H", body, 2)[0] if marker == _COD else layers
            style, coding = (body[0], body[5:]) if marker == _COD else (body[1], body[2:])
            levels.append(_check_coding(size, layers, style, coding))
        elif marker not in _HARMLESS:
            raise ImageUnsupported(_RARE)
        place = end
    else:
        raise ImageTooCostly(_RARE)
    if not levels or seen != set(range(size.tiles)):
        raise ImageDamaged(_DAMAGED)
    return min(levels), place


def _read_tile_part(data: bytes, place: int, body: bytes) -> tuple[int, int]:
    """Number of the tile, and where this part of it ends; the last may not say how long it is."""
    tile, length = struct.unpack_from(">HI", body)
    end = place + length if length else data.rfind(_EOC)
    if not place < end <= len(data):
        raise ImageDamaged(_DAMAGED)
    return tile, end


def _check_coding(size: _Size, layers: int, style: int, coding: bytes) -> int:
    """The decompositions of a coding style; refuses one that makes too many pieces."""
    levels, wide, high, modes = coding[:4]
    wide, high = wide + 2, high + 2
    if levels > 32 or max(wide, high) > 10 or wide + high > 12 or not layers:
        raise ImageDamaged(_DAMAGED)
    if modes & 0xC0:
        raise ImageUnsupported(_RARE)  # high-throughput coding, Part 15
    if levels > MAX_LEVELS:
        raise ImageTooCostly(f"the JPEG 2000 image has {levels} resolutions; save it with six")
    precincts = coding[5 : 6 + levels] if style & 1 else b"\xff" * (levels + 1)
    sides = [
        min(tile, side)
        for tile, side in zip((size.tile_width, size.tile_height), size.size_px, strict=True)
    ]
    pieces = 0
    for level in range(levels + 1):
        across, down = (_divide(side, 1 << (levels - level)) for side in sides)
        along, up = precincts[level] & 15, precincts[level] >> 4
        pieces += layers * _divide(across, 1 << along) * _divide(down, 1 << up)
        if level:  # three bands of half the size, and precincts halved with them
            across, down, along, up = _divide(across, 2), _divide(down, 2), along - 1, up - 1
        blocks = _divide(across, 1 << max(0, min(wide, along)))
        pieces += (3 if level else 1) * blocks * _divide(down, 1 << max(0, min(high, up)))
    if pieces * size.components * size.tiles > MAX_PIECES:
        raise ImageTooCostly("the JPEG 2000 image has too many parts; save it as a plain one")
    return levels


def _divide(length: int, part: int) -> int:
    """The number of parts it takes."""
    return -(-length // part)
