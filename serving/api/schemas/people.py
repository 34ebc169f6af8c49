"""People as fraud teams look for them: by face, document or number; shown masked."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from engine.reasons import Decision, Reason
from serving.api.fields import ID_EXAMPLE, IMAGE_EXAMPLE, Body, Msisdn, Shown
from serving.api.schemas.cases import CaseShown
from serving.api.schemas.documents import KnownDocument
from serving.api.schemas.identifications import MAX_CANDIDATES
from serving.api.schemas.lines import LineShown
from serving.api.schemas.matching import ExpectedFalseCandidates, Face

MOST_ATTEMPTS = 20


class PeopleBody(Body):
    """Exactly one of a face, a document and a telephone number."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"probe": {"image": IMAGE_EXAMPLE}},
                {"document": {"type": "cn-ric", "number": "110105199003071239"}},
                {"msisdn": "+8613800138000"},
            ]
        }
    )

    probe: Face | None = Field(default=None, repr=False)
    document: KnownDocument | None = None
    msisdn: Msisdn | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        given = (self.probe, self.document, self.msisdn)
        if sum(one is not None for one in given) != 1:
            raise ValueError("give exactly one of probe, document and msisdn")
        return self


class AttemptShown(Shown):
    """An enrollment in short; `GET /v1/enrollments/{id}` has scores and evidence."""

    enrollment_id: str = Field(examples=[ID_EXAMPLE])
    carrier: str
    outlet: str
    decision: Decision
    reasons: list[Reason]
    decided_at: datetime


class PersonShown(Shown):
    """What stands under one document, with name and numbers masked."""

    document_id: str = Field(examples=[ID_EXAMPLE])
    document_type: str
    document_status: str
    number: str = Field(examples=["••••••••••••••1239"])
    name: str = Field(examples=["A••••• P••••"])
    score: float | None = Field(description="of its best reference; null where no face was asked")
    lines: list[LineShown]
    enrollments: list[AttemptShown] = Field(description=f"the {MOST_ATTEMPTS} newest, newest first")
    cases: list[CaseShown] = Field(description="that name the document, newest first")


class PeopleAnswer(Shown):
    """Whom was found; an empty list is a true "nobody". Lines in use and open cases alone."""

    people: list[PersonShown] = Field(description=f"best first, {MAX_CANDIDATES} at most")
    found: int = Field(description="documents, listed or not")
    searched: int | None = Field(description="references in the gallery; null but for a face")
    gallery_sequence: int | None
    threshold: float | None
    expected_false_candidates: ExpectedFalseCandidates | None


class DocumentAnswer(PersonShown):
    """The same with closed lines, whose numbers are null, and closed cases."""
