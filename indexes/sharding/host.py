"""The content and calls of a shard, wherever it runs, and a shard in this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import CertifiedHits, Ids, MemoryAccount, Vectors, overwrite_when_freed
from indexes.errors import IdInvalid, ShardFenced, SnapshotForeign
from indexes.exact.device import open_scanner
from indexes.exact.exact8 import Exact8Segment
from indexes.gallery import Gallery
from indexes.joining.join import join
from indexes.joining.tiling import References
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.shards import CHANGES, ShardMark, ShardPlan, ShardState, virtual_shards_of
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import Header, Origin, Sealer
from indexes.snapshots.snapshot import Opening
from indexes.upkeep import Upkeep

CALLS_AT_ONCE = 4
"""Concurrent calls of a shard, long ones apart; more would only share the same cores."""

JOINED_LIMIT = 2_000_000
"""Pairs that one call of `join` may return, 40 megabytes: with more it is to be asked in parts."""

# Listing so many ids costs as much as looking one up.
_IDS_FOR_ONE_LOOK_UP = 32
_FENCED = "the shards of the gallery obey a later writer: open the registry again"


class ShardHost:
    """A gallery with its upkeep, and the calls of `Shard`; thread-safe.

    Its methods take and return only arrays, numbers and the data classes of this package, so that
    any remote call can carry them. It may outlive who calls it: `adopt` gives it to the writer of a
    later epoch, and from then on `call` refuses all earlier ones.
    """

    def __init__(self, plan: ShardPlan) -> None:
        self._plan = plan
        self._epoch = plan.epoch
        # By the sequence of its own gallery: of the last change, and of all while a save runs.
        self._marks: dict[int, ShardMark | None] = {}
        self._is_saving = False
        self._saving = Lock()
        config = plan.config or SegmentsConfig()
        self._scanner = open_scanner(config.device, plan.threads)
        self._changing = Lock()
        # Of a virtual shard that is on its way here, and what was removed from it meanwhile.
        self._received: list[tuple[Ids, Vectors]] = []
        self._discarded: list[Ids] = []
        self._gallery, self._upkeep = self._open()
        self._gallery.warm()

    @property
    def search_fault(self) -> str | None:
        """Why it searches more slowly than it was set up to, or will before long, since nothing
        is sealed or merged; None where it does not."""
        return self._scanner.fault or self._upkeep.fault

    def adopt(self, epoch: int, *, force: bool = False) -> ShardState:
        """Obeys the writer of this epoch from now on; `ShardFenced` where that of a later one has
        it, or with `force` forgets all that it did."""
        with self._changing:
            if epoch < self._epoch:
                if not force:
                    raise ShardFenced(_FENCED)
                self._clear()
            self._epoch = epoch
            self.abandon()
        return self.state()

    def call(self, epoch: int, operation: str, *arguments: Any) -> Any:
        """Performs an operation for the writer of this epoch; `ShardFenced` for an earlier one.

        No change of an earlier writer comes after `adopt`, and no answer to it tells of what the
        later one has done.
        """
        perform = getattr(self, operation)
        if operation in CHANGES:
            with self._changing:
                self.check_epoch(epoch)
                return perform(*arguments)
        self.check_epoch(epoch)
        value = perform(*arguments)
        self.check_epoch(epoch)
        return value

    def check_epoch(self, epoch: int) -> None:
        """`ShardFenced` where a later writer has it."""
        if epoch < self._epoch:
            raise ShardFenced(_FENCED)

    def state(self) -> ShardState:
        with self._changing:
            ids = self._gallery.ids.view(np.uint64)
            mark = self._marks.get(self._gallery.sequence)
            return ShardState(mark, len(ids), int(ids.sum(dtype=np.uint64)))

    def add(self, ids: Ids, vectors: Vectors, mark: ShardMark | None = None) -> None:
        """Adds new ids; `mark` where with these the shard has all up to it."""
        with self._marking(mark) as sequence:
            self._gallery.add(ids, vectors, sequence)

    def remove(self, ids: Ids, mark: ShardMark | None = None) -> None:
        with self._marking(mark) as sequence:
            self._gallery.remove(ids, sequence)

    def receive(self, ids: Ids, vectors: Vectors) -> None:
        """Keeps references aside, which no search finds, for `take`; known ids are left out."""
        known = [*(held for held, _ in self._received), *self._discarded]
        new = ~np.isin(ids, np.concatenate([np.empty(0, np.int64), *known]))
        self._received.append((ids[new], vectors[new]))

    def discard(self, ids: Ids) -> None:
        """Wipes these ids from what was received, or will be."""
        self._discarded.append(ids)
        for held, vectors in self._received:
            vectors[np.isin(held, ids)] = 0

    def take(self, ids: Ids, mark: ShardMark) -> None:
        """Adds these of the received references, and forgets the others; `IdInvalid`, with none
        added, where one was not received."""
        nothing = (np.empty(0, np.int64), np.empty((0, self._plan.dim), np.float32))
        held, vectors = map(np.concatenate, zip(nothing, *self._received, strict=True))
        overwrite_when_freed(vectors)
        if not np.isin(ids, held).all():
            raise IdInvalid("a virtual shard has not arrived whole: it is to be moved again")
        order = np.argsort(held)
        places = order[np.searchsorted(held, ids, sorter=order)]
        self.add(ids, overwrite_when_freed(vectors[places]), mark)
        self.abandon()

    def abandon(self) -> None:
        """Wipes all that was received."""
        for _, vectors in self._received:
            vectors[:] = 0
        self._received, self._discarded = [], []

    def clear(self) -> None:
        """Removes everything, as from a shard whose content is not certain."""
        self._clear()

    def save(self, folder: str, origin: Origin, sealer: Sealer) -> None:
        """Saves its snapshot in a folder where it is, without anything that was removed; fails
        with `SnapshotForeign` in the middle of a change of several steps."""
        with self._saving:
            gallery = self._gallery
            gallery.compact()
            with self._changing:
                self._is_saving = True
            try:
                snapshot.save(Path(folder), gallery, origin, sealer, read_mark=self._write_mark)
            finally:
                with self._changing:
                    self._is_saving = False

    def load(self, folder: str, origin: Origin, sealer: Sealer) -> None:
        """Takes the content and mark of its snapshot instead of its own; as `snapshot.load`."""
        headers: list[Header] = []

        def accept(header: Header) -> bool:
            headers.append(header)
            return True

        opening = Opening(self._plan.config or SegmentsConfig(), self._scanner)
        gallery = snapshot.load(Path(folder), origin, sealer, accept, opening)
        sequence, history, *owned = headers[0].mark.split(" ")
        if not owned:
            raise SnapshotForeign(
                "the snapshot of the shard is of a version that shared references by another rule"
            )
        self._clear(gallery)
        mark = ShardMark(int(sequence), history, bytes.fromhex(owned[0]))
        self._marks = {gallery.sequence: mark}

    def forget(self, folder: str) -> None:
        """Removes its snapshot."""
        with self._saving:
            shutil.rmtree(folder, ignore_errors=True)

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        return self._gallery.search(queries, k).hits

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        return self._gallery.range_search(queries, threshold).hits

    def vectors(self, ids: Ids) -> Vectors:
        return self._gallery.vectors(ids)

    def contains(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of these ids are in the shard: bool[n]."""
        if len(ids) * _IDS_FOR_ONE_LOOK_UP > len(self._gallery):
            return np.isin(ids, self._gallery.ids)
        return np.array([key in self._gallery for key in ids.tolist()], np.bool_)

    def held(self, ids: Ids) -> list[NDArray[Any]]:
        """The ids of these in the shard, and their vectors: int64[m], float32[m, dim]."""
        return list(self._gallery.held(ids))

    def join(self, ids: Ids, vectors: Vectors, threshold: float, above: int) -> list[NDArray[Any]]:
        """Pairs at or above the threshold of these rows with the shard's own of ids >= `above`:
        int64[m] ids given, int64[m] own ids, float32[m] scores; sorted; and their bounds."""
        pinned = self._gallery.pin()
        rows = Exact8Segment(ids, vectors, scanner=self._scanner)
        counted = [
            alive & (segment.row_ids >= above)
            for segment, alive in zip(pinned.segments, pinned.alive, strict=True)
        ]
        pairs = join([rows], References(pinned.segments, counted), threshold, limit=JOINED_LIMIT)
        return [pairs.left, pairs.right, pairs.scores, np.array(pairs.bounds, np.str_)]

    def digests(self) -> list[NDArray[np.int64]]:
        """Its ids, ascending, and the digest of each reference, as `References.digests` says."""
        pinned = self._gallery.pin()
        ids, digests = References(pinned.segments, pinned.alive).digests()
        return [ids, digests.view(np.int64)]

    def ids(self) -> Ids:
        return self._gallery.ids

    def ids_in(self, virtual_shard: int) -> Ids:
        """Its ids of one virtual shard, ascending."""
        ids = self._gallery.ids
        own: Ids = ids[virtual_shards_of(ids, self._plan.virtual_shards) == virtual_shard]
        return own

    def count(self) -> int:
        return len(self._gallery)

    def account(self) -> MemoryAccount:
        return self._gallery.account()

    def compact(self) -> None:
        """Frees the memory of removed references now."""
        self._gallery.compact()

    def _open(self, gallery: Gallery | None = None) -> tuple[Gallery, Upkeep]:
        plan = self._plan
        if gallery is None:
            gallery = Gallery(SegmentedIndex(plan.dim, plan.config, scanner=self._scanner))
        return gallery, Upkeep(gallery).start()

    def _clear(self, gallery: Gallery | None = None) -> None:
        self._marks = {}
        self.abandon()
        self._upkeep.close()
        self._gallery, self._upkeep = self._open(gallery)

    @contextmanager
    def _marking(self, mark: ShardMark | None) -> Iterator[int]:
        """The sequence of the next change, which has this mark as soon as it is seen."""
        sequence = self._gallery.sequence + 1
        self._marks[sequence] = mark
        try:
            yield sequence
        except BaseException:
            del self._marks[sequence]
            raise
        if not self._is_saving:
            self._marks = {sequence: mark}

    def _write_mark(self, sequence: int) -> str:
        mark = self._marks.get(sequence)
        if mark is None:
            raise SnapshotForeign(
                "the shard is being changed and has no snapshot yet; save it later"
            )
        return f"{mark.sequence} {mark.history} {mark.owned.hex()}"

    def close(self) -> None:
        """Stops the threads, after the running job of upkeep."""
        self._upkeep.close()
        self._scanner.close()
