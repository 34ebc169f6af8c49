"""From a batch of requests to decisions, and to the changes that make them durable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from engine.cases.opening import CaseBatch, NewCase
from engine.errors import SosieError, TooManyFailures, VectorUnusable
from engine.matching.calibration import Thresholds
from engine.matching.checks.authority import AuthorityTerms, WeighedAuthority
from engine.matching.checks.face import (
    BatchState,
    FacePart,
    FreshReference,
    LinePart,
    describe_case,
    describe_scores,
    describe_search,
    find_decided,
    gather_evidence,
)
from engine.matching.checks.limits import BatchBounds
from engine.matching.checks.liveness import (
    LIVENESS_CHECKED,
    NOT_ASKED,
    REPLAYED,
    Judgement,
    LivenessBatch,
    LivenessTerms,
    Weighed,
)
from engine.matching.checks.order import BLANK
from engine.matching.checks.people import PeoplePart
from engine.matching.checks.picture import describe_frames
from engine.matching.checks.second_model import FILLED, SecondModel
from engine.matching.comparison import Comparisons, Pair, Scan, Scanned, WatchList
from engine.matching.documents import DEFAULT_TIME_ZONE
from engine.matching.people import PeopleBatch, find_guardian_case, find_looked_up
from engine.matching.policy import (
    POLICY_VERSION,
    Evidence,
    Verdict,
    decide,
    write_evidence,
    write_findings,
)
from engine.matching.requests import (
    Answer,
    Attempt,
    EnrollmentRequest,
    Intake,
    describe_records,
    record_refused,
    require_units,
)
from engine.matching.samples import NO_CROPS, CropPolicy
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id, new_untimed_id
from engine.registry.documents import ActivatedDocument, DocumentRecord, Identity
from engine.registry.enrollments import EnrollmentRecord, StoredAnswer, Tally
from engine.registry.lines import LineRecord
from engine.registry.references import (
    AttemptTemplate,
    FilledReference,
    NewReference,
    SecondTemplate,
)
from engine.registry.rows import Write, choose
from engine.registry.store import Reader, Store
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from indexes.gallery import Gallery
from schema.cases import CaseKind, CaseOrigin
from schema.documents import DocumentRole, DocumentStatus
from schema.options import NO_LIMITS, NO_RULES, Limits, PeopleRules
from schema.reasons import Decision, LivenessUse, Reason
from schema.thresholds import Comparison


class ChangeCollector:
    """Collects the changes of one batch; an approval counts for the attempts after it."""

    def __init__(
        self,
        judge: Judge,
        comparisons: Comparisons,
        state: BatchState,
        registry: Reader,
        writer: Writer,
        now: datetime,
        people: PeopleBatch | None = None,
    ) -> None:
        self._judge = judge
        self._people = people
        self._comparisons = comparisons
        self._state = state
        self._next_sequence = writer.sequence + 1
        self._next_reference_id = writer.next_reference_id
        self._now = now
        self._cases = CaseBatch(registry, now)
        model = judge.second
        self._second = {} if model is None else model.read_templates(registry, state.compared)
        if state.owners():
            # Once for all: the larger the gallery, the more attempts look like somebody.
            self._cases.look_up(state.known_documents())
        self._false_candidates: dict[tuple[Comparison, ...], dict[str, Any]] = {}
        self._writes: list[Write] = []

    def count(
        self,
        attempt: Attempt,
        tallies: Sequence[Tally],
        cases: Sequence[NewCase],
        *entries: AuditEntry,
    ) -> None:
        """Adds what an attempt counts for, and the cases about counts that are full."""
        self._writes += [*tallies, *entries]
        for case in cases:
            caller = attempt.request.caller
            self._cases.open(case, _actor_of(attempt) if caller is None else caller.actor)

    def writes(self) -> list[Write]:
        """All that was collected, for one transaction."""
        second, filled = self._judge.second, choose(self._writes, FilledReference)
        if filled and second is not None:
            detail = {"references": len(filled)}
            self._writes.append(AuditEntry("sosie", FILLED, second.digest, detail))
        people = [] if self._people is None else self._people.writes()
        return [*self._writes, *people, *self._cases.writes()]

    def write(
        self,
        place: int,
        attempt: Attempt,
        evidence: Evidence,
        verdict: Verdict,
        liveness: Weighed | None,
        authority: Mapping[DocumentRole, WeighedAuthority],
        judgement: Judgement | None,
    ) -> Answer:
        """Adds the rows of one verdict, brings the batch's state up to date, and answers."""
        enrollment_id = new_id()
        face, people = evidence.of(FacePart), evidence.of(PeoplePart)
        lines = evidence.of(LinePart)
        # Before this attempt adds what it would be compared with.
        second = self._describe_second(place, attempt, evidence)
        document_id = self._settle_document(attempt, verdict)
        line_id = None
        guardian_id = None
        if verdict.decision is Decision.APPROVED:
            assert document_id is not None
            if self._comparisons.has_probe(place):
                kept = self._find_inherited(attempt, people)
                self._add_reference(place, attempt, enrollment_id, document_id, kept)
            if self._people is not None:
                line_id = self._people.replace_document(
                    attempt, evidence, document_id, enrollment_id
                )
            line_id = line_id or self._open_line(attempt, enrollment_id, document_id)
            if self._people is not None and people.is_minor:
                guardian_id = self._add_guardian(place, attempt, verdict, enrollment_id)
                given = (line_id, document_id, guardian_id, enrollment_id)
                self._people.bind_guardian(attempt, *given)
        own, found = self._state.document(attempt.document_lookup), face.candidates
        known = find_decided(place, own, found, self._comparisons, self._state)
        asked = replace(
            face, candidates=tuple(one for one in found if one.document_id not in known)
        )
        cases = [
            self._open_case(
                attempt, describe_case(kind, verdict, asked, enrollment_id, document_id)
            )
            if asked.candidates or kind not in _OF_LOOK_ALIKES
            else {"id": next(iter(known.values())).case_id, "kind": kind.value}
            for kind in verdict.cases
        ]
        body = {
            "enrollment_id": enrollment_id,
            "decision": verdict.decision.value,
            "reasons": write_findings(verdict),
            "scores": describe_scores(face),
            "thresholds": msgspec.to_builtins(evidence.thresholds),
            "duplicate_search": describe_search(
                face, self._comparisons, self._expect_false_candidates(place)
            ),
            "cases": cases,
            "is_own_holder": lines.open_lines > 0,
            "is_face_waived": people.is_face_waived,
            "document_id": document_id,
            "line_id": line_id,
            "guardian_document_id": guardian_id,
            "quality": {
                "live": dict(attempt.request.live.quality),
                "portrait": dict(attempt.request.portrait.quality),
            },
            "frames": describe_frames(attempt.request.live),
            "model_digest": self._judge.model_digest,
            "calibration_version": self._judge.calibration_version,
            "policy_version": POLICY_VERSION,
            "decided_at": self._now.isoformat(),
        }
        is_of_one = Reason.FACE_MISMATCH not in verdict.reasons
        is_excused = any(one["kind"] == CaseKind.EXCEPTION for one in cases)
        if (asked.candidates and is_of_one) or is_excused:
            self._keep_shown(place, attempt, enrollment_id)
        if self._people is not None:
            self._open_cases_apart(place, attempt, evidence, verdict, body)
        told = {} if second is None else {"second": second}
        told |= {role.value: one.describe() for role, one in authority.items()}
        if liveness is not None:
            told |= {"liveness": liveness.describe()}
            self._keep_liveness(attempt, liveness, enrollment_id)
        if judgement is not None:
            told |= {"liveness_judge": judgement.describe()}
            self._keep_liveness(attempt, judgement, enrollment_id)
        self._record(place, attempt, body, evidence, told)
        return Answer(body)

    def _expect_false_candidates(self, place: int) -> dict[str, Any]:
        """Of a search for all faces of an attempt."""
        if not self._comparisons.has_probe(place):
            return {}
        kinds, thresholds = self._comparisons.faces(place).kinds, self._comparisons.thresholds
        if kinds not in self._false_candidates:
            asked = [(thresholds.of(kind).review, kind) for kind in kinds]
            expected = self._judge.false_candidates(self._comparisons.searched, asked)
            self._false_candidates[kinds] = expected
        return self._false_candidates[kinds]

    def note_replayed(self, attempt: Attempt, liveness: Weighed) -> None:
        """Keeps that evidence of liveness came again; nothing is decided by it."""
        caller, outlet = attempt.request.caller, attempt.outlet.code
        actor = f"outlet:{outlet}" if caller is None else caller.actor
        issuer = liveness.result.issuer or "none"
        self._writes.append(AuditEntry(actor, LIVENESS_CHECKED, issuer, {"problem": REPLAYED}))
        self._keep_liveness(attempt, liveness)

    def _keep_liveness(
        self, attempt: Attempt, liveness: Weighed | Judgement, enrollment_id: str | None = None
    ) -> None:
        outlet, use = attempt.outlet, LivenessUse.ENROLLMENT
        given = (use, self._now, outlet.carrier, outlet.code, enrollment_id)
        self._writes.append(liveness.record(*given))

    def _add_guardian(
        self, place: int, attempt: Attempt, verdict: Verdict, enrollment_id: str
    ) -> str:
        """The document of who answers for a minor: bound as one that was enrolled, without a line,
        so that the face has no second identity."""
        guardian = attempt.guardian
        assert guardian is not None, "no minor is approved alone"
        assert self._people is not None, "rules ask for guardians"
        guardian_id = self._settle_document(guardian, verdict)
        assert guardian_id is not None, "a guardian's document is well-formed"
        at = self._people.guardian_place(place)
        assert at is not None, "a guardian's face is compared"
        self._add_reference(at, guardian, enrollment_id, guardian_id)
        return guardian_id

    def _open_cases_apart(
        self,
        place: int,
        attempt: Attempt,
        evidence: Evidence,
        verdict: Verdict,
        body: Mapping[str, Any],
    ) -> None:
        """Opens the cases about others whom an attempt names, and keeps an exception for its own:
        they are for those who work on cases, and no part of an answer."""
        assert self._people is not None, "called where rules treat somebody apart"
        enrollment_id = body["enrollment_id"]
        for one in body["cases"]:
            if one["kind"] == CaseKind.EXCEPTION:
                given = (body["document_id"], enrollment_id, one["id"])
                self._people.ask_exception(attempt, *given)
        for case in self._people.find_thefts(attempt, evidence, enrollment_id):
            self._open_case(attempt, case)
        guardian = evidence.of(PeoplePart).guardian
        kind, guardian_id = find_guardian_case(verdict), None
        is_review = verdict.decision is Decision.REVIEW
        asked = {one for one in verdict.reasons if is_review and one.row.asks is not None}
        is_about = kind is not None or Reason.GUARDIAN_CHANGED in asked
        if attempt.guardian is not None and guardian is not None and is_about:
            # As of an enrollment that goes to review: a row that people can decide about.
            cases = () if kind is None else (kind,)
            guardian_id = self._settle_document(attempt.guardian, replace(verdict, cases=cases))
            at = self._people.guardian_place(place)
            if Reason.REPLACEMENT_ASKED not in asked:
                self._keep_shown(at, attempt.guardian, enrollment_id)
        if asked:
            about = (attempt, evidence, verdict, enrollment_id, guardian_id)
            for new in self._people.find_confirmations(*about):
                body["cases"].append(self._open_case(attempt, new))
            self._keep_shown(place, attempt, enrollment_id)
        if kind is None or guardian is None:
            return
        named = (guardian_id, *(one.document_id for one in guardian.candidates))
        documents = tuple(key for key in named if key is not None)
        new = NewCase(
            kind=kind,
            origin=CaseOrigin.DECISION,
            enrollment_id=enrollment_id,
            document_ids=documents,
            suspect_ids=documents,
            score=max(one.score for one in guardian.candidates),
            group_key=verdict.name_untold({Reason.GUARDIAN_DUPLICATE}, enrollment_id),
        )
        self._open_case(attempt, new)

    def _keep_shown(self, place: int | None, attempt: Attempt, enrollment_id: str) -> None:
        """Keeps the one face of an attempt that people are asked about: nothing else says it."""
        own = self._state.document(attempt.document_lookup)
        kept = choose(self._writes, AttemptTemplate)
        is_kept = any(one.enrollment_id == enrollment_id for one in kept)
        if own is None or own.reference_ids or place is None or is_kept:
            return
        if self._comparisons.has_probe(place):
            shown = self._comparisons.probe(place)
            self._writes.append(AttemptTemplate(enrollment_id, own.id, shown))

    def _settle_document(self, attempt: Attempt, verdict: Verdict) -> str | None:
        """The document's id; adds a row only where an approval or a case needs it.

        A document known only from attempts binds nobody: the first to be approved under it becomes
        its holder, with the name given then.
        """
        lookup, name_lookup = attempt.document_lookup, attempt.name_lookup
        if lookup is None or name_lookup is None:
            return None
        record = self._state.document(lookup)
        is_approved = verdict.decision is Decision.APPROVED
        is_for_people = verdict.decision is Decision.REVIEW or bool(verdict.cases)
        if record is None and not (is_approved or is_for_people):
            return None
        if record is not None and not (is_approved and record.status is DocumentStatus.ATTEMPTED):
            return record.id
        row = DocumentRecord(
            id=record.id if record is not None else new_untimed_id(),
            kind=attempt.document.type,
            lookup=lookup,
            name_lookup=name_lookup,
            status=DocumentStatus.ACTIVE if is_approved else DocumentStatus.ATTEMPTED,
            expires_on=attempt.document.expires_on,
            reference_ids=record.reference_ids if record is not None else (),
            identity=Identity(attempt.document.number, attempt.request.document.name),
        )
        if record is None:
            self._cases.note_new(row.id)
        self._writes.append(row if record is None else ActivatedDocument(row))
        self._state.add_document(lookup, row)
        return row.id

    def _find_inherited(self, attempt: Attempt, people: PeoplePart) -> int | None:
        """The reference of the document that is replaced, which goes along: a new one would let
        the face of its lines drift towards another, document by document."""
        if people.replacement is None:
            return None
        old = self._state.document(attempt.replaced_lookup)
        return None if old is None or not old.reference_ids else old.reference_ids[0]

    def _add_reference(
        self,
        place: int,
        attempt: Attempt,
        enrollment_id: str,
        document_id: str,
        inherited: int | None = None,
    ) -> None:
        """One document, one reference: a returning subscriber's probe is not added.

        Adding it would let the references drift, visit by visit, towards another face.
        """
        lookup = attempt.document_lookup
        record = self._state.document(lookup)
        assert lookup is not None
        assert record is not None
        model, request = self._judge.second, attempt.request
        second = None if model is None else model.fuse(request.live, request.portrait)
        if record.reference_ids:
            if second is not None:
                self._fill(record.reference_ids, second)
            return
        reference = FreshReference(
            place=place,
            reference_id=self._next_reference_id(),
            document_id=document_id,
            vector=self._comparisons.probe(place)
            if inherited is None
            else self._state.vector_of(inherited),
        )
        if inherited is not None:
            kept_second = self._second.get(inherited)
            second = None
            if model is not None and kept_second is not None:
                second = SecondTemplate(model.digest, kept_second)
        self._writes.append(
            NewReference(
                id=reference.reference_id,
                document_id=document_id,
                enrollment_id=enrollment_id,
                template=reference.vector,
                sequence=self._next_sequence,
                second=second,
            )
        )
        self._state.add_reference(lookup, reference)
        if second is not None:
            self._second[reference.reference_id] = second.vector

    def _fill(self, reference_ids: Sequence[int], second: SecondTemplate) -> None:
        """A returning holder's face is that of the references that a second model lacks."""
        for key in reference_ids:
            if key not in self._second:
                self._second[key] = second.vector
                self._writes.append(FilledReference(key, second))

    def _describe_second(
        self, place: int, attempt: Attempt, evidence: Evidence
    ) -> Mapping[str, Any] | None:
        """What a second model says of an attempt, beside the one that decides."""
        model, request = self._judge.second, attempt.request
        if model is None or not self._comparisons.has_probe(place):
            return None
        record = self._state.document(attempt.document_lookup)
        is_held = record is not None and record.status is not DocumentStatus.ATTEMPTED
        held = record.reference_ids if record is not None and is_held else ()
        return model.describe(
            request.live,
            request.portrait,
            evidence,
            held,
            self._second,
            is_match="mean" in self._comparisons.faces(place).names,
        )

    def _open_line(self, attempt: Attempt, enrollment_id: str, document_id: str) -> str:
        line_id = new_id()
        self._writes.append(
            LineRecord(
                id=line_id,
                msisdn_lookup=attempt.msisdn_lookup,
                msisdn=attempt.msisdn,
                document_id=document_id,
                carrier=attempt.outlet.carrier,
                outlet=attempt.outlet.code,
                enrollment_id=enrollment_id,
                opened_at=self._now,
            )
        )
        self._state.add_line(attempt.msisdn_lookup, document_id, attempt.outlet.carrier)
        return line_id

    def _open_case(self, attempt: Attempt, case: NewCase) -> dict[str, str]:
        # The case that people will decide may be another one that shares a face with this.
        opened = self._cases.open(case, _actor_of(attempt))
        return {"id": opened.id, "kind": case.kind.value}

    def _record(
        self,
        place: int,
        attempt: Attempt,
        body: dict[str, Any],
        evidence: Evidence,
        told: Mapping[str, Any],
    ) -> None:
        request = attempt.request
        enrollment_id = body["enrollment_id"]
        self._writes.append(
            EnrollmentRecord(
                id=enrollment_id,
                sequence=self._comparisons.sequence,
                carrier=attempt.outlet.carrier,
                outlet=attempt.outlet.code,
                document_id=body["document_id"],
                decision=body["decision"],
                reasons=tuple(finding["reason"] for finding in body["reasons"]),
                evidence={
                    "inputs": write_evidence(evidence),
                    "findings": body["reasons"],
                    "quality": body["quality"],
                    "frames": body["frames"],
                    **describe_records(request),
                    "model_digest": self._judge.model_digest,
                    "calibration_version": self._judge.calibration_version,
                    "policy_version": POLICY_VERSION,
                    **self._comparisons.describe_watermarks(place),
                    **told,
                },
                consent_ref=request.consent_ref,
                captured_at=request.captured_at,
                created_at=self._now,
            )
        )
        self._writes += self._judge.crops.choose(
            self._judge.vault,
            {"live": request.live, "portrait": request.portrait},
            enrollment_id=enrollment_id,
            document_id=body["document_id"],
            has_case=bool(body["cases"]),
            at=self._now,
        )
        self._writes.append(
            StoredAnswer(
                scope=attempt.scope,
                payload_digest=attempt.payload_digest,
                enrollment_id=enrollment_id,
                response=body,
                created_at=self._now,
            )
        )
        self._writes.append(
            AuditEntry(
                actor=_actor_of(attempt),
                action="enrollment.decided",
                subject=enrollment_id,
                detail={
                    "decision": body["decision"],
                    "reasons": [finding["reason"] for finding in body["reasons"]],
                },
            )
        )


_OF_LOOK_ALIKES = (CaseKind.DUPLICATE_IDENTITY, CaseKind.POSSIBLE_DUPLICATE)
"""Cases that ask about candidates, and so not again about those that people have decided."""


def _actor_of(attempt: Attempt) -> str:
    """The outlet, by whichever of its keys; or who typed the command, at the home itself."""
    caller = attempt.request.caller
    if caller is not None and caller.is_command:
        return caller.actor
    return f"outlet:{attempt.outlet.code}"


FalseCandidates = Callable[[int, Sequence[tuple[float, Comparison]]], dict[str, Any]]
"""Expected false candidates of one search of so many references: for each face that is searched for
the score from which it counts, and which comparisons it makes."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgedBatch:
    """Outcomes in the order of the requests, and what is to be stored."""

    outcomes: list[Answer | SosieError]
    writes: Sequence[Write]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Judge:
    """Judges batches in arrival order, each attempt against all before it; commits nothing."""

    store: Store
    vault: Vault
    gallery: Gallery
    watch: WatchList
    thresholds: Thresholds
    model_digest: str
    false_candidates: FalseCandidates
    calibration_version: int = 1
    crops: CropPolicy = NO_CROPS
    limits: Limits = NO_LIMITS
    time_zone: str = DEFAULT_TIME_ZONE
    thresholds_for: Callable[[int], Thresholds] | None = None
    """For searches of so many references, instead of `thresholds`."""
    second: SecondModel | None = None
    liveness: LivenessTerms = NOT_ASKED
    look_ups: AuthorityTerms | None = None
    """What is made of look-ups of documents; None where there are none."""
    person_limit: int = 0
    """Lines in use of a person over all carriers; 0: no limit."""
    people: PeopleRules = NO_RULES

    def intake(self, registry: Reader | None = None) -> Intake:
        """What sorts its requests."""
        return Intake(registry or self.store, self.vault, self.time_zone)

    def scan(self, requests: Sequence[EnrollmentRequest]) -> list[Scanned]:
        """Searches for requests that are to be judged later; asks the registry nothing.

        Any thread may call it beside `judge`. What no decision could use is left out.
        """
        pairs: list[Pair | None] = []
        for request in requests:
            asked = (request.liveness, LivenessUse.ENROLLMENT, request.carrier)
            brings = None if request.shows_nobody else self.liveness.weigh(*asked)
            try:
                require_units(request)
            except VectorUnusable:
                pairs.append(None)
            else:
                pairs.append(None if brings is Decision.REJECTED else request.pair)
        return self._search(pairs, self._find_thresholds())

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
            return self._judge(requests, writer, registry, now, scanned)

    def _judge(
        self,
        requests: Sequence[EnrollmentRequest],
        writer: Writer,
        registry: Reader,
        now: datetime,
        scanned: Sequence[Scanned | None],
    ) -> JudgedBatch:
        sorted_out = self.intake(registry).sort(requests, now)
        places = [place for place, it in enumerate(sorted_out) if isinstance(it, Attempt)]
        attempts = [item for item in sorted_out if isinstance(item, Attempt)]
        refused = record_refused(requests, sorted_out)
        if not attempts:
            outcomes = [it for it in sorted_out if not isinstance(it, Attempt)]
            return JudgedBatch(outcomes, refused)
        thresholds = self._find_thresholds()
        found = [scanned[place] for place in places] if scanned else [None] * len(attempts)
        liveness = LivenessBatch(
            self.liveness, self.vault, registry, [one.request.liveness for one in attempts]
        )
        weighed = [
            None
            if one.request.shows_nobody
            else liveness.weigh(one.request.liveness, LivenessUse.ENROLLMENT, one.outlet.carrier)
            for one in attempts
        ]
        judgements = [self.liveness.judge_faces(one.request.faces_judged) for one in attempts]
        comparisons = self._compare(attempts, found, thresholds, weighed, judgements)
        hit_ids = comparisons.all_hit_ids()
        state = BatchState(registry, self.gallery, attempts, hit_ids, self.person_limit)
        people = self._find_people(registry, attempts, state, comparisons, now)
        collector = ChangeCollector(self, comparisons, state, registry, writer, now, people)
        bounds = BatchBounds(self.limits, registry, attempts, state, now)
        answers: list[Answer | SosieError] = []
        for place, attempt in enumerate(attempts):
            told, judgement = self._weigh_authority(attempt), judgements[place]
            shown = (
                Evidence(thresholds, BLANK),
                weighed[place],
                told.get(DocumentRole.OWN),
                judgement,
            )
            evidence = gather_evidence(place, attempt, comparisons, state, *shown)
            if people is not None:
                evidence = people.add_to(evidence, place, attempt, told)
            verdict = decide(evidence)
            try:
                bounds.require(attempt)
            except TooManyFailures as error:
                answers.append(error)
                continue
            spent = liveness.spend(weighed[place])
            if spent is not None and spent.refusal is not None:
                collector.note_replayed(attempt, spent)
                answers.append(spent.refusal)
                continue
            try:
                bounds.require_told(attempt, evidence, verdict)
            except TooManyFailures as error:
                answers.append(error)
                collector.count(attempt, *bounds.end(attempt, evidence, verdict))
                continue
            answers.append(
                collector.write(place, attempt, evidence, verdict, spent, told, judgement)
            )
            collector.count(attempt, *bounds.count(attempt, evidence, verdict))
        decided = iter(answers)
        outcomes = [next(decided) if isinstance(it, Attempt) else it for it in sorted_out]
        return JudgedBatch(outcomes, [*collector.writes(), *refused])

    def _weigh_authority(self, attempt: Attempt) -> dict[DocumentRole, WeighedAuthority]:
        if self.look_ups is None:
            return {}
        given, asked = attempt.request.authority, find_looked_up(attempt, self.people)
        return {role: self.look_ups.weigh(given.get(role), role) for role in asked}

    def _find_people(
        self,
        registry: Reader,
        attempts: Sequence[Attempt],
        state: BatchState,
        comparisons: Comparisons,
        now: datetime,
    ) -> PeopleBatch | None:
        """None where no rule can treat anybody of the batch apart."""
        is_asked = any(
            one.guardian or one.request.exception or one.request.replaces for one in attempts
        )
        standing = state.standing
        if self.people == NO_RULES and not (is_asked or standing.deceased or standing.replaced):
            return None
        return PeopleBatch(self.people, registry, attempts, state, comparisons, now)

    def _find_thresholds(self) -> Thresholds:
        if self.thresholds_for is None:
            return self.thresholds
        # Gallery and watch-list are searched at one threshold.
        return self.thresholds_for(len(self.gallery) + self.watch.face_count)

    def _search(self, pairs: Sequence[Pair | None], thresholds: Thresholds) -> list[Scanned]:
        scan = Scan(pairs, self.gallery, self.watch, thresholds)
        return [Scanned(scan, place, scan.found.sequence) for place in range(len(pairs))]

    def _compare(
        self,
        attempts: Sequence[Attempt],
        scanned: Sequence[Scanned | None],
        thresholds: Thresholds,
        weighed: Sequence[Weighed | None],
        judgements: Sequence[Judgement | None],
    ) -> Comparisons:
        """The comparisons of the attempts; searches where it was not done, or for others."""
        is_compared = [
            not one.document.findings
            and not one.is_same_photograph
            and (alive is None or alive.brings is not Decision.REJECTED)
            and (judged is None or judged.brings is not Decision.REJECTED)
            for one, alive, judged in zip(attempts, weighed, judgements, strict=True)
        ]
        wanted = [
            compared and (one is None or not one.scan.serves(thresholds))
            for compared, one in zip(is_compared, scanned, strict=True)
        ]
        now: Sequence[Scanned | None] = [None] * len(attempts)
        if any(wanted):
            pairs = [
                one.request.pair if is_wanted else None
                for one, is_wanted in zip(attempts, wanted, strict=True)
            ]
            now = self._search(pairs, thresholds)
        chosen = [
            (later if is_wanted else before) if compared else None
            for compared, is_wanted, later, before in zip(
                is_compared, wanted, now, scanned, strict=True
            )
        ]
        # The guardians', after all attempts: `place_guardians`.
        guardians = [one.guardian.guardian_pair for one in attempts if one.guardian is not None]
        if guardians:
            chosen += self._search(guardians, thresholds)
        return Comparisons(chosen, self.gallery, self.watch, thresholds)
