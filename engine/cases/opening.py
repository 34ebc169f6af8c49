"""The one place where cases are opened: each new one, or what it adds to one that people have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from engine.cases.case import CaseKind, CaseNote, CaseOrigin, NoteKind
from engine.registry.reader import Reader
from engine.registry.records import (
    ALIVE,
    AuditEntry,
    CaseRecord,
    CaseState,
    Changes,
    new_id,
)

SAME_CHECK = timedelta(days=1)
"""Whoever fails again and again within it fills no history: the audit has each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCase:
    """What is to be looked into; fields as in `CaseRecord`."""

    kind: CaseKind
    origin: CaseOrigin
    document_ids: Sequence[str]
    suspect_ids: Sequence[str] = ()
    enrollment_id: str | None = None
    line_id: str | None = None
    line_ids: Sequence[str] = ()
    score: float | None = None
    risk: float | None = None
    sweep_id: str | None = None
    group_key: str | None = None


class CaseBook:
    """Collects the cases of one transaction; used on the writer's thread.

    A case shares a face with another where both name a document: what comes goes into the oldest
    that is alive, and so do others that it joins. Disputes stand alone: each is about one line.
    """

    def __init__(self, registry: Reader, now: datetime, known_groups: Collection[str] = ()) -> None:
        """`known_groups`: keys of groups of sweeps that have a row already."""
        self._registry = registry
        self._known_groups = known_groups
        self._now = now
        self._cases: dict[str, CaseRecord] = {}
        self._known: set[str] = set()
        self._named: dict[str, set[str]] = {}
        self._added: dict[str, None] = {}
        self._touched: dict[str, None] = {}
        self._notes: list[tuple[str, CaseNote]] = []
        self._entries: list[AuditEntry] = []

    def look_up(self, document_ids: Iterable[str]) -> None:
        """Reads which cases name these documents, in one look for all."""
        asked = [key for key in dict.fromkeys(document_ids) if key not in self._known]
        self._known.update(asked)
        for found in self._registry.cases.open_of(asked).values():
            for case in found:
                if case.id not in self._cases and case.kind != CaseKind.DISPUTE:
                    self._file(case)

    def open(self, new: NewCase, actor: str) -> CaseRecord:
        """Opens a case or adds it to another; returns the one that people will decide."""
        draft = self._draft(new)
        if new.kind is CaseKind.DISPUTE:
            return self._add(draft, actor)
        self.look_up(draft.document_ids)
        met = self._find_met(draft.document_ids)
        if not met:
            return self._add(draft, actor)
        oldest, *others = sorted(met, key=lambda case: (case.opened_at, case.id))
        if not others and _is_repeated(oldest, draft):
            return oldest
        for other in others:
            oldest = self._absorb(oldest, other, actor)
        return self._absorb(oldest, draft, actor)

    def add_to(self, changes: Changes) -> Changes:
        """The changes with what the book brings: cases, their history, and an audit entry each."""
        changed = [key for key in self._touched if key not in self._added]
        return replace(
            changes,
            audit=(*changes.audit, *self._entries),
            cases=(*changes.cases, *(self._cases[key] for key in self._added)),
            case_changes=(*changes.case_changes, *(self._cases[key] for key in changed)),
            case_notes=(*changes.case_notes, *self._notes),
        )

    def _draft(self, new: NewCase) -> CaseRecord:
        return CaseRecord(
            id=new_id(),
            kind=new.kind.value,
            origin=new.origin,
            state=CaseState.OPEN,
            enrollment_id=new.enrollment_id,
            document_ids=tuple(dict.fromkeys(new.document_ids)),
            suspect_ids=tuple(dict.fromkeys(new.suspect_ids)),
            line_id=new.line_id,
            line_ids=tuple(dict.fromkeys(new.line_ids)),
            score=new.score,
            risk=new.risk,
            sweep_id=new.sweep_id,
            group_key=new.group_key,
            opened_at=self._now,
            updated_at=self._now,
        )

    def _find_met(self, document_ids: Sequence[str]) -> list[CaseRecord]:
        ids = {key for document in document_ids for key in self._named.get(document, ())}
        return [self._cases[key] for key in ids if self._cases[key].state in ALIVE]

    def _file(self, case: CaseRecord) -> None:
        self._cases[case.id] = case
        for document in case.document_ids:
            self._named.setdefault(document, set()).add(case.id)

    def _add(self, case: CaseRecord, actor: str) -> CaseRecord:
        self._added[case.id] = None
        if case.kind == CaseKind.DISPUTE:
            self._cases[case.id] = case
        else:
            self._file(case)
        self._note(case.id, NoteKind.OPENED, actor, case.origin.value)
        self._entries.append(AuditEntry(actor, "case.opened", case.id, _describe(case)))
        return case

    def _absorb(self, case: CaseRecord, other: CaseRecord, actor: str) -> CaseRecord:
        """`case` with all that `other` knows, which goes into it."""
        merged = _unite(case, other, self._now)
        if case.proposal is not None and merged.proposal is None:
            self._note(case.id, NoteKind.WITHDRAWN, actor, case.proposal.outcome.value)
        self._file(merged)
        self._touched[case.id] = None
        has_row = self._needs_row(case, other)
        if has_row:
            self._end(other, merged.id)
        self._note(case.id, NoteKind.MERGED, actor, _name(other))
        subject = other.id if has_row else case.id
        detail = {"into": case.id} | _describe(other)
        self._entries.append(AuditEntry(actor, "case.merged", subject, detail))
        return merged

    def _needs_row(self, case: CaseRecord, other: CaseRecord) -> bool:
        """Not where a sweep only finds again what it had found: weekly, that would be many."""
        is_found_again = other.group_key == case.group_key or other.group_key in self._known_groups
        is_new = other.id not in self._cases
        return not (is_new and other.origin is CaseOrigin.SWEEP and is_found_again)

    def _end(self, other: CaseRecord, into: str) -> None:
        """Keeps the row, for its enrollment and its moment, under the case that goes on."""
        if other.id in self._cases:
            self._touched[other.id] = None
        else:
            self._added[other.id] = None
        self._cases[other.id] = replace(
            other,
            state=CaseState.MERGED,
            merged_into=into,
            proposal=None,
            updated_at=self._now,
        )
        for key, known in self._cases.items():
            if known.merged_into == other.id:
                self._cases[key] = replace(known, merged_into=into)

    def _note(self, case_id: str, kind: NoteKind, actor: str, text: str) -> None:
        self._notes.append((case_id, CaseNote(self._now, actor, kind, text)))


def _unite(case: CaseRecord, other: CaseRecord, now: datetime) -> CaseRecord:
    grown = replace(
        case,
        document_ids=_join(case.document_ids, other.document_ids),
        suspect_ids=_join(case.suspect_ids, other.suspect_ids),
        line_ids=_join(case.line_ids, other.line_ids),
        enrollment_id=case.enrollment_id or other.enrollment_id,
        score=_highest(case.score, other.score),
        risk=_highest(case.risk, other.risk),
        sweep_id=other.sweep_id or case.sweep_id,
        group_key=case.group_key or other.group_key,
        assignee=case.assignee or other.assignee,
        updated_at=date_change(case, now),
    )
    is_same = (grown.document_ids, grown.suspect_ids) == (case.document_ids, case.suspect_ids)
    if case.proposal is not None and is_same:
        return grown
    # What was proposed for fewer people is withdrawn: nobody is judged whom only one has seen.
    return replace(grown, proposal=None, state=state_of(grown.assignee))


def _highest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _is_repeated(case: CaseRecord, draft: CaseRecord) -> bool:
    """Whether the same sweep, or a check of the same day, has said all of it before."""
    is_same_sweep = draft.origin is CaseOrigin.SWEEP and draft.sweep_id == case.sweep_id
    is_same_day = (
        draft.origin is CaseOrigin.REVERIFICATION and draft.opened_at - case.updated_at < SAME_CHECK
    )
    return (is_same_sweep or is_same_day) and all(
        set(new) <= set(known)
        for new, known in (
            (draft.document_ids, case.document_ids),
            (draft.suspect_ids, case.suspect_ids),
            (draft.line_ids, case.line_ids),
        )
    )


def _join(some: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*some, *others)))


def state_of(assignee: str | None) -> CaseState:
    """Of a case alive that nobody has proposed an outcome for."""
    return CaseState.OPEN if assignee is None else CaseState.ASSIGNED


def date_change(case: CaseRecord, now: datetime) -> datetime:
    """The moment of a change: after the last one even where the clock stands or was set back, so
    that whoever has looked at the case before is told."""
    return max(now, case.updated_at + timedelta(microseconds=1))


def _name(case: CaseRecord) -> str:
    source = case.sweep_id if case.origin is CaseOrigin.SWEEP else case.id
    return f"{case.origin.value} {source}"


def _describe(case: CaseRecord) -> dict[str, Any]:
    links = {
        "enrollment": case.enrollment_id,
        "line": case.line_id,
        "sweep": case.sweep_id,
    }
    told = {name: key for name, key in links.items() if key is not None}
    return {"kind": case.kind, "origin": case.origin.value} | told
