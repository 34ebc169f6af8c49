"""The one table of endpoints, of which routes, the OpenAPI document and the access matrix come.
What an operation takes and answers is its handler's signature, what it does its docstring."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field, replace
from functools import partial
from typing import Any, get_type_hints

from schema import frozen
from serving.access.authorization import Action
from serving.api.request import Answer
from serving.api.routes import (
    cases,
    enrollments,
    health,
    lines,
    matching,
    people,
    sessions,
    sweeps,
    webhooks,
)
from serving.wire.enrollments import Enrollment, Erasure, ErasureCertificate
from serving.wire.fields import AnswerBody, QueryString, RequestBody
from serving.wire.oversight import EndedSession, Readiness
from serving.wire.sweeps import Expectation, SweepReport

TAGS = {
    "enrollments": "One activation decided, and read again.",
    "matching": "Faces held against faces; nothing is stored.",
    "lines": "A holder's own lines, a dispute, an end, what happens to them, and exemptions.",
    "campaigns": "Holders of many lines asked for by a deadline.",
    "sim swap": "CAMARA's SIM swap 2.1, from the events of lines; errors have CAMARA's codes.",
    "people": "Who somebody is, masked and audited.",
    "cases": "What people look into, the steps they take, and what came of it.",
    "outlets": "Who may enroll nobody, and what was enrolled there before.",
    "sweeps": "The whole gallery searched with itself.",
    "events": "What happened, in its order, and where it is sent.",
    "oversight": "Thresholds, the audit chain, and what a key stands for.",
    "health": "Whether it runs, and how it does.",
}

Handler = Callable[..., Awaitable[AnswerBody | Answer] | AnswerBody | Answer]
"""Takes the parts of the ingress, the request, its body or its query where it has one, and by name
what stands in its path. One that only reads blocks, and is called in a thread."""


@frozen
class Endpoint:
    """One operation; without an action any key is enough. `answers` by status are for handlers with
    several, else there is one, of `status`; `errors` come beside those of its kind of endpoint:
    what is audited needs storage. Direct ones, called most, are called past the router."""

    handle: Handler
    summary: str
    action: Action | None = None
    answers: Mapping[int, type[AnswerBody] | type[str]] = field(default_factory=dict)
    status: int = 200
    errors: tuple[int, ...] = (507,)
    needs_key: bool = True
    needs_idempotency_key: bool = False
    is_direct: bool = False
    method: str = ""
    path: str = ""
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
        if self.path.startswith(("/v1/", "/camara/")):
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


CHANGES = (409, 507)
"""Errors of what changes something that others may have changed meanwhile."""

_step = partial(Endpoint, action=Action.WORK_CASES, errors=CHANGES)
_sweep = partial(Endpoint, action=Action.SWEEP, errors=CHANGES)
_webhook = partial(Endpoint, action=Action.MANAGE_WEBHOOKS)
_outlet = partial(Endpoint, action=Action.RESTRICT_OUTLETS, errors=CHANGES)
_campaign = partial(Endpoint, action=Action.RUN_CAMPAIGNS)
_exemption = partial(Endpoint, action=Action.EXEMPT)
_case = partial(Endpoint, action=Action.WORK_CASES)
_sought = partial(Endpoint, errors=(404, 507))

_TABLE: Mapping[str, Mapping[str, Endpoint]] = {
    "matching": {
        "POST /v1/match": Endpoint(
            matching.match, "Match up to 256 faces, 1:1 and 1:N", Action.MATCH, is_direct=True
        ),
        "POST /v1/templates": Endpoint(
            matching.issue_templates,
            "Make templates of up to 256 photographs",
            Action.ISSUE_TEMPLATES,
            is_direct=True,
        ),
        "POST /v1/verifications": _sought(matching.verify, "Verify a face", Action.VERIFY_IMAGES),
    },
    "enrollments": {
        "POST /v1/enrollments": Endpoint(
            enrollments.create_enrollment,
            "Decide an activation",
            Action.ENROLL,
            answers={201: Enrollment, 200: Enrollment},
            errors=CHANGES,
            needs_idempotency_key=True,
        ),
        "GET /v1/enrollments": _sought(
            enrollments.find_enrollment, "Find an enrollment by its key", Action.FIND_ENROLLMENT
        ),
        "GET /v1/enrollments/{enrollment_id}": Endpoint(
            enrollments.read_enrollment, "Read an enrollment", Action.READ_ENROLLMENT
        ),
        "GET /v1/enrollments/{enrollment_id}/crops": Endpoint(
            enrollments.read_crops, "Read an enrollment's crops", Action.READ_CROPS
        ),
    },
    "people": {
        "POST /v1/identifications": Endpoint(people.identify, "Identify a face", Action.IDENTIFY),
        "POST /v1/people/search": Endpoint(
            people.search_people, "Search for a person", Action.SEARCH_PEOPLE
        ),
        "POST /v1/faces/query": Endpoint(
            people.read_faces, "Read the faces of documents", Action.READ_CROPS
        ),
        "POST /v1/subjects/export": _sought(
            people.export_subject, "Export what is kept of a person", Action.EXPORT_SUBJECT
        ),
        "GET /v1/documents/{document_id}": Endpoint(
            people.read_document, "Read what stands under a document", Action.SEARCH_PEOPLE
        ),
        "DELETE /v1/documents/{document_id}": Endpoint(
            people.erase_document,
            "Erase a holder",
            Action.ERASE_DOCUMENT,
            answers={200: ErasureCertificate, 202: Erasure},
        ),
        "POST /v1/documents/{document_id}/withdrawal": Endpoint(
            people.withdraw_consent,
            "Withdraw consent to a face",
            Action.ERASE_DOCUMENT,
            answers={200: ErasureCertificate, 202: Erasure},
        ),
        "GET /v1/documents/{document_id}/death": Endpoint(
            people.read_death, "Read what is reported of a holder", Action.REPORT_DEATH, errors=()
        ),
        "POST /v1/documents/{document_id}/death": Endpoint(
            people.step_death, "Report a holder dead", Action.REPORT_DEATH, errors=CHANGES
        ),
        "GET /v1/documents/{document_id}/erasure": Endpoint(
            people.read_erasure, "Read how far an erasure is", Action.ERASE_DOCUMENT, errors=()
        ),
    },
    "lines": {
        "POST /v1/lines/query": Endpoint(
            lines.query_lines, "List a holder's lines", Action.READ_LINES
        ),
        "POST /v1/lines/{line}/dispute": Endpoint(
            lines.dispute_line, "Dispute a line", Action.DISPUTE_LINE, status=201
        ),
        "DELETE /v1/lines/{line}": Endpoint(lines.close_line, "Close a line", Action.CLOSE_LINE),
        "POST /v1/lines/{line}/events": Endpoint(
            lines.report_event, "Report what happened to a line", Action.REPORT_EVENTS
        ),
        "POST /v1/documents/{document_id}/exemption": _exemption(
            lines.exempt_document, "Exempt a document from limits"
        ),
        "DELETE /v1/documents/{document_id}/exemption": _exemption(
            lines.end_exemption, "End an exemption"
        ),
        "GET /v1/documents/{document_id}/exemption": _exemption(
            lines.read_exemption, "Read an exemption", errors=()
        ),
        "GET /v1/lines/{line}/events": Endpoint(
            lines.read_history, "Read what happened to a line", Action.READ_HISTORY
        ),
    },
    "campaigns": {
        "POST /v1/campaigns": _campaign(lines.start_campaign, "Start a campaign", status=201),
        "GET /v1/campaigns": _campaign(lines.list_campaigns, "List campaigns", errors=()),
        "GET /v1/campaigns/{campaign_id}": _campaign(
            lines.read_campaign, "Read a campaign", errors=()
        ),
        "POST /v1/campaigns/{campaign_id}/end": _campaign(lines.end_campaign, "End a campaign"),
        "POST /v1/campaigns/{campaign_id}/lines": _campaign(
            lines.add_to_campaign, "Add lines to a campaign"
        ),
        "GET /v1/campaigns/{campaign_id}/lines": _campaign(
            lines.list_campaign_lines, "List lines of a campaign", errors=()
        ),
    },
    "sim swap": {
        "POST /camara/sim-swap/v2/retrieve-date": _sought(
            lines.retrieve_sim_swap_date,
            "Read when a number got its SIM (CAMARA)",
            Action.READ_SIM_CHANGES,
        ),
        "POST /camara/sim-swap/v2/check": _sought(
            lines.check_sim_swap,
            "Ask whether a number got another SIM lately (CAMARA)",
            Action.READ_SIM_CHANGES,
        ),
    },
    "cases": {
        "GET /v1/cases": _case(cases.list_cases, "List cases"),
        "GET /v1/cases/{case_id}": _case(cases.read_case, "Read a case"),
        "POST /v1/cases/{case_id}/assign": _step(cases.assign_case, "Assign a case"),
        "POST /v1/cases/{case_id}/notes": _step(cases.note_case, "Add a note"),
        "POST /v1/cases/{case_id}/reveal": Endpoint(
            cases.reveal_case, "Show names and numbers in full", Action.REVEAL
        ),
        "POST /v1/cases/{case_id}/propose": _step(cases.propose_outcome, "Propose an outcome"),
        "POST /v1/cases/{case_id}/withdraw": _step(cases.withdraw_proposal, "Withdraw a proposal"),
        "POST /v1/cases/{case_id}/close": _step(cases.close_case, "Close a case"),
        "POST /v1/cases/outcomes": _step(cases.end_cases, "Decide cases that are alike"),
        "POST /v1/cases/{case_id}/reopen": _step(cases.reopen_case, "Open a closed case again"),
        "POST /v1/cases/{case_id}/report": _case(cases.report_case, "Make the report of a case"),
    },
    "outlets": {
        "GET /v1/outlets": _case(cases.list_outlets, "List outlets", errors=()),
        "GET /v1/exceptions/outlets": _case(
            cases.count_exceptions, "Count exceptions by outlet", errors=()
        ),
        "GET /v1/outlets/{outlet}": _case(cases.read_outlet, "Read an outlet", errors=()),
        "GET /v1/outlets/{outlet}/enrollments": _case(
            cases.list_past_enrollments, "List what was enrolled there"
        ),
        "POST /v1/outlets/{outlet}/suspend": _outlet(cases.suspend_outlet, "Suspend an outlet"),
        "POST /v1/outlets/{outlet}/bar": _outlet(cases.bar_outlet, "Bar an outlet"),
        "POST /v1/outlets/{outlet}/lift": _outlet(cases.lift_restriction, "Lift a restriction"),
    },
    "sweeps": {
        "POST /v1/sweeps": _sweep(
            sweeps.start_sweep, "Start a sweep", answers={201: SweepReport, 200: Expectation}
        ),
        "GET /v1/sweeps": _sweep(sweeps.list_sweeps, "List sweeps", errors=()),
        "GET /v1/sweeps/{sweep_id}": _sweep(sweeps.read_sweep, "Read a sweep", errors=()),
        "POST /v1/sweeps/{sweep_id}/pause": _sweep(sweeps.pause_sweep, "Pause a sweep"),
        "POST /v1/sweeps/{sweep_id}/resume": _sweep(sweeps.resume_sweep, "Resume a sweep"),
        "POST /v1/sweeps/{sweep_id}/cancel": _sweep(sweeps.cancel_sweep, "Cancel a sweep"),
        "GET /v1/sweeps/{sweep_id}/groups": _sweep(sweeps.list_groups, "List groups"),
        "GET /v1/sweeps/{sweep_id}/groups/{key}": _sweep(sweeps.read_group, "Read a group"),
        "GET /v1/precision": _sweep(
            sweeps.read_precision, "Measure the precision of sweeps", errors=()
        ),
    },
    "events": {
        "GET /v1/events": Endpoint(
            webhooks.read_events, "Read events", Action.READ_EVENTS, errors=(410,)
        ),
        "POST /v1/webhooks": _webhook(
            webhooks.create_webhook, "Send events to an address", status=201
        ),
        "GET /v1/webhooks": _webhook(webhooks.list_webhooks, "List webhooks", errors=()),
        "GET /v1/webhooks/{webhook_id}": _webhook(
            webhooks.read_webhook, "Read a webhook", errors=()
        ),
        "PATCH /v1/webhooks/{webhook_id}": _webhook(webhooks.change_webhook, "Change a webhook"),
        "DELETE /v1/webhooks/{webhook_id}": _webhook(webhooks.remove_webhook, "Remove a webhook"),
        "POST /v1/webhooks/{webhook_id}/rotate": _webhook(
            webhooks.rotate_secret, "Rotate a webhook's secret"
        ),
        "POST /v1/webhooks/{webhook_id}/replay": _webhook(
            webhooks.replay_events, "Send events again", errors=(410, 507)
        ),
        "POST /v1/webhooks/{webhook_id}/test": _webhook(
            webhooks.send_example, "Send an example to a webhook", errors=()
        ),
        "GET /v1/webhooks/{webhook_id}/dead-letters": _webhook(
            webhooks.list_dead_letters, "List dead letters", errors=(410,)
        ),
        "POST /v1/webhooks/{webhook_id}/dead-letters/retry": _webhook(
            webhooks.ask_again, "Try dead letters again"
        ),
    },
    "oversight": {
        "GET /v1/thresholds": Endpoint(
            health.read_thresholds, "Read the thresholds", Action.READ_THRESHOLDS, errors=()
        ),
        "GET /v1/audit": Endpoint(health.read_audit, "Read the audit chain", Action.READ_AUDIT),
        "GET /v1/audit/verification": Endpoint(
            health.verify_audit, "Verify the audit chain", Action.READ_AUDIT
        ),
        "POST /v1/backups": Endpoint(
            health.start_backup, "Make a backup", Action.BACK_UP, status=201
        ),
        "GET /v1/backups": Endpoint(health.list_backups, "List backups", Action.BACK_UP, errors=()),
        "POST /v1/imports": Endpoint(
            health.admit_rows, "Take in a part of an import", Action.IMPORT
        ),
        "GET /v1/me": Endpoint(health.read_key, "Whose key", Action.READ_KEY, errors=()),
        "DELETE /v1/session": Endpoint(
            sessions.end_session, "Sign out", answers={200: EndedSession}
        ),
    },
    "health": {
        "GET /version": Endpoint(health.read_version, "Version", needs_key=False, errors=()),
        "GET /metrics": Endpoint(
            health.read_metrics, "Metrics", Action.READ_METRICS, answers={200: str}, errors=(404,)
        ),
        "GET /health/live": Endpoint(health.read_liveness, "Live", needs_key=False, errors=()),
        "GET /health/ready": Endpoint(
            health.read_readiness,
            "Ready",
            answers={200: Readiness, 503: Readiness},
            needs_key=False,
            errors=(),
        ),
    },
}


def _complete(tag: str, route: str, row: Endpoint) -> Endpoint:
    """The row with its tag and route, and with the types of its handler's signature."""
    hints: dict[str, Any] = get_type_hints(row.handle)
    method, path = route.split()
    return replace(
        row,
        method=method,
        path=path,
        tag=tag,
        query=hints.get("query"),
        body=hints.get("body"),
        answers=row.answers or {row.status: hints["return"]},
    )


ENDPOINTS = tuple(
    _complete(tag, route, row) for tag, rows in _TABLE.items() for route, row in rows.items()
)
"""What the ingress answers, but for pages and files."""
