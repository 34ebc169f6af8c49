"""A receiver of events, as this end sees it: its address, and connections that are kept for it."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from time import monotonic
from urllib.parse import urlsplit

import h11

from serving.settings.sections import Network
from serving.webhooks.addresses import find_addresses, may_reach

KEPT_ALIVE_S = 20.0
MOST_HEAD_BYTES = MOST_BODY_BYTES = 16_384
"""So much of an answer is read, to use its connection again; none of it is kept."""
_READ_BYTES = 16_384
Headers = Sequence[tuple[bytes, bytes]]


class NoAnswer(Exception):
    """The receiver was reached, and did not answer as HTTP has it."""


class _Connection:
    """One HTTP/1.1 connection; one request at a time."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = h11.Connection(h11.CLIENT, MOST_HEAD_BYTES)
        self.used_s = monotonic()

    @property
    def is_usable(self) -> bool:
        is_open = not (self._reader.at_eof() or self._writer.is_closing())
        is_free = self._protocol.our_state is h11.IDLE
        return is_open and is_free and monotonic() - self.used_s < KEPT_ALIVE_S

    async def post(self, target: bytes, headers: Headers, body: bytes) -> int:
        """The status of the answer, when all of it has come; no redirect is followed."""
        protocol = self._protocol
        request = h11.Request(method=b"POST", target=target, headers=list(headers))
        parts = [protocol.send(one) for one in (request, h11.Data(data=body), h11.EndOfMessage())]
        self._writer.write(b"".join(one for one in parts if one))
        await self._writer.drain()
        status, size_bytes = 0, 0
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(await self._reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                size_bytes += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse):
                raise NoAnswer("the connection was closed")
            if size_bytes > MOST_BODY_BYTES:
                # Not used again: the rest would be taken for the next answer.
                return status
        if protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
            protocol.start_next_cycle()
        self.used_s = monotonic()
        return status

    def close(self) -> None:
        self._writer.close()


class Receiver:
    """Takes requests by as many connections as are going on at once."""

    def __init__(self, sink: str, allowed: Sequence[Network], trust: ssl.SSLContext) -> None:
        url = urlsplit(sink)
        self._allowed, self._trust = allowed, trust if url.scheme == "https" else None
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._target = ((url.path or "/") + (f"?{url.query}" if url.query else "")).encode()
        self._header = (b"host", url.netloc.encode())
        self._idle: list[_Connection] = []
        self._looking: asyncio.Task[list[str]] | None = None
        self.is_inner = False
        """Whether a look-up has found an address that is not public."""

    async def post(self, headers: Headers, body: bytes) -> int:
        """The status of the answer to one POST. `AddressRefused`, `OSError` or `NoAnswer` where
        there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                with suppress(OSError, NoAnswer, h11.ProtocolError):
                    # It may have been closed at the other end meanwhile: then by a new one.
                    return await self._post(connection, headers, body)
            else:
                connection.close()
        return await self._post(await self._connect(), headers, body)

    async def _post(self, connection: _Connection, headers: Headers, body: bytes) -> int:
        status = 0
        try:
            size = (b"content-length", str(len(body)).encode())
            given = (self._header, size, *headers)
            status = await connection.post(self._target, given, body)
        except h11.ProtocolError:
            raise NoAnswer("the answer is not HTTP") from None
        finally:
            if status and connection.is_usable:
                self._idle.append(connection)
            else:
                connection.close()
        return status

    async def _connect(self) -> _Connection:
        texts = await self._find_addresses()
        name = self._host if self._trust else None
        failure: OSError = ConnectionError("the name has no address")
        for text in texts:
            try:
                made = asyncio.open_connection(
                    text, self._port, ssl=self._trust, server_hostname=name
                )
                return _Connection(*await made)
            except OSError as error:
                failure = error
        raise failure

    async def _find_addresses(self) -> list[str]:
        """One look-up at a time, for all requests that wait for it."""
        if self._looking is None or self._looking.done():
            looking = find_addresses(self._host, self._port, self._allowed)
            self._looking = asyncio.create_task(looking)
            self._looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        texts = await asyncio.shield(self._looking)
        self.is_inner |= not all(may_reach(ip_address(text), ()) for text in texts)
        return texts

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        for connection in self._idle:
            connection.close()
        self._idle.clear()
