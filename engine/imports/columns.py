"""Columns of an import file, the fields that they hold, and the faults of a row: none holds the
value of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from engine.errors import ImageError, RequestError
from schema.reasons import RECORD_DAMAGED, Reason


class Field(StrEnum):
    """A field of a subscriber; the columns of a file are mapped to these."""

    DOCUMENT_TYPE = "document_type"
    DOCUMENT_NUMBER = "document_number"
    NAME = "name"
    EXPIRES_ON = "expires_on"
    MSISDN = "msisdn"
    CARRIER = "carrier"
    OUTLET = "outlet"
    OPENED_AT = "opened_at"
    LIVE = "live"
    PORTRAIT = "portrait"
    PORTRAIT_KIND = "portrait_kind"
    TEMPLATE = "template"
    CONSENT_REF = "consent_ref"


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


class Code(StrEnum):
    """Codes of data faults; faces, documents and lines have `Reason`s, images their error codes."""

    ROW_MALFORMED = "ROW_MALFORMED"
    VALUE_MISSING = "VALUE_MISSING"
    VALUE_TOO_LONG = "VALUE_TOO_LONG"
    TEXT_INVALID = "TEXT_INVALID"
    LINE_BREAK = "LINE_BREAK"
    DOCUMENT_TYPE_UNKNOWN = "DOCUMENT_TYPE_UNKNOWN"
    DATE_INVALID = "DATE_INVALID"
    TIME_INVALID = "TIME_INVALID"
    TIME_AHEAD = "TIME_AHEAD"
    NUMBER_INVALID = "NUMBER_INVALID"
    OUTLET_UNKNOWN = "OUTLET_UNKNOWN"
    OUTLET_RESTRICTED = "OUTLET_RESTRICTED"
    CARRIER_MISMATCH = "CARRIER_MISMATCH"
    FACE_MISSING = "FACE_MISSING"
    FACE_TWICE = "FACE_TWICE"
    PATH_INVALID = "PATH_INVALID"
    PATH_OUTSIDE = "PATH_OUTSIDE"
    KIND_UNKNOWN = "KIND_UNKNOWN"
    FILE_MISSING = "FILE_MISSING"
    FILE_UNREADABLE = "FILE_UNREADABLE"
    TEMPLATE_INVALID = "TEMPLATE_INVALID"
    VECTOR_INVALID = "VECTOR_INVALID"


MESSAGES: dict[str, str] = {
    Code.ROW_MALFORMED: "the row has more or fewer cells than the header: quote cells with commas",
    Code.VALUE_MISSING: "the value is missing: fill it in",
    Code.VALUE_TOO_LONG: "the value is too long: shorten it",
    Code.TEXT_INVALID: "the value holds characters that are not text: type it again",
    Code.LINE_BREAK: "the value spans several lines: write it on one, or close the quote",
    Code.DOCUMENT_TYPE_UNKNOWN: "unknown type of document: see the list in docs/import.md",
    Code.DATE_INVALID: "not a date: write it as 2031-01-31",
    Code.TIME_INVALID: "not a time since 1980: write it as 2024-01-31T12:00:00Z",
    Code.TIME_AHEAD: "the time is in the future: check it, and --timezone",
    Code.NUMBER_INVALID: "not a telephone number: write +<country><number>, or give --country",
    Code.OUTLET_UNKNOWN: "no outlet has this code: see `sosie outlet list`",
    Code.OUTLET_RESTRICTED: "the outlet was suspended or barred when the line was opened",
    Code.CARRIER_MISMATCH: "the outlet belongs to another carrier: check both codes",
    Code.FACE_MISSING: "neither a photograph nor a template is given: add one",
    Code.FACE_TWICE: "a template replaces the live photograph: give only one of the two",
    Code.PATH_INVALID: "not a valid file path: check it",
    Code.PATH_OUTSIDE: "the path leads out of the folder: move the file, or give --allow-outside",
    Code.KIND_UNKNOWN: "unknown kind of photograph: write live, printed or chip",
    Code.FILE_MISSING: "no such file: check the path and --images",
    Code.FILE_UNREADABLE: "the file cannot be read: check that it is a file, and its permissions",
    Code.TEMPLATE_INVALID: "not a template that was issued here to this carrier, or it has expired",
    Code.VECTOR_INVALID: "not a vector of this model: wrong length, or no direction",
    **{reason: reason.refusal for reason in Reason if reason.refusal},
    RECORD_DAMAGED: "what is on record of the document or the number is damaged: run sosie doctor",
}


@dataclass(frozen=True, slots=True)
class RowFault:
    """A fault of a row; the row is imported only if none of its faults `is_failure`.

    `field` is None for the row as a whole; `text` replaces the message of the code, and never
    holds a value of the row.
    """

    field: Field | None
    code: str
    is_failure: bool = True
    text: str = ""

    @property
    def message(self) -> str:
        return self.text or MESSAGES[self.code]

    @classmethod
    def of_image(cls, field: Field, error: ImageError) -> RowFault:
        """The fault of a file that could not be decoded."""
        return cls(field, error.code, text=str(error))


def is_sound(faults: tuple[RowFault, ...]) -> bool:
    """True where the row can be imported."""
    return not any(fault.is_failure for fault in faults)
