"""From a batch of requests to decisions, and to the changes that make them durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from engine.casework.book import CaseBook
from engine.errors import SosieError
from engine.matching.comparison import Comparisons
from engine.matching.docket import Docket
from engine.matching.documents import DocumentAuthority
from engine.matching.evidence import gather_evidence
from engine.matching.intake import Attempt, Intake
from engine.matching.minutes import Minutes
from engine.matching.policy import decide
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.thresholds import Thresholds
from engine.matching.watchlist import WatchList
from engine.registry.records import Changes
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.retention.crops import NO_CROPS, CropPolicy
from indexes.gallery import Gallery


class FalseCandidates(Protocol):
    """How many strangers one search of so many references brings at a score, by calibration."""

    def __call__(self, gallery_size: int, score: float) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, eq=False)
class JudgedBatch:
    """Outcomes in the order of the requests; `changes` is `None` where nothing is to be stored."""

    outcomes: list[Answer | SosieError]
    changes: Changes | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Judge:
    """Judges batches in arrival order, each attempt against all before it; commits nothing."""

    store: Store
    vault: Vault
    gallery: Gallery
    watch: WatchList
    thresholds: Thresholds
    authority: DocumentAuthority
    model_digest: str
    false_candidates: FalseCandidates
    crops: CropPolicy = NO_CROPS

    def judge(
        self,
        requests: Sequence[EnrollmentRequest],
        *,
        sequence: int,
        next_reference_id: Callable[[], int],
        now: datetime,
    ) -> JudgedBatch:
        """`sequence` is the gallery's now; changes that add references carry the next one."""
        intake = Intake(self.store, self.vault, self.authority)
        sorted_out = intake.sort(requests, now.date())
        attempts = [item for item in sorted_out if isinstance(item, Attempt)]
        minutes = Minutes(
            vault=self.vault,
            model_digest=self.model_digest,
            sequence=sequence,
            next_reference_id=next_reference_id,
            now=now,
            crops=self.crops,
            cases=CaseBook(self.store, now),
        )
        answers = self._judge_attempts(attempts, minutes) if attempts else iter(())
        outcomes = [next(answers) if isinstance(it, Attempt) else it for it in sorted_out]
        return JudgedBatch(outcomes, minutes.changes() if attempts else None)

    def _judge_attempts(self, attempts: Sequence[Attempt], minutes: Minutes) -> Iterator[Answer]:
        pairs = [
            (item.request.live, item.request.portrait) if item.document.is_well_formed else None
            for item in attempts
        ]
        comparisons = Comparisons(pairs, self.gallery, self.watch, self.thresholds)
        docket = Docket(self.store, self.gallery, attempts, comparisons.all_hit_ids())
        false_candidates = self.false_candidates(comparisons.searched, self.thresholds.review)
        for place, attempt in enumerate(attempts):
            evidence = gather_evidence(place, attempt, comparisons, docket, self.thresholds)
            yield minutes.write(
                place=place,
                attempt=attempt,
                evidence=evidence,
                verdict=decide(evidence),
                comparisons=comparisons,
                docket=docket,
                false_candidates=false_candidates,
            )
