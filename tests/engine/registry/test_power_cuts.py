"""An acknowledged commit outlives a failing disk and a power cut; a refused one is never there.

Each test fails the n-th operation that SQLite or we have the disk do, for every n that the commits
below have, and then cuts the power. Attacks that worked: the flush of the folder failed after the
rollback journal was deleted, the commit was read back from the page cache as kept, and the power
cut brought the journal back.
"""

import collections
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from engine.errors import LeaseLost, RegistryError, StorageFailed
from engine.registry.accounts import Carrier
from engine.registry.audit import verify_chain
from engine.registry.documents import ConsentChange
from engine.registry.people import FaceErasure
from engine.registry.references import RemovedReference
from engine.registry.retention import DocumentErasure
from engine.registry.rows import choose
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from tests.engine.registry.conftest import ENTRY, MODEL, Writes, erasure
from tests.engine.registry.faulty_disk import FaultyDisk, mounted
from tests.tables import tables

pytestmark = pytest.mark.slow

# CI has twenty minutes for everything.
CUTS, EACH = (1, 8) if "CI" in os.environ else (2, 1)
"""Power cuts after each failure: what of the unflushed sectors is found differs. Every
operation fails in its turn, in CI every eighth."""


@pytest.fixture(params=["its journal", "no journal yet"])
def base(request, tmp_path, vault, enroll) -> Path:
    """A folder with a registry of a few people, and the journal that SQLite keeps beside it, or as
    an older version of ours has left it."""
    folder = tmp_path / "base"
    folder.mkdir()
    make_registry(folder, vault)
    with Store.open(url_of(folder), vault, model_digest=MODEL) as store, store.writer() as writer:
        writer.commit(enroll(writer, 4, first=1000))
    if request.param == "no journal yet":
        (folder / "registry.db-journal").unlink()
    return folder


def make_registry(folder: Path, vault: Vault) -> None:
    with Store.create(url_of(folder), vault, model_digest=MODEL) as store:
        store.add_carrier(Carrier("red", "Red Mobile"), actor="test")
        store.add_outlet("r1", "red", actor="test")


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/registry.db"


class Run:
    """Commits some enrollments and an erasure on a disk that may fail, as the service does: after
    `LeaseLost` it opens the registry again, if it can, and goes on."""

    def __init__(self, folder: Path, vault: Vault, enroll: Any) -> None:
        self._folder, self._vault, self._enroll = folder, vault, enroll
        self.kept: list[Writes] = []
        self.refused: list[Writes] = []
        self.in_doubt: list[Writes] = []
        self._store: Store | None = None
        self._writer: Writer | None = None

    def perform(self) -> None:
        for number in range(5):
            with suppress(RegistryError):
                self._attempt(number)
        self._close()

    def _attempt(self, number: int) -> None:
        writer = self._open()
        if number == 3 and self.kept:
            changes = erasure(self.kept[0], 0, writer.sequence + 1)
        elif number == 4 and self.kept:
            changes = withdrawal(self.kept[0], writer.sequence + 1)
        else:
            changes = self._enroll(writer, 2, first=10 * number)
        try:
            writer.commit(changes)
        except LeaseLost:
            self.in_doubt.append(changes)
            self._close()
        except StorageFailed:
            self.refused.append(changes)
        else:
            self.kept.append(changes)

    def _open(self) -> Writer:
        if self._writer is None:
            self._store = Store.open(url_of(self._folder), self._vault, model_digest=MODEL)
            self._writer = self._store.writer()
        return self._writer

    def _close(self) -> None:
        for part in (self._writer, self._store):
            if part is not None:
                part.close()
        self._writer = self._store = None

    def assert_holds(self, folder: Path) -> None:
        """What was acknowledged is there, and what was refused is not."""
        with closing(sqlite3.connect(folder / "registry.db")) as plain:
            assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        with Store.open(url_of(folder), self._vault, model_digest=MODEL) as store:
            assert verify_chain(store).intact
            erased = {key for one in (*self.kept, *self.in_doubt) for key in find_erased(one)}
            for changes in self.kept:
                self._assert_kept(store, changes, erased)
            wanted = [row.id for changes in self.refused for row in changes.documents]
            assert store.documents_by_id(wanted) == {}
            counts = store.counts()
            assert counts["live_references"] == sum(len(c.ids) for c in store.references())

    @staticmethod
    def _assert_kept(store: Store, changes: Writes, erased: set[str]) -> None:
        ids = [row.id for row in changes.documents]
        found = store.documents_by_id(ids)
        assert found.keys() == set(ids)
        for key in find_erased(changes):
            assert store.documents_by_id([key])[key].status == "erased"
        for row in changes.documents:
            if row.id not in erased:
                # A face that is withdrawn is gone with its mark, or wholly there.
                assert bool(found[row.id].reference_ids) != bool(found[row.id].withdrawn)
        marked = [one.document_id for one in choose(changes, ConsentChange)]
        assert all(one.withdrawn for one in store.documents_by_id(marked).values())


@pytest.fixture
def play(base, tmp_path, vault, enroll, monkeypatch) -> Callable[..., tuple[Run, FaultyDisk]]:
    """`play(fails_at, stays_broken)`: a run on a copy of the base, then power cuts; checks what
    each left."""
    folder = tmp_path / "played"

    def once(fails_at: int | None, stays_broken: bool = False) -> tuple[Run, FaultyDisk]:
        shutil.copytree(base, folder)
        with mounted(folder, monkeypatch) as disk:
            run = Run(folder, vault, enroll)
            disk.begin(fails_at, stays_broken=stays_broken)
            run.perform()
            for seed in range(CUTS):
                image = disk.cut_power(tmp_path / "image", seed)
                run.assert_holds(image)
                shutil.rmtree(image)
        shutil.rmtree(folder)
        return run, disk

    return once


def test_no_failure_of_the_disk_loses_what_was_acknowledged(request, play) -> None:
    run, disk = play(None)
    assert (len(run.kept), run.refused, run.in_doubt) == (5, [], [])
    points = len(disk.operations)
    assert points >= 200
    has_journal = "its journal" in request.node.name
    for place in range(1, points + 1, EACH if has_journal else 8):
        run, disk = play(place)
        # One failure costs one commit, and the service goes on.
        assert len(run.refused) + len(run.in_doubt) <= 1, disk.operations[place - 1]
    for place in range(1, points + 1, 10 if has_journal else 20):
        play(place, stays_broken=True)


def test_nothing_erased_is_left_in_any_block_that_the_database_had(
    tmp_path, vault, enroll, monkeypatch
) -> None:
    """Enrolls and erases at random, and looks for each sealed value that was erased in the raw
    bytes of all files that SQLite wrote, deleted ones too."""
    chance = random.Random(5)
    folder = tmp_path / "registry"
    folder.mkdir()
    with mounted(folder, monkeypatch) as disk:
        disk.begin(None)
        make_registry(folder, vault)
        with Store.open(url_of(folder), vault, model_digest=MODEL) as store:
            gone = list(enroll_and_erase(store, enroll, chance))
            found = disk.raw_image()
    assert len(gone) > 300
    left = [name for name, value in gone if value in found]
    assert not left, collections.Counter(left)
    assert b"enrollment.decided" in found


def withdrawal(made: Writes, sequence: int) -> Writes:
    reference = made.references[1]
    marked = ConsentChange(reference.document_id, ["red"], is_withdrawn=True)
    gone = RemovedReference(reference.id, sequence)
    return Writes([ENTRY, marked, gone, FaceErasure(reference.document_id, None)])


def find_erased(changes: Writes) -> list[str]:
    return [one.document_id for one in choose(changes, DocumentErasure)]


def enroll_and_erase(
    store: Store, enroll: Any, chance: random.Random
) -> Iterator[tuple[str, bytes]]:
    """The names and values of the columns that were erased."""
    present: list[tuple[str, int]] = []
    with store.writer() as writer:
        for number in range(40):
            added = enroll(writer, chance.randrange(1, 12), first=100 * number)
            writer.commit(added)
            present += [(row.document_id, row.id) for row in added.references]
            for _ in range(chance.randrange(0, 5)):
                document, reference = present.pop(chance.randrange(len(present)))
                yield from sealed_values(store, document)
                sequence = writer.sequence + 1
                writer.commit(
                    [
                        ENTRY,
                        RemovedReference(reference, sequence),
                        DocumentErasure(document, "test"),
                    ]
                )


def sealed_values(store: Store, document: str) -> Iterator[tuple[str, bytes]]:
    for table, key, columns in (
        (tables.documents, "id", ("identity", "lookup")),
        (tables.references, "document_id", ("template",)),
        (tables.lines, "document_id", ("msisdn", "msisdn_lookup")),
    ):
        for row in store.rows(select(table).where(table.c[key] == document)):
            for column in columns:
                yield column, row._mapping[column]
