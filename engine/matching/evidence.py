"""What a batch goes by: rows of the registry, evidence of each attempt, and bounds on it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cases.decided import is_more_alike
from engine.cases.opening import NewCase
from engine.matching.authority import WeighedAuthority
from engine.matching.calibration import Thresholds
from engine.matching.checks.second_model import SecondModel
from engine.matching.comparison import Comparisons, Resemblance
from engine.matching.limits import (
    SEARCHED,
    Caller,
    Levels,
    Limits,
    find_case,
    is_near,
    name_ended,
    name_holder,
    name_keys,
)
from engine.matching.liveness import Judgement, Weighed
from engine.matching.policy import Candidate, Evidence, FaceScores, Verdict
from engine.matching.requests import Attempt
from engine.registry.database import AuditEntry
from engine.registry.documents import DocumentRecord
from engine.registry.enrollments import Tally
from engine.registry.lines import LineRecord
from engine.registry.people import Standing
from engine.registry.store import Reader
from engine.registry.sweeps import EXCEPTIONS, JudgedPair
from indexes.gallery import Gallery
from schema.cases import CaseKind, CaseOrigin
from schema.documents import DocumentStatus
from schema.reasons import Decision, Reason, find_idle


@dataclass(frozen=True, slots=True, eq=False)
class FreshReference:
    """A reference that an earlier attempt of the same batch added."""

    place: int
    reference_id: int
    document_id: str
    vector: NDArray[np.float32] = field(repr=False)


class BatchState:
    """Registry rows that a batch needs, kept up to date as its attempts are decided."""

    def __init__(
        self,
        store: Reader,
        gallery: Gallery,
        attempts: Sequence[Attempt],
        hit_ids: Sequence[int],
        second: SecondModel | None = None,
        person_limit: int = 0,
    ) -> None:
        lookups = [lookup for it in attempts for lookup in it.lookups]
        self._store, self.person_limit = store, person_limit
        self._documents = store.documents(lookups)
        self._owners = store.documents_of(hit_ids)
        known_ids = {one.id for one in self._documents.values()}
        named = known_ids.union(self._owners.values())
        judged = store.judged_between(sorted(named)) if known_ids and len(named) > 1 else []
        self._judged = {(one.left_document, one.right_document): one for one in judged}
        attempted = {one.id for one in self._documents.values() if not one.reference_ids}
        # Once for each case: many pairs may have been judged in one.
        cases = {
            one.case_id
            for one in judged
            if not attempted.isdisjoint((one.left_document, one.right_document))
        }
        self._shown = {
            case: store.attempt_templates(store.cases.attempts_in(case)) for case in sorted(cases)
        }
        in_use = store.lines_in_use([attempt.msisdn_lookup for attempt in attempts])
        self._numbers: dict[bytes, LineRecord | None] = {**in_use}
        self.standing = store.people.standing(sorted(named)) if named else Standing()
        """Of the documents that the attempts name, and of those that they may have found."""
        known = [record.id for record in self._documents.values()]
        carriers = {attempt.outlet.carrier for attempt in attempts}
        self._open_lines = {
            (document_id, carrier): count
            for carrier in carriers
            for document_id, count in store.open_line_counts(known, carrier).items()
        }
        # Of a person who has several documents, since people decided that they are one.
        self._persons = store.people.same_person(known) if person_limit else {}
        every = sorted({key for some in self._persons.values() for key in some})
        self._totals = store.count_lines_in_use(every) if every else {}
        self.changed_documents: set[str] = set()
        """Documents that this batch has opened lines under."""
        self._moved_exemptions: set[str] = set()
        self.fresh: list[FreshReference] = []
        held = [key for record in self._documents.values() for key in record.reference_ids]
        self.second = {} if second is None else second.read_templates(store, [*held, *hit_ids])
        """Templates of a second model, of the references that have one."""
        # One call for all: on shards each is a way to other nodes and back.
        vectors = gallery.vectors(np.array(held, dtype=np.int64))
        self._vectors = dict(zip(held, vectors, strict=True))

    def document(self, lookup: bytes | None) -> DocumentRecord | None:
        """The document as the registry and this batch have it now."""
        return None if lookup is None else self._documents.get(lookup)

    def owner(self, reference_id: int) -> str | None:
        """The document that a reference belongs to; `None` once it is erased."""
        return self._owners.get(reference_id)

    def owners(self) -> Collection[str]:
        """The documents of all references that the batch may have found."""
        return self._owners.values()

    def known_documents(self) -> list[str]:
        """The documents that the attempts name, and those of all references that they may have
        found."""
        return sorted({one.id for one in self._documents.values()}.union(self.owners()))

    def is_number_in_use(self, msisdn_lookup: bytes) -> bool:
        return msisdn_lookup in self._numbers

    def line_of_number(self, msisdn_lookup: bytes) -> LineRecord | None:
        """The line in use that a number is on; None for one of this batch too."""
        return self._numbers.get(msisdn_lookup)

    def open_lines(self, document_id: str, carrier: str) -> int:
        return self._open_lines.get((document_id, carrier), 0)

    def person_lines(self, document_id: str) -> int:
        """Lines in use over all carriers of whoever has this document, under all documents."""
        own = self._persons.get(document_id, frozenset({document_id}))
        return sum(self._totals.get(key, 0) for key in own)

    def is_exempt(self, document_id: str) -> bool:
        is_moved = document_id in self._moved_exemptions
        return is_moved or document_id in self._store.exemptions([document_id])

    def judged(self, own: DocumentRecord, other: str) -> JudgedPair | None:
        """What people judged of this document with another that the batch may have found."""
        return self._judged.get((min(own.id, other), max(own.id, other)))

    def shown_when_decided(
        self, own: DocumentRecord, pair: JudgedPair
    ) -> NDArray[np.float32] | tuple[()]:
        """What people saw under a document without a reference when they decided a pair, float32[n,
        d]: every attempt that they saw; empty where they saw none, or it has left."""
        return self._shown.get(pair.case_id, {}).get(own.id, ())

    def vector_of(self, reference_id: int) -> NDArray[np.float32]:
        """The vector of a reference of a document that the attempts name: float32[d]."""
        vector: NDArray[np.float32] = self._vectors[reference_id]
        return vector

    def references_of(self, document: DocumentRecord) -> NDArray[np.float32]:
        """The vectors of a document's references: float32[n, d]."""
        return np.stack([self._vectors[key] for key in document.reference_ids])

    def add_document(self, lookup: bytes, record: DocumentRecord) -> None:
        self._documents[lookup] = record

    def add_reference(self, lookup: bytes, reference: FreshReference) -> None:
        record = self._documents[lookup]
        ids = (*record.reference_ids, reference.reference_id)
        self._documents[lookup] = replace(record, reference_ids=ids)
        self.fresh.append(reference)
        self._vectors[reference.reference_id] = reference.vector

    def replace_document(
        self, old: str, document_id: str, carrier: str, *, is_exempt: bool
    ) -> None:
        """A document has taken the place of another, with all its lines, and with its exemption."""
        if is_exempt:
            self._moved_exemptions.add(document_id)
        replaced = {**self.standing.replaced, old: document_id}
        self.standing = replace(self.standing, replaced=replaced)
        moved = self._open_lines.pop((old, carrier), 0)
        key = (document_id, carrier)
        self._open_lines[key] = self._open_lines.get(key, 0) + moved
        if self.person_limit:
            self._totals[document_id] = self._totals.get(document_id, 0) + self._totals.pop(old, 0)
        self.changed_documents |= {old, document_id}

    def add_line(self, msisdn_lookup: bytes, document_id: str, carrier: str) -> None:
        self._numbers[msisdn_lookup] = None
        self.changed_documents.add(document_id)
        key = (document_id, carrier)
        self._open_lines[key] = self._open_lines.get(key, 0) + 1
        if self.person_limit:
            self._totals[document_id] = self._totals.get(document_id, 0) + 1


MAX_CANDIDATES = 10
"""Most candidates in an answer and its evidence, at most one for each document."""


def gather_evidence(
    place: int,
    attempt: Attempt,
    comparisons: Comparisons,
    state: BatchState,
    thresholds: Thresholds,
    liveness: Weighed | None = None,
    authority: WeighedAuthority | None = None,
    judgement: Judgement | None = None,
) -> Evidence:
    """The evidence on attempt `place`, all before it in the batch included.

    A photograph that is not fit to be matched is not matched: with image problems, or a number
    that identifies nobody, there is no 1:1 and no duplicate search, and the evidence says so.
    Its `verify` is the one of a live face of so many frames.
    """
    record = state.document(attempt.document_lookup)
    held = record if record is not None and record.status is not DocumentStatus.ATTEMPTED else None
    has_probe = comparisons.has_probe(place)
    holder = resemble_holder(place, held, comparisons, state) if has_probe else None
    own_id = record.id if record else None
    found = find_candidates(place, own_id, comparisons, state) if has_probe else ()
    decided = find_decided(place, record, found, comparisons, state)
    others = {
        one.document_id
        for one in found
        if (pair := decided.get(one.document_id)) is not None and pair.outcome in EXCEPTIONS
    }
    verify = thresholds.verify_for(attempt.request.live.length)
    open_lines = state.open_lines(held.id, attempt.outlet.carrier) if held else 0
    limit, lines = state.person_limit, state.person_lines(record.id) if record else 0
    is_full = open_lines >= attempt.outlet.line_limit or 0 < limit <= lines
    return Evidence(
        thresholds=replace(thresholds, verify=verify),
        document_findings=_document_findings(attempt, record),
        judged_on=None if attempt.judged_on is None else attempt.judged_on.isoformat(),
        time_zone=attempt.time_zone,
        name_differs=held is not None and held.name_lookup not in (None, attempt.name_lookup),
        live_problems=find_problems(
            attempt.request.live.problems, attempt.request.live.vector is None
        ),
        portrait_problems=find_problems(
            attempt.request.portrait.problems, attempt.request.portrait.vector is None
        ),
        is_same_photograph=attempt.is_same_photograph,
        live_portrait_score=comparisons.pair_score(place),
        holder_score=None if holder is None else holder.least,
        holder_each=None if holder is None else holder.each,
        candidates=tuple(one for one in found if one.document_id not in others)[:MAX_CANDIDATES],
        excepted=tuple(one for one in found if one.document_id in others)[:MAX_CANDIDATES],
        searched=comparisons.searched if has_probe else None,
        is_number_in_use=state.is_number_in_use(attempt.msisdn_lookup),
        open_lines=open_lines,
        line_limit=attempt.outlet.line_limit,
        person_lines=lines,
        person_limit=limit,
        is_exempt=is_full and record is not None and state.is_exempt(record.id),
        is_watchlisted=comparisons.watch.has_document(attempt.document_lookup)
        or (has_probe and comparisons.is_watched(place)),
        liveness_problem=None if liveness is None else liveness.problem,
        liveness_brings=None if liveness is None else liveness.brings,
        judge_problem=None if judgement is None or judgement.brings is None else judgement.problem,
        judge_brings=None if judgement is None else judgement.brings,
        authority_problem=None if authority is None else authority.problem,
        authority_brings=None if authority is None else authority.brings,
    )


def _document_findings(attempt: Attempt, record: DocumentRecord | None) -> tuple[Reason, ...]:
    findings = attempt.document.findings
    if record is None:
        return findings
    if record.status is DocumentStatus.BLOCKED:
        findings = (*findings, Reason.DOCUMENT_BLOCKED)
    if record.awaits_erasure:
        # What is acknowledged happens: nothing comes to the document that would go with it.
        findings = (*findings, Reason.ERASURE_PENDING)
    return tuple(dict.fromkeys(findings))


def find_problems(problems: tuple[Reason, ...], is_faceless: bool) -> tuple[Reason, ...]:
    return (Reason.NO_FACE,) if is_faceless and not problems else problems


def resemble_holder(
    place: int, held: DocumentRecord | None, comparisons: Comparisons, state: BatchState
) -> Resemblance | None:
    """How alike attempt `place` is to a document's holder; None for one without a reference."""
    if held is None or not held.reference_ids:
        return None
    return comparisons.resemblance(place, state.references_of(held))


def find_candidates(
    place: int, own_id: str | None, comparisons: Comparisons, state: BatchState
) -> tuple[Candidate, ...]:
    """The best of each other document, best first."""
    found = [
        Candidate(reference_id, owner, alike.most, alike.each)
        for reference_id, alike in comparisons.hits(place)
        if (owner := state.owner(reference_id)) is not None
    ]
    if state.fresh:
        stored = np.stack([earlier.vector for earlier in state.fresh])
        for row, alike in comparisons.look_alikes(place, stored):
            earlier = state.fresh[row]
            named = (earlier.reference_id, earlier.document_id)
            found.append(Candidate(*named, alike.most, alike.each))
    found.sort(key=lambda candidate: (-candidate.score, candidate.reference_id))
    best: dict[str, Candidate] = {}
    for candidate in found:
        if candidate.document_id != own_id:
            best.setdefault(candidate.document_id, candidate)
    return tuple(best.values())


def find_decided(
    place: int,
    own: DocumentRecord | None,
    candidates: Sequence[Candidate],
    comparisons: Comparisons,
    state: BatchState,
) -> dict[str, JudgedPair]:
    """What people have decided of whom attempt `place` shows and these candidates, by the
    candidate's document.

    It must be the face of the document's holder, or without a reference the one that people saw
    under it. It says nothing of whoever else presents the document, who is more like themselves,
    whatever the model, and nothing where the face is more alike than it was then.
    """
    if own is None or not comparisons.has_probe(place):
        return {}
    found = {}
    for one in candidates:
        pair = state.judged(own, one.document_id)
        if pair is None or is_more_alike(one.score, pair, own.id):
            continue
        known = resemble_holder(place, own, comparisons, state)
        for row in () if own.reference_ids else state.shown_when_decided(own, pair):
            alike = comparisons.resemblance(place, row[None])
            # Of all that they saw the least like, so that none brings another's face in.
            if alike is not None and (known is None or alike.least < known.least):
                known = alike
        if known is None or not known.least >= comparisons.thresholds.same_document:
            continue
        if pair.outcome not in EXCEPTIONS or _is_more_like(known.each, one.each):
            found[one.document_id] = pair
    return found


def _is_more_like(own: FaceScores, other: FaceScores | None) -> bool:
    """Whether every face shown is more like one stored face than the other."""
    assert other is not None, "found by this version"
    pairs = ((own.live, other.live), (own.portrait, other.portrait), (own.mean, other.mean))
    return all(second is None or (first is not None and first > second) for first, second in pairs)


def describe_scores(evidence: Evidence) -> dict[str, float | None]:
    """The score of each comparison; None for one that was not made."""
    return {
        "live_portrait": evidence.live_portrait_score,
        "holder": evidence.holder_score,
        "best_candidate": max((item.score for item in evidence.candidates), default=None),
    }


def describe_search(
    evidence: Evidence, comparisons: Comparisons, false_candidates: Mapping[str, Any]
) -> dict[str, Any]:
    """What was searched and found; says so where no search ran."""
    if evidence.searched is None:
        return {"ran": False}
    return {
        "ran": True,
        "searched": evidence.searched,
        "gallery_sequence": comparisons.sequence,
        "candidates": [
            {"reference_id": one.reference_id, "document_id": one.document_id, "score": one.score}
            for one in evidence.candidates
        ],
        "expected_false_candidates": dict(false_candidates),
    }


def describe_case(
    kind: CaseKind,
    verdict: Verdict,
    evidence: Evidence,
    enrollment_id: str,
    document_id: str | None,
) -> NewCase:
    """One of the verdict's cases, about the document presented and those of the candidates.

    A stolen document's case is about that document alone. Its holder has another face than the
    person who presented it, and is a suspect in none of the cases.
    """
    is_theft = kind in (CaseKind.STOLEN_DOCUMENT, CaseKind.EXCEPTION)
    others = () if is_theft else tuple(item.document_id for item in evidence.candidates)
    own = () if document_id is None else (document_id,)
    best = max((item.score for item in evidence.candidates), default=None)
    is_suspect = CaseKind.STOLEN_DOCUMENT not in verdict.cases and kind is not CaseKind.EXCEPTION
    return NewCase(
        kind=kind,
        origin=CaseOrigin.DECISION,
        enrollment_id=enrollment_id,
        document_ids=own + others,
        suspect_ids=(own if is_suspect else ()) + others,
        score=evidence.holder_score if is_theft else best,
    )


def find_failed(attempt: Attempt, verdict: Verdict) -> list[bytes]:
    """The look-ups of documents whose holder's face was not shown with them beyond doubt."""
    rows = (
        (Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, attempt.document_lookup),
        (
            Reason.GUARDIAN_MISMATCH,
            None if attempt.guardian is None else attempt.guardian.document_lookup,
        ),
        (Reason.REPLACEMENT_REFUSED, attempt.replaced_lookup),
        # Nor with these is it told again and again whether a face is like the holder's.
        (Reason.REPLACEMENT_ASKED, attempt.replaced_lookup),
        (Reason.GUARDIAN_CHANGED, attempt.document_lookup),
    )
    return [lookup for reason, lookup in rows if reason in verdict.reasons and lookup is not None]


SEARCHES_ENDED = "searches.ended"


class BatchBounds:
    """The bounds on what the attempts of a batch find out, each counted after those before it."""

    def __init__(
        self,
        limits: Limits,
        store: Reader,
        attempts: Sequence[Attempt],
        state: BatchState,
        now: datetime,
    ) -> None:
        self._limits = limits
        self._store = store
        self._state = state
        asked = [(one, one.request.caller) for one in attempts if one.request.caller is not None]
        names = [name for _, caller in asked for name in (*name_keys(caller), name_ended(caller))]
        for one, caller in asked:
            documents = [*map(self._find_counted, one.lookups), *state.owners()]
            names += [name_holder(key, caller) for key in documents]
        replaced = [state.document(one.replaced_lookup) for one in attempts if one.replaced_lookup]
        self._of_replaced = {one.id: store.tally_names(one.id) for one in replaced if one}
        names += [name for some in self._of_replaced.values() for name in some]
        self._levels = Levels(limits, store, names, now)
        self._reported: set[str] = set()

    def _find_counted(self, lookup: bytes) -> str:
        # One that is known from attempts alone is held by nobody: a count of its own would tell
        # that an attempt has become a case.
        record = self._state.document(lookup)
        is_held = record is not None and record.status is not DocumentStatus.ATTEMPTED
        return record.id if record is not None and is_held else lookup.hex()

    def require(self, attempt: Attempt) -> None:
        """`TooManyFailures` for one of a key, or about a document, of which no more is taken."""
        caller = attempt.request.caller
        if caller is not None:
            held = [name_holder(self._find_counted(one), caller) for one in attempt.lookups]
            self._levels.require(caller, [*name_keys(caller), name_ended(caller), *held])

    def require_told(self, attempt: Attempt, evidence: Evidence, verdict: Verdict) -> None:
        """The same for one that would tell of a holder of whom no more may be told."""
        caller = attempt.request.caller
        if caller is not None:
            for one, amount in _weigh_told(evidence, verdict).items():
                self._levels.require_room(caller, name_holder(one, caller), amount)

    def end(
        self, attempt: Attempt, evidence: Evidence, verdict: Verdict
    ) -> tuple[list[Tally], list[NewCase], *tuple[AuditEntry, ...]]:
        """What it counts for that an attempt has met a full holder: it is its key's last, but for a
        double beyond doubt, whose refusal says nothing new. The entry says so where a case is open
        already: nothing is kept without one."""
        caller = attempt.request.caller
        assert caller is not None, "only what has a caller is bounded"
        if SEARCHED not in _weigh_told(evidence, verdict).values():
            return [], []
        name = name_ended(caller)
        entry = AuditEntry(caller.actor, SEARCHES_ENDED, attempt.outlet.code)
        return self._levels.add(caller, name), self._report(caller, [name]), entry

    def count(
        self, attempt: Attempt, evidence: Evidence, verdict: Verdict
    ) -> tuple[list[Tally], list[NewCase]]:
        """What a decision counts for, and the cases about counts that are full by it.

        A rejection by what was compared is its key's failure; an approval takes one off.
        """
        tallies = self._follow(attempt, verdict)
        caller = attempt.request.caller
        if caller is None:
            return tallies, []
        told = _weigh_told(evidence, verdict)
        told |= {self._find_counted(one): 1 for one in find_failed(attempt, verdict)}
        score, own = evidence.holder_score, attempt.document_lookup
        if (
            own is not None
            and score is not None
            and is_near(score, evidence.thresholds.same_document)
        ):
            told.setdefault(self._find_counted(own), 1)
        about: dict[str, float] = {name_holder(one, caller): told[one] for one in told}
        # Without a result that holds nothing was compared: that finds nothing out.
        was_compared = evidence.liveness_brings is not Decision.REJECTED
        if verdict.decision is Decision.REJECTED and was_compared:
            about |= dict.fromkeys(name_keys(caller), 1)
        elif verdict.decision is Decision.APPROVED:
            about |= dict.fromkeys(name_keys(caller), -1)
        for name, amount in about.items():
            tallies += self._levels.add(caller, name, amount)
        return tallies, self._report(caller, about)

    def _report(self, caller: Caller, names: Iterable[str]) -> list[NewCase]:
        full = [one for one in names if self._levels.is_full(caller, one)]
        fresh = [one for one in full if one not in self._reported]
        self._reported.update(fresh)
        cases = [find_case(self._limits, self._store, caller, name) for name in fresh]
        return [case for case in cases if case is not None]

    def _follow(self, attempt: Attempt, verdict: Verdict) -> list[Tally]:
        """What counted about a document that was replaced counts about its successor, which has
        its reference: a new number is no new try at the same face."""
        old = self._state.document(attempt.replaced_lookup)
        own = self._state.document(attempt.document_lookup)
        if verdict.decision is not Decision.APPROVED or old is None or own is None:
            return []
        nobody = Caller("sosie")
        return [
            tally
            for name in self._of_replaced[old.id]
            if (level := self._levels.level(name, nobody))
            for tally in self._levels.add(nobody, name.replace(old.id, own.id), level)
        ]


def _weigh_told(evidence: Evidence, verdict: Verdict) -> dict[str, int]:
    """The holders of whom a decision tells, and what that counts for: of one who is found beyond
    doubt it says nothing new, but a face that is known could try out documents for ever."""
    idle = find_idle([(one.reason, one.decision) for one in verdict.findings], verdict.decision)
    if not any(one.row.is_searched for one in set(verdict.reasons) - idle):
        return {}
    guardian = None if evidence.people is None else evidence.people.guardian
    told = (*evidence.candidates, *(() if guardian is None else guardian.candidates))
    certain = evidence.thresholds.certain
    near = {one.document_id for one in told if one.score < certain or is_near(one.score, certain)}
    return {one.document_id: SEARCHED if one.document_id in near else 1 for one in told}
