"""What sweeps ask of many references: the right owners, lines and disputes of each."""

from dataclasses import replace

import numpy as np

from engine.registry.database import new_id, utc_now
from engine.registry.lines import LineChange
from engine.registry.references import NewReference, RemovedReference
from schema.cases import CaseState
from schema.lines import LineEventKind
from schema.sweeps import Identity, LineFact
from tests.engine.registry.conftest import ENTRY, make_case


def fact_of(line, status: str = "active") -> LineFact:
    return LineFact(line.id, line.carrier, line.outlet, line.opened_at, status)


def another_reference(writer, changes, place: int) -> NewReference:
    """One more of the document at this place."""
    return replace(
        changes.references[place],
        id=writer.next_reference_id(),
        sequence=changes.references[-1].sequence,
    )


def test_identities_have_the_references_asked_all_lines_and_open_disputes(
    store, writer, enroll
) -> None:
    changes = enroll(writer, 4)
    one, two, three, four = changes.documents
    second = another_reference(writer, changes, 0)
    later = replace(
        changes.lines[0], id=new_id(), msisdn_lookup=b"y", opened_at=utc_now(), outlet="r2"
    )
    disputes = [
        make_case(kind=kind, state=state, document_ids=(one.id,))
        for kind, state in (
            ("dispute", CaseState.ASSIGNED),
            ("dispute", CaseState.CLOSED),
            ("duplicate_identity", CaseState.OPEN),
        )
    ]
    writer.commit([*changes, second, later, *disputes])
    removed = changes.references[2].id
    writer.commit(
        [
            ENTRY,
            RemovedReference(removed, 5),
            LineChange([changes.lines[1].id], LineEventKind.CLOSED, "test", "test"),
        ]
    )
    keys = [reference.id for reference in changes.references]
    asked = [second.id, keys[1], keys[0], removed, 10**6, keys[1]]
    assert store.facts.identities_of(asked) == [
        Identity(
            one.id, (keys[0], second.id), (fact_of(changes.lines[0]), fact_of(later)), disputes=1
        ),
        Identity(two.id, (keys[1],), (fact_of(changes.lines[1], "closed"),)),
    ]
    assert store.facts.identities_of([second.id])[0].reference_ids == (second.id,)
    assert store.facts.identities_of([]) == []
    assert {three.id, four.id}.isdisjoint(
        one.document_id for one in store.facts.identities_of(asked)
    )


def test_owners_are_of_every_live_reference_ascending_whatever_the_page(
    store, writer, enroll, monkeypatch
) -> None:
    empty = store.facts.document_owner_array()
    assert [part.dtype for part in empty] == [np.int64, np.int64]
    assert [len(part) for part in empty] == [0, 0]
    changes = enroll(writer, 7)
    extra = [another_reference(writer, changes, place) for place in (3, 0)]
    writer.commit([*changes, *extra])
    gone = changes.references[4].id
    writer.commit([ENTRY, RemovedReference(gone, 8)])
    for page in (1, 3, 8, 50_000):
        monkeypatch.setattr("engine.registry.sweeps.OWNERS_PER_PAGE", page)
        ids, numbers = store.facts.document_owner_array()
        assert ids.tolist() == sorted({*range(1, 10)} - {gone})
        owners = store.documents_of(ids.tolist())
        told = list(zip(ids.tolist(), numbers.tolist(), strict=True))
        for left, one in told:
            for right, other in told:
                assert (one == other) == (owners[left] == owners[right])
