import sys
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, inspect, text

from engine.errors import (
    KeyRingForeign,
    ModelMismatch,
    RegistryError,
    RegistryExists,
    RegistryMissing,
    SchemaMismatch,
)
from engine.registry.columns import metadata
from engine.registry.database import REVISIONS, connect, restructuring, version
from engine.registry.keyring import KeyRing
from engine.registry.migrations import from_0001, from_0012
from engine.registry.store import Store, every_table
from engine.registry.upgrade import upgrade
from engine.registry.vault import Vault
from tests.engine.registry.conftest import MODEL
from tests.migrations import NotedMigrations, Upgrade


def set_revision(url: str, revision: str) -> None:
    engine = connect(url)
    with restructuring(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
    engine.dispose()


@pytest.mark.parametrize("noted", [False, True])
def test_migrations_give_exactly_the_metadata(database_url, migrate: Upgrade, noted: bool) -> None:
    """By themselves and, as in most registries of these tests, as what they left elsewhere."""
    engine, bring_up = connect(database_url), migrate
    if noted:
        bring_up = NotedMigrations(migrate)
        with engine.connect() as connection:
            bring_up(connection)
            connection.rollback()
    with restructuring(engine) as connection:
        bring_up(connection)
        assert version(connection) == REVISIONS[-1]
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        found = inspect(connection)
        for table in every_table():
            checks = {check["name"] for check in found.get_check_constraints(table.name)}
            wanted = {c.name for c in table.constraints if isinstance(c, CheckConstraint)}
            assert checks == wanted
    engine.dispose()


def test_newest_revision_is_the_last_migration() -> None:
    assert (*from_0001.MIGRATIONS, *from_0012.MIGRATIONS) == REVISIONS


def test_registry_is_made_once(store, database_url, vault) -> None:
    with pytest.raises(RegistryExists):
        Store.create(database_url, vault, model_digest=MODEL)
    assert store.counts()["outlets"] == 3


def test_failed_making_leaves_nothing_behind(database_url, vault) -> None:
    with pytest.raises(RegistryError):
        Store.create(
            database_url, vault, model_digest="x" * 200 if "post" in database_url else None
        )
    engine = connect(database_url)
    if "sqlite" in database_url:
        assert not Path(engine.url.database).exists()
    else:
        assert inspect(engine).get_table_names() == []
    engine.dispose()
    Store.create(database_url, vault, model_digest=MODEL).close()


def test_new_sqlite_file_is_readable_by_its_owner_alone(sqlite_url, vault) -> None:
    Store.create(sqlite_url, vault, model_digest=MODEL).close()
    assert Path(sqlite_url.removeprefix("sqlite:///")).stat().st_mode & 0o777 == 0o600


def test_missing_file_is_refused_and_not_made(sqlite_url, vault) -> None:
    with pytest.raises(RegistryMissing, match="sosie init"):
        Store.open(sqlite_url, vault, model_digest=MODEL)
    assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()


def test_database_without_a_registry_is_refused(database_url, vault) -> None:
    if "sqlite" in database_url:
        Path(database_url.removeprefix("sqlite:///")).touch()
    with pytest.raises(RegistryMissing, match="sosie init"):
        Store.open(database_url, vault, model_digest=MODEL)
    with pytest.raises(RegistryMissing):
        upgrade(database_url, vault)


def test_server_or_database_that_is_not_there_is_refused(postgres_url, vault) -> None:
    for url in (
        postgres_url.replace("/sosie_", "/missing_"),
        postgres_url + "-elsewhere",
        "postgresql+psycopg://nobody@127.0.0.1:1/registry",
    ):
        for attempt in (Store.open, Store.create):
            with pytest.raises(RegistryError) as caught:
                attempt(url, vault, model_digest=MODEL)
            assert str(caught.value) == (
                "the database cannot be opened (OperationalError): check its URL and that it runs"
            )


def test_driver_that_is_not_installed_is_named(vault, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(RegistryError, match=r"run pip install -e '\.\[postgres\]'") as caught:
        Store.open("postgresql+psycopg://user@host/registry", vault, model_digest=MODEL)
    assert "\n" not in str(caught.value)


def test_file_that_is_no_database_is_refused(sqlite_url, vault) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    path.write_bytes(b"GIF89a" * 1000)
    with pytest.raises(RegistryError, match="SQLITE_NOTADB"):
        Store.open(sqlite_url, vault, model_digest=MODEL)
    assert path.read_bytes() == b"GIF89a" * 1000


@pytest.mark.parametrize(
    "url", ["", "registry.db", "mysql://x/y", "sqlite://", "sqlite:///:memory:"]
)
def test_url_of_anything_else_is_refused(url: str, vault) -> None:
    with pytest.raises(RegistryError, match="sqlite:///"):
        Store.create(url, vault, model_digest=MODEL)


def test_folder_that_is_not_there_is_refused(tmp_path, vault) -> None:
    with pytest.raises(RegistryError, match="cannot be made"):
        Store.create(f"sqlite:///{tmp_path}/no/registry.db", vault, model_digest=MODEL)


def test_wrong_key_ring_is_refused(store, database_url, key_ring) -> None:
    other = KeyRing.generate()
    same_name = replace(other, deployment_id=key_ring.deployment_id)
    stale = replace(key_ring, data=other.data)
    for ring, why in ((other, "deployment"), (same_name, "not its keys"), (stale, "data key 1")):
        with pytest.raises(KeyRingForeign, match=why):
            Store.open(database_url, Vault(ring, store.vault.dim), model_digest=MODEL)


def test_other_model_or_dimension_is_refused(store, database_url, key_ring) -> None:
    with pytest.raises(ModelMismatch, match="sha256:other"):
        Store.open(database_url, store.vault, model_digest="sha256:other")
    with pytest.raises(ModelMismatch, match="dimensions"):
        Store.open(database_url, Vault(key_ring, 64), model_digest=MODEL)


def test_newer_schema_is_refused_and_left_alone(store, database_url) -> None:
    set_revision(database_url, "9999")
    for attempt in (
        lambda: Store.open(database_url, store.vault, model_digest=MODEL),
        lambda: upgrade(database_url, store.vault),
    ):
        with pytest.raises(SchemaMismatch, match="9999 is newer"):
            attempt()
    set_revision(database_url, REVISIONS[-1])
    Store.open(database_url, store.vault, model_digest=MODEL).close()


@pytest.mark.parametrize(("dim", "page_bytes"), [(128, 4_096), (512, 16_384)])
def test_a_new_sqlite_registry_has_room_for_several_templates_on_a_page(
    tmp_path, dim: int, page_bytes: int
) -> None:
    """Half of a page of 4,096 bytes stays empty beside one template of 512 floats."""
    vault = Vault(KeyRing.generate(), dim)
    with Store.create(f"sqlite:///{tmp_path}/registry.db", vault, model_digest=MODEL) as store:
        with store.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA page_size").scalar() == page_bytes
        sealed = len(vault.seal("references.template", 1, bytes(4 * vault.dim)))
        assert page_bytes // (sealed + 200) >= 5
