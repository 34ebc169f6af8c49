"""What a batch goes by: rows of the registry, evidence of each attempt, and bounds on it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from engine.cases.decided import is_more_alike
from engine.cases.opening import NewCase
from engine.matching.checks.authority import AuthorityPart, WeighedAuthority
from engine.matching.checks.document import DocumentPart
from engine.matching.checks.liveness import Judgement, LivenessPart, Weighed
from engine.matching.checks.picture import PicturePart, find_problems
from engine.matching.comparison import Comparisons, Resemblance
from engine.matching.policy import Candidate, Evidence, EvidencePart, FaceScores, Finding, Verdict
from engine.matching.requests import Attempt
from engine.registry.documents import DocumentRecord
from engine.registry.lines import LineRecord
from engine.registry.people import Standing
from engine.registry.store import Reader
from engine.registry.sweeps import EXCEPTIONS, JudgedPair
from indexes.gallery import Gallery
from schema.cases import CaseKind, CaseOrigin
from schema.documents import DocumentStatus
from schema.reasons import Decision, Reason


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
        self.compared = [*held, *hit_ids]
        """All references that an attempt may be compared with."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FacePart(EvidencePart):
    """Of the faces shown the one that is least like the holder counts: `holder_score` is the lowest
    of `holder_each`, on the scale of fused comparisons, so that `thresholds.same_document` holds
    for it (`on_fused_scale` of `Thresholds`). Decisions without `holder_each` have the mean's
    alone. `candidates` are references under other documents with a score at or above
    `thresholds.review`, best first; `searched` is how many references were compared, `None` when
    the duplicate search did not run."""

    live_portrait_score: float | None = None
    holder_score: float | None = None
    holder_each: FaceScores | None = None
    candidates: tuple[Candidate, ...] = ()
    searched: int | None = None
    is_watchlisted: bool = False
    excepted: tuple[Candidate, ...] = ()
    """Look-alikes whom people have judged to be other people than the document's holder, whom the
    face is more like, and no more alike than when that was judged: they bring no finding."""

    @property
    def best(self) -> float | None:
        """The score of the candidate that is most alike; None for none."""
        return max((one.score for one in self.candidates), default=None)

    def find(self, evidence: Evidence, version: str) -> Iterator[Finding]:
        del version
        thresholds, best = evidence.thresholds, self.best
        if is_below(self.live_portrait_score, thresholds.verify):
            yield Finding(Reason.FACE_MISMATCH, Decision.REJECTED)
        if is_below(self.holder_score, thresholds.same_document):
            yield Finding(Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, Decision.REJECTED)
        if best is not None and best >= thresholds.certain:
            yield Finding(Reason.DUPLICATE_IDENTITY, Decision.REJECTED)
        elif best is not None and best >= thresholds.review:
            yield Finding(Reason.POSSIBLE_DUPLICATE, Decision.REVIEW)
        if self.is_watchlisted:
            yield Finding(Reason.WATCHLISTED, Decision.REVIEW)

    def is_compared(self, decision: Decision) -> bool:
        del decision
        return self.searched is not None and self.live_portrait_score is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePart(EvidencePart):
    """Lines in use: `open_lines` with the carrier, `person_lines` over all carriers, under every
    document of the person. A `person_limit` of 0 is none, as in decisions from before there was
    one."""

    is_number_in_use: bool = False
    open_lines: int = 0
    line_limit: int = 5
    person_lines: int = 0
    person_limit: int = 0
    is_exempt: bool = False
    """Whether no limit holds for the document; asked only where one is reached."""

    @property
    def has_all_lines(self) -> bool:
        """Whether the document has all with the carrier that one may have, or the person all."""
        return self.open_lines >= self.line_limit or 0 < self.person_limit <= self.person_lines

    def find(self, evidence: Evidence, version: str) -> Iterator[Finding]:
        del evidence, version
        if self.is_number_in_use:
            yield Finding(Reason.LINE_IN_USE, Decision.REJECTED)
        if self.open_lines >= self.line_limit and not self.is_exempt:
            yield Finding(Reason.LINE_LIMIT_REACHED, Decision.REJECTED)
        if 0 < self.person_limit <= self.person_lines and not self.is_exempt:
            yield Finding(Reason.PERSON_LIMIT_REACHED, Decision.REJECTED)


MAX_CANDIDATES = 10
"""Most candidates in an answer and its evidence, at most one for each document."""


def gather_evidence(
    place: int,
    attempt: Attempt,
    comparisons: Comparisons,
    state: BatchState,
    blank: Evidence,
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
    verify = blank.thresholds.verify_for(attempt.request.live.length)
    lines = LinePart(
        is_number_in_use=state.is_number_in_use(attempt.msisdn_lookup),
        open_lines=state.open_lines(held.id, attempt.outlet.carrier) if held else 0,
        line_limit=attempt.outlet.line_limit,
        person_lines=state.person_lines(record.id) if record else 0,
        person_limit=state.person_limit,
    )
    if lines.has_all_lines and record is not None:
        lines = replace(lines, is_exempt=state.is_exempt(record.id))
    thresholds = structs.replace(blank.thresholds, verify=verify)
    evidence = Evidence(thresholds, blank.parts).having(
        DocumentPart(
            document_findings=_document_findings(attempt, record),
            judged_on=None if attempt.judged_on is None else attempt.judged_on.isoformat(),
            time_zone=attempt.time_zone,
            name_differs=held is not None and held.name_lookup not in (None, attempt.name_lookup),
        ),
        PicturePart(
            live_problems=find_problems(attempt.request.live),
            portrait_problems=find_problems(attempt.request.portrait),
            is_same_photograph=attempt.is_same_photograph,
        ),
        FacePart(
            live_portrait_score=comparisons.pair_score(place),
            holder_score=None if holder is None else holder.least,
            holder_each=None if holder is None else holder.each,
            candidates=tuple(one for one in found if one.document_id not in others)[
                :MAX_CANDIDATES
            ],
            excepted=tuple(one for one in found if one.document_id in others)[:MAX_CANDIDATES],
            searched=comparisons.searched if has_probe else None,
            is_watchlisted=comparisons.watch.has_document(attempt.document_lookup)
            or (has_probe and comparisons.is_watched(place)),
        ),
        lines,
    )
    if liveness is not None or judgement is not None:
        is_judged = judgement is not None and judgement.brings is not None
        evidence = evidence.having(
            LivenessPart(
                liveness_problem=None if liveness is None else liveness.problem,
                liveness_brings=None if liveness is None else liveness.brings,
                judge_problem=judgement.problem if judgement is not None and is_judged else None,
                judge_brings=None if judgement is None else judgement.brings,
            )
        )
    if authority is not None:
        evidence = evidence.having(
            AuthorityPart(authority_problem=authority.problem, authority_brings=authority.brings)
        )
    return evidence


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
    """True where every face shown is more like one stored face than the other."""
    assert other is not None, "found by this version"
    pairs = ((own.live, other.live), (own.portrait, other.portrait), (own.mean, other.mean))
    return all(second is None or (first is not None and first > second) for first, second in pairs)


def describe_scores(face: FacePart) -> dict[str, float | None]:
    """The score of each comparison; None for one that was not made."""
    return {
        "live_portrait": face.live_portrait_score,
        "holder": face.holder_score,
        "best_candidate": face.best,
    }


def describe_search(
    face: FacePart, comparisons: Comparisons, false_candidates: Mapping[str, Any]
) -> dict[str, Any]:
    """What was searched and found; says so where no search ran."""
    if face.searched is None:
        return {"ran": False}
    return {
        "ran": True,
        "searched": face.searched,
        "gallery_sequence": comparisons.sequence,
        "candidates": [
            {"reference_id": one.reference_id, "document_id": one.document_id, "score": one.score}
            for one in face.candidates
        ],
        "expected_false_candidates": dict(false_candidates),
    }


def describe_case(
    kind: CaseKind, verdict: Verdict, face: FacePart, enrollment_id: str, document_id: str | None
) -> NewCase:
    """One of the verdict's cases, about the document presented and those of the candidates.

    A stolen document's case is about that document alone. Its holder has another face than the
    person who presented it, and is a suspect in none of the cases.
    """
    is_theft = kind in (CaseKind.STOLEN_DOCUMENT, CaseKind.EXCEPTION)
    others = () if is_theft else tuple(item.document_id for item in face.candidates)
    own = () if document_id is None else (document_id,)
    is_suspect = CaseKind.STOLEN_DOCUMENT not in verdict.cases and kind is not CaseKind.EXCEPTION
    return NewCase(
        kind=kind,
        origin=CaseOrigin.DECISION,
        enrollment_id=enrollment_id,
        document_ids=own + others,
        suspect_ids=(own if is_suspect else ()) + others,
        score=face.holder_score if is_theft else face.best,
        group_key=None if is_theft else verdict.name_untold(verdict.asking, enrollment_id),
    )


def is_below(score: float | None, threshold: float) -> bool:
    """True where a comparison was made and fell short."""
    # Not `<`: NaN is below every threshold.
    return score is not None and not score >= threshold
