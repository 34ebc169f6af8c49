"""Suite `registrar`: decisions a second on a full gallery, durable, and every one of them right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.ceiling import cores
from bench.checks import Measured, Skipped
from bench.counter import load_holders, make_settings, open_outlet, write_requests
from bench.decisions import (
    BATCH,
    SINGLE,
    Decided,
    Rounds,
    decide_in_turn,
    list_decisions,
    plan_turns,
)
from bench.ledger import Ledger
from bench.machine import filesystem_of
from bench.report import Figure, Result, Setup
from bench.stages import StageTimes, time_stages
from bench.vectors import describe_population
from bench.workload import draw_day, expect_answers
from engine.accuracy.population import Population
from engine.errors import RequestError
from engine.matching.requests import EnrollmentRequest
from engine.matching.restoration import save_snapshot
from serving.compose import SNAPSHOT_FOLDER, Deployment
from serving.homes import create_home
from serving.settings import Settings

QUICK = {
    "references": 5_000,
    "decisions": 640,
    "single_decisions": 32,
    "rounds": 3,
    "stage_batches": 4,
}
DISK = Path("/var/tmp")  # noqa: S108 - /tmp may be memory, where nothing is durable
MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrarConfig:
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

    @property
    def visitors(self) -> int:
        return self.decisions + self.single_decisions + self.stage_batches * BATCH


@dataclass(slots=True)
class _Times:
    """Seconds of what is done once."""

    load: float = 0.0
    open_store: float = 0.0
    save: float = 0.0
    open_snapshot: float = 0.0


def run(config: RegistrarConfig) -> tuple[tuple[Result, ...], dict[str, Measured]]:
    """All results of the suite, and the figures that its goals name."""
    population = Population.load("sface")
    if not config.folder.is_dir():
        raise RequestError(f"no folder {config.folder}: give one on a disk as --folder")
    filesystem = filesystem_of(config.folder)
    with TemporaryDirectory(prefix="sosie-bench-", dir=config.folder) as folder:
        home, times = Path(folder) / "home", _Times()
        settings = make_settings(BATCH, config.visitors)
        ledger, requests = _prepare(home, settings, population, config, times)
        by_hand = len(requests) - config.stage_batches * BATCH
        assert by_hand > 0, "almost every visitor lies near a threshold"
        rounds = _decide_from_store(home, settings, requests[:by_hand], ledger, config, times)
        stages = _decide_by_hand(home, settings, requests[by_hand:], ledger, config, times)
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
        "wrong_decisions": float(ledger.count_wrong()),
        "gallery_difference": float(ledger.difference),
    }
    results = (
        list_decisions(rounds, setup),
        _list_stages(stages, setup),
        _list_gallery(times, config, setup),
        ledger.list_outcomes(setup),
    )
    return results, measured


def _prepare(
    home: Path,
    settings: Settings,
    population: Population,
    config: RegistrarConfig,
    times: _Times,
) -> tuple[Ledger, list[EnrollmentRequest]]:
    """Enrolls everybody, and knows what each visitor must be answered before one comes."""
    references = population.references(config.references, config.seed)
    day = draw_day(population, config.references, config.visitors, config.seed)
    create_home(home, settings)
    with Deployment(home, settings, home / "cache") as deployment:
        open_outlet(deployment.store)
        with deployment.store.writer() as writer:
            times.load = _clock(lambda: load_holders(writer, references))
        expected = expect_answers(day, references, deployment.thresholds)
        places = [place for place, answer in enumerate(expected) if answer is not None]
        requests = list(write_requests(day, places, deployment.vault, config.references))
    return Ledger(day, expected, places), requests


def _decide_from_store(
    home: Path,
    settings: Settings,
    requests: Sequence[EnrollmentRequest],
    ledger: Ledger,
    config: RegistrarConfig,
    times: _Times,
) -> Rounds:
    turns = plan_turns(requests, config.single_decisions, config.rounds)
    rounds: dict[int, list[Decided]] = {BATCH: [], SINGLE: []}
    with Deployment(home, settings, home / "cache") as deployment:
        times.open_store = _clock(lambda: deployment.restored)
        gallery = deployment.restored.gallery
        ledger.note_gallery(len(gallery), config.references)
        for turn, decided in decide_in_turn(deployment, turns):
            ledger.outcomes += decided.outcomes
            if turn.number:
                rounds[turn.batch].append(decided)
        times.save = _clock(
            lambda: save_snapshot(deployment.store, gallery, home / SNAPSHOT_FOLDER)
        )
    return rounds


def _decide_by_hand(
    home: Path,
    settings: Settings,
    requests: Sequence[EnrollmentRequest],
    ledger: Ledger,
    config: RegistrarConfig,
    times: _Times,
) -> list[StageTimes]:
    with Deployment(home, settings, home / "cache") as deployment:
        times.open_snapshot = _clock(lambda: deployment.restored)
        ledger.note_gallery(len(deployment.restored.gallery), config.references)
        outcomes, stages = time_stages(deployment, requests, BATCH)
        ledger.outcomes += outcomes
    return stages


def _clock(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _list_stages(stages: Sequence[StageTimes], setup: Setup) -> Result:
    return Result(
        f"Stages of a batch of {BATCH}",
        setup | {"batches": len(stages)},
        tuple(
            Figure.of(name, "ms", [getattr(one, key) * 1e3 for one in stages])
            for key, name in (
                ("search_s", "the search alone"),
                ("judge_s", "judging, search included"),
                ("publish_s", "commit, and into the gallery"),
            )
        ),
    )


def _list_gallery(times: _Times, config: RegistrarConfig, setup: Setup) -> Result:
    figures = (
        Figure("bulk load", "holders/s", config.references / times.load),
        Figure("open from the store", "s", times.open_store, ratio=1.0),
        Figure(
            "open from a snapshot",
            "s",
            times.open_snapshot,
            ratio=times.open_store / times.open_snapshot,
        ),
        Figure("save a snapshot", "s", times.save),
    )
    return Result("Gallery", setup, figures)
