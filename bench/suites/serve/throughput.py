"""How much a service answers: enrollments and matches, in closed loops, and under a load below,
far above, and again below what it can do."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import msgpack
import numpy as np

from bench.core.reports import Figure, Measured, Skipped
from bench.suites.serve.fixtures import TENANT, Home, Person
from bench.suites.serve.load_generator import Generator
from bench.suites.serve.load_requests import (
    BATCH,
    Caller,
    Load,
    Probes,
    Record,
    Request,
    check_searches,
    pack,
    read_results,
    write_visits,
)
from bench.suites.serve.process import HOST, Service, Usage, watch_usage
from bench.suites.workload import make_msisdn
from engine.errors import ImageError, RequestError
from engine.matching.registrar import Outcome
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.samples import take_samples
from serving.cluster.environment import count_ingresses
from serving.deployment.deployment import Deployment
from serving.settings.sections import ServeSettings

WARM_S, WARM_ROUNDS = 2.0, 5
MOST_REFUSED = 0.01
"""A share that costs a rate nothing: only good answers count."""


USUAL = ServeSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a closed loop goes on, how often, and over how many connections.

    By default as many as the proxy lets through: more of them would measure its refusals.
    """

    seconds: float = 5.0
    rounds: int = 3
    connections: int = count_ingresses(USUAL) * USUAL.matches_ongoing
    batch_connections: int = 4
    enrolling_connections: int = count_ingresses(USUAL) * USUAL.enrollments_ongoing


@dataclass(frozen=True, slots=True)
class Loops:
    """Rounds of one closed loop."""

    records: tuple[Record, ...]

    @property
    def rates(self) -> list[float]:
        """Good answers a second, of each round."""
        return [record.rate for record in self.records]

    def list_figures(self, what: str, items: int = 1) -> tuple[Figure, ...]:
        """The rate of items, and the latency of the fastest round."""
        best = max(self.records, key=lambda record: record.rate)
        return (
            Figure.of(what, "1/s", [rate * items for rate in self.rates]),
            Figure(f"{what}: p50", "ms", best.quantile_ms(0.5)),
            Figure(f"{what}: p99", "ms", best.quantile_ms(0.99)),
        )


def require_good(record: Record, most_refused: float = MOST_REFUSED) -> None:
    """Every answer is good, or a refusal that says when to come again: of these a share at most.
    A figure of others is none."""
    bad = ~(record.is_fine | record.is_refused)
    is_fine = record.is_fine.any() and record.is_refused.mean() <= most_refused
    if bad.any() or not is_fine:
        raise RequestError(f"the service did not answer well: statuses {record.count_statuses()}")


def require_judged(record: Record) -> None:
    """A call may be answered well and its items not: those that were matches must all be judged."""
    require_good(record)
    results = read_results(record.good_bodies)
    faults = [result["error"]["code"] for result in results if "error" in result]
    if faults:
        raise RequestError(f"{len(faults)} of {len(results)} items were not judged: {faults[0]}")


@dataclass(frozen=True, slots=True)
class Enrolling:
    """People who enrolled over HTTP, once each."""

    record: Record
    usage: Usage

    @property
    def decisions(self) -> Counter[str]:
        answers = (msgpack.unpackb(body) for body in self.record.good_bodies)
        return Counter(str(answer.get("decision")) for answer in answers)


@dataclass(frozen=True, slots=True)
class Session:
    """A running service with its home, and the process that loads it at this pace."""

    service: Service
    home: Home
    generator: Generator
    pace: Pace

    @property
    def caller(self) -> Caller:
        return Caller(HOST, self.service.place.port, self.home.key)

    @property
    def searcher(self) -> Caller:
        return replace(self.caller, key=self.home.search_key)

    def make_load(self, requests: Sequence[Request], connections: int, **more: Any) -> Load:
        """A closed loop of prepared requests."""
        port = self.service.place.port
        return Load(host=HOST, port=port, requests=tuple(requests), connections=connections, **more)

    def loop(self, load: Load) -> Loops:
        """Rounds of a load, after one that warms up."""
        pace, run = self.pace, self.generator.run
        warming = replace(load, seconds=min(WARM_S, pace.seconds), keeps_bodies=True)
        for _ in range(WARM_ROUNDS):
            warm = run(warming)
            # The first ingress answers before the proxy has the second, and alone takes half.
            if warm.is_refused.mean() <= MOST_REFUSED:
                break
        require_judged(warm)
        records = [run(replace(load, seconds=pace.seconds)) for _ in range(pace.rounds)]
        for record in records:
            require_good(record)
        return Loops(tuple(records))

    def match(self, items: Sequence[dict[str, Any]], size: int, connections: int) -> Loops:
        """Rounds of match requests of `size` items each."""
        return self.loop(self.make_load(pack(self.caller, items, size), connections))

    def search(self, probes: Probes, size: int, connections: int) -> Loops:
        """Rounds of searches of `size` probes each."""
        return self.loop(self.make_load(pack(self.searcher, probes.items, size), connections))

    def search_all(self, probes: Probes) -> int:
        """Asks for every probe once, in batches, and counts what differs from brute force."""
        requests = pack(self.searcher, probes.items, BATCH)
        load = self.make_load(requests, 1, count=len(requests), keeps_bodies=True)
        record = self.generator.run(load)
        require_judged(record)
        bodies = [record.bodies[place] for place in record.request.argsort().tolist()]
        return check_searches(self.home, probes, read_results(bodies))

    def enroll_all(self, people: Sequence[Person], name: str, serial: int = 0) -> Enrolling:
        """Enrolls each person once, in a closed loop."""
        load = self.make_load(
            write_visits(self.caller, people, name),
            self.pace.enrolling_connections,
            count=len(people),
            serial=serial,
            keeps_bodies=True,
        )
        with watch_usage(self.service.pid) as usage:
            record = self.generator.run(load)
        require_good(record)
        return Enrolling(record, usage)


CHUNK = 32
"""People whose photographs are extracted together: both cores have full batches."""
MOST_UNDECIDED = 512


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Decisions of visits in their order, the seconds of all, and their processor time."""

    decisions: tuple[str, ...]
    seconds: float
    usage: Usage

    @property
    def rate(self) -> float:
        return len(self.decisions) / self.seconds


def enroll_here(
    deployment: Deployment, people: Sequence[Person], first_serial: int = 0
) -> Enrolled:
    """Enrolls in this process, without a service.

    Extracts on all cores while the registrar's thread decides what was extracted before. Every
    decision is durable at the end, as over HTTP.
    """
    registrar = deployment.registrar
    futures: deque[Future[Outcome]] = deque()
    outcomes: list[Outcome] = []
    with watch_usage(os.getpid()) as usage:
        start = time.perf_counter()
        for first in range(0, len(people), CHUNK):
            part = people[first : first + CHUNK]
            for request in make_requests(deployment, part, first_serial + first):
                futures.append(registrar.submit(request))
            while len(futures) > MOST_UNDECIDED:
                outcomes.append(futures.popleft().result())
        outcomes += [future.result() for future in futures]
        seconds = time.perf_counter() - start
    return Enrolled(tuple(_name(outcome) for outcome in outcomes), seconds, usage)


def make_requests(
    deployment: Deployment, people: Sequence[Person], first_serial: int = 0
) -> list[EnrollmentRequest]:
    """A request a person, extracted together, with serials that follow one another."""
    images = [photo for person in people for photo in (person.live, person.portrait)]
    samples = iter(take_samples(images, deployment.extractor, deployment.vault))
    requests = []
    for serial, person in enumerate(people, first_serial):
        live, portrait = next(samples), next(samples)
        assert not isinstance(live, ImageError), "a photograph of the benchmark cannot be read"
        assert not isinstance(portrait, ImageError), "a photograph of the benchmark cannot be read"
        requests.append(
            EnrollmentRequest(
                idempotency_key=f"here-{serial:09d}",
                carrier=TENANT[0],
                outlet=TENANT[1],
                document=person.document,
                msisdn=make_msisdn(serial),
                live=live,
                portrait=portrait,
                consent_ref="bench",
            )
        )
    return requests


def _name(outcome: Outcome) -> str:
    return outcome.decision.value if isinstance(outcome, Answer) else outcome.code


CALM_SHARE, STORM_TIMES = 0.7, 3.0
SETTLING_S = 2.0
"""Of each load's beginning, not counted."""
BACK_TIMES = 1.2
"""The p99 is back where what is left of the load has this many times that before the storm."""
LEAST_SENT = 0.95
"""Of the storm's requests; with fewer of them it was another load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadPlan:
    """How long each load goes on, and over how many connections; a storm needs more of them."""

    calm_s: float = 20.0
    storm_s: float = 10.0
    recovery_s: float = 15.0
    calm_connections: int = 64
    storm_connections: int = 256


@dataclass(frozen=True, slots=True)
class OverloadRun:
    """The records of the three loads; `rate` is 100 %."""

    rate: float
    calm: Record
    storm: Record
    after: Record

    @property
    def calm_ms(self) -> tuple[float, float]:
        """p50 and p99 of the calm load."""
        return self.calm.quantile_ms(0.5), self.calm.quantile_ms(0.99)

    @property
    def unexpected(self) -> int:
        """Answers that are neither good nor a 429 with Retry-After; in calm, any but good ones."""
        storm = ~(self.storm.is_fine | self.storm.is_refused)
        calm = ~np.concatenate([self.calm.is_fine, self.after.is_fine])
        return int(storm.sum() + calm.sum())

    def find_recovery_s(self) -> float:
        """Seconds after the storm from which on the calm load has its p99 back; inf for never."""
        end = float(np.ceil(self.after.intended_s.max(initial=0)))
        bound = BACK_TIMES * self.calm_ms[1]
        for start in np.arange(0, end - SETTLING_S, 0.5).tolist():
            rest = self.after.within(start, end)
            if rest.is_fine.any() and rest.quantile_ms(0.99) <= bound:
                return float(start)
        return float("inf")

    @property
    def _never(self) -> str:
        """What to say of a p99 that did not come back."""
        return f"never within {self.after.intended_s.max(initial=0):.0f} s"

    def list_figures(self) -> tuple[Figure, ...]:
        p50, p99 = self.calm_ms
        storm, name = self.storm, f"{STORM_TIMES:.0f} times the load"
        refused = storm.is_refused
        return (
            Figure("100 %: answers in a closed loop", "1/s", self.rate),
            _tell("70 %: p50", "ms", p50, "none was accepted", ratio=1.0),
            _tell("70 %: p99", "ms", p99, "none was accepted", ratio=p50 / p99),
            Figure(f"{name}: accepted", "1/s", storm.rate),
            _tell(f"{name}: accepted, p99", "ms", storm.quantile_ms(0.99), "none was accepted"),
            Figure(f"{name}: refused (429)", "share", float(refused.mean())),
            _tell(
                f"{name}: refused, p99", "ms", storm.quantile_ms(0.99, refused), "none was refused"
            ),
            _tell("afterwards: p99 is back after", "s", self.find_recovery_s(), self._never),
            Figure("answers of another kind", "answers", float(self.unexpected)),
        )

    def measure(self, prefix: str) -> dict[str, Measured]:
        """What the goals are about; a storm that was not sent says nothing about itself."""
        p50, p99 = self.calm_ms
        storm: dict[str, Measured] = {
            f"{prefix}_storm_p99_over_calm": self.storm.quantile_ms(0.99) / p99,
            f"{prefix}_refusal_over_calm": self.storm.quantile_ms(0.99, self.storm.is_refused)
            / p99,
            f"{prefix}_recovery_over_storm": self.find_recovery_s() / self.storm.seconds,
        }
        sent = self.storm.sent_rate / self.storm.offered_rate
        if sent < LEAST_SENT:
            storm = dict.fromkeys(storm, Skipped(f"only {sent:.0%} of the storm could be sent"))
        return {
            f"{prefix}_calm_p99_over_p50": p99 / p50,
            **storm,
            f"{prefix}_unexpected": float(self.unexpected),
        }


def _tell(name: str, unit: str, value: float, otherwise: str, ratio: float | None = None) -> Figure:
    """The figure; skipped where it is no number, which JSON could not hold."""
    if not np.isfinite(value):
        return Figure.skip(name, unit, otherwise)
    return Figure(name, unit, value, ratio=ratio)


def run_overload(generator: Generator, load: Load, rate: float, plan: OverloadPlan) -> OverloadRun:
    """Sends `load`'s requests at 70 %, at 300 % and again at 70 % of `rate`."""
    calm_load = replace(load, rate=rate * CALM_SHARE, connections=plan.calm_connections)
    step = int(rate * STORM_TIMES * max(plan.calm_s, plan.storm_s, plan.recovery_s)) + 1
    calm = generator.run(replace(calm_load, seconds=plan.calm_s + SETTLING_S))
    storm = generator.run(
        replace(
            load,
            rate=rate * STORM_TIMES,
            seconds=plan.storm_s + SETTLING_S,
            connections=plan.storm_connections,
            serial=load.serial + step,
        )
    )
    after = generator.run(
        replace(calm_load, seconds=plan.recovery_s, serial=load.serial + 2 * step)
    )
    return OverloadRun(
        rate,
        calm.within(SETTLING_S, SETTLING_S + plan.calm_s),
        storm.within(SETTLING_S, SETTLING_S + plan.storm_s),
        after,
    )
