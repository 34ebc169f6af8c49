"""Every route of the service as a call: what to send, and what the answer is."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from serving.client import models

# What is sent: photographs, templates, documents, activations.


@dataclass(frozen=True, slots=True)
class Template:
    """A template that the service issued."""

    token: bytes = field(repr=False)


Face = bytes | Template
"""A photograph's file (JPEG, PNG, WebP), or a template of one."""


@dataclass(frozen=True, slots=True)
class KnownDocument:
    """A document that is looked up."""

    type: str
    number: str = field(repr=False)

    def write(self) -> dict[str, Any]:
        return {"type": self.type, "number": self.number}


@dataclass(frozen=True, slots=True)
class Document:
    """A document in somebody's hands."""

    type: str
    number: str = field(repr=False)
    name: str = field(repr=False)
    expires_on: date | None = None

    def write(self) -> dict[str, Any]:
        expires_on = None if self.expires_on is None else self.expires_on.isoformat()
        return {
            "type": self.type,
            "number": self.number,
            "name": self.name,
            "expires_on": expires_on,
        }


def make_idempotency_key() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One activation attempt. `captured_at` has a time zone.

    `idempotency_key` is there before anything is sent: keep it, and an activation that was cut
    short is asked for again, or found, by it. An outlet's own key may leave out `outlet`.
    """

    document: Document
    msisdn: str = field(repr=False)
    live: bytes = field(repr=False)
    portrait: bytes = field(repr=False)
    consent_ref: str
    captured_at: datetime
    outlet: str | None = None
    idempotency_key: str = field(default_factory=make_idempotency_key)

    def write(self) -> dict[str, Any]:
        body = {
            "document": self.document.write(),
            "msisdn": self.msisdn,
            "live": self.live,
            "portrait": self.portrait,
            "consent_ref": self.consent_ref,
            "captured_at": self.captured_at.isoformat(),
        }
        return body if self.outlet is None else {**body, "outlet": self.outlet}


@dataclass(frozen=True, slots=True)
class MatchItem:
    """A probe against a reference (1:1), against the gallery (`search`), or both."""

    probe: Face = field(repr=False)
    reference: Face | None = field(default=None, repr=False)
    search: bool = False
    id: str | None = None

    def write(self) -> dict[str, Any]:
        item: dict[str, Any] = {"probe": write_face(self.probe)}
        if self.reference is not None:
            item["reference"] = write_face(self.reference)
        if self.search:
            item["search"] = True
        if self.id is not None:
            item["id"] = self.id
        return item


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTerms:
    """A threshold, the false match rate that chooses one, or neither for the proposed one.

    `scope` is `all`, or `new` for what the last sweep did not cover.
    """

    threshold: float | None = None
    fmr: float | None = None
    scope: str = "all"
    allow_unsupported: bool = False

    def write(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "fmr": self.fmr,
            "scope": self.scope,
            "allow_unsupported": self.allow_unsupported,
        }


@dataclass(frozen=True, slots=True)
class Options:
    """What one call may have of its own.

    `correlator` names it in the logs of both sides and is made where there is none; `timeout_s` is
    the time for all attempts together; `traceparent` is the W3C header of the caller's span.
    """

    correlator: str | None = None
    timeout_s: float | None = None
    traceparent: str | None = None


def write_face(face: Face) -> dict[str, bytes]:
    return {"template": face.token} if isinstance(face, Template) else {"image": face}


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call. All of them may be sent again: an enrollment has its key, the rest store nothing
    or come to the same. `answered` are the statuses whose body is a `kind`."""

    kind: type[T]
    method: str
    path: str = field(repr=False)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    idempotency_key: str | None = None
    answered: frozenset[int] = frozenset({200, 201})


def enroll(activation: Activation) -> Call[models.Enrollment]:
    return Call(
        models.Enrollment,
        "POST",
        "/v1/enrollments",
        activation.write(),
        activation.idempotency_key,
    )


def read_enrollment(enrollment_id: str) -> Call[models.EnrollmentRecord]:
    return Call(models.EnrollmentRecord, "GET", f"/v1/enrollments/{step_of(enrollment_id)}")


def find_enrollment(idempotency_key: str) -> Call[models.Enrollment]:
    query = urlencode({"idempotency_key": idempotency_key})
    return Call(models.Enrollment, "GET", f"/v1/enrollments?{query}")


def match(items: Sequence[MatchItem]) -> Call[models.MatchAnswer]:
    body = {"items": [item.write() for item in items]}
    return Call(models.MatchAnswer, "POST", "/v1/match", body)


def make_templates(images: Sequence[bytes]) -> Call[models.Templates]:
    body = {"items": [{"image": image} for image in images]}
    return Call(models.Templates, "POST", "/v1/templates", body)


def verify(
    probe: Face,
    *,
    reference: Face | None,
    line: str | None,
    document: KnownDocument | None,
    document_id: str | None,
) -> Call[models.Verification]:
    body: dict[str, Any] = {"probe": write_face(probe)}
    if reference is not None:
        body["reference"] = write_face(reference)
    if line is not None:
        body["line"] = line
    if document is not None:
        body["document"] = document.write()
    if document_id is not None:
        body["document_id"] = document_id
    return Call(models.Verification, "POST", "/v1/verifications", body)


def identify(probe: Face, threshold: float | None) -> Call[models.Identification]:
    body: dict[str, Any] = {"probe": write_face(probe)}
    if threshold is not None:
        body["threshold"] = threshold
    return Call(models.Identification, "POST", "/v1/identifications", body)


def query_lines(document: KnownDocument, probe: Face) -> Call[models.HolderLines]:
    body = _holder(document, probe)
    return Call(models.HolderLines, "POST", "/v1/lines/query", body)


def dispute(line: str, document: KnownDocument, probe: Face) -> Call[models.Dispute]:
    body = _holder(document, probe)
    return Call(models.Dispute, "POST", f"/v1/lines/{step_of(line)}/dispute", body)


def close_line(line: str) -> Call[models.ClosedLine]:
    return Call(models.ClosedLine, "DELETE", f"/v1/lines/{step_of(line)}")


def erase(document_id: str) -> Call[models.ErasureCertificate]:
    return Call(models.ErasureCertificate, "DELETE", f"/v1/documents/{step_of(document_id)}")


def ready() -> Call[models.Readiness]:
    # Not being ready is an answer, too.
    return Call(models.Readiness, "GET", "/health/ready", answered=frozenset({200, 503}))


def version() -> Call[models.Version]:
    return Call(models.Version, "GET", "/version")


def whose_key() -> Call[models.KeyHolder]:
    return Call(models.KeyHolder, "GET", "/v1/me")


def _holder(document: KnownDocument, probe: Face) -> dict[str, Any]:
    return {"document": document.write(), "probe": write_face(probe)}


def step_of(text: str) -> str:
    """One step of a path, whatever the text holds."""
    if text in {"", ".", ".."}:
        raise ValueError("give the id, or the number, of what is meant")
    return quote(text, safe="")


# The routes of fraud teams and operators as calls; `calls` has those of everybody.


def search_people(
    probe: Face | None, document: KnownDocument | None, msisdn: str | None
) -> Call[models.People]:
    body: dict[str, Any] = {}
    if probe is not None:
        body["probe"] = write_face(probe)
    if document is not None:
        body["document"] = document.write()
    if msisdn is not None:
        body["msisdn"] = msisdn
    return Call(models.People, "POST", "/v1/people/search", body)


def read_document(document_id: str) -> Call[models.Person]:
    return Call(models.Person, "GET", f"/v1/documents/{step_of(document_id)}")


def read_crops(enrollment_id: str) -> Call[models.Crops]:
    return Call(models.Crops, "GET", f"/v1/enrollments/{step_of(enrollment_id)}/crops")


def list_cases(
    state: str | None, kind: str | None, assignee: str | None, after: str | None, limit: int
) -> Call[models.CasePage]:
    asked = {"state": state, "kind": kind, "assignee": assignee, "after": after, "limit": limit}
    return Call(models.CasePage, "GET", f"/v1/cases{_query(asked)}")


def read_case(case_id: str) -> Call[models.CaseFile]:
    return Call(models.CaseFile, "GET", f"/v1/cases/{step_of(case_id)}")


def assign_case(case_id: str, assignee: str | None) -> Call[models.CaseRow]:
    return _step_case(case_id, "assign", {"assignee": assignee})


def note_case(case_id: str, text: str) -> Call[models.CaseRow]:
    return _step_case(case_id, "notes", {"text": text})


def propose_outcome(
    case_id: str, outcome: str, close_lines: Sequence[str], seen_at: datetime | None
) -> Call[models.CaseRow]:
    return _step_case(case_id, "propose", _write_outcome(outcome, close_lines, seen_at))


def withdraw_proposal(case_id: str) -> Call[models.CaseRow]:
    return _step_case(case_id, "withdraw", None)


def close_case(
    case_id: str, outcome: str, close_lines: Sequence[str], seen_at: datetime | None
) -> Call[models.CaseRow]:
    return _step_case(case_id, "close", _write_outcome(outcome, close_lines, seen_at))


def measure_precision(sweep_id: str | None) -> Call[models.Precision]:
    return Call(models.Precision, "GET", f"/v1/precision{_query({'sweep_id': sweep_id})}")


def expect_sweep(terms: SweepTerms) -> Call[models.Expectation]:
    body = {**terms.write(), "dry_run": True}
    return Call(models.Expectation, "POST", "/v1/sweeps", body)


def start_sweep(terms: SweepTerms) -> Call[models.Sweep]:
    return Call(models.Sweep, "POST", "/v1/sweeps", terms.write())


def list_sweeps(limit: int) -> Call[models.Sweeps]:
    return Call(models.Sweeps, "GET", f"/v1/sweeps{_query({'limit': limit})}")


def read_sweep(sweep_id: str) -> Call[models.Sweep]:
    return Call(models.Sweep, "GET", f"/v1/sweeps/{step_of(sweep_id)}")


def steer_sweep(sweep_id: str, steering: str) -> Call[models.Sweep]:
    return Call(models.Sweep, "POST", f"/v1/sweeps/{step_of(sweep_id)}/{steering}")


def list_groups(sweep_id: str, after: int, limit: int) -> Call[models.GroupPage]:
    query = _query({"after": after, "limit": limit})
    return Call(models.GroupPage, "GET", f"/v1/sweeps/{step_of(sweep_id)}/groups{query}")


def read_group(sweep_id: str, key: str) -> Call[models.Group]:
    path = f"/v1/sweeps/{step_of(sweep_id)}/groups/{step_of(key)}"
    return Call(models.Group, "GET", path)


def read_thresholds() -> Call[models.CalibratedThresholds]:
    return Call(models.CalibratedThresholds, "GET", "/v1/thresholds")


def read_audit(
    after: int | None, limit: int, action: str | None, actor: str | None, subject: str | None
) -> Call[models.AuditPage]:
    asked = {"after": after, "limit": limit, "action": action, "actor": actor, "subject": subject}
    return Call(models.AuditPage, "GET", f"/v1/audit{_query(asked)}")


def verify_audit(after: int) -> Call[models.ChainPart]:
    return Call(models.ChainPart, "GET", f"/v1/audit/verification{_query({'after': after})}")


def _step_case(case_id: str, name: str, body: dict[str, Any] | None) -> Call[models.CaseRow]:
    return Call(models.CaseRow, "POST", f"/v1/cases/{step_of(case_id)}/{name}", body)


def _write_outcome(
    outcome: str, close_lines: Sequence[str], seen_at: datetime | None
) -> dict[str, Any]:
    body: dict[str, Any] = {"outcome": outcome, "close_lines": list(close_lines)}
    return body if seen_at is None else body | {"seen_at": seen_at.isoformat()}


def _query(asked: dict[str, Any]) -> str:
    given = {name: value for name, value in asked.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
