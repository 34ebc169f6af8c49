"""Every pair at or above a threshold, in one gallery or between two: exact, and resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from indexes.base import Ids
from indexes.errors import IdInvalid, SearchInvalid, VectorInvalid
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining.checkpoint import Checkpoint, Coverage, merge_ids, part_ids, stored_subject
from indexes.joining.pairs import RECORD, Pairs, Records
from indexes.joining.tiling import References, Tiling, go_on
from indexes.validation import check_ids, check_threshold

TILE_ROWS = 1 << 17
"""Some seconds of work for two cores, and enough for its codes to be gathered in passing."""
PAIRS_LIMIT = 50_000_000
"""A gigabyte of pairs, in memory or in a checkpoint."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a join is: what its first `tiles_done` tiles compared and found.

    `comparisons` of `comparisons_total` pairs of references have been decided on; the time that
    remains follows from them, for tiles differ.
    """

    tiles_done: int
    tiles: int
    comparisons: int
    comparisons_total: int
    pairs: int


@dataclass(frozen=True, slots=True, eq=False)
class JoinedGallery:
    """The pairs of a gallery, among `ids`, int64[n] ascending, as of the change `sequence`."""

    pairs: Pairs
    ids: Ids
    sequence: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _Terms:
    """What is asked for; `known` tells which references a gallery's join took for known.

    `scanner` has the threads, by default that of the segments.
    """

    threshold: float
    within: bool
    between: bool
    tile_rows: int
    limit: int
    known: str = ""
    scanner: Scanner | None = None
    check: Callable[[], None] = go_on

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        for name, number in (("tile_rows", self.tile_rows), ("limit", self.limit)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise SearchInvalid(f"{name} is {number!r}; give a whole number of at least 1")

    def fingerprint(self) -> str:
        """All that the tiles depend on but the references."""
        terms = (float(self.threshold), self.within, self.between, self.tile_rows, self.known)
        return hashlib.sha256(repr(terms).encode()).hexdigest()

    def tiling(self, left: References, right: References | None) -> Tiling:
        return Tiling(
            left,
            right,
            float(self.threshold),
            within=self.within,
            tile_rows=self.tile_rows,
            scanner=self.scanner,
            check=self.check,
        )


def join(
    left: Sequence[Exact8Segment] | References,
    right: Sequence[Exact8Segment] | References | None,
    threshold: float,
    *,
    and_within: bool = False,
    checkpoint: Path | None = None,
    tile_rows: int = TILE_ROWS,
    limit: int = PAIRS_LIMIT,
    progress: Report | None = None,
) -> Pairs:
    """All pairs of `left` and `right`, or within `left` where there is no right.

    `and_within` asks for both at once; within a side the smaller id stands on the left. The
    result depends on vectors, ids and threshold alone. References may be removed meanwhile: those
    that stay until the end are in all their pairs, the others in some or none.

    With a checkpoint folder, pairs go there, each tile is on the disk when the next one begins,
    and a join that was stopped at any moment goes on after its last whole tile, however the
    references lie in segments by then. `CheckpointInvalid` where the folder is damaged, in use,
    of other terms, or of a join in which some of these references did not take part.
    `SearchInvalid` at more than `limit` pairs. `progress` is called at the start and after each
    tile; what it raises stops the join.
    """
    terms = _Terms(threshold, right is None or and_within, right is not None, tile_rows, limit)
    sides = _references(left), None if right is None else _references(right)
    if and_within and sides[1] is not None:
        shared = np.intersect1d(sides[0].ids, sides[1].ids, assume_unique=True)
        if len(shared):
            raise IdInvalid(f"id {shared[0]} is on both sides; give each reference to one")
    return _run(*sides, terms, checkpoint, progress).pairs


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
    check: Callable[[], None] = go_on,
) -> JoinedGallery:
    """`join` within a gallery as it is now; changes go on meanwhile.

    With `known`, the `ids` of an earlier answer, only pairs that are new since then: those with
    a reference that is not among them. A join resumed from its checkpoint covers the references
    of its first start that are still there, and says so by `ids` and `sequence`: what was added
    later is for the next one. `CheckpointInvalid` also where the gallery is older than that.

    `scanner` keeps the join off the threads with which the gallery is searched. `check` is called
    several times a second: what it raises stops the join within a tile, which is then made again.
    """
    terms = _Terms(
        threshold, True, known is not None, tile_rows, limit, name_known(known), scanner, check
    )
    pinned = gallery.pin(scanner)
    everyone = References(pinned.segments, pinned.alive)
    subject = stored_subject(checkpoint) if checkpoint else None
    stored = None if subject is None else Coverage.from_bytes(subject)
    new, old, sequence = part_ids(everyone.ids, pinned.sequence, known, stored)
    right = None if known is None else everyone.laid_out(old)
    return _run(everyone.laid_out(new), right, terms, checkpoint, progress, sequence)


def name_known(known: Ids | None) -> str:
    """A digest of the references that are known; empty where none are named."""
    if known is None:
        return ""
    check_ids(known)
    # As an earlier answer has them, they are in order already.
    in_order = known if (known[1:] > known[:-1]).all() else np.unique(known)
    return hashlib.sha256(in_order.tobytes()).hexdigest()


def _references(side: Sequence[Exact8Segment] | References) -> References:
    if isinstance(side, References):
        return side
    # The state of this moment: removals go on.
    return References(side, [segment.alive_rows.copy() for segment in side])


def _run(
    left: References,
    right: References | None,
    terms: _Terms,
    folder: Path | None,
    progress: Report | None,
    sequence: int = 0,
) -> JoinedGallery:
    if right is not None and None not in (left.dim, right.dim) and left.dim != right.dim:
        raise VectorInvalid(f"dim is {left.dim} and {right.dim}; join segments of one dimension")
    if folder is None:
        with Checkpoint(None, "") as kept:
            _make(terms.tiling(left, right), kept, terms.limit, progress)
            return JoinedGallery(Pairs(_records(kept)), _ids(left, right), sequence)
    now = Coverage.of(left, right, sequence)
    with Checkpoint(folder, terms.fingerprint(), now.to_bytes()) as kept:
        then = Coverage.from_bytes(kept.subject)
        then.check(now)
        left, right = then.lay_out(left, right)
        _make(terms.tiling(left, right), kept, terms.limit, progress)
        return JoinedGallery(
            Pairs(_records(kept), then.remaining(now, mixed=terms.within)), then.ids, then.sequence
        )


def _make(tiling: Tiling, kept: Checkpoint, limit: int, progress: Report | None) -> None:
    """Makes the tiles that are not kept yet."""
    compared = [0, *accumulate(map(tiling.comparisons_of, tiling.tiles))]

    def found() -> int:
        return kept.size_bytes // RECORD.itemsize

    def report() -> None:
        at = kept.next_tile
        if progress:
            progress(Progress(at, len(tiling.tiles), compared[at], compared[-1], found()))

    report()
    for tile in tiling.tiles[kept.next_tile :]:
        for run in tiling.runs_of(tile):
            kept.put(run.tobytes())
            if found() > limit:
                raise SearchInvalid(
                    f"more than {limit} pairs reach the threshold; raise it, or the limit"
                )
        kept.end_tile()
        report()


def _records(kept: Checkpoint) -> list[Records]:
    return [run.view(RECORD) for run in kept.runs()]


def _ids(left: References, right: References | None) -> Ids:
    return left.ids if right is None else merge_ids(left.ids, right.ids)
