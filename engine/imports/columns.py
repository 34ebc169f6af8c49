"""Columns of an import file, and the fields that they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.errors import RequestError
from engine.imports.faults import Field

DEFAULTED = (Field.DOCUMENT_TYPE, Field.CARRIER, Field.OUTLET, Field.OPENED_AT, Field.PORTRAIT_KIND)
"""Fields that may have a default for the rows where they are empty."""
REQUIRED = (Field.DOCUMENT_TYPE, Field.DOCUMENT_NUMBER, Field.NAME)
FACES = (Field.LIVE, Field.PORTRAIT, Field.TEMPLATE)


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Column names by field, where they differ from the field's name, and default values."""

    names: Mapping[Field, str] = field(default_factory=dict)
    defaults: Mapping[Field, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Columns:
    """Zero-based positions and names of the columns, by field."""

    places: Mapping[Field, int]
    names: Mapping[Field, str]

    def name(self, field: Field | None) -> str:
        """The file's name of a column; empty for None."""
        return "" if field is None else self.names.get(field, field.value)


def find_columns(header: Sequence[str], mapping: ColumnMapping) -> Columns:
    """Find the fields in a file's header, ignoring case.

    `RequestError` names a field, never a cell: a file without a header has personal data in its
    first row.
    """
    places: dict[Field, int] = {}
    names: dict[Field, str] = {}
    cells = [cell.strip() for cell in header]
    for field_ in Field:
        wanted = mapping.names.get(field_, field_.value)
        found = _find(cells, wanted)
        if len(found) > 1:
            raise RequestError(f"two columns are named {wanted}: rename one, or map another")
        if found:
            places[field_], names[field_] = found[0], cells[found[0]]
        elif field_ in mapping.names:
            raise RequestError(f"no column is named {wanted}: check --map {field_}={wanted}")
    _require(places, mapping)
    return Columns(places, names)


def _find(cells: Sequence[str], wanted: str) -> list[int]:
    """Columns of this name: exact matches, or else those that differ in case."""
    exact = [place for place, cell in enumerate(cells) if cell == wanted]
    folded = wanted.casefold()
    return exact or [place for place, cell in enumerate(cells) if cell.casefold() == folded]


def _require(places: Mapping[Field, int], mapping: ColumnMapping) -> None:
    missing = [one for one in REQUIRED if one not in places and one not in mapping.defaults]
    if missing:
        listed = ", ".join(missing)
        raise RequestError(
            f"the file has no column {listed}: its first row must name the columns; map them with "
            f"--map {missing[0]}=COLUMN" + _suggest_default(missing)
        )
    if not any(one in places for one in FACES):
        raise RequestError(
            "the file has no column live, portrait or template: map one with --map live=COLUMN"
        )
    for one, what, example in (
        (Field.OUTLET, "an outlet", "CODE"),
        (Field.OPENED_AT, "the time of their opening", "DAY"),
    ):
        if Field.MSISDN in places and one not in places and one not in mapping.defaults:
            raise RequestError(
                f"lines need {what}: map a column with --map {one}=COLUMN, "
                f"or give --set {one}={example}"
            )


def _suggest_default(missing: Sequence[Field]) -> str:
    chosen = next((one for one in missing if one in DEFAULTED), None)
    return "" if chosen is None else f", or give --set {chosen}=VALUE for all"
