"""Failure to acquire (ISO/IEC 19795-1): photographs without a template, and the generalised FNMR.

The FNMR of templates leaves out photographs without one; an enrollment cannot. The generalised FNMR
counts all mated pairs of the folder, those of photographs without a template as missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.bootstrap import Share, count_share, draw_people, share_of
from engine.accuracy.dataset import Embeddings
from engine.accuracy.pair_scores import Comparisons


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Shares of all photographs, with intervals by a bootstrap over people.

    `failed`: without a template, by cause in `failures`. `sent_back`: failed, or refused by an
    enrollment, by cause in `problems`; a photograph may have several.
    """

    failed: Share
    failures: dict[str, Share]
    sent_back: Share
    problems: dict[str, Share]


def measure_acquisition(embeddings: Embeddings, *, seed: int) -> Acquisition:
    """Failure to acquire over all photographs of the folder."""
    people = embeddings.folder.people
    weights = draw_people(people, len(embeddings.folder.names), seed=seed)
    is_failed = np.zeros(len(people), bool)
    is_failed[embeddings.failed] = True

    def having(reason: str, *, failed: bool) -> Share:
        holds = np.array([reason in reasons for reasons in embeddings.reasons])
        return share_of(people, holds & (is_failed == failed), weights)

    is_unfit = np.array([bool(reasons) for reasons in embeddings.reasons])
    return Acquisition(
        failed=share_of(people, is_failed, weights),
        failures={name: having(name, failed=True) for name in embeddings.failures},
        sent_back=share_of(people, is_failed | is_unfit, weights),
        problems={name: having(name, failed=False) for name in embeddings.problems},
    )


def generalise_fnmr(
    embeddings: Embeddings,
    mated: Comparisons,
    people: NDArray[np.int64],
    thresholds: Mapping[str, float | None],
    *,
    seed: int,
) -> dict[str, Share | None]:
    """Share of mated pairs of photographs that do not match, by name of the threshold.

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
