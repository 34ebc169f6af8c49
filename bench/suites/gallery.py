"""Suite `gallery`: its memory, growth, snapshots, erasure; searching while it changes."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Lock

import numpy as np
from numpy.typing import NDArray

from bench.core.machine import DISK, clock, open_folder
from bench.core.reports import Figure, Measured, Result, Setup, SuiteOutput
from bench.datasets import Faces, Vectors
from bench.suites.baselines import K, build_gallery, mix, refuse_too_much
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots.manifest import Origin
from indexes.snapshots.snapshot import Opening, load, save
from indexes.upkeep import Upkeep
from schema import frozen

BATCH, PAUSE_S = 32, 0.005
"""References of one add, and how long those who change something wait before they go on."""
QUICK = {
    "references": 20_000,
    "singles": 2_000,
    "looks": 50,
    "changing_s": 3.0,
    "removed": 200,
    "batch": 32,
}
_REMOVED_AT_ONCE, _LOOKED_FOR = 16, 16
_INDEXES_AT_ONCE = 6
_CHANGED = 1_000
_TIMES = 3
"""So many times the gallery is built, and its snapshot opened; the fastest counts. The first use of
memory may wait for the host of a virtual machine, which takes back what is free."""
# Ids of references that a measurement adds for itself.
_FAR_ID = 1 << 40
# Upkeep is asked for after so many adds; it is what a thread of its own does in a deployment.
_UPKEEP_EVERY = 256


@frozen(kw_only=True)
class GallerySuiteConfig:
    """`singles` are added one by one to the full gallery, all references before in batches.

    `looks`: how many adds of each kind are searched for. `removed`: references erased at once.
    """

    references: int = 1_000_000
    dim: int = 128
    singles: int = 40_000
    looks: int = 500
    changing_s: float = 20.0
    removed: int = 1_000
    batch: int = 256
    folder: Path = DISK
    seed: int = 0


@dataclass(slots=True)
class ChangingGallery:
    """A gallery of `references` under ids from 0, and `newcomers` to add after them.

    The first half is removed, in order; the second half is looked for, with all that was added.
    `missed`: searches whose committed reference was not the best; `ghosts`: references found though
    they had been removed; `lost`: how far the number of references is off at the end.
    """

    gallery: Gallery
    references: Vectors
    newcomers: Vectors
    added: int = 0
    removed: int = 0
    looked_for: int = 0
    missed: int = 0
    ghosts: int = 0
    lost: int = 0
    search_s: list[float] = field(default_factory=list)
    _changes: Lock = field(default_factory=Lock)
    _stop: Event = field(default_factory=Event)

    def list_figures(self, name: str) -> Iterator[Figure]:
        times_ms = np.array(self.search_s) * 1e3
        yield Figure.of(f"{name}: a search", "ms", times_ms)
        yield Figure(f"{name}: a search, p99", "ms", float(np.quantile(times_ms, 0.99)))

    def search(self, seconds: float, seed: int, *changes: Callable[[], None]) -> None:
        """Searches, while each change is made in a thread of its own."""
        before = len(self.gallery)
        with ThreadPoolExecutor(len(changes) + 1) as pool:
            running = [pool.submit(change) for change in changes]
            try:
                self._search(time.perf_counter() + seconds, seed)
            finally:
                self._stop.set()
            for one in running:
                one.result()
        self.lost = abs(before + self.added - self.removed - len(self.gallery))

    def _search(self, end: float, seed: int) -> None:
        rng, known = np.random.default_rng(seed), len(self.references)
        while time.perf_counter() < end:
            # Read before the search: what is committed now must be found, what is gone must not.
            committed, gone = known + self.added, self.removed
            keys = rng.integers(known // 2, committed, _LOOKED_FOR)
            removed = rng.integers(0, gone, 1) if gone else np.empty(0, np.int64)
            vectors = self._read(np.concatenate([keys, removed]))
            hits, seconds = clock(lambda: self.gallery.search(vectors, 1).hits)  # noqa: B023
            self.search_s.append(seconds)
            # None where the best was removed while it was searched for.
            best = np.array([next(iter(hits.of(query)[0]), -1) for query in range(len(vectors))])
            self.looked_for += len(keys)
            self.missed += int((best[: len(keys)] != keys).sum())
            self.ghosts += int((best[len(keys) :] == removed).sum())

    def add(self) -> None:
        while not self._stop.wait(PAUSE_S) and self.added < len(self.newcomers):
            rows = self.newcomers[self.added : self.added + BATCH]
            ids = np.arange(len(rows)) + len(self.references) + self.added
            with self._changes:
                self.gallery.add(ids, rows, self.gallery.sequence + 1)
            self.added += len(rows)

    def remove(self) -> None:
        removable = len(self.references) // 2
        while not self._stop.wait(PAUSE_S) and self.removed < removable:
            ids = np.arange(self.removed, min(self.removed + _REMOVED_AT_ONCE, removable))
            with self._changes:
                self.gallery.remove(ids, self.gallery.sequence + 1)
            self.removed += len(ids)

    def _read(self, keys: NDArray[np.int64]) -> Vectors:
        known = len(self.references)
        rows = (
            self.references[key] if key < known else self.newcomers[key - known]
            for key in keys.tolist()
        )
        return np.stack(list(rows))


def grow(
    gallery: Gallery, references: Vectors, first_id: int, batch: int, looks: int
) -> tuple[float, int]:
    """Adds them in batches, ids from `first_id` on, with the seals and merges that they lead to one
    after the other: microseconds of one; and of `looks` adds that were searched for how many were
    not seen."""
    taken_s, unseen, since = 0.0, 0, 0
    starts = range(0, len(references), batch)
    look_every = max(1, len(starts) // looks)
    for number, start in enumerate(starts):
        rows = references[start : start + batch]
        ids = np.arange(first_id + start, first_id + start + len(rows))
        taken_s += clock(partial(gallery.add, ids, rows, gallery.sequence + 1))[1]
        if number % look_every == 0:
            unseen += gallery.search(rows[-1:], 1).hits.ids.tolist() != [int(ids[-1])]
        since += len(rows)
        if since >= _UPKEEP_EVERY:
            taken_s += clock(gallery.settle)[1]
            since = 0
    return taken_s / len(references) * 1e6, unseen


Goals = dict[str, Measured]
Found = tuple[list[Result], Goals]


def run(config: GallerySuiteConfig) -> SuiteOutput:
    refuse_too_much(config.references, config.dim, _INDEXES_AT_ONCE)
    faces, scanner = Faces(config.references, config.dim, config.seed), Scanner()
    setup: Setup = faces.setup | {"kernel": scanner.kernel}
    results, measured = _keep(faces, config, scanner, setup)
    changed, found = _change(faces, config, scanner, setup)
    scanner.close()
    return [*results, *changed], measured | found


def _keep(faces: Faces, config: GallerySuiteConfig, scanner: Scanner, setup: Setup) -> Found:
    """A gallery that was built at once: its memory, its snapshot, and how it forgets."""
    builds_s = []
    for _ in range(_TIMES):
        gallery, seconds = clock(partial(build_gallery, faces.references, scanner))
        builds_s.append(seconds)
    account = gallery.account()
    with open_folder(config.folder) as folder:
        snapshot, opened, is_same = _snapshot(gallery, faces, config, folder / "gallery", scanner)
    open_s = next(one.value or 0.0 for one in snapshot if one.name == "open, verified")
    unit = "bytes/reference"
    parts = ("codes", "plane", "rows", "ids", "residuals", "alive", "head")
    memory = (
        *(Figure(part, unit, getattr(account, part) / account.references) for part in parts),
        Figure("all", unit, account.bytes_per_reference),
        Figure("all, rows mapped from a snapshot", unit, opened.account().bytes_per_reference),
    )
    ids = np.random.default_rng(config.removed).permutation(gallery.ids)[: config.removed]
    remove_s = clock(lambda: gallery.remove(ids, gallery.sequence + 1))[1]
    erasure = (
        Figure("out of every answer, vector and code wiped", "ms", remove_s * 1e3),
        Figure("segments rewritten, no trace left", "s", clock(gallery.compact)[1]),
    )
    return [
        Result("Memory", setup, memory),
        Result("Snapshot", setup | {"files": "in the page cache"}, snapshot),
        Result("Erasure", setup | {"removed": config.removed}, erasure),
    ], {
        "snapshot_answers": float(is_same),
        "bytes_per_reference": account.bytes_per_reference,
        "open_over_build": open_s / min(builds_s),
    }


def _change(faces: Faces, config: GallerySuiteConfig, scanner: Scanner, setup: Setup) -> Found:
    """A gallery that grows from none, and is searched while it changes."""
    grown = Gallery(SegmentedIndex(config.dim, scanner=scanner))
    batches = grow(grown, faces.references, 0, BATCH, config.looks)
    singles = grow(grown, faces.newcomers(config.singles), _FAR_ID, 1, config.looks)
    # As many as can be added while everything changes.
    newcomers = faces.newcomers(int(config.changing_s / PAUSE_S * BATCH))
    quiet, busy = (ChangingGallery(grown, faces.references, newcomers) for _ in range(2))
    quiet.search(config.changing_s / 4, config.seed)
    # A thread does the upkeep, as in a deployment.
    with Upkeep(grown):
        busy.search(config.changing_s, config.seed + 1, busy.add, busy.remove)
    growth = (
        Figure(f"batches of {BATCH}, from none to all: both", "us/reference", batches[0]),
        Figure("one by one, after all: both", "us/reference", singles[0]),
    )
    search = (
        *quiet.list_figures("nothing changes"),
        *busy.list_figures("everything changes"),
        Figure("committed references looked for", "references", float(busy.looked_for)),
        Figure("missed", "references", float(busy.missed)),
    )
    changing: Setup = {"seconds": config.changing_s, "queries": _LOOKED_FOR + 1}
    return [
        Result("Growth", setup, growth),
        Result("Searching while everything changes", setup | changing, search),
    ], {
        "unseen_adds": float(batches[1] + singles[1]),
        "missed_references": float(busy.missed + busy.ghosts + busy.lost),
        "add_microseconds": max(batches[0], singles[0]),
    }


def _snapshot(
    gallery: Gallery, faces: Faces, config: GallerySuiteConfig, folder: Path, scanner: Scanner
) -> tuple[tuple[Figure, ...], Gallery, bool]:
    """Saves, changes a little, saves again, and opens what was saved: figures, the gallery with its
    rows mapped, and whether all answered alike."""
    vault = Vault(KeyRing.generate(), faces.dim)
    origin = Origin("exact8", faces.dim, "bench", vault.rotation_id, vault.deployment_id)
    sealer = vault.sealer()
    probes = mix(faces, config.batch)
    save_s = clock(lambda: save(folder, gallery, origin, sealer))[1]
    written = _sizes(folder)
    few = faces.newcomers(_CHANGED)
    gallery.add(np.arange(_FAR_ID, _FAR_ID + len(few)), few, gallery.sequence + 1)
    again_s = clock(lambda: save(folder, gallery, origin, sealer))[1]
    # The name of a file changes with its content, but for the manifest's.
    new_bytes = sum(size for name, size in _sizes(folder).items() if name not in written)
    expected = gallery.search(probes, K).hits
    opened_s, is_same = [], True
    for is_mapped in (*[False] * _TIMES, True):
        opening = Opening(scanner=scanner, mapped=is_mapped)
        opened, seconds = clock(partial(load, folder, origin, sealer, opening=opening))
        opened_s.append(seconds)
        hits = opened.search(probes, K).hits
        is_same &= np.array_equal(hits.ids, expected.ids)
        is_same &= np.array_equal(hits.scores, expected.scores)
    gallery.remove(np.arange(_FAR_ID, _FAR_ID + len(few)), gallery.sequence + 1)
    *plain_s, mapped_s = opened_s
    figures = (
        Figure("save", "s", save_s),
        Figure("save", "MB", sum(written.values()) / 1e6),
        Figure(f"save again after {_CHANGED:,} adds", "s", again_s),
        Figure(f"save again after {_CHANGED:,} adds", "MB written", new_bytes / 1e6),
        Figure("open, verified", "s", min(plain_s)),
        Figure("open, verified, rows mapped", "s", mapped_s),
    )
    return figures, opened, is_same


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}
