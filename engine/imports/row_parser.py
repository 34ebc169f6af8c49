"""Rows of an import file: its columns, every value read, and every fault of a row reported.

No fault holds the value of a cell.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import field
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import Enum, StrEnum

import phonenumbers

from engine.errors import RequestError
from engine.formatting import MARKS, is_visible
from engine.matching.bulk_enrollment import OpenedLine
from engine.matching.documents import (
    DEFAULT_TIME_ZONE,
    CheckedDocument,
    check_document,
    find_date,
    normalise_name,
)
from engine.matching.requests import normalise_msisdn
from engine.registry.accounts import Outlet
from indexes.base import Floats
from schema import frozen
from schema.documents import DOCUMENT_TYPES, MAX_NAME_LENGTH, MAX_NUMBER_LENGTH, Document
from schema.people import MAX_CONSENT_LENGTH, NO_CONSENT, Consent, GivenConsent, read_given
from schema.reasons import FACE_NOT_KEPT, RECORD_DAMAGED, PhotographKind, Reason


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
    CONSENT = "consent"


DEFAULTED = (Field.DOCUMENT_TYPE, Field.CARRIER, Field.OUTLET, Field.OPENED_AT, Field.PORTRAIT_KIND)
"""Fields that may have a default for the rows where they are empty."""
REQUIRED = (Field.DOCUMENT_TYPE, Field.DOCUMENT_NUMBER, Field.NAME)
FACES = (Field.LIVE, Field.PORTRAIT, Field.TEMPLATE)


@frozen
class ColumnMapping:
    """Column names by field, where they differ from the field's name, and default values."""

    names: Mapping[Field, str] = field(default_factory=dict)
    defaults: Mapping[Field, str] = field(default_factory=dict)


@frozen
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
        # Exact matches, or else those that differ in case.
        exact = [place for place, cell in enumerate(cells) if cell == wanted]
        folded = wanted.casefold()
        found = exact or [place for place, cell in enumerate(cells) if cell.casefold() == folded]
        if len(found) > 1:
            raise RequestError(f"two columns are named {wanted}: rename one, or map another")
        if found:
            places[field_], names[field_] = found[0], cells[found[0]]
        elif field_ in mapping.names:
            raise RequestError(f"no column is named {wanted}: check --map {field_}={wanted}")
    _require(places, mapping)
    return Columns(places, names)


def _require(places: Mapping[Field, int], mapping: ColumnMapping) -> None:
    missing = [one for one in REQUIRED if one not in places and one not in mapping.defaults]
    if missing:
        listed = ", ".join(missing)
        chosen = next((one for one in missing if one in DEFAULTED), None)
        raise RequestError(
            f"the file has no column {listed}: its first row must name the columns; map them with "
            f"--map {missing[0]}=COLUMN"
            + ("" if chosen is None else f", or give --set {chosen}=VALUE for all")
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


class Code(Enum):
    """Data faults by code, with their messages; faces, documents and lines have `Reason`s, images
    their error codes."""

    ROW_MALFORMED = "the row has more or fewer cells than the header: quote cells with commas"
    VALUE_MISSING = "the value is missing: fill it in"
    VALUE_TOO_LONG = "the value is too long: shorten it"
    TEXT_INVALID = "the value holds characters that are not text: type it again"
    LINE_BREAK = "the value spans several lines: write it on one, or close the quote"
    DOCUMENT_TYPE_UNKNOWN = "unknown type of document: see the list in docs/import.md"
    DATE_INVALID = "not a date: write it as 2031-01-31"
    TIME_INVALID = "not a time since 1980: write it as 2024-01-31T12:00:00Z"
    TIME_AHEAD = "the time is in the future: check it, and --timezone"
    NUMBER_INVALID = "not a telephone number: write +<country><number>, or give --country"
    OUTLET_UNKNOWN = "no outlet has this code: see `sosie outlet list`"
    OUTLET_RESTRICTED = "the outlet was suspended or barred when the line was opened"
    CARRIER_MISMATCH = "the outlet belongs to another carrier: check both codes"
    FACE_MISSING = "neither a photograph nor a template is given: add one"
    FACE_TWICE = "a template replaces the live photograph: give only one of the two"
    PATH_INVALID = "not a valid file path: check it"
    PATH_OUTSIDE = "the path leads out of the folder: move the file, or give --allow-outside"
    CONSENT_INVALID = "not the record of a consent: write its JSON as docs/people.md has it"
    KIND_UNKNOWN = "unknown kind of photograph: write live, printed or chip"
    FILE_MISSING = "no such file: check the path and --images"
    FILE_UNREADABLE = "the file cannot be read: check that it is a file, and its permissions"
    TEMPLATE_INVALID = "not a template that was issued here to this carrier, or it has expired"
    VECTOR_INVALID = "not a vector of this model: wrong length, or no direction"

    def __str__(self) -> str:
        return self.name


_OTHER_MESSAGES: dict[str, str] = {
    **{reason: reason.refusal for reason in Reason if reason.refusal},
    FACE_NOT_KEPT: "the carrier keeps no faces: enroll its holder at an outlet",
    RECORD_DAMAGED: "what is on record of the document or the number is damaged: run sosie doctor",
}


@frozen
class RowFault:
    """A fault of a row; the row is imported only if none of its faults `is_failure`.

    `field` is None for the row as a whole; `text` replaces the message of the code, and never
    holds a value of the row.
    """

    field: Field | None
    code: Code | str
    is_failure: bool = True
    text: str = ""

    @property
    def message(self) -> str:
        if isinstance(self.code, Code):
            return self.code.value
        return self.text or _OTHER_MESSAGES[self.code]


def is_sound(faults: tuple[RowFault, ...]) -> bool:
    """True where the row can be imported."""
    return not any(fault.is_failure for fault in faults)


@frozen(eq=False)
class RawRow:
    """A row as in the file, numbered from 1 after the header.

    A malformed one has no texts. `vector` float32[n] is the cell of a column of vectors.
    """

    number: int
    texts: Mapping[Field, str] = field(default_factory=dict, repr=False)
    vector: Floats | None = field(default=None, repr=False)
    is_malformed: bool = False


FIRST_OPENING = datetime(1980, 1, 1, tzinfo=UTC)
"""No mobile line is older."""
CLOCK_TOLERANCE = timedelta(hours=1)
_LIMITS = {
    Field.DOCUMENT_NUMBER: MAX_NUMBER_LENGTH,
    Field.NAME: MAX_NAME_LENGTH,
    Field.CONSENT_REF: MAX_CONSENT_LENGTH,
}


@frozen(kw_only=True)
class ReadingTerms:
    """Terms for reading values.

    `defaults` replace empty cells, `zone` applies to times without one, `time_zone` to
    documents of rows whose outlet has none, and `country` (ISO 3166,
    two letters) to telephone numbers without one. The carriers `unkept` keep no face.
    """

    outlets: Mapping[str, Outlet]
    now: datetime
    defaults: Mapping[Field, str] = field(default_factory=dict)
    zone: tzinfo = UTC
    time_zone: str = DEFAULT_TIME_ZONE
    country: str | None = None
    unkept: Container[str] = frozenset()


@frozen(eq=False)
class Row:
    """A parsed row with its faults.

    `checked` is None where the document cannot be checked; `live` and `portrait` are paths,
    `template` a token, all empty where not given. `vector` float32[n] is as in the file.
    """

    number: int
    faults: tuple[RowFault, ...]
    name: str = field(default="", repr=False)
    checked: CheckedDocument | None = None
    line: OpenedLine | None = None
    consent: Consent = NO_CONSENT
    carrier: str = ""
    live: str = field(default="", repr=False)
    portrait: str = field(default="", repr=False)
    portrait_kind: PhotographKind | None = None
    template: str = field(default="", repr=False)
    vector: Floats | None = field(default=None, repr=False)


class RowReader:
    """Parses rows in batches; a bad row is a row with faults."""

    def __init__(self, terms: ReadingTerms) -> None:
        self._terms = terms

    def read(self, raws: Sequence[RawRow]) -> list[Row]:
        """One row for each, in order."""
        return [self._read_one(raw, _Cells(raw, self._terms.defaults)) for raw in raws]

    def _find_date(self, raw: RawRow) -> date:
        """The date at the row's outlet, or that of the deployment's time zone."""
        given, usual = raw.texts.get(Field.OUTLET, ""), self._terms.defaults.get(Field.OUTLET, "")
        outlet = self._terms.outlets.get(given.strip() or usual)
        zone = (outlet.time_zone if outlet else None) or self._terms.time_zone
        return find_date(self._terms.now, zone)

    def _read_one(self, raw: RawRow, cells: _Cells) -> Row:
        if raw.is_malformed:
            return Row(raw.number, (RowFault(None, Code.ROW_MALFORMED),))
        document = self._document(cells)
        checked = None if document is None else check_document(document, self._find_date(raw))
        if checked is not None and not checked.is_well_formed:
            cells.add_fault(Field.DOCUMENT_NUMBER, Reason.DOCUMENT_INVALID)
        line, carrier, kind = self._line(cells), self._carrier(cells), self._kind(cells)
        consent = Consent(cells.text(Field.CONSENT_REF) or None, self._consent(cells))
        live, template = cells.text(Field.LIVE), cells.text(Field.TEMPLATE)
        portrait = cells.text(Field.PORTRAIT)
        if carrier in self._terms.unkept:
            # Before its photograph is looked at.
            cells.add_fault(None, FACE_NOT_KEPT)
        has_template = bool(template) or raw.vector is not None
        if not (live or portrait or has_template):
            cells.add_fault(None, Code.FACE_MISSING)
        elif live and has_template:
            cells.add_fault(Field.TEMPLATE, Code.FACE_TWICE)
        return Row(
            number=raw.number,
            faults=tuple(cells.faults),
            name="" if document is None else document.name,
            checked=checked,
            line=line,
            consent=consent,
            carrier=carrier,
            live=live,
            portrait=portrait,
            portrait_kind=kind,
            template=template,
            vector=raw.vector,
        )

    def _document(self, cells: _Cells) -> Document | None:
        """The document, or None where a part of it is missing or invalid."""
        kind = cells.require(Field.DOCUMENT_TYPE).lower()
        number, name = cells.require(Field.DOCUMENT_NUMBER), cells.require(Field.NAME)
        if kind and kind not in DOCUMENT_TYPES:
            cells.add_fault(Field.DOCUMENT_TYPE, Code.DOCUMENT_TYPE_UNKNOWN)
            kind = ""
        if name and not normalise_name(name):
            cells.add_fault(Field.NAME, Code.TEXT_INVALID)
            name = ""
        expires_on = self._date(cells)
        return Document(kind, number, name, expires_on) if kind and number and name else None

    def _consent(self, cells: _Cells) -> GivenConsent | None:
        text = cells.text(Field.CONSENT)
        try:
            given = read_given(text) if text else None
        except ValueError:
            cells.add_fault(Field.CONSENT, Code.CONSENT_INVALID)
            return None
        if given is not None and given.given_at > self._terms.now:
            cells.add_fault(Field.CONSENT, Code.TIME_AHEAD)
        return given

    def _kind(self, cells: _Cells) -> PhotographKind | None:
        text = cells.text(Field.PORTRAIT_KIND).lower()
        if text and text not in set(PhotographKind):
            cells.add_fault(Field.PORTRAIT_KIND, Code.KIND_UNKNOWN)
            return None
        return PhotographKind(text) if text else None

    def _date(self, cells: _Cells) -> date | None:
        text = cells.text(Field.EXPIRES_ON)
        try:
            # A column of timestamps has days as midnights.
            return datetime.fromisoformat(text).date() if text else None
        except ValueError:
            cells.add_fault(Field.EXPIRES_ON, Code.DATE_INVALID)
            return None

    def _line(self, cells: _Cells) -> OpenedLine | None:
        """The row's line; None where it has none, or an invalid one."""
        text = cells.text(Field.MSISDN)
        if not text:
            return None
        msisdn, opened_at = self._msisdn(text, cells), self._moment(cells)
        outlet = self._outlet(cells)
        since = None if outlet is None else outlet.restricted_at
        # What it opened before is part of the base, and looked at there.
        if since is not None and opened_at is not None and opened_at >= since:
            cells.add_fault(Field.OUTLET, Code.OUTLET_RESTRICTED)
        if msisdn is None or opened_at is None or outlet is None:
            return None
        return OpenedLine(msisdn, outlet.carrier, outlet.code, opened_at)

    def _msisdn(self, text: str, cells: _Cells) -> str | None:
        try:
            if self._terms.country is not None and not text.startswith("+"):
                number = phonenumbers.parse(text, self._terms.country)
                text = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
            return normalise_msisdn(text)
        except (phonenumbers.NumberParseException, RequestError):
            cells.add_fault(Field.MSISDN, Code.NUMBER_INVALID)
            return None

    def _outlet(self, cells: _Cells) -> Outlet | None:
        """The outlet, a closed one too: it may have opened the line when it was open."""
        code, carrier = cells.require(Field.OUTLET), cells.text(Field.CARRIER)
        if not code:
            return None
        outlet = self._terms.outlets.get(code)
        if outlet is None:
            cells.add_fault(Field.OUTLET, Code.OUTLET_UNKNOWN)
        elif carrier and carrier != outlet.carrier:
            cells.add_fault(Field.CARRIER, Code.CARRIER_MISMATCH)
            return None
        return outlet

    def _carrier(self, cells: _Cells) -> str:
        """The carrier of the row, whether or not it has a line."""
        outlet = self._terms.outlets.get(cells.text(Field.OUTLET))
        return outlet.carrier if outlet else cells.text(Field.CARRIER)

    def _moment(self, cells: _Cells) -> datetime | None:
        text = cells.require(Field.OPENED_AT)
        if not text:
            return None
        try:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=self._terms.zone)
            moment = moment.astimezone(UTC)
        except (ValueError, OverflowError):
            moment = datetime.min.replace(tzinfo=UTC)
        if moment < FIRST_OPENING:
            cells.add_fault(Field.OPENED_AT, Code.TIME_INVALID)
        elif moment > self._terms.now + CLOCK_TOLERANCE:
            cells.add_fault(Field.OPENED_AT, Code.TIME_AHEAD)
        else:
            return moment
        return None


class _Cells:
    """The cells of one row, each checked once, and their faults."""

    def __init__(self, raw: RawRow, defaults: Mapping[Field, str]) -> None:
        self._raw = raw
        self._defaults = defaults
        self._checked: dict[Field, str] = {}
        self.faults: list[RowFault] = []

    def add_fault(self, field: Field | None, code: Code | str) -> None:
        self.faults.append(RowFault(field, code))

    def text(self, field: Field) -> str:
        """The stripped text of a cell; empty where it is empty or faulty."""
        if field not in self._checked:
            text = self._raw.texts.get(field, "").strip() or self._defaults.get(field, "")
            fault = _find_fault(field, text)
            if fault is not None:
                self.add_fault(field, fault)
            self._checked[field] = "" if fault is not None else text
        return self._checked[field]

    def require(self, field: Field) -> str:
        count = len(self.faults)
        text = self.text(field)
        if not text and len(self.faults) == count:
            self.add_fault(field, Code.VALUE_MISSING)
        return text


def _find_fault(field: Field, text: str) -> Code | None:
    if "\n" in text or "\r" in text:
        # An open quote may have swallowed rows.
        return Code.LINE_BREAK
    is_name = field is Field.NAME
    if not is_visible(text, MARKS if is_name else "", is_prose=is_name):
        return Code.TEXT_INVALID
    return Code.VALUE_TOO_LONG if len(text) > _LIMITS.get(field, len(text)) else None
