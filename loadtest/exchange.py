"""The service under load, the API keys for it, HTTP requests from many greenlets at once, and what
the service's own model says over HTTP.

Without --allow-remote the service must be on this machine. Keys come from a file, from standard
input or from the environment, which only this module of the package reads: on a command line they
would show in `ps` and stay in the shell's history.
"""

import ipaddress
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import gevent
import httpx
import msgspec
from gevent.hub import Hub
from gevent.pool import Pool
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

from loadtest.errors import LoadTestRefused
from schema import frozen
from serving.cli.inputs import read_json
from serving.client import CallFailed, Client, MatchItem, MatchResult, Template
from serving.wire.enrollments import Thresholds

PORTS = {"http": 80, "https": 443}


@frozen
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
}


@frozen
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
    names = ", ".join(VARIABLES)
    value = read_json(source, f"it has the names {names}")
    if not set(value) <= set(VARIABLES) or not all(isinstance(one, str) for one in value.values()):
        raise LoadTestRefused(f"{source} must be a JSON object with texts for the names {names}")
    return value


LOST, OVERDUE, NOT_STARTED, UNREADABLE = 0, -1, -2, -3
"""In place of a status: the connection was lost; no answer in time; too many in flight to start in
time; an answer of another form than its path promises."""
MSGPACK = "application/msgpack"
GRACE_S = 0.5
BLOCK_BYTES = 64 * 1024


@frozen
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
        self.target, self.connections, self.timeout_s = target, connections, timeout_s
        self._client = HTTPClient(
            target.host,
            port=target.port,
            ssl=target.is_tls,
            concurrency=connections,
            connection_timeout=timeout_s,
            network_timeout=timeout_s,
            block_size=BLOCK_BYTES,
        )

    def post(self, path: str, key: str, body: bytes, headers: dict[str, str]) -> Reply:
        """Sends a body of MessagePack."""
        given = {"Accept": MSGPACK, "Content-Type": MSGPACK, "Authorization": f"Bearer {key}"}
        try:
            # The sockets have this limit for each read and write; here it is for all of them.
            with gevent.Timeout(self.timeout_s + GRACE_S):
                response = self._client.request("POST", path, body=body, headers=given | headers)
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
            return msgspec.msgpack.decode(data)
        return json.loads(data) if kind.startswith("application/json") else None
    except ValueError:
        return None


ReportProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much (0: unknown)."""
CALLS_AT_ONCE = 4
# Without this gevent prints a traceback for each.
Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt, LoadTestRefused)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def run_concurrently(work: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """Calls `work` for several items at once; answers in the items' order. The first exception, or
    an interrupt, ends the calls under way."""
    pool = Pool(CALLS_AT_ONCE)
    try:
        return list(pool.imap(work, items))
    finally:
        pool.kill()


IMAGES_A_CALL, ITEMS_A_CALL = 16, 256
CALL_S, RETRIES = 120.0, 12
"""For one call of a client with all its repeats; the first may take half of that time."""


def open_client(
    target: ServiceAddress, key: str | None = None, *, retries: int = RETRIES
) -> Client:
    """Calls the service with one API key; what is put off or lost is repeated."""
    # By no proxy of the environment: the load takes none, either.
    transport = httpx.HTTPTransport()
    return Client(target.url, key, timeout_s=CALL_S, retries=retries, transport=transport)


@contextmanager
def refusing() -> Iterator[None]:
    """`LoadTestRefused` for a call of a client that has no good answer."""
    try:
        yield
    except CallFailed as failure:
        raise LoadTestRefused(f"the service gave no good answer: {failure}") from None


class ModelClient:
    """The service's model over HTTP: templates, comparisons and searches, in batches of which
    several are asked for at once; `LoadTestRefused` without a good answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.expires_at = datetime.max.replace(tzinfo=UTC)
        """When the first of the issued templates expires."""

    def read_thresholds(self) -> Thresholds:
        with refusing():
            return self._client.read_thresholds().thresholds

    def issue_templates(
        self, photographs: Sequence[bytes], report: ReportProgress
    ) -> list[bytes | str]:
        """A template for each photograph, or the code of the error."""
        done = 0

        def issue_some(some: Sequence[bytes]) -> list[bytes | str]:
            with refusing():
                answer = self._client.make_templates(some)
            self.expires_at = min(self.expires_at, answer.expires_at)
            nonlocal done
            done += len(some)
            report("comparing photographs", done, len(photographs))
            return [one.template or str(one.error and one.error.code) for one in answer.items]

        return _in_batches(issue_some, photographs, IMAGES_A_CALL)

    def compare(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float]:
        """The cosine of each pair of templates."""
        found = self._match([MatchItem(Template(a), Template(b)) for a, b in pairs])
        return [require_judged(one, one.verification).score for one in found]

    def search(self, templates: Sequence[bytes]) -> list[tuple[int, int]]:
        """Searches the gallery for each template: how many references were found and searched."""
        results = self._match([MatchItem(Template(one), search=True) for one in templates])
        found = [require_judged(one, one.identification) for one in results]
        return [(one.found, one.searched) for one in found]

    def _match(self, items: Sequence[MatchItem]) -> list[MatchResult]:
        def match_some(some: Sequence[MatchItem]) -> list[MatchResult]:
            with refusing():
                return [*self._client.match(some)]

        return _in_batches(match_some, items, ITEMS_A_CALL)


def require_judged(result: MatchResult, part: Answer | None) -> Answer:
    """This part of a result; `LoadTestRefused` where the item was not judged."""
    if part is None:
        code = "an item without an answer" if result.error is None else result.error.code
        raise LoadTestRefused(f"the service judged no template: {code}")
    return part


def _in_batches(
    work: Callable[[Sequence[Item]], list[Answer]], items: Sequence[Item], size: int
) -> list[Answer]:
    """Calls `work` with batches of `size` items, several at once; answers in the items' order."""
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [answer for answers in run_concurrently(work, parts) for answer in answers]
