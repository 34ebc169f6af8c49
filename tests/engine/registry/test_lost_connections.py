"""What becomes of a commit, and of its writer, when PostgreSQL goes away."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection

from engine.errors import LeaseLost, StorageFailed
from engine.registry import postgresql
from engine.registry.audit import verify_chain
from engine.registry.database import connect, reading
from engine.registry.store import Store
from engine.registry.transactions import LEASE_S, RENEW_S
from tests.engine.registry.conftest import ENTRY, MODEL


def break_off(connection: Connection) -> None:
    """Ends the session on the server, as a restart of PostgreSQL would."""
    pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    with connection.engine.connect() as other:
        # Within one transaction the server would go on showing the sessions of its first look.
        other.execution_options(isolation_level="AUTOCOMMIT")
        other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        while other.exec_driver_sql(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}").first():
            pass


@pytest.fixture
def on_postgres(postgres_url, vault) -> Iterator[Store]:
    with Store.create(postgres_url, vault, model_digest=MODEL) as store:
        yield store


def test_connection_lost_before_the_commit_keeps_nothing(on_postgres, listening) -> None:
    with on_postgres.writer() as writer:
        before = on_postgres.counts(), on_postgres.audit_head()
        with listening(on_postgres, "commit", break_off), pytest.raises(StorageFailed):
            writer.commit([ENTRY])
        assert (on_postgres.counts(), on_postgres.audit_head()) == before
        writer.commit([ENTRY])
        assert verify_chain(on_postgres).intact


def test_connection_lost_after_the_commit_is_seen_to_have_kept_it(on_postgres, listening) -> None:
    def keep_and_break_off(connection: Connection) -> None:
        connection.connection.dbapi_connection.commit()
        break_off(connection)

    with on_postgres.writer() as writer:
        entries = on_postgres.audit_head()[0]
        with listening(on_postgres, "commit", keep_and_break_off):
            writer.commit([ENTRY])
        assert on_postgres.audit_head()[0] == entries + 1
        assert verify_chain(on_postgres).intact


def test_commit_that_the_server_finishes_for_a_lost_client_is_waited_for(
    on_postgres, listening
) -> None:
    with on_postgres._engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$"
        )
        connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON audit "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION linger()"
        )

    def commit_and_hang_up(connection: Connection) -> None:
        session = connection.connection.dbapi_connection.pgconn
        session.send_query(b"COMMIT")
        session.finish()

    with on_postgres.writer() as writer:
        with listening(on_postgres, "commit", commit_and_hang_up):
            writer.commit([ENTRY])
        assert writer.sequence == on_postgres.sequence()
        writer.commit([ENTRY])
        assert verify_chain(on_postgres).intact


def shut(postgres: Any, name: str) -> None:
    """From here on nobody new gets in, so that the database cannot be asked what it kept."""
    postgres.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false;")
    postgres.psql(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}';"
    )


def test_database_that_went_away_is_told_from_a_refused_transaction(on_postgres, postgres) -> None:
    name = on_postgres._engine.url.database
    on_postgres.counts()
    shut(postgres, name)
    for attempt in (on_postgres.counts, on_postgres.writer):
        with pytest.raises(StorageFailed, match=r"cannot be opened \(.*\): check its URL"):
            attempt()
    postgres.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true;")
    on_postgres.counts()


def test_commit_of_unknown_outcome_ends_the_writer(on_postgres, listening, postgres) -> None:
    name = on_postgres._engine.url.database

    with on_postgres.writer() as writer:
        with (
            listening(on_postgres, "commit", lambda _: shut(postgres, name)),
            pytest.raises(LeaseLost, match="restart to read what was kept"),
        ):
            writer.commit([ENTRY])
        postgres.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true;")


def test_both_sides_of_a_connection_are_bounded_and_the_url_may_say_how(postgres_url) -> None:
    engine = connect(f"{postgres_url}&connect_timeout=7")
    with reading(engine) as connection:
        ours = connection.connection.driver_connection.info.get_parameters()
        theirs = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("statement_timeout", "idle_in_transaction_session_timeout")
        }
    engine.dispose()
    assert (ours["connect_timeout"], ours["tcp_user_timeout"]) == ("7", "10000")
    assert set(theirs.values()) == {"15s"}


def test_a_long_search_between_two_reads_of_a_batch_does_not_end_their_session(
    on_postgres, listening
) -> None:
    def end_pauses_soon(connection, _: object) -> None:
        connection.execute("SET idle_in_transaction_session_timeout = '50ms'")
        connection.commit()

    on_postgres.engine.dispose()
    with (
        listening(on_postgres, "connect", end_pauses_soon),
        on_postgres.reading() as of_batch,
        reading(on_postgres.engine) as other,
        on_postgres.engine.connect() as watching,
    ):
        assert of_batch.answers([b"unknown"]) == {}
        pid = other.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        watching.execution_options(isolation_level="AUTOCOMMIT")
        # The later of two pauses has become too long, so the earlier one as well.
        while watching.exec_driver_sql(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}").first():
            pass
        other.invalidate()
        assert of_batch.answers([b"unknown"]) == {}


def test_what_is_asked_anew_finds_no_lock_of_the_session_that_was_left() -> None:
    assert postgresql.STATEMENT_S < postgresql.SILENCE_S
    assert 4 * RENEW_S < LEASE_S
