"""What a service answers: in closed loops, beside the library and Serve's own proxy, and under a
load below, far above, and again below what it can do."""

import math
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from bench.core.reports import Figure, Measured, Result, Skipped, SuiteOutput
from bench.suites.serve.context import Context, LoadedService, Loops, OverloadPlan, require_good
from bench.suites.serve.load_generator import (
    BATCH,
    Generator,
    Load,
    Record,
    draw_probes,
    pack,
    pair_items,
    write_visits,
)
from bench.suites.serve.process import Home, Person, Usage, list_usage, watch_usage
from bench.suites.workload import CARRIER, OUTLET, make_msisdn
from engine.errors import ImageError
from engine.matching.registrar import Outcome
from engine.matching.requests import EnrollmentRequest
from engine.matching.samples import take_samples
from schema import frozen
from serving.deployment.deployment import Deployment

IDLE_SHARE, CALM_SHARE, STORM_TIMES = 0.1, 0.7, 3.0
CALM_CONNECTIONS = 64
"""A storm needs more of them."""
STORM_PAUSE_S = 5e-4
"""By up to three of them the latencies of a storm are too long."""
SETTLING_S = 2.0
"""Of each load's beginning, not counted."""
CAPACITY_SHARES, CAPACITY_STEPS = (0.25, 1.0), 5
"""The capacity is looked for among these shares of a closed loop's rate, halved so often. More than
a closed loop's is answered in time for a few seconds only: what waits has to grow."""
IN_TIME = 0.99
"""Of the requests are answered within the objective, up to the capacity."""
BACK_TIMES = 1.2
"""The p99 is back where what is left of the load has this many times that before the storm."""
LEAST_SENT = 0.95
"""Of the storm's requests; with fewer of them it was another load."""
ENROLLING_SECONDS = 8.0
SERIALS_APART = 200_000_000


@frozen
class OverloadRun:
    """The records of the four loads; `capacity` is 100 %, and `closed` a closed loop's rate."""

    closed: float
    capacity: float
    idle: Record
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

    @property
    def after_s(self) -> float:
        return float(self.after.rows.intended_s.max(initial=0))

    def find_recovery_s(self) -> float:
        """Seconds after the storm from which on the calm load has its p99 back; inf for never."""
        end, bound = float(np.ceil(self.after_s)), BACK_TIMES * self.calm_ms[1]
        for start in np.arange(0, end - SETTLING_S, 0.5).tolist():
            rest = self.after.within(start, end)
            if rest.is_fine.any() and rest.quantile_ms(0.99) <= bound:
                return float(start)
        return float("inf")

    def list_figures(self) -> tuple[Figure, ...]:
        (p50, p99), idle_ms = self.calm_ms, self.idle.quantile_ms(0.5)
        storm, name = self.storm, f"{STORM_TIMES:.0f} times the load"
        refused, none = storm.is_refused, "none was accepted"
        refused_ms = storm.quantile_ms(0.99, refused)
        never = f"never within {self.after_s:.0f} s"
        return (
            Figure("answers in a closed loop", "1/s", self.closed),
            Figure("100 %: evenly arriving, 99 % in time", "1/s", self.capacity, ratio=1.0),
            _tell("10 %: p50", "ms", idle_ms, none, ratio=1.0),
            _tell("70 %: p50", "ms", p50, none, ratio=idle_ms / p50),
            _tell("70 %: p99", "ms", p99, none, ratio=idle_ms / p99),
            Figure("70 %: sent late, p99", "ms", self.calm.late_ms),
            Figure("70 %: the generator, share of a core", "share", self.calm.cpu_share),
            Figure(f"{name}: accepted", "1/s", storm.rate, ratio=storm.rate / self.capacity),
            _tell(f"{name}: accepted, p99", "ms", storm.quantile_ms(0.99), none),
            Figure(f"{name}: refused (429)", "share", float(refused.mean())),
            Figure(f"{name}: the generator, share of a core", "share", storm.cpu_share),
            _tell(f"{name}: refused, p99", "ms", refused_ms, "none was refused"),
            _tell("afterwards: p99 is back after", "s", self.find_recovery_s(), never),
            Figure("answers of another kind", "answers", float(self.unexpected)),
        )

    def measure(self, prefix: str) -> dict[str, Measured]:
        """What the goals are about; a storm that was not sent says nothing about itself."""
        (_, p99), storm = self.calm_ms, self.storm
        found: dict[str, Measured] = {
            "storm_p99_over_calm": storm.quantile_ms(0.99) / p99,
            "refusal_over_calm": storm.quantile_ms(0.99, storm.is_refused) / p99,
            "recovery_over_storm": self.find_recovery_s() / storm.seconds,
            "storm_goodput": storm.rate / self.capacity,
        }
        if storm.sent_share < LEAST_SENT:
            unsent = Skipped(f"only {storm.sent_share:.0%} of the storm could be sent")
            found = dict.fromkeys(found, unsent)
        found["calm_p99_over_idle_p50"] = p99 / self.idle.quantile_ms(0.5)
        found["unexpected"] = float(self.unexpected)
        return {f"{prefix}_{name}": value for name, value in found.items()}


def _tell(name: str, unit: str, value: float, otherwise: str, ratio: float | None = None) -> Figure:
    """The figure; skipped where it is no number, which JSON could not hold."""
    if not np.isfinite(value):
        return Figure.skip(name, unit, otherwise)
    return Figure(name, unit, value, ratio=ratio)


@dataclass(slots=True)
class _Arrivals:
    """Sends `load`'s requests evenly spaced, one load after another, no serial number twice."""

    generator: Generator
    load: Load

    def send(self, rate: float, seconds: float, connections: int, pause_s: float = 0.0) -> Record:
        """Without what came while it settled."""
        load = replace(self.load, rate=rate, seconds=seconds + SETTLING_S, connections=connections)
        self.load = replace(load, serial=load.serial + int(rate * load.seconds) + 1)
        return self.generator.run(replace(load, pause_s=pause_s)).within(
            SETTLING_S, SETTLING_S + seconds
        )

    def find_capacity(self, closed: float, plan: OverloadPlan) -> float:
        """The largest rate that is answered as the objective says, to a fortieth of `closed`."""
        low, high = (closed * share for share in CAPACITY_SHARES)
        for _ in range(CAPACITY_STEPS):
            rate = (low + high) / 2
            found = self.send(rate, plan.capacity_s, plan.storm_connections)
            in_time = found.is_fine & (found.latency_s <= plan.objective_s)
            low, high = (rate, high) if in_time.mean() >= IN_TIME else (low, rate)
        return low


def run_overload(
    generator: Generator, load: Load, closed: float, plan: OverloadPlan
) -> OverloadRun:
    """Finds what `load`'s requests may arrive at, and sends them at 10, 70, 300 and again 70 % of
    it."""
    arrivals = _Arrivals(generator, load)
    capacity = arrivals.find_capacity(closed, plan)
    return OverloadRun(
        closed,
        capacity,
        arrivals.send(capacity * IDLE_SHARE, plan.idle_s, CALM_CONNECTIONS),
        arrivals.send(capacity * CALM_SHARE, plan.calm_s, CALM_CONNECTIONS),
        arrivals.send(capacity * STORM_TIMES, plan.storm_s, plan.storm_connections, STORM_PAUSE_S),
        # Counted from its first moment: how soon the service has recovered is what it is for.
        generator.run(
            replace(
                arrivals.load,
                rate=capacity * CALM_SHARE,
                seconds=plan.recovery_s,
                connections=CALM_CONNECTIONS,
            )
        ),
    )


def measure_overload(context: Context) -> SuiteOutput:
    """Part `overload`: latency at a tenth and at 70 % of what the service can do, and what it
    answers at three times as much.

    Matches, then enrollments, on one service that is not restarted in between.
    """
    home = context.make_home("overload", context.config.references)
    with context.serve(home) as session:
        matches = _overload_by_matches(context, session)
        enrollments = _overload_by_enrollments(context, session)
    results, config = [], context.config
    for what, found, plan in (
        ("Matches", matches, config.match_overload),
        ("Enrollments", enrollments, config.enroll_overload),
    ):
        setup = context.setup(
            home,
            arrivals="evenly spaced",
            calm_s=plan.calm_s,
            storm_s=plan.storm_s,
            calm_connections=CALM_CONNECTIONS,
            storm_connections=plan.storm_connections,
        )
        name = f"{what} below and far above what it can do"
        results.append(Result(name, setup, found.list_figures()))
    return results, matches.measure("match") | enrollments.measure("enroll")


def _overload_by_matches(context: Context, session: LoadedService) -> OverloadRun:
    requests = pack(session.caller, pair_items(session.home, context.config.pairs), 1)
    rate = float(np.median(session.loop(requests, session.pace.connections).rates))
    load = session.make_load(requests, session.pace.connections)
    return run_overload(context.generator, load, rate, context.config.match_overload)


def _overload_by_enrollments(context: Context, session: LoadedService) -> OverloadRun:
    requests = write_visits(session.caller, context.visitors.people, "storm")
    load = session.make_load(requests, session.pace.enrolling_connections)
    seconds = min(ENROLLING_SECONDS, session.pace.seconds * 2)
    context.generator.run(replace(load, seconds=seconds / 2, serial=SERIALS_APART))
    full = context.generator.run(replace(load, seconds=seconds, serial=2 * SERIALS_APART))
    require_good(full)
    return run_overload(context.generator, load, full.rate, context.config.enroll_overload)


CHUNK = 32
"""People whose photographs are extracted together: both cores have full batches."""
MOST_UNDECIDED = 512
WARM_PEOPLE = 16
WARM_SERIAL = 800_000_000
OTHER_PROXY = "ray"
TURNS = 4


def enroll_here(
    deployment: Deployment, people: Sequence[Person], first_serial: int = 0
) -> tuple[list[Outcome], float, Usage]:
    """Enrolls in this process, durably as over HTTP: outcomes, seconds, and processor time.
    Extracts on all cores while the registrar's thread decides what was extracted before."""
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
    return outcomes, seconds, usage


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
                carrier=CARRIER,
                outlet=OUTLET,
                document=person.document,
                msisdn=make_msisdn(serial),
                live=live,
                portrait=portrait,
            )
        )
    return requests


@dataclass(slots=True)
class TurnTotals:
    """Enrollments of one side, turn by turn."""

    count: int = 0
    seconds: float = 0.0
    usage: Usage = field(default_factory=dict)

    def add(self, count: int, seconds: float, usage: Usage) -> None:
        self.count += count
        self.seconds += seconds
        for part, spent in usage.items():
            self.usage[part] = self.usage.get(part, 0.0) + spent

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def cost_ms(self) -> float:
        """Of a core, for one."""
        return sum(self.usage.values()) / self.count * 1e3


def measure_throughput(context: Context) -> SuiteOutput:
    """Part `throughput`: enrollments beside the library's rate, matches beside Serve's proxy."""
    home = context.make_home("throughput", context.config.references)
    here = home.copy("throughput-here")
    with context.serve(home) as session:
        enrolled, measured = _enroll_by_turns(context, session, here)
        fast = _match(context, session)
        batched, found = _measure_batches(context, session)
    with context.serve(home, OTHER_PROXY) as session:
        slow = _match(context, session)
    measured |= found
    measured["matches_per_second"] = rate = float(np.median(fast.rates))
    measured["proxy_speedup"] = rate / float(np.median(slow.rates))
    setup = context.setup(home, items=1, connections=context.config.pace.connections)
    figures = (*slow.list_figures("behind Serve's own proxy"), *fast.list_figures("as it comes"))
    matches = Result("Matches, one 1:1 item a request", setup, figures)
    return (*enrolled, matches, *batched), dict(measured)


Found = tuple[tuple[Result, ...], dict[str, float]]


def _enroll_by_turns(context: Context, session: LoadedService, here: Home) -> Found:
    """The same people enrolled over HTTP and in this process, a part of them by each in turn, so
    that both meet the same moments of the machine. The service idles while the library works."""
    people, served, own = context.visitors.people, TurnTotals(), TurnTotals()
    warm, records = people[-WARM_PEOPLE:], list[Record]()
    session.enroll_all(warm, "warm", WARM_SERIAL)
    with here.open() as deployment:
        _ = deployment.registrar
        take_samples([one.live for one in warm], deployment.extractor, deployment.vault)
        size = math.ceil(len(people) / TURNS)
        for first in range(0, len(people), size):
            part = people[first : first + size]
            record, usage = session.enroll_all(part, "visit", first)
            records.append(record)
            served.add(int(record.is_fine.sum()), record.seconds, usage)
            outcomes, seconds, usage = enroll_here(deployment, part, first)
            own.add(len(outcomes), seconds, usage)
    waited_ms = np.concatenate([one.latency_s[one.is_fine] for one in records]) * 1e3
    p50, p99 = np.quantile(waited_ms, [0.5, 0.99]).tolist()
    share = served.rate / own.rate
    enrolled = (
        Figure("in process, by turns", "1/s", own.rate, ratio=1.0),
        Figure("over HTTP", "1/s", served.rate, ratio=share),
        Figure("over HTTP: p50", "ms", p50),
        Figure("over HTTP: p99", "ms", p99),
        *list_usage(served.usage, "over HTTP", served.count),
    )
    setup = context.setup(session.home, connections=session.pace.enrolling_connections)
    return (Result("Enrollments with two photographs", setup, enrolled),), {
        "enrollment_share": share,
        # The service's beside the library's, the generator apart.
        "enrollment_cost": served.cost_ms / own.cost_ms,
    }


def _match(context: Context, session: LoadedService) -> Loops:
    items = pair_items(session.home, context.config.pairs)
    return session.match(items, 1, session.pace.connections)


def _measure_batches(context: Context, session: LoadedService) -> Found:
    """1:1 and 1:N in batches, and the 1:N answers held against brute force."""
    config, home, connections = context.config, session.home, session.pace.batch_connections
    setup = context.setup(home, items=BATCH, connections=connections)
    probes = draw_probes(home, config.probes, config.seed)
    compared = session.match(pair_items(home, max(config.pairs, BATCH)), BATCH, connections)
    searched = session.loop(pack(session.searcher, probes.items, BATCH), connections)
    return (
        Result("Matches in batches, 1:1", setup, compared.list_figures("comparisons", BATCH)),
        Result("Matches in batches, 1:N", setup, searched.list_figures("searches", BATCH)),
    ), {
        "batched_comparisons_per_second": float(np.median(compared.rates)) * BATCH,
        "searches_per_second": float(np.median(searched.rates)) * BATCH,
        "wrong_searches": float(session.search_all(probes)),
    }
