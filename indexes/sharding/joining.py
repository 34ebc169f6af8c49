"""Join of a sharded gallery: blocks of rows are sent between shards, which compare them.

The rows of one shard are sent, a block at a time, to each shard that they are compared with, which
returns the pairs. Transfers grow with the number of references, comparisons with its square, so
sending rows through this process costs little.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import Flags, Ids, Vectors, check_threshold
from indexes.errors import PairsExceeded
from indexes.gallery import Gallery
from indexes.joining import PAIRS_LIMIT, RECORD, Records
from indexes.joining.checkpoint import Checkpoint, JoinCoverage
from indexes.joining.join import JoinedGallery, Report, make_tiles, name_known
from indexes.joining.tiling import Pairs, no_check, sort_records
from indexes.sharding.host import Shard
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import Placement
from schema import frozen

BLOCK_BYTES = 16 << 20
"""Vectors in one message at most."""
BLOCK_COMPARISONS = 1 << 33
"""Some seconds of work for a shard."""
_FEWEST_ROWS = 4096
_CHECK_EVERY_S = 0.2
_ANY_ID = 0
"""No id is lower."""


@frozen(eq=False)
class ShardTile:
    """A block of one shard's rows, to be compared in another shard or the same."""

    source: int
    target: int
    ids: Ids
    above: int
    comparisons: int


MadeTile = tuple[tuple[Records], list[str]]
"""The pairs of a tile, and by what the others were dropped."""


def join_shards(
    gallery: Gallery,
    index: ShardedIndex,
    threshold: float,
    *,
    known: Ids | None = None,
    checkpoint: Path | None = None,
    limit: int = PAIRS_LIMIT,
    progress: Report | None = None,
    check: Callable[[], None] = no_check,
    block_rows: int | None = None,
) -> JoinedGallery:
    """`join_gallery` over the shards of a gallery's index; the gallery may change meanwhile.

    It covers every reference as of its `sequence`, but for some that were removed while it began,
    and some that were added then. As many tiles as there are shards run at a time; when it is
    stopped, by an exception of `check` or `progress`, at most those are repeated. While it runs, no
    virtual shard is moved; a checkpoint is of no use once one was.
    `ShardLost` where a shard is gone.
    """
    threshold = check_threshold(threshold)
    with index.staying() as placement:
        now = _cover(gallery.sequence, index.shards)
        terms = (threshold, placement.owners.tolist(), block_rows, name_known(known))
        fingerprint = hashlib.sha256(repr(terms).encode()).hexdigest()
        with Checkpoint(checkpoint, fingerprint, now.to_bytes()) as kept:
            then = JoinCoverage.from_bytes(kept.subject)
            there, (new, old) = then.remaining(now), then.split(known)
            rows = block_rows or _rows_at_once(then.ids, placement, index.dim)
            tiles = list(plan_tiles(new, old, placement, rows))
            make = _maker(index.shards, then.ids, None if old is None else new, threshold, limit)
            remaining = _pairs_of_tiles(tiles[kept.next_tile :], make, placement.shards, check)
            with closing(remaining):
                make_tiles(remaining, (tile.comparisons for tile in tiles), kept, limit, progress)
            records = [run.view(RECORD) for run in kept.runs()]
            return JoinedGallery(Pairs(records, there, kept.bounds), then.ids, then.sequence)


def plan_tiles(
    new: Ids, known: Ids | None, placement: Placement, block_rows: int
) -> Iterator[ShardTile]:
    """All tiles, ordered so that successive ones are for different shards.

    Without a known side, each pair of shards has one tile a block, and the sender alternates. With
    one, the new references of each shard are sent to every shard; two new ones are compared twice,
    and the second time is not counted.
    """
    shards = placement.shards
    left = _split(new, placement)
    right = None if known is None else _split(known, placement)
    most = max((-(-len(ids) // block_rows) for ids in left), default=0)
    for block in range(most):
        span = slice(block * block_rows, (block + 1) * block_rows)
        for distance in range(shards):
            for source in range(shards):
                target = (source + distance) % shards
                ids = left[source][span]
                if not len(ids) or (right is None and not _is_sent(source, target)):
                    continue
                yield _tile(left, right, source, target, ids, span.start)


def _tile(
    left: Sequence[Ids], right: Sequence[Ids] | None, source: int, target: int, ids: Ids, start: int
) -> ShardTile:
    if source == target:
        after = len(left[target]) - start
        comparisons = len(ids) * after - len(ids) * (len(ids) + 1) // 2
    elif right is None or source < target:
        comparisons = len(ids) * len(left[target])
    else:
        comparisons = 0
    if right is None:
        above = int(ids[0]) if source == target else _ANY_ID
        return ShardTile(source, target, ids, above, comparisons)
    comparisons += len(ids) * len(right[target])
    return ShardTile(source, target, ids, _ANY_ID, comparisons)


def _is_sent(source: int, target: int) -> bool:
    """True for one of both directions between two shards, so that all shards send equally."""
    if source == target:
        return True
    low, high = sorted((source, target))
    return target == (high if (low + high) % 2 else low)


def _split(ids: Ids, placement: Placement) -> list[Ids]:
    owners = placement.shard_of(ids)
    return [ids[owners == shard] for shard in range(placement.shards)]


def _rows_at_once(ids: Ids, placement: Placement, dim: int) -> int:
    largest = int(np.bincount(placement.shard_of(ids), minlength=1).max())
    affordable = BLOCK_COMPARISONS // max(largest, 1)
    return min(max(affordable, _FEWEST_ROWS), max(1, BLOCK_BYTES // (4 * dim)))


def _cover(sequence: int, shards: Sequence[Shard]) -> JoinCoverage:
    found = [future.result() for future in [shard.digests() for shard in shards]]
    ids, digests = map(np.concatenate, zip(*found, strict=True))
    order = np.argsort(ids)
    return JoinCoverage(sequence, ids[order], digests[order].view(np.uint64))


def _maker(
    shards: Sequence[Shard], ids_of_all: Ids, new: Ids | None, threshold: float, limit: int
) -> Callable[[ShardTile], MadeTile]:
    """Makes a tile; `new` are the ids that are sent to every shard, None where no side is known."""

    def make(tile: ShardTile) -> MadeTile:
        ids, vectors = shards[tile.source].held(tile.ids).result()
        target = shards[tile.target]
        left, right, scores, bounds = _join(target, ids, vectors, threshold, tile.above, limit)
        # A shard may have references that were added after the start.
        kept = _is_among(right, ids_of_all)
        if tile.source == tile.target or new is not None:
            kept &= (left < right) | ~_is_among(right, ids_of_all if new is None else new)
        records = np.empty(int(kept.sum()), RECORD)
        records["left"] = np.minimum(left, right)[kept]
        records["right"] = np.maximum(left, right)[kept]
        records["score"] = scores[kept]
        return (sort_records(records),), np.unique(bounds).tolist()

    return make


def _join(
    shard: Shard, ids: Ids, vectors: Vectors, threshold: float, above: int, limit: int
) -> list[NDArray[Any]]:
    """`Shard.join`, in halves where one message would have too many pairs: only the whole join has
    a limit, as without shards. `PairsExceeded` at more, and for a row that has so many alone."""
    try:
        return shard.join(ids, vectors, threshold, above).result()
    except PairsExceeded:
        if len(ids) == 1:
            raise
    middle = len(ids) // 2
    parts, pairs = [], 0
    for half in (slice(0, middle), slice(middle, None)):
        parts.append(_join(shard, ids[half], vectors[half], threshold, above, limit))
        pairs += len(parts[-1][0])
        if pairs > limit:
            raise PairsExceeded(
                f"more than {limit} pairs reach the threshold; raise it, or the limit"
            )
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _is_among(ids: Ids, ascending: Ids) -> Flags:
    if not len(ascending):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.equal(ascending[places], ids)


def _pairs_of_tiles(
    tiles: Sequence[ShardTile],
    make: Callable[[ShardTile], MadeTile],
    at_once: int,
    check: Callable[[], None],
) -> Generator[MadeTile, None, None]:
    """The pairs and bounds of these tiles in their order, so many made at a time."""
    waiting = iter(tiles)
    with ThreadPoolExecutor(at_once, "join") as pool:
        # No further ahead: tiles made beyond the next one to be kept are lost when it is stopped.
        made = deque(pool.submit(make, tile) for tile in islice(waiting, at_once))
        try:
            while made:
                making = made.popleft()
                while not wait([making], _CHECK_EVERY_S).done:
                    check()
                made_tile = making.result()
                made.extend(pool.submit(make, tile) for tile in islice(waiting, 1))
                yield made_tile
        finally:
            for future in made:
                future.cancel()
