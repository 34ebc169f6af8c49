"""Lists for a law or a regulator: people with more lines than allowed, outlets by confirmed fraud.

A person is what the registry can say: the holder of a document, and of several documents where
people decided that they show one person (fraud), as long as that decision stands. What stands in a
list is its layout's: a limit, and the columns in order; an operator's own is a TOML file.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from engine.cases.decided import read_decided
from engine.cases.steps import Revealed
from engine.errors import FourEyes, RequestError
from engine.formatting import mask_name, mask_number
from engine.registry.audit import AuditEntry, read_audit
from engine.registry.cases import CaseRecord
from engine.registry.database import utc_now
from engine.registry.lines import LineRecord
from engine.registry.queues import CaseFilter
from engine.registry.rows import read_apart
from engine.registry.store import Reader, Store
from engine.spreadsheets import save_table
from engine.sweeps.groups import group_connected
from schema import frozen
from schema.actors import Actor, fold_person
from schema.cases import CaseState, Outcome
from schema.decoding import StrictValue
from schema.lines import LineStatus
from schema.reasons import Decision

Mask = Callable[[str], str]
"""How a name or a number is shown."""
Row = dict[str, Any]

_TEXT, _COUNT, _MOMENT = pa.string(), pa.int64(), pa.timestamp("us", "UTC")
PERSON_FIELDS: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("person", "person_lines", "person_documents", "person_carriers"), _COUNT),
    **dict.fromkeys(("document", "document_type", "document_number", "name", "line"), _TEXT),
    **dict.fromkeys(("number", "carrier", "carrier_name", "outlet", "status"), _TEXT),
    "lines_over": _COUNT,
    "cases": pa.list_(_TEXT),
    "opened_at": _MOMENT,
}
OUTLET_FIELDS: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("carrier", "carrier_name", "outlet"), _TEXT),
    **dict.fromkeys(("cases", "documents", "lines", "lines_in_use", "outlet_lines"), _COUNT),
    **dict.fromkeys(("first_opened", "last_opened"), _MOMENT),
    "refused_attempts": _COUNT,
    "is_open": pa.bool_(),
    "case_ids": pa.list_(_TEXT),
    "share": pa.float64(),
}
"""Fields that a layout may name, and what stands in them."""
_PAGE = 1_000


BUILT_IN = {"people": ("india", "indonesia", "philippines"), "outlets": ("outlets",)}
"""Names of built-in layouts by what they list; they lie beside this module."""


class Scope(StrEnum):
    """Over which lines a person's are counted."""

    ALL_CARRIERS = "all_carriers"
    EACH_CARRIER = "each_carrier"


class Layout(StrictValue):
    """The layout of a list: `columns` are headings with the field that stands under each.

    Of people: those with more than `most_lines` lines in use. Of outlets: those with at least
    `least_cases` cases of confirmed fraud.
    """

    lists: str
    title: str
    columns: Mapping[str, str]
    most_lines: int = 0
    scope: Scope = Scope.ALL_CARRIERS
    least_cases: int = 1


def read_layout(name: str, lists: str, fields: Collection[str]) -> Layout:
    """A built-in layout by its name, or one of a file; `RequestError` for what is none, or has a
    column that is none of `fields`."""
    names = BUILT_IN[lists]
    source = files("engine.statutory") / f"{name}.toml" if name in names else Path(name)
    try:
        layout = msgspec.toml.decode(source.read_text("utf-8"), type=Layout)
    except msgspec.DecodeError as error:
        raise RequestError(f"{name} is no layout of a list: {error}") from None
    except (OSError, ValueError):
        raise RequestError(
            f"{name} is no layout: name one of {', '.join(names)}, or a TOML file as "
            "docs/sweeps.md shows"
        ) from None
    if layout.lists != lists:
        raise RequestError(f"{name} lists {layout.lists}: give a layout that lists {lists}")
    unknown = sorted(set(layout.columns.values()) - set(fields))
    if unknown or not layout.columns:
        raise RequestError(
            f"{name} has columns that are not known ({', '.join(unknown) or 'none at all'}): "
            f"take {', '.join(sorted(fields))}"
        )
    return layout


@frozen
class List:
    """Rows by field, and whom they are about: `subjects` are documents, or outlets."""

    rows: Sequence[Row] = field(repr=False)
    people: int
    subjects: Sequence[str]


_Person = tuple[Sequence[str], Sequence[LineRecord]]
"""Documents of one person, and their lines in use within a scope."""


def list_people(registry: Reader, layout: Layout, name: Mask, number: Mask) -> List:
    """A row for each line of everybody with more lines in use than `layout.most_lines`; most
    lines first."""
    decided = read_decided(registry)
    fraud = [pair for pair, outcome in decided.standing.items() if outcome is Outcome.FRAUD]
    is_each = layout.scope is Scope.EACH_CARRIER

    def scope_of(line: LineRecord) -> str:
        return line.carrier if is_each else ""

    crowded = registry.facts.crowded_documents(layout.most_lines, is_each)
    joined = {key for pair in fraud for key in pair}
    lines = read_apart(sorted({*crowded, *joined}), registry.lines_in_use_of)
    ids = sorted(lines)
    places = {key: place for place, key in enumerate(ids)}
    edges = [(places[a], places[b]) for a, b in fraud if places.keys() >= {a, b}]
    persons = [
        (documents, own)
        for documents in map(tuple, group_connected(ids, edges))
        for _, some in groupby(
            sorted((line for key in documents for line in lines[key]), key=scope_of), key=scope_of
        )
        if len(own := list(some)) > layout.most_lines
    ]
    persons.sort(key=lambda one: (-len(one[1]), one[0]))
    rows = _describe_people(registry, persons, layout.most_lines, name, number)
    return List(rows, len(persons), sorted({key for documents, _ in persons for key in documents}))


def _describe_people(
    registry: Reader, persons: Sequence[_Person], most: int, name: Mask, number: Mask
) -> list[Row]:
    ids = sorted({key for documents, _ in persons for key in documents})
    records, identities = read_apart(ids, registry.documents_by_id), registry.identities(ids)
    numbers = registry.numbers([line.id for _, lines in persons for line in lines])
    cases, names = read_apart(ids, registry.cases.of), registry.carrier_names()
    kinds = {key: one.kind for key, one in records.items()}
    rows = []
    for place, (documents, lines) in enumerate(persons, 1):
        of_person = {
            "person": place,
            "person_lines": len(lines),
            "person_documents": len(documents),
            "person_carriers": len({line.carrier for line in lines}),
            "lines_over": len(lines) - most,
            "cases": sorted({case.id for key in documents for case in cases.get(key, ())}),
        }
        for line in lines:
            identity = identities.get(line.document_id)
            own = {
                "document": line.document_id,
                "document_type": kinds.get(line.document_id),
                "document_number": None if identity is None else number(identity.number),
                "name": None if identity is None else name(identity.name),
                "line": line.id,
                "number": number(numbers[line.id]) if line.id in numbers else None,
                "carrier": line.carrier,
                "carrier_name": names.get(line.carrier, line.carrier),
                "outlet": line.outlet,
                "opened_at": line.opened_at,
                "status": line.state.value,
            }
            rows.append(of_person | own)
    return rows


@dataclass(slots=True)
class _Sales:
    """An outlet's part in confirmed fraud."""

    cases: set[str] = field(default_factory=set)
    documents: set[str] = field(default_factory=set)
    lines: dict[str, LineRecord] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)


def list_outlets(registry: Reader, layout: Layout) -> List:
    """A row for each outlet where people of confirmed fraud opened lines or tried to; most cases
    first."""
    closed = registry.cases.whole_queue(CaseFilter(state=CaseState.CLOSED))
    frauds = [case for case in closed if case.outcome is Outcome.FRAUD]
    ids = sorted({key for case in frauds for key in _suspects(case)})
    lines, attempts = read_apart(ids, registry.lines_of_each), registry.attempts_of(ids, _PAGE)
    sales: dict[tuple[str, str], _Sales] = defaultdict(_Sales)
    for case in frauds:
        for key in _suspects(case):
            refused = [one for one in attempts[key] if one.decision != Decision.APPROVED]
            for one in (*lines.get(key, ()), *refused):
                sold = sales[one.carrier, one.outlet]
                sold.cases.add(case.id)
                sold.documents.add(key)
                if isinstance(one, LineRecord):
                    sold.lines[one.id] = one
                else:
                    sold.refused.add(one.id)
    kept = {key: one for key, one in sales.items() if len(one.cases) >= layout.least_cases}
    rows = _describe_outlets(registry, kept)
    return List(
        rows,
        len({key for one in kept.values() for key in one.documents}),
        sorted(outlet for _, outlet in kept),
    )


def _suspects(case: CaseRecord) -> Sequence[str]:
    """The suspects of a fraud; a ring of resold lines has none, and is about its documents."""
    return case.suspect_ids or case.document_ids


def _describe_outlets(registry: Reader, sales: Mapping[tuple[str, str], _Sales]) -> list[Row]:
    known = read_apart([outlet for _, outlet in sales], registry.outlets)
    names = registry.carrier_names()
    totals = registry.facts.count_outlet_lines([outlet for _, outlet in sales])
    rows = []
    for (carrier, outlet), sold in sales.items():
        opened = [line.opened_at for line in sold.lines.values()]
        states = Counter(line.status for line in sold.lines.values())
        total = totals.get(outlet, 0)
        rows.append(
            {
                "carrier": carrier,
                "carrier_name": names.get(carrier, carrier),
                "outlet": outlet,
                "is_open": known[outlet].is_open if outlet in known else None,
                "cases": len(sold.cases),
                "case_ids": sorted(sold.cases),
                "documents": len(sold.documents),
                "lines": len(sold.lines),
                "lines_in_use": len(sold.lines) - states[LineStatus.CLOSED],
                "refused_attempts": len(sold.refused),
                "outlet_lines": total,
                "share": len(sold.lines) / total if total else None,
                "first_opened": min(opened, default=None),
                "last_opened": max(opened, default=None),
            }
        )
    return sorted(rows, key=lambda one: (-one["cases"], -one["lines"], one["outlet"]))


def write_list(path: Path, found: List, layout: Layout, types: Mapping[str, pa.DataType]) -> None:
    """Writes the rows under the layout's headings."""
    columns = {
        heading: pa.array([row[name] for row in found.rows], types[name])
        for heading, name in layout.columns.items()
    }
    table = pa.table(columns).replace_schema_metadata({"sosie.title": layout.title})
    save_table(path, table)


MOST_NAMED = 1_000
"""Subjects that the entry in the audit chain names; all are counted."""
REVEALED_ALONE = 20
"""People whom one person may list in full; no setting, which whoever types it could choose."""
ASKED_FOR = timedelta(days=7)
"""So long another person may make what one has asked for."""
MADE, ASKED = "list.made", "list.asked"


def issue_list(
    store: Store, path: Path, name: str, kind: str, actor: Actor, *, is_revealed: bool
) -> tuple[Layout, List]:
    """Writes a list of "people" or "outlets" by the layout of this name; audited.

    `FourEyes` where another person must make it, `TooManyFailures` where one was shown too many.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise RequestError(f"{path} is neither .csv nor .parquet: name a file that is")
    types = PERSON_FIELDS if kind == "people" else OUTLET_FIELDS
    layout = read_layout(name, kind, types)
    if kind == "outlets":
        found = list_outlets(store, layout)
    else:
        masks = (str, str) if is_revealed else (mask_name, mask_number)
        found = list_people(store, layout, *masks)
    detail = {
        "rows": len(found.rows),
        "people": found.people,
        "revealed": is_revealed,
        kind if kind == "outlets" else "documents": list(found.subjects[:MOST_NAMED]),
    }
    if is_revealed and found.people > REVEALED_ALONE:
        detail["asked"] = _require_two(store, layout, found.people, actor.name)
    is_alone = is_revealed and 0 < found.people <= REVEALED_ALONE
    counted = [Revealed.to(actor, len(found.subjects))] if is_alone else []
    # Before anything is written: whom the file shows is in the chain.
    store.note(AuditEntry(actor.name, MADE, layout.title[:200], detail), *counted)
    write_list(path, found, layout, types)
    return layout, found


def _require_two(store: Store, layout: Layout, people: int, actor: str) -> str:
    """The layout's digest, where another person has asked for this list and nobody has made it
    since; else this person has asked for it now, and `FourEyes` says so."""
    digest = hashlib.sha256(msgspec.json.encode(layout)).hexdigest()
    last = next(iter(read_audit(store, None, 1, ASKED, subject=digest)), None)
    is_open = (
        last is not None
        and utc_now() - last.at < ASKED_FOR
        and not read_audit(store, last.number, 1, MADE, subject=digest)
    )
    if last is not None and is_open and fold_person(last.entry.actor) != fold_person(actor):
        return digest
    if not is_open:
        asked = {"people": people, "title": layout.title[:200]}
        store.note(AuditEntry(actor, ASKED, digest, asked))
    raise FourEyes(
        f"{people:,} people in full take two: you have asked for it, and another person makes it "
        f"by the same command, with an account of their own, within {ASKED_FOR.days} days"
    )
