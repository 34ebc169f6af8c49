"""The routes of fraud teams and operators as calls; `calls` has those of everybody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from serving.client import casework, oversight, sweeps
from serving.client.calls import Call, step_of
from serving.client.requests import Face, KnownDocument, SweepTerms, write_face


def search_people(
    probe: Face | None, document: KnownDocument | None, msisdn: str | None
) -> Call[casework.People]:
    body: dict[str, Any] = {}
    if probe is not None:
        body["probe"] = write_face(probe)
    if document is not None:
        body["document"] = document.write()
    if msisdn is not None:
        body["msisdn"] = msisdn
    return Call(casework.People, "POST", "/v1/people/search", body)


def read_document(document_id: str) -> Call[casework.Person]:
    return Call(casework.Person, "GET", f"/v1/documents/{step_of(document_id)}")


def read_crops(enrollment_id: str) -> Call[casework.Crops]:
    return Call(casework.Crops, "GET", f"/v1/enrollments/{step_of(enrollment_id)}/crops")


def list_cases(
    state: str | None, kind: str | None, assignee: str | None, after: str | None, limit: int
) -> Call[casework.CasePage]:
    asked = {"state": state, "kind": kind, "assignee": assignee, "after": after, "limit": limit}
    return Call(casework.CasePage, "GET", f"/v1/cases{_query(asked)}")


def read_case(case_id: str) -> Call[casework.CaseFile]:
    return Call(casework.CaseFile, "GET", f"/v1/cases/{step_of(case_id)}")


def assign_case(case_id: str, assignee: str | None) -> Call[casework.CaseRow]:
    return _step_case(case_id, "assign", {"assignee": assignee})


def note_case(case_id: str, text: str) -> Call[casework.CaseRow]:
    return _step_case(case_id, "notes", {"text": text})


def propose_outcome(
    case_id: str, outcome: str, close_lines: Sequence[str], seen_at: datetime | None
) -> Call[casework.CaseRow]:
    return _step_case(case_id, "propose", _write_outcome(outcome, close_lines, seen_at))


def withdraw_proposal(case_id: str) -> Call[casework.CaseRow]:
    return _step_case(case_id, "withdraw", None)


def close_case(
    case_id: str, outcome: str, close_lines: Sequence[str], seen_at: datetime | None
) -> Call[casework.CaseRow]:
    return _step_case(case_id, "close", _write_outcome(outcome, close_lines, seen_at))


def measure_precision(sweep_id: str | None) -> Call[sweeps.Precision]:
    return Call(sweeps.Precision, "GET", f"/v1/precision{_query({'sweep_id': sweep_id})}")


def expect_sweep(terms: SweepTerms) -> Call[sweeps.Expectation]:
    body = {**terms.write(), "dry_run": True}
    return Call(sweeps.Expectation, "POST", "/v1/sweeps", body)


def start_sweep(terms: SweepTerms) -> Call[sweeps.Sweep]:
    return Call(sweeps.Sweep, "POST", "/v1/sweeps", terms.write())


def list_sweeps(limit: int) -> Call[sweeps.Sweeps]:
    return Call(sweeps.Sweeps, "GET", f"/v1/sweeps{_query({'limit': limit})}")


def read_sweep(sweep_id: str) -> Call[sweeps.Sweep]:
    return Call(sweeps.Sweep, "GET", f"/v1/sweeps/{step_of(sweep_id)}")


def steer_sweep(sweep_id: str, steering: str) -> Call[sweeps.Sweep]:
    return Call(sweeps.Sweep, "POST", f"/v1/sweeps/{step_of(sweep_id)}/{steering}")


def list_groups(sweep_id: str, after: int, limit: int) -> Call[sweeps.GroupPage]:
    query = _query({"after": after, "limit": limit})
    return Call(sweeps.GroupPage, "GET", f"/v1/sweeps/{step_of(sweep_id)}/groups{query}")


def read_group(sweep_id: str, key: str) -> Call[sweeps.Group]:
    path = f"/v1/sweeps/{step_of(sweep_id)}/groups/{step_of(key)}"
    return Call(sweeps.Group, "GET", path)


def read_thresholds() -> Call[oversight.CalibratedThresholds]:
    return Call(oversight.CalibratedThresholds, "GET", "/v1/thresholds")


def read_audit(
    after: int | None, limit: int, action: str | None, actor: str | None, subject: str | None
) -> Call[oversight.AuditPage]:
    asked = {"after": after, "limit": limit, "action": action, "actor": actor, "subject": subject}
    return Call(oversight.AuditPage, "GET", f"/v1/audit{_query(asked)}")


def verify_audit(after: int) -> Call[oversight.ChainPart]:
    return Call(oversight.ChainPart, "GET", f"/v1/audit/verification{_query({'after': after})}")


def _step_case(case_id: str, name: str, body: dict[str, Any] | None) -> Call[casework.CaseRow]:
    return Call(casework.CaseRow, "POST", f"/v1/cases/{step_of(case_id)}/{name}", body)


def _write_outcome(
    outcome: str, close_lines: Sequence[str], seen_at: datetime | None
) -> dict[str, Any]:
    body: dict[str, Any] = {"outcome": outcome, "close_lines": list(close_lines)}
    return body if seen_at is None else body | {"seen_at": seen_at.isoformat()}


def _query(asked: dict[str, Any]) -> str:
    given = {name: value for name, value in asked.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
