from __future__ import annotations

from typing import Any

import pytest

from engine.errors import RequestError
from serving.demo.data import Album, Picture, Source
from serving.demo.scenario import choose_cast

VERIFY = 0.44


def find(wheel: Any, *labels: str) -> tuple[Picture, ...]:
    pictures = {picture.label: picture for album in wheel.albums for picture in album.pictures}
    return tuple(pictures[label] for label in labels)


def test_one_person_under_two_labels_is_cast_once(wheel: Any, extractor: Any) -> None:
    source = Source(
        "test",
        (
            Album("first", find(wheel, "face 0", "face 90")),
            Album("the same", find(wheel, "face 36", "face 73")),
            Album("second", find(wheel, "face 3")),
            Album("third", find(wheel, "astronaut")),
        ),
    )
    cast = choose_cast(source, extractor, VERIFY)
    assert [person.label for person in cast.people] == ["first", "second", "third"]


def test_missing_photographs_are_made_and_fit(wheel: Any, extractor: Any) -> None:
    source = Source(
        "test",
        tuple(Album(label, find(wheel, label)) for label in ("face 0", "face 3", "astronaut")),
    )
    cast = choose_cast(source, extractor, VERIFY)
    assert [len(person.pictures) for person in cast.people] == [4, 2, 2]
    for person in cast.people:
        assert [picture.is_made for picture in person.pictures][:2] == [False, True]
        extracted = extractor.extract([picture.data for picture in person.pictures])
        assert all(one.problems == () for one in extracted)
        assert all(one.vector @ extracted[0].vector > VERIFY for one in extracted)


def test_unfit_photographs_are_counted_and_not_cast(wheel: Any, extractor: Any) -> None:
    (empty,) = find(wheel, "face 30")
    source = Source(
        "test",
        (
            Album("broken", (Picture("broken", b""),)),
            Album("nobody", (empty,)),
            Album("astronaut", find(wheel, "astronaut")),
        ),
    )
    with pytest.raises(RequestError, match="1 of 3 photographs are fit, people found: 1"):
        choose_cast(source, extractor, VERIFY)
