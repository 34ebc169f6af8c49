"""From the records of the registry and the engine to the wire types: for routes and commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from math import ceil, floor
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import convert, structs

from engine.cases import precision
from engine.cases.decided import read_decided
from engine.errors import NotFound
from engine.formatting import mask_name, mask_number
from engine.matching import calibration as thresholds
from engine.matching import holders
from engine.registry.accounts import Outlet
from engine.registry.audit import AuditRecord
from engine.registry.cases import CaseRecord
from engine.registry.database import utc_now
from engine.registry.documents import DocumentRecord, Identity
from engine.registry.enrollments import AttemptRecord, EnrollmentRecord
from engine.registry.events import seal_place
from engine.registry.lines import LineEvent, LineRecord, tell_cause
from engine.registry.people import ExceptionRecord
from engine.registry.queues import risk_of
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from engine.registry.vault import Vault
from engine.registry.webhooks import DeadLetter, Webhook, Webhooks
from engine.sweeps import estimate
from engine.sweeps.risk import LIVENESS_WINDOW
from schema.actors import find_actor_kind
from schema.cases import ALIVE, CaseKind, CaseNote, CaseState, DueDates, NoteKind
from schema.decisions import Comparison, DecidedEnrollment
from schema.decoding import prepare
from schema.documents import DocumentRole, ErasureCertificate
from schema.sweeps import Outcomes, SweepRecord
from serving.access.authorization import Principal, order_candidates, show_decision
from serving.webhooks.cloud_event import show_event
from serving.wire import cases, enrollments, lines, outlets, oversight, people, sweeps, webhooks
from serving.wire.fields import Moment, of_record
from serving.wire.matching import Candidate

if TYPE_CHECKING:
    from serving.deployment.backups import BackupRecord

C = TypeVar("C", bound=cases.Case)
E = TypeVar("E", enrollments.Enrollment, enrollments.EnrollmentRecord)
S = TypeVar("S", bound=sweeps.Sweep)

MOST_CHOSEN = 1_000
PRECISION_STEPS = 20
"""Thresholds of a precision, from score 0 to 1."""


# -- Enrollments, lines -----------------------------------------------------------------------


def enrollment(
    caller: Principal, decided: DecidedEnrollment, key: str, *, is_repeated: bool
) -> enrollments.Enrollment:
    """A decision as the caller may see it."""
    kind = enrollments.Enrollment
    return _show(caller, kind, decided, idempotency_key=key, is_repeated=is_repeated)


def _show(caller: Principal, kind: type[E], decided: DecidedEnrollment, **more: Any) -> E:
    found = decided.duplicate_search
    listed = [of_record(Candidate, one, holder=None) for one in found.candidates or ()]
    candidates = None if found.candidates is None else order_candidates(listed)
    search = of_record(enrollments.DuplicateSearch, found, candidates=candidates)
    return show_decision(caller, decided, of_record(kind, decided, duplicate_search=search, **more))


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
        "is_face_waived": bool((inputs.get("people") or {}).get("is_face_waived")),
        "document_id": record.document_id,
        "decided_at": record.created_at.isoformat(),
    }
    state = enrollments.ExceptionState
    return _show(
        caller,
        enrollments.EnrollmentRecord,
        convert(decided, prepare(DecidedEnrollment)),
        carrier=record.carrier,
        outlet=record.outlet,
        liveness=evidence.liveness,
        liveness_judge=evidence.liveness_judge,
        **{role.value: getattr(evidence, role.value) for role in DocumentRole},
        exception=None if exception is None else of_record(state, exception),
        consent_ref=record.consent_ref,
        captured_at=record.captured_at,
        expired_at=record.expired_at,
    )


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


def erasure(found: ErasureCertificate) -> enrollments.ErasureCertificate:
    return of_record(enrollments.ErasureCertificate, found)


def erasure_state(found: holders.ErasureState) -> enrollments.Erasure:
    made = found.certificate
    return of_record(
        enrollments.Erasure, found, certificate=None if made is None else erasure(made)
    )


# -- Cases ------------------------------------------------------------------------------------


def case(record: CaseRecord) -> cases.Case:
    """A case by its ids."""
    return _case(cases.Case, record)


SHOWN_PEOPLE = 2
"""Documents of a case whose holders are named in a queue."""


def case_page(
    store: Reader, records: Sequence[CaseRecord], due: DueDates, now: datetime
) -> tuple[cases.ListedCase, ...]:
    """Cases of a queue, each with the people it is about, masked, and where their lines are."""
    named = {one.id: _named_first(one)[:SHOWN_PEOPLE] for one in records}
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
        row = _case(
            cases.ListedCase,
            one,
            people=tuple(map(person, named[one.id])),
            carriers=places[one.id].carriers,
            outlets=places[one.id].outlets,
            lines=places[one.id].lines,
            fraud_lines=len(fraud[one.id]),
            due_at=Moment.of_optional(due_at),
            is_overdue=due_at is not None and due_at < now,
            erasure_due_at=Moment.of_optional(min(filter(None, dates), default=None)),
        )
        shown.append(row)
    return tuple(shown)


def _masked_name(identity: Identity | None) -> str:
    return "" if identity is None else mask_name(identity.name)


def _named_first(record: CaseRecord) -> list[str]:
    """The documents of a case, those of suspects first."""
    return list(dict.fromkeys((*record.suspect_ids, *record.document_ids)))


def case_file(store: Reader, case_id: str) -> cases.CaseFile:
    """A case with its history, its documents that are not erased, and what was merged into it."""
    record = store.cases.get(case_id)
    held = find_held(store, record.document_ids)
    found, numbers = _lines_in_use(store, held)
    names = {key: mask_name(one.name) for key, one in store.identities(record.document_ids).items()}
    asked = store.people.exception_of_case(case_id) if record.kind == CaseKind.EXCEPTION else None
    if asked is not None and asked.line is not None and asked.line.name is not None:
        # Granting activates this name, and not that of whoever tried the document first.
        names[asked.document_id] = mask_name(asked.line.name)
    return _case(
        cases.CaseFile,
        record,
        notes=_name_people(store, store.cases.notes(case_id)),
        decided=_decided_before(store, record, held),
        merged=tuple(
            of_record(cases.MergedCase, one, case_id=one.id)
            for one in store.cases.merged_into(case_id)
        ),
        documents=tuple(
            cases.CaseDocument(
                document_id=document.id,
                name=names.get(document.id, ""),
                document_status=document.status,
                is_suspect=document.id in record.suspect_ids,
                erasure_due_at=Moment.of_optional(document.erasure_due_at),
                lines=tuple(line(one, numbers) for one in found[document.id]),
            )
            for document in held
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
    standing = read_decided(store, ids).standing
    found = [
        one
        for one in store.judged_between(ids)
        if one.case_id != record.id and (one.left_document, one.right_document) in standing
    ]
    found.sort(key=lambda one: -one.score)
    return tuple(
        cases.DecidedPair(
            left=one.left_document,
            right=one.right_document,
            outcome=one.outcome.value,
            score=one.score,
            case_id=one.case_id,
        )
        for one in found[:MOST_DECIDED]
    )


def _case(kind: type[C], record: CaseRecord, **more: Any) -> C:
    return of_record(kind, record, case_id=record.id, risk=risk_of(record), **more)


# -- Outlets ----------------------------------------------------------------------------------


def outlet(store: Reader, record: Outlet) -> outlets.OutletState:
    return _outlet(record, outlet_liveness(store, [record.code])[record.code])


def _outlet(record: Outlet, liveness: outlets.OutletLiveness | None = None) -> outlets.OutletState:
    return of_record(
        outlets.OutletState,
        record,
        outlet=record.code,
        refused_attempts=record.refused_attempts or 0,
        liveness=liveness,
    )


def outlet_liveness(store: Reader, codes: Sequence[str]) -> dict[str, outlets.OutletLiveness]:
    """Results of recent liveness checks at each of these outlets, none of which is left out."""
    now = utc_now()
    sums = {code: [0, 0, 0] for code in codes}
    # Many are found among all of them.
    chosen = codes if len(codes) <= MOST_CHOSEN else None
    for one in store.liveness_counts(now - LIVENESS_WINDOW, now, chosen):
        for place, count in enumerate((one.results, one.failed, one.absent)):
            if one.outlet in sums:
                sums[one.outlet][place] += count
    days = LIVENESS_WINDOW.days
    return {code: outlets.OutletLiveness(days, *counts) for code, counts in sums.items()}


def outlet_list(
    records: Sequence[Outlet], carrier: str | None, restriction: str | None
) -> tuple[outlets.OutletState, ...]:
    """The outlets of a carrier and of a restriction, most refused attempts first."""
    shown = [
        _outlet(one)
        for one in records
        if carrier in (None, one.carrier) and restriction in (None, one.restriction)
    ]
    return tuple(sorted(shown, key=lambda one: (-one.refused_attempts, one.outlet)))


def past_enrollments(
    store: Reader, records: Sequence[AttemptRecord]
) -> tuple[outlets.PastEnrollment, ...]:
    """Attempts of an outlet, each with its case, and with whom its document names, masked."""
    documents = list(dict.fromkeys(one.document_id for one in records if one.document_id))
    identities, found = store.identities(documents), read_apart(documents, store.lines_in_use_of)
    opened = {line.enrollment_id: line.id for some in found.values() for line in some}
    numbers = store.numbers([opened[one.id] for one in records if one.id in opened])
    cases_of = store.cases.of_attempts([one.id for one in records])
    return tuple(
        of_record(
            outlets.PastEnrollment,
            one,
            enrollment_id=one.id,
            decided_at=Moment.of(one.created_at),
            name=_masked_name(identities.get(one.document_id or "")),
            number=mask_number(numbers.get(opened.get(one.id, ""), "")),
            case=None
            if (case_of := cases_of.get(one.id)) is None
            else of_record(outlets.PastCase, case_of, case_id=case_of.id),
        )
        for one in records
    )


# -- People -----------------------------------------------------------------------------------


def find_held(store: Reader, document_ids: Sequence[str]) -> list[DocumentRecord]:
    """The documents that are not erased, in their order."""
    records = store.documents_by_id(document_ids)
    return [records[one] for one in document_ids if one in records and not records[one].is_erased]


def identified_holders(
    store: Reader, scores: Mapping[str, float]
) -> tuple[people.IdentifiedHolder, ...]:
    """The holder of each document with its score, the lines in use and the open cases.

    Some may have been erased since they were found.
    """
    held = find_held(store, list(scores))
    found, numbers = _lines_in_use(store, held)
    open_cases = store.cases.open_of([record.id for record in held])
    return tuple(
        people.IdentifiedHolder(
            document_id=record.id,
            document_status=record.status,
            score=scores[record.id],
            lines=tuple(line(one, numbers) for one in found[record.id]),
            cases=tuple(of_record(people.OpenCase, one) for one in open_cases[record.id]),
        )
        for record in held
    )


def people_found(
    store: Reader, document_ids: Sequence[str], scores: Mapping[str, float]
) -> tuple[people.Person, ...]:
    """The people under each document: lines in use and open cases."""
    held = find_held(store, document_ids)
    ids = [record.id for record in held]
    return _people(store, held, store.lines_in_use_of(ids), store.cases.open_of(ids), scores)


def person(store: Reader, document_id: str) -> people.Person:
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
) -> tuple[people.Person, ...]:
    ids = [record.id for record in held]
    attempts = store.attempts_of(ids, people.MAX_ATTEMPTS)
    in_use = [one.id for key in ids for one in lines_of[key] if one.closed_at is None]
    numbers = store.numbers(in_use)
    marks = find_marks(store, [one.id for key in ids for one in lines_of[key]])
    shown = []
    for record in held:
        number, name = _identity(store, record.id)
        shown.append(
            people.Person(
                document_id=record.id,
                document_type=record.kind,
                document_status=record.status,
                erasure_asked_at=Moment.of_optional(record.erasure_asked_at),
                erasure_due_at=Moment.of_optional(record.erasure_due_at),
                number=number,
                name=name,
                score=scores.get(record.id),
                lines=tuple(line(one, numbers, marks=marks) for one in lines_of[record.id]),
                enrollments=tuple(
                    of_record(people.Attempt, one, enrollment_id=one.id, decided_at=one.created_at)
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


def _lines_in_use(
    store: Reader, held: Sequence[DocumentRecord]
) -> tuple[Mapping[str, Sequence[LineRecord]], Mapping[str, str]]:
    """The lines in use of each document, and the numbers of all of them."""
    found = store.lines_in_use_of([record.id for record in held])
    return found, store.numbers([one.id for some in found.values() for one in some])


# -- Sweeps -----------------------------------------------------------------------------------


def sweep(record: SweepRecord) -> sweeps.Sweep:
    """A sweep without its summary."""
    return _sweep(sweeps.Sweep, record)


def sweep_report(record: SweepRecord) -> sweeps.SweepReport:
    """A sweep with what it found, in counts."""
    summary = None if record.summary is None else dict(record.summary)
    return _sweep(sweeps.SweepReport, record, summary=summary)


def _sweep(kind: type[S], record: SweepRecord, **more: Any) -> S:
    return of_record(
        kind,
        record,
        sweep_id=record.id,
        threshold=record.terms.threshold,
        scope=record.terms.scope,
        budget=record.terms.budget,
        gallery_sequence=record.sequence,
        **more,
    )


def sweep_expectation(found: estimate.ExpectedSweep) -> sweeps.Expectation:
    """The cost and the yield to expect of a sweep."""
    return of_record(
        sweeps.Expectation,
        found,
        threshold=found.terms.threshold,
        scope=found.terms.scope,
        budget=found.terms.budget,
        gallery_sequence=found.sequence,
    )


def sweep_precision(
    decisions: precision.Decisions, sweep_id: str | None, wanted: float
) -> sweeps.Precision:
    """The share of the judged pairs that were fraud, at every twentieth of a score; how cases
    ended."""
    plain = decisions.plain
    pairs = plain if sweep_id is None else decisions.pairs
    whole = precision.measure_precision(pairs, sweep_id=sweep_id)
    scores = [pair.score for pair in pairs if pair.sweep_id is not None]
    first = floor(min(scores, default=1) * PRECISION_STEPS)
    last = ceil(max(scores, default=0) * PRECISION_STEPS)
    steps = [step / PRECISION_STEPS for step in range(first, last)]
    closed = [one for one in decisions.closed if sweep_id in (None, one.sweep_id)]
    proposed = precision.propose_threshold(plain, wanted)
    return sweeps.Precision(
        **_precision_fields(whole),
        thresholds=tuple(
            sweeps.PrecisionAt(**_precision_fields(found), threshold=step)
            for step, found in zip(steps, precision.measure_at(pairs, steps, sweep_id), strict=True)
        ),
        kinds=tuple(map(_case_outcomes, precision.count_by_kind(closed))),
        months=tuple(map(_case_outcomes, precision.count_by_month(closed))),
        proposal=sweeps.ProposedThreshold(
            threshold=proposed.threshold,
            wanted=proposed.wanted,
            ground=proposed.ground.value,
            cases=proposed.measured.cases,
            effective_cases=proposed.measured.effective,
            least_cases=precision.LEAST_CASES,
        ),
    )


def _case_outcomes(found: Outcomes) -> sweeps.CaseOutcomes:
    rate = precision.measure_fraud(found)
    return of_record(sweeps.CaseOutcomes, found, precision=rate.value, low=rate.low, high=rate.high)


def _precision_fields(found: precision.MeasuredPrecision) -> dict[str, Any]:
    rate = found.rate
    return {
        "judged": found.judged,
        "confirmed": found.confirmed,
        "precision": None if rate is None else rate.value,
        "low": None if rate is None else rate.low,
        "high": None if rate is None else rate.high,
        "cases": found.cases,
    }


# -- Oversight --------------------------------------------------------------------------------


def audit_entry(record: AuditRecord) -> oversight.AuditEntry:
    return of_record(
        oversight.AuditEntry,
        record.entry,
        number=record.number,
        at=record.at,
        hash=record.hash.hex(),
    )


def backup(record: BackupRecord) -> oversight.Backup:
    made = record.manifest
    return oversight.Backup(
        name=record.name,
        state=record.state.value,
        started_at=Moment.of(record.started_at),
        audit_number=None if made is None else made.audit_number,
        audit_head=None if made is None else made.audit_head,
        bytes=None if made is None else made.bytes,
        sha256=None if made is None else made.sha256,
        fault=record.fault,
    )


def calibrated_thresholds(
    model_digest: str, scores: thresholds.Thresholds, calibration: thresholds.Calibration | None
) -> oversight.CalibratedThresholds:
    """The thresholds of a deployment, on the curves of its calibration."""
    return oversight.CalibratedThresholds(
        model_digest=model_digest,
        thresholds=of_record(enrollments.Thresholds, scores),
        calibration=None
        if calibration is None
        else of_record(
            oversight.Calibration,
            calibration,
            curves=tuple(_curve(kind, curve) for kind, curve in calibration.curves.items()),
        ),
    )


def _curve(kind: Comparison, curve: thresholds.CalibrationCurve) -> oversight.Curve:
    return of_record(
        oversight.Curve,
        curve,
        comparison=kind,
        fmr_bound=curve.points[-1].fmr_high,
        points=tuple(
            oversight.CurvePoint(one.threshold, one.fmr, one.fmr_low, one.fmr_high, one.fnmr)
            for one in curve.points
        ),
    )


def webhook(registry: Webhooks, record: Webhook) -> webhooks.Webhook:
    """A webhook with what waits for it now."""
    backlog = registry.measure(record)
    until, oldest = record.earlier_until, backlog.oldest_at
    return webhooks.Webhook(
        webhook_id=record.id,
        sink=record.sink,
        types=tuple(one.value for one in record.types),
        carrier=record.carrier,
        state=record.state.value,
        created_at=Moment.of(record.created_at),
        earlier_secret_until=None if until is None else Moment.of(until),
        waiting=backlog.waiting,
        oldest_at=None if oldest is None else Moment.of(oldest),
        dead=backlog.dead,
    )


def read_state(name: str | None) -> dict[str, Any]:
    """Translates the state of a queue for a `CaseFilter`."""
    if name == "fraud_in_use":
        return {"fraud_in_use": True}
    return {"state": None if name is None else ALIVE if name == "alive" else CaseState(name)}


def dead_letters(
    records: Sequence[DeadLetter], limit: int, vault: Vault, carrier: str | None
) -> webhooks.DeadLetters:
    """A page of as many as `limit`, and where it goes on, for those who read this carrier's."""
    shown = tuple(
        webhooks.DeadLetter(
            show_event(one.event, vault.deployment_id, carrier), one.attempts, one.fault
        )
        for one in records
    )
    last = records[-1].event if len(records) == limit else None
    following = None if last is None else seal_place(vault, carrier, last.number, last.id)
    return webhooks.DeadLetters(shown, following)
