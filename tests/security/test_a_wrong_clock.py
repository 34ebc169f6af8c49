"""Fault: the clock is wrong for one run of retention. It deleted every stored answer, so that a
request that was sent again was decided twice. Now it is refused until somebody vouches for it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import structlog
from structlog.testing import LogCapture

from engine.errors import ClockImplausible, RequestError
from engine.registry import store, transactions, writer
from engine.registry.audit import AuditEntry
from engine.registry.database import utc_now
from engine.registry.enrollments import StoredAnswer, Tally
from engine.registry.rows import Write
from engine.retention.job import RUN, check_clock, check_step, confirm_clock, run_retention
from serving.deployment.deployment import Deployment
from serving.jobs.periodic import ClockWatch, DailyRetention
from serving.settings.settings import load_settings
from tests.engine.registry.conftest import ANSWER
from tests.engine.retention.conftest import only

YEARS, MONTH = timedelta(days=3650), only(answers_days=30)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SCOPE = b"scope"


@pytest.fixture
def deployment(keyed_home: tuple[Path, Any], tmp_path) -> Iterator[Deployment]:
    home = Path(shutil.copytree(keyed_home[0], tmp_path / "home"))
    with Deployment(home, load_settings(home)) as opened:
        yield opened


class Clock:
    """What every part of a process takes for the moment; set by a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off = timedelta()
        for module in (store, transactions, writer):
            monkeypatch.setattr(module, "utc_now", self)

    def __call__(self) -> datetime:
        return utc_now() + self.off


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def keep_answer(deployment: Deployment) -> None:
    note(deployment, "test.done", StoredAnswer(SCOPE, bytes(32), None, ANSWER, utc_now()))


def note(deployment: Deployment, action: str = "test.done", *writes: Write) -> None:
    entry = AuditEntry("test", action, "x")
    deployment.registrar.run(lambda by, _: by.commit([entry, *writes]))


def run_daily(
    deployment: Deployment, clock: Callable[[], datetime], *, setting: Callable[[], None]
) -> tuple[list[bool], LogCapture]:
    """One look of the service's daily retention, after `setting` the clock; what it told."""
    lines, meter = LogCapture(), Mock()
    wrapper = structlog.make_filtering_bound_logger(0)
    log = structlog.wrap_logger(None, processors=[lines], wrapper_class=wrapper)
    deployment.settings = deployment.settings.model_copy(update={"retention": MONTH})
    job = DailyRetention(deployment, log, ClockWatch(deployment.store, clock=clock), meter)
    setting()
    job._run()
    return read_told(meter), lines


def read_told(meter: Mock) -> list[bool]:
    """Whether runs were refused."""
    return [call.args[1] for call in meter.set.call_args_list]


def test_a_clock_that_is_set_while_the_service_runs_deletes_nothing(deployment, clock) -> None:
    keep_answer(deployment)
    set_forward = partial(setattr, clock, "off", YEARS)
    told, lines = run_daily(deployment, clock, setting=set_forward)
    assert told == [True]
    (line,) = lines.entries
    assert (line["event"], line["code"]) == ("retention_refused", "CLOCK.IMPLAUSIBLE")
    assert "sosie retention confirm-clock" in line["reason"]
    assert SCOPE in deployment.store.answers([SCOPE])


def test_nor_does_one_by_which_things_were_recorded_since(deployment, clock) -> None:
    """The process starts after the fault, and a decision has the wrong moment already."""
    keep_answer(deployment)
    clock.off = YEARS
    note(deployment)
    told, _ = run_daily(deployment, clock, setting=lambda: None)
    assert told == [True]
    clock.off = timedelta()
    told, _ = run_daily(deployment, clock, setting=lambda: None)
    assert told == [True], "and a clock that went back is looked into, too"
    assert SCOPE in deployment.store.answers([SCOPE])


def test_what_was_decided_while_the_clock_was_behind_does_not_leave_at_once(
    deployment, clock
) -> None:
    note(deployment)
    clock.off = -YEARS
    note(deployment)
    clock.off = timedelta()
    note(deployment)
    told, _ = run_daily(deployment, clock, setting=lambda: None)
    assert told == [True]


def test_a_machine_that_was_off_for_months_is_confirmed_and_goes_on(deployment, clock) -> None:
    keep_answer(deployment)
    clock.off = 60 * DAY
    told, _ = run_daily(deployment, clock, setting=lambda: None)
    assert told == [True]
    with pytest.raises(RequestError, match="set it right"):
        confirm_clock(deployment.store, utc_now().date(), clock(), "test")
    confirm_clock(deployment.store, clock().date(), clock(), "test")
    told, lines = run_daily(deployment, clock, setting=lambda: None)
    assert told == [False]
    assert [line["event"] for line in lines.entries] == ["retention"]
    assert deployment.store.answers([SCOPE]) == {}


def test_a_step_is_settled_by_a_confirmation_after_it_alone(deployment, clock) -> None:
    confirm_clock(deployment.store, clock().date(), clock(), "test")
    expected, now = clock(), clock() + YEARS
    with pytest.raises(ClockImplausible, match="was set from"):
        check_step(deployment.store, expected, now, HOUR)
    check_step(deployment.store, expected, expected + HOUR, HOUR)
    clock.off = YEARS
    confirm_clock(deployment.store, clock().date(), clock(), "test")
    check_step(deployment.store, expected, clock(), HOUR)


def test_days_with_a_run_are_no_jump_and_a_run_settles_what_lies_before(deployment, clock) -> None:
    for day in (5, 10, 15):
        clock.off = day * DAY
        note(deployment)
    check_clock(deployment.store, clock())
    clock.off = 40 * DAY
    with pytest.raises(ClockImplausible):
        check_clock(deployment.store, clock())
    note(deployment, RUN)
    check_clock(deployment.store, clock())


def test_a_wrong_clock_at_the_start_forgets_no_failures(deployment, clock) -> None:
    tally = Tally("key:test", 5.0, YEARS, 10)
    note(deployment, "test.done", tally)
    home = deployment.home
    deployment.close()
    clock.off = YEARS
    with Deployment(home, load_settings(home)) as later:
        assert later.writer.sequence >= 0
        assert "key:test" in later.store.tallies(["key:test"])


def test_a_count_that_was_filled_while_the_clock_was_ahead_is_forgotten_from_the_next_run_on(
    deployment, clock
) -> None:
    clock.off = 400 * DAY
    note(deployment, "test.done", Tally("key:test", 5.0, DAY, 10))
    clock.off = timedelta()
    run_retention(deployment.registrar, MONTH, "test")
    found = deployment.store.tallies(["key:test"])["key:test"]
    assert 2.5 < found.level_at(utc_now() + 2 * DAY, DAY) < 3.5


def test_the_command_refuses_says_so_and_takes_a_confirmation(deployment, clock, sosie) -> None:
    keep_answer(deployment)
    clock.off = -60 * DAY
    note(deployment)
    clock.off = timedelta()
    home = deployment.home
    deployment.close()
    refused = sosie("retention", "run", "--home", home)
    assert refused.code == 2
    assert "confirm-clock" in refused.err
    shown = sosie("retention", "show", "--home", home, "--json")
    assert "says" in shown.json["clock_fault"]
    (found,) = [
        one
        for one in sosie("doctor", "--home", home, "--json").json["checks"]
        if one["subject"] == "clock"
    ]
    assert found["state"] == "warning"
    assert sosie("retention", "confirm-clock", "2001-01-01", "--home", home).code == 2
    today = datetime.now(UTC).date().isoformat()
    assert sosie("retention", "confirm-clock", today, "--home", home).code == 0
    assert sosie("retention", "run", "--home", home).code == 0


def test_a_refused_run_is_tried_again_within_the_hour(deployment, clock) -> None:
    log, meter = structlog.wrap_logger(None, processors=[LogCapture()]), Mock()
    schedule = replace(MONTH, daily_at="12:00")
    deployment.settings = deployment.settings.model_copy(update={"retention": schedule})
    job = DailyRetention(deployment, log, ClockWatch(deployment.store, clock=clock), meter)
    clock.off = YEARS
    job._run()
    assert job._next_s() <= 3600
    clock.off = timedelta()
    job._run()
    assert read_told(meter) == [True, False]
