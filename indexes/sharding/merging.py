"""Answers of several shards as the answer of the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexes.base import Hits
from indexes.exact.certificate import Certificate, CertifiedHits
from indexes.scoring import arrange


def merge_hits(answers: Sequence[Hits], k: int | None = None) -> Hits:
    """The hits of all, ordered as if one index had found them; the k best where k is given.

    A row is in one shard only and its score depends on the two vectors alone, so the k best of
    the whole are among the k best of each shard, with the same scores. `CertifiedHits` where all
    answers are.
    """
    queries = len(answers[0])
    assert all(len(answer) == queries for answer in answers)
    hits = arrange(
        queries,
        np.concatenate([np.repeat(np.arange(queries), np.diff(hits.offsets)) for hits in answers]),
        np.concatenate([hits.ids for hits in answers]),
        np.concatenate([hits.scores for hits in answers]),
        k,
    )
    certificates = [hits.certificate for hits in answers if isinstance(hits, CertifiedHits)]
    if len(certificates) < len(answers):
        return hits
    return CertifiedHits(hits.offsets, hits.ids, hits.scores, _merge_certificates(certificates))


def _merge_certificates(certificates: Sequence[Certificate]) -> Certificate:
    return Certificate(
        epsilon=np.max([each.epsilon for each in certificates], axis=0),
        rescored=np.sum([each.rescored for each in certificates], axis=0),
        compared=sum(each.compared for each in certificates),
        kernel="+".join(sorted({each.kernel for each in certificates})),
        exact=all(each.exact for each in certificates),
    )
