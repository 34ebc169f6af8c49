"""Documents that many tried, and lines that changed face."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from engine.sweeps.model import GroupKind, Identity, LineFact
from engine.sweeps.rings import (
    ChangedLine,
    ForeignAttempt,
    groups_of_documents,
    groups_of_lines,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def attempt(document: str, day: int = 0, outlet: str = "shop") -> ForeignAttempt:
    return ForeignAttempt(document, "A", outlet, START + timedelta(days=day))


def changed(line: str, document: str, day: float = 0, outlet: str = "shop") -> ChangedLine:
    return ChangedLine(line, document, "A", outlet, START + timedelta(days=day))


def holders(*lines: ChangedLine) -> dict[str, Identity]:
    """Everybody with the lines given, and one more that did not change."""
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(line.document_id, []).append(line.line_id)
    return {
        key: Identity(
            key,
            (number,),
            tuple(LineFact(name, "A", "shop", START, "active") for name in [*names, f"own-{key}"]),
        )
        for number, (key, names) in enumerate(found.items())
    }


def test_a_document_that_foreign_faces_tried_twice_is_a_group() -> None:
    identities = {"a": Identity("a", (1,)), "b": Identity("b", (2,))}
    tried = [attempt("a"), attempt("b"), attempt("a", 3, "other"), attempt("gone"), attempt("gone")]
    (group,) = groups_of_documents(tried, identities)
    assert group.kind is GroupKind.ONE_DOCUMENT
    assert [one.document_id for one in group.identities] == ["a"]
    values = {term.name: term.value for term in group.terms}
    assert (values["attempts"], values["outlets"], values["burst"]) == (2, 2, 2)
    assert (group.links, group.weakest) == ((), None)


def test_documents_tried_most_come_first() -> None:
    identities = {key: Identity(key, (number,)) for number, key in enumerate("abc")}
    tried = [attempt(key) for key in "aabbbbbccc"]
    assert [
        group.identities[0].document_id for group in groups_of_documents(tried, identities)
    ] == [
        "b",
        "c",
        "a",
    ]


def test_three_lines_of_one_outlet_that_changed_face_in_a_month_are_a_ring() -> None:
    lines = [changed("1", "a"), changed("2", "b", 10), changed("3", "c", 29)]
    (group,) = groups_of_lines(lines, holders(*lines))
    assert group.kind is GroupKind.RESALE_RING
    assert [one.document_id for one in group.identities] == ["a", "b", "c"]
    # The holders' other lines are not part of it.
    assert [line.line_id for one in group.identities for line in one.lines] == ["1", "2", "3"]
    assert groups_of_lines(lines[:2], holders(*lines)) == []


def test_lines_of_one_holder_at_several_outlets_join_what_the_outlets_opened() -> None:
    lines = [
        changed("1", "a", 0, "one"),
        changed("2", "a", 1, "two"),
        changed("3", "b", 2, "two"),
        changed("4", "c", 3, "three"),
    ]
    (group,) = groups_of_lines(lines, holders(*lines))
    assert [line.line_id for one in group.identities for line in one.lines] == ["1", "2", "3"]


def test_a_change_a_fortnight_for_years_is_not_one_ring() -> None:
    lines = [changed(f"{i}", f"d{i}", 14 * i) for i in range(50)]
    groups = groups_of_lines(lines, holders(*lines))
    assert all(len(group.identities) <= 3 for group in groups)


def test_two_rings_of_one_holder_are_two_groups_with_keys_of_their_own() -> None:
    lines = [changed(f"{i}", "a", 0 if i < 3 else 300) for i in range(6)]
    one, other = groups_of_lines(lines, holders(*lines))
    assert one.identities[0].document_id == other.identities[0].document_id == "a"
    assert one.key != other.key


def test_a_line_counts_once_by_its_last_change() -> None:
    lines = [changed("1", "a"), changed("1", "a", 5), changed("1", "a", 9), changed("2", "b")]
    assert groups_of_lines(lines, holders(*lines)) == []


def test_lines_and_documents_that_are_gone_are_left_out() -> None:
    lines = [changed(f"{i}", f"d{i}") for i in range(4)]
    identities = holders(*lines)
    del identities["d0"]
    (group,) = groups_of_lines([*lines, changed("closed", "d1")], identities)
    assert [one.document_id for one in group.identities] == ["d1", "d2", "d3"]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 90), st.sampled_from("xyz")), max_size=12
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_changes_does_not_matter(rows: list[tuple[str, int, str]], random) -> None:  # type: ignore[no-untyped-def]
    lines = [changed(f"{i:02d}", *row) for i, row in enumerate(rows)]
    expected = groups_of_lines(lines, holders(*lines))
    shuffled = random.sample(lines, len(lines))
    again = groups_of_lines(shuffled, holders(*lines))
    assert [(group.key, group.risk) for group in again] == [
        (group.key, group.risk) for group in expected
    ]
