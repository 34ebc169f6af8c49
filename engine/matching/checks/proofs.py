"""Another proof in place of a face: a signed result that its issuer has shown somebody to be the
document's holder.

A compact JWS as evidence of liveness is (`liveness.py`), bound to document, number, deployment and
use. Sosie asks no register and no wallet itself: it checks who says so, of what, when, and once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import field, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Literal

from joserfc.jwk import KeySet
from msgspec import structs

from engine.errors import RequestError
from engine.matching.checks.signed_results import Sha256, SignedClaims, digest, read_signed
from engine.matching.requests import Attempt, name_document, normalise_msisdn
from engine.registry.database import new_id
from engine.registry.documents import DocumentRecord
from engine.registry.enrollments import PROOF, TRIES_TALLY, LivenessRecord, Tally
from engine.registry.lines import LineRecord
from engine.registry.store import Reader
from engine.registry.vault import Vault
from schema import frozen
from schema.decisions import RecordedProof
from schema.documents import Document
from schema.options import PeopleRules
from schema.people import NOT_KEPT, RENEWED, ProofLevel, ProofWay
from schema.reasons import About, Decision, LivenessUse, Reason

if TYPE_CHECKING:
    from engine.matching.judge import AttemptBatch, DecidedAttempt

_OF_FACE = (About.PHOTOGRAPH, About.LIVENESS, About.FACE)
TRY_STAYS = timedelta(days=1)


@frozen
class ProofTerms:
    """What is asked of a proof: the ways that each issuer may sign for, and the least level of a
    way, where one is asked."""

    ways: Mapping[str, frozenset[ProofWay]] = field(default_factory=dict)
    least: Mapping[ProofWay, ProofLevel] = field(default_factory=dict)
    max_age: timedelta = timedelta(seconds=900)


class _Claims(SignedClaims, frozen=True, kw_only=True):
    way: ProofWay
    outcome: Literal["confirmed", "refused"]
    use: LivenessUse
    document_sha256: Sha256
    msisdn_sha256: Sha256
    level: ProofLevel | None = None


class ProofChecker:
    """Checks proofs of the issuers that the operator has named; thread-safe."""

    def __init__(self, terms: ProofTerms, issuers: Mapping[str, KeySet], audience: str) -> None:
        """`audience` is what proofs must have been made for: this deployment."""
        self._terms, self._issuers, self._audience = terms, dict(issuers), audience

    def check(
        self,
        token: str,
        document: Document,
        msisdn: str,
        now: datetime,
        use: LivenessUse = LivenessUse.ENROLLMENT,
    ) -> RecordedProof:
        """What came of a proof. A fault is its `problem`: like a face that is another's, it is a
        reason and no error."""
        claims = read_signed(token, self._issuers, _Claims)
        if claims is None or claims.way not in self._terms.ways.get(claims.iss, ()):
            return RecordedProof(Reason.PROOF_INVALID)
        return RecordedProof(
            self._find_problem(claims, document, msisdn, now, use),
            way=claims.way,
            issuer=claims.iss,
            jti=claims.jti,
            level=claims.level,
            issued_at=datetime.fromtimestamp(claims.iat, UTC),
        )

    def _find_problem(
        self, claims: _Claims, document: Document, msisdn: str, now: datetime, use: LivenessUse
    ) -> Reason | None:
        try:
            number = normalise_msisdn(msisdn)
        except RequestError:
            # The request is refused for it.
            return Reason.PROOF_MISBOUND
        named = name_document(document).encode(errors="replace")
        is_bound = (
            claims.is_for(self._audience)
            and claims.use is use
            and claims.document_sha256.lower() == digest(named)
            and claims.msisdn_sha256.lower() == digest(number.encode())
        )
        if not is_bound:
            return Reason.PROOF_MISBOUND
        if claims.outcome == "refused":
            return Reason.PROOF_REFUSED
        if claims.is_stale(now, self._terms.max_age):
            return Reason.PROOF_STALE
        least = self._terms.least.get(claims.way)
        if least is None:
            return None
        is_reached = claims.level is not None and claims.level.reaches(least)
        return None if is_reached else Reason.PROOF_WEAK


@frozen(kw_only=True)
class ProofEvidence:
    """A proof that came in place of a face. `brings` is what its way brings, None where that is not
    open; `approved` are those that the outlet has brought of late, before this one."""

    problem: Reason | None = None
    way: ProofWay | None = None
    is_offered: bool = False
    brings: Decision | None = None
    approved: int = 0
    limit: int = 0

    @property
    def refusal(self) -> Reason | None:
        """Why it stands for no face; None where it does."""
        if not self.is_offered:
            return Reason.EXCEPTION_NOT_OFFERED
        if self.problem is None and self.approved >= self.limit:
            return Reason.EXCEPTION_LIMIT_REACHED
        return self.problem

    def is_taken(self, brings: Decision) -> bool:
        """True for one that holds and brings this decision."""
        return self.refusal is None and self.brings is brings


def name_proof(vault: Vault, shown: RecordedProof | None) -> bytes | None:
    """The keyed name under which a proof is known to have come; None where it may again."""
    if shown is None or shown.jti is None or shown.problem is not None:
        return None
    return vault.look_up(PROOF, f"{shown.issuer}\0{shown.jti}")


def record_proof(
    shown: RecordedProof,
    refusal: Reason | None,
    token: bytes | None,
    at: datetime,
    carrier: str | None,
    outlet: str | None,
    enrollment_id: str | None = None,
) -> LivenessRecord:
    """The row of a proof: who signed it, why it was refused, and that one that was taken has been
    used."""
    return LivenessRecord(
        id=new_id(),
        use=PROOF,
        received_at=at,
        token=token if refusal is None else None,
        problem=None if refusal is None else refusal.value,
        issuer=shown.issuer,
        # What no erasure would find is not kept: the keyed name says that it was used.
        jti=shown.jti if enrollment_id else None,
        decision=None if shown.way is None else shown.way.value,
        level=shown.level,
        issued_at=shown.issued_at,
        carrier=carrier,
        outlet=outlet,
        enrollment_id=enrollment_id,
    )


def count_try(
    registry: Reader,
    now: datetime,
    lookup: bytes | None,
    carrier: str,
    most: int,
    *,
    is_shown: bool,
    before: float = 0.0,
) -> tuple[list[Tally], int | None]:
    """Counts a try of a face under a document that failed with a carrier, forgotten after a day,
    and tells how many of `most` are left before another way must be offered; None where none are
    counted. Whose face or proof `is_shown` begins anew. `before`: what its batch has added."""
    if not most or lookup is None:
        return [], None
    # By the look-up alone, or the count would tell when another carrier has the holder.
    name = f"{TRIES_TALLY}:{lookup.hex()}:{carrier}"
    found = registry.tallies([name]).get(name)
    level = before + (0.0 if found is None else found.level_at(now, TRY_STAYS))
    amount = -level if is_shown else 1.0
    tallies = [Tally(name, amount, TRY_STAYS, most)] if amount else []
    return tallies, max(0, most - ceil(level + amount))


class Proofs:
    """The proofs of a batch, in order: each is taken once, here and ever before."""

    def __init__(self, batch: AttemptBatch, terms: PeopleRules) -> None:
        self._batch, self._terms = batch, terms
        came = [one for one in batch.attempts if one.request.proof is not None]
        names = [name for one in came if (name := self._name(one.request.proof))]
        self._used = batch.registry.used_liveness(names) if names else set()
        self._approved: dict[str, int] = {}
        self._opened: dict[str, str] = {}
        """By the documents of the batch under which one was taken, or no face kept."""
        self._tried = defaultdict[tuple[bytes | None, str], float](float)
        if came:
            outlets = sorted({one.outlet.code for one in came})
            since = batch.now - terms.window
            self._approved = batch.registry.people.count_proofs(outlets, since)

    def weigh(self, attempt: Attempt, *, is_minor: bool) -> ProofEvidence | None:
        """The evidence of one attempt; None where it came without a proof."""
        shown, outlet = attempt.request.proof, attempt.outlet
        if shown is None:
            return None
        rules = self._terms.of(outlet.carrier)
        # Who answers for a minor shows a face.
        brings = None if shown.way is None else rules.proofs.get(shown.way)
        is_open = bool(rules.proofs) if shown.way is None else brings is not None
        evidence = ProofEvidence(
            problem=shown.problem,
            way=shown.way,
            is_offered=is_open and not is_minor,
            brings=None if brings is None else Decision(brings),
            approved=self._approved.get(outlet.code, 0),
            limit=rules.proofs_per_outlet,
        )
        name = self._name(shown)
        if name is not None and evidence.refusal is None:
            if name in self._used:
                return replace(evidence, problem=Reason.PROOF_REPLAYED)
            self._used.add(name)
        return evidence

    def find_way(self, record: DocumentRecord) -> str | None:
        """The way by which a line in use of a document, or one that its holder answers for, was
        opened; None where faces that are kept opened all."""
        registry, way = self._batch.registry, self._opened.get(record.id)
        lines = self._lines_of(record)
        opened = registry.enrollments([one.enrollment_id for one in lines if one.enrollment_id])
        granted = registry.people.exceptions_of_lines([one.id for one in lines]).values()
        ways: list[str | None] = [one.evidence.proof.way for one in opened if one.evidence.proof]
        ways += [one.cause for one in granted if one.cause in list(ProofWay)]
        # An exception that showed no face, or none that was kept. Its cause may be another's.
        ways += [NOT_KEPT for _ in granted if not record.reference_ids]
        ways += [NOT_KEPT for one in opened if not one.evidence.is_face_kept]
        return next((one for one in (way, *ways) if one is not None), None)

    def find_first(self, record: DocumentRecord | None, shown: Attempt) -> str | None:
        """The same for a document whose first face this attempt would bring, or its first since
        consent was withdrawn."""
        if record is None or record.reference_ids or not self._batch.keeps(shown):
            return None
        if record.withdrawn and any(one.closed_at is None for one in self._lines_of(record)):
            return RENEWED
        return self.find_way(record)

    def _lines_of(self, record: DocumentRecord) -> list[LineRecord]:
        registry = self._batch.registry
        guarded = registry.lines_by_id(registry.people.guarded_by(record.id)).values()
        return [*registry.lines_in_use_of([record.id])[record.id], *guarded]

    def write(self, made: DecidedAttempt, evidence: ProofEvidence | None) -> None:
        """Adds the row of a proof: who signed it, and that it has been used. Whose face was not
        shown is told of the ways that are open."""
        attempt, shown = made.attempt, made.attempt.request.proof
        self._count_try(made)
        if any(one.shows_nobody for one in made.verdict.reasons):
            made.decided.other_ways = tuple(self._terms.of(attempt.outlet.carrier).proofs)
        way = None if evidence is None else evidence.way
        if way is None and not made.is_kept:
            self._note_opened(made, NOT_KEPT)
        if evidence is None:
            return
        assert shown is not None
        is_taken = evidence.refusal is None
        if is_taken:
            self._approved[attempt.outlet.code] = evidence.approved + 1
        if evidence.way is not None:
            self._note_opened(made, evidence.way)
        made.recorded.proof = structs.replace(shown, problem=evidence.problem, jti=None)
        told = (shown, evidence.refusal, self._name(shown), self._batch.now)
        place = (attempt.outlet.carrier, attempt.outlet.code, made.decided.enrollment_id)
        self._batch.writes.append(record_proof(*told, *place))

    def _count_try(self, made: DecidedAttempt) -> None:
        """Counts a face that was not shown to be the document's, and tells how many tries are left;
        who is approved begins anew. What was found of a holder is no try: it would be told."""
        attempt, is_shown = made.attempt, made.verdict.decision is Decision.APPROVED
        reasons = made.verdict.reasons if made.verdict.decision is Decision.REJECTED else ()
        is_failed = any(one.shows_nobody and one.row.about in _OF_FACE for one in reasons)
        if is_shown or (is_failed and not attempt.request.is_faceless):
            carrier, lookup = attempt.outlet.carrier, attempt.document_lookup
            most, before = self._terms.of(carrier).face_tries, self._tried[lookup, carrier]
            given = (self._batch.registry, self._batch.now, lookup, carrier, most)
            tallies, left = count_try(*given, is_shown=is_shown, before=before)
            self._tried[lookup, carrier] += sum(one.amount for one in tallies)
            self._batch.writes += tallies
            made.decided.tries_left = None if is_shown else left

    def _note_opened(self, made: DecidedAttempt, way: str) -> None:
        """Notes by what a line of this batch was opened, also for whoever answers for it."""
        if made.verdict.decision is Decision.APPROVED:
            decided = made.decided
            opened = (decided.document_id, decided.guardian_document_id)
            self._opened |= {one: way for one in opened if one is not None}

    def _name(self, shown: RecordedProof | None) -> bytes | None:
        return name_proof(self._batch.registry.vault, shown)
