"""A second model fills in beside the first, and the two change places."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from engine.errors import ModelMismatch, RequestError
from engine.matching.calibration import Thresholds
from engine.matching.checks import second_model
from engine.matching.recovery import restore_gallery, save_snapshot
from engine.registry.audit import AuditEntry
from engine.registry.damage import find_damage
from engine.registry.database import changing, utc_now
from engine.registry.references import NewReference, SecondTemplate
from engine.registry.resealing import remove_missing, reseal, retire, switch_models
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.watchlist import RemovedWatchEntry, WatchEntry
from engine.registry.writer import Writer
from tests.engine.records import ENTRY, make_document
from tests.engine.registry.conftest import MODEL, Killed, Writes, committed, erasure, kill
from tests.tables import tables

SECOND, DIM = "sha256:second-model-of-the-tests", 48
Units = Callable[..., Any]


@pytest.fixture
def fill(vault, random_units: Units) -> Callable[..., Any]:
    """`fill(store, ids)`: gives references second templates, and returns these float32[n, DIM]."""

    def do(store: Store, ids: list[int], seed: int = 9) -> Any:
        vectors = vault.of_dimension(DIM).rotate(random_units(len(ids), DIM, seed=seed))
        pairs = [(key, SecondTemplate(SECOND, row)) for key, row in zip(ids, vectors, strict=True)]
        assert store.fill_references(pairs, actor="test") == len(ids)
        return vectors

    return do


def switch(url: str, vault: Vault, **given: Any) -> int:
    return switch_models(url, vault, before=MODEL, after=SECOND, dim=DIM, actor="test", **given)


def open_switched(url: str, vault: Vault) -> Store:
    return Store.open(url, vault.of_dimension(DIM), model_digest=SECOND)


def test_a_registry_of_thousands_switches_and_switches_back(
    tmp_path, vault, fill, random_units: Units
) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    with Store.create(url, vault, model_digest=MODEL) as store:
        with store.writer() as writer:
            writer.commit(changes := many(writer, vault, random_units))
        ids = [one.id for one in changes.references]
        gallery = restore_gallery(store, tmp_path / "gallery").gallery
        save_snapshot(store, gallery, tmp_path / "gallery")
        before = gallery.vectors(np.array(ids))
        half = fill(store, ids[:1_500])
        assert str(store.coverage(SECOND)) == "1,500 of 3,000 references"
        with pytest.raises(RequestError, match="1,500 of 3,000 references have no template"):
            switch(url, vault)
        rest = fill(store, ids[1_500:], seed=10)
    assert switch(url, vault) == 3_000
    with pytest.raises(ModelMismatch, match="use that model"):
        Store.open(url, vault, model_digest=MODEL)
    with open_switched(url, vault) as store:
        # The snapshot is the first model's: it is not taken.
        restored = restore_gallery(store, tmp_path / "gallery")
        assert (restored.loaded, len(restored.gallery)) == (0, 3_000)
        found = restored.gallery.vectors(np.array(ids))
        np.testing.assert_array_equal(found, np.concatenate([half, rest]))
        assert store.coverage(MODEL).is_whole
        assert find_damage(store) == []
    switch_models(
        url, vault.of_dimension(DIM), before=SECOND, after=MODEL, dim=vault.dim, actor="test"
    )
    with Store.open(url, vault, model_digest=MODEL) as store:
        restored = restore_gallery(store, tmp_path / "gallery")
        np.testing.assert_array_equal(restored.gallery.vectors(np.array(ids)), before)
        assert restored.loaded == 3_000, "the snapshot that was there is right again"


def many(writer: Writer, vault: Vault, random_units: Units, count: int = 3_000) -> Writes:
    """References of documents that have nothing else."""
    vectors = vault.rotate(random_units(count, vault.dim))
    documents = [make_document(vault, f"P{number:07d}") for number in range(count)]
    references = [
        NewReference(writer.next_reference_id(), one.id, None, row, 1)
        for one, row in zip(documents, vectors, strict=True)
    ]
    return Writes([ENTRY, *documents, *references])


def test_a_switch_that_is_killed_anywhere_goes_on_and_nothing_opens_half_of_it(
    database_url, store, vault, enroll, fill, monkeypatch, random_units: Units
) -> None:
    monkeypatch.setattr("engine.registry.resealing.ROWS_PER_BATCH", 2)
    with store.writer() as writer:
        enrolled = committed(writer, enroll(writer, 5))
        faces = random_units(2, vault.dim, seed=4), random_units(2, DIM, seed=5)
        entry = WatchEntry(writer.next_watch_id(), None, faces[0][0], "test", utc_now())
        writer.commit([AuditEntry("test", "watchlist.added", "1"), entry])
        vectors = fill(store, [one.id for one in enrolled.references])
        writer.commit([ENTRY])
        writer.commit(erasure(enrolled, 4, 6))
    with pytest.raises(RequestError, match="1 of 1 watched faces"):
        switch(database_url, vault)
    with store.writer() as writer:
        seen = SecondTemplate(SECOND, vault.of_dimension(DIM).rotate(faces[1])[0])
        other = WatchEntry(writer.next_watch_id(), None, faces[0][1], "test", utc_now(), seen)
        writer.commit(
            [AuditEntry("test", "watchlist.added", "2"), other, RemovedWatchEntry(entry.id)]
        )

    for _ in range(3):
        with pytest.raises(Killed):
            switch(database_url, vault, progress=kill)
        for model, dim in ((MODEL, vault.dim), (SECOND, DIM)):
            with pytest.raises(ModelMismatch, match="run sosie model switch"):
                Store.open(database_url, vault.of_dimension(dim), model_digest=model)
    switch(database_url, vault)
    with open_switched(database_url, vault) as switched:
        (chunk,) = switched.references()
        np.testing.assert_array_equal(chunk.vectors, vectors[:4])
        (watched,) = switched.watchlist()
        np.testing.assert_array_equal(watched.template, seen.vector)
        assert find_damage(switched) == []


def test_damaged_templates_go_along_open_nowhere_and_nobody_leaves_the_watch_list_by_one(
    database_url, store, vault, enroll, fill, random_units: Units
) -> None:
    table, watched = tables.references, tables.watchlist
    with store.writer() as writer:
        ids = [one.id for one in committed(writer, enroll(writer, 5)).references]
        vectors = fill(store, ids)
        other = SecondTemplate(SECOND, vectors[0])
        template = random_units(1, vault.dim)[0]
        face = WatchEntry(writer.next_watch_id(), None, template, "test", utc_now(), other)
        writer.commit([AuditEntry("test", "watchlist.added", "1"), face])
    first, second, moved, altered, sound = ids
    with changing(store.engine) as connection:
        for changed in (
            update(table).where(table.c.id == first).values(template=b"\1"),
            update(table).where(table.c.id == second).values(second_template=b"\1" * 60),
            # It would open in the place of the other.
            update(table).where(table.c.id == moved).values(second_template=table.c.template),
            update(table).where(table.c.id == altered).values(model_digest="another"),
        ):
            connection.execute(changed)
        entry = connection.execute(select(watched)).one()
        connection.execute(update(watched).values(second_template=b"\1"))
    with pytest.raises(RequestError, match="1 of 1 watched faces"):
        switch(database_url, vault)
    with changing(store.engine) as connection:
        connection.execute(update(watched).values(second_template=entry.second_template))
    assert switch(database_url, vault) == 5
    assert {f"references: row {key}" for key in (first, second, moved)} < set(
        vault.set_aside.names()
    )
    with open_switched(database_url, vault) as switched:
        (chunk,) = switched.references()
        assert chunk.ids.tolist() == [first, altered, sound]
        np.testing.assert_array_equal(chunk.vectors, vectors[[0, 3, 4]])
        found = find_damage(switched)
    for key in (first, second, moved, altered):
        assert any(f"row {key} " in one for one in found), found
    assert not any(f"row {sound} " in one for one in found), found


def test_an_erased_face_is_gone_in_both_models_and_an_altered_row_is_not_vouched_for(
    store, vault, writer, enroll, fill
) -> None:
    enrolled = committed(writer, enroll(writer, 2))
    gone, kept = (one.id for one in enrolled.references)
    fill(store, [gone, kept])
    writer.commit(erasure(enrolled, 0, 3))
    table = tables.references
    rows = {row.id: row for row in store.rows(select(table))}
    assert (rows[gone].template, rows[gone].second_template) == (None, None)
    assert store.second_templates([gone, kept], SECOND, DIM).keys() == {kept}
    assert store.fill_references([(gone, SecondTemplate(SECOND, vector_of(DIM)))], actor="t") == 0
    other = update(table).where(table.c.id == kept).values(second_model_digest="another")
    with changing(store.engine) as connection:
        connection.execute(other)
    assert find_damage(store) == [f"references: row {kept} was altered"]
    second = SecondTemplate(SECOND, vector_of(DIM))
    assert store.fill_references([(kept, second)], actor="t") == 0
    assert find_damage(store) == [f"references: row {kept} was altered"]


def test_a_rotation_of_the_data_key_seals_second_templates_anew(
    database_url, store, vault, key_ring, enroll, fill
) -> None:
    with store.writer() as writer:
        ids = [one.id for one in committed(writer, enroll(writer, 3)).references]
    vectors = fill(store, ids)
    wider = Vault(key_ring.with_new_data_key(), vault.dim)
    with Store.open(database_url, wider, model_digest=MODEL) as opened, opened.writer() as writer:
        assert reseal(writer)["references"] == 6
        narrow = Vault(retire(writer), vault.dim)
    with Store.open(database_url, narrow, model_digest=MODEL) as opened:
        found = opened.second_templates(ids, SECOND, DIM)
        np.testing.assert_array_equal(np.stack([found[key] for key in ids]), vectors)
        assert find_damage(opened) == []


def vector_of(dim: int) -> Any:
    unit = np.zeros(dim, np.float32)
    unit[0] = 1
    return unit


def test_the_models_are_compared_over_every_pair_of_references(
    tmp_path, vault, random_units: Units, fill, monkeypatch
) -> None:
    monkeypatch.setattr(second_model, "_BLOCK", 7)
    with Store.create(f"sqlite:///{tmp_path}/registry.db", vault, model_digest=MODEL) as store:
        with store.writer() as writer:
            writer.commit(enrolled := many(writer, vault, random_units, 40))
        ids = [one.id for one in enrolled.references]
        seconds = fill(store, ids[:30])
        firsts = np.stack([one.template for one in enrolled.references[:30]])
        first = Thresholds(verify=0.2, same_document=0.2, review=0.2, certain=0.35)
        other = Thresholds(verify=0.1, same_document=0.1, review=0.1, certain=0.25)
        model = second_model.SecondModel(SECOND, DIM, other)
        found = second_model.compare_references(store, model, first)
    above = np.triu(np.ones((30, 30), bool), 1)
    for name, one in found.items():
        is_first = (firsts @ firsts.T >= getattr(first, name)) & above
        is_second = (seconds @ seconds.T >= getattr(other, name)) & above
        expected = (is_first & is_second, is_first & ~is_second, is_second & ~is_first)
        assert one == second_model.Agreement(435, *(int(each.sum()) for each in expected))
        assert one.differ > 0


def test_those_whom_the_second_model_has_not_seen_are_removed_where_that_is_asked(
    database_url, store, vault, enroll, fill
) -> None:
    with store.writer() as writer:
        enrolled = committed(writer, enroll(writer, 3))
    fill(store, [enrolled.references[1].id])
    removed = remove_missing(database_url, vault, before=MODEL, after=SECOND, actor="test")
    assert sorted(removed) == sorted(enrolled.documents[place].id for place in (0, 2))
    switch(database_url, vault)
    with open_switched(database_url, vault) as switched:
        (chunk,) = switched.references()
        assert chunk.ids.tolist() == [enrolled.references[1].id]
        document = switched.document(enrolled.documents[0].id)
        assert document.reference_ids == ()
