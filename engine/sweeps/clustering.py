"""Links between documents, made from pairs of references, and clusters of linked documents that are
not held together by chains.

The aim is that of correlation clustering (Bansal, Blum and Chawla 2004): as many linked pairs as
possible inside clusters, and as few that are not linked; near pairs (see `find_near`) count for
neither. That is hard to reach and easy to approximate:

1. *Merge.* Two clusters may merge where more than half of the pairs between them are linked, of
   those that are not near: first the greatest such share, then the highest mean score, then the
   smallest documents.
2. *Move.* One document at a time moves to the cluster where it is linked best, or out of its own
   if it is not linked to more than half of it: a stranger's high score may have brought it there.
3. Repeat until nothing is gained; each step gains, so there is an end.

So two strangers who are linked through a third are never one cluster: one pair of three is missing.

A merge never makes a third cluster a better partner than the better of the two was. So all clusters
that are each other's best partner can merge at once, with the same result (Murtagh 1983): a million
links take a few dozen rounds, each a few passes over arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Self

import numpy as np

from indexes.base import Doubles, Flags, Floats, Ints, exact_scores
from indexes.joining import NO_PAIRS, RECORD, Records
from schema import frozen

Documents = Ints


@frozen(eq=False)
class Owners:
    """The document of each live reference: `references` int64[n] ascending, `documents` int64[n].

    Documents are numbers; their order decides between equal scores.
    """

    references: Ints
    documents: Documents

    @classmethod
    def numbered(cls, documents: Sequence[Sequence[int]]) -> Self:
        """Numbers the documents, given by their references, in this order."""
        references = np.array([key for keys in documents for key in keys], np.int64)
        numbers = np.repeat(np.arange(len(documents)), [len(keys) for keys in documents])
        order = np.argsort(references, kind="stable")
        return cls(references[order], numbers[order])

    def of(self, references: Ints) -> Documents:
        """int64[m]: the document of each reference, -1 for one that is gone."""
        if not len(self.references):
            return np.full(len(references), -1, np.int64)
        places = np.searchsorted(self.references, references)
        places = np.minimum(places, len(self.references) - 1)
        return np.where(self.references[places] == references, self.documents[places], -1)

    def of_any(self, holdings: Sequence[Sequence[int]]) -> Documents:
        """int64[k]: the document of each list of references, none empty; -1 if none is known."""
        sizes = [len(references) for references in holdings]
        flat = np.array([key for references in holdings for key in references], np.int64)
        if not len(flat):
            return flat
        return np.maximum.reduceat(self.of(flat), np.cumsum([0, *sizes[:-1]]))

    def references_of(self, documents: Documents) -> Ints:
        """All references of these documents, ascending."""
        return self.references[np.isin(self.documents, documents)]


LinkTable = Records
"""Pairs of documents with similar faces, ascending by both, each pair once."""


def make_pairs(one: Documents, other: Documents, scores: Floats) -> Records:
    """A table of these columns."""
    pairs = np.empty(len(scores), RECORD)
    pairs["left"], pairs["right"], pairs["score"] = one, other, scores
    return pairs


def make_links(one: Documents, other: Documents, scores: Floats) -> LinkTable:
    """From pairs in any order; a repeated pair has its highest score."""
    left, right = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort((-scores, right, left))
    left, right, scores = left[order], right[order], scores[order]
    is_first = _is_new(left) | _is_new(right)
    return make_pairs(left[is_first], right[is_first], scores[is_first])


def join_links(*tables: LinkTable) -> LinkTable:
    """From tables that may share pairs."""
    both = np.concatenate([NO_PAIRS, *tables])
    return make_links(both["left"], both["right"], both["score"])


def find_ends(links: LinkTable) -> tuple[Documents, Ints, Ints]:
    """The documents, ascending, and the indices of the left and the right ends among them."""
    ends = np.concatenate([links["left"], links["right"]])
    documents, places = np.unique(ends, return_inverse=True)
    return documents, places[: len(links)], places[len(links) :]


def link_documents(pairs: Records, owners: Owners, exceptions: Documents) -> LinkTable:
    """A link for each pair of documents that has a pair of references.

    Pairs of one document and pairs with a reference that is gone are left out. `exceptions`
    int64[k, 2] are documents that people have judged to be two persons: they are not linked.
    """
    one, other = owners.of(pairs["left"]), owners.of(pairs["right"])
    kept = (one != other) & (one >= 0) & (other >= 0)
    links = make_links(one[kept], other[kept], pairs["score"][kept])
    return drop_exceptions(links, exceptions)


def drop_exceptions(links: LinkTable, exceptions: Documents) -> LinkTable:
    """The links without the pairs of documents in int64[k, 2]."""
    return links[~mark_exceptions(links["left"], links["right"], exceptions)]


def mark_exceptions(one: Documents, other: Documents, exceptions: Documents) -> Flags:
    """bool[m]: which pairs are among those of int64[k, 2], in either order."""
    if not len(exceptions) or not len(one):
        return np.zeros(len(one), np.bool_)
    low, high = exceptions.min(axis=1), exceptions.max(axis=1)
    # A pair as one number; there are never too many documents for that.
    width = 1 + max(int(one.max()), int(other.max()), int(high.max()))
    assert width <= 1 << 31
    pairs = np.minimum(one, other) * width + np.maximum(one, other)
    return np.isin(pairs, low * width + high)


SLACK = 0.05
"""In cosine. Two strangers who both score 0.6 with a third score 0.36 with each other, give or take
0.06; of pairs of references of one person one in a thousand misses 0.55."""
MOST_DOCUMENTS = 500
"""A larger component is connected by chance: its pairs are too many, and would show nothing."""
_REFERENCES_AT_ONCE = 8_000

References = Ints
ReadVectors = Callable[[References], tuple[References, Floats]]
"""Takes ascending references; returns those that exist and their rows, as `Gallery.held`."""


def find_near(
    links: LinkTable,
    owners: Owners,
    exceptions: Documents,
    read_vectors: ReadVectors,
    threshold: float,
) -> LinkTable:
    """Pairs of documents in one component of `links`, from `threshold - SLACK` to `threshold`.

    A sweep's threshold keeps strangers apart in half a million million comparisons, and asks too
    much among documents that are linked already: of three identities of one person the third pair
    may lie just below. So a pair inside a component at most `SLACK` below it counts neither for nor
    against. `exceptions` (see `link_documents`) are never near.
    """
    best = score_components(links, owners, exceptions, read_vectors)
    scores = best["score"].astype(np.float64)
    return best[(scores >= threshold - SLACK) & (scores < threshold)]


def score_components(
    links: LinkTable, owners: Owners, exceptions: Documents, read_vectors: ReadVectors
) -> LinkTable:
    """All pairs of documents in one component of `links`, whatever they score.

    Not of components that have all links, nor of those with more than `MOST_DOCUMENTS`.
    """
    documents, labels = _open_components(links)
    is_member = np.isin(owners.documents, documents)
    references, holders = owners.references[is_member], owners.documents[is_member]
    components = labels[np.searchsorted(documents, holders)]
    order = np.argsort(components, kind="stable")
    found = []
    for span in _spans(components[order]):
        rows = order[span]
        found.append(_score(references[rows], holders[rows], components[rows], read_vectors))
    return drop_exceptions(join_links(*found), exceptions)


def label_components(size: int, left: Documents, right: Documents) -> Documents:
    """int64[size]: the smallest node that each node is connected to."""
    labels = np.arange(size)
    while True:
        before = labels.copy()
        np.minimum.at(labels, right, labels[left])
        np.minimum.at(labels, left, labels[right])
        labels = labels[labels]
        if np.array_equal(before, labels):
            return labels


def _open_components(links: LinkTable) -> tuple[Documents, Documents]:
    """Documents, ascending, whose component lacks a link and is not too large; and its labels."""
    documents, left, right = find_ends(links)
    labels = label_components(len(documents), left, right)
    sizes = np.bincount(labels, minlength=len(labels))
    linked = np.bincount(labels[left], minlength=len(labels))
    is_open = (linked < sizes * (sizes - 1) // 2) & (sizes <= MOST_DOCUMENTS)
    members = is_open[labels]
    return documents[members], labels[members]


def _spans(labels: Documents) -> Iterator[slice]:
    """Slices of some thousand rows; equal labels, which are adjacent, stay together."""
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    start = 0
    while start < len(labels):
        end = np.searchsorted(starts, start + _REFERENCES_AT_ONCE)
        stop = int(starts[end]) if end < len(starts) else len(labels)
        yield slice(start, stop)
        start = stop


def _score(
    references: References, holders: Documents, components: Documents, read_vectors: ReadVectors
) -> LinkTable:
    """All pairs within each component, by document, each with its highest score."""
    there, vectors = read_vectors(np.sort(references))
    kept = np.isin(references, there)
    references, holders, components = references[kept], holders[kept], components[kept]
    starts = np.flatnonzero(np.diff(components, prepend=-1)).tolist()
    sizes = np.diff([*starts, len(components)]).tolist()
    pairs = [start + _triangle(size) for start, size in zip(starts, sizes, strict=True)]
    one, other = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    one, other = (side[holders[one] != holders[other]] for side in (one, other))
    rows = np.searchsorted(there, references)
    scores = exact_scores(vectors, vectors, rows[one], rows[other])
    return make_links(holders[one], holders[other], scores)


@cache
def _triangle(size: int) -> Ints:
    """int64[2, m]: all pairs of so many indices."""
    return np.stack(np.triu_indices(size, 1))


_STEPS = 1 << 24
"""Scores are summed in whole steps, so that a sum does not depend on its order."""

Labels = Ints


@frozen(eq=False)
class Cluster:
    """`members` int64[k] ascending, the links among them, and those to documents outside."""

    members: Documents
    links: LinkTable
    severed: LinkTable


@frozen(eq=False)
class _Ties:
    """Between two labels, int64[m] each: the number of links, the sum of their scores in steps, and
    the number of near pairs."""

    one: Labels
    other: Labels
    counts: Ints
    totals: Ints
    nears: Ints

    def __len__(self) -> int:
        return len(self.one)

    def only(self, kept: Flags) -> _Ties:
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
        """With labels replaced, the smaller one first; ties within one label are dropped."""
        one, other = into[self.one], into[self.other]
        low, high = np.minimum(one, other), np.maximum(one, other)
        outer = _Ties(low, high, self.counts, self.totals, self.nears)
        return outer.only(one != other).summed()


def cluster_links(links: LinkTable, near: LinkTable | None = None) -> list[Cluster]:
    """The clusters of two or more documents, by smallest member.

    Does not depend on the order of the links. Each member is linked to more than half of the
    others, near pairs apart, and connected to all of them by links inside; every link is inside a
    cluster or severed.
    """
    if near is None:
        near = NO_PAIRS
    documents, left, right = find_ends(links)
    # Links and near pairs between indices of `documents`; without documents that have no link.
    scores = links["score"]
    steps = np.rint(scores.astype(np.float64) * _STEPS).astype(np.int64)
    known = near[np.isin(near["left"], documents) & np.isin(near["right"], documents)]
    none, one = np.zeros(len(known), np.int64), np.ones(len(known), np.int64)
    ties = _Ties(
        np.concatenate([left, np.searchsorted(documents, known["left"])]),
        np.concatenate([right, np.searchsorted(documents, known["right"])]),
        np.concatenate([np.ones_like(left), none]),
        np.concatenate([steps, none]),
        np.concatenate([np.zeros_like(left), one]),
    )
    labels, has_moved = np.arange(len(documents)), True
    while has_moved:
        labels = _merge(labels, ties)
        has_moved = _move(labels, ties)
        # A move may leave a cluster that only near pairs connect.
        inside = labels[left] == labels[right]
        labels = label_components(len(documents), left[inside], right[inside])
    return list(_gather(documents, labels, links, labels[left], labels[right]))


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
        # Clusters that cannot merge now never will: the share of a merged one lies between the two.
        awake = np.zeros(len(labels), np.bool_)
        awake[between.one[may_merge]] = awake[between.other[may_merge]] = True
        low, high = _choose_partners(between.only(may_merge), shares[may_merge])
        into[high] = low
        sizes[low] += sizes[high]
        between = between.only(awake[between.one] & awake[between.other]).merged(into)
    return _follow(into)[labels]


def _choose_partners(between: _Ties, shares: Doubles) -> tuple[Labels, Labels]:
    """Clusters that are each other's best partner, as (smaller, greater) labels."""
    means = between.totals / between.counts
    order = np.lexsort((between.other, between.one, -means, -shares))
    one, other = between.one[order], between.other[order]
    mutual = _are_first(one, other)
    return one[mutual], other[mutual]


def _are_first(one: Labels, other: Labels) -> Flags:
    """bool[m]: which of these pairs, best first, are the first for both of their labels."""
    labels, ends = np.unique(np.concatenate([one, other]), return_inverse=True)
    places = np.arange(len(one))
    first = np.full(len(labels), len(one))
    np.minimum.at(first, ends, np.concatenate([places, places]))
    firsts = first[ends].reshape(2, -1)
    are_first: Flags = (firsts == places).all(axis=0)
    return are_first


def _follow(into: Labels) -> Labels:
    """The final label of each label."""
    while True:
        further = into[into]
        if np.array_equal(further, into):
            return into
        into = further


def _move(labels: Labels, ties: _Ties) -> bool:
    """Moves members in place while that gains; whether any was moved."""
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
        # A cluster takes part in one move at a time, so that each move gains what was computed.
        chosen = _are_first(labels[members], targets)
        if not chosen.any():
            return has_moved
        has_moved = True
        moved = labels.copy()
        moved[members[chosen]] = targets[chosen]
        # Each member is labelled with the smallest member of its cluster.
        smallest = np.full(2 * len(moved), len(moved))
        np.minimum.at(smallest, moved, np.arange(len(moved)))
        labels[:] = smallest[moved]


def _find_moves(labels: Labels, both: _Ties) -> tuple[Labels, Labels]:
    """Members to move and their target labels, the best move first.

    The value of a member to a cluster is its links there less its missing links that are not near;
    alone it is 0, and a member also leaves if that loses nothing. Each member has a label of its
    own for being alone, beyond all others.
    """
    sizes = np.bincount(labels, minlength=len(labels))
    reach = _Ties(both.one, labels[both.other], both.counts, both.totals, both.nears).summed()
    values = 2 * reach.counts + reach.nears - sizes[reach.other]
    is_own = reach.other == labels[reach.one]
    # In its own cluster a member has no link to itself.
    own_value, own_totals = 1 - sizes[labels], np.zeros_like(labels)
    own_value[reach.one[is_own]] = values[is_own] + 1
    own_totals[reach.one[is_own]] = reach.totals[is_own]
    gains = values - own_value[reach.one]
    better = ~is_own & (gains > 0)
    there, gains = reach.only(better), gains[better]
    leaving = np.flatnonzero((own_value <= 0) & (sizes[labels] > 1))
    members = np.concatenate([there.one, leaving])
    targets = np.concatenate([there.other, len(labels) + leaving])
    gains = np.concatenate([gains, -own_value[leaving]])
    totals = np.concatenate([there.totals, np.zeros_like(leaving)]) - own_totals[members]
    order = np.lexsort((targets, members, -totals, -gains))
    return members[order], targets[order]


def _is_new(labels: Labels) -> Flags:
    """bool[m]: which differ from their predecessor."""
    is_new = np.ones(len(labels), np.bool_)
    is_new[1:] = labels[1:] != labels[:-1]
    return is_new


def _gather(
    documents: Documents, labels: Labels, links: LinkTable, lefts: Labels, rights: Labels
) -> Iterator[Cluster]:
    """The clusters; `lefts` and `rights` are the labels of the links' ends."""
    sizes = np.bincount(labels, minlength=len(labels))
    names = np.flatnonzero(sizes > 1)
    members = np.flatnonzero(sizes[labels] > 1)
    inside, across = np.flatnonzero(lefts == rights), np.flatnonzero(lefts != rights)
    # A severed link belongs to the clusters on both sides.
    sides = np.concatenate([lefts[across], rights[across]])
    members, spans = _sort(members, labels[members], names)
    within, within_spans = _sort(inside, lefts[inside], names)
    severed, severed_spans = _sort(np.concatenate([across, across]), sides, names)
    own, kept, cut = documents[members], links[within], links[severed]
    for span, within_span, severed_span in zip(spans, within_spans, severed_spans, strict=True):
        yield Cluster(own[span], kept[within_span], cut[severed_span])


def _sort(rows: Ints, labels: Labels, names: Labels) -> tuple[Ints, list[slice]]:
    """Rows sorted by label, and the slice of each name."""
    order = np.lexsort((rows, labels))
    labels = labels[order]
    starts = np.searchsorted(labels, names).tolist()
    ends = np.searchsorted(labels, names, side="right").tolist()
    return rows[order], [slice(start, end) for start, end in zip(starts, ends, strict=True)]
