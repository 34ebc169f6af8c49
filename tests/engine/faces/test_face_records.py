"""Records of documents: their image is found as it is, and nothing false is believed of them."""

import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from engine.errors import ImageDamaged, ImageError, ImageUnsupported
from engine.faces.extractor import ExtractorConfig, open_extractor
from engine.faces.face_records import find_image
from engine.faces.image_files import is_record
from engine.models.onnx_sessions import SessionOptions
from schema.options import QUALITY_LIMITS
from schema.reasons import PhotographKind, Reason
from tests.engine.faces.records import (
    element,
    write_19794_2005,
    write_19794_2011,
    write_39794,
    write_data_group_2,
    write_piv,
)

# Around an image; the codes are those of JPEG 2000.
WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "19794-5:2005": lambda image: write_19794_2005(image, 1, points=3),
    "19794-5:2011": lambda image: write_19794_2011(image, 1),
    "with landmarks and certificates": lambda image: write_19794_2011(
        image, 2, landmarks=4, certificates=2
    ),
    "39794-5": lambda image: write_39794(image, 3),
    "data group 2": lambda image: write_data_group_2(write_19794_2005(image, 1)),
    "data group 2, padded": lambda image: (
        write_data_group_2(write_19794_2011(image, 1)) + b"\0" * 9
    ),
    "data group 2 of 39794-5": lambda image: write_data_group_2(write_39794(image, 4), tag=0x7F2E),
    "template alone": lambda image: element(
        0x7F60, element(0xA1, b"\x80\1\1") + element(0x5F2E, write_19794_2011(image, 1))
    ),
    "NIST SP 800-76": lambda image: write_piv(write_19794_2005(image, 1)),
}


@pytest.fixture(scope="module")
def chip(astronaut, encode) -> bytes:
    """A portrait as chips hold it: JPEG 2000."""
    return encode(astronaut[:320, 100:340], "JPEG2000", no_jp2=True)


@pytest.mark.parametrize("name", WRITERS)
def test_the_image_in_a_record_is_found_as_it_is(name: str, chip, decode) -> None:
    record = WRITERS[name](chip)
    assert is_record(record)
    assert find_image(record) == (chip, "JPEG2000")
    assert np.array_equal(decode(record).pixels, decode(chip).pixels)


@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_record_is_damaged(name: str, chip, decode) -> None:
    record = WRITERS[name](chip).rstrip(b"\0")
    for count in (5, 20, 60, len(record) // 2, len(record) - 1):
        with pytest.raises(ImageDamaged, match="read the document again"):
            decode(record[:count])


def test_lengths_that_lie_are_damage(chip, decode) -> None:
    old, new = write_19794_2005(chip, 1), write_19794_2011(chip, 1)
    for record, place in ((old, 8), (old, 14), (new, 8), (new, 17), (new, 69)):
        for false in (0, 1, len(record) + 1, 2**32 - 1):
            lying = record[:place] + struct.pack(">I", false) + record[place + 4 :]
            with pytest.raises(ImageDamaged, match="face record"):
                decode(lying)
    points = old[:18] + b"\xff\xff" + old[20:]
    with pytest.raises(ImageDamaged, match="face record"):
        decode(points)
    with pytest.raises(ImageDamaged, match="face record"):
        decode(write_data_group_2(old) + b"more")


def test_an_image_that_the_record_denies_is_refused(astronaut, encode, chip, decode) -> None:
    jpeg = encode(astronaut)
    denied = {
        "says that its image is JPEG2000, and it is JPEG;": write_19794_2011(jpeg, 1),
        "says that its image is JPEG, and it is JPEG 2000;": write_19794_2005(chip, 0),
        "says that its image is PNG, and it is JPEG 2000;": write_39794(chip, 5),
        "images of type 9": write_19794_2005(chip, 9),
        "images of type 7": write_39794(chip, 7),
    }
    for message, record in denied.items():
        with pytest.raises(ImageUnsupported, match=message):
            decode(record)
    # 39794-5 may leave it open.
    assert decode(write_39794(jpeg, 0)).size_px == (512, 512)


def test_what_holds_no_or_several_images_is_refused(chip, decode) -> None:
    record = write_19794_2011(chip, 1)
    refused = {
        "holds 2 images": write_19794_2011(chip, 1, count=2),
        "holds 3 images": write_data_group_2(record, templates=3),
        "encrypted": element(0x7F60, element(0x7D, record)),
        "unknown version": b"FAC\x00040\0" + record[8:],
        "two dimensions": element(
            0x65, element(0xA1, element(0x30, element(0x80, b"\0" * 200) + b"\xa1\4\xa0\2\xa1\0"))
        ),
        "not a JPEG": write_19794_2011(b"GIF89a and so on", 1),
    }
    for message, data in refused.items():
        with pytest.raises(ImageUnsupported, match=message):
            decode(data)


def test_text_is_no_record(decode) -> None:
    for text in (b"unknown", b"e", b"FAC is no record"):
        with pytest.raises(ImageUnsupported, match="not a JPEG"):
            decode(text)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_record_gives_an_image_or_an_image_error(chip, data: st.DataObject) -> None:
    record = bytearray(WRITERS[data.draw(st.sampled_from(list(WRITERS)))](chip))
    for _ in range(data.draw(st.integers(1, 4))):
        # Among the headers.
        record[data.draw(st.integers(0, min(len(record), 130) - 1))] = data.draw(
            st.integers(0, 255)
        )
    cut = data.draw(st.integers(1, len(record)))
    try:
        image, _ = find_image(bytes(record[:cut]))
    except ImageError:
        return
    assert len(image) < len(record)


def test_a_portrait_in_a_record_is_held_to_the_limits_of_a_chip(astronaut, encode) -> None:
    image = encode(PillowImage.fromarray(astronaut).resize((126, 126)), "JPEG2000")
    record = write_19794_2005(image, 2)
    limits = {kind: replace(one, min_clarity=0) for kind, one in QUALITY_LIMITS.items()}
    limits[PhotographKind.LIVE] = replace(limits[PhotographKind.LIVE], min_inter_eye_px=12)
    config = ExtractorConfig(threads=1, quality=limits)
    with open_extractor(config=config, session=SessionOptions(provider="cpu")) as own:
        bare, inside = own.extract([image, record])
    assert Reason.FACE_TOO_SMALL in bare.problems
    assert Reason.FACE_TOO_SMALL not in inside.problems
    assert bare.vector is not None
    assert np.array_equal(bare.vector, inside.vector)
