import itertools
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select

from engine.errors import KeyRingError, KeyRingForeign, ModelMismatch, RegistryError, SealBroken
from engine.registry import audit
from engine.registry.cases import AddedNote
from engine.registry.database import new_id, utc_now
from engine.registry.keyring import KeyRing
from engine.registry.references import AttemptTemplate, RemovedReference
from engine.registry.resealing import reseal, retire
from engine.registry.store import Store, sealed_columns
from engine.registry.vault import Vault, key_version
from engine.registry.watchlist import WatchEntry
from engine.registry.webhooks import Webhooks
from schema.cases import CaseNote, NoteKind
from tests.engine.records import make_case, make_crop
from tests.engine.registry.conftest import ENTRY, MODEL, Killed, Writes, begin_until_done, committed
from tests.tables import tables

CASE = new_id()


def stopping(changing, batch: int):
    """`Writer.changing`, which ends the process instead of opening this batch's transaction."""
    batches = itertools.count(1)

    def change(*entries):
        if next(batches) == batch:
            raise Killed
        return changing(*entries)

    return change


@pytest.fixture
def filled(store, enroll):
    """Ten enrollments, one of them removed, a watched face, two notes beside one that is empty,
    a crop, what an attempt showed, and a webhook with its second secret: 10 + 9 + 10 + 1 + 2 + 1 +
    1 + 3 sealed values."""
    webhooks = Webhooks(store.engine, store.vault)
    webhook, _ = webhooks.create("https://a.example/", (), carrier=None, actor="test")
    webhooks.rotate(webhook.id, timedelta(days=1), carrier=None, actor="test")
    with store.writer() as writer:
        changes = committed(writer, enroll(writer, 10))
        now = utc_now()
        face = WatchEntry(1, None, changes.references[0].template, "fraud", now)
        case = make_case(id=CASE)
        notes = [CaseNote(now, "anna", NoteKind.NOTE, text) for text in ("one", "", "王")]
        crop = make_crop(changes.enrollments[0].id)
        first = changes.enrollments[0].id, changes.documents[0].id
        shown = AttemptTemplate(*first, changes.references[0].template)
        added = [AddedNote(CASE, note) for note in notes]
        writer.commit([ENTRY, RemovedReference(5, 11), shown, face, case, *added, crop])
    return changes


def versions(store: Store) -> set[int]:
    found = set()
    with store._engine.connect() as connection:
        for _, column in sealed_columns():
            blobs = connection.scalars(select(column).where(column.is_not(None)))
            found |= {key_version(blob) for blob in blobs}
    return found


def contents(store: Store, changes: Writes) -> tuple[object, ...]:
    """Everything sealed, opened."""
    identities = [store.identity(document.id) for document in changes.documents]
    numbers = store.numbers([line.id for line in changes.lines])
    gallery = np.concatenate([chunk.vectors for chunk in store.references()]).tobytes()
    desk = store.cases.notes(CASE), store.cases.crops(changes.enrollments[0].id)
    [shown] = store.attempt_templates([changes.enrollments[0].id]).values()
    faces = gallery, store.watchlist()[0].template.tobytes(), shown.tobytes()
    return identities, numbers, faces, desk


@pytest.fixture
def wider(key_ring) -> KeyRing:
    return key_ring.with_new_data_key()


def reopened(store: Store, url: str, ring: KeyRing) -> Store:
    return Store.open(url, Vault(ring, store.vault.dim), model_digest=MODEL)


def test_data_key_is_rotated_without_losing_a_row(store, filled, database_url, wider) -> None:
    before = contents(store, filled)
    with reopened(store, database_url, wider) as widened:
        with widened.writer() as writer:
            assert reseal(writer, rows_per_batch=4) == {
                "documents": 10,
                "references": 9,
                "lines": 10,
                "watchlist": 1,
                "case_notes": 2,
                "crops": 1,
                "attempt_templates": 1,
                "events": 11,
                "webhooks": 3,
                "exceptions": 0,
                "enrollments": 0,
            }
            narrow = retire(writer)
        assert versions(widened) == {2}
        assert contents(widened, filled) == before
        assert audit.verify_chain(widened).intact
    assert [key.version for key in narrow.data] == [2]
    with reopened(store, database_url, narrow) as after:
        assert contents(after, filled) == before


def test_every_value_that_a_data_key_seals_is_counted_with_its_transaction(
    store, filled, database_url, wider
) -> None:
    # Ten references, one of which was removed since, a secret that is none any more;
    # and the events of each decision.
    kept, sealed = 48, 50
    assert store.seal_counts() == {1: sealed}
    store.vault.seal_token("issued.template", "row", b"of no data key")
    store.note(ENTRY)
    assert store.seal_counts() == {1: sealed}
    with store.writer() as writer:
        refused = [ENTRY, RemovedReference(999, 11), make_crop("no attempt")]
        with pytest.raises(RegistryError):
            writer.commit(refused)
        assert store.seal_counts() == {1: sealed}
        writer.commit([ENTRY])
        assert store.seal_counts() == {1: sealed + 1}
    with reopened(store, database_url, wider) as widened, widened.writer() as writer:
        reseal(writer, rows_per_batch=4)
        assert widened.seal_counts() == {1: sealed + 1, 2: kept}


def test_resealing_twice_finds_nothing_to_do(store, filled, database_url, wider) -> None:
    with reopened(store, database_url, wider) as widened, widened.writer() as writer:
        reseal(writer)
        entries = widened.audit_head()
        assert set(reseal(writer).values()) == {0}
        assert widened.audit_head() == entries


def test_key_in_use_is_not_retired(store, filled, database_url, wider) -> None:
    with reopened(store, database_url, wider) as widened, widened.writer() as writer:
        before = widened.counts(), widened.audit_head()
        with pytest.raises(KeyRingError, match="reseal"):
            retire(writer)
        assert (widened.counts(), widened.audit_head()) == before


def test_stop_after_any_batch_loses_nothing_and_goes_on(
    store, filled, database_url, wider, monkeypatch
) -> None:
    before = contents(store, filled)
    with reopened(store, database_url, wider) as widened:

        def reseal_some() -> None:
            with widened.writer() as writer:
                monkeypatch.setattr(writer, "changing", stopping(writer.changing, batch=3))
                reseal(writer, rows_per_batch=2)

        def look() -> None:
            assert contents(widened, filled) == before

        assert begin_until_done(reseal_some, look) >= 5
        assert versions(widened) == {2}
        assert contents(widened, filled) == before


def test_old_ring_is_refused_once_rows_may_bear_the_new_key(
    store, filled, database_url, key_ring, wider
) -> None:
    with reopened(store, database_url, wider) as widened, widened.writer():
        pass
    with pytest.raises(KeyRingForeign, match="data key 2"):
        reopened(store, database_url, key_ring)


def test_process_with_the_ring_from_before_a_rotation_writes_nothing(
    store, filled, database_url, wider
) -> None:
    with reopened(store, database_url, wider) as widened:
        with widened.writer() as writer:
            # Half-way through: both keys are in use, and the store's own ring has the first alone.
            reseal(writer)
            writer.close()
            refuse_writer(store, widened)
        with widened.writer() as writer:
            retire(writer)
        refuse_writer(store, widened)
        assert versions(widened) == {2}
    narrow = wider.with_active_alone(())
    with reopened(store, database_url, narrow) as after, after.writer() as writer:
        writer.commit([ENTRY])


def refuse_writer(stale: Store, current: Store) -> None:
    before = current.counts(), current.audit_head(), data_keys(current)
    with pytest.raises(KeyRingForeign, match="rotated after this process read its key ring"):
        stale.writer()
    assert (current.counts(), current.audit_head(), data_keys(current)) == before


def data_keys(store: Store) -> object:
    with store._engine.connect() as connection:
        return connection.scalar(select(tables.deployment.c.data_keys))


def test_writer_of_a_registry_that_was_replaced_is_refused(store, database_url) -> None:
    with store._engine.begin() as connection:
        connection.execute(tables.deployment.update().values(model_digest="sha256:other"))
    with pytest.raises(ModelMismatch, match="sha256:other"):
        store.writer()


def test_damaged_values_keep_their_key_from_being_forgotten_and_not_in_force(
    store, filled, database_url, wider
) -> None:
    table = tables.references
    (owner,) = (one.document_id for one in filled.references if one.id == 3)
    with reopened(store, database_url, wider) as widened, widened.writer() as writer:
        with writer.changing(ENTRY) as connection:
            blob = connection.scalar(select(table.c.template).where(table.c.id == 3))
            broken = blob[:-1] + bytes([blob[-1] ^ 1])
            connection.execute(table.update().where(table.c.id == 3).values(template=broken))
        assert reseal(writer)["references"] == 8
        narrow = retire(writer)
        assert widened.vault.set_aside.names() == ["references: row 3"]
    assert ([key.version for key in narrow.data], [key.version for key in narrow.kept]) == (
        [2],
        [1],
    )
    # Who has the old key could else keep it in force by damaging one value.
    with reopened(store, database_url, narrow) as after, pytest.raises(SealBroken):
        after.vault.open("references.template", f"3\0{owner}", blob)
    # A new rotation is one of its own, and forgets a key that nothing needs any more.
    newer = narrow.with_new_data_key()
    with reopened(store, database_url, newer) as after, after.writer() as writer:
        assert reseal(writer)["references"] == 8
        assert retire(writer) == replace(newer, data=newer.data[1:])
        with writer.changing(ENTRY) as connection:
            connection.execute(table.delete().where(table.c.id == 3))
        assert retire(writer).kept == ()
