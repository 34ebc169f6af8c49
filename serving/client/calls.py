"""Every route of the service as a call: what to send, and what the answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from serving.client import answers, decisions
from serving.client.requests import (
    Activation,
    Face,
    KnownDocument,
    MatchItem,
    write_face,
)

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


def enroll(activation: Activation) -> Call[decisions.Enrollment]:
    return Call(
        decisions.Enrollment,
        "POST",
        "/v1/enrollments",
        activation.write(),
        activation.idempotency_key,
    )


def read_enrollment(enrollment_id: str) -> Call[decisions.EnrollmentRecord]:
    return Call(decisions.EnrollmentRecord, "GET", f"/v1/enrollments/{step_of(enrollment_id)}")


def find_enrollment(idempotency_key: str) -> Call[decisions.Enrollment]:
    query = urlencode({"idempotency_key": idempotency_key})
    return Call(decisions.Enrollment, "GET", f"/v1/enrollments?{query}")


def match(items: Sequence[MatchItem]) -> Call[answers.MatchAnswer]:
    body = {"items": [item.write() for item in items]}
    return Call(answers.MatchAnswer, "POST", "/v1/match", body)


def make_templates(images: Sequence[bytes]) -> Call[answers.Templates]:
    body = {"items": [{"image": image} for image in images]}
    return Call(answers.Templates, "POST", "/v1/templates", body)


def verify(
    probe: Face,
    *,
    reference: Face | None,
    line: str | None,
    document: KnownDocument | None,
    document_id: str | None,
) -> Call[answers.Verification]:
    body: dict[str, Any] = {"probe": write_face(probe)}
    if reference is not None:
        body["reference"] = write_face(reference)
    if line is not None:
        body["line"] = line
    if document is not None:
        body["document"] = document.write()
    if document_id is not None:
        body["document_id"] = document_id
    return Call(answers.Verification, "POST", "/v1/verifications", body)


def identify(probe: Face, threshold: float | None) -> Call[answers.Identification]:
    body: dict[str, Any] = {"probe": write_face(probe)}
    if threshold is not None:
        body["threshold"] = threshold
    return Call(answers.Identification, "POST", "/v1/identifications", body)


def query_lines(document: KnownDocument, probe: Face) -> Call[answers.HolderLines]:
    body = _holder(document, probe)
    return Call(answers.HolderLines, "POST", "/v1/lines/query", body)


def dispute(line: str, document: KnownDocument, probe: Face) -> Call[answers.Dispute]:
    body = _holder(document, probe)
    return Call(answers.Dispute, "POST", f"/v1/lines/{step_of(line)}/dispute", body)


def close_line(line: str) -> Call[answers.ClosedLine]:
    return Call(answers.ClosedLine, "DELETE", f"/v1/lines/{step_of(line)}")


def erase(document_id: str) -> Call[answers.ErasureCertificate]:
    return Call(answers.ErasureCertificate, "DELETE", f"/v1/documents/{step_of(document_id)}")


def ready() -> Call[answers.Readiness]:
    # Not being ready is an answer, too.
    return Call(answers.Readiness, "GET", "/health/ready", answered=frozenset({200, 503}))


def version() -> Call[answers.Version]:
    return Call(answers.Version, "GET", "/version")


def whose_key() -> Call[answers.KeyHolder]:
    return Call(answers.KeyHolder, "GET", "/v1/me")


def _holder(document: KnownDocument, probe: Face) -> dict[str, Any]:
    return {"document": document.write(), "probe": write_face(probe)}


def step_of(text: str) -> str:
    """One step of a path, whatever the text holds."""
    if text in {"", ".", ".."}:
        raise ValueError("give the id, or the number, of what is meant")
    return quote(text, safe="")
