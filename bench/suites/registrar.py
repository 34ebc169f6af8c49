"""Suite `registrar`: decisions a second on a full gallery, durable, and every one of them right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median

import numpy as np
import structlog

from bench.core.machine import DISK, clock, open_folder, speedup
from bench.core.reports import Figure, Result, Setup, SuiteOutput
from bench.data.vectors import describe_faces
from bench.suites.workload import VisitedHome, make_settings
from engine.errors import RequestError
from engine.matching.recovery import save_snapshot
from engine.matching.registrar import Outcome, Registrar, RegistrarConfig, publish
from engine.matching.requests import Answer, EnrollmentRequest
from engine.registry.database import sqlite_file, utc_now
from engine.registry.webhooks import Webhooks
from indexes.upkeep import Upkeep
from serving.deployment.deployment import SNAPSHOT_FOLDER, Deployment
from serving.settings.sections import WebhookSettings
from serving.webhooks.delivery import AT_ONCE, Deliverer

BATCH, SINGLE = 32, 1
QUICK = {
    "references": 5_000,
    "decisions": 640,
    "single_decisions": 32,
    "rounds": 3,
    "stage_batches": 4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrarSuiteConfig:
    """`decisions` in full batches, `single_decisions` one a transaction, `stage_batches` by hand.

    The first two are shared out among `rounds` and one that warms up before them. The database
    lies in a folder made in `folder`, which must be on a disk to be durable.
    """

    references: int = 100_000
    decisions: int = 6_400
    single_decisions: int = 320
    rounds: int = 5
    stage_batches: int = 20
    seed: int = 0
    folder: Path = DISK


@dataclass(frozen=True, slots=True)
class DecidedRound:
    """Outcomes in order, the seconds of all, and of each full batch."""

    outcomes: list[Outcome]
    seconds: float
    batch_s: list[float]

    @property
    def rate(self) -> float:
        return len(self.outcomes) / self.seconds


def plan_portions(count: int, singles: int, rounds: int) -> Iterator[tuple[int, int, int]]:
    """Round, most of a transaction, and how many of `count` requests are decided so, one after
    another: `singles` one a transaction, in one round more than `rounds`, which warms up and takes
    what would not fill a batch.

    Every other round runs backwards. `RequestError` where a round would have none of a kind.
    """
    single = singles // (rounds + 1)
    full = count // (rounds + 1) - single
    if min(single, full) < 1:
        raise RequestError(f"too few decisions for {rounds} rounds and one before: give more")
    if full >= BATCH:
        full -= full % BATCH
    first = count - rounds * (full + single) - single
    for number in range(rounds + 1):
        sizes = [(number, BATCH, full if number else first), (number, SINGLE, single)]
        yield from sizes[:: 1 if number % 2 == 0 else -1]


def decide_all(
    deployment: Deployment, config: RegistrarConfig, requests: Sequence[EnrollmentRequest]
) -> DecidedRound:
    """By a registrar of its own, with all requests in its queue at once, so that every batch but
    the first can be full."""
    with Registrar(deployment.store.writer(), deployment.judge, config) as registrar:
        start = time.perf_counter()
        futures = [registrar.submit(request) for request in requests]
        outcomes, ends = [], []
        for future in futures:
            outcomes.append(future.result())
            ends.append(time.perf_counter())
    return DecidedRound(outcomes, ends[-1] - start, _find_batches(outcomes, ends))


def _find_batches(outcomes: Sequence[Outcome], ends: Sequence[float]) -> list[float]:
    """Seconds of each full batch: all that were decided at one moment; the first has no start."""
    moments = [
        (outcome.decided.decided_at if isinstance(outcome, Answer) else "", end)
        for outcome, end in zip(outcomes, ends, strict=True)
    ]
    batches = [[end for _, end in group] for _, group in groupby(moments, key=lambda one: one[0])]
    return [batch[-1] - before[-1] for before, batch in pairwise(batches) if len(batch) == BATCH]


STAGES = ("the search alone", "judging, search included", "commit, and into the gallery")
Stages = Mapping[str, Sequence[float]]
"""Seconds of each batch, stage by stage."""


def time_stages(
    deployment: Deployment, requests: Sequence[EnrollmentRequest]
) -> tuple[list[Outcome], Stages]:
    """Decides the requests as the registrar does, on its writer's lease; outcomes in order.

    Each batch is searched for before, as what waits is, and then judged by what was found.
    """
    judge = deployment.judge
    outcomes: list[Outcome] = []
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    with deployment.store.writer() as own:
        for start in range(0, len(requests), BATCH):
            part = requests[start : start + BATCH]
            scanned, search_s = clock(partial(judge.scan, part))
            judging = partial(judge.judge, part, own, now=utc_now(), scanned=scanned)
            judged, judge_s = clock(judging)
            assert judged.writes, "every request is new"
            commit_s = clock(partial(publish, own, judge.gallery, judged.writes))[1]
            outcomes += judged.outcomes
            taken_s = (search_s, search_s + judge_s, commit_s)
            for name, seconds in zip(STAGES, taken_s, strict=True):
                stages[name].append(seconds)
    return outcomes, stages


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of the suite on one home: each takes the next visitors, and all are held against
    the right answers."""

    home: VisitedHome
    config: RegistrarSuiteConfig

    def restore(self, deployment: Deployment) -> float:
        """Seconds until the gallery is there; it is compared with the log."""
        seconds = clock(lambda: deployment.restored)[1]
        self.home.log.note_gallery(len(deployment.restored.gallery), len(self.home.vectors))
        return seconds

    def decide_from_store(self, count: int) -> tuple[Mapping[int, Sequence[DecidedRound]], float]:
        """The registrar over a gallery that was read from the store, in rounds, by size of a batch,
        and the seconds to read it; saves a snapshot of it."""
        config = self.config
        rounds: dict[int, list[DecidedRound]] = {BATCH: [], SINGLE: []}
        with self.home.open() as deployment:
            seconds = self.restore(deployment)
            gallery = deployment.restored.gallery
            with Upkeep(gallery):
                for number, batch, size in plan_portions(
                    count, config.single_decisions, config.rounds
                ):
                    given = RegistrarConfig(batch, queue_size=size)
                    decided = decide_all(deployment, given, self.home.take(size))
                    self.home.log.outcomes += decided.outcomes
                    if number:
                        rounds[batch].append(decided)
            save_snapshot(deployment.store, gallery, self.home.path / SNAPSHOT_FOLDER)
        return rounds, seconds

    def decide_by_hand(self) -> tuple[Stages, float]:
        """The registrar's work step by step, and the seconds to open the gallery before."""
        with self.home.open() as deployment:
            seconds = self.restore(deployment)
            requests = self.home.take(self.config.stage_batches * BATCH)
            outcomes, stages = time_stages(deployment, requests)
            self.home.log.outcomes += outcomes
        return stages, seconds


_TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
_LOOPBACK = {"allowed_networks": ["127.0.0.0/8"]}


async def measure_deliveries(webhooks: Webhooks) -> tuple[int, float]:
    """Delivers all events of a deployment to a receiver on the same core: how many, and how many a
    second, the receiver's own work included."""
    wanted, moments, is_done = webhooks.last_event(), list[float](), asyncio.Event()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
                await reader.readexactly(int(size))
                moments.append(time.perf_counter())
                writer.write(_TAKEN)
                if len(moments) >= wanted:
                    is_done.set()
        writer.close()

    async with await asyncio.start_server(receive, "127.0.0.1", 0) as server:
        sink = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        webhook, _ = webhooks.create(sink, (), carrier=None, actor="bench")
        webhooks.replay(webhook.id, 0, carrier=None, actor="bench")
        settings, stopping = WebhookSettings.model_validate(_LOOPBACK), asyncio.Event()
        deliverer = Deliverer(webhooks, settings, structlog.get_logger())
        task = asyncio.create_task(deliverer.run(stopping))
        await is_done.wait()
        stopping.set()
        await task
    return len(moments), (len(moments) - 1) / (moments[-1] - moments[0])


def _measure_store(deployment: Deployment) -> int:
    """Bytes of the database."""
    database = sqlite_file(deployment.store.engine)
    assert database is not None, "the suite's own home is on SQLite"
    return database.stat().st_size


def run(config: RegistrarSuiteConfig) -> SuiteOutput:
    visitors, by_hand = config.decisions + config.single_decisions, config.stage_batches * BATCH
    with open_folder(config.folder) as folder:
        settings = make_settings(BATCH, visitors + by_hand)
        home = VisitedHome(
            folder / "home", config.references, visitors + by_hand, config.seed, settings
        )
        with home.open() as deployment:
            store_bytes = _measure_store(deployment)
        assert home.left > by_hand, "almost every visitor lies near a threshold"
        parts = _Parts(home, config)
        rounds, store_s = parts.decide_from_store(home.left - by_hand)
        stages, snapshot_s = parts.decide_by_hand()
        with home.open() as deployment:
            webhooks = Webhooks(deployment.store.engine, deployment.vault)
            delivered, events_rate = asyncio.run(measure_deliveries(webhooks))
    setup = describe_faces(config.references, home.vectors.shape[1], config.seed)
    setup |= {"database": "SQLite"}
    delivery = Figure("by one worker, the receiver on its core", "events/s", events_rate)
    events: Setup = {"events": delivered, "at_once": AT_ONCE}
    gallery = (
        Figure("open from the store", "s", store_s),
        Figure("open from a snapshot", "s", snapshot_s),
        Figure("store", "bytes/holder", store_bytes / config.references),
    )
    return (
        list_decisions(rounds, setup),
        Result(
            f"Stages of a batch of {BATCH}",
            setup | {"batches": len(stages[STAGES[0]])},
            tuple(Figure.of(name, "ms", np.array(each) * 1e3) for name, each in stages.items()),
        ),
        Result("Events delivered to one webhook", setup | events, (delivery,)),
        Result("Gallery", setup, gallery),
    ), {
        "decisions_per_second": median(one.rate for one in rounds[BATCH]),
        "wrong_decisions": float(home.log.count_wrong()),
        "gallery_difference": float(home.log.difference),
        "events_delivered": events_rate,
    }


def list_decisions(rounds: Mapping[int, Sequence[DecidedRound]], setup: Setup) -> Result:
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
