"""Bounds on what fails: counted durably, leaking away, with a case where one is reached.

What an attempt found that fails anyway is not counted: its answer is that of one that found
nobody. So nothing may tell that people have a case: no bound, no erasure, no other attempt, no id.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from engine.errors import TooManyFailures, TooManySearches
from engine.matching.checks.limits import (
    NEAR,
    SEARCHED,
    SEARCHES_ENDED,
    Bound,
    Guard,
    Levels,
    name_ended,
    name_holder,
    name_keys,
)
from engine.matching.holders import PendingErasure, erase_holder, find_counted, watch_face
from engine.matching.requests import Answer
from engine.registry.audit import read_audit
from engine.registry.database import utc_now
from engine.registry.enrollments import InFlight
from schema.actors import Caller
from schema.cases import CaseKind, Outcome
from schema.documents import ErasureCertificate
from schema.options import NO_LIMITS, Limits
from schema.reasons import Decision, Reason
from tests.engine.matching.conftest import close, guard_of
from tests.engine.records import ENTRY, newest_cases

DAY, MONTH = timedelta(days=1), timedelta(days=30)
LIMITS = Limits(holder_failures=3, holder_shown=4, holder_h=24, outlet_key_failures=5)
SHOP = Caller("key:shop", outlet="blue-1", carrier="blue")
OTHER = Caller("key:other", outlet="blue-1", carrier="blue")
RIVAL = Caller("key:rival", outlet="red-1", carrier="red")
FRAUD = Caller("key:fraud")


def under(request: Any, probe: Any, lab: Any, caller: Caller, **changes: Any) -> Any:
    return lab.request(probe, document=request.document, caller=caller, **changes)


def enroll(lab: Any, registrar: Any, face: Any, **changes: Any) -> Any:
    request = lab.request(face, noise=0.0, **changes)
    return request, registrar.enroll([request])[0]


def count(
    lab: Any,
    registrar: Any,
    name: str,
    amount: float,
    caller: Caller = SHOP,
    limits: Limits = LIMITS,
) -> None:
    tallies = Levels(limits, lab.store, [name], utc_now()).add(caller, name, amount)
    registrar.run(lambda writer, _: writer.commit([ENTRY, *tallies]))


@pytest.mark.parametrize(("level", "parts"), [(0.0, 0.0), (2.0, 0.0), (2.5, 0.5), (3.0, 1.0)])
def test_the_wait_is_until_one_more_fits(level: float, parts: float) -> None:
    assert Bound(3, DAY).wait(level) == parts * DAY / 3
    assert Bound(0, DAY).wait(1e9) == timedelta()


def test_a_count_leaks_away_evenly_and_is_kept_by_the_database(lab) -> None:
    name = name_keys(SHOP)[1]
    with lab.registrar() as registrar:
        count(lab, registrar, name, 4.0)
    with lab.registrar():
        begun = utc_now()
        for parts, level in ((0, 4.0), (2, 2.0), (4, 0.0), (9, 0.0)):
            levels = Levels(LIMITS, lab.store, [name], begun + parts * DAY / 5)
            assert levels.level(name, SHOP) == pytest.approx(level, abs=0.01)


def test_one_call_never_blocks_for_longer_than_the_bound(lab, registrar) -> None:
    name = name_holder("a document", FRAUD)
    count(lab, registrar, name, 1_000.0)
    assert lab.store.tallies([name])[name].level == LIMITS.holder_shown


def test_a_batch_is_bounded_as_single_calls_are(lab) -> None:
    with lab.registrar(limits=LIMITS) as registrar:
        _, request, held = lab.holder(registrar)
        tries = [under(request, lab.people.person(), lab, SHOP) for _ in range(6)]
        futures = [registrar.submit(one) for one in tries]
        outcomes = [future.result() for future in futures]
        again = registrar.enroll([tries[0]])[0]
    assert [isinstance(one, Answer) for one in outcomes] == [True] * 3 + [False] * 3
    assert {type(one) for one in outcomes[3:]} == {TooManyFailures}
    assert outcomes[3].retry_after_s == pytest.approx(DAY.total_seconds() / 3, rel=0.01)
    # What was decided is answered still.
    assert again.is_repeated
    [case] = [one for one in newest_cases(lab.store.cases) if one.kind == CaseKind.PROBING]
    assert case.document_ids == (held.document_id,)


def test_a_command_at_the_home_is_unbounded_counts_nothing_and_is_named_in_the_audit(lab) -> None:
    typed = Caller("cli:anna")
    with lab.registrar(limits=LIMITS) as registrar:
        _, request, _ = lab.holder(registrar)
        tries = [under(request, lab.people.person(), lab, typed) for _ in range(6)]
        outcomes = registrar.enroll(tries)
    assert {type(one) for one in outcomes} == {Answer}
    assert not [one for one in newest_cases(lab.store.cases) if one.kind == CaseKind.PROBING]
    assert not lab.store.tallies(name_keys(typed))
    decided = read_audit(lab.store, None, 100, action="enrollment.decided")
    assert [one.entry.actor for one in decided][-6:] == ["cli:anna"] * 6
    assert decided[0].entry.actor == f"outlet:{request.outlet}"


def test_an_approval_takes_one_failure_off_its_key(lab) -> None:
    name = name_keys(SHOP)[1]
    with lab.registrar(limits=LIMITS) as registrar:
        count(lab, registrar, name, 2.0)
        registrar.enroll([lab.request(caller=SHOP), lab.request(caller=OTHER)])
    assert lab.store.tallies([name])[name].level == pytest.approx(1.0, abs=0.01)
    assert not lab.store.tallies([name_keys(OTHER)[1]])


def test_an_erased_holder_leaves_no_count(lab) -> None:
    with lab.registrar(limits=LIMITS) as registrar:
        _, request, decided = lab.holder(registrar)
        held = decided.document_id
        registrar.enroll([under(request, lab.people.person(), lab, SHOP)])
        registrar.enroll([under(request, lab.people.person(), lab, RIVAL)])
        count(lab, registrar, name_holder(held, FRAUD), 1.0, FRAUD)
        names = [name_holder(held, one) for one in (SHOP, RIVAL, FRAUD)]
        assert set(lab.store.tallies(names)) == set(names)
        erase_holder(registrar, lab.store, request.document, "test")
    assert not lab.store.tallies(names)


def test_what_is_in_flight_counts_until_it_is_counted(lab, registrar) -> None:
    held, in_flight = "a document", InFlight()
    count(lab, registrar, name_holder(held, SHOP), 1.0)
    given = (LIMITS, lab.store, registrar, SHOP, in_flight)
    with Guard(*given) as first, Guard(*given) as second, Guard(*given) as third:
        first.require(held)
        second.require(held)
        with pytest.raises(TooManyFailures):
            third.require(held)
    with Guard(*given) as again:
        again.require(held)


def test_a_carriers_count_of_a_holder_is_no_others(lab, registrar) -> None:
    count(lab, registrar, name_holder("a document", SHOP), 3.0)
    with pytest.raises(TooManyFailures):
        guard_of(lab.store, registrar, OTHER, LIMITS).require("a document")
    for other in (RIVAL, FRAUD):
        guard_of(lab.store, registrar, other, LIMITS).require("a document")


def test_all_keys_of_a_carrier_together_fail_no_oftener_than_four(lab, registrar) -> None:
    limits = Limits(key_failures=2)
    of_carrier, of_key = name_keys(SHOP)
    count(lab, registrar, of_carrier, 7.5, limits=limits)
    assert not lab.store.tallies([of_key])
    with pytest.raises(TooManyFailures):
        guard_of(lab.store, registrar, OTHER, limits).require()
    guard_of(lab.store, registrar, RIVAL, limits).require()


def probing(lab: Any) -> list[tuple[str, ...]]:
    found = [one for one in newest_cases(lab.store.cases) if one.kind == CaseKind.PROBING]
    return sorted(one.document_ids for one in found)


def test_a_search_that_meets_a_full_holder_is_its_keys_last_and_no_others(lab, registrar) -> None:
    held = lab.holder(registrar).decided.document_id

    def search(caller: Caller, *told: str) -> None:
        guard = guard_of(lab.store, registrar, caller, LIMITS)
        guard.require_search()
        tallies, is_met = guard.weigh_search(told)
        registrar.submit_audit([ENTRY], tallies).result()
        guard.settle(*told, is_met=is_met)

    search(SHOP, held, held, held)
    assert probing(lab) == [(held,)]
    search(SHOP)
    with pytest.raises(TooManyFailures):
        search(SHOP, held)
    assert probing(lab) == [(), (held,)]
    # From now on a search that finds nobody is refused like one that finds them.
    for told in ((), (held,), ("another",)):
        with pytest.raises(TooManyFailures) as refused:
            search(SHOP, *told)
        assert refused.value.retry_after_s == pytest.approx(DAY.total_seconds(), rel=0.01)
    search(OTHER)
    search(RIVAL, held)


def test_the_faces_that_all_keys_of_a_carrier_search_for_count_before_they_are_looked_up(
    lab, registrar
) -> None:
    limits, in_flight = replace(NO_LIMITS, searched_faces=5), InFlight()

    def guard(caller: Caller) -> Guard:
        return Guard(limits, lab.store, registrar, caller, in_flight)

    def search(one: Guard, faces: int) -> None:
        one.hold_faces(faces)
        one.require_search()

    with guard(SHOP) as first:
        search(first, 3)
        with guard(OTHER) as second, pytest.raises(TooManySearches):
            search(second, 3)
        registrar.submit_audit([ENTRY], first.weigh_search([])[0]).result()
    with guard(OTHER) as again, pytest.raises(TooManySearches) as refused:
        search(again, 3)
    assert refused.value.retry_after_s == pytest.approx(DAY.total_seconds() / 5, rel=0.01)
    assert probing(lab) == [()]
    with guard(OTHER) as fewer:
        search(fewer, 2)
    # Of a bound that is smaller than one call, the call takes all.
    with guard(RIVAL) as whole, guard(RIVAL) as beside:
        search(whole, 9)
        with pytest.raises(TooManySearches):
            search(beside, 1)
    for caller in (FRAUD, Caller("cli:anna")):
        with guard(caller) as unbounded:
            search(unbounded, 9)
            assert unbounded.weigh_search([]) == ([], False)


def test_near_look_alikes_are_few_and_the_one_too_many_ends_its_key(lab) -> None:
    with lab.registrar(limits=Limits(holder_failures=1 + 2 * SEARCHED, holder_h=24)) as registrar:
        held = lab.holder(registrar).decided.document_id
        face = next(iter(lab.store.references())).vectors[0]

        def ask(caller: Caller, probe: Any) -> Any:
            return enroll(lab, registrar, probe, caller=caller)[1]

        def alike(score: float) -> Any:
            return lab.people.between(face, score)

        clear = alike(0.70 + NEAR + 0.02)
        assert ask(SHOP, clear).decided.decision == "rejected"
        for _ in range(2):
            assert ask(SHOP, alike(0.66)).decided.decision == "review"
        assert probing(lab) == [(held,)]
        assert isinstance(ask(SHOP, clear), TooManyFailures)
        assert ask(SHOP, lab.people.person()).decided.decision == "approved"
        assert isinstance(ask(SHOP, alike(0.66)), TooManyFailures)
        assert probing(lab) == [(), (held,)]
        assert isinstance(ask(SHOP, lab.people.person()), TooManyFailures)
        assert ask(OTHER, lab.people.person()).decided.decision == "approved"
        assert lab.store.tallies([name_ended(SHOP)])
        # Two people may find that nothing speaks against it.
        [case] = [one for one in newest_cases(lab.store.cases) if one.group_key == name_ended(SHOP)]
        close(registrar, lab, case.id, Outcome.UNFOUNDED)
        assert ask(SHOP, lab.people.person()).decided.decision == "approved"


def test_a_watched_face_tells_a_key_no_more_than_a_holders(lab) -> None:
    face = lab.people.person()
    asked = [(SHOP, 0.99), (SHOP, 0.66), (SHOP, 0.99), (SHOP, 0.1), (SHOP, 0.66), (SHOP, 0.1)]
    asked += [(OTHER, 0.1), (RIVAL, 0.66)]
    with lab.registrar(limits=Limits(holder_failures=1 + SEARCHED, holder_h=24)) as registrar:
        watch_face(registrar, face, "seen at a resale ring", "test")
        told = [
            enroll(lab, registrar, lab.people.between(face, s), caller=one)[1] for one, s in asked
        ]
    said = [one.decision if isinstance(one, Answer) else None for one in told]
    assert said == ["review", "review", None, "approved", None, None, "approved", "review"]
    assert probing(lab) == [()]


def test_a_key_that_had_ended_goes_on_once_nothing_is_bounded(lab) -> None:
    with lab.registrar(limits=replace(NO_LIMITS, key_h=12)) as registrar:
        count(lab, registrar, name_ended(SHOP), 1.0)
        assert lab.store.tallies([name_ended(SHOP)])
        assert enroll(lab, registrar, lab.people.person(), caller=SHOP)[1].decision == "approved"


def test_a_key_that_meets_a_full_holder_again_stops_nobody_else(lab) -> None:
    with lab.registrar(limits=Limits(holder_failures=SEARCHED, holder_h=24)) as registrar:
        lab.holder(registrar)
        face = next(iter(lab.store.references())).vectors[0]

        def enroll_alike() -> Any:
            probe = lab.people.between(face, 0.66)
            return enroll(lab, registrar, probe, caller=SHOP)[1]

        assert enroll_alike().decided.decision == "review"
        assert isinstance(enroll_alike(), TooManyFailures)
        # Its time is over, and nobody has closed the cases: nothing is kept but that it ends.
        count(lab, registrar, name_ended(SHOP), -1.0)
        assert isinstance(enroll_alike(), TooManyFailures)
        assert registrar.failure is None
        assert isinstance(registrar.enroll([lab.request()])[0], Answer)
    ended = read_audit(lab.store, None, 100, action=SEARCHES_ENDED)
    assert [(one.entry.actor, one.entry.subject) for one in ended] == [("key:shop", "blue-1")] * 2


@pytest.mark.parametrize("carrier", ["blue", None])
def test_a_document_of_ones_own_tells_nothing_of_the_faces_that_were_tried_with_it(
    lab, registrar, carrier: str | None
) -> None:
    victim = lab.people.person()
    own = lab.people.between(victim, 0.3)
    taken, _ = enroll(lab, registrar, victim)
    request, answer = enroll(lab, registrar, own)
    document_id = answer.decided.document_id
    between = (own + victim) / (2 * 1.3) ** 0.5
    given = {"document": request.document, "msisdn": taken.msisdn}
    _, tried = enroll(lab, registrar, between, **given)
    assert {Reason.DUPLICATE_IDENTITY, Reason.LINE_IN_USE} == set(tried.reasons)
    [case] = lab.store.cases.open_of([document_id])[document_id]
    asked = {"replaces": request.document, "msisdn": taken.msisdn}
    _, renewed = enroll(lab, registrar, own, **asked)
    assert Reason.REPLACEMENT_REFUSED not in renewed.reasons
    done = erase_holder(registrar, lab.store, document_id, "key:a", carrier, MONTH)
    if carrier is None:
        assert isinstance(done, PendingErasure)
        assert done.cases == (case.id,)
    else:
        assert isinstance(done, ErasureCertificate)


def test_a_document_that_nobody_holds_tells_nothing_of_them_either(lab, registrar) -> None:
    victim, today = lab.people.person(), utc_now().date()
    taken, _ = enroll(lab, registrar, victim)
    probe = lab.people.between(victim, 0.66)
    document = lab.request().document
    counted = find_counted(lab.store, document, today)
    given = {"document": document, "msisdn": taken.msisdn}
    _, tried = enroll(lab, registrar, probe, **given)
    assert set(tried.reasons) == {Reason.POSSIBLE_DUPLICATE, Reason.LINE_IN_USE}
    assert find_counted(lab.store, document, today) == counted
    _, approved = enroll(lab, registrar, lab.people.person(), document=document)
    assert approved.decision is Decision.APPROVED
    # Version 7 begins with the moment when it was made.
    assert UUID(approved.decided.document_id).version == 4
