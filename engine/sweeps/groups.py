"""The groups of a sweep: one face under many documents, found from pairs of references.

`group_faces` is what a sweep calls; `groups_of_documents` and `groups_of_lines` in `rings` find
the other two kinds, and `risk.rank` puts all of them in order.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.sweeps.clustering import (
    Cluster,
    Look,
    cluster_links,
    find_near,
    label_components,
    strongest_tree,
)
from engine.sweeps.linking import (
    Documents,
    LinkTable,
    Owners,
    link_documents,
    number_exceptions,
)
from engine.sweeps.risk import assess_events, assess_faces, rank, total_of
from engine.sweeps.sweep_model import Group, GroupKind, Identity, Link, PairTable, RiskTerm

_KEY_HEX = 32


class Referenced(Protocol):
    """A document with its live references."""

    @property
    def reference_ids(self) -> tuple[int, ...]: ...


class FaceFacts(Protocol):
    """What the registry knows of references and their documents."""

    def document_owner_array(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All live references, ascending, and a number for the document of each."""
        ...

    def exceptions(self) -> set[tuple[str, str]]:
        """Pairs of documents that people have judged to be two persons, smaller id first."""
        ...

    def documents_by_id(self, ids: Sequence[str]) -> Mapping[str, Referenced]:
        """The known ones of these documents."""
        ...

    def identities_of(self, reference_ids: Sequence[int]) -> list[Identity]:
        """The documents of these references, each once; a reference that is gone has none."""
        ...


@dataclass(frozen=True, slots=True)
class ListedFacts:
    """Facts from a list of identities, for those who have no registry."""

    identities: Sequence[Identity]
    judged: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    def document_owner_array(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        listed = sorted(self.identities, key=lambda one: one.document_id)
        references = [key for one in listed for key in one.reference_ids]
        numbers = np.repeat(np.arange(len(listed)), [len(one.reference_ids) for one in listed])
        order = np.argsort(references, kind="stable")
        return np.array(references, np.int64)[order], numbers[order]

    def exceptions(self) -> set[tuple[str, str]]:
        return set(self.judged)

    def documents_by_id(self, ids: Sequence[str]) -> Mapping[str, Referenced]:
        wanted = set(ids)
        return {one.document_id: one for one in self.identities if one.document_id in wanted}

    def identities_of(self, reference_ids: Sequence[int]) -> list[Identity]:
        wanted = set(reference_ids)
        return [one for one in self.identities if not wanted.isdisjoint(one.reference_ids)]


def group_faces(
    pairs: PairTable,
    threshold: float,
    facts: FaceFacts,
    *,
    look: Look | None = None,
    fresh: NDArray[np.int64] | None = None,
) -> list[Group]:
    """Groups of documents with one face, the greatest risk first.

    `pairs` are all that reach `threshold`, in any order: a pair that is missing counts as below
    it. So a sweep of what is new must bring the pairs of earlier sweeps along, or two old members
    of a ring would seem to be strangers; `fresh`, its new references, keeps only groups with a
    link of one of them. Pairs of one document, of references that are gone and of documents
    judged to be two persons count for nothing: see `clustering` for what makes a group. With
    `look`, which reads references, those that miss the threshold by little among linked documents
    part nobody (see `nearness`).
    """
    owners = Owners(*facts.document_owner_array())
    exceptions = find_exceptions(facts, owners)
    links = link_documents(pairs, owners, exceptions)
    renewed = None if fresh is None else np.unique(owners.of(fresh))
    if renewed is not None:
        links = _keep_components(links, renewed)
    near = None if look is None else find_near(links, owners, exceptions, look, threshold)
    clusters, identities = _cluster(links, near, owners, facts, renewed)
    return rank(_build(cluster, identities, threshold) for cluster in clusters)


def group_key(kind: GroupKind, document_ids: Iterable[str], line_ids: Iterable[str] = ()) -> str:
    """32 hexadecimal digits, the same for the same kind and members in whatever order."""
    members = "\n".join([kind.value, *sorted(document_ids), "", *sorted(line_ids)])
    return hashlib.sha256(members.encode()).hexdigest()[:_KEY_HEX]


def find_weakest(links: Sequence[Link]) -> Link | None:
    """The lowest link of the maximum spanning tree; of equals the last by ids."""
    documents = sorted({end for link in links for end in (link.left, link.right)})
    places = {key: place for place, key in enumerate(documents)}
    edges = [(places[link.left], places[link.right]) for link in links]
    tree = strongest_tree(len(documents), edges, [link.score for link in links])
    return links[tree[-1]] if tree else None


def find_exceptions(facts: FaceFacts, owners: Owners) -> Documents:
    """int64[k, 2]: the documents that people have judged to be two persons."""
    judged = facts.exceptions()
    named = facts.documents_by_id(sorted({key for pair in judged for key in pair}))
    references = {key: document.reference_ids for key, document in named.items()}
    return number_exceptions(judged, references, owners)


def _cluster(
    links: LinkTable,
    near: LinkTable | None,
    owners: Owners,
    facts: FaceFacts,
    renewed: Documents | None,
) -> tuple[list[Cluster], dict[int, Identity]]:
    """The clusters, and who everybody is that they name."""
    while True:
        clusters = cluster_links(links, near)
        if renewed is not None:
            clusters = [one for one in clusters if _has_link_of(one, renewed)]
        named = _name_documents(clusters)
        identities = _identify(named, owners, facts)
        gone = np.setdiff1d(named, np.array(sorted(identities), np.int64))
        if not len(gone):
            return clusters, identities
        # Who was erased meanwhile may have held a cluster together.
        links = links.at(~np.isin(links.left, gone) & ~np.isin(links.right, gone))


def _keep_components(links: LinkTable, renewed: Documents) -> LinkTable:
    """The links of components with one of these documents: nothing else is grouped anew."""
    documents, left, right = links.ends()
    labels = label_components(len(documents), left, right)
    is_renewed = np.zeros(len(documents), np.bool_)
    is_renewed[labels[np.isin(documents, renewed)]] = True
    return links.at(is_renewed[labels[left]])


def _has_link_of(cluster: Cluster, documents: Documents) -> bool:
    links = cluster.links
    return bool((np.isin(links.left, documents) | np.isin(links.right, documents)).any())


def _name_documents(clusters: Sequence[Cluster]) -> Documents:
    """All members, and the documents that severed links lead to."""
    parts = [
        part for one in clusters for part in (one.members, one.severed.left, one.severed.right)
    ]
    return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))


def _identify(documents: Documents, owners: Owners, facts: FaceFacts) -> dict[int, Identity]:
    """Who these documents are, by number."""
    found = facts.identities_of(owners.references_of(documents).tolist())
    numbers = owners.of_any([one.reference_ids for one in found])
    return dict(zip(numbers.tolist(), found, strict=True))


def _build(cluster: Cluster, identities: Mapping[int, Identity], threshold: float) -> Group:
    members = sorted(
        (identities[number] for number in cluster.members.tolist()),
        key=lambda one: one.document_id,
    )
    key = group_key(GroupKind.ONE_FACE, (one.document_id for one in members))
    links, severed = _name(cluster.links, identities), _name(cluster.severed, identities)
    return make_group(key, members, links, severed, threshold)


def make_group(
    key: str,
    members: Sequence[Identity],
    links: Sequence[Link],
    severed: Sequence[Link],
    threshold: float,
) -> Group:
    """A group of one face, with its weakest link and its risk; it has links."""
    weakest = find_weakest(links)
    assert weakest is not None, "a cluster has links"
    terms = assess_faces(members, weakest.score, threshold)
    return Group(
        key=key,
        kind=GroupKind.ONE_FACE,
        identities=tuple(members),
        links=tuple(links),
        weakest=weakest,
        risk=total_of(terms),
        terms=terms,
        severed=tuple(severed),
    )


def _name(links: LinkTable, identities: Mapping[int, Identity]) -> tuple[Link, ...]:
    """Links under document ids, the highest first."""
    rows = zip(links.left.tolist(), links.right.tolist(), links.scores.tolist(), strict=True)
    named = (
        (identities[left].document_id, identities[right].document_id, score)
        for left, right, score in rows
    )
    ordered = (Link(min(one, other), max(one, other), score) for one, other, score in named)
    return tuple(sorted(ordered, key=lambda link: (-link.score, link.left, link.right)))


# Groups that no pair of faces shows: a document that many tried, and lines that changed hands.
#
# Both come from what was refused at the counter or failed when a line was verified again. One
# such event is an accident, so a group takes several.

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
