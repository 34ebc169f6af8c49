"""Groups: documents with one face, documents tried by many faces, resale rings."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.sweeps.clustering import Owners
from engine.sweeps.groups import (
    FaceFacts,
    ForeignFace,
    find_weakest,
    group_faces,
    group_key,
    groups_of_documents,
    groups_of_lines,
    make_group,
    without_documents,
)
from engine.sweeps.sweep_run import number_exceptions
from indexes.joining import RECORD, Records
from schema.sweeps import Group, GroupKind, Identity, LineFact, Link

THRESHOLD = 0.6


def list_facts(identities: Sequence[Identity], judged: Iterable[tuple[str, str]] = ()) -> FaceFacts:
    """Facts without a registry."""
    references = {one.document_id: one.reference_ids for one in identities}
    owners = Owners.numbered([references[key] for key in sorted(references)])

    def identities_of(reference_ids: Sequence[int]) -> list[Identity]:
        return [one for one in identities if not set(reference_ids).isdisjoint(one.reference_ids)]

    return FaceFacts(owners, number_exceptions(judged, references, owners), identities_of)


def identity(number: int, *more: int) -> Identity:
    """The document of reference `number` and others."""
    return Identity(f"doc-{number:03d}", (number, *more))


def pairs(scores: dict[tuple[int, int], float]) -> Records:
    return np.array([(*ends, score) for ends, score in scores.items()], RECORD)


def ids(group: Group) -> list[str]:
    return [one.document_id for one in group.identities]


def test_a_group_names_its_documents_links_and_weakest_link() -> None:
    facts = list_facts([identity(number) for number in range(5)])
    scores = {(1, 2): 0.9, (2, 3): 0.8, (1, 3): 0.7}
    (group,) = group_faces(pairs(scores), THRESHOLD, facts)
    assert group.kind is GroupKind.ONE_FACE
    assert ids(group) == ["doc-001", "doc-002", "doc-003"]
    assert [(link.left, link.right) for link in group.links] == [
        ("doc-001", "doc-002"),
        ("doc-002", "doc-003"),
        ("doc-001", "doc-003"),
    ]
    # Without 2-3 the third still hangs on 1-3, but only by the lesser score.
    assert group.weakest == group.links[1]
    assert group.key == group_key(GroupKind.ONE_FACE, ids(group))
    assert group.risk == sum(term.points for term in group.terms)


def test_a_severed_link_is_shown_with_the_group_and_not_followed() -> None:
    facts = list_facts([identity(number) for number in range(4)])
    (group,) = group_faces(pairs({(1, 2): 0.9, (2, 3): 0.8}), THRESHOLD, facts)
    assert ids(group) == ["doc-001", "doc-002"]
    assert [(link.left, link.right) for link in group.severed] == [("doc-002", "doc-003")]


def test_judged_pairs_are_not_linked_and_make_no_group() -> None:
    people = [identity(number) for number in range(4)]
    twins = frozenset({("doc-001", "doc-002")})
    assert group_faces(pairs({(1, 2): 0.9}), THRESHOLD, list_facts(people, twins)) == []
    scores = {(1, 2): 0.95, (2, 3): 0.9, (1, 3): 0.8}
    (group,) = group_faces(pairs(scores), THRESHOLD, list_facts(people, twins))
    # Nobody is both of two persons.
    assert ids(group) == ["doc-002", "doc-003"]


def test_a_document_erased_meanwhile_holds_no_group_together() -> None:
    known = list_facts([identity(number) for number in range(6)])
    facts = replace(
        known,
        identities_of=lambda references: [
            one for one in known.identities_of(references) if one.document_id != "doc-002"
        ],
    )
    scores = {(1, 2): 0.9, (2, 3): 0.9, (1, 3): 0.7, (2, 4): 0.8, (3, 5): 0.65}
    (group,) = group_faces(pairs(scores), THRESHOLD, facts)
    assert ids(group) == ["doc-001", "doc-003"]
    assert group_faces(pairs({(1, 2): 0.9}), THRESHOLD, facts) == []


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 13), st.integers(0, 13)).filter(lambda pair: pair[0] < pair[1]),
        st.sampled_from([0.61, 0.7, 0.8, 0.9]),
        max_size=30,
    ),
    st.sets(st.integers(0, 13), max_size=4),
)
def test_fresh_groups_are_those_of_all_groups_with_a_fresh_link(
    scores: dict[tuple[int, int], float], fresh: set[int]
) -> None:
    facts = list_facts([identity(number) for number in range(14)])
    names = {f"doc-{number:03d}" for number in fresh}
    expected = [
        group
        for group in group_faces(pairs(scores), THRESHOLD, facts)
        if any({link.left, link.right} & names for link in group.links)
    ]
    found = group_faces(pairs(scores), THRESHOLD, facts, fresh=np.array(sorted(fresh), np.int64))
    assert found == expected


@given(st.permutations(range(12)), st.permutations(range(12)))
def test_neither_the_order_of_pairs_nor_the_numbers_of_documents_change_a_group(
    order: list[int], listing: list[int]
) -> None:
    rings = [range(4), range(4, 6), range(6, 12)]
    scores = {
        pair: 0.61 + 0.3 * ((7 * pair[0] + 5 * pair[1]) % 11) / 11
        for ring in rings
        for pair in combinations(ring, 2)
    }
    people = [identity(number) for number in range(12)]
    expected = group_faces(pairs(scores), THRESHOLD, list_facts(people))
    assert [len(group.identities) for group in expected] == [6, 4, 2]
    rows = sorted(scores.items(), key=lambda item: order[item[0][0]] * 12 + order[item[0][1]])
    facts = list_facts([people[number] for number in listing])
    assert group_faces(pairs(dict(rows)), THRESHOLD, facts) == expected


def test_a_key_depends_only_on_kind_and_members() -> None:
    key = group_key(GroupKind.ONE_FACE, ["a", "b"])
    assert key == group_key(GroupKind.ONE_FACE, ["b", "a"])
    assert len(key) == 32
    others = {
        group_key(GroupKind.RESALE_RING, ["a", "b"]),
        group_key(GroupKind.ONE_FACE, ["a", "b", "c"]),
        group_key(GroupKind.ONE_FACE, ["a"], ["b"]),
    }
    assert len(others | {key}) == 4


@given(
    st.dictionaries(
        st.sampled_from(list(combinations("abcdef", 2))), st.sampled_from([0.6, 0.7, 0.8, 0.9])
    )
)
def test_without_links_below_the_weakest_a_group_holds_and_without_it_too_it_falls_apart(
    scores: dict[tuple[str, str], float],
) -> None:
    links = [Link(left, right, score) for (left, right), score in scores.items()]
    weakest = find_weakest(links)
    assert (weakest is None) == (not links)
    if weakest is None:
        return
    above = [link for link in links if link.score > weakest.score]
    level = [link for link in links if link.score >= weakest.score]
    assert count_parts(links, level) == count_parts(links, links)
    assert count_parts(links, above) > count_parts(links, links)


def count_parts(everyone: Sequence[Link], links: Sequence[Link]) -> int:
    parts = [{key} for key in {key for link in everyone for key in (link.left, link.right)}]
    for link in links:
        touched = [part for part in parts if link.left in part or link.right in part]
        parts = [part for part in parts if part not in touched]
        parts.append(set().union(*touched))
    return len(parts)


START = datetime(2026, 1, 1, tzinfo=UTC)


def attempt(document: str, day: int = 0, outlet: str = "shop") -> ForeignFace:
    return ForeignFace(document, "A", outlet, START + timedelta(days=day))


def changed(line: str, document: str, day: float = 0, outlet: str = "shop") -> ForeignFace:
    return ForeignFace(document, "A", outlet, START + timedelta(days=day), line)


def holders(*lines: ForeignFace) -> dict[str, Identity]:
    """Holders of these lines, each with one more line that did not change."""
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
    ] == ["b", "c", "a"]


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


def test_changes_every_two_weeks_for_years_are_not_one_ring() -> None:
    lines = [changed(f"{i}", f"d{i}", 14 * i) for i in range(50)]
    groups = groups_of_lines(lines, holders(*lines))
    assert all(len(group.identities) <= 3 for group in groups)


def test_two_rings_of_one_holder_are_two_groups_with_different_keys() -> None:
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


def ring(*names: str, severed: tuple[Link, ...] = ()) -> Group:
    """A group with links between all members, the later ones weaker."""
    links = [
        Link(left, right, 0.9 - 0.01 * place)
        for place, (left, right) in enumerate(combinations(names, 2))
    ]
    return make_group("key", [Identity(name, (1,)) for name in names], links, severed, THRESHOLD)


def test_remaining_members_are_a_group_under_the_same_key_with_a_new_risk() -> None:
    outside = (Link("b", "x", 0.7), Link("c", "y", 0.65))
    whole = ring("a", "b", "c", severed=outside)
    (left,) = without_documents([whole], {"a", "y"}, THRESHOLD)
    assert [one.document_id for one in left.identities] == ["b", "c"]
    assert left.links == (Link("b", "c", 0.88),)
    assert left.weakest == left.links[0]
    assert left.severed == outside[:1]
    assert left.key == whole.key
    assert left.risk < whole.risk


def test_a_single_remaining_member_is_no_group() -> None:
    assert list(without_documents([ring("a", "b")], {"b"}, THRESHOLD)) == []


def test_a_group_without_links_is_removed_with_its_last_document() -> None:
    def resale(*names: str) -> Group:
        people = tuple(Identity(name, (1,)) for name in names)
        return Group(
            key="r", kind=GroupKind.RESALE_RING, identities=people, links=(), weakest=None,
            risk=20.0, terms=(),
        )  # fmt: skip

    (left,) = without_documents([resale("a", "b"), resale("a")], {"a"}, THRESHOLD)
    assert [one.document_id for one in left.identities] == ["b"]
