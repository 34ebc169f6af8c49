"""Which shard an id lives in: a rule that every process, and every later version, agrees on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids


def shards_of(ids: Ids, shards: int) -> NDArray[np.int64]:
    """The shard of each id, from 0 to `shards` - 1: int64[n].

    The first number that SplitMix64 gives from the seed `id`, modulo the number of shards. Ids
    that follow a pattern, as those of one outlet do, spread evenly. The rule never changes.
    """
    assert shards >= 1
    mixed = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(shards)).astype(np.int64)
