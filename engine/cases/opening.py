"""Opening of cases: each is new, or is merged into an open one that shares a document."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from engine.registry.audit import AuditEntry
from engine.registry.cases import AddedNote, CaseChange, CaseRecord
from engine.registry.database import new_id
from engine.registry.rows import Write, columns_of
from engine.registry.store import Reader
from schema import frozen
from schema.actors import person_of
from schema.cases import (
    ALIVE,
    APART,
    CLAIMED,
    CONFIRMED,
    UNTOLD,
    CaseKind,
    CaseNote,
    CaseOrigin,
    CaseState,
    NoteKind,
)

SAME_CHECK = timedelta(days=1)
"""Repeated failures within it are not added to the history; the audit has each of them."""


@frozen(kw_only=True)
class NewCase:
    """A case to be opened; fields as in `CaseRecord`."""

    kind: CaseKind
    origin: CaseOrigin
    document_ids: Sequence[str]
    suspect_ids: Sequence[str] = ()
    enrollment_id: str | None = None
    line_id: str | None = None
    line_ids: Sequence[str] = ()
    score: float | None = None
    weakest: float | None = None
    risk: float | None = None
    sweep_id: str | None = None
    group_key: str | None = None


class CaseBatch:
    """Collects the cases of one transaction, on the writer's thread.

    Cases that name a common document are merged into the oldest open one. Disputes are not, as each
    is about one line, nor are cases of probing, which are about who asks; those of claims, which
    do not speak against the holder, are merged with their like, and so are those that no tenant may
    notice. A case with a proposal takes nobody in: two people must have seen everyone whom it
    judges, and whoever goes on sending attempts would keep it open. What comes meanwhile about
    others gathers in the next case.
    """

    def __init__(self, registry: Reader, now: datetime, known_groups: Collection[str] = ()) -> None:
        """`known_groups`: keys of sweep groups that have a row already."""
        self._registry = registry
        self._known_groups = known_groups
        self._now = now
        self._cases: dict[str, CaseRecord] = {}
        self._loaded: set[str] = set()
        self._cases_of: dict[tuple[str, bool, bool], set[str]] = {}
        self._added: dict[str, None] = {}
        self._touched: dict[str, None] = {}
        self._notes: list[AddedNote] = []
        self._entries: list[AuditEntry] = []

    def look_up(self, document_ids: Iterable[str]) -> None:
        """Load the open cases that name these documents, in one query."""
        missing = [key for key in dict.fromkeys(document_ids) if key not in self._loaded]
        self._loaded.update(missing)
        for found in self._registry.cases.open_of(missing).values():
            for case in found:
                if case.id not in self._cases and not _is_apart(case):
                    self._index(case)

    def note_new(self, document_id: str) -> None:
        """This transaction adds the document: no case names it yet, so none is looked up."""
        self._loaded.add(document_id)

    def open(self, new: NewCase, actor: str) -> CaseRecord:
        """Open a case or merge it into another; returns the one to be decided."""
        draft = CaseRecord(
            id=new_id(),
            state=CaseState.OPEN,
            opened_at=self._now,
            updated_at=self._now,
            **columns_of(
                new,
                document_ids=_join(new.document_ids),
                suspect_ids=_join(new.suspect_ids),
                line_ids=_join(new.line_ids),
            ),
        )
        if _is_apart(draft):
            return self._find_asked(draft) or self._add(draft, actor)
        self.look_up(draft.document_ids)
        matching = self._find_matching(draft)
        if not matching:
            return self._add(draft, actor)
        oldest, *others = sorted(matching, key=lambda case: (case.opened_at, case.id))
        if not others and _is_repeated(oldest, draft):
            return oldest
        for other in others:
            oldest = self._merge(oldest, other, actor)
        return self._merge(oldest, draft, actor)

    def writes(self) -> list[Write]:
        """These cases, their history, and an audit entry for each."""
        changed = [key for key in self._touched if key not in self._added]
        return [
            *self._entries,
            *(self._cases[key] for key in self._added),
            *(CaseChange(self._cases[key]) for key in changed),
            *self._notes,
        ]

    def _find_asked(self, draft: CaseRecord) -> CaseRecord | None:
        """The open case that asks the same, where people are asked to confirm something."""
        key = draft.group_key
        if key is None or not is_grouped(draft, CONFIRMED):
            return None
        known = [*self._cases.values(), *self._registry.cases.of_groups([key]).values()]
        return next((one for one in known if one.group_key == key and one.state in ALIVE), None)

    def _find_matching(self, draft: CaseRecord) -> list[CaseRecord]:
        """The open cases to merge with; of those with a proposal one at most, that it adds to."""
        ids = {key for place in _find_places(draft) for key in self._cases_of.get(place, ())}
        found = [self._cases[key] for key in ids if self._cases[key].state in ALIVE]
        # It names everyone whom the other does, and suspects whom that suspects.
        documents, suspects = set(draft.document_ids), set(draft.suspect_ids)
        proposed = [
            one
            for one in found
            if one.proposal is not None
            and documents <= set(one.document_ids)
            and suspects <= set(one.suspect_ids)
        ]
        oldest = min(proposed, key=lambda case: (case.opened_at, case.id), default=None)
        unproposed = [one for one in found if one.proposal is None]
        return unproposed or ([] if oldest is None else [oldest])

    def _index(self, case: CaseRecord) -> None:
        self._cases[case.id] = case
        for place in _find_places(case):
            self._cases_of.setdefault(place, set()).add(case.id)

    def _add(self, case: CaseRecord, actor: str) -> CaseRecord:
        self._added[case.id] = None
        if _is_apart(case):
            self._cases[case.id] = case
        else:
            self._index(case)
        self._note(case.id, NoteKind.OPENED, actor, case.origin.value)
        self._entries.append(AuditEntry(actor, "case.opened", case.id, _describe(case)))
        return case

    def _merge(self, case: CaseRecord, other: CaseRecord, actor: str) -> CaseRecord:
        """`case` with everything of `other`, which is merged into it."""
        assignee = case.assignee or other.assignee
        scores = (case.weakest, case.score, other.weakest, other.score)
        merged = replace(
            case,
            state=case.state if case.proposal is not None else state_of(assignee),
            document_ids=_join(case.document_ids, other.document_ids),
            suspect_ids=_join(case.suspect_ids, other.suspect_ids),
            line_ids=_join(case.line_ids, other.line_ids),
            enrollment_id=case.enrollment_id or other.enrollment_id,
            score=highest(case.score, other.score),
            weakest=min((one for one in scores if one is not None), default=None),
            risk=highest(case.risk, other.risk),
            sweep_id=other.sweep_id or case.sweep_id,
            group_key=case.group_key or other.group_key,
            assignee=assignee,
            updated_at=date_change(case, self._now),
        )
        self._index(merged)
        self._touched[case.id] = None
        # `other` gets no row where a sweep only finds the same group again.
        is_found_again = other.group_key == case.group_key or other.group_key in self._known_groups
        is_new = other.id not in self._cases
        has_row = not (is_new and other.origin is CaseOrigin.SWEEP and is_found_again)
        if has_row:
            self._end(other, merged.id)
        source = other.sweep_id if other.origin is CaseOrigin.SWEEP else other.id
        self._note(case.id, NoteKind.MERGED, actor, f"{other.origin.value} {source}")
        subject = other.id if has_row else case.id
        detail = {"into": case.id} | _describe(other)
        self._entries.append(AuditEntry(actor, "case.merged", subject, detail))
        return merged

    def _end(self, other: CaseRecord, into: str) -> None:
        """Store `other` as merged into the case that continues, for its enrollment and date."""
        if other.id in self._cases:
            self._touched[other.id] = None
        else:
            self._added[other.id] = None
        self._cases[other.id] = replace(
            other, state=CaseState.MERGED, merged_into=into, proposal=None, updated_at=self._now
        )
        for key, known in self._cases.items():
            if known.merged_into == other.id:
                self._cases[key] = replace(known, merged_into=into)

    def _note(self, case_id: str, kind: NoteKind, actor: str, text: str) -> None:
        note = CaseNote(self._now, person_of(actor), kind, text)
        self._notes.append(AddedNote(case_id, note))


def is_grouped(case: CaseRecord, *beginnings: str) -> bool:
    """True where the group key of a case begins with one of these."""
    return case.group_key is not None and case.group_key.startswith(beginnings)


def _is_apart(case: CaseRecord) -> bool:
    return case.kind in APART or is_grouped(case, CONFIRMED)


def _find_places(case: CaseRecord) -> list[tuple[str, bool, bool]]:
    """The places of the cases to merge one with: its like, about each of its documents."""
    likeness = is_grouped(case, CLAIMED), is_grouped(case, UNTOLD)
    return [(document, *likeness) for document in case.document_ids]


def highest(*values: float | None) -> float | None:
    """The highest of those that are known."""
    return max((value for value in values if value is not None), default=None)


def _is_repeated(case: CaseRecord, draft: CaseRecord) -> bool:
    """True where the same sweep, or a check of the same day, has reported all of it before."""
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


def _join(some: Sequence[str], others: Sequence[str] = ()) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*some, *others)))


def state_of(assignee: str | None) -> CaseState:
    """State of an open case without a proposal."""
    return CaseState.OPEN if assignee is None else CaseState.ASSIGNED


def date_change(case: CaseRecord, now: datetime) -> datetime:
    """Time of a change: after the previous one even if the clock stands or was set back, so that
    `seen_at` of an earlier reader is older."""
    return max(now, case.updated_at + timedelta(microseconds=1))


def _describe(case: CaseRecord) -> dict[str, Any]:
    links = {"enrollment": case.enrollment_id, "line": case.line_id, "sweep": case.sweep_id}
    known = {name: key for name, key in links.items() if key is not None}
    return {"kind": case.kind, "origin": case.origin.value} | known
