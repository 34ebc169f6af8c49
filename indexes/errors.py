"""The error tree of the indexes."""

from __future__ import annotations


class IndexFault(Exception):
    """Whatever an index refuses; the index is as it was before the call."""


class VectorInvalid(IndexFault):
    """Wrong shape, dimension or dtype; not finite; not of unit length."""


class IdInvalid(IndexFault):
    """An id that is there already, given twice, unknown or negative."""


class SearchInvalid(IndexFault):
    """A search for fewer than one hit, or at a threshold that is no finite number."""


class SequenceInvalid(IndexFault):
    """A change whose sequence is not greater than the last one seen."""


class SnapshotMissing(IndexFault):
    """No snapshot in this folder: rebuild from the store."""


class SnapshotDamaged(IndexFault):
    """Truncated, altered or incomplete files: rebuild from the store."""


class SnapshotForeign(IndexFault):
    """A whole snapshot, but of another model, key ring, dimension or format version."""


class ShardLost(IndexFault):
    """A part of a sharded gallery is gone, or no longer surely as it was: restart to rebuild it."""

    code = "INDEX.SHARD_LOST"


class CheckpointInvalid(IndexFault):
    """A checkpoint that is damaged, in use, of another join, or does not cover what is joined."""


class SegmentsInvalid(IndexFault):
    """A configuration by which no gallery can grow."""


class KindInvalid(IndexFault):
    """No kind of index by this name."""
