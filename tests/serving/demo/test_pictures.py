from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.reasons import Reason
from serving.demo.pictures import Picture, blur, encode_png, enlarge, take_again


@pytest.fixture(scope="module")
def astronaut(wheel: Any) -> Picture:
    found: Picture = next(album.pictures[0] for album in wheel.albums if album.label == "astronaut")
    return found


def test_an_enlarged_picture_has_each_side_as_many_times_as_long() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with Image.open(io.BytesIO(enlarge(grey, 6))) as image:
        assert image.size == (24, 18)


def test_a_photograph_taken_again_is_another_picture_of_the_same_face(
    astronaut: Picture, extractor: Any
) -> None:
    again = [take_again(astronaut, serial) for serial in (1, 2, 3)]
    assert all(one.is_made for one in again)
    assert len({one.data for one in again} | {astronaut.data}) == 4
    extracted = extractor.extract([astronaut.data, *(one.data for one in again)])
    scores = [float(one.vector @ extracted[0].vector) for one in extracted[1:]]
    assert all(0.7 < score < 0.999 for score in scores)


def test_a_blurred_photograph_is_refused_by_quality(astronaut: Picture, extractor: Any) -> None:
    (sharp,) = extractor.extract([astronaut.data])
    blurred = blur(replace(astronaut, inter_eye_px=sharp.quality.inter_eye_px))
    (seen,) = extractor.extract([blurred.data])
    assert sharp.problems == ()
    assert seen.problems == (Reason.BLURRED,)
    assert blurred.is_made


def test_a_rotated_photograph_is_taken_again_upright() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    sideways = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(sideways, "JPEG", exif=exif)
    again = take_again(Picture("sideways", sideways.getvalue()), 1)
    with Image.open(io.BytesIO(again.data)) as image:
        assert image.height > image.width
    assert encode_png(pixels[:, :, 0])
