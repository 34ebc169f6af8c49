"""Registries that older versions made: brought to this one with all their rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Table, insert, inspect

from engine.cases.case import CaseOrigin
from engine.errors import SchemaMismatch, StorageFailed
from engine.registry import audit, tables
from engine.registry import store as schema
from engine.registry.audit import verify_chain
from engine.registry.database import changing, connect
from engine.registry.records import AuditEntry, Carrier, CaseState, Changes, new_id, utc_now
from engine.registry.store import Store
from engine.registry.upgrade import upgrade
from engine.registry.vault import Vault
from tests.engine.registry.conftest import ENTRY, MODEL


def make_revision(url: str, vault: Vault, revision: str) -> dict[str, str]:
    """A registry as an older version made it: an enrollment, its case and, from 0002 on, a
    disputed line of it; their ids."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    ids = {name: new_id() for name in ("enrollment", "document", "line", "case", "dispute")}
    if "sqlite" in url:
        Path(url.removeprefix("sqlite:///")).touch()
    engine = connect(url)
    with changing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        write_old_deployment(connection, vault)
        for table, values in rows_of_old(ids):
            connection.execute(insert(table).values(**values))
        dispute = {"id": ids["dispute"], "kind": "dispute", "line_id": ids["line"]}
        for values in ({"id": ids["case"], "kind": "possible_duplicate"}, dispute)[
            : 1 if revision == "0001" else 2
        ]:
            case = {"state": "open", "enrollment_id": ids["enrollment"], "opened_at": utc_now()}
            found = {"document_ids": [ids["document"], "a"], "score": 0.512345678901234}
            connection.execute(insert(tables.cases).values(**values | case | found))
    engine.dispose()
    return ids


def write_old_deployment(connection: Connection, vault: Vault) -> None:
    at = utc_now()
    entry = AuditEntry("sosie", "registry.created", vault.deployment_id)
    (first,) = audit.extend(vault, 0, audit.GENESIS, at, [entry])
    values = {
        "singleton": 1,
        "deployment_id": vault.deployment_id,
        "key_check": vault.key_check,
        "data_keys": {"1": vault.ring.active_data_key.fingerprint},
        "model_digest": MODEL,
        "dim": vault.dim,
        "rotation_id": vault.rotation_id,
        "writer_epoch": 0,
        "sequence": 0,
        "audit_number": first.number,
        "audit_head": first.hash,
        "created_at": at,
    }
    connection.execute(insert(tables.deployment).values(**values))
    audit.append(connection, [first])


def rows_of_old(ids: dict[str, str]) -> list[tuple[Table, dict[str, object]]]:
    now = utc_now()
    tenant = {"carrier": "red", "outlet": "r1"}
    return [
        (tables.carriers, {"code": "red", "name": "Red", "line_limit": 5, "created_at": now}),
        (tables.outlets, {"code": "r1", "carrier": "red", "is_open": True, "created_at": now}),
        (
            tables.documents,
            {"id": ids["document"], "kind": "passport", "lookup": b"k", "identity": b"sealed"}
            | {"status": "active", "created_at": now},
        ),
        (
            tables.enrollments,
            {"id": ids["enrollment"], "sequence": 0, **tenant, "created_at": now}
            | {"decision": "rejected", "reasons": [], "evidence": {}},
        ),
        (
            tables.lines,
            {"id": ids["line"], "document_id": ids["document"], **tenant}
            | {"status": "disputed", "opened_at": now},
        ),
    ]


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_upgrade_brings_an_older_revision_to_this_one_with_all_its_rows(
    database_url: str, vault: Vault, revision: str
) -> None:
    newest = schema.REVISIONS[-1]
    ids = make_revision(database_url, vault, revision)
    with pytest.raises(
        SchemaMismatch, match=f"{revision} is older than {newest}: run sosie upgrade"
    ):
        Store.open(database_url, vault, model_digest=MODEL)
    assert upgrade(database_url, vault) == (revision, newest)
    engine = connect(database_url)
    with changing(engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
        keys = inspect(connection).get_foreign_keys("cases")
        assert {key["name"] for key in keys} == {
            f"fk_cases_{name}" for name in ("enrollment_id", "line_id", "sweep_id", "merged_into")
        }
    engine.dispose()
    with Store.open(database_url, vault, model_digest=MODEL) as store:
        assert store.outlets(["r1"])["r1"].is_open
        assert store.api_keys() == []
        store.add_carrier(Carrier("green", "Green"), actor="test")
        assert verify_chain(store).intact
        case = store.cases.get(ids["case"])
        assert (case.enrollment_id, case.line_id) == (ids["enrollment"], None)
        assert (case.document_ids, case.score) == ((ids["document"], "a"), 0.512345678901234)
        assert (case.origin, case.suspect_ids) == (CaseOrigin.DECISION, case.document_ids)
        assert (case.line_ids, case.updated_at) == ((), case.opened_at)
        named = store.cases.open_of([ids["document"]])[ids["document"]]
        assert len(named) == (1 if revision == "0001" else 2)


def test_upgrade_makes_an_open_dispute_one_of_its_line(database_url: str, vault: Vault) -> None:
    ids = make_revision(database_url, vault, "0002")
    upgrade(database_url, vault)
    with Store.open(database_url, vault, model_digest=MODEL) as store:
        dispute = store.cases.open_of_line(ids["line"], "dispute")
        assert dispute is not None
        assert (dispute.id, dispute.origin) == (ids["dispute"], CaseOrigin.DISPUTE)
        assert (dispute.line_ids, dispute.suspect_ids) == ((ids["line"],), ())
        second = replace(dispute, id=new_id(), state=CaseState.ASSIGNED)
        entry = ENTRY
        changes = Changes(sequence=0, audit=[entry], cases=[second])
        with store.writer() as writer, pytest.raises(StorageFailed):
            writer.commit(changes)
