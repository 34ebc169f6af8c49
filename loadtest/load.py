"""The load itself, on Locust: arrivals in an open loop, and a closed one to compare with.

Locust is closed by nature: a user sends, waits for the answer, waits its `wait_time`, and sends
again, so that a server which stalls is asked less while it does, and its stall is a few slow
samples. Here a user is a schedule, one for each kind of traffic: it spawns a greenlet for each
visit when that is due, whatever became of those before, and latency counts from that moment. Visits
report through `environment.events.request`, as every client of Locust does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import gevent
import msgpack
from gevent.lock import BoundedSemaphore
from gevent.pool import Group
from locust import User, constant_pacing, log, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner

from loadtest.config import Pace
from loadtest.criteria import OUTCOME, Run, Tally, is_failed
from loadtest.errors import LoadTestRefused
from loadtest.exchange import NOT_STARTED, Reply
from loadtest.oracle import read_answer
from loadtest.schedule import Outcome, Visit
from loadtest.service_calls import Access, Report
from loadtest.setup import Guests

LEAD_IN_S = 0.3
"""Between the start of Locust's users and the first moment of the schedule."""
REPORT_S = 0.5
_clock = time.perf_counter


@dataclass(slots=True)
class Stage:
    """One run: what Locust's users share."""

    access: Access
    visits: Sequence[Visit]
    seconds: float
    pace: Pace
    environment: Environment
    guests: Guests
    start: float
    _slots: BoundedSemaphore = field(init=False)
    _going: Group = field(init=False, default_factory=Group)
    _faults: list[BaseException] = field(init=False, default_factory=list)
    _left: Iterator[Visit] = field(init=False)
    _moments: dict[str, str] = field(init=False, default_factory=dict)
    """When the photographs were taken whose key comes again: a repeat has to be the same."""

    def __post_init__(self) -> None:
        self._slots = BoundedSemaphore(self.pace.in_flight)
        self._left = iter(self.visits)

    def follow(self, visits: Sequence[Visit]) -> None:
        """Spawns each visit when it is due; returns when all are answered."""
        try:
            self._follow(visits)
        except Exception as fault:  # noqa: BLE001 - Locust would begin the task again
            self._faults.append(fault)

    def _follow(self, visits: Sequence[Visit]) -> None:
        for visit in visits:
            # Written before its moment, not in it.
            body = self._write(visit)
            # Zero lets the others go on, where the generator is behind.
            gevent.sleep(max(0.0, self.start + visit.due_s - _clock()))
            self._going.spawn(self._make, visit, body)
        self._going.join()

    def wait_start(self) -> None:
        """Until the first moment of the schedule."""
        gevent.sleep(max(0.0, self.start - _clock()))

    def send_next(self) -> bool:
        """The next visit, at once: latency counts from now. False where the time is over."""
        now_s = _clock() - self.start
        visit = next(self._left, None) if now_s < self.seconds else None
        if visit is None:
            return False
        body = self._write(visit)
        self._make(replace(visit, due_s=_clock() - self.start), body)
        return True

    def cut(self) -> None:
        """Ends what is still on its way, after an interrupt."""
        self._going.kill()

    def require_sound(self) -> None:
        """A fault of this program is not the service's."""
        if self._faults:
            raise self._faults[0]
        if log.unhandled_greenlet_exception:
            raise RuntimeError("a listener of Locust's events failed")

    def _write(self, visit: Visit) -> bytes:
        key, now = visit.call.idempotency_key, datetime.now(UTC).isoformat()
        if key is not None and visit.has_repeat:
            self._moments[key] = now
        elif key is not None:
            now = self._moments.get(key, now)
        packed: bytes = msgpack.packb(visit.call.write(self.access.terms.at(now)))
        return packed

    def _make(self, visit: Visit, body: bytes) -> None:
        try:
            self._visit(visit, body)
        except Exception as fault:  # noqa: BLE001 - a greenlet's fault is raised by whoever waits
            self._faults.append(fault)

    def _visit(self, visit: Visit, body: bytes) -> None:
        if visit.call.idempotency_key is not None:
            self.guests.expect(visit.call.idempotency_key)
        if not self._slots.acquire(timeout=self.pace.patience_s):
            now_s = _clock() - self.start
            self._tell(Outcome(visit, now_s, now_s, read_answer(Reply(NOT_STARTED))))
            return
        try:
            started_s = _clock() - self.start
            reply = self._ask(visit, body)
            done_s = _clock() - self.start
        finally:
            self._slots.release()
        self._tell(Outcome(visit, started_s, done_s, read_answer(reply), reply.size_bytes))

    def _ask(self, visit: Visit, body: bytes) -> Reply:
        call, keys = visit.call, self.access.keys
        idempotency_key = call.idempotency_key
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        key = keys.fraud if call.needs_fraud else keys.enroll
        return self.access.exchange.ask("POST", call.path, key, body=body, headers=headers)

    def _tell(self, outcome: Outcome) -> None:
        answer = outcome.answer
        is_expected = not is_failed(outcome)
        # Locust's hooks have no types.
        hook: Any = self.environment.events.request
        hook.fire(
            request_type="POST",
            name=outcome.visit.traffic.value,
            response_time=outcome.latency_s * 1e3,
            response_length=outcome.size_bytes,
            exception=None if is_expected else LoadTestRefused(answer.describe()),
            context={OUTCOME: outcome},
        )


class Schedule(User):
    """Follows the arrivals of one kind of traffic."""

    abstract = True
    stage: ClassVar[Stage]
    mine: ClassVar[Sequence[Visit]]

    @task
    def follow(self) -> None:
        self.stage.follow(self.mine)
        raise StopUser


class Caller(User):
    """An ordinary user of Locust: asks again when it is answered, and its pace allows."""

    abstract = True
    stage: ClassVar[Stage]

    def on_start(self) -> None:
        self.stage.wait_start()

    @task
    def call(self) -> None:
        if not self.stage.send_next():
            raise StopUser


def run_load(
    access: Access,
    visits: Sequence[Visit],
    seconds: float,
    pace: Pace,
    guests: Guests,
    report: Report,
) -> Run:
    """Sends the visits and waits for all answers; each wait is bounded, so it ends."""
    tally, environment = Tally(guests), Environment(catch_exceptions=True)
    hook: Any = environment.events.request
    hook.add_listener(tally.listen)
    stage = Stage(access, visits, seconds, pace, environment, guests, _clock() + LEAD_IN_S)
    environment.user_classes = _make_users(stage)
    runner = environment.create_local_runner()
    used_s, begun = time.process_time(), _clock()
    watching = gevent.spawn(_watch, tally, len(visits), report)
    try:
        _play(runner)
        elapsed_s = _clock() - stage.start
        share = (time.process_time() - used_s) / (_clock() - begun)
    finally:
        watching.kill()
        runner.quit()
        stage.cut()
    stage.require_sound()
    omitted = len(visits) - len(tally.outcomes)
    assert pace.closed_users or not omitted, "every visit of an open loop has an outcome"
    return Run(tuple(tally.outcomes), seconds, elapsed_s, share, omitted)


def _play(runner: LocalRunner) -> None:
    """Starts one of each user at once, and waits for all of them."""
    users = sum(one.fixed_count for one in runner.user_classes)
    runner.start(users, spawn_rate=users)
    if runner.spawning_greenlet is not None:
        runner.spawning_greenlet.join()
    runner.user_greenlets.join()


def _make_users(stage: Stage) -> list[type[User]]:
    """Locust's users are classes; these belong to one run."""
    count = stage.pace.closed_users
    if count:
        wait_time = constant_pacing(count * stage.seconds / max(1, len(stage.visits)))
        fields: dict[str, Any] = {"stage": stage, "fixed_count": count, "wait_time": wait_time}
        return [type("PacedCaller", (Caller,), fields)]
    users: list[type[User]] = []
    for traffic in dict.fromkeys(visit.traffic for visit in stage.visits):
        mine = [visit for visit in stage.visits if visit.traffic is traffic]
        fields = {"stage": stage, "mine": mine, "fixed_count": 1}
        users.append(type(f"{traffic.value.capitalize()}Schedule", (Schedule,), fields))
    return users


def _watch(tally: Tally, count: int, report: Report) -> None:
    while True:
        report("load", len(tally.outcomes), count)
        gevent.sleep(REPORT_S)
