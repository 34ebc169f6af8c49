"""How rows of the registry look in answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.registry.reader import Reader
from engine.registry.records import CaseRecord, DocumentRecord, LineRecord
from serving.masking import mask_number


def show_line(line: LineRecord, numbers: Mapping[str, str]) -> dict[str, Any]:
    """A line with its number masked, None where `numbers` has none for its id."""
    number = numbers.get(line.id)
    return {
        "line_id": line.id,
        "number": None if number is None else mask_number(number),
        "carrier": line.carrier,
        "outlet": line.outlet,
        "status": line.status.value,
        "opened_at": line.opened_at,
        "closed_at": line.closed_at,
    }


def find_held(store: Reader, document_ids: Sequence[str]) -> list[DocumentRecord]:
    """Those of the documents that are not erased, in their order."""
    records = store.documents_by_id(document_ids)
    return [records[one] for one in document_ids if one in records and not records[one].is_erased]


def show_holders(
    store: Reader, held: Sequence[DocumentRecord], scores: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The holder of each document, with the lines in use and the open cases."""
    ids = [record.id for record in held]
    lines, cases = store.lines_in_use_of(ids), store.cases.open_of(ids)
    numbers = store.numbers([line.id for one in ids for line in lines[one]])
    return [
        {
            "document_id": record.id,
            "document_status": record.status.value,
            "score": scores.get(record.id),
            "lines": [show_line(line, numbers) for line in lines[record.id]],
            "cases": [show_open_case(case) for case in cases[record.id]],
        }
        for record in held
    ]


def show_case(case: CaseRecord) -> dict[str, Any]:
    """A case by its ids."""
    proposal = case.proposal
    return {
        "case_id": case.id,
        "kind": case.kind,
        "origin": case.origin.value,
        "state": case.state.value,
        "assignee": case.assignee,
        "outcome": None if case.outcome is None else case.outcome.value,
        "proposal": None
        if proposal is None
        else {
            "outcome": proposal.outcome.value,
            "close_lines": list(proposal.close_lines),
            "by": proposal.by,
            "at": proposal.at,
        },
        "merged_into": case.merged_into,
        "document_ids": list(case.document_ids),
        "line_ids": list(case.line_ids),
        "enrollment_id": case.enrollment_id,
        "sweep_id": case.sweep_id,
        "group_key": case.group_key,
        "score": case.score,
        "risk": case.risk,
        "opened_at": case.opened_at,
        "updated_at": case.updated_at,
        "closed_at": case.closed_at,
    }


def show_open_case(case: CaseRecord) -> dict[str, Any]:
    """A case in short."""
    return {
        "id": case.id,
        "kind": case.kind,
        "score": case.score,
        "opened_at": case.opened_at,
    }
