"""Registries that older versions made: brought to this one with all their rows."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Connection, MetaData, Table, insert, inspect, select, text, update

from engine.errors import ChainBroken, ModelMismatch, RowRefused, SchemaMismatch, StorageFailed
from engine.models.catalog import Conversion, Transform
from engine.registry import audit, deployment
from engine.registry import store as schema
from engine.registry import upgrade as upgrades
from engine.registry.accounts import ApiKey, Carrier, bind_secret
from engine.registry.audit import AuditEntry, verify_chain
from engine.registry.columns import metadata
from engine.registry.damage import find_damage
from engine.registry.database import REVISIONS, changing, connect, new_id, restructuring, utc_now
from engine.registry.documents import ConsentChange
from engine.registry.rows import changing_rows
from engine.registry.store import Store, authenticated_tables
from engine.registry.upgrade import upgrade
from engine.registry.vault import REFERENCE_TEMPLATE, Vault, name_reference
from engine.registry.watchlist import WatchEntry
from schema.cases import CaseOrigin, CaseState
from tests.engine.records import make_crop
from tests.engine.registry.conftest import (
    ENTRY,
    MODEL,
    Writes,
    begin_until_done,
    committed,
    erasure,
    kill,
)
from tests.tables import tables


def make_revision(url: str, vault: Vault, revision: str) -> dict[str, str]:
    """A registry as an older version made it: an enrollment, its case and, from 0002 on, a
    disputed line of it; their ids."""
    ids = {name: new_id() for name in ("enrollment", "document", "line", "case", "dispute")}
    if "sqlite" in url:
        Path(url.removeprefix("sqlite:///")).touch()
    engine = connect(url)
    with restructuring(engine) as connection:
        schema.upgrade_schema(connection, revision)
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


NEW_NAMES = {"audit_head": "chain_head"}


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
    columns = tables.deployment.c
    typed = {name: columns[NEW_NAMES.get(name, name)].type for name in values}
    old = Table("deployment", MetaData(), *(Column(*one) for one in typed.items()))
    connection.execute(insert(old).values(**values))
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
    database_url, vault, revision: str
) -> None:
    newest = REVISIONS[-1]
    ids = make_revision(database_url, vault, revision)
    with pytest.raises(
        SchemaMismatch, match=f"{revision} is older than {newest}: run sosie upgrade"
    ):
        Store.open(database_url, vault, model_digest=MODEL)
    assert upgrade(database_url, vault) == (revision, newest, False)
    engine = connect(database_url)
    with changing(engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
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
        # What is there, and four for its attempt.
        assert store.seal_counts()[1] >= 4
        case = store.cases.get(ids["case"])
        assert (case.enrollment_id, case.line_id) == (ids["enrollment"], None)
        assert (case.document_ids, case.score) == ((ids["document"], "a"), 0.512345678901234)
        assert (case.origin, case.suspect_ids) == (CaseOrigin.DECISION, case.document_ids)
        assert (case.line_ids, case.updated_at) == ((), case.opened_at)
        named = store.cases.open_of([ids["document"]])[ids["document"]]
        assert len(named) == (1 if revision == "0001" else 2)


def test_upgrade_makes_an_open_dispute_one_of_its_line(database_url, vault) -> None:
    ids = make_revision(database_url, vault, "0002")
    upgrade(database_url, vault)
    with Store.open(database_url, vault, model_digest=MODEL) as store:
        dispute = store.cases.open_of_line(ids["line"], "dispute")
        assert (dispute.id, dispute.origin) == (ids["dispute"], CaseOrigin.DISPUTE)
        assert (dispute.line_ids, dispute.suspect_ids) == ((ids["line"],), ())
        second = replace(dispute, id=new_id(), state=CaseState.ASSIGNED)
        with store.writer() as writer, pytest.raises(StorageFailed):
            writer.commit([ENTRY, second])


PEOPLE = (tables.guardianships, tables.exceptions, tables.deaths, tables.replacements)
EVENTS = ("undelivered", "webhooks", "cursors", "events")
NEW = {
    *(tables.accounts, tables.attempt_templates, tables.liveness, tables.events, tables.webhooks),
    *(tables.line_events, tables.reverifications, tables.campaigns, tables.limit_exemptions),
    *PEOPLE,
    *(tables.cursors, tables.undelivered, tables.campaign_lines, tables.sessions),
}
LATEST = (tables.sweeps, tables.case_documents, tables.tallies, tables.api_keys)
"""Had no codes before 0026."""
LIFE = ("limit_exemptions", "reverifications", "campaign_lines", "campaigns", "line_events")


def drop_consents(connection: Connection) -> None:
    """Makes the registry one of before 0028."""
    for column in ("documents.erasure_scope", "documents.withdrawn", "enrollments.consent"):
        table, _, name = column.partition(".")
        connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {name}"))


def drop_life(connection: Connection) -> None:
    """Makes the registry one of before 0020."""
    connection.execute(text("ALTER TABLE deployment RENAME COLUMN chain_head TO audit_head"))
    for name in LIFE:
        connection.execute(text(f"DROP TABLE {name}"))
    connection.execute(text("DROP INDEX ix_lines_closed_number"))
    connection.execute(text("ALTER TABLE lines DROP COLUMN service"))


def age(store: Store) -> None:
    """Makes a registry one of 0006: without codes, its templates sealed for their row alone."""
    vault, references = store.vault, tables.references
    with changing(store.engine) as connection:
        for row in connection.execute(select(references).where(references.c.template.is_not(None))):
            named = name_reference(row.id, row.document_id)
            opened = vault.open(REFERENCE_TEMPLATE, named, row.template)
            changed = update(references).where(references.c.id == row.id)
            sealed = vault.seal(REFERENCE_TEMPLATE, row.id, opened)
            connection.execute(changed.values(template=sealed))
        connection.execute(
            update(tables.api_keys)
            .where(tables.api_keys.c.revoked_at.is_(None))
            .values(digest=OLD_DIGEST)
        )
        people = (table.name for table in PEOPLE)
        for name in ("sessions", "accounts", "attempt_templates", "liveness", *people, *EVENTS):
            connection.execute(text(f"DROP TABLE {name}"))
        for table in set(authenticated_tables()) - NEW:
            connection.execute(text(f'ALTER TABLE "{table.name}" DROP COLUMN mac'))
        connection.execute(text("DROP INDEX ix_crops_document_id"))
        with Operations(MigrationContext.configure(connection)).batch_alter_table("crops") as crops:
            crops.drop_constraint("fk_crops_document_id", type_="foreignkey")
            crops.drop_constraint("ck_crops_owner")
            for name in ("document_id", "received_at", "quality", "is_held", "case_days"):
                crops.drop_column(name)
        drop_life(connection)
        for index in ("ix_documents_erasure", "ix_enrollments_outlet"):
            connection.execute(text(f"DROP INDEX {index}"))
        drop_consents(connection)
        # Their codes, the last of all, are gone already.
        for table, which in ((tables.documents, slice(-7, -3)), (tables.outlets, slice(-8, -1))):
            for column in list(table.c)[which]:
                connection.execute(text(f"ALTER TABLE {table.name} DROP COLUMN {column.name}"))
        for name in ("carriers", "outlets"):
            connection.execute(text(f"ALTER TABLE {name} DROP COLUMN time_zone"))
        for name in ('"references"', "watchlist"):
            connection.execute(text(f"ALTER TABLE {name} DROP COLUMN second_template"))
            connection.execute(text(f"ALTER TABLE {name} DROP COLUMN second_model_digest"))
        connection.execute(text("ALTER TABLE cases DROP COLUMN weakest"))
        for name in ("sequence", "left_attempt_score", "right_attempt_score"):
            connection.execute(text(f"ALTER TABLE judged_pairs DROP COLUMN {name}"))
        for name in ("audit_mac", "seals"):
            connection.execute(text(f"ALTER TABLE deployment DROP COLUMN {name}"))
        connection.execute(text("ALTER TABLE api_keys DROP COLUMN person"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0006'"))


OLD_DIGEST = bytes(range(32))


@pytest.fixture
def older(database_url, vault, enroll, monkeypatch) -> Writes:
    """What stands in a registry of 0006, beside keys."""
    with monkeypatch.context() as patch:
        # Its chain does not say that its rows have codes.
        patch.setattr("engine.registry.store.AUTHENTICATED", "nothing")
        made = Store.create(database_url, vault, model_digest=MODEL)
    with made as store:
        store.add_carrier(Carrier("red", "Red"), actor="test")
        store.add_outlet("r1", "red", actor="test")
        for key_id, role, carrier in KEYS:
            given = (key_id, OLD_DIGEST, role, carrier, None, utc_now())
            store.add_api_key(ApiKey(*given, person="x"), actor="test")
        store.revoke_api_key("k3", actor="test")
        with store.writer() as writer:
            enrolled = committed(writer, enroll(writer, 7))
            writer.commit(erasure(enrolled, 0, writer.sequence + 1))
            crops = [make_crop(record.id) for record in enrolled.enrollments[1:4]]
            writer.commit([ENTRY, *crops])
        age(store)
    return enrolled


KEYS = (("k1", "carrier", "red"), ("k2", "fraud", None), ("k3", "operator", None))


def test_an_upgrade_authenticates_all_that_is_there_and_may_be_killed_anywhere(
    database_url, vault, older, monkeypatch
) -> None:
    monkeypatch.setattr(upgrades, "ROWS_PER_BATCH", 2)

    def refuse() -> None:
        with pytest.raises(SchemaMismatch, match="run sosie upgrade"):
            Store.open(database_url, vault, model_digest=MODEL)

    assert begin_until_done(lambda: upgrade(database_url, vault, kill), refuse) > 12
    with Store.open(database_url, vault, model_digest=MODEL) as store:
        assert find_damage(store) == []
        assert verify_chain(store).intact
        [chunk] = store.references()
        wanted = [one.template for one in older.references[1:]]
        assert np.array_equal(chunk.vectors, np.stack(wanted))
        attempt = older.enrollments[2]
        [crop] = store.cases.crops(attempt.id)
        assert crop.document_id == attempt.document_id
        assert len(store.cases.faces([attempt.document_id], 9)[attempt.document_id]) == 1
        keys = {key.id: key for key in store.api_keys()}
        # Without a label a key's id stands for its person.
        assert [keys[name].person for name, *_ in KEYS] == [None, "key:k2", "key:k3"]
        for name in ("k1", "k2"):
            assert keys[name].digest == bind_secret(vault, keys[name], OLD_DIGEST)
        assert keys["k3"].digest == b""
        with store.writer() as writer:
            writer.commit([ENTRY])
    assert upgrade(database_url, vault).before == REVISIONS[-1]


def test_a_registry_of_before_consents_opens(store, database_url, vault, enroll) -> None:
    with store.writer() as writer:
        made = committed(writer, enroll(writer, 2))
    with restructuring(store.engine) as connection:
        drop_consents(connection)
        connection.execute(text("UPDATE alembic_version SET version_num = '0027'"))
    store.close()
    assert upgrade(database_url, vault).before == "0027"
    with Store.open(database_url, vault, model_digest=MODEL) as opened:
        key = made.documents[0].id
        with opened.writer() as writer:
            writer.commit([ENTRY, ConsentChange(key, ["red"], is_withdrawn=True)])
        assert list(opened.document(key).withdrawn or ()) == ["red"]
        assert find_damage(opened) == []


def alter(url: str, statement: str) -> None:
    engine = connect(url)
    with restructuring(engine) as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_an_upgrade_binds_no_key_to_more_than_the_chain_says(database_url, vault, older) -> None:
    alter(database_url, "UPDATE api_keys SET role = 'operator', carrier = NULL")
    upgrade(database_url, vault)
    with Store.open(database_url, vault, model_digest=MODEL) as store:
        assert {key.digest for key in store.api_keys()} == {b""}


def test_an_upgrade_vouches_for_no_registry_that_had_its_codes(
    store, database_url, writer, enroll
) -> None:
    """Whoever takes the codes away wants them made anew, over what was altered."""
    committed(writer, enroll(writer, 2))
    writer.close()
    age(store)
    for _ in range(2):
        with pytest.raises(ChainBroken, match="put back a backup"):
            upgrade(database_url, store.vault)


def test_an_upgrade_vouches_for_no_entry_beyond_the_head(database_url, vault, older) -> None:
    alter(
        database_url,
        "INSERT INTO audit SELECT number + 1, at, actor, action, subject, detail, hash "
        "FROM audit WHERE number = (SELECT max(number) FROM audit)",
    )
    with pytest.raises(ChainBroken, match="put back a backup"):
        upgrade(database_url, vault)


@pytest.fixture
def conversion(vault) -> Conversion:
    mean = np.random.default_rng(5).normal(0, 0.05, vault.dim)
    transform = Transform(mean.astype(np.float32))
    return Conversion(MODEL, "model-with-transform", transform)


@pytest.fixture
def of_the_model_before(store, enroll) -> Writes:
    """Seven references, one of them removed, and a watched face."""
    with store.writer() as writer:
        enrolled = committed(writer, enroll(writer, 7))
        face = WatchEntry(1, None, enrolled.references[1].template, "fraud", utc_now())
        added = AuditEntry("test", "watchlist.added", "1")
        writer.commit([added, face])
        writer.commit(erasure(enrolled, 0, writer.sequence + 1))
    return enrolled


def test_templates_are_converted_once_and_the_conversion_may_be_killed_anywhere(
    store, database_url, of_the_model_before, conversion, random_units, monkeypatch
) -> None:
    vault = store.vault
    store.close()
    monkeypatch.setattr("engine.registry.resealing.ROWS_PER_BATCH", 2)

    def refuse(*digests: str) -> None:
        for digest in digests:
            with pytest.raises(ModelMismatch, match="run sosie upgrade"):
                Store.open(database_url, vault, model_digest=digest)

    refuse(conversion.after)
    # A version that knows only the model before must not open what is of two models.
    of_two = partial(refuse, conversion.before, conversion.after)
    convert = partial(upgrade, database_url, vault, kill, conversion)
    assert begin_until_done(convert, of_two) == 4
    plain = random_units(7, vault.dim)
    wanted = vault.rotate(conversion.transform.apply(plain))
    with Store.open(database_url, vault, model_digest=conversion.after) as opened:
        assert find_damage(opened) == []
        assert verify_chain(opened).intact
        [chunk] = opened.references()
        np.testing.assert_allclose(chunk.vectors, wanted[1:], atol=1e-6)
        (watched,) = opened.watchlist()
        np.testing.assert_allclose(watched.template, wanted[1], atol=1e-6)
    assert not upgrade(database_url, vault, kill, conversion).is_converted


def test_a_model_set_back_in_the_database_is_no_reason_to_convert_again(
    store, database_url, of_the_model_before, conversion
) -> None:
    upgrade(database_url, store.vault, conversion=conversion)
    with changing(store.engine) as connection:
        deployment.set_model(connection, conversion.before)
    with pytest.raises(ChainBroken, match="set back in the database: put back a backup"):
        upgrade(database_url, store.vault, conversion=conversion)


def test_an_altered_reference_is_converted_and_not_vouched_for_and_a_damaged_one_stays_so(
    store, database_url, of_the_model_before, conversion
) -> None:
    altered, damaged, *rest = [one.id for one in of_the_model_before.references[1:]]
    changed = {altered: {"model_digest": "another"}, damaged: {"template": b"\1"}}
    with changing(store.engine) as connection:
        for key, values in changed.items():
            row = tables.references.c.id == key
            connection.execute(update(tables.references).where(row).values(**values))
    assert upgrade(database_url, store.vault, conversion=conversion).is_converted
    with Store.open(database_url, store.vault, model_digest=conversion.after) as opened:
        [chunk] = opened.references()
        assert chunk.ids.tolist() == [altered, *rest]
        found = find_damage(opened)
    assert [str(key) in one for key, one in zip(changed, found, strict=True)] == [True, True]


def test_a_registry_of_another_model_or_transform_is_refused_and_left_as_it_is(
    store, database_url, of_the_model_before, conversion
) -> None:
    other = replace(conversion, before="another")
    with pytest.raises(ModelMismatch, match="there is no conversion to"):
        upgrade(database_url, store.vault, conversion=other)
    with Store.open(database_url, store.vault, model_digest=MODEL) as opened:
        [chunk] = opened.references()
    wanted = [one.template for one in of_the_model_before.references[1:]]
    assert np.array_equal(chunk.vectors, np.stack(wanted))


def test_upgrade_leaves_no_reason_of_a_restriction_in_the_clear(database_url, vault) -> None:
    with Store.create(database_url, vault, model_digest=MODEL) as store:
        store.add_carrier(Carrier("red", "Red"), actor="test")
        store.add_outlet("r1", "red", actor="test")
        with changing(store.engine) as connection:
            with changing_rows(connection, vault, tables.outlets, ["r1"]):
                connection.execute(update(tables.outlets).values(restriction_reason="a name"))
            connection.execute(text("DROP TABLE attempt_templates"))
            connection.execute(text("DROP TABLE liveness"))
            for name in (*EVENTS, *(table.name for table in PEOPLE)):
                connection.execute(text(f"DROP TABLE {name}"))
            drop_life(connection)
            drop_consents(connection)
            for side in ("left", "right"):
                connection.execute(
                    text(f"ALTER TABLE judged_pairs DROP COLUMN {side}_attempt_score")
                )
            for table in (*LATEST, tables.sessions):
                connection.execute(text(f"ALTER TABLE {table.name} DROP COLUMN mac"))
            connection.execute(text("UPDATE alembic_version SET version_num = '0015'"))
    upgrade(database_url, vault)
    with Store.open(database_url, vault, model_digest=MODEL) as store:
        assert store.outlets(["r1"])["r1"].restriction_reason is None


def test_an_upgraded_registry_takes_keys_for_metrics_and_refuses_what_it_refused(
    database_url, vault
) -> None:
    make_revision(database_url, vault, "0002")
    upgrade(database_url, vault)
    engine = connect(database_url)
    row = {"id": "k", "digest": b"d", "label": "", "role": "metrics", "created_at": utc_now()}
    wrong = [{"role": "else"}, {"carrier": "red"}, {"role": "carrier"}, {"rate_limit": 0.0}]
    wrong += [{"role": "carrier", "carrier": "red", "outlet": "r1"}]
    for changes in wrong:
        with pytest.raises(RowRefused), changing(engine) as connection:
            connection.execute(insert(tables.api_keys), row | changes)
    with changing(engine) as connection:
        connection.execute(insert(tables.api_keys), row)
    engine.dispose()
