"""People as fraud teams look for them: by face, document or number; shown masked."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from serving.wire.cases import Case
from serving.wire.enrollments import Decision, Reason
from serving.wire.fields import (
    AnswerBody,
    Id,
    KnownDocument,
    Moment,
    Msisdn,
    PrivateAnswer,
    RequestBody,
    Score,
)
from serving.wire.lines import Line
from serving.wire.matching import ExpectedFalseCandidates, Face

MAX_CANDIDATES = 50
MAX_ATTEMPTS = 20


class IdentificationRequest(RequestBody, frozen=True):
    """A probe; a threshold below the deployment's for review is refused."""

    probe: Face
    threshold: Annotated[
        Score | None, Meta(description="the deployment's threshold for review where not given")
    ] = None


class OpenCase(AnswerBody, frozen=True):
    """A case in short."""

    id: str
    kind: str
    score: float | None
    opened_at: Moment


class IdentifiedHolder(AnswerBody, frozen=True):
    """The holder of one document; `score` is that of its best reference."""

    document_id: str
    document_status: str
    score: float
    lines: Annotated[tuple[Line, ...], Meta(description="in use, of all carriers")]
    cases: Annotated[
        tuple[OpenCase, ...], Meta(description="open ones that name the document, newest first")
    ]


class Identification(AnswerBody, frozen=True):
    """Every holder at or above the threshold; an empty list is a true "nobody"."""

    candidates: Annotated[
        tuple[IdentifiedHolder, ...],
        Meta(description=f"best first, one for each document, {MAX_CANDIDATES} at most"),
    ]
    found: Annotated[int, Meta(description="documents, listed or not")]
    searched: Annotated[int, Meta(description="references in the gallery that was searched")]
    gallery_sequence: int
    threshold: float
    expected_false_candidates: ExpectedFalseCandidates | None


class PeopleRequest(RequestBody, frozen=True):
    """Exactly one of a face, a document and a telephone number."""

    probe: Face | None = None
    document: KnownDocument | None = None
    msisdn: Msisdn | None = None

    def __post_init__(self) -> None:
        RequestBody.__post_init__(self)
        given = (self.probe, self.document, self.msisdn)
        if sum(one is not None for one in given) != 1:
            raise ValueError("give exactly one of probe, document and msisdn")


class Attempt(AnswerBody, frozen=True):
    """An enrollment in short; `GET /v1/enrollments/{id}` has scores and evidence."""

    enrollment_id: Id
    carrier: str
    outlet: str
    decision: Decision
    reasons: tuple[Reason, ...]
    decided_at: Moment


class Person(PrivateAnswer, frozen=True):
    """What stands under one document, with name and numbers masked; a closed line has none."""

    document_id: Id
    document_type: str
    document_status: str
    number: Annotated[str, Meta(examples=["••••••••••••••1239"])]
    name: Annotated[str, Meta(examples=["A••••• P••••"])]
    score: Annotated[
        float | None, Meta(description="of its best reference; null where no face was asked")
    ]
    lines: tuple[Line, ...]
    enrollments: Annotated[
        tuple[Attempt, ...], Meta(description=f"the {MAX_ATTEMPTS} newest, newest first")
    ]
    cases: Annotated[tuple[Case, ...], Meta(description="that name the document, newest first")]


class People(AnswerBody, frozen=True):
    """Who was found; an empty list is a true "nobody". Lines in use and open cases alone."""

    people: Annotated[tuple[Person, ...], Meta(description=f"best first, {MAX_CANDIDATES} at most")]
    found: Annotated[int, Meta(description="documents, listed or not")]
    searched: Annotated[
        int | None, Meta(description="references in the gallery; null but for a face")
    ]
    gallery_sequence: int | None
    threshold: float | None
    expected_false_candidates: ExpectedFalseCandidates | None
