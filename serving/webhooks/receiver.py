"""A receiver of events, as this end sees it: its addresses, connections to it, and how it is shown
an event. A name is resolved when connections begin, and a checked address is connected to: what the
name says a moment later changes nothing."""

import asyncio
import base64
import hmac
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from importlib.metadata import version
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from threading import Thread
from urllib.parse import urlsplit

import httpcore
from httpcore import SOCKET_OPTION

from engine.errors import RequestError
from engine.registry.events import Event
from schema.events import EventType
from serving.settings.sections import split_address
from serving.settings.terms import Network
from serving.wire import webhooks
from serving.wire.fields import Moment

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
LOOPBACK = ("localhost", "127.0.0.1", "::1")
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
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
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
    answer: Future[list[str]] = Future()
    answer.set_running_or_notify_cancel()  # a look-up cannot be cancelled

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        answer.set_result([str(one[4][0]) for one in found])

    # A thread of its own: one name server that says nothing keeps back no other name, and no end.
    Thread(target=look_up, name="names", daemon=True).start()
    addresses = await asyncio.wrap_future(answer)
    if not addresses:
        raise ConnectionError("the name is not known")
    texts = list(dict.fromkeys(addresses))
    if not all(may_reach(ipaddress.ip_address(text), allowed) for text in texts):
        raise AddressRefused("an address of the host is not public")
    return texts


KEPT_ALIVE_S = 20.0
MOST_BODY_BYTES = 16_384
"""So much of an answer is read, to use its connection again; none of it is kept."""
REFUSED, UNTOLD = "address refused", "not taken"
TAKEN = range(200, 300)
_HEADERS = (
    (b"content-type", b"application/cloudevents+json; charset=utf-8"),
    (b"user-agent", f"sosie/{version('sosie')}".encode()),
)
Headers = Sequence[tuple[bytes, bytes]]


def show_event(record: Event, deployment_id: str, carrier: str | None) -> webhooks.Event:
    """An event as CloudEvents 1.0 has it, for a carrier, or for those who see all: cases are theirs
    alone."""
    data = dict(record.data)
    if carrier is not None and record.type is EventType.LINE_REVERIFY_FAILED:
        data["cause"] = "case"
    return webhooks.Event(
        specversion="1.0",
        id=record.id,
        source=f"urn:uuid:{deployment_id}",
        type=record.type.value,
        subject=record.subject,
        time=Moment.of(record.at),
        datacontenttype="application/json",
        data=data,
    )


def sign(secrets: Sequence[bytes], event_id: str, at_s: int, body: bytes) -> bytes:
    """`webhook-signature` by Standard Webhooks 1.0, one for each secret."""
    content = f"{event_id}.{at_s}.".encode() + body
    made = (base64.b64encode(hmac.digest(one, content, "sha256")) for one in secrets)
    return b" ".join(b"v1," + one for one in made)


class _CheckedNetwork(httpcore.AnyIOBackend):
    """Connections to addresses of one host that were checked."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._looking: asyncio.Task[list[str]] | None = None
        self.is_inner = False
        """Whether a look-up has found an address that is not public."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure = httpcore.ConnectError("the name has no address")
        for text in await self.find(host, port):
            try:
                return await super().connect_tcp(text, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
        raise failure

    async def find(self, host: str, port: int) -> list[str]:
        """One look-up at a time, for all requests that wait for it."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(find_addresses(host, port, self._allowed))
            self._looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        texts = await asyncio.shield(self._looking)
        self.is_inner |= not all(may_reach(ip_address(text), ()) for text in texts)
        return texts

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()


class Receiver:
    """Takes requests by as many connections as are going on at once."""

    def __init__(self, sink: str, allowed: Sequence[Network], trust: ssl.SSLContext) -> None:
        parts = urlsplit(sink)
        # By its parts: a text's `;` and the brackets of an IPv6 address would be lost.
        self._url = httpcore.URL(
            scheme=parts.scheme,
            host=parts.hostname or "",
            port=parts.port or (443 if parts.scheme == "https" else 80),
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        )
        self._header = (b"Host", parts.netloc.encode())
        self._trust = trust
        self.network = _CheckedNetwork(allowed)
        self._idle: list[httpcore.AsyncHTTPConnection] = []

    async def send(
        self, event_id: str, body: bytes, secrets: Sequence[bytes], timeout_s: float
    ) -> tuple[int, str]:
        """The status of the answer to a signed event, 0 where there is none, and in words what is
        wrong with it, for whoever runs the deployment."""
        at_s = int(time.time())
        headers = (
            *_HEADERS,
            (b"webhook-id", event_id.encode()),
            (b"webhook-timestamp", str(at_s).encode()),
            (b"webhook-signature", sign(secrets, event_id, at_s, body)),
        )
        try:
            async with asyncio.timeout(timeout_s):
                status = await self.post(headers, body)
        except TimeoutError:
            return 0, "time-out"
        except AddressRefused:
            return 0, REFUSED
        except (OSError, httpcore.ConnectError) as error:
            is_refused = isinstance(error.__cause__, ssl.SSLError)
            return 0, "certificate refused" if is_refused else "no connection"
        except (httpcore.NetworkError, httpcore.ProtocolError):
            return 0, "no answer"
        return status, f"status {status}"

    def tell(self, fault: str, carrier: str | None) -> str:
        """A fault as the webhook's owner may read it: no carrier learns which names and ports there
        are inside, from the difference between two answers."""
        if carrier is None:
            return fault
        if fault == REFUSED:
            return "no connection"
        return UNTOLD if self.network.is_inner else fault

    async def post(self, headers: Headers, body: bytes) -> int:
        """The status of the answer to one POST; no redirect is followed. `AddressRefused`,
        `OSError` or an error of httpcore where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.has_expired():
                await connection.aclose()
            else:
                with suppress(httpcore.NetworkError, httpcore.RemoteProtocolError):
                    # It may have been closed at the other end meanwhile: then by a new one.
                    return await self._post(connection, headers, body)
        # No pool of httpcore's: that one looks at each connection for each request.
        connection = httpcore.AsyncHTTPConnection(
            self._url.origin,
            self._trust,
            keepalive_expiry=KEPT_ALIVE_S,
            network_backend=self.network,
        )
        return await self._post(connection, headers, body)

    async def _post(
        self, connection: httpcore.AsyncHTTPConnection, headers: Headers, body: bytes
    ) -> int:
        asked = connection.stream("POST", self._url, headers=[self._header, *headers], content=body)
        size_bytes = 0
        try:
            async with asked as answer:
                async for part in answer.aiter_stream():
                    size_bytes += len(part)
                    if size_bytes > MOST_BODY_BYTES:
                        # Not used again: the rest would be taken for the next answer.
                        break
                return answer.status
        finally:
            if connection.is_available():
                self._idle.append(connection)
            else:
                await connection.aclose()

    async def close(self) -> None:
        self.network.close()
        while self._idle:
            await self._idle.pop().aclose()
