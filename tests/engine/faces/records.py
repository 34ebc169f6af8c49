"""Face records for tests, written as the standards say."""

import struct


def write_19794_2005(image: bytes, kind: int, points: int = 0) -> bytes:
    """ISO/IEC 19794-5:2005 with one image."""
    about = struct.pack(
        ">HBBB3s2s3s3s", points, 0, 0, 0, b"\0" * 3, b"\0" * 2, b"\0" * 3, b"\0" * 3
    )
    facts = struct.pack(">BBHHBBHH", 1, kind, 240, 320, 1, 2, 0, 0)
    block = about + b"\1" * 8 * points + facts + image
    block = struct.pack(">I", len(block) + 4) + block
    return b"FAC\0" + struct.pack(">4sIH", b"010\0", 14 + len(block), 1) + block


def write_19794_2011(
    image: bytes, kind: int, *, landmarks: int = 0, certificates: int | None = None, count: int = 1
) -> bytes:
    """ISO/IEC 19794-5:2011 with one image, one quality block, and certificates where wanted."""
    block = b"\x07\xea\x0b\x1b" + b"\0" * 5 + struct.pack(">BHH", 1, 0, 0)
    block += b"\x01" + b"\x50\0\0\0\0"
    if certificates is not None:
        block += bytes([certificates]) + b"\0\1\2" * certificates
    block += struct.pack(">H", landmarks) + b"\0" * 4 + b"\0" * 3 + b"\0" * 2 + b"\0" * 6
    block += b"\2" * 8 * landmarks
    block += struct.pack(">BBHHBHBB", 1, kind, 240, 320, 0, 0, 0, 1)
    block += struct.pack(">I", len(image)) + image
    block = struct.pack(">I", len(block) + 4) + block
    header = struct.pack(">4sIHBH", b"030\0", 17 + len(block), count, certificates is not None, 0)
    return b"FAC\0" + header + block


def write_39794(image: bytes, code: int) -> bytes:
    """ISO/IEC 39794-5:2019 in DER with one representation of two dimensions."""
    about = element(0xA1, element(0xA0, element(0x80, bytes([code]))))
    picture = element(0xA0, element(0xA0, element(0x80, image) + about))
    block = element(0x30, element(0x80, b"\0") + element(0xA1, picture))
    version = element(0xA0, element(0x80, b"\3") + element(0x81, b"\x07\xe3"))
    return element(0x65, version + element(0xA1, block))


def write_data_group_2(record: bytes, templates: int = 1, tag: int = 0x5F2E) -> bytes:
    """ICAO 9303-10: the record in biometric templates, as a chip holds it."""
    header = element(0xA1, element(0x80, b"\1\1") + element(0x87, b"\1\1"))
    body = element(0xA1, record) if tag == 0x7F2E else record
    template = element(0x7F60, header + element(tag, body))
    return element(0x75, element(0x7F61, element(2, bytes([templates])) + template * templates))


def write_piv(record: bytes) -> bytes:
    """NIST SP 800-76: a header of 88 bytes, the record, a signature."""
    return b"\x03\x0d" + struct.pack(">IH", len(record), 5) + b"\0" * 80 + record + b"s" * 5


def element(tag: int, value: bytes) -> bytes:
    """A BER element of definite length."""
    size = len(value)
    length = bytes([size]) if size < 128 else b"\x83" + size.to_bytes(3, "big")
    return tag.to_bytes(1 + (tag > 255), "big") + length + value
