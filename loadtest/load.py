"""A whole load test, and the load on Locust: arrivals in an open loop.

Locust is a closed loop by nature: a user sends, waits for the answer, waits its `wait_time`, and
sends again, so a service that stalls is asked less meanwhile, and its stall is a few slow samples.
Here one user is the schedule: it spawns a greenlet for each visit when that is due, whatever became
of the earlier ones, and latency counts from that moment. Visits report through
`environment.events.request`, as every client of Locust does.

`run_load_test` opens a service, enrolls people, sends the load, judges it, and cleans up.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import gevent
import numpy as np
from gevent.lock import BoundedSemaphore
from gevent.pool import Group
from locust import User, log, task
from locust.env import Environment
from locust.exception import StopUser
from locust.html import get_html_report
from locust.stats import stats_history

from loadtest.config import (
    Knee,
    LoadStep,
    LoadTestOptions,
    LoadTestResult,
    Shape,
    choose_counts,
    find_knee,
    list_phases,
)
from loadtest.criteria import LoadRun, decide, is_failed, judge, mark_look_alikes
from loadtest.errors import LoadTestRefused
from loadtest.exchange import (
    NOT_STARTED,
    ConnectionPool,
    Keys,
    Reply,
    ReportProgress,
    ServiceAddress,
)
from loadtest.local_service import start_local_service
from loadtest.schedule import Outcome, Planner, Visit, draw_arrivals, require_planted
from loadtest.service_calls import Access, read_answer
from loadtest.setup import EnrollmentTracker, LoadSession, open_session

LEAD_IN_S = 0.3
"""Between the start of Locust's users and the start of the schedule."""
REPORT_S = 0.5
OUTCOME = "outcome"
"""Key of an outcome in the context of Locust's request event."""
_clock = time.perf_counter


@dataclass(slots=True)
class Sender:
    """Sends visits, and tracks whom they may have enrolled; `start` is that of their times."""

    access: Access
    enrolled: EnrollmentTracker
    start: float
    _captured_at: dict[str, datetime] = field(init=False, default_factory=dict)
    """By Idempotency-Key, since a repeated visit has to be the same."""

    def read_clock(self) -> float:
        """Seconds since the start."""
        return _clock() - self.start

    def pack(self, visit: Visit) -> bytes:
        """The body, of an enrollment with photographs of this moment."""
        key, now = visit.call.idempotency_key, datetime.now(UTC)
        if key is not None and visit.has_repeat:
            self._captured_at[key] = now
        elif key is not None:
            now = self._captured_at.get(key, now)
        return self.access.pack(visit.call, now)

    def send(self, visit: Visit, body: bytes) -> Outcome:
        started_s = self.read_clock()
        return self.finish(visit, started_s, self.access.send(visit.call, body))

    def finish(self, visit: Visit, started_s: float, reply: Reply) -> Outcome:
        answer, done_s = read_answer(reply), self.read_clock()
        self.enrolled.finish(visit.call.idempotency_key, answer)
        return Outcome(visit, started_s, done_s, answer, reply.size_bytes)


def fire(environment: Environment, outcome: Outcome, name: str, fault: str | None) -> None:
    """Reports a visit as every client of Locust does."""
    hook: Any = environment.events.request  # Locust's hooks have no types
    hook.fire(
        request_type="POST",
        name=name,
        response_time=outcome.latency_s * 1e3,
        response_length=outcome.size_bytes,
        exception=None if fault is None else LoadTestRefused(fault),
        context={OUTCOME: outcome},
    )


@dataclass(slots=True)
class RunContext:
    """The state of one run, shared by Locust's users. A visit that cannot start within the pool's
    time for an answer has failed."""

    sender: Sender
    visits: Sequence[Visit]
    environment: Environment
    in_flight: Group = field(init=False, default_factory=Group)
    faults: list[BaseException] = field(init=False, default_factory=list)
    """What failed in this program: no failure of the service."""
    _slots: BoundedSemaphore = field(init=False)

    def __post_init__(self) -> None:
        self._slots = BoundedSemaphore(self.sender.access.pool.connections)

    def follow(self) -> None:
        """Spawns each visit when it is due; returns when all are answered."""
        # Locust would start the task again.
        with self._keeping_fault():
            for visit in self.visits:
                # Packed before the visit is due.
                body = self.sender.pack(visit)
                # Even if the generator is behind, other greenlets get to run.
                gevent.sleep(max(0.0, visit.due_s - self.sender.read_clock()))
                self.in_flight.spawn(self._send, visit, body)
            self.in_flight.join()

    @contextmanager
    def _keeping_fault(self) -> Iterator[None]:
        try:
            yield
        except Exception as fault:  # noqa: BLE001 - raised when the run is over
            self.faults.append(fault)

    def _send(self, visit: Visit, body: bytes) -> None:
        with self._keeping_fault():
            self.sender.enrolled.begin(visit.call.idempotency_key)
            if self._slots.acquire(timeout=self.sender.access.pool.timeout_s):
                try:
                    outcome = self.sender.send(visit, body)
                finally:
                    self._slots.release()
            else:
                now_s = self.sender.read_clock()
                outcome = self.sender.finish(visit, now_s, Reply(NOT_STARTED))
            fault = outcome.answer.describe() if is_failed(outcome) else None
            fire(self.environment, outcome, visit.traffic.value, fault)


class ScheduledUser(User):
    """Sends all visits when they are due."""

    abstract = True
    run_context: ClassVar[RunContext]

    @task
    def follow(self) -> None:
        self.run_context.follow()
        raise StopUser


def run_load(
    access: Access,
    visits: Sequence[Visit],
    seconds: float,
    enrolled: EnrollmentTracker,
    report: ReportProgress,
) -> LoadRun:
    """Sends the visits and waits for all answers; each wait has a limit."""
    outcomes: list[Outcome] = []
    environment = Environment(catch_exceptions=True)
    hook: Any = environment.events.request
    hook.add_listener(lambda context, **_: outcomes.append(context[OUTCOME]))
    sender = Sender(access, enrolled, _clock() + LEAD_IN_S)
    run_context = RunContext(sender, visits, environment)
    # Locust makes users from classes.
    schedule = type("Schedule", (ScheduledUser,), {"run_context": run_context, "fixed_count": 1})
    environment.user_classes = [schedule]
    runner = environment.create_local_runner()
    used_s, begun = time.process_time(), _clock()
    watching = [
        gevent.spawn(_report_progress, outcomes, len(visits), report),
        gevent.spawn(stats_history, runner),
    ]
    try:
        runner.start(1, spawn_rate=1)
        if runner.spawning_greenlet is not None:
            runner.spawning_greenlet.join()
        runner.user_greenlets.join()
        share = (time.process_time() - used_s) / (_clock() - begun)
        write: Any = get_html_report  # Locust has no types
        page = write(environment, show_download_link=False)
    finally:
        gevent.killall(watching)
        runner.quit()
        run_context.in_flight.kill()
    if run_context.faults:
        raise run_context.faults[0]
    if log.unhandled_greenlet_exception:
        raise RuntimeError("a listener of Locust's events failed")
    assert len(outcomes) == len(visits), "every visit has an outcome"
    return LoadRun(tuple(outcomes), seconds, share, page)


def _report_progress(outcomes: Sequence[Outcome], count: int, report: ReportProgress) -> None:
    while True:
        report("load", len(outcomes), count)
        gevent.sleep(REPORT_S)


REST_S = 0.5
"""Pause between two steps of a knee."""
WARM_S, WARM_VISITS = 2.0, 2


@dataclass(slots=True)
class LoadRunner:
    """Runs the load: one step, or the many of a knee."""

    options: LoadTestOptions
    session: LoadSession
    report: ReportProgress
    _planner: Planner = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.options.given.seed)
        self._planner = Planner(self.session.participants, self.session.specimens, rng)

    def run_steps(self, steps: list[LoadStep]) -> Knee | None:
        """Appends each step to `steps` as soon as it is judged; returns the knee of that shape."""
        profile = self.options.profile
        if self.options.shape is not Shape.KNEE:
            steps.append(self._run(profile.rate, profile.seconds))
            return None
        warm_s = min(profile.seconds, max(WARM_S, WARM_VISITS / profile.rate))
        steps.append(self._run(profile.rate, warm_s, is_warm=True))

        def probe(rate: float, times: float) -> bool:
            time.sleep(REST_S)
            steps.append(self._run(rate, profile.seconds * times))
            return steps[-1].verdict.is_passed

        return find_knee(probe, profile.rate, profile.most_rate, profile.resolution)

    def _run(self, rate: float, seconds: float, *, is_warm: bool = False) -> LoadStep:
        options, session = self.options, self.session
        phases = list_phases(options.shape, replace(options.profile, rate=rate, seconds=seconds))
        arrivals = draw_arrivals(phases, options.profile.process, self._planner.rng)
        visits = self._planner.write(arrivals, options.mix)
        if not is_warm:
            require_planted(visits, options.mix)
        length_s = sum(one.seconds for one in phases)
        session.participants.require_fresh(length_s + options.given.timeout_s)
        access, is_local = session.access, options.target is None
        run = run_load(access, visits, length_s, session.enrolled, self.report)
        found, people = judge(run.outcomes), session.participants
        judged = tuple(mark_look_alikes(found, people, access.model, is_local=is_local))
        verdict = decide(run, judged, phases, options.objective)
        return LoadStep(rate, phases, run, judged, verdict, is_warm)


def run_load_test(options: LoadTestOptions, report: ReportProgress) -> LoadTestResult:
    """Runs a load test; `LoadTestRefused` if it cannot be run."""
    is_local, given = options.target is None, options.given
    steps: list[LoadStep] = []
    with ExitStack() as stack:
        target, keys, outlet = stack.enter_context(_open_service(options, report))
        pool = ConnectionPool(target, given.in_flight, given.timeout_s)
        stack.callback(pool.close)
        begun, start = datetime.now(UTC), _clock()
        with open_session(
            pool,
            keys,
            outlet,
            choose_counts(options, list_phases(options.shape, options.profile)),
            faces=given.faces,
            seed=given.seed,
            report=report,
            keep_enrolled=given.keep,
            is_local=is_local,
        ) as session:
            knee = LoadRunner(options, session, report).run_steps(steps)
        return LoadTestResult(
            options=options,
            url=target.url,
            version=session.about.version,
            model_digest=session.about.model_digest,
            dataset=session.dataset,
            participants=session.participants,
            steps=tuple(steps),
            knee=knee,
            begun=begun,
            seconds=_clock() - start,
            left_enrolled=0 if is_local else session.enrolled.count,
        )


@contextmanager
def _open_service(
    options: LoadTestOptions, report: ReportProgress
) -> Iterator[tuple[ServiceAddress, Keys, str | None]]:
    """The service that was named, or a local one started for this test."""
    given = options.given
    if options.target is not None:
        assert options.keys is not None, "a named service comes with keys"
        yield options.target, options.keys, given.outlet
        return
    report("starting a service", 0, 0)
    with start_local_service(given.folder, given.references, given.seed) as local:
        yield *local, None
