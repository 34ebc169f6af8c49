"""Suite `gallery`: its memory, growth, snapshots, erasure; searching while it changes."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from threading import Event, Lock

import numpy as np
from numpy.typing import NDArray

from bench.core.machine import DISK, cores, filesystem_of, open_folder
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.core.timing import clock
from bench.data.vectors import Faces, Vectors, describe_population
from bench.suites.baselines import (
    PROMISED_SIZE,
    K,
    build_gallery,
    explain_too_much,
    mix,
    refuse_too_much,
    size_reason,
)
from bench.suites.serve.process import Worker
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from indexes.base import Hits, MemoryAccount
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery, SharedLock
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots.manifest import Origin
from indexes.snapshots.snapshot import Opening, load, save
from indexes.upkeep import Upkeep

BATCH, PAUSE_S = 32, 0.005
"""References of one add, and how long those who change something wait before they go on."""
_REMOVED_AT_ONCE, _LOOKED_FOR = 16, 16


@dataclass(slots=True)
class ConcurrentSearch:
    """Counts of `seconds` of searching while the gallery is changed, sealed, merged and compacted.

    `missed`: searches for a reference that was committed before and not yet to be removed, and
    did not come back as the best; `ghosts`: references found though they had been removed.
    `lost`: how far the number of references is off at the end.
    """

    seconds: float
    added: int = 0
    removed: int = 0
    looked_for: int = 0
    missed: int = 0
    ghosts: int = 0
    lost: int = 0
    search_s: list[float] = field(default_factory=list)
    add_s: list[float] = field(default_factory=list)


class ChangingGallery:
    """A gallery of `references` under ids from 0, and `newcomers` to add after them.

    The first half may be removed, in order; the second half stays and is looked for, with all
    that has been added.
    """

    def __init__(self, gallery: Gallery, references: Vectors, newcomers: Vectors) -> None:
        self._gallery = gallery
        self._references, self._newcomers = references, newcomers
        self._committed = len(references)
        self._gone = 0
        self._changes = Lock()
        self._stop = Event()

    def search_alone(self, seconds: float, seed: int) -> ConcurrentSearch:
        """Searches alone, for comparison."""
        return self._run(seconds, seed, ())

    def search_while_changing(self, seconds: float, seed: int) -> ConcurrentSearch:
        """Everything at once; a thread does the upkeep, as in a deployment."""
        with Upkeep(self._gallery):
            return self._run(seconds, seed, (self._add, self._remove))

    def _run(
        self, seconds: float, seed: int, changes: tuple[Callable[[ConcurrentSearch], None], ...]
    ) -> ConcurrentSearch:
        found = ConcurrentSearch(seconds)
        before = len(self._gallery)
        self._stop.clear()
        with ThreadPoolExecutor(len(changes) + 1) as pool:
            running = [pool.submit(change, found) for change in changes]
            try:
                self._search(found, time.perf_counter() + seconds, seed)
            finally:
                self._stop.set()
            for one in running:
                one.result()
        found.lost = abs(before + found.added - found.removed - len(self._gallery))
        return found

    def _search(self, found: ConcurrentSearch, end: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.perf_counter() < end:
            # Read before the search: what is committed now must be found, what is gone must not.
            committed, gone = self._committed, self._gone
            keys = rng.integers(len(self._references) // 2, committed, _LOOKED_FOR)
            removed = rng.integers(0, gone, 1) if gone else np.empty(0, np.int64)
            vectors = self._vectors(np.concatenate([keys, removed]))
            start = time.perf_counter()
            hits = self._gallery.search(vectors, 1).hits
            found.search_s.append(time.perf_counter() - start)
            # None where the best was removed while it was searched for.
            best = np.array([next(iter(hits.of(query)[0]), -1) for query in range(len(vectors))])
            found.looked_for += len(keys)
            found.missed += int((best[: len(keys)] != keys).sum())
            found.ghosts += int((best[len(keys) :] == removed).sum())

    def _add(self, found: ConcurrentSearch) -> None:
        while not self._stop.wait(PAUSE_S) and found.added < len(self._newcomers):
            rows = self._newcomers[found.added : found.added + BATCH]
            ids = np.arange(self._committed, self._committed + len(rows))
            start = time.perf_counter()
            with self._changes:
                self._gallery.add(ids, rows, self._gallery.sequence + 1)
            found.add_s.append(time.perf_counter() - start)
            self._committed += len(rows)
            found.added += len(rows)

    def _remove(self, found: ConcurrentSearch) -> None:
        removable = len(self._references) // 2
        while not self._stop.wait(PAUSE_S) and self._gone < removable:
            ids = np.arange(self._gone, min(self._gone + _REMOVED_AT_ONCE, removable))
            with self._changes:
                self._gallery.remove(ids, self._gallery.sequence + 1)
            found.removed += len(ids)
            self._gone += len(ids)

    def _vectors(self, keys: NDArray[np.int64]) -> Vectors:
        return np.stack(
            [
                self._references[key]
                if key < len(self._references)
                else self._newcomers[key - len(self._references)]
                for key in keys.tolist()
            ]
        )


_MERGED_PIECES, _SHARE_OF_A_SEGMENT = 8, 4
"""Merges are measured on so many segments; the largest is a quarter."""
_MMAP_THRESHOLD = -3  # of mallopt(3)


def merge_peak(references: Vectors, scanner: Scanner, segment_rows: int) -> float:
    """The most memory while small segments are merged, as a share of the gallery's.

    malloc keeps freed arrays of up to 32 MiB for the next ones. Those of a segment of gigabytes are
    larger; here some would be kept, by chance, so all are mapped.
    """
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)
    dim = references.shape[1]
    # Heads so small that every piece becomes a segment.
    size = len(references) // _MERGED_PIECES
    config = SegmentsConfig(head_rows=max(1, size // 4), fan=2, segment_rows=segment_rows)
    gallery = Gallery(SegmentedIndex(dim, config, scanner=scanner))
    for start in range(0, len(references) - size + 1, size):
        ids = np.arange(start, start + size)
        gallery.add(ids, references[start : start + size], gallery.sequence + 1)
    held = gallery.account().total
    # From now on the peak is that of the merges.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    gallery.settle()
    return (held + _status_bytes("VmHWM") - before) / held


def _status_bytes(name: str) -> int:
    """A figure of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


PASS_PROBES, THRESHOLD = 1024, 0.57
"""A large search: what a sweep or a queue of searches asks at once."""


@dataclass(slots=True)
class BesidePasses:
    """Seconds of adds of one reference, of readings of the sequence, and of the passes beside."""

    add_s: list[float] = field(default_factory=list)
    sequence_s: list[float] = field(default_factory=list)
    pass_s: list[float] = field(default_factory=list)


def add_beside_passes(
    gallery: Gallery, newcomers: Vectors, first_id: int, seconds: float, *, has_lock: bool
) -> BesidePasses:
    """Adds one by one, until time or newcomers are used up, while a thread makes pass after pass.

    `has_lock`: a pass holds a lock for readers and an add one for writers, as a gallery without
    views does; for comparison.
    """
    found, stop, begun = BesidePasses(), Event(), Event()
    lock = SharedLock()
    reading, writing = (lock.reading, lock.writing) if has_lock else (nullcontext, nullcontext)
    probes = newcomers[:PASS_PROBES]

    def search() -> None:
        while not stop.is_set():
            with reading():
                begun.set()
                found.pass_s.append(clock(lambda: gallery.range_search(probes, THRESHOLD))[1])

    def read_sequence() -> int:
        with reading():
            return gallery.sequence

    def add(place: int) -> None:
        with writing():
            key = np.array([first_id + place])
            gallery.add(key, newcomers[place : place + 1], gallery.sequence + 1)

    with Upkeep(gallery), ThreadPoolExecutor(1) as pool:
        passes = pool.submit(search)
        begun.wait()
        end = time.perf_counter() + seconds
        for place in range(len(newcomers)):
            if time.perf_counter() > end:
                break
            time.sleep(PAUSE_S)
            found.sequence_s.append(clock(read_sequence)[1])
            found.add_s.append(clock(partial(add, place))[1])
        stop.set()
        passes.result()
    return found


# Upkeep is asked for after so many adds; it is what a thread of its own does in a deployment.
_LOOK_EVERY = 256


@dataclass(frozen=True, slots=True)
class Growth:
    """Seconds of the adds, and of the seals and merges that they led to; adds that were not seen.

    All are one after the other: with the thread of `Upkeep` an add does not wait for them.
    """

    added: int
    adding_s: float
    upkeep_s: float
    looked_for: int
    unseen: int

    @property
    def microseconds(self) -> float:
        """Of one reference, upkeep included."""
        return (self.adding_s + self.upkeep_s) / self.added * 1e6


def grow(gallery: Gallery, references: Vectors, first_id: int, batch: int, looks: int) -> Growth:
    """Adds them in batches, ids from `first_id` on; `looks` times searches for the last one."""
    adding_s = upkeep_s = 0.0
    unseen = looked_for = 0
    starts = range(0, len(references), batch)
    look_every = max(1, len(starts) // looks)
    since = 0
    for number, start in enumerate(starts):
        rows = references[start : start + batch]
        ids = np.arange(first_id + start, first_id + start + len(rows))
        before = time.perf_counter()
        gallery.add(ids, rows, gallery.sequence + 1)
        adding_s += time.perf_counter() - before
        if number % look_every == 0:
            looked_for += 1
            unseen += not sees(gallery, rows[-1:], int(ids[-1]))
        since += len(rows)
        if since >= _LOOK_EVERY:
            before = time.perf_counter()
            gallery.settle()
            upkeep_s += time.perf_counter() - before
            since = 0
    return Growth(len(references), adding_s, upkeep_s, looked_for, unseen)


def sees(gallery: Gallery, vector: Vectors, key: int) -> bool:
    """Whether a reference is the best answer to its own vector."""
    return bool(gallery.search(vector, 1).hits.ids.tolist() == [key])


def open_empty(dim: int, scanner: Scanner) -> Gallery:
    """As a deployment opens one."""
    return Gallery(SegmentedIndex(dim, scanner=scanner))


QUICK = {
    "references": 20_000,
    "singles": 2_000,
    "looks": 50,
    "changing_s": 3.0,
    "removed": 200,
    "batch": 32,
}
CAPPED, WHOLE = "a segment is a quarter at most", "one segment in the end"
VIEWS, LOCK = "a pass holds a view", "a pass holds a lock"
BATCHES, SINGLES = f"batches of {BATCH}, from none to all", "one by one, after all"

_INDEXES_AT_ONCE, _HELD_INDEXES = 6, 2
HELD_SIZE, LARGE_SIZE = (10_000_000, 128), (1_000_000, 512)
"""References and dimensions that a gallery held alone, and a start of wide vectors, are for."""
_HELD_AT_ONCE = 250_000
_OF_HELD = ("held_gib", "held_open_seconds")
_RIGHT = ("unseen_adds", "missed_references", "snapshot_answers")
_BY_SIZE = (
    "bytes_per_reference",
    "open_over_build",
    "add_microseconds",
    "merge_peak",
    "add_beside_passes_ms",
    "sequence_beside_passes_ms",
    "add_beside_passes_share",
)
_LARGE_DIM = 512
_CHANGED = 1_000
_TIMES = 3
"""So many times the gallery is built, and its snapshot opened; the fastest counts. The first use of
memory may wait for the host of a virtual machine, which takes back what is free."""
# Ids of references that a measurement adds for itself.
_FAR_ID = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryConfig:
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


@dataclass(frozen=True, slots=True)
class Opened:
    """A snapshot's figures, those of its goals, and the memory of a gallery mapped from it."""

    figures: tuple[Figure, ...]
    open_s: float
    same: bool
    mapped: MemoryAccount


@dataclass(frozen=True, slots=True)
class Held:
    """A gallery that was opened from its snapshot alone: seconds of it, the most memory that the
    process had from then on, seconds of a search, and how many references were not found."""

    open_s: float
    peak_bytes: int
    search_s: float
    looked_for: int
    missed: int

    def list_figures(self, setup: Setup) -> Result:
        figures = (
            Figure("open, verified", "s", self.open_s),
            Figure("opened and searched, the process at most", "GiB", self.peak_bytes / 2**30),
            Figure(f"a batch's {K} best", "ms", self.search_s * 1e3),
            Figure("references not found by their vectors", "references", float(self.missed)),
        )
        return Result("Held alone", setup | {"looked_for": self.looked_for}, figures)


def hold(config: GalleryConfig, scanner: Scanner, folder: Path) -> Held:
    """Builds the gallery piece by piece, saves it, and opens it again, with nothing beside it."""
    gallery = open_empty(config.dim, scanner)
    for start in range(0, config.references, _HELD_AT_ONCE):
        count = min(_HELD_AT_ONCE, config.references - start)
        piece = Faces(count, config.dim, config.seed + start).references
        gallery.add(np.arange(start, start + count), piece, gallery.sequence + 1)
        gallery.settle()
    known = piece[-config.batch :].copy()
    ids = np.arange(config.references - len(known), config.references)
    vault = Vault(KeyRing.generate(), config.dim)
    origin = Origin("exact8", config.dim, "bench", vault.rotation_id, vault.deployment_id)
    save(folder, gallery, origin, vault.sealer())
    del gallery, piece
    # From now on the peak is that of opening and searching.
    Path("/proc/self/clear_refs").write_text("5")
    opening = Opening(scanner=scanner)
    opened, open_s = clock(partial(load, folder, origin, vault.sealer(), opening=opening))
    hits, search_s = clock(lambda: opened.search(known, K).hits)
    peak = _status_bytes("VmHWM")
    missed = sum(int(key not in hits.of(place)[0]) for place, key in enumerate(ids.tolist()))
    return Held(open_s, peak, search_s, len(ids), missed)


def _run_held(config: GalleryConfig, reason: str) -> SuiteOutput:
    """What fits where the suite as a whole does not."""
    refuse_too_much(config.references, config.dim, _HELD_INDEXES)
    scanner = Scanner()
    with open_folder(config.folder) as folder:
        held = hold(config, scanner, folder / "gallery")
    scanner.close()
    setup: Setup = {
        "references": config.references,
        "dim": config.dim,
        "population": describe_population(config.dim),
        "seed": config.seed,
        "threads": cores(),
        "kernel": scanner.kernel,
        "filesystem": filesystem_of(config.folder),
        "left out": reason,
    }
    measured: dict[str, Measured] = dict.fromkeys((*_RIGHT, *_BY_SIZE), Skipped(reason))
    measured |= {
        "missed_references": float(held.missed),
        "held_gib": held.peak_bytes / 2**30,
        "held_open_seconds": held.open_s,
    }
    if (config.references, config.dim) != HELD_SIZE:
        measured |= dict.fromkeys(_OF_HELD, Skipped(size_reason(*HELD_SIZE)))
    return (held.list_figures(setup),), measured


def run(config: GalleryConfig) -> SuiteOutput:
    """All of it, or of a gallery too large for that what holds it once."""
    if reason := explain_too_much(config.references, config.dim, _INDEXES_AT_ONCE):
        return _run_held(config, reason)
    faces = Faces(config.references, config.dim, config.seed)
    scanner = Scanner()
    setup: Setup = faces.setup | {"threads": cores(), "kernel": scanner.kernel}
    probes = mix(faces, config.batch)
    build_s = math.inf
    for _ in range(_TIMES):
        gallery, built = build_gallery(faces.references, scanner)
        build_s = min(build_s, built.build_s)
    account = gallery.account()
    with open_folder(config.folder) as folder:
        opened = _snapshot(gallery, faces, probes, folder / "gallery", scanner)
    on_disk = {"filesystem": filesystem_of(config.folder), "files": "in the page cache"}
    setup_disk = setup | on_disk
    erasure = _erase(gallery, config.removed)
    del gallery
    grown = open_empty(config.dim, scanner)
    growth = {
        BATCHES: grow(grown, faces.references, 0, BATCH, config.looks),
        SINGLES: grow(grown, faces.newcomers(config.singles), _FAR_ID, 1, config.looks),
    }
    # As many as can be added while everything changes.
    newcomers = faces.newcomers(int(config.changing_s / PAUSE_S * BATCH))
    changing = ChangingGallery(grown, faces.references, newcomers)
    quiet = changing.search_alone(config.changing_s / 4, config.seed)
    busy = changing.search_while_changing(config.changing_s, config.seed + 1)
    beside = {
        name: add_beside_passes(
            grown,
            faces.newcomers(max(PASS_PROBES, int(config.changing_s / 2 / PAUSE_S))),
            first_id,
            config.changing_s / 2,
            has_lock=has_lock,
        )
        for name, first_id, has_lock in ((VIEWS, 2 * _FAR_ID, False), (LOCK, 3 * _FAR_ID, True))
    }
    del grown
    scanner.close()
    with Worker() as worker:
        # A process of its own: what malloc has kept of all this would be in the way.
        peaks = worker.submit(_merge_peaks, config).result()
    results = (
        _list_account(account, opened.mapped, build_s, setup),
        Result("Snapshot", setup_disk, opened.figures),
        _list_growth(growth, setup),
        _list_concurrent_search(quiet, busy, setup),
        _list_beside_passes(beside, setup),
        Result(
            "Merges",
            setup,
            tuple(
                Figure(f"{dim} dimensions, {name}", "of the gallery's memory", peak)
                for (dim, name), peak in peaks.items()
            ),
        ),
        Result("Erasure", setup | {"removed": config.removed}, erasure),
    )
    return results, _measure(config, account, build_s, opened, growth, busy, beside, peaks)


def _merge_peaks(config: GalleryConfig) -> dict[tuple[int, str], float]:
    """Of the suite's dimensions and of a large model's, whose vectors are half as many."""
    few = replace(config, references=config.references // 2, dim=_LARGE_DIM)
    scanner = Scanner()
    peaks = {
        (each.dim, name): merge_peak(references, scanner, len(references) // share)
        for each in (config, few)
        for references in (Faces(each.references, each.dim, each.seed).references,)
        for name, share in ((CAPPED, _SHARE_OF_A_SEGMENT), (WHOLE, 1))
    }
    scanner.close()
    return peaks


def _snapshot(
    gallery: Gallery, faces: Faces, probes: Vectors, folder: Path, scanner: Scanner
) -> Opened:
    """Saves, changes a little, saves again, and opens what was saved, with the vault's keys."""
    ring = KeyRing.generate()
    vault = Vault(ring, faces.dim)
    origin = Origin("exact8", faces.dim, "bench", vault.rotation_id, vault.deployment_id)
    sealer = vault.sealer()
    save_s = clock(lambda: save(folder, gallery, origin, sealer))[1]
    written = _sizes(folder)
    few = faces.newcomers(_CHANGED)
    gallery.add(np.arange(_FAR_ID, _FAR_ID + len(few)), few, gallery.sequence + 1)
    again_s = clock(lambda: save(folder, gallery, origin, sealer))[1]
    again = _sizes(folder)
    expected = gallery.search(probes, K).hits
    open_s, same = math.inf, True
    for _ in range(_TIMES):
        opening = Opening(scanner=scanner)
        plain, seconds = clock(partial(load, folder, origin, sealer, opening=opening))
        open_s, same = min(open_s, seconds), same and _same(plain.search(probes, K).hits, expected)
        del plain
    opening = Opening(scanner=scanner, mapped=True)
    mapped, open_mapped_s = clock(partial(load, folder, origin, sealer, opening=opening))
    same = same and _same(mapped.search(probes, K).hits, expected)
    gallery.remove(np.arange(_FAR_ID, _FAR_ID + len(few)), gallery.sequence + 1)
    new_bytes = sum(size for name, size in again.items() if name not in written)
    figures = (
        Figure("save", "s", save_s),
        Figure("save", "MB", sum(written.values()) / 1e6),
        Figure(f"save again after {_CHANGED:,} adds", "s", again_s),
        Figure(f"save again after {_CHANGED:,} adds", "MB written", new_bytes / 1e6),
        Figure("open, verified", "s", open_s),
        Figure("open, verified, rows mapped", "s", open_mapped_s),
        Figure("answers as before", "share", float(same)),
    )
    return Opened(figures, open_s, same, mapped.account())


def _same(hits: Hits, expected: Hits) -> bool:
    return np.array_equal(hits.ids, expected.ids) and np.array_equal(hits.scores, expected.scores)


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file; its name changes with its content, but for the manifest's."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def _erase(gallery: Gallery, count: int) -> tuple[Figure, ...]:
    """Removes references of the large segment, then takes them out of memory."""
    ids = np.random.default_rng(count).permutation(gallery.ids)[:count]
    remove_s = clock(lambda: gallery.remove(ids, gallery.sequence + 1))[1]
    compact_s = clock(gallery.compact)[1]
    return (
        Figure("out of every answer, vector and code wiped", "ms", remove_s * 1e3),
        Figure("segments rewritten, no trace left", "s", compact_s),
    )


def _list_account(
    account: MemoryAccount, mapped: MemoryAccount, build_s: float, setup: Setup
) -> Result:
    parts = [part.name for part in fields(MemoryAccount)]
    parts = [name for name in parts if name not in ("references", "device")]
    figures = [
        Figure(part, "bytes/reference", getattr(account, part) / account.references)
        for part in parts
    ]
    figures += [
        Figure("all", "bytes/reference", account.bytes_per_reference),
        Figure("all, rows mapped from a snapshot", "bytes/reference", mapped.bytes_per_reference),
        Figure("build at once", "s", build_s),
    ]
    return Result("Memory", setup, tuple(figures))


def _list_growth(growth: Mapping[str, Growth], setup: Setup) -> Result:
    figures = []
    for name, one in growth.items():
        figures += [
            Figure(f"{name}: the add", "us/reference", one.adding_s / one.added * 1e6),
            Figure(f"{name}: sealing, merging", "us/reference", one.upkeep_s / one.added * 1e6),
            Figure(f"{name}: both", "us/reference", one.microseconds),
            Figure(f"{name}: not seen by the next search", "of the looks", float(one.unseen)),
        ]
    counts = {f"{name}, looks": one.looked_for for name, one in growth.items()}
    return Result("Growth", setup | counts, tuple(figures))


def _list_concurrent_search(
    quiet: ConcurrentSearch, busy: ConcurrentSearch, setup: Setup
) -> Result:
    """Times as good: as the same searches while nothing changes."""
    figures = []
    base = np.median(quiet.search_s)
    for name, one in (("nothing changes", quiet), ("everything changes", busy)):
        times = np.array(one.search_s) * 1e3
        figures += [
            Figure.of(f"{name}: a search", "ms", times, float(base * 1e3 / np.median(times))),
            Figure(f"{name}: a search, p99", "ms", float(np.quantile(times, 0.99))),
            Figure(f"{name}: searches", "1/s", len(times) / one.seconds),
        ]
    figures += [
        Figure("added meanwhile", "references/s", busy.added / busy.seconds),
        Figure("removed meanwhile", "references/s", busy.removed / busy.seconds),
        Figure.of(f"an add of {BATCH} meanwhile", "ms", np.array(busy.add_s) * 1e3),
        Figure("the longest add", "ms", max(busy.add_s) * 1e3),
        Figure("committed references looked for", "references", float(busy.looked_for)),
        Figure("missed", "references", float(busy.missed)),
        Figure("found though removed", "references", float(busy.ghosts)),
        Figure("too few or too many at the end", "references", float(busy.lost)),
    ]
    run: Setup = {"seconds": busy.seconds, "queries": 17}
    return Result("Searching while everything changes", setup | run, tuple(figures))


def _p99(seconds: list[float]) -> float:
    return float(np.quantile(seconds, 0.99))


def _list_beside_passes(beside: Mapping[str, BesidePasses], setup: Setup) -> Result:
    """Times as good: p99 against that with the lock."""
    figures = []
    for name, one in beside.items():
        for what, times in (("an add", one.add_s), ("reading the sequence", one.sequence_s)):
            figures += [
                Figure.of(f"{what}, {name}", "ms", np.array(times) * 1e3),
                Figure(f"{what}, {name}, p99", "ms", _p99(times) * 1e3),
            ]
        figures.append(Figure.of(f"a pass, {name}", "ms", np.array(one.pass_s) * 1e3))
    run: Setup = {"probes of a pass": PASS_PROBES, "threshold": THRESHOLD}
    return Result("Adds beside passes", setup | run, tuple(figures))


def _measure(
    config: GalleryConfig,
    account: MemoryAccount,
    build_s: float,
    opened: Opened,
    growth: Mapping[str, Growth],
    busy: ConcurrentSearch,
    beside: Mapping[str, BesidePasses],
    peaks: Mapping[tuple[int, str], float],
) -> dict[str, Measured]:
    """The figures that `targets.toml` names."""
    right: dict[str, Measured] = {
        "unseen_adds": float(sum(one.unseen for one in growth.values())),
        "missed_references": float(busy.missed + busy.ghosts + busy.lost),
        "snapshot_answers": float(opened.same),
    }
    values: dict[str, Measured] = {
        "bytes_per_reference": account.bytes_per_reference,
        "add_microseconds": max(one.microseconds for one in growth.values()),
        "merge_peak": max(peak for (_, name), peak in peaks.items() if name == CAPPED),
        "add_beside_passes_ms": _p99(beside[VIEWS].add_s) * 1e3,
        "sequence_beside_passes_ms": _p99(beside[VIEWS].sequence_s) * 1e3,
        "add_beside_passes_share": _p99(beside[VIEWS].add_s) / _p99(beside[LOCK].add_s),
    }
    size = (config.references, config.dim)
    if size != PROMISED_SIZE:
        values = dict.fromkeys(values, Skipped(size_reason(*PROMISED_SIZE)))
    values["open_over_build"] = (
        opened.open_s / build_s
        if size in (PROMISED_SIZE, LARGE_SIZE)
        else Skipped(size_reason(*PROMISED_SIZE))
    )
    not_alone = Skipped(f"held alone where more does not fit, as {HELD_SIZE[0]:,} may not")
    return right | values | dict.fromkeys(_OF_HELD, not_alone)
