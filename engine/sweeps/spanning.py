"""What holds a graph together: its maximum spanning forest."""

from __future__ import annotations

from collections.abc import Sequence

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
