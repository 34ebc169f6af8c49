"""The faces that are shown: against each other, the document's holder, and everybody else."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from datetime import datetime
from itertools import islice

from engine.cases.decided import is_more_alike
from engine.matching.comparison import Comparisons, Resemblance
from engine.matching.judge import AttemptBatch, DecidedAttempt, DecisionCheck
from engine.matching.policy import Candidate, Evidence, EvidencePart, FaceScores
from engine.matching.requests import Attempt
from engine.registry.documents import DocumentRecord
from engine.registry.references import AttemptTemplate
from engine.registry.sweeps import EXCEPTIONS, JudgedPair
from schema import frozen
from schema.cases import CaseKind, Outcome, name_confirmation
from schema.decisions import (
    Comparison,
    Finding,
    Folio,
    FoundReference,
    FoundReferences,
    Interval,
    OpenedCase,
    Scores,
)
from schema.reasons import Decision, Photograph, Reason, shows_another


@frozen(kw_only=True)
class FacePart(EvidencePart):
    """Of the faces shown the one that is least like the holder counts: `holder_score` is the lowest
    of `holder_each`, on the scale of fused comparisons, so that `thresholds.same_document` holds
    for it (`on_fused_scale` of `Thresholds`). Decisions without `holder_each` have the mean's
    alone. `candidates` are references under other documents with a score at or above
    `thresholds.review`, best first; `searched` is how many references were compared, `None` when
    the duplicate search did not run: `is_search_refused` where the carrier keeps no face."""

    live_portrait_score: float | None = None
    beside: tuple[Photograph, ...] = ()
    """The photographs that show another face: a mismatch may be of that one."""
    holder_score: float | None = None
    holder_each: FaceScores | None = None
    candidates: tuple[Candidate, ...] = ()
    searched: int | None = None
    is_search_refused: bool = False
    is_watchlisted: bool = False
    watched: tuple[Candidate, ...] = ()
    """Entries of the watch-list with this face, under the names that they are counted by."""
    excepted: tuple[Candidate, ...] = ()
    """Look-alikes whom people have judged to be other people than the document's holder, whom the
    face is more like, and no more alike than when that was judged: they bring no finding."""

    @property
    def best(self) -> float | None:
        """The score of the candidate that is most alike; None for none."""
        return max((one.score for one in self.candidates), default=None)

    def find(self, evidence: Evidence, _version: str) -> Iterator[Finding]:
        thresholds, best = evidence.thresholds, self.best
        if is_below(self.live_portrait_score, thresholds.verify):
            for photograph in self.beside:
                yield Finding(Reason.SEVERAL_FACES, Decision.REVIEW, photograph)
            yield Finding.of(Reason.FACE_MISMATCH)
        if is_below(self.holder_score, thresholds.same_document):
            yield Finding.of(Reason.DOCUMENT_HELD_BY_ANOTHER_FACE)
        if best is not None and best >= thresholds.certain:
            yield Finding.of(Reason.DUPLICATE_IDENTITY)
        elif best is not None and best >= thresholds.review:
            yield Finding.of(Reason.POSSIBLE_DUPLICATE)
        if self.is_watchlisted:
            yield Finding.of(Reason.WATCHLISTED)
        if self.is_search_refused:
            yield Finding.of(Reason.NOT_SEARCHED)

    def is_compared(self, _decision: Decision) -> bool:
        is_searched = self.searched is not None or self.is_search_refused
        return is_searched and self.live_portrait_score is not None


def find_watched(place: int, comparisons: Comparisons) -> tuple[Candidate, ...]:
    """The entries of the watch-list that an attempt's face is alike."""
    return tuple(
        Candidate(key, name_watched(key), alike.most, alike.each)
        for key, alike in comparisons.watched.get(place, ())
    )


def name_watched(entry_id: int) -> str:
    """What stands for an entry of the watch-list where a holder's document would."""
    return f"watched-{entry_id}"


MAX_CANDIDATES = 10
"""Most candidates in an answer and its evidence, at most one for each document."""
_OF_LOOK_ALIKES = (CaseKind.DUPLICATE_IDENTITY, CaseKind.POSSIBLE_DUPLICATE)
"""Cases that ask about candidates, and so not again about those that people have decided."""


class FaceCheck(DecisionCheck):
    """Weighs the faces of a batch, adds references, and opens the cases about holders and
    look-alikes."""

    part = FacePart

    def __init__(self, batch: AttemptBatch, terms: tuple[()]) -> None:
        super().__init__(batch, terms)
        registry, known = batch.registry, batch.documents
        judged = registry.judged_between(batch.named) if known and len(batch.named) > 1 else []
        self._judged = {(one.left_document, one.right_document): one for one in judged}
        attempted = {one.id for one in known if not one.reference_ids}
        # Once for each case: many pairs may have been judged in one.
        cases = {
            one.case_id
            for one in judged
            if not attempted.isdisjoint((one.left_document, one.right_document))
        }
        self._shown = {
            case: registry.attempt_templates(registry.cases.attempts_in(case))
            for case in sorted(cases)
        }
        """By case and document without a reference what people saw when they decided, float32[n,
        d]: every attempt that they saw; nothing where they saw none, or it has left."""
        self._expected: dict[tuple[Comparison, ...], Interval] = {}
        """False candidates of a search for such faces."""

    def weigh(self, place: int, attempt: Attempt, evidence: Evidence) -> Sequence[EvidencePart]:
        """All before the attempt in the batch included.

        A photograph that is not fit to be matched is not matched: with image problems, or a number
        that identifies nobody, there is no 1:1 and no duplicate search, and the evidence says so.
        """
        del evidence
        batch, comparisons = self._batch, self._batch.comparisons
        record, held = (one(attempt.document_lookup) for one in (batch.document, batch.held))
        holder = self.resemble(place, held)
        found, decided = self.search(place, record)
        others = {key for key, pair in decided.items() if pair.outcome in EXCEPTIONS}
        watched = find_watched(place, comparisons)
        part = FacePart(
            live_portrait_score=comparisons.pair_score(place),
            beside=tuple(
                name
                for name, shown in zip(
                    Photograph, (attempt.request.live, attempt.request.portrait), strict=True
                )
                if shows_another(shown.quality)
            ),
            holder_score=None if holder is None else holder.least,
            holder_each=None if holder is None else holder.each,
            candidates=choose(found, others, is_among=False),
            excepted=choose(found, others, is_among=True),
            searched=comparisons.searched if place in comparisons.hits else None,
            is_search_refused=place in comparisons.unsearched,
            is_watchlisted=comparisons.watch.has_document(attempt.document_lookup) or bool(watched),
            watched=watched,
        )
        return [part]

    def describe(self, made: DecidedAttempt) -> None:
        if not made.is_kept:
            taken, decided = made.attempt.request.captured_at, made.decided
            at = None if taken is None else taken.isoformat()
            made.recorded.is_face_kept = False
            decided.folio = Folio(decided.enrollment_id, at, decided.decided_at)

    def write(self, made: DecidedAttempt) -> None:
        batch, place, attempt = self._batch, made.place, made.attempt
        if made.verdict.decision is Decision.APPROVED and batch.comparisons.has_probe(place):
            self._add_reference(made)
        face, known = made.evidence.of(FacePart), {}
        if face.candidates:
            own = batch.document(attempt.document_lookup)
            known = self._find_decided(place, own, face.candidates)
        asked = replace(face, candidates=choose(face.candidates, set(known), is_among=False))
        for kind in made.verdict.cases:
            case = OpenedCase(next(iter(known.values())).case_id, kind.value) if known else None
            if case is None or asked.candidates or kind not in _OF_LOOK_ALIKES:
                case = self._open_case(kind, made, asked)
            made.decided.cases.append(case)
        is_of_one = Reason.FACE_MISMATCH not in made.verdict.reasons
        if (asked.candidates and is_of_one) or CaseKind.EXCEPTION in made.verdict.cases:
            self.keep_shown(made, place, attempt)
        made.decided.scores = Scores(face.live_portrait_score, face.holder_score, face.best)
        made.decided.duplicate_search = self._describe_search(place, face)

    def keep_shown(self, made: DecidedAttempt, place: int, attempt: Attempt) -> None:
        """Keeps the one face of an attempt that people are asked about: nothing else says it."""
        batch = self._batch
        own, key = batch.document(attempt.document_lookup), made.decided.enrollment_id
        kept = {one.enrollment_id for one in batch.writes if isinstance(one, AttemptTemplate)}
        may_keep = made.is_kept and key not in kept and batch.comparisons.has_probe(place)
        if own is None or own.reference_ids or not may_keep:
            return
        shown = batch.comparisons.probe(place)
        batch.writes.append(AttemptTemplate(key, own.id, shown))

    def _add_reference(self, made: DecidedAttempt) -> None:
        assert made.decided.document_id is not None
        batch, attempt = self._batch, made.attempt
        # The reference of the document that is replaced goes along: a new one would let the face of
        # its lines drift towards another, document by document.
        old = attempt.replaced_lookup and batch.document(attempt.replaced_lookup)
        like = old.reference_ids[0] if old and old.reference_ids else None
        batch.add_reference(made, made.place, attempt, made.decided.document_id, like)

    def _open_case(self, kind: CaseKind, made: DecidedAttempt, face: FacePart) -> OpenedCase:
        """One of the verdict's cases, about the document presented and those of the candidates.

        A stolen document's case is about that document alone. Its holder has another face than the
        person who presented it, and is a suspect in none of the cases.
        """
        key, kinds = made.decided.document_id, made.verdict.cases
        own = [] if key is None else [key]
        suspects = [] if CaseKind.STOLEN_DOCUMENT in kinds else own
        if kind in (CaseKind.STOLEN_DOCUMENT, CaseKind.EXCEPTION):
            return self._batch.open_case(made, kind, own, [], face.holder_score, None)
        others = [item.document_id for item in face.candidates]
        key = made.verdict.name_untold(made.verdict.asking, made.decided.enrollment_id)
        return self._batch.open_case(made, kind, own + others, suspects + others, face.best, key)

    def _describe_search(self, place: int, face: FacePart) -> FoundReferences:
        """What was searched and found; says so where no search ran."""
        if face.searched is None:
            return FoundReferences(ran=False)
        comparisons, thresholds = self._batch.comparisons, self._batch.comparisons.thresholds
        kinds = comparisons.faces(place).kinds
        if kinds not in self._expected:
            asked = [(thresholds.of(kind).review, kind) for kind in kinds]
            self._expected[kinds] = self._batch.expect_false(comparisons.searched, asked)
        return FoundReferences(
            ran=True,
            searched=face.searched,
            gallery_sequence=comparisons.sequence,
            candidates=tuple(
                FoundReference(one.reference_id, one.document_id, one.score)
                for one in face.candidates
            ),
            expected_false_candidates=self._expected[kinds],
        )

    def resemble(self, place: int, held: DocumentRecord | None) -> Resemblance | None:
        """How alike attempt `place` is to a document's holder; None where the attempt was not
        compared, or the document has no reference."""
        if held is None or not held.reference_ids or not self._batch.comparisons.has_probe(place):
            return None
        return self._batch.comparisons.resemblance(place, self._batch.references_of(held))

    def search(
        self, place: int, own: DocumentRecord | None
    ) -> tuple[tuple[Candidate, ...], dict[str, JudgedPair]]:
        """The best of each other document, best first, and what people have decided of them: in
        the gallery, and of the batch what it has added to that."""
        comparisons = self._batch.comparisons
        if place not in comparisons.hits:
            return (), {}
        found = [
            Candidate(reference_id, owner, alike.most, alike.each)
            for reference_id, alike in comparisons.hits[place]
            if (owner := self._batch.owners.get(reference_id)) is not None
        ]
        for row, alike in comparisons.look_alikes(place, self._batch.added):
            earlier = [*self._batch.references.values()][row]
            found.append(Candidate(earlier.id, earlier.document_id, alike.most, alike.each))
        found.sort(key=lambda candidate: (-candidate.score, candidate.reference_id))
        best: dict[str, Candidate] = {}
        for candidate in found:
            if own is None or candidate.document_id != own.id:
                best.setdefault(candidate.document_id, candidate)
        others = tuple(best.values())
        return others, self._find_decided(place, own, others) if others else {}

    def _find_decided(
        self, place: int, own: DocumentRecord | None, candidates: Sequence[Candidate]
    ) -> dict[str, JudgedPair]:
        """What people have decided of whom attempt `place` shows and these candidates, by the
        candidate's document.

        It must be the face of the document's holder, or without a reference the one that people saw
        under it. It says nothing of anybody else who presents the document, who is more like
        themselves, whatever the model, and nothing where the face is more alike than it was then.
        """
        found: dict[str, JudgedPair] = {}
        if own is None or not self._batch.comparisons.has_probe(place):
            return found
        for one in candidates:
            pair = self.find_judged(own, one.document_id)
            if pair is None or is_more_alike(one.score, pair, own.id):
                continue
            known = self._resemble_seen(place, own, pair)
            if known is None or not known.least >= self._batch.comparisons.thresholds.same_document:
                continue
            if pair.outcome not in EXCEPTIONS or _is_more_like(known.each, one.each):
                found[one.document_id] = pair
        return found

    def _resemble_seen(
        self, place: int, own: DocumentRecord, pair: JudgedPair
    ) -> Resemblance | None:
        """How alike attempt `place` is to the face of a document that people saw in a case."""
        known = self.resemble(place, own)
        shown = () if own.reference_ids else self._shown.get(pair.case_id, {}).get(own.id, ())
        for row in shown:
            alike = self._batch.comparisons.resemblance(place, row[None])
            # Of all that they saw the least like, so that none brings another's face in.
            if alike is not None and (known is None or alike.least < known.least):
                known = alike
        return known

    def find_confirmation(
        self, place: int, about: DocumentRecord, asking: DocumentRecord | None
    ) -> datetime | None:
        """When two people decided that who shows this face under the document `asking` may have to
        do with the other one; None where they have not."""
        if asking is None or not self._batch.comparisons.has_probe(place):
            return None
        key = name_confirmation(about.id, asking.id)
        case = self._batch.registry.cases.of_groups([key]).get(key)
        if case is None or case.outcome is not Outcome.UNFOUNDED or case.closed_at is None:
            return None
        alike = self.resemble(place, asking)
        if alike is None:
            shown = self._batch.registry.attempt_templates(
                self._batch.registry.cases.attempts_in(case.id)
            )
            seen = shown.get(asking.id)
            alike = None if seen is None else self._batch.comparisons.resemblance(place, seen)
        # As sure as a search is: it is one face of many that would have to be like theirs.
        least = None if alike is None else alike.least
        is_theirs = reaches(least, self._batch.comparisons.thresholds.review)
        # A change of a case may be dated a little ahead.
        return min(case.closed_at, self._batch.now) if is_theirs else None

    def find_judged(self, own: DocumentRecord, other: str) -> JudgedPair | None:
        """What people judged of this document with another that the batch may have found."""
        return self._judged.get((min(own.id, other), max(own.id, other)))


def choose(
    found: Sequence[Candidate], documents: Set[str], *, is_among: bool
) -> tuple[Candidate, ...]:
    """The first candidates among these documents, or among all others."""
    chosen = (one for one in found if (one.document_id in documents) is is_among)
    return tuple(islice(chosen, MAX_CANDIDATES))


def _is_more_like(own: FaceScores, other: FaceScores | None) -> bool:
    """True where every face shown is more like one stored face than the other."""
    assert other is not None, "found by this version"
    pairs = ((own.live, other.live), (own.portrait, other.portrait), (own.mean, other.mean))
    return all(second is None or (first is not None and first > second) for first, second in pairs)


def reaches(score: float | None, threshold: float) -> bool:
    return score is not None and score >= threshold


def is_below(score: float | None, threshold: float) -> bool:
    """True where a comparison was made and fell short."""
    # Not `<`: NaN is below every threshold.
    return score is not None and not score >= threshold
