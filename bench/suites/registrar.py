"""Suite `registrar`: decisions a second on a full gallery, durable, and every one of them right."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from statistics import median
from threading import Semaphore

import numpy as np

from bench.core.machine import DISK, MEMORY, cores, filesystem_of, open_folder
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.core.timing import Seconds, clock, speedup
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
from engine.matching.documents import Document
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


Rounds = Mapping[int, Sequence[Decided]]
"""What was decided in each round that counts, by the size of a batch."""


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


def decide_portions(
    deployment: Deployment, portions: Sequence[Portion]
) -> Iterator[tuple[Portion, Decided]]:
    """Each by a registrar of its own, over one gallery with the upkeep of a deployment."""
    with Upkeep(deployment.restored.gallery):
        for portion in portions:
            config = RegistrarConfig(portion.batch, queue_size=len(portion.requests))
            with Registrar(deployment.store.writer(), deployment.judge, config) as registrar:
                yield portion, decide_all(registrar, portion.requests)


def decide_all(registrar: Registrar, requests: Sequence[EnrollmentRequest]) -> Decided:
    """Puts all requests in the queue at once, so that every batch but the first can be full."""
    start = time.perf_counter()
    futures = [registrar.submit(request) for request in requests]
    outcomes, ends = [], []
    for future in futures:
        outcomes.append(future.result())
        ends.append(time.perf_counter())
    return Decided(outcomes, ends[-1] - start, _find_batches(outcomes, ends))


def list_decisions(rounds: Rounds, setup: Setup) -> Result:
    """Medians over rounds; a ratio is of two neighbours. Batches are those of all rounds."""
    full, single = rounds[BATCH], rounds[SINGLE]
    rates, single_rates = (np.array([one.rate for one in each]) for each in (full, single))
    figures = [
        Figure.of("one a transaction", "decisions/s", single_rates, 1.0),
        Figure.of(f"batches of {BATCH}", "decisions/s", rates, speedup(rates, single_rates)),
    ]
    batch_ms = [seconds * 1e3 for one in full for seconds in one.batch_s]
    for share in (0.5, 0.99):
        name, unit = f"a batch, p{share * 100:.0f}", "ms"
        figures.append(
            Figure(name, unit, float(np.quantile(batch_ms, share)))
            if batch_ms
            else Figure.skip(name, unit, "too few decisions for a full batch")
        )
    counts: Setup = {
        "decisions": sum(len(one.outcomes) for one in full),
        "single_decisions": sum(len(one.outcomes) for one in single),
        "rounds": len(full),
    }
    return Result("Decisions", setup | counts, tuple(figures))


def _find_batches(outcomes: Sequence[Outcome], ends: Sequence[float]) -> list[float]:
    """Seconds of each full batch: all that were decided at one moment; the first has no start."""
    moments = [
        (outcome.body["decided_at"] if isinstance(outcome, Answer) else "", end)
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


def time_outbox(
    deployment: Deployment, requests: Sequence[EnrollmentRequest]
) -> tuple[list[Outcome], dict[bool, list[float]]]:
    """Decides the requests by hand, batch by batch by turns with the events that they are (True)
    and without; outcomes in order, and the seconds of each batch after a few that warm up."""
    count = len(requests) // BATCH
    outcomes: list[Outcome] = []
    seconds: dict[bool, list[float]] = {False: [], True: []}
    names = vars(writer)
    write_events = names["write_events"]
    try:
        for number in range(count):
            is_told = number % 4 in (1, 2)
            names["write_events"] = write_events if is_told else lambda *_: None
            part = requests[number * BATCH : (number + 1) * BATCH]
            found, stages = time_stages(deployment, part, BATCH)
            outcomes += found
            if number >= min(count // 4, 4):
                seconds[is_told].append(sum(times[0] for times in stages.values()))
    finally:
        names["write_events"] = write_events
    return outcomes, seconds


def find_outbox_cost(seconds: Mapping[bool, Sequence[float]]) -> float:
    """The share of the registrar's rate that events cost, by the middle batches."""
    return 1.0 - median(seconds[False]) / median(seconds[True])


def find_own_time(stages: Stages) -> float:
    """Seconds of the serialiser's thread for a batch, the search apart: the middle one."""
    search, judging, commit = (np.array(stages[name]) for name in STAGES)
    return float(np.median(judging - search + commit))


def decide_by_turns(
    deployment: Deployment, requests: Sequence[EnrollmentRequest], rounds: int
) -> tuple[list[Outcome], dict[bool, list[Decided]]]:
    """Decides the requests in full batches, in series and with searches ahead (True), by turns;
    outcomes in order, and what counts of `rounds`, after a round that warms up."""
    size = len(requests) // (2 * (rounds + 1)) // BATCH * BATCH
    if not size:
        raise RequestError(f"too few decisions for {rounds} rounds by turns: give more")
    outcomes: list[Outcome] = []
    decided: dict[bool, list[Decided]] = {False: [], True: []}
    with Upkeep(deployment.restored.gallery):
        for number in range(2 * (rounds + 1)):
            is_ahead = number % 4 in (1, 2)
            config = RegistrarConfig(BATCH, queue_size=size, searches_ahead=is_ahead)
            part = requests[number * size : (number + 1) * size]
            with Registrar(deployment.store.writer(), deployment.judge, config) as registrar:
                one = decide_all(registrar, part)
            outcomes += one.outcomes
            if number > 1:
                decided[is_ahead].append(one)
    return outcomes, decided


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


_FILLED_AT_ONCE = 250_000
_FIRST_STRANGER = 1 << 40


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds of decisions one after another: while nothing else goes on, and while holders
    are erased, each with its snapshot."""

    quiet_ms: list[float]
    beside_ms: list[float]
    erasure_s: list[float]

    @property
    def ratio(self) -> float:
        """The p99 beside erasures over that of the quiet ones."""
        return float(np.quantile(self.beside_ms, 0.99) / np.quantile(self.quiet_ms, 0.99))

    def list_figures(self, setup: Setup) -> Result:
        figures = [
            Figure(f"{name}, p{share * 100:.0f}", "ms", float(np.quantile(values, share)))
            for name, values in (("quiet", self.quiet_ms), ("beside erasures", self.beside_ms))
            for share in (0.5, 0.99, 1.0)
        ]
        figures.append(Figure.of("an erasure", "s", self.erasure_s))
        counts: Setup = {
            "quiet": len(self.quiet_ms),
            "beside": len(self.beside_ms),
            "erasures": len(self.erasure_s),
        }
        return Result("Decisions beside erasures", setup | counts, tuple(figures))


def decide_beside_erasures(
    deployment: Deployment, requests: Sequence[EnrollmentRequest], erased: Sequence[Document]
) -> Latencies:
    """Decides one request after another; in the later half these holders are erased, evenly spread
    over it. Most of the slowest decisions are then those that wait for the commit of an erasure:
    the snapshot is compacted and saved only once for all erasures within seconds."""
    registrar, half = deployment.registrar, len(requests) // 2
    _ = deployment.restored
    due = Semaphore(0)

    def decide(request: EnrollmentRequest) -> float:
        return clock(registrar.submit(request).result)[1] * 1e3

    def erase(holder: Document) -> float:
        due.acquire()
        return clock(partial(deployment.erase, holder, "bench"))[1]

    quiet_ms = [decide(request) for request in requests[:half]]
    beside_ms = []
    with ThreadPoolExecutor(1) as pool:
        erasing = [pool.submit(erase, holder) for holder in erased]
        for place, request in enumerate(requests[half:]):
            if place * len(erased) // half < (place + 1) * len(erased) // half:
                due.release()
            beside_ms.append(decide(request))
        due.release(len(erased))
        return Latencies(quiet_ms, beside_ms, [one.result() for one in erasing])


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrarSuiteConfig:
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
    def smaller(self) -> RegistrarSuiteConfig:
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


SMALLER, LARGEST_SMALLER = 10, 100_000
"""With `--n` the growth is that from a tenth, but from no more than so many."""
LOAD, OPEN_STORE = "bulk load", "open from the store"
OPEN_SNAPSHOT, SAVE = "open from a snapshot", "save a snapshot"
STORE = "store"


@dataclass(slots=True)
class _Steps:
    """The steps of the suite on one home, in the order of its methods; `times`: seconds of what
    runs once."""

    home: Path
    config: RegistrarSuiteConfig
    times: dict[str, float] = field(default_factory=dict)
    store_bytes: int = 0

    def open(self) -> Deployment:
        settings = make_settings(BATCH, self.config.visitors)
        return Deployment(self.home, settings)

    def prepare(self, population: Population) -> tuple[DecisionLog, list[EnrollmentRequest]]:
        """Enrolls all holders; the right answer to each visitor is known before the first one."""
        config = self.config
        references = population.references(config.references, config.seed)
        visits = draw_visits(population, config.references, config.visitors, config.seed)
        make_home(self.home, make_settings(BATCH, config.visitors))
        with self.open() as deployment:
            with deployment.store.writer() as writer:
                self.times[LOAD] = clock(lambda: load_holders(writer, references))[1]
            database = sqlite_file(deployment.store.engine)
            assert database is not None, "the suite's own home is on SQLite"
            self.store_bytes = database.stat().st_size
            expected = expect_answers(visits, references, deployment.thresholds)
            places = [place for place, answer in enumerate(expected) if answer is not None]
            requests = write_requests(visits, places, deployment.vault, config.references)
            return DecisionLog(visits, expected, places), list(requests)

    def decide_from_store(self, requests: Sequence[EnrollmentRequest], log: DecisionLog) -> Rounds:
        """The registrar over a gallery that was read from the store; saves a snapshot of it."""
        portions = plan_portions(requests, self.config.single_decisions, self.config.rounds)
        rounds: dict[int, list[Decided]] = {BATCH: [], SINGLE: []}
        with self.open() as deployment:
            gallery = self._restore(deployment, OPEN_STORE, log)
            for portion, decided in decide_portions(deployment, portions):
                log.outcomes += decided.outcomes
                if portion.number:
                    rounds[portion.batch].append(decided)
            folder = self.home / SNAPSHOT_FOLDER
            saving = partial(save_snapshot, deployment.store, gallery, folder)
            self.times[SAVE] = clock(saving)[1]
        return rounds

    def decide_by_hand(self, requests: Sequence[EnrollmentRequest], log: DecisionLog) -> Stages:
        """The registrar's work step by step, over a gallery from the snapshot."""
        with self.open() as deployment:
            self._restore(deployment, OPEN_SNAPSHOT, log)
            outcomes, stages = time_stages(deployment, requests, BATCH)
            log.outcomes += outcomes
        return stages

    def decide_by_turns(
        self, requests: Sequence[EnrollmentRequest], log: DecisionLog
    ) -> dict[bool, list[float]]:
        """The same with events and without, by turns."""
        with self.open() as deployment:
            outcomes, seconds = time_outbox(deployment, requests)
            log.outcomes += outcomes
        return seconds

    def decide_filled(
        self, requests: Sequence[EnrollmentRequest], log: DecisionLog, population: Population
    ) -> dict[bool, list[Decided]]:
        """The registrar in series and with searches ahead, over a gallery that was filled up."""
        config = self.config
        with self.open() as deployment:
            fill_gallery(deployment, population, config.filled, config.seed)
            outcomes, decided = decide_by_turns(deployment, requests, config.rounds)
            log.outcomes += outcomes
        # What is left over was not asked.
        del log.places[len(log.outcomes) :]
        return decided

    def decide_beside_erasures(
        self, requests: Sequence[EnrollmentRequest], visits: Visits
    ) -> Latencies:
        """Erases holders of whom no visitor comes back."""
        known = set(visits.people.tolist())
        free = (serial for serial in range(self.config.references) if serial not in known)
        erased = [make_document(serial) for serial in islice(free, self.config.erasures)]
        with self.open() as deployment:
            return decide_beside_erasures(deployment, requests, erased)

    def _restore(self, deployment: Deployment, name: str, log: DecisionLog) -> Gallery:
        self.times[name] = clock(lambda: deployment.restored)[1]
        gallery = deployment.restored.gallery
        log.note_gallery(len(gallery), self.config.references)
        return gallery


def run(config: RegistrarSuiteConfig) -> SuiteOutput:
    population = Population.load("sface")
    with open_folder(config.folder) as folder:
        filesystem = filesystem_of(config.folder)
        steps = _Steps(folder / "home", config)
        log, requests = steps.prepare(population)
        lone = len(requests) - config.lone_decisions
        filled = lone - config.filled_decisions
        outbox = filled - config.outbox_batches * BATCH
        by_hand = outbox - config.stage_batches * BATCH
        assert by_hand > 0, "almost every visitor lies near a threshold"
        rounds = steps.decide_from_store(requests[:by_hand], log)
        stages = steps.decide_by_hand(requests[by_hand:outbox], log)
        outbox_s = steps.decide_by_turns(requests[outbox:filled], log)
        turns = steps.decide_filled(requests[filled:lone], log, population)
        # What an erased face would have changed is not known beforehand: these are timed alone.
        latencies = steps.decide_beside_erasures(requests[lone:], log.visits)
        with steps.open() as deployment:
            delivered, delivered_rate = measure_deliveries(deployment)
        smaller = _Steps(folder / "smaller", config.smaller)
        small_log, small_requests = smaller.prepare(population)
        few_stages = smaller.decide_by_hand(small_requests, small_log)
    setup: Setup = {
        "references": config.references,
        "dim": population.dim,
        "population": describe_population(population.dim),
        "seed": config.seed,
        "threads": cores(),
        "database": "SQLite",
        "filesystem": filesystem,
    }
    measured: dict[str, Measured] = {
        "decisions_per_second": Skipped(f"{config.folder} is {filesystem}: not durable")
        if filesystem in MEMORY
        else median(one.rate for one in rounds[BATCH]),
        "wrong_decisions": float(log.count_wrong() + small_log.count_wrong()),
        "gallery_difference": float(log.difference + small_log.difference),
    }
    by_clock: dict[str, Measured] = {
        "serialiser_growth": find_own_time(stages) / find_own_time(few_stages),
        "overlap_speedup": speedup(*_rates_of(turns)),
        "outbox_cost": find_outbox_cost(outbox_s),
        "decisions_beside_erasures": latencies.ratio,
        "events_delivered": delivered_rate,
    }
    if config.references < RegistrarSuiteConfig().references:
        by_clock = dict.fromkeys(by_clock, Skipped("promised for the default size, not for this"))
    measured |= by_clock
    results = (
        list_decisions(rounds, setup),
        _list_stages(stages, setup),
        _list_outbox(outbox_s, setup),
        Result(
            "Events delivered to one webhook",
            setup | {"events": delivered, "at_once": AT_ONCE},
            (Figure("by one worker, the receiver on its core", "events/s", delivered_rate),),
        ),
        _list_gallery(steps, setup),
        latencies.list_figures(setup),
    )
    return results, measured


def _list_stages(stages: Stages, setup: Setup) -> Result:
    figures = [Figure.of(name, "ms", np.array(each) * 1e3) for name, each in stages.items()]
    batches = {"batches": len(stages[STAGES[0]])}
    return Result(f"Stages of a batch of {BATCH}", setup | batches, tuple(figures))


def _list_outbox(seconds: Mapping[bool, Sequence[float]], setup: Setup) -> Result:
    without, told = (np.array(seconds[key]) * 1e3 for key in (False, True))
    figures = (
        Figure.of("without events", "ms", without, 1.0),
        Figure.of("with events", "ms", told, float(np.median(without) / np.median(told))),
    )
    batches = {"batches": len(told)}
    return Result(f"Events of a batch of {BATCH}", setup | batches, figures)


def _rates_of(turns: Mapping[bool, Sequence[Decided]]) -> tuple[Seconds, Seconds]:
    """Decisions a second, overlapped and in series: as many as `speedup` takes for seconds."""
    overlapped, series = (np.array([one.rate for one in turns[key]]) for key in (True, False))
    return overlapped, series


def _list_gallery(steps: _Steps, setup: Setup) -> Result:
    times, references = steps.times, steps.config.references
    opened_s, snapshot_s = times[OPEN_STORE], times[OPEN_SNAPSHOT]
    figures = (
        Figure(LOAD, "holders/s", references / times[LOAD]),
        Figure(OPEN_STORE, "s", opened_s, ratio=1.0),
        Figure(OPEN_SNAPSHOT, "s", snapshot_s, ratio=opened_s / snapshot_s),
        Figure(SAVE, "s", times[SAVE]),
        Figure(STORE, "bytes/holder", steps.store_bytes / references),
    )
    return Result("Gallery", setup, figures)
