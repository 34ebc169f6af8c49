"""The service lets things go by itself: at its time, and when a run was missed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from functools import partial
from threading import Semaphore
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import GalleryBehind
from engine.lifecycle.rules import LineRules, RuleSet
from engine.matching.holders import watch_face
from engine.registry import retention
from engine.registry.damage import find_damage
from engine.registry.database import changing, utc_now
from engine.registry.enrollments import StoredAnswer
from engine.registry.events import NewEvent, read_events, write_events
from engine.registry.webhooks import Webhooks
from engine.retention.job import run_retention
from schema.events import EventType
from serving.deployment.deployment import Deployment
from serving.jobs import periodic
from serving.jobs.periodic import ClockWatch, DailyRetention, seconds_until
from serving.registrar.service import RegistrarService
from serving.settings.sections import ServeSettings
from serving.settings.settings import Settings, load_settings
from serving.telemetry.metrics import Meter, show_set_aside
from tests.engine.records import ENTRY
from tests.engine.registry.conftest import ANSWER
from tests.engine.retention.conftest import only
from tests.serving.registrar.conftest import lines, log
from tests.waiting import wait_until

__all__ = ["lines", "log"]

WAIT_S = 300
MONTH = only(answers_days=30)
SCOPE = b"scope"


@pytest.fixture
def deployment(home, tmp_path) -> Iterator[Deployment]:
    with Deployment(home, load_settings(home)) as opened:
        yield opened


def keep_answer(deployment: Deployment, age: timedelta, scope: bytes = SCOPE) -> None:
    """Something that leaves 30 days after its moment."""
    answer = StoredAnswer(scope, bytes(32), None, ANSWER, utc_now() - age)
    deployment.registrar.run(lambda writer, _: writer.commit([ENTRY, answer]))


def runs(deployment: Deployment, action: str = "retention.run") -> int:
    return sum(record.entry.action == action for record in deployment.store.audit_entries())


@pytest.fixture
def retain(deployment, log, monkeypatch) -> Callable[..., Any]:
    """`with retain(at, ...)`: retention on this test's registrar, starting at once."""

    @contextmanager
    def start(
        at: str, *, clock: Callable[[], datetime] = utc_now, settle_s: float = 0.0, **more: Any
    ) -> Iterator[DailyRetention]:
        monkeypatch.setattr(periodic, "SETTLE_S", settle_s)
        wanted = {"retention": replace(MONTH, daily_at=at)}
        deployment.settings = deployment.settings.model_copy(update=wanted)
        watch = ClockWatch(deployment.store, clock=clock)
        with DailyRetention(deployment, log, watch, Meter(), **more) as opened:
            yield opened

    return start


def at_other_time() -> str:
    return (datetime.now(UTC) - timedelta(hours=2)).time().isoformat()


def test_a_run_that_was_missed_is_made_up_for(deployment, retain, lines) -> None:
    keep_answer(deployment, timedelta(days=31, hours=1))
    examined = Semaphore(0)
    with retain(at_other_time(), examine=examined.release):
        wait_until(lambda: lines.entries)
        # All rows are examined after each run.
        assert examined.acquire(timeout=WAIT_S)
    assert deployment.store.answers([SCOPE]) == {}
    (told,) = lines.entries
    assert (told["event"], told["rows"], told["is_complete"]) == ("retention", 1, True)


def test_what_is_due_for_less_than_a_day_waits_for_its_time(deployment, retain) -> None:
    keep_answer(deployment, timedelta(days=30, hours=1))
    asked = Semaphore(0)

    def clock() -> datetime:
        asked.release()
        return utc_now()

    with retain(at_other_time(), clock=clock):
        # It asks for the time to see what is overdue, and again to wait for the next run.
        for _ in range(2):
            assert asked.acquire(timeout=WAIT_S)
    assert runs(deployment) == 0


def test_it_runs_at_its_time(deployment, retain, lines) -> None:
    keep_answer(deployment, timedelta(days=30, hours=1))
    started = datetime.now(UTC)
    # However late its thread starts, the time is still to come when it first looks.
    moments = iter([started, started])
    at = (started + timedelta(seconds=0.2)).time().isoformat()
    with retain(at, clock=lambda: next(moments, None) or utc_now()):
        wait_until(lambda: lines.entries)
    assert deployment.store.answers([SCOPE]) == {}
    assert runs(deployment) == 1


def test_without_a_time_and_just_after_the_start_nothing_runs(deployment, retain) -> None:
    keep_answer(deployment, timedelta(days=90))
    with retain("") as opened:
        assert not opened._thread.is_alive()
    with retain(at_other_time(), settle_s=WAIT_S):
        # Time for a run that would not wait; too short, it only hides that.
        time.sleep(0.2)
    assert runs(deployment) == 0


def test_a_failure_is_told_by_its_code_and_ends_nothing(deployment, retain, lines) -> None:
    keep_answer(deployment, timedelta(days=90))
    deployment.registrar.stop(GalleryBehind("a text with a name in it"))
    started = datetime.now(UTC)
    at = (started + timedelta(seconds=0.2)).time().isoformat()
    with retain(at, clock=lambda: started):
        wait_until(lambda: len(lines.entries) >= 2)
    assert {line["event"] for line in lines.entries} == {"retention_failed"}
    assert {line["code"] for line in lines.entries} == {"REGISTRY.GALLERY_BEHIND"}
    assert "name in it" not in str(lines.entries)


def test_a_store_that_cannot_be_read_is_told_too(deployment, retain, lines, monkeypatch) -> None:
    def fail(_engine: Any) -> Any:
        raise OSError("a path")

    with monkeypatch.context() as patched:
        patched.setattr(retention, "reading", fail)
        with retain("12:00", clock=lambda: datetime(2026, 5, 4, tzinfo=UTC)):
            wait_until(lambda: lines.entries)
    (told,) = lines.entries
    assert (told["code"], told["error"]) == ("INTERNAL", "OSError")
    assert runs(deployment) == 0


def test_the_service_has_it_run(home, tmp_path, log, monkeypatch) -> None:
    monkeypatch.setattr(periodic, "SETTLE_S", 0.0)
    settings = load_settings(home)
    with Deployment(home, settings) as deployment:
        keep_answer(deployment, timedelta(days=90))

    service = RegistrarService(partial(Deployment, home, settings), ServeSettings(), Meter(), log)
    try:
        with Deployment(home, settings) as looked:
            wait_until(lambda: runs(looked))
            assert looked.store.answers([SCOPE]) == {}
    finally:
        service.close()


def test_what_else_the_registrar_has_to_do_goes_on_between_the_batches(deployment) -> None:
    for number in range(20):
        keep_answer(deployment, timedelta(days=90), b"%d" % number)
    others: list[Any] = []

    def report(_left: int) -> None:
        if not others:
            look = partial(runs, deployment, "retention.expired")
            others.append(deployment.registrar.schedule(lambda *_: look()))

    run_retention(deployment.registrar, MONTH, "test", rows_per_batch=1, report=report)
    assert others[0].result() < runs(deployment, "retention.expired") == 20


@given(at=st.times(), since=st.timedeltas(timedelta(0), timedelta(days=800)))
def test_the_next_time_is_within_a_day_and_is_that_time(at: clock_time, since: timedelta) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC) + since
    wait_s = seconds_until(at, now)
    assert 0 < wait_s <= 86_400
    reached = now + timedelta(seconds=wait_s)
    assert abs(reached - datetime.combine(reached.date(), at, UTC)) <= timedelta(microseconds=1)


@pytest.mark.parametrize("daily_at", ["24:00", "7:30", "02:60", "noon", "02:30 "])
def test_a_time_that_is_none_is_refused(daily_at: str) -> None:
    with pytest.raises(ValueError, match="daily_at"):
        Settings(retention={"daily_at": daily_at})


def test_events_that_expire_before_a_webhook_took_them_are_logged_and_counted(
    deployment, log, lines
) -> None:
    store, meter = deployment.store, Meter()
    webhooks = Webhooks(store.engine, store.vault)
    webhook, _ = webhooks.create("https://systems.example/", (), carrier=None, actor="test")
    for age in (timedelta(days=3), timedelta(0)):
        found = [NewEvent(EventType.CASE_OPENED, f"s{place}", None, {}) for place in range(5)]
        with changing(store.engine) as connection:
            write_events(connection, store.vault, found, utc_now() - age)
    wanted = {"retention": only(events_days=1)}
    deployment.settings = deployment.settings.model_copy(update=wanted)
    retained = DailyRetention(deployment, log, ClockWatch(store), meter)
    retained._run()
    retained._run()
    left = [one for one in lines.entries if one["event"] == "events_left_undelivered"]
    assert [(one["webhook_id"], one["count"]) for one in left] == [(webhook.id, 5)]
    assert b"sosie_webhook_events_left_total 5.0" in meter.render()[0]


def test_an_entry_of_the_watch_list_is_met_no_more_once_it_has_left(deployment, log) -> None:
    store, registrar = deployment.store, deployment.registrar
    face = np.eye(deployment.vault.dim, dtype=np.float32)[0]
    watch_face(registrar, face, "why", "test")
    (entry,) = store.watchlist()
    deployment.settings = deployment.settings.model_copy(
        update={"retention": only(watchlist_days=2)}
    )
    left = []
    for days in (1, 2, 3):
        if days == 3:  # as after a run that failed before the memory was told
            registrar.watchlist.add(entry)
        clock = partial(lambda after: utc_now() + timedelta(days=after), days)
        DailyRetention(deployment, log, ClockWatch(store, clock=clock), Meter())._run()
        left.append((registrar.watchlist.face_count, len(store.watchlist())))
    assert left == [(1, 1), (0, 0), (0, 0)]
    assert find_damage(store) == []


def test_damaged_rows_that_are_met_are_counted_by_table(deployment) -> None:
    meter, found = Meter(), deployment.vault.set_aside
    found.add("lines", "row a")
    show_set_aside(deployment.vault, meter)
    for row in ("row a", "row b"):
        found.add("events", row)
        found.add("events", row)
    told = meter.render()[0]
    assert b'sosie_rows_set_aside{table="lines"} 1.0' in told
    assert b'sosie_rows_set_aside{table="events"} 2.0' in told


def test_that_as_many_persons_are_stored_as_are_to_be_filed_is_told_once(caught_home, log) -> None:
    settings, told = load_settings(caught_home), []
    for filing_persons in (2, 1, 1):
        with Deployment(caught_home, settings) as deployment:
            deployment.line_rules = LineRules(RuleSet(filing_persons=filing_persons))
            DailyRetention(deployment, log, ClockWatch(deployment.store), Meter())._run()
            told.append(read_events(deployment.store, 0, types=(EventType.PERSONS_REACHED,)))
            assert runs(deployment, "persons.reached") == len(told[-1])
    assert [len(events) for events in told] == [0, 1, 1]
    assert told[1][0].data == {"persons": 1, "filing_persons": 1}
