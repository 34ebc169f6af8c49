"""Cases with their history, judged pairs, crops and sweeps."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from engine.errors import NotFound, StorageFailed
from engine.registry.cases import AddedNote, CaseChange, CaseRecord, CropRecord
from engine.registry.database import changing, new_id, utc_now
from engine.registry.lines import LineChange
from engine.registry.queues import CaseFilter, CasePlaces, risk_of
from engine.registry.references import NewReference, RemovedReference
from engine.registry.sweeps import SweepChange
from schema.cases import (
    ALIVE,
    CaseKind,
    CaseNote,
    CaseOrigin,
    CaseSort,
    CaseState,
    DueDates,
    NoteKind,
    Outcome,
    Proposal,
)
from schema.lines import LineEventKind, LineStatus
from schema.sweeps import SweepProgress, SweepScope, SweepState, SweepTerms
from tests.engine.records import (
    IMAGE,
    NOW,
    make_case,
    make_crop,
    make_pair,
    make_sweep,
    newest_cases,
)
from tests.engine.registry.conftest import ENTRY, Writes, committed, erasure
from tests.tables import tables

DAY = timedelta(days=1)


def status_of(store, line_id: str) -> LineStatus:
    return store.lines_by_id([line_id])[line_id].status


def test_a_case_is_read_as_it_was_written(store, writer, enroll, commit) -> None:
    enrolled = committed(writer, enroll(writer, 2))
    now = utc_now()
    ids = tuple(document.id for document in enrolled.documents)
    proposal = Proposal(outcome=Outcome.FRAUD, close_lines=(enrolled.lines[0].id,), by="a", at=now)
    case = make_case(
        enrollment_id=enrolled.enrollments[0].id,
        document_ids=ids,
        suspect_ids=ids[:1],
        line_id=enrolled.lines[0].id,
        line_ids=tuple(line.id for line in enrolled.lines),
        score=0.512345678901234,
        risk=71.5,
        group_key="f" * 32,
        state=CaseState.PROPOSED,
        assignee="key:anna",
        proposal=proposal,
    )
    commit(case)
    assert store.cases.get(case.id) == case
    closed = replace(case, state=CaseState.CLOSED, outcome=Outcome.FRAUD, closed_at=now)
    commit(CaseChange(closed))
    assert store.cases.get(case.id) == closed
    for unknown in (new_id(), "no id", ""):
        with pytest.raises(NotFound):
            store.cases.get(unknown)


def test_a_change_of_a_case_that_is_not_there_keeps_nothing(store, writer, commit) -> None:
    with pytest.raises(StorageFailed):
        commit(make_case(), CaseChange(make_case()))
    assert newest_cases(store.cases, None) == []


def test_cases_are_listed_newest_first_by_state_kind_and_assignee(store, commit) -> None:
    now = utc_now()
    states = [CaseState.OPEN, CaseState.CLOSED, CaseState.OPEN, CaseState.ASSIGNED]
    cases = [
        make_case(state=state, opened_at=now + timedelta(seconds=place), kind=kind, assignee=who)
        for place, (state, kind, who) in enumerate(
            zip(states, ["a", "a", "b", "b"], [None, "anna", None, "anna"], strict=True)
        )
    ]
    commit(*cases)
    assert newest_cases(store.cases) == [cases[2], cases[0]]
    assert newest_cases(store.cases, ALIVE) == [cases[3], cases[2], cases[0]]
    assert newest_cases(store.cases, None, limit=2) == [cases[3], cases[2]]
    of_kind, of_anna = CaseFilter(kind="a"), CaseFilter(assignees=("anna",), kind="b")
    assert store.cases.queue(of_kind, CaseSort.NEWEST) == [cases[1], cases[0]]
    assert store.cases.queue(of_anna, CaseSort.NEWEST) == [cases[3]]


def test_nobody_is_asked_to_approve_what_they_proposed_however_their_name_is_written(
    store, commit
) -> None:
    proposed = {
        by: make_case(
            state=CaseState.PROPOSED,
            proposal=Proposal(
                outcome=Outcome.TWINS, close_lines=(), by=by, person=by, at=utc_now()
            ),
        )
        for by in ("Anna  Lee", "\uff22o")
    }
    commit(*proposed.values())
    for names, others in {
        ("anna lee", "key:1"): ["\uff22o"],
        ("BO",): ["Anna  Lee"],
        ("anna",): ["Anna  Lee", "\uff22o"],
    }.items():
        wanted = CaseFilter(to_approve_by=names)
        found = store.cases.queue(wanted, CaseSort.OLDEST)
        assert [one.proposal.by for one in found] == others
        assert sum(store.cases.count(wanted, DueDates()).values()) == len(others)


KEYS_OF_SORTS = {
    CaseSort.NEWEST: lambda case: -case.opened_at.timestamp(),
    CaseSort.OLDEST: lambda case: case.opened_at.timestamp(),
    CaseSort.RISK: lambda case: -risk_of(case),
    CaseSort.SCORE: lambda case: -(-1 if case.score is None else case.score),
    CaseSort.DUE: lambda case: DueDates().of(case.kind, case.opened_at),
}
CASES = st.builds(
    dict,
    kind=st.sampled_from([*CaseKind, "of another version"]),
    opened_at=st.integers(0, 90).map(lambda day: datetime(2026, 1, 1, tzinfo=UTC) + day * DAY),
    risk=st.none() | st.floats(0, 100, width=32),
    score=st.none() | st.floats(-1, 1),
)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(page=st.integers(1, 9), cases=st.lists(CASES, min_size=1, max_size=20))
def test_pages_after_one_another_are_the_whole_queue_in_every_order(
    store, commit, page, cases
) -> None:
    commit(*[make_case(**values) for values in cases])
    known = newest_cases(store.cases, None, limit=1000)
    for sort, key in KEYS_OF_SORTS.items():
        found: list[CaseRecord] = []
        while part := store.cases.queue(
            CaseFilter(), sort, limit=page, after=found[-1].id if found else None
        ):
            found += part
        assert sorted(found, key=key) == found
        are_due = sort is not CaseSort.DUE
        wanted = [one for one in known if are_due or DueDates().span(one.kind) is not None]
        assert {one.id for one in found} == {one.id for one in wanted}
        assert len(found) == len(wanted)


def test_a_queue_is_filtered_by_where_by_whose_id_and_by_what_is_overdue(
    store, writer, enroll, commit
) -> None:
    enrolled = committed(writer, enroll(writer, 2))
    documents = [document.id for document in enrolled.documents]
    now = utc_now()
    old = make_case(document_ids=tuple(documents), opened_at=now - 8 * DAY)
    fresh = make_case(enrollment_id=enrolled.enrollments[0].id, opened_at=now - 6 * DAY)
    other = make_case(kind="possible_duplicate", opened_at=now - 8 * DAY)
    closed = make_case(
        opened_at=now - 99 * DAY, state=CaseState.CLOSED, outcome=Outcome.FRAUD, closed_at=now
    )
    commit(old, fresh, other, closed)

    def found(due: DueDates | None = None, **terms: Any) -> list[CaseRecord]:
        return store.cases.queue(CaseFilter(**terms), CaseSort.NEWEST, due=due)

    line = enrolled.lines[0]
    assert found(carriers=["nobody", line.carrier]) == found(outlets=[line.outlet]) == [fresh, old]
    assert found(carriers=["nobody"]) == found(outlets=["nobody"]) == []
    assert found(id_end=other.id[-8:]) == [other]
    assert found(id_end=documents[1][-8:]) == [old]
    assert found(id_end=enrolled.enrollments[0].id[-8:]) == [fresh]
    assert found(id_end="%") == []
    assert found(overdue_at=now) == [old]
    due = DueDates({**dict.fromkeys(CaseKind, 0), CaseKind.POSSIBLE_DUPLICATE: 1})
    assert found(overdue_at=now, due=due) == [other]
    places = store.cases.places([old.id, fresh.id, other.id])
    assert (places[old.id].carriers, places[old.id].lines) == ([line.carrier], 2)
    assert (places[fresh.id].outlets, places[fresh.id].lines) == ([line.outlet], 0)
    assert places[other.id] == CasePlaces()


def test_a_page_after_no_case_is_refused(store, commit) -> None:
    commit(make_case())
    with pytest.raises(NotFound):
        newest_cases(store.cases, after=new_id())


def case_about(line_id: str, state: CaseState = CaseState.OPEN) -> CaseRecord:
    return make_case(kind="dispute", origin=CaseOrigin.DISPUTE, state=state, line_id=line_id)


def test_only_an_active_line_becomes_disputed_and_only_a_disputed_one_active_again(
    store, writer, enroll, commit
) -> None:
    changes = committed(writer, enroll(writer, 1))
    line = changes.lines[0].id
    with pytest.raises(StorageFailed):
        commit(LineChange([line], LineEventKind.RESTORED, "test", "test"))
    commit(LineChange([line], LineEventKind.DISPUTED, "test", "test"))
    with pytest.raises(StorageFailed):
        commit(LineChange([line], LineEventKind.DISPUTED, "test", "test"))
    commit(LineChange([line], LineEventKind.RESTORED, "test", "test"))
    assert status_of(store, line) is LineStatus.ACTIVE
    commit(LineChange([line], LineEventKind.CLOSED, "test", "test"))
    with pytest.raises(StorageFailed):
        commit(LineChange([line], LineEventKind.DISPUTED, "test", "test"))


@pytest.mark.parametrize("state", sorted(ALIVE))
def test_a_line_has_one_case_of_a_kind_that_is_alive(store, writer, enroll, state) -> None:
    changes = enroll(writer, 1)
    line = changes.lines[0].id
    writer.commit([*changes, case_about(line, state)])
    before = newest_cases(store.cases, None)
    with pytest.raises(StorageFailed):
        writer.commit([ENTRY, case_about(line)])
    assert newest_cases(store.cases, None) == before


def test_the_cases_that_name_a_document_are_found_however_many_others_there_are(
    store, writer, enroll
) -> None:
    changes = enroll(writer, 3)
    first, second, third = (document.id for document in changes.documents)
    now = utc_now()
    named = [(first, second), (second,), (first, third), (), (second, third)]
    states = [CaseState.OPEN, CaseState.PROPOSED, CaseState.ASSIGNED, CaseState.OPEN]
    cases = [
        make_case(state=state, document_ids=names, opened_at=now + timedelta(seconds=place))
        for place, (names, state) in enumerate(zip(named, [*states, CaseState.CLOSED], strict=True))
    ]
    others = [make_case(document_ids=(new_id(),), opened_at=now) for _ in range(300)]
    writer.commit([*changes, *cases, *others])
    assert store.cases.open_of([first, second, "x"]) == {
        first: [cases[2], cases[0]],
        second: [cases[1], cases[0]],
        "x": [],
    }
    assert store.cases.open_of([]) == {}
    assert store.cases.of([second, third]) == {
        second: [cases[4], cases[1], cases[0]],
        third: [cases[4], cases[2]],
    }


def test_a_merged_case_is_seen_in_the_one_that_goes_on_however_often_that_is_merged(
    store, commit
) -> None:
    old, middle, young = (make_case(document_ids=("a",)) for _ in range(3))
    last = replace(young, state=CaseState.MERGED, merged_into=middle.id)
    # A new one that is merged at once stands before what it goes into.
    commit(last, middle, old)
    assert store.cases.merged_into(middle.id) == [last]
    commit(CaseChange(replace(middle, state=CaseState.MERGED, merged_into=old.id)))
    assert {case.id for case in store.cases.merged_into(old.id)} == {middle.id, young.id}
    assert store.cases.merged_into(middle.id) == []
    assert store.cases.open_of(["a"])["a"] == [old]
    assert store.cases.of(["a"])["a"] == [old]
    assert newest_cases(store.cases) == [old]


def test_the_case_that_a_group_went_into_is_known(store, commit) -> None:
    now = utc_now()
    decided = make_case(group_key="k1", state=CaseState.CLOSED, outcome=Outcome.MISTAKE)
    standing = make_case(group_key="k2")
    merged = make_case(group_key="k3", state=CaseState.MERGED, merged_into=standing.id)
    again = make_case(group_key="k1", opened_at=now + timedelta(days=1))
    commit(decided, standing, merged)
    assert store.cases.of_groups(["k1", "k2", "k3", "k4"]) == {
        "k1": decided,
        "k2": standing,
        "k3": standing,
    }
    commit(again)
    assert store.cases.of_groups(["k1"]) == {"k1": again}
    # What was decided before holds no more, and what holds now cannot be read.
    with changing(store.engine) as connection:
        connection.execute(
            update(tables.cases).where(tables.cases.c.id == again.id).values(score=1)
        )
    assert store.cases.of_groups(["k1", "k2"]) == {"k2": standing}


def test_a_history_is_read_in_its_order_and_its_texts_lie_sealed(store, writer, commit) -> None:
    case, other, merged = make_case(), make_case(), make_case()
    merged = replace(merged, state=CaseState.MERGED, merged_into=case.id)
    at = utc_now()
    notes = [
        CaseNote(at, "sosie", NoteKind.OPENED),
        CaseNote(at, "key:anna", NoteKind.NOTE, "Ωμέγα-王 <b>seen</b> \n 'twice'"),
        CaseNote(at, "key:bob", NoteKind.NOTE, "x" * 4000),
    ]
    texts = zip((case, merged, other), notes, strict=True)
    commit(case, other, merged, *(AddedNote(one.id, note) for one, note in texts))
    commit(AddedNote(case.id, notes[2]))
    assert store.cases.notes(case.id) == notes
    assert store.cases.notes(other.id) == notes[2:]
    assert store.cases.notes(new_id()) == []
    assert "seen" not in repr(notes)
    with store._engine.connect() as connection:
        stored = connection.scalars(select(tables.case_notes.c.text)).all()
    assert sum(text is None for text in stored) == 1
    assert not [text for text in stored if text is not None and b"seen" in text]


def test_pairs_are_read_and_the_last_verdict_stands(store, writer, enroll, commit) -> None:
    one, two, three = sorted(key.id for key in committed(writer, enroll(writer, 3)).documents)
    case = make_case()
    first = make_pair(one, two, case_id=case.id, outcome=Outcome.TWINS)
    fraud = make_pair(one, three, case_id=case.id, score=0.712345678901)
    commit(case, fraud, first)
    assert store.judged_pairs() == [first, fraud]
    assert store.judged_between([one, two]) == [first]
    again = make_pair(one, two, case_id=case.id, decided_by="key:bob")
    mistake = make_pair(two, three, case_id=case.id, outcome=Outcome.MISTAKE)
    commit(again, mistake)
    assert store.judged_pairs() == [again, fraud, mistake]


@pytest.fixture
def enrolled(writer, enroll) -> Writes:
    return committed(writer, enroll(writer, 2))


def test_crops_are_read_as_they_were_kept_while_their_time_lasts(store, writer, enrolled) -> None:
    key, other = (record.id for record in enrolled.enrollments)
    portrait, live = make_crop(key, "portrait"), make_crop(key)
    writer.commit([ENTRY, portrait, live, make_crop(key, days=-1)])
    found = [(one.id, one.image) for one in store.cases.crops(key)]
    assert found == [(one.id, one.image) for one in (live, portrait)]
    assert store.cases.crops(key)[0].kept_until == live.kept_until
    assert store.cases.crops(other) == []
    assert store.cases.crops("no id") == []
    assert "face" not in repr(live)
    with changing(store.engine) as connection:
        row = tables.crops.c.id == live.id
        stored = connection.scalar(select(tables.crops.c.image).where(row))
        assert IMAGE[4:20] not in stored
        other_row = update(tables.crops).where(tables.crops.c.id == portrait.id)
        connection.execute(other_row.values(image=stored))
    assert [one.id for one in store.cases.crops(key)] == [live.id]


@pytest.fixture
def keep(commit):
    """`keep(*sweeps)`: one transaction with them."""
    return lambda *sweeps: commit(*map(SweepChange, sweeps))


def test_a_sweep_is_read_as_it_was_written_last(store, keep) -> None:
    queued = make_sweep(terms=SweepTerms(threshold=0.5123456789012345, scope=SweepScope.NEW))
    keep(queued)
    assert store.sweeps.get(queued.id) == queued
    now = utc_now()
    done = replace(
        queued,
        state=SweepState.DONE,
        started_at=now,
        ended_at=now,
        sequence=2**40,
        progress=SweepProgress(
            comparisons=2**50, comparisons_total=2**50, pairs=7, remaining_s=0.5
        ),
        summary={"groups": 3, "by_outlet": [{"outlet": "r1", "share": 0.25}]},
    )
    other = make_sweep()
    keep(done, replace(other, state=SweepState.FAILED, fault="no room: " + "x" * 1000))
    assert store.sweeps.get(queued.id) == done
    assert store.sweeps.get(other.id).fault.startswith("no room")


def test_sweeps_are_listed_newest_first(store, keep) -> None:
    sweeps = [make_sweep(created_at=NOW + timedelta(seconds=one)) for one in (0, 2, 1)]
    keep(*sweeps)
    assert store.sweeps.newest() == [sweeps[1], sweeps[2], sweeps[0]]
    assert store.sweeps.newest(limit=1) == [sweeps[1]]


def test_the_sweep_that_was_done_last_is_known(store, keep) -> None:
    assert store.sweeps.last_done() is None
    first, second, third = (make_sweep() for _ in range(3))
    now = utc_now()
    keep(
        replace(first, state=SweepState.DONE, ended_at=now + timedelta(seconds=2)),
        replace(second, state=SweepState.DONE, ended_at=now + timedelta(seconds=1)),
        replace(third, state=SweepState.CANCELLED, ended_at=now + timedelta(seconds=3)),
    )
    assert store.sweeps.last_done().id == first.id


def hold(document_id: str, enrollment_id: str | None = None, **values) -> CropRecord:
    given = {"document_id": document_id, "received_at": NOW, "quality": {"sharpness": 200.5}}
    held = {"is_held": True, "case_days": 30}
    return make_crop(enrollment_id, days=3, **given | held | values)


def test_a_face_that_is_held_is_shown_to_nobody_until_a_case_names_its_document(
    store, writer, enrolled
) -> None:
    one, two = (record.id for record in enrolled.documents)
    attempt = enrolled.enrollments[0].id
    held, other, late = (hold(one, attempt), hold(two), hold(one, kept_until=utc_now()))
    writer.commit([ENTRY, held, other, late])
    assert store.cases.crops(attempt) == []
    assert store.cases.faces([one, two], 9) == {one: [], two: []}
    case = make_case(document_ids=(one, new_id()))
    writer.commit([ENTRY, case])
    [shown] = store.cases.crops(attempt)
    assert (shown.id, shown.image, shown.is_held) == (held.id, held.image, None)
    assert shown.kept_until > utc_now() + timedelta(days=29)
    assert store.cases.faces([two], 9) == {two: []}
    # What comes in of a document in an open case is its case's, too; not after it has ended.
    again = hold(one)
    writer.commit([ENTRY, again])
    assert again.id in {face.crop.id for face in store.cases.faces([one], 9)[one]}
    # Later on the case comes to name the other, too, with a face that the same changes bring.
    new = hold(two, is_held=None, kept_until=utc_now() + timedelta(days=1))
    grown = replace(case, document_ids=(*case.document_ids, two))
    writer.commit([ENTRY, CaseChange(grown), new])
    [first, second] = store.cases.faces([two], 9)[two]
    assert {first.crop.id, second.crop.id} == {other.id, new.id}
    assert min(one.crop.kept_until for one in (first, second)) > utc_now() + timedelta(days=29)
    ended = replace(grown, state=CaseState.CLOSED, outcome=Outcome.MISTAKE, closed_at=utc_now())
    writer.commit([ENTRY, CaseChange(ended)])
    writer.commit([ENTRY, hold(two)])
    assert len(store.cases.faces([two], 9)[two]) == 2


def test_the_faces_of_a_document_begin_with_those_of_its_reference(store, writer, enrolled) -> None:
    one, two = (record.id for record in enrolled.documents)
    later = replace(enrolled.enrollments[0], id=new_id(), decision="review")
    plain = {"is_held": None}
    mine = [
        hold(one, enrolled.enrollments[0].id, photograph=name, **plain)
        for name in ("live", "portrait")
    ]
    newest = hold(one, later.id, received_at=NOW + timedelta(days=1), **plain)
    imported = hold(two, **plain)
    crops = [newest, *reversed(mine), imported]
    writer.commit([ENTRY, later, *crops])
    found = store.cases.faces([one, two], 2)
    assert [face.crop.id for face in found[one]] == [crop.id for crop in mine]
    assert [face.is_of_reference for face in found[one]] == [True, True]
    assert found[one][0].crop.quality == {"sharpness": 200.5}
    third = store.cases.faces([one], 3)[one][2]
    assert (third.decision, third.is_of_reference) == ("review", False)
    # Its reference was made by an attempt, so this face is not the reference's.
    [face] = found[two]
    assert (face.decision, face.crop.received_at, face.is_of_reference) == (None, NOW, False)


def test_crops_of_an_import_are_of_the_one_reference_that_it_brought(
    store, writer, enrolled
) -> None:
    one = enrolled.documents[0].id

    def bring(sequence: int, *removed: Any) -> int:
        key, crop = writer.next_reference_id(), hold(one, is_held=None)
        reference = NewReference(key, one, None, enrolled.references[0].template, sequence)
        crops = [crop, hold(one), hold(one, enrolled.enrollments[0].id, is_held=None)]
        writer.commit([ENTRY, reference, *crops, *removed])
        shown.append(crop.id)
        return key

    shown: list[str] = []
    first = bring(3)
    assert store.origins_of([first]) == {first: (one, None)}
    assert [crop.id for crop in store.cases.crops_of_import(one)] == shown
    bring(4, RemovedReference(first, 4))
    assert store.cases.crops_of_import(one) == [], "each may be of another person"


def test_the_faces_of_an_erased_document_are_gone_without_an_attempt_too(
    store, writer, enrolled
) -> None:
    one, two = (record.id for record in enrolled.documents)
    writer.commit([ENTRY, hold(one), hold(two), hold(one, is_held=None)])
    writer.commit(erasure(enrolled, 0, 3))
    assert [row.document_id for row in store.rows(select(tables.crops))] == [two]
