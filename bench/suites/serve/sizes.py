"""The parts of the suite, and how much of everything they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from bench.core.machine import filesystem_of
from bench.core.reports import Measured, Result, Setup
from bench.suites.serve.fixtures import Crowd, Home, make_home
from bench.suites.serve.load_generator import Generator
from bench.suites.serve.overload import Weather
from bench.suites.serve.process import Place, Service, find_port, serve
from bench.suites.serve.throughput import Pace
from serving.cluster.environment import OwnedFolder


class Part(StrEnum):
    """What `--only` names."""

    THROUGHPUT = "throughput"
    OVERLOAD = "overload"
    SOAK = "soak"
    START = "start"
    KILLS = "kills"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything. Goals of speed are promised for the defaults."""

    references: int = 100_000
    million: int = 1_000_000
    people: int = 800
    pairs: int = 4_096
    probes: int = 4_096
    pace: Pace = field(default_factory=Pace)
    match_weather: Weather = field(default_factory=Weather)
    enroll_weather: Weather = field(default_factory=lambda: Weather(calm_s=30.0, storm_s=12.0))
    soak_s: float = 600.0
    soak_sample_s: float = 5.0
    starts: int = 2
    kills: int = 50
    races: int = 3


QUICK = Sizes(
    references=2_000,
    million=4_000,
    people=16,
    pairs=256,
    probes=256,
    pace=Pace(seconds=0.5, rounds=1, connections=4, batch_connections=1, enrolling_connections=4),
    match_weather=Weather(calm_s=1, storm_s=1, recovery_s=3, storm_connections=64),
    enroll_weather=Weather(calm_s=1, storm_s=1, recovery_s=3, storm_connections=64),
    soak_s=6,
    soak_sample_s=0.5,
    starts=1,
    kills=3,
    races=1,
)


# What all parts of the suite share: sizes, people, a place on a disk, the load's process.

Found = tuple[list[Result], dict[str, Measured]]
"""Results of a part, and the figures that its goals name."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where parts play; everything in `folder` is gone afterwards."""

    sizes: Sizes
    crowd: Crowd
    seed: int
    folder: Path
    cache: Path
    generator: Generator

    def make_home(self, name: str, references: int) -> Home:
        return make_home(self.folder / name, self.cache, references, self.seed)

    @contextmanager
    def serve(self, home: Home, proxy: str = "haproxy") -> Iterator[Service]:
        """The home's service, ready."""
        with serve(self.place(home, proxy)) as ready:
            yield ready.service

    def place(self, home: Home, proxy: str = "haproxy") -> Place:
        return Place(home.path, home.cache, find_port(), proxy)

    def describe(self) -> Setup:
        """What all parts have in common."""
        return {
            "photographs": self.crowd.source,
            "people": len(self.crowd),
            "seed": self.seed,
            "database": "SQLite",
            "filesystem": filesystem_of(self.folder),
        }

    def setup(self, home: Home, **more: str | int | float | bool) -> Setup:
        return {"references": home.references, **self.describe(), **more}


@contextmanager
def open_stage(sizes: Sizes, crowd: Crowd, seed: int, disk: Path, cache: Path) -> Iterator[Stage]:
    """A stage whose homes lie on `disk`."""
    folder = OwnedFolder("sosie-bench-", disk)
    try:
        with Generator() as generator:
            yield Stage(sizes, crowd, seed, folder.path, cache, generator)
    finally:
        folder.close()
