"""A reference more in a full gallery, and one less, beside FAISS's plain array."""

from __future__ import annotations

from functools import partial
from itertools import count

import faiss
import numpy as np

from bench.micro.actions import Action, Prepared, Sizes
from bench.searchers import build_gallery
from bench.vectors import Faces, Vectors
from indexes.exact.scanner import Scanner

FLAT, OURS = "FAISS Flat", "the gallery"

_SHARE = 4
_NEWCOMERS = 512
_FAR_ID = 1 << 40


def list_changes(sizes: Sizes) -> list[Action]:
    """An add, and an add with its removal; both are visible to the next search."""
    references = max(1_000, sizes.rows // _SHARE)
    setup = {"references": references, "dim": sizes.dim, "seed": sizes.seed}
    kinds = (
        ("An add, by pytest-benchmark", FLAT, _prepare_flat_add),
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
