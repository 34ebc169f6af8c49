"""The one table of endpoints: routes, the OpenAPI document and the access matrix come from it.

What an operation takes and answers stands in its handler's signature, what it does in its
docstring; its name is its handler's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

from serving.access.authorization import Action
from serving.api.request import Answer
from serving.api.routes import (
    audit,
    cases,
    enrollments,
    lines,
    matching,
    operations,
    people,
    sweeps,
)
from serving.wire.enrollments import Enrollment
from serving.wire.fields import AnswerBody, QueryString, RequestBody
from serving.wire.oversight import Readiness
from serving.wire.sweeps import Expectation, SweepReport

TAGS = {
    "enrollments": "One activation decided, and read again.",
    "matching": "Faces held against faces; nothing is stored.",
    "lines": "A holder's own lines, a dispute, an end.",
    "people": "Who somebody is, masked and audited.",
    "cases": "What people look into, the steps they take, and what came of it.",
    "sweeps": "The whole gallery searched with itself.",
    "oversight": "Thresholds, the audit chain, and what a key stands for.",
    "health": "Whether it runs, and how it does.",
}

Handler = Callable[..., Awaitable[AnswerBody | Answer]]
"""Takes the parts of the ingress, the request, its body or its query where it has one, and by name
what stands in its path."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation.

    Without an action any key is enough. `answers` by status are given where a handler has several,
    else there is one, of `status`; `errors` are those beside the ones that its kind of endpoint
    may always have: what is audited needs storage. Direct ones are called past the router, as
    those are that are called most.
    """

    method: str
    path: str
    handle: Handler
    summary: str
    action: Action | None = None
    answers: Mapping[int, type[AnswerBody] | type[str]] = field(default_factory=dict)
    status: int = 200
    errors: tuple[int, ...] = (507,)
    needs_key: bool = True
    needs_idempotency_key: bool = False
    is_direct: bool = False
    tag: str = ""
    query: type[QueryString] | None = None
    body: type[RequestBody] | None = None

    @property
    def operation_id(self) -> str:
        first, *rest = self.handle.__name__.split("_")
        return first + "".join(word.capitalize() for word in rest)

    @property
    def all_errors(self) -> tuple[int, ...]:
        """The status of every error that it may be answered with, but for a fault of ours."""
        errors = {400, 429, 503, *self.errors}
        if self.path.startswith("/v1/"):
            errors.add(406)
        if self.needs_key:
            errors.add(401)
        if self.action is not None:
            errors.add(403)
        if "{" in self.path:
            errors.add(404)
        if self.body is not None:
            errors |= {408, 413, 415, 422}
        return tuple(sorted(errors.difference(self.answers)))


_TABLE: Mapping[str, tuple[Endpoint, ...]] = {
    "matching": (
        Endpoint(
            "POST",
            "/v1/match",
            matching.match,
            "Match up to 256 faces, 1:1 and 1:N",
            Action.MATCH,
            is_direct=True,
        ),
        Endpoint(
            "POST",
            "/v1/templates",
            matching.issue_templates,
            "Make templates of up to 256 photographs",
            Action.ISSUE_TEMPLATES,
            is_direct=True,
        ),
        Endpoint(
            "POST",
            "/v1/verifications",
            matching.verify,
            "Verify a face",
            Action.VERIFY_IMAGES,
            errors=(404, 507),
        ),
    ),
    "enrollments": (
        Endpoint(
            "POST",
            "/v1/enrollments",
            enrollments.create_enrollment,
            "Decide an activation",
            Action.ENROLL,
            answers={201: Enrollment, 200: Enrollment},
            errors=(409, 507),
            needs_idempotency_key=True,
        ),
        Endpoint(
            "GET",
            "/v1/enrollments",
            enrollments.find_enrollment,
            "Find an enrollment by its key",
            Action.FIND_ENROLLMENT,
            errors=(404, 507),
        ),
        Endpoint(
            "GET",
            "/v1/enrollments/{enrollment_id}",
            enrollments.read_enrollment,
            "Read an enrollment",
            Action.READ_ENROLLMENT,
        ),
        Endpoint(
            "GET",
            "/v1/enrollments/{enrollment_id}/crops",
            enrollments.read_crops,
            "Read an enrollment's crops",
            Action.READ_CROPS,
        ),
    ),
    "people": (
        Endpoint(
            "POST", "/v1/identifications", people.identify, "Identify a face", Action.IDENTIFY
        ),
        Endpoint(
            "POST",
            "/v1/people/search",
            people.search_people,
            "Search for a person",
            Action.SEARCH_PEOPLE,
        ),
        Endpoint(
            "GET",
            "/v1/documents/{document_id}",
            people.read_document,
            "Read what stands under a document",
            Action.SEARCH_PEOPLE,
        ),
        Endpoint(
            "DELETE",
            "/v1/documents/{document_id}",
            people.erase_document,
            "Erase a holder",
            Action.ERASE_DOCUMENT,
        ),
    ),
    "lines": (
        Endpoint(
            "POST", "/v1/lines/query", lines.query_lines, "List a holder's lines", Action.READ_LINES
        ),
        Endpoint(
            "POST",
            "/v1/lines/{line}/dispute",
            lines.dispute_line,
            "Dispute a line",
            Action.DISPUTE_LINE,
            status=201,
        ),
        Endpoint("DELETE", "/v1/lines/{line}", lines.close_line, "Close a line", Action.CLOSE_LINE),
    ),
    "cases": (
        Endpoint("GET", "/v1/cases", cases.list_cases, "List cases", Action.WORK_CASES),
        Endpoint("GET", "/v1/cases/{case_id}", cases.read_case, "Read a case", Action.WORK_CASES),
        Endpoint(
            "POST",
            "/v1/cases/{case_id}/assign",
            cases.assign_case,
            "Assign a case",
            Action.WORK_CASES,
            errors=(409, 507),
        ),
        Endpoint(
            "POST",
            "/v1/cases/{case_id}/notes",
            cases.note_case,
            "Add a note",
            Action.WORK_CASES,
            errors=(409, 507),
        ),
        Endpoint(
            "POST",
            "/v1/cases/{case_id}/propose",
            cases.propose_outcome,
            "Propose an outcome",
            Action.WORK_CASES,
            errors=(409, 507),
        ),
        Endpoint(
            "POST",
            "/v1/cases/{case_id}/withdraw",
            cases.withdraw_proposal,
            "Withdraw a proposal",
            Action.WORK_CASES,
            errors=(409, 507),
        ),
        Endpoint(
            "POST",
            "/v1/cases/{case_id}/close",
            cases.close_case,
            "Close a case",
            Action.WORK_CASES,
            errors=(409, 507),
        ),
    ),
    "sweeps": (
        Endpoint(
            "POST",
            "/v1/sweeps",
            sweeps.start_sweep,
            "Start a sweep",
            Action.SWEEP,
            answers={201: SweepReport, 200: Expectation},
            errors=(409, 507),
        ),
        Endpoint("GET", "/v1/sweeps", sweeps.list_sweeps, "List sweeps", Action.SWEEP, errors=()),
        Endpoint(
            "GET",
            "/v1/sweeps/{sweep_id}",
            sweeps.read_sweep,
            "Read a sweep",
            Action.SWEEP,
            errors=(),
        ),
        Endpoint(
            "POST",
            "/v1/sweeps/{sweep_id}/pause",
            sweeps.pause_sweep,
            "Pause a sweep",
            Action.SWEEP,
            errors=(409, 507),
        ),
        Endpoint(
            "POST",
            "/v1/sweeps/{sweep_id}/resume",
            sweeps.resume_sweep,
            "Resume a sweep",
            Action.SWEEP,
            errors=(409, 507),
        ),
        Endpoint(
            "POST",
            "/v1/sweeps/{sweep_id}/cancel",
            sweeps.cancel_sweep,
            "Cancel a sweep",
            Action.SWEEP,
            errors=(409, 507),
        ),
        Endpoint(
            "GET",
            "/v1/sweeps/{sweep_id}/groups",
            sweeps.list_groups,
            "List groups",
            Action.SWEEP,
            errors=(409, 507),
        ),
        Endpoint(
            "GET",
            "/v1/sweeps/{sweep_id}/groups/{key}",
            sweeps.read_group,
            "Read a group",
            Action.SWEEP,
            errors=(409, 507),
        ),
        Endpoint(
            "GET",
            "/v1/precision",
            sweeps.read_precision,
            "Measure the precision of sweeps",
            Action.SWEEP,
            errors=(),
        ),
    ),
    "oversight": (
        Endpoint(
            "GET",
            "/v1/thresholds",
            operations.read_thresholds,
            "Read the thresholds",
            Action.READ_THRESHOLDS,
            errors=(),
        ),
        Endpoint("GET", "/v1/audit", audit.read_audit, "Read the audit chain", Action.READ_AUDIT),
        Endpoint(
            "GET",
            "/v1/audit/verification",
            audit.verify_audit,
            "Verify the audit chain",
            Action.READ_AUDIT,
        ),
        Endpoint("GET", "/v1/me", operations.read_key, "Whose key", errors=()),
    ),
    "health": (
        Endpoint("GET", "/version", operations.read_version, "Version", needs_key=False, errors=()),
        Endpoint(
            "GET",
            "/metrics",
            operations.read_metrics,
            "Metrics",
            Action.READ_METRICS,
            answers={200: str},
            errors=(404,),
        ),
        Endpoint(
            "GET", "/health/live", operations.read_liveness, "Live", needs_key=False, errors=()
        ),
        Endpoint(
            "GET",
            "/health/ready",
            operations.read_readiness,
            "Ready",
            answers={200: Readiness, 503: Readiness},
            needs_key=False,
            errors=(),
        ),
    ),
}


def _complete(tag: str, row: Endpoint) -> Endpoint:
    """The row with its tag, and with the types of its handler's signature."""
    hints: dict[str, Any] = get_type_hints(row.handle)
    return replace(
        row,
        tag=tag,
        query=hints.get("query"),
        body=hints.get("body"),
        answers=row.answers or {row.status: hints["return"]},
    )


ENDPOINTS = tuple(_complete(tag, row) for tag, rows in _TABLE.items() for row in rows)
"""What the ingress answers, but for pages and files."""
