"""A done sweep read again: groups a page at a time, a document with the face of its reference."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import NotFound, RegistryError
from engine.registry.cases import CropRecord
from engine.registry.database import new_id
from engine.registry.enrollments import EnrollmentRecord
from engine.sweeps.folder import GroupFile, write_groups
from engine.sweeps.outputs import gather_faces
from schema.reasons import Decision
from schema.sweeps import Group, GroupKind, Identity, LineFact, Link, RiskTerm
from tests.engine.records import ENTRY, make_crop, make_group
from tests.engine.registry.conftest import enroll

__all__ = ["enroll"]


def again(first: EnrollmentRecord, minutes: int, decision: Decision) -> EnrollmentRecord:
    """Another attempt under the same document, `minutes` later."""
    at = first.created_at + timedelta(minutes=minutes)
    return replace(first, id=new_id(), decision=decision.value, created_at=at)


def crops_of(attempt: EnrollmentRecord, name: str) -> list[CropRecord]:
    given = {"document_id": attempt.document_id, "received_at": attempt.created_at}
    return [
        make_crop(attempt.id, photograph, image=f"{name}.{photograph}".encode(), **given)
        for photograph in ("live", "portrait")
    ]


def test_the_face_of_the_reference_is_shown_else_the_newest_that_was_not_refused(
    store, writer, enroll
) -> None:
    changes = enroll(writer, 3)
    writer.commit(changes)
    one, two, three = changes.enrollments
    review, refused = again(one, 1, Decision.REVIEW), again(one, 2, Decision.REJECTED)
    unkept = again(two, 1, Decision.APPROVED)
    kept = {"first": one, "review": review, "refused": refused, "later": unkept, "three": three}
    crops = [crop for name, attempt in kept.items() for crop in crops_of(attempt, name)]
    writer.commit([ENTRY, review, refused, unkept, *crops])
    asked = [three.document_id, two.document_id, one.document_id, new_id()]
    assert gather_faces(store, asked) == {
        one.document_id: b"first.live",
        two.document_id: b"later.live",
        three.document_id: b"three.live",
    }


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scores = st.floats(-1, 1, allow_nan=False)
moments = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
links = st.builds(Link, texts, texts, scores)
identities = st.builds(
    Identity,
    texts,
    st.lists(st.integers(0, 2**62), max_size=3).map(tuple),
    st.lists(st.builds(LineFact, texts, texts, texts, moments, texts), max_size=3).map(tuple),
    st.integers(0, 9),
)
groups = st.builds(
    Group,
    key=st.uuids().map(str),
    kind=st.sampled_from(GroupKind),
    identities=st.lists(identities, max_size=3).map(tuple),
    links=st.lists(links, max_size=3).map(tuple),
    weakest=st.none() | links,
    risk=st.floats(0, 100),
    terms=st.lists(st.builds(RiskTerm, texts, scores, scores), max_size=3).map(tuple),
    severed=st.lists(links, max_size=2).map(tuple),
)


def named(key: str) -> Group:
    opened_at = datetime(2024, 5, 6, 7, 8, 9, 10, timezone(timedelta(hours=9)))
    lines = (LineFact("1", "北", "<b>\u202e", opened_at, "active"),)
    people = Identity("a", (1, 2), lines, 1), Identity("b", (3,))
    terms = (RiskTerm("identities", 2.0, 12.0),)
    return make_group(key, *people, links=(Link("a", "b", 0.7),), risk=12.5, terms=terms)


def write(tmp_path: Path) -> GroupFile:
    path = tmp_path / "groups.json"
    write_groups(path, [named(f"g{number}") for number in range(5)])
    return GroupFile.open(path)


@settings(max_examples=50)
@given(st.lists(groups, max_size=5, unique_by=lambda group: group.key))
def test_groups_are_read_as_they_were_written(tmp_path_factory, written: list[Group]) -> None:
    path = tmp_path_factory.mktemp("sweep") / "groups.json"
    write_groups(path, written)
    file = GroupFile.open(path)
    assert file.page(100) == written
    assert [file.group(key) for key in file.offsets] == written
    assert [group["key"] for group in json.loads(path.read_bytes())["groups"]] == list(file.offsets)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_pages_follow_one_another_without_gap_or_overlap(tmp_path, size: int) -> None:
    file = write(tmp_path)
    read: list[str] = []
    while page := file.page(size, len(read)):
        assert len(page) <= size
        read.extend(group.key for group in page)
    assert read == ["g0", "g1", "g2", "g3", "g4"]
    assert len(file) == 5


def test_a_key_of_no_group_is_not_found(tmp_path) -> None:
    file = write(tmp_path)
    with pytest.raises(NotFound):
        file.group("g9")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, share: float) -> None:
    write(tmp_path)
    path = tmp_path / "groups.json"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(RegistryError, match="sweep again"):
        GroupFile.open(path)


def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(RegistryError, match="sweep again"):
        GroupFile.open(tmp_path / "groups.json")


def test_a_line_overwritten_later_is_refused(tmp_path) -> None:
    file = write(tmp_path)
    path = tmp_path / "groups.json"
    path.write_bytes(path.read_bytes().replace(b'"key":"g2"', b'"kez":"g2"'))
    assert file.group("g1").key == "g1"
    with pytest.raises(RegistryError):
        file.group("g2")
