"""How much a service answers in closed loops: enrollments beside the library, matches beside
Serve's own proxy, batches."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from bench.core.reports import Figure, Result, SuiteOutput
from bench.suites.serve.context import Context, LoadedService, Loops
from bench.suites.serve.fixtures import Home, Person
from bench.suites.serve.load_requests import BATCH, Record, draw_probes, pack, pair_items
from bench.suites.serve.process import Usage, list_usage, watch_usage
from bench.suites.workload import CARRIER, OUTLET, make_msisdn
from engine.errors import ImageError
from engine.matching.registrar import Outcome
from engine.matching.requests import EnrollmentRequest
from engine.matching.samples import take_samples
from serving.deployment.deployment import Deployment

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
    """Enrolls in this process, without a service: outcomes, seconds, and processor time.

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
                consent_ref="bench",
            )
        )
    return requests


@dataclass(slots=True)
class Tally:
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
    people, served, own = context.visitors.people, Tally(), Tally()
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
    unit, cost = "ms of a core", served.cost_ms / own.cost_ms
    # The service's beside the library's, the generator apart.
    costs = (
        Figure("in process: all", unit, own.cost_ms, ratio=1.0),
        Figure("over HTTP: all", unit, served.cost_ms, ratio=1 / cost),
    )
    setup = context.setup(session.home, connections=session.pace.enrolling_connections)
    return (
        Result("Enrollments with two photographs", setup, enrolled),
        Result("Processor time of an enrollment", setup, costs),
    ), {"enrollment_share": share, "enrollment_cost": cost}


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
