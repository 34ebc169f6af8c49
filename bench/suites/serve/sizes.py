"""What all parts of the suite share: sizes, people, a place on a disk, the load's process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from bench.core.machine import filesystem_of
from bench.core.reports import Setup
from bench.suites.serve.fixtures import Home, Visitors, make_home
from bench.suites.serve.load_generator import Generator
from bench.suites.serve.process import Place, serve
from bench.suites.serve.throughput import OverloadPlan, Pace, Session
from serving.cluster.environment import OwnedFolder, find_port


class Part(StrEnum):
    """The parts of the suite, as `--only` names them."""

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
    match_overload: OverloadPlan = field(default_factory=OverloadPlan)
    enroll_overload: OverloadPlan = field(
        default_factory=lambda: OverloadPlan(calm_s=30.0, storm_s=12.0)
    )
    soak_s: float = 600.0
    soak_sample_s: float = 5.0
    starts: int = 2
    kills: int = 50
    races: int = 3


@dataclass(frozen=True, slots=True)
class Context:
    """What every part of the suite is given; everything in `folder` is gone afterwards."""

    sizes: Sizes
    visitors: Visitors
    seed: int
    folder: Path
    generator: Generator

    def make_home(self, name: str, references: int) -> Home:
        return make_home(self.folder / name, references, self.seed)

    @contextmanager
    def serve(self, home: Home, proxy: str = "haproxy") -> Iterator[Session]:
        """The home's service, ready, and what loads it."""
        with serve(self.place(home, proxy)) as (service, _):
            yield Session(service, home, self.generator, self.sizes.pace)

    def place(self, home: Home, proxy: str = "haproxy") -> Place:
        return Place(home.path, find_port(), proxy)

    def describe(self) -> Setup:
        """What all parts have in common."""
        return {
            "photographs": self.visitors.source,
            "people": len(self.visitors),
            "seed": self.seed,
            "database": "SQLite",
            "filesystem": filesystem_of(self.folder),
        }

    def setup(self, home: Home, **more: str | int | float | bool) -> Setup:
        return {"references": home.references, **self.describe(), **more}


@contextmanager
def open_context(sizes: Sizes, visitors: Visitors, seed: int, disk: Path) -> Iterator[Context]:
    """What the parts share, with a folder on `disk` for their homes; removed at the end."""
    folder = OwnedFolder("sosie-bench-", disk)
    try:
        with Generator() as generator:
            yield Context(sizes, visitors, seed, folder.path, generator)
    finally:
        folder.close()
