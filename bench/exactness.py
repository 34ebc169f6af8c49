"""Whether the answers of the exact search are those of brute force: ids and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from bench.bruteforce import Answers, find_best, find_reaching
from bench.report import Figure, Result, Setup
from bench.vectors import Faces, Vectors
from indexes.base import Hits
from indexes.exact.exact8 import Exact8Index
from indexes.gallery import Gallery

SCORE_TOLERANCE = 1e-6
_SINGLES_IN = 16

Ask = Callable[[Vectors], Hits]


def check_exactness(
    segment: Exact8Index,
    gallery: Gallery,
    faces: Faces,
    probes: int,
    k: int,
    threshold: float,
    setup: Setup,
) -> tuple[Result, float]:
    """Shares of probes answered identically, and the least of them.

    `probes` mated ones and as many strangers, in one batch, and every sixteenth by itself too:
    one query has a kernel of its own.
    """
    mates, strangers = faces.sample(probes).probes, faces.strangers(probes)
    queries = np.concatenate([mates, strangers])
    best = find_best(queries, faces.references, k)
    reaching = find_reaching(queries, faces.references, threshold)
    asked: tuple[tuple[str, Answers, Ask], ...] = (
        (f"the gallery, best {k}", best, lambda some: gallery.search(some, k).hits),
        ("the gallery, range", reaching, lambda some: gallery.range_search(some, threshold).hits),
        (f"one segment, best {k}", best, lambda some: segment.search(some, k)),
        ("one segment, range", reaching, lambda some: segment.range_search(some, threshold)),
    )
    figures = []
    for name, right, ask in asked:
        same = np.array(list(_compare(ask(queries), right)))
        alone = [
            next(_compare(ask(queries[one : one + 1]), right, one))
            for one in range(0, len(queries), _SINGLES_IN)
        ]
        parts = (
            ("mated", same[: len(mates)]),
            ("others", same[len(mates) :]),
            ("one by one", np.array(alone)),
        )
        figures += [Figure(f"{name}, {part}", "share", float(x.mean())) for part, x in parts]
    setup = setup | {"mated": len(mates), "others": len(strangers), "threshold": threshold}
    least = min(figure.value for figure in figures if figure.value is not None)
    return Result("Identical to brute force", setup, tuple(figures)), least


def _compare(hits: Hits, right: Answers, first: int = 0) -> Iterator[bool]:
    """Whether each query has the ids, in their order, and the scores that are right."""
    for query in range(len(hits)):
        ids, scores = hits.of(query)
        rows, expected = right.of(first + query)
        yield np.array_equal(ids, rows) and bool(
            (np.abs(scores - expected) <= SCORE_TOLERANCE).all()
        )
