"""From a batch of requests to decisions, and to the changes that make them durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.cases.opening import CaseBatch
from engine.errors import SosieError
from engine.matching.batch_state import Docket
from engine.matching.calibration import Thresholds
from engine.matching.comparison import Comparisons, WatchList, score_best
from engine.matching.documents import DocumentAuthority
from engine.matching.outcomes import Minutes
from engine.matching.policy import Candidate, Evidence, decide
from engine.matching.prechecks import Attempt, Intake
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.sampling import NO_CROPS, CropPolicy
from engine.reasons import Reason
from engine.registry.records import Changes, DocumentRecord, DocumentStatus
from engine.registry.store import Store
from engine.registry.vault import Vault
from indexes.gallery import Gallery

# Gathers what `policy.decide` looks at, for one attempt of a batch.

MAX_CANDIDATES = 10
"""How many look-alikes an answer and its evidence list, at most one for each document."""


def gather_evidence(
    place: int, attempt: Attempt, comparisons: Comparisons, docket: Docket, thresholds: Thresholds
) -> Evidence:
    """The evidence on attempt `place`, all before it in the batch included.

    A photograph that is not fit to be matched is not matched: with image problems, or a number
    that identifies nobody, there is no 1:1 and no duplicate search, and the evidence says so.
    """
    record = docket.document(attempt.document_lookup)
    held = record if record is not None and record.status is not DocumentStatus.ATTEMPTED else None
    has_probe = comparisons.has_probe(place)
    own_id = record.id if record else None
    return Evidence(
        thresholds=thresholds,
        document_findings=_document_findings(attempt, held),
        name_differs=held is not None and held.name_lookup not in (None, attempt.name_lookup),
        live_problems=_problems(attempt.request.live.problems, attempt.request.live.vector is None),
        portrait_problems=_problems(
            attempt.request.portrait.problems, attempt.request.portrait.vector is None
        ),
        live_portrait_score=comparisons.pair_scores[place],
        holder_score=_holder_score(place, held, comparisons, docket) if has_probe else None,
        candidates=_candidates(place, own_id, comparisons, docket, thresholds) if has_probe else (),
        searched=comparisons.searched if has_probe else None,
        is_number_in_use=docket.is_number_in_use(attempt.msisdn_lookup),
        open_lines=docket.open_lines(held.id, attempt.outlet.carrier) if held else 0,
        line_limit=attempt.outlet.line_limit,
        is_watchlisted=comparisons.watch.has_document(attempt.document_lookup)
        or (has_probe and comparisons.is_watched(place)),
    )


def _document_findings(attempt: Attempt, held: DocumentRecord | None) -> tuple[Reason, ...]:
    findings = attempt.document.findings
    if held is not None and held.status is DocumentStatus.BLOCKED:
        return tuple(dict.fromkeys((*findings, Reason.DOCUMENT_BLOCKED)))
    return findings


def _problems(problems: tuple[Reason, ...], is_faceless: bool) -> tuple[Reason, ...]:
    return (Reason.NO_FACE,) if is_faceless and not problems else problems


def _holder_score(
    place: int, held: DocumentRecord | None, comparisons: Comparisons, docket: Docket
) -> float | None:
    if held is None or not held.reference_ids:
        return None
    return score_best(comparisons.probe(place), docket.references_of(held))


def _candidates(
    place: int,
    own_id: str | None,
    comparisons: Comparisons,
    docket: Docket,
    thresholds: Thresholds,
) -> tuple[Candidate, ...]:
    found = [
        Candidate(reference_id, owner, score)
        for reference_id, score in comparisons.hits(place)
        if (owner := docket.owner(reference_id)) is not None
    ]
    for earlier in docket.fresh:
        score = comparisons.among(place, earlier.place)
        if score is not None and score >= thresholds.review:
            found.append(Candidate(earlier.reference_id, earlier.document_id, score))
    found.sort(key=lambda candidate: (-candidate.score, candidate.reference_id))
    best: dict[str, Candidate] = {}
    for candidate in found:
        if candidate.document_id != own_id:
            best.setdefault(candidate.document_id, candidate)
    return tuple(best.values())[:MAX_CANDIDATES]


FalseCandidates = Callable[[int, float], dict[str, Any]]
"""How many strangers one search of so many references brings at a score, by calibration."""


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
            cases=CaseBatch(self.store, now),
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
