"""The trail is read by filter, in its order, in short reads."""

from __future__ import annotations

from typing import Any

import pytest

from engine.registry import trail
from engine.registry.audit import verify_chain
from engine.registry.records import AuditEntry, Changes
from engine.registry.store import Store
from engine.registry.trail import read_audit

ENTRIES = [
    AuditEntry(f"actor {number % 2}", f"action.{number % 3}", f"subject {number}", {"n": number})
    for number in range(20)
]


@pytest.fixture
def start(store: Store, writer: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number before the first of 20 entries; a read looks through 7 at a time."""
    monkeypatch.setattr(trail, "WINDOW_ENTRIES", 7)
    before = store.audit_head()[0]
    writer.commit(Changes(sequence=0, audit=ENTRIES))
    return before


def numbers(found: list[Any], start: int) -> list[int]:
    return [record.number - start - 1 for record in found]


def test_pages_follow_one_another_and_leave_nothing_out(store: Store, start: int) -> None:
    seen, after = [], start
    while page := read_audit(store, after, 6):
        seen += [record.entry for record in page]
        after = page[-1].number
    assert seen == ENTRIES


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"action": "action.1"}, [1, 4, 7, 10, 13, 16, 19]),
        ({"actor": "actor 1", "action": "action.0"}, [3, 9, 15]),
        ({"subject": "subject 11"}, [11]),
        ({"subject": "subject"}, []),
        ({"action": "action.%"}, []),
    ],
)
def test_filters_match_exactly_and_all_at_once(
    filters: dict[str, str], wanted: list[int], store: Store, start: int
) -> None:
    assert numbers(read_audit(store, start, 100, **filters), start) == wanted
    assert numbers(read_audit(store, None, 100, **filters), start) == wanted
    assert numbers(read_audit(store, start, 2, **filters), start) == wanted[:2]
    assert numbers(read_audit(store, None, 2, **filters), start) == wanted[-2:]


def test_above_the_end_there_is_nothing(store: Store, start: int) -> None:
    assert read_audit(store, store.audit_head()[0], 10) == []
    assert read_audit(store, 10**15, 10) == []


def test_a_chain_is_verified_in_parts_as_in_one(store: Store, start: int) -> None:
    after, parts = 0, 0
    while not (parts and after == store.audit_head()[0]):
        report = verify_chain(store, after, 6)
        assert report.intact
        assert report.entries == min(after + 6, store.audit_head()[0])
        after, parts = report.entries, parts + 1
    assert parts > 3


def test_a_part_with_an_altered_entry_is_found_and_the_parts_before_it_stand(
    store: Store, writer: Any, start: int
) -> None:
    from engine.registry import tables

    with writer.changing(AuditEntry("test", "test.done", "x")) as connection:
        bad = start + 9
        connection.execute(
            tables.audit.update().where(tables.audit.c.number == bad).values(subject="y")
        )
    assert verify_chain(store, 0, bad - 1).intact
    report = verify_chain(store, bad - 1, 5)
    assert (report.intact, report.first_bad) == (False, bad)
    assert not verify_chain(store, 10**9, 5).intact


def test_progress_is_told_of_a_long_chain(
    store: Store, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.registry import audit

    monkeypatch.setattr(audit, "_PAGE_ROWS", 5)
    told: list[tuple[int, int]] = []
    verify_chain(store, progress=lambda done, total: told.append((done, total)))
    total = store.audit_head()[0]
    assert told == [(done, total) for done in range(5, total + 1, 5)]
