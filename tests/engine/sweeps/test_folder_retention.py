"""Groups after an erasure: the remaining members keep their links and their key."""

from itertools import combinations

from engine.sweeps.groups import make_group, without_documents
from schema.sweeps import Group, GroupKind, Identity, Link

THRESHOLD = 0.6


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
