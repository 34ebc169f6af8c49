"""A certificate holds as long as the chain says the same, and whoever was erased stays erased."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from engine.matching.holders import ErasureCertificate
from engine.registry import tables
from engine.registry.records import AuditEntry, Changes, DocumentStatus
from engine.registry.store import Store
from engine.retention.certificates import check_certificate
from engine.retention.job import LoneWriter, RetentionCertificate, Schedule, run_retention


@pytest.fixture
def retained(office: Any) -> RetentionCertificate:
    return run_retention(LoneWriter(office.writer), Schedule(lines=timedelta(days=1)), "test")


@pytest.fixture
def erased(office: Any) -> ErasureCertificate:
    document_id = office.document(DocumentStatus.ACTIVE)
    detail = {"references": 0, "lines": 0, "gallery_sequence": 0}
    kept = office.writer.commit(
        Changes(
            sequence=0,
            audit=[AuditEntry("test", "document.erased", document_id, detail)],
            erased_documents=[document_id],
        )
    )
    return ErasureCertificate(
        document_id=document_id,
        **detail,
        erased_at=kept.at,
        audit_number=kept.number,
        audit_hash=kept.hash.hex(),
    )


@pytest.mark.parametrize("made", ["retained", "erased"])
def test_a_certificate_holds_and_goes_on_holding(
    made: str, store: Store, office: Any, request: pytest.FixtureRequest
) -> None:
    certificate = request.getfixturevalue(made)
    assert check_certificate(store, certificate) is None
    office.document()
    assert check_certificate(store, certificate) is None


@pytest.mark.parametrize(
    "change",
    [
        {"references": 3},
        {"document_id": "01a2124d-0000-7000-8000-000000000000"},
        {"erased_at": timedelta(seconds=1)},
    ],
)
def test_an_altered_erasure_does_not_hold(
    change: dict[str, Any], store: Store, erased: ErasureCertificate
) -> None:
    if "erased_at" in change:
        change = {"erased_at": erased.erased_at + change["erased_at"]}
    assert "was altered" in str(check_certificate(store, replace(erased, **change)))


def test_an_altered_run_does_not_hold(store: Store, retained: RetentionCertificate) -> None:
    more = {**retained.left, "lines": 7}
    assert "was altered" in str(check_certificate(store, replace(retained, left=more)))


def test_a_certificate_of_another_registry_does_not_hold(
    store: Store, retained: RetentionCertificate
) -> None:
    foreign = replace(retained, audit_hash="00" * 32)
    assert "is another" in str(check_certificate(store, foreign))


@pytest.mark.parametrize("number", [0, -1])
def test_a_number_that_is_none_does_not_hold(
    number: int, store: Store, retained: RetentionCertificate
) -> None:
    assert check_certificate(store, replace(retained, audit_number=number)) is not None


def test_a_registry_set_back_to_before_the_erasure_is_recognised(
    store: Store, erased: ErasureCertificate
) -> None:
    beyond = replace(erased, audit_number=erased.audit_number + 1_000)
    assert "erased again" in str(check_certificate(store, beyond))


def test_a_holder_who_is_back_is_found(
    store: Store, office: Any, erased: ErasureCertificate
) -> None:
    other = office.document(DocumentStatus.ACTIVE)
    row = store.rows(tables.documents.select().where(tables.documents.c.id == other))[0]
    office.change(
        tables.documents.update()
        .where(tables.documents.c.id == erased.document_id)
        .values(status="active", identity=row.identity, lookup=b"back", erased_at=None)
    )
    assert "not erased any more" in str(check_certificate(store, erased))


def test_a_broken_chain_vouches_for_nothing(
    store: Store, office: Any, retained: RetentionCertificate
) -> None:
    office.change(tables.audit.update().where(tables.audit.c.number == 2).values(actor="nobody"))
    assert "broken at entry 2" in str(check_certificate(store, retained))
