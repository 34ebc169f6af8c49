"""Every endpoint of the service, once: what to send where, and what the answer is."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType, NoneType
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from serving.wire import cases, enrollments, lines, matching, oversight, people, sweeps
from serving.wire.fields import Moment, Template, encode_msgpack

B = TypeVar("B")
T = TypeVar("T")

NO_QUERY: Mapping[str, str | int | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[B, T]):
    """A method and a path with a `{}` for each id; in `answered` statuses the body is an `answer`.

    Every call may be sent again: an enrollment has its key, the rest store nothing or come to the
    same.
    """

    method: str
    path: str
    body: type[B]
    answer: type[T]
    answered: frozenset[int] = frozenset({200, 201})

    def __call__(
        self,
        *ids: str,
        body: B | None = None,
        query: Mapping[str, str | int | None] = NO_QUERY,
        key: str | None = None,
    ) -> Call[T]:
        """One call; of the query, what is None is left out."""
        asked = {name: value for name, value in query.items() if value is not None}
        path = self.path.format(*map(quote_id, ids)) + (f"?{urlencode(asked)}" if asked else "")
        return Call(self, path, None if body is None else encode_msgpack(body), key)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """What is sent to an endpoint; the content is MessagePack."""

    endpoint: Endpoint[Any, T]
    path: str = field(repr=False)
    content: bytes | None = field(default=None, repr=False)
    idempotency_key: str | None = None


def quote_id(text: str) -> str:
    """One step of a path, whatever the text holds."""
    if text in {"", ".", ".."}:
        raise ValueError("give the id, or the number, of what is meant")
    return quote(text, safe="")


enroll = Endpoint("POST", "/v1/enrollments", enrollments.EnrollmentRequest, enrollments.Enrollment)
find_enrollment = Endpoint("GET", "/v1/enrollments", NoneType, enrollments.Enrollment)
read_enrollment = Endpoint("GET", "/v1/enrollments/{}", NoneType, enrollments.EnrollmentRecord)
read_crops = Endpoint("GET", "/v1/enrollments/{}/crops", NoneType, enrollments.Crops)
match = Endpoint("POST", "/v1/match", matching.MatchRequest, matching.MatchResults)
make_templates = Endpoint("POST", "/v1/templates", matching.TemplatesRequest, matching.Templates)
verify = Endpoint("POST", "/v1/verifications", matching.VerificationRequest, matching.Verification)
identify = Endpoint(
    "POST", "/v1/identifications", people.IdentificationRequest, people.Identification
)
query_lines = Endpoint("POST", "/v1/lines/query", lines.HolderRequest, lines.HolderLines)
dispute = Endpoint("POST", "/v1/lines/{}/dispute", lines.HolderRequest, lines.Dispute)
close_line = Endpoint("DELETE", "/v1/lines/{}", NoneType, lines.ClosedLine)
read_document = Endpoint("GET", "/v1/documents/{}", NoneType, people.Person)
erase = Endpoint("DELETE", "/v1/documents/{}", NoneType, enrollments.ErasureCertificate)
search_people = Endpoint("POST", "/v1/people/search", people.PeopleRequest, people.People)
list_cases = Endpoint("GET", "/v1/cases", NoneType, cases.CasePage)
read_case = Endpoint("GET", "/v1/cases/{}", NoneType, cases.CaseFile)
assign_case = Endpoint("POST", "/v1/cases/{}/assign", cases.AssignRequest, cases.Case)
note_case = Endpoint("POST", "/v1/cases/{}/notes", cases.NoteRequest, cases.Case)
propose_outcome = Endpoint("POST", "/v1/cases/{}/propose", cases.OutcomeRequest, cases.Case)
withdraw_proposal = Endpoint("POST", "/v1/cases/{}/withdraw", NoneType, cases.Case)
close_case = Endpoint("POST", "/v1/cases/{}/close", cases.OutcomeRequest, cases.Case)
measure_precision = Endpoint("GET", "/v1/precision", NoneType, sweeps.Precision)
expect_sweep = Endpoint("POST", "/v1/sweeps", sweeps.SweepRequest, sweeps.Expectation)
start_sweep = Endpoint("POST", "/v1/sweeps", sweeps.SweepRequest, sweeps.SweepReport)
list_sweeps = Endpoint("GET", "/v1/sweeps", NoneType, sweeps.Sweeps)
read_sweep = Endpoint("GET", "/v1/sweeps/{}", NoneType, sweeps.SweepReport)
pause_sweep = Endpoint("POST", "/v1/sweeps/{}/pause", NoneType, sweeps.SweepReport)
resume_sweep = Endpoint("POST", "/v1/sweeps/{}/resume", NoneType, sweeps.SweepReport)
cancel_sweep = Endpoint("POST", "/v1/sweeps/{}/cancel", NoneType, sweeps.SweepReport)
list_groups = Endpoint("GET", "/v1/sweeps/{}/groups", NoneType, sweeps.GroupPage)
read_group = Endpoint("GET", "/v1/sweeps/{}/groups/{}", NoneType, sweeps.Group)
read_thresholds = Endpoint("GET", "/v1/thresholds", NoneType, oversight.CalibratedThresholds)
read_audit = Endpoint("GET", "/v1/audit", NoneType, oversight.AuditPage)
verify_audit = Endpoint("GET", "/v1/audit/verification", NoneType, oversight.ChainPart)
# Not being ready is an answer, too.
ready = Endpoint(
    "GET", "/health/ready", NoneType, oversight.Readiness, answered=frozenset({200, 503})
)
version = Endpoint("GET", "/version", NoneType, oversight.Version)
whose_key = Endpoint("GET", "/v1/me", NoneType, oversight.KeyHolder)


Face = bytes | Template
"""A photograph's file (JPEG, PNG, WebP), or a template of one."""


def write_face(face: Face) -> matching.Face:
    if isinstance(face, Template):
        return matching.Face(template=face)
    return matching.Face(image=face)


def write_outcome(
    outcome: cases.Outcome, close_lines: Sequence[str], seen_at: datetime | None
) -> cases.OutcomeRequest:
    return cases.OutcomeRequest(outcome, tuple(close_lines), Moment.of_optional(seen_at))


class Activation(enrollments.EnrollmentRequest, frozen=True, kw_only=True):
    """One activation attempt. `captured_at` has a time zone.

    `idempotency_key` is there before anything is sent: keep it, and an activation that was cut
    short is asked for again, or found, by it. An outlet's own key may leave out `outlet`.
    """

    captured_at: datetime  # type: ignore[assignment]  # any: `write` makes it a `Moment`
    idempotency_key: str = msgspec.field(default_factory=lambda: str(uuid.uuid4()))

    def write(self) -> enrollments.EnrollmentRequest:
        fields = msgspec.structs.asdict(self) | {"captured_at": Moment.of(self.captured_at)}
        del fields["idempotency_key"]
        return enrollments.EnrollmentRequest(**fields)


@dataclass(frozen=True, slots=True)
class MatchItem:
    """A probe against a reference (1:1), against the gallery (`search`), or both."""

    probe: Face = field(repr=False)
    reference: Face | None = field(default=None, repr=False)
    search: bool = False
    id: str | None = None

    def write(self) -> matching.MatchItem:
        reference = None if self.reference is None else write_face(self.reference)
        return matching.MatchItem(
            id=self.id, probe=write_face(self.probe), reference=reference, search=self.search
        )
