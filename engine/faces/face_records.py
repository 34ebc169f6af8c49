"""Face records as documents carry them: the one image inside, found and left as it is.

Read are ISO/IEC 19794-5 (2005 and 2011), 39794-5 in its binary encoding, and around them plain
CBEFF: data group 2 of a chip (ICAO 9303-10), its biometric templates (ISO/IEC 7816-11), and the
header of NIST SP 800-76. A record's signature is not checked here.
"""

import struct
from collections.abc import Iterator

from engine.errors import ImageDamaged, ImageUnsupported

FACE = b"FAC\0"
_2005, _2011 = b"010\0", b"030\0"
_DATA_GROUP_2, _GROUP, _TEMPLATE, _FACE_BLOCK = 0x75, 0x7F61, 0x7F60, 0x65
_DATA, _DATA_CONSTRUCTED, _PROTECTED, _STANDARD = 0x5F2E, 0x7F2E, 0x7D, 0xA1
PIV, _PIV_HEADER = b"\x03\x0d", 88
_MAX_ELEMENTS = 256

_DAMAGED = "the face record is truncated or damaged; read the document again"
_SEVERAL = "the face record holds {} images; send the portrait alone"

# Image data types of both standards, each by the name of its format; 0 and 1 of 39794-5 say none.
_TYPES_19794 = {0: "JPEG", 1: "JPEG2000", 2: "JPEG2000", 3: "PNG"}
_TYPES_39794 = {0: None, 1: None, 2: "JPEG", 3: "JPEG2000", 4: "JPEG2000", 5: "PNG"}


def find_image(data: bytes) -> tuple[bytes, str | None]:
    """The image file in a record, and the format that the record says it has.

    Raises ImageDamaged where a length does not fit, ImageUnsupported for what holds no or several
    images, or is encrypted.
    """
    try:
        if data.startswith(PIV):
            length, signature = struct.unpack_from(">IH", data, 2)
            end = _PIV_HEADER + length
            if end + signature != len(data):
                raise ImageDamaged(_DAMAGED)
            return _open_19794(data[_PIV_HEADER:end])
        if data.startswith(FACE):
            return _open_19794(data)
        tag, value, rest = _read_element(data)
        if rest.strip(b"\0"):
            raise ImageDamaged(_DAMAGED)
        return _open_element(tag, value)
    except (struct.error, IndexError) as error:
        raise ImageDamaged(_DAMAGED) from error


def _open_19794(data: bytes) -> tuple[bytes, str | None]:
    version, length, count = struct.unpack_from(">4sIH", data, 4)
    if version not in (_2005, _2011) or not data.startswith(FACE):
        raise ImageUnsupported("a face record of an unknown version; send the image inside it")
    if length != len(data):
        raise ImageDamaged(_DAMAGED)
    if count != 1:
        raise ImageUnsupported(_SEVERAL.format(count))
    kind, image = _read_2005(data) if version == _2005 else _read_2011(data)
    if kind not in _TYPES_19794:
        raise ImageUnsupported(f"a face record with images of type {kind}; send it as JPEG")
    return image, _TYPES_19794[kind]


def _read_2005(data: bytes) -> tuple[int, bytes]:
    length, points = struct.unpack_from(">IH", data, 14)
    image = 14 + 20 + 8 * points + 12
    if 14 + length != len(data) or image > len(data):
        raise ImageDamaged(_DAMAGED)
    return data[image - 11], data[image:]


def _read_2011(data: bytes) -> tuple[int, bytes]:
    has_certificates = data[14]
    (length,) = struct.unpack_from(">I", data, 17)
    if 17 + length != len(data):
        raise ImageDamaged(_DAMAGED)
    place = 36 + 5 * data[35]
    if has_certificates:
        place += 1 + 3 * data[place]
    (landmarks,) = struct.unpack_from(">H", data, place)
    # Landmarks, gender, eyes, hair, height, property mask, expression, pose and its uncertainty.
    place += 2 + 4 + 3 + 2 + 3 + 3 + 8 * landmarks
    kind, image = data[place + 1], place + 15
    (size,) = struct.unpack_from(">I", data, place + 11)
    if image + size != len(data):
        raise ImageDamaged(_DAMAGED)
    return kind, data[image:]


def _read_element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag and value of the first element (BER, of definite length), and what follows it."""
    place, tag = 1, data[0]
    if tag & 31 == 31:
        tag, place = tag << 8 | data[1], 2
    length = data[place]
    place += 1
    if length > 0x80:
        width = length & 127
        if width > 4:
            raise ImageDamaged(_DAMAGED)
        length = int.from_bytes(data[place : place + width], "big")
        place += width
    elif length == 0x80:
        raise ImageUnsupported("the face record gives no lengths (BER); write it in DER")
    if place + length > len(data):
        raise ImageDamaged(_DAMAGED)
    return tag, data[place : place + length], data[place + length :]


def _list_elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    for _ in range(_MAX_ELEMENTS):
        if not data:
            return
        tag, value, data = _read_element(data)
        yield tag, value
    raise ImageDamaged(_DAMAGED)


def _open_element(tag: int, value: bytes) -> tuple[bytes, str | None]:
    """Go down to the biometric data: data group, templates, template, data block."""
    if tag == _FACE_BLOCK:
        return _open_39794(value)
    if tag == _DATA:
        return _open_19794(value)
    wanted = {
        _DATA_GROUP_2: (_GROUP,),
        _GROUP: (_TEMPLATE,),
        _TEMPLATE: (_DATA, _DATA_CONSTRUCTED, _PROTECTED),
        _DATA_CONSTRUCTED: (_STANDARD, _FACE_BLOCK),
        _STANDARD: (_FACE_BLOCK,),
    }.get(tag)
    if wanted is None:
        raise ImageUnsupported(
            "the face record is encrypted; send it as the document's reader opens it"
        )
    found = [(inner, part) for inner, part in _list_elements(value) if inner in wanted]
    if len(found) != 1:
        raise ImageUnsupported(_SEVERAL.format(len(found)))
    return _open_element(*found[0])


def _open_39794(value: bytes) -> tuple[bytes, str | None]:
    """[1] representations, [1] of the one, [0] base, [0] in two dimensions: [0] data, [1] about."""
    blocks = _take(value, 0xA1)
    inner = list(_list_elements(blocks))
    if inner and all(tag == 0x30 for tag, _ in inner):
        if len(inner) != 1:
            raise ImageUnsupported(_SEVERAL.format(len(inner)))
        blocks = inner[0][1]
    picture = _take(_take(_take(blocks, 0xA1), 0xA0), 0xA0)
    code = int.from_bytes(_take(_take(_take(picture, 0xA1), 0xA0), 0x80), "big")
    if code not in _TYPES_39794:
        raise ImageUnsupported(f"a face record with images of type {code}; send it as JPEG")
    return _take(picture, 0x80), _TYPES_39794[code]


def _take(data: bytes, wanted: int) -> bytes:
    """The value of the first element of this tag."""
    for tag, value in _list_elements(data):
        if tag == wanted:
            return value
    raise ImageUnsupported("the face record holds no picture in two dimensions; send one that does")
