"""Users of Locust with the truth: what each of them asks has a known right answer.

For scenarios of your own, in a file for `locust -f`:

    from locust import between, task
    from loadtest.users import Kind, SosieUser

    class Shop(SosieUser):
        wait_time = between(1, 5)

        @task(9)
        def open_line(self) -> None:
            self.visit(Kind.NEWCOMER)

        @task
        def bring_a_second_document(self) -> None:
            self.visit(Kind.DUPLICATE)

A wrong answer is a failure in Locust's statistics, under the kind's name. Before the users start,
people are chosen by the service's own model and some are enrolled; afterwards all are erased. These
users are a closed loop, as Locust's are: `sosie loadtest` sends when a visit is due.
"""

import time
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from locust import User, events
from locust.env import Environment
from locust.exception import StopUser

from engine.errors import RequestError
from loadtest.criteria import Correctness, judge, mark_look_alikes
from loadtest.errors import LoadTestRefused
from loadtest.exchange import ConnectionPool, read_keys, read_target
from loadtest.load import Sender, fire
from loadtest.participants import ParticipantCounts
from loadtest.schedule import Kind, Outcome, Planner, Visit
from loadtest.service_calls import Answer
from loadtest.setup import LoadSession, open_session, tell_left
from serving.cli.output import print_fault
from serving.errors import describe

__all__ = ["Answer", "Kind", "SosieUser"]

CONNECTIONS, TIMEOUT_S = 256, 30.0
HOLDERS, RACERS, OUTSIDERS = 8, 4, 4


@dataclass(slots=True)
class Visiting:
    """The state that the users of one run share: the service, and the people in it."""

    session: LoadSession
    sender: Sender
    planner: Planner
    environment: Environment
    open: ExitStack
    """Closed at the end: everybody is erased."""

    def visit(self, kind: Kind) -> list[Answer]:
        """Sends one visit, of some kinds two, judges the answers and tells Locust of them."""
        visits = self.planner.draw(kind)
        if kind is Kind.RACE:
            sent = [gevent.spawn(self._send, one) for one in visits]
            gevent.joinall(sent, raise_error=True)
            outcomes = [one.value for one in sent]
        else:
            outcomes = [self._send(one) for one in visits]
        self._tell(outcomes)
        return [one.answer for one in outcomes]

    def _send(self, visit: Visit) -> Outcome:
        self.session.enrolled.begin(visit.call.idempotency_key)
        body = self.sender.pack(visit)
        return self.sender.send(replace(visit, due_s=self.sender.read_clock()), body)

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        judged = judge(outcomes)
        if any(one.correctness is Correctness.WRONG for one in judged):
            session = self.session
            judged = mark_look_alikes(judged, session.participants, session.access.model)
        for one in judged:
            answer, word, fault = one.outcome.answer, one.correctness, None
            if word in (Correctness.WRONG, Correctness.UNANSWERED):
                fault = f"{word.value}: {answer.describe()}, expected {one.expected}"
            fire(self.environment, one.outcome, one.outcome.visit.kind.value, fault)


class SosieUser(User):
    """A user whose tasks call `visit`; with no class of its own, it sends nothing."""

    abstract = True

    def visit(self, kind: Kind) -> list[Answer]:
        """One visit of this kind, judged: its answer, or two of a retry, a race or a conflict.

        Where nobody is left who could be of this kind, a known subscriber opens another line.
        """
        visiting = _running.get(self.environment)
        if visiting is None:
            raise StopUser
        return visiting.visit(kind)


_running: dict[Environment, Visiting] = {}


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments that `locust` gets beside its own."""
    group = parser.add_argument_group("Sosie")
    group.add_argument("--outlet", metavar="CODE", help="to enroll for with a carrier's key")
    group.add_argument(
        "--keys", metavar="FILE", help="JSON with the keys enroll, fraud and erase; - for stdin"
    )
    group.add_argument("--faces", metavar="DIR", help="photographs, one folder per person")
    group.add_argument("--newcomers", type=int, default=100, help="who are new and enroll once")
    group.add_argument("--seed", type=int, default=0, help="of the choice of people")
    group.add_argument("--allow-remote", action="store_true", help="for another machine's service")


def begin(environment: Environment, **_: Any) -> None:
    """Prepares the people; a run that cannot be is ended with one line."""
    try:
        _running[environment] = _open(environment)
    except RequestError as refused:
        fault = describe(refused)
        print_fault(fault, as_json=False)
        environment.process_exit_code = fault.exit_code
        assert environment.runner is not None
        # Not from inside its own start.
        gevent.spawn_later(0, environment.runner.quit)


def end(environment: Environment, **_: Any) -> None:
    """Erases everybody whom the run has enrolled, and says who is left."""
    visiting = _running.pop(environment, None)
    if visiting is not None:
        visiting.open.close()
        tell_left(visiting.session.enrolled)


def _open(environment: Environment) -> Visiting:
    given: Any = environment.parsed_options
    if not environment.host:
        raise LoadTestRefused("no service: give --host http://HOST:PORT")
    target = read_target(environment.host, allows_remote=given.allow_remote)
    keys = read_keys(given.keys)
    wanted = ParticipantCounts(
        holders=HOLDERS, newcomers=given.newcomers, racers=RACERS, outsiders=OUTSIDERS
    )
    faces = None if given.faces is None else Path(given.faces)
    with ExitStack() as stack:
        pool = ConnectionPool(target, CONNECTIONS, TIMEOUT_S)
        stack.callback(pool.close)
        session = stack.enter_context(
            open_session(
                pool, keys, given.outlet, wanted, faces=faces, seed=given.seed, report=_ignore
            )
        )
        planner = Planner(
            session.participants, session.specimens, np.random.default_rng(given.seed)
        )
        sender = Sender(session.access, session.enrolled, time.perf_counter())
        return Visiting(session, sender, planner, environment, stack.pop_all())


def _ignore(_what: str, _done: int, _total: int) -> None:
    """Shows no progress: Locust has its own output."""


def _listen() -> None:
    hooks: Any = events  # Locust's hooks have no types
    hooks.init_command_line_parser.add_listener(add_arguments)
    hooks.test_start.add_listener(begin)
    hooks.test_stop.add_listener(end)


_listen()
