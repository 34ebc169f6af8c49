"""Suspects of a case: what they showed is scored pairwise, their references are watch-listed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np

from engine.cases.decided import Pair, read_decided
from engine.cases.opening import highest
from engine.matching.comparison import WatchList
from engine.registry.cases import CaseRecord
from engine.registry.store import Reader
from engine.registry.sweeps import EXCEPTIONS, JudgedPair
from engine.registry.watchlist import BY_CASE, WatchEntry
from indexes.base import Floats, Ints, concatenated, exact_scores
from indexes.gallery import Gallery
from schema.cases import Outcome

MAX_PAIRS = 20_000
"""Judged pairs of a case; of a larger case, those with the highest scores."""

SAME_FACE = 0.9999
"""From this score on, two templates are of one photograph and share a watch-list entry."""


class Suspects:
    """The suspected documents of a case, with their references; of one that has none, with what the
    attempts of the case showed under it.

    To be made on the writer's thread, where store and gallery agree.
    """

    def __init__(self, registry: Reader, gallery: Gallery, case: CaseRecord) -> None:
        self._case, self._registry = case, registry
        self._sweep = None if case.sweep_id is None else registry.sweeps.get(case.sweep_id)
        found = registry.documents_by_id(case.suspect_ids)
        held = sorted(key for key, record in found.items() if record.reference_ids)
        ids = [np.array(found[key].reference_ids, dtype=np.int64) for key in held]
        flat = concatenated(ids)
        self._references: Floats = gallery.vectors(flat)
        ends = np.cumsum([len(keys) for keys in ids], dtype=np.int64)
        rows = dict(zip(held, np.split(self._references, ends[:-1]), strict=True)) if held else {}
        self._attempts = registry.cases.attempts_in(case.id)
        shown = registry.attempt_templates(self._attempts)
        rows |= {key: vectors for key, vectors in shown.items() if key in found and key not in rows}
        self._documents = sorted(rows)
        counts = [len(rows[key]) for key in self._documents]
        self._owners = np.repeat(np.arange(len(counts)), counts)
        none = np.empty((0, gallery.dim), np.float32)
        self._vectors = np.concatenate([none, *(rows[key] for key in self._documents)])

    def judge(
        self, outcome: Outcome, actor: str, now: datetime, sequence: int, model_digest: str
    ) -> list[JudgedPair]:
        """Every pair of documents, judged with the best score between what they have; references
        are those of the gallery at `sequence`, by the model of that digest.

        A pair that was decided before keeps its outcome, unless its evidence has changed, an
        attempt of the case has brought up an exception again, or the case has no other pair. Pairs
        that reach the threshold of the case's sweep are attributed to it.
        """
        left, right, scores = self._score_pairs()
        best = np.argsort(-scores, kind="stable")[:MAX_PAIRS]
        documents = self._documents
        before = {
            (one.left_document, one.right_document): one
            for one in self._registry.judged_between(documents)
        }
        standing = read_decided(self._registry, documents).standing
        brought_up, of_attempts = self._score_attempts(model_digest)
        pairs = [
            ((documents[left[place]], documents[right[place]]), float(scores[place]))
            for place in best
        ]
        asked = [
            (pair, score)
            for pair, score in pairs
            if pair not in standing or (standing[pair] in EXCEPTIONS and pair in brought_up)
        ]
        judged = [
            JudgedPair(
                left_document=pair[0],
                right_document=pair[1],
                outcome=outcome,
                score=score,
                case_id=self._case.id,
                sweep_id=self._sweep_of(score),
                decided_at=now,
                decided_by=actor,
                sequence=sequence,
                left_attempt_score=of_attempts.get(pair),
                right_attempt_score=of_attempts.get(pair[::-1]),
            )
            for pair, score in asked or pairs
        ]
        return [
            _with_earlier(one, before.get((one.left_document, one.right_document)))
            for one in judged
        ]

    def watch(
        self, watchlist: WatchList, next_id: Callable[[], int], now: datetime
    ) -> list[WatchEntry]:
        """A new entry for each face that is not on the watch-list."""
        if not len(self._references):
            return []
        watched = watchlist.search(self._references, SAME_FACE).hits
        fresh: list[int] = []
        for row, vector in enumerate(self._references):
            is_watched = len(watched.of(row)[0]) > 0
            if not is_watched and not np.any(self._references[fresh] @ vector >= SAME_FACE):
                fresh.append(row)
        return [
            WatchEntry(
                id=next_id(),
                document_lookup=None,
                template=self._references[row],
                reason=BY_CASE + self._case.id,
                added_at=now,
            )
            for row in fresh
        ]

    def _score_attempts(self, model_digest: str) -> tuple[set[Pair], Mapping[Pair, float]]:
        """The pairs that attempts of the case have brought up; and the best score of attempts by
        the holder of a document with another's reference, by that document and the other.

        The score counts only where it was the holder's face, and more like the holder than the
        other: else it says who else presents the document.
        """
        brought_up: set[Pair] = set()
        scores: dict[Pair, float] = {}
        for attempt in self._registry.enrollments(self._attempts):
            inputs, own = attempt.evidence.inputs, attempt.document_id
            if own is None:
                continue
            holder_score = inputs.get("holder_score")
            is_holder = (
                attempt.evidence.model_digest == model_digest
                and holder_score is not None
                and holder_score >= inputs["thresholds"]["same_document"]
            )
            for one in inputs.get("candidates", ()):
                other, score = one["document_id"], one["score"]
                brought_up.add((min(own, other), max(own, other)))
                if is_holder and score < holder_score:
                    scores[own, other] = max(score, scores.get((own, other), -1.0))
        return brought_up, scores

    def _sweep_of(self, score: float) -> str | None:
        is_found = self._sweep is not None and score >= self._sweep.terms.threshold
        return self._case.sweep_id if is_found else None

    def _score_pairs(self) -> tuple[Ints, Ints, Floats]:
        """Indices of two documents, the lower first, and their best score: three arrays [pairs]."""
        rows, others = np.triu_indices(len(self._vectors), k=1)
        is_pair = self._owners[rows] != self._owners[others]
        rows, others = rows[is_pair], others[is_pair]
        scores = exact_scores(self._vectors, self._vectors, rows, others)
        # References are ordered by document, so the first of two has the lower index.
        pairs = self._owners[rows] * len(self._documents) + self._owners[others]
        order = np.lexsort((-scores, pairs))
        pairs, scores = pairs[order], scores[order]
        kept = np.flatnonzero(np.diff(pairs, prepend=-1))
        left, right = np.divmod(pairs[kept], max(len(self._documents), 1))
        return left, right, scores[kept]


def _with_earlier(pair: JudgedPair, earlier: JudgedPair | None) -> JudgedPair:
    """With what people saw of attempts when they said before that these are two people."""
    if earlier is None or not {pair.outcome, earlier.outcome} <= EXCEPTIONS:
        return pair
    return replace(
        pair,
        left_attempt_score=highest(pair.left_attempt_score, earlier.left_attempt_score),
        right_attempt_score=highest(pair.right_attempt_score, earlier.right_attempt_score),
    )
