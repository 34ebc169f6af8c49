"""Generalised FNMR (ISO/IEC 19795-1): a face that was not acquired is a person who was not matched.

FNMR is of templates, and leaves out whoever gave none; an enrollment cannot. So all mated pairs of
the folder are counted here, those of photographs without a template as missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.accuracy.bootstrap import Share, count_share, draw_people

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from engine.accuracy.dataset import Embeddings
    from engine.accuracy.pair_scores import Comparisons


def generalise_fnmr(
    embeddings: Embeddings,
    mated: Comparisons,
    people: NDArray[np.int64],
    thresholds: Mapping[str, float | None],
    *,
    seed: int,
) -> dict[str, Share | None]:
    """The share of mated pairs of photographs that do not match, at each threshold by its name.

    `mated` are all comparisons of the templates, whose `people` are int64[n]; None without a
    threshold. Intervals by a bootstrap over people.
    """
    population = len(embeddings.folder.names)
    photographs = np.bincount(embeddings.folder.people, minlength=population)
    pairs = photographs * (photographs - 1) // 2
    weights = draw_people(np.flatnonzero(pairs), population, seed=seed)
    owners = people[mated.left]
    found: dict[str, Share | None] = {}
    for name, threshold in thresholds.items():
        if threshold is None:
            found[name] = None
            continue
        matched = np.bincount(owners[mated.scores >= threshold], minlength=population)
        found[name] = count_share(pairs - matched, pairs, weights)
    return found
