"""Steps of lines by themselves: at their time, after a failure, and not by a wrong clock."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from engine.errors import ClockImplausible
from engine.lifecycle.reverification import carry_out
from engine.registry.records import LineEventKind, LineState, utc_now
from serving import line_steps
from serving.line_steps import LineSteps
from tests.engine.conftest import key_ring, sqlite_url, store, vault, writer
from tests.engine.lifecycle.conftest import Lines

__all__ = ["key_ring", "sqlite_url", "store", "vault", "writer"]

HOUR = timedelta(hours=1)


class Log:
    """What is said, and an event for whoever waits for it."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.heard = threading.Event()

    def info(self, event: str, **more: Any) -> None:
        self.said.append((event, more))
        self.heard.set()

    warning = info


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def lines(store: Any, writer: Any, monkeypatch: pytest.MonkeyPatch) -> Lines:
    monkeypatch.setattr(line_steps, "LOOK_EVERY_S", 0.01)
    return Lines(store, writer, now=utc_now())


def ask(lines: Lines) -> str:
    (line,) = lines.open(1)
    lines.happen({line: lines.now}, LineEventKind.DEVICE_CHANGE)
    return line


def serve(lines: Lines, log: Log, told: list[bool]) -> LineSteps:
    given: Any = (lines.runner, lines.store, lines.rules, log)
    return LineSteps(*given, told.append, clock=lambda: lines.now)


def test_a_step_is_done_at_its_time_and_once(lines: Lines) -> None:
    line, log = ask(lines), Log()
    with serve(lines, log, []):
        assert not log.heard.wait(0.1)
        lines.now += 2 * HOUR
        assert log.heard.wait(30)
    assert log.said == [("line_steps", {"steps": 1})]
    assert lines.line(line).state is LineState.SUSPENDED_OUTGOING


def test_what_fails_is_told_and_done_later(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    line, log, told = ask(lines), Log(), list[bool]()
    lines.now += 2 * HOUR
    commit, fails = type(lines.writer).commit, [True]

    def commit_or_fail(self: Any, changes: Any) -> Any:
        if fails:
            fails.pop()
            raise OSError("secret text")
        return commit(self, changes)

    monkeypatch.setattr(type(lines.writer), "commit", commit_or_fail)
    with serve(lines, log, told):
        while not any(event == "line_steps" for event, _ in log.said):
            assert log.heard.wait(30)
            log.heard.clear()
    assert log.said[0] == ("line_steps_failed", {"code": "INTERNAL", "error": "OSError"})
    assert told[0] is True
    assert [kind for kind, _ in lines.story(line)].count("suspended_outgoing") == 1
    assert carry_out(lines.runner, lines.store, lines.rules) == 0


def test_by_a_clock_that_cannot_be_right_nobody_is_suspended(lines: Lines) -> None:
    line, log, told = ask(lines), Log(), list[bool]()
    with serve(lines, log, told):
        lines.now += timedelta(days=300)
        assert log.heard.wait(30)
    assert {event for event, _ in log.said} == {"line_steps_failed"}
    assert log.said[0][1]["code"] == ClockImplausible.code
    assert lines.line(line).state is LineState.ACTIVE
