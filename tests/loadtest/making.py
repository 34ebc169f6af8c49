"""Visits, outcomes and participants for tests that need no service."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from loadtest.config import (
    DEFAULT_PROFILES,
    Knee,
    LoadOptions,
    LoadStep,
    LoadTestOptions,
    LoadTestResult,
    Shape,
)
from loadtest.criteria import LoadRun, Objective, decide, judge
from loadtest.participants import (
    Holder,
    ImpostorPair,
    LoadParticipants,
    Person,
    PhotographTemplate,
    SpecimenNumbers,
)
from loadtest.schedule import DEFAULT_MIX, Kind, LoadPhase, Outcome, Traffic, Visit
from loadtest.service_calls import NEW, Answer, enroll, match, search
from serving.wire.enrollments import Thresholds

SPECIMENS = SpecimenNumbers("TEST", 0, 2026)
THRESHOLDS = Thresholds(verify=0.45, same_document=0.46, review=0.57, certain=0.67)


def make_person(number: int) -> Person:
    samples = tuple(
        PhotographTemplate(b"photo%d-%d" % (number, one), b"t%d-%d" % (number, one))
        for one in (0, 1)
    )
    return Person(number, samples, np.array([[1, 0.8], [0.8, 1]]))


def make_holder(number: int) -> Holder:
    person = make_person(number)
    return Holder(
        person=person,
        second=person.first.swap(),
        fused_score=1.0,
        probe=person.samples[0],
        passport=SPECIMENS.passport(number),
        document_id=f"document-{number}",
        tokens=(b"one", b"two"),
    )


def make_participants(**changes: Any) -> LoadParticipants:
    """Four holders, twenty newcomers, four racers, two outsiders."""
    holders = tuple(make_holder(number) for number in range(4))
    participants = LoadParticipants(
        thresholds=THRESHOLDS,
        holders=holders,
        impostor_pairs=(ImpostorPair(holders[0], holders[1]),),
        newcomers=tuple(make_person(number) for number in range(100, 120)),
        racers=tuple(make_person(number) for number in range(200, 204)),
        outsiders=tuple(make_person(number) for number in range(300, 302)),
        had_references=False,
        dropped={},
        expires_at=datetime.max.replace(tzinfo=UTC),
    )
    return replace(participants, **changes)


def make_visit(number: int = 1, kind: Kind = Kind.NEWCOMER, **changes: Any) -> Visit:
    pair = make_person(changes.get("person") or 0).first
    call: Any = enroll(f"key-{number}", SPECIMENS.passport(number), pair, SPECIMENS.msisdn(number))
    traffic, expected = Traffic.ENROLL, changes.pop("expected", NEW)
    if kind in (Kind.KNOWN, Kind.UNKNOWN):
        call, traffic = search(b"photo"), Traffic.SEARCH
    if kind in (Kind.MATED, Kind.STRANGERS):
        call, traffic = match(b"a", b"b"), Traffic.MATCH
    return replace(Visit(number, float(number), traffic, kind, call, expected), **changes)


def make_outcome(
    visit: Visit, answer: Answer, *, started_s: float | None = None, latency_s: float = 0.1
) -> Outcome:
    started = visit.due_s if started_s is None else started_s
    return Outcome(visit, started, visit.due_s + latency_s, answer)


def decided(decision: str, *reasons: str, **changes: Any) -> Answer:
    answer = Answer(201, decision=decision, reasons=reasons, enrollment_id="e", document_id="d")
    return replace(answer, **changes)


def make_step(rate: float, outcomes: list[Outcome]) -> LoadStep:
    """A judged step of ten seconds."""
    phases = (LoadPhase("knee", 10, rate),)
    run, judged = LoadRun(tuple(outcomes), 10, 0.1, f"page of {rate:g}"), tuple(judge(outcomes))
    return LoadStep(rate, phases, run, judged, decide(run, judged, phases, Objective()))


def make_result(*steps: LoadStep, knee: Knee | None = None, **options: Any) -> LoadTestResult:
    shape = Shape.STEADY if knee is None else Shape.KNEE
    usual = {one.name: one.default.default for one in fields(LoadOptions)}
    made = LoadTestOptions(
        given=LoadOptions(**usual | options),
        shape=shape,
        profile=DEFAULT_PROFILES[shape],
        mix=DEFAULT_MIX,
        objective=Objective(),
    )
    return LoadTestResult(
        options=made,
        url="http://127.0.0.1:1",
        version="0",
        model_digest="0" * 64,
        dataset="people",
        participants=make_participants(),
        steps=steps,
        knee=knee,
        begun=datetime(2026, 11, 25, tzinfo=UTC),
        seconds=11,
        left_enrolled=0,
    )
