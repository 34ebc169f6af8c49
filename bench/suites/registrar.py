"""Suite `registrar`: decisions a second on a full gallery, durable, and every one of them right."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from statistics import median
from threading import Semaphore

import numpy as np

from bench.core.machine import DISK, MEMORY, clock, cores, filesystem_of, open_folder, speedup
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.data.vectors import describe_population
from bench.suites.deliveries import measure_deliveries
from bench.suites.workload import (
    Expected,
    Kind,
    Visits,
    draw_visits,
    expect_answers,
    load_holders,
    make_document,
    make_home,
    make_settings,
    write_requests,
)
from engine.accuracy.population import Population
from engine.errors import RequestError
from engine.matching.recovery import Restored, save_snapshot
from engine.matching.registrar import Outcome, Registrar, RegistrarConfig, publish
from engine.matching.requests import Answer, EnrollmentRequest
from engine.registry import writer
from engine.registry.database import sqlite_file, utc_now
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from indexes.upkeep import Upkeep
from schema.reasons import Decision
from serving.deployment.deployment import SNAPSHOT_FOLDER, Deployment
from serving.webhooks.delivery import AT_ONCE

BATCH, SINGLE = 32, 1
QUICK = {
    "references": 5_000,
    "decisions": 640,
    "single_decisions": 32,
    "rounds": 3,
    "stage_batches": 4,
    "outbox_batches": 8,
    "filled": 20_000,
    "filled_decisions": 512,
    "lone_decisions": 100,
    "erasures": 5,
}
SMALLER, LARGEST_SMALLER = 10, 100_000
"""With `--n` the growth is that from a tenth, but from no more than so many."""
_FILLED_AT_ONCE = 250_000
_FIRST_STRANGER = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`decisions` in full batches, `single_decisions` one a transaction, `stage_batches` by hand,
    `outbox_batches` with events and without them by turns; `lone_decisions` one after another, the
    later half of them beside `erasures`.

    The first two are shared out among `rounds` and one that warms up before them. By hand are
    also decided as many on a registry of a `SMALLER` share. `filled_decisions` are decided in
    series and overlapped on a gallery filled up to `filled`. The databases lie in a folder made in
    `folder`, which must be on a disk to be durable.
    """

    references: int = 100_000
    decisions: int = 6_400
    single_decisions: int = 320
    rounds: int = 5
    stage_batches: int = 20
    outbox_batches: int = 200
    filled: int = 1_000_000
    filled_decisions: int = 7_680
    lone_decisions: int = 1_200
    erasures: int = 50
    seed: int = 0
    folder: Path = DISK

    @property
    def visitors(self) -> int:
        by_hand = (self.stage_batches + self.outbox_batches) * BATCH
        apart = by_hand + self.filled_decisions + self.lone_decisions
        return self.decisions + self.single_decisions + apart

    @property
    def smaller(self) -> Config:
        """The registry whose decisions are timed beside those of a whole one."""
        visitors = self.stage_batches * BATCH
        return replace(
            self,
            references=max(visitors, min(self.references // SMALLER, LARGEST_SMALLER)),
            decisions=visitors,
            single_decisions=0,
            stage_batches=0,
            outbox_batches=0,
            filled_decisions=0,
            lone_decisions=0,
        )


@dataclass(frozen=True, slots=True)
class Portion:
    """Requests decided together, at most `batch` in a transaction; round 0 warms up."""

    number: int
    batch: int
    requests: Sequence[EnrollmentRequest]


@dataclass(frozen=True, slots=True)
class Decided:
    """Outcomes in order, the seconds of all, and of each full batch."""

    outcomes: list[Outcome]
    seconds: float
    batch_s: list[float]

    @property
    def rate(self) -> float:
        return len(self.outcomes) / self.seconds


def plan_portions(
    requests: Sequence[EnrollmentRequest], singles: int, rounds: int
) -> tuple[Portion, ...]:
    """All requests in their order, `singles` of them one a transaction, in one round more than
    `rounds`: it warms up, and takes what would not fill a batch.

    Every other round runs backwards. `RequestError` where a round would have none of a kind.
    """
    single = singles // (rounds + 1)
    full = len(requests) // (rounds + 1) - single
    if min(single, full) < 1:
        raise RequestError(f"too few decisions for {rounds} rounds and one before: give more")
    if full >= BATCH:
        full -= full % BATCH
    first = len(requests) - rounds * (full + single) - single
    portions: list[Portion] = []
    start = 0
    for number in range(rounds + 1):
        counts = [(BATCH, full if number else first), (SINGLE, single)]
        for batch, count in counts[:: 1 if number % 2 == 0 else -1]:
            portions.append(Portion(number, batch, requests[start : start + count]))
            start += count
    return tuple(portions)


def decide_all(
    deployment: Deployment, config: RegistrarConfig, requests: Sequence[EnrollmentRequest]
) -> Decided:
    """By a registrar of its own, with all requests in its queue at once, so that every batch but
    the first can be full."""
    with Registrar(deployment.store.writer(), deployment.judge, config) as registrar:
        start = time.perf_counter()
        futures = [registrar.submit(request) for request in requests]
        outcomes, ends = [], []
        for future in futures:
            outcomes.append(future.result())
            ends.append(time.perf_counter())
    return Decided(outcomes, ends[-1] - start, _find_batches(outcomes, ends))


def _find_batches(outcomes: Sequence[Outcome], ends: Sequence[float]) -> list[float]:
    """Seconds of each full batch: all that were decided at one moment; the first has no start."""
    moments = [
        (outcome.decided.decided_at if isinstance(outcome, Answer) else "", end)
        for outcome, end in zip(outcomes, ends, strict=True)
    ]
    seconds, before = [], None
    for _, group in groupby(moments, key=lambda moment: moment[0]):
        batch = [end for _, end in group]
        if before is not None and len(batch) == BATCH:
            seconds.append(batch[-1] - before)
        before = batch[-1]
    return seconds


@dataclass(slots=True)
class DecisionLog:
    """Outcomes of the visits at `places`, in order, against the expected ones.

    `difference`: references too few or too many in reopened galleries, in all.
    """

    visits: Visits
    expected: Sequence[Expected | None]
    places: list[int]
    outcomes: list[Outcome] = field(default_factory=list)
    difference: int = 0

    def note_gallery(self, length: int, references: int) -> None:
        """Compares a reopened gallery with what had been acknowledged by then."""
        added = sum(
            isinstance(outcome, Answer)
            and outcome.decision is Decision.APPROVED
            and self.visits.kinds[place] is not Kind.RETURNING
            for place, outcome in zip(self.places, self.outcomes, strict=False)
        )
        self.difference += abs(references + added - length)

    def count_wrong(self) -> int:
        return sum(
            not is_right(outcome, self.expected[place])
            for place, outcome in zip(self.places, self.outcomes, strict=True)
        )


def is_right(outcome: Outcome, expected: Expected | None) -> bool:
    """Whether decision and reasons are exactly those expected."""
    assert expected is not None, "such a visitor is not asked"
    return (
        isinstance(outcome, Answer)
        and not outcome.is_repeated
        and outcome.decision is expected.decision
        and frozenset(outcome.reasons) == expected.reasons
    )


STAGES = ("the search alone", "judging, search included", "commit, and into the gallery")
Stages = Mapping[str, Sequence[float]]
"""Seconds of each batch, stage by stage."""


def time_stages(
    deployment: Deployment, requests: Sequence[EnrollmentRequest], batch: int
) -> tuple[list[Outcome], Stages]:
    """Decides the requests as the registrar does, on its writer's lease; outcomes in order.

    Each batch is searched for before, as what waits is, and then judged by what was found.
    """
    judge = deployment.judge
    outcomes: list[Outcome] = []
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    with deployment.store.writer() as own:
        for start in range(0, len(requests), batch):
            part = requests[start : start + batch]
            begun = time.perf_counter()
            scanned = judge.scan(part)
            found = time.perf_counter()
            judged = judge.judge(part, own, now=utc_now(), scanned=scanned)
            decided = time.perf_counter()
            assert judged.writes, "every request is new"
            publish(own, judge.gallery, judged.writes)
            ended = time.perf_counter()
            outcomes += judged.outcomes
            for name, seconds in zip(
                STAGES, (found - begun, decided - begun, ended - decided), strict=True
            ):
                stages[name].append(seconds)
    return outcomes, stages


def find_own_time(stages: Stages) -> float:
    """Seconds of the serialiser's thread for a batch, the search apart: the middle one."""
    search, judging, commit = (np.array(stages[name]) for name in STAGES)
    return float(np.median(judging - search + commit))


def find_outbox_cost(seconds: Mapping[bool, Sequence[float]]) -> float:
    """The share of the registrar's rate that events cost, by the middle batches."""
    return 1.0 - median(seconds[False]) / median(seconds[True])


def fill_gallery(deployment: Deployment, population: Population, size: int, seed: int) -> None:
    """Gives the deployment a gallery of so many: strangers whom no document names come before the
    references of its registry."""
    index = SegmentedIndex(population.dim)
    strangers = size - deployment.store.counts()["live_references"]
    for start in range(0, strangers, _FILLED_AT_ONCE):
        ids = np.arange(start, min(start + _FILLED_AT_ONCE, strangers)) + _FIRST_STRANGER
        people = population.references(len(ids), seed + 2 + start)
        index.add(ids, deployment.vault.rotate(people))
    for chunk in deployment.store.references():
        index.add(chunk.ids, chunk.vectors)
    gallery = Gallery(index, deployment.store.sequence())
    deployment.__dict__["restored"] = Restored(gallery, 0, len(index))


class _Home:
    """The parts of the suite on one home: each takes the next requests, and all are held against
    the right answers."""

    def __init__(self, path: Path, config: Config, population: Population) -> None:
        """Enrolls all holders; the right answer to each visitor is known before the first one."""
        self._path, self._config, self._population = path, config, population
        references = population.references(config.references, config.seed)
        visits = draw_visits(population, config.references, config.visitors, config.seed)
        make_home(path, make_settings(BATCH, config.visitors))
        with self.open() as deployment:
            with deployment.store.writer() as own:
                load_holders(own, references)
            database = sqlite_file(deployment.store.engine)
            assert database is not None, "the suite's own home is on SQLite"
            self.store_bytes = database.stat().st_size
            expected = expect_answers(visits, references, deployment.thresholds)
            places = [place for place, answer in enumerate(expected) if answer is not None]
            self.log = DecisionLog(visits, expected, places)
            requests = write_requests(visits, places, deployment.vault, config.references)
            self._requests = list(requests)

    def open(self) -> Deployment:
        return Deployment(self._path, make_settings(BATCH, self._config.visitors))

    def take(self, count: int) -> Sequence[EnrollmentRequest]:
        """The next requests."""
        taken, self._requests = self._requests[:count], self._requests[count:]
        return taken

    @property
    def left(self) -> int:
        return len(self._requests)

    def restore(self, deployment: Deployment) -> float:
        """Seconds until the gallery is there; it is compared with the log."""
        seconds = clock(lambda: deployment.restored)[1]
        self.log.note_gallery(len(deployment.restored.gallery), self._config.references)
        return seconds

    def decide_from_store(self, count: int) -> tuple[Mapping[int, Sequence[Decided]], float]:
        """The registrar over a gallery that was read from the store, in rounds, by size of a batch,
        and the seconds to read it; saves a snapshot of it."""
        config = self._config
        rounds: dict[int, list[Decided]] = {BATCH: [], SINGLE: []}
        with self.open() as deployment:
            seconds = self.restore(deployment)
            gallery = deployment.restored.gallery
            with Upkeep(gallery):
                portions = plan_portions(self.take(count), config.single_decisions, config.rounds)
                for one in portions:
                    given = RegistrarConfig(one.batch, queue_size=len(one.requests))
                    decided = decide_all(deployment, given, one.requests)
                    self.log.outcomes += decided.outcomes
                    if one.number:
                        rounds[one.batch].append(decided)
            save_snapshot(deployment.store, gallery, self._path / SNAPSHOT_FOLDER)
        return rounds, seconds

    def decide_by_hand(self) -> tuple[Stages, float]:
        """The registrar's work step by step, and the seconds to open the gallery before."""
        with self.open() as deployment:
            seconds = self.restore(deployment)
            count = self._config.stage_batches * BATCH or self.left
            outcomes, stages = time_stages(deployment, self.take(count), BATCH)
            self.log.outcomes += outcomes
        return stages, seconds

    def decide_without_events(self) -> Mapping[bool, Sequence[float]]:
        """Batch by batch by turns with the events that they are (True) and without: seconds of each
        after a few that warm up."""
        count = self._config.outbox_batches
        seconds: dict[bool, list[float]] = {False: [], True: []}
        names = vars(writer)
        write_events = names["write_events"]
        with self.open() as deployment:
            try:
                for number in range(count):
                    is_told = number % 4 in (1, 2)
                    names["write_events"] = write_events if is_told else lambda *_: None
                    found, stages = time_stages(deployment, self.take(BATCH), BATCH)
                    self.log.outcomes += found
                    if number >= min(count // 4, 4):
                        seconds[is_told].append(sum(times[0] for times in stages.values()))
            finally:
                names["write_events"] = write_events
        return seconds

    def decide_ahead(self) -> float:
        """How many times as many decisions a second with searches ahead as in series, by turns,
        over a gallery that was filled up."""
        config = self._config
        size = config.filled_decisions // (2 * (config.rounds + 1)) // BATCH * BATCH
        if not size:
            raise RequestError(f"too few decisions for {config.rounds} rounds by turns: give more")
        rates: dict[bool, list[float]] = {False: [], True: []}
        with self.open() as deployment:
            fill_gallery(deployment, self._population, config.filled, config.seed)
            with Upkeep(deployment.restored.gallery):
                for number in range(2 * (config.rounds + 1)):
                    is_ahead = number % 4 in (1, 2)
                    given = RegistrarConfig(BATCH, queue_size=size, searches_ahead=is_ahead)
                    one = decide_all(deployment, given, self.take(size))
                    self.log.outcomes += one.outcomes
                    if number > 1:
                        rates[is_ahead].append(one.rate)
        return speedup(np.array(rates[True]), np.array(rates[False]))

    def decide_beside_erasures(self, setup: Setup) -> tuple[Result, float]:
        """Decides one request after another; in the later half holders of whom no visitor comes
        back are erased, evenly spread over it. The p99 there over that of the quiet ones.

        Most of the slowest decisions are then those that wait for the commit of an erasure: the
        snapshot is compacted and saved only once for all erasures within seconds. What an erased
        face would have changed is not known beforehand: these are timed alone.
        """
        known = set(self.log.visits.people.tolist())
        free = (serial for serial in range(self._config.references) if serial not in known)
        erased = [make_document(serial) for serial in islice(free, self._config.erasures)]
        requests = self.take(self.left)
        half, due = len(requests) // 2, Semaphore(0)
        with self.open() as deployment, ThreadPoolExecutor(1) as pool:
            registrar = deployment.registrar
            _ = deployment.restored

            def decide(request: EnrollmentRequest) -> float:
                return clock(registrar.submit(request).result)[1] * 1e3

            def erase() -> list[float]:
                seconds = []
                for holder in erased:
                    due.acquire()
                    seconds.append(clock(partial(deployment.erase, holder, "bench"))[1])
                return seconds

            quiet_ms = [decide(request) for request in requests[:half]]
            erasing, beside_ms = pool.submit(erase), []
            for place, request in enumerate(requests[half:]):
                if place * len(erased) // half < (place + 1) * len(erased) // half:
                    due.release()
                beside_ms.append(decide(request))
            due.release(len(erased))
            erasure_s = erasing.result()
        quiet, beside = (float(np.quantile(one, 0.99)) for one in (quiet_ms, beside_ms))
        figures = (
            Figure("quiet, p99", "ms", quiet),
            Figure("beside erasures, p99", "ms", beside),
            Figure.of("an erasure", "s", erasure_s),
        )
        counts: Setup = {"quiet": half, "beside": len(beside_ms), "erasures": len(erased)}
        return Result("Decisions beside erasures", setup | counts, figures), beside / quiet


def run(config: Config) -> SuiteOutput:
    population = Population.load("sface")
    filesystem = filesystem_of(config.folder)
    setup: Setup = {
        "references": config.references,
        "dim": population.dim,
        "population": describe_population(population.dim),
        "seed": config.seed,
        "threads": cores(),
        "database": "SQLite",
        "filesystem": filesystem,
    }
    with open_folder(config.folder) as folder:
        home = _Home(folder / "home", config, population)
        later = config.lone_decisions + config.filled_decisions
        by_hand = (config.outbox_batches + config.stage_batches) * BATCH
        assert home.left > later + by_hand, "almost every visitor lies near a threshold"
        rounds, store_s = home.decide_from_store(home.left - later - by_hand)
        stages, snapshot_s = home.decide_by_hand()
        outbox_s = home.decide_without_events()
        ahead = home.decide_ahead()
        # What is left over was not asked, and those who come beside erasures are not held against.
        del home.log.places[len(home.log.outcomes) :]
        home.take(home.left - config.lone_decisions)
        erasures, beside = home.decide_beside_erasures(setup)
        with home.open() as deployment:
            delivered, delivered_rate = measure_deliveries(deployment)
        smaller = _Home(folder / "smaller", config.smaller, population)
        few_stages, _ = smaller.decide_by_hand()
    logs = (home.log, smaller.log)
    measured: dict[str, Measured] = {
        "decisions_per_second": Skipped(f"{config.folder} is {filesystem}: not durable")
        if filesystem in MEMORY
        else median(one.rate for one in rounds[BATCH]),
        "wrong_decisions": float(sum(one.count_wrong() for one in logs)),
        "gallery_difference": float(sum(one.difference for one in logs)),
    }
    by_clock: dict[str, Measured] = {
        "serialiser_growth": find_own_time(stages) / find_own_time(few_stages),
        "overlap_speedup": ahead,
        "outbox_cost": find_outbox_cost(outbox_s),
        "decisions_beside_erasures": beside,
        "events_delivered": delivered_rate,
    }
    if config.references < Config().references:
        by_clock = dict.fromkeys(by_clock, Skipped("promised for the default size, not for this"))
    results = (
        list_decisions(rounds, setup),
        Result(
            f"Stages of a batch of {BATCH}",
            setup | {"batches": len(stages[STAGES[0]])},
            tuple(Figure.of(name, "ms", np.array(each) * 1e3) for name, each in stages.items()),
        ),
        _list_outbox(outbox_s, setup),
        Result(
            "Events delivered to one webhook",
            setup | {"events": delivered, "at_once": AT_ONCE},
            (Figure("by one worker, the receiver on its core", "events/s", delivered_rate),),
        ),
        Result(
            "Gallery",
            setup,
            (
                Figure("open from the store", "s", store_s),
                Figure("open from a snapshot", "s", snapshot_s),
                Figure("store", "bytes/holder", home.store_bytes / config.references),
            ),
        ),
        erasures,
    )
    return results, measured | by_clock


def list_decisions(rounds: Mapping[int, Sequence[Decided]], setup: Setup) -> Result:
    """Medians over rounds; a ratio is of two neighbours. Batches are those of all rounds."""
    full, single = rounds[BATCH], rounds[SINGLE]
    rates, single_rates = (np.array([one.rate for one in each]) for each in (full, single))
    figures = [
        Figure.of("one a transaction", "decisions/s", single_rates, 1.0),
        Figure.of(f"batches of {BATCH}", "decisions/s", rates, speedup(rates, single_rates)),
    ]
    batch_ms = [seconds * 1e3 for one in full for seconds in one.batch_s]
    for share in (0.5, 0.99):
        name = f"a batch, p{share * 100:.0f}"
        figures.append(
            Figure(name, "ms", float(np.quantile(batch_ms, share)))
            if batch_ms
            else Figure.skip(name, "ms", "too few decisions for a full batch")
        )
    counts: Setup = {
        "decisions": sum(len(one.outcomes) for one in full),
        "single_decisions": sum(len(one.outcomes) for one in single),
        "rounds": len(full),
    }
    return Result("Decisions", setup | counts, tuple(figures))


def _list_outbox(seconds: Mapping[bool, Sequence[float]], setup: Setup) -> Result:
    without, told = (np.array(seconds[key]) * 1e3 for key in (False, True))
    figures = (
        Figure.of("without events", "ms", without, 1.0),
        Figure.of("with events", "ms", told, float(np.median(without) / np.median(told))),
    )
    return Result(f"Events of a batch of {BATCH}", setup | {"batches": len(told)}, figures)
