"""Structured logs: one redacted JSON object a line, on standard output or in a file. A node's
processes write into one pipe, which the supervisor copies: one process rotates, and none waits for
a disk."""

import fcntl
import json
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from datetime import date
from enum import Enum
from functools import lru_cache
from io import TextIOWrapper
from json.encoder import encode_basestring_ascii
from logging.handlers import RotatingFileHandler, WatchedFileHandler
from math import isfinite
from pathlib import Path, PurePath
from stat import S_ISREG
from types import NoneType
from typing import Any, cast
from uuid import UUID

import structlog
from structlog.typing import FilteringBoundLogger

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
RESERVED = frozenset({"time", "level", "process", "pid"})
LONGEST_BYTES, FILES = 64 * 2**20, 5
"""A longer file becomes `.1`, that one `.2`; there are `FILES` at most, with the one in use."""
MODE, FOLDER_MODE = 0o600, 0o700
LONGEST_LINE = select.PIPE_BUF - 256
"""What a pipe writes atomically, less a report of lost lines: processes never mix their lines."""
SHORT = 200
"""Characters of the event that remain of a longer line."""
PIPE_BYTES = 2**20
GATHER_S, LOOK_S = 0.05, 0.5
# ASCII, since some readers of lines also break them at U+2028.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def open_log(path: Path | None, level: str, process: str) -> FilteringBoundLogger:
    """Opens a log that appends to a file or pipe, or to standard output for None: a line has time
    (UTC), level, event, process, pid, then the event's fields. It never raises nor waits for a full
    pipe: lost lines are counted, and the count is logged later."""
    finish = Finisher(process)
    return cast(
        FilteringBoundLogger,
        structlog.wrap_logger(
            Lines(path, finish),
            processors=cast(Any, [withhold, finish]),
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            context_class=dict,
            cache_logger_on_first_use=True,
        ).bind(),
    )


def close_log(log: FilteringBoundLogger) -> None:
    """Closes the file; a line logged afterwards opens it again."""
    logger = getattr(log, "_logger", None)
    assert isinstance(logger, Lines), "not a log of open_log"
    logger.close()


class Finisher:
    """The last processor: formats the line, with time, level and process first."""

    def __init__(self, process: str) -> None:
        self._process = _encode(process)
        self._second, self._stamp = 0, ""

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


class Lines:
    """Appends whole lines to a file, a pipe or standard output, and never raises; structlog's
    methods each write a finished line. A file that was moved or removed, as by logrotate, is opened
    again."""

    def __init__(
        self, path: Path | None, finish: Finisher, longest_bytes: int | None = None
    ) -> None:
        self._finish = finish
        self._longest_bytes = longest_bytes
        self._file = None if path is None else _PrivateFile(path)
        self._lock = threading.Lock()
        self._lost, self._is_torn = 0, False

    def info(self, line: str) -> None:
        self.write(line.encode())

    debug = warning = error = critical = info

    def write(self, lines: bytes) -> None:
        """Writes lines that each end with a newline, or counts them as lost."""
        with self._lock:
            lost = {"event": "log lines lost", "count": self._lost}
            loss = self._finish(None, "error", lost).encode() if self._lost else b""
            data = (b"\n" if self._is_torn else b"") + loss + lines
            written = 0
            try:
                descriptor = self._find_descriptor()
                written = os.write(descriptor, data)
                while written < len(data):
                    written += os.write(descriptor, data[written:])
                self._lost, self._is_torn = 0, False
            except OSError:
                # A full disk must not stop the service; half a line may be written now.
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
    """A file that is reopened after it was moved; only its owner may read it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self._may_move = S_ISREG(path.stat().st_mode)

    def find_descriptor(self) -> int:
        """The descriptor of the file that has this name now."""
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
    # Non-blocking: writing to a pipe that no process reads is an error, and does not wait.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, MODE)


class LogPipe:
    """The pipe of a node's log, made at `path` and copied to a rotated file, or to standard output,
    until it is closed."""

    def __init__(self, path: Path, file: Path | None, longest_bytes: int = LONGEST_BYTES) -> None:
        self._lines = Lines(file, Finisher("supervisor"), longest_bytes)
        os.mkfifo(path, MODE)
        # Opened for writing too: it never ends, and no writer waits for a reader.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._copy_often, name="sosie-log", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Copies the rest, for at most `timeout_s` if nothing reads standard output."""
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
        # Lines are written atomically, and one read takes all that a pipe can hold.
        with suppress(BlockingIOError):
            while lines := os.read(self._pipe, PIPE_BYTES):
                self._lines.write(lines)


WITHHELD = "[withheld]"
TEXT_LIMIT = 2000
DEPTH_LIMIT = 4

FORBIDDEN = frozenset(
    {
        *("image", "images", "photograph", "photographs", "photo", "photos", "portrait"),
        *("vector", "vectors", "embedding", "embeddings", "template", "templates"),
        *("token", "tokens", "probe", "probes", "name", "names", "surname", "birth"),
        *("number", "numbers", "msisdn", "msisdns", "phone", "document", "documents"),
        *("body", "payload", "headers", "query", "path", "url", "dsn"),
        *("key", "keys", "apikey", "authorization", "password", "passphrase", "secret"),
        *("cookie", "credential", "credentials"),
    }
)
"""Words in a field's name that make its value personal or secret: it is not logged."""

ALLOWED = frozenset({"key_id", "document_id"})
"""Fields with such a word that are neither."""

# A number in E.164 form, an API key, a credential of a header, the password of a URL.
_SECRETS = (
    r"\+\d{7,15}\b|\bsosie_[A-Za-z0-9]+_\S+|\b(?:Bearer|Basic)\s+\S+|(?<=//)[^/\s:@]*:[^/\s@]+@"
)
_IN_WORDS = re.compile(_SECRETS)
# In prose, a long run of digits may be a phone or document number; in an identifier rarely.
_IN_PROSE = re.compile(_SECRETS + r"|\b\d{10,}[Xx]?\b")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


@lru_cache(maxsize=1024)
def is_forbidden(field: str) -> bool:
    """True for `msisdn`, `api_key`, `holderName`; false for `key_id`."""
    if field in ALLOWED:
        return False
    return any(word.lower() in FORBIDDEN for word in _WORDS.findall(field))


def withhold(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: fields of forbidden names, bytes, arrays, numbers and keys in texts
    become `[withheld]`, as does an exception, whose text may hold anything."""
    for field, value in event.items():
        kind = type(value)
        if is_forbidden(field):
            event[field] = WITHHELD
        elif kind is str:
            event[field] = show_text(value)
        elif kind is not int and kind is not bool and value is not None:
            event[field] = _show(value, DEPTH_LIMIT)
    return event


def show_text(text: str) -> str:
    if " " in text:
        text = _IN_PROSE.sub(WITHHELD, text)
    elif "+" in text or "_" in text or "@" in text:
        text = _IN_WORDS.sub(WITHHELD, text)
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT]


_SHOWN: tuple[tuple[type | tuple[type, ...], Callable[[Any], object]], ...] = (
    ((int, NoneType), lambda value: value),
    (float, lambda value: float(value) if isfinite(value) else str(value)),
    (str, show_text),
    (date, lambda value: value.isoformat()),
    ((UUID, PurePath), str),
)
"""How the kinds of values that are shown as they are, or as text, are shown."""


def _show(value: object, depth: int) -> object:
    if isinstance(value, Enum):
        value = value.value
    for kind, show in _SHOWN:
        if isinstance(value, kind):
            return show(value)
    if depth and isinstance(value, Mapping):
        return {
            str(field): WITHHELD if is_forbidden(str(field)) else _show(item, depth - 1)
            for field, item in value.items()
        }
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [_show(item, depth - 1) for item in value]
    # Bytes, arrays, exceptions, and objects whose repr may show anything.
    return WITHHELD
