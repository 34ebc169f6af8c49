"""Outlets that may enroll nobody: who restricts them, what is refused there, what was before."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.cases.outlets import bar, find_outlet, lift, suspend
from engine.errors import FourEyes, NotFound, OutletMoved, OutletRestricted, RequestError
from engine.registry.damage import find_damage
from engine.registry.database import new_id
from engine.registry.queues import AttemptFilter, CaseFilter
from schema.actors import Actor, Restriction
from schema.cases import ALIVE, NoteKind
from tests.engine.cases.conftest import ANNA, BOB

SAME_ANNA = Actor("key:anna-2", "Anna")
CODE, WHY = "blue-1", "the same three faces, all night"


def test_one_person_suspends_an_outlet_another_bars_it_and_it_may_be_lifted(service) -> None:
    (body,) = service.enroll(1)
    case = service.open(body.document_id)
    with pytest.raises(FourEyes, match="suspend it"):
        bar(*service.context, CODE, case.id, WHY, ANNA)
    found = suspend(*service.context, CODE, case.id, WHY, ANNA)
    assert (found.restriction, found.restriction_case) == (Restriction.SUSPENDED, case.id)
    assert found.restriction_reason == WHY
    # In words only in the case's history, where it is sealed.
    assert service.store.outlets([CODE])[CODE].restriction_reason is None
    with pytest.raises(OutletMoved, match="suspended already"):
        suspend(*service.context, CODE, case.id, WHY, BOB)
    with pytest.raises(FourEyes, match="whichever key"):
        bar(*service.context, CODE, case.id, WHY, SAME_ANNA)
    refused = service.registrar.enroll([service.lab.request() for _ in range(3)])
    assert [type(one) for one in refused] == [OutletRestricted] * 3
    barred = bar(*service.context, CODE, case.id, WHY, BOB)
    assert (barred.restriction, barred.restricted_person) == (Restriction.BARRED, BOB.person)
    assert barred.restriction_reason == WHY
    with pytest.raises(OutletMoved, match="barred already"):
        bar(*service.context, CODE, case.id, WHY, ANNA)
    # Another outlet enrolls beside it, and the refused one is counted in the same batch.
    elsewhere = service.lab.request(carrier="red", outlet="red-1")
    last, answer = service.registrar.enroll([service.lab.request(), elsewhere])
    assert isinstance(last, OutletRestricted)
    assert answer.decision.value == "approved"
    assert find_outlet(service.store, CODE).refused_attempts == 4
    assert len(service.entries("enrollment.refused")) == 4
    assert find_damage(service.store) == []
    with pytest.raises(OutletMoved, match="barred now"):
        lift(*service.context, CODE, Restriction.SUSPENDED, WHY, ANNA)
    free = lift(*service.context, CODE, Restriction.BARRED, "another staff", ANNA)
    assert (free.restriction, free.restriction_reason, free.refused_attempts) == (None, None, None)
    assert service.enroll(1)[0].decision == "approved"
    notes = service.store.cases.notes(case.id)
    assert [one.text for one in notes if one.kind is NoteKind.RESTRICTED] == [
        f"suspended {CODE}\n{WHY}",
        f"barred {CODE}\n{WHY}",
        f"lifted {CODE}\nanother staff",
    ]
    (lifted,) = service.entries("outlet.lifted")
    assert lifted.detail == {"case": case.id, "restriction": "barred", "refused_attempts": 4}
    assert find_damage(service.store) == []


def test_what_is_no_outlet_no_case_or_no_reason_restricts_nothing(service) -> None:
    case = service.open(service.enroll(1)[0].document_id)
    for given, error in (
        (("nowhere", case.id, WHY), NotFound),
        ((CODE, new_id(), WHY), NotFound),
        ((CODE, case.id, " "), RequestError),
        ((CODE, case.id, "x\u202ey"), RequestError),
        ((CODE, case.id, "x" * 201), RequestError),
    ):
        with pytest.raises(error):
            suspend(*service.context, *given, ANNA)
    service.store.close_outlet("red-1", actor="test")
    with pytest.raises(OutletMoved, match="closed"):
        suspend(*service.context, "red-1", case.id, WHY, ANNA)
    with pytest.raises(OutletMoved, match="not restricted"):
        lift(*service.context, CODE, Restriction.BARRED, WHY, ANNA)
    assert service.entries("outlet.suspended") == []


def test_the_past_attempts_of_an_outlet_are_listed_by_their_cases(service) -> None:
    person, request = service.lab.newcomer()
    first, second = service.registrar.enroll([request, service.lab.request(person)])
    (third,) = service.enroll(1)
    read = service.store.cases.attempts

    def listed(**wanted: Any) -> list[str]:
        return [one.id for one in read(AttemptFilter(outlet=CODE, **wanted))]

    newest_first = listed()
    assert set(newest_first) == {first.enrollment_id, second.enrollment_id, third.enrollment_id}
    assert listed(oldest_first=True) == newest_first[::-1]
    page = read(AttemptFilter(outlet=CODE), limit=1, after=newest_first[0])
    assert [one.id for one in page] == newest_first[1:2]
    assert listed(decision="rejected") == [second.enrollment_id]
    assert listed(case=CaseFilter(state=ALIVE)) == [second.enrollment_id]
    assert listed(case=CaseFilter(kind="dispute")) == []
    assert listed(id_end=third.enrollment_id[-8:]) == [third.enrollment_id]
    assert read(AttemptFilter(outlet="red-1")) == []
    with pytest.raises(NotFound):
        read(AttemptFilter(outlet=CODE), after=new_id())
    case = service.store.cases.of_attempts(newest_first)[second.enrollment_id]
    assert case.enrollment_id == second.enrollment_id


def test_what_was_in_the_queue_before_a_suspension_is_decided_and_what_came_after_is_refused(
    service, busy
) -> None:
    case = service.open(service.enroll(1)[0].document_id)
    registrar = service.registrar
    with ThreadPoolExecutor(1) as pool:
        with busy(registrar):
            before = registrar.submit(service.lab.request())
            waiting = registrar.queued
            step = pool.submit(suspend, *service.context, CODE, case.id, WHY, ANNA)
            while registrar.queued == waiting:
                assert not step.done()
            after = registrar.submit(service.lab.request())
        assert before.result(60).decision.value == "approved"
        assert isinstance(after.result(60), OutletRestricted)
        assert step.result(60).restriction == Restriction.SUSPENDED
