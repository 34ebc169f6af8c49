"""Visits, outcomes and casts for tests that need no service."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loadtest.calls import Enroll, Match, Search
from loadtest.cast import Cast, Pair, Person, Resident, Shot, Theft, Thresholds
from loadtest.mix import Kind, Traffic
from loadtest.papers import Papers
from loadtest.truth import NEW, Answer, Expectation
from loadtest.visits import Outcome, Visit

PAPERS = Papers("TEST", 0, 2026)
THRESHOLDS = Thresholds(verify=0.45, same_document=0.46, review=0.57, certain=0.67)


def make_person(number: int) -> Person:
    shots = tuple(Shot(b"photo%d-%d" % (number, one), b"t%d-%d" % (number, one)) for one in (0, 1))
    return Person(number, Pair(shots[0], shots[1], 0.8), shots)


def make_resident(number: int) -> Resident:
    person = make_person(number)
    return Resident(
        person=person,
        second=person.first.swap(),
        likeness=1.0,
        probe=person.shots[0],
        paper=PAPERS.paper(number),
        msisdn=PAPERS.msisdn(number),
        document_id=f"document-{number}",
        tokens=(b"one", b"two"),
    )


def make_cast(**changes: Any) -> Cast:
    """Four residents, twenty newcomers, four racers, two outsiders."""
    residents = tuple(make_resident(number) for number in range(4))
    cast = Cast(
        thresholds=THRESHOLDS,
        residents=residents,
        thefts=(Theft(residents[0], residents[1]),),
        newcomers=tuple(make_person(number) for number in range(100, 120)),
        racers=tuple(make_person(number) for number in range(200, 204)),
        outsiders=tuple(make_person(number) for number in range(300, 302)),
        had_references=False,
        dropped={},
    )
    return replace(cast, **changes)


def make_visit(number: int = 1, kind: Kind = Kind.NEWCOMER, **changes: Any) -> Visit:
    pair = make_person(changes.get("person") or 0).first
    call: Any = Enroll(f"key-{number}", PAPERS.paper(number), pair, PAPERS.msisdn(number))
    traffic, expected = Traffic.ENROLL, changes.pop("expected", NEW)
    if kind in (Kind.KNOWN, Kind.UNKNOWN):
        call, traffic = Search(b"photo"), Traffic.SEARCH
    if kind in (Kind.MATED, Kind.STRANGERS):
        call, traffic = Match(b"a", b"b"), Traffic.MATCH
    return replace(Visit(number, float(number), traffic, kind, call, expected), **changes)


def make_outcome(
    visit: Visit, answer: Answer, *, started_s: float | None = None, latency_s: float = 0.1
) -> Outcome:
    started = visit.due_s if started_s is None else started_s
    return Outcome(visit, started, visit.due_s + latency_s, answer)


def decided(decision: str, *reasons: str, **changes: Any) -> Answer:
    answer = Answer(201, decision=decision, reasons=reasons, enrollment_id="e", document_id="d")
    return replace(answer, **changes)


def expecting(visit: Visit, expected: Expectation) -> Visit:
    return replace(visit, expected=expected)
