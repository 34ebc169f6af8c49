"""One person's data: what each table keeps of the holder of a document, as the holder may have it.

Scores are told by the thresholds that they reach, templates and pictures by that they are kept, and
third persons are masked."""

import json
import re
import sys
from collections.abc import Collection, Mapping, Set
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Table, and_, false, func, or_, select

from engine.registry.audit import read_about, split
from engine.registry.campaigns import CAMPAIGN_LINES, CAMPAIGNS
from engine.registry.cases import CASE_DOCUMENTS, CASE_NOTES, CASES, CROPS
from engine.registry.columns import metadata
from engine.registry.database import AnyRow, Condition
from engine.registry.documents import DOCUMENTS, DocumentRecord
from engine.registry.enrollments import ENROLLMENTS, TALLIES, TALLIES_STAY, tally_of
from engine.registry.events import EVENTS
from engine.registry.lines import LINES
from engine.registry.references import name_sealed
from engine.registry.rows import open_each, pages_of, require_authentic
from engine.registry.store import Reader
from engine.registry.vault import Vault
from engine.registry.watchlist import WATCHLIST

KEPT, MASKED, WITHHELD = "kept", "masked", "withheld"
"""In place of a template, a picture or a text about several people; of what is another's; of a
score that no threshold here measures."""
_OF_DOCUMENT = ("document_id", "guardian_id", "successor_id", "left_document", "right_document")
_OPENED = ("identity", "consent", "data", "msisdn")
"""Sealed columns that are neither of a face nor about several people."""
_FIGURES = ("thresholds", "verify", "quality", "length", "expected_false_candidates", "level")
"""Names of numbers that are no scores: any other fraction is taken for one."""
_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_EVER = datetime.fromtimestamp(0, UTC)
Json = dict[str, Any]
Thresholds = Mapping[str, float | None]


def find_rows(documents: Collection[DocumentRecord]) -> dict[Table, Condition]:
    """Which rows of each table with personal data are of the holder of these documents: by what the
    table names, a document, else an attempt, else a line."""
    ids = [one.id for one in documents]
    attempts = select(ENROLLMENTS.c.id).where(ENROLLMENTS.c.document_id.in_(ids))
    lines = select(LINES.c.id).where(LINES.c.document_id.in_(ids))
    cases = select(CASE_DOCUMENTS.c.case_id).where(CASE_DOCUMENTS.c.document_id.in_(ids))
    links = {"enrollment_id": attempts, "line_id": lines}
    found: dict[Table, Condition] = {}
    for table in metadata.sorted_tables:
        own = [table.c[name].in_(ids) for name in _OF_DOCUMENT if name in table.c]
        own = own or [table.c[name].in_(of) for name, of in links.items() if name in table.c][:1]
        if own:
            found[table] = or_(*own)
    return found | {
        DOCUMENTS: DOCUMENTS.c.id.in_(ids),
        # Its key begins with the campaign.
        CAMPAIGN_LINES: and_(
            CAMPAIGN_LINES.c.campaign_id.in_(select(CAMPAIGNS.c.id)), found[CAMPAIGN_LINES]
        ),
        CASES: CASES.c.id.in_(cases),
        CASE_NOTES: CASE_NOTES.c.case_id.in_(cases),
        CROPS: or_(found[CROPS], CROPS.c.enrollment_id.in_(attempts)),
        EVENTS: or_(found[EVENTS], EVENTS.c.subject.in_(ids)),
        TALLIES: or_(false(), *(tally_of(one.id, one.lookup) for one in documents)),
        WATCHLIST: WATCHLIST.c.document_lookup.in_([one.lookup for one in documents]),
    }


def gather_subject(store: Reader, document_id: str, thresholds: Thresholds) -> Json:
    """All that is kept of the holder of a document on record: `records` by table, under it and
    those that replaced one another, how many by table are `damaged` and left out, and the entries
    of the `audit` chain. The caller audits it before anybody sees it."""
    ids = sorted(store.people.standing([document_id]).kin(document_id))
    documents = store.documents_by_id(ids)
    records: dict[str, list[Json]] = {}
    damaged: dict[str, int] = {}
    if len(documents) < len(ids):
        damaged[DOCUMENTS.name] = len(ids) - len(documents)
    for table, condition in find_rows(documents.values()).items():
        rows = _read(store, table, condition)
        shown = list(open_each(rows, partial(_show, store.vault, table)))
        records[table.name] = shown
        if len(shown) < len(rows):
            damaged[table.name] = len(rows) - len(shown)
    for one in records[TALLIES.name]:
        # Named by a document's id or digest, which tells its holder nothing.
        one["counted"], _, *carrier = one.pop("name").split(":")
        one |= {
            "carrier": carrier[0] if carrier else None,
            "deleted_after": one["at"] + TALLIES_STAY,
        }
    taken_at = {one["id"]: one["created_at"] for one in records["enrollments"]}
    for one in (*records["references"], *records["attempt_templates"]):
        attempt = one.get("enrollment_id", one["id"])
        one["since"] = taken_at.get(attempt, documents[one["document_id"]].created_at)
    named = {
        name: {one["id"] for one in rows if isinstance(one.get("id"), str)}
        for name, rows in records.items()
    }
    own = set(ids).union(*named.values())
    subjects = sorted(own - named[EVENTS.name])
    entries, _ = read_about(store, subjects, ids, _EVER, sys.maxsize, listed=own)
    audit = [{"number": one.number, "at": one.at, **asdict(one.entry)} for one in entries]
    shown_to_holder = _mask({"records": records, "audit": audit}, own, thresholds)
    return {"document_ids": ids, "damaged": damaged, **shown_to_holder}


def _read(store: Reader, table: Table, condition: Condition) -> list[AnyRow]:
    if table is not EVENTS:
        return [row for page in pages_of(store.rows, table, condition) for row in page]
    # It has no index by document.
    number, wanted = EVENTS.c.number, select(EVENTS).where(condition)
    [ends] = store.rows(select(func.min(number).label("first"), func.max(number).label("last")))
    windows = split(wanted, number, (ends.first or 1) - 1, ends.last or 0)
    return [row for window in windows for row in store.rows(window.order_by(number))]


def _show(vault: Vault, table: Table, row: AnyRow) -> Json:
    """A row by column; of what is sealed its texts alone, and no digest."""
    require_authentic(vault, table, row)
    shown: Json = {}
    for name, column in table.columns.items():
        value = row._mapping[name]
        if isinstance(value, bytes) and column.info.get("is_sealed"):
            shown[name] = KEPT
            if name in _OPENED:
                text = vault.open(f"{table.name}.{name}", name_sealed(table, row), value).decode()
                shown[name] = json.loads(text) if text[0] in '{["' else text
        elif value is not None and not isinstance(value, bytes):
            shown[name] = value
    return shown


def _mask(value: Any, own: Set[str], limits: Thresholds, name: str = "") -> Any:
    """The value of a name for its holder; scores in it are told by the thresholds `limits`."""
    if isinstance(value, Mapping):
        # These say their thresholds themselves: no others measure what is in them.
        limits = value.get("thresholds", {} if name in ("evidence", "response") else limits)
        return {
            key: one if key in _FIGURES else _mask(one, own, limits, key)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mask(one, own, limits, name) for one in value]
    if isinstance(value, float):
        return _tell(name, value, limits)
    if name in ("reference_id", "guardian") and value is not None:
        return MASKED
    if not isinstance(value, str):
        return value
    return _ID.sub(lambda found: found[0] if found[0] in own else MASKED, value)


def _tell(name: str, value: float, limits: Thresholds) -> Any:
    if name == "risk":
        return round(value)
    if not limits:
        return WITHHELD
    reached = [key for key, one in limits.items() if one is not None and value >= one]
    return f"reaches {', '.join(reached) or 'none'}"
