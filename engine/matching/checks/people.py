"""People whom rules treat apart: minors, exceptions, the dead, holders of replaced documents."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from msgspec import structs

from engine.cases.opening import is_grouped
from engine.errors import FaceNotKept
from engine.matching.calibration import Thresholds
from engine.matching.checks.document import AuthorityCheck, find_looked_up, find_told
from engine.matching.checks.face import FaceCheck, FacePart, is_below, reaches
from engine.matching.checks.guardians import GuardianEvidence, Guardians, find_case, is_barred
from engine.matching.checks.lines import LineCheck, LinePart
from engine.matching.checks.proofs import ProofEvidence, Proofs
from engine.matching.documents import find_minor
from engine.matching.judge import AttemptBatch, DecidedAttempt, DecisionCheck
from engine.matching.policy import Evidence, EvidencePart, FaceScores
from engine.matching.requests import Attempt
from engine.registry.audit import AuditEntry
from engine.registry.documents import ConsentChange, DocumentRecord, EndedExemption, ExemptDocument
from engine.registry.lines import MovedLine
from engine.registry.people import AskedLine, ExceptionRecord, Replacement
from schema import frozen
from schema.cases import CLAIMED, CONFIRMED, UNTOLD, CaseKind, Outcome, name_confirmation
from schema.decisions import Finding
from schema.documents import DocumentRole, DocumentStatus
from schema.options import NO_RULES, PeopleRules
from schema.people import ExceptionCause
from schema.reasons import About, Decision, Reason

DOCUMENT_REPLACED = "document.replaced"
_OF_WHO_ASKS = (CaseKind.PROBING, CaseKind.EXCEPTION)
"""Cases about others than the document's holder; an exception is judged anew when it is granted."""


_REPLACES_AT_ONCE = frozenset({"1", "2", "3", "4"})
"""Versions of the policy that let any face of the old holder replace a document, under whatever
name."""
_REJECTS_EXCUSED = frozenset({"1", "2", "3"})
"""Versions of the policy that rejected an exception for what is known of its document or number."""


@frozen(kw_only=True)
class ReplacementEvidence:
    """What there is of a document that is said to be replaced: `score` and `each` are those of the
    faces shown with its references, as a holder's, None without any; `is_free` whether nothing
    else stands against it."""

    document_id: str | None = None
    score: float | None = None
    each: FaceScores | None = None
    is_free: bool = False
    name_differs: bool = False
    is_always_asked: bool = False
    """Whether two people decide in any case: a delay is set, or a proof has opened a line."""
    is_confirmed: bool = False
    """Two people have decided of this face and these two documents, and the delay has passed."""
    is_waiting: bool = False
    """They have, and it has not."""
    authority_problem: Reason | None = None
    authority_brings: Decision | None = None

    def find(self, thresholds: Thresholds, version: str) -> list[Finding]:
        """All lines move with a document: only a face beyond doubt under the same name does it
        alone, for a look-alike of one holder among many is soon found."""
        score = self.score
        if score is None or not score >= thresholds.same_document or not self.is_free:
            # Who is not its holder is not told what is known of it, either.
            return [Finding.of(Reason.REPLACEMENT_REFUSED)]
        said = find_told(self.authority_problem, self.authority_brings)
        is_sure = score >= thresholds.certain and not self.name_differs
        is_asked = self.is_always_asked or not is_sure
        if version in _REPLACES_AT_ONCE or self.is_confirmed or not is_asked:
            return said
        return [*said, Finding.of(Reason.REPLACEMENT_ASKED)]


@frozen(kw_only=True)
class PeoplePart(EvidencePart):
    """What rules of their own go by: on minors, exceptions, the dead and replaced documents.

    `is_minor` is None where no rule asks, or no date of birth is known; `is_age_asked` tells
    which. `asked_exceptions` are the outlet's of late, before this one.
    """

    key = "people"
    is_age_asked: bool = False
    is_minor: bool | None = None
    is_face_waived: bool = False
    """A minor who shows no face, where the guardian's is enough."""
    guardian: GuardianEvidence | None = None
    exception: ExceptionCause | None = None
    is_exception_offered: bool = False
    asked_exceptions: int = 0
    exception_limit: int = 0
    is_deceased: bool = False
    deceased_look_alikes: tuple[str, ...] = ()
    is_replaced: bool = False
    replacement: ReplacementEvidence | None = None
    proof: ProofEvidence | None = None
    first_after: str | None = None
    """The way by which lines of the document were opened, or a renewed consent, where this is the
    first face under it: it may be anybody's, and would be their holder's from now on. `NOT_KEPT`
    for a face."""

    @property
    def is_proven(self) -> bool:
        """True where another proof stands for the face."""
        return self.proof is not None and self.proof.is_taken(Decision.APPROVED)

    @property
    def is_excused(self) -> bool:
        """True where a fault of the photographs goes before two people."""
        if self.proof is not None:
            return self.proof.is_taken(Decision.REVIEW)
        return self.exception is not None and self.exception_refusal is None

    @property
    def exception_refusal(self) -> Reason | None:
        if self.proof is not None:
            return self.proof.refusal
        if self.exception is None:
            return None
        if not self.is_exception_offered:
            return Reason.EXCEPTION_NOT_OFFERED
        is_full = self.asked_exceptions >= self.exception_limit
        return Reason.EXCEPTION_LIMIT_REACHED if is_full else None

    def find(self, evidence: Evidence, version: str) -> Iterator[Finding]:
        rows = (
            (self.exception_refusal is not None, self.exception_refusal),
            (self.is_deceased, Reason.HOLDER_DECEASED),
            (self.is_replaced, Reason.DOCUMENT_REPLACED),
            (bool(self.deceased_look_alikes), Reason.DECEASED_LOOK_ALIKE),
            (self.is_excused or self.first_after is not None, Reason.EXCEPTION_ASKED),
            (self.is_age_asked and self.is_minor is None, Reason.BIRTH_DATE_MISSING),
        )
        for applies, reason in rows:
            if applies and reason is not None:
                yield Finding.of(reason)
        if self.replacement is not None:
            yield from self.replacement.find(evidence.thresholds, version)
        if self.is_minor and self.guardian is None:
            yield Finding.of(Reason.GUARDIAN_MISSING)
        elif self.is_minor and self.guardian is not None:
            yield from self.guardian.find(evidence.thresholds)

    def temper(self, findings: Sequence[Finding], version: str) -> Sequence[Finding]:
        """Two people look at an exception, and what is granted is checked once more: they have what
        is wrong with its photographs, and all that is known of its document."""
        if not (self.is_excused or self.is_proven or self.is_face_waived):
            return findings
        left = [
            one
            for one in findings
            if one.photograph is None or one.reason.row.about is not About.PHOTOGRAPH
        ]
        if not self.is_excused:
            return left
        # A hurt face may not be like the portrait.
        return [
            structs.replace(one, decision=Decision.REVIEW)
            if one.reason is Reason.FACE_MISMATCH
            or (one.reason.is_of_holder and version not in _REJECTS_EXCUSED)
            else one
            for one in left
        ]

    def is_compared(self, decision: Decision) -> bool:
        guardian = self.guardian if self.is_face_waived else None
        is_shown = guardian is not None and guardian.is_compared
        return is_shown or self.is_proven or (self.is_excused and decision is Decision.REVIEW)


class PeopleCheck(DecisionCheck):
    """Weighs what these rules go by, and adds who answers for whom, what is asked of two people,
    and which document takes the place of which."""

    part = PeoplePart
    unasked = NO_RULES
    is_about_others = True

    def __init__(self, batch: AttemptBatch, terms: PeopleRules) -> None:
        super().__init__(batch, terms)
        self._lines, self._authority = batch.of(LineCheck), batch.find(AuthorityCheck)
        self._face = batch.of(FaceCheck)
        self._proofs = Proofs(batch, terms)
        self._guardians = Guardians(batch, self._proofs)
        self._asked: Counter[str] = Counter()
        asking = [one.outlet for one in batch.attempts if one.request.exception is not None]
        for window in {terms.of(one.carrier).window for one in asking}:
            outlets = [one.code for one in asking if terms.of(one.carrier).window == window]
            asked = batch.registry.people.count_asked(outlets, batch.now - window)
            self._asked.update(asked)
        self._exceptions: list[ExceptionRecord] = []
        self._replacements: list[Replacement] = []
        self._moved: dict[str, str] = {}
        self._exemptions: dict[str, ExemptDocument] = {}
        """By the document that they held for."""

    def admit(self, attempt: Attempt) -> None:
        """`FaceNotKept` where a document is to be replaced by a face that is not kept."""
        if attempt.request.replaces is not None and not self._batch.keeps(attempt):
            raise FaceNotKept(
                "this carrier keeps no faces, and a document is replaced by the one on file: close "
                "the line, and enroll its holder with the new document"
            )

    def weigh(self, place: int, attempt: Attempt, evidence: Evidence) -> Sequence[EvidencePart]:
        rules, request = self._terms.of(attempt.outlet.carrier), attempt.request
        standing, face = self._batch.standing, evidence.of(FacePart)
        own = self._batch.document(attempt.document_lookup)
        majority, told = rules.age_of_majority, self._read_authority(place, attempt)
        is_minor = find_minor(attempt.document.born_on, attempt.judged_on, majority)
        is_holder = reaches(face.holder_score, evidence.thresholds.same_document)
        replacement, old = self._find_replacement(place, attempt, own, is_minor, told)
        guardian = None
        if is_minor:
            about = (place, attempt, majority, told)
            guardian = self._guardians.weigh(*about, is_holder_shown=is_holder)
        shown = [one for one in (own if is_holder else None, old) if one is not None]
        kin = frozenset[str]().union(*(standing.kin(one.id) for one in shown))
        others = tuple(one for one in face.candidates if one.document_id not in kin)
        dead = (one.document_id for one in others if one.document_id in standing.deceased)
        people = PeoplePart(
            is_age_asked=bool(majority),
            is_minor=is_minor,
            is_face_waived=all((is_minor, rules.minor_face == "guardian", request.is_faceless)),
            guardian=guardian,
            is_deceased=own is not None and own.id in standing.deceased,
            deceased_look_alikes=tuple(dead),
            is_replaced=own is not None and own.id in standing.replaced,
            replacement=replacement,
            proof=self._proofs.weigh(attempt, is_minor=bool(is_minor)),
            first_after=None if request.is_faceless else self._proofs.find_first(own, attempt),
        )
        if request.exception is not None:
            people = self._weigh_exception(people, attempt)
        if request.pair[0] is request.pair[1]:
            face = replace(face, live_portrait_score=None)
        face, lines = replace(face, candidates=others), evidence.of(LinePart)
        if old is not None:
            lines = self._lines.add_replaced(lines, attempt, old)
            if self._batch.comparisons.watch.has_document(attempt.replaced_lookup):
                face = replace(face, is_watchlisted=True)
        return face, lines, people

    def _read_authority(
        self, place: int, attempt: Attempt
    ) -> dict[DocumentRole, Mapping[str, Any]]:
        """What an authority has told of the other documents that an attempt names."""
        asked = find_looked_up(attempt, self._terms)
        return {
            role: self._authority.weigh_document(place, attempt, role)
            if self._authority and role in asked
            else {}
            for role in (DocumentRole.REPLACED, DocumentRole.GUARDIAN)
        }

    def _weigh_exception(self, people: PeoplePart, attempt: Attempt) -> PeoplePart:
        rules = self._terms.of(attempt.outlet.carrier)
        return replace(
            people,
            exception=attempt.request.exception,
            # A minor's guardian is bound when the line is opened, and not weeks later.
            is_exception_offered=rules.exceptions and not people.is_minor,
            asked_exceptions=self._asked[attempt.outlet.code],
            exception_limit=rules.exceptions_per_outlet,
        )

    def _find_replacement(
        self,
        place: int,
        attempt: Attempt,
        own: DocumentRecord | None,
        is_minor: bool | None,
        told: Mapping[DocumentRole, Mapping[str, Any]],
    ) -> tuple[ReplacementEvidence | None, DocumentRecord | None]:
        """The evidence on a document that is to be replaced, with what an authority has `told`, and
        that document, where its holder's face is shown and nothing stands against it."""
        if attempt.request.replaces is None:
            return None, None
        batch = self._batch
        old = batch.document(attempt.replaced_lookup)
        carrier, consent = attempt.outlet.carrier, attempt.request.consent
        if old is None or place in batch.unconsented or old.refuses_face(carrier, consent):
            return ReplacementEvidence(**told[DocumentRole.REPLACED]), None
        alike = self._face.resemble(place, old)
        is_free = self._is_free(old, own, attempt, is_minor)
        delay = timedelta(hours=self._terms.of(attempt.outlet.carrier).replacement_delay_h)
        since = self._face.find_confirmation(place, old, own) if is_free else None
        claimed = ReplacementEvidence(
            document_id=old.id,
            score=None if alike is None else alike.least,
            each=None if alike is None else alike.each,
            is_free=is_free,
            name_differs=old.name_lookup not in (None, attempt.replaced_name_lookup),
            is_always_asked=bool(delay) or self._proofs.find_way(old) is not None,
            is_confirmed=since is not None and batch.now >= since + delay,
            is_waiting=since is not None and batch.now < since + delay,
            **told[DocumentRole.REPLACED],
        )
        is_holder = reaches(claimed.score, batch.comparisons.thresholds.same_document)
        return claimed, old if is_free and is_holder else None

    def _is_free(
        self,
        old: DocumentRecord,
        own: DocumentRecord | None,
        attempt: Attempt,
        is_minor: bool | None,
    ) -> bool:
        """Whether nothing stands against the replacement of a document."""
        guardian = attempt.guardian if is_minor else None
        return (
            old.status is DocumentStatus.ACTIVE
            and not is_barred(old, self._batch)
            and (own is None or old.id != own.id)
            # Kin may be the same face to a document, and nobody is their own guardian.
            and (guardian is None or guardian.document_lookup != attempt.replaced_lookup)
            # Its lines would come apart from what this batch has opened under it.
            and old.id not in self._lines.changed_documents
            and not self._is_looked_into(old)
            and (not self._is_shared(old, attempt) or self._is_decided(own, old))
        )

    def _is_looked_into(self, old: DocumentRecord) -> bool:
        """Whether an open case may speak against the holder, who must not leave under another
        number then. Others' faces shown with such claims do not, nor who else asked for what: else
        anybody could bar the holder. Nor does what no tenant may notice: their face is searched for
        again."""
        cases = self._batch.registry.cases.open_of([old.id])[old.id]
        return any(
            one.kind not in _OF_WHO_ASKS and not is_grouped(one, CLAIMED, CONFIRMED, UNTOLD)
            for one in cases
        )

    def _is_shared(self, old: DocumentRecord, attempt: Attempt) -> bool:
        """Whether another carrier has a line under the document: what it holds is not this
        carrier's to move."""
        lines = self._batch.registry.lines_in_use_of([old.id])[old.id]
        return any(one.carrier != attempt.outlet.carrier for one in lines)

    def _is_decided(self, own: DocumentRecord | None, old: DocumentRecord) -> bool:
        """Whether people have decided that one person has both with good reason."""
        pair = None if own is None else self._face.find_judged(own, old.id)
        return pair is not None and pair.outcome is Outcome.MISTAKE

    def write(self, made: DecidedAttempt) -> None:
        """Also opens the cases about others whom an attempt names: they are for those who work on
        cases, and no part of an answer."""
        people, guardian_id = made.evidence.of(PeoplePart), None
        if made.verdict.decision is Decision.APPROVED:
            self._replace_document(made, people.replacement)
            if people.is_minor:
                majority = self._terms.of(made.attempt.outlet.carrier).age_of_majority
                guardian_id = self._guardians.bind(made, majority)
        made.decided.guardian_document_id = guardian_id
        made.decided.is_face_waived = people.is_face_waived
        self._proofs.write(made, people.proof)
        for case in made.decided.cases:
            if case.kind == CaseKind.EXCEPTION:
                self._ask_exception(made, case.id)
        self._open_thefts(made, people)
        is_review = made.verdict.decision is Decision.REVIEW
        asked = {one for one in made.verdict.reasons if is_review and one.row.asks is not None}
        kind = find_case(made.verdict)
        if people.guardian and (kind is not None or Reason.GUARDIAN_CHANGED in asked):
            is_shown = Reason.REPLACEMENT_ASKED not in asked
            about = (made, people.guardian, kind)
            guardian_id = self._guardians.open_case(*about, is_shown=is_shown)
        if asked:
            self._ask_confirmations(made, people, guardian_id)
            self._face.keep_shown(made, made.place, made.attempt)

    def _replace_document(
        self, made: DecidedAttempt, replacement: ReplacementEvidence | None
    ) -> None:
        """Retires the document that an approved attempt replaces, and moves its lines."""
        if replacement is None or replacement.document_id is None or replacement.score is None:
            return
        old, new, batch = replacement.document_id, made.decided.document_id, self._batch
        assert new is not None
        row = Replacement(old, new, made.decided.enrollment_id, replacement.score, batch.now)
        self._replacements.append(row)
        lines = batch.registry.lines_in_use_of([old])[old]
        self._moved |= {line.id: new for line in lines}
        told: dict[str, Any] = {"successor": new, "lines": [line.id for line in lines]}
        exempt = batch.registry.exemptions([old]).get(old)
        if exempt is not None:
            self._exemptions[old] = replace(exempt, document_id=new)
            told["exempted"] = exempt.cause
        batch.writes.append(AuditEntry(made.attempt.request.actor, DOCUMENT_REPLACED, old, told))
        record = batch.document(made.attempt.replaced_lookup)
        if record is not None and record.withdrawn:
            # Of carriers whose lines move along; its own is renewed, or nothing was replaced.
            marks = [one for one in record.withdrawn if one != made.attempt.outlet.carrier]
            batch.writes.append(ConsentChange(new, marks, is_withdrawn=True))
        replaced = {**batch.standing.replaced, old: new}
        batch.standing = replace(batch.standing, replaced=replaced)
        carrier = made.attempt.outlet.carrier
        self._lines.move(old, new, carrier, is_exempt=exempt is not None)

    def _ask_exception(self, made: DecidedAttempt, case_id: str) -> None:
        """Keeps what two people are to decide."""
        attempt, document_id = made.attempt, made.decided.document_id
        people, asked = made.evidence.of(PeoplePart), attempt.request.exception
        way = people.first_after if people.proof is None else people.proof.way
        # Whatever was asked for: who decides must see that lines are there, and no face.
        cause = way if asked is None or people.first_after is not None else asked.value
        assert cause is not None, "only an exception is asked for"
        assert document_id is not None
        self._asked[attempt.outlet.code] += asked is not None
        self._exceptions.append(
            ExceptionRecord(
                id=made.decided.enrollment_id,
                carrier=attempt.outlet.carrier,
                outlet=attempt.outlet.code,
                document_id=document_id,
                cause=str(cause),
                line=AskedLine(
                    attempt.msisdn, attempt.request.document.name, attempt.document.expires_on
                ),
                asked_at=self._batch.now,
                case_id=case_id,
            )
        )

    def _ask_confirmations(
        self, made: DecidedAttempt, people: PeoplePart, guardian_id: str | None
    ) -> None:
        """Opens cases by which two people decide what the faces leave open: whether a document may
        be replaced, and whether somebody may come with a minor whom others answer for. Nothing is
        asked that is not in doubt: a new case would take back what was decided."""
        own, old = self._batch.document(made.attempt.document_lookup), people.replacement
        if own is None:
            return
        found: list[tuple[str, str, float | None]] = []
        is_asked = Reason.REPLACEMENT_ASKED in made.verdict.reasons
        if old is not None and old.document_id and is_asked and not old.is_waiting:
            found.append((old.document_id, own.id, old.score))
        if people.guardian is not None and people.guardian.is_other and guardian_id is not None:
            found.append((own.id, guardian_id, people.guardian.holder_score))
        for about, asking, score in found:
            named = ((about, asking), (asking,), score, name_confirmation(about, asking))
            made.decided.cases.append(self._batch.open_case(made, CaseKind.STOLEN_DOCUMENT, *named))

    def _open_thefts(self, made: DecidedAttempt, people: PeoplePart) -> None:
        """Opens cases about documents that somebody else's face was shown with: as a guardian's, or
        as one to be replaced."""
        found: list[tuple[str, float | None, str | None]] = []
        guardian, claimed = made.attempt.guardian, people.replacement
        if people.guardian is not None and guardian is not None:
            record = self._batch.document(guardian.document_lookup)
            if record is not None:
                found.append((record.id, people.guardian.holder_score, None))
        if claimed is not None and claimed.document_id is not None:
            found.append((claimed.document_id, claimed.score, f"{CLAIMED}{claimed.document_id}"))
        for key, score, group in found:
            if is_below(score, made.evidence.thresholds.same_document):
                self._batch.open_case(made, CaseKind.STOLEN_DOCUMENT, [key], [], score, group)

    def close(self) -> None:
        self._batch.writes += [
            *self._guardians.bound,
            *self._exceptions,
            *self._replacements,
            *(MovedLine(*one) for one in self._moved.items()),
            *map(EndedExemption, self._exemptions),
            *self._exemptions.values(),
        ]
