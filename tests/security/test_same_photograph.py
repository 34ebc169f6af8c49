"""One picture given as both photographs: whoever has a portrait's file needs no living face."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from tests.security.costly_files import write


def crop(picture: Image.Image) -> Image.Image:
    return picture.crop((20, 0, picture.width - 20, picture.height - 60))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "the same bytes": lambda it: write(it, "JPEG", quality=92),
    "the same pixels": lambda it: write(Image.open(BytesIO(write(it, "JPEG", quality=92))), "PNG"),
    "encoded anew": lambda it: write(it, "JPEG", quality=40),
    "cropped": lambda it: write(crop(it), "JPEG", quality=85),
    "another size": lambda it: write(it.resize((256, 256)), "WEBP", quality=90),
}


def enroll(service: Any, body: dict[str, Any], name: str) -> dict[str, Any]:
    shown: dict[str, Any] = service.read(service.enroll(body, name, key="b1"))
    return shown


@pytest.mark.parametrize("name", COPIES)
def test_one_picture_as_both_photographs_is_refused(
    own_service, activation, astronaut, name: str
) -> None:
    live = write(astronaut, "JPEG", quality=92)
    shown = enroll(own_service, activation(live=live, portrait=COPIES[name](astronaut)), name)
    assert (shown["decision"], [one["reason"] for one in shown["reasons"]]) == (
        "rejected",
        ["SAME_PHOTOGRAPH"],
    )
    # Nothing else is told, and nothing was compared.
    assert (shown["duplicate_search"]["ran"], shown["cases"]) == (False, [])


def test_two_pictures_of_one_person_are_two(own_service, activation) -> None:
    assert enroll(own_service, activation(), "two")["decision"] == "approved"
