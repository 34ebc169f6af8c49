"""What an operator knows of photographs or people: a CSV of labels, and days of capture."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from engine.accuracy.labelled import LabelledFolder

KEYS = ("photograph", "person")
DATES = "captured_at"
MOST_LABELS = 40
MOST_COLUMNS = 20
DAY = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """A column: `names` of its groups, and `codes` int64[photographs], -1 where none is given."""

    column: str
    names: tuple[str, ...]
    codes: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Attributes:
    """Of every photograph of a folder; `captured_at` datetime64[D], NaT where not known."""

    columns: tuple[Labels, ...]
    captured_at: NDArray[np.datetime64] | None


def read_attributes(path: Path, folder: LabelledFolder) -> Attributes:
    """Reads a CSV whose header has `photograph` (its path in the folder) or `person` (its folder).

    Other columns are labels, an empty cell is unknown; `captured_at` is a day, a month or a year.
    Raises `RequestError` that names the line, never its content.
    """
    header, rows = _read_rows(path)
    key = next((name for name in KEYS if name in header), None)
    if key is None:
        raise RequestError(
            f"{path.name} needs a column `photograph` (its path in the folder) or `person`"
        )
    if key == "person" and DATES in header:
        raise RequestError(f"{path.name}: `{DATES}` is of a photograph: use that column as key")
    places = _list_places(key, folder)
    values: dict[str, list[str]] = {
        name: [""] * len(folder.paths) for name in header if name not in KEYS
    }
    lines = [0] * len(folder.paths)
    seen: set[str] = set()
    for line, row in rows:
        where = f"{path.name}, line {line}"
        if row[key] not in places:
            raise RequestError(f"{where}: the folder has no such {key}")
        if row[key] in seen:
            raise RequestError(f"{where}: this {key} stands there twice")
        seen.add(row[key])
        for place in places[row[key]]:
            lines[place] = line
            for name, cells in values.items():
                cells[place] = row[name].strip()
    days = values.pop(DATES, None)
    if len(values) > MOST_COLUMNS:
        raise RequestError(f"{path.name} has {len(values)} columns: give at most {MOST_COLUMNS}")
    return Attributes(
        tuple(_label(name, cells, path) for name, cells in values.items()),
        None if days is None else _read_days(days, lines, path),
    )


def read_dates(path: Path, folder: LabelledFolder) -> NDArray[np.datetime64]:
    """The column `captured_at` of such a file; `RequestError` where there is none."""
    found = read_attributes(path, folder).captured_at
    if found is None:
        raise RequestError(f"{path.name} needs the columns `photograph` and `{DATES}`")
    return found


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
    """The photographs that a key stands for."""
    places: dict[str, list[int]] = {}
    for place, path in enumerate(folder.paths):
        name = path.relative_to(folder.root).as_posix()
        if key == "person":
            name = folder.names[folder.people[place]]
        places.setdefault(name, []).append(place)
    return places


def _label(column: str, cells: list[str], path: Path) -> Labels:
    names = sorted(set(cells) - {""})
    if not names:
        raise RequestError(f"{path.name}: `{column}` labels nothing: fill it, or leave it out")
    if len(names) > MOST_LABELS:
        raise RequestError(
            f"{path.name}: `{column}` has {len(names)} different labels: "
            f"gather them into at most {MOST_LABELS} groups"
        )
    numbers = {name: number for number, name in enumerate(names)} | {"": -1}
    return Labels(column, tuple(names), np.array([numbers[cell] for cell in cells], np.int64))


def _read_days(cells: list[str], lines: list[int], path: Path) -> NDArray[np.datetime64]:
    days = np.full(len(cells), "NaT", "datetime64[D]")
    for place, cell in enumerate(cells):
        if not cell:
            continue
        try:
            if not DAY.fullmatch(cell):
                raise ValueError
            days[place] = np.datetime64(cell, "D")
        except ValueError:
            raise RequestError(
                f"{path.name}, line {lines[place]}: `{DATES}` holds what is no date: write "
                "2031-01-31, 2031-01 or 2031"
            ) from None
    return days
