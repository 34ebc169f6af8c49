"""People with two photographs each, who come to enroll over HTTP or in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.counter import make_document
from bench.photographs import LFW, find_faces, open_pairs
from engine.accuracy.labelled import LabelledFolder
from engine.errors import RequestError
from engine.matching.documents import Document

FIRST_SERIAL = 5_000_000
"""Of the documents of photographed people: synthetic ones come before."""


@dataclass(frozen=True, slots=True)
class Person:
    """Someone with a document of their own; the photographs are files as a camera writes them."""

    document: Document = field(repr=False)
    live: bytes = field(repr=False)
    portrait: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Crowd:
    """People, whose faces differ unless the crowd `has_one_face`."""

    people: tuple[Person, ...]
    source: str
    has_one_face: bool = False

    def __len__(self) -> int:
        return len(self.people)


def draw_people(faces: Path | None, count: int, seed: int) -> Crowd:
    """Up to `count` different people of a folder in LFW's layout, two photographs each.

    Without photographs: portraits of one face, which costs the same work.
    """
    if faces is None and not (LFW / "images").is_dir():
        with open_pairs(None, count, seed) as made:
            return Crowd(_introduce(made.pairs), made.source, has_one_face=True)
    folder = LabelledFolder.open(find_faces(faces))
    pairs = []
    for person in np.random.default_rng(seed).permutation(len(folder.names)).tolist():
        mine = np.flatnonzero(folder.people == person)
        if len(mine) >= 2:
            pairs.append((folder.paths[mine[0]], folder.paths[mine[1]]))
        if len(pairs) == count:
            break
    if not pairs:
        raise RequestError(f"nobody in {folder.root} has two photographs: give others as --faces")
    return Crowd(_introduce(pairs), f"{folder.root.parent.name}/{folder.root.name}")


def _introduce(pairs: Sequence[tuple[Path, Path]]) -> tuple[Person, ...]:
    return tuple(
        Person(make_document(FIRST_SERIAL + place), one.read_bytes(), other.read_bytes())
        for place, (one, other) in enumerate(pairs)
    )
