"""A database that falls silent is left, named, and come back to; nothing acknowledged is lost.

Packets are dropped and nothing is closed: libpq alone would wait for ever. On main nothing
recovered until the sockets were cut by hand.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from engine.errors import LeaseLost, RegistryError, StorageFailed, WriterBusy
from engine.faces.extractor import Extractor
from engine.matching.requests import EnrollmentRequest
from engine.registry import postgresql, writer
from engine.registry.audit import verify_chain
from engine.registry.keyring import KeyRing
from engine.registry.records import ApiKey, AuditEntry, Changes, utc_now
from engine.registry.store import Store
from engine.registry.vault import Vault
from serving.access.authentication import make_key
from serving.compose import Deployment
from serving.errors import ServiceRefusal
from serving.registrar.protocol import CallContext
from serving.settings import load_settings
from tests.engine.matching.conftest import People
from tests.security.silent_proxy import Newcomers, SilentProxy, Way, open_proxy
from tests.serving.api.conftest import serving
from tests.serving.api.driver import KEYS

MODEL = "sha256:model-of-the-tests"
WAIT_S = 120


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bounds in the same order, and shorter."""
    for name, value in {"LOOK_S": 0.4, "STATEMENT_S": 0.8, "SILENCE_S": 1.2, "POOL_S": 2}.items():
        monkeypatch.setattr(postgresql, name, value)
    monkeypatch.setitem(postgresql._TCP, "connect_timeout", 2)
    monkeypatch.setattr(writer, "RENEW_S", 0.2)
    monkeypatch.setattr(writer, "LEASE_S", 1)


@pytest.fixture
def proxy(postgres: Any) -> Iterator[SilentProxy]:
    with open_proxy(postgres) as opened:
        yield opened


@pytest.fixture
def vault() -> Vault:
    return Vault(KeyRing.generate(), 32)


@pytest.fixture
def direct(postgres_url: str, vault: Vault) -> Iterator[Store]:
    """A registry, not by way of the proxy."""
    with Store.create(postgres_url, vault, model_digest=MODEL) as made:
        yield made


@pytest.fixture
def distant(direct: Store, proxy: SilentProxy, vault: Vault) -> Iterator[Store]:
    """The same registry, by way of the proxy."""
    url = proxy.url(str(direct.engine.url.database))
    with Store.open(url, vault, model_digest=MODEL) as opened:
        yield opened


def commit(held: writer.Writer) -> int:
    """One change; the number of its audit entry."""
    changes = Changes(sequence=held.sequence + 1, audit=[AuditEntry("test", "test.done", "x")])
    return held.commit(changes).number


@contextmanager
def before_commits(store: Store, do: Callable[..., Any]) -> Iterator[None]:
    event.listen(store.engine, "commit", do)
    try:
        yield
    finally:
        event.remove(store.engine, "commit", do)


@pytest.mark.parametrize("way", Way)
def test_a_commit_whose_connection_falls_silent_is_known_to_be_kept_or_not(
    direct: Store, distant: Store, proxy: SilentProxy, way: Way
) -> None:
    with distant.writer() as held:
        before = commit(held)
        with before_commits(distant, lambda _: proxy.fall_silent(way)):
            if way is Way.ANSWERS:
                assert commit(held) == before + 1
            else:
                with pytest.raises(StorageFailed):
                    commit(held)
        kept = before + (way is Way.ANSWERS)
        assert direct.audit_head()[0] == kept
        # The same writer goes on, and reads with connections that were silent as well.
        assert commit(held) == kept + 1
        assert distant.audit_head()[0] == kept + 1
    assert verify_chain(direct).intact


@pytest.mark.parametrize("newcomers", [Newcomers.NOT_ANSWERED, Newcomers.DROPPED])
def test_a_database_that_takes_no_connection_is_an_error_and_no_hang(
    direct: Store, distant: Store, proxy: SilentProxy, newcomers: Newcomers
) -> None:
    distant.counts()
    proxy.fall_silent(*Way, newcomers=newcomers)
    for _ in range(2):
        with pytest.raises(StorageFailed, match="cannot be opened"):
            distant.counts()
    proxy.serve_newcomers()
    assert distant.counts() == direct.counts()


def test_a_commit_that_cannot_be_looked_up_ends_the_writer_and_not_the_process(
    direct: Store, distant: Store, proxy: SilentProxy
) -> None:
    with distant.writer() as held:

        def vanish(_: object) -> None:
            proxy.fall_silent(Way.ANSWERS, newcomers=Newcomers.DROPPED)

        with before_commits(distant, vanish), pytest.raises(LeaseLost, match="went away"):
            commit(held)
    proxy.serve_newcomers()
    with take_when_free(distant) as again:
        assert commit(again) == direct.audit_head()[0]


def take_when_free(store: Store) -> writer.Writer:
    give_up_at = time.monotonic() + WAIT_S
    while True:
        try:
            return store.writer()
        except WriterBusy:
            assert time.monotonic() < give_up_at
            time.sleep(0.05)


def test_the_lease_of_a_host_that_fell_silent_is_free_soon(
    direct: Store, distant: Store, proxy: SilentProxy
) -> None:
    with distant.writer() as dead:
        commit(dead)
        with pytest.raises(WriterBusy):
            direct.writer()
        proxy.fall_silent(*Way, newcomers=Newcomers.DROPPED)
        with take_when_free(direct) as successor:
            commit(successor)
            proxy.serve_newcomers()
            for _ in range(2):
                with pytest.raises(LeaseLost, match="another writer"):
                    commit(dead)
            commit(successor)
    assert verify_chain(direct).intact


def test_a_lease_whose_session_ended_is_taken_anew(
    direct: Store, distant: Store, proxy: SilentProxy
) -> None:
    def holder() -> int | None:
        with direct.engine.connect() as connection:
            found = connection.scalar(
                text("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted")
            )
        return None if found is None else int(found)

    with distant.writer() as held:
        before = holder()
        proxy.fall_silent(*Way)
        give_up_at = time.monotonic() + WAIT_S
        while holder() in (before, None):
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
        commit(held)
        with pytest.raises(WriterBusy):
            direct.writer()
    direct.writer().close()


def test_a_long_statement_is_ended_and_one_that_may_be_long_is_not(distant: Store) -> None:
    with distant.engine.connect() as connection:
        with pytest.raises(Exception, match="statement timeout"):
            connection.execute(text("SELECT pg_sleep(2)"))
        connection.rollback()
        with postgresql.long_statements(connection):
            connection.execute(text("SELECT pg_sleep(1.5)"))
