"""The groups of a sweep: documents with one face, documents tried by many faces, resale rings.

`group_faces` finds the first kind from pairs of references. `groups_of_documents` and
`groups_of_lines` find the others from refused attempts and failed verifications; one such event
may be an accident, so a group takes several.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import numpy as np

from engine.sweeps.clustering import (
    Cluster,
    Documents,
    LinkTable,
    Owners,
    ReadVectors,
    cluster_links,
    find_ends,
    find_near,
    join_links,
    label_components,
    link_documents,
    score_components,
)
from engine.sweeps.risk import assess, assess_faces, rank, total_of
from indexes.base import Ints, concatenated
from indexes.joining import Records
from schema import frozen
from schema.sweeps import Group, GroupKind, Identity, Link

T = TypeVar("T")
_KEY_HEX = 32


@frozen(eq=False)
class FaceFacts:
    """The registry's facts about references and their documents.

    `exceptions` int64[k, 2] are the documents that people have judged to be two persons.
    `identities_of` returns the documents of references, each once; references that are gone are
    skipped.
    """

    owners: Owners
    exceptions: Documents
    identities_of: Callable[[Sequence[int]], list[Identity]]


def group_faces(
    pairs: Records,
    threshold: float,
    facts: FaceFacts,
    *,
    read_vectors: ReadVectors | None = None,
    fresh: Ints | None = None,
    is_whole: bool = True,
) -> list[Group]:
    """Groups of documents with one face, highest risk first; `clustering` says what makes one.

    `pairs` are all that reach `threshold`, in any order, of earlier sweeps too: a missing
    one counts as below it. With `fresh`, the new references, only groups with a link to one of them
    are returned. Pairs of one document, of references that are gone and of documents judged to be
    two persons do not count. With `read_vectors`, pairs just below the threshold do not part
    documents that are linked (see `find_near`); where not `is_whole`, `pairs` are those that a
    budget has room for, and others of the same documents are looked for, too.
    """
    owners = facts.owners
    links = link_documents(pairs, owners, facts.exceptions)
    fresh_documents = None if fresh is None else np.unique(owners.of(fresh))
    if fresh_documents is not None:
        # Only components with one of these documents are grouped again.
        documents, left, right = find_ends(links)
        labels = label_components(len(documents), left, right)
        is_fresh = np.zeros(len(documents), np.bool_)
        is_fresh[labels[np.isin(documents, fresh_documents)]] = True
        links = links[is_fresh[labels[left]]]
    near = None
    if read_vectors is not None:
        if not is_whole:
            inside = score_components(links, owners, facts.exceptions, read_vectors)
            links = join_links(links, inside[inside["score"] >= np.float64(threshold)])
        near = find_near(links, owners, facts.exceptions, read_vectors, threshold)
    clusters, identities = _cluster(links, near, facts, fresh_documents)
    return rank(_build(cluster, identities, threshold) for cluster in clusters)


def group_key(kind: GroupKind, document_ids: Iterable[str], line_ids: Iterable[str] = ()) -> str:
    """32 hexadecimal digits, the same for the same kind and members in any order."""
    members = "\n".join([kind.value, *sorted(document_ids), "", *sorted(line_ids)])
    return hashlib.sha256(members.encode()).hexdigest()[:_KEY_HEX]


Edge = tuple[int, int]
"""Two node numbers, the smaller first."""


def strongest_tree(count: int, edges: Sequence[Edge], scores: Sequence[float]) -> list[int]:
    """Indices of the edges of the maximum spanning forest (Kruskal 1956), strongest first.

    Of equal scores the edge of smaller nodes comes first.
    """
    parents = list(range(count))

    def root_of(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    tree: list[int] = []
    for number in sorted(range(len(edges)), key=lambda one: (-scores[one], edges[one])):
        one, other = (root_of(node) for node in edges[number])
        if one != other:
            parents[one] = other
            tree.append(number)
        if len(tree) == count - 1:
            break
    return tree


def find_weakest(links: Sequence[Link]) -> Link | None:
    """The lowest link of the maximum spanning tree; of equal ones the last by ids."""
    documents = sorted({end for link in links for end in (link.left, link.right)})
    places = {key: place for place, key in enumerate(documents)}
    edges = [(places[link.left], places[link.right]) for link in links]
    tree = strongest_tree(len(documents), edges, [link.score for link in links])
    return links[tree[-1]] if tree else None


def _cluster(
    links: LinkTable, near: LinkTable | None, facts: FaceFacts, fresh_documents: Documents | None
) -> tuple[list[Cluster], dict[int, Identity]]:
    """The clusters, and the identities that they name, by number."""
    while True:
        clusters = cluster_links(links, near)
        if fresh_documents is not None:
            clusters = [one for one in clusters if _has_link_of(one, fresh_documents)]
        # All members, and the documents at the ends of severed links.
        parts = [
            part
            for one in clusters
            for part in (one.members, one.severed["left"], one.severed["right"])
        ]
        named = np.unique(concatenated(parts))
        found = facts.identities_of(facts.owners.references_of(named).tolist())
        numbers = facts.owners.of_any([one.reference_ids for one in found])
        identities = dict(zip(numbers.tolist(), found, strict=True))
        gone = np.setdiff1d(named, np.array(sorted(identities), np.int64))
        if not len(gone):
            return clusters, identities
        # A document that was erased meanwhile may have held a cluster together.
        links = links[~np.isin(links["left"], gone) & ~np.isin(links["right"], gone)]


def _has_link_of(cluster: Cluster, documents: Documents) -> bool:
    links = cluster.links
    return bool((np.isin(links["left"], documents) | np.isin(links["right"], documents)).any())


def _build(cluster: Cluster, identities: Mapping[int, Identity], threshold: float) -> Group:
    members = sorted(
        (identities[number] for number in cluster.members.tolist()), key=lambda one: one.document_id
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
    """A group of one face with its weakest link and its risk; `links` is not empty."""
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


def without_documents(
    groups: Iterable[Group], gone: Collection[str], threshold: float, *, is_ranked: bool = False
) -> Iterable[Group]:
    """The groups without these documents; groups of nothing else are removed.

    Of a sweep with a budget (`is_ranked`) they keep the terms by which they were chosen.
    """
    for group in groups:
        links, severed = (
            [one for one in some if one.left not in gone and one.right not in gone]
            for some in (group.links, group.severed)
        )
        members = [one for one in group.identities if one.document_id not in gone]
        if group.kind is GroupKind.ONE_FACE:
            if links:
                made = make_group(group.key, members, links, severed, threshold)
                yield replace(made, risk=group.risk, terms=group.terms) if is_ranked else made
        elif members:
            yield replace(group, identities=tuple(members))


def _name(links: LinkTable, identities: Mapping[int, Identity]) -> tuple[Link, ...]:
    """Links with document ids, highest score first."""
    named = (
        (identities[left].document_id, identities[right].document_id, score)
        for left, right, score in links.tolist()
    )
    ordered = (Link(min(one, other), max(one, other), score) for one, other, score in named)
    return tuple(sorted(ordered, key=lambda link: (-link.score, link.left, link.right)))


LEAST_ATTEMPTS = 2
LEAST_LINES = 3
"""Lines that changed face and make a ring."""
WINDOW = timedelta(days=30)


@frozen
class ForeignFace:
    """A face other than the holder's: at an enrollment, which was refused, or, with a `line_id`, at
    the last verification of a line, which failed. `carrier` and `outlet` sent the one or opened the
    other."""

    document_id: str
    carrier: str
    outlet: str
    at: datetime
    line_id: str = ""


def groups_of_documents(
    attempts: Iterable[ForeignFace], identities: Mapping[str, Identity]
) -> list[Group]:
    """Documents that foreign faces tried at least `LEAST_ATTEMPTS` times, highest risk first.

    `identities` by document id; a document without one is left out.
    """
    by_document: dict[str, list[ForeignFace]] = defaultdict(list)
    for attempt in attempts:
        by_document[attempt.document_id].append(attempt)
    return rank(
        _group_of_document(identities[key], tried)
        for key, tried in by_document.items()
        if len(tried) >= LEAST_ATTEMPTS and key in identities
    )


def groups_of_lines(
    changed: Iterable[ForeignFace], identities: Mapping[str, Identity]
) -> list[Group]:
    """Resale rings, highest risk first: at least `LEAST_LINES` lines that changed face.

    Lines belong together if one outlet opened them or one document holds them, and they changed
    within `WINDOW` of the first one. Each line counts once, by its last change. `identities` by
    document id have all their lines, in a group only the changed ones. A line that is gone, or
    whose document is, is left out.
    """
    last: dict[str, ForeignFace] = {}
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
        _group_of_lines(ring, identities) for ring in _find_rings(known) if len(ring) >= LEAST_LINES
    )


def _find_rings(lines: Sequence[ForeignFace]) -> list[list[ForeignFace]]:
    """Joins lines, in order of time, that share an outlet or a document within the window."""
    edges: list[tuple[int, int]] = []
    begun: dict[Hashable, int] = {}
    for place, line in enumerate(lines):
        for shared in ((line.carrier, line.outlet), line.document_id):
            first = begun.get(shared)
            if first is None or line.at - lines[first].at > WINDOW:
                begun[shared] = place
            else:
                edges.append((first, place))
    return group_connected(lines, edges)


def group_connected(items: Sequence[T], edges: Sequence[tuple[int, int]]) -> list[list[T]]:
    """The items in groups, connected by edges between their places; in their order."""
    left, right = np.array(edges, np.int64).reshape(-1, 2).T
    groups: dict[int, list[T]] = defaultdict(list)
    for one, label in zip(items, label_components(len(items), left, right).tolist(), strict=True):
        groups[label].append(one)
    return list(groups.values())


def _group_of_document(identity: Identity, attempts: Sequence[ForeignFace]) -> Group:
    key = group_key(GroupKind.ONE_DOCUMENT, [identity.document_id])
    return _event_group(key, GroupKind.ONE_DOCUMENT, [identity], attempts)


def _group_of_lines(ring: Sequence[ForeignFace], identities: Mapping[str, Identity]) -> Group:
    changed = {line.line_id for line in ring}
    holders = [
        replace(identity, lines=tuple(line for line in identity.lines if line.line_id in changed))
        for identity in (identities[key] for key in sorted({line.document_id for line in ring}))
    ]
    key = group_key(GroupKind.RESALE_RING, (one.document_id for one in holders), changed)
    return _event_group(key, GroupKind.RESALE_RING, holders, ring)


def _event_group(
    key: str, kind: GroupKind, identities: Sequence[Identity], faces: Sequence[ForeignFace]
) -> Group:
    terms = assess(
        kind,
        len(faces),
        ((one.carrier, one.outlet) for one in faces),
        [one.at for one in faces],
        sum(identity.disputes for identity in identities),
    )
    return Group(
        key=key,
        kind=kind,
        identities=tuple(identities),
        links=(),
        weakest=None,
        risk=total_of(terms),
        terms=terms,
    )
