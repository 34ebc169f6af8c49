"""What all parts of the suite share: sizes, people, a place on a disk, the load's process; and a
running service with what loads it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from bench.core.machine import DISK
from bench.core.reports import Figure, Setup
from bench.suites.serve.load_generator import (
    BATCH,
    Generator,
    Load,
    PreparedRequest,
    Probes,
    Record,
    RequestWriter,
    pack,
    write_visits,
)
from bench.suites.serve.process import (
    HOST,
    Home,
    Person,
    Service,
    Usage,
    Visitors,
    make_home,
    serve,
    watch_usage,
)
from engine.errors import RequestError
from schema import frozen
from serving.cluster.environment import count_ingresses
from serving.settings.sections import ServeSettings

USUAL = ServeSettings()
WARM_S, WARM_ROUNDS = 2.0, 5
MOST_REFUSED = 0.01
"""A share that costs a rate nothing: only good answers count."""
TOLERANCE = 1e-4
"""Templates are float32; a score nearer than this to the threshold may fall on either side."""


@frozen(kw_only=True)
class Pace:
    """How long a closed loop goes on, how often, and over how many connections: by default as many
    as the proxy lets through, for more would measure its refusals."""

    seconds: float = 5.0
    rounds: int = 3
    connections: int = count_ingresses(USUAL) * USUAL.matches_ongoing
    batch_connections: int = 4
    enrolling_connections: int = count_ingresses(USUAL) * USUAL.enrollments_ongoing


@frozen(kw_only=True)
class OverloadPlan:
    """How long each load goes on, and over how many connections a storm comes.

    `objective_s` is for 99 % of the answers, as docs/operations.md has it.
    """

    objective_s: float = 0.25
    capacity_s: float = 4.0
    idle_s: float = 5.0
    calm_s: float = 20.0
    storm_s: float = 10.0
    recovery_s: float = 15.0
    storm_connections: int = 256


@frozen(kw_only=True)
class ServeConfig:
    """`parts` in their order; where none is named those of a few minutes, or all with `long`. Homes
    are made in `folder`, which must be on a disk."""

    references: int = 100_000
    million: int = 1_000_000
    people: int = 800
    pairs: int = 4_096
    probes: int = 4_096
    pace: Pace = field(default_factory=Pace)
    match_overload: OverloadPlan = field(default_factory=OverloadPlan)
    enroll_overload: OverloadPlan = field(
        default_factory=lambda: OverloadPlan(objective_s=1.0, idle_s=10.0, calm_s=30.0)
    )
    soak_s: float = 600.0
    soak_sample_s: float = 5.0
    starts: int = 2
    kills: int = 50
    parts: tuple[str, ...] = ()
    long: bool = False
    faces: Path | None = None
    folder: Path = DISK
    seed: int = 0


@frozen
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


def check_searches(home: Home, probes: Probes, results: Sequence[dict[str, Any]]) -> int:
    """Holds the answers to the first of the probes against float32 brute force over the store's own
    vectors: candidates that one has and the other lacks, and scores that differ."""
    threshold = float(results[0]["identification"]["threshold"])
    with home.open() as deployment:
        vectors = deployment.vault.rotate(probes.faces[: len(results)])
        chunks = list(deployment.store.references())
        ids = [key for chunk in chunks for key in chunk.ids.tolist()]
        gallery = np.concatenate([chunk.vectors for chunk in chunks])
        owners: dict[int, str] = {}
        for start in range(0, len(ids), 10_000):
            owners |= deployment.store.documents_of(ids[start : start + 10_000])
    holders = [owners[key] for key in ids]
    wrong = 0
    for place, result in enumerate(results):
        scores = gallery @ vectors[place]
        candidates = result["identification"]["candidates"]
        answered = {one["document_id"]: one["score"] for one in candidates}
        above = {holders[row] for row in np.flatnonzero(scores >= threshold + TOLERANCE)}
        near = {holders[row] for row in np.flatnonzero(scores >= threshold - TOLERANCE)}
        wrong += len(above - answered.keys()) + len(answered.keys() - near)
        best = float(scores.max())
        wrong += bool(answered) and abs(max(answered.values()) - best) > TOLERANCE
    return wrong


def read_results(bodies: Sequence[bytes]) -> list[dict[str, Any]]:
    """The items of MessagePack answers of matches, one after another; others have none."""
    return [item for body in bodies for item in msgpack.unpackb(body).get("items", ())]


def require_good(record: Record, most_refused: float = MOST_REFUSED) -> None:
    """Every answer is good, or a refusal that says when to come again: of these a share at most.
    A figure of others is none. Items of matches that were kept must all be judged."""
    bad = ~(record.is_fine | record.is_refused)
    is_fine = record.is_fine.any() and record.is_refused.mean() <= most_refused
    if bad.any() or not is_fine:
        statuses = dict(Counter(record.rows.status.tolist()).most_common())
        raise RequestError(f"the service did not answer well: statuses {statuses}")
    results = read_results(list(compress(record.bodies, record.is_fine.tolist())))
    faults = [result["error"]["code"] for result in results if "error" in result]
    if faults:
        raise RequestError(f"{len(faults)} of {len(results)} items were not judged: {faults[0]}")


@frozen
class LoadedService:
    """A running service with its home, and the process that loads it at this pace."""

    service: Service
    home: Home
    generator: Generator
    pace: Pace

    @property
    def caller(self) -> RequestWriter:
        return RequestWriter(HOST, self.service.port, self.home.key)

    @property
    def searcher(self) -> RequestWriter:
        return replace(self.caller, key=self.home.search_key)

    def make_load(self, requests: Sequence[PreparedRequest], connections: int, **more: Any) -> Load:
        """A closed loop of prepared requests."""
        requests = tuple(requests)
        return Load(
            host=HOST, port=self.service.port, requests=requests, connections=connections, **more
        )

    def loop(self, requests: Sequence[PreparedRequest], connections: int) -> Loops:
        """Rounds of a closed loop, after one that warms up."""
        pace, run, load = self.pace, self.generator.run, self.make_load(requests, connections)
        warming = replace(load, seconds=min(WARM_S, pace.seconds), keeps_bodies=True)
        for _ in range(WARM_ROUNDS):
            warm = run(warming)
            # The first ingress answers before the proxy has the second, and alone takes half.
            if warm.is_refused.mean() <= MOST_REFUSED:
                break
        require_good(warm)
        records = [run(replace(load, seconds=pace.seconds)) for _ in range(pace.rounds)]
        for record in records:
            require_good(record)
        return Loops(tuple(records))

    def match(self, items: Sequence[dict[str, Any]], size: int, connections: int) -> Loops:
        """Rounds of match requests of `size` items each."""
        return self.loop(pack(self.caller, items, size), connections)

    def search_all(self, probes: Probes) -> int:
        """Asks for every probe once, in batches, and counts what differs from brute force."""
        requests = pack(self.searcher, probes.items, BATCH)
        load = self.make_load(requests, 1, count=len(requests), keeps_bodies=True)
        record = self.generator.run(load)
        require_good(record)
        bodies = [record.bodies[place] for place in record.rows.request.argsort().tolist()]
        return check_searches(self.home, probes, read_results(bodies))

    def enroll_all(
        self, people: Sequence[Person], name: str, serial: int = 0
    ) -> tuple[Record, Usage]:
        """Enrolls each person once, in a closed loop."""
        load = self.make_load(
            write_visits(self.caller, people, name),
            self.pace.enrolling_connections,
            count=len(people),
            serial=serial,
        )
        with watch_usage(self.service.pid) as usage:
            record = self.generator.run(load)
        require_good(record)
        return record, usage


@frozen
class Context:
    """What every part of the suite is given; everything in `folder` is gone afterwards."""

    config: ServeConfig
    visitors: Visitors
    folder: Path
    generator: Generator

    def make_home(self, name: str, references: int) -> Home:
        return make_home(self.folder / name, references, self.config.seed)

    @contextmanager
    def serve(self, home: Home, proxy: str = "haproxy") -> Iterator[LoadedService]:
        """The home's service, ready, and what loads it."""
        with serve(home.path, proxy) as (service, _):
            yield LoadedService(service, home, self.generator, self.config.pace)

    def setup(self, home: Home, **more: str | int | float | bool) -> Setup:
        """What all parts have in common, and this one's own."""
        people: Setup = {"photographs": self.visitors.source, "people": len(self.visitors)}
        return {"references": home.references, **people, "database": "SQLite", **more}
