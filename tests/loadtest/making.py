"""Visits, outcomes and casts for tests that need no service."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from loadtest.config import Order, Pace, Session, Step
from loadtest.criteria import Objective, Run, decide
from loadtest.document_numbers import Papers
from loadtest.judging import judge
from loadtest.oracle import NEW, Answer
from loadtest.people import Cast, Pair, Person, Resident, Shot, Theft, Thresholds
from loadtest.schedule import USUAL_MIX, Kind, Outcome, Stretch, Traffic, Visit
from loadtest.service_calls import Enroll, Match, Search
from loadtest.shapes import USUAL, Knee, Shape

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
        expires_at=datetime.max.replace(tzinfo=UTC),
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


def make_step(rate: float, outcomes: list[Outcome]) -> Step:
    """Ten seconds at that rate, judged."""
    stretches = (Stretch("knee", 10, rate),)
    run, judged = Run(tuple(outcomes), 10, 10.5, 0.1), tuple(judge(outcomes))
    return Step(rate, stretches, run, judged, decide(run, judged, stretches, Objective()))


def make_session(*steps: Step, knee: Knee | None = None) -> Session:
    shape = Shape.STEADY if knee is None else Shape.KNEE
    order = Order(
        shape=shape, course=USUAL[shape], mix=USUAL_MIX, objective=Objective(), pace=Pace()
    )
    return Session(
        order=order,
        url="http://127.0.0.1:1",
        version="0",
        model_digest="0" * 64,
        crowd="people",
        cast=make_cast(),
        steps=steps,
        knee=knee,
        begun=datetime(2026, 11, 25, tzinfo=UTC),
        seconds=11,
        left_enrolled=0,
    )
