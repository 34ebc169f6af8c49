"""The registrar's work on a batch, done by hand and timed step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.matching.arrivals import Outcome
from engine.matching.publication import publish
from engine.matching.requests import EnrollmentRequest
from engine.registry.records import utc_now
from serving.compose import Deployment


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of one batch; `judge_s` holds a search of its own, as long as `search_s`."""

    search_s: float
    judge_s: float
    publish_s: float


def time_stages(
    deployment: Deployment, requests: Sequence[EnrollmentRequest], batch: int
) -> tuple[list[Outcome], list[StageTimes]]:
    """Decides the requests as the registrar does, on its writer's lease; outcomes in order."""
    judge = deployment.judge
    outcomes: list[Outcome] = []
    stages = []
    with deployment.store.writer() as writer:
        for start in range(0, len(requests), batch):
            part = requests[start : start + batch]
            probes = np.stack([item.live.vector for item in part if item.live.vector is not None])
            begun = time.perf_counter()
            judge.gallery.range_search(probes, deployment.thresholds.review)
            searched = time.perf_counter()
            judged = judge.judge(
                part,
                sequence=writer.sequence,
                next_reference_id=writer.next_reference_id,
                now=utc_now(),
            )
            decided = time.perf_counter()
            assert judged.changes is not None, "every request is new"
            publish(writer, judge.gallery, judged.changes)
            ended = time.perf_counter()
            outcomes += judged.outcomes
            stages.append(StageTimes(searched - begun, decided - searched, ended - decided))
    return outcomes, stages
