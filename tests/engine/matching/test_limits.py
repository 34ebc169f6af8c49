"""Bounds on what fails: counted durably, leaking away, with a case where one is reached."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from engine.cases.case import CaseKind
from engine.errors import TooManyFailures
from engine.matching.holders import erase_holder
from engine.matching.limits import Bound, Caller, Guard, Levels, Limits, name_key, name_shown
from engine.matching.requests import Answer
from engine.registry.audit import read_audit
from engine.registry.records import AuditEntry, Changes, utc_now

DAY = timedelta(days=1)
LIMITS = Limits(holder=Bound(3, DAY), shown=Bound(4, DAY), outlet_key=Bound(5, DAY))
SHOP = Caller("key:shop", outlet="blue-1")
OTHER = Caller("key:other", outlet="blue-1")


def under(request: Any, probe: Any, lab: Any, caller: Caller, **changes: Any) -> Any:
    return lab.request(probe, document=request.document, caller=caller, **changes)


def count(lab: Any, registrar: Any, name: str, amount: float, caller: Caller = SHOP) -> None:
    tallies = Levels(LIMITS, lab.store, [name], utc_now()).add(caller, name, amount)
    entry = AuditEntry("test", "test", "test")
    registrar.run(
        lambda writer, _: writer.commit(
            Changes(sequence=writer.sequence, audit=(entry,), tallies=tallies)
        )
    )


@pytest.mark.parametrize(("level", "parts"), [(0.0, 0.0), (2.0, 0.0), (2.5, 0.5), (3.0, 1.0)])
def test_the_wait_is_until_one_more_fits(level: float, parts: float) -> None:
    assert Bound(3, DAY).wait(level) == parts * DAY / 3
    assert Bound(0, DAY).wait(1e9) == timedelta()


def test_a_count_leaks_away_evenly_and_is_kept_by_the_database(lab: Any) -> None:
    name = name_key(SHOP)
    with lab.registrar() as registrar:
        count(lab, registrar, name, 4.0)
    with lab.registrar():
        begun = utc_now()
        for parts, level in ((0, 4.0), (2, 2.0), (4, 0.0), (9, 0.0)):
            levels = Levels(LIMITS, lab.store, [name], begun + parts * DAY / 5)
            assert levels.level(name, SHOP) == pytest.approx(level, abs=0.01)


def test_one_call_never_blocks_for_longer_than_the_bound(lab: Any) -> None:
    name = name_shown("a document")
    with lab.registrar() as registrar:
        count(lab, registrar, name, 1_000.0)
    assert lab.store.tallies([name])[name].level == LIMITS.shown.most + 1


def test_a_batch_is_bounded_as_single_calls_are(lab: Any) -> None:
    _, request = lab.newcomer()
    with lab.registrar(limits=LIMITS) as registrar:
        held = registrar.enroll([request])[0].body["document_id"]
        tries = [under(request, lab.people.person(), lab, SHOP) for _ in range(6)]
        futures = [registrar.submit(one) for one in tries]
        outcomes = [future.result() for future in futures]
        again = registrar.enroll([tries[0]])[0]
    assert [isinstance(one, Answer) for one in outcomes] == [True] * 3 + [False] * 3
    assert {type(one) for one in outcomes[3:]} == {TooManyFailures}
    assert outcomes[3].retry_after_s == pytest.approx(DAY.total_seconds() / 3, rel=0.01)
    # What was decided is answered still.
    assert again.is_repeated
    [case] = [one for one in lab.store.cases.newest() if one.kind == CaseKind.PROBING]
    assert case.document_ids == (held,)


def test_a_command_at_the_home_is_unbounded_counts_nothing_and_is_named_in_the_audit(
    lab: Any,
) -> None:
    _, request = lab.newcomer()
    typed = Caller("cli:anna")
    with lab.registrar(limits=LIMITS) as registrar:
        registrar.enroll([request])
        tries = [under(request, lab.people.person(), lab, typed) for _ in range(6)]
        outcomes = registrar.enroll(tries)
    assert {type(one) for one in outcomes} == {Answer}
    assert not [one for one in lab.store.cases.newest() if one.kind == CaseKind.PROBING]
    assert not lab.store.tallies([name_key(typed)])
    decided = read_audit(lab.store, None, 100, action="enrollment.decided")
    assert [one.entry.actor for one in decided][-6:] == ["cli:anna"] * 6
    assert decided[0].entry.actor == f"outlet:{request.outlet}"


def test_an_approval_takes_one_failure_off_its_key(lab: Any) -> None:
    name = name_key(SHOP)
    with lab.registrar(limits=LIMITS) as registrar:
        count(lab, registrar, name, 2.0)
        registrar.enroll([lab.request(caller=SHOP), lab.request(caller=OTHER)])
    assert lab.store.tallies([name])[name].level == pytest.approx(1.0, abs=0.01)
    assert not lab.store.tallies([name_key(OTHER)])


def test_an_erased_holder_leaves_no_count(lab: Any) -> None:
    person, request = lab.newcomer()
    with lab.registrar(limits=LIMITS) as registrar:
        held = registrar.enroll([request])[0].body["document_id"]
        lookup = lab.store.document(held).lookup
        registrar.enroll([under(request, lab.people.person(), lab, SHOP)])
        registrar.enroll([lab.request(person, caller=SHOP)])
        names = [f"holder:{lookup.hex()}", name_shown(held)]
        assert set(lab.store.tallies(names)) == set(names)
        erase_holder(registrar, lab.store, request.document, "test")
    assert not lab.store.tallies(names)


def test_an_answer_that_others_have_overtaken_at_the_bound_is_not_given(lab: Any) -> None:
    name = name_shown("a document")
    with lab.registrar() as registrar:
        guard = Guard(LIMITS, lab.store, registrar, SHOP)
        count(lab, registrar, name, 4.0)
        # The fourth was in time; what was counted beside it was not.
        guard.settle([name])
        count(lab, registrar, name, 1.0)
        with pytest.raises(TooManyFailures):
            guard.settle([name])
        assert not [one for one in lab.store.cases.newest() if one.kind == CaseKind.PROBING]
