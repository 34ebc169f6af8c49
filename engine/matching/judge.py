"""From a batch of requests to decisions, and to the changes that make them durable: what checks do,
what they share in a batch, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from msgspec import structs

from engine.cases.opening import CaseBatch, NewCase
from engine.errors import SosieError, VectorUnusable
from engine.matching.calibration import Thresholds
from engine.matching.comparison import Comparisons, FalseCandidates, Pair, Scan, Scanned, WatchList
from engine.matching.documents import DEFAULT_TIME_ZONE
from engine.matching.policy import POLICY_VERSION, Evidence, EvidencePart, Verdict, decide, unasked
from engine.matching.requests import (
    Answer,
    Attempt,
    EnrollmentRequest,
    Intake,
    find_unconsented,
    record_refused,
    require_units,
)
from engine.matching.samples import choose_crops
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id
from engine.registry.documents import DocumentRecord
from engine.registry.enrollments import EnrollmentRecord, StoredAnswer
from engine.registry.people import Standing
from engine.registry.references import NewReference
from engine.registry.rows import Write, choose
from engine.registry.store import Reader, Store
from engine.registry.writer import Writer
from indexes.base import Floats
from schema import frozen
from schema.cases import CaseKind, CaseOrigin
from schema.decisions import DecidedEnrollment, OpenedCase, RecordedEvidence
from schema.documents import DocumentStatus
from schema.options import NO_CROPS, CropPolicy

if TYPE_CHECKING:
    from indexes.gallery import Gallery


class DecisionCheck:
    """A subject of every decision: what it does in one batch, attempt by attempt, each after those
    before it."""

    part: ClassVar[type[EvidencePart] | None] = None
    """The evidence that it weighs; None where it finds nothing itself."""
    unasked: ClassVar[Any] = None
    """Terms with which it has nothing to do."""
    is_about_others: ClassVar[bool] = False
    """Whether even with these it looks at attempts that name others, the dead or the replaced."""

    def __init__(self, batch: AttemptBatch, terms: Any) -> None:
        """Reads for all attempts what it goes by; `terms` are those of the deployment."""
        self._batch, self._terms = batch, terms

    @classmethod
    def spares(cls, _terms: Any, _request: EnrollmentRequest) -> bool:
        """Whether what comes with a request is rejected for it, so that no face is compared."""
        return False

    def admit(self, attempt: Attempt) -> None:
        """Raises where an attempt is not even weighed."""

    def weigh(self, _place: int, _attempt: Attempt, _evidence: Evidence) -> Sequence[EvidencePart]:
        """Its own evidence, by that of the checks before it, and theirs where it changes that."""
        return ()

    def refuse(self, made: DecidedAttempt) -> SosieError | None:
        """Why the decision is not made after all; what is kept of that is added to the batch."""

    def describe(self, made: DecidedAttempt) -> None:
        """Adds what a record keeps beside its part, before anything of the attempt is added."""

    def write(self, made: DecidedAttempt) -> None:
        """Adds the rows and cases of a decision, and what its answer says of them."""

    def close(self) -> None:
        """Adds what the decisions of the batch come to together."""


C = TypeVar("C", bound=DecisionCheck)
Checks = Mapping[type[DecisionCheck], Any]
"""The checks in the order of findings, each with its terms."""


@dataclass(slots=True, eq=False)
class DecidedAttempt:
    """An attempt with its decision, while its rows are collected; `decided` is what is told, and
    `recorded` what is kept of how it was decided."""

    place: int
    attempt: Attempt
    evidence: Evidence
    verdict: Verdict
    decided: DecidedEnrollment
    recorded: RecordedEvidence
    is_kept: bool
    may_keep: bool
    """False where nothing is kept of its carrier's faces; the latter also without consent."""
    bound: list[Attempt] = field(default_factory=list)
    """It, and a guardian, where their faces are bound to their documents."""


class AttemptBatch:
    """Registry rows that a batch needs, kept up to date as its attempts are decided, and the rows
    that are to be stored."""

    def __init__(
        self,
        registry: Reader,
        gallery: Gallery,
        writer: Writer,
        attempts: Sequence[Attempt],
        comparisons: Comparisons,
        expect_false: FalseCandidates,
        now: datetime,
        unkept: Container[str],
    ) -> None:
        self.registry, self.attempts, self.now = registry, attempts, now
        self.comparisons, self.expect_false, self.unkept = comparisons, expect_false, unkept
        self._writer = writer
        self.checks: dict[type[DecisionCheck], DecisionCheck] = {}
        self._documents = registry.documents([key for it in attempts for key in it.lookups])
        self.unconsented: frozenset[int] = frozenset()
        """The places of attempts, then of guardians, whose faces may not be taken."""
        if self._documents:
            self.unconsented = find_unconsented(attempts, self._documents)
            comparisons.forget(self.unconsented)
        hit_ids = sorted({key for hits in comparisons.hits.values() for key, _ in hits})
        self.owners = registry.documents_of(hit_ids)
        """The documents of all references that may have been found; none of an erased one."""
        self.documents = [*self._documents.values()]
        """Those that the attempts name, before the batch."""
        self.named = sorted({one.id for one in self.documents}.union(self.owners.values()))
        """Their ids, and those of all documents that may have been found."""
        self.standing = registry.people.standing(self.named) if self.named else Standing()
        held = [key for record in self.documents for key in record.reference_ids]
        self.compared = [*held, *hit_ids]
        """All references that an attempt may be compared with."""
        # One call for all: on shards each is a way to other nodes and back.
        self._vectors = dict(zip(held, gallery.vectors(np.array(held, np.int64)), strict=True))
        self.writes: list[Write] = []
        """What is to be stored, but for the references."""
        self.references: dict[int, NewReference] = {}
        # At most of each and of a guardian.
        self._added = np.empty((2 * len(attempts), gallery.dim), np.float32)
        self.inherited: dict[int, int] = {}
        """By such a one the reference that it is, of the document that was replaced."""

    def read(self, checks: Checks) -> None:
        """Has the checks read what they need, in their order; each may ask those before it."""
        others = (
            (one.guardian, one.request.exception, one.request.replaces, one.request.proof)
            for one in self.attempts
        )
        is_anybody = self.standing.deceased or self.standing.replaced or any(map(any, others))
        # Of who held a document before showing a face: rules may have changed since.
        is_anybody = is_anybody or any(
            one.status is DocumentStatus.ACTIVE and not one.reference_ids for one in self.documents
        )
        for kind, terms in checks.items():
            if terms != kind.unasked or (kind.is_about_others and is_anybody):
                self.checks[kind] = kind(self, terms)

    def find(self, kind: type[C]) -> C | None:
        """A check that is before the one that asks; None where it has nothing to do."""
        check = self.checks.get(kind)
        return check if isinstance(check, kind) else None

    def of(self, kind: type[C]) -> C:
        """One that always has."""
        check = self.find(kind)
        assert check is not None
        return check

    def document(self, lookup: bytes | None) -> DocumentRecord | None:
        """The document as the registry and this batch have it now."""
        return None if lookup is None else self._documents.get(lookup)

    def held(self, lookup: bytes | None) -> DocumentRecord | None:
        """The same where somebody holds it, or did."""
        record = self.document(lookup)
        return None if record is None or record.status is DocumentStatus.ATTEMPTED else record

    def keeps(self, attempt: Attempt) -> bool:
        """False where nothing is kept of its carrier's faces."""
        return attempt.outlet.carrier not in self.unkept

    def references_of(self, document: DocumentRecord) -> Floats:
        """The vectors of a document's references: float32[n, d]."""
        return np.stack([self._vectors[key] for key in document.reference_ids])

    @property
    def added(self) -> Floats:
        """The vectors of `references`: float32[n, d]."""
        return self._added[: len(self.references)]

    def add_document(self, lookup: bytes, record: DocumentRecord) -> None:
        self._documents[lookup] = record

    def add_reference(
        self,
        made: DecidedAttempt,
        place: int,
        attempt: Attempt,
        document_id: str,
        like: int | None = None,
    ) -> None:
        """One document, one reference: a returning subscriber's probe is not added.

        Adding it would let the references drift, visit by visit, towards another face. Of a
        document that takes the place of another the reference is that one's, `like`. A face that is
        not kept is not known to the rest of the batch, either: no later one would know it.
        """
        lookup = attempt.document_lookup
        assert lookup is not None
        record = self._documents[lookup]
        if not self.keeps(attempt):
            return
        made.bound.append(attempt)
        if record.withdrawn:
            carrier, consent = attempt.outlet.carrier, attempt.request.consent
            self.writes += record.renew(carrier, consent, attempt.actor)
        if record.reference_ids:
            return
        key = self._writer.next_reference_id()
        vector = self.comparisons.probe(place)
        if like is not None:
            self.inherited[key], vector = like, self._vectors[like]
        self._added[len(self.references)] = vector
        self.references[key] = NewReference(
            id=key,
            document_id=document_id,
            enrollment_id=made.decided.enrollment_id,
            template=vector,
            sequence=self._writer.sequence + 1,
        )
        self._documents[lookup] = replace(record, reference_ids=(key,))
        self._vectors[key] = vector

    def open_case(
        self,
        made: DecidedAttempt,
        kind: CaseKind,
        documents: Sequence[str],
        suspects: Sequence[str],
        score: float | None,
        group_key: str | None,
    ) -> OpenedCase:
        """Opens a case for an attempt, or adds to one that shares a face with it."""
        case = NewCase(
            kind=kind,
            origin=CaseOrigin.DECISION,
            enrollment_id=made.decided.enrollment_id,
            document_ids=documents,
            suspect_ids=suspects,
            score=score,
            group_key=group_key,
        )
        for row in choose(self.writes, DocumentRecord):
            self.cases.note_new(row.id)
        return OpenedCase(self.cases.open(case, made.attempt.actor).id, kind.value)

    @cached_property
    def cases(self) -> CaseBatch:
        cases = CaseBatch(self.registry, self.now)
        if self.owners:
            # Once for all: the larger the gallery, the more attempts look like somebody.
            cases.look_up(self.named)
        return cases

    def collect(self) -> list[Write]:
        """All that was added, for one transaction."""
        cases = self.cases.writes() if "cases" in self.__dict__ else []
        return [*self.writes, *self.references.values(), *cases]


@frozen(eq=False)
class JudgedBatch:
    """Outcomes in the order of the requests, and what is to be stored."""

    outcomes: list[Answer | SosieError]
    writes: Sequence[Write]


@frozen(kw_only=True, eq=False)
class Judge:
    """Judges batches in arrival order, each attempt against all before it; commits nothing."""

    store: Store
    gallery: Gallery
    watch: WatchList
    thresholds: Thresholds
    model_digest: str
    false_candidates: FalseCandidates
    checks: Checks
    calibration_version: int = 1
    crops: CropPolicy = NO_CROPS
    time_zone: str = DEFAULT_TIME_ZONE
    thresholds_for: Callable[[int], Thresholds] | None = None
    """For searches of so many references, instead of `thresholds`."""
    unkept: Container[str] = frozenset()
    """The carriers of whose faces nothing is kept; those of the `unsearched` are not searched for,
    either."""
    unsearched: Container[str] = frozenset()

    def intake(self, registry: Reader | None = None) -> Intake:
        """What sorts its requests."""
        return Intake(registry or self.store, self.time_zone)

    def scan(self, requests: Sequence[EnrollmentRequest]) -> list[Scanned]:
        """Searches for requests that are to be judged later; asks the registry nothing.

        Any thread may call it beside `judge`. What no decision could use is left out.
        """
        asked: list[tuple[str, Pair] | None] = []
        for request in requests:
            shown = None
            with suppress(VectorUnusable):
                require_units(request)
                shown = None if self._spares(request) else (request.carrier, request.pair)
            asked.append(shown)
        return self._search(asked, self._find_thresholds())

    def judge(
        self,
        requests: Sequence[EnrollmentRequest],
        writer: Writer,
        *,
        now: datetime,
        scanned: Sequence[Scanned | None] = (),
    ) -> JudgedBatch:
        """`writer` is the one that will commit the changes: nobody else alters what they go by.

        `scanned`: what `scan` found for each request; those without are searched for now.
        """
        with Reader(writer.place, writer.vault).reading() as registry:
            sorted_out = self.intake(registry).sort(requests, now)
            places = [place for place, it in enumerate(sorted_out) if isinstance(it, Attempt)]
            attempts = [item for item in sorted_out if isinstance(item, Attempt)]
            refused = record_refused(requests, sorted_out)
            if not attempts:
                others = [one for one in sorted_out if not isinstance(one, Attempt)]
                return JudgedBatch(others, refused)
            thresholds = self._find_thresholds()
            found = [scanned[place] for place in places] if scanned else [None] * len(attempts)
            comparisons = self._compare(attempts, found, thresholds)
            given = (attempts, comparisons, self.false_candidates, now, self.unkept)
            batch = AttemptBatch(registry, self.gallery, writer, *given)
            batch.read(self.checks)
            decided = (self._decide(place, thresholds, batch) for place in range(len(attempts)))
            try:
                outcomes = [next(decided) if isinstance(it, Attempt) else it for it in sorted_out]
                for one in batch.checks.values():
                    one.close()
                return JudgedBatch(outcomes, [*batch.collect(), *refused])
            finally:
                # They have each other, and faces in the clear: not until the collector comes.
                batch.checks.clear()

    def _decide(
        self, place: int, thresholds: Thresholds, batch: AttemptBatch
    ) -> Answer | SosieError:
        """Decides one attempt, and adds its rows to the batch."""
        attempt, checks = batch.attempts[place], batch.checks.values()
        try:
            for one in checks:
                one.admit(attempt)
        except SosieError as error:
            return error
        parts = {kind.part: unasked(kind.part) for kind in self.checks if kind.part is not None}
        # Of a live face of so many frames.
        verify = thresholds.verify_for(attempt.request.live.length)
        evidence = Evidence(structs.replace(thresholds, verify=verify), parts)
        for one in checks:
            parts |= {type(part): part for part in one.weigh(place, attempt, evidence)}
        verdict = decide(evidence)
        decided = DecidedEnrollment(
            enrollment_id=new_id(),
            decision=verdict.decision,
            reasons=verdict.findings,
            thresholds=evidence.thresholds,
            decided_at=batch.now.isoformat(),
            model_digest=self.model_digest,
            calibration_version=self.calibration_version,
            policy_version=POLICY_VERSION,
        )
        recorded = RecordedEvidence(
            inputs=evidence.write(),
            findings=decided.reasons,
            model_digest=decided.model_digest,
            calibration_version=decided.calibration_version,
            policy_version=decided.policy_version,
            watermarks=batch.comparisons.watermarks(place),
        )
        kept = (is_kept := batch.keeps(attempt)), is_kept and place not in batch.unconsented
        made = DecidedAttempt(place, attempt, evidence, verdict, decided, recorded, *kept)
        refusals = (one.refuse(made) for one in checks)
        if refusal := next((one for one in refusals if one is not None), None):
            return refusal
        for one in checks:
            one.describe(made)
        for one in checks:
            one.write(made)
        return self._record(made, batch)

    def _record(self, made: DecidedAttempt, batch: AttemptBatch) -> Answer:
        """Adds the enrollment, its answer and its audit entry."""
        attempt, request, decided = made.attempt, made.attempt.request, made.decided
        key, decision = decided.enrollment_id, decided.decision.value
        reasons = tuple(finding.reason.value for finding in decided.reasons)
        record = EnrollmentRecord(
            id=key,
            sequence=batch.comparisons.sequence,
            carrier=attempt.outlet.carrier,
            outlet=attempt.outlet.code,
            document_id=decided.document_id,
            decision=decision,
            reasons=reasons,
            evidence=made.recorded,
            consent_ref=request.consent.ref,
            captured_at=request.captured_at,
            created_at=batch.now,
            consent=request.consent.given,
        )
        stored = (attempt.scope, attempt.payload_digest, key, decided, batch.now)
        detail = {"decision": decision, "reasons": [*reasons]}
        entry = AuditEntry(attempt.actor, "enrollment.decided", key, detail)
        batch.writes += [entry, record, StoredAnswer(*stored)]
        batch.writes += choose_crops(
            self.crops if made.may_keep else NO_CROPS,
            self.store.vault,
            {"live": request.live, "portrait": request.portrait},
            enrollment_id=key,
            document_id=decided.document_id,
            has_case=bool(decided.cases),
            at=batch.now,
        )
        return Answer(decided)

    def _spares(self, request: EnrollmentRequest) -> bool:
        pairs = self.checks.items()
        return any(one.spares(terms, request) for one, terms in pairs if terms != one.unasked)

    def _find_thresholds(self) -> Thresholds:
        if self.thresholds_for is None:
            return self.thresholds
        # Gallery and watch-list are searched at one threshold.
        return self.thresholds_for(len(self.gallery) + self.watch.face_count)

    def _search(
        self, asked: Sequence[tuple[str, Pair] | None], thresholds: Thresholds
    ) -> list[Scanned]:
        unsearched = {p for p, one in enumerate(asked) if one and one[0] in self.unsearched}
        pairs = [None if one is None else one[1] for one in asked]
        scan = Scan(pairs, self.gallery, self.watch, thresholds, unsearched)
        return [Scanned(scan, place, scan.found.sequence) for place in range(len(pairs))]

    def _compare(
        self, attempts: Sequence[Attempt], scanned: Sequence[Scanned | None], thresholds: Thresholds
    ) -> Comparisons:
        """The comparisons of the attempts; searches where it was not done, or for others."""
        chosen: list[Scanned | None] = []
        missing: list[tuple[str, Pair] | None] = []
        for attempt, one in zip(attempts, scanned, strict=True):
            is_compared = attempt.is_compared and not self._spares(attempt.request)
            serves = one is not None and one.scan.serves(thresholds)
            chosen.append(one if is_compared and serves else None)
            shown = (attempt.outlet.carrier, attempt.request.pair)
            missing.append(shown if is_compared and not serves else None)
        if any(missing):
            now = zip(chosen, self._search(missing, thresholds), missing, strict=True)
            chosen = [later if one else before for before, later, one in now]
        # The guardians', after all attempts: see `Guardians`.
        beside = ((one.outlet.carrier, one.guardian) for one in attempts)
        guardians = [(carrier, one.guardian_pair) for carrier, one in beside if one is not None]
        if guardians:
            chosen += self._search(guardians, thresholds)
        return Comparisons(chosen, self.gallery, self.watch, thresholds)
