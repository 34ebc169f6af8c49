"""The ten best of a gallery by one thread: the search of a deployment beside FAISS."""

from __future__ import annotations

from functools import cache, partial
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from bench.data.vectors import Answers, Faces, Vectors, find_best
from bench.micro.micro_runner import Action, Prepared, Sizes
from bench.suites.baselines import (
    FLAT,
    FLAT_BLAS,
    GALLERY,
    Searcher,
    build_flat,
    build_gallery,
    mix,
)
from indexes.exact.scanner import Scanner

_K = 10
_SHARE = 4


def list_searches(sizes: Sizes) -> list[Action]:
    """One query after the other, and a batch."""
    references = max(1_000, sizes.rows // _SHARE)
    found = []
    for name, queries in (("One query", 1), (f"A batch of {sizes.queries}", sizes.queries)):
        for who in (FLAT, FLAT_BLAS, GALLERY):
            found.append(
                Action(
                    result=f"{name}, by pytest-benchmark, one thread",
                    who=who,
                    prepare=partial(_prepare, sizes, references, who, queries),
                    setup={"references": references, "dim": sizes.dim, "k": _K, "batch": queries},
                )
            )
    return found


@cache
def _open(sizes: Sizes, references: int) -> tuple[dict[str, Searcher], Vectors, Answers]:
    """Everybody's index of the same faces, the probes, and what is right."""
    faces = Faces(references, sizes.dim, sizes.seed)
    probes = mix(faces, sizes.queries)
    searchers = [
        *build_flat(faces.references),
        build_gallery(faces.references, Scanner(threads=1))[1],
    ]
    right = find_best(probes, faces.references, _K)
    return {one.name: one for one in searchers}, probes, right


def _prepare(sizes: Sizes, references: int, who: str, count: int) -> Prepared:
    searchers, probes, right = _open(sizes, references)
    best = searchers[who].best
    # FAISS lets a tie or a last digit fall either way: the best one is asked for.
    firsts = np.array([right.of(query)[0][0] for query in range(len(probes))])
    if count > 1:
        return partial(best, probes, _K), lambda found: bool((found[:, 0] == firsts).all())
    places = cycle(range(len(probes)))

    def ask() -> tuple[int, NDArray[np.int64]]:
        place = next(places)
        return place, best(probes[place : place + 1], _K)

    return ask, lambda asked: bool(asked[1][0, 0] == firsts[asked[0]])
