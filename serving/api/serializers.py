"""From the records of the registry and the engine to the wire types: for routes and commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from math import ceil, floor
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import convert, structs

from engine.cases import decided as judged
from engine.formatting import mask_name, mask_number
from engine.matching import calibration as thresholds
from engine.matching.requests import Answer
from engine.registry.accounts import Outlet
from engine.registry.audit import AuditRecord
from engine.registry.cases import CaseRecord
from engine.registry.database import utc_now
from engine.registry.documents import DocumentRecord, Identity
from engine.registry.enrollments import AttemptRecord, EnrollmentRecord
from engine.registry.people import ExceptionRecord
from engine.registry.queues import CaseFilter
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from engine.sweeps import estimate
from engine.sweeps.risk import LIVENESS_WINDOW
from schema.cases import ALIVE, CaseKind, CaseNote, CaseSort, CaseState, DueDates, NoteKind
from schema.decisions import DecidedEnrollment
from schema.decoding import prepare
from schema.people import FIRST_FACE, ExceptionCause
from schema.sweeps import Outcomes, SweepRecord
from serving.access.authorization import Principal, order_candidates, scope_of, show_decision
from serving.api.people import find_held, find_lines_in_use, line, show_case
from serving.wire import cases, enrollments, oversight, sweeps
from serving.wire.fields import AnswerBody, of_record
from serving.wire.matching import Candidate

if TYPE_CHECKING:
    from serving.deployment.backups import BackupRecord

E = TypeVar("E", enrollments.Enrollment, enrollments.EnrollmentRecord)
S = TypeVar("S", bound=AnswerBody)

MOST_CHOSEN = 1_000
PRECISION_STEPS = 20
"""Thresholds of a precision, from score 0 to 1."""


# -- Enrollments ------------------------------------------------------------------------------


def enrollment(caller: Principal, answer: Answer, key: str, word: str) -> enrollments.Enrollment:
    """A decision as the caller may see it; `word` is the operator's for two faces that match."""
    decided = answer.decided
    score = decided.scores.live_portrait
    is_match = score is not None and score >= decided.thresholds.verify
    told = {"idempotency_key": key, "match_word": word if word and is_match else None}
    return _show(caller, enrollments.Enrollment, decided, answer, **told)


def _show(
    caller: Principal, kind: type[E], decided: DecidedEnrollment, *beside: object, **more: Any
) -> E:
    found = decided.duplicate_search
    listed = [of_record(Candidate, one, holder=None) for one in found.candidates or ()]
    candidates = None if found.candidates is None else order_candidates(listed)
    search = of_record(enrollments.DuplicateSearch, found, candidates=candidates)
    shown = of_record(kind, decided, *beside, duplicate_search=search, **more)
    return show_decision(caller, decided, shown)


def enrollment_record(
    caller: Principal, record: EnrollmentRecord, exception: ExceptionRecord | None = None
) -> enrollments.EnrollmentRecord:
    """What is on record, as the caller may see it; of one that has expired no score."""
    evidence = record.evidence
    inputs = evidence.inputs
    candidates = inputs.get("candidates")
    has_searched = inputs["searched"] is not None
    decided = {
        **structs.asdict(evidence),
        "enrollment_id": record.id,
        "decision": record.decision,
        "reasons": evidence.findings,
        "scores": {
            "live_portrait": inputs.get("live_portrait_score"),
            "holder": inputs.get("holder_score"),
            "best_candidate": max((one["score"] for one in candidates or ()), default=None),
        },
        "thresholds": inputs["thresholds"],
        "duplicate_search": {
            "ran": has_searched,
            "searched": inputs["searched"],
            "gallery_sequence": record.sequence if has_searched else None,
            "candidates": candidates if has_searched else None,
        },
        "is_own_holder": inputs.get("open_lines", 0) > 0,
        "is_holder_unseen": inputs.get("is_holder_unseen", False),
        "is_face_waived": bool((inputs.get("people") or {}).get("is_face_waived")),
        "document_id": record.document_id,
        "decided_at": record.created_at.isoformat(),
    }
    return _show(
        caller,
        enrollments.EnrollmentRecord,
        convert(decided, prepare(DecidedEnrollment)),
        evidence,
        record,
        exception=_exception(caller, exception, is_by_proof=evidence.proof is not None),
    )


def _exception(
    caller: Principal, record: ExceptionRecord | None, *, is_by_proof: bool
) -> enrollments.ExceptionState | None:
    """What was asked for; why a first face is asked about would tell a tenant of others' lines."""
    if record is None:
        return None
    if (
        scope_of(caller) is not None
        and not is_by_proof
        and record.cause not in list(ExceptionCause)
    ):
        record = replace(record, cause=FIRST_FACE)
    return of_record(enrollments.ExceptionState, record)


# -- Cases ------------------------------------------------------------------------------------


SHOWN_PEOPLE = 2
"""Documents of a case whose holders are named in a queue."""


def case_page(
    store: Reader, records: Sequence[CaseRecord], due: DueDates, now: datetime
) -> tuple[cases.ListedCase, ...]:
    """Cases of a queue, each with the people it is about, masked, and where their lines are."""
    named = {
        one.id: list(dict.fromkeys((*one.suspect_ids, *one.document_ids)))[:SHOWN_PEOPLE]
        for one in records
    }
    wanted = list(dict.fromkeys(key for keys in named.values() for key in keys))
    found, identities = read_apart(wanted, store.lines_in_use_of), store.identities(wanted)
    first = {key: lines_of[0].id for key, lines_of in found.items() if lines_of}
    numbers = store.numbers(list(first.values()))

    def person(document_id: str) -> cases.CasePerson:
        return cases.CasePerson(
            document_id,
            name=_masked_name(identities.get(document_id)),
            number=mask_number(numbers.get(first.get(document_id, ""), "")),
        )

    places = store.cases.places([one.id for one in records])
    fraud = store.cases.fraud_of_cases([one.id for one in records])
    leaving = {one.id: one.erasure_due_at for one in store.awaiting_erasure()}
    shown = []
    for one in records:
        dates = [leaving[key] for key in one.document_ids if key in leaving]
        due_at = due.of(one.kind, one.opened_at) if one.state in ALIVE else None
        row = show_case(
            cases.ListedCase,
            one,
            people=tuple(map(person, named[one.id])),
            carriers=places[one.id].carriers,
            outlets=places[one.id].outlets,
            lines=places[one.id].lines,
            fraud_lines=len(fraud[one.id]),
            due_at=due_at,
            is_overdue=due_at is not None and due_at < now,
            erasure_due_at=min(filter(None, dates), default=None),
        )
        shown.append(row)
    return tuple(shown)


def queue_page(
    store: Reader,
    wanted: CaseFilter,
    sort: CaseSort,
    due: DueDates,
    limit: int,
    after: str | None,
    names: Sequence[str],
) -> cases.CasePage:
    """A page of a queue, and on the first what waits in the whole, also for the person of these
    names; `NotFound` where `after` is no case."""
    now = utc_now()
    shown = case_page(
        store, store.cases.queue(wanted, sort, due=due, limit=limit, after=after), due, now
    )
    following = shown[-1].case_id if len(shown) == limit else None
    if after is not None:
        return cases.CasePage(shown, following)

    def count(**more: Any) -> dict[str, int]:
        return store.cases.count(CaseFilter(state=ALIVE, **more), due)

    some = {"overdue_at": now}, {"assignees": names}, {"to_approve_by": names}
    counts = cases.CaseCounts(count(), *(sum(count(**one).values()) for one in some))
    return cases.CasePage(shown, following, store.cases.count_fraud(), counts)


def _masked_name(identity: Identity | None) -> str:
    return "" if identity is None else mask_name(identity.name)


def case_file(store: Reader, case_id: str) -> cases.CaseFile:
    """A case with its history, its documents that are not erased, and what was merged into it."""
    record = store.cases.get(case_id)
    held = find_held(store, record.document_ids)
    found, numbers = find_lines_in_use(store, held)
    names = {key: mask_name(one.name) for key, one in _identities_of(store, record).items()}
    closed = store.lines_closed_by(case_id, [one.id for one in held])
    of_closed = store.numbers([one.id for one in closed])
    return show_case(
        cases.CaseFile,
        record,
        notes=_name_people(store, store.cases.notes(case_id)),
        decided=_decided_before(store, record, held),
        closed_lines=tuple(line(one, of_closed) for one in closed),
        merged=tuple(
            of_record(cases.MergedCase, one, case_id=one.id)
            for one in store.cases.merged_into(case_id)
        ),
        documents=tuple(
            of_record(
                cases.CaseDocument,
                document,
                document_id=document.id,
                name=names.get(document.id, ""),
                document_status=document.status,
                is_suspect=document.id in record.suspect_ids,
                lines=tuple(line(one, numbers) for one in found[document.id]),
            )
            for document in held
        ),
    )


def _identities_of(store: Reader, record: CaseRecord) -> dict[str, Identity]:
    found = store.identities(record.document_ids)
    asked = store.people.exception_of_case(record.id) if record.kind == CaseKind.EXCEPTION else None
    if asked is not None and asked.line is not None and asked.line.name is not None:
        # Granting activates this name, and not that of whoever tried the document first.
        known = found.get(asked.document_id, Identity("", ""))
        found[asked.document_id] = replace(known, name=asked.line.name)
    return found


MOST_REVEALED = 20


def revealed_case(store: Reader, case_id: str) -> cases.RevealedCase:
    """Whom a case is about, in full; kept and counted before anybody sees it."""
    record = store.cases.get(case_id)
    known = _identities_of(store, record)
    ids = dict.fromkeys((*record.suspect_ids, *record.document_ids))
    held = [one for one in find_held(store, list(ids)) if one.id in known][:MOST_REVEALED]
    return cases.RevealedCase(
        case_id,
        tuple(
            cases.RevealedDocument(one.id, one.kind, known[one.id].number, known[one.id].name)
            for one in held
        ),
    )


def _name_people(store: Reader, notes: Sequence[CaseNote]) -> list[CaseNote]:
    """A history written before keys were people's names the keys: here whose they are."""
    if not any(one.actor.startswith(_BY_KEY) for one in notes):
        return list(notes)
    people = {f"{_BY_KEY}{key.id}": key.person for key in store.api_keys() if key.person}

    def name(note: CaseNote) -> CaseNote:
        is_assigned = note.kind is NoteKind.ASSIGNED
        text = people.get(note.text, note.text) if is_assigned else note.text
        return replace(note, actor=people.get(note.actor, note.actor), text=text)

    return list(map(name, notes))


_BY_KEY = "key:"


MOST_DECIDED = 200


def _decided_before(
    store: Reader, record: CaseRecord, held: Sequence[DocumentRecord]
) -> tuple[cases.DecidedPair, ...]:
    ids = [one.id for one in held]
    standing = judged.read_decided(store, ids).standing
    found = [
        one
        for one in store.judged_between(ids)
        if one.case_id != record.id and (one.left_document, one.right_document) in standing
    ]
    found.sort(key=lambda one: -one.score)
    return tuple(
        of_record(cases.DecidedPair, one, left=one.left_document, right=one.right_document)
        for one in found[:MOST_DECIDED]
    )


# -- Outlets ----------------------------------------------------------------------------------


def outlet(store: Reader, record: Outlet) -> cases.OutletState:
    return outlets(store, [record], cases.OutletState)[0]


def outlets(store: Reader, records: Sequence[Outlet], kind: type[S]) -> tuple[S, ...]:
    """Outlets, each with what recent liveness checks brought there."""
    told = outlet_liveness(store, [one.code for one in records])
    return tuple(
        of_record(
            kind,
            one,
            outlet=one.code,
            refused_attempts=one.refused_attempts or 0,
            liveness=told[one.code],
        )
        for one in records
    )


def outlet_liveness(store: Reader, codes: Sequence[str]) -> dict[str, cases.OutletLiveness]:
    """Results of recent liveness checks at each of these outlets, none of which is left out."""
    now = utc_now()
    sums = {code: [0, 0, 0, 0] for code in codes}
    # Many are found among all of them.
    chosen = codes if len(codes) <= MOST_CHOSEN else None
    for one in store.liveness_counts(now - LIVENESS_WINDOW, now, chosen):
        for place, count in enumerate((one.results, one.failed, one.absent, one.proofs)):
            if one.outlet in sums:
                sums[one.outlet][place] += count
    days = LIVENESS_WINDOW.days
    return {code: cases.OutletLiveness(days, *found) for code, found in sums.items()}


def past_enrollments(
    store: Reader, records: Sequence[AttemptRecord]
) -> tuple[cases.PastEnrollment, ...]:
    """Attempts of an outlet, each with its case, and with whom its document names, masked."""
    documents = list(dict.fromkeys(one.document_id for one in records if one.document_id))
    identities, found = store.identities(documents), read_apart(documents, store.lines_in_use_of)
    opened = {line.enrollment_id: line.id for some in found.values() for line in some}
    numbers = store.numbers([opened[one.id] for one in records if one.id in opened])
    cases_of = store.cases.of_attempts([one.id for one in records])
    return tuple(
        of_record(
            cases.PastEnrollment,
            one,
            enrollment_id=one.id,
            decided_at=one.created_at,
            name=_masked_name(identities.get(one.document_id or "")),
            number=mask_number(numbers.get(opened.get(one.id, ""), "")),
            case=None
            if (case_of := cases_of.get(one.id)) is None
            else of_record(cases.PastCase, case_of, case_id=case_of.id),
        )
        for one in records
    )


# -- Sweeps -----------------------------------------------------------------------------------


def sweep(record: SweepRecord) -> sweeps.Sweep:
    """A sweep without its summary."""
    return _with_terms(sweeps.Sweep, record, sweep_id=record.id)


def sweep_report(record: SweepRecord) -> sweeps.SweepReport:
    """A sweep with what it found, in counts."""
    summary = None if record.summary is None else dict(record.summary)
    return _with_terms(sweeps.SweepReport, record, sweep_id=record.id, summary=summary)


def sweep_expectation(found: estimate.ExpectedSweep) -> sweeps.Expectation:
    """The cost and the yield to expect of a sweep."""
    return _with_terms(sweeps.Expectation, found)


def _with_terms(kind: type[S], found: SweepRecord | estimate.ExpectedSweep, **more: Any) -> S:
    return of_record(kind, found, found.terms, gallery_sequence=found.sequence, **more)


def sweep_precision(
    decisions: judged.Decisions, sweep_id: str | None, wanted: float
) -> sweeps.Precision:
    """The share of the judged pairs that were fraud, at every twentieth of a score; how cases
    ended."""
    plain = decisions.plain
    pairs = plain if sweep_id is None else decisions.pairs
    whole = judged.measure_precision(pairs, sweep_id=sweep_id)
    scores = [pair.score for pair in pairs if pair.sweep_id is not None]
    first = floor(min(scores, default=1) * PRECISION_STEPS)
    last = ceil(max(scores, default=0) * PRECISION_STEPS)
    steps = [step / PRECISION_STEPS for step in range(first, last)]
    proposed = judged.propose_threshold(plain, wanted)
    return _precision(
        sweeps.Precision,
        whole,
        thresholds=tuple(
            _precision(sweeps.PrecisionAt, found, threshold=step)
            for step, found in zip(steps, judged.measure_at(pairs, steps, sweep_id), strict=True)
        ),
        kinds=tuple(map(_case_outcomes, judged.count_by("kind", decisions.closed, sweep_id))),
        months=tuple(map(_case_outcomes, judged.count_by("month", decisions.closed, sweep_id))),
        proposal=of_record(
            sweeps.ProposedThreshold,
            proposed,
            cases=proposed.measured.cases,
            effective_cases=proposed.measured.effective,
            least_cases=judged.LEAST_CASES,
        ),
    )


def _case_outcomes(found: Outcomes) -> sweeps.CaseOutcomes:
    rate = judged.measure_fraud(found)
    return of_record(sweeps.CaseOutcomes, found, rate, precision=rate.value)


def _precision(kind: type[S], found: judged.MeasuredPrecision, **more: Any) -> S:
    names = {"precision": "value", "low": "low", "high": "high"}
    rate = {name: getattr(found.rate, source, None) for name, source in names.items()}
    return of_record(kind, found, **rate, **more)


# -- Oversight --------------------------------------------------------------------------------


def audit_entry(record: AuditRecord) -> oversight.AuditEntry:
    return of_record(oversight.AuditEntry, record.entry, record, hash=record.hash.hex())


def backup(record: BackupRecord) -> oversight.Backup:
    made = ("audit_number", "audit_head", "bytes", "sha256")
    of_copy = {name: getattr(record.manifest, name, None) for name in made}
    return of_record(oversight.Backup, record, **of_copy)


def calibrated_thresholds(
    model_digest: str, scores: thresholds.Thresholds, calibration: thresholds.Calibration
) -> oversight.CalibratedThresholds:
    """The thresholds of a deployment, on the curves of its calibration."""
    return oversight.CalibratedThresholds(
        model_digest=model_digest,
        thresholds=of_record(enrollments.Thresholds, scores),
        calibration=of_record(
            oversight.Calibration,
            calibration,
            curves=tuple(
                of_record(
                    oversight.Curve,
                    curve,
                    comparison=kind,
                    fmr_bound=curve.points[-1].fmr_high,
                    points=tuple(
                        oversight.CurvePoint(
                            one.threshold, one.fmr, one.fmr_low, one.fmr_high, one.fnmr
                        )
                        for one in curve.points
                    ),
                )
                for kind, curve in calibration.curves.items()
            ),
        ),
    )


def read_state(name: str | None) -> dict[str, Any]:
    """Translates the state of a queue for a `CaseFilter`."""
    if name == "fraud_in_use":
        return {"fraud_in_use": True}
    return {"state": None if name is None else ALIVE if name == "alive" else CaseState(name)}
