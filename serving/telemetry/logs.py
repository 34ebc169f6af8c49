"""Structured logs: one JSON object a line, on standard output or in a file.

The processes of a node write their lines into one pipe, and the supervisor copies them to where
they belong: so one process alone writes and rotates, and none waits for a disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from io import TextIOWrapper
from json.encoder import encode_basestring_ascii
from logging.handlers import RotatingFileHandler, WatchedFileHandler
from pathlib import Path
from stat import S_ISREG
from typing import Any, cast

import structlog
from structlog.typing import FilteringBoundLogger

from serving.telemetry.redaction import show_error, withhold

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
RESERVED = frozenset({"time", "level", "process", "pid"})
LONGEST_BYTES, FILES = 64 * 2**20, 5
"""A longer file becomes `.1`, that one `.2`; so many there are at most, with the one in use."""
MODE, FOLDER_MODE = 0o600, 0o700
LONGEST_LINE = select.PIPE_BUF - 256
"""A pipe takes no more in one piece, with what may stand before it: no process tears another's."""
SHORT = 200
"""Characters of its event that a longer line keeps, and nothing else."""
PIPE_BYTES = 2**20
GATHER_S, LOOK_S = 0.05, 0.5
# ASCII, since some readers of lines also break them at U+2028.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def open_log(path: Path | None, level: str, process: str) -> FilteringBoundLogger:
    """A log that appends to a file or a pipe, or writes to standard output where `path` is None.

    Each line has time (UTC), level, event, process and pid, then the event's fields. A log never
    fails its caller, nor waits for a full pipe: lines that cannot be written are counted, and the
    count is logged when lines can be written again.
    """
    finish = Finisher(process)
    return cast(
        FilteringBoundLogger,
        structlog.wrap_logger(
            Printer(Lines(path, finish)),
            processors=cast(Any, [_lift_error, withhold, finish]),
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            context_class=dict,
            cache_logger_on_first_use=True,
        ).bind(),
    )


def close_log(log: FilteringBoundLogger) -> None:
    """Closes the file; a line logged afterwards opens it again."""
    printer = getattr(log, "_logger", None)
    assert isinstance(printer, Printer), "not a log of open_log"
    printer.lines.close()


class Printer:
    """The last of structlog's chain: each of its methods writes a finished line."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def info(self, line: str) -> None:
        self.lines.write(line.encode())

    debug = warning = error = critical = info


class Lines:
    """Appends whole lines to a file, a pipe or standard output; never raises.

    A file that was moved or removed, by the supervisor or by logrotate, is opened again.
    """

    def __init__(
        self, path: Path | None, finish: Finisher, longest_bytes: int | None = None
    ) -> None:
        self._finish = finish
        self._longest_bytes = longest_bytes
        self._file = None if path is None else _PrivateFile(path)
        self._lock = threading.Lock()
        self._lost, self._is_torn = 0, False

    def write(self, lines: bytes) -> None:
        """Writes lines that each end with a newline, or counts them as lost."""
        with self._lock:
            told = self._finish.tell_loss(self._lost).encode() if self._lost else b""
            data = (b"\n" if self._is_torn else b"") + told + lines
            written = 0
            try:
                descriptor = self._find_descriptor()
                written = os.write(descriptor, data)
                while written < len(data):
                    written += os.write(descriptor, data[written:])
                self._lost, self._is_torn = 0, False
            except OSError:
                # A full disk must not stop the service; half a line may stand there now.
                self._lost += lines.count(b"\n")
                self._is_torn = self._is_torn or written > 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _find_descriptor(self) -> int:
        if self._file is None:
            return sys.stdout.fileno()
        descriptor = self._file.find_descriptor()
        if self._longest_bytes and os.fstat(descriptor).st_size >= self._longest_bytes:
            path = self._file.baseFilename
            with suppress(OSError):
                RotatingFileHandler(path, backupCount=FILES - 1, delay=True).doRollover()
            return self._file.find_descriptor()
        return descriptor


class _PrivateFile(WatchedFileHandler):
    """The library's file that is opened again where it was moved; only its owner may read it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self._may_move = S_ISREG(path.stat().st_mode)

    def find_descriptor(self) -> int:
        """Of the file that has this name now."""
        if self._may_move:
            self.reopenIfNeeded()
        # None: closed, or it could not be opened last time.
        file: TextIOWrapper | None = self.stream
        if file is None:
            file = self.stream = self._open()
        return file.fileno()

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        return open(path, "a", encoding="utf-8", opener=_open_private)


def _open_private(path: str, flags: int) -> int:
    # Non-blocking, so that a pipe which nobody empties is an error and no wait.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, MODE)


class LogPipe:
    """The pipe of a node's log: copies its lines to a file that is rotated, or to standard output.

    It is made at `path`, which must not exist, and copied until it is closed.
    """

    def __init__(self, path: Path, file: Path | None, longest_bytes: int = LONGEST_BYTES) -> None:
        self._lines = Lines(file, Finisher("supervisor"), longest_bytes)
        os.mkfifo(path, MODE)
        # Also to write: so it never ends, and no writer waits for a reader.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._copy_often, name="sosie-log", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Copies what is left; not longer than `timeout_s`, should nobody read standard output."""
        self._closing.set()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            os.close(self._pipe)
            self._lines.close()

    def _copy_often(self) -> None:
        while not self._closing.is_set():
            if select.select([self._pipe], [], [], LOOK_S)[0]:
                # More lines gather meanwhile: one write for all of them.
                self._closing.wait(GATHER_S)
                self._copy()
        self._copy()

    def _copy(self) -> None:
        # Nobody writes half a line, and one read takes all that a pipe can hold.
        with suppress(BlockingIOError):
            while lines := os.read(self._pipe, PIPE_BYTES):
                self._lines.write(lines)


class Finisher:
    """The last processor: time, level and process go first, and the line is made."""

    def __init__(self, process: str) -> None:
        self._process = _encode(process)
        self._second, self._stamp = 0, ""

    def tell_loss(self, count: int) -> str:
        """The line for lines that could not be written."""
        return self(None, "error", {"event": "log lines lost", "count": count})

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        if not RESERVED.isdisjoint(event):
            for taken in RESERVED & event.keys():
                event[f"{taken}_"] = event.pop(taken)
        now = time.time()
        second = int(now)
        if second != self._second:
            # Two threads may both do so; they write the same.
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        micros = int((now - second) * 1e6)
        text = str(event.pop("event", ""))
        fields = _encode(event)[1:-1] if event else ""
        line = (
            f'{{"time":"{self._stamp}.{micros:06d}Z","level":"{method}",'
            f'"event":{encode_basestring_ascii(text)},"process":{self._process},"pid":{os.getpid()}'
            f"{',' if fields else ''}{fields}}}\n"
        )
        if len(line) > LONGEST_LINE:
            return self(logger, method, {"event": text[:SHORT], "is_cut": True})
        return line


def _lift_error(logger: object, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """`exc_info` as a field that says what and where, without the exception's text."""
    del logger, method
    given = event.pop("exc_info", None)
    if given:
        error = given if isinstance(given, BaseException) else sys.exc_info()[1]
        if isinstance(given, tuple):
            error = given[1]
        if error is not None:
            event["error"] = show_error(error)
    return event
