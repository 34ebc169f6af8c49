"""The strongest tree: what holds a graph together, strongest first."""

from __future__ import annotations

from engine.sweeps.spanning import strongest_tree


def test_a_tree_keeps_the_strongest_links() -> None:
    assert strongest_tree(3, [(0, 1), (1, 2), (0, 2)], [0.5, 0.9, 0.8]) == [1, 2]


def test_parts_that_nothing_joins_have_a_tree_each() -> None:
    edges = [(0, 1), (2, 3), (3, 4), (2, 4)]
    assert strongest_tree(5, edges, [0.6, 0.7, 0.7, 0.7]) == [1, 3, 0]
    assert strongest_tree(2, [], []) == []
