"""A database that another process keeps busy fails a batch once, not once for each of its items."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url

from engine.errors import RowRefused, StorageFailed
from engine.registry import database, postgresql
from engine.registry.database import new_id
from engine.registry.enrollments import EnrollmentRecord
from engine.registry.lines import LineChange
from engine.registry.rows import choose
from engine.registry.writer import Writer
from schema.lines import LineEventKind
from tests.engine.records import ENTRY, make_crop

BATCH = 16


@pytest.fixture(autouse=True)
def short_waits(monkeypatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 100)
    usual, short = f"lock_timeout = '{postgresql.LOCK_S}s'", "lock_timeout = '100ms'"
    assert usual in postgresql._SESSION
    monkeypatch.setattr(postgresql, "_SESSION", postgresql._SESSION.replace(usual, short))


@pytest.fixture
def commits(monkeypatch) -> list[Any]:
    """What the writer was asked to commit."""
    asked: list[Any] = []
    commit = Writer.commit

    def count(writer: Writer, changes: Any) -> Any:
        asked.append(changes)
        return commit(writer, changes)

    monkeypatch.setattr(Writer, "commit", count)
    return asked


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Another client holds what a writer needs, and lets readers pass."""
    engine = create_engine(make_url(url))
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.connection.dbapi_connection.isolation_level = None
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("SELECT * FROM deployment FOR UPDATE")
        try:
            yield
        finally:
            connection.exec_driver_sql("ROLLBACK")
    engine.dispose()


def test_a_locked_database_fails_a_batch_with_one_wait(
    lab, registrar, busy, database_url, commits
) -> None:
    with locked(database_url):
        with busy(registrar):
            futures = [registrar.submit(lab.request()) for _ in range(BATCH)]
        outcomes = [future.result(120) for future in futures]
    assert {type(outcome) for outcome in outcomes} == {StorageFailed}
    assert len(commits) == 1
    # The same requests pass once it is free: nothing of them was kept.
    assert registrar.enroll([lab.request()])[0].decision == "approved"
    assert lab.store.counts()["enrollments"] == 1


def test_a_bad_row_splits_a_batch_and_a_database_that_then_fails_is_asked_once(
    lab, busy, monkeypatch
) -> None:
    asked: list[int] = []
    commit = Writer.commit

    def fail(writer: Writer, changes: Any) -> Any:
        asked.append(len(choose(changes, EnrollmentRecord)))
        if len(asked) == 1:
            raise RowRefused("a row of this batch is bad")
        if len(asked) > 3:
            raise StorageFailed("the database is locked")
        return commit(writer, changes)

    with lab.registrar() as registrar:
        monkeypatch.setattr(Writer, "commit", fail)
        with busy(registrar):
            futures = [registrar.submit(lab.request()) for _ in range(BATCH)]
        outcomes = [future.result(120) for future in futures]
    assert asked == [BATCH, 1, 1, 1]
    assert [outcome.decision for outcome in outcomes[:2]] == ["approved"] * 2
    assert {type(outcome) for outcome in outcomes[2:]} == {StorageFailed}
    assert len({id(outcome) for outcome in outcomes}) == BATCH


def test_only_errors_of_a_row_are_told_as_such(lab, database_url) -> None:
    with locked(database_url), pytest.raises(StorageFailed) as busy:
        lab.store.add_outlet("new", "blue", actor="test")
    assert not isinstance(busy.value, RowRefused)
    with lab.store.writer() as writer:
        crop = make_crop(new_id())
        for change in (LineChange([new_id()], LineEventKind.CLOSED, "test", "test"), crop):
            with pytest.raises(RowRefused):
                writer.commit([ENTRY, change])
