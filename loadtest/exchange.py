"""HTTP requests to one service from many greenlets at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gevent
import msgpack
from gevent.pool import Pool
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

from loadtest.target import Target

LOST, OVERDUE, NOT_STARTED, UNREADABLE = 0, -1, -2, -3
"""In place of a status: the connection was lost; no answer in time; too many in flight to start in
time; an answer of another form than its path promises."""
MSGPACK = "application/msgpack"
GRACE_S = 0.5
BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or why there is none; `value` is None if the body is not a document of ours."""

    status: int
    value: Any = field(default=None, repr=False)
    has_retry_after: bool = False
    size_bytes: int = 0

    @property
    def code(self) -> str:
        """The code of an error, else empty."""
        return str(self.value.get("code", "")) if isinstance(self.value, Mapping) else ""


class Exchange:
    """A pool of at most `connections` connections that are kept alive.

    A connection that the server closed while it was idle is opened again; no POST is sent twice.
    """

    def __init__(self, target: Target, connections: int, timeout_s: float) -> None:
        self.target, self.timeout_s = target, timeout_s
        self._client = HTTPClient(
            target.host,
            port=target.port,
            ssl=target.is_tls,
            concurrency=connections,
            connection_timeout=timeout_s,
            network_timeout=timeout_s,
            block_size=BLOCK_BYTES,
        )

    def ask(
        self,
        method: str,
        path: str,
        key: str | None = None,
        *,
        value: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Sends one request; `value` is packed as MessagePack, a `body` is packed already."""
        given = {"Accept": MSGPACK, **(headers or {})}
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        if body is None:
            body = b"" if value is None else msgpack.packb(value)
        if body:
            given["Content-Type"] = MSGPACK
        try:
            # The sockets have this limit for each read and write; here it is for all of them.
            with gevent.Timeout(self.timeout_s + GRACE_S):
                response = self._client.request(method, path, body=body, headers=given)
                data = bytes(response.read())
        except (gevent.Timeout, TimeoutError):
            return Reply(OVERDUE)
        except (OSError, HTTPParseError):
            return Reply(LOST)
        kind = str(response.get("content-type", ""))
        has_retry_after = response.get("retry-after") is not None
        return Reply(response.status_code, _decode(kind, data), has_retry_after, len(data))

    def close(self) -> None:
        self._client.close()


def _decode(kind: str, data: bytes) -> Any:
    try:
        if kind.startswith(MSGPACK):
            return msgpack.unpackb(data)
        return json.loads(data) if kind.startswith("application/json") else None
    except ValueError:
        return None


CALLS_AT_ONCE = 4
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def run_concurrently(work: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """Calls `work` for several items at once; answers in the items' order.

    Raises the first exception when all are done. An interrupt ends the calls under way.
    """

    def attempt(item: Item) -> tuple[Answer | None, Exception | None]:
        try:
            return work(item), None
        except Exception as fault:  # noqa: BLE001 - gevent would print it, and go on
            return None, fault

    pool = Pool(CALLS_AT_ONCE)
    try:
        done = pool.map(attempt, items)
    finally:
        pool.kill()
    faults = [fault for _, fault in done if fault is not None]
    if faults:
        raise faults[0]
    return [answer for answer, _ in done]
