"""Structured logs: one JSON object a line, shared by all processes of a node."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, cast

import structlog
from structlog.typing import FilteringBoundLogger

from serving.telemetry.log_file import LineFile
from serving.telemetry.redaction import show_error, withhold

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
RESERVED = frozenset({"time", "level", "process", "pid"})
# ASCII, since some readers of lines also break them at U+2028.
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Printer:
    """The last of structlog's chain: each of its methods writes a finished line."""

    def __init__(self, file: LineFile) -> None:
        self.file = file

    def debug(self, line: str) -> None:
        self.file.write(line, at_once=False)

    info = debug

    def warning(self, line: str) -> None:
        self.file.write(line, at_once=True)

    error = critical = warning


def open_log(path: Path, level: str, process: str) -> FilteringBoundLogger:
    """A log that appends to `path`.

    Each line has time (UTC), level, event, process and pid, then the event's fields. Lines below
    `warning` reach the file within 0.2 s, others at once. A log never fails its caller: lines
    that the disk refuses are counted, and the count is logged when it takes lines again.
    """
    finish = Finisher(process)
    chain = [_lift_error, withhold, finish]
    return cast(
        FilteringBoundLogger,
        structlog.wrap_logger(
            Printer(LineFile(path, finish.tell_loss)),
            processors=cast(Any, chain),
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            context_class=dict,
            cache_logger_on_first_use=True,
        ).bind(),
    )


def close_log(log: FilteringBoundLogger) -> None:
    """Writes what is still held back; a line logged afterwards is written at once."""
    printer = getattr(log, "_logger", None)
    assert isinstance(printer, Printer), "not a log of open_log"
    printer.file.close()


class Finisher:
    """The last processor: time, level and process go first, and the line is made."""

    def __init__(self, process: str) -> None:
        self._process = _encode(process)
        self._second, self._stamp = 0, ""

    def tell_loss(self, count: int) -> str:
        """The line for lines that could not be written."""
        return self(None, "error", {"event": "log lines lost", "count": count})

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        del logger
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
        return (
            f'{{"time":"{self._stamp}.{micros:06d}Z","level":"{method}",'
            f'"event":{encode_basestring_ascii(text)},"process":{self._process},"pid":{os.getpid()}'
            f"{',' if fields else ''}{fields}}}\n"
        )


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
