"""Rows that are kept, and rows that are only gone through."""

from __future__ import annotations

from typing import Any


def test_a_check_finds_the_faults_of_an_import_and_stores_nothing(office: Any, base: Any) -> None:
    base.add(1)
    base.add(1, "stranger", msisdn="+8613800000099")
    base.add(2, msisdn=base.rows[0]["msisdn"])
    base.add(3, document_number="110105199003071238")
    base.add(4, live="none.jpg")
    for serial in range(5, 12):
        base.add(serial)
    path = base.write()
    before = office.store.audit_head()
    _, checked = office.run(path, is_check=True, chunk_rows=2)
    found = office.faults(path)
    assert len(found) == 4
    assert office.store.counts()["documents"] == 0
    assert office.store.audit_head() == before
    _, imported = office.run(path, resumes=False, chunk_rows=2)
    assert office.faults(path) == found
    assert imported == checked
