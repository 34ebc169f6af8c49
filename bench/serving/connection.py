"""One HTTP/1.1 connection of a load, kept alive from request to request."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

import httptools

NEVER = float("nan")


class Owner(Protocol):
    """Who is told what became of a connection."""

    @property
    def keeps_bodies(self) -> bool: ...

    def answer(self, connection: Connection, status: int) -> None:
        """A whole answer came."""
        ...

    def lose(self, connection: Connection) -> None:
        """It was lost, with or without a request on it."""
        ...


class Connection(asyncio.Protocol):
    """One connection, from its opening to its loss, and the request that is on it."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.transport: asyncio.Transport | None = None
        self.is_busy = False
        self.is_dropped = False
        self.intended = self.sent = NEVER
        self.request = self.serial = 0
        self._begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            # What is no HTTP answer is as good as none.
            if self.transport is not None:
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.is_dropped:
            self._owner.lose(self)

    def drop(self) -> None:
        """Closes it at once; its loss is nothing to tell."""
        self.is_dropped = True
        if self.transport is not None:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after_s = float(value)

    def on_body(self, body: bytes) -> None:
        if self._owner.keeps_bodies:
            self.body += body

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.drop()
        self._owner.answer(self, self._parser.get_status_code())

    def send(self, data: bytes, intended: float, request: int, serial: int) -> None:
        assert self.transport is not None
        self.is_busy = True
        self.intended, self.request, self.serial = intended, request, serial
        self._begin()
        self.sent = time.perf_counter()
        self.transport.write(data)

    def _begin(self) -> None:
        self.body, self.retry_after_s = b"", NEVER
