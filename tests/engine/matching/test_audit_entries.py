"""Audit entries of many threads: durable before they are acknowledged, few transactions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.errors import DeadlinePassed, GalleryBehind, Overloaded, StorageFailed
from engine.matching.registrar import Observer, RegistrarConfig
from engine.registry.audit import verify_chain
from engine.registry.records import AuditEntry
from engine.registry.writer import Writer


def entry(serial: int) -> AuditEntry:
    return AuditEntry("test", "lines.read", f"subject-{serial}", {"shown": True})


def subjects(lab: Any) -> list[str]:
    found = [record.entry for record in lab.store.audit_entries()]
    return [item.subject for item in found if item.action == "lines.read"]


def test_an_acknowledged_entry_is_durable(lab: Any) -> None:
    with lab.registrar() as registrar:
        registrar.keep(entry(1))
        assert subjects(lab) == ["subject-1"]
        assert registrar.note([]).done()


def test_notes_that_gather_share_transactions_and_all_are_kept(lab: Any, busy: Any) -> None:
    sizes: list[int] = []

    class Sizes(Observer):
        def observe_audit(self, entries: int, seconds: float) -> None:
            assert seconds >= 0
            sizes.append(entries)

    count = 400
    with lab.registrar(observer=Sizes()) as registrar, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda serial: registrar.keep(entry(serial), 30), range(count)))
        with busy(registrar):
            assert sum(sizes) == count
            assert len(sizes) < count / 4
            notes = [registrar.note([entry(count + serial)] * 2) for serial in range(50)]
            assert registrar.audit_queued == 100
        for note in notes:
            note.result(120)
    assert sizes[-1] == 100
    assert sorted(set(subjects(lab))) == sorted(f"subject-{n}" for n in range(count + 50))
    assert verify_chain(lab.store).intact


def test_more_than_the_queue_holds_is_refused_at_once(lab: Any, busy: Any) -> None:
    with lab.registrar(RegistrarConfig(audit_queue_size=3)) as registrar:
        with busy(registrar):
            notes = [registrar.note([entry(1)]), registrar.note([entry(2), entry(3)])]
            with pytest.raises(Overloaded):
                registrar.note([entry(4)])
        for note in notes:
            note.result(120)
        registrar.keep(entry(5))
    assert subjects(lab) == ["subject-1", "subject-2", "subject-3", "subject-5"]


@pytest.mark.parametrize(
    "failure", [StorageFailed("the database is gone"), ZeroDivisionError("by zero")]
)
def test_a_failed_transaction_reaches_every_waiter_as_its_own_and_the_next_is_tried(
    lab: Any, busy: Any, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    commit = Writer.commit
    failures = [failure]

    def fail_once(writer: Writer, changes: Any) -> None:
        if failures:
            raise failures.pop()
        commit(writer, changes)

    monkeypatch.setattr(Writer, "commit", fail_once)
    with lab.registrar() as registrar:
        with busy(registrar):
            notes = [registrar.note([entry(serial)]) for serial in range(3)]
        errors = [note.exception(120) for note in notes]
        assert [type(error) for error in errors] == [type(failure)] * 3
        assert len({id(error) for error in errors}) == 3
        registrar.keep(entry(9), 10)
    assert subjects(lab) == ["subject-9"]


def test_an_observer_that_fails_makes_no_committed_entry_fail(lab: Any) -> None:
    class Failing(Observer):
        def observe_audit(self, *_: object) -> None:
            raise OSError("no space left")

    with lab.registrar(observer=Failing()) as registrar:
        registrar.keep(entry(1), 10)
        registrar.keep(entry(2), 10)
    assert subjects(lab) == ["subject-1", "subject-2"]


def test_a_stopped_registrar_is_told_to_those_who_wait_and_those_who_come(
    lab: Any, busy: Any
) -> None:
    with lab.registrar() as registrar:
        with busy(registrar):
            note = registrar.note([entry(1)])
            registrar.stop(GalleryBehind("it is opened again"))
        assert isinstance(note.exception(120), GalleryBehind)
        with pytest.raises(GalleryBehind):
            registrar.keep(entry(2), 10)
        assert registrar.audit_queued == 0
    assert subjects(lab) == []


def test_a_read_that_cannot_be_audited_in_time_is_refused(lab: Any, busy: Any) -> None:
    with lab.registrar() as registrar, busy(registrar), pytest.raises(DeadlinePassed):
        registrar.keep(entry(1), 0.1)
