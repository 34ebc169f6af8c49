"""Pairs of documents that people have decided: nobody is asked about them a second time.

Only other evidence makes a pair a question again: a reference that is newer than the decision and
more alike by `MORE_ALIKE` than what was decided on. A renewal that scores as before changes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from engine.matching.comparison import score_best
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from engine.registry.sweeps import EXCEPTIONS, JudgedPair
from schema.cases import Outcome
from schema.sweeps import Link

MORE_ALIKE = 0.05
"""A score that lies so far above the one that people decided on is other evidence."""

Pair = tuple[str, str]
"""Two documents, the lower id first."""


@dataclass(frozen=True, slots=True)
class Decided:
    """Decisions of people: `standing` outcomes, and the pairs whose evidence has `changed`."""

    standing: Mapping[Pair, Outcome]
    changed: frozenset[Pair]

    @property
    def exceptions(self) -> set[Pair]:
        """The pairs that stand as twins or a mistake."""
        return {pair for pair, outcome in self.standing.items() if outcome in EXCEPTIONS}

    def undecided(self, links: Iterable[Link]) -> list[Link]:
        """The links that are still a question."""
        return [link for link in links if pair_of(link) not in self.standing]


def pair_of(link: Link) -> Pair:
    return min(link.left, link.right), max(link.left, link.right)


def read_decided(registry: Reader, document_ids: Sequence[str] | None = None) -> Decided:
    """Reads the decisions of people, all or between these documents, against the present
    references."""
    found = (
        registry.judged_pairs() if document_ids is None else registry.judged_between(document_ids)
    )
    judged = {(one.left_document, one.right_document): one for one in found}
    changed = _find_changed(registry, judged)
    standing = {pair: one.outcome for pair, one in judged.items() if pair not in changed}
    # One document took the other's place, for one face: nobody is asked about that either.
    return Decided(
        dict.fromkeys(_find_replaced(registry, document_ids), Outcome.MISTAKE) | standing, changed
    )


def _find_replaced(registry: Reader, document_ids: Sequence[str] | None) -> list[Pair]:
    """The pairs of documents that are one person's because one replaced another."""
    if document_ids is None:
        document_ids = sorted({one.document_id for one in registry.people.replacements()})
    known = registry.people.standing(document_ids)
    groups = {known.kin(one) for one in known.replaced}
    return [pair for group in groups for pair in combinations(sorted(group), 2)]


def _find_changed(registry: Reader, judged: Mapping[Pair, JudgedPair]) -> frozenset[Pair]:
    noted = {pair: one.sequence for pair, one in judged.items() if one.sequence is not None}
    newest = registry.newest_references(sorted({key for pair in noted for key in pair}))
    newer = [
        pair
        for pair, sequence in noted.items()
        if any(newest.get(key, 0) > sequence for key in pair)
    ]
    sides = sorted({key for pair in newer for key in pair})
    templates = read_apart(sides, registry.templates_of)
    changed = []
    for left, right in newer:
        rows, others = templates.get(left), templates.get(right)
        if rows is None or others is None:
            continue
        scores = [score for row in rows if (score := score_best(row, others)) is not None]
        if scores and is_more_alike(max(scores), judged[left, right]):
            changed.append((left, right))
    return frozenset(changed)


def is_more_alike(score: float, pair: JudgedPair, attempt_of: str | None = None) -> bool:
    """True where a score exceeds that which people decided on: of references, or of an attempt by
    the holder of one of the two documents.

    A photograph of the day that they decided on says nothing of what a reference may be.
    """
    decided_on = [pair.score]
    if attempt_of is not None:
        of_attempts = (
            pair.left_attempt_score
            if attempt_of == pair.left_document
            else pair.right_attempt_score
        )
        decided_on += [] if of_attempts is None else [of_attempts]
    return score >= max(decided_on) + MORE_ALIKE
