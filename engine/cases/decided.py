"""Pairs of documents that people have decided, and the cases that a sweep opens about the others.

Nobody is asked about a decided pair a second time. Only other evidence makes it a question again: a
reference that is newer than the decision and more alike by `MORE_ALIKE` than what was decided on. A
renewal that scores as before changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import combinations

from engine.cases.opening import CaseBatch, NewCase
from engine.matching.comparison import score_best
from engine.matching.registrar import Runner
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from engine.registry.sweeps import EXCEPTIONS, JudgedPair
from engine.registry.writer import Writer
from engine.sweeps.groups import find_weakest
from schema.cases import CaseKind, CaseOrigin, CaseState, Outcome
from schema.sweeps import Group, GroupKind, Link

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

    def read_kin(some: Sequence[str]) -> dict[str, frozenset[str]]:
        known = registry.people.standing(some)
        return {one: known.kin(one) for one in known.replaced}

    groups = set(read_apart(document_ids, read_kin).values())
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


GROUPS_PER_TRANSACTION = 100
"""Bounds how long decisions wait for such a transaction."""


def open_sweep_cases(
    registrar: Runner, registry: Reader, sweep_id: str, groups: Sequence[Group], actor: str
) -> dict[str, str]:
    """Open a case for each group, or merge it into an open one; returns case ids by group key.

    A group with a closed case keeps that case. A pair that people have decided is in no case
    again, unless its evidence has changed: a group of such links alone gets none, and a document
    that has no other link is in none. Called again for the same sweep, as after a crash, it adds
    nothing twice.
    """
    decided = read_decided(registry)
    known = registry.cases.of_groups([group.key for group in groups])
    reopened = {
        group.key for group in groups if decided.changed.intersection(map(pair_of, group.links))
    }
    cases = {
        key: case.id
        for key, case in known.items()
        if case.state is CaseState.CLOSED and key not in reopened
    }
    asked = (_without_decided(group, decided) for group in groups if group.key not in cases)
    fresh = [group for group in asked if group is not None]
    for start in range(0, len(fresh), GROUPS_PER_TRANSACTION):
        part = fresh[start : start + GROUPS_PER_TRANSACTION]

        def perform(writer: Writer, now: datetime, part: Sequence[Group] = part) -> dict[str, str]:
            batch = CaseBatch(registry, now, known_groups=known.keys())
            batch.look_up(one.document_id for group in part for one in group.identities)
            opened = {group.key: batch.open(_new_case(group, sweep_id), actor) for group in part}
            if writes := batch.writes():
                writer.commit(writes)
            return {key: case.id for key, case in opened.items()}

        cases |= registrar.run(perform)
    return _follow(registry, cases)


def _follow(registry: Reader, cases: dict[str, str]) -> dict[str, str]:
    """Replace merged cases: a later group may have joined those of earlier ones."""
    found = registry.cases.by_id(list(cases.values()))
    return {key: found[case_id].merged_into or case_id for key, case_id in cases.items()}


def _new_case(group: Group, sweep_id: str) -> NewCase:
    documents = [one.document_id for one in group.identities]
    return NewCase(
        kind=CaseKind(group.kind.value),
        origin=CaseOrigin.SWEEP,
        document_ids=documents,
        # In groups of other kinds the references may belong to victims.
        suspect_ids=documents if group.kind is GroupKind.ONE_FACE else (),
        line_ids=[line.line_id for one in group.identities for line in one.lines],
        score=max((link.score for link in group.links), default=None),
        weakest=None if group.weakest is None else group.weakest.score,
        risk=group.risk,
        sweep_id=sweep_id,
        group_key=group.key,
    )


def _without_decided(group: Group, decided: Decided) -> Group | None:
    """The group with what is still a question in it; None where nothing is."""
    links = decided.undecided(group.links)
    if len(links) == len(group.links):
        return group
    if not links:
        return None
    linked = {end for link in links for end in (link.left, link.right)}
    members = tuple(one for one in group.identities if one.document_id in linked)
    return replace(group, identities=members, links=tuple(links), weakest=find_weakest(links))
