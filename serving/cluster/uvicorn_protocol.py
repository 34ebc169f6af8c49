"""An answer's head and body in one segment.

uvicorn writes them apart and uvloop sends each at once: two calls of the kernel here, and the
proxy is woken twice for one answer (docs/decisions/0016).
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def install_protocol() -> None:
    """Servers that this process starts from now on, without a protocol of their own, take ours.

    Serve makes its server itself and has no option for it; uvicorn finds protocols by this table.
    """
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{SegmentProtocol.__qualname__}"


class SegmentProtocol(HttpToolsProtocol):
    """uvicorn's, over a transport that joins what is written in pairs."""

    def connection_made(self, transport: Any) -> None:
        joining = JoiningTransport(transport, self.loop)
        # It has all that uvicorn asks of one.
        super().connection_made(cast(asyncio.Transport, joining))


class JoiningTransport:
    """A transport that sends two writes as one where the second comes within the loop's turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends the data now if something is held, else with what comes next, or in a moment."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            held, self._held = self._held, None
            self._transport.writelines((held, data))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)
