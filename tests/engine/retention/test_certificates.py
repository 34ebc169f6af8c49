"""A certificate is valid while the chain agrees and the document stays erased."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from engine.registry import audit
from engine.registry.retention import DocumentErasure
from engine.retention.job import (
    DirectRunner,
    RetentionCertificate,
    check_certificate,
    run_retention,
)
from schema.documents import DocumentStatus, ErasureCertificate
from tests.engine.retention.conftest import only
from tests.tables import tables


@pytest.fixture
def retained(builder) -> RetentionCertificate:
    return run_retention(DirectRunner(builder.writer), only(closed_lines_days=1), "test")


@pytest.fixture
def erased(builder) -> ErasureCertificate:
    document_id = builder.document(DocumentStatus.ACTIVE)
    detail = {"references": 0, "lines": 0, "gallery_sequence": 0}
    kept = builder.writer.commit(
        [
            audit.AuditEntry("test", "document.erased", document_id, detail),
            DocumentErasure(document_id, "test"),
        ]
    )
    return ErasureCertificate(
        document_id=document_id,
        **detail,
        erased_at=kept.at,
        audit_number=kept.number,
        audit_hash=kept.hash.hex(),
    )


@pytest.mark.parametrize("made", ["retained", "erased"])
def test_a_certificate_stays_valid(made: str, store, builder, request) -> None:
    certificate = request.getfixturevalue(made)
    assert check_certificate(store, certificate) is None
    builder.document()
    assert check_certificate(store, certificate) is None


@pytest.mark.parametrize(
    "change",
    [
        {"references": 3},
        {"document_id": "01a2124d-0000-7000-8000-000000000000"},
        {"erased_at": timedelta(seconds=1)},
    ],
)
def test_an_altered_erasure_is_refused(change: dict[str, Any], store, erased) -> None:
    if "erased_at" in change:
        change = {"erased_at": erased.erased_at + change["erased_at"]}
    assert "was altered" in str(check_certificate(store, structs.replace(erased, **change)))


def test_an_altered_run_is_refused(store, retained) -> None:
    more = {**retained.left, "lines": 7}
    assert "was altered" in str(check_certificate(store, replace(retained, left=more)))


def test_a_certificate_of_another_registry_is_refused(store, retained) -> None:
    foreign = replace(retained, audit_hash="00" * 32)
    assert "another registry" in str(check_certificate(store, foreign))


@pytest.mark.parametrize("number", [0, -1])
def test_an_impossible_entry_number_is_refused(number: int, store, retained) -> None:
    assert check_certificate(store, replace(retained, audit_number=number)) is not None


def test_a_registry_restored_to_before_the_erasure_is_detected(store, erased) -> None:
    beyond = structs.replace(erased, audit_number=erased.audit_number + 1_000)
    assert "erased again" in str(check_certificate(store, beyond))


@pytest.mark.both_databases
def test_a_document_that_is_back_is_detected(store, builder, erased) -> None:
    other = builder.document(DocumentStatus.ACTIVE)
    row = store.rows(tables.documents.select().where(tables.documents.c.id == other))[0]
    builder.change(
        tables.documents.update()
        .where(tables.documents.c.id == erased.document_id)
        .values(status="active", identity=row.identity, lookup=b"back", erased_at=None)
    )
    assert "no longer erased" in str(check_certificate(store, erased))


@pytest.mark.both_databases
def test_under_a_broken_chain_no_certificate_is_valid(store, builder, retained) -> None:
    builder.change(tables.audit.update().where(tables.audit.c.number == 2).values(actor="nobody"))
    assert "broken at entry 2" in str(check_certificate(store, retained))
