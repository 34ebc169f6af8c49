"""The parts of a gallery, and which part has which references: an id is in a virtual shard for
good, that on some shard."""

from __future__ import annotations

import numpy as np

from indexes.base import Flags, Ids, Ints
from indexes.errors import SearchInvalid
from indexes.segmented.merging import SegmentsConfig
from schema import frozen

VIRTUAL_SHARDS = 4096
"""So many that at 100 million references the last step of a move takes a tenth of a second."""
NOWHERE = -1


def virtual_shards_of(ids: Ids, count: int) -> Ints:
    """The virtual shard of each id, from 0 to `count` - 1: int64[n].

    The first number that SplitMix64 gives from the seed `id`, modulo the count, so that ids with a
    pattern spread evenly. The rule never changes.
    """
    assert count >= 1
    mixed = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(count)).astype(np.int64)


@frozen(eq=False)
class Placement:
    """The shard of each virtual shard, or `NOWHERE`: int64[virtual shards]."""

    owners: Ints

    @classmethod
    def spread(cls, virtual_shards: int, shards: int) -> Placement:
        """Even, for shards that have nothing yet."""
        return cls(np.arange(virtual_shards) % shards)

    @property
    def shards(self) -> int:
        """One more than the last shard that has a virtual one."""
        return int(self.owners.max(initial=NOWHERE)) + 1

    def virtual_shard_of(self, ids: Ids) -> Ints:
        """The virtual shard of each id: int64[n]."""
        return virtual_shards_of(ids, len(self.owners))

    def shard_of(self, ids: Ids) -> Ints:
        """The shard of each id: int64[n]."""
        return self.owners[self.virtual_shard_of(ids)]

    def owned(self, shard: int) -> bytes:
        """The virtual shards of a shard, a bit each; see `are_in`."""
        return np.packbits(self.owners == shard).tobytes()

    def are_in(self, owned: bytes) -> Flags:
        """Which virtual shards these octets of `owned` name, none if of another number: bool[n]."""
        count = len(self.owners)
        if len(owned) != -(-count // 8):
            return np.zeros(count, np.bool_)
        return np.unpackbits(np.frombuffer(owned, np.uint8), count=count).astype(np.bool_)

    def moved(self, virtual_shard: int, shard: int) -> Placement:
        """The same with one virtual shard on another shard."""
        owners = self.owners.copy()
        owners[virtual_shard] = shard
        return Placement(owners)

    def balanced(self, shards: int) -> Placement:
        """Every virtual shard on one of so many shards, evenly, with as few moves as possible."""
        owners = np.where(self.owners < shards, self.owners, NOWHERE)
        counts = np.bincount(owners[owners >= 0], minlength=shards)
        quota = np.full(shards, len(owners) // shards)
        # Those that have most keep one more.
        quota[np.argsort(-counts, kind="stable")[: len(owners) % shards]] += 1
        for shard in np.flatnonzero(counts > quota):
            owners[np.flatnonzero(owners == shard)[quota[shard] :]] = NOWHERE
        room = quota - np.minimum(counts, quota)
        owners[owners < 0] = np.repeat(np.arange(shards), room)
        return Placement(owners)


@frozen
class ShardPlan:
    """The index that every shard opens, empty.

    `config`: None for its defaults. `threads`: search threads of a shard; None for its share of the
    cores. Shards share references by `virtual_shards`, a number that never changes in a deployment.

    `content` names what the vectors are of, its deployment first, up to a colon; with a name,
    shards outlive this process, and those that an earlier one left are adopted. `epoch` is that of
    the writer who opens them: `ShardFenced` where a later one has them already, unless `by_force`,
    which is for a store that has gone back.
    """

    dim: int
    threads: int | None = None
    config: SegmentsConfig | None = None
    content: str = ""
    epoch: int = 0
    by_force: bool = False
    virtual_shards: int = VIRTUAL_SHARDS

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SearchInvalid(f"threads is {self.threads}; give at least 1")


@frozen
class ShardMark:
    """Up to where a shard has every change of its virtual shards: a sequence of the store, and what
    identifies the store's history at that change. `owned` names them, see `Placement.owned`."""

    sequence: int
    history: str
    owned: bytes = b""


@frozen
class ShardState:
    """`mark` is None for a shard that is new, was cleared, or has a part of a change only.

    `ids_sum` is the sum of its ids, modulo 2^64.
    """

    mark: ShardMark | None
    count: int
    ids_sum: int


CHANGES = frozenset({"add", "remove", "clear", "load", "receive", "discard", "take", "abandon"})
"""Operations that change a shard's content, or what it has received to take later."""
