"""All that is under documents, as answers show it: lines, cases and people, and the faces that are
kept, with how alike each two of them are."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypeVar

from engine.errors import NotFound
from engine.formatting import mask_name, mask_number
from engine.matching import holders
from engine.matching.calibration import Calibration
from engine.matching.comparison import score_best
from engine.registry.campaigns import Campaign
from engine.registry.cases import CaseRecord
from engine.registry.documents import DocumentRecord
from engine.registry.lines import LineEvent, LineRecord, tell_cause
from engine.registry.queues import Face as KeptFace
from engine.registry.queues import risk_of
from engine.registry.store import Reader
from indexes.base import Floats
from schema.actors import find_actor_kind
from schema.decisions import Comparison
from serving.wire import cases, lines
from serving.wire import people as wire
from serving.wire.fields import of_record

C = TypeVar("C", bound=cases.Case)


def line(
    record: LineRecord,
    numbers: Mapping[str, str],
    *,
    is_masked: bool = True,
    marks: Mapping[str, Mapping[str, str]] | None = None,
) -> lines.Line:
    """A line with its number masked, None where `numbers` has none for its id; with its marks."""
    number = numbers.get(record.id)
    shown = number if number is None or not is_masked else mask_number(number)
    told = {} if marks is None else marks.get(record.id, {})
    return of_record(
        lines.Line,
        record,
        line_id=record.id,
        number=shown,
        status=record.state,
        suspension=record.service,
        exception=told.get("exception"),
        guardian_document_id=told.get("guardian_document_id"),
    )


def line_event(record: LineEvent, *, is_tenant: bool) -> lines.LineEvent:
    cause = tell_cause(record) if is_tenant else record.cause
    return of_record(lines.LineEvent, record, cause=cause, by=find_actor_kind(record.by))


def line_history(store: Reader, record: LineRecord, *, is_tenant: bool) -> lines.LineHistory:
    waiting = store.life.asked_of([record.id])[record.id]
    return of_record(
        lines.LineHistory,
        record,
        line_id=record.id,
        status=record.state,
        suspension=record.service,
        waiting=tuple(
            of_record(
                lines.Waiting, one, next_state=(one.steps[0][1] or None) if one.steps else None
            )
            for one in waiting
        ),
        events=tuple(
            line_event(one, is_tenant=is_tenant) for one in store.events_of_line(record.id)
        ),
    )


def campaign(store: Reader, record: Campaign) -> lines.Campaign:
    counts = store.life.count_lines(record.id)
    progress = lines.CampaignProgress(**{state.value: found for state, found in counts.items()})
    return of_record(lines.Campaign, record, campaign_id=record.id, progress=progress)


def find_marks(store: Reader, line_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Marks of lines that were opened for people whom rules treat apart."""
    marks: dict[str, dict[str, str]] = {
        key: {"exception": one.cause}
        for key, one in store.people.exceptions_of_lines(line_ids).items()
    }
    for key, guardian in store.people.guardians(line_ids).items():
        marks.setdefault(key, {})["guardian_document_id"] = guardian.guardian_id
    return marks


def holder_lines(found: holders.FoundLines, *, is_masked: bool = True) -> lines.HolderLines:
    shown = tuple(line(one, found.numbers, is_masked=is_masked) for one in found.lines)
    return of_record(lines.HolderLines, found, lines=shown)


def case(record: CaseRecord) -> cases.Case:
    """A case by its ids."""
    return show_case(cases.Case, record)


def show_case(kind: type[C], record: CaseRecord, **more: Any) -> C:
    return of_record(kind, record, case_id=record.id, risk=risk_of(record), **more)


def find_held(store: Reader, document_ids: Sequence[str]) -> list[DocumentRecord]:
    """The documents that are not erased, in their order."""
    records = store.documents_by_id(document_ids)
    return [records[one] for one in document_ids if one in records and not records[one].is_erased]


def identified_holders(
    store: Reader, scores: Mapping[str, float]
) -> tuple[wire.IdentifiedHolder, ...]:
    """The holder of each document with its score, lines in use and open cases; not of those erased
    since."""
    held = find_held(store, list(scores))
    found, numbers = find_lines_in_use(store, held)
    open_cases = store.cases.open_of([record.id for record in held])
    return tuple(
        wire.IdentifiedHolder(
            document_id=record.id,
            document_status=record.status,
            score=scores[record.id],
            lines=tuple(line(one, numbers) for one in found[record.id]),
            cases=tuple(of_record(wire.OpenCase, one) for one in open_cases[record.id]),
        )
        for record in held
    )


def people_found(
    store: Reader, document_ids: Sequence[str], scores: Mapping[str, float]
) -> tuple[wire.Person, ...]:
    """The people under each document: lines in use and open cases."""
    held = find_held(store, document_ids)
    ids = [record.id for record in held]
    return _people(store, held, store.lines_in_use_of(ids), store.cases.open_of(ids), scores)


def person(store: Reader, document_id: str) -> wire.Person:
    """The person under one document, closed lines and cases too."""
    record = store.document(document_id)
    if record.is_erased:
        raise NotFound(holders.NOBODY)
    held = {record.id: store.lines_of(record.id)}
    return _people(store, [record], held, store.cases.of([record.id]), {})[0]


def _people(
    store: Reader,
    held: Sequence[DocumentRecord],
    lines_of: Mapping[str, Sequence[LineRecord]],
    cases_of: Mapping[str, Sequence[CaseRecord]],
    scores: Mapping[str, float],
) -> tuple[wire.Person, ...]:
    ids = [record.id for record in held]
    attempts = store.attempts_of(ids, wire.MAX_ATTEMPTS)
    in_use = [one.id for key in ids for one in lines_of[key] if one.closed_at is None]
    numbers = store.numbers(in_use)
    marks = find_marks(store, [one.id for key in ids for one in lines_of[key]])
    shown = []
    for record in held:
        number, name = _identity(store, record.id)
        shown.append(
            of_record(
                wire.Person,
                record,
                document_id=record.id,
                document_type=record.kind,
                document_status=record.status,
                withdrawn=record.withdrawn or {},
                number=number,
                name=name,
                score=scores.get(record.id),
                lines=tuple(line(one, numbers, marks=marks) for one in lines_of[record.id]),
                enrollments=tuple(
                    of_record(wire.Attempt, one, enrollment_id=one.id, decided_at=one.created_at)
                    for one in attempts[record.id]
                ),
                cases=tuple(map(case, cases_of[record.id])),
            )
        )
    return tuple(shown)


def _identity(store: Reader, document_id: str) -> tuple[str, str]:
    """Number and name, masked; both empty where they were erased since the document was found."""
    try:
        identity = store.identity(document_id)
    except NotFound:
        return "", ""
    return mask_number(identity.number), mask_name(identity.name)


def find_lines_in_use(
    store: Reader, held: Sequence[DocumentRecord]
) -> tuple[Mapping[str, Sequence[LineRecord]], Mapping[str, str]]:
    """The lines in use of each document, and the numbers of all of them."""
    found = store.lines_in_use_of([record.id for record in held])
    return found, store.numbers([one.id for some in found.values() for one in some])


def find_faces(store: Reader, calibration: Calibration, document_ids: Sequence[str]) -> wire.Faces:
    """The people shown under these documents, in their order, and how alike each two are; an erased
    or unknown document is left out. The caller audits whom it shows."""
    held = find_held(store, document_ids)
    kept = store.cases.faces([one.id for one in held], wire.MAX_FACES)
    subjects = [subject for one in held for subject in _subjects(one, kept[one.id])]
    # The score of each two that were compared: references, and an attempt with a reference.
    templates = store.templates_of([one.document_id for one in subjects if one.is_reference])
    evidence = {
        one.enrollment_id: _scores_of(store, one.enrollment_id)
        for one in subjects
        if one.enrollment_id is not None and not one.is_reference
    }
    found = []
    for left, right in combinations(subjects, 2):
        score = _score(left, right, templates, evidence)
        if score is None:
            continue
        rate = calibration.fmr_at(score, Comparison.FUSED)
        found.append(
            wire.Likeness(
                left=left.subject_id,
                right=right.subject_id,
                score=score,
                strangers=of_record(wire.StrangersAlike, rate),
            )
        )
    return wire.Faces(subjects=tuple(subjects), likenesses=tuple(found))


def _subjects(record: DocumentRecord, faces: Sequence[KeptFace]) -> list[wire.FaceSubject]:
    """The subjects under a document: its reference first, then each attempt with a kept face."""
    own = [one for one in faces if one.is_of_reference]
    attempts: dict[str | None, list[KeptFace]] = {}
    for face in faces:
        if not face.is_of_reference:
            attempts.setdefault(face.crop.enrollment_id, []).append(face)
    subjects = [_subject(record, some, is_reference=False) for some in attempts.values()]
    if own or record.reference_ids or not subjects:
        is_reference = bool(record.reference_ids)
        subjects.insert(0, _subject(record, own, is_reference=is_reference))
    return subjects


def _subject(
    record: DocumentRecord, faces: Sequence[KeptFace], *, is_reference: bool
) -> wire.FaceSubject:
    first = faces[0] if faces else None
    attempt = first and first.crop.enrollment_id
    return of_record(
        wire.FaceSubject,
        subject_id=attempt or record.id,
        document_id=record.id,
        document_status=record.status,
        is_reference=is_reference,
        enrollment_id=attempt,
        decision=first and first.decision,
        captured_at=first and first.captured_at,
        received_at=first and first.crop.received_at,
        kept_until=min((one.crop.kept_until for one in faces), default=None),
        photographs=tuple(of_record(wire.ShownPhotograph, one.crop) for one in faces),
    )


_OWN = ""
"""Stands for the document that an attempt was made under."""


def _scores_of(store: Reader, enrollment_id: str) -> Mapping[str, float]:
    """An attempt's scores by document, as it was decided; none once it has expired."""
    inputs = store.enrollment(enrollment_id).evidence.inputs
    scores = {one["document_id"]: one["score"] for one in inputs.get("candidates") or ()}
    own = inputs.get("holder_score")
    return scores if own is None else {**scores, _OWN: own}


def _score(
    left: wire.FaceSubject,
    right: wire.FaceSubject,
    templates: Mapping[str, Floats],
    evidence: Mapping[str, Mapping[str, float]],
) -> float | None:
    if left.is_reference and right.is_reference:
        rows = [templates.get(one.document_id) for one in (left, right)]
        if rows[0] is None or rows[1] is None:
            return None
        scores = [score_best(row, rows[1]) for row in rows[0]]
        return max((one for one in scores if one is not None), default=None)
    attempt, other = (right, left) if left.is_reference else (left, right)
    if not other.is_reference or attempt.enrollment_id is None:
        # Two attempts are never compared with each other.
        return None
    is_own = attempt.document_id == other.document_id
    return evidence[attempt.enrollment_id].get(_OWN if is_own else other.document_id)
