"""The life of lines: what carriers report, what rules bring about, and when."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from engine.errors import (
    EventRefused,
    FaceNotKept,
    LivenessRefused,
    NotFound,
    NotReported,
    RequestError,
)
from engine.lifecycle.reverification import LifeBatch, SimChangeTerms, carry_out, report_event
from engine.lifecycle.rules import LineRules, load_rules
from engine.matching.samples import ABSENT
from engine.matching.verification import HolderComparison, HolderProbe
from engine.registry.damage import find_damage
from engine.registry.events import read_events
from schema.decisions import RecordedProof
from schema.lines import LineEventKind, LineService, LineState, LineStatus
from schema.options import PeopleRules
from schema.people import ProofLevel, ProofWay
from tests.engine.lifecycle.conftest import START, Lines
from tests.engine.matching.conftest import NOW, guard_of
from tests.engine.records import newest_cases

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MANY = 96
"""Two lines at each hour of two days."""
DEVICE_CHANGE = LineEventKind.DEVICE_CHANGE


def test_a_change_of_device_that_nobody_answers_ends_the_line_by_the_rule(lines) -> None:
    (line,) = lines.open(1)
    lines.now += HOUR
    lines.report(line, DEVICE_CHANGE, lines.now)
    asked = lines.now
    assert lines.advance(2 * HOUR - timedelta(seconds=1)) == 0
    assert lines.line(line).state is LineState.ACTIVE
    for by, state in (
        (timedelta(seconds=1), LineState.SUSPENDED_OUTGOING),
        (30 * DAY, LineState.SUSPENDED),
        (5 * DAY, LineState.CLOSED),
    ):
        assert lines.advance(by) == 1
        assert lines.line(line).state is state
    assert lines.story(line) == [
        ("device_change", asked),
        ("reverify_asked", asked),
        ("overdue", asked + 2 * HOUR),
        ("suspended_outgoing", asked + 2 * HOUR),
        ("suspended", asked + 2 * HOUR + 30 * DAY),
        ("closed", asked + 2 * HOUR + 35 * DAY),
    ]
    assert lines.store.life.next_step_at() is None
    told = read_events(lines.store, 0)
    assert [
        (one.type.value.removeprefix("line."), datetime.fromisoformat(one.data["at"]))
        for one in told
    ] == lines.story(line)
    assert told[-1].data["cause"] == told[1].data["cause"]
    assert {one.queue for one in told} == {lines.line(line).document_id}
    assert find_damage(lines.store) == []


def test_every_step_of_many_lines_comes_at_its_hour_and_none_is_missed_after_a_day_of_downtime(
    lines,
) -> None:
    ids = lines.open(MANY)
    spread = [START + HOUR * (place % 48) for place in range(MANY)]
    lines.happen(dict(zip(ids, spread, strict=True)), DEVICE_CHANGE)
    down = (30, 54)
    # In the weeks between, in which nothing is due, every sixth hour is enough.
    busy = [range(110), range(24 * 30, 24 * 30 + 110), range(24 * 35, 24 * 40)]
    hours = [one for one in range(24 * 40) if one % 6 == 0 or any(one in part for part in busy)]
    ticks = [tick for tick in hours if not down[0] <= tick < down[1]]
    steps, before = 0, 0
    for tick in ticks:
        steps += lines.advance(HOUR * (tick - before))
        before = tick
    assert steps == 3 * MANY

    def done_at(due: int) -> int:
        return down[1] if down[0] <= due < down[1] else due

    for place, line in enumerate(ids):
        due = [place % 48 + 2]
        for wait in (24 * 30, 24 * 5):
            done = done_at(due[-1])
            # An hour late is in time; later the next step gives its whole time.
            due.append((due[-1] if done - due[-1] <= 1 else done) + wait)
        found = lines.store.events_of_line(line)
        kept = {one.kind.value: one for one in found}
        for name, hour in zip(("suspended_outgoing", "suspended", "closed"), due, strict=True):
            assert kept[name].at == START + HOUR * hour
            late = kept[name].recorded_at - (START + HOUR * done_at(hour))
            assert timedelta() <= late < timedelta(seconds=1)
        assert len(found) == 6
    assert not lines.store.open_line_counts([lines.line(ids[0]).document_id])


def test_a_suspended_line_is_in_use_and_its_steps_are_kept_by_the_store_alone(lines) -> None:
    (line,) = lines.open(1)
    lines.report(line, DEVICE_CHANGE, START)
    lines.advance(3 * HOUR)
    record = lines.line(line)
    assert record.status is LineStatus.ACTIVE
    assert lines.store.lines_in_use([record.msisdn_lookup or b""])[record.msisdn_lookup or b""]
    # Another process goes on where this one stopped, and does nothing twice.
    assert carry_out(lines.runner, lines.store, lines.rules) == 0
    lines.rules = type(lines.rules)()
    assert lines.advance(30 * DAY) == 1
    assert lines.line(line).service is LineService.SUSPENDED


def test_what_happens_again_gives_nobody_more_time(lines) -> None:
    (line,) = lines.open(1)
    first = lines.report(line, DEVICE_CHANGE, START)
    lines.now += HOUR
    assert lines.report(line, DEVICE_CHANGE, START) == first
    lines.report(line, DEVICE_CHANGE, START + HOUR)
    assert lines.store.life.next_step_at() == START + 2 * HOUR
    assert len(lines.story(line)) == 3


def test_a_new_sim_of_a_line_that_makes_no_calls_waits_for_its_holder_too(lines) -> None:
    lines.rules = LineRules(load_rules("thailand"))
    (line,) = lines.open(1)
    asking = LifeBatch(lines.store, lines.rules, [lines.line(line)], lines.now, "test")
    asking.ask(line, "campaign:c", [(3_600, "suspended_outgoing")], lines.now)
    lines.writer.commit(asking.writes())
    lines.advance(HOUR)
    assert lines.line(line).state is LineState.SUSPENDED_OUTGOING
    lines.report(line, LineEventKind.SIM_SWAP, lines.now)
    assert lines.line(line).state is LineState.PENDING
    assert ("pending", lines.now) in lines.story(line)
    lines.advance(30 * DAY)
    assert lines.line(line).state is LineState.SUSPENDED


@pytest.mark.both_databases
def test_a_moment_that_cannot_be_is_refused_and_another_carriers_line_is_none(lines) -> None:
    (line,) = lines.open(1)
    lines.now += DAY
    lines.report(line, LineEventKind.SIM_SWAP, START + 2 * HOUR)
    for at, said in (
        (lines.now + HOUR, "in the future"),
        (START - HOUR, "before the line was opened"),
        (START + HOUR, "a later sim_swap"),
    ):
        with pytest.raises(EventRefused, match=said):
            lines.report(line, LineEventKind.SIM_SWAP, at)
    with pytest.raises(EventRefused, match="is not reported"):
        lines.report(line, LineEventKind.UNSUSPENDED, START)
    with pytest.raises(NotFound):
        lines.report(line, LineEventKind.SIM_SWAP, lines.now, carrier="blue")


@pytest.mark.both_databases
def test_a_number_that_is_ported_out_ends_its_line_once(lines) -> None:
    (line,) = lines.open(1)
    number = lines.store.numbers([line])[line]
    lines.report(line, DEVICE_CHANGE, START)
    made = lines.report(number, LineEventKind.PORT_OUT, START, carrier="red")
    assert lines.line(line).state is LineState.CLOSED
    assert lines.report(number, LineEventKind.PORT_OUT, START, carrier="red") == made
    with pytest.raises(NotFound):
        lines.report(number, LineEventKind.PORT_OUT, START, carrier="blue")
    assert lines.store.life.asked_of([line]) == {line: []}
    assert lines.advance(90 * DAY) == 0


def check(lab: Any, registrar: Any, line: str, face: Any, **more: Any) -> Any:
    rules = Lines(lab.store, None).rules  # type: ignore[arg-type]
    given = {"is_photographed": True, "rules": rules} | more
    probe = HolderProbe(vector=face, threshold=0.42, actor="key:1", **given)
    guard = guard_of(lab.store, registrar)
    comparison = HolderComparison(registrar, lab.store, probe, lambda *_: None, guard)
    return comparison.check_line(line)


@pytest.mark.both_databases
def test_the_holders_face_ends_a_suspension_and_anothers_opens_one_case_of_the_line(lab) -> None:
    other = lab.people.person()
    rules = Lines(lab.store, None).rules  # type: ignore[arg-type]
    with lab.registrar() as registrar:
        holder, request, decided = lab.holder(registrar)
        line = decided.line_id
        opened_at = lab.store.lines_by_id([line])[line].opened_at
        given = {"kind": DEVICE_CHANGE, "at": opened_at, "actor": "key:k"}
        report_event(registrar, lab.store, rules, line_text=request.msisdn, **given)
        carry_out(registrar, lab.store, rules, now=opened_at + 2 * HOUR)
        assert lab.store.lines_by_id([line])[line].state is LineState.SUSPENDED_OUTGOING
        cases = {check(lab, registrar, line, other).case_id for _ in range(3)}
        (case,) = newest_cases(lab.store.cases)
        assert cases == {case.id}
        assert (case.kind, case.line_id) == ("reverification_failed", line)
        # What was issued before shows nobody who has come.
        assert check(lab, registrar, line, holder, is_photographed=False).is_match
        assert lab.store.lines_by_id([line])[line].service is LineService.SUSPENDED_OUTGOING
        assert check(lab, registrar, line, holder).is_match
        assert lab.store.lines_by_id([line])[line].state is LineState.ACTIVE
        check(lab, registrar, line, holder)
    kinds = [one.kind.value for one in lab.store.events_of_line(line)]
    ended = ["suspended_outgoing", "reverify_failed", "reverified", "unsuspended"]
    assert sorted(kinds) == sorted(["device_change", "reverify_asked", "overdue", *ended])
    assert lab.store.life.next_step_at() is None


def test_two_photographs_end_no_wait_for_a_holder_whose_face_is_not_kept(lab) -> None:
    holder = lab.people.person()
    own = (lab.people.sample(holder).vector, 0.4)
    with lab.registrar(people=PeopleRules(keep_faces="none")) as registrar:
        line = registrar.enroll([lab.request(holder)])[0].decided.line_id
        # An operator's key asks about any carrier's, and is told what is missing.
        with pytest.raises(FaceNotKept):
            check(lab, registrar, line, holder)
        assert check(lab, registrar, line, holder, own=own).is_match
        given = {"rules": Lines(lab.store, None).rules, "actor": "key:k"}  # type: ignore[arg-type]
        at = lab.store.lines_by_id([line])[line].opened_at
        report_event(registrar, lab.store, line_text=line, kind=DEVICE_CHANGE, at=at, **given)
        with pytest.raises(LivenessRefused):
            check(lab, registrar, line, holder, own=own)
        assert len(lab.store.life.asked_of([line])[line]) == 1
        assert check(lab, registrar, line, holder, own=own, is_alive=True).is_match
        assert lab.store.life.asked_of([line])[line] == []
    with lab.registrar() as registrar, pytest.raises(RequestError, match="on file"):
        check(lab, registrar, line, holder, own=own)


def test_by_vietnam_who_opened_the_line_by_a_proof_of_the_highest_level_is_not_asked_for(
    lab,
) -> None:
    people = PeopleRules(proofs={ProofWay.MOBILE_ID: "approved"})
    rules = LineRules(load_rules("vietnam"))
    with lab.registrar(people=people) as registrar:
        for level, is_asked in (
            (ProofLevel.HIGH, False),
            (ProofLevel.SUBSTANTIAL, True),
            (None, True),
        ):
            shown = RecordedProof(
                way=ProofWay.MOBILE_ID, issuer="state", jti=str(level), level=level
            )
            faceless = {"live": ABSENT, "portrait": ABSENT, "proof": shown}
            made = registrar.enroll([lab.request(**faceless)])[0]
            line = made.decided.line_id
            about = {"line_text": line, "kind": DEVICE_CHANGE, "at": NOW, "actor": "key:k"}
            report_event(registrar, lab.store, rules, **about)
            assert bool(lab.store.life.asked_of([line])[line]) is is_asked


DAY = timedelta(days=1)
SINCE = {"red": START.date()}


def test_a_change_counts_and_a_change_of_device_does_not(lines) -> None:
    (line,) = lines.open(1)
    number = lines.store.numbers([line])[line]
    terms = SimChangeTerms(SINCE)

    def find(carrier: str | None = "red") -> object:
        return terms.find(lines.store, number, carrier, START + 20 * DAY).at

    assert find() == START
    lines.happen({line: START + 5 * DAY}, LineEventKind.DEVICE_CHANGE)
    assert find() == START
    for place, kind in enumerate(("sim_swap", "esim_download", "port_in"), 6):
        lines.happen({line: START + place * DAY}, LineEventKind(kind))
        assert find() == START + place * DAY
    with pytest.raises(NotFound):
        find("blue")


def test_what_is_not_known_is_not_told_as_never(lines) -> None:
    (line,) = lines.open(1)
    number, now = lines.store.numbers([line])[line], START + 100 * DAY
    later = SimChangeTerms({"red": (START + 90 * DAY).date()})
    found = later.find(lines.store, number, None, now)
    assert (found.at, found.monitored) == (None, 10 * DAY)
    kept = SimChangeTerms(SINCE, kept=30 * DAY)
    lines.happen({line: START + 60 * DAY}, LineEventKind.SIM_SWAP)
    found = kept.find(lines.store, number, None, now)
    assert (found.at, found.monitored) == (None, 30 * DAY)
    assert SimChangeTerms(SINCE).find(lines.store, number, None, now).at is not None
    with pytest.raises(NotReported):
        SimChangeTerms().find(lines.store, number, None, now)
