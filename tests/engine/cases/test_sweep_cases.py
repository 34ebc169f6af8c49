"""Cases for the groups of a sweep: one for each face, and none of what people have decided."""

from itertools import combinations

from engine.cases.decided import open_sweep_cases
from schema.cases import CaseKind, CaseOrigin, Outcome
from schema.sweeps import Group, GroupKind, Identity, Link
from tests.engine.records import make_group, newest_cases

ANNA = "key:anna"


def group_of(
    kind: GroupKind, key: str, *document_ids: str, score: float = 0.7, risk: float = 10.0
) -> Group:
    """Everybody linked to everybody, where the kind has links."""
    names = sorted(document_ids)
    is_linked = kind is GroupKind.ONE_FACE
    links = tuple(Link(*pair, score) for pair in combinations(names, 2) if is_linked)
    people = (Identity(name, (1,)) for name in names)
    return make_group(key, *people, kind=kind, links=links, risk=risk)


def test_each_group_of_a_sweep_has_a_case_and_overlapping_ones_share_it(service) -> None:
    sweep = service.store_sweep(0.6)
    known = service.open("e")
    groups = [
        group_of(GroupKind.ONE_FACE, "k1", "a", "b", score=0.8, risk=42.5),
        group_of(GroupKind.ONE_FACE, "k2", "c", "d", "e"),
        group_of(GroupKind.RESALE_RING, "k3", "f", "g", "h"),
        group_of(GroupKind.ONE_DOCUMENT, "k4", "b"),
    ]
    cases = open_sweep_cases(*service.context, sweep, groups, ANNA)
    assert cases["k2"] == known.id
    assert cases["k1"] == cases["k4"]
    assert len(set(cases.values())) == 3
    first = service.store.cases.get(cases["k1"])
    assert (first.kind, first.origin, first.sweep_id) == (
        CaseKind.ONE_FACE,
        CaseOrigin.SWEEP,
        sweep,
    )
    assert (first.score, first.suspect_ids, first.document_ids) == (0.8, ("a", "b"), ("a", "b"))
    # Those whose lines changed hands may be people who were wronged.
    assert service.store.cases.get(cases["k3"]).suspect_ids == ()
    assert set(service.store.cases.get(known.id).document_ids) == {"c", "d", "e"}


def test_a_sweep_reported_twice_opens_nothing_twice(service) -> None:
    sweep = service.store_sweep(0.6)
    groups = [group_of(GroupKind.ONE_FACE, f"k{n}", f"a{n}", f"b{n}") for n in range(230)]
    first = open_sweep_cases(*service.context, sweep, groups[:150], ANNA)
    head = service.store.audit_head()[0]
    again = open_sweep_cases(*service.context, sweep, groups, ANNA)
    assert {key: again[key] for key in first} == first
    assert len(set(again.values())) == 230
    assert service.store.audit_head()[0] - head == 80
    later = service.store_sweep(0.6)
    assert open_sweep_cases(*service.context, later, groups, ANNA) == again
    assert service.store.cases.get(again["k0"]).sweep_id == later


def test_judged_pairs_open_no_case_again(service, make_pair) -> None:
    one, two = make_pair()
    documents = (one.document_id, two.document_id)
    (third,) = service.enroll(1)
    sweep = service.store_sweep(0.5)
    pair = group_of(GroupKind.ONE_FACE, "k1", *documents)
    ring = group_of(GroupKind.RESALE_RING, "k2", "x", "y")
    cases = open_sweep_cases(*service.context, sweep, [pair, ring], ANNA)
    for case_id in cases.values():
        service.decide(case_id, Outcome.TWINS)
    later = service.store_sweep(0.5)
    assert open_sweep_cases(*service.context, later, [pair, ring], ANNA) == cases
    judged = group_of(GroupKind.ONE_FACE, "k3", *documents)
    assert open_sweep_cases(*service.context, later, [judged], ANNA) == {}
    assert newest_cases(service.store.cases) == []
    grown = group_of(GroupKind.ONE_FACE, "k4", *documents, third.document_id)
    (opened,) = open_sweep_cases(*service.context, later, [grown], ANNA).values()
    assert set(service.store.cases.get(opened).document_ids) == {*documents, third.document_id}


def test_a_later_group_that_joins_earlier_ones_merges_their_cases(service) -> None:
    sweep = service.store_sweep(0.6)
    groups = [group_of(GroupKind.ONE_FACE, f"k{n}", f"a{n}", f"b{n}") for n in range(120)] + [
        group_of(GroupKind.ONE_FACE, "last", "a0", "a119")
    ]
    cases = open_sweep_cases(*service.context, sweep, groups, ANNA)
    assert cases["k0"] == cases["k119"] == cases["last"]
    assert {case.id for case in newest_cases(service.store.cases, limit=500)} == set(cases.values())
