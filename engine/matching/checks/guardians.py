"""The guardian of a minor: the document, and the face that comes along."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.matching.calibration import Thresholds
from engine.matching.checks.document import find_told, settle_document
from engine.matching.checks.face import FaceCheck, choose, find_watched, is_below, reaches
from engine.matching.checks.lines import LineCheck
from engine.matching.checks.picture import find_problems
from engine.matching.checks.proofs import Proofs
from engine.matching.documents import find_minor
from engine.matching.judge import AttemptBatch, DecidedAttempt
from engine.matching.policy import Candidate, FaceScores, Verdict
from engine.matching.requests import Attempt
from engine.registry.documents import DocumentRecord
from engine.registry.people import Guardianship
from engine.registry.sweeps import EXCEPTIONS
from schema import frozen
from schema.cases import CaseKind
from schema.decisions import Finding
from schema.documents import DocumentRole, DocumentStatus
from schema.reasons import Decision, Reason


@frozen(kw_only=True)
class GuardianEvidence:
    """Evidence of the guardian who came with a minor; scores as in `FacePart`.

    `findings` are on the document, `is_same_person` where it is the minor's own, or the face is
    the minor's.
    """

    findings: tuple[Reason, ...] = ()
    problems: tuple[Reason, ...] = ()
    is_grown_up: bool | None = None
    """None where the date of birth is not known."""
    is_same_person: bool = False
    is_barred: bool = False
    """The document is blocked, replaced, about to be erased, its holder reported dead, or another
    proof has opened lines under it and it has no face yet."""
    is_other: bool = False
    """The minor's document has a face or another guardian already, and neither has come."""
    name_differs: bool = False
    is_watchlisted: bool = False
    watched: tuple[Candidate, ...] = ()
    has_all_lines: bool = False
    """As many with the carrier, own ones and those answered for, as one person may have."""
    verify: float
    live_portrait_score: float | None = None
    holder_score: float | None = None
    holder_each: FaceScores | None = None
    candidates: tuple[Candidate, ...] = ()
    searched: int | None = None
    is_search_refused: bool = False
    is_kept: bool = True
    """Whether anything of the face is: else two people could not know it again."""
    authority_problem: Reason | None = None
    authority_brings: Decision | None = None

    @property
    def is_known(self) -> bool:
        """True where the face was compared with the document's portrait, or with its holder's."""
        return self.live_portrait_score is not None or self.holder_score is not None

    @property
    def is_compared(self) -> bool:
        """True where it was also searched for, unless nobody may be."""
        return self.is_known and (self.searched is not None or self.is_search_refused)

    def find(self, thresholds: Thresholds) -> list[Finding]:
        """Finds one rejection at most: a person who does not show the face of the guardian's
        document is told no more of it."""
        best = max((one.score for one in self.candidates), default=None)
        certain, review = (
            best is not None and best >= least for least in (thresholds.certain, thresholds.review)
        )
        is_other = is_below(self.live_portrait_score, self.verify)
        is_other = is_other or is_below(self.holder_score, thresholds.same_document)
        rows = (
            (bool(self.findings), Reason.GUARDIAN_REFUSED),
            (bool(self.problems), Reason.GUARDIAN_UNUSABLE),
            (is_other or not self.is_known, Reason.GUARDIAN_MISMATCH),
            (self.is_barred or self.is_same_person, Reason.GUARDIAN_REFUSED),
            (self.is_grown_up is None, Reason.BIRTH_DATE_MISSING),
            (self.is_grown_up is False, Reason.GUARDIAN_REFUSED),
            (certain, Reason.GUARDIAN_DUPLICATE),
            (self.is_other and not self.is_kept, Reason.GUARDIAN_CHANGED),
            (self.has_all_lines, Reason.LINE_LIMIT_REACHED),
        )
        said = find_told(self.authority_problem, self.authority_brings)
        refused = [Finding(reason, Decision.REJECTED) for applies, reason in rows if applies]
        refused += [one for one in said if one.decision is Decision.REJECTED]
        if refused:
            return refused[:1]
        doubts = (
            (self.is_other, Reason.GUARDIAN_CHANGED),
            (self.name_differs, Reason.NAME_MISMATCH),
            (review, Reason.GUARDIAN_DUPLICATE),
            (self.is_watchlisted, Reason.WATCHLISTED),
        )
        found = [Finding.of(reason) for applies, reason in doubts if applies] + said
        unsearched = Finding.of(Reason.NOT_SEARCHED)
        return [*found, unsearched] if self.is_search_refused else found


def _find_problems(guardian: Attempt) -> tuple[Reason, ...]:
    live, portrait = guardian.request.live, guardian.request.portrait
    problems = find_problems(live)
    if not portrait.is_absent:
        problems += find_problems(portrait)
    return problems + ((Reason.SAME_PHOTOGRAPH,) if guardian.is_same_photograph else ())


class Guardians:
    """The guardians who came with the attempts of a batch: `places` are where their probes stand
    among the comparisons, after those of all attempts."""

    def __init__(self, batch: AttemptBatch, proofs: Proofs) -> None:
        self._batch, self._face, self._proofs = batch, batch.of(FaceCheck), proofs
        with_one = [place for place, one in enumerate(batch.attempts) if one.guardian is not None]
        self._places = {one: len(batch.attempts) + at for at, one in enumerate(with_one)}
        self.bound: list[Guardianship] = []

    def weigh(
        self,
        place: int,
        attempt: Attempt,
        majority: int,
        told: Mapping[DocumentRole, Mapping[str, Any]],
        *,
        is_holder_shown: bool,
    ) -> GuardianEvidence | None:
        """The evidence on the guardian of a minor, with what an authority has `told`; None where
        none came. The minor's document was shown with its holder's face where `is_holder_shown`."""
        guardian, batch = attempt.guardian, self._batch
        if guardian is None:
            return None
        at, comparisons = self._places[place], batch.comparisons
        live, portrait = guardian.request.live, guardian.request.portrait
        record, held = (one(guardian.document_lookup) for one in (batch.document, batch.held))
        holder = self._face.resemble(at, held)
        holder_score = None if holder is None else holder.least
        minor = batch.document(attempt.document_lookup)
        is_minor = find_minor(guardian.document.born_on, attempt.judged_on, majority)
        is_same = guardian.document_lookup == attempt.document_lookup
        watched = find_watched(at, comparisons)
        return GuardianEvidence(
            findings=(
                *guardian.document.findings,
                *((Reason.CONSENT_WITHDRAWN,) if at in batch.unconsented else ()),
            ),
            problems=_find_problems(guardian),
            is_grown_up=None if is_minor is None else not is_minor,
            is_same_person=is_same or self._is_same_face(place, at),
            is_barred=self._is_barred(record, guardian),
            is_other=not is_holder_shown and self._is_other(at, minor, record),
            name_differs=held is not None and held.name_lookup not in (None, guardian.name_lookup),
            is_watchlisted=comparisons.watch.has_document(guardian.document_lookup)
            or bool(watched),
            watched=watched,
            has_all_lines=record is not None and self._has_all_lines(record.id, attempt),
            verify=comparisons.thresholds.verify_for(live.length),
            live_portrait_score=None if portrait.is_absent else comparisons.pair_score(at),
            holder_score=holder_score,
            holder_each=None if holder is None else holder.each,
            candidates=self._search(at, record, holder_score),
            searched=comparisons.searched if at in comparisons.hits else None,
            is_search_refused=at in comparisons.unsearched,
            is_kept=batch.keeps(guardian),
            **told[DocumentRole.GUARDIAN],
        )

    def _is_barred(self, record: DocumentRecord | None, guardian: Attempt) -> bool:
        if record is None:
            return False
        is_first = self._proofs.find_first(record, guardian) is not None
        return is_barred(record, self._batch) or is_first

    def _search(
        self, at: int, record: DocumentRecord | None, holder_score: float | None
    ) -> tuple[Candidate, ...]:
        found, decided = self._face.search(at, record)
        apart = {key for key, pair in decided.items() if pair.outcome in EXCEPTIONS}
        same = self._batch.comparisons.thresholds.same_document
        if record is not None and reaches(holder_score, same):
            apart |= self._batch.standing.kin(record.id)
        return choose(found, apart, is_among=False)

    def _is_same_face(self, place: int, at: int) -> bool:
        comparisons = self._batch.comparisons
        return (
            comparisons.has_probe(place)
            and comparisons.has_probe(at)
            and any(
                comparisons.look_alikes(shown, comparisons.faces(other).vectors)
                for shown, other in ((place, at), (at, place))
            )
        )

    def _is_other(
        self, at: int, minor: DocumentRecord | None, guardian: DocumentRecord | None
    ) -> bool:
        """Whether a minor's document, whose holder has not come, has a face or other guardians: by
        anybody's document and face it would be anybody's."""
        if minor is None:
            return False
        known = self._batch.registry.people.guardians_of(minor.id)
        known |= {one.guardian_id for one in self.bound if one.document_id == minor.id}
        if not known and not minor.reference_ids:
            return False
        kin = set() if guardian is None else self._batch.standing.kin(guardian.id)
        if guardian is not None and known & {guardian.id, *kin}:
            return False
        return self._face.find_confirmation(at, minor, guardian) is None

    def _has_all_lines(self, guardian_id: str, attempt: Attempt) -> bool:
        """Or whoever answers for children has as many lines as there are names to invent."""
        carrier, limit = attempt.outlet.carrier, attempt.outlet.line_limit
        own = self._batch.of(LineCheck).count(guardian_id, carrier)
        # What this batch has replaced is still there under the document of before.
        kin = self._batch.standing.kin(guardian_id)
        guarded = sum(self._batch.registry.people.count_guarded(sorted(kin), carrier).values())
        fresh = sum(one.guardian_id in kin for one in self.bound)
        return own + guarded + fresh >= limit

    def bind(self, made: DecidedAttempt, majority: int) -> str:
        """Makes the guardian answer for a minor's line, until the year in which that ends; the
        guardian's document is bound as one that was enrolled, without a line, so that the face has
        no second identity."""
        guardian, born_on = made.attempt.guardian, made.attempt.document.born_on
        assert guardian is not None, "no minor is approved alone"
        assert born_on is not None, "a minor's age is known"
        decided = made.decided
        assert decided.line_id is not None
        assert decided.document_id is not None
        guardian_id = settle_document(self._batch, guardian, made.verdict)
        assert guardian_id is not None, "a guardian's document is well-formed"
        self._batch.add_reference(made, self._places[made.place], guardian, guardian_id)
        given = (decided.line_id, decided.document_id, guardian_id, decided.enrollment_id)
        self.bound.append(Guardianship(*given, born_on.year + majority, self._batch.now))
        return guardian_id

    def open_case(
        self,
        made: DecidedAttempt,
        guardian: GuardianEvidence,
        kind: CaseKind | None,
        *,
        is_shown: bool,
    ) -> str | None:
        """Opens a case of this kind, if any, about a guardian whom people are asked about; keeps
        their face where it `is_shown`. Their document, as of an enrollment that goes to review: a
        row that people can decide about."""
        attempt, cases = made.attempt.guardian, () if kind is None else (kind,)
        assert attempt is not None, "people are asked about somebody"
        own = settle_document(self._batch, attempt, replace(made.verdict, cases=cases))
        if is_shown:
            self._face.keep_shown(made, self._places[made.place], attempt)
        if kind is not None:
            named = (own, *(one.document_id for one in guardian.candidates))
            documents = [key for key in named if key is not None]
            score = max(one.score for one in guardian.candidates)
            key = made.verdict.name_untold({Reason.GUARDIAN_DUPLICATE}, made.decided.enrollment_id)
            self._batch.open_case(made, kind, documents, documents, score, key)
        return own


def find_case(verdict: Verdict) -> CaseKind | None:
    """The case about a guardian who is known under another identity; None where there is none."""
    brings = [one.decision for one in verdict.findings if one.reason is Reason.GUARDIAN_DUPLICATE]
    if not brings:
        return None
    is_certain = Decision.REJECTED in brings
    return CaseKind.DUPLICATE_IDENTITY if is_certain else CaseKind.POSSIBLE_DUPLICATE


def is_barred(record: DocumentRecord, batch: AttemptBatch) -> bool:
    """Whether nothing is done by a document, whoever holds it."""
    return (
        record.status is DocumentStatus.BLOCKED
        or record.awaits_erasure
        or record.id in batch.standing.deceased
        or record.id in batch.standing.replaced
    )
