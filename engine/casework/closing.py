"""What an outcome brings about, beside the end of the case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.casework.model import CaseKind, Outcome
from engine.casework.suspects import Suspects
from engine.errors import FourEyes, RequestError
from engine.matching.runner import Runner
from engine.registry.casefile import JudgedPair
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, CaseRecord, LineStatus, WatchEntry
from engine.registry.writer import Writer

MOST_CLOSED_LINES = 1_000
"""So many lines one case closes at once."""

_JUDGING = frozenset({Outcome.FRAUD, Outcome.TWINS, Outcome.MISTAKE})


@dataclass(frozen=True, slots=True)
class Effects:
    """Pairs that count as judged, faces to be watched, lines that are closed or active again."""

    judged: Sequence[JudgedPair] = ()
    watched: Sequence[WatchEntry] = ()
    closed_lines: Sequence[str] = ()
    restored_lines: Sequence[str] = ()

    def describe(self) -> dict[str, Any]:
        """For the audit: what was done, in ids and counts."""
        return {
            "pairs": len(self.judged),
            "watched": [entry.id for entry in self.watched],
            "closed_lines": list(self.closed_lines),
            "restored_lines": list(self.restored_lines),
        }

    def entries(self, case: CaseRecord, actor: str) -> list[AuditEntry]:
        """An entry for each line and each face, as where they are changed one by one."""
        detail = {"case": case.id}
        watched = [str(entry.id) for entry in self.watched]
        return [
            AuditEntry(actor, action, subject, detail)
            for action, subjects in (
                ("line.closed", self.closed_lines),
                ("line.restored", self.restored_lines),
                ("watchlist.added", watched),
            )
            for subject in subjects
        ]


def find_effects(
    registrar: Runner,
    registry: Reader,
    writer: Writer,
    case: CaseRecord,
    outcome: Outcome,
    lines: Sequence[str],
    actor: str,
    now: datetime,
) -> Effects:
    """What closing a case by an outcome brings about; `lines` are those to be closed with it."""
    judged: Sequence[JudgedPair] = ()
    watched: Sequence[WatchEntry] = ()
    if outcome in _JUDGING:
        suspects = Suspects(registry, registrar.gallery, case)
        judged = suspects.judge(outcome, actor, now)
        if outcome is Outcome.FRAUD:
            watched = suspects.watch(registrar.watchlist, writer.next_watch_id, now)
    found = registry.lines_by_id([*lines, *case.line_ids])
    # Closed since it was proposed, by whoever may: it is closed.
    in_use = [key for key in lines if found[key].status is not LineStatus.CLOSED]
    is_dispute = outcome is Outcome.UNFOUNDED and case.kind == CaseKind.DISPUTE
    disputed = [
        key
        for key in case.line_ids
        if is_dispute and found[key].status is LineStatus.DISPUTED and key not in in_use
    ]
    return Effects(judged, watched, in_use, disputed)


def check_lines(registry: Reader, case: CaseRecord, line_ids: Sequence[str]) -> tuple[str, ...]:
    """The lines, each once, if they are in use under documents of the case; else `RequestError`."""
    lines = tuple(dict.fromkeys(line_ids))
    if len(lines) > MOST_CLOSED_LINES:
        raise RequestError(f"one case closes {MOST_CLOSED_LINES} lines at most: choose fewer")
    found = registry.lines_by_id(lines)
    documents = set(case.document_ids)
    for key in lines:
        line = found.get(key)
        if line is None or line.document_id not in documents or line.status is LineStatus.CLOSED:
            raise RequestError(
                "a line to be closed is not in use under a document of the case: read it again"
            )
    return lines


def require_second_person(
    case: CaseRecord, outcome: Outcome, lines: Sequence[str], actor: str
) -> None:
    """`FourEyes` unless another person proposed this outcome with these lines."""
    proposal = case.proposal
    if proposal is None:
        raise FourEyes("two people close lines: propose it, and let another person close")
    if (proposal.outcome, set(proposal.close_lines)) != (outcome, set(lines)):
        raise FourEyes("another outcome or other lines were proposed: close as it was proposed")
    if proposal.by == actor:
        raise FourEyes("who proposed to close lines cannot close them: another person must")
