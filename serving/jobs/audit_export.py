"""The audit chain, told outside the database. An anchor is a line of JSON with the deployment, the
time and the newest entry's number and hash, for a place that whoever writes the database cannot
write. Syslog gets every entry in order over TLS (RFC 5424 with RFC 5425's framing; an OCSF event);
a cursor in the registry moves when the other host has acknowledged the bytes, so entries come again
after a break, under the same number."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import ssl
import struct
import termios
import threading
import urllib.request
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.metadata import version
from logging.handlers import SysLogHandler
from pathlib import Path
from time import monotonic
from typing import Any, Self
from urllib.parse import urlsplit

from structlog.typing import FilteringBoundLogger

from engine.errors import SosieError
from engine.registry.audit import AuditReader, AuditRecord, read_audit
from engine.registry.damage import write_anchor
from engine.registry.database import changing, new_id, utc_now
from engine.registry.events import (
    Cursor,
    advance_cursor,
    hold_cursor,
    put_cursor,
    read_cursors,
    release_cursor,
)
from engine.registry.store import Reader
from schema.lines import LineEventKind
from serving.deployment.deployment import Deployment
from serving.jobs.periodic import PeriodicJob, name_error
from serving.settings.sections import AuditSettings
from serving.telemetry import metrics
from serving.telemetry.metrics import Meter

CURSOR = "audit export"
PAGE = 500
LOOK_EVERY_S, RETRY_S, LONGEST_RETRY_S = 1.0, 1.0, 30.0
HELD = timedelta(seconds=60)
TIMEOUT_S = 10.0
SYSLOG_TLS_PORT = 6514
_PRIORITY = 13 * 8 + 6
"""Facility "log audit", severity informational."""
_MOST_MSGID = 32
_API_ACTIVITY, _APPLICATION_ACTIVITY = 6003, 6
_CREATE, _READ, _UPDATE, _DELETE, _OTHER = 1, 2, 3, 4, 99
_ACTIVITIES = {
    **dict.fromkeys(("added", "created", "opened", "started", "made", "admitted"), _CREATE),
    **dict.fromkeys(
        ("read", "searched", "identified", "reported", "revealed", "dispute_read"), _READ
    ),
    **dict.fromkeys(("checked", "verified"), _READ),
    **dict.fromkeys(("erased", "removed", "expired", "revoked", "forgotten", "retired"), _DELETE),
    **dict.fromkeys(("changed", "assigned", "noted", "proposed", "withdrawn", "closed"), _UPDATE),
    **dict.fromkeys(("reopen_asked", "reopened"), _UPDATE),
    **dict.fromkeys(("blocked", "unblocked", "disputed", "restored", "suspended"), _UPDATE),
    **dict.fromkeys(("barred", "lifted", "secret_rotated", "time_zone_set", "merged"), _UPDATE),
}
"""By the last part of an action; of all others OCSF says "other"."""
_WHOLE_ACTIVITIES = {
    "death.reported": _CREATE,
    "document.face_erased": _DELETE,
    "consent.renewed": _UPDATE,
    **dict.fromkeys(("death.confirmed", "death.contested", "death.lifted"), _UPDATE),
    **dict.fromkeys(("exception.granted", "exception.refused"), _UPDATE),
    **dict.fromkeys(("document.exempted", "document.exemption_ended", "campaign.ended"), _UPDATE),
    **{f"line.{kind}": _UPDATE for kind in LineEventKind},
}
"""By a whole action, which comes first: a death reported is new, a case's report is read."""


LOCAL_SYSLOG = "/dev/log"
SYSLOG_PORT = 514
Send = Callable[[str], None]
"""Takes one line, and raises where it may not have arrived."""


def open_sink(place: str, home: Path) -> Send:
    """The sink that a setting names: an HTTP URL, `syslog`, `syslog://host:port` (TCP), or a file,
    in the home folder unless its path is absolute."""
    if place.startswith(("http://", "https://")):
        return lambda line: _post(place, line)
    if place == "syslog":
        return lambda line: _log(LOCAL_SYSLOG, None, line)
    if place.startswith("syslog://"):
        found = urlsplit(place)
        address = (found.hostname or "localhost", found.port or SYSLOG_PORT)
        return lambda line: _log(address, socket.SOCK_STREAM, line)
    return lambda line: _append(home / place, line)


def _post(url: str, line: str) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, line.encode(), headers, method="POST")  # noqa: S310 - above
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - as well
        pass  # Any status but 2xx raises.


class _Syslog(SysLogHandler):
    append_nul = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's
        raise  # noqa: PLE0704 - called while the error is handled


def _log(address: str | tuple[str, int], kind: socket.SocketKind | None, line: str) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        handler = _Syslog(address, SysLogHandler.LOG_AUTHPRIV, kind)
    finally:
        socket.setdefaulttimeout(before)
    try:
        end = "\n" if kind == socket.SOCK_STREAM else ""
        text = f"sosie: {line}{end}"
        handler.emit(logging.LogRecord("sosie", logging.INFO, "", 0, text, None, None))
    finally:
        handler.close()


def _append(path: Path, line: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        written = os.write(handle, f"{line}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    if written <= len(line):
        raise OSError("the line was not written whole")


class Anchoring(PeriodicJob):
    """Sends the audit head each `every_s` seconds where it has moved. Nothing waits for it: a
    failure is told by `fault`, metric and log, and sent with the next head."""

    name = "anchor"
    end_within_s = TIMEOUT_S
    """Without another line: the next start sends one."""

    def __init__(
        self,
        source: AuditReader,
        send: Send | None,
        every_s: float,
        meter: Meter,
        log: FilteringBoundLogger,
    ) -> None:
        super().__init__(log)
        self._source, self._send, self._every_s, self._meter = source, send, every_s, meter
        self._sent = 0
        self.fault: str | None = None
        """Why the head is not anchored, on one line; None where it is, or nothing is asked."""

    @classmethod
    def of(cls, deployment: Deployment, meter: Meter, log: FilteringBoundLogger) -> Self:
        """By a deployment's settings."""
        settings = deployment.settings.audit
        send = open_sink(settings.anchor, deployment.home) if settings.anchor else None
        return cls(deployment.store, send, settings.anchor_every_s, meter, log)

    def _first_s(self) -> float | None:
        return None if self._send is None else 0.0

    def _work(self) -> float:
        assert self._send is not None
        number, head = self._source.check_head()
        if number != self._sent:
            self._send(write_anchor(self._source.vault.deployment_id, number, head))
            self._sent = number
        return self._show(None)

    def _fail(self, error: Exception) -> float:
        # A text of a library may hold the sink's URL with its secret.
        kind = name_error(error)
        if self.fault is None:
            self._log.error("anchor_failed", error=kind, sent=self._sent)
        return self._show(f"the audit head is not anchored ({kind}): check the sink [audit] anchor")

    def _show(self, fault: str | None) -> float:
        self.fault = fault
        self._meter.set(metrics.ANCHOR_FAILING, float(fault is not None))
        self._meter.set(metrics.ANCHORED, self._sent)
        return self._every_s


def write_ocsf(record: AuditRecord, deployment_id: str) -> dict[str, Any]:
    """An audit entry as an event of OCSF 1.3: an API Activity, with the entry's own detail and hash
    beside what the schema knows. It says what `sosie audit show` says, and no more."""
    entry = record.entry
    by_word = _ACTIVITIES.get(entry.action.rpartition(".")[2], _OTHER)
    activity = _WHOLE_ACTIVITIES.get(entry.action, by_word)
    service = {"name": "sosie", "uid": deployment_id}
    return {
        "class_uid": _API_ACTIVITY,
        "category_uid": _APPLICATION_ACTIVITY,
        "activity_id": activity,
        "type_uid": _API_ACTIVITY * 100 + activity,
        "severity_id": 1,
        "time": int(record.at.timestamp() * 1000),
        "metadata": {
            "version": "1.3.0",
            "product": {"name": "Sosie", "vendor_name": "Sosie", "version": version("sosie")},
            "uid": f"{deployment_id}:{record.number}",
            "sequence": record.number,
            "log_name": "audit",
        },
        "actor": {"user": {"name": entry.actor}},
        "api": {"operation": entry.action, "service": service},
        "src_endpoint": {"svc_name": "sosie", "uid": deployment_id},
        "resources": [{"uid": entry.subject}],
        "unmapped": {"detail": dict(entry.detail), "hash": record.hash.hex()},
    }


def write_message(record: AuditRecord, deployment_id: str, host: str) -> bytes:
    """The entry as a framed syslog message."""
    at = record.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    text = json.dumps(write_ocsf(record, deployment_id), separators=(",", ":"))
    action = record.entry.action[:_MOST_MSGID]
    message = f"<{_PRIORITY}>1 {at} {host} sosie - {action} - {text}".encode("ascii")
    return str(len(message)).encode() + b" " + message


class SyslogConnection:
    """A TLS connection to a syslog server, whose certificate and name are checked."""

    def __init__(self, settings: AuditSettings, home: Path) -> None:
        url = urlsplit(settings.export)
        host, port = url.hostname or "", url.port or SYSLOG_TLS_PORT
        authority = str(home / settings.export_ca) if settings.export_ca else None
        trust = ssl.create_default_context(cafile=authority)
        if settings.export_certificate:
            own, key = settings.export_certificate, settings.export_key
            # Without this a key with a passphrase would ask at the terminal, and wait for ever.
            trust.load_cert_chain(home / own, home / key if key else None, password=lambda: "")
        plain = socket.create_connection((host, port), TIMEOUT_S)
        try:
            self._socket = trust.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def send(self, messages: Sequence[bytes]) -> None:
        """Returns when the other host has acknowledged every byte; `OSError` where it may not."""
        self._require_open()
        self._socket.settimeout(TIMEOUT_S)
        self._socket.sendall(b"".join(messages))
        give_up_s, waited = monotonic() + TIMEOUT_S, threading.Event()
        while self._count_unacknowledged():
            if monotonic() > give_up_s:
                raise TimeoutError("the syslog server does not take what it is sent")
            waited.wait(0.005)
        self._require_open()

    def close(self) -> None:
        self._socket.close()

    def _count_unacknowledged(self) -> int:
        answer = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])

    def _require_open(self) -> None:
        """A server says nothing: whatever there is to read is its end."""
        self._socket.settimeout(0)
        with contextlib.suppress(ssl.SSLWantReadError, BlockingIOError):
            self._socket.recv(1)
            raise ConnectionResetError("the syslog server has closed the connection")


class AuditExport(PeriodicJob):
    """Sends what is new in the chain; nothing waits for it. Failures are told by metric and log,
    and sent again."""

    name = "audit-export"
    end_within_s = 2 * TIMEOUT_S

    def __init__(
        self,
        source: Reader,
        settings: AuditSettings,
        home: Path,
        meter: Meter,
        log: FilteringBoundLogger,
    ) -> None:
        super().__init__(log)
        self._source, self._settings, self._home, self._meter = source, settings, home, meter
        self._holder = new_id()
        self._host = (socket.gethostname() or "-").encode("ascii", "replace").decode()
        self._connection: SyslogConnection | None = None
        self._cursor: Cursor | None = None
        self._held_until_s = 0.0
        self._retry_s = 0.0
        """0 where the last call sent what there was."""

    @classmethod
    def of(cls, deployment: Deployment, meter: Meter, log: FilteringBoundLogger) -> Self:
        """By a deployment's settings."""
        return cls(deployment.store, deployment.settings.audit, deployment.home, meter, log)

    def _first_s(self) -> float | None:
        return 0.0 if self._settings.export else None

    def _work(self) -> float:
        is_behind = self._send_page()
        self._retry_s = 0.0
        self._meter.set(metrics.AUDIT_EXPORT_FAILING, 0.0)
        return 0.0 if is_behind else LOOK_EVERY_S

    def _fail(self, error: Exception) -> float:
        kind = name_error(error)
        if not self._retry_s:
            self._log.error("audit_export_failed", error=kind)
        self._disconnect()
        self._cursor = None
        self._retry_s = min(max(2 * self._retry_s, RETRY_S), LONGEST_RETRY_S)
        self._meter.set(metrics.AUDIT_EXPORT_FAILING, 1.0)
        return self._retry_s

    def close(self) -> None:
        """Ends after the page that is under way, and leaves the cursor to the next process."""
        super().close()
        self._disconnect()
        if self._settings.export:
            with contextlib.suppress(SosieError):
                release_cursor(self._source, CURSOR, self._holder)

    def _send_page(self) -> bool:
        """Sends a page; whether there is more."""
        cursor = self._hold()
        if cursor is None:
            return False
        entries = read_audit(self._source, cursor.number, PAGE)
        if not entries:
            return False
        if self._connection is None:
            self._connection = SyslogConnection(self._settings, self._home)
        deployment_id = self._source.vault.deployment_id
        self._connection.send([write_message(one, deployment_id, self._host) for one in entries])
        last = entries[-1].number
        with changing(self._source.engine) as connection:
            advance_cursor(connection, self._source.vault, cursor, self._holder, last)
        self._cursor = Cursor(cursor.name, last, cursor.generation)
        self._meter.set(metrics.AUDIT_EXPORTED, last)
        return len(entries) == PAGE

    def _hold(self) -> Cursor | None:
        """The cursor, made where there is none; None while another process has it."""
        if self._cursor is not None and monotonic() < self._held_until_s:
            return self._cursor
        if CURSOR not in read_cursors(self._source):
            with changing(self._source.engine) as connection:
                put_cursor(connection, self._source.vault, CURSOR, 0)
        self._held_until_s = monotonic() + HELD.total_seconds() / 2
        self._cursor = hold_cursor(self._source, CURSOR, self._holder, utc_now(), HELD)
        return self._cursor

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
