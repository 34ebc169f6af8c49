"""The audit head, anchored outside: what the database says later can be compared with it.

A line of JSON says the deployment, the time, and the newest entry's number and hash. It goes to a
file, to syslog, or to an HTTP sink, that whoever writes the database cannot write.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Callable
from logging.handlers import SysLogHandler
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from structlog.typing import FilteringBoundLogger

from engine.errors import SosieError
from engine.registry.audit import AuditReader, write_anchor
from serving.telemetry import metrics
from serving.telemetry.metrics import Meter

if TYPE_CHECKING:
    from serving.deployment.deployment import Deployment

TIMEOUT_S = 10.0
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


class Anchoring:
    """Sends the audit head each `every_s` seconds where it has moved, in a thread of its own.

    Nothing waits for it: what fails is told by `fault`, a metric and the log, and is sent again
    with the next head.
    """

    def __init__(
        self,
        source: AuditReader,
        send: Send | None,
        every_s: float,
        meter: Meter,
        log: FilteringBoundLogger,
    ) -> None:
        self._source = source
        self._send = send
        self._every_s = every_s
        self._meter = meter
        self._log = log
        self._sent = 0
        self._closing = threading.Event()
        self.fault: str | None = None
        """Why the head is not anchored, on one line; None where it is, or nothing is asked."""
        self._thread = threading.Thread(target=self._serve, name="anchoring", daemon=True)
        if send is not None:
            self._thread.start()

    @classmethod
    def of(cls, deployment: Deployment, meter: Meter, log: FilteringBoundLogger) -> Self:
        """By a deployment's settings."""
        settings = deployment.settings.audit
        send = open_sink(settings.anchor, deployment.home) if settings.anchor else None
        return cls(deployment.store, send, settings.anchor_every_s, meter, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends without another line: the next start sends one."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_S)

    def _serve(self) -> None:
        while True:
            self._work()
            if self._closing.wait(self._every_s):
                return

    def _work(self) -> None:
        assert self._send is not None
        try:
            number, head = self._source.check_head()
            if number != self._sent:
                self._send(write_anchor(self._source.vault.deployment_id, number, head))
                self._sent = number
            fault = None
        except Exception as error:  # noqa: BLE001 - the thread must outlive any of them
            # A text of a library may hold the sink's URL with its secret.
            kind = error.code if isinstance(error, SosieError) else type(error).__name__
            fault = f"the audit head is not anchored ({kind}): check the sink [audit] anchor"
        if fault is not None and self.fault is None:
            self._log.error("anchor_failed", error=kind, sent=self._sent)
        self.fault = fault
        self._meter.set(metrics.ANCHOR_FAILING, float(fault is not None))
        self._meter.set(metrics.ANCHORED, self._sent)
