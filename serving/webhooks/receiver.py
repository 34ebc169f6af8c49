"""A receiver of events, as this end sees it: addresses that events may be sent to, and connections.

A name is resolved when connections begin, every address that it has is checked, and a checked one
is connected to: so what the name says a moment later changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from threading import Thread
from time import monotonic
from urllib.parse import urlsplit

import h11

from engine.errors import RequestError
from serving.settings.sections import Network, split_address

MOST_SINK_LENGTH = 1_000
_PLAIN = re.compile(f"[!-~]{{1,{MOST_SINK_LENGTH}}}")
_TRANSLATED = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: tuple[Network, ...] = (
    # Site-local, 6to4 relays and documentation: `is_global` on some Pythons.
    *(IPv6Network("fec0::/10"), IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24")),
    IPv6Network("3fff::/20"),
    # Services that IBM Cloud gives to what runs inside it.
    *(IPv4Network("161.26.0.0/16"), IPv4Network("166.8.0.0/14")),
)
_OF_THE_MACHINE: tuple[Network, ...] = (
    *(IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10")),
    # Azure, Oracle Classic, Alibaba.
    *(IPv4Network(f"{one}/32") for one in ("168.63.129.16", "192.0.0.192", "100.100.100.200")),
    # AWS, with its names, time and identities of pods; Google, Oracle.
    *(IPv6Network("fd00:ec2::/32"), IPv6Network("fd20:ce::254"), IPv6Network("fd00:c1::a9fe:a9fe")),
    # Alibaba, Akamai, Scaleway.
    *(IPv6Network("fd00:100::100:200"), IPv6Network("fd00:a9fe:a9fe::1")),
    IPv6Network("fd00:42::42"),
)
"""Where clouds tell a machine about itself and give it their keys: whatever networks are allowed,
no event is sent there."""
_ENDS_IN_ANOTHER = tuple(map(IPv6Network, ("64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")))
"""Translated by a network of one's own, or long out of use: not public, but may be allowed."""
_STARTS = (6, 7, 8, 11)
"""Where an IPv4 address begins after prefixes of 48, 56, 64 and 96 bits, without the octet of bits
64 to 71, which is part of none (RFC 6052, 2.2). Only the network's own translators know which of
their prefixes is how long (RFC 8215)."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
Address = IPv4Address | IPv6Address


class AddressRefused(OSError):
    """A host has an address that nothing is sent to."""


def check_sink(sink: str, allowed: Sequence[Network]) -> str:
    """The address, if events may be sent to it: https, or http to this machine where that is
    allowed; `RequestError` otherwise. What a name resolves to is checked when it is used."""
    try:
        parts = split_address(sink)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not host or not _PLAIN.fullmatch(sink):
        raise RequestError(f"sink: give an https address of at most {MOST_SINK_LENGTH} characters")
    if "@" in parts.netloc or "#" in sink:
        raise RequestError("sink: give an address without user, password and fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise RequestError("sink: give an https address")
    try:
        given = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return sink
    if not may_reach(given, allowed):
        raise RequestError(
            "sink: give a public address; see [webhooks] allowed_networks, carrier_networks"
        )
    return sink


def may_reach(address: Address, allowed: Iterable[Network]) -> bool:
    """True for a public address, and for one in a network that is allowed, unless clouds have their
    own services there. An address that holds another one is judged by both."""
    inner = _find_inner(address)
    if inner is not None and not may_reach(inner, allowed):
        return False
    if any(_is_in(one, _OF_THE_MACHINE) for one in (address, *_find_translated(address))):
        return False
    if _is_in(address, allowed):
        return True
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address in _TRANSLATED):
        return True
    if _is_in(address, _NOT_PUBLIC):
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == one.version and address in one for one in networks)


def _find_inner(address: Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo and teredo[1])


def _find_translated(address: Address) -> list[IPv4Address]:
    """Each address that a network of one's own may make of this one."""
    if not _is_in(address, _ENDS_IN_ANOTHER):
        return []
    octets = address.packed[:8] + address.packed[9:]
    return [IPv4Address(octets[start : start + 4]) for start in _STARTS]


async def find_addresses(host: str, port: int, allowed: Sequence[Network]) -> list[str]:
    """The addresses of a host; `AddressRefused` where one of them may not be reached."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def tell(told: list[str]) -> None:
        if not answer.done():
            answer.set_result(told)

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        told = [str(one[4][0]) for one in found]
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, told)

    # A thread of its own: one name server that says nothing keeps back no other name, and no end.
    Thread(target=look_up, name="names", daemon=True).start()
    addresses = await answer
    if not addresses:
        raise ConnectionError("the name is not known")
    texts = list(dict.fromkeys(addresses))
    if not all(may_reach(ipaddress.ip_address(text), allowed) for text in texts):
        raise AddressRefused("an address of the host is not public")
    return texts


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
