"""Steps of lines by themselves: at their time, after a failure, and not by a wrong clock."""

import threading
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ClockImplausible
from engine.lifecycle.campaigns import CampaignTerms, start_campaign
from engine.lifecycle.reverification import carry_out
from engine.registry.database import utc_now
from schema.lines import CampaignState, LineEventKind, LineState
from serving.jobs import periodic
from serving.jobs.periodic import ClockWatch, LineSteps
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

    def wait_for(self, event: str) -> None:
        while not any(said == event for said, _ in self.said):
            assert self.heard.wait(30)
            self.heard.clear()


@pytest.fixture
def database_url(sqlite_url) -> str:
    return sqlite_url


@pytest.fixture
def lines(store, writer, monkeypatch) -> Lines:
    monkeypatch.setattr(periodic, "LOOK_EVERY_S", 0.01)
    return Lines(store, writer, now=utc_now())


def ask(lines: Lines) -> str:
    (line,) = lines.open(1)
    lines.happen({line: lines.now}, LineEventKind.DEVICE_CHANGE)
    return line


class Time:
    """The clock, and what goes on whatever it is set to; `looks` is released at each look."""

    def __init__(self, lines: Lines, file: Path) -> None:
        self._lines, self._file = lines, file
        self._elapsed_s = 1000.0
        self.looks = threading.Semaphore(0)

    def go_by(self, by: timedelta) -> None:
        self._elapsed_s += by.total_seconds()
        self._lines.now += by

    def set_clock(self, by: timedelta) -> None:
        self._lines.now += by

    def watch(self) -> ClockWatch:
        """As a service that is started makes it."""
        return ClockWatch(
            self._lines.store, self._file, clock=self._look, elapsed_s=lambda: self._elapsed_s
        )

    def _look(self) -> datetime:
        self.looks.release()
        return self._lines.now

    def wait_for_looks(self) -> None:
        """For two that begin after this."""
        while self.looks.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self.looks.acquire(timeout=30)


@pytest.fixture
def time(lines, tmp_path) -> Time:
    return Time(lines, tmp_path / "clock.json")


def serve(lines: Lines, log: Any, time: Time, told: list[bool]) -> LineSteps:
    given: Any = (lines.runner, lines.store, lines.rules, log)
    return LineSteps(*given, time.watch(), told.append)


def test_a_step_is_done_at_its_time_and_once(lines, time) -> None:
    line, log = ask(lines), Log()
    with serve(lines, log, time, []):
        time.wait_for_looks()
        assert not log.said
        time.go_by(2 * HOUR)
        assert log.heard.wait(30)
    assert log.said == [("line_steps", {"steps": 1})]
    assert lines.line(line).state is LineState.SUSPENDED_OUTGOING


def test_what_fails_is_told_and_done_later(lines, time, monkeypatch) -> None:
    line, log, told = ask(lines), Log(), list[bool]()
    time.go_by(2 * HOUR)
    commit, fails = type(lines.writer).commit, [True]

    def commit_or_fail(self: Any, changes: Any) -> Any:
        if fails:
            fails.pop()
            raise OSError("secret text")
        return commit(self, changes)

    monkeypatch.setattr(type(lines.writer), "commit", commit_or_fail)
    with serve(lines, log, time, told):
        log.wait_for("line_steps")
    assert log.said[0] == ("line_steps_failed", {"code": "INTERNAL", "error": "OSError"})
    assert told[0] is True
    assert [kind for kind, _ in lines.story(line)].count("suspended_outgoing") == 1
    assert carry_out(lines.runner, lines.store, lines.rules) == 0


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("days", [1, 6, 8, 400, -3])
def test_by_a_wrong_clock_no_step_is_done_too_early(
    lines, time, days: int, is_restarted: bool
) -> None:
    """Nor by a service that has done none yet, or that was started while the clock was wrong; and
    once it is right each is done at its time."""
    line, log, told = ask(lines), Log(), list[bool]()
    steps = serve(lines, log, time, told)
    with steps if not is_restarted else nullcontext():
        if is_restarted:
            steps.__exit__()
        time.set_clock(timedelta(days=days))
        with serve(lines, log, time, told) if is_restarted else nullcontext():
            time.wait_for_looks()
            if days > 0:
                log.wait_for("line_steps_failed")
                assert log.said[0][1]["code"] == ClockImplausible.code
            assert lines.line(line).state is LineState.ACTIVE
            time.set_clock(timedelta(days=-days))
            time.go_by(HOUR)
            time.wait_for_looks()
            assert lines.line(line).state is LineState.ACTIVE
            time.go_by(HOUR)
            log.wait_for("line_steps")
    assert lines.line(line).state is LineState.SUSPENDED_OUTGOING


@pytest.mark.parametrize("days", [6, 400])
def test_a_campaign_is_not_over_by_a_wrong_clock(lines, time, days: int) -> None:
    lines.open(3)
    terms = CampaignTerms(carrier="red", name="all", deadline=lines.now + 48 * HOUR, chosen={})
    made = start_campaign(lines.runner, lines.store, terms, "test")
    log = Log()
    time.watch()
    time.set_clock(timedelta(days=days))
    with serve(lines, log, time, []):
        log.wait_for("line_steps_failed")
        campaign = lines.store.life.campaign(made.id)
        assert campaign.state is CampaignState.FILLING
        time.set_clock(timedelta(days=-days))
        while lines.store.life.filling():
            time.wait_for_looks()
    assert sum(lines.store.life.count_lines(made.id).values()) == 3
