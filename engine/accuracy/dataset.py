"""Labelled photographs: a folder per person, extraction, and attributes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.accuracy.photographs import list_photographs
from engine.errors import RequestError
from engine.faces.quality import Quality
from indexes.base import Flags, Floats, Ints, Octets
from schema import frozen

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor


MAX_PHOTOGRAPHS = 20_000
"""All pairs of this many take some 3 GiB."""


@frozen
class LabelledFolder:
    """`paths[i]` shows person `people[i]`, whose folder is `names[people[i]]`; in name order."""

    root: Path
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    people: Ints

    def name(self, place: int) -> str:
        """The photograph's path in the folder."""
        return self.paths[place].relative_to(self.root).as_posix()

    @classmethod
    def open(cls, root: Path) -> LabelledFolder:
        """List the photographs; raises `RequestError` where there is nothing to compare."""
        if not root.is_dir():
            raise RequestError(
                f"{root.name} is not a folder: name one with a folder for each person"
            )
        found = {
            person.name: photographs
            for person in sorted(root.iterdir())
            if person.is_dir() and (photographs := list_photographs(person))
        }
        paths = tuple(path for photographs in found.values() for path in photographs)
        if len(found) < 2:
            raise RequestError(
                f"{len(found)} people found: the folder must hold a folder of photographs "
                "(.jpg, .png, .webp or .jp2) for each of two people or more"
            )
        if len(paths) > MAX_PHOTOGRAPHS:
            raise RequestError(
                f"{len(paths):,} photographs are too many to compare all pairs: "
                f"choose at most {MAX_PHOTOGRAPHS:,}"
            )
        counts = [len(photographs) for photographs in found.values()]
        return cls(root, tuple(found), paths, np.repeat(np.arange(len(found)), counts))


BATCH = 64
QUALITIES = tuple(field.name for field in fields(Quality))
"""The columns of `Embeddings.qualities`."""

Progress = Callable[[int, int], None]
"""Called with the photographs done and the photographs in total."""


@frozen(eq=False)
class Embeddings:
    """Extraction results of a folder, a row per photograph.

    `vectors` float32[n, d]: unit rows, zero where none was acquired; `failed` int64: the indices
    of those. `reasons`: why there is no vector, or the problems of the photograph.
    `qualities` float32[n, 8]: the columns QUALITIES, NaN without a face.
    """

    folder: LabelledFolder
    vectors: Floats
    failed: Ints
    reasons: tuple[tuple[str, ...], ...]
    qualities: Floats

    @property
    def is_failed(self) -> Flags:
        """bool[n]: the photographs without a vector."""
        return np.isin(np.arange(len(self.vectors)), self.failed)

    @property
    def failures(self) -> dict[str, int]:
        """Photographs without a vector, by cause."""
        return _count(self.reasons[place][:1] for place in self.failed)

    @property
    def problems(self) -> dict[str, int]:
        """Photographs with a vector, by problem; a photograph may have several."""
        return _count(self.reasons[place] for place in self.places)

    @property
    def places(self) -> Ints:
        """int64[acquired], rising: the photographs with a vector."""
        return np.flatnonzero(~self.is_failed)

    def acquired(self) -> tuple[Floats, Ints]:
        """The acquired vectors, and their people by the folder's numbers."""
        places = self.places
        return self.vectors[places], self.folder.people[places]


def embed_folder(
    folder: LabelledFolder, extractor: Extractor, progress: Progress | None = None
) -> Embeddings:
    """Extract every photograph; failures to acquire are counted, never raised."""
    count = len(folder.paths)
    vectors = np.zeros((count, extractor.dim), np.float32)
    qualities = np.full((count, len(QUALITIES)), np.nan, np.float32)
    failed: list[int] = []
    reasons: list[tuple[str, ...]] = []
    for start in range(0, count, BATCH):
        images = [_read(path) for path in folder.paths[start : start + BATCH]]
        for place, one in enumerate(extractor.extract(images), start):
            if isinstance(one, Exception):
                failed.append(place)
                reasons.append((one.code,))
                continue
            reasons.append(tuple(map(str, one.problems)))
            if one.vector is None or one.quality is None:
                failed.append(place)
                continue
            vectors[place] = one.vector
            qualities[place] = astuple(one.quality)
        if progress:
            progress(start + len(images), count)
    return Embeddings(folder, vectors, np.array(failed, dtype=np.int64), tuple(reasons), qualities)


CONTRACT_PEOPLE = 60
"""So many people, two photographs of each, tell whether an input contract is the right one."""


def take_crops(folder: LabelledFolder, extractor: Extractor) -> tuple[Octets, Ints]:
    """Aligned faces uint8[n, side, side, 3] and whose they are, int64[n]: two of each person."""
    places: list[int] = []
    for person in range(len(folder.names)):
        of_person = np.flatnonzero(folder.people == person)
        if len(of_person) > 1 and len(places) < 2 * CONTRACT_PEOPLE:
            places += of_person[:2].tolist()
    extracted = extractor.extract([_read(folder.paths[place]) for place in places])
    faces = [
        (one.crop, folder.people[place])
        for place, one in zip(places, extracted, strict=True)
        if not isinstance(one, Exception) and one.crop is not None
    ]
    if len(faces) < 2:
        raise RequestError("no faces of two people were found in these photographs: give others")
    return np.stack([crop for crop, _ in faces]), np.array([person for _, person in faces])


def _read(path: Path) -> bytes:
    """The file's bytes; empty where it cannot be read, which the extractor calls damaged."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _count(reasons: Iterable[tuple[str, ...]]) -> dict[str, int]:
    counted = Counter(reason for each in reasons for reason in each)
    return dict(counted.most_common())


KEYS = ("photograph", "person")
MAX_LABELS = 40
MAX_COLUMNS = 20


@frozen(eq=False)
class Labels:
    """A column: `names` of its groups, and `codes` int64[photographs], -1 without a label."""

    column: str
    names: tuple[str, ...]
    codes: Ints


def read_attributes(path: Path, folder: LabelledFolder) -> tuple[Labels, ...]:
    """Read a CSV with a column `photograph` (path in the folder) or `person` (name of the folder).

    Other columns are labels, an empty cell is unknown. Raises `RequestError` with the line, never
    its content.
    """
    header, rows = _read_rows(path)
    key = next((name for name in KEYS if name in header), None)
    if key is None:
        raise RequestError(
            f"{path.name} needs a column `photograph` (its path in the folder) or `person`"
        )
    places = _list_places(key, folder)
    values: dict[str, list[str]] = {
        name: [""] * len(folder.paths) for name in header if name not in KEYS
    }
    seen: set[str] = set()
    for line, row in rows:
        where = f"{path.name}, line {line}"
        if row[key] not in places:
            raise RequestError(f"{where}: the folder has no such {key}")
        if row[key] in seen:
            raise RequestError(f"{where}: this {key} appears twice")
        seen.add(row[key])
        for place in places[row[key]]:
            for name, cells in values.items():
                cells[place] = row[name].strip()
    if len(values) > MAX_COLUMNS:
        raise RequestError(f"{path.name} has {len(values)} columns: give at most {MAX_COLUMNS}")
    return tuple(_label(name, cells, path) for name, cells in values.items())


def _read_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise RequestError(f"{path.name} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path.name} can't be read as text: give a CSV in UTF-8") from error
    table = list(csv.reader(lines))
    header = [name.strip() for name in table[0]] if table else []
    if len(header) < 2 or len(set(header)) < len(header) or not all(header):
        raise RequestError(
            f"{path.name} needs a first line that names two columns or more, each once"
        )

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for line, cells in enumerate(table[1:], 2):
            if not cells:
                continue
            if len(cells) != len(header):
                raise RequestError(
                    f"{path.name}, line {line}: {len(cells)} cells, the header has {len(header)}"
                )
            yield line, dict(zip(header, cells, strict=True))

    return header, rows()


def _list_places(key: str, folder: LabelledFolder) -> Mapping[str, list[int]]:
    """Indices of the photographs by key."""
    places: dict[str, list[int]] = {}
    for place, person in enumerate(folder.people):
        name = folder.names[person] if key == "person" else folder.name(place)
        places.setdefault(name, []).append(place)
    return places


def _label(column: str, cells: list[str], path: Path) -> Labels:
    names = sorted(set(cells) - {""})
    if not names:
        raise RequestError(f"{path.name}: `{column}` has no labels: fill it, or leave it out")
    if len(names) > MAX_LABELS:
        raise RequestError(
            f"{path.name}: `{column}` has {len(names)} different labels: "
            f"gather them into at most {MAX_LABELS} groups"
        )
    numbers = {name: number for number, name in enumerate(names)} | {"": -1}
    return Labels(column, tuple(names), np.array([numbers[cell] for cell in cells], np.int64))
