"""Wrapper of HAProxy that Serve starts: amends the generated configuration, then runs HAProxy.

Serve lets the operator set the binary, but nothing in its template. So the binary is a script
(`write_wrapper`) that runs this file with `-I -S`: it uses the standard library only. It `exec`s,
since Serve identifies its proxy by process id and by the configuration's path.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CHECK_TIMEOUT_S = 5.0
CORRELATOR = r"^[a-zA-Z0-9-_:;.\/<>{}]{0,256}$"
_SECTION = r"(?=^(?:global|defaults|frontend|backend|listen)\b|\Z)"
STOPPING = "proc.sosie_stops"
"""A variable of the running proxy; while it is 1, new requests are refused."""

OWN = "http-sosie"
"""The backend of our application: Serve names it after the application."""

HEALTH = "{ path_beg /health/ /version /metrics }"
MATCHES = "{ path /v1/match }"
ENROLLMENTS = "{ path /v1/enrollments } { method POST }"

UNWATCHED = "x-request-disconnect-disabled"


class TemplateChanged(Exception):
    """The generated configuration lacks a line that should be amended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """Values of the amendments. Above so many concurrent matches, enrollments or other requests the
    proxy itself answers 429, in microseconds, as a busy ingress cannot. 0: no bound."""

    ongoing: int
    match_ongoing: int
    enroll_ongoing: int
    header_timeout_s: int = 10
    address: str | None = None
    """Where it listens instead of the address that Serve's replicas share with it."""


def write_wrapper(folder: Path, config: ProxyConfig, binary: Path, log: Path) -> Path:
    """Writes an executable for Serve to run as HAProxy into `folder`; faults go to `log`."""
    path = folder / "haproxy"
    own = [sys.executable, "-I", "-S", __file__, json.dumps(asdict(config)), str(binary), str(log)]
    quoted = " ".join("'" + part.replace("'", "'\\''") + "'" for part in own)
    path.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n', encoding="utf-8")
    path.chmod(0o700)
    return path


def amend(text: str, config: ProxyConfig, folder: Path) -> str:
    """Amends the configuration for the service; `TemplateChanged` where it is not as expected.

    Error files are in `folder` (`write_answers`).
    """
    for pattern, new, least in _edits(config, folder):
        text = _replace(pattern, new, text, least=least)
    return _refuse_when_full(text, config)


def _replace(pattern: str, new: str, text: str, *, least: int = 1) -> str:
    # A function, so that backslashes in `new` are kept.
    text, count = re.subn(pattern, lambda found: found.expand(new), text, flags=re.M | re.S)
    if count < least:
        raise TemplateChanged(pattern)
    return text


def _edits(config: ProxyConfig, folder: Path) -> Iterator[tuple[str, str, int]]:
    """Patterns, what replaces each, and how often it has to be there at least."""
    # Ports for metrics and statistics listen on every interface, and are not used.
    yield rf"^frontend prometheus\n.*?{_SECTION}", "", 1
    yield rf"^listen stats\n.*?{_SECTION}", "", 1
    # The access log shows paths, and a path may contain a number.
    yield r"^ +log \S+ local0 info\n", "", 1
    # Without ingresses, Serve's own proxy, the fallback, would queue without bound.
    yield r"^ +server \S+ \S+ check backup\n", "", 0
    yield r"^(defaults\n)", rf"\1    timeout http-request {config.header_timeout_s}s\n", 1
    if config.address is not None:
        host = f"[{config.address}]" if ":" in config.address else config.address
        yield r"^(frontend http_frontend\n +bind )\S+:(\d+)$", rf"\g<1>{host}:\2", 1
    # HAProxy's own answers have our format, so that clients know they may retry.
    for status in (502, 503, 504):
        yield rf"^ +errorfile {status} \S+$", f"    errorfile {status} {folder / INTERRUPTED}", 1
    more = rf"    errorfile 408 {folder / TIMED_OUT}\n    errorfile 400 {folder / MALFORMED}\n"
    yield r"^( +errorfile 502)", rf"{more}\1", 1
    # Without an application it is 503: Serve's 404 would mislead clients.
    unknown = r"^(backend default_backend\n) +http-request return status 404 [^\n]*$"
    yield unknown, rf"\1    {_not_ready()}", 1


def _refuse_when_full(text: str, config: ProxyConfig) -> str:
    choices = list(re.finditer(r"^ +use_backend (\S+) if is_\1$", text, flags=re.M))
    names = [choice[1] for choice in choices]
    if OWN not in names:
        # While our application is not deployed, nothing can be full.
        _replace(r"^ +default_backend default_backend$", "", text)
        return text
    place = names.index(OWN)
    # A cluster may serve other applications too: the first that matches gets the request.
    mine = " ".join([f"is_{OWN}", *(f"!is_{other}" for other in names[:place])])
    lanes = [
        # Health checks and other requests do not count against each other's bounds.
        ("health", HEALTH, 0),
        ("match", MATCHES, config.match_ongoing),
        ("enroll", ENROLLMENTS, config.enroll_ongoing),
    ]
    bounds = [(OWN, f"!{HEALTH}", config.ongoing)]
    for kind, which, bound in lanes:
        text = _split_backend(text, OWN, kind)
        bounds.append((f"{OWN}-{kind}", which, bound))
    rules = "".join(f"    {rule}\n" for rule in _list_rules(mine, bounds))
    before = text.index(choices[place][0])
    return text[:before] + rules + text[before:]


def _list_rules(mine: str, bounds: list[tuple[str, str, int]]) -> list[str]:
    """Rules for backends, our own first: name, its requests, and the bound of concurrent ones."""
    busy = _answer(429, "SERVICE.BUSY", "too many requests at once: nothing was stored", 1)
    return [
        f"http-request set-var(txn.correlator) req.hdr(x-correlator) "
        f"if {{ req.hdr(x-correlator) -m reg '{CORRELATOR}' }}",
        "http-after-response set-header x-correlator %[var(txn.correlator)] "
        "if !{ res.hdr(x-correlator) -m found } { var(txn.correlator) -m found }",
        f"{_not_ready()} if {mine} {{ var({STOPPING}) -m int 1 }}",
        *(
            f"{busy} if {mine} {which} {{ be_conn({name}) ge {bound} }}"
            for name, which, bound in bounds
            if bound
        ),
        # Serve would watch each client's connection in a task. A match is short and stores nothing,
        # so that a client that disconnects need not be noticed.
        f"http-request set-header {UNWATCHED} ?1 if {mine} {MATCHES}",
        f"http-request del-header {UNWATCHED} if {mine} !{MATCHES}",
        *(f"use_backend {name} if {mine} {which}" for name, which, _ in bounds[1:]),
    ]


def _split_backend(text: str, name: str, kind: str) -> str:
    """Adds a second backend of the same servers, so that these requests are counted separately."""
    section = re.search(rf"^backend {re.escape(name)}\n(.*?){_SECTION}", text, flags=re.M | re.S)
    if section is None:
        raise TemplateChanged(f"backend {name}")
    server = r"^( +server (\S+) \S+) [^\n]*$"
    # One health check a server is enough.
    tracked = re.sub(server, rf"\1 track {name}/\2", section[1], flags=re.M)
    body = re.sub(r"^ +(?:option httpchk|http-check)[^\n]*\n", "", tracked, flags=re.M)
    body = re.sub(r"^( +default-server.*) check$", r"\1", body, flags=re.M)
    return text[: section.end()] + f"backend {name}-{kind}\n{body}" + text[section.end() :]


def _describe(status: int, code: str, message: str) -> str:
    return json.dumps({"status": status, "code": code, "message": message})


def _answer(status: int, code: str, message: str, retry_after_s: int) -> str:
    body = _describe(status, code, message)
    return (
        f"http-request return status {status} content-type application/json string '{body}' "
        f"hdr Retry-After {retry_after_s}"
    )


def _not_ready() -> str:
    return _answer(503, "SERVICE.NOT_READY", "the service starts or stops: ask again", 2)


INTERRUPTED, TIMED_OUT, MALFORMED = "interrupted.http", "timed-out.http", "malformed.http"
_FILES = {
    INTERRUPTED: (
        "503 Service Unavailable",
        "SERVICE.INTERRUPTED",
        "a part of the service was lost meanwhile: ask again with the same Idempotency-Key",
        "Retry-After: 1\r\n",
    ),
    TIMED_OUT: (
        "408 Request Timeout",
        "REQUEST.BODY_TIMEOUT",
        "the request did not come in time",
        "Connection: close\r\n",
    ),
    MALFORMED: (
        "400 Bad Request",
        "REQUEST.MALFORMED",
        "the request is not HTTP",
        "Connection: close\r\n",
    ),
}


def write_answers(folder: Path) -> None:
    """Writes the files of HAProxy's own answers into `folder`."""
    for name, (status, code, message, headers) in _FILES.items():
        body = _describe(int(status[:3]), code, message)
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}"
        (folder / name).write_bytes(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


def prepare(path: Path, config: ProxyConfig, binary: Path) -> str | None:
    """Amends the configuration in place; on failure it stays unchanged, and the reason is
    returned."""
    original = path.read_text(encoding="utf-8")
    try:
        write_answers(path.parent)
        amended = amend(original, config, path.parent)
        trial = path.with_name(path.name + ".amended")
        trial.write_text(amended, encoding="utf-8")
        check = subprocess.run(  # noqa: S603 - the same binary that is to run
            [binary, "-c", "-f", trial],
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
        if check.returncode:
            return f"HAProxy refuses the amended configuration: {check.stderr[:500]}"
        trial.replace(path)
    except TemplateChanged as change:
        return f"Serve's template has changed at {change}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def warn(log: Path, reason: str) -> None:
    """Logs one JSON line: the service runs, but with Serve's own proxy settings."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": "warning",
        "event": "proxy_unamended",
        "reason": " ".join(reason.split()),
    }
    text = json.dumps(line) + "\n"
    sys.stderr.write(text)
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return


def main(arguments: Sequence[str]) -> None:
    """Amends the configuration named by `-f`, then runs HAProxy with the given arguments."""
    settings, binary, log, *given = arguments
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-f", dest="path", type=Path)
    known, _ = parser.parse_known_args(given)
    if known.path is not None:
        reason = prepare(known.path, ProxyConfig(**json.loads(settings)), Path(binary))
        if reason is not None:
            warn(Path(log), reason)
    os.execv(binary, [binary, *given])  # noqa: S606 - the binary that the node's own code named


PLACE, SOCKET = "p", "admin.sock"
"""The admin socket, below a node's folder; Serve puts a folder of its own between the two."""

FRONTEND, BACKEND = "FRONTEND", "BACKEND"
OURS = "http-"
"""Prefix of the names of backends of our ingresses."""

# Frontends and backends without servers: this fits one buffer, so all is of one moment.
_STATISTICS = "show stat -1 3 -1"

Row = dict[str, str]


def list_sockets(folder: Path) -> list[Path]:
    """Admin sockets below `folder`; some may belong to ended proxies."""
    return sorted(folder.rglob(SOCKET))


def command(path: Path, text: str, timeout_s: float) -> str:
    """HAProxy's whole answer to one command within the time; else `OSError`."""
    deadline = time.monotonic() + timeout_s
    answer = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(text.encode() + b"\n")
        while piece := connection.recv(65536):
            answer += piece
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
    return answer.decode(errors="replace")


def read_statistics(path: Path, timeout_s: float) -> list[Row]:
    """A row for each frontend and backend, with the columns of `show stat`; else `OSError`."""
    text = command(path, _STATISTICS, timeout_s)
    return list(csv.DictReader(text.removeprefix("# ").splitlines()))


def is_ours(row: Row) -> bool:
    """True for a backend of our ingresses."""
    return row["svname"] == BACKEND and row["pxname"].startswith(OURS)


if __name__ == "__main__":
    main(sys.argv[1:])
