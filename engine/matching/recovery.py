"""Brings a gallery to the state of the store: from a snapshot and what came after, or whole."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from engine.errors import GalleryBehind
from engine.registry.audit import write_mark
from engine.registry.references import ReferenceChunk
from engine.registry.store import Store
from indexes.base import Flags, Ids, Ints, overwrite_when_freed
from indexes.errors import DeviceMissing, IndexFault, ShardLost, SnapshotMissing
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.host import Shard
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import NOWHERE, Placement, ShardMark, ShardState
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import Origin, SegmentEntry
from indexes.snapshots.snapshot import Opening
from schema import frozen

_log = logging.getLogger(__name__)
# So much is read from the store before it is added, so that a rebuild makes large segments.
BULK_BYTES = 1 << 29
_LOG_EVERY_S = 5.0
NEVER = np.iinfo(np.int64).max

Value = TypeVar("Value")


_USUAL = Opening()


@frozen(eq=False)
class Restored:
    """A gallery that equals the store.

    `loaded` references came from the snapshot, `replayed` changes from the store; `fault` says
    why a snapshot that was there could not be used.
    """

    gallery: Gallery
    loaded: int
    replayed: int
    fault: str | None = None


def restore_gallery(store: Store, folder: Path, config: Opening = _USUAL) -> Restored:
    """Opens the snapshot in `folder` and replays the store above its watermark.

    Damage, a snapshot of another model, key ring or kind, or one of another history (the store
    was restored from a backup since) means a rebuild from the store and a line in the log: never
    a wrong answer.
    """
    fault = None
    try:
        gallery = snapshot.load(
            folder,
            origin_of(store, config),
            store.vault.sealer(),
            lambda header: _is_past(store, header.mark),
            config,
        )
        return Restored(gallery, len(gallery), _replay(store, gallery))
    except SnapshotMissing:
        pass
    except DeviceMissing:
        # Not a fault of the snapshot.
        raise
    except (IndexFault, OSError) as error:
        fault = str(error)
        if isinstance(error, OSError):
            # Its text has the path.
            fault = f"the snapshot cannot be read ({error.strerror or type(error).__name__})"
        _log.warning("the gallery is rebuilt from the store: %s", fault)
    gallery = Gallery(SegmentedIndex(store.vault.dim, config.segments))
    return Restored(gallery, 0, _replay(store, gallery), fault)


Tell = Callable[[str], None]
"""Called with a line on what cannot be searched meanwhile."""
Load = Callable[[int, Shard], Future[None]]
"""Has a copy of a shard of that number read its snapshot; the future fails where there is none."""
GiveUp = Callable[[Sequence[int]], None]
"""Makes the snapshots of the shards of these numbers useless, wherever they are."""


def restore_shards(
    store: Store,
    index: ShardedIndex,
    tell: Tell = _log.info,
    load: Load | None = None,
    give_up: GiveUp = lambda _: None,
) -> Restored:
    """Brings the shards to the state of the store, each from what it holds; for the writer.

    A shard that has all of its virtual shards up to some sequence, in this store's history, keeps
    them and gets what came after; any other reads its snapshot, with `load`, or is cleared and
    built again, alone, and its snapshot is given up first: what it had may become another shard's,
    and an erasure there would not find it. Virtual shards that none has go to those that there are
    to be. Of several copies of a shard of which one can go on, the others are ended: see
    `fill_copy`. `ShardLost` where the shards do not take what they are given.
    """
    sequence, history = store.sequence(), _mark_of(store)
    parts = [[_Task(at, copy) for copy in shard.copies] for at, shard in enumerate(index.shards)]
    _judge(store, [*chain.from_iterable(parts)], sequence)
    lost = [own for own in parts if _is_lost(own)]
    if load is not None and lost:
        _load_snapshots(load, [*chain.from_iterable(lost)])
        _judge(store, [*chain.from_iterable(lost)], sequence)
    give_up([own[0].number for own in lost if _is_lost(own)])
    chosen = [_choose_copies(*one) for one in zip(index.shards, parts, strict=True)]
    loaded = sum(own[0].count for own in chosen if not _is_lost(own))
    tasks = [*chain.from_iterable(chosen)]
    virtual_shards = len(index.placement.owners)
    index.placement = placement = _place(tasks, virtual_shards, index.read_wanted())
    mark = ShardMark(sequence, history)
    changed = _bring(store, tasks, placement, mark, tell)
    wrong = _find_wrong(store, tasks, placement)
    if wrong:
        _log.warning("%d shards do not hold what the store has", len(wrong))
        for task in wrong:
            task.start, task.owned = None, b""
        changed += _bring(store, wrong, placement, mark, tell)
        if _find_wrong(store, tasks, placement):
            raise ShardLost("the gallery's shards do not hold what the store has: report this")
    index.recount()
    return Restored(Gallery(index, sequence), loaded, changed)


def fill_copy(
    store: Store, index: ShardedIndex, number: int, copy: Shard, start: int = -1, *, last: bool
) -> int:
    """Gives a new copy of a shard what the store has of it; returns the sequence up to which.

    The writer may go on meanwhile, but nothing may be moved: give that sequence as `start` of the
    next call. In the `last` one nothing is written, and then the copy is whole.
    """
    mark = ShardMark(store.sequence(), _mark_of(store))
    owned = index.placement.owned(number)
    task = _Task(number, copy) if start < 0 else _Task(number, copy, start, owned)
    _bring(store, [task], index.placement, mark, whole=last)
    return mark.sequence


def finish_move(store: Store, gallery: Gallery, index: ShardedIndex) -> int:
    """Has a virtual shard answered for by the shard that it was copied to, at one moment; returns
    how many references it has. On the writer's thread, where the gallery equals the store."""
    sequence, history = store.sequence(), _mark_of(store)
    if gallery.sequence != sequence:
        raise GalleryBehind("the gallery is not what is stored: open the registry again")
    return gallery.rearrange(partial(index.finish_move, sequence, history))


@dataclass(slots=True, eq=False)
class _Task:
    """A copy of a shard to be brought to the store: what it `owned` at `start`, None for nothing
    that is certain."""

    number: int
    copy: Shard
    start: int | None = None
    owned: bytes = b""
    count: int = 0

    def since(self, placement: Placement) -> Ints:
        """After which sequence it needs the references of each virtual shard, `NEVER` of those of
        other shards: int64[virtual shards]."""
        since = np.where(placement.are_in(self.owned), self.start or 0, 0)
        return np.where(placement.owners == self.number, since, NEVER)


def _is_lost(copies: Sequence[_Task]) -> bool:
    """True where no copy of a shard can go on."""
    return all(task.start is None for task in copies)


def _choose_copies(shard: Shard, copies: list[_Task]) -> list[_Task]:
    """The copies of a shard that can go on, all where none can; the others are ended."""
    # The one that has most; a copy with other virtual shards was left in the middle of a move.
    best = max(copies, key=lambda task: -1 if task.start is None else task.start)
    useful = [one for one in copies if one.start is not None and one.owned == best.owned]
    for task in copies:
        if useful and task not in useful:
            shard.drop(task.copy)
    return useful or copies


def _judge(store: Store, tasks: Sequence[_Task], sequence: int) -> None:
    """Notes from where each can go on, and with what."""
    for task, state in zip(tasks, _all([task.copy.state() for task in tasks]), strict=True):
        mark, task.count = state.mark, state.count
        if mark is None or mark.sequence > sequence or not _is_past(store, mark.history):
            task.start, task.owned = None, b""
        else:
            task.start, task.owned = mark.sequence, mark.owned


def _place(tasks: Sequence[_Task], virtual_shards: int, wanted: int) -> Placement:
    """Every virtual shard where it is; of those that a crash has left with two shards, the one that
    has more; and what nobody has where there is least."""
    if all(task.start is None for task in tasks):
        return Placement.spread(virtual_shards, wanted)
    found = Placement(np.full(virtual_shards, NOWHERE))
    for task in sorted(tasks, key=lambda task: -(task.start or 0)):
        is_free = found.owners == NOWHERE
        found.owners[is_free & found.are_in(task.owned)] = task.number
    is_free = found.owners == NOWHERE
    return Placement(np.where(is_free, found.balanced(wanted).owners, found.owners))


def _load_snapshots(load: Load, tasks: Sequence[_Task]) -> None:
    """Each shard's own, where it has one that is sound; all at once."""
    loading = [load(task.number, task.copy) for task in tasks]
    wait(loading)
    for task, future in zip(tasks, loading, strict=True):
        fault = future.exception()
        if fault is None or isinstance(fault, SnapshotMissing):
            continue
        if isinstance(fault, ShardLost):
            raise fault
        # The text of another error may have a path.
        why = fault if isinstance(fault, IndexFault) else type(fault).__name__
        _log.warning("the snapshot of shard %d is not used: %s", task.number, why)


def _bring(
    store: Store,
    tasks: Sequence[_Task],
    placement: Placement,
    mark: ShardMark,
    tell: Tell = _log.debug,
    *,
    whole: bool = True,
) -> int:
    """Clears, removes and adds what is needed; returns how many references changed."""
    anew = [task for task in tasks if task.start is None]
    _tell_missing(tasks, placement, tell)
    _all([task.copy.clear() for task in anew])
    kept = [task for task in tasks if task.start is not None]
    changed = _remove_gone(store, kept, placement, mark.sequence)
    needs = [(task, task.since(placement)) for task in tasks]
    # What a shard has up to the mark is not read.
    least = np.min([since for _, since in needs], axis=0, initial=NEVER)
    least[least >= mark.sequence] = NEVER

    def choose(ids: Ids, sequences: Ints) -> Flags:
        wanted: Flags = sequences > least[placement.virtual_shard_of(ids)]
        return wanted

    waiting: list[Future[None]] = []
    chunks = store.references(min(int(least.min(initial=NEVER)), mark.sequence), choose)
    for batch in _gather(_log_progress(chunks), above=-1):
        # The shards add one batch while the next is read.
        _all(waiting)
        waiting = []
        virtual_shards = placement.virtual_shard_of(batch.ids)
        for task, since in needs:
            rows = np.flatnonzero(batch.sequences > since[virtual_shards])
            if task.start is not None:
                rows = rows[~task.copy.contains(batch.ids[rows]).result()]
            if len(rows):
                waiting.append(task.copy.add(batch.ids[rows], batch.vectors[rows]))
                changed += len(rows)
    _all(waiting)
    none = np.empty(0, np.int64)
    for task in tasks:
        task.owned = placement.owned(task.number)
    marks = [replace(mark, owned=task.owned) if whole else None for task in tasks]
    _all([task.copy.remove(none, one) for task, one in zip(tasks, marks, strict=True)])
    return changed


def _tell_missing(tasks: Sequence[_Task], placement: Placement, tell: Tell) -> None:
    """Says what cannot be searched before it is built from the store."""
    owners = set(placement.owners.tolist())
    anew = sorted({task.number for task in tasks if task.start is None} & owners)
    missing = np.zeros(len(placement.owners), np.bool_)
    for task in tasks:
        if task.start is not None:
            missing |= (placement.owners == task.number) & ~placement.are_in(task.owned)
    lacking = [f"shards {', '.join(map(str, anew))} of {placement.shards}"] if anew else []
    if missing.any():
        lacking.append(f"{missing.sum()} of {len(missing)} virtual shards")
    for one in lacking:
        tell(f"{one} are built from the store: nothing is searched meanwhile")


def _remove_gone(store: Store, tasks: Sequence[_Task], placement: Placement, sequence: int) -> int:
    """Removes what was removed from the store since, and what is another shard's by now; returns
    how many references."""
    removed = 0
    behind = [task for task in tasks if (task.start or 0) < sequence]
    gone = store.removals(min(task.start or 0 for task in behind)) if behind else None
    for task in tasks:
        own = placement.owners == task.number
        if (placement.are_in(task.owned) & ~own).any():
            ids = task.copy.ids().result()
            foreign = ids[~own[placement.virtual_shard_of(ids)]]
            task.copy.remove(foreign).result()
        if gone is None:
            continue
        mine = gone[own[placement.virtual_shard_of(gone)]]
        mine = mine[task.copy.contains(mine).result()]
        if len(mine):
            task.copy.remove(mine).result()
        removed += len(mine)
    return removed


def _find_wrong(store: Store, tasks: Sequence[_Task], placement: Placement) -> list[_Task]:
    """The shards whose ids are not the store's: by count and sum, and only where these differ one
    by one."""
    states = _all([task.copy.state() for task in tasks])
    first: dict[int, ShardState] = {}
    for task, state in zip(tasks, states, strict=True):
        first.setdefault(task.number, state)
    count = sum(state.count for state in first.values())
    total = sum(state.ids_sum for state in first.values()) % (1 << 64)
    are_alike = all(state == first[task.number] for task, state in zip(tasks, states, strict=True))
    if are_alike and (count, total) == store.live_total():
        return []
    ids = np.sort(store.live_ids())
    owners = placement.shard_of(ids)
    return [
        task
        for task in tasks
        if not np.array_equal(task.copy.ids().result(), ids[owners == task.number])
    ]


def _all(futures: Sequence[Future[Value]]) -> list[Value]:
    wait(futures)
    return [future.result() for future in futures]


def save_snapshot(
    store: Store,
    gallery: Gallery,
    folder: Path,
    config: Opening = _USUAL,
    trusted: Collection[SegmentEntry] = (),
) -> None:
    """Saves the gallery for the next start; to be called by the writer.

    `config` is what the gallery was restored with, `trusted` what `withdraw_snapshot` returned.
    """
    snapshot.save(
        folder,
        gallery,
        origin_of(store, config),
        store.vault.sealer(),
        read_mark=lambda _: _mark_of(store),
        trusted=trusted,
        mapped=config.mapped,
    )


def withdraw_snapshot(
    store: Store,
    gallery: Gallery,
    folder: Path,
    ids: Collection[int],
    config: Opening = _USUAL,
    trusted: Collection[SegmentEntry] = (),
) -> tuple[SegmentEntry, ...]:
    """Takes the snapshot out of force and removes every file that may hold one of the references.

    The files that stay are those of segments that the gallery still has and that have lost no
    reference yet; what is returned lets the next save name them again. `trusted` is what an
    earlier call returned, where nothing was saved since.
    """
    wanted = np.array(sorted(ids), np.int64)
    clean = [
        segment.name
        for segment in gallery.segments
        if not segment.removed and not segment.find(wanted)[1].any()
    ]
    origin = origin_of(store, config)
    return snapshot.withdraw(folder, origin, store.vault.sealer(), clean, trusted)


def origin_of(store: Store, config: Opening = _USUAL) -> Origin:
    """The origin that a snapshot must have for this store."""
    return Origin(
        index_kind=SegmentedIndex.kind,
        dim=store.vault.dim,
        model_digest=store.model_digest,
        key_id=store.vault.rotation_id,
        deployment_id=store.vault.deployment_id,
        precision=config.segments.rows,
    )


def _mark_of(store: Store) -> str:
    return write_mark(*store.audit_head())


def _is_past(store: Store, mark: str) -> bool:
    """True if the store's audit chain contains the entry at which a snapshot or shard was made.

    Sequences alone cannot tell: a store restored from a backup reaches them again, with other
    people under the same numbers.
    """
    number = int(mark.partition(":")[0] or -1)
    digest = store.audit_hash_at(number)
    return digest is not None and mark == write_mark(number, digest)


def _replay(store: Store, gallery: Gallery) -> int:
    """Brings the gallery from its watermark to the store's; returns how many references changed."""
    start, sequence = gallery.sequence, store.sequence()
    # An empty gallery need not be asked, once for each of many.
    gone = store.removals(start).tolist() if len(gallery) else []
    removed = [key for key in gone if key in gallery]
    if removed:
        # A commit either adds references or removes some: where both are to be replayed, there
        # are two sequences at least, and the later one is left for what is added.
        gallery.remove(np.array(removed, dtype=np.int64), start + 1)
    added = 0
    for batch in _gather(_log_progress(store.references(start)), above=gallery.sequence):
        # Above that of the removals, which may have been the later ones.
        gallery.add(batch.ids, batch.vectors, max(int(batch.sequences[-1]), gallery.sequence + 1))
        added += len(batch.ids)
    if gallery.sequence < sequence:
        gallery.remove(np.empty(0, dtype=np.int64), sequence)
    return len(removed) + added


def _log_progress(chunks: Iterable[ReferenceChunk]) -> Iterator[ReferenceChunk]:
    """The same chunks; logs the progress every few seconds."""
    read, logged_at = 0, time.monotonic()
    for chunk in chunks:
        read += len(chunk.ids)
        if time.monotonic() - logged_at >= _LOG_EVERY_S:
            logged_at = time.monotonic()
            _log.info("the gallery is built from the store: %d references read", read)
        yield chunk


def _gather(chunks: Iterable[ReferenceChunk], above: int) -> Iterator[ReferenceChunk]:
    """The same references in large pieces; each ends where a sequence does, and above this one."""
    held: list[ReferenceChunk] = []
    size_bytes, wanted_bytes = 0, BULK_BYTES
    for chunk in chunks:
        held.append(chunk)
        size_bytes += chunk.vectors.nbytes
        if size_bytes < wanted_bytes:
            continue
        whole = _join(held)
        # The last sequence may go on in the next chunk.
        end = int(np.searchsorted(whole.sequences, whole.sequences[-1]))
        if end and whole.sequences[end - 1] > above:
            yield _cut(whole, slice(0, end))
            whole = _cut(whole, slice(end, None))
        held, size_bytes = [whole], whole.vectors.nbytes
        # Where hardly anything could be given, joining again at once would bring no more.
        wanted_bytes = max(BULK_BYTES, 2 * size_bytes)
    if held:
        yield _join(held)


def _join(chunks: Sequence[ReferenceChunk]) -> ReferenceChunk:
    if len(chunks) == 1:
        return chunks[0]
    return ReferenceChunk(
        np.concatenate([chunk.ids for chunk in chunks]),
        overwrite_when_freed(np.concatenate([chunk.vectors for chunk in chunks])),
        np.concatenate([chunk.sequences for chunk in chunks]),
    )


def _cut(chunk: ReferenceChunk, rows: slice) -> ReferenceChunk:
    vectors = overwrite_when_freed(chunk.vectors[rows].copy())
    return ReferenceChunk(chunk.ids[rows], vectors, chunk.sequences[rows])
