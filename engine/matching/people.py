"""People whom rules treat apart: what is asked of minors, and who may come without a usable face.

The rules are a carrier's (`PeopleRules`); what they go by is gathered here for a batch, decided in
`policy`, and what follows is collected for the batch's transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from msgspec import structs

from engine.cases.opening import NewCase, is_grouped
from engine.matching.checks.authority import AuthorityQuestion, WeighedAuthority
from engine.matching.checks.face import (
    MAX_CANDIDATES,
    BatchState,
    FacePart,
    LinePart,
    find_candidates,
    find_decided,
    resemble_holder,
)
from engine.matching.checks.guardians import GuardianEvidence
from engine.matching.checks.liveness import LivenessTerms
from engine.matching.checks.people import PeoplePart
from engine.matching.checks.picture import find_problems
from engine.matching.checks.replacements import ReplacementEvidence
from engine.matching.comparison import Comparisons
from engine.matching.documents import CheckedDocument, find_age
from engine.matching.policy import Evidence, Verdict
from engine.matching.requests import Attempt
from engine.registry.audit import AuditEntry
from engine.registry.database import utc_now
from engine.registry.documents import DocumentRecord
from engine.registry.lines import EndedExemption, ExemptDocument, MovedLine
from engine.registry.people import AskedLine, ExceptionRecord, Guardianship, Replacement
from engine.registry.rows import Write
from engine.registry.store import Reader
from engine.registry.sweeps import EXCEPTIONS
from schema.cases import (
    CLAIMED,
    CONFIRMED,
    UNTOLD,
    CaseKind,
    CaseOrigin,
    Outcome,
    name_confirmation,
)
from schema.documents import DocumentRole, DocumentStatus
from schema.options import PeopleRules
from schema.reasons import Decision, LivenessUse, Reason

DOCUMENT_REPLACED = "document.replaced"
_OF_WHO_ASKS = (CaseKind.PROBING, CaseKind.EXCEPTION)
"""Cases about others than the document's holder; an exception is judged anew when it is granted."""


class PeopleBatch:
    """The rows that a batch needs for these rules; an attempt counts for those after it."""

    def __init__(
        self,
        terms: PeopleRules,
        store: Reader,
        attempts: Sequence[Attempt],
        state: BatchState,
        comparisons: Comparisons,
        now: datetime,
    ) -> None:
        self._terms = terms
        self._store = store
        self._state = state
        self._comparisons = comparisons
        self._now = now
        # The guardians' probes come after those of all attempts.
        self._places = place_guardians(attempts)
        self._asked: Counter[str] = Counter()
        for window in {terms.of(one.outlet.carrier).window for one in attempts if _asks(one)}:
            outlets = [
                one.outlet.code
                for one in attempts
                if _asks(one) and terms.of(one.outlet.carrier).window == window
            ]
            self._asked.update(store.people.count_asked(outlets, now - window))
        self._guardianships: list[Guardianship] = []
        self._exceptions: list[ExceptionRecord] = []
        self._replacements: list[Replacement] = []
        self._moved: dict[str, str] = {}
        self._exemptions: dict[str, ExemptDocument] = {}
        """By the document that they held for."""
        self._entries: list[AuditEntry] = []

    def writes(self) -> list[Write]:
        """The rows collected, and that documents were replaced."""
        return [
            *self._guardianships,
            *self._exceptions,
            *self._replacements,
            *(MovedLine(*one) for one in self._moved.items()),
            *map(EndedExemption, self._exemptions),
            *self._exemptions.values(),
            *self._entries,
        ]

    def guardian_place(self, place: int) -> int | None:
        """Where the probe of an attempt's guardian is among the comparisons."""
        return self._places.get(place)

    def add_to(
        self,
        evidence: Evidence,
        place: int,
        attempt: Attempt,
        look_ups: Mapping[DocumentRole, WeighedAuthority],
    ) -> Evidence:
        """The evidence with what these rules go by; the same where none treats it apart."""
        rules, request = self._terms.of(attempt.outlet.carrier), attempt.request
        standing, thresholds = self._state.standing, evidence.thresholds
        face = evidence.of(FacePart)
        own = self._state.document(attempt.document_lookup)
        is_minor = _is_minor(attempt.document.born_on, attempt.judged_on, rules)
        replacement, old = self._find_replacement(place, attempt, own, is_minor)
        if replacement is not None:
            replacement = replace(replacement, **_tell(look_ups.get(DocumentRole.REPLACED)))
        guardian = None
        if is_minor:
            is_shown = _reaches(face.holder_score, thresholds.same_document)
            guardian = self._find_guardian(place, attempt, rules, own, is_holder_shown=is_shown)
        if guardian is not None:
            guardian = replace(guardian, **_tell(look_ups.get(DocumentRole.GUARDIAN)))
        is_holder = _reaches(face.holder_score, thresholds.same_document)
        is_old_holder = (
            replacement is not None
            and replacement.is_free
            and _reaches(replacement.score, thresholds.same_document)
        )
        kin: set[str] = set()
        if own is not None and is_holder:
            kin |= standing.kin(own.id)
        if old is not None and is_old_holder:
            kin |= standing.kin(old.id)
        others = tuple(one for one in face.candidates if one.document_id not in kin)
        people = PeoplePart(
            is_age_asked=bool(rules.age_of_majority),
            is_minor=is_minor,
            is_face_waived=bool(is_minor)
            and rules.minor_face == "guardian"
            and request.live.is_absent
            and request.portrait.is_absent,
            guardian=guardian,
            exception=request.exception,
            # A minor's guardian is bound when the line is opened, and not weeks later.
            is_exception_offered=request.exception is not None
            and rules.exceptions
            and not is_minor,
            asked_exceptions=self._asked[attempt.outlet.code] if _asks(attempt) else 0,
            exception_limit=rules.exceptions_per_outlet if _asks(attempt) else 0,
            is_deceased=own is not None and own.id in standing.deceased,
            deceased_look_alikes=tuple(
                one.document_id for one in others if one.document_id in standing.deceased
            ),
            is_replaced=own is not None and own.id in standing.replaced,
            replacement=replacement,
        )
        lone = request.pair[0] is request.pair[1]
        face = replace(
            face,
            candidates=others,
            live_portrait_score=None if lone else face.live_portrait_score,
            is_watchlisted=face.is_watchlisted
            or (is_old_holder and self._comparisons.watch.has_document(attempt.replaced_lookup)),
        )
        lines = evidence.of(LinePart)
        if is_old_holder and old is not None:
            lines = self._add_lines(lines, attempt, old)
        return evidence.having(face, lines, people)

    def _add_lines(self, lines: LinePart, attempt: Attempt, old: DocumentRecord) -> LinePart:
        """The lines of the document that is replaced count; its number may come along."""
        moves = self._moves_number(attempt, old)
        total = lines.person_lines + self._state.person_lines(old.id) - moves
        lines = replace(
            lines,
            is_number_in_use=lines.is_number_in_use and not moves,
            open_lines=lines.open_lines
            + self._state.open_lines(old.id, attempt.outlet.carrier)
            - moves,
            person_lines=total if lines.person_limit else 0,
        )
        is_exempt = lines.is_exempt or (lines.has_all_lines and self._state.is_exempt(old.id))
        return replace(lines, is_exempt=is_exempt)

    def _moves_number(self, attempt: Attempt, old: DocumentRecord) -> bool:
        line = self._state.line_of_number(attempt.msisdn_lookup)
        return (
            line is not None
            and line.document_id == old.id
            and line.carrier == attempt.outlet.carrier
        )

    def _find_replacement(
        self, place: int, attempt: Attempt, own: DocumentRecord | None, is_minor: bool | None
    ) -> tuple[ReplacementEvidence | None, DocumentRecord | None]:
        if attempt.request.replaces is None:
            return None, None
        old = self._state.document(attempt.replaced_lookup)
        if old is None:
            return ReplacementEvidence(), None
        standing, alike = self._state.standing, None
        if self._comparisons.has_probe(place):
            alike = resemble_holder(place, old, self._comparisons, self._state)
        guardian = attempt.guardian if is_minor else None
        is_free = (
            old.status is DocumentStatus.ACTIVE
            and not old.awaits_erasure
            and old.id not in standing.deceased
            and old.id not in standing.replaced
            and (own is None or old.id != own.id)
            # Kin may be the same face to a document, and nobody is their own guardian.
            and (guardian is None or guardian.document_lookup != attempt.replaced_lookup)
            # Its lines would come apart from what this batch has opened under it.
            and old.id not in self._state.changed_documents
            and not self._is_looked_into(old)
            and (not self._is_shared(old, attempt) or self._is_decided(own, old))
        )
        delay = self._terms.of(attempt.outlet.carrier).replacement_delay
        since = self._find_confirmation(place, old, own) if is_free else None
        claimed = ReplacementEvidence(
            document_id=old.id,
            score=None if alike is None else alike.least,
            each=None if alike is None else alike.each,
            is_free=is_free,
            name_differs=old.name_lookup not in (None, attempt.replaced_name_lookup),
            is_always_asked=bool(delay),
            is_confirmed=since is not None and self._now >= since + delay,
            is_waiting=since is not None and self._now < since + delay,
        )
        return claimed, old

    def _find_confirmation(
        self, place: int, about: DocumentRecord, asking: DocumentRecord | None
    ) -> datetime | None:
        """When two people decided that who shows this face under the document `asking` may have to
        do with the other one; None where they have not."""
        if asking is None or not self._comparisons.has_probe(place):
            return None
        key = name_confirmation(about.id, asking.id)
        case = self._store.cases.of_groups([key]).get(key)
        if case is None or case.outcome is not Outcome.UNFOUNDED or case.closed_at is None:
            return None
        alike = resemble_holder(place, asking, self._comparisons, self._state)
        if alike is None:
            shown = self._store.attempt_templates(self._store.cases.attempts_in(case.id))
            seen = shown.get(asking.id)
            alike = None if seen is None else self._comparisons.resemblance(place, seen)
        # As sure as a search is: it is one face of many that would have to be like theirs.
        least = None if alike is None else alike.least
        is_theirs = _reaches(least, self._comparisons.thresholds.review)
        # A change of a case may be dated a little ahead.
        return min(case.closed_at, self._now) if is_theirs else None

    def _is_looked_into(self, old: DocumentRecord) -> bool:
        """Whether an open case may speak against the holder, who must not leave under another
        number then. Others' faces shown with such claims do not, nor who else asked for what: else
        anybody could bar the holder. Nor does what no tenant may notice: their face is searched for
        again."""
        cases = self._store.cases.open_of([old.id])[old.id]
        return any(
            one.kind not in _OF_WHO_ASKS and not is_grouped(one, CLAIMED, CONFIRMED, UNTOLD)
            for one in cases
        )

    def _is_shared(self, old: DocumentRecord, attempt: Attempt) -> bool:
        """True where another carrier has a line under the document: what it holds is not this
        carrier's to move."""
        lines = self._store.lines_in_use_of([old.id])[old.id]
        return any(one.carrier != attempt.outlet.carrier for one in lines)

    def _is_decided(self, own: DocumentRecord | None, old: DocumentRecord) -> bool:
        """True where people have decided that one person has both with good reason."""
        pair = None if own is None else self._state.judged(own, old.id)
        return pair is not None and pair.outcome is Outcome.MISTAKE

    def _find_guardian(
        self,
        place: int,
        attempt: Attempt,
        rules: PeopleRules,
        minor: DocumentRecord | None,
        *,
        is_holder_shown: bool,
    ) -> GuardianEvidence | None:
        guardian, thresholds = attempt.guardian, self._comparisons.thresholds
        if guardian is None:
            return None
        at, comparisons, state = self._places[place], self._comparisons, self._state
        live, portrait = guardian.request.live, guardian.request.portrait
        record = state.document(guardian.document_lookup)
        held = record if record and record.status is not DocumentStatus.ATTEMPTED else None
        has_probe = comparisons.has_probe(at)
        holder = resemble_holder(at, held, comparisons, state) if has_probe else None
        holder_score = None if holder is None else holder.least
        own_id = None if record is None else record.id
        found = find_candidates(at, own_id, comparisons, state) if has_probe else ()
        decided = find_decided(at, record, found, comparisons, state)
        apart = {key for key, pair in decided.items() if pair.outcome in EXCEPTIONS}
        if own_id is not None and _reaches(holder_score, thresholds.same_document):
            apart |= state.standing.kin(own_id)
        problems = find_problems(live)
        if not portrait.is_absent:
            problems += find_problems(portrait)
        if guardian.is_same_photograph:
            problems += (Reason.SAME_PHOTOGRAPH,)
        is_minor = _is_minor(guardian.document.born_on, attempt.judged_on, rules)
        is_same_face = (
            comparisons.has_probe(place)
            and has_probe
            and any(
                comparisons.look_alikes(shown, comparisons.faces(other).vectors)
                for shown, other in ((place, at), (at, place))
            )
        )
        return GuardianEvidence(
            findings=guardian.document.findings,
            problems=problems,
            is_grown_up=None if is_minor is None else not is_minor,
            is_same_person=guardian.document_lookup == attempt.document_lookup or is_same_face,
            is_barred=record is not None and self._is_barred(record),
            is_other=minor is not None
            and not is_holder_shown
            and self._is_other_guardian(at, minor, record),
            name_differs=held is not None and held.name_lookup not in (None, guardian.name_lookup),
            is_watchlisted=comparisons.watch.has_document(guardian.document_lookup)
            or (has_probe and comparisons.is_watched(at)),
            has_all_lines=own_id is not None and self._has_all_lines(own_id, attempt),
            verify=thresholds.verify_for(live.length),
            live_portrait_score=None if portrait.is_absent else comparisons.pair_score(at),
            holder_score=holder_score,
            holder_each=None if holder is None else holder.each,
            candidates=tuple(one for one in found if one.document_id not in apart)[:MAX_CANDIDATES],
            searched=comparisons.searched if has_probe else None,
        )

    def _is_other_guardian(
        self, at: int, minor: DocumentRecord, guardian: DocumentRecord | None
    ) -> bool:
        """True where a minor's document, whose holder has not come, has a face or other guardians:
        by anybody's document and face it would be anybody's."""
        known = self._store.people.guardians_of(minor.id)
        known |= {one.guardian_id for one in self._guardianships if one.document_id == minor.id}
        if not known and not minor.reference_ids:
            return False
        kin = set() if guardian is None else self._state.standing.kin(guardian.id)
        if guardian is not None and known & {guardian.id, *kin}:
            return False
        return self._find_confirmation(at, minor, guardian) is None

    def _has_all_lines(self, guardian_id: str, attempt: Attempt) -> bool:
        """Or whoever answers for children has as many lines as there are names to invent."""
        carrier, limit = attempt.outlet.carrier, attempt.outlet.line_limit
        own = self._state.open_lines(guardian_id, carrier)
        # What this batch has replaced is still there under the document of before.
        kin = self._state.standing.kin(guardian_id)
        guarded = sum(self._store.people.count_guarded(sorted(kin), carrier).values())
        fresh = sum(one.guardian_id in kin for one in self._guardianships)
        return own + guarded + fresh >= limit

    def _is_barred(self, record: DocumentRecord) -> bool:
        standing = self._state.standing
        return (
            record.status is DocumentStatus.BLOCKED
            or record.awaits_erasure
            or record.id in standing.deceased
            or record.id in standing.replaced
        )

    def bind_guardian(
        self, attempt: Attempt, line_id: str, document_id: str, guardian_id: str, enrollment_id: str
    ) -> None:
        """Makes the guardian answer for a minor's line, until the year in which that ends."""
        born_on = attempt.document.born_on
        assert born_on is not None, "a minor's age is known"
        ends_in = born_on.year + self._terms.of(attempt.outlet.carrier).age_of_majority
        given = (line_id, document_id, guardian_id, enrollment_id, ends_in, self._now)
        self._guardianships.append(Guardianship(*given))

    def replace_document(
        self, attempt: Attempt, evidence: Evidence, document_id: str, enrollment_id: str
    ) -> str | None:
        """Retires the document that an approved attempt replaces, and moves its lines; the line of
        the attempt's own number where it is one of them."""
        replacement = evidence.of(PeoplePart).replacement
        if replacement is None or replacement.document_id is None or replacement.score is None:
            return None
        old = replacement.document_id
        given = (old, document_id, enrollment_id, replacement.score, self._now)
        self._replacements.append(Replacement(*given))
        lines = self._store.lines_in_use_of([old])[old]
        self._moved |= {line.id: document_id for line in lines}
        told: dict[str, Any] = {"successor": document_id, "lines": [line.id for line in lines]}
        if (exempt := self._store.exemptions([old]).get(old)) is not None:
            self._exemptions[old] = replace(exempt, document_id=document_id)
            told["exempted"] = exempt.cause
        caller, outlet = attempt.request.caller, attempt.outlet.code
        actor = f"outlet:{outlet}" if caller is None else caller.actor
        self._entries.append(AuditEntry(actor, DOCUMENT_REPLACED, old, told))
        is_exempt = old in self._exemptions
        self._state.replace_document(old, document_id, attempt.outlet.carrier, is_exempt=is_exempt)
        own = self._state.line_of_number(attempt.msisdn_lookup)
        return own.id if own is not None and own.id in self._moved else None

    def ask_exception(
        self, attempt: Attempt, document_id: str, enrollment_id: str, case_id: str
    ) -> None:
        """Keeps what two people are to decide."""
        assert attempt.request.exception is not None, "only an exception is asked for"
        self._asked[attempt.outlet.code] += 1
        self._exceptions.append(
            ExceptionRecord(
                id=enrollment_id,
                carrier=attempt.outlet.carrier,
                outlet=attempt.outlet.code,
                document_id=document_id,
                cause=attempt.request.exception.value,
                line=AskedLine(
                    attempt.msisdn, attempt.request.document.name, attempt.document.expires_on
                ),
                asked_at=self._now,
                case_id=case_id,
            )
        )

    def find_confirmations(
        self,
        attempt: Attempt,
        evidence: Evidence,
        verdict: Verdict,
        enrollment_id: str,
        guardian_id: str | None,
    ) -> list[NewCase]:
        """Cases by which two people decide what the faces leave open: whether a document may be
        replaced, and whether somebody may come with a minor whom others answer for. Nothing is
        asked that is not in doubt: a new case would take back what was decided."""
        people = evidence.of(PeoplePart)
        own = self._state.document(attempt.document_lookup)
        if own is None:
            return []
        found: list[tuple[str, str, float | None]] = []
        replacement = people.replacement
        if (
            replacement is not None
            and replacement.document_id is not None
            and Reason.REPLACEMENT_ASKED in verdict.reasons
            and not replacement.is_waiting
        ):
            found.append((replacement.document_id, own.id, replacement.score))
        if people.guardian is not None and people.guardian.is_other and guardian_id is not None:
            found.append((own.id, guardian_id, people.guardian.holder_score))
        return [
            NewCase(
                kind=CaseKind.STOLEN_DOCUMENT,
                origin=CaseOrigin.DECISION,
                enrollment_id=enrollment_id,
                document_ids=(about, asking),
                suspect_ids=(asking,),
                score=score,
                group_key=name_confirmation(about, asking),
            )
            for about, asking, score in found
        ]

    def find_thefts(
        self, attempt: Attempt, evidence: Evidence, enrollment_id: str
    ) -> list[NewCase]:
        """Cases about documents that somebody else's face was shown with: as a guardian's, or as
        one to be replaced."""
        people = evidence.of(PeoplePart)
        least = evidence.thresholds.same_document
        found: list[tuple[str, float, str | None]] = []
        guardian = people.guardian
        if guardian is not None and attempt.guardian is not None:
            record = self._state.document(attempt.guardian.document_lookup)
            score = guardian.holder_score
            if record is not None and score is not None and not score >= least:
                found.append((record.id, score, None))
        claimed = people.replacement
        if (
            claimed is not None
            and claimed.document_id is not None
            and claimed.score is not None
            and not claimed.score >= least
        ):
            key = f"{CLAIMED}{claimed.document_id}"
            found.append((claimed.document_id, claimed.score, key))
        return [
            NewCase(
                kind=CaseKind.STOLEN_DOCUMENT,
                origin=CaseOrigin.DECISION,
                enrollment_id=enrollment_id,
                document_ids=(document_id,),
                score=score,
                group_key=key,
            )
            for document_id, score, key in found
        ]


def find_looked_up(attempt: Attempt, terms: PeopleRules) -> dict[DocumentRole, CheckedDocument]:
    """The documents of an attempt that an authority is asked about: a guardian's where one is
    needed, and what is replaced, of the same person."""
    own, guardian = attempt.document, attempt.guardian
    if not own.is_well_formed:
        return {}
    found = {DocumentRole.OWN: own}
    rules = terms.of(attempt.outlet.carrier)
    if guardian is not None and _is_minor(own.born_on, attempt.judged_on, rules):
        found[DocumentRole.GUARDIAN] = guardian.document
    if attempt.replaced is not None:
        born_on = attempt.replaced.born_on or own.born_on
        found[DocumentRole.REPLACED] = structs.replace(attempt.replaced, born_on=born_on)
    named = {(one.type, one.number) for one in found.values()}
    # Which names one document twice is refused.
    return found if len(named) == len(found) else {DocumentRole.OWN: own}


def ask_of(
    attempt: Attempt,
    live: bytes | None,
    guardian_live: bytes | None,
    liveness: LivenessTerms,
    terms: PeopleRules,
) -> dict[DocumentRole, AuthorityQuestion]:
    """The look-ups of an attempt, with the live faces' files; none where nothing is told of it:
    it is not well-formed, or will be rejected for what it shows."""
    request, carrier, guardian = attempt.request, attempt.outlet.carrier, attempt.guardian
    use, on = LivenessUse.ENROLLMENT, attempt.judged_on or utc_now().date()
    brings = None if request.shows_nobody else liveness.weigh(request.liveness, use, carrier)
    if attempt.is_same_photograph or brings is Decision.REJECTED:
        return {}
    questions = {}
    for role, document in find_looked_up(attempt, terms).items():
        shown, file = attempt, live
        if role is DocumentRole.GUARDIAN and guardian is not None:
            shown, file = guardian, guardian_live
        if document.is_well_formed and not shown.is_same_photograph:
            name = shown.request.document.name
            questions[role] = AuthorityQuestion(document, name, on, file, carrier)
    return questions


def place_guardians(attempts: Sequence[Attempt]) -> dict[int, int]:
    """The places of the attempts' guardians' probes: after those of all attempts."""
    places = [place for place, one in enumerate(attempts) if one.guardian is not None]
    return {place: len(attempts) + number for number, place in enumerate(places)}


def find_guardian_case(verdict: Verdict) -> CaseKind | None:
    """The case about a guardian who is known under another identity; None where there is none."""
    if Reason.GUARDIAN_DUPLICATE not in verdict.reasons:
        return None
    is_certain = any(
        one.reason is Reason.GUARDIAN_DUPLICATE and one.decision is Decision.REJECTED
        for one in verdict.findings
    )
    return CaseKind.DUPLICATE_IDENTITY if is_certain else CaseKind.POSSIBLE_DUPLICATE


def _tell(weighed: WeighedAuthority | None) -> dict[str, Any]:
    if weighed is None:
        return {}
    return {"authority_problem": weighed.problem, "authority_brings": weighed.brings}


def _asks(attempt: Attempt) -> bool:
    return attempt.request.exception is not None


def _reaches(score: float | None, threshold: float) -> bool:
    return score is not None and score >= threshold


def _is_minor(born_on: date | None, on: date | None, rules: PeopleRules) -> bool | None:
    """None where no age is asked for, or it is not known."""
    if not rules.age_of_majority or born_on is None or on is None:
        return None
    return find_age(born_on, on) < rules.age_of_majority
