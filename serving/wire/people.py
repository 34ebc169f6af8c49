"""People as fraud teams look for them: by face, document or number; shown masked, and with the
faces that are kept of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from schema.decisions import Interval
from schema.people import DeathSource, DeathStep
from serving.wire.cases import Case
from serving.wire.enrollments import ShownDecision, ShownReason, WhichPhotograph
from serving.wire.fields import (
    AnswerBody,
    Id,
    KnownDocument,
    Moment,
    Msisdn,
    PrivateAnswer,
    RequestBody,
    Score,
    about,
    known,
)
from serving.wire.lines import Line
from serving.wire.matching import ExpectedFalseCandidates, Face, Search

MAX_CANDIDATES = 50
MAX_ATTEMPTS = 20
MAX_DOCUMENTS = 8
MAX_FACES = 12


class IdentificationRequest(RequestBody):
    """A probe; a threshold below the deployment's for review is refused."""

    probe: Face
    threshold: Annotated[
        Score | None, about("the deployment's threshold for review where not given")
    ] = None


class OpenCase(AnswerBody):
    """A case in short."""

    id: str
    kind: str
    score: float | None
    opened_at: Moment


class IdentifiedHolder(AnswerBody):
    """The holder of one document; `score` is that of its best reference."""

    document_id: str
    document_status: str
    score: float
    lines: Annotated[tuple[Line, ...], about("in use, of all carriers")]
    cases: Annotated[tuple[OpenCase, ...], about("open ones that name the document, newest first")]


class Identification(Search):
    """Every holder at or above the threshold; an empty list is a true "nobody"."""

    candidates: Annotated[
        tuple[IdentifiedHolder, ...],
        about(f"best first, one for each document, {MAX_CANDIDATES} at most"),
    ]
    found: Annotated[int, about("documents, listed or not")]


class PeopleRequest(RequestBody):
    """Exactly one of a face, a document and a telephone number."""

    probe: Face | None = None
    document: KnownDocument | None = None
    msisdn: Msisdn | None = None

    def __post_init__(self) -> None:
        RequestBody.__post_init__(self)
        given = (self.probe, self.document, self.msisdn)
        if sum(one is not None for one in given) != 1:
            raise ValueError("give exactly one of probe, document and msisdn")


class Attempt(AnswerBody):
    """An enrollment in short; `GET /v1/enrollments/{id}` has scores and evidence."""

    enrollment_id: Id
    carrier: str
    outlet: str
    decision: ShownDecision
    reasons: tuple[ShownReason, ...]
    decided_at: Moment


class Person(PrivateAnswer):
    """What stands under one document, with name and numbers masked; a closed line has none."""

    document_id: Id
    document_type: str
    document_status: str
    number: Annotated[str, Meta(examples=["••••••••••••••1239"])]
    name: Annotated[str, Meta(examples=["A••••• P••••"])]
    score: Annotated[float | None, about("of its best reference; null where no face was asked")]
    lines: tuple[Line, ...]
    enrollments: Annotated[tuple[Attempt, ...], about(f"the {MAX_ATTEMPTS} newest, newest first")]
    cases: Annotated[tuple[Case, ...], about("that name the document, newest first")]
    erasure_asked_at: Moment | None
    erasure_due_at: Annotated[Moment | None, about("it waits for open cases, and is done by then")]
    withdrawn: Annotated[
        Mapping[str, Moment], about("by carrier since when its consent to the face is withdrawn")
    ]


class People(AnswerBody):
    """Who was found; an empty list is a true "nobody". Lines in use and open cases alone."""

    people: Annotated[tuple[Person, ...], about(f"best first, {MAX_CANDIDATES} at most")]
    found: Annotated[int, about("documents, listed or not")]
    searched: Annotated[int | None, about("references in the gallery; null but for a face")]
    gallery_sequence: int | None
    threshold: float | None
    expected_false_candidates: ExpectedFalseCandidates | None


class DeathRequest(RequestBody):
    """A step on a holder who is reported dead; a report names where it comes from."""

    step: Annotated[
        DeathStep,
        about(
            "`report` holds at once; another person confirms it, which closes the lines. One "
            "contests a report, and another lifts it"
        ),
    ]
    source: DeathSource | None = None

    def __post_init__(self) -> None:
        RequestBody.__post_init__(self)
        if (self.step == DeathStep.REPORT) != (self.source is not None):
            raise ValueError("source: a report names where it comes from, no other step does")


class Death(AnswerBody):
    """What is reported of a document's holder, with who did what."""

    document_id: Id
    state: Annotated[str, known("reported", "confirmed", "lifted")]
    source: str
    reported_at: Moment
    reported_person: str
    confirmed_at: Moment | None
    contested_at: Moment | None
    contested_person: str | None
    lifted_at: Moment | None


class FacesRequest(RequestBody):
    """Whose faces; of a larger group a few at a time."""

    document_ids: Annotated[
        tuple[Annotated[str, Meta(min_length=36, max_length=36)], ...],
        Meta(min_length=1, max_length=MAX_DOCUMENTS),
    ]

    def __post_init__(self) -> None:
        if any("\0" in one for one in self.document_ids):
            raise ValueError("document_ids holds characters that are no text")


class ShownPhotograph(PrivateAnswer):
    """An aligned face of 112 by 112 pixels, as it was compared."""

    photograph: WhichPhotograph
    image: Annotated[bytes, about("JPEG or PNG: base64 in JSON, binary in MessagePack")]
    quality: Annotated[dict[str, float] | None, about("null of one kept before it was noted")]


class FaceSubject(PrivateAnswer):
    """Whom a document's reference shows, or an attempt under it, who may be somebody else."""

    subject_id: Annotated[Id, about("the attempt's id; the document's where there is no attempt")]
    document_id: Id
    document_status: str
    is_reference: Annotated[bool, about("the document's reference was made of these")]
    enrollment_id: Annotated[str | None, about("null of an imported reference")]
    decision: ShownDecision | None
    captured_at: Annotated[
        Moment | None, about("when the live photograph was taken, where that was told")
    ]
    received_at: Moment | None
    kept_until: Annotated[Moment | None, about("null where no face is kept")]
    photographs: Annotated[
        tuple[ShownPhotograph, ...],
        about("`live` before `portrait`; empty where none is kept, or not any more"),
    ]


class StrangersAlike(Interval, AnswerBody):
    """The share of pairs of strangers that score as high, with its 95 % interval; beyond what was
    measured `is_bound`: at most `value`."""


class Likeness(AnswerBody):
    """How alike two subjects are; two attempts are not compared."""

    left: Id
    right: Id
    score: float
    strangers: Annotated[StrangersAlike | None, about("null without a calibration of the model")]


class Faces(AnswerBody):
    """Who is shown, in the order of the documents asked for, and how alike each two are."""

    subjects: tuple[FaceSubject, ...]
    likenesses: tuple[Likeness, ...]


class SubjectRequest(RequestBody):
    """Whose data, and why they are read."""

    document: KnownDocument
    reason: Annotated[
        str,
        about("in words, without names: the audit chain keeps it", min_length=1, max_length=200),
    ]
    language: Annotated[
        Literal["en", "zh", "ko"] | None, about("of a page for the person; none where not given")
    ] = None


class Subject(PrivateAnswer):
    """All that is kept of a document's holder, as they may have it; other people are `masked`."""

    document_ids: Annotated[tuple[Id, ...], about("with those that replaced one another")]
    damaged: Annotated[Mapping[str, int], about("rows that are left out, by table")]
    records: Annotated[Mapping[str, tuple[dict[str, Any], ...]], about("by table")]
    audit: Annotated[tuple[dict[str, Any], ...], about("who has looked, and what was done")]
    html: Annotated[bytes | None, about("the page: base64 in JSON, binary in MessagePack")]
