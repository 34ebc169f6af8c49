"""A way to PostgreSQL on which bytes can be dropped without any connection being closed."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Any

LOOK_S = 0.02


class Newcomers(StrEnum):
    """What becomes of new connections."""

    SERVED = "served"
    NOT_ANSWERED = "accepted and never answered"
    DROPPED = "dropped"


class Way(StrEnum):
    """Where bytes go on a connection."""

    REQUESTS = "to the database"
    ANSWERS = "from the database"


class _Passage:
    """One connection, passed on to the server until either side closes it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.dropped: set[Way] = set()
        self._client, self._server = client, server

    def run(self, is_closing: threading.Event) -> None:
        ways = {self._client: Way.REQUESTS, self._server: Way.ANSWERS}
        with self._client, self._server, suppress(OSError):
            while ways and not is_closing.is_set():
                for source in select.select(list(ways), [], [], LOOK_S)[0]:
                    data = source.recv(65536)
                    if not data and not self.dropped:
                        return
                    if not data:
                        # Nor does the other side hear that this one has gone.
                        del ways[source]
                    elif ways[source] not in self.dropped:
                        target = self._server if source is self._client else self._client
                        target.sendall(data)


class SilentProxy:
    """Listens on a port, and passes bytes to and from the socket of a server."""

    def __init__(self, server: Any) -> None:
        self._target = f"{server.get_postmaster_info().socket_dir}/.s.PGSQL.5432"
        # Without a queue: one connection that is not accepted keeps others from being made.
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port = self._listener.getsockname()[1]
        self._newcomers = Newcomers.SERVED
        self._passages: list[_Passage] = []
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def fall_silent(self, *ways: Way, newcomers: Newcomers = Newcomers.SERVED) -> None:
        """From now on, and for good, what comes these ways is dropped on the connections that
        there are."""
        with self._lock:
            self._newcomers = newcomers
            for passage in self._passages:
                passage.dropped.update(ways)

    def serve_newcomers(self) -> None:
        self._newcomers = Newcomers.SERVED

    def close(self) -> None:
        self._is_closing.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_closing.wait(LOOK_S):
            while self._newcomers is not Newcomers.DROPPED:
                if not select.select([self._listener], [], [], 0)[0]:
                    break
                self._admit(self._listener.accept()[0])

    def _admit(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with self._lock:
            passage = _Passage(client, server)
            if self._newcomers is Newcomers.NOT_ANSWERED:
                passage.dropped.update(Way)
            try:
                server.connect(self._target)
            except OSError:
                client.close()
                server.close()
                return
            self._passages.append(passage)
        self._threads.append(threading.Thread(target=passage.run, args=(self._is_closing,)))
        self._threads[-1].start()


@contextmanager
def open_proxy(server: Any) -> Iterator[SilentProxy]:
    proxy = SilentProxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
