"""A database that falls silent is left, named, and come back to; nothing acknowledged is lost.

Packets are dropped and nothing is closed: libpq alone would wait for ever. On main nothing
recovered until the sockets were cut by hand.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from engine.errors import DeadlinePassed, LeaseLost, RegistryError, StorageFailed, WriterBusy
from engine.matching.requests import EnrollmentRequest
from engine.registry import postgresql, transactions, writer
from engine.registry.audit import AuditEntry, verify_chain
from engine.registry.database import changing
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from serving.deployment.deployment import Deployment
from serving.errors import ServiceRefusal
from serving.registrar.protocol import CallContext
from serving.settings.settings import load_settings
from tests.engine.matching.conftest import People
from tests.engine.registry.conftest import take_when_free
from tests.keys import add_key
from tests.security.silent_proxy import Newcomers, SilentProxy, Way, open_proxy
from tests.serving.api.conftest import serving
from tests.serving.api.driver import KEYS
from tests.waiting import wait_until

MODEL = "sha256:model-of-the-tests"
WAIT_S = 120


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    """The same bounds in the same order, and shorter."""
    bounds = {"LOOK_S": 2.0, "STATEMENT_S": 2.5, "SILENCE_S": 3.5, "TRANSACTION_S": 6, "POOL_S": 5}
    for name, value in bounds.items():
        monkeypatch.setattr(postgresql, name, value)
    monkeypatch.setitem(postgresql._TCP, "connect_timeout", 3)
    monkeypatch.setattr(transactions, "RENEW_S", 0.2)
    monkeypatch.setattr(transactions, "LEASE_S", 4)


@pytest.fixture
def proxy(postgres) -> Iterator[SilentProxy]:
    with open_proxy(postgres) as opened:
        yield opened


@pytest.fixture
def vault() -> Vault:
    return Vault(KeyRing.generate(), 32)


@pytest.fixture
def direct(postgres_url, vault) -> Iterator[Store]:
    """A registry, not by way of the proxy."""
    with Store.create(postgres_url, vault, model_digest=MODEL) as made:
        yield made


@pytest.fixture
def distant(direct, proxy, vault) -> Iterator[Store]:
    """The same registry, by way of the proxy."""
    url = proxy.url(str(direct.engine.url.database))
    with Store.open(url, vault, model_digest=MODEL) as opened:
        yield opened


def commit(held: writer.Writer) -> int:
    """One change; the number of its audit entry."""
    changes = [AuditEntry("test", "test.done", "x")]
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
    direct, distant, proxy, way: Way
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
    direct, distant, proxy, newcomers: Newcomers
) -> None:
    distant.counts()
    proxy.fall_silent(*Way, newcomers=newcomers)
    # One connection is made although nobody accepts it; the next gets no answer at all.
    for _ in range(1 + (newcomers is Newcomers.DROPPED)):
        with pytest.raises(StorageFailed, match="cannot be opened"):
            distant.counts()
    proxy.serve_newcomers()
    assert distant.counts() == direct.counts()


def test_a_commit_that_cannot_be_looked_up_ends_the_writer_and_not_the_process(
    direct, distant, proxy
) -> None:
    with distant.writer() as held:

        def vanish(_: object) -> None:
            proxy.fall_silent(Way.ANSWERS, newcomers=Newcomers.DROPPED)

        with before_commits(distant, vanish), pytest.raises(LeaseLost, match="went away"):
            commit(held)
    proxy.serve_newcomers()
    with take_when_free(distant) as again:
        assert commit(again) == direct.audit_head()[0]


def test_the_lease_of_a_host_that_fell_silent_is_free_soon(direct, distant, proxy) -> None:
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


def test_a_lease_whose_session_ended_is_taken_anew(direct, distant, proxy) -> None:
    def holder() -> int | None:
        with direct.engine.connect() as connection:
            found = connection.scalar(
                text("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted")
            )
        return None if found is None else int(found)

    with distant.writer() as held:
        before = holder()
        proxy.fall_silent(*Way)
        wait_until(lambda: holder() not in (before, None))
        commit(held)
        with pytest.raises(WriterBusy):
            direct.writer()
    direct.writer().close()


def test_a_long_statement_is_ended_and_one_that_may_be_long_is_not(distant) -> None:
    with distant.engine.connect() as connection:
        with pytest.raises(Exception, match="statement timeout"):
            connection.execute(text("SELECT pg_sleep(30)"))
        connection.rollback()
        with postgresql.long_statements(connection):
            connection.execute(text("SELECT pg_sleep(1.7)"))


def test_a_writer_that_falls_silent_within_a_pipeline_holds_no_lock_for_long(direct) -> None:
    with pytest.raises(StorageFailed), changing(direct.engine) as connection:  # noqa: PT012
        connection.execute(transactions._HOLD)
        driver: Any = connection.connection.driver_connection
        driver.pgconn.enter_pipeline_mode()
        driver.pgconn.send_query_params(b"SELECT 1", None)
        # It is carried out, and no Sync follows: the server waits for more by no timer of its own.
        driver.pgconn.send_flush_request()
        driver.pgconn.flush()
        with direct.writer() as held:
            commit(held)
    assert verify_chain(direct).intact


class Load:
    """Four callers that enroll one newcomer after another; what is not answered is asked again
    with its key."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self._people = People(seed=5, dim=128, outlet="b1")
        self.acknowledged: dict[str, tuple[EnrollmentRequest, str]] = {}
        self.refused = 0
        self._is_ending = False

    async def _call(self) -> None:
        while not self._is_ending:
            request = self._people.request()
            while request.idempotency_key not in self.acknowledged:
                try:
                    answer = await self._enroll(request)
                except (ServiceRefusal, RegistryError, DeadlinePassed):
                    self.refused += 1
                    await asyncio.sleep(0.05)
                else:
                    self.acknowledged[request.idempotency_key] = (request, answer.enrollment_id)

    async def _enroll(self, request: EnrollmentRequest) -> Any:
        context = CallContext(actor="key:tests", correlator="c-1", timeout_s=5)
        return await self._service.registrar.by(context).enroll(request)

    async def _perform(self) -> None:
        await asyncio.gather(*(self._call() for _ in range(4)))

    @contextmanager
    def running(self) -> Iterator[None]:
        self._done = asyncio.run_coroutine_threadsafe(self._perform(), self._service.loop)
        try:
            yield
            self._is_ending = True
            self._done.result(WAIT_S)
        finally:
            self._done.cancel()

    def wait_for_more(self, count: int = 10) -> None:
        wanted = len(self.acknowledged) + count
        wait_until(lambda: self._done.done() or len(self.acknowledged) >= wanted)
        if self._done.done():
            # Only by what no caller knows.
            self._done.result()

    def assert_kept(self, store: Store) -> None:
        """Each that was acknowledged is there once, and asked again gives the same answer."""
        assert store.counts()["live_references"] == len(self.acknowledged)
        for request, enrollment_id in self.acknowledged.values():
            again = self._service.run(self._enroll(request))
            assert (again.is_repeated, again.enrollment_id) == (True, enrollment_id)
        assert store.counts()["live_references"] == len(self.acknowledged)
        assert verify_chain(store).intact


@pytest.fixture
def served(postgres_url, proxy, sosie, extractor, tmp_path) -> Iterator[Any]:
    """A service whose registrar and whose readers reach PostgreSQL by way of the proxy."""
    home, url = tmp_path / "home", proxy.url(postgres_url.partition("?")[0].rpartition("/")[2])
    made = sosie("init", home, "--carrier", "blue", "--outlet", "b1", "--registry-url", url)
    assert made.code == 0, made.err
    with Deployment(home, load_settings(home)) as deployment:
        key = add_key(deployment.store, deployment.vault, *KEYS["b1"])
    with serving(home, {"b1": key}, extractor) as start:
        yield start()


def readiness(service: Any) -> Any:
    return service.read(service.ask("GET", "/health/ready"))


def wait_until_ready(service: Any) -> None:
    wait_until(lambda: bool(readiness(service)["is_ready"]))
    assert service.ask("GET", "/v1/me", key="b1").status_code == 200


@pytest.mark.parametrize(
    ("way", "newcomers"),
    [
        (Way.REQUESTS, Newcomers.SERVED),
        (Way.ANSWERS, Newcomers.SERVED),
        (Way.ANSWERS, Newcomers.DROPPED),
    ],
)
def test_a_service_under_load_recovers_by_itself_and_loses_nothing_acknowledged(
    served, proxy, way: Way, newcomers: Newcomers
) -> None:
    load = Load(served)
    with load.running():
        load.wait_for_more()
        proxy.fall_silent(way, newcomers=newcomers)
        if newcomers is Newcomers.DROPPED:
            wait_until(lambda: not readiness(served)["is_ready"])
            wait_until(lambda: load.refused > 8)
            proxy.serve_newcomers()
        load.wait_for_more()
        wait_until_ready(served)
    load.assert_kept(served.parts.store)


def test_readiness_log_and_metric_name_a_silent_database(served, proxy) -> None:
    proxy.fall_silent(*Way, newcomers=Newcomers.NOT_ANSWERED)
    wait_until(lambda: readiness(served)["phase"] == "silent")
    found = readiness(served)
    assert not found["is_ready"]
    assert "the database does not answer" in found["checks"]["registrar"]["detail"]
    assert not found["checks"]["store"]["is_ok"]
    assert b'sosie_registrar_phase{phase="silent"} 1.0' in served.parts.meter.render()[0]
    assert '"phase":"silent"' in served.log_text
    # No key can be looked up, and nobody waits for ever.
    assert served.ask("GET", "/v1/me", key="b1").status_code == 503
    proxy.serve_newcomers()
    wait_until_ready(served)


def test_nothing_acknowledged_is_lost_while_postgresql_restarts(served, postgres) -> None:
    load = Load(served)
    with load.running():
        load.wait_for_more()
        postgres.stop()
        wait_until(lambda: load.refused > 4)
        postgres.ensure_postgres_running()
        load.wait_for_more()
        # A crash: all sessions end at once, and what was written is recovered from the log.
        os.kill(background_writer(postgres), signal.SIGKILL)
        load.wait_for_more(40)
        wait_until_ready(served)
    load.assert_kept(served.parts.store)


def background_writer(server: Any) -> int:
    query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'background writer'"
    return int(server.psql(f"COPY ({query}) TO STDOUT"))
