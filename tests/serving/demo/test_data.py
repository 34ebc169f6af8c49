import io
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.accuracy.photographs import MAX_PHOTOGRAPHS, Picture, encode_png, open_folder, retake
from engine.errors import RequestError
from engine.matching.documents import check_document
from schema.documents import Document
from serving.demo.scenario import forge_document, make_document


def test_the_wheel_brings_every_face_once(wheel) -> None:
    labels = [picture.label for person in wheel.people for picture in person.pictures]
    assert len(labels) == len(set(labels)) == 101
    assert [len(person.pictures) for person in wheel.people[:4]] == [4, 2, 1, 1]


def test_people_with_most_photographs_come_first_and_no_more_than_four_are_read(
    make_folder,
) -> None:
    four = "face 0, face 90, face 36, face 73"
    folder = make_folder(
        {"ann": "face 1", "bob": four, "cat": f"{four}, face 2", "d.png": "face 3"}
    )
    people = open_folder(folder).people
    assert [(person.label, len(person.pictures)) for person in people] == [
        ("bob", 4),
        ("cat", 4),
        ("ann_0001", 1),
        ("d", 1),
    ]


def test_of_a_large_folder_no_more_than_a_hundred_photographs_are_read(tmp_path) -> None:
    for number in range(MAX_PHOTOGRAPHS + 5):
        (tmp_path / f"{number}.png").write_bytes(b"any")
    people = open_folder(tmp_path).people
    assert sum(len(person.pictures) for person in people) == MAX_PHOTOGRAPHS


def test_an_empty_or_missing_folder_is_refused(tmp_path) -> None:
    with pytest.raises(RequestError, match="no photograph in"):
        open_folder(tmp_path)
    with pytest.raises(RequestError, match="is not a folder"):
        open_folder(tmp_path / "missing")


def test_a_retake_of_a_rotated_photograph_is_upright() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    sideways = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(sideways, "JPEG", exif=exif)
    again = retake(Picture("sideways", sideways.getvalue()), 1)
    with Image.open(io.BytesIO(again.data)) as image:
        assert image.height > image.width
    assert encode_png(pixels[:, :, 0])


ON = date(2026, 11, 24)


def is_well_formed(document: Document) -> bool:
    return check_document(document, ON).is_well_formed


@given(st.integers(0, 10_000_009))
def test_made_documents_are_well_formed_and_forged_ones_are_not(serial: int) -> None:
    assert is_well_formed(make_document(serial, "Synthetic"))
    assert not is_well_formed(forge_document(serial, "Synthetic"))


@given(st.sets(st.integers(0, 10_000_009), min_size=2, max_size=50))
def test_no_two_serials_share_a_number(serials: set[int]) -> None:
    assert len({make_document(serial, "Synthetic").number for serial in serials}) == len(serials)


@given(st.integers(0, 10_000_009))
def test_no_number_can_be_a_living_persons(serial: int) -> None:
    assert int(make_document(serial, "Synthetic").number[6:10]) < 1850
