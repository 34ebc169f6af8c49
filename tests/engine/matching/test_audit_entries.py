"""Audit entries of many threads: durable before they are acknowledged, few transactions."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.errors import DeadlinePassed
from engine.matching.registrar import Observer
from engine.registry.audit import AuditEntry, verify_chain


def entry(serial: int) -> AuditEntry:
    return AuditEntry("test", "lines.read", f"subject-{serial}", {"shown": True})


def subjects(lab: Any) -> list[str]:
    return [item.subject for item in lab.entries("lines.read")]


def test_an_acknowledged_entry_is_durable(lab, registrar) -> None:
    registrar.audit(entry(1))
    assert subjects(lab) == ["subject-1"]
    assert registrar.submit_audit([]).done()


def test_notes_that_gather_share_transactions_and_all_are_kept(lab, busy) -> None:
    sizes: list[int] = []

    class Sizes(Observer):
        def observe_audit(self, entries: int, seconds: float) -> None:
            assert seconds >= 0
            sizes.append(entries)

    count = 400
    with lab.registrar(observer=Sizes()) as registrar, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda serial: registrar.audit(entry(serial), 30), range(count)))
        with busy(registrar):
            assert sum(sizes) == count
            assert len(sizes) < count / 4
            notes = [registrar.submit_audit([entry(count + serial)] * 2) for serial in range(50)]
            assert registrar.audit_queued == 100
        for note in notes:
            note.result(120)
    assert sizes[-1] == 100
    assert sorted(set(subjects(lab))) == sorted(f"subject-{n}" for n in range(count + 50))
    assert verify_chain(lab.store).intact


def test_a_read_that_cannot_be_audited_in_time_is_refused(lab, busy) -> None:
    with lab.registrar() as registrar, busy(registrar), pytest.raises(DeadlinePassed):
        registrar.audit(entry(1), 0.1)
