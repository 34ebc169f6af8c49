from typing import Any

from serving.demo.data import Person, Picture, Source
from serving.demo.scenario import choose_participants

VERIFY = 0.44


def find(wheel: Any, *labels: str) -> tuple[Picture, ...]:
    pictures = {picture.label: picture for person in wheel.people for picture in person.pictures}
    return tuple(pictures[label] for label in labels)


def test_one_person_under_two_labels_takes_part_once(wheel, extractor) -> None:
    source = Source(
        "test",
        (
            Person("first", find(wheel, "face 0", "face 90")),
            Person("the same", find(wheel, "face 36", "face 73")),
            Person("second", find(wheel, "face 3")),
            Person("third", find(wheel, "astronaut")),
        ),
    )
    participants = choose_participants(source, extractor, VERIFY)
    assert [person.label for person in participants.people] == ["first", "second", "third"]


def test_missing_photographs_are_derived_and_fit(wheel, extractor) -> None:
    source = Source(
        "test",
        tuple(Person(label, find(wheel, label)) for label in ("face 0", "face 3", "astronaut")),
    )
    participants = choose_participants(source, extractor, VERIFY)
    assert [len(person.pictures) for person in participants.people] == [4, 2, 2]
    for person in participants.people:
        assert [picture.is_made for picture in person.pictures][:2] == [False, True]
        extracted = extractor.extract([picture.data for picture in person.pictures])
        assert all(one.problems == () for one in extracted)
        assert all(one.vector @ extracted[0].vector > VERIFY for one in extracted)
