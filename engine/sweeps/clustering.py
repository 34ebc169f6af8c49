"""Clusters of linked documents that no chain holds together.

The aim is that of correlation clustering (Bansal, Blum and Chawla 2004): as many linked pairs as
possible inside clusters, and as few that are not linked; near ones (see `nearness`) count for
neither. That is hard to reach and easy to come close to:

1. *Merge.* Two clusters may merge where more than half of the pairs between them are linked, of
   those that are not near. The clusters with the greatest such share go first, then those with the
   highest mean score, then the smallest documents.
2. *Move.* One document at a time goes where it is linked best, or out where it is linked to no
   more of its cluster than it is not: a stranger's high score may have carried it along.
3. Again, until nothing is to be gained; each step gains, so there is an end.

Two strangers who are linked through a third are therefore never one cluster: of three pairs one is
missing, so one of them would be linked to half of the others.

Merging in that order is reducible: a merge never makes a third cluster a better partner than the
better of the two was. So all clusters that are each other's best partner can merge at once, with
the same result (Murtagh 1983). A round is a few passes over arrays, and a million links take a few
dozen rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from engine.sweeps.linking import Documents, LinkTable, Owners, drop_exceptions
from indexes.errors import IdInvalid
from indexes.gallery import Gallery
from indexes.scoring import exact_scores

# Pairs that a join leaves out, though they lie near its threshold between people who are linked.
#
# The threshold of a sweep keeps strangers apart in half a million million comparisons. Among a
# few documents that hang together already it asks too much: of three identities of one person
# the third pair may lie just below, and looks like two strangers joined through a third. So
# inside a component of links every pair is scored, and one that lies at most `SLACK` below the
# threshold speaks neither for nor against.

SLACK = 0.05
"""Of a cosine. Two strangers who both score 0.6 with a third score 0.36 with each other, give or
take 0.06; of two references of one person one pair in a thousand misses 0.55."""
MOST_DOCUMENTS = 500
"""A greater component hangs together by chance: its pairs are too many, and would tell nothing."""
_REFERENCES_AT_ONCE = 8_000

References = NDArray[np.int64]
Look = Callable[[References], tuple[References, NDArray[np.float32]]]
"""Those of the ascending references asked for that are there, and their rows: float32[n, dim]."""


def look_into(gallery: Gallery) -> Look:
    """Reads the rows of a gallery; what has been removed from it is left out."""

    def look(references: References) -> tuple[References, NDArray[np.float32]]:
        while True:
            try:
                return references, gallery.vectors(references)
            except IdInvalid:
                # Removals go on, and what is removed never comes back.
                references = np.intersect1d(references, gallery.ids)

    return look


def find_near(
    links: LinkTable, owners: Owners, exceptions: Documents, look: Look, threshold: float
) -> LinkTable:
    """Pairs of documents in one component of `links`, from `threshold - SLACK` to `threshold`.

    `exceptions` as in `link_documents`: whom people have told apart nothing brings near.
    """
    documents, labels = _open_components(links)
    is_member = np.isin(owners.documents, documents)
    references, holders = owners.references[is_member], owners.documents[is_member]
    components = labels[np.searchsorted(documents, holders)]
    order = np.argsort(components, kind="stable")
    found = []
    for span in _spans(components[order]):
        rows = order[span]
        found.append(_score(references[rows], holders[rows], components[rows], look))
    best = LinkTable.joined(found)
    scores = best.scores.astype(np.float64)
    near = best.at((scores >= threshold - SLACK) & (scores < threshold))
    return drop_exceptions(near, exceptions)


def label_components(size: int, left: Documents, right: Documents) -> Documents:
    """int64[size]: the smallest node that each is linked to, through however many others."""
    labels = np.arange(size)
    while True:
        before = labels.copy()
        np.minimum.at(labels, right, labels[left])
        np.minimum.at(labels, left, labels[right])
        labels = labels[labels]
        if np.array_equal(before, labels):
            return labels


def _open_components(links: LinkTable) -> tuple[Documents, Documents]:
    """The documents, ascending, whose component lacks a link and is not too great; its label."""
    documents, left, right = links.ends()
    labels = label_components(len(documents), left, right)
    sizes = np.bincount(labels, minlength=len(labels))
    linked = np.bincount(labels[left], minlength=len(labels))
    is_open = (linked < sizes * (sizes - 1) // 2) & (sizes <= MOST_DOCUMENTS)
    members = is_open[labels]
    return documents[members], labels[members]


def _spans(labels: Documents) -> Iterator[slice]:
    """Some thousand places at a time; equal labels, which lie side by side, are never parted."""
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    start = 0
    while start < len(labels):
        end = np.searchsorted(starts, start + _REFERENCES_AT_ONCE)
        stop = int(starts[end]) if end < len(starts) else len(labels)
        yield slice(start, stop)
        start = stop


def _score(
    references: References, holders: Documents, components: Documents, look: Look
) -> LinkTable:
    """All pairs within each component, by document, each with its highest score."""
    there, vectors = look(np.sort(references))
    kept = np.isin(references, there)
    references, holders, components = references[kept], holders[kept], components[kept]
    starts = np.flatnonzero(np.diff(components, prepend=-1)).tolist()
    sizes = np.diff([*starts, len(components)]).tolist()
    pairs = [start + _triangle(size) for start, size in zip(starts, sizes, strict=True)]
    one, other = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    one, other = (side[holders[one] != holders[other]] for side in (one, other))
    rows = np.searchsorted(there, references)
    scores = exact_scores(vectors, vectors, rows[one], rows[other])
    return LinkTable.of(holders[one], holders[other], scores)


@cache
def _triangle(size: int) -> NDArray[np.int64]:
    """int64[2, m]: every two of so many places."""
    return np.stack(np.triu_indices(size, 1))


_STEPS = 1 << 24
"""A score is counted in whole steps, so that a sum does not depend on its order."""

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """`members` int64[k] ascending, the links among them, and those to documents outside."""

    members: Documents
    links: LinkTable
    severed: LinkTable


@dataclass(frozen=True, slots=True, eq=False)
class _Ties:
    """From one label to another, int64[m] each: how many links, the steps of their scores, and
    how many pairs that are near."""

    one: Labels
    other: Labels
    counts: NDArray[np.int64]
    totals: NDArray[np.int64]
    nears: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.one)

    def only(self, kept: NDArray[np.bool_]) -> _Ties:
        columns = (self.one, self.other, self.counts, self.totals, self.nears)
        return _Ties(*(column[kept] for column in columns))

    def summed(self) -> _Ties:
        """Each pair of labels once, ascending."""
        if not len(self):
            return self
        order = np.lexsort((self.other, self.one))
        one, other = self.one[order], self.other[order]
        starts = np.flatnonzero(_is_new(one) | _is_new(other))
        columns = (self.counts, self.totals, self.nears)
        sums = (np.add.reduceat(column[order], starts) for column in columns)
        return _Ties(one[starts], other[starts], *sums)

    def merged(self, into: Labels) -> _Ties:
        """After labels became others, the smaller one first; what is within one is dropped."""
        one, other = into[self.one], into[self.other]
        low, high = np.minimum(one, other), np.maximum(one, other)
        outer = _Ties(low, high, self.counts, self.totals, self.nears)
        return outer.only(one != other).summed()


def cluster_links(links: LinkTable, near: LinkTable | None = None) -> list[Cluster]:
    """The clusters of two documents and more, by smallest member.

    Depends on the links alone, not on their order. Each member is linked to more of the others
    than it is not, and to all by links within; every link is within a cluster or severed from one.
    """
    if near is None:
        near = LinkTable.joined(())
    documents, left, right = links.ends()
    ties = _tie(documents, left, right, links.scores, near)
    labels, has_moved = np.arange(len(documents)), True
    while has_moved:
        labels = _merge(labels, ties)
        has_moved = _move(labels, ties)
        # Who has moved may have left others who are near alone.
        inside = labels[left] == labels[right]
        labels = label_components(len(documents), left[inside], right[inside])
    return list(_gather(documents, labels, links, labels[left], labels[right]))


def _tie(
    documents: Documents,
    left: Labels,
    right: Labels,
    scores: NDArray[np.float32],
    near: LinkTable,
) -> _Ties:
    """Links and near pairs between places of `documents`; who has no link is left out."""
    steps = np.rint(scores.astype(np.float64) * _STEPS).astype(np.int64)
    known = near.at(np.isin(near.left, documents) & np.isin(near.right, documents))
    none, one = np.zeros(len(known), np.int64), np.ones(len(known), np.int64)
    return _Ties(
        np.concatenate([left, np.searchsorted(documents, known.left)]),
        np.concatenate([right, np.searchsorted(documents, known.right)]),
        np.concatenate([np.ones_like(left), none]),
        np.concatenate([steps, none]),
        np.concatenate([np.zeros_like(left), one]),
    )


def _merge(labels: Labels, ties: _Ties) -> Labels:
    """Merges clusters until no two of them have more than half of their pairs linked.

    A label is its cluster's smallest member, here and everywhere; `ties` are between members.
    """
    sizes = np.bincount(labels, minlength=len(labels))
    into = np.arange(len(labels))
    between = ties.merged(labels)
    while len(between):
        decided = sizes[between.one] * sizes[between.other] - between.nears
        shares = between.counts / np.maximum(decided, 1)
        may_merge = shares > 0.5
        # Who may merge with nobody never will: the shares of a merger lie between those of two.
        awake = np.zeros(len(labels), np.bool_)
        awake[between.one[may_merge]] = awake[between.other[may_merge]] = True
        low, high = _choose_partners(between.only(may_merge), shares[may_merge])
        into[high] = low
        sizes[low] += sizes[high]
        between = between.only(awake[between.one] & awake[between.other]).merged(into)
    return _follow(into)[labels]


def _choose_partners(between: _Ties, shares: NDArray[np.float64]) -> tuple[Labels, Labels]:
    """The clusters that are each other's best partner, as (smaller, greater) labels."""
    means = between.totals / between.counts
    order = np.lexsort((between.other, between.one, -means, -shares))
    one, other = between.one[order], between.other[order]
    mutual = _are_first(one, other)
    return one[mutual], other[mutual]


def _are_first(one: Labels, other: Labels) -> NDArray[np.bool_]:
    """bool[m]: which of these pairs, best first, are the first of both of their labels."""
    labels, ends = np.unique(np.concatenate([one, other]), return_inverse=True)
    places = np.arange(len(one))
    first = np.full(len(labels), len(one))
    np.minimum.at(first, ends, np.concatenate([places, places]))
    firsts = first[ends].reshape(2, -1)
    are_first: NDArray[np.bool_] = (firsts == places).all(axis=0)
    return are_first


def _follow(into: Labels) -> Labels:
    """Where each label has gone in the end."""
    while True:
        further = into[into]
        if np.array_equal(further, into):
            return into
        into = further


def _move(labels: Labels, ties: _Ties) -> bool:
    """Moves members, in place, while that gains; True where anybody was."""
    has_moved = False
    both = _Ties(
        np.concatenate([ties.one, ties.other]),
        np.concatenate([ties.other, ties.one]),
        np.concatenate([ties.counts, ties.counts]),
        np.concatenate([ties.totals, ties.totals]),
        np.concatenate([ties.nears, ties.nears]),
    )
    while True:
        members, targets = _find_moves(labels, both)
        # A cluster takes part in one move at a time, so that all gain what they seem to.
        chosen = _are_first(labels[members], targets)
        if not chosen.any():
            return has_moved
        has_moved = True
        moved = labels.copy()
        moved[members[chosen]] = targets[chosen]
        labels[:] = _name_smallest(moved)


def _find_moves(labels: Labels, both: _Ties) -> tuple[Labels, Labels]:
    """Members that had better go, and to which label, the best move first.

    A member's worth to a cluster is its links there less those that it lacks and is not near;
    alone it is 0, and goes also where it would gain nothing. Beyond all labels there is one for
    each to be alone.
    """
    sizes = np.bincount(labels, minlength=len(labels))
    reach = _Ties(both.one, labels[both.other], both.counts, both.totals, both.nears).summed()
    values = 2 * reach.counts + reach.nears - sizes[reach.other]
    is_own = reach.other == labels[reach.one]
    # One that a member lacks in its own cluster is itself.
    worth, own_totals = 1 - sizes[labels], np.zeros_like(labels)
    worth[reach.one[is_own]] = values[is_own] + 1
    own_totals[reach.one[is_own]] = reach.totals[is_own]
    gains = values - worth[reach.one]
    better = ~is_own & (gains > 0)
    there, gains = reach.only(better), gains[better]
    leaving = np.flatnonzero((worth <= 0) & (sizes[labels] > 1))
    members = np.concatenate([there.one, leaving])
    targets = np.concatenate([there.other, len(labels) + leaving])
    gains = np.concatenate([gains, -worth[leaving]])
    totals = np.concatenate([there.totals, np.zeros_like(leaving)]) - own_totals[members]
    order = np.lexsort((targets, members, -totals, -gains))
    return members[order], targets[order]


def _name_smallest(labels: Labels) -> Labels:
    """The smallest member of each one's cluster, whatever the clusters are called."""
    smallest = np.full(2 * len(labels), len(labels))
    np.minimum.at(smallest, labels, np.arange(len(labels)))
    return smallest[labels]


def _is_new(labels: Labels) -> NDArray[np.bool_]:
    """bool[m]: which differ from the one before."""
    is_new = np.ones(len(labels), np.bool_)
    is_new[1:] = labels[1:] != labels[:-1]
    return is_new


def _gather(
    documents: Documents, labels: Labels, links: LinkTable, lefts: Labels, rights: Labels
) -> Iterator[Cluster]:
    """Members and links of each cluster, side by side; `lefts` and `rights` label the links."""
    sizes = np.bincount(labels, minlength=len(labels))
    names = np.flatnonzero(sizes > 1)
    members = np.flatnonzero(sizes[labels] > 1)
    inside, across = np.flatnonzero(lefts == rights), np.flatnonzero(lefts != rights)
    # A severed link is told on both of its sides.
    sides = np.concatenate([lefts[across], rights[across]])
    members, spans = _sort(members, labels[members], names)
    within, within_spans = _sort(inside, lefts[inside], names)
    severed, severed_spans = _sort(np.concatenate([across, across]), sides, names)
    own, kept, cut = documents[members], links.at(within), links.at(severed)
    for span, within_span, severed_span in zip(spans, within_spans, severed_spans, strict=True):
        yield Cluster(own[span], kept.at(within_span), cut.at(severed_span))


def _sort(
    rows: NDArray[np.int64], labels: Labels, names: Labels
) -> tuple[NDArray[np.int64], list[slice]]:
    """Ascending rows label by label, and where those of each name lie."""
    order = np.lexsort((rows, labels))
    labels = labels[order]
    starts = np.searchsorted(labels, names).tolist()
    ends = np.searchsorted(labels, names, side="right").tolist()
    return rows[order], [slice(start, end) for start, end in zip(starts, ends, strict=True)]


# What holds a graph together: its maximum spanning forest.

Edge = tuple[int, int]
"""Two nodes by their numbers, the smaller first."""


def strongest_tree(count: int, edges: Sequence[Edge], scores: Sequence[float]) -> list[int]:
    """The edges (their numbers) of the maximum spanning forest (Kruskal 1956), strongest first.

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
