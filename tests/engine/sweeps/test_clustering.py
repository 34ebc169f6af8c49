"""Clusters: not held together by chains, independent of order, near pairs do not count."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.sweeps import clustering
from engine.sweeps.clustering import (
    Cluster,
    LinkTable,
    Owners,
    ReadVectors,
    _merge,
    _Ties,
    cluster_links,
    find_near,
    link_documents,
    make_links,
)
from engine.sweeps.groups import strongest_tree
from engine.sweeps.sweep_run import number_exceptions
from indexes.joining import RECORD, Records

Scores = dict[tuple[int, int], float]


def table(links: Scores) -> LinkTable:
    """A table of these links, in the order given."""
    ends = np.array(list(links), np.int64).reshape(-1, 2)
    return make_links(ends[:, 0], ends[:, 1], np.array(list(links.values()), np.float32))


def members(links: Scores) -> list[list[int]]:
    return [cluster.members.tolist() for cluster in cluster_links(table(links))]


def clique(nodes: range | list[int], score: float = 0.8) -> Scores:
    return dict.fromkeys(combinations(nodes, 2), score)


@st.composite
def graphs(draw: st.DrawFn) -> Scores:
    """Small graphs with any links, whose scores are often equal."""
    size = draw(st.integers(2, 9))
    pairs = list(combinations(range(size), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1))
    scores = st.sampled_from([0.5, 0.6, 0.625, 0.75, 0.875, 1.0])
    return {pair: draw(scores) for pair in chosen}


@st.composite
def doubtful(draw: st.DrawFn) -> tuple[Scores, Scores]:
    """Links, and near pairs among the pairs that are not linked."""
    links = draw(graphs())
    nodes = sorted({one for pair in links for one in pair})
    others = [pair for pair in combinations(nodes, 2) if pair not in links]
    near = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
    return links, dict.fromkeys(near, 0.45)


RING, OTHER = list(range(6)), list(range(10, 15))


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({}, []),
        ({(i, i + 1): 0.9 - i / 100 for i in range(5)}, [[0, 1], [2, 3], [4, 5]]),
        ({pair: 0.8 for pair in clique(RING) if pair not in ((0, 5), (1, 4))}, [RING]),
        # Bridges between two rings, with the best scores of all.
        (clique(RING) | clique(OTHER) | {(4, 10): 0.99, (3, 11): 0.99}, [RING, OTHER]),
        # The best link of all leads to the stranger 9, who looks like two of six.
        (clique(RING, 0.7) | {(0, 9): 0.95, (1, 9): 0.9}, [RING]),
        # 20 is best linked to one of the first ring, and to all of the second.
        (clique(RING, 0.7) | {(0, 20): 0.95} | clique([*OTHER, 20], 0.7), [RING, [*OTHER, 20]]),
    ],
)
def test_clusters_are_rings_and_no_chains(links: Scores, expected: list[list[int]]) -> None:
    assert members(links) == expected


def test_a_near_pair_does_not_split_a_cluster_and_a_missing_one_does() -> None:
    links = {(1, 2): 0.9, (2, 3): 0.8}
    (cluster,) = cluster_links(table(links), table({(1, 3): 0.55}))
    assert cluster.members.tolist() == [1, 2, 3]
    assert len(cluster.links) == 2
    assert len(cluster.severed) == 0
    longer = links | {(3, 4): 0.7}
    (cluster,) = cluster_links(table(longer), table({(1, 3): 0.55, (2, 4): 0.55}))
    assert cluster.members.tolist() == [1, 2, 3]


def test_near_pairs_alone_hold_no_cluster_together() -> None:
    # A member that links two halves of a cluster gains more in another one.
    links = {
        (0, 2): 0.97, (0, 3): 0.88, (1, 4): 0.69, (1, 7): 0.87, (2, 7): 0.89, (3, 5): 0.72,
        (3, 6): 0.88, (3, 7): 0.54, (5, 6): 0.61, (5, 7): 0.52, (6, 7): 0.72,
    }  # fmt: skip
    near = [
        (0, 1), (0, 4), (0, 5), (0, 6), (0, 7), (1, 2), (1, 5), (1, 6), (2, 4), (3, 4), (4, 5),
        (4, 7),
    ]  # fmt: skip
    for cluster in cluster_links(table(links), table(dict.fromkeys(near, 0.45))):
        assert are_connected(cluster)


@given(graphs(), st.randoms(use_true_random=False))
def test_the_order_of_links_and_of_their_ends_does_not_matter(links: Scores, random) -> None:  # type: ignore[no-untyped-def]
    rows = list(links.items())
    random.shuffle(rows)
    turned = {(pair if random.random() < 0.5 else pair[::-1]): score for pair, score in rows}
    assert describe(cluster_links(table(turned))) == describe(cluster_links(table(links)))


@given(doubtful())
def test_every_member_is_linked_to_more_of_the_others_than_it_is_not(
    drawn: tuple[Scores, Scores],
) -> None:
    links, near = drawn
    for cluster in cluster_links(table(links), table(near)):
        everybody = cluster.members.tolist()
        for one in everybody:
            pairs = [tuple(sorted((one, other))) for other in everybody if other != one]
            linked = sum(pair in links for pair in pairs)
            assert linked > sum(pair not in links and pair not in near for pair in pairs)


@given(doubtful())
def test_links_alone_hold_a_cluster_together(drawn: tuple[Scores, Scores]) -> None:
    assert all(map(are_connected, cluster_links(*map(table, drawn))))


@given(doubtful())
@settings(max_examples=300)
def test_no_move_and_no_merge_would_gain_anything(drawn: tuple[Scores, Scores]) -> None:
    links, near = drawn
    clusters = [set(each.members.tolist()) for each in cluster_links(table(links), table(near))]
    everybody = {one for pair in links for one in pair}
    clusters += [{one} for one in everybody - set().union(*clusters)]

    def agree(parts: list[set[int]]) -> int:
        """Linked pairs within, less those within that are neither linked nor near."""
        within = [pair for part in parts for pair in combinations(sorted(part), 2)]
        return sum(1 if pair in links else -1 for pair in within if pair not in near)

    best = agree(clusters)
    for source in clusters:
        for target in [*clusters, set()]:
            if target is source:
                continue
            rest = [each for each in clusters if each not in (source, target)]
            assert agree([*rest, source | target]) <= best
            for one in source:
                assert agree([*rest, source - {one}, target | {one}]) <= best


@given(doubtful())
def test_no_link_is_lost_and_no_document_is_in_two_clusters(drawn: tuple[Scores, Scores]) -> None:
    links = drawn[0]
    clusters = cluster_links(*map(table, drawn))
    everybody = [one for cluster in clusters for one in cluster.members.tolist()]
    assert len(everybody) == len(set(everybody))
    described = {
        pair
        for cluster in clusters
        for part in (cluster.links, cluster.severed)
        for pair in zip(part["left"].tolist(), part["right"].tolist(), strict=True)
    }
    assert described == set(links)
    for cluster in clusters:
        own = set(cluster.members.tolist())
        assert set(cluster.links["left"].tolist()) | set(cluster.links["right"].tolist()) == own
        for pair in zip(cluster.severed["left"], cluster.severed["right"], strict=True):
            assert len(own & {int(one) for one in pair}) == 1


@given(graphs())
@settings(max_examples=300)
def test_merging_all_best_partners_at_once_equals_merging_the_best_pair_repeatedly(
    links: Scores,
) -> None:
    size = 1 + max(max(pair) for pair in links)
    ends = np.array(list(links), np.int64)
    steps = np.rint(np.array(list(links.values())) * (1 << 24)).astype(np.int64)
    ones = np.ones_like(steps)
    ties = _Ties(ends[:, 0], ends[:, 1], ones, steps, 0 * ones)
    at_once = _merge(np.arange(size), ties)
    assert at_once.tolist() == merge_greedily(size, links)


def test_a_million_links_at_random_make_small_clusters_of_their_best() -> None:
    rng = np.random.default_rng(5)
    left, right = rng.integers(0, 40_000, (2, 50_000))
    scores = rng.uniform(0.5, 0.7, 50_000).astype(np.float32)
    kept = left != right
    clusters = cluster_links(make_links(left[kept], right[kept], scores[kept]))
    sizes = np.array([len(cluster.members) for cluster in clusters])
    assert sizes.min() == 2
    assert sizes.max() <= 4


def are_connected(cluster: Cluster) -> bool:
    """Whether links connect all members."""
    reached, grown = {int(cluster.members[0])}, True
    while grown:
        ends = zip(cluster.links["left"].tolist(), cluster.links["right"].tolist(), strict=True)
        more = {one for pair in ends if reached & set(pair) for one in pair}
        grown = not more <= reached
        reached |= more
    return reached == set(cluster.members.tolist())


def describe(clusters: list[Cluster]) -> list[list[object]]:
    return [
        [
            cluster.members.tolist(),
            *(
                [part["left"].tolist(), part["right"].tolist(), part["score"].tolist()]
                for part in (cluster.links, cluster.severed)
            ),
        ]
        for cluster in clusters
    ]


def merge_greedily(size: int, links: Scores) -> list[int]:
    """The definition: merges the best pair of clusters until none may merge."""
    clusters: list[tuple[int, ...]] = [(one,) for one in range(size)]

    def weigh(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[Fraction, Fraction]:
        scores = [
            Fraction(links[min(a, b), max(a, b)])
            for a in one
            for b in other
            if (min(a, b), max(a, b)) in links
        ]
        share = Fraction(len(scores), len(one) * len(other))
        return share, sum(scores, Fraction(0)) / len(scores) if scores else Fraction(0)

    while True:
        candidates = [
            (-share, -mean, one[0], other[0], one, other)
            for one, other in combinations(sorted(clusters), 2)
            for share, mean in [weigh(one, other)]
            if share > Fraction(1, 2)
        ]
        if not candidates:
            break
        *_, one, other = min(candidates)
        clusters = [each for each in clusters if each not in (one, other)]
        clusters.append(tuple(sorted(one + other)))
    labels: NDArray[np.int64] = np.empty(size, np.int64)
    for cluster in clusters:
        labels[list(cluster)] = min(cluster)
    return labels.tolist()


THRESHOLD = 0.6
NO_PAIRS = np.empty((0, 2), np.int64)


def turned(*degrees: float) -> NDArray[np.float32]:
    """Unit rows in one plane, at these angles: a score is the cosine of the angle between two."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def owners(*documents: int) -> Owners:
    """References 0, 1, ... of these documents."""
    return Owners(np.arange(len(documents)), np.array(documents, np.int64))


def links(*pairs: tuple[int, int]) -> LinkTable:
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    return make_links(ends[:, 0], ends[:, 1], np.full(len(ends), 0.8, np.float32))


def reading(rows: NDArray[np.float32]) -> ReadVectors:
    return lambda ids: (ids, rows[ids])


def pairs_of(found: LinkTable) -> list[tuple[int, int]]:
    return list(zip(found["left"].tolist(), found["right"].tolist(), strict=True))


@pytest.mark.parametrize(("angle", "expected"), [(50.0, []), (55.0, [(10, 12)]), (60.0, [])])
def test_only_a_pair_just_below_the_threshold_is_near(
    angle: float, expected: list[tuple[int, int]]
) -> None:
    rows = turned(0, angle / 2, angle)
    found = find_near(
        links((10, 11), (11, 12)), owners(10, 11, 12), NO_PAIRS, reading(rows), THRESHOLD
    )
    assert pairs_of(found) == expected


def test_the_score_is_the_best_of_all_references_of_two_documents() -> None:
    rows = turned(0, 27, 70, 55)
    known = owners(10, 11, 12, 12)
    found = find_near(links((10, 11), (11, 12)), known, NO_PAIRS, reading(rows), THRESHOLD)
    assert pairs_of(found) == [(10, 12)]
    assert found["score"][0] == pytest.approx(np.cos(np.radians(55)))


def test_judged_pairs_are_never_near() -> None:
    rows = turned(0, 27, 55)
    judged = np.array([[12, 10]], np.int64)
    chain = links((10, 11), (11, 12))
    assert len(find_near(chain, owners(10, 11, 12), judged, reading(rows), THRESHOLD)) == 0


def test_documents_of_two_components_are_never_compared() -> None:
    rows = turned(0, 27, 55, 2, 28, 57)
    chains = links((0, 1), (1, 2), (3, 4), (4, 5))
    found = find_near(chains, owners(0, 1, 2, 3, 4, 5), NO_PAIRS, reading(rows), THRESHOLD)
    assert pairs_of(found) == [(0, 2), (3, 5)]


def test_many_components_are_scored_in_batches(monkeypatch) -> None:
    count = 50
    rows = np.concatenate([turned(0, 27, 55) for _ in range(count)])
    chains = links(*((3 * i + j, 3 * i + j + 1) for i in range(count) for j in range(2)))
    known = owners(*range(3 * count))
    whole = find_near(chains, known, NO_PAIRS, reading(rows), THRESHOLD)
    asked = []

    def read_vectors(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        asked.append(len(ids))
        return ids, rows[ids]

    monkeypatch.setattr(clustering, "_REFERENCES_AT_ONCE", 10)
    parted = find_near(chains, known, NO_PAIRS, read_vectors, THRESHOLD)
    assert pairs_of(parted) == pairs_of(whole)
    assert len(whole) == count
    assert max(asked) <= 12
    assert sum(asked) == 3 * count


def test_a_component_that_is_too_large_is_not_scored(monkeypatch) -> None:
    monkeypatch.setattr(clustering, "MOST_DOCUMENTS", 2)
    rows = turned(0, 27, 55)
    chain = links((10, 11), (11, 12))
    assert len(find_near(chain, owners(10, 11, 12), NO_PAIRS, reading(rows), THRESHOLD)) == 0
    assert len(find_near(links(), owners(), NO_PAIRS, reading(rows), THRESHOLD)) == 0


def test_a_tree_keeps_the_strongest_links() -> None:
    assert strongest_tree(3, [(0, 1), (1, 2), (0, 2)], [0.5, 0.9, 0.8]) == [1, 2]


def test_unconnected_parts_have_a_tree_each() -> None:
    edges = [(0, 1), (2, 3), (3, 4), (2, 4)]
    assert strongest_tree(5, edges, [0.6, 0.7, 0.7, 0.7]) == [1, 3, 0]
    assert strongest_tree(2, [], []) == []


def pairs(*rows: tuple[int, int, float]) -> Records:
    return np.array(list(rows), RECORD)


def references_of(**documents: list[int]) -> Owners:
    """References by document, as `d7=[1, 2]`."""
    listed = sorted((key, int(name[1:])) for name, keys in documents.items() for key in keys)
    return Owners(
        np.array([key for key, _ in listed], np.int64),
        np.array([number for _, number in listed], np.int64),
    )


def rows_of(links: LinkTable) -> list[tuple[int, int, float]]:
    return [(left, right, round(score, 4)) for left, right, score in links.tolist()]


def test_several_pairs_of_two_documents_are_one_link_with_the_highest_score() -> None:
    known = references_of(d2=[10, 11], d1=[12])
    links = link_documents(pairs((10, 12, 0.7), (11, 12, 0.9)), known, NO_PAIRS)
    assert rows_of(links) == [(1, 2, 0.9)]


def test_exceptions_are_found_by_a_reference_and_those_of_erased_documents_left_out() -> None:
    known = references_of(d1=[10], d2=[11, 14], d3=[12])
    judged = {("a", "b"), ("a", "erased"), ("b", "stale")}
    # Of "a" a reference is named that this part of the registry lacks.
    references = {"a": (7, 10), "b": (11, 14), "erased": (), "stale": (99,)}
    assert number_exceptions(judged, references, known).tolist() == [[1, 2]]
    assert number_exceptions(set(), {}, known).shape == (0, 2)
