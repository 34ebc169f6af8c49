"""Photographs of known people on disk: a folder a person, and LFW's file of pairs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MOST_PHOTOGRAPHS = 20_000
"""All pairs of so many take some 3 GiB."""
NUMBER = re.compile(r"_(\d+)$")


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """`paths[i]` shows person `people[i]`, whose folder is `names[people[i]]`; in name order."""

    root: Path
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    people: NDArray[np.int64]

    @classmethod
    def open(cls, root: Path) -> LabelledFolder:
        """List the photographs; raises `RequestError` where there is nothing to compare."""
        if not root.is_dir():
            raise RequestError(f"{root.name} is not a folder: name one that has a folder a person")
        found = {
            person.name: photographs
            for person in sorted(root.iterdir())
            if person.is_dir() and (photographs := _list_photographs(person))
        }
        paths = tuple(path for photographs in found.values() for path in photographs)
        if len(found) < 2:
            raise RequestError(
                f"{len(found)} people found: the folder must hold a folder of photographs "
                "(.jpg, .png or .webp) for each of two people or more"
            )
        if len(paths) > MOST_PHOTOGRAPHS:
            raise RequestError(
                f"{len(paths):,} photographs are too many to compare all pairs: "
                f"choose at most {MOST_PHOTOGRAPHS:,}"
            )
        counts = [len(photographs) for photographs in found.values()]
        return cls(root, tuple(found), paths, np.repeat(np.arange(len(found)), counts))


@dataclass(frozen=True, slots=True)
class PairFolds:
    """Pairs of photographs of `LabelledFolder.paths`, in folds of half mated, half non-mated.

    `photographs` int64[p, 2], `is_mated` bool[p], `fold` int64[p] from 0.
    """

    photographs: NDArray[np.int64]
    is_mated: NDArray[np.bool_]
    fold: NDArray[np.int64]

    @classmethod
    def read(cls, path: Path, folder: LabelledFolder) -> PairFolds:
        """Read LFW's `pairs.txt`; raises `RequestError` naming the first line that is wrong."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"the pairs file {path.name} can't be read as text") from error
        folds, size = _read_header(lines, path)
        places = _number_photographs(folder)
        rows = [line.split() for line in lines[1:] if line.strip()]
        if len(rows) != folds * size * 2:
            raise RequestError(
                f"{path.name} promises {folds} folds of {size} mated and {size} non-mated pairs, "
                f"but holds {len(rows)} pairs"
            )
        pairs = [
            _find_pair(row, places, f"{path.name}, pair {i + 1}") for i, row in enumerate(rows)
        ]
        photographs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        people = folder.people[photographs]
        return cls(photographs, people[:, 0] == people[:, 1], np.repeat(np.arange(folds), size * 2))


def _list_photographs(person: Path) -> list[Path]:
    return sorted(path for path in person.iterdir() if path.suffix.lower() in SUFFIXES)


def _read_header(lines: list[str], path: Path) -> tuple[int, int]:
    """The number of folds, and of mated pairs in each; LFW's ten folds need two at least."""
    header = lines[0].split() if lines else []
    if len(header) != 2 or not all(field.isdigit() for field in header):
        raise RequestError(
            f"{path.name} must begin with the number of folds and of mated pairs in each, "
            "as in LFW's pairs.txt"
        )
    folds, size = map(int, header)
    if folds < 2 or size < 1:
        raise RequestError(f"{path.name} needs two folds or more, and a pair in each")
    return folds, size


def _number_photographs(folder: LabelledFolder) -> dict[tuple[str, int], int]:
    """Where the photograph `name_0007.jpg` of `name` is, by name and number."""
    numbered = ((place, NUMBER.search(path.stem)) for place, path in enumerate(folder.paths))
    return {
        (folder.paths[place].parent.name, int(number[1])): place
        for place, number in numbered
        if number
    }


def _find_pair(row: list[str], places: dict[tuple[str, int], int], where: str) -> tuple[int, int]:
    match row:
        case [name, one, other] if one.isdigit() and other.isdigit():
            wanted = (name, int(one)), (name, int(other))
        case [name, one, stranger, other] if one.isdigit() and other.isdigit():
            wanted = (name, int(one)), (stranger, int(other))
        case _:
            raise RequestError(f"{where}: expected `name i j` or `name i name j`")
    if not all(photograph in places for photograph in wanted):
        raise RequestError(f"{where}: the folder has no such photograph")
    return places[wanted[0]], places[wanted[1]]
