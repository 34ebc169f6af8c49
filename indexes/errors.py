"""Errors of the indexes."""


class IndexFault(Exception):
    """Base of all errors here; the index is as it was before the call."""


class VectorInvalid(IndexFault):
    """Wrong shape, dimension or dtype; not finite; not of unit length."""


class IdInvalid(IndexFault):
    """An id that is taken, given twice, unknown or negative."""


class SearchInvalid(IndexFault):
    """A search for fewer than one hit, or at a threshold that is not a finite number."""


class DeviceMissing(SearchInvalid):
    """No GPU to search on, or not what is installed for one."""


class PairsExceeded(SearchInvalid):
    """More pairs reach the threshold of a join than it may return."""


class SequenceInvalid(IndexFault):
    """A change whose sequence is not greater than the last one seen."""


class SnapshotMissing(IndexFault):
    """No snapshot in this folder: rebuild from the store."""


class SnapshotDamaged(IndexFault):
    """Truncated, altered or incomplete files: rebuild from the store."""


class SnapshotForeign(IndexFault):
    """An intact snapshot of another model, key ring, dimension or format version."""


class ShardLost(IndexFault):
    """A shard is gone, or its content is no longer certain: restart to rebuild the gallery."""

    code = "INDEX.SHARD_LOST"


class ShardFenced(ShardLost):
    """A shard that a later writer has taken over: it obeys this one no more."""


class CheckpointInvalid(IndexFault):
    """A checkpoint that is damaged, in use, of another join, or does not cover these references."""


class SegmentsInvalid(IndexFault):
    """A configuration with values out of range."""
