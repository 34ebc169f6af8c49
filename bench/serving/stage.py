"""What all parts of the suite share: sizes, people, a place on a disk, the load's process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.checks import Measured
from bench.machine import filesystem_of
from bench.report import Result, Setup
from bench.serving.generator import Generator
from bench.serving.homes import Home, make_home
from bench.serving.people import Crowd
from bench.serving.service import Place, Service, find_port, serve
from bench.serving.sizes import Sizes

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
    folder = Path(tempfile.mkdtemp(prefix="sosie-bench-", dir=disk))
    try:
        with Generator() as generator:
            yield Stage(sizes, crowd, seed, folder, cache, generator)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
