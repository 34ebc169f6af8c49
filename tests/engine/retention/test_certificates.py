"""A certificate is valid while the chain agrees and the document stays erased."""

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from engine.registry import audit
from engine.registry.database import utc_now
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
    ("made", "change", "told"),
    [
        ("erased", {"references": 3}, "was altered"),
        ("erased", {"document_id": "01a2124d-0000-7000-8000-000000000000"}, "was altered"),
        ("erased", {"erased_at": utc_now()}, "was altered"),
        ("retained", {"left": {"lines": 7}}, "was altered"),
        ("retained", {"audit_hash": "00" * 32}, "another registry"),
        *(("retained", {"audit_number": number}, "") for number in (0, -1)),
        # As in a registry restored to before the erasure.
        ("erased", {"audit_number": 1_000_000}, "erased again"),
    ],
)
def test_a_certificate_that_is_not_of_this_chain_is_refused(
    made: str, change: dict[str, Any], told: str, store, request
) -> None:
    altered = {"erased": structs.replace, "retained": replace}[made]
    fault = check_certificate(store, altered(request.getfixturevalue(made), **change))
    assert fault is not None
    assert told in fault


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
