"""The service under load, the API keys for it, HTTP requests from many greenlets at once, and what
the service's own model says over HTTP.

Without --allow-remote the service must be on this machine. Keys come from a file, from standard
input or from the environment, which only this module of the package reads: on a command line they
would show in `ps` and stay in the shell's history.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import gevent
import msgpack
from gevent.pool import Pool
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

from loadtest.errors import LoadTestRefused

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """Address of a service."""

    host: str
    port: int
    is_tls: bool = False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


def read_target(url: str, *, allows_remote: bool) -> ServiceAddress:
    """Reads a URL; `LoadTestRefused` for another machine unless `allows_remote`."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        raise LoadTestRefused("the address cannot be read: write it as http://HOST:PORT") from None
    is_plain = not parts.query and parts.path in ("", "/") and parts.username is None
    if parts.scheme not in PORTS or not parts.hostname or not is_plain:
        raise LoadTestRefused("the address must be http://HOST:PORT, without a path or a password")
    if not is_loopback(parts.hostname) and not allows_remote:
        raise LoadTestRefused(
            f"{parts.hostname} is not this machine: a load test may take a service down, so give "
            "--allow-remote if you run that one"
        )
    return ServiceAddress(parts.hostname, port, parts.scheme == "https")


def is_loopback(host: str) -> bool:
    """True where an address is of this machine; of names only localhost, since none is resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


VARIABLES = {
    "enroll": "SOSIE_LOADTEST_KEY",
    "fraud": "SOSIE_LOADTEST_FRAUD_KEY",
    "erase": "SOSIE_LOADTEST_ERASE_KEY",
}
OWN, RAY = "SOSIE_", "RAY_ADDRESS"
KEPT = "SOSIE_MODELS__"
"""Settings that a local service takes over: the models."""
FORCED = {
    "SOSIE_SERVE__HOST": "127.0.0.1",
    "SOSIE_SERVE__RAY_ADDRESS": "",
    "SOSIE_SERVE__TRACE_ENDPOINT": "",
    "SOSIE_SERVE__LOG_FILE": "log/service.jsonl",
}
MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Keys:
    """API keys: `enroll` of role outlet or carrier, `fraud` of role fraud, `erase` (to clean up) of
    role carrier or operator."""

    enroll: str = field(repr=False)
    fraud: str = field(repr=False)
    erase: str | None = field(default=None, repr=False)


def read_keys(source: str | None) -> Keys:
    """Reads the keys from a JSON file (`-`: standard input), else from the environment."""
    if source is None:
        given = {name: os.environ[key] for name, key in VARIABLES.items() if key in os.environ}
    else:
        given = _read_file(source)
    missing = [name for name in ("enroll", "fraud") if not given.get(name)]
    if missing:
        raise LoadTestRefused(
            f"no {missing[0]} key: set {VARIABLES[missing[0]]}, or give --keys FILE with "
            '{"enroll": "…", "fraud": "…"}'
        )
    return Keys(given["enroll"], given["fraud"], given.get("erase"))


def service_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment of a local service: this one's with changes, without our keys, and without
    whatever points to another deployment's home, registry, cluster, log or traces."""
    inherited = {name: text for name, text in os.environ.items() if not _is_foreign(name)}
    return inherited | FORCED | dict(changes)


def _is_foreign(name: str) -> bool:
    # Names of settings are not case-sensitive.
    known = name.upper()
    return known == RAY or (known.startswith(OWN) and not known.startswith(KEPT))


def _read_file(source: str) -> dict[str, str]:
    try:
        if source == "-":
            text = sys.stdin.read(MOST_BYTES)
        else:
            with Path(source).open(encoding="utf-8") as file:
                text = file.read(MOST_BYTES)
        value: Any = json.loads(text)
    except OSError as error:
        raise LoadTestRefused(f"{source} cannot be read: {error.strerror}") from None
    except ValueError:
        value = None
    if not isinstance(value, dict) or not set(value) <= set(VARIABLES):
        names = ", ".join(VARIABLES)
        raise LoadTestRefused(f"{source} must be a JSON object with the names {names}")
    if not all(isinstance(one, str) for one in value.values()):
        raise LoadTestRefused(f"{source} must hold strings")
    return value


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


class ConnectionPool:
    """At most `connections` connections, kept alive; one that the server closed while idle is
    opened again, and no POST is sent twice."""

    def __init__(self, target: ServiceAddress, connections: int, timeout_s: float) -> None:
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


ReportProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much (0: unknown)."""
CALLS_AT_ONCE = 4
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def run_concurrently(work: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """Calls `work` for several items at once; answers in the items' order, or the first exception
    when all are done. An interrupt ends the calls under way."""

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


class Thresholds(NamedTuple):
    """The thresholds of the deployment, as its API reports them."""

    verify: float
    same_document: float
    review: float
    certain: float


IMAGES_A_CALL, ITEMS_A_CALL = 16, 256
RETRIABLE = frozenset({LOST, OVERDUE, 429, 503})
PATIENCE_S, WAIT_S = 15.0, 0.5


class ModelClient:
    """The service's model over HTTP: templates, comparisons and searches with one API key.

    What is put off (429, 503, a lost connection) is repeated; else `LoadTestRefused`.
    """

    def __init__(self, exchange: ConnectionPool, key: str) -> None:
        self._exchange, self._key = exchange, key
        self.expires_at = datetime.max.replace(tzinfo=UTC)
        """When the first of the issued templates expires."""

    def read_thresholds(self) -> Thresholds:
        answer = self.ask("GET", "/v1/thresholds")["thresholds"]
        return Thresholds(*(float(answer[name]) for name in Thresholds._fields))

    def issue_templates(
        self, photographs: Sequence[bytes], report: ReportProgress
    ) -> list[bytes | str]:
        """A template for each photograph, or the code of the error."""
        done = 0

        def issue_some(some: Sequence[bytes]) -> list[bytes | str]:
            value = {"items": [{"image": one} for one in some]}
            answer = self.ask("POST", "/v1/templates", value)
            expires_at = datetime.fromisoformat(answer["expires_at"])
            self.expires_at = min(self.expires_at, expires_at)
            nonlocal done
            done += len(some)
            report("comparing photographs", done, len(photographs))
            return [one.get("template") or str(one["error"]["code"]) for one in answer["items"]]

        return _in_batches(issue_some, photographs, IMAGES_A_CALL)

    def compare(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float]:
        """The cosine of each pair of templates."""
        items = [{"probe": {"template": a}, "reference": {"template": b}} for a, b in pairs]
        return [float(one["verification"]["score"]) for one in self._match(items)]

    def search(self, templates: Sequence[bytes]) -> list[tuple[int, int]]:
        """Searches the gallery for each template: how many references were found and searched."""
        items = [{"probe": {"template": one}, "search": True} for one in templates]
        found = [one["identification"] for one in self._match(items)]
        return [(int(one["found"]), int(one["searched"])) for one in found]

    def _match(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        def match_some(some: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self.ask("POST", "/v1/match", {"items": some})["items"]
            return found

        return _in_batches(match_some, items, ITEMS_A_CALL)

    def ask(self, method: str, path: str, value: Any = None) -> Any:
        """The body of a good answer; `LoadTestRefused` if there is none."""
        return ask_until_answered(self._exchange, method, path, self._key, value).value


def ask_again(
    exchange: ConnectionPool, method: str, path: str, key: str | None, end: float, **more: Any
) -> Reply:
    """Repeats a request that is put off, until `end` (of the monotonic clock)."""
    reply = Reply(OVERDUE)
    while time.monotonic() < end:
        reply = exchange.ask(method, path, key, **more)
        if reply.status not in RETRIABLE:
            break
        gevent.sleep(WAIT_S)
    return reply


def ask_until_answered(
    exchange: ConnectionPool,
    method: str,
    path: str,
    key: str | None,
    value: Any = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """Repeats a request until it is answered; `LoadTestRefused` if the answer is not good."""
    end = time.monotonic() + PATIENCE_S
    reply = ask_again(exchange, method, path, key, end, value=value, headers=headers)
    if 200 <= reply.status < 300 and reply.value is not None:
        return reply
    said = reply.code or (f"status {reply.status}" if reply.status > 0 else "no answer")
    raise LoadTestRefused(f"the service at {exchange.target.url} answered {said} to {path}")


def _in_batches(
    work: Callable[[Sequence[Item]], list[Answer]], items: Sequence[Item], size: int
) -> list[Answer]:
    """Calls `work` with batches of `size` items, several at once; answers in the items' order."""
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [answer for answers in run_concurrently(work, parts) for answer in answers]
