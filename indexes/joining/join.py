"""Exact join: every pair at or above a threshold; that of a gallery goes on after a stop."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from time import monotonic

import numpy as np

from indexes.base import Ids, Vectors, check_ids, check_threshold
from indexes.errors import PairsExceeded, SearchInvalid, VectorInvalid
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining import PAIRS_LIMIT, RECORD, TILE_ROWS, Records
from indexes.joining.checkpoint import Checkpoint, JoinCoverage
from indexes.joining.tiling import Pairs, References, Tiling, no_check
from schema import frozen


@frozen
class Progress:
    """Progress of a join: `comparisons` of `comparisons_total` pairs of references are decided, by
    which the remaining time is estimated, for tiles differ."""

    tiles_done: int
    tiles: int
    comparisons: int
    comparisons_total: int
    pairs: int


@frozen(eq=False)
class JoinedGallery:
    """The pairs among `ids` (int64[n], ascending) of a gallery, as of the change `sequence`."""

    pairs: Pairs
    ids: Ids
    sequence: int


Report = Callable[[Progress], None]


def join(
    left: Sequence[Exact8Segment],
    right: Sequence[Exact8Segment] | References | None,
    threshold: float,
    *,
    tile_rows: int = TILE_ROWS,
    limit: int = PAIRS_LIMIT,
) -> Pairs:
    """All pairs of `left` and `right`, or within `left` where there is no right, in memory.

    Within `left` the smaller id is on the left. The result depends on vectors, ids and threshold
    alone. References may be removed meanwhile: those that stay until the end are in all their
    pairs, the others in some or none. `PairsExceeded` at more than `limit` pairs.
    """
    _require_terms(threshold, tile_rows, limit)
    one, other = _references(left), None if right is None else _references(right)
    if other is not None and None not in (one.dim, other.dim) and one.dim != other.dim:
        raise VectorInvalid(f"dim is {one.dim} and {other.dim}; join segments of one dimension")
    tiling = Tiling(one, other, float(threshold), within=other is None, tile_rows=tile_rows)
    with Checkpoint(None, "") as kept:
        _make(tiling, kept, limit, None)
        return Pairs(_records(kept), bounds=kept.bounds)


def join_gallery(
    gallery: Gallery,
    threshold: float,
    *,
    known: Ids | None = None,
    checkpoint: Path | None = None,
    tile_rows: int = TILE_ROWS,
    limit: int = PAIRS_LIMIT,
    progress: Report | None = None,
    scanner: Scanner | None = None,
    check: Callable[[], None] = no_check,
) -> JoinedGallery:
    """`join` within a gallery at this moment; the gallery may change meanwhile.

    With `known`, the `ids` of an earlier answer, it returns only pairs that are new since then:
    those with a reference that is not among them.

    With a checkpoint folder, pairs are written there, each tile is on the disk when the next one
    begins, and a join that was stopped at any moment continues after its last whole tile, however
    the references are distributed over segments by then. It covers the references of its first
    start that are still there, as `ids` and `sequence` say; those added later are left to the next
    join, and `ids` are without what was removed while it first started. `CheckpointInvalid` where
    the folder is damaged, in use, of other parameters, of other references or of a later sequence.

    A `scanner` of its own keeps the join off the threads that search the gallery. `progress` is
    called at the start and after each tile, `check` several times a second: an exception from them
    stops the join, within a tile, which a resumed join makes again.
    """
    _require_terms(threshold, tile_rows, limit)
    pinned = gallery.pin()
    references = References(pinned.segments, pinned.alive)
    # All that the tiles depend on except the references.
    terms = (float(threshold), True, known is not None, tile_rows, name_known(known))
    fingerprint = hashlib.sha256(repr(terms).encode()).hexdigest()
    now = JoinCoverage(pinned.sequence, *references.digests())
    with Checkpoint(checkpoint, fingerprint, now.to_bytes()) as kept:
        then = JoinCoverage.from_bytes(kept.subject)
        there, (new, old) = then.remaining(now), then.split(known)
        tiling = Tiling(
            references.aligned_to(new),
            None if old is None else references.aligned_to(old),
            terms[0],
            within=True,
            tile_rows=tile_rows,
            scanner=scanner,
            check=check,
        )
        _make(tiling, kept, limit, progress)
        return JoinedGallery(Pairs(_records(kept), there, kept.bounds), then.ids, then.sequence)


def _require_terms(threshold: float, tile_rows: int, limit: int) -> None:
    check_threshold(threshold)
    for name, number in (("tile_rows", tile_rows), ("limit", limit)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise SearchInvalid(f"{name} is {number!r}; give a whole number of at least 1")


def name_known(known: Ids | None) -> str:
    """A digest of the known references; empty for None."""
    if known is None:
        return ""
    check_ids(known)
    # Those of an earlier answer are in order already.
    in_order = known if (known[1:] > known[:-1]).all() else np.unique(known)
    return hashlib.sha256(in_order.tobytes()).hexdigest()


def _references(side: Sequence[Exact8Segment] | References) -> References:
    if isinstance(side, References):
        return side
    # A copy of this moment's state: references may be removed meanwhile.
    return References(side, [segment.alive_rows.copy() for segment in side])


def make_tiles(
    tiles: Iterable[tuple[Iterable[Records], Iterable[str]]],
    comparisons: Iterable[int],
    kept: Checkpoint,
    limit: int,
    progress: Report | None,
) -> None:
    """Adds the runs and bounds of the tiles that are not in the checkpoint yet, in their order;
    `comparisons` are those of all tiles. `PairsExceeded` at more than `limit` pairs."""
    compared = [0, *accumulate(comparisons)]

    def report() -> None:
        at, found = kept.next_tile, kept.size_bytes // RECORD.itemsize
        if progress:
            progress(Progress(at, len(compared) - 1, compared[at], compared[-1], found))

    report()
    for runs, bounds in tiles:
        for run in runs:
            kept.put(run.tobytes())
            if kept.size_bytes // RECORD.itemsize > limit:
                raise PairsExceeded(
                    f"more than {limit} pairs reach the threshold; raise it, or the limit"
                )
        kept.end_tile(bounds)
        report()


def _make(tiling: Tiling, kept: Checkpoint, limit: int, progress: Report | None) -> None:
    remaining = ((tiling.runs_of(one), tiling.bounds) for one in tiling.tiles[kept.next_tile :])
    make_tiles(remaining, map(tiling.comparisons_of, tiling.tiles), kept, limit, progress)


def _records(kept: Checkpoint) -> list[Records]:
    return [run.view(RECORD) for run in kept.runs()]


_FIRST_ROWS, _MOST_ROWS = 4096, 65_536
_MEASURED_S = 0.4
# Above the score of any two random rows: a sweep at a useful threshold finds next to nothing too.
_THRESHOLD = 0.9


def measure_pace(dim: int, scanner: Scanner, comparisons: int | None = None) -> float:
    """Comparisons a second of a join here, measured in a second at most; for no more `comparisons`
    than the short first measurement makes, that one is enough."""
    _time_join(_FIRST_ROWS, dim, scanner)
    pace = _comparisons(_FIRST_ROWS) / _time_join(_FIRST_ROWS, dim, scanner)
    rows = min(_MOST_ROWS, int((2 * pace * _MEASURED_S) ** 0.5))
    is_enough = comparisons is not None and comparisons <= _comparisons(_FIRST_ROWS)
    if is_enough or rows <= _FIRST_ROWS:
        return pace
    return _comparisons(rows) / _time_join(rows, dim, scanner)


def _comparisons(rows: int) -> int:
    return rows * (rows - 1) // 2


def _time_join(rows: int, dim: int, scanner: Scanner) -> float:
    vectors = np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    segment = Exact8Segment(np.arange(rows), unit, scanner=scanner)
    started = monotonic()
    join([segment], None, _THRESHOLD)
    return max(monotonic() - started, 1e-6)
