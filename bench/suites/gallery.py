"""Suite `gallery`: its memory, growth, snapshots, erasure; searching while it changes."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.machine import DISK, clock, cores, filesystem_of, open_folder
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
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
from indexes.base import Hits
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery, SharedLock
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots.manifest import Origin
from indexes.snapshots.snapshot import Opening, load, save
from indexes.upkeep import Upkeep

BATCH, PAUSE_S = 32, 0.005
"""References of one add, and how long those who change something wait before they go on."""
PASS_PROBES, THRESHOLD = 1024, 0.57
"""A large search: what a sweep or a queue of searches asks at once."""
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
HELD_SIZE, LARGE_SIZE = (10_000_000, 128), (1_000_000, 512)
"""References and dimensions that a gallery held alone, and a start of wide vectors, are for."""

_REMOVED_AT_ONCE, _LOOKED_FOR = 16, 16
_INDEXES_AT_ONCE, _HELD_INDEXES = 6, 2
_HELD_AT_ONCE = 250_000
_LARGE_DIM = 512
_CHANGED = 1_000
_TIMES = 3
"""So many times the gallery is built, and its snapshot opened; the fastest counts. The first use of
memory may wait for the host of a virtual machine, which takes back what is free."""
# Ids of references that a measurement adds for itself.
_FAR_ID = 1 << 40
_MERGED_PIECES, _SHARE_OF_A_SEGMENT = 8, 4
"""Merges are measured on so many segments; the largest is a quarter."""
_MMAP_THRESHOLD = -3  # of mallopt(3)
# Upkeep is asked for after so many adds; it is what a thread of its own does in a deployment.
_UPKEEP_EVERY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
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
class ConcurrentSearch:
    """Counts of searching while the gallery is changed, sealed, merged and compacted.

    `missed`: searches for a reference that was committed before and not yet to be removed, and
    did not come back as the best; `ghosts`: references found though they had been removed.
    `lost`: how far the number of references is off at the end.
    """

    added: int = 0
    removed: int = 0
    looked_for: int = 0
    missed: int = 0
    ghosts: int = 0
    lost: int = 0
    search_s: list[float] = field(default_factory=list)

    def list_figures(self, name: str) -> tuple[Figure, Figure]:
        times_ms = np.array(self.search_s) * 1e3
        return (
            Figure.of(f"{name}: a search", "ms", times_ms),
            Figure(f"{name}: a search, p99", "ms", float(np.quantile(times_ms, 0.99))),
        )


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
        found = ConcurrentSearch()
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
            hits, seconds = clock(lambda: self._gallery.search(vectors, 1).hits)  # noqa: B023
            found.search_s.append(seconds)
            # None where the best was removed while it was searched for.
            best = np.array([next(iter(hits.of(query)[0]), -1) for query in range(len(vectors))])
            found.looked_for += len(keys)
            found.missed += int((best[: len(keys)] != keys).sum())
            found.ghosts += int((best[len(keys) :] == removed).sum())

    def _add(self, found: ConcurrentSearch) -> None:
        while not self._stop.wait(PAUSE_S) and found.added < len(self._newcomers):
            rows = self._newcomers[found.added : found.added + BATCH]
            ids = np.arange(self._committed, self._committed + len(rows))
            with self._changes:
                self._gallery.add(ids, rows, self._gallery.sequence + 1)
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
        known = len(self._references)
        return np.stack(
            [
                self._references[key] if key < known else self._newcomers[key - known]
                for key in keys.tolist()
            ]
        )


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


def add_beside_passes(
    gallery: Gallery, newcomers: Vectors, first_id: int, seconds: float, *, has_lock: bool
) -> tuple[float, float]:
    """Adds one by one, until time or newcomers are used up, while a thread makes pass after pass:
    p99 in ms of an add, and of a reading of the sequence.

    `has_lock`: a pass holds a lock for readers and an add one for writers, as a gallery without
    views does; for comparison.
    """
    add_s, sequence_s, stop, begun = [], [], Event(), Event()
    lock = SharedLock()
    reading, writing = (lock.reading, lock.writing) if has_lock else (nullcontext, nullcontext)
    probes = newcomers[:PASS_PROBES]

    def search() -> None:
        while not stop.is_set():
            with reading():
                begun.set()
                gallery.range_search(probes, THRESHOLD)

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
            sequence_s.append(clock(read_sequence)[1])
            add_s.append(clock(partial(add, place))[1])
        stop.set()
        passes.result()
    return float(np.quantile(add_s, 0.99) * 1e3), float(np.quantile(sequence_s, 0.99) * 1e3)


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


def open_empty(dim: int, scanner: Scanner) -> Gallery:
    """As a deployment opens one."""
    return Gallery(SegmentedIndex(dim, scanner=scanner))


def run(config: Config) -> SuiteOutput:
    """All of it, or of a gallery too large for that what holds it once."""
    if reason := explain_too_much(config.references, config.dim, _INDEXES_AT_ONCE):
        return _hold(config, reason)
    faces, scanner = Faces(config.references, config.dim, config.seed), Scanner()
    setup: Setup = faces.setup | {"threads": cores(), "kernel": scanner.kernel}
    builds_s = []
    for _ in range(_TIMES):
        gallery, seconds = clock(partial(build_gallery, faces.references, scanner))
        builds_s.append(seconds)
    account = gallery.account()
    with open_folder(config.folder) as folder:
        snapshot, open_s, mapped = _snapshot(gallery, faces, config, folder / "gallery", scanner)
    erasure = _erase(gallery, config.removed)
    del gallery
    growth, search, beside, right, values = _change(faces, config, scanner)
    scanner.close()
    with Worker() as worker:
        # A process of its own: what malloc has kept of all this would be in the way.
        peaks = worker.submit(_merge_peaks, config).result()
    parts = ("codes", "plane", "rows", "ids", "residuals", "alive", "head")
    unit, count = "bytes/reference", account.references
    memory = [Figure(part, unit, getattr(account, part) / count) for part in parts]
    memory += [
        Figure("all", unit, account.bytes_per_reference),
        Figure("all, rows mapped from a snapshot", unit, mapped),
    ]
    merges = (
        Figure(f"{dim} dimensions, {name}", "of the gallery's memory", peak)
        for (dim, name), peak in peaks.items()
    )
    on_disk: Setup = {"filesystem": filesystem_of(config.folder), "files": "in the page cache"}
    changing: Setup = {"seconds": config.changing_s, "queries": _LOOKED_FOR + 1}
    passes: Setup = {"probes of a pass": PASS_PROBES, "threshold": THRESHOLD}
    results = (
        Result("Memory", setup, tuple(memory)),
        Result("Snapshot", setup | on_disk, snapshot),
        Result("Growth", setup, growth),
        Result("Searching while everything changes", setup | changing, search),
        Result("Adds beside passes", setup | passes, beside),
        Result("Merges", setup, tuple(merges)),
        Result("Erasure", setup | {"removed": config.removed}, erasure),
    )
    values |= {
        "bytes_per_reference": account.bytes_per_reference,
        "merge_peak": max(peak for (_, name), peak in peaks.items() if name == CAPPED),
    }
    size = (config.references, config.dim)
    if size != PROMISED_SIZE:
        values = dict.fromkeys(values, Skipped(size_reason(*PROMISED_SIZE)))
    values["open_over_build"] = (
        open_s / min(builds_s)
        if size in (PROMISED_SIZE, LARGE_SIZE)
        else Skipped(size_reason(*PROMISED_SIZE))
    )
    not_alone = Skipped(f"held alone where more does not fit, as {HELD_SIZE[0]:,} may not")
    right["snapshot_answers"] = next(one.value or 0.0 for one in snapshot if one.unit == "share")
    return results, right | values | {"held_gib": not_alone, "held_open_seconds": not_alone}


Figures = tuple[Figure, ...]
Goals = dict[str, Measured]


def _change(
    faces: Faces, config: Config, scanner: Scanner
) -> tuple[Figures, Figures, Figures, Goals, Goals]:
    """A gallery that grows from none, and is searched while it changes: figures of its growth, the
    searches and the adds beside passes; what must be right at any size, and what is timed."""
    grown = open_empty(config.dim, scanner)
    batches = grow(grown, faces.references, 0, BATCH, config.looks)
    singles = grow(grown, faces.newcomers(config.singles), _FAR_ID, 1, config.looks)
    # As many as can be added while everything changes.
    newcomers = faces.newcomers(int(config.changing_s / PAUSE_S * BATCH))
    changing = ChangingGallery(grown, faces.references, newcomers)
    quiet = changing.search_alone(config.changing_s / 4, config.seed)
    busy = changing.search_while_changing(config.changing_s, config.seed + 1)
    seconds = config.changing_s / 2
    others = faces.newcomers(max(PASS_PROBES, int(seconds / PAUSE_S)))
    view_ms, sequence_ms = add_beside_passes(grown, others, 2 * _FAR_ID, seconds, has_lock=False)
    lock_ms, _ = add_beside_passes(grown, others, 3 * _FAR_ID, seconds, has_lock=True)
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
    beside = (
        Figure(f"an add, {VIEWS}, p99", "ms", view_ms),
        Figure(f"an add, {LOCK}, p99", "ms", lock_ms),
        Figure(f"reading the sequence, {VIEWS}, p99", "ms", sequence_ms),
    )
    right: Goals = {
        "unseen_adds": float(batches[1] + singles[1]),
        "missed_references": float(busy.missed + busy.ghosts + busy.lost),
    }
    timed: Goals = {
        "add_microseconds": max(batches[0], singles[0]),
        "add_beside_passes_ms": view_ms,
        "sequence_beside_passes_ms": sequence_ms,
        "add_beside_passes_share": view_ms / lock_ms,
    }
    return growth, search, beside, right, timed


def _merge_peaks(config: Config) -> Mapping[tuple[int, str], float]:
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


def _seal(dim: int) -> tuple[Origin, Any]:
    """The origin of a snapshot, and a vault's keys for it."""
    vault = Vault(KeyRing.generate(), dim)
    origin = Origin("exact8", dim, "bench", vault.rotation_id, vault.deployment_id)
    return origin, vault.sealer()


def _snapshot(
    gallery: Gallery, faces: Faces, config: Config, folder: Path, scanner: Scanner
) -> tuple[Figures, float, float]:
    """Saves, changes a little, saves again, and opens what was saved: figures, seconds to open it,
    and bytes of a reference with rows mapped."""
    origin, sealer = _seal(faces.dim)
    probes = mix(faces, config.batch)
    save_s = clock(lambda: save(folder, gallery, origin, sealer))[1]
    written = _sizes(folder)
    few = faces.newcomers(_CHANGED)
    gallery.add(np.arange(_FAR_ID, _FAR_ID + len(few)), few, gallery.sequence + 1)
    again_s = clock(lambda: save(folder, gallery, origin, sealer))[1]
    again = _sizes(folder)
    expected = gallery.search(probes, K).hits
    opened_s, same = [], True
    for is_mapped in (*[False] * _TIMES, True):
        opening = Opening(scanner=scanner, mapped=is_mapped)
        opened, seconds = clock(partial(load, folder, origin, sealer, opening=opening))
        opened_s.append(seconds)
        same = same and _same(opened.search(probes, K).hits, expected)
    gallery.remove(np.arange(_FAR_ID, _FAR_ID + len(few)), gallery.sequence + 1)
    new_bytes = sum(size for name, size in again.items() if name not in written)
    *plain_s, mapped_s = opened_s
    figures = (
        Figure("save", "s", save_s),
        Figure("save", "MB", sum(written.values()) / 1e6),
        Figure(f"save again after {_CHANGED:,} adds", "s", again_s),
        Figure(f"save again after {_CHANGED:,} adds", "MB written", new_bytes / 1e6),
        Figure("open, verified", "s", min(plain_s)),
        Figure("open, verified, rows mapped", "s", mapped_s),
        Figure("answers as before", "share", float(same)),
    )
    return figures, min(plain_s), opened.account().bytes_per_reference


def _same(hits: Hits, expected: Hits) -> bool:
    return np.array_equal(hits.ids, expected.ids) and np.array_equal(hits.scores, expected.scores)


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file; its name changes with its content, but for the manifest's."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def _erase(gallery: Gallery, count: int) -> Figures:
    """Removes references of the large segment, then takes them out of memory."""
    ids = np.random.default_rng(count).permutation(gallery.ids)[:count]
    remove_s = clock(lambda: gallery.remove(ids, gallery.sequence + 1))[1]
    compact_s = clock(gallery.compact)[1]
    return (
        Figure("out of every answer, vector and code wiped", "ms", remove_s * 1e3),
        Figure("segments rewritten, no trace left", "s", compact_s),
    )


def _hold(config: Config, reason: str) -> SuiteOutput:
    """Builds the gallery piece by piece, saves it, and opens it again, with nothing beside it:
    what fits where the suite as a whole does not."""
    refuse_too_much(config.references, config.dim, _HELD_INDEXES)
    scanner = Scanner()
    gallery = open_empty(config.dim, scanner)
    for start in range(0, config.references, _HELD_AT_ONCE):
        count = min(_HELD_AT_ONCE, config.references - start)
        piece = Faces(count, config.dim, config.seed + start).references
        gallery.add(np.arange(start, start + count), piece, gallery.sequence + 1)
        gallery.settle()
    known = piece[-config.batch :].copy()
    ids = np.arange(config.references - len(known), config.references)
    origin, sealer = _seal(config.dim)
    with open_folder(config.folder) as place:
        folder = place / "gallery"
        save(folder, gallery, origin, sealer)
        del gallery, piece
        # From now on the peak is that of opening and searching.
        Path("/proc/self/clear_refs").write_text("5")
        opening = Opening(scanner=scanner)
        opened, open_s = clock(partial(load, folder, origin, sealer, opening=opening))
        hits = opened.search(known, K).hits
        peak_gib = _status_bytes("VmHWM") / 2**30
    scanner.close()
    missed = sum(int(key not in hits.of(place)[0]) for place, key in enumerate(ids.tolist()))
    figures = (
        Figure("open, verified", "s", open_s),
        Figure("opened and searched, the process at most", "GiB", peak_gib),
        Figure("references not found by their vectors", "references", float(missed)),
    )
    setup: Setup = {
        "references": config.references,
        "dim": config.dim,
        "population": describe_population(config.dim),
        "seed": config.seed,
        "threads": cores(),
        "kernel": scanner.kernel,
        "filesystem": filesystem_of(config.folder),
        "left out": reason,
        "looked_for": len(ids),
    }
    held: Goals = {"held_gib": peak_gib, "held_open_seconds": open_s}
    if (config.references, config.dim) != HELD_SIZE:
        held = dict.fromkeys(held, Skipped(size_reason(*HELD_SIZE)))
    measured: Goals = dict.fromkeys(_NOT_HELD, Skipped(reason))
    measured |= held | {"missed_references": float(missed)}
    return (Result("Held alone", setup, figures),), measured


_NOT_HELD = (
    "unseen_adds",
    "snapshot_answers",
    "bytes_per_reference",
    "open_over_build",
    "add_microseconds",
    "merge_peak",
    "add_beside_passes_ms",
    "sequence_beside_passes_ms",
    "add_beside_passes_share",
)
"""Goals that say nothing of a gallery held alone."""
