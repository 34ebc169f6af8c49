"""The ten best of a gallery by one thread: the search of a deployment beside FAISS."""

from __future__ import annotations

from functools import cache, partial
from itertools import count, cycle

import faiss
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


# A reference more in a full gallery, and one less, beside FAISS's plain array.

PLAIN_FLAT, OURS = "FAISS Flat", "the gallery"

_NEWCOMERS = 512
_FAR_ID = 1 << 40


def list_changes(sizes: Sizes) -> list[Action]:
    """An add, and an add with its removal; both are visible to the next search."""
    references = max(1_000, sizes.rows // _SHARE)
    setup = {"references": references, "dim": sizes.dim, "seed": sizes.seed}
    kinds = (
        ("An add, by pytest-benchmark", PLAIN_FLAT, _prepare_flat_add),
        ("An add, by pytest-benchmark", OURS, _prepare_add),
        ("An add and its removal, by pytest-benchmark", OURS, _prepare_add_and_removal),
    )
    return [
        Action(result=result, who=who, prepare=partial(prepare, sizes, references), setup={**setup})
        for result, who, prepare in kinds
    ]


def _draw(sizes: Sizes, references: int) -> tuple[Faces, Vectors]:
    faces = Faces(references, sizes.dim, sizes.seed)
    return faces, faces.newcomers(_NEWCOMERS)


def _prepare_flat_add(sizes: Sizes, references: int) -> Prepared:
    """No id, no lock, no look for what is there already: the least that an add must do."""
    faces, newcomers = _draw(sizes, references)
    index, numbers = faiss.IndexFlatIP(sizes.dim), count()
    index.add(faces.references)

    def add() -> int:
        place = next(numbers) % _NEWCOMERS
        index.add(newcomers[place : place + 1])
        return place

    return add, lambda _: index.ntotal > references


def _prepare_add(sizes: Sizes, references: int) -> Prepared:
    faces, newcomers = _draw(sizes, references)
    gallery, numbers = build_gallery(faces.references, Scanner(threads=1))[0], count()

    def add() -> int:
        number = next(numbers)
        place = number % _NEWCOMERS
        ids = np.array([_FAR_ID + number])
        gallery.add(ids, newcomers[place : place + 1], gallery.sequence + 1)
        return number

    def is_found(number: int) -> bool:
        place = number % _NEWCOMERS
        hits = gallery.search(newcomers[place : place + 1], _NEWCOMERS).hits
        return _FAR_ID + number in hits.ids

    return add, is_found


def _prepare_add_and_removal(sizes: Sizes, references: int) -> Prepared:
    faces, newcomers = _draw(sizes, references)
    gallery, numbers = build_gallery(faces.references, Scanner(threads=1))[0], count()

    def change() -> None:
        number = next(numbers)
        place, ids = number % _NEWCOMERS, np.array([_FAR_ID + number])
        gallery.add(ids, newcomers[place : place + 1], gallery.sequence + 1)
        gallery.remove(ids, gallery.sequence + 1)

    return change, lambda _: len(gallery) == references
