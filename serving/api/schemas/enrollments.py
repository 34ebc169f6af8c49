"""One activation: what is sent, what is decided, what is on record of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from engine.matching.requests import MAX_CONSENT_LENGTH
from engine.reasons import Decision, Reason
from serving.api.fields import ID_EXAMPLE, IMAGE_EXAMPLE, Body, Code, Moment, Msisdn, Shown, Text
from serving.api.schemas.documents import PresentedDocument
from serving.api.schemas.matching import Candidate, ExpectedFalseCandidates, Photograph

MAX_AHEAD_MIN = 10
MAX_AGE_H = 24


class EnrollmentBody(Body):
    """One activation attempt: two photographs, a document, a number."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "outlet": "b1",
                    "document": {
                        "type": "cn-ric",
                        "number": "110105199003071239",
                        "name": "Aileen Probe",
                        "expires_on": "2036-01-31",
                    },
                    "msisdn": "+8613800138000",
                    "live": IMAGE_EXAMPLE,
                    "portrait": IMAGE_EXAMPLE,
                    "consent_ref": "C-2026-000417",
                    "captured_at": "2026-01-31T12:00:00Z",
                }
            ]
        }
    )

    outlet: Code | None = Field(
        default=None, description="may be left out by an outlet's own key, and by no other"
    )
    document: PresentedDocument
    msisdn: Msisdn = Field(repr=False)
    live: Photograph = Field(repr=False, description="taken now, base64 in JSON")
    portrait: Photograph = Field(repr=False, description="the document's, base64 in JSON")
    consent_ref: Annotated[Text, Field(min_length=1, max_length=MAX_CONSENT_LENGTH)] = Field(
        description="where the subscriber's consent is on file"
    )
    captured_at: Moment = Field(
        description="when the live photograph was taken, with a time zone: at most "
        f"{MAX_AGE_H} hours ago and {MAX_AHEAD_MIN} minutes ahead (REQUEST.CAPTURE_TIME)"
    )


class Finding(Shown):
    """A row of the decision table that applied; of a photograph where it names one."""

    reason: Reason
    decision: Decision
    photograph: Literal["live", "portrait"] | None = None


class Scores(Shown):
    """Cosines; null where that was not compared."""

    live_portrait: float | None
    holder: float | None = Field(
        description="against the references of the same document; null to a tenant where another "
        "face holds it"
    )
    best_candidate: float | None = Field(description="of the duplicate search")


class ThresholdsShown(Shown):
    """The scores that the decision depended on."""

    verify: float
    same_document: float
    review: float
    certain: float


class DuplicateSearch(Shown):
    """The 1:N search; where it did not run, the answer says so."""

    ran: bool
    searched: int | None = Field(default=None, description="references that were looked at")
    gallery_sequence: int | None = None
    candidates: list[Candidate] | None = None
    expected_false_candidates: ExpectedFalseCandidates | None = None


class CaseShown(Shown):
    id: str
    kind: str


class EnrollmentAnswer(Shown):
    """The whole decision, durable and visible to every later search."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "enrollment_id": ID_EXAMPLE,
                    "decision": "approved",
                    "reasons": [],
                    "scores": {"live_portrait": 0.8123, "holder": None, "best_candidate": None},
                    "thresholds": {
                        "verify": 0.3637,
                        "same_document": 0.3637,
                        "review": 0.5102,
                        "certain": 0.67,
                    },
                    "duplicate_search": {
                        "ran": True,
                        "searched": 100000,
                        "gallery_sequence": 100412,
                        "candidates": [],
                        "expected_false_candidates": {
                            "value": 0.1,
                            "low": 0.05,
                            "high": 0.2,
                            "is_bound": False,
                        },
                    },
                    "cases": [],
                    "document_id": ID_EXAMPLE,
                    "line_id": ID_EXAMPLE,
                    "quality": {"live": {"sharpness": 212.0}, "portrait": {"sharpness": 187.0}},
                    "model_digest": "2b0e6f",
                    "policy_version": "1",
                    "decided_at": "2026-01-31T12:00:01+00:00",
                    "idempotency_key": "5c0fbe8a-1ad5-4b1f-9c0f-6e6c1f2d9a10",
                    "is_repeated": False,
                }
            ]
        }
    )

    enrollment_id: str
    decision: Decision
    reasons: list[Finding]
    scores: Scores
    thresholds: ThresholdsShown
    duplicate_search: DuplicateSearch
    cases: list[CaseShown]
    document_id: str | None = Field(description="null to a tenant where it was rejected")
    line_id: str | None
    quality: dict[str, dict[str, float]]
    model_digest: str
    policy_version: str
    decided_at: datetime
    idempotency_key: str
    is_repeated: bool = Field(description="true for the stored answer of an earlier request")


class EnrollmentRecordAnswer(Shown):
    """What is on record of an enrollment: the decision and its evidence, no name, no number."""

    enrollment_id: str
    carrier: str
    outlet: str
    decision: Decision
    reasons: list[Finding]
    scores: Scores
    thresholds: ThresholdsShown
    duplicate_search: DuplicateSearch
    document_id: str | None = Field(description="null to a tenant where it was rejected")
    quality: dict[str, dict[str, float]]
    model_digest: str
    policy_version: str
    consent_ref: str | None
    captured_at: datetime | None
    decided_at: datetime
    expired_at: datetime | None = Field(
        description="since when scores, candidates, consent and capture time are gone by retention"
    )
