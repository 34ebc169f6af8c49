"""Groups that no pair of faces shows: a document that many tried, and lines that changed hands.

Both come from what was refused at the counter or failed when a line was verified again. One such
event is an accident, so a group takes several.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from engine.sweeps.groups import group_key
from engine.sweeps.model import Group, GroupKind, Identity, RiskTerm
from engine.sweeps.risk import assess_events, rank, total_of

LEAST_ATTEMPTS = 2
LEAST_LINES = 3
"""So many lines that changed face are a ring."""
WINDOW = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class ForeignAttempt:
    """A face that was refused because the document is held by another."""

    document_id: str
    carrier: str
    outlet: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ChangedLine:
    """A line whose last verification failed: another face answered than its holder's.

    `carrier` and `outlet` opened it.
    """

    line_id: str
    document_id: str
    carrier: str
    outlet: str
    at: datetime


def groups_of_documents(
    attempts: Iterable[ForeignAttempt], identities: Mapping[str, Identity]
) -> list[Group]:
    """Documents that foreign faces tried `LEAST_ATTEMPTS` times or more, the greatest risk first.

    `identities` by document id; a document without one is left out.
    """
    by_document: dict[str, list[ForeignAttempt]] = defaultdict(list)
    for attempt in attempts:
        by_document[attempt.document_id].append(attempt)
    return rank(
        _group_of_document(identities[key], tried)
        for key, tried in by_document.items()
        if len(tried) >= LEAST_ATTEMPTS and key in identities
    )


def groups_of_lines(
    changed: Iterable[ChangedLine],
    identities: Mapping[str, Identity],
    window: timedelta = WINDOW,
) -> list[Group]:
    """Resale rings, the greatest risk first: `LEAST_LINES` lines or more that changed face.

    Lines belong together that one outlet opened or one document holds, and that changed within
    `window` of the first of them: a run of years at a large outlet is not one ring. Each line
    counts once, by its last change. `identities` by document id, all lines of each; in the group
    they have the changed lines alone. A line whose document or self is gone is left out.
    """
    last: dict[str, ChangedLine] = {}
    for line in changed:
        if line.line_id not in last or last[line.line_id].at < line.at:
            last[line.line_id] = line
    known = [
        line
        for line in sorted(last.values(), key=lambda one: (one.at, one.line_id))
        if line.document_id in identities
        and any(fact.line_id == line.line_id for fact in identities[line.document_id].lines)
    ]
    return rank(
        _group_of_lines(ring, identities)
        for ring in _find_rings(known, window)
        if len(ring) >= LEAST_LINES
    )


def _find_rings(lines: Sequence[ChangedLine], window: timedelta) -> Iterator[list[ChangedLine]]:
    """Lines in order of time, joined where they share a run of an outlet or of a document."""
    parents = list(range(len(lines)))

    def root_of(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    begun: dict[Hashable, int] = {}
    for place, line in enumerate(lines):
        for shared in ((line.carrier, line.outlet), line.document_id):
            first = begun.get(shared)
            if first is None or line.at - lines[first].at > window:
                begun[shared] = place
            else:
                one, other = sorted((root_of(first), root_of(place)))
                parents[other] = one
    rings: dict[int, list[ChangedLine]] = defaultdict(list)
    for place, line in enumerate(lines):
        rings[root_of(place)].append(line)
    yield from rings.values()


def _group_of_document(identity: Identity, attempts: Sequence[ForeignAttempt]) -> Group:
    terms = assess_events(
        GroupKind.ONE_DOCUMENT,
        len(attempts),
        ((attempt.carrier, attempt.outlet) for attempt in attempts),
        [attempt.at for attempt in attempts],
        identity.disputes,
    )
    key = group_key(GroupKind.ONE_DOCUMENT, [identity.document_id])
    return _group(key, GroupKind.ONE_DOCUMENT, [identity], terms)


def _group_of_lines(ring: Sequence[ChangedLine], identities: Mapping[str, Identity]) -> Group:
    changed = {line.line_id for line in ring}
    holders = [
        replace(identity, lines=tuple(line for line in identity.lines if line.line_id in changed))
        for identity in (identities[key] for key in sorted({line.document_id for line in ring}))
    ]
    terms = assess_events(
        GroupKind.RESALE_RING,
        len(ring),
        ((line.carrier, line.outlet) for line in ring),
        [line.at for line in ring],
        sum(holder.disputes for holder in holders),
    )
    key = group_key(GroupKind.RESALE_RING, (one.document_id for one in holders), changed)
    return _group(key, GroupKind.RESALE_RING, holders, terms)


def _group(
    key: str, kind: GroupKind, identities: Sequence[Identity], terms: tuple[RiskTerm, ...]
) -> Group:
    return Group(
        key=key,
        kind=kind,
        identities=tuple(identities),
        links=(),
        weakest=None,
        risk=total_of(terms),
        terms=terms,
    )
