"""What refused attempts and failed checks say: the groups that no pair of faces shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.casework.model import CaseKind
from engine.reasons import Reason
from engine.registry.reader import Reader
from engine.registry.records import ALIVE, CaseRecord, CaseState
from engine.sweeps.model import Group, Identity
from engine.sweeps.rings import ChangedLine, ForeignAttempt, groups_of_documents, groups_of_lines

_PAGE_CASES = 1000
# A case that went into another still says what it was opened for.
_TELLING = frozenset({*ALIVE, CaseState.MERGED})


def groups_of_events(reader: Reader) -> list[Group]:
    """Documents that many faces tried, and lines that changed face, of cases not yet decided."""
    attempts, changed = _find_attempts(reader), _find_changed(reader)
    documents = {one.document_id for one in attempts} | {one.document_id for one in changed}
    identities = _identify(reader, sorted(documents))
    return [*groups_of_documents(attempts, identities), *groups_of_lines(changed, identities)]


def _find_attempts(reader: Reader) -> list[ForeignAttempt]:
    tried = {key for case in _cases(reader, CaseKind.STOLEN_DOCUMENT) for key in case.document_ids}
    return [
        ForeignAttempt(key, attempt.carrier, attempt.outlet, attempt.created_at)
        for key, attempts in reader.attempts_of(sorted(tried)).items()
        for attempt in attempts
        if Reason.DOCUMENT_HELD_BY_ANOTHER_FACE in attempt.reasons
    ]


def _find_changed(reader: Reader) -> list[ChangedLine]:
    moments = {
        case.line_id: case.opened_at
        for case in _cases(reader, CaseKind.LINE_CHANGED_FACE)
        if case.line_id is not None
    }
    return [
        ChangedLine(line.id, line.document_id, line.carrier, line.outlet, moments[line.id])
        for line in reader.lines_by_id(sorted(moments)).values()
    ]


def _identify(reader: Reader, document_ids: Sequence[str]) -> dict[str, Identity]:
    references = [
        key for one in reader.documents_by_id(document_ids).values() for key in one.reference_ids
    ]
    return {one.document_id: one for one in reader.identities_of(references)}


def _cases(reader: Reader, kind: CaseKind) -> Iterator[CaseRecord]:
    after = None
    while page := reader.cases(_TELLING, kind.value, limit=_PAGE_CASES, after=after):
        yield from page
        after = page[-1].id
