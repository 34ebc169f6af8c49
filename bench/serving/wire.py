"""Requests as the bytes that go over the wire, written once and sent many times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

SERIAL_PLACE = "#SERIAL##"
"""Stands in a text or a header for the serial number of the request, which is as long."""
MSGPACK = "application/msgpack"
_PLACE = SERIAL_PLACE.encode()


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP/1.1 request; the serial number goes between its pieces."""

    pieces: tuple[bytes, ...]

    def fill(self, serial: int) -> bytes:
        """The whole request; serial numbers from 0 to 999,999,999."""
        pieces = self.pieces
        return pieces[0] if len(pieces) == 1 else (b"%09d" % serial).join(pieces)


@dataclass(frozen=True, slots=True)
class Caller:
    """To whom requests go, and the key they carry."""

    host: str
    port: int
    key: str | None = None

    def post(self, path: str, value: Any, headers: Mapping[str, str] | None = None) -> Request:
        """A POST of MessagePack, which asks for MessagePack."""
        body: bytes = msgpack.packb(value)
        given = {"Content-Type": MSGPACK, "Content-Length": str(len(body)), **(headers or {})}
        key = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        fields = {"Host": f"{self.host}:{self.port}", "Accept": MSGPACK, **key, **given}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return Request(tuple((head + body).split(_PLACE)))
