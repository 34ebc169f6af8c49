"""Connections to PostgreSQL that fall silent are left, on both sides.

A network that drops packets closes nothing: whoever waits for an answer would wait for ever. The
kernel finds a peer that acknowledges nothing, but not one behind a proxy that still does; so every
wait for the server is bounded as well, and the server bounds how long a session of ours that says
nothing holds a lock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import URL, Connection, Engine, create_engine, event

CONNECT_S = 5
LOOK_S = 5.0
"""Longest silence after a statement outside a transaction: it only looks whether the server is
there, or takes the lease."""
SILENCE_S = 20.0
"""Longest silence after a statement of a transaction."""
STATEMENT_S = 15.0
"""Longest statement, and longest pause of a transaction: the server ends them before we leave it,
so that what we ask anew finds no locks of our own."""
LOCK_S = 10
TRANSACTION_S = 120
"""Longest transaction that writes, where the server can bound it (PostgreSQL 17): a session whose
caller fell silent in the middle of a pipeline may wait for the rest, with its locks, by no other
timer."""
LONG_S = 3600
"""Both bounds for a statement over whole tables, and the longest pause between reads of a batch."""
POOL_S = 10
"""Longest wait for one of the connections, where all are taken."""

_TCP = {
    "connect_timeout": CONNECT_S,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""libpq's, and only a URL that names them itself goes before; the second is in milliseconds."""
_PAUSE = "idle_in_transaction_session_timeout"
_LIMITS = ("statement_timeout", _PAUSE)
_SESSION = f"""
    SET synchronous_commit = on;
    SET lock_timeout = '{LOCK_S}s';
    SET tcp_user_timeout = '10s';
    SET tcp_keepalives_idle = 10;
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 3;
"""

_Result = TypeVar("_Result")


class ServerSilent(psycopg.OperationalError):
    """Nothing came from the server for too long."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server was silent for too long."""

    silence_s: float | None = None
    """Longest silence, where it is not the usual one."""

    def wait(self, gen: PQGen[_Result], *args: Any, **kwargs: Any) -> _Result:
        usual_s = LOOK_S if self.autocommit else SILENCE_S
        bounded = self._bound(gen, usual_s if self.silence_s is None else self.silence_s)
        return super().wait(bounded, *args, **kwargs)

    def _bound(self, gen: PQGen[_Result], longest_s: float) -> PQGen[_Result]:
        """The same steps, ended where the socket has nothing for too long."""
        last = monotonic()
        try:
            wanted = next(gen)
            while True:
                # Asked again every tenth of a second, with 0 where nothing has come.
                ready = yield wanted
                if ready:
                    last = monotonic()
                elif monotonic() - last > longest_s:
                    self.pgconn.finish()
                    raise ServerSilent("the server does not answer")
                wanted = gen.send(ready)
        except StopIteration as done:
            result: _Result = done.value
            return result


def connect_postgresql(url: URL, **options: Any) -> Engine:
    """An engine, of SQLAlchemy's options, whose connections are bounded; opens nothing yet."""
    chosen = {name: value for name, value in _TCP.items() if name not in url.query}
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=POOL_S,
        connect_args=chosen,
        **options,
    )
    event.listen(engine, "do_connect", _open)
    event.listen(engine, "connect", _prepare)
    return engine


@contextmanager
def long_statements(connection: Connection) -> Iterator[None]:
    """Meanwhile, in its transaction, statements may take as long as whole tables need."""
    driver: Any = connection.connection.driver_connection
    driver.silence_s = LONG_S
    try:
        # The driver's own cursor: the connection's may be one on the server, for queries alone.
        with driver.cursor() as cursor:
            for limit in _LIMITS:
                cursor.execute(f"SET LOCAL {limit} = '{LONG_S}s'")
            # Stopped, since a timer that runs is never moved.
            cursor.execute(f"SELECT {bounded(0)}")
        yield
    finally:
        driver.silence_s = None


def bounded(longest_s: int) -> str:
    """The term of a SELECT that bounds its transaction, or with 0 bounds it no longer."""
    name = "'transaction_timeout'"
    return (
        f"CASE WHEN current_setting({name}, true) IS NOT NULL "
        f"THEN set_config({name}, '{longest_s}s', true) END"
    )


def allow_pauses(connection: Connection) -> None:
    """Lets its transaction, which only reads, pause between two statements for a search."""
    connection.exec_driver_sql(f"SET LOCAL {_PAUSE} = '{LONG_S}s'")


def _open(_dialect: Any, _record: Any, arguments: Any, options: Any) -> BoundedConnection:
    return BoundedConnection.connect(*arguments, **options)


def _prepare(connection: BoundedConnection, _record: object) -> None:
    with connection.cursor() as cursor:
        for limit in _LIMITS:
            cursor.execute(f"SET {limit} = '{STATEMENT_S}s'")
        cursor.execute(_SESSION)
    connection.commit()
